"""Quantised operators: an integer q stands for (q - zero) * scale.

Sums of products are exact, in int32. What is computed is what ONNX Runtime computes, where ONNX leaves a choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graph import Node
from ..values import Value, View, Weights
from .plumbing import CAST_CODES, axes_of, broadcast, cast, inverse, memory_order, permuted
from .registry import Array, Op, register
from .windows import checked_conv, window_view, windows_of

if TYPE_CHECKING:
    from ..lowering import Lowering

BYTES = (np.dtype(np.uint8), np.dtype(np.int8))
INT32 = np.dtype(np.int32)

# ---------------------------------------------------------------------- scales and zero points


def spread(shape: Sequence[int], value: Any, axis: int, block: int) -> Any:
    """A known scale or zero point in a shape that broadcasts along `shape`."""
    if value.size == 1:
        return value.reshape(())
    (axis,) = axes_of(np.array(axis), len(shape))
    if block:
        expected = tuple(-(-n // block) if k == axis else n for k, n in enumerate(shape))
        if value.shape != expected:
            raise ValueError(f"{value.shape} scales do not fit {tuple(shape)} in blocks of {block} along axis {axis}")
        return value.take(np.arange(shape[axis]) // block, axis)
    if value.shape != (shape[axis],):
        raise ValueError(f"{value.shape} scales do not fit axis {axis} of {tuple(shape)}")
    return value.reshape(-1, *(1,) * (len(shape) - axis - 1))


def channels(
    ctx: Lowering, node: Node, x: View, scale: Value | None, zero: Value | None
) -> tuple[list[int], dict[int, View]]:
    """Outer, channels and inner of `x` for its scale and zero point, and these as the kernels take them."""
    attrs = node.attrs
    axis, block = attrs.get("axis", 0), attrs.get("block_size", 0)
    size = max(v.count if isinstance(v, View) else v.size for v in (scale, zero) if v is not None)
    if block and any(isinstance(v, View) for v in (scale, zero)):
        raise ctx.unknown(node, range(1, len(node.inputs)))
    if size == 1 or x.ndim == 0:
        sizes = [1, 1, x.count]
    elif block:
        sizes = [1, x.count, 1]
        for tag in x.tags:
            ctx.mix(tag, node, "depends on the position of the frame")
    else:
        (axis,) = axes_of(np.array(axis), x.ndim)
        sizes = [math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])]
        ctx.mix(x.tags[axis], node, "depends on the position of the frame")
    slots = {}
    for slot, value in ((1, scale), (2, zero)):
        if value is None or (slot == 2 and isinstance(value, np.ndarray) and not value.any()):
            continue
        if isinstance(value, np.ndarray):
            wide = np.broadcast_to(spread(x.shape, value, axis, block), x.shape) if block else value
            value = np.ascontiguousarray(np.broadcast_to(wide.reshape(-1), sizes[1]))
            slots[slot] = ctx.view(value.astype(ctx.real if slot == 1 else INT32))
        else:
            if value.count != sizes[1]:
                raise ValueError(f"scale and zero point of {size} and {value.count} elements do not fit {x.shape}")
            slots[slot] = ctx.dense(node, cast(ctx, node, value, INT32) if slot == 2 else ctx.real_view(node, value))
    return sizes, slots


def centred(ctx: Lowering, node: Node, x: Value, zero: Value | None, axis: int) -> View:
    """``x - zero`` in int16, dense; `zero` is one number, or one for each place along `axis`."""
    if x.dtype not in BYTES:
        raise ctx.unsupported(node, f"is not supported on {x.dtype} values", hint="It takes int8 and uint8")
    view = ctx.dense(node, ctx.view(x))
    if zero is None:
        zero = np.zeros((), np.int32)
    sizes, slots = channels(ctx, Node(node.op, (), node.outputs, {"axis": axis}, node.name), view, None, zero)
    y = ctx.temp(view.shape, np.int16, view.tags)
    ctx.emit("centre", node, {0: view, **slots, 4: y}, [*sizes, CAST_CODES[view.dtype.name]])
    return y


def difference(x: Array, zero: Array | None, axis: int) -> Array:
    """``x - zero`` in float64, where sums of its products are exact."""
    wide = x.astype(np.float64)
    return wide if zero is None else wide - spread(x.shape, zero, axis, 0)


def wrapped(sums: Array) -> Array:
    """Exact sums as int32, which wraps."""
    return sums.astype(np.int64).astype(np.int32)


def packed_integers(w: Array, zero: Array | None, real: Any) -> Array:
    """The rows of `w`, zero points taken off, as `matmul_i16` reads them."""
    wide = w.astype(np.int16)
    return np.ascontiguousarray(wide if zero is None else wide - zero.reshape(-1, *(1,) * (zero.size > 1))).reshape(-1)


def rows_by_weights(ctx: Lowering, node: Node, rows: View, weights: Weights, n: int) -> View:
    """Dense int16 `rows` times packed integers of `n` rows: int32."""
    k = rows.shape[-1]
    ctx.mix(rows.tags[-1], node, "sums over the frames")
    y = ctx.temp((*rows.shape[:-1], n), INT32, (*rows.tags[:-1], None))
    ctx.emit("matmul_i16", node, {0: rows, 4: y}, [1, rows.count // max(k, 1), n, k, 0, 0, k, k], weights=weights)
    return y


# ---------------------------------------------------------------------- to and from integers


@register("QuantizeLinear")
class QuantizeLinear(Op):
    """rint(x / scale) + zero, held in the range of `dtype`: per tensor, along `axis`, or in blocks along it."""

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, scale, zero = (*inputs, None)[:3]
        assert x is not None and scale is not None
        axis, block, limits = node.attrs["axis"], node.attrs["block_size"], np.iinfo(node.attrs["dtype"])
        q = np.rint(x / spread(x.shape, scale, axis, block))
        if zero is not None:
            q = q + spread(x.shape, zero, axis, block).astype(q.dtype)
        held = np.where(q >= limits.min, np.minimum(q, limits.max), limits.min)
        return (held.astype(np.int64).astype(node.attrs["dtype"]),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, scale, zero = (*inputs, None)[:3]
        assert x is not None and scale is not None
        view, to = ctx.view(x), np.dtype(node.attrs["dtype"])
        view = cast(ctx, node, view, ctx.real) if view.dtype.kind == "i" else ctx.real_view(node, view)
        single = scale.shape in ((), (1,))
        perm = memory_order(view, view.ndim) if single else list(range(view.ndim))
        view = ctx.dense(node, permuted(view, perm))
        sizes, slots = channels(ctx, node, view, scale, zero)
        y = ctx.temp(view.shape, to, view.tags)
        ctx.emit("quantise", node, {0: view, **slots, 4: y}, [*sizes, CAST_CODES[to.name]])
        return (permuted(y, inverse(perm)),)


@register("DequantizeLinear")
class DequantizeLinear(Op):
    """(x - zero) * scale: per tensor, along `axis`, or in blocks along it."""

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, scale, zero = (*inputs, None)[:3]
        assert x is not None and scale is not None
        if x.dtype.kind not in "iu":
            raise ValueError(f"takes integers, not {x.dtype}")
        axis, block = node.attrs["axis"], node.attrs["block_size"]
        wide = x.astype(np.int64)
        if zero is not None:
            wide = wide - spread(x.shape, zero, axis, block).astype(np.int64)
        return (np.asarray(wide.astype(scale.dtype) * spread(x.shape, scale, axis, block)),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, scale, zero = (*inputs, None)[:3]
        assert x is not None and scale is not None
        if x.dtype.name not in ("uint8", "int8", "uint16", "int16", "int32"):
            raise ctx.unsupported(node, f"is not supported on {x.dtype} values")
        view = ctx.view(x)
        single = scale.shape in ((), (1,))
        perm = memory_order(view, view.ndim) if single else list(range(view.ndim))
        view = ctx.dense(node, permuted(view, perm))
        sizes, slots = channels(ctx, node, view, scale, zero)
        y = ctx.temp(view.shape, tags=view.tags)
        ctx.emit("dequantise", node, {0: view, **slots, 4: y}, [*sizes, CAST_CODES[view.dtype.name]])
        return (permuted(y, inverse(perm)),)


def range_of(x: Array) -> tuple[Array, Array]:
    """Scale and zero point of uint8 for the numbers of `x` and 0."""
    x = x[~np.isnan(x)]
    low, high = min(x.min(initial=0), 0), max(x.max(initial=0), 0)
    scale = np.asarray((high - low) / x.dtype.type(255) if high != low else 1, x.dtype)
    return scale, np.clip(np.rint(-low / scale), 0, 255)


def quantised(x: Array) -> tuple[Array, Array, Array]:
    """`x` in uint8, with its own scale and zero point; all three in x's type."""
    scale, zero = range_of(x)
    q = np.rint(x / scale) + zero
    return np.where(q >= 0, np.minimum(q, 255), 0), scale, zero


@register("DynamicQuantizeLinear")
class DynamicQuantizeLinear(Op):
    """(q, scale, zero) of all that `x` holds, in uint8."""

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = inputs
        assert x is not None
        q, scale, zero = quantised(x)
        return q.astype(np.uint8), scale, zero.astype(np.uint8)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        (x,) = inputs
        assert isinstance(x, View)
        q, scale, zero = dynamically(ctx, node, ctx.real_view(node, x))
        return q, scale, cast(ctx, node, zero, np.dtype(np.uint8))


def dynamically(ctx: Lowering, node: Node, x: View) -> tuple[View, View, View]:
    """`x` in uint8, dense, with its own scale and zero point, which is int32."""
    for tag, size in zip(x.tags, x.shape, strict=True):
        if size > 1:  # a file of one frame per call is a stream as it is
            ctx.mix(tag, node, "quantises with the range of all frames; load with fix='dequantize' to run it in float")
    x = ctx.dense(node, x)
    q, scale, zero = ctx.temp(x.shape, np.uint8, x.tags), ctx.temp(()), ctx.temp((), INT32)
    ctx.emit("quantise_dynamically", node, {0: x, 4: q, 5: scale, 6: zero}, [x.count])
    return q, scale, zero


# ---------------------------------------------------------------------- products


def as_matrix(value: Value, axis: int) -> Value:
    """A vector with an axis of one element at `axis`; anything else as it is."""
    if value.ndim != 1:
        return value
    if not isinstance(value, View):
        return np.expand_dims(value, axis)
    shape, strides, tags = [*value.shape], [*value.strides], [*value.tags]
    shape.insert(axis, 1)
    strides.insert(axis, 0)
    tags.insert(axis, None)
    return value.with_(shape=tuple(shape), strides=tuple(strides), tags=tuple(tags))


@register("MatMulInteger")
class MatMulInteger(Op):
    """(a - a_zero) @ (b - b_zero) in int32; zero points of a per row, of b per column, or one for all."""

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        a, b, a_zero, b_zero = (*inputs, None, None)[:4]
        assert a is not None and b is not None
        return (wrapped(difference(a, a_zero, -2) @ difference(b, b_zero, -1)),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        a, b, a_zero, b_zero = (*inputs, None, None)[:4]
        assert a is not None and b is not None
        ones = a.ndim == 1, b.ndim == 1
        if any(ones):
            wide = MatMulInteger.lower(ctx, node, as_matrix(a, 0), as_matrix(b, 1), *inputs[2:])[0]
            assert isinstance(wide, View)
            return (permuted(wide, [k for k in range(wide.ndim) if k < wide.ndim - 2 or not ones[k - wide.ndim + 2]]),)
        if not a.ndim or not b.ndim or a.shape[-1] != b.shape[-2]:
            raise ValueError(f"{a.shape} cannot be multiplied by {b.shape}")
        va = centred(ctx, node, a, a_zero, -2)
        if isinstance(b, np.ndarray) and b.ndim == 2 and b.dtype in BYTES and not isinstance(b_zero, View):
            key = ("integers", node.inputs[1], node.inputs[3] if b_zero is not None else "")
            weights = Weights(key, packed_integers, (b.T, b_zero))
            return (rows_by_weights(ctx, node, va, weights, b.shape[1]),)
        vb = centred(ctx, node, b, b_zero, -1)
        ctx.mix(va.tags[-1], node, "sums over the frames")
        ctx.mix(vb.tags[-2], node, "sums over the frames")
        lead = np.broadcast_shapes(va.shape[:-2], vb.shape[:-2])
        m, k, n = *va.shape[-2:], vb.shape[-1]
        va = ctx.dense(node, broadcast(va, (*lead, m, k)))
        vb = ctx.dense(node, permuted(broadcast(vb, (*lead, k, n)), [*range(len(lead)), len(lead) + 1, len(lead)]))
        tags = [ctx.unify(s, t) for s, t in zip(va.tags[:-2], vb.tags[:-2], strict=True)]
        y = ctx.temp((*lead, m, n), INT32, (*tags, va.tags[-2], vb.tags[-2]))
        ctx.emit("matmul_i16", node, {0: va, 1: vb, 4: y}, [math.prod(lead), m, n, k, m * k, n * k, k, k])
        return (y,)


@register("ConvInteger")
class ConvInteger(Op):
    """A convolution of x - x_zero with w - w_zero, in int32; zero points of w per output channel, or one for all."""

    known = (1, 3)

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, w, x_zero, w_zero = (*inputs, None, None)[:4]
        assert x is not None and w is not None
        groups, over = checked_conv(node, x, w)
        parts = np.split(windows_of(difference(x, x_zero, 0), over, 0.0), groups, axis=1)
        axes = [1, *range(2 + len(over), 2 + 2 * len(over))]
        weights = np.split(difference(w, w_zero, 0), groups)
        results = [np.tensordot(p, v, (axes, range(1, v.ndim))) for p, v in zip(parts, weights, strict=True)]
        return (wrapped(np.moveaxis(np.concatenate(results, axis=-1), -1, 1)),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, w, x_zero, w_zero = (*inputs, None, None)[:4]
        assert isinstance(x, View) and isinstance(w, np.ndarray) and not isinstance(w_zero, View)
        groups, over = checked_conv(node, x, w)
        if w.dtype not in BYTES or (x_zero is not None and x_zero.shape not in ((), (1,))):
            raise ctx.unsupported(
                node, f"is not supported with {w.dtype} weights and a zero point for each channel of x"
            )
        rank, each, width = len(over), w.shape[0] // groups, math.prod(w.shape[1:])
        ctx.mix(x.tags[1], node, "sums over the frames")
        seen = window_view(ctx, node, centred(ctx, node, x, x_zero, 0), over, 0, "convolves over the frames")
        seen = permuted(seen, [0, *range(2, 2 + rank), 1, *range(2 + rank, 2 + 2 * rank)])
        lead, step = seen.shape[: 1 + rank], seen.strides[1 + rank]
        y = ctx.temp((*lead, w.shape[0]), INT32, (*seen.tags[: 1 + rank], None))
        for g in range(groups):
            part = seen.with_(shape=(*lead, *w.shape[1:]), offset=seen.offset + g * w.shape[1] * step)
            rows = ctx.dense(node, part)
            rows = rows.with_(
                shape=(*lead, width), strides=(*rows.strides[: 1 + rank], 1), tags=(*rows.tags[: 1 + rank], None)
            )
            mine = slice(g * each, (g + 1) * each)
            zero = w_zero[mine] if w_zero is not None and w_zero.size > 1 else w_zero
            key = ("integers", node.inputs[1], node.inputs[3] if w_zero is not None else "", g, groups)
            weights = Weights(key, packed_integers, (w[mine].reshape(each, width), zero))
            made = rows_by_weights(ctx, node, rows, weights, each)
            ctx.copy(node, made, y.with_(shape=made.shape, offset=g * each))
        return (permuted(y, [0, 1 + rank, *range(1, 1 + rank)]),)
