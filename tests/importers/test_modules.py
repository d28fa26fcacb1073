"""Live modules of PyTorch: what they compute, with and without an example."""

from __future__ import annotations

import itertools
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest

import gatestep as gs

torch = pytest.importorskip("torch")
nn = torch.nn

PLAIN = [
    nn.Linear(4, 3),
    nn.Linear(4, 3, bias=False),
    nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.LayerNorm(8), nn.Dropout(0.5), nn.Linear(8, 2), nn.Softmax(-1)),
    nn.Sequential(nn.Sequential(nn.Linear(4, 8), nn.GELU()), nn.SiLU(), nn.ELU(0.5), nn.LeakyReLU(0.2)),
]


def leaves(value: Any) -> list[np.ndarray]:
    return [t.detach().numpy() for t in torch.utils._pytree.tree_leaves(value)]


def same(got: Any, want: Any) -> None:
    got = got if isinstance(got, tuple) else (got,)
    for one, two in zip(got, leaves(want), strict=True):
        assert one.shape == two.shape
        np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("module", PLAIN, ids=str)
def test_plain_layers_need_no_example(module: Any) -> None:
    x = torch.randn(5, 3, 4)
    module.train()
    model = gs.load(module)
    assert module.training
    same(model(x.numpy()), module.eval()(x))


def test_an_embedding_takes_ids() -> None:
    module = nn.Sequential(nn.Embedding(9, 4), nn.Tanh())
    ids = torch.randint(0, 9, (5, 3))
    same(gs.load(module)(ids.numpy()), module(ids))


OPTIONS = list(
    itertools.product(("LSTM", "GRU", "RNN"), (1, 2), (False, True), (True, False), (True, False), (False, True))
)


@pytest.mark.parametrize(("kind", "layers", "both", "bias", "first", "projected"), OPTIONS)
def test_recurrent_layers(kind: str, layers: int, both: bool, bias: bool, first: bool, projected: bool) -> None:
    if projected and kind != "LSTM":
        pytest.skip("projections belong to LSTM")
    torch.manual_seed(6)
    more = {"proj_size": 3} if projected else {"nonlinearity": "relu"} if kind == "RNN" else {}
    module = getattr(nn, kind)(4, 7, layers, bias=bias, batch_first=first, bidirectional=both, **more)
    x = torch.randn(3, 5, 4)
    rows = (layers * (1 + both), 3 if first else 5)
    hx: Any = torch.randn(*rows, 3 if projected else 7)
    hx = (hx, torch.randn(*rows, 7)) if kind == "LSTM" else hx
    model = gs.load(module)
    same(model(x.numpy(), *leaves(hx)), module(x, hx))
    same(model(x.numpy()), module(x))


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
def test_cells(kind: str) -> None:
    module = getattr(nn, kind)(4, 7)
    x, h, c = torch.randn(3, 4), torch.randn(3, 7), torch.randn(3, 7)
    states = (h, c) if kind == "LSTMCell" else (h,)
    made = module(x, states if kind == "LSTMCell" else h)
    model = gs.load(module)
    got = model(x.numpy()[None], *(s.numpy() for s in states))
    for one, two in zip(got[1:], leaves(made), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.drop, self.fc = nn.LSTM(4, 8, batch_first=True), nn.Dropout(0.5), nn.Linear(8, 3)

    def forward(self, x: Any, hx: Any = None) -> Any:
        y, hx = self.rnn(x, hx)
        return self.fc(self.drop(y)), hx


class Stepping(nn.Module):
    """A loop over a cell, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.fc = nn.GRUCell(4, 8), nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        h = x.new_zeros(x.shape[0], 8)
        out = []
        for frame in x.unbind(1):
            h = self.cell(frame, h)
            out.append(self.fc(h))
        return torch.stack(out, 1)


class Renamed(nn.Linear):
    def forward(self, x: Any) -> Any:
        return super().forward(x) * 2


@pytest.mark.parametrize("training", [False, True])
def test_a_module_with_a_forward_of_its_own(training: bool) -> None:
    module = Tagger().train(training)
    modes = [part.training for part in module.modules()]
    x, hx = torch.randn(3, 6, 4), (torch.randn(1, 3, 8), torch.randn(1, 3, 8))
    model = gs.load(module, example=(x, hx))
    assert [part.training for part in module.modules()] == modes
    module.eval()
    same(model(x.numpy(), *leaves(hx)), module(x, hx))
    x, hx = torch.randn(5, 6, 4), (torch.randn(1, 5, 8), torch.randn(1, 5, 8))
    same(model(x.numpy(), *leaves(hx)), module(x, hx))
    alone = gs.load(module, example=x)
    same(alone(x.numpy()), module(x))
    named = gs.load(module, example={"x": x.numpy()})
    same(named(x.numpy()), module(x))


def test_it_streams() -> None:
    module = Tagger().eval()
    x = torch.randn(2, 6, 4)
    model = gs.load(module, example=x)
    stream = model.stream(2)
    got = np.stack([stream.step(frame) for frame in x.transpose(0, 1).contiguous().numpy()], 1)
    np.testing.assert_allclose(got, module(x)[0].detach().numpy(), atol=1e-5)


def test_a_loop_over_a_cell() -> None:
    module = Stepping()
    x = torch.randn(3, 6, 4)
    same(gs.load(module, example=x)(x.numpy()), module(x))


def test_exported_programs_and_torchscript() -> None:
    module = Tagger().eval()
    x = torch.randn(3, 6, 4)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program, traced = torch.export.export(module, (x,)), torch.jit.trace(module, (x,))
    for live in (program, traced):
        same(gs.load(live)(x.numpy()), module(x))


def test_what_subclasses_and_hooks_do_is_not_guessed() -> None:
    x = torch.randn(3, 6, 4)
    hooked = nn.Linear(4, 3)
    hooked.register_forward_hook(lambda module, args, output: output + 1)
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    for module in (Renamed(4, 3), hooked, normed, nn.Sequential(nn.Linear(4, 3), Renamed(3, 2))):
        with pytest.raises(gs.UnsupportedModelError, match="example="):
            gs.load(module)
        same(gs.load(module, example=x)(x.numpy()), module(x))


class Unexportable(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.numpy()


def test_what_cannot_be_exported_says_so() -> None:
    with pytest.raises(gs.UnsupportedModelError, match=r"<Unexportable>: torch.export cannot export it"):
        gs.load(Unexportable(), example=torch.randn(3))


def test_options_that_do_not_belong() -> None:
    module = nn.Linear(4, 3)
    with pytest.raises(ValueError, match="describes itself"):
        gs.load(module, spec=gs.nn.Linear(4, 3))
    with pytest.raises(ValueError, match="live modules"):
        gs.load(module.state_dict(), example=torch.randn(3))
    with pytest.raises(ValueError, match="ONNX"):
        gs.load(module, inputs=["x"])


def test_strip_prefix() -> None:
    module = nn.LSTM(4, 7)
    x = torch.randn(5, 3, 4)
    for prefix in ("module.", "model.", "_orig_mod.", "_orig_mod.module."):
        weights = {f"{prefix}{key}": value for key, value in module.state_dict().items()}
        other = {**weights, "head.weight": torch.ones(2, 2)}
        for spec in (None, gs.nn.LSTM(4, 7)):
            same(gs.load(weights, spec=spec)(x.numpy()), module(x))
            same(gs.load(other, spec=spec, strip_prefix=prefix)(x.numpy()), module(x))
    with pytest.raises(gs.ModelFormatError, match="no weight is called so"):
        gs.load(weights, strip_prefix="net.")


def test_pytorch_is_not_imported_for_files() -> None:
    weights = "{'weight_ih_l0': numpy.ones((4, 2)), 'weight_hh_l0': numpy.ones((4, 1))}"
    code = f"import sys, gatestep, numpy; gatestep.load({weights}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
