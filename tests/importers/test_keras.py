"""Files laid out as Keras writes them (2's `.h5`, 3's `.keras`), made by hand, against our float64 oracle."""

from __future__ import annotations

import io
import json
import random
import sys
import zipfile

import numpy as np
import pytest
from gatestep.importers import hdf5
from gatestep.importers.kinds import is_weights
from gatestep.importers.weights import read_weights
from gatestep.kernels import reference

import gatestep

h5py = pytest.importorskip("h5py")
T, B = 7, 3
RZN = [1, 0, 2]


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("f4") / 2


class Layer:
    """One layer: its class and configuration, where its weights lie in either kind of file, and what they are."""

    def __init__(self, kind: str, name: str, *weights: np.ndarray, places: tuple = ("",), **config) -> None:
        self.kind, self.name, self.weights, self.places = kind, name, weights, places
        self.config = {"name": name, "trainable": True, "dtype": "float32", **config}

    @property
    def json(self) -> dict:
        return {"class_name": self.kind, "config": self.config}


RECURRENT = {"activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True, "return_sequences": True}
RECURRENT |= {"return_state": False, "go_backwards": False, "stateful": False, "unroll": False, "dropout": 0.1}


def lstm(name: str, inputs: int, units: int, seed: int = 1, **config) -> Layer:
    arrays = [
        numbers(inputs, 4 * units, seed=seed),
        numbers(units, 4 * units, seed=seed + 1),
        numbers(4 * units, seed=seed + 2),
    ]
    arrays = arrays if config.get("use_bias", True) else arrays[:2]
    return Layer("LSTM", name, *arrays, places=("cell",), **(RECURRENT | {"units": units} | config))


def gru(name: str, inputs: int, units: int, after: bool, **config) -> Layer:
    bias = numbers(*((2, 3 * units) if after else (3 * units,)), seed=3)
    arrays = numbers(inputs, 3 * units, seed=1), numbers(units, 3 * units, seed=2), bias
    return Layer(
        "GRU", name, *arrays, places=("cell",), **(RECURRENT | {"units": units, "reset_after": after} | config)
    )


def rnn(name: str, inputs: int, units: int, **config) -> Layer:
    arrays = numbers(inputs, units, seed=1), numbers(units, units, seed=2), numbers(units, seed=3)
    options = {k: v for k, v in RECURRENT.items() if k != "recurrent_activation"}
    return Layer("SimpleRNN", name, *arrays, places=("cell",), **(options | {"units": units} | config))


def dense(name: str, inputs: int, units: int, **config) -> Layer:
    arrays = (numbers(inputs, units, seed=5), numbers(units, seed=6))[: 1 + config.get("use_bias", True)]
    return Layer("Dense", name, *arrays, **({"units": units, "activation": "linear", "use_bias": True} | config))


def functional(layers: list[Layer], version: int) -> dict:
    """The configuration of a chain, as Keras 2 or 3 writes it."""
    entries = []
    for n, layer in enumerate(layers):
        before = layers[n - 1].name if n else None
        if version == 2:
            nodes = [[[before, 0, 0, {}]]] if before else []
        else:
            tensor = {"class_name": "__keras_tensor__", "config": {"shape": [None], "keras_history": [before, 0, 0]}}
            nodes = [{"args": [tensor], "kwargs": {"training": False}}] if before else []
        entries.append(layer.json | {"name": layer.name, "inbound_nodes": nodes})
    last = layers[-1].name
    config = {"name": "m", "layers": entries, "input_layers": [[layers[0].name, 0, 0]], "output_layers": [[last, 0, 0]]}
    return {"class_name": "Functional", "config": config}


def sequential(layers: list[Layer]) -> dict:
    return {"class_name": "Sequential", "config": {"name": "s", "layers": [layer.json for layer in layers]}}


def h5(layers: list[Layer], model: dict | None = None, **options) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.attrs["model_config"] = json.dumps(model or sequential(layers))
        file.attrs["keras_version"] = "2.15.0"
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        for layer in layers:
            inner = group.create_group(layer.name)
            names = [f"{layer.name}/w{n}:0" for n in range(len(layer.weights))]
            inner.attrs["weight_names"] = [name.encode() for name in names]
            for name, array in zip(names, layer.weights, strict=True):
                inner.create_dataset(name, data=array, **options)
    return stream.getvalue()


SNAKE = {"LSTM": "lstm", "GRU": "gru", "SimpleRNN": "simple_rnn", "Dense": "dense", "Bidirectional": "bidirectional"}
SNAKE |= {"TimeDistributed": "time_distributed", "Embedding": "embedding", "LayerNormalization": "layer_normalization"}


def keras(layers: list[Layer], model: dict | None = None, top: str = "layers") -> bytes:
    weights, counts = io.BytesIO(), dict[str, int]()
    with h5py.File(weights, "w") as file:
        for layer in layers:
            snake = SNAKE.get(layer.kind, layer.kind.lower())
            counts[snake] = count = counts.get(snake, -1) + 1
            each = len(layer.weights) // len(layer.places)
            for n, place in enumerate(layer.places):
                group = file.create_group(
                    "/".join(filter(None, [top, f"{snake}_{count}" if count else snake, place, "vars"]))
                )
                for k in range(each):
                    group[str(k)] = layer.weights[n * each + k]
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("metadata.json", json.dumps({"keras_version": "3.4.1"}))
        file.writestr("config.json", json.dumps(model or sequential(layers)))
        file.writestr("model.weights.h5", weights.getvalue())
    return stream.getvalue()


def both(layers: list[Layer]) -> list[bytes]:
    start = [Layer("InputLayer", "in", batch_shape=[None, None, 1]), *layers]
    return [
        h5(layers),
        keras(layers),
        h5(start, functional(start, 2), compression="gzip"),
        keras(start, functional(start, 3)),
        keras(layers, top="_layer_checkpoint_dependencies"),
    ]


def gates(array: np.ndarray, order: list[int]) -> np.ndarray:
    """Columns of Keras in another order of gates, as rows."""
    return np.concatenate([np.split(array, len(order), axis=-1)[k] for k in order], axis=-1).T


def run_lstm(layer: Layer, x: np.ndarray, half: int = 0) -> np.ndarray:
    k, r, *b = layer.weights[3 * half : 3 * half + 3]
    bias = b[0] if b else np.zeros(k.shape[1])
    return reference.lstm(x, k.T, r.T, bias, 0 * bias, reverse=bool(half))[0]


def run_gru(layer: Layer, x: np.ndarray, after: bool) -> np.ndarray:
    k, r, b = layer.weights
    b = b if after else np.stack([b, 0 * b])
    return reference.gru(x, *(gates(a, RZN) for a in (k, r, b[0], b[1])), linear_before_reset=after)[0]


def assert_gives(data: bytes, x: np.ndarray, expected: np.ndarray, streams: bool = True) -> None:
    """A file gives `expected`, time-first, or a last step; and the same as a stream."""
    assert is_weights(data)
    model = gatestep.load(data)
    timed = len(expected) == T
    got = model(x.swapaxes(0, 1))
    np.testing.assert_allclose(got.swapaxes(0, 1) if timed else got, expected, atol=1e-5)
    assert model.streams == streams
    if streams:
        stream = model.stream(B)
        steps = np.stack([stream.step(np.ascontiguousarray(frame)) for frame in x])
        np.testing.assert_allclose(steps if timed else steps[-1], expected, atol=1e-5)


@pytest.mark.parametrize("which", range(5))
@pytest.mark.parametrize("bias", [True, False])
def test_lstm_chain(which, bias) -> None:
    first, second, head = lstm("a", 4, 5, use_bias=bias), lstm("b", 5, 3, 7), dense("c", 3, 2, activation="sigmoid")
    x = numbers(T, B, 4, seed=9)
    y = run_lstm(second, run_lstm(first, x)) @ head.weights[0] + head.weights[1]
    assert_gives(both([first, Layer("Dropout", "d", rate=0.5), second, head])[which], x, 1 / (1 + np.exp(-y)))


@pytest.mark.parametrize("which", range(5))
@pytest.mark.parametrize("after", [True, False])
def test_gru_and_its_last_step(which, after) -> None:
    x = numbers(T, B, 4, seed=9)
    layer, head = gru("g", 4, 5, after, return_sequences=False), dense("c", 5, 2, use_bias=False)
    assert_gives(both([layer, head])[which], x, run_gru(layer, x, after)[-1] @ head.weights[0])


@pytest.mark.parametrize("which", range(5))
def test_simple_rnn_embedding_normalization(which) -> None:
    table, gamma, beta = numbers(9, 4), 1 + numbers(5, seed=7), numbers(5, seed=8)
    layer = rnn("r", 4, 5, activation="relu")
    norm = Layer("LayerNormalization", "n", gamma, beta, axis=[-1], epsilon=0.01, center=True, scale=True)
    embedding = Layer("Embedding", "e", table, input_dim=9, output_dim=4, mask_zero=False)
    data = both([embedding, layer, norm, Layer("Activation", "t", activation="tanh")])[which]
    ids = np.random.default_rng(0).integers(0, 9, (T, B))
    k, r, b = layer.weights
    y = reference.rnn(table[ids], k.T, r.T, b, 0 * b, activations=(("Relu", 0.0, 0.0),))[0]
    y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 0.01) * gamma + beta
    assert_gives(data, ids, np.tanh(y))


def bidirectional(**config) -> Layer:
    forward, backward = lstm("l", 4, 5), lstm("l", 4, 5, 11)
    back = backward.json | {"config": backward.config | {"name": "back", "go_backwards": True}}
    options = {"layer": forward.json, "merge_mode": "concat", "backward_layer": back} | config
    weights = [*forward.weights, *backward.weights]
    return Layer("Bidirectional", "b", *weights, places=("forward_layer/cell", "backward_layer/cell"), **options)


@pytest.mark.parametrize("which", range(5))
def test_bidirectional_and_time_distributed(which) -> None:
    x = numbers(T, B, 4, seed=9)
    layer, inner = bidirectional(), dense("i", 10, 3, activation="softmax")
    wrapped = Layer("TimeDistributed", "td", *inner.weights, places=("layer",), layer=inner.json)
    y = np.concatenate([run_lstm(layer, x, half) for half in (0, 1)], -1) @ inner.weights[0] + inner.weights[1]
    y = np.exp(y) / np.exp(y).sum(-1, keepdims=True)
    assert_gives(both([layer, wrapped])[which], x, y, streams=False)


MERGED = {"concat": None, "sum": np.add, "mul": np.multiply, "ave": lambda a, b: (a + b) / 2}


@pytest.mark.parametrize("mode", MERGED)
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("write", [h5, keras])
def test_where_both_halves_end_and_how_they_merge(mode, whole, write) -> None:
    x = numbers(T, B, 4, seed=9)
    inner = lstm("l", 4, 5, return_sequences=whole).json
    layer = bidirectional(layer=inner, backward_layer=None, merge_mode=mode)
    ahead, back = (run_lstm(layer, x, half) for half in (0, 1))
    ahead, back = (ahead, back) if whole else (ahead[-1], back[0])
    merge = MERGED[mode] or (lambda a, b: np.concatenate([a, b], -1))
    assert_gives(write([layer]), x, merge(ahead, back), streams=False)


def keras_cell(layer: Layer, x: np.ndarray, act, gate) -> np.ndarray:
    """The equations of Keras' documentation, in the order of its columns."""
    kernel, recurrent, *bias = (array.astype("f8") for array in layer.weights)
    h = np.zeros((x.shape[1], recurrent.shape[0]))
    c, steps = h, []
    b, b_h = (bias[0] if bias else 0), 0.0
    if np.ndim(b) == 2:
        b, b_h = b
    for frame in x.astype("f8"):
        given = frame @ kernel + b
        if layer.kind == "LSTM":
            i, f, g, o = np.split(given + h @ recurrent, 4, -1)
            c = gate(f) * c + gate(i) * act(g)
            h = gate(o) * act(c)
        elif layer.kind == "GRU":
            x_z, x_r, x_h = np.split(given, 3, -1)
            r_z, r_r, r_h = np.split(h @ recurrent + b_h, 3, -1)
            z, r = gate(x_z + r_z), gate(x_r + r_r)
            inner = r * r_h if layer.config["reset_after"] else (r * h) @ np.split(recurrent, 3, -1)[2]
            h = z * h + (1 - z) * act(x_h + inner)
        else:
            h = act(given + h @ recurrent)
        steps.append(h)
    return np.stack(steps)


FUNCTIONS = {
    "linear": lambda x: x,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "softsign": lambda x: x / (1 + abs(x)),
}
#: What the writers call hard_sigmoid: `h5` is Keras 2, `keras` is Keras 3.
HARD = {h5: lambda x: np.clip(0.2 * x + 0.5, 0, 1), keras: lambda x: np.clip(x / 6 + 0.5, 0, 1)}


@pytest.mark.parametrize("write", [h5, keras])
@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid", "softsign"])
@pytest.mark.parametrize("act", [*FUNCTIONS, "hard_sigmoid"])
def test_activations_inside(write, gate, act) -> None:
    x = numbers(T, B, 4, seed=9)
    functions = FUNCTIONS | {"hard_sigmoid": HARD[write]}
    options = {"activation": act, "recurrent_activation": gate}
    cells = [lstm("x", 4, 5, **options), gru("x", 4, 5, True, **options), gru("x", 4, 5, False, **options)]
    for layer in [*cells, rnn("x", 4, 5, activation=act)]:
        assert_gives(write([layer]), x, keras_cell(layer, x, functions[act], functions[gate]))


@pytest.mark.parametrize("write", [h5, keras])
def test_hard_sigmoid_of_a_dense_layer(write) -> None:
    x, layer = numbers(T, B, 4, seed=9) * 9, dense("x", 4, 5, activation="hard_sigmoid")
    first = rnn("r", 4, 4, activation="linear")
    y = keras_cell(first, x, FUNCTIONS["linear"], None) @ layer.weights[0] + layer.weights[1]
    assert_gives(write([first, Layer("GaussianNoise", "n", stddev=0.1), layer]), x, HARD[write](y))


def test_hard_sigmoid_of_no_version_is_refused() -> None:
    data = bytearray(h5([lstm("x", 2, 3, recurrent_activation="hard_sigmoid")]))
    at = data.index(b"2.15.0")
    data[at : at + 6] = b"??????"
    with pytest.raises(gatestep.UnsupportedModelError, match="does not say which"):
        gatestep.load(bytes(data))


@pytest.mark.parametrize(
    ("layers", "match"),
    [
        ([Layer("Conv1D", "x", numbers(3, 2, 2))], "Conv1D 'x'"),
        ([Layer("Masking", "x")], "Masking 'x'"),
        ([lstm("x", 2, 3, recurrent_activation="mish")], "LSTM 'x': recurrent_activation='mish'"),
        ([lstm("x", 2, 3, activation="softmax")], "activation='softmax'"),
        ([lstm("x", 2, 3, go_backwards=True)], "go_backwards='True'"),
        ([lstm("x", 2, 3, return_state=True)], "return_state"),
        ([dense("x", 2, 3, activation="mish")], "activation='mish'"),
        ([dense("x", 2, 3, activation={"class_name": "Own"})], "activation="),
        ([Layer("Embedding", "x", numbers(3, 2), mask_zero=True)], "mask_zero='True'"),
        ([bidirectional(merge_mode=None)], "merge_mode='None'"),
        ([bidirectional(backward_layer=gru("l", 4, 5, True).json)], "two different halves"),
        ([Layer("TimeDistributed", "x", layer=lstm("l", 4, 5).json)], "another layer than Dense"),
        ([lstm("x", 2, 3, return_sequences=False), lstm("y", 3, 3)], "follow one another"),
        ([dense("x", 2, 3), dense("y", 4, 3)], "follow one another"),
        ([Layer("LayerNormalization", "x", numbers(3), numbers(3), axis=1)], "axis='1'"),
        ([], "without layers"),
    ],
)
def test_what_is_refused_by_name(layers, match) -> None:
    for data in (h5(layers), keras(layers)):
        with pytest.raises(gatestep.UnsupportedModelError, match=match):
            gatestep.load(data)


def test_what_is_no_chain() -> None:
    layers = [Layer("InputLayer", "in"), lstm("a", 2, 3), dense("b", 3, 1)]
    for version, write in ((2, h5), (3, keras)):
        model = functional(layers, version)
        text = json.dumps(model)
        cut = text.replace('"a", 0, 0', '"in", 0, 0')
        with pytest.raises(gatestep.UnsupportedModelError, match=r"Dense 'b'.*no chain. Export it as ONNX"):
            gatestep.load(write(layers, json.loads(cut)))
        model["config"]["output_layers"] = [["a", 0, 0]]
        with pytest.raises(gatestep.UnsupportedModelError, match="output_layers"):
            gatestep.load(write(layers, model))
        with pytest.raises(gatestep.UnsupportedModelError, match="class_name='Mine'"):
            gatestep.load(write(layers, {"class_name": "Mine", "config": {}}))


def test_weights_alone() -> None:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.attrs["layer_names"] = [b"a"]
    with pytest.raises(gatestep.UnsupportedModelError, match="without the model"):
        read_weights(stream.getvalue())


def test_h5py_is_an_extra(monkeypatch) -> None:
    data = h5([dense("a", 2, 3)])
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(gatestep.MissingExtraError, match=r"gatestep\[keras\]"):
        gatestep.load(data)


# Made to harm


@pytest.mark.parametrize(
    "layers",
    [
        [Layer("LSTM", "x", numbers(2, 12), numbers(3, 12), units=3)],
        [Layer("LSTM", "x", numbers(2, 12), numbers(3, 13), numbers(12), places=("cell",))],
        [Layer("LSTM", "x", numbers(2, 12), numbers(4, 12), numbers(12), places=("cell",))],
        [Layer("LSTM", "x", numbers(0, 12), numbers(3, 12), numbers(12), places=("cell",))],
        [Layer("GRU", "x", numbers(2, 9), numbers(3, 9), numbers(9), places=("cell",), reset_after=True)],
        [Layer("Dense", "x", numbers(3), numbers(3))],
        [Layer("Dense", "x")],
    ],
)
def test_weights_that_contradict(layers) -> None:
    for data in (h5(layers), keras(layers)):
        with pytest.raises(gatestep.ModelFormatError):
            gatestep.load(data)


def test_links_and_sizes(tmp_path) -> None:
    layer = dense("a", 2, 3)
    (tmp_path / "other.h5").write_bytes(h5([layer]))

    def changed(change) -> bytes:
        stream = io.BytesIO(h5([layer]))
        with h5py.File(stream, "r+") as file:
            group = file["model_weights/a/a"]
            del group["w0:0"]
            change(group)
        return stream.getvalue()

    def external(group) -> None:
        group["w0:0"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/model_weights/a/a/w0:0")

    def raw(group) -> None:
        group.create_dataset("w0:0", (2, 3), "f4", external=[(str(tmp_path / "other.h5"), 0, 24)])

    def huge(group) -> None:
        group.create_dataset("w0:0", (1 << 20, 1 << 20), "f4", chunks=(1 << 10, 1 << 10))

    def text(group) -> None:
        group.create_dataset("w0:0", data=b"text")

    for change in (external, raw, huge, text, lambda group: group.create_group("w0:0")):
        with pytest.raises(gatestep.GatestepError):
            gatestep.load(changed(change))


# Each look into HDF5 takes a process: a few dozen are enough to see that nothing else comes out of it than an error.
@pytest.mark.parametrize(("write", "step", "count"), [(h5, 997, 30), (keras, 97, 300)])
def test_truncation_and_mutations(write, step, count) -> None:
    sound = write([lstm("a", 1, 2), dense("b", 2, 1)])
    seed = random.Random(5)
    for end in range(0, len(sound), step):
        with pytest.raises(gatestep.GatestepError):
            gatestep.load(sound[:end])
    for _ in range(count):
        mutated = bytearray(sound)
        for _ in range(seed.randint(1, 6)):
            mutated[seed.randrange(len(mutated))] = seed.randrange(256)
        try:
            gatestep.load(bytes(mutated), spec=None)
        except gatestep.GatestepError:
            continue


def test_circles_of_hard_links() -> None:
    stream = io.BytesIO(h5([dense("a", 2, 3)]))
    with h5py.File(stream, "r+") as file:
        file["model_weights/a/up"] = file["model_weights"]
    with pytest.raises(gatestep.ModelFormatError, match="groups within groups"):
        gatestep.load(stream.getvalue())


def test_the_hdf5_library_comes_to_no_end(tmp_path, monkeypatch) -> None:
    path = tmp_path / "slow.h5"
    path.write_bytes(h5([dense("a", 2, 3)]))
    monkeypatch.setattr(hdf5, "SECONDS", 0.01)
    with pytest.raises(gatestep.ModelFormatError, match=r"slow\.h5.*no end over it in 0\.01 s"):
        gatestep.load(path)


@pytest.mark.parametrize(
    ("script", "match"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"<bytes>: .*crashed over it \(SIGSEGV\)"),
        ("raise SystemExit(99)", r"crashed over it \(exit code 99\)"),
        ("", "left no answer"),
        ("print('x' * 100)", "left no answer"),
        ("import sys; sys.stdout.buffer.write(bytes([2, 0, 0, 0, 0, 0, 0, 0]) + b'[]')", "left no answer"),
    ],
)
def test_the_hdf5_library_crashes(script, match, tmp_path, monkeypatch) -> None:
    path = tmp_path / "child.py"
    path.write_text(script)
    data = h5([dense("a", 2, 3)])
    monkeypatch.setattr(hdf5.child, "__file__", str(path))
    with pytest.raises(gatestep.ModelFormatError, match=match):
        gatestep.load(data)


def test_memory_is_bounded(monkeypatch) -> None:
    pytest.importorskip("resource")
    data = h5([dense("a", 512, 4096)])
    monkeypatch.setattr(hdf5, "MEMORY", -4 * hdf5.MAX_RATIO * len(data))  # the child may not grow at all
    with pytest.raises(gatestep.ModelFormatError, match="out of memory"):
        gatestep.load(data)


@pytest.mark.parametrize(
    "config", [b"[" * 100_000, b"{}", b'{"config": {"layers": [3]}, "class_name": "Sequential"}', b"\xff"]
)
def test_configurations(config) -> None:
    stream = io.BytesIO(keras([dense("a", 2, 3)]))
    out = io.BytesIO()
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.namelist():
            new.writestr(entry, config if entry == "config.json" else old.read(entry))
    with pytest.raises(gatestep.ModelFormatError):
        gatestep.load(out.getvalue())
