"""Sequences of values. They are there while a program is built, and no longer when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import UnsupportedModelError
from ..graph import Node
from ..values import ValueList, View
from .control import is_known
from .plumbing import Concat, Unsqueeze, axes_of, windowed
from .registry import Array, Op, register

if TYPE_CHECKING:
    from ..lowering import Lowering


def place(values: tuple[Any, ...], position: Any, *, end: bool = False) -> int:
    """Where `position` points in a sequence; without one, the last place (`end`: behind it)."""
    count = len(values) + int(end)
    at = count - 1 if position is None else int(np.asarray(position).reshape(()))
    if not -len(values) <= at < count:
        raise IndexError(f"position {at} lies outside a sequence of {len(values)}")
    return at + len(values) if at < 0 else at


class Listed(Op):
    """An operator on sequences: what it does with tuples of arrays is what it does with those of other values."""

    folds = False
    known: ClassVar[Sequence[int]] = ()

    @staticmethod
    def apply(node: Node, *inputs: Any) -> Any:
        raise NotImplementedError

    @classmethod
    def evaluate(cls, node: Node, *inputs: Any) -> tuple[Any, ...]:
        return (cls.apply(node, *inputs),)

    @classmethod
    def lower(cls, ctx: Lowering, node: Node, *inputs: Any) -> tuple[Any, ...]:
        for k in cls.known:
            if k < len(inputs) and isinstance(inputs[k], View):
                raise ctx.unknown(node, [k])
        plain = [value.items if isinstance(value, ValueList) else value for value in inputs]
        result = cls.apply(node, *plain)
        return (ValueList(result) if isinstance(result, tuple) else result,)


def sequence(node: Node, values: Any) -> tuple[Any, ...]:
    """The items of a sequence, which is what it has to be."""
    if not isinstance(values, tuple):
        raise UnsupportedModelError("takes a sequence and is given a tensor", node=node.label)
    return values


@register("SequenceEmpty")
class SequenceEmpty(Listed):
    """A sequence of nothing."""

    @staticmethod
    def apply(node: Node, *inputs: Any) -> Any:
        return ()


@register("SequenceConstruct")
class SequenceConstruct(Listed):
    """A sequence of the inputs."""

    @staticmethod
    def apply(node: Node, *inputs: Any) -> Any:
        return tuple(inputs)


@register("SequenceInsert")
class SequenceInsert(Listed):
    """A sequence with a value more, before `position` or at the end."""

    known = (2,)

    @staticmethod
    def apply(node: Node, *inputs: Any) -> Any:
        values, value, position = (*inputs, None)[:3]
        at = place(sequence(node, values), position, end=True)
        return (*values[:at], value, *values[at:])


@register("SequenceErase")
class SequenceErase(Listed):
    """A sequence without the value at `position`, or without the last one."""

    known = (1,)

    @staticmethod
    def apply(node: Node, *inputs: Any) -> Any:
        values, position = (*inputs, None)[:2]
        at = place(sequence(node, values), position)
        return (*values[:at], *values[at + 1 :])


@register("SequenceAt")
class SequenceAt(Listed):
    """The value at `position`."""

    known = (1,)

    @staticmethod
    def apply(node: Node, *inputs: Any) -> Any:
        values, position = inputs
        return sequence(node, values)[place(values, position)]


@register("SequenceLength")
class SequenceLength(Listed):
    """How many values there are."""

    @staticmethod
    def apply(node: Node, *inputs: Any) -> Any:
        return np.array(len(sequence(node, inputs[0])), np.int64)


@register("SplitToSequence")
class SplitToSequence(Op):
    """The parts of an axis: of one element, of a size (the last may be smaller), or of sizes given."""

    folds = False

    @staticmethod
    def _parts(node: Node, x: Any, split: Array | None) -> tuple[int, list[int], bool]:
        (axis,) = axes_of(np.array(node.attrs["axis"]), x.ndim)
        size = x.shape[axis]
        if split is None:
            return axis, [1] * size, node.attrs["keepdims"]
        sizes = [int(n) for n in split.reshape(-1)]
        if split.ndim == 0:
            if sizes[0] < 1:
                raise ValueError(f"splits into parts of {sizes[0]}")
            sizes = [min(sizes[0], size - at) for at in range(0, size, sizes[0])]
        if sum(sizes) != size or min(sizes, default=0) < 0:
            raise ValueError(f"split={sizes[:16]} does not fit an axis of {size}")
        return axis, sizes, True

    @staticmethod
    def evaluate(node: Node, *inputs: Any) -> tuple[Any, ...]:
        x, split = (*inputs, None)[:2]
        axis, sizes, keep = SplitToSequence._parts(node, x, split)
        parts = np.split(x, np.cumsum(sizes)[:-1], axis) if sizes else []
        return (tuple(part if keep else part.squeeze(axis) for part in parts),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Any) -> tuple[Any, ...]:
        x, split = (*inputs, None)[:2]
        if isinstance(split, View):
            raise ctx.unknown(node, [1])
        if isinstance(x, np.ndarray):
            return (ValueList(SplitToSequence.evaluate(node, x, split)[0]),)
        axis, sizes, keep = SplitToSequence._parts(node, x, split)
        parts, at = [], 0
        for size in sizes:
            part = windowed(ctx, node, x, axis, at, 1, size)
            rest = [k for k in range(x.ndim) if keep or k != axis]
            shape, strides, tags = (tuple(of[k] for k in rest) for of in (part.shape, part.strides, part.tags))
            parts.append(part.with_(shape=shape, strides=strides, tags=tags))
            at += size
        return (ValueList(tuple(parts)),)


@register("ConcatFromSequence")
class ConcatFromSequence(Op):
    """The values of a sequence joined along an axis, or along a new one."""

    folds = False

    @staticmethod
    def evaluate(node: Node, *inputs: Any) -> tuple[Any, ...]:
        (values,) = inputs
        if not sequence(node, values):
            raise ValueError("joins a sequence of nothing")
        return ((np.stack if node.attrs["new_axis"] else np.concatenate)(values, axis=node.attrs["axis"]),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Any) -> tuple[Any, ...]:
        (values,) = inputs
        if not isinstance(values, ValueList):
            raise ctx.unsupported(node, "takes a sequence and is given a tensor")
        if is_known(values):
            return ConcatFromSequence.evaluate(node, values.items)
        items = values.items
        if node.attrs["new_axis"]:
            (axis,) = axes_of(np.array(node.attrs["axis"]), items[0].ndim + 1)
            new = np.array([axis])
            items = tuple(
                np.expand_dims(v, axis) if isinstance(v, np.ndarray) else Unsqueeze.lower(ctx, node, v, new)[0]
                for v in items
            )
        return Concat.lower(ctx, node.with_(attrs={"axis": node.attrs["axis"]}), *items)
