"""Operators that move elements about, and those that compute shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graph import Node
from ..values import MOST_ELEMENTS, Merged, Tag, Value, View, c_strides, reshape_strides
from .registry import Array, Op, register

if TYPE_CHECKING:
    from ..lowering import Lowering

#: Codes of `cast` for the element types that run-time values can have.
CAST_CODES = {
    name: code
    for code, name in enumerate("bool uint8 int8 int16 int32 int64 float16 float32 float64 uint16 uint32".split())
}


def axes_of(values: Array, ndim: int) -> tuple[int, ...]:
    """Axes as an operator gives them, counted from the front, checked."""
    axes = tuple(int(a) for a in np.asarray(values).reshape(-1))
    if any(not -ndim <= a < ndim for a in axes):
        raise ValueError(f"axes {axes} do not fit {ndim} axes")
    axes = tuple(a % ndim for a in axes)
    if len(set(axes)) != len(axes):
        raise ValueError(f"axes {axes} name one axis twice")
    return axes


def permuted(view: View, perm: Sequence[int]) -> View:
    """Transpose a view."""
    return view.with_(
        shape=tuple(view.shape[k] for k in perm),
        strides=tuple(view.strides[k] for k in perm),
        tags=tuple(view.tags[k] for k in perm),
    )


def memory_order(view: View, lead: int) -> list[int]:
    """Axes in the order in which they lie in memory, for the first `lead` ones; the others stay behind them.

    What treats those axes alike can walk them so, and need not copy what a transpose left behind.
    """
    return sorted(range(lead), key=lambda k: -view.strides[k]) + list(range(lead, view.ndim))


def laid(ctx: Lowering, shape: Sequence[int], dtype: np.dtype[Any], tags: Sequence[Tag], order: Sequence[int]) -> View:
    """A new array whose axes lie in memory in `order`."""
    y = ctx.temp([shape[k] for k in order], dtype, [tags[k] for k in order])
    return permuted(y, inverse(order))


def evenly(places: Array) -> tuple[int, tuple[int, ...]] | None:
    """The first of `places` and the step from one to the next along each axis, where a view can show them all."""
    if not places.size:
        return None
    first, steps = int(places.flat[0]), []
    grid = np.array(first)
    for axis, size in enumerate(places.shape):
        steps.append(int(places.take(1, axis).flat[0]) - first if size > 1 else 0)
        grid = grid[..., None] + np.arange(size) * steps[-1]
    return (first, tuple(steps)) if (grid == places).all() else None


def inverse(perm: Sequence[int]) -> list[int]:
    """The permutation that undoes `perm`."""
    return [perm.index(k) for k in range(len(perm))]


@register("Transpose")
class Transpose(Op):
    """y[i0, i1, ...] = x[...], axis k of y being axis perm[k] of x; perm () reverses."""

    moves = True

    @staticmethod
    def _perm(node: Node, ndim: int) -> tuple[int, ...]:
        perm = tuple(node.attrs.get("perm") or range(ndim - 1, -1, -1))
        if sorted(perm) != list(range(ndim)):
            raise ValueError(f"perm={perm} does not fit {ndim} axes")
        return perm

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = inputs
        assert x is not None
        return (np.transpose(x, Transpose._perm(node, x.ndim)),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        (x,) = inputs
        assert isinstance(x, View)
        return (permuted(x, Transpose._perm(node, x.ndim)),)


@register("Squeeze")
class Squeeze(Op):
    """Drop the axes given, or all of one element."""

    moves = True
    known = (1,)

    @staticmethod
    def _kept(shape: tuple[int, ...], axes: Array | None) -> list[int]:
        if axes is None:
            return [k for k, size in enumerate(shape) if size != 1]
        drop = axes_of(axes, len(shape))
        if any(shape[k] != 1 for k in drop):
            raise ValueError(f"axes {drop} of shape {shape} are not all of one element")
        return [k for k in range(len(shape)) if k not in drop]

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, axes = (*inputs, None)[:2]
        assert x is not None
        return (x.reshape([x.shape[k] for k in Squeeze._kept(x.shape, axes)]),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, axes = (*inputs, None)[:2]
        assert isinstance(x, View) and not isinstance(axes, View)
        if axes is None and node.key in ctx.squeezed:
            axes = np.array(ctx.squeezed[node.key], dtype=np.int64)
        kept = Squeeze._kept(x.shape, axes)
        if axes is None:
            ctx.squeezed[node.key] = tuple(k for k in range(x.ndim) if k not in kept)
            for k in kept:
                ctx.drop(x.tags[k], node, "drops every axis of one element")
        return (permuted(x, kept),)


@register("Unsqueeze")
class Unsqueeze(Op):
    """Insert axes of one element, at the places given, counted in the result."""

    moves = True
    known = (1,)

    @staticmethod
    def _sources(ndim: int, axes: Array | None) -> list[int | None]:
        assert axes is not None
        total = ndim + np.asarray(axes).size
        new = axes_of(axes, total)
        old = iter(range(ndim))
        return [None if k in new else next(old) for k in range(total)]

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, axes = inputs
        assert x is not None
        return (x.reshape([1 if k is None else x.shape[k] for k in Unsqueeze._sources(x.ndim, axes)]),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, axes = inputs
        assert isinstance(x, View) and isinstance(axes, np.ndarray)
        sources = Unsqueeze._sources(x.ndim, axes)
        return (
            x.with_(
                shape=tuple(1 if k is None else x.shape[k] for k in sources),
                strides=tuple(0 if k is None else x.strides[k] for k in sources),
                tags=tuple(None if k is None else x.tags[k] for k in sources),
            ),
        )


def reshaped(ctx: Lowering, node: Node, view: View, shape: tuple[int, ...]) -> View:
    """The same elements in the same order under another shape; a copy only where strides cannot say it."""
    if math.prod(shape) != view.count:
        raise ValueError(f"cannot reshape {view.shape} to {shape}")
    tags = reshaped_tags(ctx, node, view, shape)
    strides = reshape_strides(view.shape, view.strides, shape)
    if strides is None:
        view, strides = ctx.dense(node, view), c_strides(shape)
    return view.with_(shape=shape, strides=strides, tags=tags)


def reshaped_tags(ctx: Lowering, node: Node, view: View, shape: tuple[int, ...]) -> tuple[Tag, ...]:
    """Follow tags through a reshape, by matching runs of axes with equal products.

    Axes that merge become one `Merged` tag, which comes apart again where the same sizes reappear.
    """
    tags: list[Tag] = [None] * len(shape)
    if view.count == 0:
        return tuple(tags)
    old = [(size, tag) for size, tag in zip(view.shape, view.tags, strict=True) if size != 1]
    new = [k for k, size in enumerate(shape) if size != 1]
    i = j = 0
    while i < len(old):
        taken, made = [old[i]], [new[j]]
        have, want = old[i][0], shape[new[j]]
        i, j = i + 1, j + 1
        while have != want:
            if have < want:
                taken.append(old[i])
                have *= old[i][0]
                i += 1
            else:
                made.append(new[j])
                want *= shape[new[j]]
                j += 1
        sizes = [shape[k] for k in made]
        tag = taken[0][1]
        if len(made) == 1 and len(taken) == 1:
            tags[made[0]] = tag
        elif len(made) == 1:
            if any(t is not None for _, t in taken):
                tags[made[0]] = Merged(tuple((t, size) for size, t in taken))
        elif len(taken) == 1 and isinstance(tag, Merged) and [s for _, s in tag.parts] == sizes:
            for k, (part, _) in zip(made, tag.parts, strict=True):
                tags[k] = part
        else:
            for _, lost in taken:
                ctx.mix(lost, node, f"reshapes {view.shape} to {shape}, which mixes the frames")
    return tuple(tags)


@register("Reshape")
class Reshape(Op):
    """0 keeps the size of the axis in that place (unless allowzero), -1 takes what is left."""

    moves = True
    known = (1,)

    @staticmethod
    def _shape(node: Node, old: tuple[int, ...], target: Array) -> tuple[int, ...]:
        shape = [int(v) for v in np.asarray(target).reshape(-1)]
        if not node.attrs.get("allowzero"):
            if any(v == 0 and k >= len(old) for k, v in enumerate(shape)):
                raise ValueError(f"shape {shape} keeps an axis that {old} does not have")
            shape = [old[k] if v == 0 else v for k, v in enumerate(shape)]
        if shape.count(-1) > 1 or any(v < -1 for v in shape):
            raise ValueError(f"shape {shape} is not a shape")
        if -1 in shape:
            rest = math.prod(v for v in shape if v != -1)
            count = math.prod(old)
            if rest == 0 or count % rest:
                raise ValueError(f"cannot reshape {old} to {tuple(shape)}")
            shape[shape.index(-1)] = count // rest
        return tuple(shape)

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, target = inputs
        assert x is not None and target is not None
        return (x.reshape(Reshape._shape(node, x.shape, target)),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, target = inputs
        assert isinstance(x, View) and isinstance(target, np.ndarray)
        return (reshaped(ctx, node, x, Reshape._shape(node, x.shape, target)),)


@register("Flatten")
class Flatten(Op):
    """(axes before `axis`) x (axes from it on)."""

    moves = True

    @staticmethod
    def _shape(node: Node, shape: tuple[int, ...]) -> tuple[int, int]:
        axis = node.attrs["axis"]
        if not -len(shape) <= axis <= len(shape):
            raise ValueError(f"axis={axis} does not fit {len(shape)} axes")
        axis += len(shape) if axis < 0 else 0
        return math.prod(shape[:axis]), math.prod(shape[axis:])

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = inputs
        assert x is not None
        return (x.reshape(Flatten._shape(node, x.shape)),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        (x,) = inputs
        assert isinstance(x, View)
        return (reshaped(ctx, node, x, Flatten._shape(node, x.shape)),)


@register("Concat")
class Concat(Op):
    """Join along `axis`."""

    moves = True

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        return (np.concatenate([a for a in inputs if a is not None], axis=node.attrs["axis"]),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        views = [ctx.view(value) for value in inputs if value is not None]
        first = views[0]
        (axis,) = axes_of(np.array(node.attrs["axis"]), first.ndim)
        if any(v.ndim != first.ndim or v.dtype != first.dtype for v in views):
            raise ValueError("inputs differ in rank or type")
        if any(v.shape[:axis] + v.shape[axis + 1 :] != first.shape[:axis] + first.shape[axis + 1 :] for v in views):
            raise ValueError(f"shapes {[v.shape for v in views]} differ beside axis {axis}")
        shape = tuple(sum(v.shape[axis] for v in views) if k == axis else n for k, n in enumerate(first.shape))
        present = [value for value in inputs if value is not None]
        tags = list(first.tags if len(views) == 1 else ctx.same(node, present, shape))
        if len(views) > 1:
            for view in views:
                ctx.mix(view.tags[axis], node, "joins frames to others")
                tags[axis] = tags[axis] or view.tags[axis]
        target = ctx.temp(shape, first.dtype, tags)
        at = 0
        for view in views:
            ctx.copy(node, view, target.with_(shape=view.shape, offset=at * target.strides[axis]))
            at += view.shape[axis]
        return (target,)


def windowed(ctx: Lowering, node: Node, view: View, axis: int, start: int, step: int, count: int) -> View:
    """`count` elements of one axis from `start` on, `step` apart."""
    size, tag = view.shape[axis], view.tags[axis]
    if count == size and step == 1:
        return view
    if count == 1 and start == size - 1 and not isinstance(tag, Merged):
        ctx.last(tag, node)
    else:
        ctx.mix(tag, node, f"takes part of the frames ({count} of {size} from {start} on)")
    shape, strides, tags = list(view.shape), list(view.strides), list(view.tags)
    shape[axis], strides[axis], tags[axis] = count, view.strides[axis] * step, tag if count > 1 else None
    offset = view.offset + (start * view.strides[axis] if count else 0)
    return view.with_(shape=tuple(shape), strides=tuple(strides), tags=tuple(tags), offset=offset)


#: Bounds of slices from here on mean "to the end".
FAR = 2**31 - 1


@register("Slice")
class Slice(Op):
    """Slice(x, starts, ends, axes, steps), as Python slices with bounds clamped."""

    moves = True
    known = (1, 2, 3, 4)

    @staticmethod
    def _slices(ndim: int, inputs: Sequence[Array | None]) -> list[tuple[int, slice]]:
        starts, ends, axes, steps = (*inputs, None, None)[:4]
        assert starts is not None and ends is not None
        where = axes_of(np.arange(starts.size) if axes is None else axes, ndim)
        step = np.ones(starts.size, np.int64) if steps is None else steps.reshape(-1)
        if not starts.size == ends.size == len(where) == step.size:
            raise ValueError("starts, ends, axes and steps differ in length")
        out = []
        for axis, a, b, s in zip(where, starts.reshape(-1), ends.reshape(-1), step, strict=True):
            if s == 0:
                raise ValueError("a step of 0")
            out.append((axis, slice(int(a), int(b), int(s))))
        return out

    @staticmethod
    def _range(part: slice, size: int) -> range:
        start, stop, step = part.start, part.stop, part.step
        start += size if start < 0 else 0
        stop += size if stop < 0 else 0
        low, high = (0, size) if step > 0 else (-1, size - 1)
        return range(min(max(start, 0), high), min(max(stop, low), high), step)

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x = inputs[0]
        assert x is not None
        for axis, part in Slice._slices(x.ndim, inputs[1:]):
            x = np.take(x, np.array(Slice._range(part, x.shape[axis]), dtype=np.intp), axis=axis)
        return (x,)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x = inputs[0]
        assert isinstance(x, View)
        for axis, part in Slice._slices(x.ndim, [a for a in inputs[1:] if not isinstance(a, View)]):
            size = x.shape[axis]
            if size < part.stop < FAR or -FAR < part.start < -size:  # a longer recording would be cut
                ctx.mix(x.tags[axis], node, f"takes part of the frames ({part.start}:{part.stop})")
            taken = Slice._range(part, size)
            x = windowed(ctx, node, x, axis, taken.start, taken.step, len(taken))
        return (x,)


@register("Split")
class Split(Op):
    """Cut one axis into parts: sizes given, or equal ones (the last may be smaller)."""

    moves = True
    known = (1,)

    @staticmethod
    def _sizes(node: Node, size: int, split: Array | None) -> list[int]:
        if split is not None:
            sizes = [int(v) for v in split.reshape(-1)]
        else:
            parts = node.attrs.get("num_outputs") or len(node.outputs)
            each = -(-size // parts)
            sizes = [min(each, max(size - k * each, 0)) for k in range(parts)]
        if sum(sizes) != size or min(sizes, default=0) < 0 or len(sizes) < len(node.outputs):
            raise ValueError(f"split={sizes} does not fit an axis of {size}")
        return sizes

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, split = (*inputs, None)[:2]
        assert x is not None
        axis = node.attrs["axis"]
        cuts = np.cumsum(Split._sizes(node, x.shape[axis], split))[:-1]
        return tuple(np.split(x, cuts, axis=axis))

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, split = (*inputs, None)[:2]
        assert isinstance(x, View) and not isinstance(split, View)
        (axis,) = axes_of(np.array(node.attrs["axis"]), x.ndim)
        parts, at = [], 0
        for size in Split._sizes(node, x.shape[axis], split):
            part = windowed(ctx, node, x, axis, at, 1, size)
            parts.append(part)
            at += size
        return tuple(parts)


#: What is said of a Gather whose indices are known only when it runs.
BY_INDEX = "picks frames by index"


@register("Gather")
class Gather(Op):
    """y = x[..., indices, ...] along `axis`; an embedding is Gather of its table by ids."""

    moves = True

    @staticmethod
    def checked(indices: Array, size: int) -> Array:
        """Indices counted from the front, all of them inside."""
        if indices.dtype.kind not in "iu":
            raise ValueError(f"indices are {indices.dtype}, not integers")
        if indices.size and not (-size <= int(indices.min()) and int(indices.max()) < size):
            raise IndexError(f"an index of {indices.reshape(-1)[:8]} lies outside an axis of {size}")
        return np.where(indices < 0, indices + size, indices)

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, indices = inputs
        assert x is not None and indices is not None
        (axis,) = axes_of(np.array(node.attrs["axis"]), x.ndim)
        return (np.take(x, Gather.checked(indices, x.shape[axis]), axis=axis),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, indices = inputs
        assert x is not None and indices is not None
        ndim = x.ndim
        (axis,) = axes_of(np.array(node.attrs["axis"]), ndim)
        if isinstance(indices, np.ndarray):
            assert isinstance(x, View)
            found = Gather.checked(indices, x.shape[axis])
            if found.size == 1:
                one = windowed(ctx, node, x, axis, int(found.reshape(-1)[0]), 1, 1)
                if one is x:  # the only element: still the axis goes
                    ctx.last(x.tags[axis], node)
                shape = one.shape[:axis] + found.shape + one.shape[axis + 1 :]
                rest: tuple[Tag, ...] = (None,) * found.ndim
                strides = one.strides[:axis] + (0,) * found.ndim + one.strides[axis + 1 :]
                return (one.with_(shape=shape, strides=strides, tags=one.tags[:axis] + rest + one.tags[axis + 1 :]),)
            grid = evenly(found)
            if grid is not None:
                ctx.mix(x.tags[axis], node, BY_INDEX)
                first, steps = grid
                step = x.strides[axis]
                return (
                    x.with_(
                        shape=x.shape[:axis] + found.shape + x.shape[axis + 1 :],
                        strides=(*x.strides[:axis], *(step * n for n in steps), *x.strides[axis + 1 :]),
                        tags=(*x.tags[:axis], *(None,) * found.ndim, *x.tags[axis + 1 :]),
                        offset=x.offset + first * step,
                    ),
                )
        table, ids = ctx.dense(node, x), ctx.dense(node, indices)
        if ids.dtype.kind not in "iu":
            raise ValueError(f"indices are {ids.dtype}, not integers")
        ctx.mix(table.tags[axis], node, BY_INDEX)
        if ids.dtype != np.int64:
            ids = cast(ctx, node, ids, np.dtype(np.int64))
        y = ctx.temp(
            table.shape[:axis] + ids.shape + table.shape[axis + 1 :],
            table.dtype,
            table.tags[:axis] + ids.tags + table.tags[axis + 1 :],
        )
        inner = math.prod(table.shape[axis + 1 :]) * table.dtype.itemsize
        outer = math.prod(table.shape[:axis])
        ctx.emit("gather", node, {0: table, 1: ids, 4: y}, [outer, table.shape[axis], inner, ids.count])
        return (y,)


@register("Expand")
class Expand(Op):
    """Broadcast to the common shape of x and `shape`."""

    moves = True
    known = (1,)

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, shape = inputs
        assert x is not None and shape is not None
        return (np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(int(v) for v in shape.reshape(-1)))),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, shape = inputs
        assert isinstance(x, View) and isinstance(shape, np.ndarray)
        return (broadcast(x, np.broadcast_shapes(x.shape, tuple(int(v) for v in shape.reshape(-1)))),)


def broadcast(view: View, shape: tuple[int, ...]) -> View:
    """`view` seen under a larger shape, with stride 0 along the new axes."""
    new = len(shape) - view.ndim
    strides = tuple(s if n == m else 0 for n, m, s in zip(view.shape, shape[new:], view.strides, strict=True))
    tags = tuple(t if n == m else None for n, m, t in zip(view.shape, shape[new:], view.tags, strict=True))
    return view.with_(shape=shape, strides=(0,) * new + strides, tags=(None,) * new + tags)


@register("Tile")
class Tile(Op):
    """Repeat along each axis."""

    moves = True
    known = (1,)

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, repeats = inputs
        assert x is not None and repeats is not None
        if x.size * math.prod(int(v) for v in repeats) > MOST_ELEMENTS:
            raise ValueError(f"repeats={repeats.tolist()} of {x.shape} are out of all proportion")
        return (np.tile(x, [int(v) for v in repeats]),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, repeats = inputs
        assert isinstance(x, View) and isinstance(repeats, np.ndarray)
        if repeats.size != x.ndim or (repeats < 0).any():
            raise ValueError(f"repeats={repeats.tolist()} does not fit shape {x.shape}")
        shape, strides, tags, merged = [], [], [], []
        for size, step, tag, times in zip(x.shape, x.strides, x.tags, repeats.tolist(), strict=True):
            if times != 1 and size != 1:
                ctx.mix(tag, node, "repeats the frames")
            shape += [times, size]
            strides += [0, step]
            tags += [None, tag]
            merged.append(times * size)
        wide = x.with_(shape=tuple(shape), strides=tuple(strides), tags=tuple(tags))
        return (reshaped(ctx, node, wide, tuple(merged)),)


@register("Cast")
class Cast(Op):
    """Convert the element type; every floating type becomes the arithmetic's own."""

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = inputs
        assert x is not None
        return (x.astype(node.attrs["to"]),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        (x,) = inputs
        assert isinstance(x, View)
        to = np.dtype(node.attrs["to"])
        return (cast(ctx, node, x, ctx.real if to.kind == "f" else to),)


def cast(ctx: Lowering, node: Node, view: View, to: np.dtype[np.generic]) -> View:
    """`view` with elements of type `to`."""
    if view.dtype == to:
        return view
    if view.dtype.name not in CAST_CODES or to.name not in CAST_CODES:
        raise ctx.unsupported(node, f"cannot convert {view.dtype} to {to} while running")
    source = ctx.dense(node, view)
    y = ctx.temp(source.shape, to, source.tags)
    ctx.emit("cast", node, {0: source, 4: y}, [source.count, CAST_CODES[view.dtype.name], CAST_CODES[to.name]])
    return y


@register("Shape")
class Shape(Op):
    """The sizes of axes `start` to `end`."""

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = inputs
        assert x is not None
        return (Shape._of(node, x.shape),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        (x,) = inputs
        assert isinstance(x, View)
        return (Shape._of(node, x.shape),)

    @staticmethod
    def _of(node: Node, shape: tuple[int, ...]) -> Array:
        return np.array(shape[node.attrs.get("start", 0) : node.attrs.get("end")], dtype=np.int64)


@register("Size")
class Size(Op):
    """How many elements."""

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = inputs
        assert x is not None
        return (np.array(x.size, dtype=np.int64),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        (x,) = inputs
        assert isinstance(x, View)
        return (np.array(x.count, dtype=np.int64),)


@register("ConstantOfShape")
class ConstantOfShape(Op):
    """`value` everywhere."""

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        (shape,) = inputs
        assert shape is not None
        value = np.asarray(node.attrs["value"]).reshape(-1)
        return (np.broadcast_to(value[0], tuple(int(v) for v in shape.reshape(-1))),)


@register("Range")
class Range(Op):
    """start, start + delta, ... below limit."""

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        start, limit, delta = (np.asarray(a).reshape(()) for a in inputs)
        count = max(int(np.ceil((limit - start) / delta)), 0)
        if count > 2**28:
            raise ValueError(f"a range of {count} elements is out of all proportion")
        return ((start + np.arange(count) * delta).astype(start.dtype),)
