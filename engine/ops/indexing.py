"""Elements taken from, put to, ranked and added up at places that are known only when the program runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graph import Node
from ..values import Tag, Value, View, c_strides
from .plumbing import CAST_CODES, Gather, axes_of, cast, evenly, inverse, permuted
from .registry import Array, Op, register

if TYPE_CHECKING:
    from ..lowering import Lowering

INT64 = np.dtype(np.int64)


def numeric(ctx: Lowering, node: Node, x: View) -> View:
    """`x` as the arithmetic's own type or int64, which is what there are kernels for."""
    return cast(ctx, node, x, INT64) if x.dtype.kind in "iu" else ctx.real_view(node, x)


def integers(ctx: Lowering, node: Node, value: Value) -> View:
    """Indices, dense."""
    if value.dtype.kind not in "iu":
        raise ValueError(f"indices are {value.dtype}, not integers")
    return ctx.dense(node, cast(ctx, node, ctx.view(value), INT64))


def along(ctx: Lowering, node: Node, *places: tuple[Value, int]) -> Tag:
    """The tag of axes that are walked together; a known array that changes along it depends on the position."""
    tag: Tag = None
    for value, axis in places:
        if isinstance(value, View) and value.tags[axis] is not None:
            tag = ctx.unify(tag, value.tags[axis])
    for value, axis in places:
        if tag is None or isinstance(value, View) or value.shape[axis] < 2:
            continue
        if (value != value.take([0], axis)).any():
            ctx.mix(tag, node, "depends on the position of the frame")
    return tag


def mix_axis(ctx: Lowering, node: Node, value: Value, axis: int, reason: str) -> None:
    """Note that frames along an axis of `value`, if that is what they are, are not walked one by one."""
    if isinstance(value, View):
        ctx.mix(value.tags[axis], node, reason)


# ---------------------------------------------------------------------- along one axis


def rows_of(ctx: Lowering, node: Node, x: View, axis: int, reason: str) -> View:
    """`x` dense with `axis` last."""
    ctx.mix(x.tags[axis], node, reason)
    return ctx.dense(node, permuted(x, [*(k for k in range(x.ndim) if k != axis), axis]))


@register("ArgMax", "ArgMin")
class ArgMax(Op):
    """The place of the largest (smallest) element along `axis`; of equal ones the first, or the last."""

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = inputs
        assert x is not None
        (axis,) = axes_of(np.array(node.attrs["axis"]), x.ndim)
        find = np.argmax if node.op == "ArgMax" else np.argmin
        last = node.attrs["select_last_index"]
        y = find(np.flip(x, axis) if last else x, axis=axis, keepdims=node.attrs["keepdims"])
        return (np.asarray(x.shape[axis] - 1 - y if last else y, dtype=np.int64),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        (x,) = inputs
        assert isinstance(x, View)
        (axis,) = axes_of(np.array(node.attrs["axis"]), x.ndim)
        rows = rows_of(ctx, node, numeric(ctx, node, x), axis, "looks for an extreme over the frames")
        if not rows.shape[-1]:
            raise ValueError(f"axis {axis} of shape {x.shape} has no element to be the extreme")
        y = ctx.temp(rows.shape[:-1], INT64, rows.tags[:-1])
        flags = [int(node.op == "ArgMin"), int(node.attrs["select_last_index"])]
        n = [y.count, rows.shape[-1], CAST_CODES[rows.dtype.name], *flags]
        ctx.emit("argmax", node, {0: rows, 4: y}, n)
        if node.attrs["keepdims"]:
            y = y.with_(
                shape=(*y.shape[:axis], 1, *y.shape[axis:]),
                strides=(*y.strides[:axis], 0, *y.strides[axis:]),
                tags=(*y.tags[:axis], None, *y.tags[axis:]),
            )
        return (y,)


@register("TopK")
class TopK(Op):
    """The `k` best elements along `axis` and their places, best first; of equal ones the first."""

    known = (1,)

    @staticmethod
    def _count(node: Node, shape: Sequence[int], k: Array) -> tuple[int, int]:
        (axis,) = axes_of(np.array(node.attrs["axis"]), len(shape))
        count = int(k.reshape(()))
        if not 0 <= count <= shape[axis]:
            raise ValueError(f"k={count} does not fit an axis of {shape[axis]}")
        return axis, count

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, k = inputs
        assert x is not None and k is not None
        axis, count = TopK._count(node, x.shape, k)
        if node.attrs["largest"]:  # backwards twice: of equal ones the first
            order = np.flip(x.shape[axis] - 1 - np.argsort(np.flip(x, axis), axis=axis, kind="stable"), axis)
        else:
            order = np.argsort(x, axis=axis, kind="stable")
        order = order.take(range(count), axis)
        return np.take_along_axis(x, order, axis), order.astype(np.int64)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, k = inputs
        assert isinstance(x, View) and isinstance(k, np.ndarray)
        axis, count = TopK._count(node, x.shape, k)
        rows = rows_of(ctx, node, numeric(ctx, node, x), axis, "ranks the frames")
        tags = (*rows.tags[:-1], None)
        best = ctx.temp((*rows.shape[:-1], count), rows.dtype, tags)
        places = ctx.temp(best.shape, INT64, tags)
        n = [math.prod(rows.shape[:-1]), rows.shape[-1], count, int(node.attrs["largest"])]
        ctx.emit("topk", node, {0: rows, 4: best, 5: places}, [*n, CAST_CODES[rows.dtype.name]])
        back = inverse([*(a for a in range(x.ndim) if a != axis), axis])
        return permuted(cast(ctx, node, best, x.dtype), back), permuted(places, back)


@register("CumSum")
class CumSum(Op):
    """y[t] = x[0] + ... + x[t] along `axis`; without x[t] if exclusive, from the end if reverse."""

    known = (1,)

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, where = inputs
        assert x is not None and where is not None
        (axis,) = axes_of(where, x.ndim)
        y = np.flip(x, axis) if node.attrs["reverse"] else x
        y = np.cumsum(y, axis, dtype=x.dtype)
        if node.attrs["exclusive"]:
            first = np.zeros([1 if k == axis else n for k, n in enumerate(x.shape)], x.dtype)
            y = np.concatenate([first, y], axis).take(range(x.shape[axis]), axis)
        return (np.flip(y, axis) if node.attrs["reverse"] else y,)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, where = inputs
        assert isinstance(x, View) and isinstance(where, np.ndarray)
        (axis,) = axes_of(where, x.ndim)
        ctx.mix(x.tags[axis], node, "adds up the frames")
        source = ctx.dense(node, numeric(ctx, node, x))
        y = ctx.temp(source.shape, source.dtype, source.tags)
        n = [math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])]
        flags = [int(node.attrs[name]) for name in ("exclusive", "reverse")]
        ctx.emit("cumsum", node, {0: source, 4: y}, [*n, *flags, CAST_CODES[source.dtype.name]])
        return (cast(ctx, node, y, x.dtype),)


@register("ReverseSequence")
class ReverseSequence(Op):
    """y[t] = x[length - 1 - t] for t < length, the length being that of the row; x[t] behind it."""

    @staticmethod
    def _axes(node: Node, x: Any, lengths: Any) -> tuple[int, int]:
        batch, time = axes_of(np.array([node.attrs["batch_axis"], node.attrs["time_axis"]]), x.ndim)
        if {batch, time} != {0, 1} or lengths.shape != (x.shape[batch],):
            raise ValueError(f"axes {batch}, {time} and lengths of shape {lengths.shape} do not fit {x.shape}")
        return batch, time

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, lengths = inputs
        assert x is not None and lengths is not None
        batch, time = ReverseSequence._axes(node, x, lengths)
        if lengths.size and not 0 <= int(lengths.min()) <= int(lengths.max()) <= x.shape[time]:
            raise IndexError(f"a length of {lengths[:8]} does not fit {x.shape[time]} steps")
        t, end = np.arange(x.shape[time]), lengths.astype(np.int64)[:, None]
        places = np.where(t < end, end - 1 - t, t)
        rows = np.moveaxis(x, (batch, time), (0, 1))
        y = np.take_along_axis(rows, places.reshape(*places.shape, *[1] * (x.ndim - 2)), 1)
        return (np.moveaxis(y, (0, 1), (batch, time)),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, lengths = inputs
        assert x is not None and lengths is not None
        batch, time = ReverseSequence._axes(node, x, lengths)
        mix_axis(ctx, node, x, time, "turns the frames round")
        tag = along(ctx, node, (x, batch), (lengths, 0))
        perm = [batch, time, *range(2, x.ndim)]
        rows = ctx.dense(node, permuted(ctx.view(x), perm))
        y = ctx.temp(rows.shape, rows.dtype, (tag, *rows.tags[1:]))
        n = [*rows.shape[:2], math.prod(rows.shape[2:]) * rows.dtype.itemsize]
        ctx.emit("reverse_sequence", node, {0: rows, 1: integers(ctx, node, lengths), 4: y}, n)
        return (permuted(y, inverse(perm)),)


# ---------------------------------------------------------------------- one index per element


def element_places(ctx: Lowering, node: Node, indices: Value, shape: Sequence[int], axis: int) -> View:
    """Where in a dense array of `shape` each index points: its own place, but for `axis`."""
    found = integers(ctx, node, indices)
    if found.ndim > 6:
        raise ctx.unsupported(node, f"indexes {found.ndim} axes; at most 6 are supported")
    y = ctx.temp(found.shape, INT64, found.tags)
    strides, fill = list(c_strides(tuple(shape))), 6 - found.ndim
    step, strides[axis] = strides[axis], 0
    n = [found.ndim, *found.shape, *[1] * fill, *strides, *[0] * fill, step, shape[axis]]
    ctx.emit("element_index", node, {0: found, 4: y}, n)
    return y


def checked_elements(node: Node, x: Any, indices: Any) -> int:
    """The axis of an operator that has one index per element."""
    (axis,) = axes_of(np.array(node.attrs["axis"]), x.ndim)
    if indices.ndim != x.ndim or any(
        n > m for k, (n, m) in enumerate(zip(indices.shape, x.shape, strict=True)) if k != axis
    ):
        raise ValueError(f"indices of shape {indices.shape} do not fit {x.shape} along axis {axis}")
    return axis


def element_grid(indices: Array, size: int, axis: int) -> tuple[Array, ...]:
    """The same places for NumPy."""
    grid: list[Array] = list(np.indices(indices.shape, sparse=True))
    grid[axis] = Gather.checked(indices, size)
    return tuple(grid)


@register("GatherElements")
class GatherElements(Op):
    """y[i, j, k] = x[i, indices[i, j, k], k] for axis 1, and so for every other."""

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, indices = inputs
        assert x is not None and indices is not None
        axis = checked_elements(node, x, indices)
        return (x[element_grid(indices, x.shape[axis], axis)],)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, indices = inputs
        assert x is not None and indices is not None
        axis = checked_elements(node, x, indices)
        mix_axis(ctx, node, x, axis, "picks frames by index")
        tags: list[Tag] = []
        for k, (n, m) in enumerate(zip(indices.shape, x.shape, strict=True)):
            if k != axis and n < m:
                mix_axis(ctx, node, x, k, f"takes part of the frames ({n} of {m})")
            beside = [(x, k)] if k != axis and n == m else []
            tags.append(along(ctx, node, *beside, (indices, k)))
        data = ctx.dense(node, x)
        places = element_places(ctx, node, indices, data.shape, axis)
        y = ctx.temp(places.shape, data.dtype, tags)
        ctx.emit("gather", node, {0: data, 1: places, 4: y}, [1, data.count, data.dtype.itemsize, places.count])
        return (y,)


#: GS_SCATTER_* of abi.h in order.
SCATTERS = {"none": None, "add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}


def scattered(ctx: Lowering, node: Node, x: Value, updates: Value, places: View, inner: int, tags: list[Tag]) -> View:
    """A copy of `x` with `updates` at `places`, in order."""
    data, news = alike(ctx, node, x, updates)
    back, reduction = data.dtype, node.attrs["reduction"]
    if reduction != "none":
        data, news = numeric(ctx, node, data), numeric(ctx, node, news)
    y = ctx.copy(node, data, ctx.temp(data.shape, data.dtype, tags))
    n = [places.count, inner, list(SCATTERS).index(reduction), CAST_CODES[data.dtype.name], data.dtype.itemsize]
    ctx.emit("scatter", node, {0: ctx.dense(node, news), 1: places, 4: y}, n)
    return cast(ctx, node, y, back)


def alike(ctx: Lowering, node: Node, x: Value, updates: Value) -> tuple[View, View]:
    """Both as views, which have to be of one type."""
    if x.dtype != updates.dtype:
        raise ctx.unsupported(node, f"takes {x.dtype} and {updates.dtype}", hint="Cast them to one type")
    return ctx.view(x), ctx.view(updates)


def scatter_known(node: Node, x: Array, updates: Array, places: tuple[Array, ...]) -> Array:
    """The same with NumPy."""
    y: Array = np.array(x)
    combine = SCATTERS[node.attrs["reduction"]]
    if combine is None:
        y[places] = updates
    else:
        combine.at(y, places, updates)
    return y


@register("ScatterElements")
class ScatterElements(Op):
    """y = x, but y[i, indices[i, j, k], k] = updates[i, j, k] for axis 1 (or added, ...), and so for every other."""

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, indices, updates = inputs
        assert x is not None and indices is not None and updates is not None
        axis = checked_elements(node, x, indices)
        if updates.shape != indices.shape:
            raise ValueError(f"updates {updates.shape} and indices {indices.shape} differ in shape")
        return (scatter_known(node, x, updates, element_grid(indices, x.shape[axis], axis)),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, indices, updates = inputs
        assert x is not None and indices is not None and updates is not None
        axis = checked_elements(node, x, indices)
        if updates.shape != indices.shape:
            raise ValueError(f"updates {updates.shape} and indices {indices.shape} differ in shape")
        tags: list[Tag] = []
        for k, (n, m) in enumerate(zip(indices.shape, x.shape, strict=True)):
            if k != axis and n == m:
                tags.append(along(ctx, node, (x, k), (indices, k), (updates, k)))
                continue
            for value in (x, indices, updates):
                mix_axis(ctx, node, value, k, "writes frames by index")
            tags.append(None)
        places = element_places(ctx, node, indices, x.shape, axis)
        return (scattered(ctx, node, x, updates, places, 1, tags),)


# ---------------------------------------------------------------------- one index per axis


def tuple_places(ctx: Lowering, node: Node, indices: Value, shape: Sequence[int], batch: int) -> View:
    """Which of the blocks of a dense array each row of indices names; `batch` axes are walked beside it."""
    found = integers(ctx, node, indices)
    depth = found.shape[-1]
    if depth > 6:
        raise ctx.unsupported(node, f"indexes {depth} axes; at most 6 are supported")
    y = ctx.temp(found.shape[:-1], INT64, found.tags[:-1])
    rows = max(math.prod(found.shape[batch:-1]), 1)
    ctx.emit("tuple_index", node, {0: found, 4: y}, [y.count, depth, rows, *shape[batch : batch + depth]])
    return y


def named(indices: Array, x: View, batch: int) -> tuple[int, tuple[int, ...]] | None:
    """Where known indices of `x` lead, as the offset and the strides of a view; None where no view shows it."""
    grid = tuple_grid(indices, x.shape, batch)
    places = sum(np.asarray(axis, np.int64) * step for axis, step in zip(grid, x.strides, strict=False))
    return evenly(np.broadcast_to(places, indices.shape[:-1]))


def apart(shape: Sequence[int], steps: Sequence[int]) -> bool:
    """Whether no place of an even grid is there twice."""
    reach = 0
    for step, size in sorted((abs(step), size) for step, size in zip(steps, shape, strict=True) if size > 1):
        if step <= reach:
            return False
        reach += step * (size - 1)
    return True


def checked_tuples(node: Node, x: Any, indices: Any, batch: int) -> int:
    """How many axes of `x` the indices name."""
    if indices.ndim < 1 or not 0 <= batch < indices.ndim or indices.shape[:batch] != x.shape[:batch]:
        raise ValueError(f"indices of shape {indices.shape} do not fit {x.shape} with {batch} batch axes")
    depth = int(indices.shape[-1])
    if not 1 <= depth <= x.ndim - batch:
        raise ValueError(f"indices name {depth} axes of shape {x.shape}")
    return depth


def tuple_grid(indices: Array, shape: Sequence[int], batch: int) -> tuple[Array, ...]:
    """The same places for NumPy."""
    grid = np.indices(indices.shape[:-1], sparse=True)[:batch]
    names = (Gather.checked(indices[..., k], shape[batch + k]) for k in range(indices.shape[-1]))
    return (*grid, *names)


@register("GatherND")
class GatherND(Op):
    """y[b, ..., :] = x[b, indices[b, ..., 0], indices[b, ..., 1], ..., :], after `batch_dims` axes b."""

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, indices = inputs
        assert x is not None and indices is not None
        batch = node.attrs["batch_dims"]
        checked_tuples(node, x, indices, batch)
        return (np.asarray(x[tuple_grid(indices, x.shape, batch)]),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, indices = inputs
        assert x is not None and indices is not None
        batch = node.attrs["batch_dims"]
        depth = checked_tuples(node, x, indices, batch)
        for k in range(batch, batch + depth):
            mix_axis(ctx, node, x, k, "picks frames by index")
        mix_axis(ctx, node, indices, indices.ndim - 1, "takes frames for an index")
        tags = [along(ctx, node, (x, k), (indices, k)) for k in range(batch)]
        tags += [along(ctx, node, (indices, k)) for k in range(batch, indices.ndim - 1)]
        tags += [along(ctx, node, (x, k)) for k in range(batch + depth, x.ndim)]
        shape = (*indices.shape[:-1], *x.shape[batch + depth :])
        if isinstance(x, View) and isinstance(indices, np.ndarray) and (seen := named(indices, x, batch)) is not None:
            strides = (*seen[1], *x.strides[batch + depth :])
            return (x.with_(shape=shape, strides=strides, tags=tuple(tags), offset=x.offset + seen[0]),)
        data = ctx.dense(node, x)
        places = tuple_places(ctx, node, indices, x.shape, batch)
        y = ctx.temp(shape, data.dtype, tags)
        inner = math.prod(x.shape[batch + depth :]) * data.dtype.itemsize
        n = [1, math.prod(x.shape[: batch + depth]), inner, places.count]
        ctx.emit("gather", node, {0: data, 1: places, 4: y}, n)
        return (y,)


@register("ScatterND")
class ScatterND(Op):
    """y = x, but y[indices[..., 0], indices[..., 1], ..., :] = updates[..., :] (or added, ...), in order."""

    @staticmethod
    def _depth(node: Node, x: Any, indices: Any, updates: Any) -> int:
        depth = checked_tuples(node, x, indices, 0)
        if updates.shape != (*indices.shape[:-1], *x.shape[depth:]):
            raise ValueError(f"updates {updates.shape} do not fit indices {indices.shape} of {x.shape}")
        return depth

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, indices, updates = inputs
        assert x is not None and indices is not None and updates is not None
        ScatterND._depth(node, x, indices, updates)
        return (scatter_known(node, x, updates, tuple_grid(indices, x.shape, 0)),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, indices, updates = inputs
        assert x is not None and indices is not None and updates is not None
        depth = ScatterND._depth(node, x, indices, updates)
        lead = indices.ndim - 1
        for value, axes in ((x, depth), (indices, lead + 1), (updates, lead)):
            for k in range(axes):
                mix_axis(ctx, node, value, k, "writes frames by index")
        tags: list[Tag] = [None] * depth
        tags += [along(ctx, node, (x, k), (updates, lead + k - depth)) for k in range(depth, x.ndim)]
        if isinstance(indices, np.ndarray) and node.attrs["reduction"] == "none":
            data, news = alike(ctx, node, x, updates)
            y = ctx.temp(x.shape, x.dtype, tags)
            seen = named(indices, y, 0)
            if seen is not None and apart(indices.shape[:-1], seen[1]):
                ctx.copy(node, data, y)
                part = (*seen[1], *y.strides[depth:])
                ctx.copy(node, news, y.with_(shape=news.shape, strides=part, tags=news.tags, offset=seen[0]))
                return (y,)
        places = tuple_places(ctx, node, indices, x.shape, 0)
        return (scattered(ctx, node, x, updates, places, math.prod(x.shape[depth:]), tags),)
