"""What is repeated: one iteration between a label and a jump back to it, with buffers that live as long as the loop.

A counter says which part of an array an iteration reads or writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graph import Node
from ..values import Tag, ValueList, View
from .control import aside, jump, moved, without

if TYPE_CHECKING:
    from ..lowering import Lowering

__all__ = ["MOST_WALKS", "Changes", "begun", "carried_tags", "carry_on", "repeat", "same_form", "stacked"]

INT64 = np.dtype(np.int64)
ZERO = np.zeros((), INT64)
#: Walks over a body until what is carried has the tags that an iteration gives it.
MOST_WALKS = 4


class Changes(Exception):
    """What an iteration carries on is not of the shape or type that it was handed."""


def same_form(before: Sequence[Any], after: Sequence[Any]) -> None:
    """Hold what an iteration carries on against what it was handed."""
    for k, (old, new) in enumerate(zip(before, after, strict=True)):
        if isinstance(new, ValueList):
            raise Changes(f"state {k} becomes a sequence")
        if new.shape != old.shape or new.dtype != old.dtype:
            raise Changes(
                f"state {k} is {old.dtype} {old.shape} before an iteration and {new.dtype} {new.shape} after it"
            )


#: From the counter and the states before an iteration: whether another follows, the states after it, what it gives.
Iterate = Callable[[View, list[View]], tuple[Any, list[Any], list[Any]]]


def repeat(
    ctx: Lowering,
    node: Node,
    count: int | View,
    entry: View | None,
    states: list[View],
    iterate: Iterate,
    targets: Callable[[list[Any]], list[tuple[View, View, tuple[int, int]]]],
    *,
    endless: bool = False,
) -> list[View]:
    """A loop; `endless` if nothing but the file says that it is not. `states` are the buffers that it carries.

    Returns them with the tags that they turn out to have. `targets` says, for what an iteration gives, the source of
    each copy, its target, and the steps of one count.
    """
    counter = ctx.copy(node, ctx.view(ZERO), ctx.temp((), INT64))
    begin, end = ctx.label(node), ctx.label(node)
    limit = {0: count} if isinstance(count, View) else {}
    most = count if isinstance(count, int) else 0
    if entry is not None:
        jump(ctx, node, end, entry)
    if not isinstance(count, int):
        ctx.emit("count", node, {**limit, 1: counter, 4: counter}, [0, 0, 0, 0]).target = end
    ctx.place(begin)
    with ctx.inside():
        for walked in range(1, MOST_WALKS + 1):
            trial = ctx.trial()
            more, after, given = iterate(counter, states)
            same_form(states, after)
            tags = [carried_tags(ctx, before, value) for before, value in zip(states, after, strict=True)]
            if walked == MOST_WALKS or all(view.tags == new for view, new in zip(states, tags, strict=True)):
                break
            states = [view.with_(tags=new) for view, new in zip(states, tags, strict=True)]
            ctx.undo(trial)
    for source, target, steps in targets(given):
        moved(ctx, node, source, target, counter, steps)
    carry_on(ctx, node, states, after)
    if isinstance(more, View):
        jump(ctx, node, end, more)
    ctx.emit("count", node, {**limit, 1: counter, 4: counter}, [0, 1, 1, most, endless]).target = begin
    ctx.place(end)
    return states


def carried_tags(ctx: Lowering, before: Any, after: Any) -> tuple[Tag, ...]:
    """Tags of a state: those that it begins with, and where it begins without, those that an iteration gives it."""
    if not isinstance(before, View):
        return ()
    if not isinstance(after, View):
        return before.tags
    return tuple(
        a if b is None else b if a is None else ctx.unify(a, b) if ctx.root(a) != ctx.root(b) else a
        for a, b in zip(before.tags, after.tags, strict=True)
    )


def carry_on(ctx: Lowering, node: Node, states: Sequence[View], after: Sequence[Any]) -> None:
    """Put what an iteration gives into the buffers of the states; none is overwritten before it has been read."""
    buffers = {view.buffer for view in states}
    copies = []
    for target, value in zip(states, after, strict=True):
        source = ctx.view(value)
        if (source.buffer, source.offset, source.strides) == (target.buffer, target.offset, target.strides):
            continue
        copies.append((aside(ctx, node, source) if source.buffer in buffers else source, target))
    for source, target in copies:
        ctx.copy(node, source, target)


def begun(ctx: Lowering, node: Node, value: Any) -> View:
    """A buffer for a state, with what it begins with."""
    return aside(ctx, node, ctx.view(value))


def stacked(ctx: Lowering, node: Node, values: list[Any]) -> Any:
    """Values of one shape along a new first axis."""
    if all(isinstance(value, np.ndarray) for value in values):
        return np.stack(values)
    views = [ctx.view(value) for value in values]
    first = views[0]
    if any(view.shape != first.shape or view.dtype != first.dtype for view in views):
        raise ValueError(f"stacks values of shapes {sorted({view.shape for view in views})}")
    stack = ctx.temp((len(views), *first.shape), first.dtype, (None, *first.tags))
    for k, view in enumerate(views):
        ctx.copy(node, view, without(stack, 0).with_(offset=k * stack.strides[0]))
    return stack
