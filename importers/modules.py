"""Live objects of PyTorch: modules, exported programs, TorchScript modules.

PyTorch is never imported here: where it is not loaded, no object is one of its own. A module that is nothing but layers
of `gatestep.nn` (of exactly these types) becomes a spec; any other is exported, and read as the file that it then is.
"""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..engine import layers
from ..engine.compositions import Sequential
from ..engine.errors import UnsupportedModelError
from ..engine.graph import Graph
from ..engine.spec import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell, Spec
from .build import build
from .pt2 import read_pt2
from .weights import array_of, read_graph

__all__ = ["layer_spec", "plain_spec", "read_live"]


def read_live(
    source: Any, *, example: Any = None, bind: Mapping[str, Any] | None = None, name: str | None = None
) -> Graph:
    """Translate a live object into a graph.

    Parameters
    ----------
    source : torch.nn.Module, torch.jit.ScriptModule or torch.export.ExportedProgram
        Is not changed. In training mode it is taken as in evaluation.
    example : tensor, tuple or mapping, optional
        What the module is called with: ``x``, ``(x, (h0, c0))``, or keyword arguments. Layers of `gatestep.nn` and
        chains of them need none. Sizes should be larger than 1: `torch.export` fixes axes of one element.
    bind : mapping of str to number, optional
        Values of inputs of a TorchScript module, known from now on.
    name : str, optional
        What messages call it; its type by default.

    Returns
    -------
    Graph

    Raises
    ------
    UnsupportedModelError
        It takes an example, PyTorch cannot export it, or it uses something that has no translation.
    """
    torch = sys.modules["torch"]
    name = name if name is not None else f"<{type(source).__name__}>"
    if isinstance(source, torch.export.ExportedProgram):
        return read_pt2(_saved(torch.export.save, source), name=name)
    if isinstance(source, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        return read_graph(_saved(torch.jit.save, source), bind=bind)
    spec = plain_spec(source)
    if spec is not None:
        weights = {key: array_of(key, value) for key, value in source.state_dict().items()}
        return build(spec, weights, source=name)
    if example is None:
        raise UnsupportedModelError(
            "a module with a forward of its own is run once to see what it does, and takes an example for that",
            source=name,
            hint="load(module, example=(x,)), or (x, (h0, c0)): what the module is called with",
        )
    return read_pt2(_saved(torch.export.save, _exported(torch, source, example, name)), name=name)


def _saved(save: Callable[..., Any], source: Any) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(source, stream)
    return stream.getvalue()


# ---------------------------------------------------------------------- export


def _exported(torch: Any, module: Any, example: Any, name: str) -> Any:
    """The program of a module, with as many sizes free as PyTorch leaves free."""
    args, kwargs = ((), dict(example)) if isinstance(example, Mapping) else (_arguments(example), {})
    args, kwargs = _tensors(torch, args), _tensors(torch, kwargs)
    auto = torch.export.Dim.AUTO

    def free(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return dict.fromkeys(range(value.dim()), auto)
        if isinstance(value, Mapping):
            return {key: free(item) for key, item in value.items()}
        return type(value)(map(free, value)) if isinstance(value, (list, tuple)) else None

    # Shapes are named by parameter where there are keywords, else by place.
    shapes = (free(args) or None) if not kwargs else free(kwargs)
    failure: Exception | None = None
    with _evaluating(module), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for dynamic in (shapes, None):
            try:
                program = torch.export.export(module, args, kwargs, dynamic_shapes=dynamic)
                # What is written in place becomes values; operators stay as they are.
                return program.run_decompositions({})
            except Exception as error:  # PyTorch raises whatever it likes here
                failure = error
    raise UnsupportedModelError(
        f"torch.export cannot export it: {type(failure).__name__}: {str(failure).strip().splitlines()[0][:300]}",
        source=name,
        hint="Load a part of it that can be exported, or its state_dict with spec=",
    ) from failure


def _arguments(example: Any) -> tuple[Any, ...]:
    return tuple(example) if isinstance(example, (tuple, list)) else (example,)


def _tensors(torch: Any, value: Any) -> Any:
    """Arrays as tensors."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, Mapping):
        return {key: _tensors(torch, item) for key, item in value.items()}
    return type(value)(_tensors(torch, item) for item in value) if isinstance(value, (list, tuple)) else value


@contextlib.contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """Evaluation mode for the moment; every part is put back to the mode it was in."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


# ---------------------------------------------------------------------- specs

_RECURRENT: dict[str, type[Spec]] = {"LSTM": LSTM, "GRU": GRU, "RNN": RNN}
_CELLS: dict[str, type[Spec]] = {"LSTMCell": LSTMCell, "GRUCell": GRUCell, "RNNCell": RNNCell}
#: Layers without weights, with the attributes that matter to inference.
_SIMPLE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys("Tanh Sigmoid Softsign Identity ReLU SELU SiLU Hardsigmoid Hardswish".split(), ()),
    **{
        "LeakyReLU": ("negative_slope",),
        "ELU": ("alpha",),
        "GELU": ("approximate",),
        "Softplus": ("beta", "threshold"),
    },
    "Dropout": ("p",),
}


def plain_spec(module: Any) -> Spec | None:
    """The spec of a module that is nothing but layers of `gatestep.nn`; None for any other.

    Subclasses and modules with hooks may do anything in their forward, so only the exact types count.
    """
    torch = sys.modules["torch"]
    kind = type(module).__name__
    if type(module) is torch.nn.Sequential and not _hooked(module):
        parts = {name: plain_spec(part) for name, part in module.named_children()}
        known = {name: part for name, part in parts.items() if part is not None}
        recurrent = any(isinstance(part, (*_RECURRENT.values(), *_CELLS.values())) for part in known.values())
        if not parts or len(known) < len(parts) or recurrent:
            return None
        with contextlib.suppress(ValueError):
            return Sequential(known)
        return None
    if type(module) is not getattr(torch.nn, kind, None) or _hooked(module):
        return None
    with contextlib.suppress(TypeError, ValueError):
        return layer_spec(module, kind)
    return None


def _hooked(module: Any) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def layer_spec(module: Any, kind: str) -> Spec | None:
    """The spec of one layer, taken for `kind`, the name of a class of ``torch.nn``."""
    if kind in _RECURRENT:
        shared = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
        given = {name: getattr(module, name) for name in shared}
        if kind == "LSTM":
            given["proj_size"] = module.proj_size
        if kind == "RNN":
            given["nonlinearity"] = module.nonlinearity
        return _RECURRENT[kind](**given)
    if kind in _CELLS:
        given = {name: getattr(module, name) for name in ("input_size", "hidden_size", "bias")}
        if kind == "RNNCell":
            given["nonlinearity"] = module.nonlinearity
        return _CELLS[kind](**given)
    if kind == "Linear":
        return layers.Linear(module.in_features, module.out_features, module.bias is not None)
    if kind == "Embedding":
        return layers.Embedding(module.num_embeddings, module.embedding_dim) if module.max_norm is None else None
    if kind == "LayerNorm" and len(module.normalized_shape) == 1:
        affine = module.elementwise_affine
        return layers.LayerNorm(module.normalized_shape[0], module.eps, affine, affine and module.bias is not None)
    if kind in ("Softmax", "LogSoftmax"):
        return (layers.Softmax if kind == "Softmax" else layers.LogSoftmax)(dim=-1) if module.dim == -1 else None
    if kind in _SIMPLE:
        made: Spec = getattr(layers, kind)(**{name: getattr(module, name) for name in _SIMPLE[kind]})
        return made
    return None
