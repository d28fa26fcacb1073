"""From a spec and the weights to a graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..engine import layers as nn
from ..engine.compositions import Concat, Residual, Sequential
from ..engine.errors import ModelFormatError, UnsupportedModelError
from ..engine.graph import Dim, Graph
from ..engine.spec import FRAMES, IDS, LAST, Recurrence, Recurrent, Shape, Spec
from . import keras_specs

__all__ = ["build", "describe"]

#: Buffers of PyTorch that inference does not read.
_HARMLESS = ("num_batches_tracked", "n_averaged", "_extra_state")
#: How many keys are compared and listed in messages.
_COMPARED, _LISTED = 2000, 8

_SELU_ALPHA, _SELU_GAMMA = 1.6732632423543772, 1.0507009873554805


def build(spec: Spec, weights: Mapping[str, np.ndarray], *, source: str, prefix: str | None = None) -> Graph:
    """The graph of a model.

    Parameters
    ----------
    spec : Spec
    weights : mapping of str to numpy.ndarray
        As in ``module.state_dict()``. float16 becomes float32; the model is float64 if any weight is.
    source : str
        For messages.
    prefix : str, optional
        Where the keys begin. With it (or the spec's own), weights outside are left alone. Without, it is found.

    Returns
    -------
    Graph
        Input `input` ``("T", "B", features)``, or ``("B", "T", features)`` if the recurrent layers are batch-first;
        int64 ids without the feature axis if the first layer is an Embedding. Output `output` likewise. A recurrent
        layer alone also has optional inputs `h0`, `c0` and outputs `hn`, `cn`.

    Raises
    ------
    ModelFormatError
        A weight is missing, left over, or has another shape than the spec says.
    UnsupportedModelError
        The spec makes no model: batch-first and time-first layers mixed, or nothing but names.
    """
    given = prefix if prefix is not None else spec.prefix
    expected = dict(_parameters(spec))
    start = _find_prefix(expected, weights, source) if given is None else _dotted(given)
    used = {f"{start}{key}": shape for key, shape in expected.items()}
    weights = _without_batch(spec, weights, start)
    _check(used, weights, source, start if given is not None else "")
    return _Builder(spec, {key: weights[f"{start}{key}"] for key in expected}, source).graph


def describe(array: np.ndarray) -> str:
    """Shape and dtype of a weight, for messages."""
    return f"{array.dtype} {tuple(array.shape)}"


def _parameters(spec: Spec, path: str = "") -> Iterator[tuple[str, Shape]]:
    for key, shape in spec.parameters():
        yield f"{path}{key}", shape
    if isinstance(spec, Recurrent):
        yield from spec.recurrence.initial_states()
    for name, child in spec.children():
        yield from _parameters(child, f"{path}{name}")


def _walk(spec: Spec) -> Iterator[Spec]:
    yield spec
    for _, child in spec.children():
        yield from _walk(child)


# Keys of the file


def _dotted(prefix: str) -> str:
    return prefix if not prefix or prefix.endswith((".", "/", "_")) else f"{prefix}."


def _find_prefix(expected: Mapping[str, Shape], weights: Mapping[str, np.ndarray], source: str) -> str:
    """What stands before every expected key in the file: ``""``, ``"module."``, ``"model.encoder."``, ..."""
    if not expected or all(key in weights for key in expected):
        return ""
    anchor = next(iter(expected))
    starts = [key[: -len(anchor)] for key in weights if key.endswith(anchor)]
    starts = [start for start in starts if not start or start.endswith((".", "/", "_"))]
    whole = [start for start in starts if all(f"{start}{key}" in weights for key in expected)]
    fitting = [s for s in whole if all(weights[f"{s}{key}"].shape == shape for key, shape in expected.items())]
    if len(fitting) > 1:
        raise UnsupportedModelError(
            f"the spec fits the weights under each of {', '.join(map(repr, fitting[:_LISTED]))}",
            source=source,
            hint=f"Choose one: prefix={fitting[0]!r}",
        )
    # Without a prefix that fits, the nearest is the one to complain about.
    return max(fitting or whole or starts or [""], key=lambda s: sum(f"{s}{key}" in weights for key in expected))


def _without_batch(spec: Spec, weights: Mapping[str, np.ndarray], start: str) -> Mapping[str, np.ndarray]:
    """Learned initial states that hold a batch axis of 1, as people also keep them, lose it."""
    keys = [f"{start}{key}" for s in _walk(spec) if isinstance(s, Recurrent) for key in s.recurrence.initial]
    batched = [key for key in keys if key in weights and weights[key].ndim == 3 and weights[key].shape[1] == 1]
    return {**weights, **{key: weights[key][:, 0] for key in batched}} if batched else weights


def _check(expected: Mapping[str, Shape], weights: Mapping[str, np.ndarray], source: str, inside: str) -> None:
    """Every expected weight is there and fits, and none below `inside` is left over."""
    missing = [key for key in expected if key not in weights]
    left = [key for key in weights if key.startswith(inside) and key not in expected and not key.endswith(_HARMLESS)]
    if missing:
        key = missing[0]
        from difflib import get_close_matches

        near = get_close_matches(key, (left or list(weights))[:_COMPARED], _LISTED // 2, 0.5)
        raise ModelFormatError(
            f"{source}: no weight {key!r} of shape {expected[key]}"
            + (f" (and {len(missing) - 1} more missing)" if len(missing) > 1 else "")
            + f"; {'near it' if near else 'there'} are {_listed(near or left or list(weights), weights)}"
        )
    for key, shape in expected.items():
        found = weights[key]
        if found.shape != shape:
            raise ModelFormatError(f"{source}: {key!r} has the shape {found.shape}, the spec makes it {shape}")
        if found.dtype.kind != "f":
            raise ModelFormatError(f"{source}: {key!r} holds {found.dtype}, not floating-point weights")
    if left:
        raise ModelFormatError(
            f"{source}: weights that the spec does not use: {_listed(left, weights)}. "
            "Add their layers to the spec, or, to load a part of the file, say where it begins: prefix="
        )


def _listed(keys: list[str], weights: Mapping[str, np.ndarray]) -> str:
    listed = ", ".join(f"{key[:80]!r} {tuple(weights[key].shape)}" for key in keys[:_LISTED])
    return f"{listed} and {len(keys) - _LISTED} more" if len(keys) > _LISTED else listed or "none"


# Layers


class _Builder:
    """Builds the graph while walking the spec. Values are time-first throughout."""

    def __init__(self, spec: Spec, weights: Mapping[str, np.ndarray], source: str) -> None:
        self.graph = Graph(source)
        self.weights = weights
        double = any(array.dtype == np.float64 for array in weights.values())
        self.dtype: np.dtype[Any] = np.dtype(np.float64 if double else np.float32)
        self.ports: dict[str, tuple[str, tuple[Dim, ...]]] = {}
        self.alone = isinstance(spec, Recurrent)
        self.states = self.alone or (isinstance(spec, Sequential) and spec.states)

        batch_first = self._batch_first(spec)
        axes: tuple[Dim, ...] = ("B", "T") if batch_first else ("T", "B")
        takes, gives = spec.takes, spec.gives(spec.takes)
        features: tuple[Dim, ...] = ("F" if spec.width_in is None else spec.width_in,) if takes == FRAMES else ()
        value = self.graph.input("input", (*axes, *features), np.int64 if takes == IDS else self.dtype)
        if batch_first:
            value = self.op("Transpose", value, perm=(1, 0, 2)[: 2 + len(features)])
        value = self.add(spec, value, "")
        if value == "input":
            raise UnsupportedModelError("the spec has no layer that computes anything", source=source)
        out: tuple[Dim, ...] = (spec.width_out(spec.width_in) or "F",) if gives in (FRAMES, LAST) else ()
        if gives == LAST:
            axes = ("B",)
        elif batch_first:
            value = self.op("Transpose", value, perm=(1, 0, 2)[: 2 + len(out)])
        self.ports = {value: ("output", (*axes, *out)), **self.ports}
        self._name_outputs()

    def _batch_first(self, spec: Spec) -> bool:
        layers = [layer for layer in _walk(spec) if isinstance(layer, Recurrent) and not layer.recurrence.cell]
        first = {layer.batch_first for layer in layers}
        if len(first) > 1:
            raise UnsupportedModelError(
                "some recurrent layers of the spec are batch_first and some are not",
                source=self.graph.source,
                hint="Make them agree: one that differs would run along the batch",
            )
        return first == {True}

    def _name_outputs(self) -> None:
        """Declare the outputs, under their names instead of the values' own."""
        names = {value: name for value, (name, _) in self.ports.items()}
        self.graph.nodes = [node.renamed(names) for node in self.graph.nodes]
        for name, shape in self.ports.values():
            self.graph.output(name, shape, self.dtype)

    def op(self, kind: str, *inputs: str, name: str = "", **attrs: Any) -> str:
        """Append a node with one output."""
        return self.graph.add(kind, inputs, name=name, **attrs)[0]

    def ints(self, *values: int) -> str:
        return self.graph.constant(np.array(values, np.int64))

    def weight(self, key: str) -> np.ndarray:
        return self.weights[key].astype(self.dtype, copy=False)

    def add(self, spec: Spec, x: str, path: str) -> str:
        """Append a layer (its weights under `path`) and return what it gives."""
        name = path.rstrip(".")
        match spec:
            case Sequential():
                for below, layer in spec.children():
                    x = self.add(layer, x, path + below)
                return x
            case Concat():
                branches = [self.add(branch, x, path + below) for below, branch in spec.children()]
                return self.op("Concat", *branches, name=name, axis=-1)
            case Residual():
                return self.op("Add", x, self.add(spec.body, x, path), name=name)
            case Recurrent():
                return self.recurrent(spec.recurrence, x, path)
            case nn.Linear():
                weight = self.graph.constant(self.weight(f"{path}weight").T)
                y = self.op("MatMul", x, weight, name=name)
                return self.op("Add", y, self.graph.constant(self.weight(f"{path}bias")), name=name) if spec.bias else y
            case nn.Embedding():
                return self.op("Gather", self.graph.constant(self.weight(f"{path}weight")), x, name=name, axis=0)
            case nn.LayerNorm():
                affine, size = spec.elementwise_affine, spec.normalized_shape
                scale = self.weight(f"{path}weight") if affine else np.ones(size, self.dtype)
                bias = self.graph.constant(self.weight(f"{path}bias")) if affine and spec.bias else ""
                return self.op(
                    "LayerNormalization",
                    x,
                    self.graph.constant(scale),
                    bias,
                    name=name,
                    axis=-1,
                    epsilon=float(spec.eps),
                    stash_type=1,
                )
            case nn.Identity() | nn.Dropout():
                return x
            case nn.Last():
                return self.op("Gather", x, self.graph.constant(np.array(-1, np.int64)), name=name, axis=0)
            case keras_specs.Ends():
                sides = zip(self.halves(x, name), (-1, 0), strict=True)
                ends = [self.op("Gather", y, self.graph.constant(np.array(k)), name=name, axis=0) for y, k in sides]
                return self.op("Concat", *ends, name=name, axis=-1)
            case keras_specs.Merge():
                y = self.op("Mul" if spec.mode == "mul" else "Add", *self.halves(x, name), name=name)
                half = self.graph.constant(np.array(0.5, self.dtype))
                return self.op("Mul", y, half, name=name) if spec.mode == "ave" else y
            case keras_specs.Hardsigmoid2():
                return self.op("HardSigmoid", x, name=name, alpha=0.2, beta=0.5)
            case nn.Unflatten():
                return self.op("Unsqueeze", x, self.ints(2), name=name)
            case nn.Flatten():
                return self.op("Squeeze", x, self.ints(2), name=name)
        return self.activation(spec, x, name)

    def halves(self, x: str, name: str) -> list[str]:
        """What the two directions of a layer give."""
        return list(self.graph.add("Split", (x,), 2, name=name, axis=-1, num_outputs=2))

    def activation(self, spec: Spec, x: str, name: str) -> str:
        match spec:
            case nn.ReLU():
                return self.op("Relu", x, name=name)
            case nn.Tanh() | nn.Sigmoid() | nn.Softsign():
                return self.op(type(spec).__name__, x, name=name)
            case nn.LeakyReLU():
                return self.op("LeakyRelu", x, name=name, alpha=float(spec.negative_slope))
            case nn.ELU():
                return self.op("Elu", x, name=name, alpha=float(spec.alpha))
            case nn.SELU():
                return self.op("Selu", x, name=name, alpha=_SELU_ALPHA, gamma=_SELU_GAMMA)
            case nn.GELU():
                return self.op("Gelu", x, name=name, approximate=spec.approximate)
            case nn.SiLU():
                return self.op("Mul", x, self.op("Sigmoid", x, name=name), name=name)
            case nn.Softplus() if spec.beta == 1:
                return self.op("Softplus", x, name=name)
            case nn.Softplus():
                beta = self.graph.constant(np.array(spec.beta, self.dtype))
                y = self.op("Softplus", self.op("Mul", x, beta, name=name), name=name)
                return self.op("Div", y, beta, name=name)
            case nn.Hardsigmoid():
                return self.op("HardSigmoid", x, name=name, alpha=1 / 6, beta=0.5)
            case nn.Hardswish():
                return self.op("HardSwish", x, name=name)
            case nn.LogSoftmax():  # before Softmax, which it derives from
                return self.op("LogSoftmax", x, name=name, axis=-1, trailing=False)
            case nn.Softmax():
                return self.op("Softmax", x, name=name, axis=-1, trailing=False)
        raise UnsupportedModelError(f"a layer that only has a name, {type(spec).__name__}", source=self.graph.source)

    # Recurrent layers

    def recurrent(self, r: Recurrence, x: str, path: str) -> str:
        """All layers of one recurrent module: one node each, states as PyTorch stacks them."""
        gives_c = r.op == "LSTM"
        h0 = self.state("h", r.state_size, r, path, x)
        c0 = self.state("c", r.hidden_size, r, path, x) if gives_c else ""
        last: list[tuple[str, ...]] = []
        for layer in range(r.num_layers):
            name = path.rstrip(".") or r.op.lower()
            if r.num_layers > 1:
                name = f"{name}.l{layer}"
            inputs = [x, *self.matrices(r, path, layer), "", self.layer_state(h0, r, layer)]
            if gives_c:
                projection = [self.weights_of("weight_hr", r, path, layer)] if r.proj_size else []
                inputs += [self.layer_state(c0, r, layer), *([""] if projection else []), *projection]
            y, *ends = self.graph.add(r.op, inputs, 3 if gives_c else 2, name=name, **_attributes(r))
            last.append(tuple(ends))
            if r.directions == 1:
                x = self.op("Squeeze", y, self.ints(1), name=name)
            else:  # (T, D, B, P) to (T, B, D * P)
                y = self.op("Transpose", y, name=name, perm=(0, 2, 1, 3))
                x = self.op("Reshape", y, self.ints(0, 0, 2 * r.state_size), name=name, allowzero=0)
        if self.states:
            for kind, ends_of in zip("hc", zip(*last, strict=True), strict=False):
                self.state_output(kind, list(ends_of), r, path)
        return x

    def state_shape(self, size: int, r: Recurrence) -> tuple[Dim, ...]:
        return ("B", size) if r.cell else (r.num_layers * r.directions, "B", size)

    def state(self, kind: str, size: int, r: Recurrence, path: str, x: str) -> str:
        """An initial state, ``(layers * directions, B, size)``: a learned one, or an input, if states are inputs."""
        if r.initial:
            learned = self.weight(r.initial["hc".index(kind)])[:, None]
            batch = self.op("Gather", self.op("Shape", x, start=0, end=None), self.ints(1), axis=0)
            shape = self.op("Concat", self.ints(len(learned)), batch, self.ints(size), axis=0)
            return self.op("Expand", self.graph.constant(learned), shape, name=r.initial["hc".index(kind)])
        if not self.states:
            return ""
        value = self.graph.input(f"{path}{kind}0", self.state_shape(size, r), self.dtype, optional=True)
        return self.op("Unsqueeze", value, self.ints(0)) if r.cell else value

    def layer_state(self, value: str, r: Recurrence, layer: int) -> str:
        if not value or r.num_layers == 1:
            return value
        first = layer * r.directions
        return self.op("Slice", value, self.ints(first), self.ints(first + r.directions), self.ints(0), self.ints(1))

    def state_output(self, kind: str, ends: list[str], r: Recurrence, path: str) -> None:
        value = ends[0] if len(ends) == 1 else self.op("Concat", *ends, axis=0)
        if r.cell:
            value = self.op("Squeeze", value, self.ints(0))
        size = r.hidden_size if kind == "c" else r.state_size
        self.ports[value] = (f"{path}{kind}n", self.state_shape(size, r))

    def matrices(self, r: Recurrence, path: str, layer: int) -> list[str]:
        """`w`, `r` and `b` of one layer, the directions stacked."""
        both = [self.weights_of("weight_ih", r, path, layer), self.weights_of("weight_hh", r, path, layer)]
        if not r.bias:
            return [*both, ""]
        suffixes = [r.suffix(layer, direction) for direction in range(r.directions)]
        biases = [
            np.concatenate([self.weight(f"{path}bias_ih{end}"), self.weight(f"{path}bias_hh{end}")]) for end in suffixes
        ]
        return [*both, self.graph.constant(np.stack(biases))]

    def weights_of(self, name: str, r: Recurrence, path: str, layer: int) -> str:
        directions = range(r.directions)
        return self.graph.constant(np.stack([self.weight(f"{path}{name}{r.suffix(layer, d)}") for d in directions]))


def _attributes(r: Recurrence) -> dict[str, Any]:
    names = {"RNN": [r.activation], "LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}[r.op]
    attrs: dict[str, Any] = {
        "hidden_size": r.hidden_size,
        "direction": "bidirectional" if r.directions == 2 else "forward",
        "gates": r.gates,
        "activations": (r.activations or tuple((name, 0.0, 0.0) for name in names)) * r.directions,
        "clip": None,
    }
    if r.op == "LSTM":
        attrs["coupled"] = ""
    if r.op == "GRU":
        attrs["linear_before_reset"] = r.reset_after
    return attrs
