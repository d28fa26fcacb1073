"""What a TorchScript file does not say: ranks, sizes, types, optional states, and what a module keeps between calls."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from torch import nn

import gatestep as gs

from .test_torchscript import check, saved, written

pytestmark = pytest.mark.filterwarnings("ignore")


class Language(nn.Module):
    """Ids in, state in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.gru, self.out = nn.Embedding(11, 6), nn.GRU(6, 7, 2, batch_first=True), nn.Linear(7, 11)

    def forward(self, ids: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, hn = self.gru(self.emb(ids), h)
        return torch.log_softmax(self.out(y), -1), hn


@pytest.mark.parametrize("how", ["trace", "script", "freeze"])
def test_ids_and_states(how) -> None:
    args = (torch.randint(0, 11, (2, 5)), torch.randn(2, 2, 7))
    model = check(written(Language(), how, args), args)
    ids, h = model.inputs
    assert ids.dtype == np.int64
    assert h.shape == (2, ids.shape[0], 7)
    assert model.streams
    assert model.layout.states == {"h": model.outputs[1].name}


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Conv1d(4, 2, 3), (2, 4, 9)),
        (lambda: nn.Conv2d(3, 2, 3), (2, 3, 7, 8)),
        (lambda: nn.Sequential(nn.Conv1d(4, 2, 3), nn.BatchNorm1d(2), nn.ReLU(), nn.MaxPool1d(2)), (2, 4, 9)),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU()), (5, 3)),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh()), (2, 5, 3)),
        (lambda: nn.LSTM(3, 4, batch_first=True), (2, 5, 3)),
    ],
)
@pytest.mark.parametrize("how", ["trace", "script"])
def test_ranks(make, shape, how) -> None:
    module = make()
    if isinstance(module, nn.LSTM):

        class Holder(nn.Module):
            def __init__(self, rnn: nn.LSTM) -> None:
                super().__init__()
                self.rnn = rnn

            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
                return self.rnn(x)

        module = Holder(module)
    check(written(module, how, (torch.randn(shape),)), (torch.randn(shape),))


def test_a_lone_sequence_where_nothing_else_fits() -> None:
    """Traced on one sequence without a batch: the program unsqueezes it."""
    x = torch.randn(7, 3)
    model = check(saved(torch.jit.trace(nn.GRU(3, 4).eval(), (x,), check_trace=False)), (x,))
    assert len(model.inputs[0].shape) == 2


@pytest.mark.parametrize("cell", [nn.GRUCell, nn.LSTMCell, nn.RNNCell])
@pytest.mark.parametrize("how", ["script", "freeze"])
def test_states_that_may_be_left_out(cell, how) -> None:
    x, h = torch.randn(2, 3), torch.randn(2, 4)
    state = (h, torch.randn(2, 4)) if cell is nn.LSTMCell else h
    model = check(written(cell(3, 4), how, (x,)), (x,), (x, state))
    assert [port.optional for port in model.inputs] == [False, *[True] * (len(model.inputs) - 1)]
    assert model.streams


def test_layers_with_states_that_may_be_left_out() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(3, 4, 2)

        def forward(self, x: torch.Tensor, hc: tuple[torch.Tensor, torch.Tensor] | None = None):
            y, hc = self.rnn(x, hc)
            return y, hc

    x = torch.randn(5, 2, 3)
    model = check(written(Net(), "script", (x,)), (x,), (x, (torch.randn(2, 2, 4), torch.randn(2, 2, 4))))
    assert [port.name for port in model.inputs] == ["x", "hc_0", "hc_1"]
    assert [port.name for port in model.outputs] == ["output", "hn", "cn"]
    assert model.layout.states == {"hc_0": "hn", "hc_1": "cn"}


class ByHand(nn.Module):
    """One step of an LSTM that joins its input and its state."""

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.head = nn.Linear(3 + 5, 4 * 5), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        i, f, o, n = self.gates(torch.cat([x, h], 1)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(n)
        return torch.sigmoid(o) * torch.tanh(c), c


@pytest.mark.parametrize("how", ["trace", "script", "freeze"])
def test_a_step_written_by_hand(how) -> None:
    args = (torch.randn(2, 3), torch.randn(2, 5), torch.randn(2, 5))
    model = check(written(ByHand(), how, args), args)
    assert [port.shape[1] for port in model.inputs] == [3, 5, 5]
    assert model.streams
    assert set(model.layout.states) == {"h", "c"}


def test_an_option_that_is_not_zeros_stays_left_out() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
            return torch.tanh(x) if scale is None else x * scale

    x = torch.randn(2, 3)
    model = check(written(Net(), "script", (x,)), (x,))
    assert [port.name for port in model.inputs] == ["x"]


class Keeps(nn.Module):
    """A detector that keeps its state and the end of the last frame itself, for two rates, as Silero's does."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.LSTMCell(10, 6), nn.LSTMCell(7, 6)
        self.head = nn.Linear(6, 1)
        self._state, self._context = torch.zeros([0]), torch.zeros([0])
        self._last_rate, self._last_batch = 0, 0
        self.rates = [8000, 16000]

    @torch.jit.export
    def reset(self) -> None:
        self._state, self._context = torch.zeros([0]), torch.zeros([0])

    def forward(self, x: torch.Tensor, rate: int) -> torch.Tensor:
        if rate not in self.rates:
            raise ValueError("rates are 8000 and 16000")
        size = 8 if rate == 16000 else 5
        if x.shape[-1] != size:
            raise ValueError(f"frames are {size} samples")
        batch = x.shape[0]
        if self._last_rate and self._last_rate != rate:
            self.reset()
        if self._last_batch and self._last_batch != batch:
            self.reset()
        if not len(self._context):
            self._context = torch.zeros(batch, 2)
        x = torch.cat([self._context, x], 1)
        state = (self._state[0], self._state[1]) if len(self._state) else None
        if rate == 16000:
            h, c = self.wide(x, state)
        else:
            h, c = self.narrow(x, state)
        self._state = torch.stack([h, c])
        self._context = x[..., -2:]
        self._last_rate, self._last_batch = rate, batch
        return torch.sigmoid(self.head(torch.relu(h)))


@pytest.mark.parametrize(("rate", "size"), [(16000, 8), (8000, 5)])
def test_what_a_module_keeps_is_a_state(rate, size) -> None:
    torch.manual_seed(4)
    data = saved(torch.jit.script(Keeps().eval()))
    model = gs.load(data, bind={"rate": rate})
    assert [port.name for port in model.inputs] == ["x", "_context", "_state"]
    assert model.inputs[0].shape[1] == size
    module = torch.jit.load(io.BytesIO(data))
    stream = model.stream(3)
    kept: dict[str, np.ndarray] = {}
    for _ in range(6):
        x = torch.randn(3, size)
        with torch.no_grad():
            want = module(x, rate).numpy()
        got = model({"x": x.numpy(), **kept})
        kept = {name.removesuffix("_next"): value for name, value in got.items() if name.endswith("_next")}
        np.testing.assert_allclose(got["output"], want, atol=1e-6)
        step = stream.step(x.numpy())
        np.testing.assert_allclose(step[0] if isinstance(step, tuple) else step, want, atol=1e-6)


def test_a_number_that_decides_has_to_be_said() -> None:
    data = saved(torch.jit.script(Keeps().eval()))
    with pytest.raises(gs.UnsupportedModelError, match=r"bind=\{'rate': \.\.\.\}"):
        gs.load(data)
    with pytest.raises(gs.ModelFormatError, match="raises an exception: rates are"):
        gs.load(data, bind={"rate": 44100})
    with pytest.raises(gs.UnsupportedModelError, match=r"bind.*'rat'"):
        gs.load(data, bind={"rat": 16000})


def test_what_does_not_begin_with_zeros_is_refused() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = torch.ones(1, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.mean = self.mean * 0.9 + x * 0.1
            return x - self.mean

    with pytest.raises(gs.UnsupportedModelError, match=r"keeps mean from call to call"):
        gs.load(saved(torch.jit.script(Counts())))
