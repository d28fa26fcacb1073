"""Comparisons, logic, and choice between values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graph import Node
from ..values import Value, View, collapse
from .plumbing import CAST_CODES, axes_of, broadcast, cast
from .registry import Array, Op, register

if TYPE_CHECKING:
    from ..lowering import Lowering

#: GS_CMP_* of abi.h in order.
COMPARISONS = {name: code for code, name in enumerate("Equal NotEqual Less LessOrEqual And Or".split())}
#: Which operands change places: a > b is b < a.
SWAPPED = {"Greater": "Less", "GreaterOrEqual": "LessOrEqual"}
#: The largest array that a file may ask for by a number in it.
LARGEST = 2**28


def spread(ctx: Lowering, node: Node, a: View, b: View, shape: tuple[int, ...]) -> tuple[View, View, list[int]]:
    """Two operands broadcast to a dense result, and their walk as the kernels take it."""
    a, b = broadcast(a, shape), broadcast(b, shape)
    dense = View.whole(a.buffer, shape).strides
    merged, (sa, sb, _) = collapse(shape, a.strides, b.strides, dense)
    if len(merged) > 6:
        raise ctx.unsupported(node, f"broadcasts over {len(merged)} axes; at most 6 are supported")
    fill = 6 - len(merged)
    return a, b, [len(merged), *merged, *[1] * fill, *sa, *[0] * fill, *sb, *[0] * fill]


def compare(ctx: Lowering, node: Node, op: str, a: Value, b: Value) -> View:
    """Emit a comparison, broadcast."""
    if op in SWAPPED:
        op, a, b = SWAPPED[op], b, a
    shape = np.broadcast_shapes(a.shape, b.shape)
    tags = ctx.same(node, [a, b], shape)
    va, vb = ctx.view(a), ctx.view(b)
    if va.dtype != vb.dtype:
        raise ctx.unsupported(node, f"takes {va.dtype} and {vb.dtype}", hint="Cast them to one type")
    if va.dtype.kind in "iu":
        va, vb = (cast(ctx, node, v, np.dtype(np.int64)) for v in (va, vb))
    kind = CAST_CODES[va.dtype.name]
    va, vb, n = spread(ctx, node, va, vb, shape)
    y = ctx.temp(shape, np.bool_, tags)
    ctx.emit("compare", node, {0: va, 1: vb, 4: y}, [COMPARISONS[op], *n, kind])
    return y


def choose(ctx: Lowering, node: Node, condition: Value, a: Value, b: Value) -> View:
    """Emit a choice, broadcast: a where the condition holds, else b."""
    shape = np.broadcast_shapes(condition.shape, a.shape, b.shape)
    tags = ctx.same(node, [condition, a, b], shape)
    va, vb = ctx.view(a), ctx.view(b)
    if va.dtype != vb.dtype:
        raise ctx.unsupported(node, f"takes {va.dtype} and {vb.dtype}", hint="Cast them to one type")
    if condition.dtype != np.bool_:
        raise ctx.unsupported(node, f"has a condition of {condition.dtype}, not of truth values")
    mask = ctx.dense(node, broadcast(ctx.view(condition), shape))
    va, vb, n = spread(ctx, node, va, vb, shape)
    y = ctx.temp(shape, va.dtype, tags)
    ctx.emit("where", node, {0: mask, 1: va, 2: vb, 4: y}, [va.dtype.itemsize, *n])
    return y


@register("Where")
class Where(Op):
    """y = a where the condition holds, else b; broadcast."""

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        condition, a, b = inputs
        assert condition is not None and a is not None and b is not None
        return (np.where(condition, a, b),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        condition, a, b = inputs
        assert condition is not None and a is not None and b is not None
        return (choose(ctx, node, condition, a, b),)


@register("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "And", "Or", "Xor", "Not", "IsNaN")
class Logic(Op):
    """y = a op b, or op a; truth values, broadcast."""

    _UFUNCS = {
        "Equal": np.equal,
        "Greater": np.greater,
        "Less": np.less,
        "GreaterOrEqual": np.greater_equal,
        "LessOrEqual": np.less_equal,
        "And": np.logical_and,
        "Or": np.logical_or,
        "Xor": np.logical_xor,
        "Not": np.logical_not,
        "IsNaN": np.isnan,
    }

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        return (np.asarray(Logic._UFUNCS[node.op](*inputs)),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        a, b = (*inputs, None)[:2]
        assert a is not None
        if node.op in ("And", "Or", "Xor", "Not") and any(v is not None and v.dtype != np.bool_ for v in inputs):
            raise ctx.unsupported(node, f"takes {a.dtype}, not truth values")
        if node.op == "Not":
            return (compare(ctx, node, "Equal", a, np.array(False)),)
        if node.op == "IsNaN":
            return (compare(ctx, node, "NotEqual", ctx.real_view(node, a), a),)
        assert b is not None
        return (compare(ctx, node, "NotEqual" if node.op == "Xor" else node.op, a, b),)


@register("IsInf")
class IsInf(Op):
    """Whether an element is infinite, of the signs asked for."""

    @staticmethod
    def _infinities(node: Node) -> list[float]:
        signs = (("detect_negative", -math.inf), ("detect_positive", math.inf))
        return [value for name, value in signs if node.attrs[name]]

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = inputs
        assert x is not None
        return (np.isin(x, np.array(IsInf._infinities(node), x.dtype)),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        (x,) = inputs
        assert isinstance(x, View)
        x = ctx.real_view(node, x)
        found = [compare(ctx, node, "Equal", x, np.array(v, ctx.real)) for v in IsInf._infinities(node)]
        if not found:
            return (compare(ctx, node, "Less", x, x),)
        return (found[0] if len(found) == 1 else compare(ctx, node, "Or", found[0], found[1]),)


@register("OneHot")
class OneHot(Op):
    """y[..., d, ...] = on where d is the index (from the end if negative), else off; `axis` of `depth` is new."""

    known = (1,)

    @staticmethod
    def _places(node: Node, shape: Sequence[int], depth: Array, values: Any) -> tuple[int, Array]:
        """The new axis, and the numbers along it in a shape that broadcasts."""
        if values.shape != (2,):
            raise ValueError(f"values are of shape {values.shape}, not two")
        (axis,) = axes_of(np.array(node.attrs["axis"]), len(shape) + 1)
        size = int(depth.reshape(()))
        if size < 1 or size * max(math.prod(shape), 1) > LARGEST:
            raise ValueError(f"depth={size} for indices of shape {tuple(shape)} is out of all proportion")
        return axis, np.arange(size).reshape([-1, *[1] * (len(shape) - axis)])

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        indices, depth, values = inputs
        assert indices is not None and depth is not None and values is not None
        axis, places = OneHot._places(node, indices.shape, depth, values)
        found = np.expand_dims(indices.astype(np.int64), axis)
        return (np.where((found == places) | (found == places - places.size), values[1], values[0]),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        indices, depth, values = inputs
        assert indices is not None and isinstance(depth, np.ndarray) and values is not None
        axis, places = OneHot._places(node, indices.shape, depth, values)
        x = cast(ctx, node, ctx.view(indices), np.dtype(np.int64))
        x = x.with_(
            shape=(*x.shape[:axis], 1, *x.shape[axis:]),
            strides=(*x.strides[:axis], 0, *x.strides[axis:]),
            tags=(*x.tags[:axis], None, *x.tags[axis:]),
        )
        hot = [compare(ctx, node, "Equal", x, p) for p in (places, places - places.size)]
        off = ctx.view(values).with_(shape=(), strides=(), tags=())
        on = off.with_(offset=off.offset + ctx.view(values).strides[0])
        return (choose(ctx, node, compare(ctx, node, "Or", *hot), on, off),)


@register("Trilu")
class Trilu(Op):
    """The upper or lower triangle of the last two axes, from diagonal `k` on; the rest is 0."""

    known = (1,)

    @staticmethod
    def _mask(node: Node, shape: Sequence[int], k: Array | None) -> Array:
        if len(shape) < 2:
            raise ValueError(f"takes matrices, not shape {tuple(shape)}")
        rows, columns = np.arange(shape[-2])[:, None], np.arange(shape[-1])
        first = 0 if k is None else int(k.reshape(()))
        return columns >= rows + first if node.attrs["upper"] else columns <= rows + first

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, k = (*inputs, None)[:2]
        assert x is not None
        return (np.where(Trilu._mask(node, x.shape, k), x, np.zeros((), x.dtype)),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, k = (*inputs, None)[:2]
        assert isinstance(x, View) and not isinstance(k, View)
        for tag in x.tags[-2:]:
            ctx.mix(tag, node, "depends on the position of the frame")
        return (choose(ctx, node, Trilu._mask(node, x.shape, k), x, np.zeros((), x.dtype)),)
