"""Weights from `.safetensors` files: the length of a header, the header as JSON, the tensors one behind the other."""

from __future__ import annotations

import io
import json
import math
from typing import Any, BinaryIO

import numpy as np

from ..engine.errors import ModelFormatError, UnsupportedModelError
from .kinds import is_safetensors
from .source import Source, opened, source_name

__all__ = ["read_safetensors"]

#: Lists, objects and names in it; each takes up to thirty times its size in memory. A tensor has ten.
MAX_MARKS = 1 << 20
#: NumPy's own limit before version 2.
MAX_NDIM = 32
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "<u1",
    "BOOL": "<u1",
}


def read_safetensors(source: Source) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file.

    Parameters
    ----------
    source : path or bytes

    Returns
    -------
    dict of str to numpy.ndarray
        In the file's order. Read-only, C-contiguous; bfloat16 becomes float32, exactly.

    Raises
    ------
    ModelFormatError
        Damaged or truncated, or not a safetensors file.
    UnsupportedModelError
        A tensor of a type that NumPy does not have, such as the 8-bit floats.
    OSError
        The file cannot be opened.
    """
    name = source_name(source)
    with opened(source) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        head = file.read(9)
        if not is_safetensors(head):
            raise ModelFormatError(f"{name}: not a safetensors file: it does not begin with a header")
        start = 8 + int.from_bytes(head[:8], "little")
        if start > size:
            raise ModelFormatError(f"{name}: a damaged safetensors file: its header ends at byte {start} of {size}")
        file.seek(8)
        header = _header(file.read(start - 8), size - start, name)
        arrays = {}
        for key, (dtype, shape, begin) in header.items():
            file.seek(start + begin)
            arrays[key] = _array(file, dtype, shape, f"{name}: {key[:80]!r}")
        return arrays


def _header(text: bytes, room: int, name: str) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """Type, shape and place of each tensor, held against each other and the `room` that there is for all."""
    damaged = f"{name}: a damaged safetensors file"
    if sum(map(text.count, (b"[", b"{", b'"'))) > MAX_MARKS:
        raise ModelFormatError(f"{damaged}: a header of more than {MAX_MARKS} lists, objects and names")
    try:
        # An integer of very many digits takes very long.
        root = json.loads(
            text,
            parse_int=lambda digits: int(digits) if len(digits) < 20 else float(digits),
            object_pairs_hook=_once,
        )
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"{damaged}: its header is not JSON ({str(error)[:80]})") from error
    found = {}
    places: list[list[int]] = []
    dtype: Any
    shape: Any
    offsets: Any
    for key, entry in root.items():
        if key == "__metadata__":
            continue
        what = f"{damaged}: {key[:80]!r}"
        values = map(entry.get, ("dtype", "shape", "data_offsets")) if isinstance(entry, dict) else (None,) * 3
        dtype, shape, offsets = values
        if not isinstance(dtype, str) or not _sizes(shape, MAX_NDIM) or not _sizes(offsets, 2) or len(offsets) != 2:
            raise ModelFormatError(f"{what} has no type, shape and place")
        if dtype not in _DTYPES:
            raise UnsupportedModelError(
                f"{key[:80]!r} has elements of type {dtype[:40]}",
                source=name,
                hint="Convert it to float32 or float16 before saving",
            )
        itemsize = np.dtype(_DTYPES[dtype]).itemsize
        # An empty array may still claim axes that NumPy cannot address.
        if math.prod(shape) * itemsize != offsets[1] - offsets[0] or math.prod(n or 1 for n in shape) >= 1 << 60:
            raise ModelFormatError(f"{what} of the shape {shape} does not fit bytes {offsets[0]} to {offsets[1]}")
        found[key] = dtype, tuple(shape), offsets[0]
        places.append(offsets)
    end = 0
    for begin, after in sorted(places):
        if begin != end:
            raise ModelFormatError(f"{damaged}: its tensors overlap, or have gaps between them, at byte {begin}")
        end = after
    if end != room:
        raise ModelFormatError(f"{damaged}: its tensors take {end} bytes, there are {room}")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(made := dict(pairs)) != len(pairs):
        raise ValueError("a name that is there twice")
    return made


def _sizes(value: object, most: int) -> bool:
    return isinstance(value, list) and len(value) <= most and all(type(n) is int and n >= 0 for n in value)


def _array(file: BinaryIO, dtype: str, shape: tuple[int, ...], what: str) -> np.ndarray:
    """The tensor that begins where `file` is."""
    array: np.ndarray = np.empty(shape, _DTYPES[dtype])
    if array.size and file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:  # type: ignore[attr-defined]
        raise ModelFormatError(f"{what} is cut short")
    if dtype == "BF16":  # the upper half of a float32
        wide = array.astype(np.uint32)
        wide <<= np.uint32(16)
        array = wide.view(np.float32)
    elif dtype == "BOOL":
        array = array != 0
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    array.flags.writeable = False
    return array
