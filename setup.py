"""The extension build. Metadata lives in pyproject.toml; this file only says what is compiled, and how.

Each instruction set is one extension compiled from the same Cython source with its own flags, so nothing outside the
chosen one ever executes an instruction the machine lacks. Products and sums fuse only where the source says so
(`-ffp-contract=off`): the bits of a row then depend on the source alone, not on what the compiler saw around it.
"""

from __future__ import annotations

import os
import platform
from glob import glob

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

COMMON = [
    "-O3",
    "-g0",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-falign-loops=64",
    "-fvisibility=hidden",
    "-Wno-psabi",
]
ISAS: dict[str, list[str]] = {"baseline": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    ISAS["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
    ISAS["avx512"] = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"]
VECTOR_BYTES = {"baseline": 16, "avx2": 32, "avx512": 64}
#: A change to one of these compiles every extension again.
SHARED = ["setup.py", *sorted(glob("kernels/*.h") + glob("kernels/*.pxi"))]


def extension(name: str, source: str, flags: list[str], macros: dict[str, str]) -> Extension:
    """An extension of the package, with what every one of them needs."""
    return Extension(
        f"gatestep.{name}",
        [source],
        include_dirs=["kernels", numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"), *macros.items()],
        extra_compile_args=COMMON + flags,
        depends=SHARED,
    )


extensions = [
    extension(
        f"kernels._{isa}_{dtype}",
        f"kernels/_{isa}_{dtype}.pyx",
        flags,
        {"GS_VECTOR_BYTES": str(VECTOR_BYTES[isa]), "GS_DOUBLE": str(int(dtype == "f64"))},
    )
    for isa, flags in ISAS.items()
    for dtype in ("f32", "f64")
]
extensions.append(extension("kernels._cpu", "kernels/_cpu.pyx", [], {}))
extensions.append(extension("kernels._plumbing", "kernels/_plumbing.pyx", [], {}))
machine = extension("engine._machine", "engine/_machine.pyx", ["-pthread"], {"GS_VECTOR_BYTES": "16", "GS_DOUBLE": "0"})
machine.include_dirs.append("engine")
machine.depends.append("engine/team.h")
machine.extra_link_args.append("-pthread")
extensions.append(machine)
# What the suite measures with: `_probe` knows the kernels' calling convention, `_malloc` counts requests for memory.
extensions.append(
    extension("benchmarks._probe", "benchmarks/_probe.pyx", [], {"GS_VECTOR_BYTES": "16", "GS_DOUBLE": "0"})
)
extensions.append(extension("benchmarks._malloc", "benchmarks/_malloc.pyx", ["-fno-builtin"], {}))

setup(
    ext_modules=cythonize(extensions, language_level=3, nthreads=2, show_all_warnings=False),
    options={"build_ext": {"parallel": os.cpu_count()}},
)
