"""Pickled modules (`torch.save(model, ...)`): what can be had of them without running anything.

Such a file holds the attributes of every module and the *names* of their classes; the code of `forward` is elsewhere.
The weights can be read, under the names that `state_dict()` gives them. What they belong to is known only where every
class is one of PyTorch's own layers.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ..engine import compositions, layers, spec
from ..engine.errors import ModelFormatError
from ..engine.spec import Spec
from .torch_tensors import TensorRef
from .unpickle import Inert

__all__ = ["is_module", "module_spec", "module_state"]

MAX_DEPTH = 64
#: Modules, each counted as often as it occurs.
MAX_MODULES = 100_000
_SPECS: Mapping[str, type[Spec]] = {
    name: kind
    for name in (
        "RNN LSTM GRU RNNCell LSTMCell GRUCell Linear Embedding LayerNorm ReLU Tanh Sigmoid LeakyReLU ELU SELU GELU "
        "SiLU Softplus Softsign Hardsigmoid Hardswish Softmax LogSoftmax Identity Dropout Flatten"
    ).split()
    for kind in (getattr(spec, name, None) or getattr(layers, name),)
}
#: Attributes that change what an embedding gives, apart from its weights.
_PLAIN: Mapping[str, tuple[object, ...]] = {"Embedding": ("max_norm", "scale_grad_by_freq", "sparse")}


def is_module(value: object) -> bool:
    """Whether an object of a pickle has the attributes of an `nn.Module`."""
    return isinstance(value, Inert) and all(_part(value, name) is not None for name in ("_parameters", "_modules"))


def _part(module: Inert, name: str) -> dict[Any, Any] | None:
    part = module.state.get(name) if isinstance(module.state, dict) else None
    return part if isinstance(part, dict) else None


def module_state(root: Inert, source: str) -> dict[str, TensorRef]:
    """The parameters and buffers of a module and those in it, as ``state_dict()`` names them.

    Parameters
    ----------
    root : Inert
        See `is_module`.
    source : str
        For messages.

    Raises
    ------
    ModelFormatError
        A module lies in itself.
    """
    found: dict[str, TensorRef] = {}
    count = 0

    def walk(module: Inert, prefix: str, depth: int) -> None:
        nonlocal count
        count += 1
        if depth > MAX_DEPTH or count > MAX_MODULES:
            raise ModelFormatError(f"{source}: its modules are nested too deeply, or one lies in itself")
        passing = module.state.get("_non_persistent_buffers_set") if isinstance(module.state, dict) else None
        for name in ("_parameters", "_buffers"):
            for key, value in (_part(module, name) or {}).items():
                kept = name == "_parameters" or not isinstance(passing, frozenset) or key not in passing
                if isinstance(value, TensorRef) and kept:
                    found[f"{prefix}{key}"] = value
        for key, value in (_part(module, "_modules") or {}).items():
            if is_module(value):
                walk(value, f"{prefix}{key}.", depth + 1)

    walk(root, "", 0)
    return found


def module_spec(root: Inert) -> Spec | None:
    """What a module is, if it and all that is in it are PyTorch's own layers one after the other.

    `module_state` has to have found that it does not lie in itself.
    """
    package, _, name = root.kind.rpartition(".")
    state = root.state
    if not package.startswith("torch.nn.modules.") or not isinstance(state, dict) or _hooked(state):
        return None
    if name == "Sequential":
        made = {str(key): module_spec(part) for key, part in (_part(root, "_modules") or {}).items()}
        known = {key: part for key, part in made.items() if part is not None}
        return compositions.Sequential(known) if known and len(known) == len(made) else None
    kind = _SPECS.get(name)
    if kind is None or _part(root, "_modules") or any(state.get(key) for key in _PLAIN.get(name, ())):
        return None
    names = inspect.signature(kind).parameters
    given = {name: _attribute(root, name) for name in names}
    given = {key: value for key, value in given.items() if value is not None}
    try:
        return kind(**given)
    except (TypeError, ValueError):
        return None


def _hooked(state: Mapping[Any, Any]) -> bool:
    """Whether something else is run before or after the module's own forward."""
    return any(state.get(name) for name in ("_forward_hooks", "_forward_pre_hooks"))


def _attribute(module: Inert, name: str) -> Any:
    """An argument that a layer was made with, as its attributes tell; None where they do not."""
    assert isinstance(module.state, dict)
    value = module.state.get(name)
    if name == "nonlinearity" and value is None:  # of an RNN
        return {"RNN_TANH": "tanh", "RNN_RELU": "relu"}.get(str(module.state.get("mode")))
    if name == "bias" and value is None:
        return (_part(module, "_parameters") or {}).get("bias") is not None
    if name == "normalized_shape" and isinstance(value, tuple) and len(value) == 1:
        return value[0]
    return value if isinstance(value, (bool, int, float, str)) else None
