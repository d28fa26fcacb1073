"""The equations of the cells, on sums that are in registers: activations, and the new states.

Each has two forms, the usual one written out and the general one of any activations, peepholes, coupling and clipping.
Included after sums.pxi.
"""

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
