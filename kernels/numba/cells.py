"""LSTM, GRU, RNN and the dense layer, as abi.h has them, for sizes that are known.

The counterpart of fused.pxi. A *unit* is one machine vector of a block of 16 outputs; a *tile* is some rows times some
units, whose sums stay in registers while the weights pass by once. Every output has one accumulator, which starts with
the bias and takes x, then h, both ascending: whatever the tile, a row's bits are the same.

A step is a Python function over the values of vector.py: it runs once, to emit itself, and what it closes over are
constants of the code. Numba compiles the loops around it, over time and over rows with lengths; pointers are whole
numbers there.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

from .activations import (
    ACTIVATIONS,
    IDENTITY,
    THRESHOLDED_RELU,
    clamp,
    sigmoid,
    tanh,
    thresholded_relu_of_a_cell,
)
from .shape import Shape
from .vector import Index, Reals, Vector, clear, copy, either, emitted, int32, loop, muladd, set_word, times, when, word

__all__ = ["kernel"]

BLOCK = 16
#: Reals per k of an LSTM block or a full group of dense blocks, and of a GRU block.
WIDE, NARROW = 4 * BLOCK, 3 * BLOCK
#: Where n and f of gs_args start, in 8-byte words.
N, F = 12, 36


class Step(NamedTuple):
    """What one time step of a layer reads and writes; `x` and `h` are the operands of the sums.

    Addresses, but for the strides and the number of rows; to Numba, whole numbers.
    """

    args: Index
    w: Index
    x: Index
    h: Index
    y: Index
    c: Index
    scratch: Index
    x_stride: Index
    h_stride: Any
    y_stride: Index
    batch: Any


#: tile(step, unit, row)
Tile = Callable[[Step, Index, Index], None]
#: make_tile(rows, units)
MakeTile = Callable[[int, int], Tile]
#: step_pass(step, backwards)
Pass = Callable[[Step, Index], None]
#: Of a tile: [gate][row][unit]
Sums = list[list[list[Vector]]]


def _blocks(count: int) -> int:
    return -(-count // BLOCK)


# ------------------------------------------------------------------------------------------------------ parts of a tile


class Layer:
    """What its tiles share: packed blocks of `block` reals, `width` outputs, units taken `span` at a time."""

    def __init__(self, shape: Shape, block: int, width: int, span: int = 2) -> None:
        self.kind, self.block, self.width, self.span = shape.kind, block, width, span
        self.parts = BLOCK // self.kind.lanes
        self.units = -(-width // self.kind.lanes)

    def reals(self, address: Index) -> Reals:
        """The reals at an address."""
        return Reals.at(self.kind, address)

    def weights(self, step: Step, unit: Index, units: int) -> list[Reals]:
        """Where the weights of some units start."""
        first = self.reals(step.w) + (unit // self.parts * self.block + unit % self.parts * self.kind.lanes)
        # A group of units starts with a block, or lies within one.
        return [first + (k // self.parts * self.block + k % self.parts * self.kind.lanes) for k in range(units)]

    def rooms(self, unit: Index, units: int) -> list[Index | None]:
        """What is left of a row from each unit on, where it may be less than a machine vector."""
        lanes = self.kind.lanes
        # Only the last unit of all can be; it is in no full group if the units are not a whole number of those.
        whole = self.width % lanes == 0 or (units == self.span and self.units % self.span != 0)
        return [None] * units if whole else [None] * (units - 1) + [self.width - (unit + (units - 1)) * lanes]


def _biases(w: list[Reals], rows: int, gates: int) -> Sums:
    """What the sums of a tile start with."""
    return [[[unit.load(aligned=True) for unit in (p + gate * BLOCK for p in w)]] * rows for gate in range(gates)]


def _add_products(sums: Sums, w: list[Reals], wide: int, x: Reals, x_stride: Index, size: int) -> Sums:
    """sums[gate][row][unit] += w[unit][k, gate] * x[row, k] for ascending k; `wide` reals of a block per k."""
    (joined,) = _add_joined([(sums, w, wide)], x, x_stride, size)
    return joined


def _add_joined(parts: list[tuple[Sums, list[Reals], int]], x: Reals, x_stride: Index, size: int) -> list[Sums]:
    """The same for several sets of sums side by side."""
    rows = len(parts[0][0][0])

    def body(k: Index, vectors: list[Vector]) -> list[Vector]:
        inputs = [(x + (x_stride * row + k)).everywhere() for row in range(rows)]
        old, new = iter(vectors), []
        for sums, w, wide in parts:
            for gate in range(len(sums)):
                weights = [(p + (k * wide + gate * BLOCK)).load(aligned=True) for p in w]
                new += [muladd(weight, inputs[row], next(old)) for row in range(rows) for weight in weights]
        return new

    flat = [v for sums, _, _ in parts for gate in sums for row in gate for v in row]
    added = iter(loop(size, flat, body))
    return [[[[next(added) for _ in row] for row in gate] for gate in sums] for sums, _, _ in parts]


def _ahead(w: list[Reals], count: int) -> list[Reals]:
    return [p + count for p in w]


def _activation(code: int, place: int, clipped: bool, cell: bool) -> Callable[[Step, Vector], Vector]:
    """The activation of a vector; its alpha and beta are f[place] and f[place + 1], its clip f[0]."""
    function = thresholded_relu_of_a_cell if cell and code == THRESHOLDED_RELU else ACTIVATIONS[code]

    def activate(step: Step, x: Vector) -> Vector:
        def scalar(k: int) -> Vector:
            return Reals.at(x.kind, step.args).double(F + k)

        if clipped:
            x = clamp(x, -scalar(0), scalar(0))
        return function(x, scalar(place), scalar(place + 1))

    return activate


# ---------------------------------------------------------------------------------------------------- tiles over a step


def _over_rows(shape: Shape, make_tile: MakeTile, units: int) -> Callable[[Step, Index], None]:
    """A group of `units` units of all rows."""
    row_tile, rest = shape.row_tile, sum(shape.rest)

    def run(rows: int, step: Step, unit: Index, row: Index) -> None:
        if units == 1 or rows == 1 or (rows == 2 and row_tile == 4):
            make_tile(rows, units)(step, unit, row)
        else:
            tile = make_tile(rows, 1)
            times(unit.like(units), lambda one: tile(step, unit + one, row))

    def over_rows(step: Step, unit: Index) -> None:
        def one_row() -> None:
            run(1, step, unit, unit.like(0))

        def all_rows() -> None:
            row = step.batch - rest
            if shape.full:
                times(row // row_tile, lambda k: run(row_tile, step, unit, k * row_tile))
            for rows in shape.rest:
                run(rows, step, unit, row)
                row = row + rows

        if shape.single:
            one_row()
        elif shape.name == "linear":
            all_rows()
        else:  # sequences with lengths go row by row
            either(step.batch - 1, all_rows, one_row)

    return over_rows


def _over_units(shape: Shape, make_tile: MakeTile, start: int, units: int, span: int = 2) -> Pass:
    """One pass over the weights of `units` units from `start` on, `span` at a time, from either end.

    The end of the last pass is still in the cache: a pass that starts there finds some of its weights closer.
    """
    groups, left = -(-units // span), units % span
    full, last = _over_rows(shape, make_tile, span), _over_rows(shape, make_tile, left)

    def over_units(step: Step, backwards: Index) -> None:
        if units < span:
            last(step, backwards.like(start))
            return
        # The direction is no condition in the loop: LLVM would write the loop out for either.
        first, by = backwards.choose(start + span * (groups - 1), start), backwards.choose(-span, span)

        def group(k: Index) -> None:
            unit = first + by * k
            if left:
                either(unit - (start + units - left), lambda: full(step, unit), lambda: last(step, unit))
            else:
                full(step, unit)

        times(backwards.like(groups), group)

    return over_units


# ---------------------------------------------------------------------------------------------------------------- LSTM


def _lstm_cell(step: Step, sums: list[Vector], c: Vector, lane: Index) -> tuple[Vector, Vector]:
    """c = sigmoid(f) * c + sigmoid(i) * tanh(g);  h = sigmoid(o) * tanh(c)."""
    i, f, g, o = sigmoid(sums[0]), sigmoid(sums[1]), tanh(sums[2]), sigmoid(sums[3])
    c = muladd(f, c, i * g)
    return o * tanh(c), c


def _lstm_cell_general(shape: Shape) -> Callable[..., tuple[Vector, Vector]]:
    """The same with any activations, clip, peepholes (rows i, f, o), coupled input and forget gates."""
    padded = _blocks(shape.outputs) * BLOCK
    gate, cell = (_activation(shape.activations[k], 1 + 2 * k, True, True) for k in range(2))
    out = _activation(shape.activations[2], 5, False, True)

    def lstm_cell(step: Step, sums: list[Vector], c: Vector, lane: Index) -> tuple[Vector, Vector]:
        peepholes = step.args.word(7)

        def peephole(row: int, c: Vector, x: Vector) -> Vector:
            p = Reals.at(shape.kind, peepholes) + (lane + row * padded)
            return when(peepholes, lambda: muladd(p.load(aligned=True), c, x), x)

        i, f, g, o = sums
        i, f = gate(step, peephole(0, c, i)), gate(step, peephole(1, c, f))
        if shape.variant == 1:
            f = 1.0 - i
        elif shape.variant == 2:
            i = 1.0 - f
        g = cell(step, g)
        c = muladd(f, c, i * g)
        return gate(step, peephole(2, c, o)) * out(step, c), c

    return lstm_cell


def _lstm(shape: Shape) -> Pass:
    inputs, state, width, lanes = shape.inputs, shape.state, shape.outputs, shape.kind.lanes
    layer = Layer(shape, WIDE * (1 + inputs + state), width)
    cell = _lstm_cell_general(shape) if shape.general else _lstm_cell

    def make_tile(rows: int, units: int) -> Tile:
        def tile(step: Step, unit: Index, row: Index) -> None:
            w = layer.weights(step, unit, units)
            x = layer.reals(step.x) + row * step.x_stride
            h = layer.reals(step.h) + row * step.h_stride
            sums = _biases(w, rows, 4)
            sums = _add_products(sums, _ahead(w, WIDE), WIDE, x, step.x_stride, inputs)
            sums = _add_products(sums, _ahead(w, WIDE * (1 + inputs)), WIDE, h, step.h_stride, state)
            for r, (u, room) in product(range(rows), enumerate(layer.rooms(unit, units))):
                lane = (unit + u) * lanes
                c_here = layer.reals(step.c) + ((row + r) * width + lane)
                y, c = cell(step, [gate[r][u] for gate in sums], c_here.load(room), lane)
                c_here.store(c, room)
                (layer.reals(step.y) + ((row + r) * step.y_stride + lane)).store(y, room)

        return tile

    gates = _over_units(shape, make_tile, 0, layer.units)
    always = state != width
    if not always and not shape.general:
        return gates
    project = _dense(shape, width, 0, state, _activation(IDENTITY, 0, False, False))
    padded = _blocks(width) * BLOCK

    def projected(step: Step, backwards: Index) -> None:
        w = step.args.word(8)
        there = w.like(1) if always else w
        hidden = step._replace(
            y=there.choose(step.scratch, step.y), y_stride=there.choose(padded, step.y_stride)
        )
        gates(hidden, backwards)
        dense = step._replace(w=w, x=hidden.y, x_stride=hidden.y_stride)
        either(there, lambda: project(dense, w.like(0)), lambda: None)

    return projected


# ----------------------------------------------------------------------------------------------------------------- GRU


def _between(z: Vector, h: Vector, n: Vector) -> Vector:
    """(1 - z) * n + z * h; exactly h for z = 1."""
    return muladd(z, h, (1.0 - z) * n)


def _gru(shape: Shape) -> Pass:
    """n = tanh(n_x + sigmoid(r) * n_h);  h = (1 - z) * n + z * h, with z = sigmoid(z)."""
    inputs, width, lanes = shape.inputs, shape.outputs, shape.kind.lanes
    # Three vectors per k where an LSTM has four: two units leave the load ports idle.
    many = shape.single and shape.row_tile == 4 and not shape.general and width > 7 * lanes
    layer = Layer(shape, WIDE + NARROW * (inputs + width), width, 4 if many else 2)
    gate, candidate = (_activation(shape.activations[k], 1 + 2 * k, shape.general, True) for k in range(2))

    def make_tile(rows: int, units: int) -> Tile:
        def tile(step: Step, unit: Index, row: Index) -> None:
            w = layer.weights(step, unit, units)
            x = layer.reals(step.x) + row * step.x_stride
            h = layer.reals(step.h) + row * step.h_stride
            *r_z, n_x = _add_products(_biases(w, rows, 3), _ahead(w, WIDE), NARROW, x, step.x_stride, inputs)
            r_z_n = r_z + _biases(_ahead(w, 3 * BLOCK), rows, 1)
            r_z_n = _add_products(r_z_n, _ahead(w, WIDE + NARROW * inputs), NARROW, h, step.h_stride, width)
            for k, (u, room) in product(range(rows), enumerate(layer.rooms(unit, units))):
                lane = (unit + u) * lanes
                r, z, n = (sums[k][u] for sums in r_z_n)
                r, z = gate(step, r), gate(step, z)
                n = candidate(step, muladd(r, n, n_x[k][u]))
                y = _between(z, (h + (k * step.h_stride + lane)).load(room), n)
                (layer.reals(step.y) + ((row + k) * step.y_stride + lane)).store(y, room)

        return tile

    return _over_units(shape, make_tile, 0, layer.units, layer.span)


def _gru_reset_before(shape: Shape) -> Pass:
    """Reset before the product, in two passes: r * h is complete before any n starts."""
    inputs, width, lanes = shape.inputs, shape.outputs, shape.kind.lanes
    layer, padded = Layer(shape, WIDE + NARROW * (inputs + width), width), _blocks(width) * BLOCK
    gate, candidate = (_activation(shape.activations[k], 1 + 2 * k, True, True) for k in range(2))

    def kept(step: Step, row: Index, number: int) -> Reals:
        """A row of r * h (0), z (1) or the n gate's sum over x (2), each (B, padded)."""
        place: Index = row + step.batch * number
        return layer.reals(step.scratch) + place * padded

    def make_reset_tile(rows: int, units: int) -> Tile:
        def tile(step: Step, unit: Index, row: Index) -> None:
            """What does not wait for all of r * h."""
            w = layer.weights(step, unit, units)
            x = layer.reals(step.x) + row * step.x_stride
            h = layer.reals(step.h) + row * step.h_stride
            sums = _biases(w, rows, 3)
            *r_z, n = _add_products(sums, _ahead(w, WIDE), NARROW, x, step.x_stride, inputs)
            r_z = _add_products(r_z, _ahead(w, WIDE + NARROW * inputs), NARROW, h, step.h_stride, width)
            for k, (u, room) in product(range(rows), enumerate(layer.rooms(unit, units))):
                lane = (unit + u) * lanes
                r, z = (gate(step, sums[k][u]) for sums in r_z)
                (kept(step, row + k, 0) + lane).store(r * (h + (k * step.h_stride + lane)).load(room))
                (kept(step, row + k, 1) + lane).store(z)
                (kept(step, row + k, 2) + lane).store(n[k][u])

        return tile

    def make_candidate_tile(rows: int, units: int) -> Tile:
        def tile(step: Step, unit: Index, row: Index) -> None:
            """n = g(n_x + R_n (r * h) + bias), and the new h."""
            w = layer.weights(step, unit, units)
            h = layer.reals(step.h) + row * step.h_stride
            bias, of_h = _ahead(w, 3 * BLOCK), _ahead(w, WIDE + NARROW * inputs + 2 * BLOCK)
            stride = row.like(padded)
            (n_h,) = _add_products(_biases(bias, rows, 1), of_h, NARROW, kept(step, row, 0), stride, width)
            for k, (u, room) in product(range(rows), enumerate(layer.rooms(unit, units))):
                lane = (unit + u) * lanes
                n = candidate(step, (kept(step, row + k, 2) + lane).load() + n_h[k][u])
                z = (kept(step, row + k, 1) + lane).load()
                y = _between(z, (h + (k * step.h_stride + lane)).load(room), n)
                (layer.reals(step.y) + ((row + k) * step.y_stride + lane)).store(y, room)

        return tile

    reset = _over_units(shape, make_reset_tile, 0, layer.units)
    finish = _over_units(shape, make_candidate_tile, 0, layer.units)

    def both(step: Step, backwards: Index) -> None:
        reset(step, backwards)
        finish(step, 1 - backwards)

    return both


# ------------------------------------------------------------------------------------------------------- dense and RNN


def _dense(
    shape: Shape, inputs: int, state: int, columns: int, activate: Callable[[Step, Vector], Vector]
) -> Pass:
    """y = activate(bias + W x + R h): groups of four blocks, and a narrow one of what is left."""
    lanes = shape.kind.lanes
    layer = Layer(shape, WIDE * (1 + inputs + state), columns)
    parts = layer.parts
    groups, left = columns // WIDE, columns % WIDE
    full_units, narrow_gates, narrow_units = groups * parts, _blocks(left), min(-(-left // lanes), parts)

    def add_all(tiles: list[tuple[list[Reals], int]], step: Step, row: Index, rows: int) -> list[Sums]:
        """The sums of tiles side by side, each given by its weights and gates."""
        x = layer.reals(step.x) + row * step.x_stride
        h = layer.reals(step.h) + row * step.h_stride
        sums = [_biases(w, rows, gates) for w, gates in tiles]
        for before, operand, stride, size in ((1, x, step.x_stride, inputs), (1 + inputs, h, step.h_stride, state)):
            here = [
                (sum_, _ahead(w, before * gates * BLOCK), gates * BLOCK)
                for sum_, (w, gates) in zip(sums, tiles, strict=True)
            ]
            sums = _add_joined(here, operand, stride, size)
        return sums

    def finish(sums: Sums, step: Step, unit: Index, row: Index) -> None:
        for gate, r in product(range(len(sums)), range(len(sums[0]))):
            for u, x in enumerate(sums[gate][r]):
                column = (unit + u) // parts * WIDE + (unit + u) % parts * lanes + gate * BLOCK
                ragged = len(sums) == narrow_gates == gate + 1 and left % BLOCK
                y = layer.reals(step.y) + ((row + r) * step.y_stride + column)
                y.store(activate(step, x), columns - column if ragged else None)

    def make_tile_of(gates: int) -> MakeTile:
        def make_tile(rows: int, units: int) -> Tile:
            def tile(step: Step, unit: Index, row: Index) -> None:
                (sums,) = add_all([(layer.weights(step, unit, units), gates)], step, row, rows)
                finish(sums, step, unit, row)

            return tile

        return make_tile

    def joined(rows: int, units: int) -> Tile:
        """The last full units and the narrow group behind them, whose few sums alone would only wait."""

        def tile(step: Step, unit: Index, row: Index) -> None:
            full, narrow = layer.weights(step, unit, units), layer.weights(step, unit + units, narrow_units)
            both = add_all([(full, 4), (narrow, narrow_gates)], step, row, rows)
            finish(both[0], step, unit, row)
            finish(both[1], step, unit + units, row)

        return tile

    if not left:
        return _over_units(shape, make_tile_of(4), 0, full_units)
    if not groups:
        return _over_units(shape, make_tile_of(narrow_gates), 0, narrow_units)
    if shape.single and parts <= 2:  # the sums of both fit in registers
        front_units = (full_units - 1) // 2 * 2
        back = _over_units(shape, joined, front_units, full_units - front_units)
        if not front_units:
            return back
    else:
        front_units, back = full_units, _over_units(shape, make_tile_of(narrow_gates), full_units, narrow_units)
    front = _over_units(shape, make_tile_of(4), 0, front_units)

    def both(step: Step, backwards: Index) -> None:
        front(step, backwards)
        back(step, backwards.like(0))

    return both


# ----------------------------------------------------------------------------------------------------- kernels of abi.h


def _linear(shape: Shape) -> Callable[[Any], int]:
    activate = _activation(shape.activations[0], 0, False, False)
    single, one_pass = shape.single, emitted(_dense(shape, shape.inputs, 0, shape.outputs, activate))

    def linear(args):  # type: ignore[no-untyped-def]
        x, w, y = word(args, 0), word(args, 1), word(args, 4)
        rows = 1 if single else word(args, N)
        one_pass(Step(args, w, x, x, y, y, x, word(args, N + 3), 0, word(args, N + 4), rows), 0)
        return 0

    return linear


def _sequence(shape: Shape, step_pass: Pass) -> Callable[[Any], int]:
    """Time steps of all rows; with lengths, of each row by itself."""
    single, lstm, real = shape.single, shape.name == "lstm", shape.kind.bits // 8
    one_step, state_row = emitted(step_pass), shape.state
    state, width = shape.state * real, shape.outputs * real  # in bytes

    def sequence(args):  # type: ignore[no-untyped-def]
        rows = 1 if single else word(args, N + 1)
        steps, reverse, backwards = word(args, N), word(args, N + 9), word(args, N + 10) & 1
        x_time, x_row, y_time, y_row = word(args, N + 5), word(args, N + 6), word(args, N + 7), word(args, N + 8)
        w, c, scratch, lengths = word(args, 1), word(args, 6), word(args, 9), word(args, 10)
        if lstm:
            copy(c, word(args, 3), rows * width)
        together = rows if lengths == 0 else 1
        first = 0
        while first < rows:
            awake = steps if lengths == 0 else min(max(int32(lengths, first), 0), steps)
            x, y = word(args, 0) + first * x_row * real, word(args, 4) + first * y_row * real
            h, hn = word(args, 2) + first * state, word(args, 5) + first * state
            h_row = 0 if single else state_row
            # As in over_units, the direction is no condition in the loop.
            time, by = (awake - 1, -1) if reverse != 0 else (0, 1)
            for _ in range(awake):
                x_now, y_now = x + time * x_time * real, y + time * y_time * real
                c_now = c + first * width
                one_step(
                    Step(args, w, x_now, h, y_now, c_now, scratch, x_row, h_row, y_row, together), backwards
                )
                backwards = 1 - backwards
                time += by
                h, h_row = y_now, 0 if single else y_row
            for row in range(together):
                copy(hn + row * state, h + row * h_row * real, state)
            for asleep in range(awake, steps):
                clear(y + asleep * y_time * real, state)
            if awake == 0 and steps > 0:
                # A row without a single step has no last state: ONNX Runtime says 0, whatever it starts from.
                clear(hn, state)
                if lstm:
                    clear(c + first * width, width)
            first += together
        set_word(args, N + 10, backwards)
        return 0

    return sequence


def kernel(shape: Shape) -> Callable[[Any], int]:
    """The kernel of a shape, as a Python function of the address of a `gs_args`, for Numba to compile."""
    if shape.name == "linear":
        return _linear(shape)
    if shape.name == "lstm":
        return _sequence(shape, _lstm(shape))
    if shape.name == "gru":
        return _sequence(shape, _gru_reset_before(shape) if shape.variant else _gru(shape))
    activate = _activation(shape.activations[0], 1, shape.general, True)
    return _sequence(shape, _dense(shape, shape.inputs, shape.state, shape.outputs, activate))
