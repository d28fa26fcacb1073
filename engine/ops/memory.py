"""Operators of streams alone: what a frame needs of the frames before it. No file has them; see `memories`.

Frames lie along `axis`. Those of one step are numbered ``step * rate + lead`` and on, as the whole call numbers them;
where `lead` is negative, the first ones are from before the recording.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..graph import Node
from ..values import Value, View
from .math import REDUCTIONS
from .plumbing import CAST_CODES
from .recurrent import holding
from .registry import Op, register

if TYPE_CHECKING:
    from ..lowering import Lowering

__all__ = ["Begin", "Memory", "Running"]


@register("Memory")
class Memory(Op):
    """The last `frames` frames of before, then the new ones; with `delay`, as many of these as are new.

    A negative number drops as many of the new ones. What is left is thinned out to one of `every` so many. Before the
    first step, every frame is `fill`.
    """

    folds = False  # what it gives is not of its input alone

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        (x,) = inputs
        assert isinstance(x, View)
        axis, frames = node.attrs["axis"], node.attrs["frames"]
        new = x.shape[axis]
        if frames <= 0:
            return (thinned(part(x, axis, -frames, new + frames), axis, node.attrs["every"]),)
        shape = [frames if k == axis else n for k, n in enumerate(x.shape)]
        before = ctx.slot(node, "frames", tuple(shape), x.tags, x.dtype)
        ctx.initial[node.key, "frames"] = np.full(shape, node.attrs["fill"], x.dtype)
        shape[axis] += new
        y = ctx.temp(shape, x.dtype, x.tags)
        ctx.copy(node, before, part(y, axis, 0, frames))
        ctx.copy(node, x, part(y, axis, frames, new))
        ctx.copy(node, part(y, axis, new, frames), before)
        return (thinned(part(y, axis, 0, new) if node.attrs["delay"] else y, axis, node.attrs["every"]),)


@register("Begin")
class Begin(Op):
    """x, where frames with numbers below `first` are `fill`; at `rate` frames per step from number `lead` on."""

    folds = False  # what it gives is not of its input alone

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        (x,) = inputs
        assert isinstance(x, View)
        if ctx.clock is None:  # the recording has begun
            return (x,)
        attrs = node.attrs
        fill = ctx.view(np.array(attrs["fill"], x.dtype))
        source = ctx.dense(node, x)
        y = ctx.temp(x.shape, x.dtype, x.tags)
        sizes = [*around(x, attrs["axis"]), x.dtype.itemsize, attrs["rate"], attrs["lead"], attrs["first"]]
        ctx.emit("begin", node, {0: source, 1: ctx.clock, 2: fill, 4: y}, sizes)
        return (y,)


@register("Running")
class Running(Op):
    """The reduction `kind` over all frames so far: after the last one, or with `every` after each.

    `keepdims`, `exclusive` as the operators have them; `wait` as in `recurrent.holding`.
    """

    folds = False  # what it gives is not of its input alone

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        (x,) = inputs
        assert isinstance(x, View)
        attrs, axis = node.attrs, node.attrs["axis"]
        source = ctx.dense(node, ctx.real_view(node, x))
        kept = (*x.shape[:axis], *x.shape[axis + 1 :])
        tags = (*x.tags[:axis], *x.tags[axis + 1 :])
        total = ctx.slot(node, attrs["kind"][6:].lower(), kept, tags, np.dtype(np.float64))
        seen = ctx.slot(node, "seen", (1,), (None,), np.dtype(np.float64))
        one = (
            REDUCTIONS[attrs["kind"]](np.zeros((0,)), axis=0, keepdims=False) if attrs["kind"] != "ReduceMean" else 0.0
        )
        ctx.initial[node.key, attrs["kind"][6:].lower()] = np.full(kept, one)
        ctx.initial[node.key, "seen"] = np.zeros(1)
        if attrs["every"]:
            y = ctx.temp(x.shape, tags=x.tags)
        else:
            ctx.last(x.tags[axis], node)
            shape = [1 if k == axis else n for k, n in enumerate(x.shape)]
            y = ctx.temp(shape, tags=[None if k == axis else t for k, t in enumerate(x.tags)])
        release = holding(ctx, node, [total, seen])
        flags = [list(REDUCTIONS).index(attrs["kind"]), int(attrs["every"]), int(attrs["exclusive"])]
        sizes = [*around(x, axis), *flags, CAST_CODES[ctx.real.name]]
        ctx.emit("running", node, {0: source, 4: y, 5: total, 6: seen}, sizes)
        release()
        if not attrs["every"] and not attrs["keepdims"]:
            return (y.with_(shape=kept, strides=(*y.strides[:axis], *y.strides[axis + 1 :]), tags=tags),)
        return (y,)


def around(x: View, axis: int) -> list[int]:
    """How many elements lie before, along and behind an axis."""
    return [math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])]


def part(x: View, axis: int, start: int, count: int) -> View:
    """`count` elements of one axis from `start` on."""
    if not 0 <= start <= start + count <= x.shape[axis]:
        raise ValueError(f"frames {start} to {start + count} of {x.shape[axis]}")
    shape = tuple(count if k == axis else n for k, n in enumerate(x.shape))
    return x.with_(shape=shape, offset=x.offset + start * x.strides[axis])


def thinned(x: View, axis: int, step: int) -> View:
    """One of every `step` elements of one axis."""
    shape = tuple(-(-n // step) if k == axis else n for k, n in enumerate(x.shape))
    return x.with_(shape=shape, strides=tuple(s * step if k == axis else s for k, s in enumerate(x.strides)))
