"""If, and what control flow shares: bodies by definition, and jumps from kernel call to kernel call.

A branch whose condition is known is lowered as if it stood there. Otherwise both are, one behind the other, with jumps
around them and their results in the same buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import GatestepError, NeedsValue, UnsupportedModelError
from ..graph import Graph, Node
from ..values import Tag, ValueList, View, collapse
from .registry import OPS, Array, Op, register

if TYPE_CHECKING:
    from ..lowering import Instruction, Lowering

__all__ = ["TooLong", "aside", "computed", "counted", "is_known", "jump", "moved", "padded", "truth", "without"]

#: Nodes computed with NumPy to know how often a loop runs: a second or two.
MOST_COMPUTED = 100_000

_left: ContextVar[list[int] | None] = ContextVar("_left", default=None)


class TooLong(Exception):
    """It takes more than `MOST_COMPUTED` nodes to know."""


# ---------------------------------------------------------------------- by definition
def computed(body: Graph, inputs: Sequence[Any], wanted: Sequence[int] | None = None) -> list[Any]:
    """What a body gives for these inputs, by the definitions of its operators; sequences are tuples."""
    left = _left.get()
    if left is not None:
        left[0] -= len(body.nodes) + 1
        if left[0] < 0:
            raise TooLong
    values: dict[str, Any] = {"": None, **body.constants}
    values.update((port.name, value) for port, value in zip(body.inputs, inputs, strict=True))
    for node in body.nodes:
        op = OPS.get(node.op)
        if op is None:
            raise UnsupportedModelError(f"operator {node.op} is not supported", source=body.source, node=node.label)
        args = [values[name] for name in node.inputs]
        while args and args[-1] is None:
            args.pop()
        results = op.evaluate(node, *args)
        values.update((name, value) for name, value in zip(node.outputs, results, strict=False) if name)
    return [values[port.name] for port in body.outputs]


def counted(compute: Callable[[], Any]) -> Any:
    """What `compute` gives; TooLong where that takes too many nodes."""
    token = _left.set([MOST_COMPUTED])
    try:
        return compute()
    finally:
        _left.reset(token)


def truth(value: Any, what: str) -> bool:
    """A condition, of one element."""
    if value.size != 1:
        raise ValueError(f"{what} has {value.size} elements, not one")
    return bool(np.asarray(value).reshape(-1)[0])


def padded(node: Node, inputs: Sequence[Any]) -> list[Any]:
    """The inputs of a node with those left out at the end."""
    return [*inputs, *[None] * (len(node.inputs) - len(inputs))]


def is_known(value: Any) -> bool:
    return all(map(is_known, value.items)) if isinstance(value, ValueList) else isinstance(value, np.ndarray)


# ---------------------------------------------------------------------- jumps
def jump(ctx: Lowering, node: Node, label: Instruction, condition: View | None = None, when: bool = False) -> None:
    """Go on at `label`, where the condition is `when`."""
    ctx.emit("jump", node, {} if condition is None else {0: condition}, [0, when]).target = label


def moved(ctx: Lowering, node: Node, source: View, target: View, counter: View, steps: tuple[int, int]) -> None:
    """Copy from or to the place that `counter` names; `steps` are what one count moves on in source and target."""
    shape, (ss, ts) = collapse(source.shape, source.strides, target.strides)
    if len(shape) > 6:
        raise ctx.unsupported(node, f"moves {len(shape)} axes at once; at most 6 are supported")
    fill = 6 - len(shape)
    n = [len(shape), *shape, *[1] * fill, *ss, *[0] * fill, *ts, *[0] * fill, source.dtype.itemsize, *steps]
    ctx.emit("copy_at", node, {0: source, 1: counter, 4: target}, n)


def without(view: View, axis: int, reverse: bool = False) -> View:
    """The first (last) element along an axis, which goes."""
    at = view.offset + (view.strides[axis] * max(view.shape[axis] - 1, 0) if reverse else 0)
    rest = [k for k in range(view.ndim) if k != axis]
    shape, strides, tags = (tuple(values[k] for k in rest) for values in (view.shape, view.strides, view.tags))
    return view.with_(shape=shape, strides=strides, tags=tags, offset=at)


def aside(ctx: Lowering, node: Node, view: View) -> View:
    """A copy."""
    return ctx.copy(node, view, ctx.temp(view.shape, view.dtype, view.tags))


# ---------------------------------------------------------------------- If
@register("If")
class If(Op):
    """What one of two bodies gives."""

    folds = False

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        condition, *captured = padded(node, inputs)
        body = node.attrs["then" if truth(condition, "the condition") else "orelse"]
        return tuple(computed(body, captured))

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Any) -> tuple[Any, ...]:
        condition, *captured = padded(node, inputs)
        then, orelse = node.attrs["then"], node.attrs["orelse"]
        if isinstance(condition, np.ndarray):
            holds = truth(condition, "the condition")
            return tuple(ctx.inline(node, then if holds else orelse, captured))
        if condition.dtype != np.bool_ or condition.count != 1:
            raise ValueError(f"the condition is of {condition.dtype} and shape {condition.shape}, not one truth value")
        ctx.chose(node, node.inputs[0])
        other, end = ctx.label(node), ctx.label(node)
        used = [k for k, name in enumerate(node.outputs) if name]
        jump(ctx, node, other, condition)
        try:
            with ctx.inside():
                first = ctx.inline(node, then, captured, used)
                mark = len(ctx.instructions)
                second = ctx.inline(node, orelse, captured, used)
        except GatestepError:  # a branch that does not fit these shapes is one that is not taken
            needs = ctx.unknown(node, [0])
            if isinstance(needs, NeedsValue):
                raise needs from None
            raise
        results = {k: If._result(ctx, node, k, first[k], second[k]) for k in used}
        targets = [k for k in used if results[k] is not first[k]]
        behind = ctx.instructions[mark:]
        del ctx.instructions[mark:]
        for k in targets:
            ctx.copy(node, ctx.view(first[k]), results[k])
        jump(ctx, node, end)
        ctx.place(other)
        ctx.instructions += behind
        for k in targets:
            ctx.copy(node, ctx.view(second[k]), results[k])
        ctx.place(end)
        return tuple(results.get(k) for k in range(len(node.outputs)))

    @staticmethod
    def _result(ctx: Lowering, node: Node, k: int, a: Any, b: Any) -> Any:
        """What stands for both values of output `k`: a buffer, unless they are the same."""
        if a is b or (is_known(a) and is_known(b) and alike(a, b)):
            return a
        if isinstance(a, ValueList) or isinstance(b, ValueList):
            raise ctx.unsupported(node, "gives sequences by a condition that is known only when it runs")
        if a.shape != b.shape or a.dtype != b.dtype:
            needs = ctx.unknown(node, [0])
            if isinstance(needs, NeedsValue):
                raise needs
            raise ctx.unsupported(
                node,
                f"its branches give {node.outputs[k].lstrip(chr(0))!r} as {a.dtype} {a.shape} or {b.dtype} {b.shape}, "
                "by a condition that is known only when it runs",
            )
        return ctx.temp(a.shape, a.dtype, tags_of_both(ctx, a, b))


def alike(a: Any, b: Any) -> bool:
    return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)


def tags_of_both(ctx: Lowering, a: Any, b: Any) -> list[Tag]:
    """Tags of what is one of two values of a shape."""
    tags: list[Tag] = [None] * len(a.shape)
    for view in (a, b):
        if isinstance(view, View):
            tags = [ctx.unify(mine, tag) for mine, tag in zip(tags, view.tags, strict=True)]
    return tags
