"""Tensors of ONNX files as arrays. Every claimed size is held against the bytes that are there first."""

from __future__ import annotations

import math
import ntpath
import os
import stat
from typing import Any

import numpy as np

from ...engine.errors import ModelFormatError, UnsupportedModelError
from . import proto as onnx
from .wire import Damaged, numbers

__all__ = ["Tensors", "dtype_of", "type_name"]

#: NumPy's own limit before version 2.
MAX_RANK = 32

_BFLOAT16 = int(onnx.TensorProto.BFLOAT16)
_BOOL = int(onnx.TensorProto.BOOL)

#: data_type -> (little-endian layout of raw_data, field that holds it otherwise)
_LAYOUT = {
    int(onnx.TensorProto.FLOAT): ("<f4", "float_data"),
    int(onnx.TensorProto.DOUBLE): ("<f8", "double_data"),
    int(onnx.TensorProto.FLOAT16): ("<f2", "int32_data"),
    _BFLOAT16: ("<u2", "int32_data"),
    int(onnx.TensorProto.INT8): ("<i1", "int32_data"),
    int(onnx.TensorProto.INT16): ("<i2", "int32_data"),
    int(onnx.TensorProto.INT32): ("<i4", "int32_data"),
    int(onnx.TensorProto.INT64): ("<i8", "int64_data"),
    int(onnx.TensorProto.UINT8): ("<u1", "int32_data"),
    int(onnx.TensorProto.UINT16): ("<u2", "int32_data"),
    int(onnx.TensorProto.UINT32): ("<u4", "uint64_data"),
    int(onnx.TensorProto.UINT64): ("<u8", "uint64_data"),
    int(onnx.TensorProto.BOOL): ("|u1", "int32_data"),
    int(onnx.TensorProto.COMPLEX64): ("<c8", "float_data"),
    int(onnx.TensorProto.COMPLEX128): ("<c16", "double_data"),
}
#: The fields of numbers, and what lies in them.
_FIELDS: dict[str, np.dtype[Any]] = {
    "float_data": np.dtype("<f4"),
    "int32_data": np.dtype(np.int32),
    "int64_data": np.dtype(np.int64),
    "double_data": np.dtype("<f8"),
    "uint64_data": np.dtype(np.uint64),
}
_DATA_FIELDS = (*_FIELDS, "string_data")


def type_name(code: int) -> str:
    """ONNX's name of a data type: ``"FLOAT16"``."""
    try:
        return onnx.DataType(code).name
    except ValueError:
        return f"number {code}"


def dtype_of(code: int) -> np.dtype[Any] | None:
    """The dtype that values of an ONNX data type have in a graph, or None where they cannot be held.

    bfloat16 becomes float32, which holds each of its values.
    """
    if code == _BFLOAT16:
        return np.dtype(np.float32)
    if code == _BOOL:
        return np.dtype(np.bool_)
    layout = _LAYOUT.get(code)
    return None if layout is None else np.dtype(layout[0]).newbyteorder("=")


class Tensors:
    """Reads the tensors of one file.

    Attributes
    ----------
    source : str
        For messages.
    folder : str or None
        Where external data lies; None if the model did not come from a file.
    """

    def __init__(self, source: str, folder: str | None) -> None:
        self.source, self.folder = source, folder
        self._external: dict[tuple[str, int, int], np.ndarray] = {}
        self._taken: dict[str, int] = {}

    def array(self, tensor: onnx.TensorProto, what: str) -> np.ndarray:
        """Decode `tensor`; `what` names it in messages.

        Returns
        -------
        numpy.ndarray
            Read-only or not, of the tensor's shape; bfloat16 as float32.

        Raises
        ------
        ModelFormatError
            If dimensions, type and data do not fit each other, or external data is missing or lies elsewhere.
        UnsupportedModelError
            If NumPy has no such type.
        """
        code = int(tensor.data_type)
        if code not in _LAYOUT:
            if code == onnx.TensorProto.UNDEFINED:
                raise self._damaged(what, "has no data type")
            raise UnsupportedModelError(
                f"{what} has data type {type_name(code)}, which is not supported",
                source=self.source,
                hint="Convert it to float32 before export",
            )
        if tensor.HasField("segment"):
            raise UnsupportedModelError(
                f"{what} is stored in segments", source=self.source, hint="Save it in one piece"
            )
        layout, typed = _LAYOUT[code]
        dtype = np.dtype(layout)
        shape = self._shape(tensor, dtype, what)
        filled = [name for name in _DATA_FIELDS if len(getattr(tensor, name))]
        if tensor.HasField("raw_data"):
            filled.append("raw_data")
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            if [name for name in filled if name != "raw_data"] or len(tensor.raw_data):
                raise self._damaged(what, "has both external and internal data")
            flat = self._read_external(tensor, math.prod(shape) * dtype.itemsize, what).view(dtype)
        elif tensor.data_location:
            raise self._damaged(what, f"lies in the unknown location {tensor.data_location}")
        elif len(filled) > 1:
            raise self._damaged(what, f"has its data twice: {' and '.join(filled)}")
        elif filled == ["raw_data"]:
            raw = tensor.raw_data
            expected = math.prod(shape) * dtype.itemsize
            if len(raw) != expected:
                raise self._damaged(what, f"is {expected} bytes by its shape {shape}, but {len(raw)} bytes are there")
            # Copied, because what lies in the file is not aligned, and would keep all of the file in memory.
            flat = np.frombuffer(raw, dtype).copy() if expected else np.empty(0, dtype)
        else:
            flat = self._from_field(tensor, typed, dtype, shape, what)
        if code == _BFLOAT16:
            flat = flat.astype(np.uint32)
            flat <<= np.uint32(16)
            flat = flat.view(np.float32)
        elif code == _BOOL:
            flat = flat != 0
        return flat.reshape(shape).astype(flat.dtype.newbyteorder("="), copy=False)

    def _damaged(self, what: str, reason: str) -> ModelFormatError:
        return ModelFormatError(f"{self.source}: {what} {reason}")

    def _shape(self, tensor: onnx.TensorProto, dtype: np.dtype[Any], what: str) -> tuple[int, ...]:
        if len(tensor.dims) > MAX_RANK:
            raise self._damaged(what, f"claims {len(tensor.dims)} axes")
        shape = tuple(int(size) for size in tensor.dims)
        if any(size < 0 for size in shape):
            raise self._damaged(what, f"has a negative size in its shape {shape}")
        # An empty array may still claim axes that NumPy cannot address.
        if math.prod(max(size, 1) for size in shape) * dtype.itemsize >= 2**63:
            raise self._damaged(what, f"has the impossible shape {shape}")
        return shape

    def _from_field(
        self, tensor: onnx.TensorProto, typed: str, dtype: np.dtype[Any], shape: tuple[int, ...], what: str
    ) -> np.ndarray:
        chunks = getattr(tensor, typed)
        expected = math.prod(shape) * (2 if dtype.kind == "c" else 1)
        try:
            data = numbers(chunks, _FIELDS[typed])
        except Damaged as error:
            raise self._damaged(what, f"has {error} in {typed}") from None
        if len(data) != expected:
            raise self._damaged(what, f"has {len(data)} values in {typed}, but its shape {shape} takes {expected}")
        if dtype.kind == "c" or typed in ("float_data", "double_data"):
            return data.view(dtype)
        bits = np.dtype("<u2") if dtype.kind == "f" else dtype
        limits = np.iinfo(bits)
        if data.size and bits.itemsize < data.itemsize and (data.min() < limits.min or data.max() > limits.max):
            raise self._damaged(what, f"has values in {typed} that do not fit its data type")
        return data.astype(bits, copy=False).view(dtype)

    # ------------------------------------------------------------------ external data
    def _read_external(self, tensor: onnx.TensorProto, expected: int, what: str) -> np.ndarray:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location")
        if not location or not isinstance(location, str):
            raise self._damaged(what, "has external data without a location")
        if self.folder is None:
            raise UnsupportedModelError(
                f"{what} lies in another file, {location!r}, and the model came without a folder to look in",
                source=self.source,
                hint="Give the path of the .onnx file instead",
            )
        offset = self._number(entries, "offset", what) or 0
        length = self._number(entries, "length", what)
        if length is not None and length != expected:
            raise self._damaged(what, f"is {expected} bytes by its shape, but its external data claims {length}")
        if expected == 0:
            return np.empty(0, np.uint8)
        path = self._inside(location, what)
        key = (path, offset, expected)
        if key not in self._external:
            self._external[key] = self._read(path, location, offset, expected, what)
        return self._external[key]

    def _number(self, entries: dict[str, str], key: str, what: str) -> int | None:
        text = entries.get(key)
        if text is None:
            return None
        if not isinstance(text, str) or not (text.isascii() and text.isdigit()) or len(text) > 19:
            raise self._damaged(what, f"has external data with {key} {str(text)[:40]!r}")
        return int(text)

    def _inside(self, location: str, what: str) -> str:
        """The real path of external data, which must lie in the folder of the model."""
        assert self.folder is not None
        parts = location.replace("\\", "/").split("/")
        absolute = os.path.isabs(location) or ntpath.isabs(location) or ntpath.splitdrive(location)[0]
        if absolute or ".." in parts or "\0" in location:
            raise self._damaged(what, f"points to external data outside the model's folder: {location!r}")
        folder = os.path.realpath(self.folder)
        path = os.path.realpath(os.path.join(folder, location))
        if os.path.commonpath([folder, path]) != folder:
            raise self._damaged(
                what, f"points to external data outside the model's folder: {location!r} is a link to {path!r}"
            )
        return path

    def _read(self, path: str, location: str, offset: int, expected: int, what: str) -> np.ndarray:
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise self._damaged(what, f"points to {location!r}, which is not a regular file")
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if offset + expected > size:
                    raise self._damaged(
                        what, f"ends at byte {offset + expected} of {location!r}, which has {size} bytes"
                    )
                # Else a small file could claim its data a thousand times over.
                self._taken[path] = self._taken.get(path, 0) + expected
                if self._taken[path] > size:
                    raise self._damaged(what, f"overlaps other tensors in {location!r}")
                out = np.empty(expected, np.uint8)
                file.seek(offset)
                if file.readinto(out.data) != expected:
                    raise self._damaged(what, f"could not be read in full from {location!r}")
                return out
        except FileNotFoundError:
            raise self._damaged(what, f"lies in {location!r}, which is not next to the model") from None
        except OSError as error:
            raise self._damaged(what, f"lies in {location!r}, which cannot be read: {error.strerror}") from error
