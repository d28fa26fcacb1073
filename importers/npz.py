"""NumPy's own archives: a zip file of `.npy` files."""

from __future__ import annotations

import io
from tokenize import TokenError

import numpy as np

from ..engine.errors import ModelFormatError, UnsupportedModelError
from .archive import Archive
from .source import Source

__all__ = ["read_npz"]


def read_npz(source: Source) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file, by name.

    Parameters
    ----------
    source : path or bytes

    Raises
    ------
    ModelFormatError
        Damaged or truncated.
    UnsupportedModelError
        An array of objects, which would be a pickle.
    OSError
        The file cannot be opened.
    """
    with Archive(source) as archive:
        return {
            name[: -len(".npy")]: _read_npy(archive.read(name, compressed=True), f"{archive.name}: {name!r}")
            for name in archive.entries
        }


def _read_npy(data: bytes, what: str) -> np.ndarray:
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        if dtype.hasobject or dtype.kind not in "fiub":
            raise UnsupportedModelError(f"{what} holds {dtype}, not numbers")
        if any(size < 0 for size in shape):
            raise ValueError(f"the shape {shape}")
        array = np.frombuffer(data, dtype, offset=stream.tell())
        array = array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
    except UnsupportedModelError:
        raise
    except (ValueError, TypeError, SyntaxError, TokenError, KeyError, OverflowError, MemoryError) as error:
        raise ModelFormatError(f"{what} is no NumPy array ({error})") from error
    return array.astype(dtype.newbyteorder("="), order="C", copy=False)
