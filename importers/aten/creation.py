"""New tensors, and other element types."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .core import Aten, SymInt, Tensor, dim_of, op, result_type

FLOAT, LONG = np.dtype(np.float32), np.dtype(np.int64)


def filled(a: Aten, size: Sequence[Any], value: Any, dtype: np.dtype[Any]) -> Tensor:
    """A new tensor of one value; it takes memory only when the model runs."""
    sizes = list(size)
    shape = tuple(dim_of(n) for n in sizes)
    if isinstance(value, (Tensor, SymInt)):
        return a.node("Expand", [a.tensor(value, dtype), a.ints(*sizes)], dtype, shape)
    return _constant_of_shape(a, a.ints(*sizes), value, dtype, shape)


def _constant_of_shape(a: Aten, sizes: str, value: Any, dtype: np.dtype[Any], shape: Any) -> Tensor:
    made = a.node("ConstantOfShape", [sizes], dtype, shape, value=np.array([value], dtype))
    if value == 0:
        a.zeros.add(made.name)
    return made


@op("zeros", "ones", "empty", "new_zeros", "new_ones", "new_empty", "zeros_like", "ones_like", "empty_like")
def zeros(a: Aten, self: Any = None, size: Any = None, dtype: Any = None) -> Tensor:
    """What is empty holds anything, so zeros."""
    value = int("ones" in a.name)
    if a.name.endswith("_like"):
        kind = a.dtype(dtype, self.dtype)
        return _constant_of_shape(a, a.sizes(self), value, kind, self.shape)
    if a.name.startswith("new_"):
        return filled(a, size, value, a.dtype(dtype, self.dtype))
    return filled(a, self if size is None else size, value, a.dtype(dtype, FLOAT))


@op("full", "new_full", "full_like")
def full(a: Aten, self: Any = None, size: Any = None, fill_value: Any = None, dtype: Any = None) -> Tensor:
    if a.name == "full":  # full(size, fill_value)
        size, fill_value = (size, fill_value) if self is None else (self, size if fill_value is None else fill_value)
        default = np.dtype(np.bool_) if isinstance(fill_value, bool) else None
        return filled(a, size, fill_value, a.dtype(dtype, default or result_type(fill_value)))
    kind = a.dtype(dtype, self.dtype)
    if a.name == "full_like":
        value = size if fill_value is None else fill_value
        if isinstance(value, (Tensor, SymInt)):
            return a.node("Expand", [a.tensor(value, kind), a.sizes(self)], kind, self.shape)
        return _constant_of_shape(a, a.sizes(self), value, kind, self.shape)
    return filled(a, size, fill_value, kind)


@op("scalar_tensor", "tensor", "scalar_to_tensor")
def scalar_tensor(a: Aten, s: Any, dtype: Any = None) -> Tensor:
    default = FLOAT if a.name == "scalar_tensor" else None
    if isinstance(s, (list, tuple)):
        kind = a.dtype(dtype, result_type(*np.array(s).reshape(-1).tolist()) if s else FLOAT)
        return a.constant(np.array(s, kind))
    return a.tensor(s, a.dtype(dtype, default or result_type(s)))


@op("fill", "zero")
def fill(a: Aten, self: Tensor, value: Any = 0) -> Tensor:
    if isinstance(value, (Tensor, SymInt)):
        return a.node("Expand", [a.tensor(value, self.dtype), a.sizes(self)], self.dtype, self.shape)
    return _constant_of_shape(a, a.sizes(self), value, self.dtype, self.shape)


@op("arange")
def arange(a: Aten, start: Any = None, end: Any = None, step: Any = 1, dtype: Any = None) -> Tensor:
    """``arange(end)``, ``arange(start, end)``, ``arange(start, end, step)``."""
    start, end = (0, start) if end is None else (start or 0, end)
    kind = a.dtype(dtype, result_type(start, end, step))
    values = (start, end, step)
    if not any(isinstance(value, (SymInt, Tensor)) for value in values):
        count: int | None = max(math.ceil((end - start) / step), 0)
        return a.node("Range", [a.tensor(value, kind) for value in values], kind, (count,))
    return a.node("Range", [a.tensor(value, kind) for value in values], kind, (None,))


@op("linspace")
def linspace(a: Aten, start: Any, end: Any, steps: int, dtype: Any = None) -> Tensor:
    if type(steps) is not int or not 0 <= steps <= 1 << 16:
        raise a.unsupported("is not supported", "steps", steps)
    return a.constant(np.linspace(start, end, steps, dtype=a.dtype(dtype, FLOAT)))


@op("to", "_to_copy", "type_as", "_autocast_to_full_precision", "float", "double", "half", "int", "long", "bool")
def to(a: Aten, self: Any, *rest: Any, dtype: Any = None, other: Any = None, **given: Any) -> Any:
    """Where a tensor lies does not matter, nor whether it is a copy; its element type does."""
    for key in given.keys() - {"copy", "device", "non_blocking", "memory_format", "cuda_enabled", "cpu_enabled"}:
        raise a.unsupported("the argument is not supported", key, given[key])
    names = {"float": "f4", "double": "f8", "half": "f2", "int": "i4", "long": "i8", "bool": "?"}
    if a.name in names:
        return a.cast(self, np.dtype(names[a.name])) if isinstance(self, Tensor) else self
    for value in (other, *rest):
        if isinstance(value, Tensor):
            return a.cast(self, value.dtype)
        if dtype is None and (isinstance(value, np.dtype) or type(value) is int):
            dtype = value
    return self if dtype is None else a.cast(self, a.dtype(dtype))


@op(
    *"_assert_async _assert_scalar _assert_tensor_metadata sym_constrain_range sym_constrain_range_for_size".split(),
    *"_assert warn _check _check_is_size".split(),
)
def promise(a: Aten, *args: Any, **kwargs: Any) -> None:
    """What a program asserts of its sizes and values; every operator checks for itself what it needs."""
