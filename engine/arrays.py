"""What callers give, as arrays of the type that a port has."""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import ShapeError

__all__ = ["exact"]


def exact(what: str, name: str, value: Any, dtype: np.dtype[Any]) -> np.ndarray:
    """`value` as an array that `dtype` can hold, of the type and in the order of bytes that it came in.

    Python's own numbers, and lists of them, have no width: they become `dtype` where they are of its kind. Whatever has
    a type of its own keeps it, and must fit without loss.

    Parameters
    ----------
    what, name : str
        For the message: what this is, and of which port.
    value : array_like
    dtype : numpy.dtype

    Raises
    ------
    ShapeError
        It is no array, or would lose something.
    """
    if isinstance(value, np.ndarray):
        array, casting = value, "safe"
    else:
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise ShapeError(f"{what} {name!r} is no array: {error}") from None
        casting = "safe" if hasattr(value, "dtype") or array.dtype == object else "same_kind"
    if array.dtype == dtype:
        return array
    if not np.can_cast(array.dtype, dtype, casting):  # type: ignore[arg-type]
        raise ShapeError(
            f"{what} {name!r} has dtype {array.dtype}, which {dtype} cannot hold exactly; "
            f"convert it with .astype({dtype.name!r})"
        )
    return array.astype(dtype) if casting == "same_kind" else array
