"""Weights of the precision tiers as the kernels read them.

The packed form is that of `pack`, but an operand's weights in a block are, for whole numbers,

=========  ===============================================================================================
scales     G x 16 reals: what makes whole numbers of that gate and lane weights again, of this operand alone
sums       of w8a8, G x 16 reals: the sum of those weights
numbers    of 16 bits, per two ks: G x 16 x 2, both ks of a lane side by side; of 8 bits, per four ks: G x 16 x 4,
           ks 0, 2, 1, 3 of a lane side by side, with 128 added to each
=========  ===============================================================================================

and for bfloat16 ``k x G x 16`` of them; either is filled up to 64 bytes. What the numbers are, `precision` defines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from . import pack
from .pack import BLOCK, aligned_empty
from .precision import BITS, CENTRED, PRECISIONS, halved, quantised

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["WORTH", "kernel", "kernel_of", "operand_bytes", "packed_bytes", "packer", "scratch"]

#: Weights of a net from which a tier is faster than float32 (docs/precision.md has times).
WORTH = {"w8a8": 6 << 10, "w8": 6 << 10, "w16": 6 << 10, "bfloat16": 1 << 17}
#: Elements of a row whose products with weights of 8 bits are added as integers: GS_EXACT of abi.h.
EXACT = 512
_GROUP = 4
_LINE = 64

Array = np.ndarray[Any, np.dtype[Any]]


def kernel(name: str, precision: str) -> str:
    """The kernel of a tier: ``lstm_w8``."""
    return name if precision == "float32" else f"{name}_{precision}"


def kernel_of(name: str) -> tuple[str, str]:
    """The kernel and the precision of ``lstm_w8``."""
    kernel, _, precision = name.rpartition("_")
    return (kernel, precision) if precision in PRECISIONS else (name, "float32")


# ---------------------------------------------------------------------------------------------------------------- sizes


def operand_bytes(size: int, gates: int, precision: str) -> int:
    """Bytes that the weights of `size` inputs take in a block: `operand_reals` of tiers.pxi."""
    if precision == "bfloat16":
        return _lines(size * gates * BLOCK * 2)
    shared = 32 // BITS[precision]  # ks of a lane
    return (_heads(precision) * gates * BLOCK * 4 if size else 0) + _lines(-(-size // shared) * gates * BLOCK * 4)


def _heads(precision: str) -> int:
    """Reals of each output in front of its whole numbers: their scale, and what a row's middle is multiplied by."""
    return 1 + (precision in CENTRED)


def packed_bytes(name: str, sizes: Sequence[int], outputs: int, precision: str) -> int:
    """Bytes of packed weights.

    Parameters
    ----------
    name : {"lstm", "gru", "rnn", "linear"}
    sizes : sequence of int
        Of the operands: x, and h where there is one.
    outputs : int
        The hidden size, or the columns of a dense layer.
    precision : str
    """

    def block(gates: int, biases: int) -> int:
        return biases * BLOCK * 4 + sum(operand_bytes(size, gates, precision) for size in sizes)

    if name in ("lstm", "gru"):
        return _count(outputs) * block(4 if name == "lstm" else 3, 4)
    full, rest = divmod(_count(outputs), _GROUP)
    return full * block(_GROUP, _GROUP) + (block(rest, rest) if rest else 0)


def scratch(rows: int, size: int) -> int:
    """Reals that the kernel needs for `rows` rows of `size` whole numbers: GS_QUANTISED of abi.h."""
    return rows * (-(-size // 32) * 16) + 2 * -(-rows // 16) * 16 + -(-rows * -(-size // EXACT) // 16) * 16


def _lines(count: int) -> int:
    return -(-count // _LINE) * _LINE


def _count(size: int) -> int:
    return -(-size // BLOCK)


# -------------------------------------------------------------------------------------------------------------- packing


def lanes(rows: Array, blocks: int, order: Sequence[int]) -> Array:
    """(gates, hidden, k), which has the gates in `order`, as (blocks, k, gates, 16); zeros behind the last row."""
    gates, hidden, width = rows.shape
    if hidden < blocks * BLOCK or list(order) != list(range(gates)):
        given, rows = rows, np.zeros((gates, blocks * BLOCK, width), rows.dtype)
        for gate, held in enumerate(order):
            rows[gate, :hidden] = given[held]
    laid: Array = rows.reshape(gates, blocks, BLOCK, width).transpose(1, 3, 0, 2)
    return laid


def _bytes(array: Array) -> Array:
    """(blocks, ...) as (blocks, bytes), filled up to a line."""
    flat = np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8)
    return np.pad(flat, ((0, 0), (0, -flat.shape[1] % _LINE)))


def _operand(rows: Array, blocks: int, precision: str, order: Sequence[int]) -> list[Array]:
    """The weights of an operand (gates, hidden, k), per block."""
    gates, _, width = rows.shape
    if width == 0:
        return []
    if precision == "bfloat16":
        return [_bytes(lanes(halved(rows), blocks, order))]
    bits = BITS[precision]
    whole, scales = quantised(rows, 2 ** (bits - 1) - 1)
    shared = 32 // bits
    whole = np.pad(whole, ((0, 0), (0, 0), (0, -width % shared)))
    laid = lanes(whole, blocks, order).reshape(blocks, -1, shared, gates, BLOCK).transpose(0, 1, 3, 4, 2)
    if bits == 8:
        laid = laid[..., [0, 2, 1, 3]].view(np.uint8) ^ 0x80
    heads = [_bytes(lanes(scales, blocks, order))]
    if precision in CENTRED:
        sums = (whole.sum(axis=-1, keepdims=True, dtype=np.int64) * scales.astype(np.float64)).astype(np.float32)
        heads.append(_bytes(lanes(sums, blocks, order)))
    return [*heads, _bytes(laid)]


def _joined(parts: list[Array]) -> Array:
    """Blocks one behind the other, on a cache line."""
    out = aligned_empty(sum(part.size for part in parts), np.uint8)
    np.concatenate(parts, axis=1, out=out.reshape(len(parts[0]), -1))
    return out


def _pack_lstm(
    w: ArrayLike, r: ArrayLike, b: ArrayLike, dtype: Any, order: Sequence[int] = (0, 1, 2, 3), *, precision: str
) -> Array:
    w, r, b = np.asarray(w), np.asarray(r), np.asarray(b)
    hidden = w.shape[0] // 4
    blocks = _count(hidden)
    bias = lanes(b.astype(np.float32).reshape(4, hidden, 1), blocks, order)
    operands = (m.reshape(4, hidden, m.shape[1]) for m in (w, r))
    return _joined([_bytes(bias), *(part for m in operands for part in _operand(m, blocks, precision, order))])


def _pack_gru(
    w: ArrayLike,
    r: ArrayLike,
    b_ih: ArrayLike,
    b_hh: ArrayLike,
    dtype: Any,
    order: Sequence[int] = (0, 1, 2),
    *,
    precision: str,
) -> Array:
    w, r = np.asarray(w), np.asarray(r)
    hidden = r.shape[1]
    blocks = _count(hidden)
    b_x = np.asarray(b_ih, np.float64).reshape(3, hidden, 1)[list(order)]
    b_h = np.asarray(b_hh, np.float64).reshape(3, hidden, 1)[list(order)]
    bias = np.concatenate([b_x[:2] + b_h[:2], b_x[2:], b_h[2:]]).astype(np.float32)
    operands = (m.reshape(3, hidden, m.shape[1]) for m in (w, r))
    parts = [part for m in operands for part in _operand(m, blocks, precision, order)]
    return _joined([_bytes(lanes(bias, blocks, range(4))), *parts])


def _dense(operands: list[Array], bias: Array, precision: str) -> Array:
    """Full groups of four blocks, then the narrow one."""
    columns = len(bias)
    full = columns // (_GROUP * BLOCK) * _GROUP * BLOCK
    groups = []
    for first, last, gates in ((0, full, _GROUP), (full, columns, _count(columns - full))):
        if first == last:
            continue
        count = _count(last - first) // gates

        def arranged(
            rows: Array, gates: int = gates, count: int = count, first: int = first, last: int = last
        ) -> Array:
            filled = np.zeros((count * gates * BLOCK, rows.shape[1]), rows.dtype)
            filled[: last - first] = rows[first:last]
            # (count, gates, 16, k) as (gates, count * 16, k): a group is a block of `gates` gates.
            blocks: Array = filled.reshape(count, gates, BLOCK, -1).transpose(1, 0, 2, 3)
            return blocks.reshape(gates, count * BLOCK, -1)

        parts = [_bytes(lanes(arranged(bias.reshape(-1, 1).astype(np.float32)), count, range(gates)))]
        for rows in operands:
            parts += _operand(arranged(rows), count, precision, range(gates))
        groups.append(_joined(parts))
    out = aligned_empty(sum(group.size for group in groups), np.uint8)
    np.concatenate(groups, out=out)
    return out


def _pack_linear(w: ArrayLike, b: ArrayLike | None, dtype: Any, *, precision: str) -> Array:
    w = np.asarray(w)
    bias: Array = np.zeros(len(w)) if b is None else np.asarray(b)
    return _dense([w], bias, precision)


def _pack_rnn(w: ArrayLike, r: ArrayLike, b: ArrayLike, dtype: Any, *, precision: str) -> Array:
    return _dense([np.asarray(w), np.asarray(r)], np.asarray(b), precision)


_TIERS: dict[str, Callable[..., Array]]
_TIERS = {"lstm": _pack_lstm, "gru": _pack_gru, "rnn": _pack_rnn, "linear": _pack_linear}


def packer(name: str, precision: str) -> Callable[..., Array]:
    """What packs the weights of a kernel: the functions of `pack`, or for a tier their likes, of the same arguments."""
    real: Callable[..., Array] = getattr(pack, f"pack_{name}")
    return real if precision == "float32" else partial(_TIERS[name], precision=precision)
