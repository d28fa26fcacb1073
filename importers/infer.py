"""What a weight file says about its model: enough for a single RNN, a hint for anything else."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping

import numpy as np

from ..engine.compositions import Sequential
from ..engine.errors import UnsupportedModelError
from ..engine.layers import Embedding, LayerNorm, Linear
from ..engine.spec import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell, Spec
from .build import describe

__all__ = ["infer"]

_KEY = re.compile(r"(?P<prefix>.*?)(?:weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)(?P<layer>_l\d+)?(?:_reverse)?")
_LISTED = 12
_KINDS: dict[int, tuple[type[LSTM | GRU | RNN], type[LSTMCell | GRUCell | RNNCell]]] = {
    4: (LSTM, LSTMCell),
    3: (GRU, GRUCell),
    1: (RNN, RNNCell),
}


def infer(weights: Mapping[str, np.ndarray], *, source: str) -> Spec:
    """The spec of a file that holds a single LSTM, GRU or RNN, alone or under one prefix.

    Whether it is batch-first is not in the file: it becomes time-first, as is PyTorch's default. Neither is a vanilla
    RNN's nonlinearity: tanh is assumed, with a warning.

    Parameters
    ----------
    weights : mapping of str to numpy.ndarray
    source : str
        For messages.

    Returns
    -------
    Spec

    Raises
    ------
    UnsupportedModelError
        Anything else; the message lists the weights and shows a spec that may fit.
    """
    groups = _groups(weights)
    (prefix, keys), *more = groups.items() if groups else [("", [])]
    spec = _recurrent(weights, prefix, keys, prefix or None)
    if spec is None or more or not all(_KEY.fullmatch(key) for key in keys):
        raise _ambiguous(weights, groups, source)
    if isinstance(spec, (RNN, RNNCell)):
        warnings.warn(
            f"{source}: the file of a vanilla RNN does not say its nonlinearity; tanh is assumed. "
            f"Say which it is: spec=nn.{spec!r}, or with nonlinearity='relu'",
            stacklevel=2,
        )
    return spec


def _groups(weights: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    """The keys by layer: a recurrent layer's prefix, or everything before the last dot."""
    groups: dict[str, list[str]] = {}
    for key in weights:
        match = _KEY.fullmatch(key)
        groups.setdefault(match["prefix"] if match else key[: key.rfind(".") + 1], []).append(key)
    return groups


def _recurrent(weights: Mapping[str, np.ndarray], prefix: str, keys: list[str], own: str | None = None) -> Spec | None:
    """The recurrent layer whose weights these are, or None."""
    layers = {match["layer"] for key in keys if (match := _KEY.fullmatch(key)) is not None}
    cell = layers == {None}
    suffix = "" if cell else "_l0"
    w, r, projection = (weights.get(f"{prefix}{name}{suffix}") for name in ("weight_ih", "weight_hh", "weight_hr"))
    if w is None or r is None or w.ndim != 2 or r.ndim != 2 or (projection is not None and projection.ndim != 2):
        return None
    hidden = r.shape[1] if projection is None else projection.shape[1]
    ratio = w.shape[0] // hidden if hidden and w.shape[0] % hidden == 0 else 0
    if ratio not in _KINDS or not w.shape[1] or (projection is not None and (ratio != 4 or cell)):
        return None
    kind, cell_kind = _KINDS[ratio]
    bias = f"{prefix}bias_ih{suffix}" in weights
    if cell:
        return cell_kind(w.shape[1], hidden, bias, prefix=own)
    reverse = f"{prefix}weight_ih_l0_reverse" in weights
    if projection is not None and not 0 < projection.shape[0] < hidden:
        return None
    if kind is LSTM:
        size = 0 if projection is None else projection.shape[0]
        return LSTM(w.shape[1], hidden, len(layers), bias, bidirectional=reverse, proj_size=size, prefix=own)
    return kind(w.shape[1], hidden, len(layers), bias=bias, bidirectional=reverse, prefix=own)


def _layer(weights: Mapping[str, np.ndarray], prefix: str, keys: list[str]) -> Spec | None:
    """The likeliest layer that has all these weights, or None."""
    layer = _guess(weights, prefix, keys)
    if layer is None or set(keys) - {f"{prefix}{key}" for key, _ in layer.parameters()}:
        return None
    return layer


def _guess(weights: Mapping[str, np.ndarray], prefix: str, keys: list[str]) -> Spec | None:
    recurrent = _recurrent(weights, prefix, keys)
    weight, bias = weights.get(f"{prefix}weight"), weights.get(f"{prefix}bias")
    if recurrent is not None or weight is None or not weight.size:
        return recurrent
    if weight.ndim == 1:
        return LayerNorm(weight.shape[0], bias=bias is not None)
    if weight.ndim == 2 and bias is None and re.search(r"emb", prefix):
        return Embedding(*weight.shape)
    if weight.ndim == 2:
        return Linear(weight.shape[1], weight.shape[0], bias is not None)
    return None


def _ambiguous(weights: Mapping[str, np.ndarray], groups: dict[str, list[str]], source: str) -> UnsupportedModelError:
    keys = [f"{key[:80]!r} {describe(weights[key])}" for key in list(weights)[:_LISTED]]
    more = f" and {len(weights) - _LISTED} more" if len(weights) > _LISTED else ""
    hint = "Say with spec= what they belong to (gatestep.nn)"
    guesses = {prefix.rstrip("."): _layer(weights, prefix, group) for prefix, group in list(groups.items())[:_LISTED]}
    known = {name: layer for name, layer in guesses.items() if layer is not None}
    if known and len(known) == len(groups):
        try:
            example = repr(next(iter(known.values())) if len(known) == 1 else Sequential(known))
        except ValueError:  # they do not follow one another in this order
            example = "Sequential({" + ", ".join(f"{name!r}: {layer!r}" for name, layer in known.items()) + "})"
            hint += ", in the order in which they run"
        example = re.sub(r"\b([A-Z]\w+)\(", r"nn.\1(", example)
        hint += f"; these weights would fit: spec={example}"
    return UnsupportedModelError(
        f"weights alone do not make a model, unless they are those of a single RNN; here are {', '.join(keys)}{more}",
        source=source,
        hint=hint,
    )
