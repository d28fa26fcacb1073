"""Whether a program stays inside its memory: every kernel call held against what `kernels/abi.h` says that it touches.

Lowering makes calls that do, for every graph that an importer can write. A `.gatestep` file can hold graphs that none
writes, with attributes of any value. So nothing is believed: each view must lie in its buffer, and each kernel's sizes
and strides in its views' buffers, before a program is ever bound to memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from ..kernels import pack, tiers
from ..kernels.precision import BITS, PRECISIONS
from .errors import GatestepError, ModelFormatError, ShapeError
from .lowering import Instruction, NeedsValue

if TYPE_CHECKING:
    from .program import Program

__all__ = ["REACHES", "check", "fitting", "multiplied"]

#: What a call touches: slot, and the first and one past the last element from the view's start; bytes per element where
#: that is not the view's own.
Reach = tuple[int, int, int, int]
N = Sequence[int]
#: Bytes of GS_T_*, in order.
SIZES = (1, 1, 1, 2, 4, 8, 2, 4, 8, 2, 4)


def dense(slot: int, *sizes: int, size: int = 0) -> Reach:
    """A dense array of these sizes."""
    return slot, 0, _positive(*sizes), size


def strided(slot: int, shape: Sequence[int], strides: Sequence[int], size: int = 0) -> Reach:
    """An array with strides."""
    if _positive(*shape) == 0:
        return slot, 0, 0, size
    ends = [(n - 1) * step for n, step in zip(shape, strides, strict=True)]
    return slot, sum(min(end, 0) for end in ends), sum(max(end, 0) for end in ends) + 1, size


def _positive(*sizes: int) -> int:
    if any(size < 0 for size in sizes):
        raise ShapeError(f"a negative size among {sizes}")
    return math.prod(sizes)


def recurrent(weights: Callable[[int, int, int], int], precision: str = "") -> Callable[[N], Iterator[Reach]]:
    """lstm, gru and rnn, with the number of packed weights for I, H, P: in a precision tier, the number of bytes."""

    def reaches(n: N) -> Iterator[Reach]:
        t, b, i, h, p = n[:5]
        yield strided(0, (t, b, i), (*n[5:7], 1))
        yield dense(1, weights(i, h, p))
        yield dense(2, b, p)
        yield dense(3, b, h)
        yield strided(4, (t, b, p), (*n[7:9], 1))
        yield dense(5, b, p)
        yield dense(6, b, h)
        yield dense(7, 3 * blocks(h))
        yield (
            dense(8, tiers.packed_bytes("linear", [h], p, precision), size=1)
            if precision
            else dense(8, blocks(p) * (1 + h))
        )
        rows = tiers.scratch(pack.ahead(t, b) * b, i) + tiers.scratch(b, max(h, p)) if precision in BITS else 0
        yield dense(9, pack.scratch(t, b, h) + rows)
        yield dense(10, b)

    return reaches


def blocks(size: int) -> int:
    """`size` as whole blocks."""
    return _positive(-(-size // pack.BLOCK)) * pack.BLOCK


def linear(precision: str = "") -> Callable[[N], Iterator[Reach]]:
    """The dense layer."""

    def reaches(n: N) -> Iterator[Reach]:
        rows, k, columns = n[:3]
        yield strided(0, (rows, k), (n[3], 1))
        yield dense(
            1, tiers.packed_bytes("linear", [k], columns, precision) if precision else blocks(columns) * (1 + k)
        )
        yield strided(4, (rows, columns), (n[4], 1))
        if precision in BITS:
            yield dense(9, tiers.scratch(rows, k))

    return reaches


def tiered(precision: str) -> dict[str, Callable[[N], Iterator[Reach]]]:
    """The kernels of a precision tier."""

    def cell(name: str) -> Callable[[N], Iterator[Reach]]:
        return recurrent(lambda i, h, p: tiers.packed_bytes(name, [i, p], h, precision), precision)

    found = {name: cell(name) for name in ("lstm", "gru", "rnn")} | {"linear": linear(precision)}
    return {tiers.kernel(name, precision): reaches for name, reaches in found.items()}


def matmul(n: N) -> Iterator[Reach]:
    batch, m, k, columns = n[:4]
    yield strided(0, (batch, m, k), (n[4], n[6], n[7]))
    yield strided(1, (batch, k, columns), (n[5], n[8], n[9]))
    yield dense(4, batch, m, columns)


def depthwise(n: N) -> Iterator[Reach]:
    channels, rows, sizes = n[0], n[1:4], n[7:9]
    yield strided(0, (*rows, *sizes, channels), (*n[4:7], *n[9:11], 1))
    yield dense(1, *sizes, channels)
    yield dense(2, channels)
    yield dense(4, *rows, channels)


def broadcast(first: int, second: int) -> Callable[[N], Iterator[Reach]]:
    """Two operands walked together, into a dense result."""

    def reaches(n: N) -> Iterator[Reach]:
        shape = n[2 : 2 + axes(n[1])]
        yield strided(first, shape, n[8 : 8 + n[1]])
        yield strided(second, shape, n[14 : 14 + n[1]])
        yield dense(4, *shape)
        if first == 1:  # the condition of `where`
            yield dense(0, *shape)

    return reaches


def axes(count: int) -> int:
    if not 0 <= count <= 6:
        raise ShapeError(f"{count} axes")
    return count


def copied(n: N) -> Iterator[Reach]:
    shape = n[1 : 1 + axes(n[0])]
    yield strided(0, shape, n[7 : 7 + n[0]], n[19])
    yield strided(4, shape, n[13 : 13 + n[0]], n[19])


def normalised(n: N) -> Iterator[Reach]:
    yield dense(0, n[0], n[1])
    yield dense(4, n[0], n[1])
    yield dense(1, n[1])
    yield dense(2, n[1])


def found(n: N) -> Iterator[Reach]:
    if n[2] > n[1]:
        raise ShapeError(f"{n[2]} best of {n[1]}")
    yield dense(0, n[0], n[1], size=SIZES[n[4]])
    yield dense(4, n[0], n[2], size=SIZES[n[4]])
    yield dense(5, n[0], n[2], size=8)


def place(n: N) -> Iterator[Reach]:
    shape = n[1 : 1 + axes(n[0])]
    yield dense(0, *shape, size=8)
    yield dense(4, *shape, size=8)


def copied_at(n: N) -> Iterator[Reach]:
    """Where the counter stands at 0; how far it goes is the loop's to know."""
    yield from copied(n)
    yield dense(1, 1, size=8)


def channels(n: N) -> Iterator[Reach]:
    """To, from and between quantised numbers, with a scale and a zero point for each channel."""
    for slot in (0, 4):
        yield dense(slot, *n[:3])
    for slot in (1, 2):
        yield dense(slot, n[1])


def matmul_i16(n: N) -> Iterator[Reach]:
    yield strided(0, (n[0], n[1], n[3]), (n[4], n[6], 1))
    yield strided(1, (n[0], n[2], n[3]), (n[5], n[7], 1))
    yield dense(4, *n[:3])


def quantised_lstm(n: N) -> Iterator[Reach]:
    t, b, h = n[0], n[1], n[3]
    yield dense(0, t, b, 4 * h)
    yield dense(1, 4 * h, h)
    yield strided(4, (t, b, h), (*n[7:9], 1))
    for slot in (2, 3, 5, 6):
        yield dense(slot, b, h)
    for slot, size in ((7, 3 * h), (8, 4 * h), (9, 4 * h + b * h), (10, b), (11, 4 * h)):
        yield dense(slot, size)


def all_dense(*arrays: tuple[int, Callable[[N], int]]) -> Callable[[N], Iterator[Reach]]:
    """Dense arrays, each of as many bytes or elements as its function of the sizes says."""

    def reaches(n: N) -> Iterator[Reach]:
        for slot, count in arrays:
            yield slot, 0, _positive(count(n)), 0

    return reaches


def in_bytes(*arrays: tuple[int, Callable[[N], int]]) -> Callable[[N], Iterator[Reach]]:
    """As `all_dense`, counted in bytes."""

    def reaches(n: N) -> Iterator[Reach]:
        for slot, low, high, _ in all_dense(*arrays)(n):
            yield slot, low, high, 1

    return reaches


#: What each kernel touches beyond its views being in their buffers. Where a kernel reads a place from memory, the
#: kernel before it has checked that place.
REACHES: dict[str, Callable[[N], Iterator[Reach]]] = {
    "lstm": recurrent(lambda i, h, p: 4 * blocks(h) * (1 + i + p)),
    "gru": recurrent(lambda i, h, p: blocks(h) * (4 + 3 * (i + p))),
    "rnn": recurrent(lambda i, h, p: blocks(h) * (1 + i + p)),
    "linear": linear(),
    "matmul": matmul,
    "depthwise": depthwise,
    "unary": all_dense((0, lambda n: n[0]), (4, lambda n: n[0])),
    "binary": broadcast(0, 1),
    "binary_i64": broadcast(0, 1),
    "compare": broadcast(0, 1),
    "where": broadcast(1, 2),
    "reduce": all_dense((0, lambda n: n[0] * n[1] * n[2]), (4, lambda n: n[0] * n[2])),
    "reduce_i64": all_dense((0, lambda n: n[0] * n[1]), (4, lambda n: n[0])),
    "softmax": all_dense((0, lambda n: n[0] * n[1]), (4, lambda n: n[0] * n[1])),
    "layernorm": normalised,
    "copy": copied,
    "cast": in_bytes((0, lambda n: n[0] * SIZES[n[1]]), (4, lambda n: n[0] * SIZES[n[2]])),
    "copy_at": copied_at,
    "jump": in_bytes((0, lambda n: 1)),
    "count": in_bytes((0, lambda n: 8), (1, lambda n: 8), (4, lambda n: 8)),
    "beside": all_dense(),
    "check_range": all_dense((0, lambda n: n[0])),
    "gather": in_bytes(
        (0, lambda n: n[0] * n[1] * n[2]), (1, lambda n: 8 * _positive(n[3])), (4, lambda n: n[0] * n[3] * n[2])
    ),
    "argmax": in_bytes((0, lambda n: n[0] * n[1] * SIZES[n[2]]), (4, lambda n: 8 * n[0])),
    "topk": found,
    "cumsum": in_bytes(*((slot, lambda n: n[0] * n[1] * n[2] * SIZES[n[5]]) for slot in (0, 4))),
    "reverse_sequence": in_bytes(
        (0, lambda n: n[0] * n[1] * n[2]), (1, lambda n: 8 * n[0]), (4, lambda n: n[0] * n[1] * n[2])
    ),
    "element_index": place,
    "tuple_index": in_bytes((0, lambda n: 8 * n[0] * n[1]), (4, lambda n: 8 * n[0])),
    "scatter": in_bytes((0, lambda n: n[0] * n[1] * n[4]), (1, lambda n: 8 * n[0])),
    "quantise": channels,
    "dequantise": channels,
    "centre": channels,
    "quantise_dynamically": all_dense((0, lambda n: n[0]), (4, lambda n: n[0]), (5, lambda n: 1), (6, lambda n: 1)),
    "matmul_i16": matmul_i16,
    "quantised_lstm": quantised_lstm,
    "begin": in_bytes(
        *((slot, lambda n: n[0] * n[1] * n[2] * n[3]) for slot in (0, 4)), (1, lambda n: 8), (2, lambda n: n[3])
    ),
    "hold": in_bytes((0, lambda n: n[0]), (1, lambda n: 8), (4, lambda n: n[0])),
    "tick": in_bytes((4, lambda n: 8)),
    "running": all_dense(
        (0, lambda n: n[0] * n[1] * n[2]),
        (4, lambda n: n[0] * (n[1] if n[4] else 1) * n[2]),
        (5, lambda n: n[0] * n[2]),
        (6, lambda n: 1),
    ),
    **{name: reaches for precision in PRECISIONS[:-1] for name, reaches in tiered(precision).items()},
}


#: What a number of a kernel call can be, whatever it stands for.
FURTHEST = 2**63 - 1


def check(instructions: Sequence[Instruction], packed: Sequence[np.ndarray | None], source: str) -> None:
    """Refuse a program that leaves its memory.

    Parameters
    ----------
    instructions : sequence of Instruction
    packed : sequence of numpy.ndarray or None
        The packed weights of each.
    source : str
        For the message.

    Raises
    ------
    ShapeError
    """
    for instruction, weights in zip(instructions, packed, strict=True):
        try:
            numbers = instruction.n
            if numbers and not -FURTHEST <= min(numbers) <= max(numbers) <= FURTHEST:
                raise ShapeError(f"a number beyond {FURTHEST}")
            for slot, view in instruction.p.items():
                _, low, high, _ = strided(slot, view.shape, view.strides)
                inside(slot, view.offset + low, view.offset + high, view.buffer.count, high > low)
            reaches = REACHES.get(instruction.kernel)
            for slot, low, high, size in reaches(instruction.n) if reaches is not None else ():
                if slot == 1 and weights is not None:
                    inside(slot, low, high, weights.size, high > low)
                elif slot in instruction.p:
                    view = instruction.p[slot]
                    size, own = size or view.dtype.itemsize, view.dtype.itemsize
                    start = view.offset * own
                    inside(slot, start + low * size, start + high * size, view.buffer.nbytes, high > low)
        except (ShapeError, IndexError) as error:
            what = f"{instruction.kernel} would leave its memory ({error})"
            raise ShapeError(f"{source}: {instruction.node.label}: {what}") from error


@contextmanager
def fitting(stored: bool, source: str) -> Iterator[None]:
    """Say of a stored layout that does not fit its graph that it does not, whatever Python says of it."""
    try:
        yield
    except GatestepError:
        raise
    except NeedsValue as needs:
        raise needs.error from None
    except (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, TypeError, ValueError) as error:
        if not stored:
            raise
        raise ModelFormatError(f"{source}: the layout does not fit the graph ({error!r})"[:300]) from error


def multiplied(one: Program, many: Program, frames: int, still: Sequence[bool], source: str) -> None:
    """Whether the program for `frames` frames takes and gives that many times what the program for one does.

    The caller's arrays have that size. `still` says of each input whether one serves all frames.
    """
    pairs = zip([*one.inputs, *one.outputs], [*many.inputs, *many.outputs], strict=True)
    for k, (first, other) in enumerate(pairs):
        if other.count != first.count * (1 if k < len(still) and still[k] else frames):
            raise ShapeError(f"{source}: the layout says that frames can be computed in one go, and they cannot")


def inside(slot: int, low: int, high: int, size: int, touches: bool) -> None:
    if touches and not 0 <= low <= high <= size:
        raise ShapeError(f"slot {slot}: from {low:,} to {high:,} of {size:,}")
