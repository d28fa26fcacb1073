"""Loop: repeated where one iteration can be lowered for all, else all of them one behind the other.

Iterations differ where they make values of other shapes than the one before, or build a program around the counter.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import GatestepError, NeedsValue
from ..graph import Graph, Node, Port, needed
from ..values import ValueList, View
from .control import TooLong, computed, counted, is_known, padded, truth, without
from .plumbing import BY_INDEX, cast
from .registry import Array, Op, register
from .repeating import INT64, ZERO, Changes, begun, repeat, stacked

if TYPE_CHECKING:
    from ..lowering import Lowering

__all__ = ["Clock"]

#: Nodes of all iterations that are lowered one behind the other.
MOST_UNROLLED = 20_000


class Clock:
    """The part of a loop that is known before it runs: states that follow from the counter and what is known."""

    def __init__(self, body: Graph, states: int, values: Sequence[Any]) -> None:
        names = [port.name for port in body.inputs]
        self.made = {name: node for node in body.nodes for name in node.outputs if name}
        self.body, self.inputs = body, dict(zip(names, values, strict=True))
        held = {names[0], names[1]}
        held |= {name for name, value in zip(names[2 + states :], values[2 + states :], strict=True) if is_known(value)}
        ticking = {
            k for k in range(states) if isinstance(values[2 + k], np.ndarray) and values[2 + k].size <= 64
        }  # counters, not tensors
        needs = [self._inputs(port.name) for port in body.outputs]
        while True:
            self.known = known = held | {names[2 + k] for k in ticking}
            left = {k for k in ticking if needs[1 + k] <= known}
            if left == ticking:
                break
            ticking = left
        self.ticking = sorted(ticking)
        self.knows_condition = needs[0] <= known

    def _inputs(self, name: str) -> set[str]:
        """The inputs of the body that a value depends on."""
        seen, todo = {name}, [name]
        while todo:
            node = self.made.get(todo.pop())
            for source in node.inputs if node is not None else ():
                if source and source not in seen:
                    seen.add(source)
                    todo.append(source)
        return seen & self.inputs.keys()

    def knows(self, names: Sequence[str]) -> bool:
        """Whether these values of the body follow from what is known."""
        return all(self._inputs(name) <= self.known for name in names)

    def iterations(self, limit: int | None) -> int:
        """How many iterations there are, at most `limit`."""
        return len(self.series(limit, ()))

    def series(self, limit: int | None, names: Sequence[str]) -> list[list[Any]]:
        """What `names` are in each iteration."""
        body = self.body
        ports = [port.name for port in body.inputs]
        wanted = [body.outputs[0].name, *(body.outputs[1 + k].name for k in self.ticking), *names]
        part = body.with_(nodes=needed(body, wanted, self.inputs))
        read = set(wanted).union(*(node.inputs for node in part.nodes))
        part.inputs = [port for port in body.inputs if port.name in read]
        part.outputs = [Port(name, None, INT64) for name in wanted]
        values = dict(self.inputs)

        def run() -> list[list[Any]]:
            found: list[list[Any]] = []
            while limit is None or len(found) < limit:
                values[ports[0]] = np.array(len(found), INT64)
                values[ports[1]] = np.array(True)
                more, *after = computed(part, [plain(values[port.name]) for port in part.inputs])
                found.append(after[len(self.ticking) :])
                values.update((ports[2 + s], value) for s, value in zip(self.ticking, after, strict=False))
                if not truth(more, "the condition"):
                    break
            return found

        with np.errstate(all="ignore"):
            result: list[list[Any]] = counted(run)
        return result


def plain(value: Any) -> Any:
    """A known value as `evaluate` takes it."""
    return tuple(map(plain, value.items)) if isinstance(value, ValueList) else value


@register("Loop")
class Loop(Op):
    """Carry states through a body, for a number of iterations and while a condition holds; stack what each gives."""

    folds = False

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        trip, condition, *values = padded(node, inputs)
        body, count = node.attrs["body"], node.attrs["states"]
        limit = math.inf if trip is None else int(trip.reshape(()))

        states, captured = values[:count], values[count:]
        more, k = condition is None or truth(condition, "the condition"), 0
        given: list[list[Array]] = [[] for _ in body.outputs[1 + count :]]
        while more and k < limit:
            go, *after = computed(body, [np.array(k, INT64), np.array(True), *states, *captured])
            states = after[:count]
            for stack, value in zip(given, after[count:], strict=True):
                stack.append(value)
            more, k = truth(go, "the condition"), k + 1
        if given and not k:
            after = computed(body, [ZERO, np.array(True), *states, *captured])[1 + count :]
            return *states, *(np.zeros((0, *value.shape), value.dtype) for value in after)
        return *states, *map(np.stack, given)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Any) -> tuple[Any, ...]:
        trip, condition, *values = padded(node, inputs)
        body, count = node.attrs["body"], node.attrs["states"]
        kept = {k for k in range(count) if body.outputs[1 + k].name == body.inputs[2 + k].name}  # handed on as it is
        limit: Any = None
        if trip is not None:
            if trip.dtype.kind not in "iu" or math.prod(trip.shape) != 1:
                raise ValueError(f"the number of iterations is {trip.dtype} of shape {trip.shape}, not one integer")
            limit = max(int(trip.reshape(-1)[0]), 0) if isinstance(trip, np.ndarray) else trip
        if isinstance(condition, View) and (condition.dtype != np.bool_ or condition.count != 1):
            raise ValueError(f"the condition is of {condition.dtype} and shape {condition.shape}, not one truth value")
        enters = isinstance(condition, View) or condition is None or truth(condition, "the condition")
        clock = Clock(body, count, [ZERO, np.array(True), *values])
        steps: int | None = None if isinstance(limit, View) or isinstance(condition, View) else limit
        exact = steps is not None and Loop._goes_on(body)
        if not enters or limit == 0:
            steps, exact = 0, True
        elif not exact and clock.knows_condition and not isinstance(limit, View) and not Loop._goes_on(body):
            with contextlib.suppress(TooLong):  # then the running program finds out
                limit = clock.iterations(limit)
                steps, exact = (limit, True) if not isinstance(condition, View) else (None, False)
        loop = _LoopCall(ctx, node, values, kept, steps if exact else limit, condition, exact)
        return loop.lower()

    @staticmethod
    def _goes_on(body: Graph) -> bool:
        """Whether the condition always holds."""
        name = body.outputs[0].name
        known = body.constants.get(name)
        return name == body.inputs[1].name or (known is not None and known.size == 1 and bool(known.reshape(-1)[0]))


class _LoopCall:
    """One Loop on its way into instructions. `count` is exact, or the most iterations that there can be."""

    def __init__(
        self, ctx: Lowering, node: Node, values: list[Any], kept: set[int], count: Any, condition: Any, exact: bool
    ) -> None:
        self.ctx, self.node, self.body = ctx, node, node.attrs["body"]
        self.states, self.captured = values[: node.attrs["states"]], values[node.attrs["states"] :]
        self.kept, self.count, self.condition, self.exact = kept, count, condition, exact
        self.live = [k for k in range(len(self.states)) if k not in kept]
        first = len(self.states)
        scans = range(len(self.body.outputs) - 1 - first)
        self.scans = [k for k in scans if first + k < len(node.outputs) and ctx.used(node.outputs[first + k])]
        self.wanted = [0, *(1 + k for k in self.live), *(1 + first + k for k in self.scans)]

    def iteration(self, counter: Any, states: Sequence[Any]) -> tuple[Any, list[Any], list[Any]]:
        """Lower the body once."""
        now = list(self.states)
        for k, value in zip(self.live, states, strict=True):
            now[k] = value
        results = self.ctx.inline(self.node, self.body, [counter, np.array(True), *now, *self.captured], self.wanted)
        given = [results[k] for k in self.wanted[1:]]
        return results[0], given[: len(self.live)], given[len(self.live) :]

    def lower(self) -> tuple[Any, ...]:
        ctx, node = self.ctx, self.node
        small = self.exact and self.count * (len(self.body.nodes) + 1) <= MOST_UNROLLED
        lists = any(isinstance(value, ValueList) for value in self.states)
        inputs = [*self.states, *self.captured]
        if (self.exact and self.count <= 1) or (small and (lists or all(map(is_known, inputs)))):
            return self.unrolled()
        trial = ctx.trial()
        try:
            if lists:
                raise Changes("it carries a sequence")
            return self.repeated()
        except (Changes, GatestepError, NeedsValue) as error:
            if not small:
                if not isinstance(error, Changes):
                    raise
                raise ctx.unsupported(
                    node,
                    f"{error}, which is supported for a small number of iterations that is known before it runs",
                ) from None
            ctx.undo(trial)
            return self.unrolled()

    def finished(self, states: Sequence[Any], scans: Sequence[Any]) -> tuple[Any, ...]:
        """The outputs of the node."""
        results: list[Any] = [*self.states, *[None] * (len(self.body.outputs) - 1 - len(self.states))]
        for k, value in zip(self.live, states, strict=True):
            results[k] = value
        for k, value in zip(self.scans, scans, strict=True):
            results[len(self.states) + k] = value
        return tuple(results)

    def unrolled(self) -> tuple[Any, ...]:
        """All iterations, one behind the other."""
        ctx, node = self.ctx, self.node
        states = [self.states[k] for k in self.live]
        given: list[list[Any]] = [[] for _ in self.scans]
        with ctx.inside():
            for k in range(self.count):
                _, states, made = self.iteration(np.array(k, INT64), states)
                for stack, value in zip(given, made, strict=True):
                    stack.append(value)
            if self.scans and not self.count:
                trial = ctx.trial()
                shapes = self.iteration(ZERO, [begun(ctx, node, value) for value in states])[2]
                ctx.undo(trial)
                return self.finished(states, [np.zeros((0, *value.shape), value.dtype) for value in shapes])
        return self.finished(states, [stacked(ctx, node, values) for values in given])

    def repeated(self) -> tuple[Any, ...]:
        """One iteration, repeated."""
        ctx, node = self.ctx, self.node
        if self.scans and not self.exact:
            if isinstance(self.count, View) or isinstance(self.condition, View):
                raise ctx.unknown(node, [k for k, name in enumerate(node.inputs[:2]) if name])
            raise ctx.unsupported(
                node,
                "collects values of iterations whose number is known only when it runs",
                hint="Export it with a fixed number of iterations, or cut it off with outputs=[...]",
            )
        entry = self.condition if isinstance(self.condition, View) else None
        if not self.exact:
            for name in node.inputs[:2]:
                if name:
                    ctx.chose(node, name)
        count = np.iinfo(np.int64).max if self.count is None else self.count
        if isinstance(count, View):
            count = ctx.dense(node, cast(ctx, node, count, INT64))
        stacks: list[View] = []

        def iterate(counter: View, states: list[View]) -> tuple[Any, list[Any], list[Any]]:
            more, after, given = self.iteration(counter, states)
            if self.exact:
                more = np.array(True)  # it holds as often as was found out
            elif isinstance(more, np.ndarray):
                more = None if truth(more, "the condition") else ctx.view(np.array(False))
            return more, after, given

        def targets(given: list[Any]) -> list[tuple[View, View, tuple[int, int]]]:
            copies = []
            for value in given:
                if isinstance(value, ValueList):
                    raise ctx.unsupported(node, "gives a sequence in each iteration")
                view = ctx.view(value)
                stack = ctx.temp((self.count, *view.shape), view.dtype, (None, *view.tags))
                stacks.append(stack)
                copies.append((view, without(stack, 0), (0, stack.strides[0])))
            return copies

        states = [begun(ctx, node, self.states[k]) for k in self.live]
        noted = len(ctx.mixings)
        states = repeat(ctx, node, count, entry, states, iterate, targets, endless=True)
        if any(state.dtype == ctx.real for state in states):
            # What it picks by its counter it runs over, with a state: that is what time is.
            for mixing in ctx.mixings[noted:]:
                if mixing.reason == BY_INDEX and isinstance(mixing.tag, str):
                    ctx.unify(mixing.tag, "time")
        return self.finished(states, stacks)
