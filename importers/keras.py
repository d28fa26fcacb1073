"""Keras' own files, ``.keras`` and ``.h5``, through h5py: a chain of layers and its weights, without Keras.

Both hold the architecture as JSON and the weights as HDF5. A ``.keras`` file is a zip archive of the two and finds the
weights of a layer under its class, numbered among its like: ``layers/lstm_1/cell/vars/0``. An ``.h5`` file finds them
under the layer's name, in the order of the attribute ``weight_names``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ..engine import layers
from ..engine.compositions import Sequential
from ..engine.errors import GatestepError, ModelFormatError, UnsupportedModelError
from ..engine.spec import GRU, LSTM, RNN, Recurrent, Spec
from . import keras_specs
from .archive import Archive, Source, source_name
from .hdf5 import Hdf5, read_hdf5
from .keras_cells import dense, recurrent
from .kinds import HDF5_MAGIC, KERAS_WEIGHTS, head_of

__all__ = ["read_keras"]

MAX_CONFIG = 1 << 24
MAX_LAYERS = 1 << 10

Weights = dict[str, np.ndarray]
_Fetch = Callable[[dict[str, Any]], list[np.ndarray]]

_ACTIVATIONS: dict[str, Callable[[], Spec | None]] = {
    "linear": lambda: None,
    "tanh": layers.Tanh,
    "relu": layers.ReLU,
    "sigmoid": layers.Sigmoid,
    "softmax": lambda: layers.Softmax(-1),
    "log_softmax": lambda: layers.LogSoftmax(-1),
    "elu": layers.ELU,
    "selu": layers.SELU,
    "gelu": layers.GELU,
    "silu": layers.SiLU,
    "swish": layers.SiLU,
    "softplus": layers.Softplus,
    "softsign": layers.Softsign,
    "hard_silu": layers.Hardswish,
    "hard_swish": layers.Hardswish,
}
#: Activations inside of recurrent layers, as the graph has them; hard_sigmoid depends on the version of Keras.
_INNER: dict[str, tuple[str, float, float]] = {
    "linear": ("Affine", 1.0, 0.0),
    "tanh": ("Tanh", 0.0, 0.0),
    "sigmoid": ("Sigmoid", 0.0, 0.0),
    "relu": ("Relu", 0.0, 0.0),
    "elu": ("Elu", 1.0, 0.0),
    "softplus": ("Softplus", 0.0, 0.0),
    "softsign": ("Softsign", 0.0, 0.0),
}
TANH, SIGMOID = _INNER["tanh"], _INNER["sigmoid"]
#: Layers that do nothing but in training.
_TRAINING = (
    "Dropout",
    "SpatialDropout1D",
    "GaussianDropout",
    "GaussianNoise",
    "AlphaDropout",
    "ActivityRegularization",
)
_RECURRENT = {"LSTM": "LSTM", "GRU": "GRU", "SimpleRNN": "RNN"}
#: What else would change the numbers: only these values are taken. A tuple is a choice.
_ONLY: dict[str, dict[str, Any]] = {
    "recurrent": {
        "return_state": False,
        "go_backwards": False,
        "time_major": False,
        "zero_output_for_mask": False,
    },
    "Embedding": {"mask_zero": False, "lora_rank": None},
    "Dense": {"lora_rank": None, "quantization_config": None},
    "LayerNormalization": {"rms_scaling": False},
}


def read_keras(source: Source) -> tuple[Weights, Spec]:
    """The weights in a file of Keras under PyTorch's names, and the chain of layers they belong to, batch-first.

    Parameters
    ----------
    source : path or bytes

    Returns
    -------
    weights : dict of str to numpy.ndarray
    spec : Spec

    Raises
    ------
    ModelFormatError
        Damaged, or its parts contradict each other; or the HDF5 library crashed or came to no end over it.
    UnsupportedModelError
        No chain of layers, or one with a layer or setting that is not known; or weights alone.
    MissingExtraError
        h5py is not installed.
    OSError
        The file cannot be opened, or no process started to read it.
    """
    name = source_name(source)
    try:
        if head_of(source).startswith(HDF5_MAGIC):
            file = read_hdf5(source, name)
            if file.model_config is None:
                raise UnsupportedModelError(
                    "weights of Keras without the model they belong to",
                    source=name,
                    hint="Save the whole model: model.save('model.keras')",
                )
            return _chain(_parsed(file.model_config, name), _Held(file, name).by_name, name, file.version)
        with Archive(source) as archive:
            config = _parsed(archive.read("config.json", compressed=True), name)
            weights = archive.read(KERAS_WEIGHTS, compressed=True)
            told = archive.read("metadata.json", compressed=True) if "metadata.json" in archive.entries else b"{}"
        held = _Held(read_hdf5(weights, name), name)
        del weights  # the arrays are what is left of it
        return _chain(config, held.by_class, name, _version(told))
    except UnsupportedModelError as error:
        error.hint = error.hint or "Export it as ONNX: model.export('model.onnx', format='onnx'), or tf2onnx"
        raise
    except (GatestepError, OSError):
        raise
    except Exception as error:  # a configuration may hold anything anywhere
        raise ModelFormatError(f"{name}: a damaged file of Keras ({str(error)[:120]})") from error


def _parsed(text: str | bytes, name: str) -> dict[str, Any]:
    if not text or len(text) > MAX_CONFIG:
        raise ModelFormatError(f"{name}: no configuration of a model, or one of {len(text)} bytes")
    try:
        root = json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 18 else float(digits))
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"{name}: its configuration is not JSON ({str(error)[:80]})") from error
    if not isinstance(root, dict) or not isinstance(root.get("config"), dict):
        raise ModelFormatError(f"{name}: its configuration is not that of a model")
    return root


def _version(text: bytes) -> str:
    """The version of Keras that a ``.keras`` file tells; empty if it does not."""
    try:
        root = json.loads(text) if len(text) < MAX_CONFIG else None
    except (ValueError, RecursionError):
        root = None
    return str(root.get("keras_version", ""))[:40] if isinstance(root, dict) else ""


# Weights


class _Held:
    """The arrays of an HDF5 file: each may be had once, so that no model is larger than they are."""

    def __init__(self, file: Hdf5, name: str) -> None:
        self.file, self.name = file, name
        self.room = sum(array.nbytes for array in file.arrays.values())
        self.counts: dict[str, int] = {}

    def at(self, path: str) -> str:
        """`path` as the file has it. Links are not followed."""
        parts = [part for part in path.split("/") if part]
        for n, part in enumerate(parts, 1):
            if "/".join(parts[:n]) in self.file.links:
                raise UnsupportedModelError(f"{part[:40]!r} is a link to somewhere else", source=self.name)
        return "/".join(parts)

    def array(self, path: str) -> np.ndarray:
        path = self.at(path)
        if path in self.file.others:
            raise UnsupportedModelError(
                f"{path[:80]!r} holds {self.file.others[path]}, not floating-point weights", source=self.name
            )
        array = self.file.arrays.get(path)
        if array is None:
            raise ModelFormatError(f"{self.name}: {path[:80]!r} is no array")
        self.room -= array.nbytes
        if self.room < 0:
            raise ModelFormatError(f"{self.name}: {path[:80]!r} belongs to two layers")
        return array

    def by_name(self, layer: dict[str, Any]) -> list[np.ndarray]:
        """The weights of a layer in an ``.h5`` file."""
        top = "model_weights" if self.at("model_weights") in self.file.groups else ""
        group = self.at(f"{top}/{layer['config'].get('name')}")
        return [self.array(f"{group}/{path}") for path in self.file.weight_names.get(group, ())]

    def by_class(self, layer: dict[str, Any]) -> list[np.ndarray]:
        """The weights of a layer in a ``.keras`` file."""
        kind = str(layer["class_name"])
        snake = re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", kind)).lower()
        count = self.counts[snake] = self.counts.get(snake, -1) + 1
        places = {"Bidirectional": ("forward_layer/cell", "backward_layer/cell"), "TimeDistributed": ("layer",)}
        for top in ("layers", "_layer_checkpoint_dependencies"):
            group = self.at(f"{top}/{snake}_{count}" if count else f"{top}/{snake}")
            if group in self.file.groups:
                break
        arrays = []
        for place in places.get(kind, ("cell",) if kind in _RECURRENT else ("",)):
            held = self.at(f"{group}/{place}/vars")
            arrays += [self.array(f"{held}/{k}") for k in range(min(self.file.groups.get(held, 0), 8))]
        return arrays


# Layers


def _chain(model: dict[str, Any], fetch: _Fetch, name: str, version: str) -> tuple[Weights, Spec]:
    kind, config = model.get("class_name"), model["config"]
    found = config.get("layers")
    if kind not in ("Sequential", "Functional", "Model") or not isinstance(found, list):
        raise UnsupportedModelError(
            "a model of Keras that is neither Sequential nor Functional",
            source=name,
            value=str(kind)[:40],
            attribute="class_name",
        )
    if len(found) > MAX_LAYERS:
        raise ModelFormatError(f"{name}: {len(found)} layers")
    weights: Weights = {}
    parts: dict[str, Spec] = {}
    before = ""
    for layer in found:
        if not isinstance(layer, dict) or not isinstance(layer.get("config"), dict):
            raise ModelFormatError(f"{name}: a layer without a configuration")
        own = str(layer["config"].get("name", layer.get("name")))[:80]
        if kind != "Sequential":
            sources = _sources(layer.get("inbound_nodes"))
            if sources != ({before} if before else set()):
                raise UnsupportedModelError(
                    "layers that are no chain", source=name, node=f"{layer.get('class_name')} {own!r}"
                )
        before = own
        for suffix, spec, arrays in _layer(layer, own, fetch, name, version):
            key = f"{own.replace('.', '_')}{suffix}"
            if key in parts:
                raise ModelFormatError(f"{name}: two layers {key!r}")
            parts[key] = spec
            weights |= {f"{key}.{inner}": array for inner, array in arrays.items()}
    if not parts:
        raise UnsupportedModelError("a model without layers", source=name)
    if kind != "Sequential" and _sources(config.get("output_layers")) not in ({before}, set()):
        raise UnsupportedModelError("an output that is not the last layer's", source=name, attribute="output_layers")
    try:
        return weights, Sequential(parts)
    except ValueError as error:
        raise UnsupportedModelError(f"layers that do not follow one another: {error}", source=name) from error


def _sources(nodes: Any) -> set[str]:
    """The names of the layers that lead into one, however the version of Keras writes that."""
    names: set[str] = set()
    stack = [nodes]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            history = node.get("keras_history")
            stack += [v for v in node.values() if isinstance(v, (dict, list))] if history is None else [history]
        elif isinstance(node, list):
            if len(node) in (3, 4) and isinstance(node[0], str) and all(type(n) is int for n in node[1:3]):
                names.add(node[0][:80])
                stack += node[3:]
            else:
                stack += node
    return names


def _layer(
    layer: dict[str, Any], own: str, fetch: _Fetch, name: str, version: str
) -> Iterator[tuple[str, Spec, Weights]]:
    """The specs of one layer of Keras, with what follows its name, and their weights."""
    kind, config = layer.get("class_name"), layer["config"]
    node = f"{str(kind)[:40]} {own!r}"

    def only(table: str, settings: dict[str, Any]) -> None:
        for key, value in _ONLY[table].items():
            if settings.get(key, value) != value:
                raise UnsupportedModelError(
                    "not supported", source=name, node=node, attribute=key, value=str(settings[key])[:40]
                )

    def activation(settings: dict[str, Any]) -> Spec | None:
        value = settings.get("activation", "linear") or "linear"
        if value == "hard_sigmoid":
            return layers.Hardsigmoid() if _major(version, name, node) >= 3 else keras_specs.Hardsigmoid2()
        if not isinstance(value, str) or value not in _ACTIVATIONS:
            raise UnsupportedModelError(
                "not supported", source=name, node=node, attribute="activation", value=str(value)[:40]
            )
        return _ACTIVATIONS[value]()

    def take(*counts: int) -> list[np.ndarray]:
        arrays = fetch(layer)
        if len(arrays) not in counts:
            raise ModelFormatError(f"{name}: {node}: {len(arrays)} weights")
        return arrays

    if kind == "InputLayer" or kind in _TRAINING:
        return
    if kind == "Activation":
        spec = activation(config)
        if spec is not None:
            yield "", spec, {}
    elif kind == "Embedding":
        only("Embedding", config)
        (table,) = take(1)
        if table.ndim != 2:
            raise ModelFormatError(f"{name}: {node}: a table of the shape {table.shape}")
        yield "", layers.Embedding(*table.shape), {"weight": table}
    elif kind == "LayerNormalization":
        only("LayerNormalization", config)
        yield _normalization(config, take, node, name)
    elif kind in ("Dense", "TimeDistributed"):
        inner = config.get("layer") if kind == "TimeDistributed" else layer
        if (
            not isinstance(inner, dict)
            or inner.get("class_name") != "Dense"
            or not isinstance(inner.get("config"), dict)
        ):
            raise UnsupportedModelError("around another layer than Dense", source=name, node=node)
        only("Dense", inner["config"])
        kernel, *bias = take(2 if inner["config"].get("use_bias", True) else 1)
        if kernel.ndim != 2:
            raise ModelFormatError(f"{name}: {node}: a kernel of the shape {kernel.shape}")
        yield "", layers.Linear(kernel.shape[0], kernel.shape[1], bool(bias)), dense(kernel, bias[0] if bias else None)
        spec = activation(inner["config"])
        if spec is not None:
            yield ".activation", spec, {}
    elif kind in _RECURRENT or kind == "Bidirectional":
        inner = config.get("layer") if kind == "Bidirectional" else layer
        if not isinstance(inner, dict) or inner.get("class_name") not in _RECURRENT:
            raise UnsupportedModelError("around another layer than LSTM, GRU or SimpleRNN", source=name, node=node)
        if not isinstance(inner.get("config"), dict):
            raise ModelFormatError(f"{name}: {node}: no configuration")
        both = kind == "Bidirectional"
        only("recurrent", inner["config"])
        mode = config.get("merge_mode", "concat") if both else "concat"
        if both:
            _mirrored(config, inner, node, name)
        if mode not in ("concat", "sum", "mul", "ave"):
            raise UnsupportedModelError(
                "not supported", source=name, node=node, attribute="merge_mode", value=str(mode)[:40]
            )
        yield "", *_recurrent(inner, both, take, node, name, version)
        if not inner["config"].get("return_sequences", False):
            yield ".last", keras_specs.Ends() if both else layers.Last(), {}
        if mode != "concat":
            yield ".merged", keras_specs.Merge(mode), {}
    else:
        raise UnsupportedModelError("a layer that is not known", source=name, node=node)


def _mirrored(config: dict[str, Any], forward: dict[str, Any], node: str, name: str) -> None:
    """Both halves of a Bidirectional are alike but for their direction."""
    backward = config.get("backward_layer")
    if backward is None:
        return
    free = {"name", "go_backwards", "dtype", "trainable", "seed", "dropout", "recurrent_dropout", "build_config"}
    settings = [half.get("config", {}) if isinstance(half, dict) else {} for half in (forward, backward)]
    keys = {key for half in settings for key in half if key not in free and "initializer" not in key}
    if any(settings[0].get(key) != settings[1].get(key) for key in keys):
        raise UnsupportedModelError("two different halves", source=name, node=node, attribute="backward_layer")


def _recurrent(
    layer: dict[str, Any], both: bool, take: Callable[..., list[np.ndarray]], node: str, name: str, version: str
) -> tuple[Spec, Weights]:
    op, config = _RECURRENT[layer["class_name"]], layer["config"]
    bias = bool(config.get("use_bias", True))

    def inner(key: str, usual: str) -> tuple[str, float, float]:
        value = config.get(key, usual) or "linear"
        if value == "hard_sigmoid":
            return "HardSigmoid", 1 / 6 if _major(version, name, node) >= 3 else 0.2, 0.5
        if not isinstance(value, str) or value not in _INNER:
            raise UnsupportedModelError("not supported", source=name, node=node, attribute=key, value=str(value)[:40])
        return _INNER[value]

    act = inner("activation", "tanh")
    gate = act if op == "RNN" else inner("recurrent_activation", "sigmoid")
    each = 3 if bias else 2
    arrays = take(each * (1 + both))
    weights: Weights = {}
    after = False
    for d in range(1 + both):
        kernel, r, *biases = arrays[d * each : (d + 1) * each]
        after = bool(config.get("reset_after", False))
        if biases and biases[0].ndim != (2 if op == "GRU" and after else 1):
            raise ModelFormatError(f"{name}: {node}: a bias of the shape {biases[0].shape}")
        try:
            weights |= recurrent(op, kernel, r, biases[0] if biases else None, "_reverse" if d else "")
        except ValueError as error:
            raise ModelFormatError(f"{name}: {node}: {error}") from error
    sizes = arrays[0].shape[0], arrays[1].shape[0]
    if 0 in sizes:
        raise ModelFormatError(f"{name}: {node}: a kernel of the shape {arrays[0].shape}")
    options: dict[str, Any] = {"bias": bias, "batch_first": True, "bidirectional": both}
    spec: Recurrent = RNN(*sizes, **options)
    if op == "LSTM":
        spec = LSTM(*sizes, **options)
    elif op == "GRU":
        spec = GRU(*sizes, **options, reset_after=after)
    acts = {"LSTM": (gate, act, act), "GRU": (gate, act), "RNN": (act,)}[op]
    if acts != {"LSTM": (SIGMOID, TANH, TANH), "GRU": (SIGMOID, TANH), "RNN": (TANH,)}[op]:
        spec = keras_specs.Layer(replace(spec.recurrence, activations=acts))
    return spec, weights


def _major(version: str, name: str, node: str) -> int:
    """The version of Keras, where what a layer computes depends on it."""
    major = version.partition(".")[0]
    if not major.isdecimal() or len(major) > 4:
        raise UnsupportedModelError(
            "hard_sigmoid is one function in Keras 2 and another in Keras 3, and the file does not say which it is of",
            source=name,
            node=node,
            hint="Save the model again",
        )
    return int(major)


def _normalization(
    config: dict[str, Any], take: Callable[..., list[np.ndarray]], node: str, name: str
) -> tuple[str, Spec, Weights]:
    axis = config.get("axis", -1)
    if axis not in (-1, 2, [-1], [2]):
        raise UnsupportedModelError("not supported", source=name, node=node, attribute="axis", value=str(axis)[:40])
    scale, center = bool(config.get("scale", True)), bool(config.get("center", True))
    arrays = take(scale + center)
    epsilon = config.get("epsilon", 1e-3)
    if not arrays or arrays[0].ndim != 1 or not arrays[0].size or type(epsilon) is not float:
        raise UnsupportedModelError("neither scale nor center, or no epsilon", source=name, node=node)
    gamma = arrays[0] if scale else np.ones_like(arrays[0])
    weights = {"weight": gamma} | ({"bias": arrays[-1]} if center else {})
    return "", layers.LayerNorm(gamma.shape[0], epsilon, bias=center), weights
