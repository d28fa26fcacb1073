"""Models built from specs give what the modules of PyTorch give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import gatestep
from gatestep import nn

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

CASES = Path(__file__).parents[3] / "shared" / "models"
T, B = 9, 3


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("f4")


def flat(result) -> list[np.ndarray]:
    """The tensors of ``(output, hn)`` or ``(output, (hn, cn))``."""
    if isinstance(result, tuple):
        return [array for part in result for array in flat(part)]
    return [result.detach().numpy()]


def assert_close(got, expected, atol: float = 1e-5) -> None:
    got = got if isinstance(got, tuple) else (got,)
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=atol, strict=True)


RECURRENT = [
    (kind, layers, bidirectional, bias, batch_first, projection)
    for kind in ("LSTM", "GRU", "RNN")
    for layers in (1, 2)
    for bidirectional in (False, True)
    for bias in (True, False)
    for batch_first in (False, True)
    for projection in ((0, 3) if kind == "LSTM" else (0,))
]


@pytest.mark.parametrize(("kind", "layers", "bidirectional", "bias", "batch_first", "projection"), RECURRENT)
def test_recurrent_layers(kind, layers, bidirectional, bias, batch_first, projection) -> None:
    options = {"bidirectional": bidirectional, "bias": bias, "batch_first": batch_first}
    if projection:
        options["proj_size"] = projection
    module = getattr(torch.nn, kind)(7, 5, layers, **options).eval()
    model = gatestep.load(module.state_dict(), spec=getattr(nn, kind)(7, 5, layers, **options))
    x = numbers(T, B, 7)
    x = np.ascontiguousarray(x.swapaxes(0, 1)) if batch_first else x
    assert_close(model(x), flat(module(torch.from_numpy(x))))

    count = layers * (1 + bidirectional)
    states = [numbers(count, B, projection or 5, seed=1)] + [numbers(count, B, 5, seed=2)] * (kind == "LSTM")
    given = tuple(map(torch.from_numpy, states))
    expected = flat(module(torch.from_numpy(x), given if kind == "LSTM" else given[0]))
    assert_close(model(x, *states), expected)


def test_relu_rnn() -> None:
    module = torch.nn.RNN(7, 5, 2, "relu")
    model = gatestep.load(module.state_dict(), spec=nn.RNN(7, 5, 2, "relu"))
    assert_close(model(numbers(T, B, 7)), flat(module(torch.from_numpy(numbers(T, B, 7)))))


def test_gru_with_reset_before() -> None:
    """PyTorch has none; the equations are short."""
    weights = {key: a.numpy() for key, a in torch.nn.GRU(7, 5).double().state_dict().items()}
    w, r, b, b_h = (weights[f"{key}_l0"] for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    x, h, expected = numbers(T, B, 7).astype("f8"), np.zeros((B, 5)), []
    for frame in x:
        sums = frame @ w.T + b + b_h
        reset, update = np.split(1 / (1 + np.exp(-(sums[:, :10] + h @ r[:10].T))), 2, axis=1)
        candidate = np.tanh(sums[:, 10:] + (reset * h) @ r[10:].T)
        h = (1 - update) * candidate + update * h
        expected.append(h)
    single = {key: a.astype("f4") for key, a in weights.items()}
    got = gatestep.load(single, spec=nn.GRU(7, 5, reset_after=False))(x.astype("f4"))[0]
    np.testing.assert_allclose(got, np.stack(expected), atol=1e-6)


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
def test_cells_run_over_time(kind) -> None:
    cell = getattr(torch.nn, kind)(7, 5)
    model = gatestep.load(cell.state_dict(), spec=getattr(nn, kind)(7, 5))
    x, states = numbers(T, B, 7), [numbers(B, 5, seed=n) for n in range(1 + (kind == "LSTMCell"))]
    given, outputs = tuple(map(torch.from_numpy, states)), []
    for frame in torch.from_numpy(x):
        result = cell(frame, given if kind == "LSTMCell" else given[0])
        given = result if isinstance(result, tuple) else (result,)
        outputs.append(given[0].detach().numpy())
    assert_close(model(x, *states), [np.stack(outputs), *(s.detach().numpy() for s in given)])


LEARNED = [
    ("LSTM", {"num_layers": 2, "bidirectional": True, "proj_size": 3}),
    ("LSTM", {"batch_first": True}),
    ("GRU", {"num_layers": 2}),
    ("RNN", {"bidirectional": True}),
]


@pytest.mark.parametrize(("kind", "options"), LEARNED)
@pytest.mark.parametrize("batched", [False, True])
def test_learned_initial_states(kind, options, batched) -> None:
    module = getattr(torch.nn, kind)(7, 5, **options)
    count = options.get("num_layers", 1) * (1 + options.get("bidirectional", False))
    sizes = [options.get("proj_size", 5), 5][: 1 + (kind == "LSTM")]
    learned = [numbers(count, size, seed=n) for n, size in enumerate(sizes)]
    keys = ("h0", "c0")[: len(learned)]
    weights = {f"rnn.{key}": a for key, a in module.state_dict().items()}
    weights |= {key: torch.from_numpy(a[:, None] if batched else a) for key, a in zip(keys, learned, strict=True)}
    model = gatestep.load(weights, spec=nn.Sequential({"rnn": getattr(nn, kind)(7, 5, **options, initial=keys)}))
    x = numbers(B, T, 7) if options.get("batch_first") else numbers(T, B, 7)
    given = tuple(torch.from_numpy(a)[:, None].expand(-1, B, -1).contiguous() for a in learned)
    expected = flat(module(torch.from_numpy(x), given if kind == "LSTM" else given[0]))[0]
    assert_close(model(x), [expected])
    if not options.get("bidirectional"):
        time_first = (lambda a: a.swapaxes(0, 1)) if options.get("batch_first") else (lambda a: a)
        stream = model.stream(B)
        for _ in range(2):
            steps = np.stack([stream.step(np.ascontiguousarray(frame)) for frame in time_first(x)])
            np.testing.assert_allclose(steps, time_first(expected), rtol=1e-4, atol=1e-5)
            stream.reset()


def test_a_learned_initial_state_of_a_layer_alone() -> None:
    module, learned = torch.nn.GRU(7, 5), numbers(1, 5)
    weights = {**module.state_dict(), "start": torch.from_numpy(learned)}
    model = gatestep.load(weights, spec=nn.GRU(7, 5, initial="start"))
    given = torch.from_numpy(learned)[:, None].expand(-1, B, -1).contiguous()
    assert_close(model(numbers(T, B, 7)), flat(module(torch.from_numpy(numbers(T, B, 7)), given)))


@pytest.mark.parametrize("batch_first", [False, True])
def test_last_step(batch_first) -> None:
    rnn, fc = torch.nn.GRU(7, 5, batch_first=batch_first), torch.nn.Linear(5, 3)
    weights = {f"{name}.{key}": a for name, m in (("rnn", rnn), ("fc", fc)) for key, a in m.state_dict().items()}
    layers = {"rnn": nn.GRU(7, 5, batch_first=batch_first), "last": nn.Last(), "fc": nn.Linear(5, 3), "act": nn.Tanh()}
    model = gatestep.load(weights, spec=nn.Sequential(layers))
    x = numbers(T, B, 7)
    every = torch.tanh(fc(rnn(torch.from_numpy(x.swapaxes(0, 1).copy() if batch_first else x))[0])).detach().numpy()
    every = every.swapaxes(0, 1) if batch_first else every
    assert_close(model(x.swapaxes(0, 1) if batch_first else x), [every[-1]])
    stream = model.stream(B)
    for frame, expected in zip(x, every, strict=True):
        np.testing.assert_allclose(stream.step(frame), expected, rtol=1e-4, atol=1e-5)


def test_inferred_from_a_file(tmp_path) -> None:
    module = torch.nn.LSTM(7, 20, 2, bidirectional=True)
    path = tmp_path / "lstm.pt"
    torch.save({"epoch": 3, "model_state_dict": {f"module.{k}": v for k, v in module.state_dict().items()}}, path)
    assert_close(gatestep.load(path)(numbers(T, B, 7)), flat(module(torch.from_numpy(numbers(T, B, 7)))))


@pytest.mark.parametrize(
    "layer",
    [
        "ReLU()",
        "Tanh()",
        "Sigmoid()",
        "LeakyReLU(0.2)",
        "ELU(0.7)",
        "SELU()",
        "GELU()",
        "GELU('tanh')",
        "SiLU()",
        "Softplus()",
        "Softplus(2.5)",
        "Softsign()",
        "Hardsigmoid()",
        "Hardswish()",
        "Softmax(-1)",
        "LogSoftmax(2)",
        "LayerNorm(6)",
        "LayerNorm(6, 1e-2, False)",
        "LayerNorm(6, bias=False)",
        "Dropout(0.3)",
    ],
)
def test_layers_without_state(layer) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(7, 6), eval(layer, vars(torch.nn)), torch.nn.Linear(6, 4)).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(2 * torch.randn_like(parameter))
    spec = nn.Sequential(nn.Linear(7, 6), eval(layer, vars(nn)), nn.Linear(6, 4))
    model = gatestep.load(module.state_dict(), spec=spec)
    x = numbers(T, B, 7)
    assert_close(model(x), flat(module(torch.from_numpy(x))), atol=1e-4)


class Composed(torch.nn.Module):
    """An embedding, a skip connection around a GRU, and two branches side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = torch.nn.Embedding(20, 8)
        self.rnn = torch.nn.GRU(8, 8, batch_first=True)
        self.left = torch.nn.Linear(8, 3)
        self.right = torch.nn.LSTM(8, 2, batch_first=True)
        self.head = torch.nn.Sequential(torch.nn.LayerNorm(5), torch.nn.ReLU(), torch.nn.Linear(5, 4))

    def forward(self, ids):
        x = self.emb(ids)
        x = x + self.rnn(x)[0]
        return self.head(torch.cat([self.left(x), self.right(x)[0]], -1))


COMPOSED = nn.Sequential(
    {
        "emb": nn.Embedding(20, 8),
        "rnn": nn.Residual(nn.GRU(8, 8, batch_first=True)),
        "": nn.Concat({"left": nn.Linear(8, 3), "right": nn.LSTM(8, 2, batch_first=True)}),
        "head": nn.Sequential(nn.LayerNorm(5), nn.ReLU(), nn.Linear(5, 4)),
    }
)


def test_compositions() -> None:
    module = Composed().eval()
    model = gatestep.load(module.state_dict(), spec=COMPOSED)
    ids = np.random.default_rng(0).integers(0, 20, (B, T))
    expected = flat(module(torch.from_numpy(ids)))
    assert_close(model(ids), expected)
    stream = model.stream(B)
    steps = np.stack([stream.step(np.ascontiguousarray(frame)) for frame in ids.T])
    np.testing.assert_allclose(steps.swapaxes(0, 1), expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_streams(kind) -> None:
    module = torch.nn.Sequential()
    module.add_module("rnn", getattr(torch.nn, kind)(7, 17, 2))
    module.add_module("fc", torch.nn.Linear(17, 3))
    spec = nn.Sequential({"rnn": getattr(nn, kind)(7, 17, 2), "fc": nn.Linear(17, 3)})
    model = gatestep.load(module.state_dict(), spec=spec)
    x = numbers(T, 7)
    expected = module.fc(module.rnn(torch.from_numpy(x)[:, None])[0])[:, 0].detach().numpy()
    stream = model.stream()
    steps = np.stack([stream.step(frame) for frame in x])
    np.testing.assert_allclose(steps, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(model.run(x), steps)


def test_double_precision() -> None:
    module = torch.nn.LSTM(7, 5, 2).double()
    model = gatestep.load(module.state_dict(), spec=nn.LSTM(7, 5, 2), dtype="float64")
    x = numbers(T, B, 7).astype("f8")
    got, expected = model(x), flat(module(torch.from_numpy(x)))
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-13, strict=True)


# The shared cases


def case(name: str) -> tuple[Path, dict[str, np.ndarray], float]:
    entry = next(c for c in json.loads((CASES / "manifest.json").read_text())["cases"] if c["name"] == name)
    with np.load(CASES / entry["data"]) as data:
        return CASES / entry["file"], dict(data), entry["atol"]


shared = pytest.mark.skipif(not CASES.is_dir(), reason="the shared model cases are not here")


@shared
def test_case_seq_tagger() -> None:
    path, data, atol = case("torch/SeqTagger_LSTM__state_dict")
    model = gatestep.load(path, spec=nn.Sequential({"rnn": nn.LSTM(16, 32, batch_first=True), "fc": nn.Linear(32, 5)}))
    assert_close(model(data["in.x"]), [data["out.y"]], atol)


def streamed(model, x: np.ndarray) -> np.ndarray:
    """What the steps of a stream give for a batch-first recording, time first."""
    stream = model.stream(len(x))
    return np.stack([stream.step(frame) for frame in np.ascontiguousarray(x.swapaxes(0, 1))])


@shared
def test_case_projection() -> None:
    path, data, atol = case("torch/KWSProj__state_dict")
    lstm = nn.LSTM(10, 48, batch_first=True, proj_size=24)
    model = gatestep.load(path, spec=nn.Sequential({"lstm": lstm, "last": nn.Last(), "fc": nn.Linear(24, 12)}))
    assert_close(model(data["in.x"]), [data["out.y"]], atol)
    np.testing.assert_allclose(streamed(model, data["in.x"])[-1], data["out.y"], atol=atol)


@shared
def test_case_nam() -> None:
    path, data, atol = case("real/nam_lstm")
    core = nn.LSTM(1, 3, batch_first=True, initial=("_initial_hidden", "_initial_cell"))
    layers = {"in": nn.Unflatten(1, (-1, 1)), "_core": core, "_head": nn.Linear(3, 1), "out": nn.Flatten()}
    model = gatestep.load(path, spec=nn.Sequential(layers))
    assert_close(model(data["in.x"]), [data["out.y"]], atol)
    np.testing.assert_allclose(streamed(model, data["in.x"]).T, data["out.y"], atol=atol)


@shared
def test_case_char_lm() -> None:
    path, data, atol = case("torch/CharLM__safetensors")
    layers = {
        "emb": nn.Embedding(40, 16),
        "gru": nn.GRU(16, 48, 2, batch_first=True),
        "out": nn.Linear(48, 40),
        "act": nn.LogSoftmax(dim=-1),
    }
    model = gatestep.load(path, spec=nn.Sequential(layers, states=True))
    assert_close(model(data["in.ids"], data["in.h"]), [data["out.logp"], data["out.hn"]], atol)


@shared
@pytest.mark.parametrize(("name", "kind"), [("lstm", nn.LSTM), ("gru", nn.GRU)])
def test_case_rtneural(name, kind) -> None:
    path, data, atol = case(f"real/rtneural_{name}_torch_pt")
    spec = nn.Sequential({name: kind(1, 8), f"{name}2": kind(8, 8, num_layers=3), "dense": nn.Linear(8, 1)})
    model = gatestep.load(path, spec=spec)
    assert_close(model(data["in.x"][:, None])[:, 0], [data["out.y"]], atol)
    assert_close(model.run(data["in.x"]), [data["out.y"]], atol)
