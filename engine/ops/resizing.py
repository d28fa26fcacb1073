"""Operators that make axes longer or shorter: transposed convolution, cropping and padding around the centre."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..graph import Node
from ..values import Value, View
from .logic import LARGEST
from .plumbing import axes_of
from .registry import Array, Op, register
from .windows import Conv, padded

if TYPE_CHECKING:
    from ..lowering import Lowering


class Stuffing(NamedTuple):
    """How one axis is prepared: `step - 1` zeros between its elements, then margins (negative ones cut)."""

    step: int
    before: int
    after: int


@register("ConvTranspose")
class ConvTranspose(Op):
    """y[n, m, t*step + k*dilation] += x[n, c, t] * w[c, m, k] for all c, k, t; plus b[m], less the padding.

    Computed as the convolution of x, zeros between its elements, with the kernel turned round.
    """

    known = (1, 2)

    @staticmethod
    def _stuffing(node: Node, x: Any, w: Array) -> list[Stuffing]:
        attrs, sizes = node.attrs, w.shape[2:]
        rank, groups = len(sizes), attrs["group"]
        if x.ndim != w.ndim or x.ndim < 3 or (attrs["kernel_shape"] or sizes) != sizes:
            raise ValueError(f"input {x.shape}, weights {w.shape} and kernel_shape={attrs['kernel_shape']} do not fit")
        if groups < 1 or x.shape[1] != w.shape[0] or w.shape[0] % groups:
            raise ValueError(f"input {x.shape} and weights {w.shape} do not fit group={groups}")
        steps, dilations = attrs["strides"] or (1,) * rank, attrs["dilations"] or (1,) * rank
        extra, pads = attrs["output_padding"] or (0,) * rank, attrs["pads"] or (0,) * (2 * rank)
        wanted = attrs["output_shape"]
        if not len(steps) == len(dilations) == len(extra) == len(wanted or sizes) == rank or len(pads) != 2 * rank:
            raise ValueError(
                f"strides, dilations, output_padding, output_shape and pads do not fit {rank} spatial axes"
            )
        if min((*steps, *dilations, *sizes)) < 1 or min((*extra, *pads)) < 0:
            raise ValueError(
                "strides, dilations and kernel_shape have to be positive, output_padding and pads not negative"
            )
        found = []
        for k, (size, length) in enumerate(zip(sizes, x.shape[2:], strict=True)):
            reach = (size - 1) * dilations[k]
            before, after, longer = pads[k], pads[rank + k], extra[k]
            natural = (length - 1) * steps[k] + reach + 1
            if wanted or attrs["auto_pad"] in ("SAME_UPPER", "SAME_LOWER"):
                target = wanted[k] if wanted else length * steps[k]
                total = natural + longer - target
                longer, total = longer + max(-total, 0), max(total, 0)
                before = total // 2 if attrs["auto_pad"] == "SAME_UPPER" else total - total // 2
                after = total - before
            elif attrs["auto_pad"] == "VALID":
                before = after = 0
            if natural + longer - before - after < 0:
                raise ValueError(f"pads {before}, {after} cut more than the {natural + longer} elements of an axis")
            found.append(Stuffing(steps[k], reach - before, reach - after + longer))
        return found

    @staticmethod
    def _convolution(node: Node, w: Array) -> tuple[Node, Array]:
        """The convolution that is left: its attributes and its weights."""
        groups, sizes = node.attrs["group"], w.shape[2:]
        attrs = {name: node.attrs[name] for name in ("group", "dilations")}
        attrs["remembered"] = node.attrs.get("remembered")
        rest = {"kernel_shape": None, "strides": None, "pads": None, "auto_pad": "NOTSET"}
        turned = np.flip(w, tuple(range(2, w.ndim))).reshape(groups, w.shape[0] // groups, w.shape[1], *sizes)
        turned = turned.swapaxes(1, 2).reshape(groups * w.shape[1], w.shape[0] // groups, *sizes)
        return node.with_(attrs={**attrs, **rest}), turned

    @staticmethod
    def _long(x: Any, stuffing: Sequence[Stuffing]) -> tuple[int, ...]:
        """The shape with zeros between the elements."""
        spatial = (max((n - 1) * s.step + 1, 0) for n, s in zip(x.shape[2:], stuffing, strict=True))
        return (*x.shape[:2], *spatial)

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, w, b = (*inputs, None)[:3]
        assert x is not None and w is not None
        stuffing = ConvTranspose._stuffing(node, x, w)
        sizes = ConvTranspose._long(x, stuffing)
        wide = (n + max(s.before, 0) + max(s.after, 0) for n, s in zip(sizes[2:], stuffing, strict=True))
        if math.prod((*sizes[:2], *wide)) > LARGEST:
            raise ValueError(f"{stuffing} of shape {x.shape} are out of all proportion")
        y = np.zeros(sizes, x.dtype)
        inside: Any = (..., *(slice(None, None, s.step) for s in stuffing))
        y[inside] = x
        for axis, s in enumerate(stuffing, start=2):
            y = np.take(y, range(max(-s.before, 0), y.shape[axis] - max(-s.after, 0)), axis)
        y = np.pad(y, [(0, 0), (0, 0), *((max(s.before, 0), max(s.after, 0)) for s in stuffing)])
        convolution, turned = ConvTranspose._convolution(node, w)
        return Conv.evaluate(convolution, y, turned, b)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, w, b = (*inputs, None)[:3]
        assert isinstance(x, View) and isinstance(w, np.ndarray)
        x = ctx.real_view(node, x)
        stuffing = ConvTranspose._stuffing(node, x, w)
        for axis, s in enumerate(stuffing, start=2):
            if s != (1, 0, 0) and axis != node.attrs.get("remembered"):
                ctx.mix(x.tags[axis], node, "convolves over the frames")
        if any(s.step > 1 for s in stuffing):
            y = ctx.temp(ConvTranspose._long(x, stuffing), x.dtype, x.tags)
            zeros = ctx.view(np.zeros((), ctx.real))
            ctx.copy(node, zeros.with_(shape=y.shape, strides=(0,) * y.ndim, tags=(None,) * y.ndim), y)
            steps = (1, 1, *(s.step for s in stuffing))
            apart = tuple(n * m for n, m in zip(y.strides, steps, strict=True))
            ctx.copy(node, x, y.with_(shape=x.shape, strides=apart))
            x = y
        x = padded(ctx, node, x, [(0, 0), (0, 0), *((s.before, s.after) for s in stuffing)], 0.0)
        convolution, turned = ConvTranspose._convolution(node, w)
        return Conv.lower(ctx, convolution, x, turned, b)


@register("CenterCropPad")
class CenterCropPad(Op):
    """Cut or pad with zeros on both sides, so that the axes have the sizes asked for."""

    known = (1,)

    @staticmethod
    def _margins(node: Node, shape: Sequence[int], sizes: Array) -> list[tuple[int, int]]:
        axes = range(len(shape)) if node.attrs["axes"] is None else axes_of(np.array(node.attrs["axes"]), len(shape))
        wanted = [int(v) for v in sizes.reshape(-1)]
        if len(wanted) != len(axes) or min(wanted, default=0) < 0:
            raise ValueError(f"sizes {wanted} do not fit {len(axes)} axes")
        margins = [(0, 0)] * len(shape)
        for axis, size in zip(axes, wanted, strict=True):
            more = size - shape[axis]
            before = more // 2 if more > 0 else -(-more // 2)
            margins[axis] = before, more - before
        return margins

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, sizes = inputs
        assert x is not None and sizes is not None
        margins = CenterCropPad._margins(node, x.shape, sizes)
        x = x[tuple(slice(max(-b, 0), n - max(-a, 0)) for n, (b, a) in zip(x.shape, margins, strict=True))]
        if math.prod(n + max(b, 0) + max(a, 0) for n, (b, a) in zip(x.shape, margins, strict=True)) > LARGEST:
            raise ValueError(f"margins {margins} are out of all proportion")
        return (np.pad(x, [(max(b, 0), max(a, 0)) for b, a in margins]),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, sizes = inputs
        assert isinstance(x, View) and isinstance(sizes, np.ndarray)
        margins = CenterCropPad._margins(node, x.shape, sizes)
        for tag, (before, after) in zip(x.tags, margins, strict=True):
            if before or after:
                ctx.mix(tag, node, "cuts or pads the frames")
        return (padded(ctx, node, x, margins, 0),)
