"""From the operators of whole recordings to those of a stream, node by node.

A window along time becomes the same window on the last frames of before and the new ones; padding along time becomes
what stands before the recording, and cutting only renumbers the frames. A reduction over the frames becomes the one
over those so far. Whatever else treats frames alike stays, on frames of one age.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from ..graph import Node
from ..ops import OPS
from ..ops.plumbing import FAR, Slice, axes_of
from ..ops.resizing import ConvTranspose
from ..ops.windows import Pad, windows
from ..values import View
from .ages import Ages, Shown, Timed

__all__ = ["HANDLERS", "Rewriting"]

#: Operators over windows, with the position of their weights.
WINDOWS: dict[str, int | None] = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3, "MaxPool": None, "AveragePool": None}
#: Reductions, as `Running` knows them.
POOLS = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}


class Rewriting(Ages):
    """One walk over the nodes of the file."""

    def run(self) -> None:
        for node in self.graph.nodes:
            made = [self.ctx.values.get(name) for name in node.outputs if name]
            if not any(isinstance(value, View) for value in made) or node.op in ("Shape", "Size"):
                self.keep(node)
                continue
            handler = getattr(self, f"on_{HANDLERS.get(node.op, 'other')}")
            handler(node)

    # ------------------------------------------------------------------ everything else
    def on_other(self, node: Node, **attrs: Any) -> None:
        """A node that treats frames alike: they have to be of one age."""
        timed = {name: self.timed[name] for name in node.inputs if name in self.timed}
        shown = {name: self.shown[name] for name in node.inputs if name in self.shown}
        if not timed:
            late = max((age.late for age in shown.values()), default=0)
            self.keep(node, {name: self.later(node, self.here(name), late - age.late) for name, age in shown.items()})
            if shown:
                first = next((age for age in shown.values() if age.reduction), Shown(0))
                last = max(shown.values(), key=lambda age: age.late)
                self.show(node, Shown(late, first.reduction, last.ahead))
            return
        rates = {age.rate for age in timed.values()}
        if len(rates) > 1:
            raise self.refuse(node, f"takes frames of different rates ({', '.join(map(str, sorted(rates)))})")
        reduction = next((age.reduction for age in shown.values() if age.reduction), "")
        if reduction:
            raise self.refuse(node, f"takes every frame together with what {reduction} finds over all of them")
        worst = min(timed.values(), key=lambda age: age.lead)
        if any(age.late for age in shown.values()) or (shown and any(a.lead or a.tail for a in timed.values())):
            raise self.refuse(node, "takes every frame together with the last one")
        self.keep(node, {name: self.delayed(node, name, worst.lead) for name in timed}, **attrs)
        ahead = worst.ahead or next((age.ahead for age in timed.values() if age.ahead), "")
        fills = {age.fill for age in timed.values()}
        fill = fills.pop() if len(timed) == 1 and OPS[node.op].moves else None
        for name in filter(None, node.outputs):
            if self.has_frames(name):
                final = min(age.final for age in timed.values())
                self.enter(name, worst.rate, worst.lead, fill, ahead or node.label, final)
            elif isinstance(self.ctx.values.get(name), View):
                self.shown[name] = Shown(0)  # of the last frame, or refused by what the walk has noted

    def show(self, node: Node, age: Shown) -> None:
        """Note the age of what a node makes of values without frames."""
        for name in filter(None, node.outputs):
            if isinstance(self.ctx.values.get(name), View):
                self.shown[name] = age
                self.decisions.append((name, age))

    def on_recurrent(self, node: Node) -> None:
        """A recurrent operator: its states wait for the recording; its last one is that of all frames."""
        x = node.inputs[0]
        age = self.timed.get(x)
        if age is None or age.axis != 0 or node.attrs.get("banded"):
            return self.on_other(node)
        rate = self.per_step(age.rate)
        late = None
        if any(self.ctx.used(name) for name in node.outputs[1:] if name):
            late = self.lateness(age)
            age = age._replace(lead=age.tail - late * rate)
        if age.lead % rate:
            age = age._replace(lead=age.lead - age.lead % rate)
        others = [name for name in node.inputs[1:] if name in self.timed or name in self.shown]
        if others and (age.lead or age.tail):
            raise self.refuse(node, f"takes {others[0]!r} beside frames of another age")
        self.keep(node, {x: self.delayed(node, x, age.lead)}, wait=self.waits(age), made=age.lead > 0)
        self.decisions.append((node.key, age))
        ahead = self.timed[x].ahead
        for k, name in enumerate(node.outputs):
            if name and k == 0:
                self.enter(name, age.rate, age.lead, None, ahead or node.label, age.final)
            elif name:
                self.shown[name] = Shown(late or 0, "", ahead)
        return None

    def on_body(self, node: Node) -> None:
        """A loop over frames, with states of its own: of frames that are as old as the step."""
        ages = [self.timed[name] for name in node.inputs if name in self.timed]
        if any(age.lead or age.tail for age in ages) or any(name in self.shown for name in node.inputs):
            raise self.refuse(node, "runs a body over frames of another age")
        return self.on_other(node)

    # ------------------------------------------------------------------ windows
    def on_window(self, node: Node) -> None:
        """Windows along time: of the same frames, and of those of before."""
        x = node.inputs[0]
        age = self.timed.get(x)
        value = self.ctx.values[x]
        if age is None or age.axis is None or age.axis < 2 or not isinstance(value, View):
            return self.on_other(node)
        place = WINDOWS[node.op]
        sizes = node.attrs["kernel_shape"] if place is None else self.ctx.values[node.inputs[place]].shape[2:]
        over = windows(node, sizes, value.shape[2:])
        k = age.axis - 2
        mine = over[k]
        if mine.size == 1 and mine.step == 1 and not mine.before and not mine.after:
            return self.on_other(node)
        if node.op == "AveragePool" and mine.before and not node.attrs["count_include_pad"]:
            raise self.refuse(node, "takes means of fewer frames at the beginning (count_include_pad=0)")
        fill = {"MaxPool": -math.inf, "ConvInteger": self.zero_point(node, 2), "QLinearConv": self.zero_point(node, 2)}
        source, age = self.padded(node, self.here(x), age, mine.before, fill.get(node.op, 0.0))
        lead, frames = advanced(age.lead, (mine.size - 1) * mine.dilation, mine.step)
        final, _ = advanced(self.timed[x].known + mine.before, (mine.size - 1) * mine.dilation, mine.step)
        source = self.remember(node, source, age, frames)
        pads, rank = [(w.before, w.after) for w in over], len(over)
        pads[k] = 0, 0
        reaching = [w.after != p for w, p in zip(over, declared(node, rank), strict=True)]
        if node.op == "AveragePool" and node.attrs.get("ceil_mode") and any(reaching[:k] + reaching[k + 1 :]):
            raise self.refuse(node, "has windows that reach over the edge (ceil_mode=1)")
        attrs: dict[str, Any] = {"pads": tuple(p[0] for p in pads) + tuple(p[1] for p in pads), "auto_pad": "NOTSET"}
        if "ceil_mode" in node.attrs:
            attrs["ceil_mode"] = 0
        self.keep(node, {x: source}, remembered=age.axis, **attrs)
        self.enter_moved(node, age, Fraction(age.rate, mine.step), lead, final)
        return None

    def zero_point(self, node: Node, position: int) -> float:
        """The number that stands for nothing in a quantised input."""
        name = node.inputs[position] if position < len(node.inputs) else ""
        value = self.ctx.values.get(name)
        return float(value.reshape(-1)[0]) if isinstance(value, np.ndarray) and value.size else 0.0

    def padded(self, node: Node, source: str, age: Timed, count: int, fill: float) -> tuple[str, Timed]:
        """`count` frames of `fill` put before the recording."""
        if count == 0:
            return source, age
        known = age.lead <= 0 or age.fill == fill
        age = age._replace(lead=age.lead + count, fill=fill if known else None)
        return self.begun(node, source, age, count, fill), age

    def enter_moved(
        self, node: Node, age: Timed, rate: Fraction, lead: int, final: int, fill: float | None = None
    ) -> None:
        """Note what a window makes of frames of `age`."""
        self.enter(node.outputs[0], rate, lead, fill, age.ahead or node.label, final)

    def on_transposed(self, node: Node) -> None:
        """A transposed convolution: of the frames that reach into the new ones, less what they make of older ones."""
        x, weights = node.inputs[0], self.ctx.values[node.inputs[1]]
        age = self.timed.get(x)
        value = self.ctx.values[x]
        if age is None or age.axis is None or age.axis < 2 or not isinstance(value, View):
            return self.on_other(node)
        assert isinstance(weights, np.ndarray)
        k, rank = age.axis - 2, weights.ndim - 2
        steps, dilations = node.attrs["strides"] or (1,) * rank, node.attrs["dilations"] or (1,) * rank
        reach = (weights.shape[2 + k] - 1) * dilations[k]
        stuffing = ConvTranspose._stuffing(node, value, weights)
        cut = reach - stuffing[k].before  # what the padding takes away at the beginning
        frames = -(-max(reach + 1 - steps[k], 0) // steps[k])
        source = self.begun(node, self.here(x), age, 0, 0.0) if frames else self.here(x)
        source = self.remember(node, source, age._replace(fill=None if age.lead > 0 else 0.0), frames)
        sizes = [(weights.shape[2 + j] - 1) * dilations[j] for j in range(rank)]
        pads = [(r - s.before, r - s.after) for r, s in zip(sizes, stuffing, strict=True)]
        pads[k] = frames * steps[k], max(reach + 1 - steps[k], 0)
        extra = [max(-after, 0) for _, after in pads]
        extra[k] = max(steps[k] - reach - 1, 0)
        ends = tuple(max(before, 0) for before, _ in pads) + tuple(max(after, 0) for _, after in pads)
        if any(before < 0 for before, _ in pads):
            raise self.refuse(node, "has an output_shape that is larger than what it makes")
        attrs = {"pads": ends, "output_padding": tuple(extra), "output_shape": None, "auto_pad": "NOTSET"}
        self.keep(node, {x: source}, remembered=age.axis, **attrs)
        self.enter_moved(node, age, age.rate * steps[k], age.lead * steps[k] - cut, age.known * steps[k] - cut)
        return None

    # ------------------------------------------------------------------ padding and cutting
    def on_pad(self, node: Node) -> None:
        x = node.inputs[0]
        age, value = self.timed.get(x), self.ctx.values[x]
        pads, constant, axes = (*(self.ctx.values.get(name) for name in node.inputs[1:]), None, None)[:3]
        if age is None or age.axis is None or not isinstance(pads, np.ndarray) or isinstance(constant, View):
            return self.on_other(node)
        margins = Pad._margins(value.ndim, pads, axes if isinstance(axes, np.ndarray) else None)
        before, after = margins[age.axis]
        if not before and not after:
            return self.on_other(node)
        if node.attrs["mode"] != "constant":
            raise self.refuse(node, f"repeats frames (mode={node.attrs['mode']})")
        fill = 0.0 if constant is None else float(constant.reshape(-1)[0])
        source = self.here(x)
        margins[age.axis] = 0, 0
        if any(map(any, margins)):
            ends = self.number([b for b, _ in margins] + [a for _, a in margins])
            source = self.emit(node, "Pad", [source, ends, *node.inputs[2:3]], mode="constant")
            age = age._replace(fill=age.fill if age.fill == fill else None)
        known = age.known if after > 0 else age.final
        if before < 0:
            age = age._replace(lead=age.lead + before)
        source, age = self.padded(node, source, age, max(before, 0), fill)
        return self.renumbered(node, source, age, known + before)

    def renumbered(self, node: Node, source: str, age: Timed, final: int) -> None:
        """`node` only changes the numbers of its frames, which the stream has as `source`."""
        self.names[node.outputs[0]] = source
        return self.enter_moved(node, age, age.rate, age.lead, final, age.fill)

    def on_slice(self, node: Node) -> None:
        """The last frame, or the frames renumbered, and perhaps only every so many of them."""
        x = node.inputs[0]
        age, value = self.timed.get(x), self.ctx.values[x]
        bounds = [self.ctx.values[name] if name else None for name in node.inputs[1:]]
        if age is None or age.axis is None or any(isinstance(bound, View) for bound in bounds):
            return self.on_other(node)
        parts = Slice._slices(value.ndim, bounds)  # type: ignore[arg-type]
        size = value.shape[age.axis]
        along = next((Slice._range(part, size) for axis, part in parts if axis == age.axis), range(size))
        rest = [(axis, part.start, part.stop, part.step) for axis, part in parts if axis != age.axis]
        limits = [part for axis, part in parts if axis == age.axis]
        if along.step < 0 or not len(along) or any(size < p.stop < FAR or -FAR < p.start < -size for p in limits):
            return self.on_other(node)  # a longer recording would be cut
        if len(along) == 1 and along[0] == size - 1 and size > 1:
            source, late = self.steady(node, x)
            self.sliced(node, source, [*rest, (age.axis, -1, FAR, 1)], node.outputs[0])
            return self.show(node, Shown(late, "", age.ahead))
        source = self.sliced(node, self.here(x), rest) if rest else self.here(x)
        age = age._replace(lead=age.lead - along[0], fill=age.fill if age.lead >= along[0] else None)
        self.decisions.append((node.key, "cut", along[0], along.step))
        lead, frames = advanced(age.lead, 0, along.step)
        self.names[node.outputs[0]] = self.remember(node, source, age, frames, every=along.step)
        final, _ = advanced(age.final - along[0], 0, along.step)
        return self.enter_moved(node, age, Fraction(age.rate, along.step), lead, final, age.fill)

    def sliced(self, node: Node, source: str, parts: Sequence[tuple[int, int, int, int]], output: str = "") -> str:
        """A Slice of `source`: axis, start, stop and step of each part."""
        axes, starts, stops, steps = (self.number(list(column)) for column in zip(*parts, strict=True))
        return self.emit(node, "Slice", [source, starts, stops, axes, steps], output)

    def on_gather(self, node: Node) -> None:
        """The last frame."""
        x, indices = node.inputs[0], self.ctx.values[node.inputs[1]]
        age, value = self.timed.get(x), self.ctx.values[x]
        (axis,) = axes_of(np.array(node.attrs["axis"]), value.ndim)
        if age is None or age.axis != axis or not isinstance(indices, np.ndarray) or indices.size != 1:
            return self.on_other(node)
        if int(indices.reshape(-1)[0]) % value.shape[axis] != value.shape[axis] - 1:
            return self.on_other(node)
        source, late = self.steady(node, x)
        self.emit(node, "Gather", [source, self.number(np.full(indices.shape, -1))], node.outputs[0], axis=axis)
        return self.show(node, Shown(late, "", age.ahead))

    def on_concat(self, node: Node) -> None:
        """Joined to frames that are all one number: padding."""
        timed = [name for name in node.inputs if name in self.timed]
        axis = self.timed[timed[0]].axis if timed else None
        values = [self.ctx.values[name] for name in node.inputs]
        if axis is None or axes_of(np.array(node.attrs["axis"]), values[0].ndim) != (axis,):
            return self.on_other(node)
        where = node.inputs.index(timed[0])
        rest = [value for k, value in enumerate(values) if k != where]
        if len(timed) > 1 or not all(isinstance(value, np.ndarray) for value in rest):
            return self.on_other(node)
        before = np.concatenate([np.zeros(0), *(np.ravel(np.asarray(value)) for value in values[:where])])
        if before.size and (before != before[0]).any():
            return self.on_other(node)
        count = sum(value.shape[axis] for value in values[:where])
        age = self.timed[timed[0]]
        known = age.known if where + 1 < len(values) else age.final
        source, age = self.padded(node, self.here(timed[0]), age, count, float(before[0]) if before.size else 0.0)
        return self.renumbered(node, source, age, known + count)

    def on_reshape(self, node: Node) -> None:
        """A target that was computed from numbers of frames takes those of the step."""
        x, y = node.inputs[0], node.outputs[0]
        age, target = self.timed.get(x), self.ctx.values[node.inputs[1]]
        axis = self.axis_in(y)
        computed = node.inputs[1] not in self.graph.constants
        if age is None or age.axis is None or axis is None or not computed or not isinstance(target, np.ndarray):
            return self.on_other(node)
        if int(target.reshape(-1)[axis]) != self.count(y):
            return self.on_other(node)
        name = self.here(node.inputs[1])

        def some(low: int, high: int) -> str:
            return self.emit(node, "Slice", [name, self.number([low]), self.number([high])])

        shape = self.emit(node, "Shape", [self.here(x)], start=age.axis, end=age.axis + 1)
        whole = self.emit(node, "Concat", [some(0, axis), shape, some(axis + 1, FAR)], axis=0)
        self.names[node.inputs[1]], before = whole, self.names.get(node.inputs[1], node.inputs[1])
        self.on_other(node)
        self.names[node.inputs[1]] = before
        return None

    # ------------------------------------------------------------------ reductions
    def on_reduction(self, node: Node) -> None:
        """A reduction over the frames: over those so far."""
        x = node.inputs[0]
        age, value = self.timed.get(x), self.ctx.values[x]
        if node.op in POOLS:
            axes: tuple[int, ...] = tuple(range(2, value.ndim))
        else:
            given = self.ctx.values.get(node.inputs[1]) if len(node.inputs) > 1 else None
            none = given is None or (isinstance(given, np.ndarray) and given.size == 0)
            every = () if node.attrs.get("noop_with_empty_axes") else tuple(range(value.ndim))
            axes = every if none else axes_of(np.asarray(given), value.ndim)
        if age is None or age.axis not in axes or value.dtype != self.ctx.real:
            return self.on_other(node)
        kind, keepdims = POOLS.get(node.op, node.op), bool(node.attrs.get("keepdims", 1))
        source, late = self.steady(node, x)
        rate = self.per_step(age.rate)
        lead = age.tail - late * rate
        if lead % rate:
            late += 1
            lead = age.tail - late * rate
        others = [axis for axis in axes if axis != age.axis]
        if others:
            source = self.emit(node, kind, [source, self.number(others)], keepdims=1)
        summed = "ReduceSum" if kind == "ReduceSumSquare" and others else kind
        output = node.outputs[0]
        attrs = {"axis": age.axis, "kind": summed, "every": False, "exclusive": False, "keepdims": True}
        target = output if keepdims or len(axes) == value.ndim == 0 else ""
        found = self.emit(
            node, "Running", [source], target, **attrs, wait=self.waits(age._replace(lead=lead)), made=lead > 0
        )
        if not keepdims:
            self.emit(node, "Squeeze", [found, self.number(sorted(axes))], output)
        return self.show(node, Shown(late, node.label, age.ahead or (node.label if late else "")))

    def on_cumsum(self, node: Node) -> None:
        x, where = node.inputs[0], self.ctx.values[node.inputs[1]]
        age, value = self.timed.get(x), self.ctx.values[x]
        assert isinstance(where, np.ndarray)
        (axis,) = axes_of(where, value.ndim)
        if age is None or age.axis != axis or node.attrs["reverse"] or value.dtype != self.ctx.real:
            return self.on_other(node)
        lead = age.lead - age.lead % self.per_step(age.rate)
        source = self.delayed(node, x, lead)
        attrs = {"axis": axis, "kind": "ReduceSum", "every": True, "exclusive": bool(node.attrs["exclusive"])}
        wait = self.waits(age._replace(lead=lead))
        self.emit(node, "Running", [source], node.outputs[0], **attrs, keepdims=True, wait=wait, made=lead > 0)
        return self.enter_moved(node, age, age.rate, lead, age.final)


HANDLERS = {
    **dict.fromkeys(("LSTM", "GRU", "RNN"), "recurrent"),
    **dict.fromkeys(("If", "Loop", "Scan"), "body"),
    **dict.fromkeys(WINDOWS, "window"),
    "ConvTranspose": "transposed",
    "Pad": "pad",
    "Slice": "slice",
    "Gather": "gather",
    "Concat": "concat",
    "Reshape": "reshape",
    **dict.fromkeys(POOLS, "reduction"),
    **dict.fromkeys(
        [f"Reduce{kind}" for kind in ("Sum", "Mean", "Max", "Min", "Prod", "L2", "SumSquare")], "reduction"
    ),
    "CumSum": "cumsum",
}


def advanced(lead: int, extent: int, step: int) -> tuple[int, int]:
    """Lead of what windows of `extent` + 1 frames make, `step` apart, and how many frames of before they take."""
    after = (lead - extent - 1) // step + 1
    return after, lead - after * step


def declared(node: Node, rank: int) -> tuple[int, ...]:
    """The padding that a node names behind each spatial axis."""
    pads = node.attrs["pads"] or (0,) * (2 * rank)
    return tuple(pads[rank:])
