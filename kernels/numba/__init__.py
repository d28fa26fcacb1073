"""The fused cells compiled at run time by Numba, for the sizes of each layer.

`kernel_set` is what `gatestep.kernels.kernel_set("numba", ...)` calls. A kernel is compiled once (about half a second)
and kept on disk; where it is found there, it is loaded without importing Numba. The package: `shape` (what a kernel is
compiled for), `code` (machine code on disk and in memory), `vector`, `activations`, `cells` (the kernels, as Python
functions over vectors), `build` (from those to machine code).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from .shape import NAMES, Shape, shape_of

if TYPE_CHECKING:
    from .. import KernelSet

__all__ = ["kernel_set"]

_lock = threading.Lock()
_addresses: dict[tuple[str, Shape], int] = {}  # by instruction set


class _Numba:
    """The kernels of `ahead`, the recurrent and dense ones compiled for their sizes instead."""

    isa: str
    dtype: np.dtype[Any]

    def __init__(self, ahead: KernelSet) -> None:
        from .code import Target

        self.isa, self.dtype = ahead.isa, ahead.dtype
        self._ahead = ahead
        self._target = Target(ahead.isa)

    def address(self, name: str, n: Sequence[int], f: Sequence[float]) -> int:
        """Address of the C function for kernel `name` with these sizes; compiles it if need be."""
        if name not in NAMES or n[NAMES[name]] < 1:
            return self._ahead.address(name, n, f)
        shape = shape_of(name, n, self.isa, 8 * self.dtype.itemsize)
        with _lock:
            address = _addresses.get((self.isa, shape))
            if address is None:
                address = _addresses[self.isa, shape] = self._find(shape)
        return address

    def _find(self, shape: Shape) -> int:
        from . import code

        key = self._target.key(shape)
        found = code.recall(shape, key)
        if found is None:
            from .build import build

            found = build(shape, self._target)
            code.store(shape, key, found)
        return code.load(found)


def kernel_set(ahead: KernelSet) -> KernelSet:
    """Kernels for the type and the instruction set of `ahead`, which has the kernels that are not compiled here.

    Raises
    ------
    ModuleNotFoundError
        Numba is not installed.
    """
    if find_spec("numba") is None:
        raise ModuleNotFoundError("No module named 'numba'", name="numba")
    return _Numba(ahead)
