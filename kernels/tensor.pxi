"""Kernels of whole tensors: unary, binary, reduce, softmax, layernorm, matmul. What each takes is written in abi.h.

A row is read in blocks of GS_BLOCK columns, a column belongs to the lane of its index, and lanes are added up in one
order: the bits of a result depend on its own row alone, and on machines with a fused multiply-add they are the same for
every width of vector. The end of a row runs through the same vector functions, continued with a neutral element.
Included after activations.pxi.
"""

from libc.math cimport INFINITY, copysign, fmod, pow, sqrt

cdef extern from "abi.h":
    enum:
        GS_BIN_ADD, GS_BIN_SUB, GS_BIN_MUL, GS_BIN_DIV, GS_BIN_POW, GS_BIN_MIN, GS_BIN_MAX, GS_BIN_PRELU
        GS_BIN_MOD, GS_BIN_FMOD
        GS_RED_SUM, GS_RED_MEAN, GS_RED_MAX, GS_RED_MIN, GS_RED_PROD, GS_RED_L2, GS_RED_SUM_SQUARE

cdef extern from *:
    """
    static const real gs_columns[GS_BLOCK] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

    /* Vectors beside each other in a tile of matmul: four rows of them fill half of the registers. */
    #if GS_VECTOR_BYTES == 64 || defined(__aarch64__)
    #define GS_TILE 4
    #else
    #define GS_TILE 2
    #endif
    """
    const real gs_columns[16]
    enum:
        GS_TILE

include "walk.pxi"


cdef inline vf fetch(const real* p, Py_ssize_t count, double pad) noexcept nogil:
    """The vector at `p` of which `count` lanes exist (none if it is not positive); the others read as `pad`."""
    if count >= GS_LANES:
        return load(p)
    if count <= 0:
        return splat(pad)
    if pad == 0.0:
        return load_part(p, count)
    return select(less(load(gs_columns), splat(count)), load_part(p, count), splat(pad))


cdef inline void put(real* p, vf v, Py_ssize_t count) noexcept nogil:
    """Store the first `count` lanes (all of them, or none if it is not positive)."""
    if count >= GS_LANES:
        store(p, v)
    elif count > 0:
        store_part(p, v, count)


# ------------------------------------------------------------------------------------------------------------ unary

cdef inline void unary_row(int kind, const real* x, real* y, Py_ssize_t count, vf alpha, vf beta) noexcept nogil:
    cdef Py_ssize_t i = 0
    cdef vf v
    while i < count:
        v = fetch(x + i, count - i, 0.0)
        if kind == GS_ACT_SIGMOID:
            v = sigmoid(v)
        elif kind == GS_ACT_TANH:
            v = tanh_(v)
        elif kind == GS_ACT_RELU:
            v = vmax(splat(0.0), v)
        else:
            v = activate(kind, v, alpha, beta)
        put(y + i, v, count - i)
        i += GS_LANES


cdef int unary(gs_args* args) noexcept nogil:
    cdef const real* x = <const real*>args.p[0]
    cdef real* y = <real*>args.p[4]
    cdef Py_ssize_t count = args.n[0], kind = args.n[1]
    cdef vf alpha = splat(args.f[0]), beta = splat(args.f[1])
    # The frequent ones with the choice outside the loop.
    if kind == GS_ACT_SIGMOID:
        unary_row(GS_ACT_SIGMOID, x, y, count, alpha, beta)
    elif kind == GS_ACT_TANH:
        unary_row(GS_ACT_TANH, x, y, count, alpha, beta)
    elif kind == GS_ACT_RELU:
        unary_row(GS_ACT_RELU, x, y, count, alpha, beta)
    else:
        unary_row(<int>kind, x, y, count, alpha, beta)
    return GS_OK


# ----------------------------------------------------------------------------------------------------------- binary

cdef inline vf combine(int op, vf a, vf b) noexcept nogil:
    """Every GS_BIN_* but the power and the remainders. Minimum and maximum are NaN where either is."""
    if op == GS_BIN_ADD:
        return a + b
    elif op == GS_BIN_SUB:
        return a - b
    elif op == GS_BIN_MUL:
        return a * b
    elif op == GS_BIN_DIV:
        return a / b
    elif op == GS_BIN_MIN:
        return select(less_equal(a, a), vmin(a, b), a)
    elif op == GS_BIN_MAX:
        return select(less_equal(a, a), vmax(a, b), a)
    return select(less(a, splat(0.0)), a * b, a)         # GS_BIN_PRELU


cdef inline vf fetch_strided(const real* p, Py_ssize_t stride, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t lane
    cdef vf v = splat(0.0)
    if stride == 1:
        return fetch(p, count, 0.0)
    if stride == 0:
        return splat(p[0])
    for lane in range(min(count, GS_LANES)):
        v = put_lane(v, lane, p[lane * stride])
    return v


cdef inline void binary_row(
    int op, const real* a, Py_ssize_t da, const real* b, Py_ssize_t db, real* y, Py_ssize_t count
) noexcept nogil:
    cdef Py_ssize_t i = 0
    while i < count:
        put(y + i, combine(op, fetch_strided(a + i * da, da, count - i), fetch_strided(b + i * db, db, count - i)),
            count - i)
        i += GS_LANES


cdef inline void binary_rows(int op, const real* a, const real* b, real* y, Walk* walk) noexcept nogil:
    cdef Py_ssize_t row = walk.ndim - 1, count = walk.shape[row], da = walk.first[row], db = walk.second[row]
    while True:
        if da == 1 and db == 1:
            binary_row(op, a + walk.at_first, 1, b + walk.at_second, 1, y, count)
        elif da == 1 and db == 0:
            binary_row(op, a + walk.at_first, 1, b + walk.at_second, 0, y, count)
        elif da == 0 and db == 1:
            binary_row(op, a + walk.at_first, 0, b + walk.at_second, 1, y, count)
        else:
            binary_row(op, a + walk.at_first, da, b + walk.at_second, db, y, count)
        y += count
        if not next_row(walk):
            return


cdef void power_rows(const real* a, const real* b, real* y, Walk* walk) noexcept nogil:
    """A square is one product: the exponent of most powers, and 20 times faster than libm."""
    cdef Py_ssize_t row = walk.ndim - 1, i
    cdef real base, exponent
    while True:
        for i in range(walk.shape[row]):
            base = a[walk.at_first + i * walk.first[row]]
            exponent = b[walk.at_second + i * walk.second[row]]
            y[i] = base * base if exponent == 2.0 else <real>pow(base, exponent)
        y += walk.shape[row]
        if not next_row(walk):
            return


cdef void remainder_rows(const real* a, const real* b, real* y, Walk* walk, bint floored) noexcept nogil:
    cdef Py_ssize_t row = walk.ndim - 1, i
    cdef double rest, divisor
    while True:
        for i in range(walk.shape[row]):
            divisor = b[walk.at_second + i * walk.second[row]]
            rest = fmod(a[walk.at_first + i * walk.first[row]], divisor)
            if floored and rest == 0.0 and divisor != 0.0:
                rest = copysign(0.0, divisor)
            elif floored and (rest < 0.0) != (divisor < 0.0):
                rest += divisor
            y[i] = <real>rest
        y += walk.shape[row]
        if not next_row(walk):
            return


cdef int binary(gs_args* args) noexcept nogil:
    cdef const real* a = <const real*>args.p[0]
    cdef const real* b = <const real*>args.p[1]
    cdef real* y = <real*>args.p[4]
    cdef Py_ssize_t op = args.n[0]
    cdef Walk walk
    if not start_walk(&walk, args.n[1], &args.n[2], &args.n[8], &args.n[14]):
        return GS_OK
    if op == GS_BIN_ADD:
        binary_rows(GS_BIN_ADD, a, b, y, &walk)
    elif op == GS_BIN_SUB:
        binary_rows(GS_BIN_SUB, a, b, y, &walk)
    elif op == GS_BIN_MUL:
        binary_rows(GS_BIN_MUL, a, b, y, &walk)
    elif op == GS_BIN_DIV:
        binary_rows(GS_BIN_DIV, a, b, y, &walk)
    elif op == GS_BIN_POW:
        power_rows(a, b, y, &walk)
    elif op == GS_BIN_MIN:
        binary_rows(GS_BIN_MIN, a, b, y, &walk)
    elif op == GS_BIN_MAX:
        binary_rows(GS_BIN_MAX, a, b, y, &walk)
    elif op == GS_BIN_MOD or op == GS_BIN_FMOD:
        remainder_rows(a, b, y, &walk, op == GS_BIN_MOD)
    else:
        binary_rows(GS_BIN_PRELU, a, b, y, &walk)
    return GS_OK


# ----------------------------------------------------------------------------------------------------------- reduce

cdef inline real combine_real(int op, real a, real b) noexcept nogil:
    """`combine` on single numbers."""
    if op == GS_BIN_ADD:
        return a + b
    elif op == GS_BIN_MUL:
        return a * b
    elif op == GS_BIN_MIN:
        return a if a < b or a != a else b
    return a if a > b or a != a else b                   # GS_BIN_MAX


cdef inline real across(int op, const vf* lanes) noexcept nogil:
    """One number from the GS_BLOCK lanes of a row: halves onto halves."""
    cdef real values[16]
    cdef Py_ssize_t i
    for i in range(GS_SPLIT):
        store(values + i * GS_LANES, lanes[i])
    for i in range(8):
        values[i] = combine_real(op, values[i], values[i + 8])
    for i in range(4):
        values[i] = combine_real(op, values[i], values[i + 4])
    for i in range(2):
        values[i] = combine_real(op, values[i], values[i + 2])
    return combine_real(op, values[0], values[1])


cdef inline vf fold(int op, bint square, vf total, vf x) noexcept nogil:
    return muladd(x, x, total) if square else combine(op, total, x)


cdef inline vf finish(Py_ssize_t kind, vf total, Py_ssize_t count) noexcept nogil:
    if kind == GS_RED_MEAN:
        return total / splat(count)
    if kind == GS_RED_L2:
        return vsqrt(total)
    return total


cdef inline void reduce_rows(
    int op, bint square, double neutral, gs_args* args, const real* x, real* y, Py_ssize_t count
) noexcept nogil:
    """The last axis: a block of GS_BLOCK columns at a time."""
    cdef vf lanes[8]
    cdef Py_ssize_t row, i, k
    for row in range(args.n[0]):
        for i in range(GS_SPLIT):
            lanes[i] = splat(neutral)
        k = 0
        while k + GS_BLOCK <= count:
            for i in range(GS_SPLIT):
                lanes[i] = fold(op, square, lanes[i], load(x + k + i * GS_LANES))
            k += GS_BLOCK
        if k < count:
            for i in range(GS_SPLIT):
                lanes[i] = fold(op, square, lanes[i], fetch(x + k + i * GS_LANES, count - k - i * GS_LANES, neutral))
        y[row] = get_lane(finish(args.n[3], splat(across(op, lanes)), count), 0)
        x += count


cdef inline void add_rows(
    int op, bint square, double neutral, const real* x, Py_ssize_t inner, Py_ssize_t width, Py_ssize_t count, vf* lanes
) noexcept nogil:
    """The next GS_BLOCK rows, of which `count` exist, each to a lane of its own."""
    cdef Py_ssize_t i
    for i in range(GS_BLOCK):
        if i < count:
            lanes[i] = fold(op, square, lanes[i], fetch(x + i * inner, width, neutral))


cdef inline void reduce_columns(
    int op, bint square, double neutral, gs_args* args, const real* x, real* y, Py_ssize_t count
) noexcept nogil:
    """Any other axis: a vector of neighbouring results at a time, each with the same lanes as the last axis has."""
    cdef vf lanes[16]
    cdef Py_ssize_t outer, inner = args.n[2], column, width, k, i
    for outer in range(args.n[0]):
        column = 0
        while column < inner:
            width = inner - column
            for i in range(GS_BLOCK):
                lanes[i] = splat(neutral)
            k = 0
            if width >= GS_LANES:
                while k + GS_BLOCK <= count:
                    add_rows(op, square, neutral, x + k * inner + column, inner, GS_LANES, GS_BLOCK, lanes)
                    k += GS_BLOCK
                if k < count:
                    add_rows(op, square, neutral, x + k * inner + column, inner, GS_LANES, count - k, lanes)
            else:
                while k < count:
                    add_rows(op, square, neutral, x + k * inner + column, inner, width, count - k, lanes)
                    k += GS_BLOCK
            for i in range(8):
                lanes[i] = combine(op, lanes[i], lanes[i + 8])
            for i in range(4):
                lanes[i] = combine(op, lanes[i], lanes[i + 4])
            for i in range(2):
                lanes[i] = combine(op, lanes[i], lanes[i + 2])
            put(y + column, finish(args.n[3], combine(op, lanes[0], lanes[1]), count), width)
            column += GS_LANES
        x += count * inner
        y += inner


cdef inline void reduce_all(int op, bint square, double neutral, gs_args* args) noexcept nogil:
    if args.n[2] == 1:
        reduce_rows(op, square, neutral, args, <const real*>args.p[0], <real*>args.p[4], args.n[1])
    else:
        reduce_columns(op, square, neutral, args, <const real*>args.p[0], <real*>args.p[4], args.n[1])


cdef int reduce(gs_args* args) noexcept nogil:
    cdef Py_ssize_t kind = args.n[3]
    if kind == GS_RED_SUM or kind == GS_RED_MEAN:
        reduce_all(GS_BIN_ADD, False, 0.0, args)
    elif kind == GS_RED_MAX:
        reduce_all(GS_BIN_MAX, False, -INFINITY, args)
    elif kind == GS_RED_MIN:
        reduce_all(GS_BIN_MIN, False, INFINITY, args)
    elif kind == GS_RED_PROD:
        reduce_all(GS_BIN_MUL, False, 1.0, args)
    else:
        reduce_all(GS_BIN_ADD, True, 0.0, args)
    return GS_OK


# ---------------------------------------------------------------------------------------------------------- softmax

cdef inline void largest_of_block(const real* x, Py_ssize_t count, vf* largest) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(GS_SPLIT):
        largest[i] = combine(GS_BIN_MAX, largest[i], fetch(x + i * GS_LANES, count - i * GS_LANES, -INFINITY))


cdef inline void exponentials_of_block(
    const real* x, real* y, Py_ssize_t count, vf largest, vf* total, bint keep
) noexcept nogil:
    cdef Py_ssize_t i
    cdef vf v
    for i in range(GS_SPLIT):
        v = exp_(fetch(x + i * GS_LANES, count - i * GS_LANES, -INFINITY) - largest)
        total[i] = total[i] + v
        if keep:
            put(y + i * GS_LANES, v, count - i * GS_LANES)


cdef inline void softmax_row(const real* x, real* y, Py_ssize_t width, bint logarithm) noexcept nogil:
    cdef vf lanes[8]
    cdef vf largest, total
    cdef Py_ssize_t i
    for i in range(GS_SPLIT):
        lanes[i] = splat(-INFINITY)
    i = 0
    while i + GS_BLOCK <= width:
        largest_of_block(x + i, GS_BLOCK, lanes)
        i += GS_BLOCK
    if i < width:
        largest_of_block(x + i, width - i, lanes)
    largest = splat(across(GS_BIN_MAX, lanes))

    for i in range(GS_SPLIT):
        lanes[i] = splat(0.0)
    i = 0
    while i + GS_BLOCK <= width:
        exponentials_of_block(x + i, y + i, GS_BLOCK, largest, lanes, not logarithm)
        i += GS_BLOCK
    if i < width:
        exponentials_of_block(x + i, y + i, width - i, largest, lanes, not logarithm)
    total = splat(across(GS_BIN_ADD, lanes))

    i = 0
    if logarithm:
        total = splat(log(get_lane(total, 0)))
        while i < width:
            put(y + i, fetch(x + i, width - i, 0.0) - largest - total, width - i)
            i += GS_LANES
    else:
        while i < width:
            put(y + i, fetch(y + i, width - i, 0.0) / total, width - i)
            i += GS_LANES


cdef int softmax(gs_args* args) noexcept nogil:
    cdef const real* x = <const real*>args.p[0]
    cdef real* y = <real*>args.p[4]
    cdef Py_ssize_t row, width = args.n[1]
    for row in range(args.n[0]):
        if args.n[2]:
            softmax_row(x, y, width, True)
        else:
            softmax_row(x, y, width, False)
        x += width
        y += width
    return GS_OK


# -------------------------------------------------------------------------------------------------------- layernorm

cdef inline void moments_of_block(
    const real* x, Py_ssize_t count, real centre, vf* total, vf* squares
) noexcept nogil:
    cdef Py_ssize_t i
    cdef vf v
    for i in range(GS_SPLIT):
        v = fetch(x + i * GS_LANES, count - i * GS_LANES, centre) - splat(centre)
        total[i] = total[i] + v
        squares[i] = muladd(v, v, squares[i])


cdef inline void moments(const real* x, Py_ssize_t width, real centre, real* mean, real* variance) noexcept nogil:
    """Mean of x - centre, and the mean of its squares."""
    cdef vf total[8]
    cdef vf squares[8]
    cdef Py_ssize_t i
    for i in range(GS_SPLIT):
        total[i] = squares[i] = splat(0.0)
    i = 0
    while i + GS_BLOCK <= width:
        moments_of_block(x + i, GS_BLOCK, centre, total, squares)
        i += GS_BLOCK
    if i < width:
        moments_of_block(x + i, width - i, centre, total, squares)
    mean[0] = across(GS_BIN_ADD, total) / <real>width
    variance[0] = across(GS_BIN_ADD, squares) / <real>width


cdef inline void layernorm_row(
    const real* x, const real* scale, const real* bias, real* y, Py_ssize_t width, double epsilon
) noexcept nogil:
    """The second pass also finds what rounding left of the mean, as the spread may be small against it."""
    cdef real mean, rest, variance, inverse
    cdef Py_ssize_t i = 0
    cdef vf v
    moments(x, width, 0.0, &mean, &variance)
    moments(x, width, mean, &rest, &variance)
    variance = variance - rest * rest
    if variance < 0.0:
        variance = 0.0
    inverse = <real>(1.0 / sqrt(variance + epsilon))
    while i < width:
        v = (fetch(x + i, width - i, 0.0) - splat(mean) - splat(rest)) * splat(inverse)
        if scale != NULL:
            v = v * fetch(scale + i, width - i, 0.0)
        if bias != NULL:
            v = v + fetch(bias + i, width - i, 0.0)
        put(y + i, v, width - i)
        i += GS_LANES


cdef int layernorm(gs_args* args) noexcept nogil:
    cdef const real* x = <const real*>args.p[0]
    cdef real* y = <real*>args.p[4]
    cdef Py_ssize_t row, width = args.n[1]
    for row in range(args.n[0]):
        layernorm_row(x, <const real*>args.p[1], <const real*>args.p[2], y, width, args.f[0])
        x += width
        y += width
    return GS_OK


# ----------------------------------------------------------------------------------------------------------- matmul

cdef struct Factors:
    const real* a                # element (row, k) at a + row * a_row + k * a_column
    Py_ssize_t a_row
    Py_ssize_t a_column
    const real* b                # element (k, column) at b + k * b_row + column
    Py_ssize_t b_row
    real* y                      # element (row, column) at y + row * y_row + column
    Py_ssize_t y_row
    Py_ssize_t depth             # of this pass over k
    bint resume                  # y holds the sum of the passes before


cdef inline void product_tile(
    int rows, int vectors, Factors* f, Py_ssize_t row, Py_ssize_t column, Py_ssize_t count
) noexcept nogil:
    """`rows` by `vectors` results in registers, one accumulator each, k ascending; `count` columns of them exist."""
    cdef vf total[16]
    cdef vf weights[4]
    cdef vf x
    cdef const real* a = f.a + row * f.a_row
    cdef const real* b = f.b + column
    cdef real* y = f.y + row * f.y_row + column
    cdef Py_ssize_t k
    cdef int r, v
    for r in range(rows):
        for v in range(vectors):
            total[4 * r + v] = (
                fetch(y + r * f.y_row + v * GS_LANES, count - v * GS_LANES, 0.0) if f.resume else splat(0.0))
    for k in range(f.depth):
        for v in range(vectors):
            weights[v] = fetch(b + v * GS_LANES, count - v * GS_LANES, 0.0)
        for r in range(rows):
            x = splat(a[r * f.a_row])
            for v in range(vectors):
                total[4 * r + v] = muladd(x, weights[v], total[4 * r + v])
        a += f.a_column
        b += f.b_row
    for r in range(rows):
        for v in range(vectors):
            put(y + r * f.y_row + v * GS_LANES, total[4 * r + v], count - v * GS_LANES)


cdef inline void product_rows(int rows, Factors* f, Py_ssize_t row, Py_ssize_t columns) noexcept nogil:
    cdef Py_ssize_t column = 0
    while columns - column >= GS_TILE * GS_LANES:
        product_tile(rows, GS_TILE, f, row, column, GS_TILE * GS_LANES)
        column += GS_TILE * GS_LANES
    while columns - column >= GS_LANES:
        product_tile(rows, 1, f, row, column, GS_LANES)
        column += GS_LANES
    if column < columns:
        product_tile(rows, 1, f, row, column, columns - column)


cdef void multiply(Factors* f, Py_ssize_t rows, Py_ssize_t columns) noexcept nogil:
    cdef Py_ssize_t row = 0
    while rows - row >= 4:
        product_rows(4, f, row, columns)
        row += 4
    while row < rows:
        product_rows(1, f, row, columns)
        row += 1


cdef enum:
    PANEL_DEPTH = 64
    PANEL_COLUMNS = 64


cdef void multiply_strided(
    Factors* f, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t depth, const real* b, Py_ssize_t b_row,
    Py_ssize_t b_column
) noexcept nogil:
    """Columns of b that are no neighbours: a panel of it is copied, and the sums wait in y for the next one."""
    cdef real panel[PANEL_DEPTH * PANEL_COLUMNS]
    cdef const real* a = f.a
    cdef real* y = f.y
    cdef const real* corner
    cdef Py_ssize_t column = 0, k, i, j, width
    f.b = panel
    f.b_row = PANEL_COLUMNS
    while column < columns:
        width = min(columns - column, <Py_ssize_t>PANEL_COLUMNS)
        k = 0
        while k == 0 or k < depth:
            f.depth = min(depth - k, <Py_ssize_t>PANEL_DEPTH)
            corner = b + k * b_row + column * b_column
            for i in range(f.depth):
                for j in range(width):
                    panel[i * PANEL_COLUMNS + j] = corner[i * b_row + j * b_column]
            f.a = a + k * f.a_column
            f.y = y + column
            f.resume = k > 0
            multiply(f, rows, width)
            k += PANEL_DEPTH
        column += PANEL_COLUMNS


cdef int matmul(gs_args* args) noexcept nogil:
    cdef Py_ssize_t batch, rows = args.n[1], depth = args.n[2], columns = args.n[3]
    cdef const real* b
    cdef Factors f
    f.a_row = args.n[6]
    f.a_column = args.n[7]
    f.y_row = columns
    for batch in range(args.n[0]):
        f.a = <const real*>args.p[0] + batch * args.n[4]
        b = <const real*>args.p[1] + batch * args.n[5]
        f.y = <real*>args.p[4] + batch * rows * columns
        if args.n[9] == 1 or columns == 1:
            f.b = b
            f.b_row = args.n[8]
            f.depth = depth
            f.resume = False
            multiply(&f, rows, columns)
        else:
            multiply_strided(&f, rows, columns, depth, b, args.n[8], args.n[9])
    return GS_OK


TENSOR_KERNELS = {
    "unary": <size_t>&unary,
    "binary": <size_t>&binary,
    "reduce": <size_t>&reduce,
    "softmax": <size_t>&softmax,
    "layernorm": <size_t>&layernorm,
    "matmul": <size_t>&matmul,
}
