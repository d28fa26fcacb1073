"""Files that hold weights only: told apart by their content, and, with a spec, made into a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine.errors import ModelFormatError, UnsupportedModelError
from ..engine.graph import Graph
from .kinds import (
    HDF5_MAGIC,
    KERAS_WEIGHTS,
    ZIP_MAGIC,
    foreign,
    head_of,
    is_json,
    is_pt2,
    is_safetensors,
    is_torchscript,
)
from .source import Source, source_name

if TYPE_CHECKING:
    from ..engine.spec import Spec

__all__ = ["array_of", "read_graph", "read_weights", "to_graph"]

# What reads one kind of file is imported where such a file is: all of them take longer than most files to load.


def read_graph(
    source: Source | Mapping[str, Any],
    *,
    spec: Spec | None = None,
    state_dict: str | None = None,
    strip_prefix: str | None = None,
    bind: Mapping[str, Any] | None = None,
) -> Graph:
    """The graph of a model whose file holds weights, or a program of PyTorch's with them.

    Parameters
    ----------
    source, state_dict
        As for `read_weights`.
    spec : Spec, optional
        What the weights belong to. Left out, it is what the file says, or see `infer`.
    strip_prefix : str, optional
        What the names of the weights begin with; weights of other names are left alone.
    bind : mapping of str to number, optional
        Values of inputs of a program, known from now on.

    Returns
    -------
    Graph
        See `build`.

    Raises
    ------
    ModelFormatError, UnsupportedModelError, OSError
        As for `read_weights`, `to_graph`, `read_pt2` and `read_torchscript`.
    ValueError
        `spec`, `state_dict` or `strip_prefix` for a file that describes its model.
    """
    if not isinstance(source, Mapping) and head_of(source).startswith(ZIP_MAGIC):
        names = _names(source)
        if is_pt2(names) or is_torchscript(names):
            if (spec, state_dict, strip_prefix) != (None, None, None):
                raise ValueError(
                    "spec=, state_dict= and strip_prefix= are for weight files; a program describes itself"
                )
            if is_pt2(names):
                from .pt2 import read_pt2

                return read_pt2(source)
            from .torchscript import read_torchscript

            return read_torchscript(source, bind=bind)
    weights, own, name = _read(source, state_dict, described=spec is not None)
    if strip_prefix is not None:
        weights = _under(strip_prefix, weights, name)
    return to_graph(weights, spec if spec is not None else own, name)


def read_weights(
    source: Source | Mapping[str, Any], *, state_dict: str | None = None
) -> tuple[dict[str, np.ndarray], str]:
    """The weights in a file, whatever its name.

    Parameters
    ----------
    source : path, bytes, or mapping of str to array or torch.Tensor
        A `.pt` or `.pth` file of PyTorch, `.safetensors`, `.npz`, JSON (see `read_json`), `.keras` or
        `.h5` (see `read_keras`); or the weights themselves.
    state_dict : str, optional
        Which dictionary of a checkpoint of PyTorch, see `read_checkpoint`, or of a JSON file.

    Returns
    -------
    weights : dict of str to numpy.ndarray
    name : str
        What messages call the source.

    Raises
    ------
    ModelFormatError
        Damaged or truncated, or of no kind that holds weights.
    UnsupportedModelError
        It holds something else than plain arrays.
    OSError
        The file cannot be opened.
    """
    weights, _, name = _read(source, state_dict, described=True)
    return weights, name


def _read(
    source: Source | Mapping[str, Any], state_dict: str | None, *, described: bool
) -> tuple[dict[str, np.ndarray], Spec | None, str]:
    """Weights, what the file says they belong to, and what messages call it; see `read_checkpoint` for `described`."""
    if isinstance(source, Mapping):
        return {str(key): array_of(key, value) for key, value in source.items()}, None, "<weights>"
    name, head = source_name(source), head_of(source)
    names = _names(source) if head.startswith(ZIP_MAGIC) else []
    if head.startswith(HDF5_MAGIC) or KERAS_WEIGHTS in names:
        from .keras import read_keras

        return *read_keras(source), name
    if names and all(entry.endswith(".npy") for entry in names):
        from .npz import read_npz

        return read_npz(source), None, name
    if head.startswith((ZIP_MAGIC, b"\x80")):
        from .torch import read_checkpoint

        return *read_checkpoint(source, state_dict=state_dict, described=described), name
    if is_safetensors(head):
        from .safetensors import read_safetensors

        return read_safetensors(source), None, name
    if is_json(head):
        from .audio import read_json

        return *read_json(source, state_dict=state_dict), name
    if not head:
        raise ModelFormatError(f"{name}: the file is empty")
    other = foreign(head)
    if other is not None:
        raise UnsupportedModelError(f"{other}, which is not read", source=name)
    raise ModelFormatError(
        f"{name}: no weight file: neither a file of torch.save or np.savez, nor safetensors, nor JSON"
    )


def to_graph(weights: Mapping[str, np.ndarray], spec: Spec | None, source: str) -> Graph:
    """The graph of a model from its weights; a single RNN needs no spec.

    Parameters
    ----------
    weights : mapping of str to numpy.ndarray
    spec : Spec or None
        None: see `infer`.
    source : str
        For messages.

    Returns
    -------
    Graph
        See `build`.

    Raises
    ------
    ModelFormatError
        Weights and spec do not fit each other.
    UnsupportedModelError
        A spec is needed, or the spec makes no model.
    """
    if not weights:
        raise ModelFormatError(f"{source}: no weights in it")
    from .build import build

    if spec is None:
        from .infer import infer

        spec = infer(weights, source=source)
    return build(spec, weights, source=source)


def _under(prefix: str, weights: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """The weights whose names begin so, without it."""
    found = {key.removeprefix(prefix): array for key, array in weights.items() if key.startswith(prefix)}
    if not found:
        listed = ", ".join(repr(key[:80]) for key in list(weights)[:8])
        raise ModelFormatError(f"{source}: strip_prefix={prefix!r}: no weight is called so; there are {listed}")
    return found


def array_of(key: object, value: Any) -> np.ndarray:
    """An array, or a torch.Tensor as one, without needing torch."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
        return np.array(value.numpy())
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise UnsupportedModelError(f"the weight {key!r} is {array.dtype}, not numbers")
    return array


def _names(source: Source) -> list[str]:
    """The entries of a zip archive."""
    from .archive import Archive

    with Archive(source) as archive:
        return list(archive.entries)
