"""Weights from `.safetensors` files, through the safetensors library."""

from __future__ import annotations

import json

import numpy as np

from ..engine.errors import ModelFormatError, UnsupportedModelError
from .archive import Source, source_bytes, source_name

__all__ = ["is_safetensors", "read_safetensors"]

#: The library's own limit on the header.
MAX_HEADER = 100_000_000
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


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins with `head` (9 bytes or more) has a safetensors header: its length, then JSON."""
    return len(head) >= 9 and 2 <= int.from_bytes(head[:8], "little") <= MAX_HEADER and head[8:9] == b"{"


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
    from safetensors import SafetensorError, deserialize

    name = source_name(source)
    data = source_bytes(source)
    if not is_safetensors(data[:9]):
        raise ModelFormatError(f"{name}: not a safetensors file: it does not begin with a header")
    try:
        tensors = dict(deserialize(data))
    except SafetensorError as error:
        raise ModelFormatError(f"{name}: a damaged safetensors file ({error})") from error
    arrays = {}
    # The library gives them in no order, the header in that of the file.
    for key in json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]):
        if key == "__metadata__":
            continue
        tensor = tensors[key]
        code = _DTYPES.get(tensor["dtype"])
        if code is None:
            raise UnsupportedModelError(
                f"{key[:80]!r} has elements of type {tensor['dtype']}",
                source=name,
                hint="Convert it to float32 or float16 before saving",
            )
        try:
            array = np.frombuffer(tensor["data"], code).reshape(tensor["shape"])
        except ValueError as error:
            raise ModelFormatError(f"{name}: {key[:80]!r} does not fit its shape ({error})") from error
        if tensor["dtype"] == "BF16":  # the upper half of a float32
            array = (array.astype(np.uint32) << 16).view(np.float32)
        elif tensor["dtype"] == "BOOL":
            array = array != 0
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        array.flags.writeable = False
        arrays[key] = array
    return arrays
