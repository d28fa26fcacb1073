"""The precision tiers by definition: what weights and rows are rounded to before they are multiplied, in NumPy.

=========  ==================================  ==============================  =====================================
tier       weights                             rows (x and h)                  where the result differs from float32
=========  ==================================  ==============================  =====================================
w16        16-bit whole numbers, one scale     16-bit whole numbers, one       some 1e-5 of a sum's largest term
           for the weights of each output      scale for each row
w8         8-bit whole numbers, likewise       16-bit whole numbers of two     some 1e-3, from the weights
                                               signed bytes, likewise
w8a8       8-bit whole numbers, likewise       8-bit whole numbers, likewise,  some 1e-3, from the weights and the rows
                                               from the middle of the row on
bfloat16   float32 cut to its upper 16 bits,   as they are                     nowhere, if the weights were bfloat16;
           to the nearest                                                      else some 1e-3, from the weights
=========  ==================================  ==============================  =====================================

The scale of a row is its largest magnitude / `ROWS`, found anew each time: no row saturates, whatever its size, and
none depends on another. In w8a8 it is half of the range of its elements and 0, and whole numbers begin at the middle
of that: all of eight bits count, and what follows a ReLU has but one sign. What is small beside the largest element of
its row is rounded by that element. A row with a NaN or an infinity in it makes NaN of every sum. Biases and peepholes
are reals in every tier, and so is all arithmetic behind the product. `product` is what the cells of `reference` take
in place of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from .reference import Product

__all__ = ["BITS", "CENTRED", "LARGEST", "PRECISIONS", "ROWS", "halved", "product", "quantised", "rounded"]

#: Bits of a weight, where weights are whole numbers.
BITS = {"w8a8": 8, "w8": 8, "w16": 16}
#: The largest whole number of a row that meets them; of two signed bytes, 256 * 127 + 127.
ROWS = {"w8a8": 127, "w8": 32639, "w16": 32767}
#: Tiers whose rows are what is above and below their middle.
CENTRED = ("w8a8",)
#: What weights may be kept as, the fastest first (of w8a8 and w8, where the processor multiplies bytes).
PRECISIONS = ("w8a8", "w8", "w16", "bfloat16", "float32")
#: Rows that are smaller count as zero: their scale would be no normal number.
SMALLEST = 1e-30
#: Weights that are larger have no bfloat16, and leave no room for a product in any tier.
LARGEST = float.fromhex("0x1.fep127")

Array = np.ndarray[Any, np.dtype[Any]]


def quantised(rows: ArrayLike, limit: int, most: Array | None = None) -> tuple[Array, Array]:
    """Whole numbers and scales.

    Parameters
    ----------
    rows : array_like, (..., K)
    limit : int
        What the largest magnitude of each row becomes.
    most : ndarray, (..., 1), optional
        What that is, where it is known.

    Returns
    -------
    (ndarray, ndarray)
        int8 or int16 ``(..., K)``, float32 ``(..., 1)``: their product is within half a scale of `rows`.
    """
    rows = np.asarray(rows, np.float32)
    if most is None:
        most = np.maximum(rows.max(axis=-1, keepdims=True, initial=0.0), -rows.min(axis=-1, keepdims=True, initial=0.0))
    scales = np.where(most < SMALLEST, 0, most / np.float32(limit)).astype(np.float32)
    whole = rows * (np.float32(limit) / np.where(scales > 0, most, np.float32(np.inf)))
    return np.rint(whole, out=whole).astype(np.int8 if limit < 128 else np.int16), scales


def halved(values: ArrayLike) -> Array:
    """Reals as bfloat16: the upper halves of float32, to the nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    upper: Array = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return upper


def rounded(weights: ArrayLike, precision: str) -> Array:
    """The weights that a tier computes with, as reals."""
    if precision == "bfloat16":
        return (halved(weights).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if precision == "float32":
        return np.asarray(weights, np.float64)
    return _whole(weights, 2 ** (BITS[precision] - 1) - 1)


def _whole(rows: ArrayLike, limit: int) -> Array:
    """Rows as whole numbers stand for them."""
    whole, scales = quantised(rows, limit)
    return whole.astype(np.float64) * scales


def _centred(rows: ArrayLike, limit: int) -> Array:
    """The same with whole numbers from the middle of the range of a row and 0 on."""
    rows, half = np.asarray(rows, np.float32), np.float32(0.5)
    up = rows.max(axis=-1, keepdims=True, initial=0.0) * half
    down = rows.min(axis=-1, keepdims=True, initial=0.0) * half
    whole, scales = quantised(rows - (up + down), limit, up - down)
    held: Array = whole.astype(np.float64) * scales + (up + down)
    return held


def product(precision: str) -> Product:
    """What a tier makes of ``rows @ weights.T``.

    Parameters
    ----------
    precision : str
        One of `PRECISIONS`.
    """
    from . import reference  # a definition, which no program needs

    if precision == "float32":
        return reference.product
    if precision == "bfloat16":
        return lambda rows, weights: reference.product(rows, rounded(weights, precision))

    def whole(rows: Array, weights: Array) -> Array:
        odd = ~np.isfinite(rows).all(axis=-1, keepdims=True)
        rows = np.where(odd, 0, rows)
        held = _centred(rows, ROWS[precision]) if precision in CENTRED else _whole(rows, ROWS[precision])
        return np.where(odd, np.nan, reference.product(held, rounded(weights, precision)))

    return whole
