"""What a name of the graph stands for while a program is built: a known array, or a view of a buffer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

__all__ = [
    "MOST_AXES",
    "MOST_ELEMENTS",
    "Buffer",
    "Merged",
    "Tag",
    "Value",
    "ValueList",
    "View",
    "Weights",
    "c_strides",
    "collapse",
    "in_order",
    "reshape_strides",
]


#: Elements of one value: a gigabyte in single precision, and far more than a recording has.
MOST_ELEMENTS = 1 << 28
#: Axes of an array of NumPy.
MOST_AXES = 64


class Merged(NamedTuple):
    """Tag of an axis that several axes were reshaped into, outermost first: ``((tag, size), ...)``."""

    parts: tuple[tuple[Tag, int], ...]


#: Where an axis comes from: an axis of a model input, time, batch; several of them merged; or nothing of interest.
Tag = str | Merged | None

Kind = Literal["temp", "input", "output", "state", "const"]


class Buffer:
    """Memory that instructions read and write.

    ``temp`` lies in the arena of a program, ``state`` in that of a stream, ``const`` holds `data`; ``input`` and
    ``output`` are the caller's own arrays.
    """

    def __init__(
        self, kind: Kind, dtype: np.dtype[Any], count: int, name: str = "", data: np.ndarray | None = None
    ) -> None:
        self.kind, self.dtype, self.count, self.name, self.data = kind, dtype, count, name, data

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize


def c_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a dense array."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


class View:
    """A strided window on a buffer; `offset` and `strides` count elements. `tags` follow the axes. Never changed."""

    def __init__(
        self,
        buffer: Buffer,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        tags: tuple[Tag, ...],
        offset: int = 0,
    ) -> None:
        self.buffer, self.shape, self.strides, self.tags, self.offset = buffer, shape, strides, tags, offset

    @classmethod
    def whole(cls, buffer: Buffer, shape: tuple[int, ...], tags: tuple[Tag, ...] | None = None) -> View:
        """The whole of `buffer` as a dense array."""
        return cls(buffer, shape, c_strides(shape), tags if tags is not None else (None,) * len(shape))

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.buffer.dtype

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def dense(self) -> bool:
        """C-contiguous (axes of one element may have any stride)."""
        return self.count == 0 or all(
            n == 1 or s == c for n, s, c in zip(self.shape, self.strides, c_strides(self.shape), strict=True)
        )

    def with_(self, **changes: Any) -> View:
        """A copy with other fields."""
        get = changes.pop
        view = View(
            get("buffer", self.buffer),
            get("shape", self.shape),
            get("strides", self.strides),
            get("tags", self.tags),
            get("offset", self.offset),
        )
        assert not changes
        return view


class ValueList:
    """A sequence, which is only there while a program is built; `ndim` tells sequences of different lengths apart."""

    def __init__(self, items: tuple[Value, ...]) -> None:
        self.items = items

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.items),)

    @property
    def ndim(self) -> int:
        return len(self.items)


class Weights:
    """Arrays of a kernel call that are packed once per model and `key`, whatever the number of programs."""

    def __init__(
        self, key: tuple[Any, ...], pack: Callable[..., np.ndarray], arrays: tuple[np.ndarray | None, ...]
    ) -> None:
        self.key, self.pack, self.arrays = key, pack, arrays


#: An array known while the program is built, or a view of what will be there when it runs.
Value = np.ndarray | View


def in_order(shape: tuple[int, ...], *strides: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Axes from the longest stride of the first operand to the shortest: a loop over them walks through its memory."""
    order = sorted(range(len(shape)), key=lambda k: -strides[0][k])
    return tuple(tuple(sizes[k] for k in order) for sizes in (shape, *strides))


def collapse(shape: tuple[int, ...], *strides: tuple[int, ...]) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Merge axes that all operands walk as one, drop axes of one element; for fewer loops at run time."""
    out_shape: list[int] = []
    out: list[list[int]] = [[] for _ in strides]
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        steps = [s[axis] for s in strides]
        if out_shape and all(o[-1] == s * size for o, s in zip(out, steps, strict=True)):
            out_shape[-1] *= size
            for o, s in zip(out, steps, strict=True):
                o[-1] = s
        else:
            out_shape.append(size)
            for o, s in zip(out, steps, strict=True):
                o.append(s)
    return tuple(out_shape), [tuple(o) for o in out]


def reshape_strides(shape: tuple[int, ...], strides: tuple[int, ...], new: tuple[int, ...]) -> tuple[int, ...] | None:
    """Strides that show the same elements, in the same order, as shape `new`; None where that takes a copy."""
    if math.prod(shape) == 0:
        return c_strides(new)
    old_shape, (old_strides,) = collapse(shape, strides)
    out = [0] * len(new)
    axes = [k for k, size in enumerate(new) if size != 1]
    for size, step in zip(reversed(old_shape), reversed(old_strides), strict=True):
        left = size
        while left > 1:
            if not axes or left % new[axes[-1]]:
                return None
            k = axes.pop()
            out[k] = step
            step *= new[k]
            left //= new[k]
    return None if axes else tuple(out)
