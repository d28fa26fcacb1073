"""LSTM, GRU and RNN: whole sequences, packed sequences, and single steps of a cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .core import Aten, Shape, SymInt, Tensor, dim_of, op

#: operator of the graph -> (gates, activations of one direction)
_CELLS = {
    "lstm": ("LSTM", "ifco", ("Sigmoid", "Tanh", "Tanh")),
    "gru": ("GRU", "rzh", ("Sigmoid", "Tanh")),
    "rnn_tanh": ("RNN", "h", ("Tanh",)),
    "rnn_relu": ("RNN", "h", ("Relu",)),
}


@dataclass(frozen=True)
class Packed(Tensor):
    """The data of a packed sequence: here a padded tensor, time first, with the length of every row."""

    lengths: Tensor


@dataclass(frozen=True)
class BatchSizes(Tensor):
    """The batch sizes of a packed sequence; nothing but `lengths` is needed of them."""

    lengths: Tensor


def _attributes(kind: str, hidden: int, directions: int) -> dict[str, Any]:
    name, gates, activations = _CELLS[kind]
    attrs: dict[str, Any] = {
        "hidden_size": hidden,
        "direction": "bidirectional" if directions == 2 else "forward",
        "gates": gates,
        "activations": tuple((activation, 0.0, 0.0) for activation in activations) * directions,
        "clip": None,
    }
    if name == "LSTM":
        attrs["coupled"] = ""
    if name == "GRU":
        attrs["linear_before_reset"] = True
    return attrs


def _stacked(a: Aten, parts: Sequence[Tensor], axis: int | None = None) -> Tensor:
    """Tensors under a new first axis; with `axis`, those of each pair are joined along it first."""
    arrays = [a.known(part) for part in parts]
    whole = [array for array in arrays if array is not None]
    if len(whole) == len(parts):
        return a.constant(np.stack(whole))
    raised = [a.node("Unsqueeze", [part, a.ints(0)], part.dtype, (1, *(part.shape or ()))) for part in parts]
    if len(raised) == 1:
        return raised[0]
    return a.node("Concat", raised, raised[0].dtype, (len(raised), *(parts[0].shape or ())), axis=0)


def _joined(a: Aten, x: Tensor, y: Tensor) -> Tensor:
    """Two biases one after the other."""
    one, two = a.known(x), a.known(y)
    if one is not None and two is not None:
        return a.constant(np.concatenate([one, two]))
    return a.node("Concat", [x, y], x.dtype, None, axis=0)


def _matrix(a: Aten, weight: Tensor, name: str) -> tuple[int, int]:
    """The sizes of a weight matrix."""
    if weight.shape is None or len(weight.shape) != 2 or not all(isinstance(n, int) and n > 0 for n in weight.shape):
        raise a.unsupported("is no matrix of known sizes", name, weight.shape)
    rows, columns = weight.shape
    assert isinstance(rows, int) and isinstance(columns, int)
    return rows, columns


def _layers(
    a: Aten,
    kind: str,
    x: Tensor,
    states: list[Tensor],
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
    lengths: Tensor | None,
) -> tuple[Tensor, list[Tensor]]:
    """All layers over a time-first `x`: the last one's result, and the final states as PyTorch stacks them."""
    name, gates, _ = _CELLS[kind]
    directions = 2 if bidirectional else 1
    each = (4 if has_biases else 2) * num_layers * directions
    if num_layers < 1 or len(params) not in (each, each + num_layers * directions):
        raise ValueError(f"{len(params)} weights for {num_layers} layers of {directions} directions")
    projected = len(params) != each
    if projected and kind != "lstm":
        raise ValueError("projections belong to LSTM")
    per = len(params) // (num_layers * directions)
    time, batch = (x.shape or (None, None))[:2]
    ends: list[list[Tensor]] = [[] for _ in states]
    begins = [_begins(a, state, num_layers, directions) for state in states]
    for layer in range(num_layers):
        start = layer * directions * per
        sets = [params[start + d * per : start + (d + 1) * per] for d in range(directions)]
        rows, _ = _matrix(a, sets[0][0], "weight_ih")
        _, width = _matrix(a, sets[0][1], "weight_hh")
        if rows % len(gates):
            raise ValueError(f"weights of {rows} rows for {len(gates)} gates")
        hidden = rows // len(gates)
        bias = _stacked(a, [_joined(a, s[2], s[3]) for s in sets]) if has_biases else ""
        inputs: list[Tensor | str] = [x, _stacked(a, [s[0] for s in sets]), _stacked(a, [s[1] for s in sets]), bias]
        inputs += [lengths or "", begins[0][layer]]
        if name == "LSTM":
            inputs += [begins[1][layer], "", _stacked(a, [s[-1] for s in sets]) if projected else ""]
        sizes = [width, hidden][: len(states)]
        results = [(x.dtype, (time, directions, batch, width)), *((x.dtype, (directions, batch, n)) for n in sizes)]
        y, *last = a.nodes(name, inputs, results, **_attributes(kind, hidden, directions))
        for kept, end in zip(ends, last, strict=True):
            kept.append(end)
        shape: Shape = (time, batch, directions * width)
        if directions == 1:
            x = a.node("Squeeze", [y, a.ints(1)], x.dtype, shape)
        else:  # (T, D, B, P) to (T, B, D * P)
            y = a.node("Transpose", [y], x.dtype, (time, batch, directions, width), perm=(0, 2, 1, 3))
            x = a.node("Reshape", [y, a.ints(0, 0, directions * width)], x.dtype, shape, allowzero=False)
    finals = []
    for kept in ends:
        tail = kept[0].shape[1:] if kept[0].shape else ()
        shape = (num_layers * directions, *tail)
        finals.append(kept[0] if len(kept) == 1 else a.node("Concat", kept, x.dtype, shape, axis=0))
    return x, finals


def _begins(a: Aten, state: Tensor, layers: int, directions: int) -> list[Tensor | str]:
    """The initial state of every layer; none where it is zeros, which is what operators start from by themselves."""
    if state.name in a.zeros:
        return [""] * layers
    if layers == 1:
        return [state]
    parts: list[Tensor | str] = []
    for layer in range(layers):
        bounds = (a.ints(layer * directions), a.ints((layer + 1) * directions), a.ints(0), a.ints(1))
        shape = None if state.shape is None else (directions, *state.shape[1:])
        parts.append(a.node("Slice", [state, *bounds], state.dtype, shape))
    return parts


def _evaluated(a: Aten, dropout: float, train: bool) -> None:
    if train and dropout:
        raise a.unsupported("is in training mode, with dropout", "train", train, "Export the model after model.eval()")


def _swapped(a: Aten, x: Tensor) -> Tensor:
    """Time and batch exchanged."""
    shape = None if x.shape is None else (x.shape[1], x.shape[0], x.shape[2])
    return a.node("Transpose", [x], x.dtype, shape, perm=(1, 0, 2))


def _sequence(
    a: Aten,
    kind: str,
    input: Tensor,
    states: list[Tensor],
    rest: Sequence[Any],
    given: dict[str, Any],
) -> tuple[Tensor, ...]:
    """The two forms: a padded tensor, or the data of a packed sequence."""
    names = ["params", "has_biases", "num_layers", "dropout", "train", "bidirectional", "batch_first"]
    have = {"batch_first": False} | dict(zip(names, rest, strict=False)) | given
    missing = [name for name in names if name not in have]
    if missing or len(rest) > len(names):
        raise TypeError(f"missing {missing}" if missing else f"{len(rest)} arguments")
    _evaluated(a, have["dropout"], have["train"])
    packed = isinstance(input, Packed)
    swap = have["batch_first"] and not packed
    x, finals = _layers(
        a,
        kind,
        _swapped(a, input) if swap else input,
        states,
        have["params"],
        have["has_biases"],
        have["num_layers"],
        have["bidirectional"],
        input.lengths if isinstance(input, Packed) else None,
    )
    if isinstance(input, Packed):
        x = Packed(x.name, x.dtype, x.shape, input.lengths)
    return (_swapped(a, x) if swap else x, *finals)


@op("lstm")
def lstm(a: Aten, input: Any, *rest: Any, **given: Any) -> tuple[Tensor, ...]:
    """``input, hx, params, has_biases, ...``; packed: ``data, batch_sizes, hx, params, ...``."""
    return _either(a, "lstm", input, rest, given)


@op("gru", "rnn_tanh", "rnn_relu")
def gru(a: Aten, input: Any, *rest: Any, **given: Any) -> tuple[Tensor, ...]:
    return _either(a, a.name, input, rest, given)


def _either(a: Aten, kind: str, input: Any, rest: tuple[Any, ...], given: dict[str, Any]) -> tuple[Tensor, ...]:
    if isinstance(input, Packed):
        given = {key: value for key, value in given.items() if key != "batch_sizes"}
        if rest and isinstance(rest[0], BatchSizes):
            rest = rest[1:]
    if "hx" not in given:
        given, rest = {**given, "hx": rest[0]}, rest[1:]
    hx = given.pop("hx")
    states = list(hx) if kind == "lstm" else [hx]
    if len(states) != (2 if kind == "lstm" else 1) or not all(isinstance(s, Tensor) for s in states):
        raise TypeError("hx is not the state of this operator")
    return _sequence(a, kind, input, states, rest, given)


# ---------------------------------------------------------------------- packed sequences


@op("_pack_padded_sequence")
def pack_padded_sequence(a: Aten, input: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
    x = _swapped(a, input) if batch_first else input
    ends = a.cast(lengths, np.dtype(np.int32))
    data = Packed(x.name, x.dtype, x.shape, ends)
    return data, BatchSizes(lengths.name, np.dtype(np.int64), None, ends)


@op("_pad_packed_sequence")
def pad_packed_sequence(
    a: Aten,
    data: Tensor,
    batch_sizes: Tensor,
    batch_first: bool,
    padding_value: float,
    total_length: int | SymInt,
) -> tuple[Tensor, Tensor]:
    if not isinstance(data, Packed) or not isinstance(batch_sizes, BatchSizes):
        raise a.unsupported("takes a packed sequence that no recurrent layer made")
    if padding_value != 0:
        raise a.unsupported("is not supported", "padding_value", padding_value, "Recurrent layers pad with 0")
    long = np.dtype(np.int64)
    lengths = a.cast(batch_sizes.lengths, long)
    end: Any = total_length
    if isinstance(total_length, int) and total_length <= 0:  # up to the longest row
        end = a.node("ReduceMax", [lengths, ""], long, (), keepdims=False, noop_with_empty_axes=False)
    shape = None if data.shape is None else (dim_of(end), *data.shape[1:])
    x = a.node("Slice", [data, a.ints(0), a.ints(end), a.ints(0), a.ints(1)], data.dtype, shape)
    return _swapped(a, x) if batch_first else x, lengths


# ---------------------------------------------------------------------- cells


def _cell(a: Aten, kind: str, input: Tensor, states: list[Tensor], weights: Sequence[Tensor | None]) -> list[Tensor]:
    w, r, *biases = weights
    assert w is not None and r is not None
    both = [bias for bias in biases if bias is not None]
    if len(both) == 1:
        raise a.unsupported("has one bias of two", "b_ih" if biases[0] is None else "b_hh")
    name, gates, _ = _CELLS[kind]
    rows, _ = _matrix(a, w, "w_ih")
    hidden = rows // len(gates)
    batch = input.shape[0] if input.shape else None
    bias = _stacked(a, [_joined(a, *both)]) if both else ""
    raised = [a.node("Unsqueeze", [t, a.ints(0)], t.dtype, (1, batch, None)) for t in (input, *states)]
    inputs: list[Tensor | str] = [raised[0], _stacked(a, [w]), _stacked(a, [r]), bias, "", raised[1]]
    if name == "LSTM":
        inputs += [raised[2], "", ""]
    results = [(input.dtype, (1, 1, batch, hidden)), *[(input.dtype, (1, batch, hidden))] * len(states)]
    _, *ends = a.nodes(name, inputs, results, **_attributes(kind, hidden, 1), recognised=True)
    return [a.node("Squeeze", [end, a.ints(0)], end.dtype, (batch, hidden)) for end in ends]


@op("lstm_cell")
def lstm_cell(
    a: Aten,
    input: Tensor,
    hx: Sequence[Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> tuple[Tensor, ...]:
    return tuple(_cell(a, "lstm", input, list(hx), [w_ih, w_hh, b_ih, b_hh]))


@op("gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def gru_cell(
    a: Aten,
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    return _cell(a, a.name.removesuffix("_cell"), input, [hx], [w_ih, w_hh, b_ih, b_hh])[0]
