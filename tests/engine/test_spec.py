"""Specs: arguments as PyTorch takes them, keys as PyTorch names them, and the graphs that come out."""

from __future__ import annotations

import inspect
import pickle
from collections import OrderedDict

import numpy as np
import pytest
from gatestep.engine.errors import ModelFormatError, UnsupportedModelError
from gatestep.engine.graph import Graph
from gatestep.importers.build import build

from gatestep import nn

LAYERS = [name for name in nn.__all__ if name not in ("Spec", "Residual", "Concat", "Sequential", "Last")]


def weights_of(spec: nn.Spec, prefix: str = "", dtype: str = "f4", seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights under the keys that PyTorch gives them."""
    rng = np.random.default_rng(seed)
    keys = {f"{prefix}{key}": rng.standard_normal(shape).astype(dtype) for key, shape in spec.parameters()}
    for name, child in spec.children():
        keys |= weights_of(child, f"{prefix}{name}", dtype, seed + 1)
    return keys


def graph_of(spec: nn.Spec, **more: np.ndarray) -> Graph:
    return build(spec, weights_of(spec) | more, source="file")


def ports(graph: Graph) -> tuple[dict[str, object], dict[str, object]]:
    return {p.name: p.shape for p in graph.inputs}, {p.name: p.shape for p in graph.outputs}


def assert_sound(graph: Graph) -> None:
    """Every value is made once, before it is used; every output is made."""
    known = {port.name for port in graph.inputs} | graph.constants.keys()
    for node in graph.nodes:
        assert known.issuperset(name for name in node.inputs if name), node.label
        assert known.isdisjoint(node.outputs), node.label
        known.update(node.outputs)
    assert known.issuperset(port.name for port in graph.outputs)
    assert len({port.name for port in [*graph.inputs, *graph.outputs]}) == len(graph.inputs) + len(graph.outputs)


# Arguments


@pytest.mark.parametrize("name", LAYERS)
def test_arguments_are_those_of_torch(name) -> None:
    """Same names, same order, same defaults; what is ours is keyword-only."""
    torch = pytest.importorskip("torch")
    ours = inspect.signature(getattr(nn, name)).parameters
    positional = [p for p in ours.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    theirs = getattr(torch.nn, name)
    if name in ("RNN", "LSTM", "GRU"):  # those take *args; their order is documented
        parameters = inspect.signature(torch.nn.RNNBase).parameters
        expected = [p for p in parameters.values() if p.name not in ("self", "mode", "device", "dtype")]
        assert [p.name for p in positional if p.name != "nonlinearity"] == [
            p.name for p in expected if p.name != "proj_size" or name == "LSTM"
        ]
        if name == "RNN":
            assert positional[3].name == "nonlinearity"
            assert torch.nn.RNN(3, 4, 2, "relu", False).nonlinearity == "relu"
    elif name != "Identity":
        expected = [p for p in inspect.signature(theirs).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        expected = [p for p in expected if p.name not in ("device", "dtype")]
        # The rest of Embedding's arguments concern training, or rescale the weights.
        assert [p.name for p in positional] == [p.name for p in expected][: len(positional)]
        assert len(positional) == (3 if name == "Embedding" else len(expected))
    defaults = {p.name: p.default for p in expected} if name != "Identity" else {}
    for p in positional:
        if p.name in defaults and defaults[p.name] is not p.empty:
            assert p.default == defaults[p.name], p.name


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LSTM(0, 4),
        lambda: nn.LSTM(3, 0),
        lambda: nn.LSTM(3, -4),
        lambda: nn.LSTM(3, 4, 0),
        lambda: nn.LSTM(3, 4, proj_size=4),
        lambda: nn.LSTM(3, 4, proj_size=-1),
        lambda: nn.LSTM(3.0, 4),
        lambda: nn.LSTM(3, "4"),
        lambda: nn.LSTM(3, True),
        lambda: nn.LSTM(3, 4, 1, 1),
        lambda: nn.LSTM(3, 4, dropout="no"),
        lambda: nn.GRU(3, 4, proj_size=2),
        lambda: nn.GRU(3, 4, bidirectional=2),
        lambda: nn.GRU(3, 4, 1, True, False, 0.0, False, False),
        lambda: nn.RNN(3, 4, 1, "sigmoid"),
        lambda: nn.RNN(3, 4, 1, True),
        lambda: nn.RNNCell(3, 4, nonlinearity="softsign"),
        lambda: nn.Linear(3, 0),
        lambda: nn.Linear(3),
        lambda: nn.Embedding(0, 4),
        lambda: nn.LayerNorm((3, 4)),
        lambda: nn.LayerNorm(3, eps="small"),
        lambda: nn.GELU("exact"),
        lambda: nn.Softmax(),
        lambda: nn.Softmax(dim=1),
        lambda: nn.LogSoftmax(0),
        lambda: nn.Softplus(beta=0),
        lambda: nn.Softplus(1.0, 5),
        lambda: nn.LeakyReLU("0.1"),
        lambda: nn.Sequential(),
        lambda: nn.Sequential({}),
        lambda: nn.Sequential(3),
        lambda: nn.Sequential(nn.ReLU),
        lambda: nn.Sequential({"a": nn.ReLU()}, nn.ReLU()),
        lambda: nn.Sequential(nn.LSTM(3, 4), nn.Linear(5, 1)),
        lambda: nn.Sequential(nn.LSTM(3, 4, bidirectional=True), nn.ReLU(), nn.Linear(4, 1)),
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Embedding(3, 4)),
        lambda: nn.Sequential(nn.LSTM(3, 4, prefix="a")),
        lambda: nn.Residual(nn.Linear(3, 4)),
        lambda: nn.Residual(nn.Embedding(3, 4)),
        lambda: nn.Residual(torch_like),
        lambda: nn.Concat(),
        lambda: nn.Concat(nn.Linear(3, 4), nn.Linear(4, 4)),
        lambda: nn.Concat(nn.Linear(3, 4), nn.Embedding(4, 4)),
        lambda: nn.LSTM(3, 4, initial="h"),
        lambda: nn.GRU(3, 4, initial=("h", "c")),
        lambda: nn.RNN(3, 4, initial=3),
        lambda: nn.LSTM(3, 4, initial=("h", None)),
        lambda: nn.Unflatten(2, (-1, 1)),
        lambda: nn.Unflatten(1, (2, 2)),
        lambda: nn.Unflatten(1, 3),
        lambda: nn.Flatten(0),
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Flatten()),
        lambda: nn.Sequential(nn.Linear(3, 1), nn.Last(), nn.Flatten()),
        lambda: nn.Sequential(nn.Linear(3, 1), nn.Flatten(), nn.Tanh()),
        lambda: nn.Sequential(nn.Linear(1, 1), nn.Unflatten(1, (-1, 1))),
        lambda: nn.Sequential(nn.Unflatten(1, (-1, 1)), nn.LSTM(2, 3)),
        lambda: nn.Sequential(nn.Last(), nn.LSTM(3, 4)),
        lambda: nn.Sequential(nn.Last(), nn.Sequential(nn.Tanh(), nn.GRU(3, 4))),
        lambda: nn.Sequential(nn.Last(), nn.Last()),
        lambda: nn.Residual(nn.Last()),
        lambda: nn.Concat(nn.Last(), nn.Identity()),
        lambda: nn.Concat(nn.Flatten(), nn.Flatten()),
    ],
)
def test_constructors_check_their_arguments(make) -> None:
    with pytest.raises((TypeError, ValueError)):
        make()


def torch_like() -> None:
    """Not a layer."""


def test_specs_are_values() -> None:
    spec = nn.Sequential({"rnn": nn.LSTM(3, np.int64(4)), "fc": nn.Residual(nn.Linear(4, 4))}, prefix="m.", states=True)
    assert spec == nn.Sequential(
        OrderedDict(rnn=nn.LSTM(3, 4), fc=nn.Residual(nn.Linear(4, 4))), prefix="m.", states=True
    )
    assert spec != nn.Sequential({"rnn": nn.LSTM(3, 4), "fc": nn.Residual(nn.Linear(4, 4))})
    assert hash(spec) == hash(pickle.loads(pickle.dumps(spec)))
    with pytest.raises(AttributeError):
        spec.prefix = "x"


@pytest.mark.parametrize(
    "spec",
    [
        nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2),
        nn.RNN(3, 4, nonlinearity="relu", prefix="a."),
        nn.GRU(3, 4, reset_after=False, batch_first=True),
        nn.Sequential(nn.Embedding(9, 3), nn.Dropout(), nn.GRU(3, 4), nn.LogSoftmax(-1)),
        nn.Sequential({"a": nn.Linear(3, 3, bias=False)}, prefix="x.", states=True),
        nn.Concat(nn.Identity(), nn.Residual(nn.GELU("tanh"))),
        nn.Concat({"a": nn.Softplus(2.0), "b": nn.LayerNorm(3, bias=False)}),
        nn.Sequential(nn.Unflatten(1, [-1, 1]), nn.LSTM(1, 3, initial=["h", "c"]), nn.Linear(3, 1), nn.Flatten()),
        nn.Sequential(nn.GRU(1, 3, initial="h"), nn.Last()),
    ],
)
def test_repr_is_how_it_is_written(spec) -> None:
    assert eval(repr(spec), vars(nn)) == spec


def test_widths() -> None:
    assert nn.Sequential(nn.ReLU(), nn.Linear(3, 4)).width_in == 3
    assert nn.Sequential(nn.Concat(nn.Identity(), nn.Tanh()), nn.Linear(6, 4)).width_in is None
    assert nn.Concat(nn.Identity(), nn.GRU(3, 5, bidirectional=True)).width_out(3) == 13
    assert nn.Concat(nn.Identity(), nn.ReLU()).width_out(None) is None
    assert nn.Sequential(nn.Embedding(9, 3), nn.LSTM(3, 6, proj_size=2)).width_out(None) == 2
    assert nn.Concat(nn.Embedding(9, 3), nn.Embedding(9, 4)).width_out(None) == 7


# Keys


MODULES = [
    ("LSTM", (3, 5, 2), {"bidirectional": True}),
    ("LSTM", (3, 5, 2), {"bidirectional": True, "proj_size": 2}),
    ("LSTM", (3, 5), {"bias": False}),
    ("GRU", (3, 5, 3), {}),
    ("RNN", (3, 5), {"bidirectional": True, "bias": False}),
    ("LSTMCell", (3, 5), {}),
    ("GRUCell", (3, 5, False), {}),
    ("RNNCell", (3, 5), {}),
    ("Linear", (3, 5), {}),
    ("Linear", (3, 5, False), {}),
    ("Embedding", (3, 5), {"padding_idx": 0}),
    ("LayerNorm", (5,), {}),
    ("LayerNorm", ((5,),), {"bias": False}),
    ("LayerNorm", (5, 1e-3, False), {}),
]


@pytest.mark.parametrize(("name", "args", "options"), MODULES)
def test_keys_are_those_of_torch(name, args, options) -> None:
    torch = pytest.importorskip("torch")
    state = getattr(torch.nn, name)(*args, **options).state_dict()
    spec = getattr(nn, name)(*args, **options)
    assert list(spec.parameters()) == [(key, tuple(tensor.shape)) for key, tensor in state.items()]


def test_keys_of_compositions() -> None:
    spec = nn.Sequential(
        {
            "pre": nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4)),
            "enc.rnn": nn.Residual(nn.GRU(4, 4)),
            "heads": nn.Concat({"a": nn.Linear(4, 1), "": nn.Sequential({"b": nn.Linear(4, 2)})}),
        }
    )
    keys = weights_of(spec)
    assert list(keys)[:4] == ["pre.0.weight", "pre.0.bias", "pre.2.weight", "pre.2.bias"]
    assert {"enc.rnn.weight_ih_l0", "heads.a.weight", "heads.b.weight"} <= keys.keys()
    assert_sound(graph_of(spec))


SIMPLE = nn.Sequential({"rnn": nn.GRU(3, 4), "fc": nn.Linear(4, 2)})


@pytest.mark.parametrize("prefix", ["", "module.", "model.net.", "state/"])
def test_prefixes_are_found(prefix) -> None:
    graph = build(SIMPLE, weights_of(SIMPLE, prefix), source="file")
    np.testing.assert_array_equal(graph.constants[graph.nodes[0].inputs[1]][0], weights_of(SIMPLE)["rnn.weight_ih_l0"])


@pytest.mark.parametrize("spelled", ["b", "b."])
def test_prefixes_are_chosen(spelled) -> None:
    both = weights_of(SIMPLE, "a.") | weights_of(SIMPLE, "b.", seed=5)
    with pytest.raises(UnsupportedModelError, match=r"'a\.', 'b\.'.*prefix='a\.'"):
        build(SIMPLE, both, source="file")
    chosen = nn.Sequential(dict(SIMPLE.layers), prefix=spelled)
    for graph in (build(chosen, both, source="file"), build(SIMPLE, both, source="file", prefix=spelled)):
        np.testing.assert_array_equal(graph.constants[graph.nodes[0].inputs[1]][0], both["b.rnn.weight_ih_l0"])
    # What fits in shape is found among what only has the same names.
    other = nn.Sequential({"rnn": nn.GRU(7, 4), "fc": nn.Linear(4, 2)})
    mixed = weights_of(other, "a.") | weights_of(SIMPLE, "b.")
    with pytest.raises(ModelFormatError, match=r"does not use: 'a\.rnn"):
        build(SIMPLE, mixed, source="file")


def test_a_part_of_a_file() -> None:
    weights = weights_of(SIMPLE, "model.") | {"model.extra": np.ones(3, "f4"), "other": np.ones(2, "f4")}
    graph = build(nn.GRU(3, 4, prefix="model.rnn"), weights, source="file")
    assert [node.op for node in graph.nodes] == ["GRU", "Squeeze"]
    # Within the prefix everything must be used.
    with pytest.raises(ModelFormatError, match=r"does not use: 'model\.extra'"):
        build(SIMPLE, weights, source="file", prefix="model")


def test_errors_name_the_key() -> None:
    weights = weights_of(SIMPLE)
    renamed = {key.replace("fc", "head"): array for key, array in weights.items()}
    with pytest.raises(
        ModelFormatError, match=r"file: no weight 'fc\.weight' of shape \(2, 4\) \(and 1 more.*'head\.weight' \(2, 4\)"
    ):
        build(SIMPLE, renamed, source="file")
    with pytest.raises(ModelFormatError, match=r"'fc\.weight' has the shape \(4, 2\), the spec makes it \(2, 4\)"):
        build(SIMPLE, weights | {"fc.weight": np.ones((4, 2), "f4")}, source="file")
    with pytest.raises(ModelFormatError, match=r"'fc\.weight' holds int8"):
        build(SIMPLE, weights | {"fc.weight": np.ones((2, 4), "i1")}, source="file")
    with pytest.raises(ModelFormatError, match=r"does not use: 'bn\.weight' \(2,\)"):
        build(SIMPLE, weights | {"bn.weight": np.ones(2, "f4")}, source="file")
    with pytest.raises(ModelFormatError, match=r"does not use: 'k0' .*'k7' \(2,\) and 12 more"):
        build(SIMPLE, weights | {f"k{n}": np.ones(2, "f4") for n in range(20)}, source="file")
    with pytest.raises(ModelFormatError, match="no weight"):
        build(SIMPLE, {}, source="file")
    assert build(SIMPLE, weights | {"bn.num_batches_tracked": np.ones(())}, source="file")


# Graphs


def test_a_sequential() -> None:
    graph = graph_of(nn.Sequential(nn.LSTM(3, 4, 2), nn.Tanh(), nn.Linear(4, 2)))
    assert_sound(graph)
    assert ports(graph) == ({"input": ("T", "B", 3)}, {"output": ("T", "B", 2)})
    assert [node.op for node in graph.nodes] == ["LSTM", "Squeeze", "LSTM", "Squeeze", "Tanh", "MatMul", "Add"]
    assert [node.name for node in graph.nodes if node.op == "LSTM"] == ["0.l0", "0.l1"]
    assert graph.inputs[0].dtype == np.float32


def test_batch_first() -> None:
    graph = graph_of(nn.Sequential(nn.Linear(3, 3), nn.GRU(3, 4, batch_first=True), nn.GRUCell(4, 2)))
    assert_sound(graph)
    assert ports(graph) == ({"input": ("B", "T", 3)}, {"output": ("B", "T", 2)})
    assert (graph.nodes[0].op, graph.nodes[-1].op) == ("Transpose", "Transpose")
    with pytest.raises(UnsupportedModelError, match="batch_first"):
        graph_of(nn.Sequential(nn.GRU(3, 4, batch_first=True), nn.GRU(4, 4)))


def test_ids() -> None:
    graph = graph_of(nn.Sequential(nn.Embedding(9, 3), nn.GRU(3, 4, batch_first=True)))
    assert_sound(graph)
    assert ports(graph) == ({"input": ("B", "T")}, {"output": ("B", "T", 4)})
    assert graph.inputs[0].dtype == np.int64
    assert graph.outputs[0].dtype == np.float32


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_recurrent_layer_alone_has_states(batch_first) -> None:
    graph = graph_of(nn.LSTM(3, 5, 2, bidirectional=True, proj_size=2, batch_first=batch_first))
    assert_sound(graph)
    axes = ("B", "T") if batch_first else ("T", "B")
    assert ports(graph) == (
        {"input": (*axes, 3), "h0": (4, "B", 2), "c0": (4, "B", 5)},
        {"output": (*axes, 4), "hn": (4, "B", 2), "cn": (4, "B", 5)},
    )
    assert [port.optional for port in graph.inputs] == [False, True, True]
    assert graph.defaults == {"h0": None, "c0": None}
    nodes = [node for node in graph.nodes if node.op == "LSTM"]
    shapes = [[graph.constants[name].shape for name in (*node.inputs[1:4], node.inputs[8])] for node in nodes]
    assert shapes == [
        [(2, 20, 3), (2, 20, 2), (2, 40), (2, 2, 5)],
        [(2, 20, 4), (2, 20, 2), (2, 40), (2, 2, 5)],
    ]
    assert nodes[0].attrs == {
        "hidden_size": 5,
        "direction": "bidirectional",
        "gates": "ifco",
        "activations": (("Sigmoid", 0.0, 0.0), ("Tanh", 0.0, 0.0), ("Tanh", 0.0, 0.0)) * 2,
        "clip": None,
        "coupled": "",
    }


def test_a_cell_alone_has_states_without_layers() -> None:
    graph = graph_of(nn.LSTMCell(3, 5))
    assert_sound(graph)
    assert ports(graph) == (
        {"input": ("T", "B", 3), "h0": ("B", 5), "c0": ("B", 5)},
        {"output": ("T", "B", 5), "hn": ("B", 5), "cn": ("B", 5)},
    )


def test_states_of_a_sequential() -> None:
    spec = nn.Sequential({"a": nn.GRU(3, 4, 2), "b": nn.Sequential(nn.LSTM(4, 5))}, states=True)
    graph = graph_of(spec)
    assert_sound(graph)
    assert ports(graph) == (
        {"input": ("T", "B", 3), "a.h0": (2, "B", 4), "b.0.h0": (1, "B", 5), "b.0.c0": (1, "B", 5)},
        {"output": ("T", "B", 5), "a.hn": (2, "B", 4), "b.0.hn": (1, "B", 5), "b.0.cn": (1, "B", 5)},
    )


def test_a_last_step() -> None:
    for batch_first in (False, True):
        graph = graph_of(nn.Sequential(nn.GRU(3, 4, batch_first=batch_first), nn.Last(), nn.Linear(4, 2)))
        assert_sound(graph)
        axes = ("B", "T") if batch_first else ("T", "B")
        assert ports(graph) == ({"input": (*axes, 3)}, {"output": ("B", 2)})


def test_numbers_without_a_feature_axis() -> None:
    body = nn.Sequential(nn.Unflatten(1, (-1, 1)), nn.Residual(nn.GRU(1, 1, batch_first=True)), nn.Flatten())
    graph = graph_of(body)
    assert_sound(graph)
    assert ports(graph) == ({"input": ("B", "T")}, {"output": ("B", "T")})
    assert graph.inputs[0].dtype == np.float32


def test_keys_of_initial_states_are_those_of_the_file() -> None:
    spec = nn.Sequential({"rnn": nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2, initial=("h", "learned.c"))})
    learned = {"m.h": np.ones((4, 2), "f4"), "m.learned.c": np.ones((4, 4), "f4")}
    weights = weights_of(spec, "m.") | learned
    graph = build(spec, weights, source="file")
    assert_sound(graph)
    assert ports(graph) == ({"input": ("T", "B", 3)}, {"output": ("T", "B", 4)})
    assert build(spec, weights | {"m.h": np.ones((4, 1, 2), "f4")}, source="file")
    with pytest.raises(ModelFormatError, match=r"'m\.h' has the shape \(4, 4\), the spec makes it \(4, 2\)"):
        build(spec, weights | {"m.h": np.ones((4, 4), "f4")}, source="file")
    del weights["m.learned.c"]
    with pytest.raises(ModelFormatError, match=r"no weight 'm\.learned\.c'"):
        build(spec, weights, source="file", prefix="m")


def test_gru_and_rnn_attributes() -> None:
    (gru, *_) = graph_of(nn.GRU(3, 4, reset_after=False, bias=False)).nodes
    assert gru.attrs["gates"] == "rzh"
    assert gru.attrs["linear_before_reset"] is False
    assert gru.inputs[3] == ""
    (rnn, *_) = graph_of(nn.RNN(3, 4, nonlinearity="relu")).nodes
    assert rnn.attrs["activations"] == (("Relu", 0.0, 0.0),)
    assert rnn.attrs["gates"] == "h"


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [(["f2"], "f4"), (["f4"], "f4"), (["f8"], "f8"), (["f4", "f8"], "f8"), (["f2", "f4"], "f4")],
)
def test_dtypes(dtypes, expected) -> None:
    weights = {key: a.astype(dtypes[n % len(dtypes)]) for n, (key, a) in enumerate(weights_of(SIMPLE).items())}
    graph = build(SIMPLE, weights, source="file")
    assert {port.dtype for port in [*graph.inputs, *graph.outputs]} == {np.dtype(expected)}
    assert {a.dtype for a in graph.constants.values() if a.dtype.kind == "f"} == {np.dtype(expected)}


def test_nothing_to_compute() -> None:
    with pytest.raises(UnsupportedModelError, match="computes anything"):
        build(nn.Sequential(nn.Identity(), nn.Dropout()), {}, source="file")


def test_every_layer_makes_a_graph() -> None:
    needed = {"LSTM": (4, 4), "GRU": (4, 4), "RNN": (4, 4), "LSTMCell": (4, 4), "GRUCell": (4, 4), "RNNCell": (4, 4)}
    needed |= {"Linear": (4, 4), "LayerNorm": (4,), "Softmax": (-1,), "LogSoftmax": (-1,)}
    for name in LAYERS:
        if name not in ("Embedding", "Unflatten", "Flatten"):
            spec = nn.Sequential(nn.Linear(4, 4), getattr(nn, name)(*needed.get(name, ())), nn.Linear(4, 4))
            assert_sound(graph_of(spec))
