"""Weight files told apart by content, and specs inferred from them."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from gatestep.engine.errors import GatestepError, ModelFormatError, UnsupportedModelError
from gatestep.importers.infer import infer
from gatestep.importers.kinds import is_weights
from gatestep.importers.weights import read_weights, to_graph

from gatestep import nn


def zeros(spec: nn.Spec, prefix: str = "") -> dict[str, np.ndarray]:
    """Weights for a layer, all zero."""
    return {f"{prefix}{key}": np.zeros(shape, "f4") for key, shape in spec.parameters()}


def npz(compressed: bool = False, **arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **arrays)
    return stream.getvalue()


# Kinds of files


@pytest.mark.parametrize("compressed", [False, True])
def test_npz(compressed, tmp_path) -> None:
    arrays = {
        "a.w": np.arange(6.0).reshape(2, 3),
        "f": np.asfortranarray(np.ones((3, 4), "f4")),
        "b": np.ones(2, ">f4"),
    }
    path = tmp_path / "weights.pt"  # the name does not matter
    path.write_bytes(npz(compressed, **arrays))
    got, name = read_weights(path)
    assert name == str(path)
    assert got.keys() == arrays.keys()
    for key, array in arrays.items():
        np.testing.assert_array_equal(got[key], array)
        assert got[key].dtype.isnative


def test_npz_with_objects_is_refused() -> None:
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=True, w=np.array([{}], object))
    with pytest.raises(UnsupportedModelError, match="object"):
        read_weights(stream.getvalue())


def npy(header: bytes, data: bytes = b"") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("w.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data)
    return stream.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}\n", bytes(8)),
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}\n", bytes(8)),
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}\n", bytes(8)),
        npy(b"{'descr': '<f4', 'fortran_order': False}\n", bytes(8)),
        npy(b"{'descr': __import__('os').abort(), 'fortran_order': False, 'shape': (2,)}\n", bytes(8)),
        npy(b"(" * 9000, bytes(8)),
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (67108864,)}\n", bytes(1 << 28)),
        npz(w=np.ones(300))[:-30],
        npz(w=np.ones(300)).replace(bytes(np.ones(2)), bytes(np.array([2.0, 1.0])), 1),
    ],
)
def test_npz_made_to_harm(data) -> None:
    with pytest.raises(GatestepError):
        read_weights(data)


def test_mappings() -> None:
    weights = {"w": np.ones((2, 3), "f4"), "l": [1.0, 2.0]}
    got, name = read_weights(weights)
    assert name == "<weights>"
    np.testing.assert_array_equal(got["l"], [1.0, 2.0])
    with pytest.raises(UnsupportedModelError, match="'bad'"):
        read_weights({"bad": "text"})


def test_mappings_of_tensors() -> None:
    torch = pytest.importorskip("torch")
    state = torch.nn.LSTM(3, 2).bfloat16()
    got, _ = read_weights(dict(state.named_parameters()))
    for key, tensor in state.named_parameters():
        np.testing.assert_array_equal(got[key], tensor.detach().float().numpy(), strict=True)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b'{"weights": 1}', "JSON"),
        (b"GGUF....", "GGUF"),
        (b"\x80\x04N.", "plain pickle"),
    ],
)
def test_other_kinds_are_named(data, match) -> None:
    assert is_weights(data)
    with pytest.raises(UnsupportedModelError, match=match):
        read_weights(data)


def test_no_kind_at_all() -> None:
    for data in (b"hello there, this is text", b"\x08\x07\x12\x07pytorch"):
        assert not is_weights(data)
        with pytest.raises(ModelFormatError, match="no weight file"):
            read_weights(data)
    with pytest.raises(ModelFormatError, match="empty"):
        read_weights(b"")


def test_no_weights() -> None:
    with pytest.raises(ModelFormatError, match="no weights"):
        to_graph({}, None, "file")


# Inference


SINGLE = [
    nn.LSTM(3, 5),
    nn.LSTM(3, 5, 2, bias=False, bidirectional=True),
    nn.LSTM(5, 5, 3, proj_size=2),
    nn.LSTM(4, 6, bidirectional=True, proj_size=3),
    nn.GRU(3, 5),
    nn.GRU(1, 1, 2, bidirectional=True),
    nn.LSTMCell(3, 5),
    nn.LSTMCell(3, 5, bias=False),
    nn.GRUCell(3, 5),
]


@pytest.mark.parametrize("spec", SINGLE, ids=repr)
@pytest.mark.parametrize("prefix", ["", "rnn.", "module.encoder.rnn."])
def test_a_single_rnn_needs_no_spec(spec, prefix) -> None:
    weights = zeros(spec, prefix)
    for order in (weights, dict(sorted(weights.items(), reverse=True))):
        got = infer(order, source="file")
        assert got.prefix == (prefix or None)
        assert repr(got).replace(f", prefix={prefix!r}", "") == repr(spec)
        assert [node.op for node in to_graph(order, None, "file").nodes].count(spec.recurrence.op) == (
            spec.recurrence.num_layers
        )


@pytest.mark.parametrize("spec", [nn.RNN(3, 5, 2), nn.RNNCell(3, 5)], ids=repr)
def test_a_vanilla_rnn_is_assumed_to_be_tanh(spec) -> None:
    with pytest.warns(UserWarning, match="nonlinearity='relu'"):
        assert infer(zeros(spec), source="file") == spec


@pytest.mark.parametrize(
    ("weights", "hint"),
    [
        (
            zeros(nn.LSTM(16, 32), "rnn.") | zeros(nn.Linear(32, 5), "fc."),
            r"\{'rnn': nn.LSTM\(16, 32\), 'fc': nn.Linear",
        ),
        (zeros(nn.GRU(4, 4), "a.") | zeros(nn.GRU(4, 4), "b."), r"\{'a': nn.GRU\(4, 4\), 'b': nn.GRU\(4, 4\)\}"),
        (zeros(nn.Embedding(9, 4), "emb.") | zeros(nn.GRU(4, 4), "gru."), r"'emb': nn.Embedding\(9, 4\)"),
        (zeros(nn.Linear(4, 4), "z.") | zeros(nn.GRU(3, 9), "a."), "in the order in which they run"),
        (zeros(nn.LayerNorm(4), "n.") | zeros(nn.GRU(4, 4), "g."), r"nn.LayerNorm\(4\)"),
        (zeros(nn.LSTM(3, 4)) | {"extra": np.zeros((2, 2, 2), "f4")}, r"\(gatestep.nn\)$"),
        (zeros(nn.Linear(4, 3)), r"nn.Linear\(4, 3\)"),
        ({"weight_ih_l0": np.zeros((5, 2)), "weight_hh_l0": np.zeros((5, 2))}, r"\(gatestep.nn\)$"),
        ({"weight_ih_l0": np.zeros(5), "weight_hh_l0": np.zeros((5, 0))}, r"\(gatestep.nn\)$"),
        ({"weight_hh_l0": np.zeros((5, 2))}, r"\(gatestep.nn\)$"),
        ({"a": np.zeros(())}, r"\(gatestep.nn\)$"),
    ],
)
def test_anything_else_needs_a_spec(weights, hint) -> None:
    with pytest.raises(UnsupportedModelError, match=hint) as caught:
        to_graph(weights, None, "file")
    assert repr(next(iter(weights))) in str(caught.value)


def test_inconsistent_layers_are_errors() -> None:
    weights = zeros(nn.LSTM(3, 5, 3))
    del weights["weight_hh_l1"]
    with pytest.raises(ModelFormatError, match="weight_hh_l1"):
        to_graph(weights, None, "file")
    weights = zeros(nn.LSTM(3, 5)) | {"bias_ih_l0_reverse": np.zeros(20, "f4")}
    with pytest.raises(ModelFormatError, match="bias_ih_l0_reverse"):
        to_graph(weights, None, "file")


def test_absurd_layer_numbers_cost_nothing() -> None:
    weights = zeros(nn.LSTM(3, 5)) | {"weight_ih_l99999999999": np.zeros((20, 5), "f4")}
    with pytest.raises(GatestepError):
        to_graph(weights, None, "file")
