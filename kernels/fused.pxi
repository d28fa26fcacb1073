"""The recurrent cells and the dense layer, as abi.h has them.

Weights come in blocks of 16 outputs (pack.py). A *unit* is one vector of a block; a *tile* is some rows times some units,
whose sums stay in registers while the weights pass by once. Every output has one accumulator, which starts with the
bias and takes x, then h, both ascending: whatever the tile, a row's bits are the same.

Arguments named `kind`, `rows`, `units`, `gates` and `slot` are constants where a tile is called, so that the C compiler
writes each combination out without loops.
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
    if GS_TIER:
        if s.x_size:
            add_quantised(rows, units, gates, gates - 1, 0, gates, sums, w, &s.qx, unit, row, s.x_size)
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
    if GS_TIER:
        if s.h_size:
            add_quantised(rows, units, gates, slot, first, packed, sums, w, &s.qh, unit, row, s.h_size)
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


cdef vf activate_gate(const gs_args* args, int gate, vf x, vf clip) noexcept nogil:
    """Activation number `gate` of the cell on the clipped `x`."""
    cdef int kind = <int>args.n[12 + gate]
    cdef vf alpha = splat(<real>args.f[1 + 2 * gate]), beta = splat(<real>args.f[2 + 2 * gate])
    x = clip_sum(x, clip)
    if kind == GS_ACT_THRESHOLDED_RELU:
        # The recurrent operators of ONNX let x == alpha through.
        return select(less_equal(alpha, x), x, splat(0.0))
    return activate(kind, x, alpha, beta)


cdef inline vf clip_sum(vf x, vf clip) noexcept nogil:
    return vmin(clip, vmax(-clip, x))


# ---------------------------------------------------------------------------------------------------------------- LSTM

cdef inline vf lstm_cell(const vf* sums, vf* c) noexcept nogil:
    """c = sigmoid(f) * c + sigmoid(i) * tanh(g);  h = sigmoid(o) * tanh(c)."""
    cdef vf i = sigmoid(sums[0]), f = sigmoid(sums[1]), g = tanh_(sums[2]), o = sigmoid(sums[3])
    c[0] = muladd(f, c[0], i * g)
    return o * tanh_(c[0])


cdef vf lstm_cell_general(const Step* s, const vf* sums, vf* c, Py_ssize_t lane) noexcept nogil:
    """The same with any activations, clip, peepholes (rows i, f, o), coupled input and forget gates."""
    cdef const gs_args* args = s.args
    cdef const real* peepholes = <const real*>args.p[7]
    cdef vf i = sums[0], f = sums[1], g = sums[2], o = sums[3]
    if peepholes is not NULL:
        i = muladd(load(peepholes + lane), c[0], i)
        f = muladd(load(peepholes + s.padded + lane), c[0], f)
    i = activate_gate(args, 0, i, s.clip)
    f = activate_gate(args, 0, f, s.clip)
    if args.n[15] == 1:
        f = splat(1.0) - i
    elif args.n[15] == 2:
        i = splat(1.0) - f
    g = activate_gate(args, 1, g, s.clip)
    c[0] = muladd(f, c[0], i * g)
    if peepholes is not NULL:
        o = muladd(load(peepholes + 2 * s.padded + lane), c[0], o)
    o = activate_gate(args, 0, o, s.clip)
    return o * activate_gate(args, 2, c[0], splat(INFINITY))


cdef inline void lstm_tile(
    const int kind, const bint resumes, const int rows, const int units, const Step* s, Py_ssize_t unit, Py_ssize_t row
) noexcept nogil:
    cdef const real* w[2]
    cdef vf sums[16]
    cdef vf kept[16]
    cdef vf c, h
    cdef int i, j
    cdef Py_ssize_t lane, room
    cdef real* c_row
    for j in range(units):
        w[j] = unit_weights(s, unit + j)
    start_with_x(resumes, rows, units, 4, 4, sums, w, s, unit, row)
    add_h(rows, units, 4, 3, 0, 4, sums, w, s, s.h, s.h_stride, unit, row)
    keep_sums(rows * units, 4, kind != LSTM, sums, kept)
    for i in range(rows):
        for j in range(units):
            lane = (unit + j) * GS_LANES
            room = s.size - lane
            c_row = s.c + (row + i) * s.size + lane
            c = load_lanes(c_row, room)
            if kind == LSTM:
                h = lstm_cell(kept + (i * units + j) * 4, &c)
            else:
                h = lstm_cell_general(s, kept + (i * units + j) * 4, &c, lane)
            store_lanes(c_row, c, room)
            store_lanes(s.y + (row + i) * s.y_stride + lane, h, room)


# ----------------------------------------------------------------------------------------------------------------- GRU

cdef inline vf between(vf z, vf h, vf n) noexcept nogil:
    """(1 - z) * n + z * h; exactly h for z = 1."""
    return muladd(z, h, (splat(1.0) - z) * n)


cdef inline vf gru_cell(const vf* sums, vf h) noexcept nogil:
    """n = tanh(n_x + sigmoid(r) * n_h);  h = (1 - z) * n + z * h, with z = sigmoid(z)."""
    cdef vf r = sigmoid(sums[0]), z = sigmoid(sums[1])
    return between(z, h, tanh_(muladd(r, sums[3], sums[2])))


cdef vf gru_cell_general(const Step* s, const vf* sums, vf h) noexcept nogil:
    """The same with any activations and clip."""
    cdef vf r = activate_gate(s.args, 0, sums[0], s.clip), z = activate_gate(s.args, 0, sums[1], s.clip)
    return between(z, h, activate_gate(s.args, 1, muladd(r, sums[3], sums[2]), s.clip))


cdef inline void gru_tile(
    const int kind, const bint resumes, const int rows, const int units, const Step* s, Py_ssize_t unit, Py_ssize_t row
) noexcept nogil:
    cdef const real* w[4]
    cdef vf sums[16]
    cdef vf kept[16]
    cdef vf h
    cdef int i, j
    cdef Py_ssize_t lane, room
    for j in range(units):
        w[j] = unit_weights(s, unit + j)
    start_with_x(resumes, rows, units, 4, 3, sums, w, s, unit, row)
    add_h(rows, units, 3, 3, 0, 3, sums, w, s, s.h, s.h_stride, unit, row)
    keep_sums(rows * units, 4, kind != GRU, sums, kept)
    for i in range(rows):
        for j in range(units):
            lane = (unit + j) * GS_LANES
            room = s.size - lane
            h = load_lanes(s.h + (row + i) * s.h_stride + lane, room)
            if kind == GRU:
                h = gru_cell(kept + (i * units + j) * 4, h)
            else:
                h = gru_cell_general(s, kept + (i * units + j) * 4, h)
            store_lanes(s.y + (row + i) * s.y_stride + lane, h, room)


cdef inline void gru_reset_tile(
    const bint resumes, const int rows, const int units, const Step* s, Py_ssize_t unit, Py_ssize_t row
) noexcept nogil:
    """Reset before the product, first pass: r * h, z, and the n gate's sum over x, which do not wait for all of r * h."""
    cdef const real* w[2]
    cdef vf sums[16]
    cdef vf kept[16]
    cdef const vf* cell
    cdef vf h
    cdef int i, j
    cdef Py_ssize_t lane, at
    for j in range(units):
        w[j] = unit_weights(s, unit + j)
    start_with_x(resumes, rows, units, 4, 3, sums, w, s, unit, row)
    add_h(rows, units, 2, 1, 0, 3, sums, w, s, s.h, s.h_stride, unit, row)
    keep_sums(rows * units, 3, True, sums, kept)
    for i in range(rows):
        for j in range(units):
            lane = (unit + j) * GS_LANES
            at = (row + i) * s.padded + lane
            cell = kept + (i * units + j) * 4
            h = load_lanes(s.h + (row + i) * s.h_stride + lane, s.size - lane)
            store(s.reset_h + at, activate_gate(s.args, 0, cell[0], s.clip) * h)
            store(s.update + at, activate_gate(s.args, 0, cell[1], s.clip))
            store(s.candidate + at, cell[2])


cdef inline void gru_candidate_tile(
    const int rows, const int units, const Step* s, Py_ssize_t unit, Py_ssize_t row
) noexcept nogil:
    """Second pass: n = g(n_x + R_n (r * h) + bias), and the new h."""
    cdef const real* w[2]
    cdef vf sums[16]
    cdef vf kept[16]
    cdef vf h, n
    cdef int i, j
    cdef Py_ssize_t lane, at
    for j in range(units):
        w[j] = unit_weights(s, unit + j) + 3 * GS_BLOCK
    # From the bias of the n gate's part over h to the weights of that part.
    start_sums(rows, units, 1, sums, w, GS_BLOCK + operand_reals(s.x_size, 3))
    add_h(rows, units, 1, 0, 2, 3, sums, w, s, s.reset_h, s.padded, unit, row)
    keep_sums(rows * units, 1, True, sums, kept)
    for i in range(rows):
        for j in range(units):
            lane = (unit + j) * GS_LANES
            at = (row + i) * s.padded + lane
            h = load_lanes(s.h + (row + i) * s.h_stride + lane, s.size - lane)
            n = activate_gate(s.args, 1, load(s.candidate + at) + kept[(i * units + j) * 4], s.clip)
            store_lanes(s.y + (row + i) * s.y_stride + lane, between(load(s.update + at), h, n), s.size - lane)


# ------------------------------------------------------------------------------------------------------- dense and RNN

cdef inline vf dense_cell(const Step* s, vf x) noexcept nogil:
    x = clip_sum(x, s.clip)
    if s.activation == GS_ACT_TANH:
        return tanh_(x)
    elif s.activation == GS_ACT_IDENTITY:
        return x
    elif s.activation == GS_ACT_THRESHOLDED_RELU and s.h_size:
        # The recurrent operators of ONNX let x == alpha through.
        return select(less_equal(s.alpha, x), x, splat(0.0))
    return activate(s.activation, x, s.alpha, s.beta)


cdef inline void dense_finish(
    const int units, const int gates, const Step* s, const vf* kept, Py_ssize_t unit, Py_ssize_t row
) noexcept nogil:
    """Activations and stores of one row of a tile."""
    cdef int j, gate
    cdef Py_ssize_t column, room
    for j in range(units):
        for gate in range(gates):
            column = column_of(unit + j, gate)
            room = s.size - column
            if room > 0:
                store_lanes(s.y + row * s.y_stride + column, dense_cell(s, kept[j * 4 + gate]), room)


cdef inline void dense_tile(
    const bint resumes, const int rows, const int units, const int gates, const Step* s, Py_ssize_t unit, Py_ssize_t row
) noexcept nogil:
    """`gates` blocks of a group side by side; unit number u is vector u % GS_SPLIT of each block of group u // GS_SPLIT."""
    cdef const real* w[2]
    cdef vf sums[16]
    cdef vf kept[16]
    cdef int i, j
    for j in range(units):
        w[j] = unit_weights(s, unit + j)
    start_with_x(resumes, rows, units, gates, gates, sums, w, s, unit, row)
    add_h(rows, units, gates, gates - 1, 0, gates, sums, w, s, s.h, s.h_stride, unit, row)
    keep_sums(rows * units, gates, True, sums, kept)
    for i in range(rows):
        dense_finish(units, gates, s, kept + i * units * 4, unit, row + i)


cdef inline void add_products_joined(
    const int last_units, const int gates, vf* sums, vf* last_sums, const real** w, const real** last_w, const real* x, const Py_ssize_t size
) noexcept nogil:
    cdef Py_ssize_t k
    cdef int unit, gate
    cdef vf value
    for k in range(size):
        value = splat(x[k])
        for unit in range(2):
            for gate in range(4):
                sums[unit * 4 + gate] = muladd(
                    load_aligned(w[unit] + gate * GS_BLOCK), value, sums[unit * 4 + gate])
            w[unit] += WIDE
        for unit in range(last_units):
            for gate in range(gates):
                last_sums[unit * 4 + gate] = muladd(
                    load_aligned(last_w[unit] + gate * GS_BLOCK), value, last_sums[unit * 4 + gate])
            last_w[unit] += gates * GS_BLOCK


cdef inline void dense_tile_joined(const int last_units, const int gates, const Step* s, Py_ssize_t unit) noexcept nogil:
    """One row of the last two full units and of the narrow group behind them, whose few sums alone would only wait."""
    cdef const real* w[2]
    cdef const real* last_w[2]
    cdef vf sums[8]
    cdef vf last_sums[8]
    cdef vf kept[8]
    cdef vf last_kept[8]
    cdef int j
    for j in range(2):
        w[j] = unit_weights(s, unit + j)
    for j in range(last_units):
        last_w[j] = unit_weights(s, unit + 2 + j)
    start_sums(1, 2, 4, sums, w, WIDE)
    start_sums(1, last_units, gates, last_sums, last_w, gates * GS_BLOCK)
    add_products_joined(last_units, gates, sums, last_sums, w, last_w, s.x, s.x_size)
    add_products_joined(last_units, gates, sums, last_sums, w, last_w, s.h, s.h_size)
    keep_sums(2, 4, True, sums, kept)
    keep_sums(last_units, gates, True, last_sums, last_kept)
    dense_finish(2, 4, s, kept, unit, 0)
    dense_finish(last_units, gates, s, last_kept, unit + 2, 0)


# ---------------------------------------------------------------------------------------------------- tiles over a step

cdef inline void tile(
    const int kind, const bint resumes, const int rows, const int units, const int gates, const Step* s,
    Py_ssize_t unit, Py_ssize_t row,
) noexcept nogil:
    if kind == LSTM or kind == LSTM_GENERAL:
        lstm_tile(kind, resumes, rows, units, s, unit, row)
    elif kind == GRU or kind == GRU_GENERAL:
        gru_tile(kind, resumes, rows, units, s, unit, row)
    elif kind == GRU_RESET:
        gru_reset_tile(resumes, rows, units, s, unit, row)
    elif kind == GRU_CANDIDATE:
        gru_candidate_tile(rows, units, s, unit, row)
    elif kind == LSTM_AHEAD or kind == GRU_AHEAD or kind == DENSE_AHEAD:
        ahead_tile(kind, rows, units, gates, s, unit, row)
    else:
        dense_tile(resumes, rows, units, gates, s, unit, row)


cdef inline void all_rows(
    const int kind, const bint resumes, const int gates, const Step* s, Py_ssize_t unit, Py_ssize_t stop, Py_ssize_t batch
) noexcept nogil:
    """Units `unit` to `stop`, one or two, of all rows."""
    cdef bint both = unit + 1 < stop
    cdef Py_ssize_t row = 0, left = batch, one
    while left > 0:
        # Two twos rather than three and one, three and two rather than four and one.
        if left >= GS_ROWS and not (GS_ROWS > 2 and left == GS_ROWS + 1):
            for one in range(unit, stop):
                tile(kind, resumes, GS_ROWS, 1, gates, s, one, row)
            row += GS_ROWS
        elif left >= 3 and GS_ROWS > 3:
            for one in range(unit, stop):
                tile(kind, resumes, 3, 1, gates, s, one, row)
            row += 3
        elif left >= 2 and GS_ROWS > 2:
            if both and GS_ROWS == 4:
                tile(kind, resumes, 2, 2, gates, s, unit, row)
            else:
                for one in range(unit, stop):
                    tile(kind, resumes, 2, 1, gates, s, one, row)
            row += 2
        else:
            if both:
                tile(kind, resumes, 1, 2, gates, s, unit, row)
            else:
                tile(kind, resumes, 1, 1, gates, s, unit, row)
            row += 1
        left = batch - row


cdef inline void all_units(
    const int kind, const bint resumes, const Step* s, Py_ssize_t batch, bint backwards, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """One pass over the weights of units `first` to `last` of a gated cell, from either end of the list of blocks.

    The end of the last pass is still in the cache: a pass that starts there finds some of its weights closer.
    """
    cdef Py_ssize_t count = 2, groups = quotient_up(last - first, 2), group, start = first, stride, unit, stop
    if kind == GRU and GS_ROWS == 4 and batch == 1 and last - first >= 8:
        # A GRU reads three vectors per k where an LSTM reads four: two units leave the load ports idle.
        count, groups = 4, quotient_up(last - first, 4)
    stride = count
    if backwards:
        start, stride = first + (groups - 1) * count, -count
    for group in range(groups):
        unit = start + group * stride
        stop = min(unit + count, last)
        if kind == GRU and stop - unit == 4:
            tile(kind, resumes, 1, 4, 4, s, unit, 0)
            continue
        while unit < stop:
            all_rows(kind, resumes, 4, s, unit, min(unit + 2, stop), batch)
            unit += 2


cdef void lstm_step(
    const Step* s, Py_ssize_t batch, bint backwards, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    if s.ahead is NULL:
        all_units(LSTM, False, s, batch, backwards, first, last)
    else:
        all_units(LSTM, True, s, batch, backwards, first, last)


cdef void lstm_step_general(
    const Step* s, Py_ssize_t batch, bint backwards, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    if s.ahead is NULL:
        all_units(LSTM_GENERAL, False, s, batch, backwards, first, last)
    else:
        all_units(LSTM_GENERAL, True, s, batch, backwards, first, last)


cdef void gru_step(
    const Step* s, Py_ssize_t batch, bint backwards, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    if s.ahead is NULL:
        all_units(GRU, False, s, batch, backwards, first, last)
    else:
        all_units(GRU, True, s, batch, backwards, first, last)


cdef void gru_step_general(
    const Step* s, Py_ssize_t batch, bint backwards, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    if s.ahead is NULL:
        all_units(GRU_GENERAL, False, s, batch, backwards, first, last)
    else:
        all_units(GRU_GENERAL, True, s, batch, backwards, first, last)


cdef void gru_reset_pass(
    const Step* s, Py_ssize_t batch, bint backwards, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    if s.ahead is NULL:
        all_units(GRU_RESET, False, s, batch, backwards, first, last)
    else:
        all_units(GRU_RESET, True, s, batch, backwards, first, last)


cdef void gru_candidate_pass(
    const Step* s, Py_ssize_t batch, bint backwards, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    all_units(GRU_CANDIDATE, False, s, batch, backwards, first, last)


cdef inline void dense_narrow_group(
    const int kind, const bint resumes, const int gates, const Step* s, Py_ssize_t unit, Py_ssize_t stop, Py_ssize_t batch
) noexcept nogil:
    while unit < stop:
        all_rows(kind, resumes, gates, s, unit, min(unit + 2, stop), batch)
        unit += 2


cdef inline void dense_last_group(
    const int kind, const bint resumes, const Step* s, Py_ssize_t first, Py_ssize_t batch
) noexcept nogil:
    """The group of fewer than four blocks, whose units start at `first`."""
    cdef Py_ssize_t columns = s.size - first // GS_SPLIT * WIDE
    cdef Py_ssize_t blocks = quotient_up(columns, GS_BLOCK), stop = first + min(quotient_up(columns, GS_LANES), GS_SPLIT)
    if blocks == 1:
        dense_narrow_group(kind, resumes, 1, s, first, stop, batch)
    elif blocks == 2:
        dense_narrow_group(kind, resumes, 2, s, first, stop, batch)
    else:
        dense_narrow_group(kind, resumes, 3, s, first, stop, batch)


cdef void dense_last_joined(const Step* s, Py_ssize_t unit, Py_ssize_t blocks) noexcept nogil:
    if blocks == 1:
        dense_tile_joined(MOST_JOINED, 1, s, unit)
    elif blocks == 2:
        dense_tile_joined(MOST_JOINED, 2, s, unit)
    else:
        dense_tile_joined(MOST_JOINED, 3, s, unit)


cdef inline void dense_pass(
    const int kind, const bint resumes, const Step* s, Py_ssize_t batch, bint backwards, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """One pass over the weights of a dense layer: units `first` to `last` of full groups, and after the last of all the
    narrow group behind them."""
    cdef Py_ssize_t blocks = s.padded // GS_BLOCK, units = blocks // 4 * GS_SPLIT, pairs = (last - first + 1) // 2
    cdef Py_ssize_t pair, unit
    cdef bint narrow = blocks % 4 != 0 and last == units
    cdef bint joined = (
        kind == DENSE and not resumes and batch == 1 and narrow and last - first >= 2 and units % 2 == 0
        and GS_SPLIT == MOST_JOINED and not GS_TIER and not GS_BFLOAT)
    cdef bint alone = narrow and not joined
    if alone and backwards:
        dense_last_group(kind, resumes, s, units, batch)
    for pair in range(pairs):
        unit = first + 2 * (pairs - 1 - pair if backwards else pair)
        if joined and unit + 2 == units:
            dense_last_joined(s, unit, blocks % 4)
        else:
            all_rows(kind, resumes, 4, s, unit, min(unit + 2, last), batch)
    if alone and not backwards:
        dense_last_group(kind, resumes, s, units, batch)


cdef void dense_step(
    const Step* s, Py_ssize_t batch, bint backwards, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    if s.ahead is NULL:
        dense_pass(DENSE, False, s, batch, backwards, first, last)
    else:
        dense_pass(DENSE, True, s, batch, backwards, first, last)


cdef void lstm_ahead(const Step* s, Py_ssize_t rows, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    all_units(LSTM_AHEAD, False, s, rows, False, first, last)


cdef void gru_ahead(const Step* s, Py_ssize_t rows, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    all_units(GRU_AHEAD, False, s, rows, False, first, last)


cdef void dense_ahead(const Step* s, Py_ssize_t rows, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    dense_pass(DENSE_AHEAD, False, s, rows, False, first, last)


# ------------------------------------------------------------------------------------------------------- passes, threads

cdef struct Pass:
    # One pass over the weights, cut into parts: what kind of tiles, for how many rows.
    const Step* step
    int kind
    Py_ssize_t rows
    Py_ssize_t units


cdef inline Py_ssize_t units_of(const int kind, const Step* s) noexcept nogil:
    """Of all outputs; of a dense layer, of its full groups."""
    if kind == DENSE or kind == DENSE_AHEAD:
        return s.padded // WIDE * GS_SPLIT
    return quotient_up(s.size, GS_LANES)


cdef inline void some_units(const int kind, const Step* s, Py_ssize_t rows, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Units `first` to `last` of a pass."""
    if kind == LSTM:
        lstm_step(s, rows, s.backwards, first, last)
    elif kind == GRU:
        gru_step(s, rows, s.backwards, first, last)
    elif kind == DENSE:
        dense_step(s, rows, s.backwards, first, last)
    elif kind == LSTM_AHEAD:
        lstm_ahead(s, rows, first, last)
    elif kind == GRU_AHEAD:
        gru_ahead(s, rows, first, last)
    elif kind == DENSE_AHEAD:
        dense_ahead(s, rows, first, last)
    elif kind == LSTM_GENERAL:
        lstm_step_general(s, rows, s.backwards, first, last)
    elif kind == GRU_GENERAL:
        gru_step_general(s, rows, s.backwards, first, last)
    elif kind == GRU_RESET:
        gru_reset_pass(s, rows, s.backwards, first, last)
    else:
        gru_candidate_pass(s, rows, not s.backwards, first, last)


cdef void part_of_units(void* context, Py_ssize_t part) noexcept nogil:
    """Two units at a time, as tiles take them."""
    cdef const Pass* p = <const Pass*>context
    cdef Py_ssize_t pairs = quotient_up(p.units, 2), parts = p.step.parts
    some_units(
        p.kind, p.step, p.rows, min(2 * (part * pairs // parts), p.units),
        min(2 * ((part + 1) * pairs // parts), p.units))


cdef inline void run_pass(const int kind, const Step* s, Py_ssize_t rows) noexcept nogil:
    """One pass over all weights; returns when its results are there, whoever has computed them."""
    cdef Py_ssize_t units = units_of(kind, s)
    cdef Pass p
    if s.parts == 1 or units == 0:
        some_units(kind, s, rows, 0, units)
    else:
        p.step, p.kind, p.rows, p.units = s, kind, rows, units
        (<gs_team*>s.args.p[11]).run(<gs_team*>s.args.p[11], part_of_units, &p, s.parts)


# ----------------------------------------------------------------------------------------------------- kernels of abi.h

cdef void set_sizes(Step* s, gs_args* args, Py_ssize_t x_size, Py_ssize_t h_size, Py_ssize_t size) noexcept nogil:
    s.args = args
    s.x_size, s.h_size, s.size = x_size, h_size, size
    s.ahead, s.ahead_stride = NULL, 0
    s.parts, s.backwards = 1 if args.p[11] is NULL else args.n[17], False
    s.padded = quotient_up(size, GS_BLOCK) * GS_BLOCK
    s.block = WIDE + operand_reals(x_size, 4) + operand_reals(h_size, 4)


cdef void some_linear(gs_args* args, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Rows `first` to `last` of a dense layer."""
    cdef Step s
    set_sizes(&s, args, args.n[1], 0, args.n[2])
    s.x, s.w = <const real*>args.p[0] + first * args.n[3], <const real*>args.p[1]
    s.y, s.h = <real*>args.p[4] + first * args.n[4], NULL
    s.x_stride, s.y_stride, s.h_stride = args.n[3], args.n[4], 0
    s.activation = <int>args.n[5]
    s.alpha, s.beta, s.clip = splat(<real>args.f[0]), splat(<real>args.f[1]), splat(INFINITY)
    if GS_TIER:
        set_quantised(&s.qx, <real*>args.p[9], args.n[0], s.x_size, first)
        quantise_rows(&s.qx, s.x, s.x_stride, last - first, s.x_size)
    run_pass(DENSE, &s, last - first)


cdef void part_of_linear(void* context, Py_ssize_t part) noexcept nogil:
    cdef gs_args* args = <gs_args*>context
    some_linear(args, part * args.n[0] // args.n[16], (part + 1) * args.n[0] // args.n[16])


cdef int linear(gs_args* args) noexcept nogil:
    if args.p[11] is NULL or args.n[16] == 1:
        some_linear(args, 0, args.n[0])
    else:
        (<gs_team*>args.p[11]).run(<gs_team*>args.p[11], part_of_linear, args, args.n[16])
    return GS_OK


cdef void project(gs_args* args, const Step* lstm, real* y, Py_ssize_t y_stride, Py_ssize_t batch) noexcept nogil:
    """y = projection @ h, where h is what `lstm` has written."""
    cdef Step s
    set_sizes(&s, args, lstm.size, 0, lstm.h_size)
    s.parts = lstm.parts
    s.x, s.w, s.y, s.h = lstm.y, <const real*>args.p[8], y, NULL
    s.x_stride, s.y_stride, s.h_stride = lstm.y_stride, y_stride, 0
    s.activation = GS_ACT_IDENTITY
    s.alpha = s.beta = splat(0.0)
    s.clip = splat(INFINITY)
    if GS_TIER:
        s.qx = lstm.qh
        s.qx.stride = GS_WHOLE(lstm.size, 32)
        quantise_rows(&s.qx, s.x, s.x_stride, batch, s.x_size)
    run_pass(DENSE, &s, batch)


cdef inline void run_step(const int kind, Step* s, Py_ssize_t batch) noexcept nogil:
    cdef gs_args* args = s.args
    cdef real* y = s.y
    if kind == LSTM_GENERAL and args.p[8] is not NULL:
        s.y, s.y_stride = s.scratch, s.padded
        run_pass(kind, s, batch)
        project(args, s, y, args.n[8], batch)
        s.y, s.y_stride = y, args.n[8]
    else:
        run_pass(kind, s, batch)
        if kind == GRU_RESET:
            if GS_TIER:
                quantise_rows(&s.qh, s.reset_h, s.padded, batch, s.h_size)
            run_pass(GRU_CANDIDATE, s, batch)
    s.backwards = not s.backwards


cdef inline void work_ahead(const int kind, Step* s, real* ahead, const real* x, Py_ssize_t x_stride, Py_ssize_t rows) noexcept nogil:
    """Bias and x of `rows` rows of several steps: the weights of x pass by once for all of them."""
    cdef Py_ssize_t stride = s.x_stride
    s.x, s.x_stride, s.ahead = x, x_stride, ahead
    if GS_TIER:
        quantise_rows(&s.qx, x, x_stride, rows, s.x_size)
    if kind == LSTM or kind == LSTM_GENERAL:
        run_pass(LSTM_AHEAD, s, rows)
    elif kind == DENSE:
        run_pass(DENSE_AHEAD, s, rows)
    else:
        run_pass(GRU_AHEAD, s, rows)
    s.x_stride = stride


cdef void set_operands(Step* s, Py_ssize_t first, Py_ssize_t chunk) noexcept nogil:
    """Where x, of `chunk` steps, and h of the rows from `first` on are as whole numbers."""
    cdef Py_ssize_t steps = s.args.n[0], batch = s.args.n[1]
    cdef real* memory = <real*>s.args.p[9] + GS_SCRATCH(steps, batch, s.size)
    set_quantised(&s.qx, memory, chunk * batch, s.x_size, first * chunk)
    memory += GS_QUANTISED(chunk * batch, s.x_size)
    set_quantised(&s.qh, memory, batch, max(s.size, s.h_size), first)
    s.qh.stride = GS_WHOLE(s.h_size, 32)


cdef inline void run_rows(
    const int kind, Step* s, Py_ssize_t first, Py_ssize_t batch, Py_ssize_t steps, Py_ssize_t chunk
) noexcept nogil:
    """`steps` time steps of `batch` rows from row `first` on, and the final h of each.

    Sums over x are done ahead for `chunk` steps at a time, where that is more than one.
    """
    cdef gs_args* args = s.args
    cdef Py_ssize_t width = s.h_size, step, time, row, count, begin = 0
    cdef real* ahead = <real*>args.p[9] + GS_STEP_SCRATCH(args.n[1], s.size)
    s.ahead, s.ahead_stride = NULL, 4 * s.padded
    s.scratch = <real*>args.p[9] + first * s.ahead_stride
    if kind == GRU_RESET:
        s.reset_h = s.scratch
        s.update = s.reset_h + batch * s.padded
        s.candidate = s.update + batch * s.padded
    ahead += first * chunk * s.ahead_stride
    if GS_TIER:
        set_operands(s, first, chunk)
    if batch > 1 and args.n[5] != batch * args.n[6]:
        chunk = 1
    cdef real* hn = <real*>args.p[5] + first * width
    s.h, s.h_stride = <const real*>args.p[2] + first * width, width
    if kind == LSTM or kind == LSTM_GENERAL:
        s.c = <real*>args.p[6] + first * s.size
    for step in range(steps):
        time = steps - 1 - step if args.n[9] else step
        if chunk > 1:
            if step % chunk == 0:
                count = min(chunk, steps - step)
                begin = time - count + 1 if args.n[9] else time
                work_ahead(
                    kind, s, ahead, <const real*>args.p[0] + begin * args.n[5] + first * args.n[6],
                    args.n[5] if batch == 1 else args.n[6], count * batch)
            s.ahead = ahead + (time - begin) * batch * s.ahead_stride
        s.x = <const real*>args.p[0] + time * args.n[5] + first * args.n[6]
        s.y = <real*>args.p[4] + time * args.n[7] + first * args.n[8]
        if GS_TIER:
            if chunk <= 1:
                quantise_rows(&s.qx, s.x, s.x_stride, batch, s.x_size)
            quantise_rows(&s.qh, s.h, s.h_stride, batch, s.h_size)
        run_step(kind, s, batch)
        s.h, s.h_stride = s.y, args.n[8]
    if s.h != hn:
        for row in range(batch):
            memcpy(hn + row * width, s.h + row * s.h_stride, width * sizeof(real))


cdef inline void some_rows(const int kind, Step* s, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """All time steps of rows `first` to `last`; of each by itself, where they have lengths."""
    cdef gs_args* args = s.args
    cdef const int32_t* lengths = <const int32_t*>args.p[10]
    cdef Py_ssize_t row, time, length, chunk = GS_AHEAD(args.n[0], args.n[1])
    if lengths is NULL:
        run_rows(kind, s, first, last - first, args.n[0], chunk)
        return
    for row in range(first, last):
        length = min(max(<Py_ssize_t>lengths[row], 0), args.n[0])
        run_rows(kind, s, row, 1, length, chunk)
        for time in range(length, args.n[0]):
            memset(<real*>args.p[4] + time * args.n[7] + row * args.n[8], 0, s.h_size * sizeof(real))
        if length == 0 and args.n[0] > 0:
            # A row without a single step has no last state: ONNX Runtime says 0, whatever it starts from.
            memset(<real*>args.p[5] + row * s.h_size, 0, s.h_size * sizeof(real))
            if s.c is not NULL:
                memset(s.c, 0, s.size * sizeof(real))


cdef struct Sequence:
    # A layer over its time steps, whose rows are cut into parts.
    const Step* step
    int kind


cdef void part_of_rows(void* context, Py_ssize_t part) noexcept nogil:
    cdef const Sequence* q = <const Sequence*>context
    cdef Step s = q.step[0]
    cdef Py_ssize_t batch = s.args.n[1], parts = s.args.n[16]
    some_rows(q.kind, &s, part * batch // parts, (part + 1) * batch // parts)


cdef inline int run_sequence(const int kind, gs_args* args) noexcept nogil:
    cdef Step s
    cdef Sequence q
    set_sizes(&s, args, args.n[2], args.n[4], args.n[3])
    s.w = <const real*>args.p[1]
    s.c = NULL
    s.x_stride, s.y_stride = args.n[6], args.n[8]
    s.activation = <int>args.n[12]
    s.alpha, s.beta = splat(<real>args.f[1]), splat(<real>args.f[2])
    s.clip = splat(<real>args.f[0] if args.n[11] else INFINITY)
    s.backwards = args.n[10] != 0
    if kind == GRU or kind == GRU_GENERAL or kind == GRU_RESET:
        s.block = WIDE + operand_reals(s.x_size, 3) + operand_reals(s.h_size, 3)
    elif kind != DENSE and args.p[6] != args.p[3]:
        memcpy(args.p[6], args.p[3], args.n[1] * s.size * sizeof(real))
    if args.p[11] is NULL or args.n[16] == 1:
        some_rows(kind, &s, 0, args.n[1])
    else:
        q.step, q.kind = &s, kind
        (<gs_team*>args.p[11]).run(<gs_team*>args.p[11], part_of_rows, &q, args.n[16])
    args.n[10] = (args.n[10] + args.n[0]) & 1
    return GS_OK


cdef int lstm(gs_args* args) noexcept nogil:
    if not args.n[11]:
        return run_sequence(LSTM, args)
    return run_sequence(LSTM_GENERAL, args)


cdef int gru(gs_args* args) noexcept nogil:
    if not args.n[11]:
        return run_sequence(GRU, args)
    return run_sequence(GRU_RESET if args.n[15] else GRU_GENERAL, args)


cdef int rnn(gs_args* args) noexcept nogil:
    return run_sequence(DENSE, args)


FUSED_KERNELS = {
    "lstm": <size_t><void*>lstm,
    "gru": <size_t><void*>gru,
    "rnn": <size_t><void*>rnn,
    "linear": <size_t><void*>linear,
}
