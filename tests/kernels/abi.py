"""The calling convention of kernels/abi.h, from Python: its struct, its names, and buffers that notice stray writes."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

_HEADER = Path(__file__).resolve().parents[2] / "kernels" / "abi.h"


def _constants(header: str) -> dict[str, int]:
    """Every enumerator of the header, so that no number is written twice."""
    code = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    values: dict[str, int] = {}
    for body in re.findall(r"enum \{(.*?)\};", code, flags=re.DOTALL):
        following = 0
        for item in filter(None, (part.strip() for part in body.split(","))):
            name, _, value = item.partition("=")
            following = int(value) if value else following
            values[name.strip()] = following
            following += 1
    return values


#: ``GS.ACT_TANH`` is the header's ``GS_ACT_TANH``.
GS = SimpleNamespace(**{name.removeprefix("GS_"): value for name, value in _constants(_HEADER.read_text()).items()})


class Args(ctypes.Structure):
    """The struct `gs_args`."""

    _fields_ = (("p", ctypes.c_void_p * 12), ("n", ctypes.c_ssize_t * 24), ("f", ctypes.c_double * 8))


def call(
    address: int,
    p: Mapping[int, np.ndarray[Any, Any] | None],
    n: Sequence[int] | Mapping[int, int],
    f: Sequence[float] = (),
) -> int:
    """Call the kernel at `address` and return its status; the arrays stay referenced for the call."""
    args = Args()
    for slot, array in p.items():
        args.p[slot] = None if array is None else array.ctypes.data
    for slot, size in n.items() if isinstance(n, Mapping) else enumerate(n):
        args.n[slot] = size
    for slot, scalar in enumerate(f):
        args.f[slot] = scalar
    return int(ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(address)(ctypes.addressof(args)))


class Guarded:
    """An array between two guard zones.

    Parameters
    ----------
    shape, dtype
        Of `array`, which is C-contiguous and starts out as the guards' pattern too.
    offset : int
        How many elements past a 64-byte boundary it starts.
    """

    GUARD = 512
    PATTERN = 0xA5

    def __init__(self, shape: int | tuple[int, ...], dtype: Any, offset: int = 0) -> None:
        dtype = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.intp)) * dtype.itemsize
        memory = np.full(size + 2 * self.GUARD + 64 + offset * dtype.itemsize, self.PATTERN, np.uint8)
        start = self.GUARD + -(memory.ctypes.data + self.GUARD) % 64 + offset * dtype.itemsize
        self._before, self._after = memory[:start], memory[start + size :]
        self.array: np.ndarray[Any, Any] = memory[start : start + size].view(dtype).reshape(shape)

    @classmethod
    def of(cls, values: np.ndarray[Any, Any], offset: int = 0) -> Guarded:
        """A guarded copy of `values`."""
        guarded = cls(values.shape, values.dtype, offset)
        guarded.array[...] = values
        return guarded

    def intact(self) -> bool:
        """Whether nothing has written outside the array."""
        return bool((self._before == self.PATTERN).all() and (self._after == self.PATTERN).all())


def same_bits(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    """Whether two arrays of one dtype hold the same bytes, NaNs and signed zeros included."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
