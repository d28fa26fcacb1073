"""The arithmetic: compiled kernels, the packing of their weights, and a float64 definition of every cell.

A kernel is a C function with the calling convention of `abi.h`. `kernel_set` finds the ones for a backend, a type and
an instruction set; `isa` says which instruction set is used unless another is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

from . import _cpu, _plumbing
from ._isa import available_isas, isa
from .precision import PRECISIONS

__all__ = ["PRECISIONS", "KernelSet", "available_isas", "fastest_first", "isa", "kernel_set", "tier_build"]

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
            As in abi.h; behind it the precision tier, ``lstm_w8``, where `tier_build` has one.
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
        if name not in self._addresses:
            _, _, precision = name.partition("_")
            build = tier_build(precision, self.isa) if self.dtype == np.float32 else None
            if build is None:
                raise KeyError(name)
            module = import_module(f".{build}", __name__)
            self._addresses |= {f"{kernel}_{precision}": address for kernel, address in module.KERNELS.items()}
        return self._addresses[name]


#: Builds of the precision tiers, by instruction set, fastest first: those that setup.py makes.
_TIER_SUFFIXES = {"w8a8": "w8a8", "w8": "w8", "w16": "w16", "bfloat16": "bf16"}
_TIER_ISAS = {"avx512": ("avx512vnni", "avx512", "avx2"), "avx2": ("avx2",), "baseline": ("baseline",)}


@cache
def tier_build(precision: str, isa: str = _CHOSEN) -> str | None:
    """The module with the kernels of a precision tier on an instruction set; None where float32 is faster there."""
    if precision not in _TIER_SUFFIXES:
        return None
    for name in _TIER_ISAS[isa]:
        module = f"_{name}_{_TIER_SUFFIXES[precision]}"
        if (name != "avx512vnni" or _cpu.multiplies_whole_numbers()) and find_spec(f".{module}", __name__) is not None:
            return module
    return None


def fastest_first(isa: str = _CHOSEN) -> tuple[str, ...]:
    """The precisions below float32 that are worth a try, in this order.

    Rows of 8 bits are for processors that multiply bytes; elsewhere w8a8 is only less accurate than w8.
    """
    multiplies = (tier_build("w8a8", isa) or "").startswith("_avx512vnni")
    return tuple(p for p in PRECISIONS if p != "float32" and (p != "w8a8" or multiplies))


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
