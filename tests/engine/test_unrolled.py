"""Recurrent models that PyTorch exports step by step are rolled up, held to PyTorch, and stream."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pytest

import gatestep as gs

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
T, F, H, C = 6, 5, 7, 3


def exported(module: Any, args: tuple[Any, ...], names: list[str], *, dynamo: bool, **options: Any) -> Any:
    """The module as an ONNX file of PyTorch's exporter, loaded."""
    if dynamo:
        pytest.importorskip("onnxscript")
    outs = [f"out{k}" for k, _ in enumerate(flat(module(*args)))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            program = torch.onnx.export(
                module, args, dynamo=True, input_names=names, output_names=outs, verbose=False, **options
            )
            file = io.BytesIO()
            program.save(file)
        else:
            file = io.BytesIO()
            torch.onnx.export(module, args, file, dynamo=False, input_names=names, output_names=outs, **options)
    return gs.load(file.getvalue())


def flat(results: Any) -> list[Any]:
    if isinstance(results, (tuple, list)):
        return [each for result in results for each in flat(result)]
    return [results]


class CellLoop(torch.nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
    """The loop that everyone writes."""

    def __init__(
        self, kind: str, layers: int = 1, *, batch_first: bool = True, join: str = "stack", reverse: bool = False
    ) -> None:
        super().__init__()
        cell = getattr(torch.nn, f"{kind}Cell")
        self.cells = torch.nn.ModuleList(cell(F if k == 0 else H, H) for k in range(layers))
        self.fc = torch.nn.Linear(H, C)
        self.kind, self.join, self.axis, self.reverse = kind, join, int(batch_first), reverse

    def forward(self, x: Any, *given: Any) -> Any:
        zeros = torch.zeros(x.shape[1 - self.axis], H)
        each = 2 if self.kind == "LSTM" else 1
        states = [given[k * each : k * each + each] or (zeros,) * each for k in range(len(self.cells))]
        outs = []
        for t in reversed(range(x.shape[self.axis])) if self.reverse else range(x.shape[self.axis]):
            y = x.select(self.axis, t)
            for k, cell in enumerate(self.cells):
                after = cell(y, states[k] if each == 2 else states[k][0])
                states[k] = after if each == 2 else (after,)
                y = torch.relu(states[k][0]) if self.join == "relu" else states[k][0]
            if self.join != "last":
                y = self.fc(y)
            outs.insert(0, y) if self.reverse else outs.append(y)
        if self.join == "last":
            return self.fc(outs[-1])
        if self.join == "cat":
            return torch.cat([out.unsqueeze(self.axis) for out in outs], self.axis), *states[-1]
        return torch.stack(outs, self.axis)


class Stepwise(torch.nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
    """A whole recurrent module, called for one frame at a time."""

    def __init__(self, kind: str, layers: int = 1) -> None:
        super().__init__()
        self.rnn = getattr(torch.nn, kind)(F, H, layers, batch_first=True)
        self.norm = torch.nn.LayerNorm(H)

    def forward(self, x: Any) -> Any:
        state, outs = None, []
        for t in range(x.shape[1]):
            y, state = self.rnn(x[:, t : t + 1], state)
            outs.append(torch.tanh(self.norm(y)))
        return torch.cat(outs, 1)


def holds(model: Any, module: Any, feeds: dict[str, Any], *, cells: int, time: int = 1) -> None:
    """The cells are whole ones, the numbers PyTorch's, and a stream gives the same bits as a whole call."""
    ops = [node.op for node in model.graph.nodes]
    assert sum(op in ("LSTM", "GRU", "RNN") for op in ops) == cells
    assert not any(node.attrs.get("recognised") for node in model.graph.nodes)
    assert "rolled up" in str(model)
    with torch.no_grad():
        want = flat(module(*map(torch.from_numpy, feeds.values())))
    got = list(model(feeds).values())
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b.numpy(), **CLOSE)
    stream = model.stream(B)
    for name in model.layout.states:
        stream.state[name] = feeds[name]
    frames = np.ascontiguousarray(np.moveaxis(feeds["x"], time, 0))
    steps = [stream.step(frame) for frame in frames]
    steps = [next(iter(step.values())) if isinstance(step, dict) else step for step in steps]
    whole = np.moveaxis(got[0], time, 0) if got[0].ndim == 3 else got[0]
    streamed = np.stack(steps) if got[0].ndim == 3 else steps[-1]
    assert streamed.tobytes() == np.ascontiguousarray(whole).tobytes()


B = 2


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("join", ["stack", "cat", "relu", "last"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_loop_of_cells(kind: str, layers: int, join: str, dynamo: bool) -> None:
    torch.manual_seed(0)
    module = CellLoop(kind, layers, join=join).eval()
    x = noise(B, T, F)
    model = exported(module, (torch.from_numpy(x),), ["x"], dynamo=dynamo)
    holds(model, module, {"x": x}, cells=layers)


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_states_that_the_caller_gives(kind: str, dynamo: bool) -> None:
    torch.manual_seed(0)
    module = CellLoop(kind, join="cat").eval()
    feeds = {"x": noise(B, T, F), **{name: noise(B, H, seed=1) for name in "hc"[: 2 if kind == "LSTM" else 1]}}
    model = exported(module, tuple(map(torch.from_numpy, feeds.values())), [*feeds], dynamo=dynamo)
    assert model.layout.states == {name: f"out{k + 1}" for k, name in enumerate([*feeds][1:])}
    holds(model, module, feeds, cells=1)


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_time_first(kind: str, dynamo: bool) -> None:
    torch.manual_seed(0)
    module = CellLoop(kind, batch_first=False).eval()
    x = noise(T, B, F)
    model = exported(module, (torch.from_numpy(x),), ["x"], dynamo=dynamo)
    holds(model, module, {"x": x}, cells=1, time=0)


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_backwards(kind: str, dynamo: bool) -> None:
    torch.manual_seed(0)
    module = CellLoop(kind, reverse=True).eval()
    x = noise(B, T, F)
    model = exported(module, (torch.from_numpy(x),), ["x"], dynamo=dynamo)
    (cell,) = (node for node in model.graph.nodes if node.op == kind)
    assert cell.attrs["direction"] == "reverse"
    with torch.no_grad():
        np.testing.assert_allclose(model(x), module(torch.from_numpy(x)).numpy(), **CLOSE)
    with pytest.raises(gs.UnsupportedModelError, match="backwards"):
        model.stream()


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_module_called_step_by_step(kind: str, layers: int, dynamo: bool) -> None:
    torch.manual_seed(0)
    module = Stepwise(kind, layers).eval()
    x = noise(B, T, F)
    model = exported(module, (torch.from_numpy(x),), ["x"], dynamo=dynamo)
    holds(model, module, {"x": x}, cells=layers)


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_a_plain_rnn(nonlinearity: str, layers: int, batch_first: bool, bidirectional: bool, dynamo: bool) -> None:
    """Which the exporter of today writes out, one step after the other."""
    torch.manual_seed(0)
    options = {"nonlinearity": nonlinearity, "batch_first": batch_first, "bidirectional": bidirectional}
    module = torch.nn.RNN(F, H, layers, **options).eval()
    x = noise(B, T, F) if batch_first else noise(T, B, F)
    model = exported(module, (torch.from_numpy(x),), ["x"], dynamo=dynamo)
    with torch.no_grad():
        for got, want in zip(model(x), module(torch.from_numpy(x)), strict=True):
            np.testing.assert_allclose(got, flat(want)[0].numpy(), **CLOSE)
    cells = [node for node in model.graph.nodes if node.op == "RNN"]
    assert len(cells) == layers * (1 + (bidirectional and dynamo))
    assert not {node.op for node in model.graph.nodes} & {"Tanh", "Relu"}
    assert model.streams is not bidirectional


def test_a_number_of_frames_that_is_called_free(net: Any) -> None:
    """A traced loop reads so many frames, whatever its file declares: the refusal says how many."""
    n = net()
    x, h = n.input("x", "T", 1, 3), n.graph.constant(np.zeros((1, 4), np.float32))
    w, r = n.weights(3, 4), n.weights(4, 4)
    for t in range(6):
        h = n("Tanh", n("Add", n("MatMul", n("Gather", x, t), w), n("MatMul", h, r)))
    n("Neg", h, out="y")
    n.output("y")
    with pytest.raises(gs.UnsupportedModelError, match=r"6 of it are read.*shapes=\{'x': \(6, None, 3\)\}"):
        n.model().stream()
