"""The sums of a tile: what a time step reads and writes, and one pass over the packed weights of some units.

Every output has one accumulator, which starts with the bias and takes x, then h, both ascending: whatever the tile, a
row's bits are the same.
"""

from libc.math cimport INFINITY
from libc.stdint cimport int16_t, int32_t
from libc.string cimport memcpy, memset

cdef enum:
    WIDE = 4 * GS_BLOCK  # reals per k of an LSTM block or of a full group of dense blocks

cdef enum:  # what a tile computes
    LSTM
    LSTM_GENERAL
    GRU
    GRU_GENERAL
    GRU_RESET  # the two passes of a GRU that resets before the product
    GRU_CANDIDATE
    DENSE
    LSTM_AHEAD  # the sums over x alone, of many steps at once
    GRU_AHEAD
    DENSE_AHEAD


cdef extern from *:
    """
    /* Units of a narrow group whose sums fit in registers beside those of two full units. */
    #define GS_MOST_JOINED (GS_SPLIT > 2 ? 2 : GS_SPLIT)
    """
    enum:
        MOST_JOINED "GS_MOST_JOINED"


cdef extern from "abi.h":
    Py_ssize_t GS_AHEAD(Py_ssize_t steps, Py_ssize_t batch) noexcept nogil
    Py_ssize_t GS_STEP_SCRATCH(Py_ssize_t batch, Py_ssize_t hidden) noexcept nogil
    ctypedef void (*gs_part)(void* context, Py_ssize_t part) noexcept nogil
    ctypedef struct gs_team:
        void (*run)(gs_team* team, gs_part part, void* context, Py_ssize_t parts) noexcept nogil


include "tiers.pxi"


cdef struct Step:
    # What one time step of a layer reads and writes: `x` and `h` are the operands of the sums.
    const real* w
    const real* x
    const real* h
    real* y
    real* c
    Py_ssize_t x_size
    Py_ssize_t h_size
    Py_ssize_t size  # outputs: the hidden size, or the columns of a dense layer
    Py_ssize_t x_stride
    Py_ssize_t h_stride
    Py_ssize_t y_stride
    Py_ssize_t block  # reals per packed block
    Py_ssize_t padded  # `size` in whole blocks
    real* ahead  # (B, ahead_stride): what the sums are after bias and x, where that was done ahead; else NULL
    Py_ssize_t ahead_stride
    Py_ssize_t parts  # that every pass over the weights is cut into, for a thread each
    bint backwards  # which end of the blocks the next pass starts from
    real* scratch  # (B, 4 * padded)
    Quantised qx
    Quantised qh
    real* reset_h  # (B, padded) each, of the GRU that resets before the product: r * h, z, and the sums over x of n
    real* update
    real* candidate
    int activation  # of a dense layer
    vf alpha
    vf beta
    vf clip
    gs_args* args


cdef inline Py_ssize_t quotient_up(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return (a + b - 1) // b


cdef inline vf load_lanes(const real* p, Py_ssize_t room) noexcept nogil:
    return load(p) if room >= GS_LANES else load_part(p, room)


cdef inline void store_lanes(real* p, vf v, Py_ssize_t room) noexcept nogil:
    if room >= GS_LANES:
        store(p, v)
    else:
        store_part(p, v, room)


cdef inline const real* unit_weights(const Step* s, Py_ssize_t unit) noexcept nogil:
    return s.w + unit // GS_SPLIT * s.block + unit % GS_SPLIT * GS_LANES


cdef inline void add_products(
    const int rows, const int units, const int gates, const int slot, vf* sums, const real** w, const Py_ssize_t wide,
    const real* x, const Py_ssize_t x_stride, const Py_ssize_t size,
) noexcept nogil:
    """sums[row, unit, gate] += w[unit][k, gate] * x[row, k] for ascending k; moves `w` behind what it read.

    A unit has four sums. Gates go to the first ones in order, save the last gate, which goes to `slot`.
    """
    cdef Py_ssize_t k
    cdef int row, unit, gate, target
    cdef vf inputs[4]
    cdef vf weights
    for k in range(size):
        for row in range(rows):
            inputs[row] = splat(x[row * x_stride + k])
        for unit in range(units):
            for gate in range(gates):
                target = unit * 4 + (slot if gate == gates - 1 else gate)
                if rows == 1:
                    sums[target] = muladd(load_aligned(w[unit] + gate * GS_BLOCK), inputs[0], sums[target])
                else:
                    weights = load_once(w[unit] + gate * GS_BLOCK)
                    for row in range(rows):
                        sums[row * units * 4 + target] = muladd(weights, inputs[row], sums[row * units * 4 + target])
            w[unit] += wide


cdef inline void start_sums(
    const int rows, const int units, const int gates, vf* sums, const real** w, const Py_ssize_t wide,
) noexcept nogil:
    """Every sum starts with its bias."""
    cdef int row, unit, gate
    for unit in range(units):
        for gate in range(gates):
            for row in range(rows):
                sums[(row * units + unit) * 4 + gate] = load_aligned(w[unit] + gate * GS_BLOCK)
        w[unit] += wide


cdef inline void add_x(
    const int rows, const int units, const int gates, vf* sums, const real** w, const Step* s, const Py_ssize_t unit,
    const Py_ssize_t row,
) noexcept nogil:
    """The products of x; moves `w` behind its weights."""
    cdef const real* x = s.x + row * s.x_stride
    cdef int j
    if GS_TIER == 8:
        if s.x_size:
            add_fours(rows, units, gates, gates - 1, 0, gates, sums, w, &s.qx, unit, row, s.x_size)
    elif GS_TIER:
        if s.x_size:
            add_pairs(rows, units, gates, gates - 1, 0, gates, sums, w, &s.qx, unit, row, s.x_size)
    elif GS_BFLOAT:
        add_halves(rows, units, gates, gates - 1, 0, gates, sums, w, x, s.x_stride, unit, s.x_size)
    else:
        add_products(rows, units, gates, gates - 1, sums, w, gates * GS_BLOCK, x, s.x_stride, s.x_size)
        return
    for j in range(units):
        w[j] += operand_reals(s.x_size, gates)


cdef inline void add_h(
    const int rows, const int units, const int gates, const int slot, const int first, const int packed, vf* sums,
    const real** w, const Step* s, const real* h, const Py_ssize_t h_stride, const Py_ssize_t unit, const Py_ssize_t row,
) noexcept nogil:
    """The products of h in `gates` of the `packed` gates, from gate `first` on."""
    cdef int j
    h += row * h_stride
    if GS_TIER == 8:
        if s.h_size:
            add_fours(rows, units, gates, slot, first, packed, sums, w, &s.qh, unit, row, s.h_size)
    elif GS_TIER:
        if s.h_size:
            add_pairs(rows, units, gates, slot, first, packed, sums, w, &s.qh, unit, row, s.h_size)
    elif GS_BFLOAT:
        add_halves(rows, units, gates, slot, first, packed, sums, w, h, h_stride, unit, s.h_size)
    else:
        for j in range(units):
            w[j] += first * GS_BLOCK
        add_products(rows, units, gates, slot, sums, w, packed * GS_BLOCK, h, h_stride, s.h_size)


cdef inline Py_ssize_t column_of(Py_ssize_t unit, int gate) noexcept nogil:
    return unit // GS_SPLIT * WIDE + gate * GS_BLOCK + unit % GS_SPLIT * GS_LANES


cdef inline void start_with_x(
    const bint resumes, const int rows, const int units, const int gates, const int products, vf* sums, const real** w,
    const Step* s, const Py_ssize_t unit, const Py_ssize_t row,
) noexcept nogil:
    """Bias and x, of which `products` gates take products; moves `w` to the weights of h.

    A tile that `resumes` finds that much of its sums in `s.ahead`.
    """
    cdef int i, j, gate
    cdef const real* done
    if not resumes:
        start_sums(rows, units, gates, sums, w, gates * GS_BLOCK)
        add_x(rows, units, products, sums, w, s, unit, row)
        return
    for j in range(units):
        w[j] += gates * GS_BLOCK + operand_reals(s.x_size, products)
        for i in range(rows):
            done = s.ahead + (row + i) * s.ahead_stride
            for gate in range(gates):
                sums[(i * units + j) * 4 + gate] = load_aligned(done + column_of(unit + j, gate))


cdef inline void ahead_tile(
    const int kind, const int rows, const int units, const int gates, const Step* s, Py_ssize_t unit, Py_ssize_t row
) noexcept nogil:
    """Bias and x of some rows, for `start_with_x` to take up."""
    cdef const real* w[2]
    cdef vf sums[16]
    cdef int products = 3 if kind == GRU_AHEAD else gates
    cdef int i, j, gate
    for j in range(units):
        w[j] = unit_weights(s, unit + j)
    start_sums(rows, units, gates, sums, w, gates * GS_BLOCK)
    add_x(rows, units, products, sums, w, s, unit, row)
    for i in range(rows):
        for j in range(units):
            for gate in range(gates):
                store(s.ahead + (row + i) * s.ahead_stride + column_of(unit + j, gate), sums[(i * units + j) * 4 + gate])


cdef inline void keep_sums(const int cells, const int gates, const bint calls, const vf* sums, vf* kept) noexcept nogil:
    """Out of the registers into an array that may be indexed; `calls` says that functions are called on what is in it."""
    cdef int cell, gate
    for cell in range(cells):
        for gate in range(gates):
            if calls:
                put_down(kept + cell * 4 + gate, sums[cell * 4 + gate])
            else:
                kept[cell * 4 + gate] = sums[cell * 4 + gate]
