"""The JSON files in which people who model amplifiers and effects keep networks.

``.nam`` (Neural Amp Modeler), RTNeural's own and those of Automated-GuitarAmpModelling, which Proteus and other plugins
read, say what model they are; so the weights come with a spec. A state_dict written as JSON does not. Which it is shows
in the keys.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..engine import layers
from ..engine.compositions import Concat, Residual, Sequential
from ..engine.errors import ModelFormatError, UnsupportedModelError
from ..engine.spec import GRU, LSTM, RNN, Spec
from .keras_cells import dense, recurrent
from .source import Source, opened, source_name

__all__ = ["read_json"]

#: Parsed, a number takes up to ten times its size, a list or a name thirty times. Models that run sample by sample have
#: a hundred thousand weights.
MAX_BYTES = 1 << 25
MAX_MARKS = 1 << 20
MAX_SIZE = 1 << 20
MAX_LAYERS = 1 << 10
MAX_NDIM = 4
#: A matrix of so many rows is made to add inputs to outputs.
MAX_SKIPPED = 256

Weights = dict[str, np.ndarray]


def read_json(source: Source, *, state_dict: str | None = None) -> tuple[Weights, Spec | None]:
    """The weights in a JSON file, as float32, and what they belong to, where the file says so.

    Parameters
    ----------
    source : path or bytes
    state_dict : str, optional
        Where in the file a state_dict is, names joined by dots; then the file's own description is left aside.

    Returns
    -------
    weights : dict of str to numpy.ndarray
    spec : Spec or None
        None for a state_dict: that is no model yet.

    Raises
    ------
    ModelFormatError
        No JSON, or sizes that contradict each other.
    UnsupportedModelError
        A model that is not recurrent, a layer that is not known, or no weights at all.
    OSError
        The file cannot be opened.
    """
    name = source_name(source)
    root = _parse(source, name)
    if state_dict is not None:
        return _state_dict(_at_path(root, state_dict, name), name), None
    for keys, read in _KINDS:
        if all(isinstance(root.get(key), kind) for key, kind in keys.items()):
            return read(root, name)
    held = root.get("state_dict")
    return _state_dict(held if isinstance(held, dict) else root, name), None


def _parse(source: Source, name: str) -> dict[str, Any]:
    with opened(source) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UnsupportedModelError(
            f"a JSON file of more than {MAX_BYTES} bytes, the largest that is read",
            source=name,
            hint="Save the weights as .safetensors or .npz",
        )
    if sum(map(data.count, (b"[", b"{", b'"'))) > MAX_MARKS:
        raise ModelFormatError(
            f"{name}: JSON of more than {MAX_MARKS} lists, objects and names; weights need far fewer"
        )
    try:
        # An integer of very many digits takes very long; a weight has fewer.
        root = json.loads(data, parse_int=lambda digits: int(digits) if len(digits) < 18 else float(digits))
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"{name}: not JSON, or cut short ({str(error)[:80]})") from error
    if not isinstance(root, dict):
        raise ModelFormatError(f"{name}: JSON, but no object")
    return root


def _at_path(root: dict[str, Any], path: str, name: str) -> dict[str, Any]:
    value: Any = root
    for key in path.split(".") if path else ():
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, dict):
        raise UnsupportedModelError(
            "no object there", source=name, attribute="state_dict", value=path, hint=f"There is {_keys(root)}"
        )
    return value


def _keys(mapping: dict[str, Any]) -> str:
    return ", ".join(repr(key[:40]) for key in list(mapping)[:8]) or "nothing"


def _array(value: Any, what: str, name: str) -> np.ndarray:
    """Nested lists of numbers as float32."""
    shape: list[int] = []
    inner = value
    while isinstance(inner, list) and len(shape) <= MAX_NDIM:
        shape.append(len(inner))
        inner = inner[0] if inner else None
    if not shape or len(shape) > MAX_NDIM:
        raise ModelFormatError(f"{name}: {what} is not nested lists of numbers")
    level: list[Any] = [value]
    for size in shape:
        if not all(isinstance(row, list) and len(row) == size for row in level):
            raise ModelFormatError(f"{name}: {what} has lists of different lengths side by side")
        level = [item for row in level for item in row]
    if not all(type(number) in (float, int) for number in level):
        raise ModelFormatError(f"{name}: {what} holds something else than numbers")
    with np.errstate(over="ignore"):
        return np.array(level, np.float64).astype(np.float32).reshape(shape)


def _state_dict(mapping: dict[str, Any], name: str) -> Weights:
    weights = {key: _array(value, repr(key[:80]), name) for key, value in mapping.items() if isinstance(value, list)}
    if not weights:
        raise UnsupportedModelError(
            f"JSON, but no model that is known and no weights; there is {_keys(mapping)}",
            source=name,
            hint="These are read: .nam of an LSTM, RTNeural's, Automated-GuitarAmpModelling's, a state_dict of lists",
        )
    return weights


def _size(
    mapping: dict[str, Any], key: str, name: str, *, default: int | None = None, least: int = 1, most: int = MAX_SIZE
) -> int:
    value = mapping.get(key, default)
    if type(value) is not int or not least <= value <= most:
        raise ModelFormatError(f"{name}: {key!r} is {str(value)[:40]!r}, not a size")
    return value


# Neural Amp Modeler


def _nam(root: dict[str, Any], name: str) -> tuple[Weights, Spec]:
    """An LSTM: for each layer input and recurrent weights side by side, one bias, h and c; then the head's."""
    if root["architecture"] != "LSTM":
        raise UnsupportedModelError(
            "a model of Neural Amp Modeler that is not recurrent",
            source=name,
            attribute="architecture",
            value=root["architecture"][:40],
            hint="Of .nam files, those of architecture LSTM are read",
        )
    config = root["config"]
    inputs, hidden = _size(config, "input_size", name), _size(config, "hidden_size", name)
    count, outputs = _size(config, "num_layers", name, most=MAX_LAYERS), _size(config, "out_channels", name, default=1)
    if _size(config, "in_channels", name, default=inputs) != inputs:
        raise UnsupportedModelError("channels that are not the inputs", source=name, attribute="in_channels")
    flat = _array(root["weights"], "'weights'", name)
    expected = (
        4 * hidden * (inputs + hidden) + (count - 1) * 8 * hidden**2 + count * 6 * hidden + outputs * (hidden + 1)
    )
    if flat.shape != (expected,):
        raise ModelFormatError(f"{name}: {flat.size} weights, an LSTM of these sizes has {expected}")
    at = 0

    def take(*shape: int) -> np.ndarray:
        nonlocal at
        start, at = at, at + int(np.prod(shape))
        return flat[start:at].reshape(shape)

    weights: Weights = {}
    h, c = [], []
    for layer in range(count):
        width = hidden if layer else inputs
        both, bias = take(4 * hidden, width + hidden), take(4 * hidden)
        weights |= {f"_core.weight_ih_l{layer}": both[:, :width], f"_core.weight_hh_l{layer}": both[:, width:]}
        weights |= {f"_core.bias_ih_l{layer}": bias, f"_core.bias_hh_l{layer}": np.zeros_like(bias)}
        h.append(take(hidden))
        c.append(take(hidden))
    weights |= {"_initial_hidden": np.stack(h), "_initial_cell": np.stack(c)}
    weights |= {"_head.weight": take(outputs, hidden), "_head.bias": take(outputs)}
    core = LSTM(inputs, hidden, count, batch_first=True, initial=("_initial_hidden", "_initial_cell"))
    parts: dict[str, Spec] = {"_input": layers.Unflatten(1, (-1, 1))} if inputs == 1 else {}
    parts |= {"_core": core, "_head": layers.Linear(hidden, outputs)}
    return weights, Sequential(parts | ({"_output": layers.Flatten()} if outputs == 1 else {}))


# RTNeural

_ACTIVATIONS: dict[str, Callable[[], Spec]] = {
    "tanh": layers.Tanh,
    "relu": layers.ReLU,
    "sigmoid": layers.Sigmoid,
    "softmax": lambda: layers.Softmax(-1),
    "elu": layers.ELU,
}


def _rtneural(root: dict[str, Any], name: str) -> tuple[Weights, Spec]:
    """Layers as Keras has them, each with its weights, batch-first."""
    if not root["layers"] or len(root["layers"]) > MAX_LAYERS:
        raise ModelFormatError(f"{name}: {len(root['layers'])} layers")
    for gain in ("in_gain", "out_gain"):
        if root.get(gain):
            raise UnsupportedModelError("a gain around the network", source=name, attribute=gain, value=root[gain])
    width = first = _last(root, "in_shape", name)
    weights: Weights = {}
    parts: dict[str, Spec] = {}
    for n, layer in enumerate(root["layers"]):
        if not isinstance(layer, dict):
            raise ModelFormatError(f"{name}: layer {n} is no object")
        size = _last(layer, "shape", name)
        for k, (spec, held) in enumerate(_keras_layer(layer, n, width, size, name)):
            key = f"{n}.act" if k else str(n)
            parts[key] = spec
            weights |= {f"{key}.{inner}": array for inner, array in held.items()}
        width = size
    body = Sequential(parts)
    skip = _size(root, "in_skip", name, default=0, least=0)
    return _skipped(weights, body, skip, first, width, name) if skip else (weights, body)


def _last(mapping: dict[str, Any], key: str, name: str) -> int:
    """The last of a list of sizes, the features."""
    shape = mapping.get(key)
    if not isinstance(shape, list) or not shape:
        raise ModelFormatError(f"{name}: {key!r} is no list of sizes")
    return _size({key: shape[-1]}, key, name)


def _keras_layer(layer: dict[str, Any], n: int, width: int, size: int, name: str) -> Iterator[tuple[Spec, Weights]]:
    """A layer, and its activation where that is one of its own."""
    kind, activation, held = layer.get("type"), layer.get("activation") or "", layer.get("weights")
    node = f"layer {n} {str(kind)[:40]!r}"
    if kind in ("lstm", "gru"):
        known = activation in ("", "tanh")
    else:
        known = isinstance(activation, str) and (not activation or activation in _ACTIVATIONS)
    if not known:
        raise UnsupportedModelError(
            "an activation that is not known",
            source=name,
            node=node,
            attribute="activation",
            value=str(activation)[:40],
        )
    arrays = [_array(value, f"a weight of {node}", name) for value in held] if isinstance(held, list) else []
    if kind in ("lstm", "gru") and len(arrays) == 3:
        spec: Spec = LSTM(width, size, batch_first=True) if kind == "lstm" else GRU(width, size, batch_first=True)
        if arrays[2].ndim != (1 if kind == "lstm" else 2):
            raise ModelFormatError(f"{name}: {node}: its bias has the shape {arrays[2].shape}")
        try:
            yield spec, recurrent(kind.upper(), arrays[0], arrays[1], arrays[2])
        except ValueError as error:
            raise ModelFormatError(f"{name}: {node}: {error}") from error
        return
    if kind in ("dense", "time-distributed-dense") and len(arrays) in (1, 2):
        bias = arrays[1] if len(arrays) == 2 else None
        yield layers.Linear(width, size, bias is not None), dense(arrays[0], bias)
    elif kind in ("lstm", "gru", "dense", "time-distributed-dense"):
        raise ModelFormatError(f"{name}: {node}: {len(arrays)} weights")
    elif kind == "activation" and size != width:
        raise ModelFormatError(f"{name}: {node}: {size} features, the layer before gives {width}")
    elif kind != "activation":
        raise UnsupportedModelError(
            "a layer that is not known",
            source=name,
            node=node,
            hint="Of RTNeural's layers, dense, lstm, gru and activation are read",
        )
    if activation:
        yield _ACTIVATIONS[activation](), {}


# Automated-GuitarAmpModelling


def _guitar(root: dict[str, Any], name: str) -> tuple[Weights, Spec]:
    """A recurrent layer and a linear one, time-first, with the first inputs added to what they give."""
    model = root["model_data"]
    kind = model.get("unit_type")
    if model.get("model") != "SimpleRNN":
        raise UnsupportedModelError(
            "a model of Automated-GuitarAmpModelling that is not a single recurrent layer",
            source=name,
            attribute="model",
            value=str(model.get("model"))[:40],
            hint="Of these files, those of SimpleRNN are read",
        )
    if kind not in ("LSTM", "GRU", "RNN"):
        raise UnsupportedModelError("a layer not known", source=name, attribute="unit_type", value=str(kind)[:40])
    inputs, hidden = _size(model, "input_size", name), _size(model, "hidden_size", name)
    count, outputs = _size(model, "num_layers", name, default=1, most=MAX_LAYERS), _size(model, "output_size", name)
    skip = _size(model, "skip", name, default=0, least=0)
    weights = _state_dict(root["state_dict"], name)
    rec: Spec = {"LSTM": LSTM, "GRU": GRU, "RNN": RNN}[kind](inputs, hidden, count)
    body = Sequential({"rec": rec, "lin": layers.Linear(hidden, outputs, bool(model.get("bias_fl", True)))})
    return _skipped(weights, body, skip, inputs, outputs, name) if skip else (weights, body)


def _skipped(weights: Weights, body: Spec, skip: int, inputs: int, outputs: int, name: str) -> tuple[Weights, Spec]:
    """`body`, with its first `skip` inputs added to its outputs."""
    skip = min(skip, inputs)
    if skip not in (1, outputs) or inputs + outputs > MAX_SKIPPED:
        raise UnsupportedModelError(
            f"{skip} of {inputs} inputs added to {outputs} outputs", source=name, attribute="skip", value=skip
        )
    if skip == inputs == outputs:
        return weights, Residual(body)
    # The others are knobs: a matrix of ones and zeros adds what is to be added.
    matrix = np.zeros((outputs, inputs + outputs), np.float32)
    matrix[:, inputs:] = np.eye(outputs)
    matrix[np.arange(outputs), np.arange(outputs) if skip == outputs else 0] = 1
    beside = Concat({"_input": layers.Identity(), "": body})
    spec = Sequential({"": beside, "_skip": layers.Linear(inputs + outputs, outputs, bias=False)})
    return weights | {"_skip.weight": matrix}, spec


_KINDS: tuple[tuple[dict[str, type], Callable[[dict[str, Any], str], tuple[Weights, Spec]]], ...] = (
    ({"architecture": str, "config": dict, "weights": list}, _nam),
    ({"in_shape": list, "layers": list}, _rtneural),
    ({"model_data": dict, "state_dict": dict}, _guitar),
)
