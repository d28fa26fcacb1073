"""Safetensors files, against the library's own writer, and files made to harm."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from gatestep.engine.errors import GatestepError, ModelFormatError, UnsupportedModelError
from gatestep.importers.safetensors import read_safetensors
from gatestep.importers.weights import read_weights
from safetensors.numpy import save

CASES = Path(__file__).parents[3] / "shared" / "models"


def file_of(header: object, data: bytes = b"") -> bytes:
    """A file with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"])
def test_dtypes(dtype) -> None:
    array = np.array([[0, 1, 2], [3, 120, 7]]).astype(dtype)
    got = read_safetensors(save({"w": array}))["w"]
    np.testing.assert_array_equal(got, array, strict=True)
    assert not got.flags.writeable


def test_bfloat16() -> None:
    values = np.array([1.0, -2.5, np.inf, 3.0e38, 1e-40], "f4")
    halves = (values.view("u4") >> 16).astype("<u2")
    data = file_of({"w": {"dtype": "BF16", "shape": [5], "data_offsets": [0, 10]}}, halves.tobytes())
    got = read_safetensors(data)["w"]
    np.testing.assert_array_equal(got, (halves.astype("u4") << 16).view("f4"), strict=True)


def test_bfloat16_as_torch_writes_it() -> None:
    torch = pytest.importorskip("torch")
    save_torch = pytest.importorskip("safetensors.torch").save
    state = {key: tensor.bfloat16() for key, tensor in torch.nn.LSTM(3, 4).state_dict().items()}
    got = read_safetensors(save_torch(state))
    for key, tensor in state.items():
        np.testing.assert_array_equal(got[key], tensor.float().numpy(), strict=True)


def test_order_is_the_files() -> None:
    names = ["b", "a", "c.weight_ih_l0", "Z"]
    header = {name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * n, 4 * n + 4]} for n, name in enumerate(names)}
    data = file_of({"__metadata__": {"format": "pt"}, **header}, np.arange(4, dtype="f4").tobytes())
    assert list(read_safetensors(data)) == names


def test_shapes_and_paths(tmp_path) -> None:
    arrays = {"scalar": np.array(3.0, "f4"), "empty": np.zeros((0, 5), "f4"), "w": np.ones((2, 3, 4), "f8")}
    path = tmp_path / "anything.bin"
    path.write_bytes(save(arrays, {"format": "np"}))
    for got in (read_safetensors(path), read_safetensors(str(path)), read_weights(path)[0]):
        assert got.keys() == arrays.keys()
        for key, array in arrays.items():
            np.testing.assert_array_equal(got[key], array, strict=True)
    with pytest.raises(FileNotFoundError):
        read_safetensors(tmp_path / "none")


def test_unsupported_dtype() -> None:
    data = file_of({"w": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}, bytes(2))
    with pytest.raises(UnsupportedModelError, match="'w' has elements of type F8_E4M3"):
        read_safetensors(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08",
        b"{}",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 50_000_000) + b"{}",
        file_of(b"{"),
        file_of(b"{" * 100_000),
        file_of(b'{"a":' * 100_000),
        file_of(b"[]"),
        file_of(b"\xff\xfe"),
        file_of({"w": 1}),
        file_of({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)),
        file_of({"w": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]}}, bytes(4)),
        file_of({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)),
        file_of({"w": {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]}}),
        file_of({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(2)),
        file_of({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(400)),
        file_of({"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, bytes(4)),
        file_of({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}, bytes(4)),
        file_of(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}\x00\x00', bytes(4)),
    ],
)
def test_malformed(data) -> None:
    with pytest.raises(ModelFormatError, match="<bytes>"):
        read_safetensors(data)


def test_damage() -> None:
    """Truncated or flipped in the header: an error, or arrays no larger than the file."""
    data = save({"rnn.weight": np.ones((2, 3), "f4"), "rnn.bias": np.zeros(3, "f8")})
    for end in range(len(data)):
        with pytest.raises(ModelFormatError):
            read_safetensors(data[:end])
    seed = random.Random(3)
    for _ in range(3000):
        mutated = bytearray(data)
        for _ in range(seed.randint(1, 3)):
            mutated[seed.randrange(len(mutated))] = seed.randrange(256)
        try:
            arrays = read_safetensors(bytes(mutated))
        except GatestepError:
            continue
        assert sum(array.nbytes for array in arrays.values()) <= 2 * len(data)


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared model cases are not here")
def test_shared_file() -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    path = CASES / "torch" / "CharLM.safetensors"
    expected, got = numpy.load_file(path), read_safetensors(path)
    assert got.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(got[key], array, strict=True)
