"""Loops whose turns are counted when the model is called: nodes with the loop's body as a graph.

What a turn changes is a state of the loop: names that it sets, tensors that it writes into, elements of lists. A list
that it only appends to becomes one tensor, stacked. Which these are, and what their shapes are, is found by evaluating
the body until nothing more is found.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...engine.errors import UnsupportedModelError
from ...engine.graph import Dim
from ..aten import SymInt, Tensor
from .operators import Operators
from .scopes import Scope
from .values import Appended, Size, Stacked, Unknown, Var

__all__ = ["Loop", "assigned"]

#: How often the body of a loop is evaluated before its shapes have to agree.
MOST_PASSES = 8
MOST_LEAVES = 4096
LONG, BOOL = np.dtype(np.int64), np.dtype(np.bool_)


def assigned(statements: Sequence[ast.stmt]) -> list[str]:
    """The names that statements set, in their order."""
    nodes = [node for statement in statements for node in ast.walk(statement)]
    return list(dict.fromkeys(n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)))


def leaves(value: Any) -> Iterator[Any]:
    """What a value is made of.

    Raises ValueError where that is more than any loop carries: values may be nested without taking memory.
    """
    left, count = [value], 0
    while left:
        value = left.pop()
        count += 1
        if count > MOST_LEAVES:
            raise ValueError(f"a loop carries more than {MOST_LEAVES} values")
        if isinstance(value, (list, tuple)):
            left += reversed(value)
        else:
            yield value


def rebuilt(value: Any, made: Iterator[Any]) -> Any:
    """A value of the same structure, of other leaves."""
    if isinstance(value, (list, tuple)):
        return type(value)(rebuilt(part, made) for part in value)
    return next(made)


@dataclass
class _Reach:
    """The tensors and lists that the program can reach before a loop, and what they are then."""

    vars: dict[Var, tuple[Tensor, int, int, str]] = field(default_factory=dict)
    lists: dict[int, tuple[list[Any], list[Any]]] = field(default_factory=dict)
    tuples: dict[int, tuple[Any, ...]] = field(default_factory=dict)

    def enter(self, value: Any) -> None:
        while isinstance(value, Var) and value not in self.vars:
            self.vars[value] = (value.tensor, value.version, value.seen, value.broken)
            value = value.base
        if not isinstance(value, (list, tuple)) or id(value) in self.lists or id(value) in self.tuples:
            return
        if isinstance(value, list):
            self.lists[id(value)] = (value, list(value))
        else:
            self.tuples[id(value)] = value
        for part in value:
            self.enter(part)

    def restore(self) -> None:
        for var, (tensor, version, seen, broken) in self.vars.items():
            var.tensor, var.version, var.seen, var.broken = tensor, version, seen, broken
        for held, copy in self.lists.values():
            held[:] = copy


class Loop:
    """One loop on its way into a node.

    Parameters
    ----------
    operators : Operators
    env : dict
        What names stand for before the loop, and, after `run`, behind it.
    names : sequence of str
        What the loop sets.
    turn : function
        Evaluates the body once, in an environment that it is given.
    refuse : function
        Makes an error of a sentence.
    """

    def __init__(
        self,
        operators: Operators,
        env: dict[str, Any],
        names: Sequence[str],
        turn: Callable[[dict[str, Any]], Any],
        refuse: Callable[[str], UnsupportedModelError],
    ) -> None:
        self.operators, self.env, self.turn, self.refuse = operators, env, turn, refuse
        self.names = [name for name in names if name in env]
        self.reach = _Reach()
        for value in env.values():
            self.reach.enter(value)
        #: What is carried from turn to turn besides names, and lists that are appended to.
        self.vars: list[Var] = []
        self.lists: list[list[Any]] = []
        self.appended: list[list[Any]] = []
        #: Shapes of what is carried, as far as turns agree.
        self.shapes: list[tuple[Dim, ...] | None] = []
        self.first: Any = True

    def run(self, trip: Any, counter: str | None, first: Any = True) -> None:
        """Add the node: `trip` turns, or None where the body says when to end.

        `counter` is the name of the turn's number, `first` says whether there is a first turn.
        """
        self.first = first
        for _ in range(MOST_PASSES):
            if self._pass(trip, counter):
                return
        raise self.refuse("a loop whose tensors change their shapes from turn to turn")

    # ------------------------------------------------------------------ one pass
    def _pass(self, trip: Any, counter: str | None) -> bool:
        """Evaluate the body; whether everything that it carries was known before."""
        begins = self._carried(self.env)
        tensors = [self._tensor(leaf) for leaf in begins]
        if len(self.shapes) != len(begins):
            self.shapes = [None if t is None else t.shape for t in tensors]
        scope = self.operators.scopes.enter()
        try:
            graph = scope.aten.graph
            index = graph.input(graph.fresh("i"), (), LONG)
            graph.input(graph.fresh("cond"), (), BOOL)
            places = [self._place(leaf, t, k, scope) for k, (leaf, t) in enumerate(zip(begins, tensors, strict=True))]
            inside = dict(self.env)
            if counter is not None:
                inside[counter] = SymInt(index)
            collected = self._enter(inside, iter(places))
            more = self.turn(inside)
            found = self._found(inside)
            if not found:
                ends = [self._ended(leaf, a) for leaf, a in zip(self._carried(inside), begins, strict=True)]
                found = self._widened(ends)
            gathered = [self._gathered(each) for each in collected]
            test = self._tensor(True if more is None else more)
        finally:
            self.operators.scopes.leave()
            self.reach.restore()
        if found:
            return False
        if test is None:
            raise self.refuse("a loop whose end depends on more than sizes")
        self._finish(trip, begins, tensors, scope, test, ends, gathered)
        return True

    def _carried(self, env: dict[str, Any]) -> list[Any]:
        """What is carried from turn to turn, in leaves."""
        held = [*(env[name] for name in self.names if not self._is_appended(env[name])), *self.vars, *self.lists]
        return [leaf for value in held for leaf in leaves(value)]

    def _is_appended(self, value: Any) -> bool:
        return isinstance(value, Appended) or any(value is each for each in self.appended)

    def _tensor(self, leaf: Any) -> Tensor | None:
        """A leaf as a tensor of the present graph; None where it is none."""
        aten = self.operators.aten
        if isinstance(leaf, (Var, SymInt)) or (isinstance(leaf, Unknown) and leaf.tensor is not None):
            return self.operators.tensor(leaf)
        if isinstance(leaf, (bool, int)):
            return aten.constant(np.array(leaf, BOOL if isinstance(leaf, bool) else LONG))
        return aten.constant(np.array(leaf, np.float32)) if isinstance(leaf, float) else None

    def _place(self, leaf: Any, tensor: Tensor | None, k: int, scope: Scope) -> Any:
        """What stands for a leaf in the body."""
        if tensor is None:
            return leaf
        graph = scope.aten.graph
        name = graph.input(graph.fresh("state"), self.shapes[k], tensor.dtype)
        return self._like(leaf, Tensor(name, tensor.dtype, self.shapes[k]))

    @staticmethod
    def _like(leaf: Any, tensor: Tensor) -> Any:
        if isinstance(leaf, (bool, Unknown)):
            return Unknown(tensor)
        return SymInt(tensor.name) if isinstance(leaf, (int, SymInt)) else Var(tensor)

    def _enter(self, inside: dict[str, Any], places: Iterator[Any]) -> list[Appended]:
        """Put what stands for leaves where these are."""
        collected = {id(each): Appended() for each in self.appended}
        for name, value in inside.items():
            if id(value) in collected:
                inside[name] = collected[id(value)]
        for name in self.names:
            if not self._is_appended(inside[name]):
                inside[name] = rebuilt(inside[name], places)
        for var in self.vars:
            var.tensor, var.version = next(places).tensor, var.version + 1
        for held in self.lists:
            held[:] = rebuilt(held, places)
        return list(collected.values())

    def _found(self, inside: dict[str, Any]) -> bool:
        """Whether the body changed what was not known to be carried."""
        found = False
        for var, (_, version, _, broken) in self.reach.vars.items():
            if (var.version != version or var.broken != broken) and var not in self.vars and var.base is None:
                self.vars.append(var)
                found = True
        for held, before in self.reach.lists.values():
            if any(held is each for each in (*self.lists, *self.appended)):
                continue
            if len(held) > len(before) == 0:
                self.appended.append(held)
                found = True
            elif len(held) != len(before) or any(a is not b for a, b in zip(held, before, strict=True)):
                if len(held) != len(before):
                    raise self.refuse("a loop that changes the length of a list that was not empty before")
                self.lists.append(held)
                found = True
        return found

    def _ended(self, leaf: Any, begin: Any) -> Tensor | None:
        tensor = self._tensor(leaf)
        if tensor is None and leaf is not begin and leaf != begin:
            raise self.refuse(f"a loop that carries a {type(leaf).__name__}")
        return tensor

    def _widened(self, ends: list[Tensor | None]) -> bool:
        """Whether a turn changed the shape of what is carried."""
        wider = []
        for shape, end in zip(self.shapes, ends, strict=True):
            if shape is not None and end is not None:
                if end.shape is None or len(end.shape) != len(shape):
                    raise self.refuse("a loop that changes the number of axes of a tensor")
                shape = tuple(a if a == b else None for a, b in zip(shape, end.shape, strict=True))
            wider.append(shape)
        changed, self.shapes = wider != self.shapes, wider
        return changed

    def _gathered(self, each: Appended) -> Tensor:
        parts = [self._tensor(value) for value in each.values]
        if len(parts) != 1 or parts[0] is None:
            raise self.refuse("a loop that appends to a list other than one tensor a turn")
        return parts[0]

    # ------------------------------------------------------------------ the node
    def _finish(
        self,
        trip: Any,
        begins: list[Any],
        tensors: list[Tensor | None],
        scope: Scope,
        test: Tensor,
        ends: list[Tensor | None],
        gathered: list[Tensor],
    ) -> None:
        operators, body = self.operators, scope.aten.graph
        kept = [k for k, tensor in enumerate(tensors) if tensor is not None]
        begin = [tensor for tensor in tensors if tensor is not None]
        states = [end for end in (ends[k] for k in kept) if end is not None]
        if len(states) != len(kept):
            raise self.refuse("a loop that carries what is a tensor only before it, or only in it")
        for tensor, before in zip(states, begin, strict=True):
            if tensor.dtype.kind != before.dtype.kind:
                raise self.refuse("a loop that changes the type of a tensor")
        for tensor in (test, *states, *gathered):
            body.output(tensor.name, tensor.shape, tensor.dtype)
        captured = operators.scopes.inputs(scope)
        scope.aten.prune()
        count = "" if trip is None else operators.aten.int_scalar(operators.size(trip))
        begun = "" if self.first is True else operators.tensor(self.first).name
        made = operators.aten.graph.add(
            "Loop",
            (count, begun, *(tensor.name for tensor in begin), *captured),
            len(states) + len(gathered),
            name=operators.where,
            body=body,
            states=len(states),
        )
        after = list(begins)
        for k, name, state in zip(kept, made, states, strict=False):
            after[k] = self._like(begins[k], Tensor(name, state.dtype, self.shapes[k]))
        turns = trip.dim or None if isinstance(trip, Size) else None
        self._leave(
            iter(after),
            [
                Stacked(Var(Tensor(name, part.dtype, None if part.shape is None else (turns, *part.shape))), 0, trip)
                for name, part in zip(made[len(states) :], gathered, strict=True)
            ],
        )

    def _leave(self, after: Iterator[Any], stacked: list[Stacked]) -> None:
        """What names, tensors and lists are behind the loop."""
        lists = {id(each): made for each, made in zip(self.appended, stacked, strict=True)}
        for name in self.names:
            if not self._is_appended(self.env[name]):
                self.env[name] = rebuilt(self.env[name], after)
        for var in self.vars:
            var.write(next(after).tensor)
        for held in self.lists:
            held[:] = rebuilt(held, after)
        for name, value in self.env.items():
            self.env[name] = lists.get(id(value), value)
