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
    ISAS["avx512vnni"] = [*ISAS["avx512"], "-mavx512vnni"]
VECTOR_BYTES = {"baseline": 16, "avx2": 32, "avx512": 64, "avx512vnni": 64}
#: What weights are: reals of two types, whole numbers of so many bits (and the largest of a row that meets them), or
#: bfloat16.
WEIGHTS = {
    "f32": {"GS_DOUBLE": "0"},
    "f64": {"GS_DOUBLE": "1"},
    "w16": {"GS_DOUBLE": "0", "GS_TIER": "16", "GS_LARGEST": "32767"},
    "w8": {"GS_DOUBLE": "0", "GS_TIER": "8", "GS_LARGEST": "32639"},
    "w8a8": {"GS_DOUBLE": "0", "GS_TIER": "8", "GS_LARGEST": "127"},
    "bf16": {"GS_DOUBLE": "0", "GS_BFLOAT": "1"},
}
#: Precision tiers are built where they are faster than float32 (kernels/__init__.py chooses): not on vectors of 128
#: bits where there are longer ones, and whole numbers of 8 bits on vectors of 512 only with VNNI.
TIERS = {"avx2": ("w8a8", "w8", "w16", "bf16"), "avx512": ("w16", "bf16"), "avx512vnni": ("w8a8", "w8")}
if "avx2" not in ISAS:
    TIERS = {"baseline": ("w8a8", "w8", "w16", "bf16")}
MADE = [(isa, kind) for isa in ISAS for kind in ("f32", "f64") if isa != "avx512vnni"]
MADE += [(isa, kind) for isa, kinds in TIERS.items() for kind in kinds]
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
        f"kernels._{isa}_{kind}",
        f"kernels/_{isa}_{kind}.pyx",
        ISAS[isa],
        {"GS_VECTOR_BYTES": str(VECTOR_BYTES[isa]), **WEIGHTS[kind]},
    )
    for isa, kind in MADE
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
