"""The recurrent cells and the dense layer, as abi.h has them.

Weights come in blocks of 16 outputs (pack.py). A *unit* is one vector of a block; a *tile* is some rows times some units,
whose sums stay in registers while the weights pass by once (sums.pxi), and then become gates and states (cells.pxi). Here
tiles cover a layer, passes follow one another in time, and threads share them.

Arguments named `kind`, `rows`, `units`, `gates` and `slot` are constants where a tile is called, so that the C compiler
writes each combination out without loops.
"""

include "sums.pxi"
include "cells.pxi"


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


cdef inline Py_ssize_t width_of(const int kind, const Step* s, Py_ssize_t batch, Py_ssize_t units) noexcept nogil:
    """Units of a tile of one row, as measured: the sums are the same in any.

    One at a time, the activations of a unit are worked out while the products of the next are, as they wait for other
    things: that pays where there are few products. Two give the FMA units enough to do without reading from memory, and of
    a GRU, which reads three vectors per k where an LSTM reads four, it takes four units to keep reading.
    """
    if (kind != LSTM and kind != GRU) or GS_ROWS != 4 or batch != 1 or units < 4:
        return 2
    if not GS_TIER and s.x_size + s.h_size <= 192:
        return 1
    return 4 if kind == GRU and not GS_BYTES and units >= 8 else 2


cdef inline void all_units(
    const int kind, const bint resumes, const Step* s, Py_ssize_t batch, bint backwards, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """One pass over the weights of units `first` to `last` of a gated cell, from either end of the list of blocks.

    The end of the last pass is still in the cache: a pass that starts there finds some of its weights closer.
    """
    cdef Py_ssize_t count = width_of(kind, s, batch, last - first), groups = quotient_up(last - first, count)
    cdef Py_ssize_t group, start = first, stride = count, unit, stop
    if backwards:
        start, stride = first + (groups - 1) * count, -count
    for group in range(groups):
        unit = start + group * stride
        stop = min(unit + count, last)
        if (kind == LSTM or kind == GRU) and count == 1:
            tile(kind, resumes, 1, 1, 4, s, unit, 0)
            continue
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


cdef inline bint is_frame(const gs_args* args) noexcept nogil:
    """Whether `run_frame` will do: one step of one row on one thread, of the usual cell, whose c is kept in place."""
    return (
        args.n[0] == 1 and args.n[1] == 1 and not args.n[11] and args.p[10] is NULL and args.p[11] is NULL
        and args.p[3] == args.p[6] and not GS_TIER)


cdef inline int run_frame(const int kind, gs_args* args) noexcept nogil:
    """What `run_sequence` does, where it is one step of one row: the frame of a stream.

    A small layer takes no longer to compute than all that may be asked for takes to tell apart. Here only sizes are open,
    and no address of `s` is given away, so that the compiler keeps what it holds in registers.
    """
    cdef Step s
    cdef Py_ssize_t lane = 0, gates = 3 if kind == GRU else 4
    cdef bint backwards = args.n[10] != 0
    cdef real* hn = <real*>args.p[5]
    s.args = args
    s.x_size, s.h_size, s.size = args.n[2], args.n[4], args.n[3]
    s.x_stride = s.y_stride = s.h_stride = 0
    s.padded = quotient_up(s.size, GS_BLOCK) * GS_BLOCK
    s.block = WIDE + operand_reals(s.x_size, gates) + operand_reals(s.h_size, gates)
    s.w, s.x, s.h = <const real*>args.p[1], <const real*>args.p[0], <const real*>args.p[2]
    s.y, s.c = <real*>args.p[4], <real*>args.p[6]
    s.ahead, s.ahead_stride = NULL, 0
    if kind == DENSE:
        s.activation = <int>args.n[12]
        s.alpha, s.beta, s.clip = splat(<real>args.f[1]), splat(<real>args.f[2]), splat(INFINITY)
        dense_pass(kind, False, &s, 1, backwards, 0, units_of(kind, &s))
    else:
        all_units(kind, False, &s, 1, backwards, 0, units_of(kind, &s))
    while lane < s.h_size:
        store_lanes(hn + lane, load_lanes(s.y + lane, s.h_size - lane), s.h_size - lane)
        lane += GS_LANES
    args.n[10] = not backwards
    return GS_OK


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
    if is_frame(args):
        return run_frame(LSTM, args)
    if not args.n[11]:
        return run_sequence(LSTM, args)
    return run_sequence(LSTM_GENERAL, args)


cdef int gru(gs_args* args) noexcept nogil:
    if is_frame(args):
        return run_frame(GRU, args)
    if not args.n[11]:
        return run_sequence(GRU, args)
    return run_sequence(GRU_RESET if args.n[15] else GRU_GENERAL, args)


cdef int rnn(gs_args* args) noexcept nogil:
    if is_frame(args):
        return run_frame(DENSE, args)
    return run_sequence(DENSE, args)


FUSED_KERNELS = {
    "lstm": <size_t><void*>lstm,
    "gru": <size_t><void*>gru,
    "rnn": <size_t><void*>rnn,
    "linear": <size_t><void*>linear,
}
