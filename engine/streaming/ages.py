"""How old the frames of a value are when a step has made them, and delays that make them equally old.

A step makes `rate` frames of every value that runs along time. The whole call numbers them: from
``step * rate + lead`` on. Padding before the recording leads; a window that reaches further than its padding lags, and
then needs as many frames of the future. What comes of all frames, such as a mean, is that of some steps ago.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from ..errors import UnsupportedModelError
from ..graph import Graph, Node
from ..lowering import TIME, Lowering
from ..values import Merged, View
from ..walk import is_in

__all__ = ["Ages", "Shown", "Timed"]


class Timed(NamedTuple):
    """A value that has frames.

    Attributes
    ----------
    rate : Fraction
        Frames per frame of the inputs.
    lead : int
        Number of the first frame that step 0 makes.
    tail : int
        How many more frames the whole call has than its steps make.
    axis : int or None
        Along which they lie; None where they are folded into one with other axes.
    fill : float or None
        What all elements of frames before the first are, from number 0 on; None where that is not one known number.
    ahead : str
        The first node that needs frames of the future, if one does.
    final : int
        As `lead`, for the first frame that the end of a recording could still change: what the file pads or cuts there
        is not known to a step.
    """

    rate: Fraction
    lead: int
    tail: int
    axis: int | None
    fill: float | None = None
    ahead: str = ""
    final: int = 0

    @property
    def known(self) -> int:
        """`final`, for what is made of more than single frames: there are none behind the end."""
        return min(self.final, self.tail)


class Shown(NamedTuple):
    """A value that stands for all frames so far: of `late` steps ago. `reduction` is the node that went over them."""

    late: int
    reduction: str = ""
    ahead: str = ""


class Ages:
    """The graph of a stream while it is made, and the ages of its values.

    Parameters
    ----------
    graph : Graph
        As the file has it.
    ctx : Lowering
        A walk over it.
    time : mapping
        Input to axis of time.
    hop : int
        Frames of the inputs per step.
    """

    def __init__(self, graph: Graph, ctx: Lowering, time: Mapping[str, int | None], hop: int) -> None:
        self.graph, self.ctx, self.hop = graph, ctx, hop
        self.result = graph.with_(nodes=[], constants=dict(graph.constants))
        self.names: dict[str, str] = {}
        self.timed: dict[str, Timed] = {}
        self.shown: dict[str, Shown] = {}
        self.decisions: list[tuple[Any, ...]] = []
        self.rates: set[Fraction] = {Fraction(1)}
        self._aligned: dict[tuple[str, int], str] = {}
        self.steps = Fraction(1)
        for name, axis in time.items():
            if axis is not None and isinstance(ctx.values[name], View):
                self.steps = Fraction(ctx.values[name].shape[axis], hop)
                self.timed[name] = Timed(Fraction(1), 0, 0, axis)

    # ------------------------------------------------------------------ building
    def here(self, name: str) -> str:
        """What the stream has for a value of the file."""
        return self.names.get(name, name)

    def emit(self, node: Node, op: str, inputs: Iterable[str], output: str = "", **attrs: Any) -> str:
        """Add an operator on values of the stream, for `node`; returns the name of its result."""
        output = output or self.result.fresh(op.lower())
        self.result.nodes.append(Node(op, tuple(inputs), (output,), attrs, node.name or node.key))
        shape = {k: v for k, v in attrs.items() if not isinstance(v, np.ndarray)}
        self.decisions.append((node.key, op, *sorted(shape.items(), key=lambda item: item[0])))
        return output

    def keep(self, node: Node, names: Mapping[str, str] | None = None, **attrs: Any) -> None:
        """Take over `node`, on what the stream has for its inputs, or on `names`."""
        names = names or {}
        inputs = tuple(names.get(name, self.here(name)) if name else "" for name in node.inputs)
        self.result.nodes.append(node.with_(inputs=inputs, attrs={**node.attrs, **attrs}))

    def number(self, array: Any) -> str:
        """A constant of the stream's graph."""
        return self.result.constant(np.asarray(array))

    def refuse(self, node: Node, why: str, hint: str = "Use run(frames) or model(x) on whole recordings") -> Exception:
        """The error for what a stream cannot do."""
        return UnsupportedModelError(f"does not stream: it {why}", source=self.graph.source, node=node.label, hint=hint)

    # ------------------------------------------------------------------ what a walk shows
    def per_step(self, rate: Fraction) -> int:
        """Frames per step; 1 where that takes more than the hop."""
        return max(int(rate * self.hop), 1)

    def axis_in(self, name: str) -> int | None:
        """The axis of a value that is time and nothing else."""
        value = self.ctx.values.get(name)
        if not isinstance(value, View):
            return None
        return next((k for k, tag in enumerate(value.tags) if self.ctx.root(tag) == TIME), None)

    def has_frames(self, name: str) -> bool:
        value = self.ctx.values.get(name)
        return isinstance(value, View) and any(is_in(self.ctx.root(tag), TIME) for tag in value.tags)

    def count(self, name: str) -> int:
        """Frames that the whole call has of a value."""
        value = self.ctx.values[name]
        assert isinstance(value, View)
        for size, tag in zip(value.shape, map(self.ctx.root, value.tags), strict=True):
            if tag == TIME:
                return size
            if isinstance(tag, Merged):
                for part, length in tag.parts:
                    if is_in(part, TIME):
                        return length
        return 0

    def enter(self, name: str, rate: Fraction, lead: int, fill: float | None, ahead: str, final: int) -> None:
        """Note the age of a value that a node of the file makes."""
        self.rates.add(rate)
        tail = self.count(name) - int(rate * self.hop * self.steps)
        final = lead if final >= tail else min(final, lead)  # the end changes nothing that is there
        self.timed[name] = Timed(rate, lead, tail, self.axis_in(name), fill, ahead if final < 0 else "", final)
        self.decisions.append((name, self.timed[name]))

    # ------------------------------------------------------------------ delays
    def delayed(self, node: Node, name: str, lead: int) -> str:
        """A value of the file, by as many frames older as `lead` is less than its own."""
        age = self.timed[name]
        late = age.lead - lead
        if late == 0:
            return self.here(name)
        if age.axis is None:
            raise self.refuse(node, f"takes {name!r}, whose frames lie within one axis, {late} frames late")
        if (name, lead) not in self._aligned:
            self._aligned[name, lead] = self.remember(node, self.here(name), age, late, delay=True)
        return self._aligned[name, lead]

    def remember(self, node: Node, name: str, age: Timed, frames: int, *, delay: bool = False, every: int = 1) -> str:
        """The value `name` of the stream with `frames` frames of before."""
        if frames == 0 and every == 1:
            return name
        assert age.axis is not None
        fill = (age.fill or 0.0) if age.lead > 0 else 0.0
        # Frames from before the first that are not one known number have to be made, before the stream begins.
        made = age.lead > 0 and age.fill is None and frames > 0
        attrs: dict[str, Any] = {
            "axis": age.axis,
            "frames": frames,
            "delay": delay,
            "every": every,
            "fill": fill,
            "made": made,
        }
        return self.emit(node, "Memory", [name], **attrs)

    def begun(self, node: Node, name: str, age: Timed, first: int, fill: float, output: str = "") -> str:
        """The value `name` of the stream, with `fill` before frame number `first`."""
        rate = self.per_step(age.rate)
        return self.emit(node, "Begin", [name], output, axis=age.axis, rate=rate, lead=age.lead, first=first, fill=fill)

    def later(self, node: Node, name: str, steps: int) -> str:
        """A value that stands for all frames, `steps` steps later."""
        if steps == 0:
            return name
        zero = self.number(np.array([0]))
        long = self.emit(node, "Unsqueeze", [name, zero])
        late = self.emit(node, "Memory", [long], axis=0, frames=steps, delay=True, every=1, fill=0.0, made=False)
        return self.emit(node, "Squeeze", [late, zero])

    def steady(self, node: Node, name: str) -> tuple[str, int]:
        """The value `name` of the file where it is about all frames so far, and how many steps ago that was.

        Its last frame is then the whole call's last one of as many frames.
        """
        age = self.timed[name]
        late = self.lateness(age)
        return self.delayed(node, name, age.tail - late * self.per_step(age.rate)), late

    def lateness(self, age: Timed) -> int:
        """Steps until the last frame that the whole call has of as many is there."""
        return max(-((age.final - age.tail) // self.per_step(age.rate)), 0)

    def waits(self, age: Timed) -> int:
        """The first step that makes a frame of the recording."""
        return -(age.lead // self.per_step(age.rate))
