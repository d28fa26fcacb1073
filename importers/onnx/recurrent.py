"""LSTM, GRU and RNN of ONNX."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .exporters import refuse_lost_projection, resets_after
from .forms import FLOAT, FLOATS, INT, STRING, STRINGS, Attr, Call, Form, flag, single

__all__ = ["ATTRS", "FORMS", "activations", "clip"]

#: ONNX name -> (takes alpha, takes beta, default alpha, default beta)
ACTIVATIONS = {
    "Relu": (False, False, 0.0, 0.0),
    "Tanh": (False, False, 0.0, 0.0),
    "Sigmoid": (False, False, 0.0, 0.0),
    "Affine": (True, True, 1.0, 0.0),
    "LeakyRelu": (True, False, 0.01, 0.0),
    "ThresholdedRelu": (True, False, 1.0, 0.0),
    "ScaledTanh": (True, True, 1.0, 1.0),
    "HardSigmoid": (True, True, 0.2, 0.5),
    "Elu": (True, False, 1.0, 0.0),
    "Softsign": (False, False, 0.0, 0.0),
    "Softplus": (False, False, 0.0, 0.0),
}
_LOWER = {name.lower(): name for name in ACTIVATIONS}

#: operator -> (gates, activations of one direction)
_CELLS = {"LSTM": ("iofc", ("Sigmoid", "Tanh", "Tanh")), "GRU": ("zrh", ("Sigmoid", "Tanh")), "RNN": ("h", ("Tanh",))}


def recurrent(call: Call) -> None:
    op, attrs = call.node.op, call.attrs
    gates, _ = _CELLS[op]
    x, w, r, b, lengths, h0, *rest = call.inputs
    c0, p = rest or ("", "")
    directions = 2 if attrs["direction"] == "bidirectional" else 1
    hidden = _hidden_size(call, w, r, len(gates))
    _check_weights(call, len(gates), directions, hidden)
    if lengths and call.dtype(4) not in (None, np.dtype(np.int32)):
        raise call.damaged(f"input sequence_lens is {call.dtype(4)}, not int32")
    given: dict[str, Any] = {
        "hidden_size": hidden,
        "direction": attrs["direction"],
        "gates": gates,
        "activations": activations(call, op, directions),
        "clip": clip(call),
    }
    if op == "LSTM":
        refuse_lost_projection(call, hidden, c0)
        given["coupled"] = "f=1-i" if attrs["input_forget"] else ""
    elif op == "GRU":
        given["linear_before_reset"] = resets_after(call)

    batch_first = bool(attrs.get("layout", 0))
    names = [*call.outputs, "", "", ""][: 3 if op == "LSTM" else 2]
    made = names
    if batch_first:
        x, h0, c0 = (value and call.add("Transpose", (value,), perm=(1, 0, 2))[0] for value in (x, h0, c0))
        made = [name and call.graph.fresh(op.lower()) for name in names]
    inputs = (x, w, r, b, lengths, h0)
    # ONNX has no projection, the last input of the graph's LSTM.
    call.add(op, (*inputs, c0, p, "") if op == "LSTM" else inputs, made, **given)
    if batch_first:
        for k, (name, value) in enumerate(zip(names, made, strict=True)):
            if name:
                call.add("Transpose", (value,), (name,), perm=(1, 0, 2) if k else (2, 0, 1, 3))


def clip(call: Call) -> float | None:
    """The limit of what goes into the activations."""
    limit = call.attrs["clip"]
    if limit is not None and not limit > 0:
        raise call.unsupported("is not a positive number", "clip", limit)
    return None if limit is None or math.isinf(limit) else float(limit)


def _hidden_size(call: Call, w: str, r: str, gates: int) -> int:
    hidden: Any = call.attrs["hidden_size"]
    if hidden is None:
        shapes = ((r, 2, 1), (w, 1, gates), (r, 1, gates))
        for value, axis, share in shapes:
            shape = call.translation.shape(value)
            size = shape[axis] if shape is not None and len(shape) == 3 else None
            if isinstance(size, int):
                hidden = size // share
                break
        else:
            raise call.unsupported(
                "is left out, and the shapes of the weights are not known", "hidden_size", hint="Set it in the file"
            )
    if hidden <= 0:
        raise call.damaged(f"hidden_size is {hidden}")
    return int(hidden)


def _check_weights(call: Call, gates: int, directions: int, hidden: int) -> None:
    """Hold hidden_size and direction against the weights, where their shapes are known."""
    expected: tuple[tuple[str, int, tuple[int | None, ...]], ...] = (
        ("W", 1, (directions, gates * hidden, None)),
        ("R", 2, (directions, gates * hidden, hidden)),
        ("B", 3, (directions, 2 * gates * hidden)),
        ("P", 7, (directions, 3 * hidden)),
    )
    for name, k, sizes in expected:
        shape = call.translation.shape(call.inputs[k]) if k < len(call.inputs) else None
        if shape is None:
            continue
        if len(shape) != len(sizes) or any(
            isinstance(have, int) and want is not None and have != want for have, want in zip(shape, sizes, strict=True)
        ):
            wanted = ", ".join("any" if size is None else str(size) for size in sizes)
            raise call.damaged(
                f"input {name} has shape {shape}; with hidden_size {hidden} and {directions} "
                f"direction{'s' * (directions - 1)} it must have ({wanted})"
            )


def activations(call: Call, op: str, directions: int) -> tuple[tuple[str, float, float], ...]:
    """Name, alpha and beta of every activation of the cell `op`."""
    defaults = _CELLS[op][1]
    names = call.attrs["activations"] or defaults * directions
    count = len(defaults) * directions
    if op == "RNN" and len(names) == 2 and directions == 1:
        # The operator's documented default has two, one for a direction that may not be there.
        names = names[:1]
    if len(names) != count:
        raise call.unsupported(
            f"has {len(names)} entries; {op} with {directions} direction{'s' * (directions - 1)} takes {count}",
            "activations",
            list(names[:16]),
        )
    # Each takes the next alpha and beta only if it has one. Entries left over are ignored, as onnxruntime does.
    alphas, betas = iter(call.attrs["activation_alpha"] or ()), iter(call.attrs["activation_beta"] or ())
    result = []
    for name in names:
        canonical = _LOWER.get(name.lower())
        if canonical is None:
            raise call.unsupported(
                "is no activation of ONNX", "activations", name[:80], f"Known: {', '.join(ACTIVATIONS)}"
            )
        takes_alpha, takes_beta, alpha, beta = ACTIVATIONS[canonical]
        alpha, beta = single(alpha), single(beta)
        result.append(
            (
                canonical,
                next(alphas, alpha) if takes_alpha else alpha,
                next(betas, beta) if takes_beta else beta,
            )
        )
    return tuple(result)


#: What every cell has.
ATTRS = {
    "activations": Attr(STRINGS),
    "activation_alpha": Attr(FLOATS),
    "activation_beta": Attr(FLOATS),
    "clip": Attr(FLOAT),
    "direction": Attr(STRING, "forward", choices=("forward", "reverse", "bidirectional")),
    "hidden_size": Attr(INT),
}


def _forms(op: str) -> tuple[Form, ...]:
    attrs = dict(ATTRS)
    if op == "LSTM":
        attrs["input_forget"] = flag()
    elif op == "GRU":
        attrs["linear_before_reset"] = flag()
    inputs, outputs = ((3, 8), 3) if op == "LSTM" else ((3, 6), 2)
    return (
        Form(7, recurrent, inputs, attrs, outputs),
        Form(14, recurrent, inputs, {**attrs, "layout": flag()}, outputs),
    )


FORMS = {op: _forms(op) for op in _CELLS}
