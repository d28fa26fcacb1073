"""Operators over windows: convolutions, pooling, padding; and normalisation per channel.

A window is a view: strides show the same elements once per window that holds them, so a convolution is a copy into rows
and one dense layer, and pooling a reduction. Axes are ``(N, C, *spatial)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..graph import Node
from ..values import MOST_ELEMENTS, Value, View, c_strides, reshape_strides
from .math import REDUCTIONS, binary, linear, unary
from .plumbing import axes_of, laid, memory_order, permuted, reshaped
from .registry import Array, Op, register

if TYPE_CHECKING:
    from ..lowering import Lowering


class Window(NamedTuple):
    """Windows along one spatial axis."""

    size: int
    step: int
    dilation: int
    before: int
    after: int
    places: int


def windows(node: Node, sizes: Sequence[int], shape: Sequence[int]) -> list[Window]:
    """Where the windows of a convolution or pooling lie, padding resolved.

    `sizes` are the kernel's, `shape` the spatial axes of the input.
    """
    attrs, rank = node.attrs, len(sizes)
    steps = attrs["strides"] or (1,) * rank
    dilations = attrs.get("dilations") or (1,) * rank
    pads = attrs["pads"] or (0,) * (2 * rank)
    if not len(steps) == len(dilations) == len(shape) == rank or len(pads) != 2 * rank:
        raise ValueError(f"strides={steps}, dilations={dilations}, pads={pads} do not fit {len(shape)} spatial axes")
    if min((*steps, *dilations, *sizes)) < 1:
        raise ValueError(f"strides={steps}, dilations={dilations}, kernel_shape={tuple(sizes)} are not all positive")
    found = []
    for k, (size, step, dilation, length) in enumerate(zip(sizes, steps, dilations, shape, strict=True)):
        extent = (size - 1) * dilation + 1
        before, after = pads[k], pads[rank + k]
        if attrs["auto_pad"] in ("SAME_UPPER", "SAME_LOWER"):
            total = max((-(-length // step) - 1) * step + extent - length, 0)
            less, more = total // 2, total - total // 2
            before, after = (less, more) if attrs["auto_pad"] == "SAME_UPPER" else (more, less)
        elif attrs["auto_pad"] == "VALID":
            before = after = 0
        room = length + before + after - extent
        if room < 0:
            raise ValueError(f"a window of {extent} does not fit {length} elements with pads {before}, {after}")
        count = room // step + 1
        # The last window may reach over the edge, but has to begin before the padding behind the input.
        if attrs.get("ceil_mode") and room % step and count * step < length + before:
            after += step - room % step
            count += 1
        found.append(Window(size, step, dilation, before, after, count))
    return found


def windowed_shape(shape: tuple[int, ...], strides: Sequence[int], over: Sequence[Window]) -> tuple[Any, Any]:
    """Shape and strides of ``(N, C, *windows, *kernel)`` over a padded input of `shape`."""
    return (
        (*shape[:2], *(w.places for w in over), *(w.size for w in over)),
        (
            *strides[:2],
            *(s * w.step for s, w in zip(strides[2:], over, strict=True)),
            *(s * w.dilation for s, w in zip(strides[2:], over, strict=True)),
        ),
    )


def window_view(
    ctx: Lowering,
    node: Node,
    x: View,
    over: Sequence[Window],
    fill: float,
    what: str,
    order: Sequence[int] | None = None,
) -> View:
    """Every window of `x`, padded with `fill`: ``(N, C, *windows, *kernel)``.

    An axis stays what it was. In a stream, along the axis ``remembered``, what the windows need is there. What is
    copied because of margins lies in memory in `order`.
    """
    for axis, (tag, w) in enumerate(zip(x.tags[2:], over, strict=True), start=2):
        if (w.size > 1 or w.step > 1 or w.before or w.after) and axis != node.attrs.get("remembered"):
            ctx.mix(tag, node, what)
    margins = [(0, 0), (0, 0), *((w.before, w.after) for w in over)]
    x = padded(ctx, node, x, margins, fill, order)
    shape, strides = windowed_shape(x.shape, x.strides, over)
    return x.with_(shape=shape, strides=strides, tags=(*x.tags, *(None,) * len(over)))


def windows_of(x: Array, over: Sequence[Window], fill: float) -> Array:
    """The same with NumPy."""
    margins = [(0, 0), (0, 0), *((w.before, w.after) for w in over)]
    x = np.pad(x, margins, constant_values=fill)
    shape, strides = windowed_shape(x.shape, x.strides, over)
    return np.lib.stride_tricks.as_strided(x, shape, strides, writeable=False)


def padded(
    ctx: Lowering,
    node: Node,
    x: View,
    margins: Sequence[tuple[int, int]],
    fill: float,
    order: Sequence[int] | None = None,
) -> View:
    """`x` with `fill` around it, in memory in the order in which it was, or in `order`; a negative margin cuts."""
    starts = [max(-before, 0) for before, _ in margins]
    lengths = [n - max(-b, 0) - max(-a, 0) for n, (b, a) in zip(x.shape, margins, strict=True)]
    if min(lengths, default=0) < 0:
        raise ValueError(f"margins {list(margins)} cut more than there is of {x.shape}")
    offset = x.offset + sum(start * step for start, step in zip(starts, x.strides, strict=True))
    x = x.with_(shape=tuple(lengths), offset=offset)
    margins = [(max(before, 0), max(after, 0)) for before, after in margins]
    if not any(map(any, margins)):
        return x
    shape = tuple(b + n + a for n, (b, a) in zip(x.shape, margins, strict=True))
    y = laid(ctx, shape, x.dtype, x.tags, memory_order(x, x.ndim) if order is None else order)
    value = ctx.view(np.array(fill, dtype=x.dtype))
    ctx.copy(node, value.with_(shape=shape, strides=(0,) * len(shape), tags=(None,) * len(shape)), y)
    inside = sum(before * step for (before, _), step in zip(margins, y.strides, strict=True))
    ctx.copy(node, x, y.with_(shape=x.shape, offset=inside))
    return y


def checked_conv(node: Node, x: Any, w: Array) -> tuple[int, list[Window]]:
    """Groups and windows of a convolution, its shapes held against each other."""
    groups, sizes = node.attrs["group"], w.shape[2:]
    if x.ndim != w.ndim or x.ndim < 3 or (node.attrs["kernel_shape"] or sizes) != sizes:
        raise ValueError(f"input {x.shape}, weights {w.shape} and kernel_shape={node.attrs['kernel_shape']} do not fit")
    if groups < 1 or x.shape[1] != w.shape[1] * groups or w.shape[0] % groups:
        raise ValueError(f"input {x.shape} and weights {w.shape} do not fit group={groups}")
    return groups, windows(node, sizes, x.shape[2:])


@register("Conv")
class Conv(Op):
    """y[n, m, t] = sum over c, k of x[n, c, t*step + k*dilation] * w[m, c, k] + b[m]."""

    known = (1, 2)

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, w, b = (*inputs, None)[:3]
        assert x is not None and w is not None
        groups, over = checked_conv(node, x, w)
        parts = np.split(windows_of(x, over, 0.0), groups, axis=1)
        axes = [1, *range(2 + len(over), 2 + 2 * len(over))]
        y = np.concatenate(
            [
                np.moveaxis(np.tensordot(part, v, (axes, range(1, v.ndim))), -1, 1)
                for part, v in zip(parts, np.split(w, groups), strict=True)
            ],
            axis=1,
        )
        return (np.asarray(y if b is None else y + b.reshape(-1, *(1,) * len(over))).astype(x.dtype),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, w, b = (*inputs, None)[:3]
        assert isinstance(x, View) and isinstance(w, np.ndarray) and not isinstance(b, View)
        groups, over = checked_conv(node, x, w)
        rank, each = len(over), w.shape[0] // groups
        ctx.mix(x.tags[1], node, "sums over the frames")
        # Channels last: a window along one axis then is one run of memory, and no copy is made of it.
        order, x = [0, *range(2, x.ndim), 1], ctx.real_view(node, x)
        if x.shape[1] > 1 and x.strides[1] != 1 and not any(w.before or w.after for w in over):
            x = ctx.copy(node, x, laid(ctx, x.shape, x.dtype, x.tags, order))
        seen = window_view(ctx, node, x, over, 0.0, "convolves over the frames", order)
        seen = permuted(seen, [0, *range(2, seen.ndim), 1])
        channels, width = w.shape[1], math.prod(w.shape[1:])
        lead = seen.shape[: 1 + rank]
        bias = np.zeros(w.shape[0], w.dtype) if b is None else b
        if groups == w.shape[0] > 1 and channels == 1 and rank <= 2:
            y = depthwise(ctx, node, seen, w, bias)
            return (permuted(y, [0, 1 + rank, *range(1, 1 + rank)]),)
        results = []
        for g in range(groups):
            part = seen.with_(shape=(*seen.shape[:-1], channels), offset=seen.offset + g * channels * seen.strides[-1])
            strides = reshape_strides(part.shape, part.strides, (*lead, width))
            if strides is None:
                part, strides = ctx.dense(node, part), c_strides((*lead, width))
            flat = part.with_(shape=(*lead, width), strides=strides, tags=(*part.tags[: 1 + rank], None))
            mine = slice(g * each, (g + 1) * each)
            key = ("conv", node.inputs[1], node.inputs[2] if b is not None else "", g, groups)
            weights = np.moveaxis(w[mine], 1, -1).reshape(each, width).T
            # Never without a bias: what is added later goes along the last axis, and channels are not that.
            results.append(linear(ctx, node, flat, weights, bias[mine], key, "float32"))
        y = results[0]
        if groups == 1:
            ctx.is_layer(node.outputs[0], ctx.instructions[-1])
        else:
            y = ctx.temp((*lead, w.shape[0]), tags=results[0].tags)
            for g, part in enumerate(results):
                ctx.copy(node, part, y.with_(shape=part.shape, offset=g * each))
        return (permuted(y, [0, 1 + rank, *range(1, 1 + rank)]),)


def depthwise(ctx: Lowering, node: Node, seen: View, w: Array, bias: Array) -> View:
    """Each channel by itself: ``(N, *windows, C)`` of windows ``(N, *windows, *kernel, C)``, channels side by side."""
    rank = w.ndim - 2
    fill = 2 - rank
    y = ctx.temp((*seen.shape[: 1 + rank], w.shape[0]), tags=(*seen.tags[: 1 + rank], None))
    rows = (*(1,) * fill, *seen.shape[: 1 + rank], *(0,) * fill, *seen.strides[: 1 + rank])
    kernel = (*(1,) * fill, *w.shape[2:], *(0,) * fill, *seen.strides[1 + rank : -1])
    weights = np.ascontiguousarray(w.reshape(w.shape[0], -1).T)
    slots = {0: seen, 1: ctx.view(weights), 2: ctx.view(bias), 4: y}
    ctx.emit("depthwise", node, slots, [w.shape[0], *rows, *kernel])
    return y


@register("Pad")
class Pad(Op):
    """Pad(x, pads, value, axes): add margins, or cut with negative ones; mode constant, reflect, edge or wrap."""

    known = (1, 2, 3)

    @staticmethod
    def _margins(ndim: int, pads: Array, axes: Array | None) -> list[tuple[int, int]]:
        where = range(ndim) if axes is None else axes_of(axes, ndim)
        given = [int(v) for v in pads.reshape(-1)]
        if len(given) != 2 * len(where):
            raise ValueError(f"pads={given} does not fit {len(where)} axes")
        if max(map(abs, given), default=0) > MOST_ELEMENTS:
            raise ValueError(f"pads={given} are out of all proportion")
        margins = [(0, 0)] * ndim
        for k, axis in enumerate(where):
            margins[axis] = given[k], given[len(where) + k]
        return margins

    @staticmethod
    def _sources(mode: str, size: int, before: int, after: int) -> Array:
        """Which element of an axis stands at each place of the padded one."""
        places = np.arange(-before, size + after)
        if size == 0 and places.size:
            raise ValueError(f"mode={mode!r} has nothing to repeat in an axis of 0")
        if mode == "edge":
            return np.clip(places, 0, size - 1)
        if mode == "wrap":
            return places % size
        period = max(2 * (size - 1), 1)
        folded = places % period
        return np.minimum(folded, period - folded) if size > 1 else np.zeros_like(places)

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, pads, value, axes = (*inputs, None, None, None)[:4]
        assert x is not None and pads is not None
        margins = Pad._margins(x.ndim, pads, axes)
        if node.attrs["mode"] == "constant":
            x = x[tuple(slice(max(-b, 0), n - max(-a, 0)) for n, (b, a) in zip(x.shape, margins, strict=True))]
            fill = 0 if value is None else value.reshape(-1)[0]
            return (np.pad(x, [(max(b, 0), max(a, 0)) for b, a in margins], constant_values=fill),)
        for axis, (before, after) in enumerate(margins):
            x = x.take(Pad._sources(node.attrs["mode"], x.shape[axis], before, after), axis)
        return (x,)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, pads, value, axes = (*inputs, None, None, None)[:4]
        assert isinstance(x, View) and isinstance(pads, np.ndarray)
        assert not isinstance(value, View) and not isinstance(axes, View)
        margins = Pad._margins(x.ndim, pads, axes)
        for tag, (before, after) in zip(x.tags, margins, strict=True):
            if before or after:
                ctx.mix(tag, node, "pads the frames")
        if node.attrs["mode"] == "constant":
            return (padded(ctx, node, x, margins, 0.0 if value is None else float(value.reshape(-1)[0])),)
        for axis, (before, after) in enumerate(margins):
            if before or after:
                x = taken(ctx, node, x, axis, Pad._sources(node.attrs["mode"], x.shape[axis], before, after))
        return (x,)


def taken(ctx: Lowering, node: Node, x: View, axis: int, sources: Array) -> View:
    """Elements `sources` of one axis, copied run by run of equal steps."""
    y = ctx.temp([sources.size if k == axis else n for k, n in enumerate(x.shape)], x.dtype, x.tags)
    at = 0
    while at < sources.size:
        step = int(sources[at + 1] - sources[at]) if at + 1 < sources.size else 1
        end = at + 1
        while end < sources.size and sources[end] - sources[end - 1] == step:
            end += 1
        shape = tuple(end - at if k == axis else n for k, n in enumerate(x.shape))
        strides = tuple(s * step if k == axis else s for k, s in enumerate(x.strides))
        source = x.with_(shape=shape, strides=strides, offset=x.offset + int(sources[at]) * x.strides[axis])
        ctx.copy(node, source, y.with_(shape=shape, offset=at * y.strides[axis]))
        at = end
    return y


class Pool(Op):
    """What the pools over windows share: a reduction over each window."""

    reduction: str
    fill: float

    @classmethod
    def _windows(cls, node: Node, x: Any) -> list[Window]:
        sizes = node.attrs["kernel_shape"]
        if x.ndim != len(sizes) + 2:
            raise ValueError(f"kernel_shape={sizes} does not fit input {x.shape}")
        return windows(node, sizes, x.shape[2:])

    @staticmethod
    def _scale(node: Node, over: Sequence[Window], shape: Sequence[int]) -> Array | None:
        """What the sum over each window is multiplied by; None where it is no mean."""
        return None

    @classmethod
    def evaluate(cls, node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = inputs
        assert x is not None
        over = cls._windows(node, x)
        axes = tuple(range(2 + len(over), 2 + 2 * len(over)))
        y = REDUCTIONS[cls.reduction](windows_of(x, over, cls.fill), axis=axes, keepdims=False)
        scale = cls._scale(node, over, x.shape[2:])
        return (np.asarray(y if scale is None else y * scale).astype(x.dtype),)

    @classmethod
    def lower(cls, ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        (x,) = inputs
        assert isinstance(x, View)
        over = cls._windows(node, x)
        seen = ctx.dense(node, window_view(ctx, node, ctx.real_view(node, x), over, cls.fill, "pools over the frames"))
        lead = seen.shape[: 2 + len(over)]
        y = ctx.temp(lead, tags=seen.tags[: 2 + len(over)])
        count = math.prod(w.size for w in over)
        ctx.emit("reduce", node, {0: seen, 4: y}, [y.count, count, 1, list(REDUCTIONS).index(cls.reduction)])
        scale = cls._scale(node, over, x.shape[2:])
        return (y if scale is None else binary(ctx, node, "Mul", y, scale.astype(ctx.real)),)


@register("MaxPool")
class MaxPool(Pool):
    """The largest element of each window."""

    reduction, fill = "ReduceMax", -math.inf


@register("AveragePool")
class AveragePool(Pool):
    """The mean of each window, of what lies in the input or, with count_include_pad, in the padded input."""

    reduction, fill = "ReduceSum", 0.0

    @staticmethod
    def _scale(node: Node, over: Sequence[Window], shape: Sequence[int]) -> Array:
        counts = []
        pads = node.attrs["pads"] or (0,) * (2 * len(over))
        for k, (w, length) in enumerate(zip(over, shape, strict=True)):
            places = np.arange(w.places)[:, None] * w.step + np.arange(w.size) * w.dilation - w.before
            low, high = 0, length
            if node.attrs["count_include_pad"]:  # what ceil_mode adds behind the padding never counts
                low, high = -w.before, length + (w.after if node.attrs["auto_pad"] != "NOTSET" else pads[len(over) + k])
            counts.append(((places >= low) & (places < high)).sum(axis=1))
        total = counts[0].astype(np.float64)
        for more in counts[1:]:
            total = total[..., None] * more
        return np.asarray(1.0 / total)


@register("GlobalAveragePool", "GlobalMaxPool")
class GlobalPool(Op):
    """The mean, or the largest, of each channel."""

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = inputs
        assert x is not None
        name = "ReduceMean" if node.op == "GlobalAveragePool" else "ReduceMax"
        return (REDUCTIONS[name](x, axis=tuple(range(2, x.ndim)), keepdims=True),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        (x,) = inputs
        assert isinstance(x, View)
        name = "ReduceMean" if node.op == "GlobalAveragePool" else "ReduceMax"
        for tag in x.tags[2:]:
            ctx.mix(tag, node, "pools over the frames")
        source = ctx.dense(node, ctx.real_view(node, x))
        y = ctx.temp((*x.shape[:2], *(1,) * (x.ndim - 2)), tags=(*x.tags[:2], *(None,) * (x.ndim - 2)))
        ctx.emit("reduce", node, {0: source, 4: y}, [y.count, math.prod(x.shape[2:]), 1, list(REDUCTIONS).index(name)])
        return (y,)


@register("BatchNormalization")
class BatchNormalization(Op):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias per channel, with the statistics of training."""

    @staticmethod
    def _check(x: Any, parameters: Sequence[Any]) -> None:
        if x.ndim < 2 or any(p.shape != (x.shape[1],) for p in parameters):
            raise ValueError(f"parameters {[p.shape for p in parameters]} do not fit input {x.shape}")

    @staticmethod
    def _affine(node: Node, x: Any, parameters: Sequence[Array]) -> tuple[Array, Array]:
        """Factor and summand per channel, in the shape that broadcasts along axis 1."""
        BatchNormalization._check(x, parameters)
        scale, bias, mean, variance = (p.astype(np.float64).reshape(-1, *(1,) * (x.ndim - 2)) for p in parameters)
        factor = scale / np.sqrt(variance + node.attrs["epsilon"])
        return factor, bias - mean * factor

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, *parameters = inputs
        assert x is not None
        factor, summand = BatchNormalization._affine(node, x, [p for p in parameters if p is not None])
        return ((x * factor + summand).astype(x.dtype),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, *given = inputs
        assert x is not None
        parameters = [p for p in given if p is not None]
        if isinstance(x, View) and all(isinstance(p, np.ndarray) for p in parameters):
            factor, summand = (a.astype(ctx.real) for a in BatchNormalization._affine(node, x, parameters))  # type: ignore[arg-type]
            scaled = binary(ctx, node, "Mul", ctx.real_view(node, x), factor)
            return (binary(ctx, node, "Add", scaled, summand),)
        # Statistics of this very call: how converters of TensorFlow write the normalisation of a layer.
        BatchNormalization._check(x, parameters)
        wide = (x.shape[1], *(1,) * (x.ndim - 2))
        scale, bias, mean, variance = (
            reshaped(ctx, node, p, wide) if isinstance(p, View) else p.reshape(wide) for p in parameters
        )
        spread = binary(ctx, node, "Add", variance, np.array(node.attrs["epsilon"], ctx.real))
        scaled = binary(ctx, node, "Div", binary(ctx, node, "Sub", x, mean), unary(ctx, node, spread, "Sqrt"))
        return (binary(ctx, node, "Add", binary(ctx, node, "Mul", scaled, scale), bias),)


@register("InstanceNormalization")
class InstanceNormalization(Op):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, with the statistics of each channel of each row."""

    known = (1, 2)

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, scale, bias = inputs
        assert x is not None and scale is not None and bias is not None
        over = tuple(range(2, x.ndim))
        centred = x - x.mean(axis=over, keepdims=True)
        y = centred / np.sqrt(np.square(centred).mean(axis=over, keepdims=True) + node.attrs["epsilon"])
        scale, bias = (a.reshape(-1, *(1,) * len(over)) for a in (scale, bias))
        return ((y * scale + bias).astype(x.dtype),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, scale, bias = inputs
        assert isinstance(x, View) and isinstance(scale, np.ndarray) and isinstance(bias, np.ndarray)
        for tag in x.tags[2:]:
            ctx.mix(tag, node, "normalises over the frames")
        source = ctx.dense(node, ctx.real_view(node, x))
        y = ctx.temp(x.shape, tags=x.tags)
        ctx.emit(
            "layernorm",
            node,
            {0: source, 4: y},
            [math.prod(x.shape[:2]), math.prod(x.shape[2:])],
            [node.attrs["epsilon"]],
        )
        factor, summand = (a.reshape(-1, *(1,) * (x.ndim - 2)) for a in (scale, bias))
        return (binary(ctx, node, "Add", binary(ctx, node, "Mul", y, factor), summand),)
