"""Modules of PyTorch whose recurrent layers run on the kernels here, against themselves."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import warnings
from typing import Any

import numpy as np
import pytest

import gatestep as gs

torch = pytest.importorskip("torch")
nn = torch.nn
rnn = torch.nn.utils.rnn
pytestmark = pytest.mark.filterwarnings("error::gatestep.ModelWarning", "ignore:LSTM with projections")


def close(one: Any, two: Any, atol: float = 1e-5) -> None:
    flat = torch.utils._pytree.tree_leaves
    for a, b in zip(flat(one), flat(two), strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, atol=atol, rtol=0)


OPTIONS = list(itertools.product(("LSTM", "GRU", "RNN"), (1, 2), (False, True), (True, False), (True, False)))


@pytest.mark.parametrize(("kind", "layers", "both", "bias", "first"), OPTIONS)
@pytest.mark.parametrize("form", ["batch", "alone", "packed", "projected", "double"])
def test_the_same_call(kind: str, layers: int, both: bool, bias: bool, first: bool, form: str) -> None:
    if form == "projected" and kind != "LSTM":
        pytest.skip("projections belong to LSTM")
    torch.manual_seed(7)
    more = {"proj_size": 3} if form == "projected" else {"nonlinearity": "relu"} if kind == "RNN" else {}
    module = getattr(nn, kind)(4, 7, layers, bias=bias, batch_first=first, bidirectional=both, **more)
    dtype = torch.float64 if form == "double" else torch.float32
    module = module.to(dtype)
    fast = gs.accelerate(module)
    assert isinstance(fast, getattr(nn, kind))
    x = torch.randn(5, 4) if form == "alone" else torch.randn(3, 6, 4)
    batch = () if form == "alone" else (3 if first else 6,)
    states = tuple(torch.randn(layers * (1 + both), *batch, n).to(dtype) for n in (more.get("proj_size", 7), 7))
    x = x.to(dtype)
    if form == "packed":
        lengths = [2, 6, 4] if first else [1, 3, 2, 3, 1, 2]
        x = rnn.pack_padded_sequence(x, torch.tensor(lengths), first, enforce_sorted=False)
    with torch.no_grad():
        for hx in (None, states if kind == "LSTM" else states[0]):
            got = fast(x, hx)
            close(got, module(x, hx), 1e-12 if form == "double" else 1e-5)
            assert not isinstance(got[0], torch.Tensor) or got[0].grad_fn is None
            if form == "packed":
                assert isinstance(got[0], rnn.PackedSequence)
                assert rnn.pad_packed_sequence(got[0])[1].tolist() == lengths


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        self.rnns = nn.ModuleList([nn.GRU(8, 8, batch_first=True), nn.LSTM(8, 8, batch_first=True)])
        self.again = self.rnns[0]
        self.head = nn.Linear(8, 2)

    def forward(self, x: Any) -> Any:
        y = self.front(x)
        for layer in self.rnns:
            y, _ = layer(y)
        y, _ = self.again(y)
        return self.head(y)


@pytest.fixture
def net() -> Any:
    torch.manual_seed(8)
    return Net().eval()


def test_layers_inside_a_module(net: Any) -> None:
    fast = gs.accelerate(net)
    x = torch.randn(2, 5, 4)
    with torch.inference_mode():
        close(fast(x), net(x))
    assert type(net.rnns[0]) is nn.GRU
    assert fast.again is fast.rnns[0]
    assert list(fast.state_dict()) == list(net.state_dict())
    assert all(a is b for a, b in zip(fast.parameters(), net.parameters(), strict=True))
    assert type(fast.rnns[1]).__name__ == "AcceleratedLSTM"


def test_weights_that_change_are_seen(net: Any) -> None:
    fast = gs.accelerate(net)
    x = torch.randn(2, 5, 4)
    with torch.no_grad():
        before = fast(x)
        fast.load_state_dict(Net().state_dict())
        close(fast(x), net(x))
        assert not torch.equal(fast(x), before)
        net.rnns[0].weight_ih_l0.mul_(2)
        close(fast(x), net(x))
        net.rnns[1].weight_hh_l0 = nn.Parameter(torch.zeros(32, 8))
        close(fast(x), net(x))
    optimizer = torch.optim.SGD(net.parameters(), 0.5)
    net(x).square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        close(fast(x), net(x))


def test_gradients_are_pytorchs_and_it_says_so(net: Any) -> None:
    fast = gs.accelerate(net)
    x = torch.randn(2, 5, 4)
    with pytest.warns(gs.ModelWarning, match=r"runs in PyTorch: gradients are required \(input\)") as seen:
        fast(x).sum().backward()
    assert fast.rnns[0].weight_ih_l0.grad is not None
    assert sum("GRU" in str(w.message) for w in seen) == 1
    layer = gs.accelerate(nn.LSTM(4, 7))
    with pytest.warns(gs.ModelWarning, match=r"gradients are required \(weight_ih_l0\)"):
        layer(torch.randn(5, 3, 4))
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    assert layer(torch.randn(5, 3, 4))[0].shape == (5, 3, 7)


def test_dropout_and_other_types_are_pytorchs() -> None:
    module = gs.accelerate(nn.LSTM(4, 7, 2, dropout=0.5))
    with torch.no_grad():
        with pytest.warns(gs.ModelWarning, match=r"dropout is active.*eval"):
            module(torch.randn(5, 3, 4))
        module.eval()
        module(torch.randn(5, 3, 4))
        half = gs.accelerate(nn.GRU(4, 7).to(torch.bfloat16))
        with pytest.warns(gs.ModelWarning, match="input is bfloat16"):
            half(torch.randn(5, 3, 4).to(torch.bfloat16))


def test_what_pytorch_refuses_it_refuses_itself() -> None:
    module, fast = nn.LSTM(4, 7), gs.accelerate(nn.LSTM(4, 7))
    for args in (
        (torch.randn(5, 3, 6),),
        (torch.randn(5, 3, 4, 4),),
        (torch.randn(5, 3, 4), (torch.randn(1, 2, 7), torch.randn(1, 3, 7))),
        (torch.randn(5, 3, 4).double(),),
    ):
        with torch.no_grad():
            with pytest.raises((RuntimeError, ValueError)) as wanted:
                module(*args)
            with pytest.raises(type(wanted.value)) as got:
                fast(*args)
        assert str(got.value).replace("AcceleratedLSTM", "LSTM") == str(wanted.value)


def test_it_is_copied_saved_and_exported(net: Any) -> None:
    fast = gs.accelerate(net)
    x = torch.randn(2, 5, 4)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        want = fast(x)
        close(copy.deepcopy(fast)(x), want)
        close(pickle.loads(pickle.dumps(fast))(x), want)
        stream = io.BytesIO()
        torch.save(fast.state_dict(), stream)
        close(torch.jit.trace(fast, (x,), check_trace=False)(x), want)
        close(torch.export.export(fast, (x,)).module()(x), want)
    assert gs.load(fast, example=x)(x.numpy()).shape == (2, 5, 2)


def test_a_module_without_recurrent_layers_warns() -> None:
    with pytest.warns(gs.ModelWarning, match="nothing of it was accelerated"):
        assert isinstance(gs.accelerate(nn.Linear(2, 2)), nn.Linear)


def test_it_computes_on_our_kernels(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = gs.accelerate(net)

    def forbidden(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("PyTorch's own kernel was called")

    monkeypatch.setattr(torch._VF, "lstm", forbidden)
    monkeypatch.setattr(torch._VF, "gru", forbidden)
    with torch.no_grad():
        assert np.isfinite(fast(torch.randn(2, 5, 4)).numpy()).all()
