"""The arithmetic: compiled kernels, the packing of their weights, and a float64 definition of every cell.

A kernel is a C function with the calling convention of `abi.h`. `kernel_set` finds the ones for a backend, a type and
an instruction set; `isa` says which instruction set is used unless another is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from . import _plumbing
from ._isa import available_isas, isa

__all__ = ["KernelSet", "available_isas", "isa", "kernel_set"]

_CHOSEN = isa
_SUFFIXES = {"float32": "f32", "float64": "f64"}


class KernelSet(Protocol):
    """Kernels for one type on one instruction set.

    Attributes
    ----------
    isa : str
    dtype : numpy.dtype
    """

    isa: str
    dtype: np.dtype[Any]

    def address(self, name: str, n: Sequence[int], f: Sequence[float]) -> int:
        """Address of the C function `int (*)(gs_args *)` for kernel `name`.

        Parameters
        ----------
        name : str
            As in abi.h.
        n, f : sequences
            What `gs_args` will hold; a backend that compiles at run time may take them as constants.

        Raises
        ------
        KeyError
            There is no such kernel.
        """


class _Compiled:
    """The kernels that come with the package, compiled ahead: one function for all sizes."""

    def __init__(self, dtype: np.dtype[Any], isa: str) -> None:
        self.dtype = dtype
        self.isa = isa
        module = import_module(f"._{isa}_{_SUFFIXES[dtype.name]}", __name__)
        self._addresses: dict[str, int] = {**_plumbing.KERNELS, **module.KERNELS}

    def address(self, name: str, n: Sequence[int], f: Sequence[float]) -> int:
        return self._addresses[name]


@cache
def _find(backend: str, dtype: str, wanted: str) -> KernelSet:
    compiled = _Compiled(np.dtype(dtype), wanted)
    if backend == "cython":
        return compiled
    try:
        found: KernelSet = import_module(".numba", __name__).kernel_set(compiled)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] in ("numba", "llvmlite"):
            raise ImportError("the numba backend needs the extra: pip install gatestep[numba]") from error
        raise
    return found


def kernel_set(backend: str, dtype: Any, isa: str | None = None) -> KernelSet:
    """Kernels of a backend.

    Parameters
    ----------
    backend : {"cython", "numba"}
        `"numba"` compiles the fused cells for their sizes at run time and takes the rest from `"cython"`.
    dtype : float32 or float64
    isa : str, optional
        One of `available_isas()`; by default the one chosen at import.

    Raises
    ------
    ImportError
        The backend needs a package that is not installed.
    ValueError
        There is no such backend, type or instruction set.
    """
    name = np.dtype(dtype).name
    wanted = _CHOSEN if isa is None else isa
    if backend not in ("cython", "numba"):
        raise ValueError(f"backend {backend!r}: there are 'cython' and 'numba'")
    if name not in _SUFFIXES:
        raise ValueError(f"no kernels for {name}: there are float32 and float64")
    if wanted not in available_isas():
        raise ValueError(f"instruction set {wanted!r}: this machine has {', '.join(available_isas())}")
    return _find(backend, name, wanted)
