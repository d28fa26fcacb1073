"""What a compiled kernel is compiled for. Nothing here needs Numba: a kernel on disk is found by its `Shape` alone."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["NAMES", "Kind", "Shape", "shape_of"]

#: The kernels that are compiled; the place of the number of rows in `n`.
NAMES = {"lstm": 1, "gru": 1, "rnn": 1, "linear": 0}


class Kind(NamedTuple):
    """What the machine vectors of a kernel are.

    Attributes
    ----------
    bits : {32, 64}
        Of a lane.
    lanes : int
    fused : bool
        The instruction set has a fused multiply-add.
    """

    bits: int
    lanes: int
    fused: bool


@dataclass(frozen=True)
class Shape:
    """The constants of a kernel.

    Attributes
    ----------
    name : str
        lstm, gru, rnn or linear.
    kind : Kind
    inputs, state, outputs : int
        I, P and H of abi.h; K, 0 and N of a dense layer.
    activations : tuple of int
        Codes of f, g, h as far as the kernel has them.
    general : bool
        Clip, peepholes, a projection or activations other than the usual.
    variant : int
        Coupling of an LSTM; 1 for a GRU that resets before the product.
    single : bool
        There is one row.
    row_tile : int
        Rows of a full tile: as many as leave their sums in registers.
    full : bool
        The rows fill at least one full tile.
    rest : tuple of int
        The rows behind the full tiles, in tiles.
    """

    name: str
    kind: Kind
    inputs: int
    state: int
    outputs: int
    activations: tuple[int, ...]
    general: bool
    variant: int
    single: bool
    row_tile: int
    full: bool
    rest: tuple[int, ...]


def _kind(isa: str, bits: int) -> tuple[Kind, int]:
    """Machine vectors of an instruction set, and rows of a full tile."""
    if isa == "avx512":
        return Kind(bits, 512 // bits, True), 4
    if isa == "avx2":
        return Kind(bits, 256 // bits, True), 3
    arm = platform.machine().lower() in ("aarch64", "arm64")
    return Kind(bits, 128 // bits, arm), 4 if arm else 2


#: Rows left over -> tiles.
_REST: dict[int, tuple[int, ...]] = {0: (), 1: (1,), 2: (2,), 3: (2, 1), 4: (2, 2)}


def shape_of(name: str, n: Sequence[int], isa: str, bits: int) -> Shape:
    """The shape of kernel `name` for the sizes `n` of its call, which has at least one row."""
    kind, row_tile = _kind(isa, bits)
    batch = int(n[NAMES[name]])
    left = batch % row_tile
    if row_tile == 3 and left == 1 and batch > 1:
        left = 4  # two twos rather than three and one
    if name == "linear":
        inputs, state, outputs, activations, general, variant = n[1], 0, n[2], n[5:6], False, 0
    else:
        inputs, state, outputs, general, variant = n[2], n[4], n[3], bool(n[11]), n[15]
        activations = n[12 : 12 + {"lstm": 3, "gru": 2, "rnn": 1}[name]]
    return Shape(
        name,
        kind,
        int(inputs),
        int(state),
        int(outputs),
        tuple(map(int, activations)),
        general=general,
        variant=int(variant) if general else 0,
        single=batch == 1,
        row_tile=row_tile,
        full=batch - left > 0 and batch > 1,
        rest=() if batch == 1 else _REST[left],
    )
