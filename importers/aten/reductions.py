"""Along axes: sums, extremes, softmax, running sums, ranking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...engine.graph import Dim
from .core import Aten, DType, Shape, Tensor, op
from .pointwise import BOOL, FLOAT, LONG, binary, floating, scalar, unary
from .views import reshaped


def _reduced(x: Tensor, axes: Sequence[int], keepdim: bool) -> Shape:
    """The shape that is left."""
    if x.shape is None:
        return None
    return tuple(1 if k in axes else n for k, n in enumerate(x.shape) if keepdim or k not in axes)


def reduce(a: Aten, kind: str, x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """A reduction over some axes; over all of them where none are named."""
    shape: Shape = None
    if x.shape is None and dim not in (None, [], ()):
        axes = [dim] if isinstance(dim, int) else list(dim)
    elif x.shape is None:
        axes = []
        shape = None if keepdim else ()
    else:
        axes = a.axes(x, dim)
        shape = _reduced(x, axes, keepdim)
        if not x.shape:
            return x
    over = a.ints(*axes) if axes else ""
    return a.node(kind, [x, over], x.dtype, shape, keepdims=keepdim, noop_with_empty_axes=False)


def _summable(a: Aten, x: Tensor, dtype: Any) -> Tensor:
    """`x` in the type it is summed in."""
    return a.cast(x, a.dtype(dtype, x.dtype if x.dtype.kind == "f" else LONG))


@op("sum", "prod", "nansum")
def total(a: Aten, self: Tensor, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    if a.name == "nansum":
        raise a.unsupported("the operator is not supported")
    kind = "ReduceSum" if a.name == "sum" else "ReduceProd"
    return reduce(a, kind, _summable(a, self, dtype), dim, keepdim)


@op("mean")
def mean(a: Aten, self: Tensor, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    return reduce(a, "ReduceMean", a.cast(self, a.dtype(dtype, self.dtype)), dim, keepdim)


@op("amax", "amin")
def extreme(a: Aten, self: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    return reduce(a, "ReduceMax" if a.name == "amax" else "ReduceMin", self, dim, keepdim)


@op("max", "min")
def maximum(a: Aten, self: Tensor, dim: Any = None, keepdim: bool = False, other: Any = None) -> Any:
    """Of all; along an axis, with the places; or of two tensors."""
    if isinstance(dim, Tensor) or other is not None:
        return binary(a, "Max" if a.name == "max" else "Min", self, dim if other is None else other)
    kind = "ReduceMax" if a.name == "max" else "ReduceMin"
    if dim is None:
        return reduce(a, kind, self)
    return reduce(a, kind, self, dim, keepdim), _place(a, "Arg" + kind[6:], self, dim, keepdim)


@op("aminmax")
def aminmax(a: Aten, self: Tensor, dim: Any = None, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    return reduce(a, "ReduceMin", self, dim, keepdim), reduce(a, "ReduceMax", self, dim, keepdim)


@op("argmax", "argmin")
def argmax(a: Aten, self: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    kind = "ArgMax" if a.name == "argmax" else "ArgMin"
    if dim is None:
        return _place(a, kind, reshaped(a, self, [-1]), 0, False)
    return _place(a, kind, self, dim, keepdim)


def _place(a: Aten, kind: str, x: Tensor, dim: int, keepdim: bool) -> Tensor:
    axis = a.axis(x, dim)
    shape = _reduced(x, [axis], keepdim)
    return a.node(kind, [x], LONG, shape, axis=axis, keepdims=keepdim, select_last_index=False)


@op("any", "all")
def anywhere(a: Aten, self: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    ones = a.cast(a.cast(self, BOOL), LONG)
    return a.cast(reduce(a, "ReduceMax" if a.name == "any" else "ReduceMin", ones, dim, keepdim), BOOL)


@op("norm", "linalg_vector_norm", "frobenius_norm")
def norm(
    a: Aten, self: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None, ord: Any = None
) -> Tensor:
    """Of vectors; `ord` is what newer operators call `p`."""
    x, order = a.cast(self, a.dtype(dtype, self.dtype)), p if ord is None else ord
    order = 2 if order is None else order
    if order == 2:
        return reduce(a, "ReduceL2", x, dim, keepdim)
    size = a.node("Abs", [x], x.dtype, x.shape)
    kinds = {1: "ReduceSum", float("inf"): "ReduceMax", float("-inf"): "ReduceMin"}
    if order not in kinds:
        raise a.unsupported("is not supported", "p", order)
    return reduce(a, kinds[order], size, dim, keepdim)


@op("logsumexp")
def logsumexp(a: Aten, self: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    x = floating(a, self)
    most = reduce(a, "ReduceMax", x, dim, True)
    total = reduce(a, "ReduceSum", unary(a, "Exp", binary(a, "Sub", x, most)), dim, True)
    y = binary(a, "Add", unary(a, "Log", total), most)
    axes = a.axes(x, dim)
    return y if keepdim else a.node("Squeeze", [y, a.ints(*axes)], y.dtype, _reduced(x, axes, False))


@op("var", "std", "var_mean", "std_mean")
def variance(
    a: Aten, self: Tensor, dim: Any = None, unbiased: Any = None, keepdim: bool = False, correction: Any = None
) -> Any:
    """With `correction` taken from the number of elements, 1 by default."""
    if isinstance(dim, bool):  # var(self, unbiased)
        dim, unbiased = None, dim
    less = correction if correction is not None else int(unbiased) if unbiased is not None else 1
    axes = a.axes(self, dim)
    centre = reduce(a, "ReduceMean", self, axes, True)
    square = binary(a, "Sub", self, centre)
    y = reduce(a, "ReduceMean", binary(a, "Mul", square, square), axes, keepdim)
    if less:
        count: Any = 1
        for axis in axes:
            count = a.part("mul", count, a.size(self, axis))
        number = a.tensor(count, self.dtype)
        y = binary(a, "Mul", y, binary(a, "Div", number, binary(a, "Sub", number, less)))
    if "std" in a.name:
        y = unary(a, "Sqrt", y)
    return (y, reduce(a, "ReduceMean", self, axes, keepdim)) if a.name.endswith("_mean") else y


@op("softmax", "_softmax", "log_softmax", "_log_softmax", "special_softmax", "special_log_softmax", "softmin")
def softmax(a: Aten, self: Tensor, dim: int, dtype: Any = None, half_to_float: bool = False) -> Tensor:
    if isinstance(dtype, bool):  # _softmax(self, dim, half_to_float)
        dtype, half_to_float = None, dtype
    x = a.cast(self, FLOAT if half_to_float else a.dtype(dtype, self.dtype))
    if a.name == "softmin":
        x = a.node("Neg", [x], x.dtype, x.shape)
    return a.node("LogSoftmax" if "log" in a.name else "Softmax", [x], x.dtype, x.shape, axis=dim, trailing=False)


@op("cumsum")
def cumsum(a: Aten, self: Tensor, dim: int, dtype: Any = None) -> Tensor:
    x = _summable(a, self, dtype)
    axis = a.graph.constant(np.array(a.axis(x, dim), np.int64))
    return a.node("CumSum", [x, axis], x.dtype, x.shape, exclusive=False, reverse=False)


@op("topk")
def topk(
    a: Aten, self: Tensor, k: Any, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Tensor, Tensor]:
    """Unsorted means in any order, so in this one."""
    return _ranked(a, self, a.ints(k), k if isinstance(k, int) else None, dim, largest)


def _ranked(a: Aten, x: Tensor, k: str, count: Dim, dim: int, largest: bool) -> tuple[Tensor, Tensor]:
    axis = a.axis(x, dim)
    shape = tuple(count if j == axis else n for j, n in enumerate(x.shape or ()))
    results: list[tuple[DType, Shape]] = [(x.dtype, shape), (LONG, shape)]
    values, places = a.nodes("TopK", [x, k], results, axis=axis, largest=largest)
    return values, places


@op("sort", "argsort")
def sort(a: Aten, self: Tensor, dim: int = -1, descending: bool = False, stable: Any = None) -> Any:
    if isinstance(dim, bool):  # argsort(self, stable, dim, descending) gives its own order
        raise a.unsupported("this order of arguments is not supported", "dim", dim)
    axis = a.axis(self, dim)
    values, places = _ranked(a, self, a.ints(a.size(self, axis)), (self.shape or ())[axis], axis, bool(descending))
    return places if a.name == "argsort" else (values, places)


@op("cosine_similarity")
def cosine_similarity(a: Aten, x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    product = reduce(a, "ReduceSum", binary(a, "Mul", x1, x2), dim)
    sizes = [binary(a, "Max", reduce(a, "ReduceL2", x, dim), scalar(a, eps, x)) for x in (x1, x2)]
    return binary(a, "Div", product, binary(a, "Mul", *sizes))
