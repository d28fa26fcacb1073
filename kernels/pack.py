"""Weights as the kernels read them: once, front to back.

One array per layer, in blocks of `BLOCK` hidden units. A block is a row of biases, then for each k of [x; h] the gates'
16 lanes side by side; the kernel adds k by k to accumulators that it keeps for the block. Hidden units beyond the last
are zero weights. In reals:

========  =====================  ====================================  ==============================
LSTM      bias 4 x 16: i f g o   per k of x and h: 4 x 16              blocks of 64 (1 + I + P)
GRU       bias 4 x 16: r z n h   per k of x: r z n; of h: r z h        blocks of 64 + 48 (I + H)
RNN       bias G x 16            per k of x and h: G x 16              groups of G = 4 blocks; the last
linear    bias G x 16            per k: G x 16                         has what is left (1 to 4)
========  =====================  ====================================  ==============================

where for the GRU n is W_n x + b_n and h is R_n h + its bias, apart because r multiplies the latter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._plumbing import interleave

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "BLOCK",
    "ahead",
    "aligned",
    "aligned_empty",
    "pack_gru",
    "pack_linear",
    "pack_lstm",
    "pack_peepholes",
    "pack_rnn",
    "scratch",
]

#: Hidden units per block, GS_BLOCK of abi.h.
BLOCK = 16
_GROUP = 4
_ALIGNMENT = 64

Array = np.ndarray[Any, np.dtype[Any]]


def aligned_empty(count: int, dtype: Any) -> Array:
    """An uninitialised 1-D array whose data starts on a cache line."""
    dtype = np.dtype(dtype)
    raw = np.empty(count * dtype.itemsize + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + count * dtype.itemsize].view(dtype)


def ahead(steps: int, batch: int) -> int:
    """Steps whose sums over x a recurrent kernel does ahead: GS_AHEAD of abi.h."""
    return min(steps, 16, 64 // batch) if 1 <= batch <= 16 and steps >= 4 else 1


def aligned(array: Array, dtype: Any) -> Array:
    """The elements of `array` in C order from a cache line on: itself where it lies so, else a copy."""
    if array.dtype == dtype and array.flags.c_contiguous and array.ctypes.data % _ALIGNMENT == 0:
        return array.reshape(-1)
    copy = aligned_empty(array.size, dtype)
    copy[:] = array.reshape(-1)
    return copy


def scratch(steps: int, batch: int, hidden: int) -> int:
    """Reals that a recurrent kernel needs beside its operands: GS_SCRATCH of abi.h."""
    steps = ahead(steps, batch)
    return (1 + (steps if steps > 1 else 0)) * batch * 4 * _blocks(hidden) * BLOCK + 64


def _blocks(size: int) -> int:
    return -(-size // BLOCK)


def _interleave(y: Array, rows: Array, apart: int = BLOCK) -> None:
    """Put `rows` (n, k) into `y` (blocks, k, 16) as lanes: block b has those from ``b * apart`` on, and then zeros."""
    blocks, width, _ = y.shape
    rows = np.require(rows, y.dtype, ["A"])
    assert rows.shape[1] == width and y.strides[2] == y.itemsize
    block, step, row, column = (stride // y.itemsize for stride in (*y.strides[:2], *rows.strides))
    double = y.dtype == np.float64
    interleave(y.ctypes.data, block, step, rows.ctypes.data, apart, row, column, len(rows), width, blocks, double)


def _interleave_gates(y: Array, rows: Array, order: Sequence[int]) -> None:
    """Put `rows` (gates, n, k), which has them in `order`, into `y` (blocks, k, gates, 16)."""
    for gate, held in enumerate(order):
        _interleave(y[:, :, gate], rows[held])


def pack_lstm(w: ArrayLike, r: ArrayLike, b: ArrayLike, dtype: Any, order: Sequence[int] = (0, 1, 2, 3)) -> Array:
    """Pack an LSTM layer.

    Parameters
    ----------
    w : array_like, (4H, I)
    r : array_like, (4H, P)
    b : array_like, (4H,)
        The sum of both biases.
    dtype : float32 or float64
    order : sequence of int
        Where the gates i, f, g, o are in each of them.

    Returns
    -------
    ndarray, 1-D
    """
    w, r, b = np.asarray(w), np.asarray(r), np.asarray(b)
    hidden = w.shape[0] // 4
    inputs, state, blocks = w.shape[1], r.shape[1], _blocks(hidden)
    packed = aligned_empty(blocks * (1 + inputs + state) * 4 * BLOCK, dtype)
    view = packed.reshape(blocks, 1 + inputs + state, 4, BLOCK)
    _interleave_gates(view[:, :1], b.reshape(4, hidden, 1), order)
    _interleave_gates(view[:, 1 : 1 + inputs], w.reshape(4, hidden, inputs), order)
    _interleave_gates(view[:, 1 + inputs :], r.reshape(4, hidden, state), order)
    return packed


def pack_gru(
    w: ArrayLike, r: ArrayLike, b_ih: ArrayLike, b_hh: ArrayLike, dtype: Any, order: Sequence[int] = (0, 1, 2)
) -> Array:
    """Pack a GRU layer.

    Parameters
    ----------
    w : array_like, (3H, I)
    r : array_like, (3H, H)
    b_ih, b_hh : array_like, (3H,)
    dtype : float32 or float64
    order : sequence of int
        Where the gates r, z, n are in each of them.

    Returns
    -------
    ndarray, 1-D
    """
    w, r = np.asarray(w), np.asarray(r)
    hidden = r.shape[1]
    inputs, blocks = w.shape[1], _blocks(hidden)
    b_x = np.asarray(b_ih, np.float64).reshape(3, hidden, 1)[list(order)]
    b_h = np.asarray(b_hh, np.float64).reshape(3, hidden, 1)[list(order)]
    bias = np.concatenate([b_x[:2] + b_h[:2], b_x[2:], b_h[2:]])
    packed = aligned_empty(blocks * (4 + 3 * (inputs + hidden)) * BLOCK, dtype)
    view = packed.reshape(blocks, (4 + 3 * (inputs + hidden)) * BLOCK)
    _interleave_gates(view[:, : 4 * BLOCK].reshape(blocks, 1, 4, BLOCK), bias, range(4))
    products = view[:, 4 * BLOCK :].reshape(blocks, inputs + hidden, 3, BLOCK)
    _interleave_gates(products[:, :inputs], w.reshape(3, hidden, inputs), order)
    _interleave_gates(products[:, inputs:], r.reshape(3, hidden, hidden), order)
    return packed


def pack_linear(w: ArrayLike, b: ArrayLike | None, dtype: Any) -> Array:
    """Pack a dense layer, or a projection.

    Parameters
    ----------
    w : array_like, (N, K)
    b : array_like, (N,), optional
    dtype : float32 or float64

    Returns
    -------
    ndarray, 1-D
    """
    w = np.asarray(w)
    columns, width = w.shape
    bias = np.zeros((columns, 1)) if b is None else np.asarray(b).reshape(columns, 1)
    packed = aligned_empty(_blocks(columns) * BLOCK * (1 + width), dtype)
    # Full groups first, then the narrow one; both are "lanes" with the blocks of a group in the place of gates.
    full = columns // (_GROUP * BLOCK) * _GROUP * BLOCK
    start = 0
    for first, last, blocks in ((0, full, _GROUP), (full, columns, _blocks(columns - full))):
        if first == last:
            continue
        groups = _blocks(last - first) // blocks
        part = packed[start : start + groups * blocks * BLOCK * (1 + width)]
        view = part.reshape(groups, 1 + width, blocks, BLOCK)
        for block in range(blocks):
            rows = slice(first + block * BLOCK, last)
            _interleave(view[:, :1, block], bias[rows], blocks * BLOCK)
            _interleave(view[:, 1:, block], w[rows], blocks * BLOCK)
        start += part.size
    return packed


def pack_rnn(w: ArrayLike, r: ArrayLike, b: ArrayLike, dtype: Any) -> Array:
    """Pack a plain recurrent layer: w (H, I), r (H, H), b (H,), the sum of both biases."""
    return pack_linear(np.concatenate([np.asarray(w), np.asarray(r)], axis=1), b, dtype)


def pack_peepholes(p: ArrayLike, dtype: Any) -> Array:
    """Pack the peepholes (3, H) of an LSTM, rows i, f, o: the rows padded to whole blocks."""
    p = np.asarray(p)
    packed = aligned_empty(3 * _blocks(p.shape[1]) * BLOCK, dtype)
    view = packed.reshape(3, -1)
    view[:, : p.shape[1]] = p
    view[:, p.shape[1] :] = 0
    return packed
