"""Weights of ONNX files: types, sizes that lie, external data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from gatestep.engine.errors import ModelFormatError, UnsupportedModelError  # noqa: E402
from gatestep.importers.onnx import read_onnx  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_models import F32, make, refused  # noqa: E402

DTYPES = ["f4", "f8", "f2", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8", "c16"]


def weight(tensor: Any, **arguments: Any) -> np.ndarray:
    """What a tensor becomes when it is a weight."""
    tensor.name = "w"
    model = make([helper.make_node("Add", ["x", "w"], ["y"])], weights={"w": tensor})
    return read_onnx(model, **arguments).constants["w"]


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("code", DTYPES)
def test_weights(code: str, raw: bool) -> None:
    values = np.arange(-3, 3).reshape(2, 1, 3).astype(code)
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    got = weight(helper.make_tensor("w", kind, values.shape, values.tobytes() if raw else values, raw=raw))
    assert got.dtype == values.dtype
    np.testing.assert_array_equal(got, values)


@pytest.mark.parametrize("raw", [True, False])
def test_bfloat16_becomes_float32(raw: bool) -> None:
    values = np.array([0, 1.5, -2, 3.0e38, np.inf, np.nan], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    tensor = TensorProto(data_type=TensorProto.BFLOAT16, dims=[6])
    if raw:
        tensor.raw_data = bits.tobytes()
    else:
        tensor.int32_data.extend(bits.tolist())
    got = weight(tensor)
    assert got.dtype == F32
    np.testing.assert_array_equal(got, (bits.astype(np.uint32) << 16).view(np.float32))


def test_bool_bytes_other_than_one() -> None:
    got = weight(TensorProto(data_type=TensorProto.BOOL, dims=[3], raw_data=b"\x00\x01\x7f"))
    assert got.view(np.uint8).tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"dims": [3], "raw_data": b"1234"}, "is 12 bytes by its shape.*4 bytes are there"),
        ({"dims": [2**40, 2**40], "raw_data": b""}, "impossible shape"),
        ({"dims": [2**31, 2**31], "raw_data": b""}, "impossible shape"),
        ({"dims": [2**31], "raw_data": b"1234"}, "8589934592 bytes"),
        ({"dims": [0, 2**62]}, "impossible shape"),
        ({"dims": [-1], "raw_data": b""}, "negative size"),
        ({"dims": [1] * 65, "raw_data": b"1234"}, "65 axes"),
        ({"dims": [2], "float_data": [1.0]}, "1 values in float_data"),
        ({"dims": [1], "int32_data": [1]}, "0 values in float_data|1 values"),
        ({"dims": [1], "float_data": [1.0], "raw_data": b"1234"}, "its data twice"),
        ({"dims": [1], "int32_data": [256], "data_type": TensorProto.UINT8}, "do not fit"),
        ({"dims": [1], "raw_data": b"1234", "data_type": 0}, "no data type"),
    ],
)
def test_weights_whose_sizes_lie(fields: dict[str, Any], match: str) -> None:
    refused(ModelFormatError, match, lambda: weight(TensorProto(**{"data_type": TensorProto.FLOAT, **fields})))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"data_type": TensorProto.STRING, "string_data": [b"a"]}, "data type STRING"),
        ({"data_type": TensorProto.INT4, "raw_data": b"1"}, "data type INT4"),
        ({"data_type": 999, "raw_data": b"1"}, "data type number 999"),
        ({"data_type": TensorProto.FLOAT, "segment": TensorProto.Segment(begin=0, end=1)}, "segments"),
    ],
)
def test_weights_that_are_not_supported(fields: dict[str, Any], match: str) -> None:
    refused(UnsupportedModelError, match, lambda: weight(TensorProto(dims=[1], **fields)))


def test_sparse_weights_are_refused_where_used() -> None:
    model = make([helper.make_node("Add", ["x", "w"], ["y"])])
    values = numpy_helper.from_array(np.ones(1, np.float32), "w")
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(np.zeros(1, np.int64)), [3])
    )
    refused(UnsupportedModelError, "initializer 'w' is sparse", lambda: read_onnx(model))
    model.graph.node[0].input[1] = "x"
    assert not read_onnx(model).constants


# ---------------------------------------------------------------------- external data
def external(folder: Path, entries: dict[str, Any], content: bytes = b"", dims: Sequence[int] = (3,)) -> Path:
    """A model whose weight lies outside, and w.bin next to it."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    model = make([helper.make_node("Add", ["x", "w"], ["y"])], weights={"w": tensor})
    (folder / "w.bin").write_bytes(content)
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


THREE = np.array([1, 2, 3], np.float32)


@pytest.mark.parametrize(
    ("entries", "content"),
    [
        ({"location": "w.bin"}, THREE.tobytes()),
        ({"location": "./w.bin", "offset": 4, "length": 12}, b"1234" + THREE.tobytes() + b"5678"),
    ],
)
def test_external_data(tmp_path: Path, entries: dict[str, Any], content: bytes) -> None:
    got = read_onnx(external(tmp_path, entries, content)).constants["w"]
    np.testing.assert_array_equal(got, THREE)


def test_external_data_by_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    external(tmp_path, {"location": "w.bin"}, THREE.tobytes())
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(read_onnx("m.onnx").constants["w"], THREE)


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({"location": "../w.bin"}, "outside the model's folder"),
        ({"location": "sub/../../w.bin"}, "outside the model's folder"),
        ({"location": "/etc/passwd"}, "outside the model's folder"),
        ({"location": "C:\\w.bin"}, "outside the model's folder"),
        ({"location": "..\\w.bin"}, "outside the model's folder"),
        ({"location": "link.bin"}, "outside the model's folder.*is a link"),
        ({"location": "links/w.bin"}, "outside the model's folder.*is a link"),
        ({"location": "none.bin"}, "not next to the model"),
        ({"location": "."}, "not a regular file"),
        ({"location": "pipe"}, "not a regular file"),
        ({}, "without a location"),
        ({"location": "w.bin", "offset": 4}, "ends at byte 16 of 'w.bin', which has 12 bytes"),
        ({"location": "w.bin", "offset": -4}, "offset '-4'"),
        ({"location": "w.bin", "offset": "9" * 5000}, "offset '999"),
        ({"location": "w.bin", "length": 8}, "claims 8"),
    ],
)
def test_external_data_that_is_refused(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, entries: dict[str, Any], match: str
) -> None:
    path = external(tmp_path, entries, THREE.tobytes())
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "w.bin").write_bytes(THREE.tobytes())
    (tmp_path / "link.bin").symlink_to(elsewhere / "w.bin")
    (tmp_path / "links").symlink_to(elsewhere)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFormatError, match=match):
        read_onnx(path)


def test_external_data_that_claims_much_is_not_allocated(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="which has 4 bytes"):
        read_onnx(external(tmp_path, {"location": "w.bin"}, b"1234", dims=[2**40]))


def test_external_data_is_not_taken_twice(tmp_path: Path) -> None:
    path = external(tmp_path, {"location": "w.bin"}, THREE.tobytes())
    model = onnx.load(path, load_external_data=False)
    same, shifted = TensorProto(), TensorProto()
    for tensor, name in ((same, "v"), (shifted, "u")):
        tensor.CopyFrom(model.graph.initializer[0])
        tensor.name = name
        model.graph.initializer.append(tensor)
    model.graph.node[0].CopyFrom(helper.make_node("Sum", ["x", "w", "v"], ["y"]))
    path.write_bytes(model.SerializeToString())
    assert set(read_onnx(path).constants) == {"w", "v"}  # tied weights are fine
    shifted.dims[:] = [2]
    shifted.external_data.add(key="offset", value="4")
    model.graph.initializer[2].CopyFrom(shifted)
    model.graph.node[0].input.append("u")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFormatError, match="overlaps"):
        read_onnx(path)


def test_external_data_needs_a_folder(tmp_path: Path) -> None:
    path = external(tmp_path, {"location": "w.bin"}, THREE.tobytes())
    with pytest.raises(UnsupportedModelError, match="Give the path"):
        read_onnx(path.read_bytes())
