"""Recurrent layers of PyTorch that run on the kernels here. Imported when `gatestep.accelerate` is first called."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from gatestep.engine.errors import ModelWarning
from gatestep.engine.model import Model
from gatestep.importers.build import build
from gatestep.importers.modules import layer_spec

__all__ = ["accelerated"]

_DTYPES = {torch.float32: np.float32, torch.float64: np.float64}


def accelerated(module: torch.nn.Module) -> torch.nn.Module:
    """See `gatestep.accelerate`."""
    made = _replaced(module, {})
    if made is module:
        warnings.warn(
            f"{type(module).__name__} has no nn.LSTM, nn.GRU or nn.RNN in it, so nothing of it was accelerated",
            ModelWarning,
            stacklevel=3,
        )
    return made


def _replaced(module: torch.nn.Module, seen: dict[int, torch.nn.Module]) -> torch.nn.Module:
    """The module, or a copy that shares everything but the parts that were replaced."""
    if id(module) in seen:
        return seen[id(module)]
    made = module
    kind = _CLASSES.get(type(module))
    if kind is not None:
        made = copy.copy(module)
        made.__class__ = kind
    elif not isinstance(module, torch.jit.ScriptModule):
        parts = {name: part and _replaced(part, seen) for name, part in module._modules.items()}
        if any(part is not module._modules[name] for name, part in parts.items()):
            made = copy.copy(module)
            made.__dict__["_modules"] = parts
    seen[id(module)] = made
    return made


class _Accelerated:
    """What the three share: when the kernels can do it, and how."""

    _model: Model | None = None
    _packed: tuple[tuple[Any, int], ...] = ()
    _warned: frozenset[str] = frozenset()

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()  # type: ignore[misc]
        return {name: value for name, value in state.items() if name not in ("_model", "_packed", "_warned")}

    def forward(self, input: Any, hx: Any = None) -> Any:
        """As in PyTorch."""
        jit: Any = torch.jit
        if jit.is_tracing() or torch.compiler.is_compiling():  # it is to be seen, not run
            return super().forward(input, hx)  # type: ignore[misc]
        why = self._why_not(input, hx)
        if why is not None:
            if why and why not in self._warned:
                self._warned |= {why}
                warnings.warn(f"{type(self).__name__} runs in PyTorch: {why}", ModelWarning, stacklevel=4)
            return super().forward(input, hx)  # type: ignore[misc]
        if isinstance(input, PackedSequence):
            return self._run_packed(input, hx)
        return self._run(input, hx)

    # ------------------------------------------------------------------ whether
    def _why_not(self, input: Any, hx: Any) -> str | None:
        """Why PyTorch has to do this call; "" where it will say by itself."""
        this: Any = self
        states = [] if hx is None else list(hx) if isinstance(hx, (tuple, list)) else [hx]
        data = input.data if isinstance(input, PackedSequence) else input
        weights = dict(this.named_parameters())
        given = {"input": data, **{f"hx[{k}]": state for k, state in enumerate(states)}}
        for name, tensor in {**given, **weights}.items():
            if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
                return f"{name} is a {type(tensor).__name__}"
            if torch.is_grad_enabled() and tensor.requires_grad:
                return f"gradients are required ({name}); call it under torch.no_grad() or torch.inference_mode()"
            if tensor.device.type != "cpu":
                return f"{name} is on {tensor.device.type}"
            if tensor.dtype not in _DTYPES:
                return f"{name} is {str(tensor.dtype).removeprefix('torch.')}"
        if this.training and this.dropout and this.num_layers > 1:
            return "dropout is active in training mode; call eval()"
        if torch.is_autocast_enabled("cpu"):
            return "autocast is active"
        same = {tensor.dtype for tensor in (*given.values(), *weights.values())}
        return None if len(same) == 1 and self._fits(input, states) else ""

    def _fits(self, input: Any, states: list[Any]) -> bool:
        """Whether shapes are such as PyTorch takes."""
        this: Any = self
        lstm = isinstance(self, torch.nn.LSTM)
        data = input.data if isinstance(input, PackedSequence) else input
        if data.shape[-1:] != (this.input_size,) or not data.numel() or len(states) not in (0, 2 if lstm else 1):
            return False
        rows = this.num_layers * (2 if this.bidirectional else 1)
        if isinstance(input, PackedSequence):
            batch: tuple[int, ...] = (int(input.batch_sizes[0]),)
        elif input.dim() in (2, 3):
            batch = () if input.dim() == 2 else (input.shape[0 if this.batch_first else 1],)
        else:
            return False
        sizes = (getattr(this, "proj_size", 0) or this.hidden_size, this.hidden_size)
        return all(s.shape == (rows, *batch, n) for s, n in zip(states, sizes, strict=False))

    # ------------------------------------------------------------------ how
    def _engine(self) -> Model:
        """The packed weights; packed again when one of them was replaced or written to."""
        this: Any = self
        weights = dict(this.named_parameters())
        now = tuple((weight, _version(weight)) for weight in weights.values())
        same = len(now) == len(self._packed) and all(
            a is b and n == m for (a, n), (b, m) in zip(now, self._packed, strict=True)
        )
        if self._model is None or not same:
            kind = next(base.__name__ for base in type(this).__mro__ if base in _CLASSES)
            spec = layer_spec(this, kind)
            assert spec is not None
            arrays = {name: weight.detach().numpy() for name, weight in weights.items()}
            graph = build(spec, arrays, source=f"<{type(this).__name__}>")
            self._model = Model(graph, dtype=_DTYPES[now[0][0].dtype])
            self._packed = now
        return self._model

    def _run(self, input: Any, hx: Any, lengths: Any = None) -> Any:
        this: Any = self
        states = () if hx is None else tuple(hx) if isinstance(hx, (tuple, list)) else (hx,)
        alone = input.dim() == 2
        if alone:
            input, states = input.unsqueeze(0 if this.batch_first else 1), tuple(s.unsqueeze(1) for s in states)
        arrays = [tensor.detach().numpy() for tensor in (input, *states)]
        y, *last = (torch.from_numpy(array) for array in self._engine()(*arrays, lengths=lengths))
        if alone:
            y, last = y.squeeze(0 if this.batch_first else 1), [state.squeeze(1) for state in last]
        return y, tuple(last) if len(last) == 2 else last[0]

    def _run_packed(self, input: PackedSequence, hx: Any) -> Any:
        this: Any = self
        rows = PackedSequence(input.data, input.batch_sizes)  # in the order of their lengths
        padded, lengths = pad_packed_sequence(rows, this.batch_first)
        if hx is not None:
            hx = this.permute_hidden(hx, input.sorted_indices)
        y, last = self._run(padded, hx, lengths.numpy())
        data = pack_padded_sequence(y, lengths, this.batch_first).data
        out = PackedSequence(data, input.batch_sizes, input.sorted_indices, input.unsorted_indices)
        return out, this.permute_hidden(last, input.unsorted_indices)


def _version(tensor: Any) -> int:
    """How often a tensor was written to; tensors made in inference mode do not count."""
    return -1 if tensor.is_inference() else int(tensor._version)


class AcceleratedLSTM(_Accelerated, torch.nn.LSTM):
    """`nn.LSTM`."""


class AcceleratedGRU(_Accelerated, torch.nn.GRU):
    """`nn.GRU`."""


class AcceleratedRNN(_Accelerated, torch.nn.RNN):
    """`nn.RNN`."""


_CLASSES: dict[type, type[torch.nn.Module]] = {
    torch.nn.LSTM: AcceleratedLSTM,
    torch.nn.GRU: AcceleratedGRU,
    torch.nn.RNN: AcceleratedRNN,
}
