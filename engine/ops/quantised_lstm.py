"""The LSTM whose products are of integers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...kernels import reference
from ..errors import ModelFormatError, ShapeError
from ..graph import Node
from ..values import Value, Weights
from .math import ACTIVATIONS, binary
from .plumbing import cast
from .quantised import centred, dynamically, packed_integers, quantised, range_of, rows_by_weights
from .recurrent import direction, directions, lengths_of
from .registry import Array, Op, register

if TYPE_CHECKING:
    from ..lowering import Lowering


@register("DynamicQuantizeLSTM")
class DynamicQuantizeLSTM(Op):
    """An LSTM whose products are of integers: x is quantised with the range of all of it, h with its own at every step.

    The inputs are those of LSTM with w ``(D, I, 4H)`` and r ``(D, H, 4H)`` in integers, and then their scales and zero
    points, ``(D,)`` or ``(D, 4H)``. Gates are i o f c.
    """

    known = (1, 2, 3, 4, 7, 8, 9, 10, 11)

    @staticmethod
    def _checked(node: Node, inputs: Sequence[Any]) -> dict[str, Any]:
        names = "x w r b lengths h0 c0 p w_scale w_zero r_scale r_zero".split()
        have: dict[str, Any] = dict.fromkeys(names) | dict(zip(names, inputs, strict=False))
        d, hidden = len(directions(node)), node.attrs["hidden_size"]
        x = have["x"]
        if x.ndim != 3:
            raise ShapeError(f"{node.label}: X has shape {x.shape}, expected (T, B, I)")
        expected = {"w": (d, x.shape[2], 4 * hidden), "r": (d, hidden, 4 * hidden), "b": (d, 8 * hidden)}
        expected |= {"p": (d, 3 * hidden), "lengths": (x.shape[1],)}
        expected |= dict.fromkeys(("h0", "c0"), (d, x.shape[1], hidden))
        for name, shape in expected.items():
            if have[name] is not None and have[name].shape != shape:
                raise ModelFormatError(f"{node.label}: {name.upper()} has shape {have[name].shape}, expected {shape}")
        lengths = have["lengths"]
        if lengths is not None and ((lengths < 0) | (lengths > x.shape[0])).any():
            raise ShapeError(f"{node.label}: lengths {lengths.tolist()} outside 0..{x.shape[0]}")
        for name in ("w", "r"):
            scale, zero = have[f"{name}_scale"], have[f"{name}_zero"]
            if scale is None or {scale.shape, zero.shape if zero is not None else scale.shape} - {
                (d,),
                (d, 4 * hidden),
            }:
                raise ModelFormatError(
                    f"{node.label}: {name.upper()}_scale and its zero point do not fit {expected['w']}"
                )
            have[f"{name}_scale"] = np.broadcast_to(scale.reshape(d, -1), (d, 4 * hidden))
            zeros = np.zeros(scale.shape, np.int16) if zero is None else zero.astype(np.int16)
            have[name] = have[name].astype(np.int16) - zeros.reshape(d, 1, -1)
        if have["b"] is not None:
            have["b"] = have["b"].reshape(d, 2, -1).sum(axis=1)
        return have

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        have = DynamicQuantizeLSTM._checked(node, inputs)
        x, size, coupled = have["x"], node.attrs["hidden_size"], node.attrs["coupled"]
        steps, rows = x.shape[:2]
        lengths = np.full(rows, steps) if have["lengths"] is None else have["lengths"]
        clip = math.inf if node.attrs["clip"] is None else node.attrs["clip"]
        y = np.zeros((steps, len(directions(node)), rows, size), x.dtype)
        hn, cn = (
            np.zeros(y.shape[1:], x.dtype) if have[name] is None else have[name].astype(x.dtype)
            for name in ("h0", "c0")
        )
        for d, reverse in enumerate(directions(node)):
            f, g, h_act = (reference.activation(*a) for a in node.attrs["activations"][3 * d : 3 * d + 3])
            q, scale, zero = quantised(x[: lengths.max(initial=0)])
            products = (q - zero) @ have["w"][d].astype(x.dtype) * (scale * have["w_scale"][d])
            p = np.zeros((3, size)) if have["p"] is None else have["p"][d].reshape(3, size)
            for step in range(lengths.max(initial=0)):
                live = np.flatnonzero(step < lengths)
                at = lengths[live] - 1 - step if reverse else np.full(live.size, step)
                h, c = hn[d][live], cn[d][live]
                scale, zero = range_of(hn[d][step <= lengths])  # the last h of a row counts once more
                q = np.clip(np.rint(h / scale) + zero, 0, 255)
                sums = products[at, live] + (q - zero) @ have["r"][d].astype(x.dtype) * (scale * have["r_scale"][d])
                i, o, forget, cell = np.split(sums if have["b"] is None else sums + have["b"][d], 4, axis=1)
                i = f(np.clip(i + p[0] * c, -clip, clip))
                forget = 1 - i if coupled else f(np.clip(forget + p[2] * c, -clip, clip))
                c = forget * c + i * g(np.clip(cell, -clip, clip))
                h = f(np.clip(o + p[1] * c, -clip, clip)) * h_act(c)
                hn[d][live], cn[d][live], y[at, d, live] = h, c, h
            hn[d][lengths == 0] = cn[d][lengths == 0] = 0
        return y, hn, cn

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        have = DynamicQuantizeLSTM._checked(node, inputs)
        x, size = ctx.real_view(node, have["x"]), node.attrs["hidden_size"]
        steps, rows = x.shape[:2]
        time, batch = ctx.unify(x.tags[0], "time"), ctx.unify(x.tags[1], "batch")
        most = steps if have["lengths"] is None else int(have["lengths"].max(initial=0))
        q, scale, zero = dynamically(ctx, node, x.with_(shape=(most, *x.shape[1:])))
        q = centred(ctx, node, q, zero, 0)
        lengths = lengths_of(ctx, node, have["lengths"], time, steps)
        d = len(directions(node))
        y = ctx.temp((steps, d, rows, size), tags=(time, None, batch, None))
        finals = [ctx.temp((d, rows, size), tags=(None, batch, None)) for _ in "hc"]
        begins = [np.zeros((d, rows, size)) if have[name] is None else have[name] for name in ("h0", "c0")]
        states = [ctx.dense(node, ctx.real_view(node, ctx.view(value))) for value in begins]
        for k, reverse in enumerate(directions(node)):
            integers = [
                Weights(("integers", node.key, name, k), packed_integers, (have[name][k].T, None))
                for name in ("w", "r")
            ]
            sums = rows_by_weights(ctx, node, q, integers[0], 4 * size)
            factor = binary(ctx, node, "Mul", scale, have["w_scale"][k].astype(ctx.real))
            products = binary(ctx, node, "Mul", cast(ctx, node, sums, ctx.real), factor)
            slots = {2 + s: direction(state, k) for s, state in enumerate(states)}
            slots |= {5 + s: direction(final, k) for s, final in enumerate(finals)}
            slots |= {0: products, 9: ctx.temp((4 * size + rows * size,))}
            slots[4] = y.with_(
                shape=(steps, rows, size), strides=(y.strides[0], size, 1), offset=k * rows * size, tags=(None,) * 3
            )
            slots |= {11: ctx.view(np.ascontiguousarray(have["r_scale"][k]))}
            if have["p"] is not None:
                slots[7] = ctx.view(have["p"][k])
            if have["b"] is not None:
                slots[8] = ctx.view(have["b"][k])
            if lengths is not None:
                slots[10] = lengths
            acts = node.attrs["activations"][3 * k : 3 * k + 3]
            n = [steps, rows, 0, size, 0, 0, 0, y.strides[0], size, int(reverse), 0, 0]
            n += [ACTIVATIONS[name] for name, _, _ in acts] + [int(bool(node.attrs["coupled"]))]
            clip = math.inf if node.attrs["clip"] is None else node.attrs["clip"]
            f = [clip, *(value for _, alpha, beta in acts for value in (alpha, beta))]
            ctx.emit("quantised_lstm", node, slots, n, f, integers[1])
        return y, *finals
