"""LSTM, GRU and RNN: from the graph's operators to the fused kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ...kernels import pack, tiers
from ...kernels.precision import BITS
from ..errors import ModelFormatError, ShapeError
from ..graph import Node
from ..values import Value, View, Weights
from .math import ACTIVATIONS
from .plumbing import cast
from .registry import Array, Op, register

if TYPE_CHECKING:
    from ..lowering import Lowering

#: Our gate order, in the letters of attribute `gates`: PyTorch's i f g o and r z n.
GATES = {"LSTM": "ifco", "GRU": "rzh", "RNN": "h"}
STANDARD = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


def directions(node: Node) -> tuple[bool, ...]:
    """Whether each direction runs backwards."""
    return {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[node.attrs["direction"]]


def activations(node: Node, d: int) -> tuple[tuple[str, float, float], ...]:
    """The activations of direction `d`: f, g, h; f, g; or f."""
    count = len(STANDARD[node.op])
    return tuple(node.attrs["activations"][d * count : (d + 1) * count])


def checked(node: Node, inputs: list[Any]) -> dict[str, Any]:
    """The inputs by name, every shape held against the others.

    Returns
    -------
    dict
        x, w ``(D, G*H, I)``, r ``(D, G*H, P)``, b ``(D, 2, G*H)`` or None, lengths, h0, c0, p ``(D, 3, H)`` in the
        order i f o or None, projection ``(D, P, H)`` or None; the sizes I, H, P, D; and `order`, where our gates are
        in w, r and b.
    """
    names = ["x", "w", "r", "b", "lengths", "h0", "c0", "p", "projection"]
    have: dict[str, Any] = dict.fromkeys(names) | dict(zip(names, inputs, strict=False))
    hidden, gates = node.attrs["hidden_size"], node.attrs["gates"]
    d, g = len(directions(node)), len(gates)
    w, r = have["w"], have["r"]
    if w is None or r is None or have["x"] is None:
        raise ModelFormatError(f"{node.label}: inputs X, W and R are required")
    if w.ndim != 3 or r.ndim != 3:
        raise ModelFormatError(f"{node.label}: weights {w.shape} and {r.shape} do not have 3 axes")
    size, state = w.shape[2], r.shape[2]
    projection = have["projection"]
    expected = {
        "w": (d, g * hidden, size),
        "r": (d, g * hidden, hidden if projection is None else state),
        "b": (d, 2 * g * hidden),
        "p": (d, 3 * hidden),
        "projection": (d, state, hidden),
    }
    for name, shape in expected.items():
        if have[name] is not None and have[name].shape != shape:
            raise ModelFormatError(
                f"{node.label}: {name.upper()} has shape {have[name].shape}, expected {shape} "
                f"(directions={d}, hidden_size={hidden}, input size={size})"
            )
    if hidden < 1 or len(node.attrs["activations"]) != d * len(STANDARD[node.op]):
        raise ModelFormatError(f"{node.label}: hidden_size={hidden}, activations={node.attrs['activations']}")
    if have["b"] is not None:
        have["b"] = have["b"].reshape(d, 2, g * hidden)
    if have["p"] is not None:
        have["p"] = have["p"].reshape(d, 3, hidden)[:, [0, 2, 1]]  # i o f -> i f o
    x = have["x"]
    if x.ndim != 3 or x.shape[2] != size:
        raise ShapeError(f"{node.label}: X has shape {x.shape}, expected (T, B, {size})")
    for name, shape in {"h0": (d, x.shape[1], state), "c0": (d, x.shape[1], hidden), "lengths": (x.shape[1],)}.items():
        if have[name] is not None and have[name].shape != shape:
            raise ShapeError(f"{node.label}: {name} has shape {have[name].shape}, expected {shape}")
    order = tuple(gates.index(letter) for letter in GATES[node.op])
    return have | {"I": size, "H": hidden, "P": state, "D": d, "order": order}


def ours(array: Array, axis: int, order: tuple[int, ...]) -> Array:
    """`array` with the gates along `axis` in our order."""
    blocks = array.reshape(*array.shape[:axis], len(order), -1, *array.shape[axis + 1 :])
    return blocks.take(order, axis).reshape(array.shape)


class Recurrent(Op):
    """What LSTM, GRU and RNN share."""

    known = (1, 2, 3, 7, 8)

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        from ...kernels import reference  # a definition, which no program needs

        have = checked(node, list(inputs))
        lengths = have["lengths"]
        if lengths is not None and ((lengths < 0) | (lengths > have["x"].shape[0])).any():
            raise ShapeError(f"{node.label}: lengths {lengths.tolist()} outside 0..{have['x'].shape[0]}")
        w, r = (ours(have[name], 1, have["order"]) for name in "wr")
        b = np.zeros((len(w), 2, w.shape[1])) if have["b"] is None else ours(have["b"], 2, have["order"])
        results: list[tuple[Array, ...]] = []
        for d, reverse in enumerate(directions(node)):
            options: dict[str, Any] = {
                "h0": None if have["h0"] is None else have["h0"][d],
                "lengths": lengths,
                "activations": activations(node, d),
                "clip": node.attrs["clip"],
                "reverse": reverse,
            }
            args = (have["x"], w[d], r[d], *b[d])
            if node.op == "LSTM":
                results.append(
                    reference.lstm(
                        *args,
                        c0=None if have["c0"] is None else have["c0"][d],
                        peepholes=None if have["p"] is None else have["p"][d],
                        projection=None if have["projection"] is None else have["projection"][d],
                        coupled=node.attrs["coupled"],
                        **options,
                    )
                )
            elif node.op == "GRU":
                results.append(reference.gru(*args, linear_before_reset=node.attrs["linear_before_reset"], **options))
            else:
                results.append(reference.rnn(*args, **options))
        y, *states = zip(*results, strict=True)
        return np.stack(y, axis=1), *(np.stack(s) for s in states)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        have = checked(node, list(inputs))
        x = ctx.real_view(node, have["x"])
        if have["I"] > 1 and x.strides[2] != 1:
            x = ctx.dense(node, x)
        # In a body one step of a cell runs along no axis of the model; what runs over frames there does so every time.
        inner = ctx.within and x.shape[0] == 1 and x.tags[0] is None
        banded = bool(node.attrs.get("banded"))
        batch = x.tags[1] if banded else ctx.unify(x.tags[1], "batch")
        time = x.tags[0] if banded else None if inner else ctx.unify(x.tags[0], "time")
        if ctx.within or banded:
            ctx.mix(
                time, node, "runs over all frames in a body that runs for each" if ctx.within else "runs within a frame"
            )
        if isinstance(have["lengths"], View):
            ctx.unify(have["lengths"].tags[0], batch)
        step = inner or banded or bool(node.attrs.get("recognised"))
        if not step and any(ctx.used(name) for name in node.outputs[1:] if name):
            ctx.last(time, node)
        ctx.mix(x.tags[2], node, "takes the frames as features")
        t, b = x.shape[:2]
        i, h, p = have["I"], have["H"], have["P"]
        y = ctx.temp((t, have["D"], b, p), tags=(time, None, batch, None))
        # A stream ends when its caller stops feeding it: lengths that the caller gives are those of whole recordings.
        ends = ctx.carry and any(port.name == node.inputs[4] for port in ctx.graph.inputs if len(node.inputs) > 4)
        lengths = None if ends else lengths_of(ctx, node, have["lengths"], time, t)
        states = {"h": p, "c": h} if node.op == "LSTM" else {"h": p}
        begins = {
            s: node.inputs[k]
            for k, s in enumerate(states, start=5)
            if isinstance(have[f"{s}0"], View) and (node.key, s) not in ctx.owned
        }
        if not step:
            ctx.ran(node, x.tags[0], x.tags[1], begins, node.inputs[:1], t)
        first = {s: initial(ctx, node, s, have[f"{s}0"], (have["D"], b, width), batch) for s, width in states.items()}
        # A slot is updated in place; any other state keeps its value beside the final one.
        final = {
            s: v if v.buffer is ctx.slots.get((node.key, s)) else ctx.temp(v.shape, tags=v.tags)
            for s, v in first.items()
        }
        release = holding(ctx, node, [v for s, v in first.items() if v.buffer is ctx.slots.get((node.key, s))])
        clip = node.attrs["clip"]
        precision = ctx.tier(node, have["w"], have["r"], have["projection"])
        for d, reverse in enumerate(directions(node)):
            if reverse and not banded:
                ctx.mix(time, node, f"runs backwards in time (direction={node.attrs['direction']})")
            acts = activations(node, d)
            variant = 0
            if node.op == "LSTM":
                variant = ["", "f=1-i", "i=1-f"].index(node.attrs["coupled"])
            elif node.op == "GRU":
                variant = int(not node.attrs["linear_before_reset"])
            names = tuple(name for name, _, _ in acts)
            plain = names == STANDARD[node.op] or (node.op == "RNN" and names == ("Relu",))
            rare = clip is not None or variant or have["p"] is not None or have["projection"] is not None
            general = rare or not plain
            slots = {
                0: x,
                2: direction(first["h"], d),
                4: y.with_(shape=(t, b, p), strides=(y.strides[0], p, 1), offset=d * b * p, tags=(None,) * 3),
                5: direction(final["h"], d),
                9: ctx.temp((scratch(t, b, i, max(h, p), h, precision),)),
            }
            if "c" in first:
                slots |= {3: direction(first["c"], d), 6: direction(final["c"], d)}
            if lengths is not None:
                slots[10] = lengths
            if have["p"] is not None:
                slots[7] = ctx.view(pack.pack_peepholes(have["p"][d], ctx.real))
            if have["projection"] is not None:
                projection = tiers.packer("linear", precision)(have["projection"][d], None, ctx.real)
                slots[8] = ctx.view(projection.view(ctx.real))
            codes = [ACTIVATIONS[name] for name in names] + [0] * (3 - len(acts))
            parameters = [value for _, alpha, beta in acts for value in (alpha, beta)]
            ctx.emit(
                tiers.kernel(node.op.lower(), precision),
                node,
                slots,
                [t, b, i, h, p, *x.strides[:2], y.strides[0], p, reverse, 0, bool(general), *codes, variant],
                [math.inf if clip is None else clip, *parameters],
                weights(node, d, have, precision),
            )
        release()
        return y, *(final[s] for s in states)


def holding(ctx: Lowering, node: Node, states: Sequence[View]) -> Callable[[], None]:
    """Keep `states` for as long as the recording has not reached `node`: for its first `wait` steps.

    Returns
    -------
    callable
        To be called when what changes the states has been emitted.
    """
    clock = ctx.clock
    if clock is None:
        return lambda: None
    saved = [ctx.copy(node, state, ctx.temp(state.shape, state.dtype)) for state in states]

    def release() -> None:
        for copy, state in zip(saved, states, strict=True):
            sizes = [state.count * state.dtype.itemsize, node.attrs["wait"]]
            ctx.emit("hold", node, {0: copy, 1: clock, 4: state}, sizes)

    return release


def scratch(t: int, b: int, i: int, p: int, h: int, precision: str) -> int:
    """Reals beside a kernel's operands."""
    whole = tiers.scratch(pack.ahead(t, b) * b, i) + tiers.scratch(b, p) if precision in BITS else 0
    return pack.scratch(t, b, h) + whole


def weights(node: Node, d: int, have: dict[str, Any], precision: str) -> Weights:
    """What is packed for direction `d`."""
    w, r = have["w"][d], have["r"][d]
    rows = w.shape[0]
    b_ih, b_hh = np.zeros((2, rows)) if have["b"] is None else have["b"][d].astype(np.float64)
    key = (node.op, node.inputs[1:4], node.attrs["gates"], d)
    packer = tiers.packer(node.op.lower(), precision)
    if node.op == "RNN":
        return Weights(key, packer, (w, r, b_ih + b_hh))
    biases = (b_ih, b_hh) if node.op == "GRU" else (b_ih + b_hh,)
    return Weights(key, partial(packer, order=have["order"]), (w, r, *biases))


def direction(view: View, d: int) -> View:
    """Plane `d` of a dense view."""
    return view.with_(
        shape=view.shape[1:], strides=view.strides[1:], tags=view.tags[1:], offset=view.offset + d * view.strides[0]
    )


def initial(ctx: Lowering, node: Node, state: str, value: Value | None, shape: tuple[int, ...], batch: Any) -> View:
    """The initial state: what is given, or a slot that the stream keeps."""
    tags = (None, batch, None)
    known = not isinstance(value, View) and not node.attrs.get("recognised") and not node.attrs.get("banded")
    if ctx.carry and ((node.key, state) in ctx.owned or known):
        view = ctx.slot(node, state, shape, tags)
        ctx.initial[node.key, state] = value if isinstance(value, np.ndarray) else np.zeros(shape, dtype=ctx.real)
        return view
    if value is None:
        value = np.zeros(shape, dtype=ctx.real)
    if isinstance(value, View) and not node.attrs.get("banded"):
        ctx.unify(value.tags[1], batch)
    return ctx.dense(node, ctx.real_view(node, value)).with_(tags=tags)


def lengths_of(ctx: Lowering, node: Node, value: Value | None, time: Any, t: int) -> View | None:
    """Sequence lengths as the kernels take them; None where every row runs to its end."""
    if value is None or (isinstance(value, np.ndarray) and (value == t).all()):
        return None
    ctx.mix(time, node, "takes sequence lengths")
    if isinstance(value, np.ndarray):
        if ((value < 0) | (value > t)).any():
            raise ShapeError(f"{node.label}: lengths {value.tolist()} outside 0..{t}")
        value = value.astype(np.int32)
    view = cast(ctx, node, ctx.dense(node, value), np.dtype(np.int32))
    ctx.emit("check_range", node, {0: view}, [view.count, 0, t])
    return view


register("LSTM", "GRU", "RNN")(Recurrent)
