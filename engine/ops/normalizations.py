"""Normalisation over groups of channels, and by the root of the mean square."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graph import Node
from ..values import Value, View
from .math import binary, reduced, unary
from .plumbing import axes_of
from .registry import Array, Op, register

if TYPE_CHECKING:
    from ..lowering import Lowering


@register("GroupNormalization")
class GroupNormalization(Op):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, with the statistics of a group of channels of a row."""

    known = (1, 2)

    @staticmethod
    def _affine(node: Node, x: Any, scale: Array, bias: Array) -> tuple[Array, Array]:
        """Factor and summand per channel, in the shape that broadcasts; operator set 18 gives one per group."""
        groups = node.attrs["num_groups"]
        if x.ndim < 2 or groups < 1 or x.shape[1] % groups:
            raise ValueError(f"num_groups={groups} does not fit input {x.shape}")
        each = groups if node.attrs["per_group"] else x.shape[1]
        if scale.shape != (each,) or bias.shape != (each,):
            raise ValueError(f"scale {scale.shape} and bias {bias.shape} do not fit {each} channels or groups")
        channels = (np.repeat(a, x.shape[1] // each).reshape(-1, *[1] * (x.ndim - 2)) for a in (scale, bias))
        factor, summand = channels
        return factor, summand

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, scale, bias = inputs
        assert x is not None and scale is not None and bias is not None
        factor, summand = GroupNormalization._affine(node, x, scale, bias)
        rows = x.reshape(x.shape[0], node.attrs["num_groups"], -1)
        rows = rows - rows.mean(axis=2, keepdims=True)
        rows = rows / np.sqrt(np.square(rows).mean(axis=2, keepdims=True) + node.attrs["epsilon"])
        return ((rows.reshape(x.shape) * factor + summand).astype(x.dtype),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, scale, bias = inputs
        assert isinstance(x, View) and isinstance(scale, np.ndarray) and isinstance(bias, np.ndarray)
        factor, summand = GroupNormalization._affine(node, x, scale, bias)
        for tag in x.tags[1:]:
            ctx.mix(tag, node, "normalises over the frames")
        source = ctx.dense(node, ctx.real_view(node, x))
        y = ctx.temp(x.shape, tags=(x.tags[0], *(None,) * (x.ndim - 1)))
        groups = node.attrs["num_groups"]
        n = [x.shape[0] * groups, math.prod(x.shape[1:]) // groups]
        ctx.emit("layernorm", node, {0: source, 4: y}, n, [node.attrs["epsilon"]])
        return (binary(ctx, node, "Add", binary(ctx, node, "Mul", y, factor), summand),)


@register("RMSNormalization")
class RMSNormalization(Op):
    """x / sqrt(mean(x^2) + epsilon) * scale, over all axes from `axis` on."""

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, scale = inputs
        assert x is not None and scale is not None
        (axis,) = axes_of(np.array(node.attrs["axis"]), x.ndim)
        square = np.square(x).mean(axis=tuple(range(axis, x.ndim)), keepdims=True)
        return ((x / np.sqrt(square + node.attrs["epsilon"]) * scale).astype(x.dtype),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, scale = inputs
        assert isinstance(x, View) and scale is not None
        (axis,) = axes_of(np.array(node.attrs["axis"]), x.ndim)
        over = range(axis, x.ndim)
        count = math.prod(x.shape[axis:])
        square = reduced(ctx, node, "ReduceSumSquare", x, over, True)
        mean = binary(ctx, node, "Mul", square, np.array(1 / max(count, 1), ctx.real))
        root = unary(ctx, node, binary(ctx, node, "Add", mean, np.array(node.attrs["epsilon"], ctx.real)), "Sqrt")
        return (binary(ctx, node, "Mul", binary(ctx, node, "Div", x, root), scale),)
