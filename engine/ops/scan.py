"""Scan: a body for every element along an axis. In a stream it is a recurrent operator, whose states are slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ShapeError
from ..graph import Node
from ..values import Buffer, Tag, ValueList, View
from .control import aside, computed, moved, padded, without
from .plumbing import axes_of
from .registry import Array, Op, register
from .repeating import MOST_WALKS, Changes, begun, carried_tags, carry_on, repeat, same_form

if TYPE_CHECKING:
    from ..lowering import Lowering


@register("Scan")
class Scan(Op):
    """Carry states through a body, for every element of xs along an axis; put what each gives along an axis."""

    folds = False

    @staticmethod
    def _split(node: Node, inputs: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any], list[int]]:
        """States, xs, captured values; and the axis of each of xs."""
        states, xs = node.attrs["states"], node.attrs["xs"]
        values = padded(node, inputs)
        arrays = values[states : states + xs]
        axes = [axes_of(np.array(axis), x.ndim)[0] for x, axis in zip(arrays, node.attrs["in_axes"], strict=True)]
        sizes = {x.shape[axis] for x, axis in zip(arrays, axes, strict=True)}
        if len(sizes) != 1:
            raise ValueError(f"scans axes of different sizes: {sorted(sizes)}")
        return values[:states], arrays, values[states + xs :], axes

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        states, xs, captured, axes = Scan._split(node, inputs)
        body, count = node.attrs["body"], len(states)
        flipped = [
            np.flip(x, axis) if reverse else x
            for x, axis, reverse in zip(xs, axes, node.attrs["in_reverse"], strict=True)
        ]

        now, rows = states, []
        for t in range(xs[0].shape[axes[0]]):
            after = computed(body, [*now, *(x.take(t, a) for x, a in zip(flipped, axes, strict=True)), *captured])
            now = after[:count]
            rows.append(after[count:])
        stacks = [np.stack(values) for values in zip(*rows, strict=True)]
        if not rows:
            blanks = [np.zeros(np.delete(x.shape, a), x.dtype) for x, a in zip(xs, axes, strict=True)]
            after = computed(body, [*now, *blanks, *captured])[count:]
            stacks = [np.zeros((0, *value.shape), value.dtype) for value in after]
        ys = []
        for y, axis, reverse in zip(stacks, node.attrs["out_axes"], node.attrs["out_reverse"], strict=True):
            ys.append(np.moveaxis(y[::-1] if reverse else y, 0, axes_of(np.array(axis), y.ndim)[0]))
        return *now, *ys

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Any) -> tuple[Any, ...]:
        return _ScanCall(ctx, node, inputs).lower()


class _ScanCall:
    """One Scan on its way into instructions."""

    def __init__(self, ctx: Lowering, node: Node, inputs: Sequence[Any]) -> None:
        self.ctx, self.node, self.body = ctx, node, node.attrs["body"]
        self.first, self.xs, self.captured, self.axes = Scan._split(node, inputs)
        if any(isinstance(value, ValueList) for value in (*self.first, *self.xs)):
            raise ctx.unsupported(node, "scans a sequence")
        self.steps = self.xs[0].shape[self.axes[0]]
        count = len(self.first)
        ys = range(len(self.body.outputs) - count)
        self.ys = [k for k in ys if count + k < len(node.outputs) and ctx.used(node.outputs[count + k])]
        self.wanted = [*range(count), *(count + k for k in self.ys)]

    def lower(self) -> tuple[Any, ...]:
        ctx, node = self.ctx, self.node
        self.time: Tag = "time"
        tags = [x.tags[axis] for x, axis in zip(self.xs, self.axes, strict=True) if isinstance(x, View)]
        # Without states each element stands alone, along whatever axis.
        if not self.first:
            self.time = tags[0] if tags else None
        for tag in tags:
            self.time = ctx.unify(self.time, tag) if tag is not None or not self.first else self.time
        for x, axis in zip(self.xs, self.axes, strict=True):
            if isinstance(x, np.ndarray) and x.shape[axis] > 1 and (x != x.take([0], axis)).any():
                ctx.mix(self.time, node, "depends on the position of the frame")
        if self.first and any((*node.attrs["in_reverse"], *node.attrs["out_reverse"])):
            ctx.mix(self.time, node, "runs backwards in time")
        elif len({*node.attrs["in_reverse"], *node.attrs["out_reverse"]}) > 1:
            ctx.mix(self.time, node, "turns the frames round")
        if any(ctx.used(name) for name in node.outputs[: len(self.first)] if name):
            ctx.last(self.time, node)
        states, slots = self.states()
        try:
            if self.steps == 1:
                return self.once(states, slots)
            if not self.steps:
                return self.empty(states)
            return self.repeated([s if k in slots else begun(ctx, node, s) for k, s in enumerate(states)])
        except Changes as error:
            raise ShapeError(f"{ctx.graph.source}: {node.label}: {error}") from None

    def states(self) -> tuple[list[Any], set[int]]:
        """What the states begin with: in a stream a slot that keeps its value, where that is known."""
        ctx, node = self.ctx, self.node
        begins, states, slots = {}, list(self.first), set()
        for k, value in enumerate(self.first):
            name = f"s{k}"
            if (node.key, name) not in ctx.owned and isinstance(value, View):
                begins[name] = node.inputs[k]
            elif ctx.carry:
                if value.dtype != ctx.real:
                    ctx.mix(self.time, node, f"carries a state of {value.dtype}")
                    continue
                states[k] = ctx.slot(node, name, value.shape, (None,) * value.ndim)
                if isinstance(value, View):
                    states[k] = states[k].with_(tags=value.tags)
                start = value if isinstance(value, np.ndarray) else np.zeros(value.shape, ctx.real)
                ctx.initial[node.key, name] = start
                slots.add(k)
        if self.first:
            x, axis = self.xs[0], self.axes[0]
            along = x.tags[axis] if isinstance(x, View) else None
            frames = node.inputs[len(self.first) : len(self.first) + len(self.xs)]
            ctx.ran(node, along, None, begins, frames, self.steps)
        return states, slots

    def element(self, k: int) -> Any:
        """The first (last) element of xs[k], whatever it scans."""
        x, axis = self.xs[k], self.axes[k]
        reverse = self.node.attrs["in_reverse"][k]
        if isinstance(x, np.ndarray):
            return x.take(-1 if reverse else 0, axis) if self.steps else np.zeros(np.delete(x.shape, axis), x.dtype)
        return without(x, axis, reverse)

    def iteration(self, states: Sequence[Any], elements: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Lower the body once; returns the states after it and what it gives."""
        results = self.ctx.inline(self.node, self.body, [*states, *elements, *self.captured], self.wanted)
        values = [results[k] for k in self.wanted]
        count = len(self.first)
        same_form(self.first, values[:count])
        if any(isinstance(value, ValueList) for value in values):
            raise self.ctx.unsupported(self.node, "gives a sequence in each iteration")
        self.rows(values[:count])
        return values[:count], values[count:]

    def rows(self, states: Sequence[Any]) -> None:
        """The first axis that a state has in common with what is scanned, untouched, is that of the rows."""
        ctx = self.ctx
        around = {ctx.root(tag) for x in self.xs if isinstance(x, View) for tag in x.tags} - {None, ctx.root(self.time)}
        mixed = {ctx.root(m.tag) for m in ctx.mixings}
        tags = [ctx.root(tag) for state in states if isinstance(state, View) for tag in state.tags]
        found = next((tag for tag in tags if tag in around - mixed and isinstance(tag, str)), None)
        if found is not None and found != "time":
            ctx.unify(found, "batch")

    def out_axis(self, y: int, ndim: int) -> int:
        (axis,) = axes_of(np.array(self.node.attrs["out_axes"][self.ys[y]]), ndim + 1)
        return axis

    def finished(self, states: Sequence[Any], ys: Sequence[Any]) -> tuple[Any, ...]:
        results: list[Any] = [*states, *[None] * (len(self.body.outputs) - len(self.first))]
        for k, value in zip(self.ys, ys, strict=True):
            results[len(states) + k] = value
        return tuple(results)

    def once(self, states: list[Any], slots: set[int]) -> tuple[Any, ...]:
        """One step: what is scanned is a view, and what is given as well."""
        ctx, node = self.ctx, self.node
        elements = [self.element(k) for k in range(len(self.xs))]
        with ctx.inside():
            for walked in range(1, MOST_WALKS + 1):
                trial = ctx.trial()
                after, given = self.iteration(states, elements)
                tags = [carried_tags(ctx, old, new) for old, new in zip(states, after, strict=True)]
                if walked == MOST_WALKS or all(tags_of(old) == new for old, new in zip(states, tags, strict=True)):
                    break
                states = [old.with_(tags=new) for old, new in zip(states, tags, strict=True)]
                ctx.undo(trial)
        held = {states[k].buffer for k in slots}
        ys = [self.put(k, self.apart(value, held)) for k, value in enumerate(given)]
        finals = [states[k] if k in slots else self.apart(value, held) for k, value in enumerate(after)]
        carry_on(ctx, node, [states[k] for k in slots], [after[k] for k in slots])
        return self.finished(finals, ys)

    def apart(self, value: Any, held: set[Buffer]) -> Any:
        """`value`, copied where it lies in a slot that is about to change."""
        return aside(self.ctx, self.node, value) if isinstance(value, View) and value.buffer in held else value

    def put(self, y: int, value: Any) -> Any:
        """What one step gives, with the axis along which others would follow."""
        axis = self.out_axis(y, value.ndim)
        if isinstance(value, np.ndarray):
            return np.expand_dims(value, axis)
        shape, strides, tags = list(value.shape), list(value.strides), list(value.tags)
        shape.insert(axis, 1)
        strides.insert(axis, 0)
        tags.insert(axis, self.time)
        return value.with_(shape=tuple(shape), strides=tuple(strides), tags=tuple(tags))

    def empty(self, states: Sequence[Any]) -> tuple[Any, ...]:
        """No step: only the shapes of what it would give."""
        ctx, node = self.ctx, self.node
        trial = ctx.trial()
        with ctx.inside():
            _, given = self.iteration(
                [begun(ctx, node, s) for s in states], [self.element(k) for k in range(len(self.xs))]
            )
        ctx.undo(trial)
        ys = []
        for k, value in enumerate(given):
            shape = list(value.shape)
            shape.insert(self.out_axis(k, value.ndim), 0)
            ys.append(np.zeros(shape, value.dtype))
        return self.finished(states, ys)

    def repeated(self, states: list[View]) -> tuple[Any, ...]:
        ctx, node = self.ctx, self.node
        ys: list[View] = []

        def iterate(counter: View, states: list[View]) -> tuple[Any, list[Any], list[Any]]:
            elements = []
            for k, (value, axis) in enumerate(zip(self.xs, self.axes, strict=True)):
                reverse = node.attrs["in_reverse"][k]
                x = ctx.view(value)
                source = without(x, axis, reverse)
                target = ctx.temp(source.shape, source.dtype, source.tags)
                moved(ctx, node, source, target, counter, (-x.strides[axis] if reverse else x.strides[axis], 0))
                elements.append(target)
            after, given = self.iteration(states, elements)
            return None, after, given

        def targets(given: list[Any]) -> list[tuple[View, View, tuple[int, int]]]:
            copies = []
            for k, value in enumerate(given):
                view = ctx.view(value)
                axis, reverse = self.out_axis(k, view.ndim), node.attrs["out_reverse"][self.ys[k]]
                shape, tags = list(view.shape), list(view.tags)
                shape.insert(axis, self.steps)
                tags.insert(axis, self.time)
                y = ctx.temp(shape, view.dtype, tags)
                ys.append(y)
                step = -y.strides[axis] if reverse else y.strides[axis]
                copies.append((view, without(y, axis, reverse), (0, step)))
            return copies

        states = repeat(ctx, node, self.steps, None, states, iterate, targets)
        return self.finished(states, ys)


def tags_of(value: Any) -> tuple[Tag, ...]:
    return value.tags if isinstance(value, View) else ()
