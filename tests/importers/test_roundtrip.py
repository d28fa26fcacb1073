"""What PyTorch computes, from every form in which it lets a model go."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gatestep as gs

torch = pytest.importorskip("torch")
nn = torch.nn
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

OPTIONS = list(itertools.product(("LSTM", "GRU", "RNN", "proj"), (1, 2), (False, True), (True, False), (True, False)))


class Layer(nn.Module):
    """One recurrent module and a head; what a user's class looks like."""

    def __init__(self, kind: str, layers: int, both: bool, bias: bool, first: bool) -> None:
        super().__init__()
        more = {"proj_size": 5} if kind == "proj" else {}
        layer = getattr(nn, "LSTM" if kind == "proj" else kind)
        self.rnn = layer(4, 9, layers, bias=bias, batch_first=first, bidirectional=both, **more)
        self.fc = nn.Linear(more.get("proj_size", 9) * (1 + both), 3)
        self.spec = gs.nn.Sequential(
            {
                "rnn": getattr(gs.nn, layer.__name__)(
                    4, 9, layers, bias=bias, batch_first=first, bidirectional=both, **more
                ),
                "fc": gs.nn.Linear(self.fc.in_features, 3),
            }
        )

    def forward(self, x: Any) -> Any:
        return self.fc(self.rnn(x)[0])


class Loop(nn.Module):
    """A cell that is stepped by hand."""

    def __init__(self, kind: str, bias: bool) -> None:
        super().__init__()
        self.cell = getattr(nn, f"{kind}Cell")(4, 9, bias=bias)

    def forward(self, x: Any) -> Any:
        state: Any = None
        out = []
        for t in range(x.shape[0]):
            state = self.cell(x[t], state)
            out.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(out)


def by_state_dict(module: Any, x: Any) -> gs.Model:
    stream = io.BytesIO()
    torch.save({"model": module.state_dict(), "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}, stream)
    return gs.load(stream.getvalue(), spec=module.spec)


def by_pt2(module: Any, x: Any) -> gs.Model:
    stream = io.BytesIO()
    torch.export.save(torch.export.export(module, (x,)), stream)
    return gs.load(stream.getvalue())


def by_object(module: Any, x: Any) -> gs.Model:
    return gs.load(module, example=x)


def by_trace(module: Any, x: Any) -> gs.Model:
    return gs.load(torch.jit.trace(module, (x,), check_trace=False), example=None)


def check(module: Any, x: Any, form: Callable[[Any, Any], gs.Model]) -> None:
    with torch.no_grad():
        model = form(module.eval(), x)
        want = module(x).numpy()
    got = model(x.numpy())
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(("kind", "layers", "both", "bias", "first"), OPTIONS)
@pytest.mark.parametrize("form", [by_state_dict, by_pt2, by_object, by_trace])
def test_layers(form: Any, kind: str, layers: int, both: bool, bias: bool, first: bool) -> None:
    if form in (by_object, by_trace) and (layers == 1 or bias):
        pytest.skip("the same path as by .pt2 or TorchScript, tried for some")
    torch.manual_seed(9)
    check(Layer(kind, layers, both, bias, first), torch.randn(3, 6, 4), form)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("form", [by_pt2, by_object, by_trace])
def test_loops_over_cells(form: Any, kind: str, bias: bool) -> None:
    torch.manual_seed(9)
    check(Loop(kind, bias), torch.randn(6, 3, 4), form)


def test_float_types_of_a_state_dict() -> None:
    module = nn.LSTM(4, 9)
    x = torch.randn(6, 3, 4)
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        state = {name: value.to(dtype) for name, value in module.state_dict().items()}
        stream = io.BytesIO()
        torch.save(state, stream)
        rounded = nn.LSTM(4, 9)
        rounded.load_state_dict({name: value.float() for name, value in state.items()})
        model = gs.load(stream.getvalue())
        with torch.no_grad():
            want = rounded(x)[0].numpy()
        np.testing.assert_allclose(model(x.numpy().astype(model.inputs[0].dtype))[0], want, atol=1e-5)
