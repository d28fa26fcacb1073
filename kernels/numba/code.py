"""Machine code of a kernel: for which machine, how to load it, and where it is kept between processes.

Loading needs LLVM alone; Numba is not imported.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import stat
import sys
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from .._isa import available_isas
from .shape import Shape

__all__ = ["SYMBOL", "Target", "directory", "load", "recall", "store"]

#: The name of the kernel in its object file.
SYMBOL = "gatestep_kernel"
_MAGIC = b"gatestep kernel 1\n"
_FEATURES = {
    "avx512": "+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx2,+fma,+f16c",
    "avx2": "+avx2,+fma,+f16c",
    "baseline": "",
}


class Target:
    """What the code of an instruction set is made for.

    The best instruction set of a machine is compiled for that very machine; any other for no more than its name says.
    """

    def __init__(self, isa: str) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self.triple = llvm.get_process_triple()
        if isa == available_isas()[0]:
            self.cpu, self.features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
        else:
            self.cpu, self.features = "x86-64", _FEATURES[isa]

    def machine(self) -> Any:
        """LLVM's code generator."""
        return llvm.Target.from_triple(self.triple).create_target_machine(
            cpu=self.cpu, features=self.features, opt=3, reloc="pic", codemodel="small", jit=True
        )

    def key(self, shape: Shape) -> str:
        """A digest of everything that the code of a kernel depends on."""
        facts = (shape, self.triple, self.cpu, self.features, _toolchain())
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


@cache
def _toolchain() -> tuple[str, ...]:
    """The compilers, and the source that they compile."""
    sources = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        sources.update(path.name.encode() + b"\0" + path.read_bytes())
    return platform.python_version(), version("numba"), version("llvmlite"), sources.hexdigest()


_libraries: list[Any] = []  # loaded code; kernels may be called as long as the process lives


@cache
def _jit() -> Any:
    return llvm.create_lljit_compiler()


def load(code: bytes) -> int:
    """Load an object file and give the address of its kernel."""
    Target(available_isas()[0])
    builder = llvm.JITLibraryBuilder().add_object_img(code).add_current_process().export_symbol(SYMBOL)
    library = builder.link(_jit(), f"gatestep{len(_libraries)}")
    _libraries.append(library)
    return int(library[SYMBOL])


def directory() -> Path:
    """Where kernels are kept: `NUMBA_CACHE_DIR` if set, else the user's cache directory.

    Raises
    ------
    RuntimeError
        The user has no home directory.
    """
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return Path(chosen) / "gatestep"
    home = Path("~").expanduser()
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "gatestep"
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "gatestep" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "gatestep"


def _path(shape: Shape, key: str) -> Path:
    return directory() / f"{shape.name}-{shape.inputs}-{shape.outputs}-{key}.kernel"


def _header(key: str, code: bytes) -> bytes:
    return _MAGIC + f"{key} {hashlib.sha256(code).hexdigest()}\n".encode()


def store(shape: Shape, key: str, code: bytes) -> None:
    """Keep the code of a kernel for other processes. Where that is not possible they compile it again."""
    path = _path(shape, key)
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: no home directory
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with open(descriptor, "wb") as file:
                file.write(_header(key, code) + code)
            os.replace(temporary, path)  # readers see all of it or nothing
        except BaseException:
            os.unlink(temporary)
            raise


def recall(shape: Shape, key: str) -> bytes | None:
    """The code of a kernel, if it is there, whole, and nobody but this user (or root) can have written it."""
    try:
        with open(_path(shape, key), "rb") as file:
            if os.name == "posix":
                status = os.fstat(file.fileno())
                if status.st_uid not in (os.geteuid(), 0) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                    return None
            content = file.read()
    except (OSError, RuntimeError):
        return None
    start = len(_header(key, b""))
    code = content[start:]
    return code if code and content[:start] == _header(key, code) else None
