"""The JSON files of audio people: each kind as its own programs write it, against PyTorch and our float64 oracle."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import numpy as np
import pytest
from gatestep.engine.errors import GatestepError, ModelFormatError, UnsupportedModelError
from gatestep.importers.audio import read_json
from gatestep.importers.kinds import is_weights
from gatestep.kernels import reference

import gatestep
from gatestep import nn

CASES = Path(__file__).parents[3] / "shared" / "models"
shared = pytest.mark.skipif(not CASES.is_dir(), reason="the shared model cases are not here")
T, B = 7, 3


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("f4") / 2


def written(value) -> bytes:
    return json.dumps(value, default=lambda array: array.tolist()).encode()


def streamed(model, frames: np.ndarray) -> np.ndarray:
    stream = model.stream(frames.shape[1])
    return np.stack([stream.step(np.ascontiguousarray(frame)) for frame in frames])


# Neural Amp Modeler


@shared
def test_nam_of_the_shared_case(tmp_path) -> None:
    path = CASES / "real" / "nam" / "lstm.nam"
    assert is_weights(path)
    model = gatestep.load(path)
    with np.load(CASES / "real" / "nam" / "lstm.npz") as data:
        x, expected = data["in.x"], data["out.y"]
    np.testing.assert_allclose(model(x), expected, atol=1e-5, rtol=1e-4, strict=True)
    np.testing.assert_allclose(streamed(model, x.T).T, expected, atol=1e-5, rtol=1e-4)
    weights, _ = read_json(path)
    torch = pytest.importorskip("torch")
    other = torch.load(CASES / "real" / "nam" / "lstm.pt", weights_only=True)
    assert weights.keys() == other.keys()
    for key, tensor in other.items():
        np.testing.assert_array_equal(weights[key], tensor.numpy(), err_msg=key)


def nam(inputs: int = 1, hidden: int = 3, count: int = 1, outputs: int = 1) -> tuple[dict, list]:
    """A file, and its layers: weights over input and h, bias, h, c; then the head's."""
    layers = [
        (
            numbers(4 * hidden, ((n and hidden) or inputs) + hidden, seed=n),
            *(numbers(k * hidden, seed=k) for k in (4, 1, 2)),
        )
        for n in range(count)
    ]
    layers = [(w, b, h, c[:hidden]) for w, b, h, c in layers]
    head = [numbers(outputs, hidden, seed=8), numbers(outputs, seed=9)]
    flat = np.concatenate([a.reshape(-1) for a in [*(a for layer in layers for a in layer), *head]])
    config = {"input_size": inputs, "hidden_size": hidden, "num_layers": count}
    config |= {"in_channels": inputs, "out_channels": outputs} if outputs > 1 else {}
    return {"version": "0.5.4", "architecture": "LSTM", "config": config, "weights": flat}, [*layers, head]


@pytest.mark.parametrize(("inputs", "count", "outputs"), [(1, 1, 1), (1, 2, 1), (2, 3, 1), (1, 2, 4), (3, 1, 2)])
def test_nam(inputs, count, outputs) -> None:
    file, (*layers, (head, bias)) = nam(inputs, 5, count, outputs)
    x = numbers(T, B, inputs)
    y: np.ndarray = x
    for n, (w, b, h, c) in enumerate(layers):
        width = 5 if n else inputs
        h0, c0 = np.tile(h, (B, 1)), np.tile(c, (B, 1))
        y = reference.lstm(y, w[:, :width], w[:, width:], b, 0 * b, h0=h0, c0=c0)[0]
    expected = y @ head.T.astype("f8") + bias
    model = gatestep.load(written(file))
    x, expected = x[..., 0] if inputs == 1 else x, expected[..., 0] if outputs == 1 else expected
    np.testing.assert_allclose(model(x.swapaxes(0, 1)).swapaxes(0, 1), expected, atol=1e-5)
    np.testing.assert_allclose(streamed(model, x), expected, atol=1e-5)


@pytest.mark.parametrize("architecture", ["WaveNet", "ConvNet", "Linear", "SlimmableContainer"])
def test_other_architectures_of_nam_are_refused(architecture) -> None:
    file = nam()[0] | {"architecture": architecture}
    with pytest.raises(UnsupportedModelError, match=f"architecture='{architecture}'.*LSTM are read"):
        gatestep.load(written(file))


@pytest.mark.parametrize(
    "change",
    [
        {"weights": [1.0, 2.0]},
        {"weights": [[1.0] * 88]},
        {"weights": []},
        {"config": {"input_size": 1, "hidden_size": 4, "num_layers": 1}},
        {"config": {"input_size": 1, "hidden_size": 3, "num_layers": 2**40}},
        {"config": {"input_size": 1, "hidden_size": 2**19, "num_layers": 1000}},
        {"config": {"input_size": 1, "hidden_size": 3.0, "num_layers": 1}},
        {"config": {"input_size": True, "hidden_size": 3, "num_layers": 1}},
        {"config": {"input_size": 1, "hidden_size": -3, "num_layers": 1}},
        {"config": {"input_size": 1, "num_layers": 1}},
        {"config": {}},
    ],
)
def test_nam_that_contradicts_itself(change) -> None:
    with pytest.raises(ModelFormatError):
        gatestep.load(written(nam()[0] | change))


# RTNeural


def keras_layer(kind: str, size: int, *weights: np.ndarray, activation: str = "") -> dict:
    return {"type": kind, "activation": activation, "shape": [None, None, size], "weights": list(weights)}


def rtneural(*layers: dict, width: int = 1, **more) -> bytes:
    return written({"in_shape": [None, None, width], "layers": list(layers), **more})


def gates(array: np.ndarray, order: list[int]) -> np.ndarray:
    """Columns of Keras in another order of gates, as rows."""
    return np.concatenate([np.split(array, len(order), axis=-1)[k] for k in order], axis=-1).T


def test_rtneural_gru() -> None:
    w0, b0 = numbers(2, 4), numbers(4)
    k, r, b = numbers(4, 15, seed=1), numbers(5, 15, seed=2), numbers(2, 15, seed=3)
    w1 = numbers(5, 3, seed=4)
    data = rtneural(
        keras_layer("time-distributed-dense", 4, w0, b0, activation="tanh"),
        keras_layer("gru", 5, k, r, b, activation="tanh"),
        keras_layer("dense", 3, w1, activation=""),
        keras_layer("activation", 3, activation="sigmoid"),
        width=2,
    )
    x = numbers(T, B, 2)
    y = np.tanh(x @ w0 + b0)
    rzn = [1, 0, 2]
    y = reference.gru(y, gates(k, rzn), gates(r, rzn), gates(b[0], rzn), gates(b[1], rzn), linear_before_reset=True)[0]
    expected = 1 / (1 + np.exp(-(y @ w1)))
    model = gatestep.load(data)
    np.testing.assert_allclose(model(x.swapaxes(0, 1)).swapaxes(0, 1), expected, atol=1e-5)
    np.testing.assert_allclose(streamed(model, x), expected, atol=1e-5)


@pytest.mark.parametrize("skip", [0, 1])
def test_rtneural_lstm(skip) -> None:
    k, r, b = numbers(1, 20, seed=1), numbers(5, 20, seed=2), numbers(20, seed=3)
    w, c = numbers(5, 1, seed=4), numbers(1, seed=5)
    layers = [keras_layer("lstm", 5, k, r, b), keras_layer("dense", 1, w, c)]
    x = numbers(T, B, 1)
    expected = reference.lstm(x, k.T, r.T, b, 0 * b)[0] @ w + c + skip * x
    model = gatestep.load(rtneural(*layers, in_skip=skip, in_gain=0.0))
    np.testing.assert_allclose(streamed(model, x), expected, atol=1e-5)


LSTM = keras_layer("lstm", 2, numbers(1, 8), numbers(2, 8), numbers(8))


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (rtneural(LSTM, keras_layer("conv1d", 2, numbers(3, 2, 2), numbers(2))), "layer 1 'conv1d'"),
        (rtneural(keras_layer("batchnorm", 1, numbers(1))), "'batchnorm'"),
        (rtneural(LSTM | {"activation": "sigmoid"}), "activation='sigmoid'"),
        (rtneural(LSTM, keras_layer("activation", 2, activation="softplus")), "activation='softplus'"),
        (rtneural(LSTM | {"activation": ["tanh"]}), "activation="),
        (rtneural(LSTM, in_gain=-3.0), "in_gain=-3.0"),
        (rtneural(LSTM, in_skip=1), "skip=1|1 of 1 inputs"),
    ],
)
def test_what_rtneural_has_and_we_do_not(data, match) -> None:
    if match.startswith("skip"):
        assert gatestep.load(data)  # one input added to each of two outputs
        return
    with pytest.raises(UnsupportedModelError, match=match):
        gatestep.load(data)


@pytest.mark.parametrize(
    "data",
    [
        rtneural(),
        rtneural(LSTM | {"shape": [None, None, 3]}),
        rtneural(LSTM | {"shape": [None, None, 2**40]}),
        rtneural(LSTM | {"shape": []}),
        rtneural(LSTM | {"shape": 2}),
        rtneural(LSTM | {"weights": LSTM["weights"][:2]}),
        rtneural(LSTM | {"weights": [*LSTM["weights"][:2], numbers(2, 8)]}),
        rtneural(LSTM | {"weights": [numbers(1, 8), numbers(2, 9), numbers(8)]}),
        rtneural(LSTM | {"weights": [numbers(1, 7), numbers(2, 7), numbers(7)]}),
        rtneural(LSTM | {"weights": [numbers(8), numbers(2, 8), numbers(8)]}),
        rtneural(LSTM | {"weights": {}}),
        rtneural(LSTM, width=2),
        rtneural(LSTM, width=0),
        rtneural(LSTM, keras_layer("activation", 3, activation="tanh"), keras_layer("dense", 1, numbers(3, 1))),
        rtneural(LSTM, LSTM),
        rtneural(keras_layer("gru", 2, numbers(1, 6), numbers(2, 6), numbers(6))),
        rtneural(keras_layer("dense", 2, numbers(1, 2), numbers(3))),
        written({"in_shape": [1], "layers": [3]}),
        written({"in_shape": [], "layers": [LSTM]}),
    ],
)
def test_rtneural_that_contradicts_itself(data) -> None:
    with pytest.raises(ModelFormatError):
        gatestep.load(data)


# Automated-GuitarAmpModelling and Proteus


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize(
    ("inputs", "outputs", "skip", "bias", "count"),
    [(1, 1, 1, True, 1), (1, 1, 0, False, 2), (3, 1, 1, True, 1), (3, 2, 2, True, 1), (2, 3, 1, False, 1)],
)
def test_guitar(kind, inputs, outputs, skip, bias, count) -> None:
    torch = pytest.importorskip("torch")
    rec, lin = getattr(torch.nn, kind)(inputs, 5, count), torch.nn.Linear(5, outputs, bias)
    state = {f"{name}.{key}": a for name, m in (("rec", rec), ("lin", lin)) for key, a in m.state_dict().items()}
    model_data = {"model": "SimpleRNN", "input_size": inputs, "skip": skip, "output_size": outputs, "unit_type": kind}
    model_data |= {"num_layers": count, "hidden_size": 5, "bias_fl": bias}
    model = gatestep.load(written({"model_data": model_data, "state_dict": state}))
    x = numbers(T, B, inputs)
    with torch.no_grad():
        expected = lin(rec(torch.from_numpy(x))[0]).numpy() + (x[:, :, :skip] if skip else 0)
    np.testing.assert_allclose(model(x), expected, atol=1e-5)
    np.testing.assert_allclose(streamed(model, x), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"model": "GatedConvNet"}, UnsupportedModelError, "model='GatedConvNet'"),
        ({"unit_type": "QRNN"}, UnsupportedModelError, "unit_type='QRNN'"),
        ({"skip": 2}, None, ""),
        ({"skip": -1}, ModelFormatError, "'skip'"),
        ({"hidden_size": 3}, ModelFormatError, "shape"),
        ({"num_layers": 10**6}, ModelFormatError, "'num_layers'"),
        ({"num_layers": 2}, ModelFormatError, "no weight"),
        ({"output_size": 10**6}, UnsupportedModelError, "skip=1"),
    ],
)
def test_guitar_that_is_refused(change, error, match) -> None:
    model_data = {"model": "SimpleRNN", "input_size": 1, "skip": 1, "output_size": 1, "unit_type": "GRU"}
    model_data |= {"num_layers": 1, "hidden_size": 2, "bias_fl": True}
    spec = nn.Sequential({"rec": nn.GRU(1, 2), "lin": nn.Linear(2, 1)})
    state = {f"{name}{key}": numbers(*shape) for name, s in spec.children() for key, shape in s.parameters()}
    data = written({"model_data": model_data | change, "state_dict": state})
    if error is None:
        assert gatestep.load(data)
        return
    with pytest.raises(error, match=match):
        gatestep.load(data)


# A state_dict


@shared
@pytest.mark.parametrize(("kind", "layer"), [("lstm", nn.LSTM), ("gru", nn.GRU)])
def test_state_dicts_of_the_shared_cases(kind, layer) -> None:
    path = CASES / "real" / "rtneural" / f"{kind}_torch.json"
    with np.load(path.with_suffix(".npz")) as data:
        x, expected = data["in.x"], data["out.y"]
    spec = nn.Sequential({kind: layer(1, 8), f"{kind}2": layer(8, 8, 3), "dense": nn.Linear(8, 1)})
    model = gatestep.load(path, spec=spec)
    np.testing.assert_allclose(model.run(x), expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(UnsupportedModelError, match="these weights would fit: spec="):
        gatestep.load(path)


def test_state_dicts() -> None:
    weights = {key: numbers(*shape) for key, shape in nn.GRU(3, 2).parameters()}
    x = numbers(T, B, 3)
    expected = gatestep.load(weights, spec=nn.GRU(3, 2))(x)[0]
    for value, more in (
        (weights, {}),
        ({"state_dict": weights, "epoch": 3, "name": "x"}, {}),
        ({"nets": {"a": weights, "b": {}}}, {"state_dict": "nets.a"}),
        (weights | {"note": "text"}, {"spec": nn.GRU(3, 2)}),
    ):
        for blank in (b"", b"\n  ", b"\xef\xbb\xbf"):
            assert is_weights(blank + written(value))
            np.testing.assert_array_equal(gatestep.load(blank + written(value), **more)(x)[0], expected)
    with pytest.raises(UnsupportedModelError, match=r"state_dict='nets\.c'"):
        gatestep.load(written({"nets": {"a": weights}}), state_dict="nets.c")


# Made to harm


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"{}",
        b'{"a": 1}',
        b'{"a": "text"}',
        b'{"a": []}',
        b'{"a": [[1, 2], [3]]}',
        b'{"a": [[1, 2], 3]}',
        b'{"a": [1, [2]]}',
        b'{"a": [true]}',
        b'{"a": [null]}',
        b'{"a": ["1"]}',
        b'{"a": [[[[[[1]]]]]]}',
        b'{"a": ' + b"[" * 100_000,
        b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"a":' * 100_000,
        b'{"a": [' + b"9" * 1_000_000 + b"]}",
        b'{"a": [1' + b"0" * 1_000_000 + b"]}",
        b'{"a": [1e' + b"9" * 100_000 + b"]}",
        b'{"a": \xff}',
        b'{"a": [' + b"[]," * 100_000 + b"[]]}",
        b'{"architecture": "' + b"x" * 1_000_000 + b'", "config": {}, "weights": []}',
    ],
)
def test_json_made_to_harm(data) -> None:
    start = time.process_time()
    with pytest.raises(GatestepError) as caught:
        gatestep.load(data)
    assert time.process_time() - start < 5
    assert len(str(caught.value)) < 1500


def test_a_file_too_large() -> None:
    with pytest.raises(UnsupportedModelError, match="largest that is read"):
        read_json(b"{" + bytes(1 << 25))
    with pytest.raises(ModelFormatError, match="lists, objects and names"):
        read_json(b'{"a": [' + b"[]," * (1 << 20) + b"[]]}")


def test_mutations() -> None:
    seed = random.Random(3)
    guitar = {"model": "SimpleRNN", "input_size": 1, "skip": 1, "output_size": 1, "unit_type": "GRU", "hidden_size": 2}
    state = {key: numbers(*shape).round(2) for key, shape in nn.GRU(1, 2).parameters()}
    short = {**nam(1, 1)[0], "weights": [0.5] * 18}
    for sound in (written(short), rtneural(LSTM), written({"model_data": guitar, "state_dict": state})):
        for _ in range(700):
            mutated = bytearray(sound)
            for _ in range(seed.randint(1, 3)):
                position = seed.randrange(len(mutated))
                if seed.random() < 0.5:
                    mutated[position : position + seed.randint(0, 4)] = seed.choice(
                        [b"", b"9", b"[", b"]", b"-", b"null", b'"']
                    )
                else:
                    mutated[position] = seed.choice(b'0123456789[]{}",.-e \x00\xff')
            try:
                gatestep.load(bytes(mutated))
            except GatestepError:
                continue
