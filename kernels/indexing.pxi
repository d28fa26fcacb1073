# Kernels that compare, choose, rank, and move elements to and from places computed at run time. Included after
# walk.pxi and the casts; what each takes is written in abi.h.

ctypedef fused compared:
    uint8_t
    int64_t
    float
    double

ctypedef fused number:
    int64_t
    float
    double


# ------------------------------------------------------------------------------------------------- compare and where

cdef void compare_rows(Py_ssize_t op, const compared *a, const compared *b, uint8_t *y, Walk *walk) noexcept nogil:
    cdef Py_ssize_t row = walk.ndim - 1, i, count = walk.shape[row], da = walk.first[row], db = walk.second[row]
    cdef const compared *s
    cdef const compared *t
    while True:
        s = a + walk.at_first
        t = b + walk.at_second
        if op == GS_CMP_EQUAL:
            for i in range(count):
                y[i] = s[i * da] == t[i * db]
        elif op == GS_CMP_NOT_EQUAL:
            for i in range(count):
                y[i] = s[i * da] != t[i * db]
        elif op == GS_CMP_LESS:
            for i in range(count):
                y[i] = s[i * da] < t[i * db]
        elif op == GS_CMP_LESS_EQUAL:
            for i in range(count):
                y[i] = s[i * da] <= t[i * db]
        elif op == GS_CMP_AND:
            for i in range(count):
                y[i] = (s[i * da] != 0) & (t[i * db] != 0)
        else:                                            # GS_CMP_OR
            for i in range(count):
                y[i] = (s[i * da] != 0) | (t[i * db] != 0)
        y += count
        if not next_row(walk):
            return


cdef int compare(gs_args *args) noexcept nogil:
    cdef Py_ssize_t op = args.n[0], kind = args.n[20]
    cdef void *a = args.p[0]
    cdef void *b = args.p[1]
    cdef uint8_t *y = <uint8_t *>args.p[4]
    cdef Walk walk
    if not start_walk(&walk, args.n[1], &args.n[2], &args.n[8], &args.n[14]):
        return GS_OK
    if kind == GS_T_I64:
        compare_rows[int64_t](op, <const int64_t *>a, <const int64_t *>b, y, &walk)
    elif kind == GS_T_F32:
        compare_rows[float](op, <const float *>a, <const float *>b, y, &walk)
    elif kind == GS_T_F64:
        compare_rows[double](op, <const double *>a, <const double *>b, y, &walk)
    else:                                                # GS_T_BOOL
        compare_rows[uint8_t](op, <const uint8_t *>a, <const uint8_t *>b, y, &walk)
    return GS_OK


cdef void choose_rows(
    const uint8_t *condition, const element *a, const element *b, element *y, Walk *walk
) noexcept nogil:
    cdef Py_ssize_t row = walk.ndim - 1, i, count = walk.shape[row], da = walk.first[row], db = walk.second[row]
    while True:
        for i in range(count):
            y[i] = a[walk.at_first + i * da] if condition[i] else b[walk.at_second + i * db]
        y += count
        condition += count
        if not next_row(walk):
            return


cdef int where(gs_args *args) noexcept nogil:
    cdef const uint8_t *condition = <const uint8_t *>args.p[0]
    cdef void *a = args.p[1]
    cdef void *b = args.p[2]
    cdef void *y = args.p[4]
    cdef Walk walk
    if not start_walk(&walk, args.n[1], &args.n[2], &args.n[8], &args.n[14]):
        return GS_OK
    if args.n[0] == 1:
        choose_rows[uint8_t](condition, <const uint8_t *>a, <const uint8_t *>b, <uint8_t *>y, &walk)
    elif args.n[0] == 2:
        choose_rows[uint16_t](condition, <const uint16_t *>a, <const uint16_t *>b, <uint16_t *>y, &walk)
    elif args.n[0] == 4:
        choose_rows[uint32_t](condition, <const uint32_t *>a, <const uint32_t *>b, <uint32_t *>y, &walk)
    else:
        choose_rows[uint64_t](condition, <const uint64_t *>a, <const uint64_t *>b, <uint64_t *>y, &walk)
    return GS_OK


# ------------------------------------------------------------------------------------------------ along one dimension

cdef inline number plus(number a, number b) noexcept nogil:
    """Integers wrap, by way of unsigned ones, where that is defined."""
    if number is int64_t:
        return <int64_t>(<uint64_t>a + <uint64_t>b)
    else:
        return a + b


cdef inline number times(number a, number b) noexcept nogil:
    if number is int64_t:
        return <int64_t>(<uint64_t>a * <uint64_t>b)
    else:
        return a * b


cdef inline number smaller(number a, number b) noexcept nogil:
    """NaN where either is."""
    return a if a < b or a != a else b


cdef inline number larger(number a, number b) noexcept nogil:
    return a if a > b or a != a else b


cdef int reduce_i64(gs_args *args) noexcept nogil:
    cdef const int64_t *x = <const int64_t *>args.p[0]
    cdef int64_t *y = <int64_t *>args.p[4]
    cdef Py_ssize_t row, i, count = args.n[1], kind = args.n[2]
    cdef int64_t total
    for row in range(args.n[0]):
        total = INT64_MIN if kind == GS_RED_MAX else INT64_MAX if kind == GS_RED_MIN else kind == GS_RED_PROD
        for i in range(count):
            if kind == GS_RED_MAX:
                total = max(total, x[i])
            elif kind == GS_RED_MIN:
                total = min(total, x[i])
            elif kind == GS_RED_PROD:
                total = times[int64_t](total, x[i])
            elif kind == GS_RED_SUM_SQUARE:
                total = plus[int64_t](total, times[int64_t](x[i], x[i]))
            else:                                        # GS_RED_SUM
                total = plus[int64_t](total, x[i])
        y[row] = total
        x += count
    return GS_OK


cdef void extremes(const number *x, gs_args *args) noexcept nogil:
    cdef int64_t *y = <int64_t *>args.p[4]
    cdef Py_ssize_t row, i, best, width = args.n[1]
    cdef bint least = args.n[3], last = args.n[4], better
    for row in range(args.n[0]):
        best = 0
        for i in range(1, width):
            if x[i] != x[i]:                             # the first NaN (or last) beats every number
                better = last or x[best] == x[best]
            elif least:
                better = x[i] < x[best] or (last and x[i] == x[best])
            else:
                better = x[i] > x[best] or (last and x[i] == x[best])
            if better:
                best = i
        y[row] = best
        x += width


cdef int argmax(gs_args *args) noexcept nogil:
    if args.n[2] == GS_T_I64:
        extremes[int64_t](<const int64_t *>args.p[0], args)
    elif args.n[2] == GS_T_F32:
        extremes[float](<const float *>args.p[0], args)
    else:
        extremes[double](<const double *>args.p[0], args)
    return GS_OK


cdef inline bint ranks_before(number a, int64_t at_a, number b, int64_t at_b, bint largest) noexcept nogil:
    """Of equal ones the first; NaN counts as larger than every number."""
    if a == b or (a != a and b != b):
        return at_a < at_b
    if a != a:
        return largest
    if b != b:
        return not largest
    return a > b if largest else a < b


cdef void sink(number *values, int64_t *places, Py_ssize_t root, Py_ssize_t count, bint largest) noexcept nogil:
    """Restore a heap whose root is what ranks last."""
    cdef Py_ssize_t child
    cdef number value
    cdef int64_t place
    while 2 * root + 1 < count:
        child = 2 * root + 1
        if child + 1 < count and ranks_before[number](
            values[child], places[child], values[child + 1], places[child + 1], largest
        ):
            child += 1
        if not ranks_before[number](values[root], places[root], values[child], places[child], largest):
            return
        value = values[root]
        place = places[root]
        values[root] = values[child]
        places[root] = places[child]
        values[child] = value
        places[child] = place
        root = child


cdef void rank(const number *x, number *values, int64_t *places, gs_args *args) noexcept nogil:
    """The best of each row wait in a heap inside the result, which is then sorted in place."""
    cdef Py_ssize_t row, i, width = args.n[1], count = args.n[2]
    cdef bint largest = args.n[3]
    cdef number value
    cdef int64_t place
    if count == 0:                                       # no root to compare with
        return
    for row in range(args.n[0]):
        for i in range(count):
            values[i] = x[i]
            places[i] = i
        for i in range(count // 2 - 1, -1, -1):
            sink[number](values, places, i, count, largest)
        for i in range(count, width):
            if ranks_before[number](x[i], i, values[0], places[0], largest):
                values[0] = x[i]
                places[0] = i
                sink[number](values, places, 0, count, largest)
        for i in range(count - 1, 0, -1):
            value = values[0]
            place = places[0]
            values[0] = values[i]
            places[0] = places[i]
            values[i] = value
            places[i] = place
            sink[number](values, places, 0, i, largest)
        x += width
        values += count
        places += count


cdef int topk(gs_args *args) noexcept nogil:
    cdef int64_t *places = <int64_t *>args.p[5]
    if args.n[4] == GS_T_I64:
        rank[int64_t](<const int64_t *>args.p[0], <int64_t *>args.p[4], places, args)
    elif args.n[4] == GS_T_F32:
        rank[float](<const float *>args.p[0], <float *>args.p[4], places, args)
    else:
        rank[double](<const double *>args.p[0], <double *>args.p[4], places, args)
    return GS_OK


cdef void accumulate(const number *x, number *y, gs_args *args) noexcept nogil:
    cdef Py_ssize_t outer, k, i, now, count = args.n[1], inner = args.n[2], before = 0
    cdef bint exclusive = args.n[3], reverse = args.n[4]
    for outer in range(args.n[0]):
        for k in range(count):
            now = (count - 1 - k if reverse else k) * inner
            for i in range(inner):
                if k == 0:
                    y[now + i] = 0 if exclusive else x[now + i]
                else:
                    y[now + i] = plus[number](y[before + i], x[before + i] if exclusive else x[now + i])
            before = now
        x += count * inner
        y += count * inner


cdef int cumsum(gs_args *args) noexcept nogil:
    if args.n[5] == GS_T_I64:
        accumulate[int64_t](<const int64_t *>args.p[0], <int64_t *>args.p[4], args)
    elif args.n[5] == GS_T_F32:
        accumulate[float](<const float *>args.p[0], <float *>args.p[4], args)
    else:
        accumulate[double](<const double *>args.p[0], <double *>args.p[4], args)
    return GS_OK


cdef int reverse_sequence(gs_args *args) noexcept nogil:
    cdef const char *x = <const char *>args.p[0]
    cdef const int64_t *lengths = <const int64_t *>args.p[1]
    cdef char *y = <char *>args.p[4]
    cdef Py_ssize_t batch, t, steps = args.n[1], inner = args.n[2]
    for batch in range(args.n[0]):                       # all of them first: a call that fails has written nothing
        if lengths[batch] < 0 or lengths[batch] > steps:
            return GS_BAD_INDEX
    for batch in range(args.n[0]):
        for t in range(steps):
            memcpy(y + t * inner, x + (lengths[batch] - 1 - t if t < lengths[batch] else t) * inner, inner)
        x += steps * inner
        y += steps * inner
    return GS_OK


# ------------------------------------------------------------------------------------------------------------- places

cdef int element_index(gs_args *args) noexcept nogil:
    cdef const int64_t *indices = <const int64_t *>args.p[0]
    cdef int64_t *y = <int64_t *>args.p[4]
    cdef Py_ssize_t step = args.n[13], size = args.n[14], row, i
    cdef int64_t index
    cdef Walk walk
    if not start_walk(&walk, args.n[0], &args.n[1], &args.n[7], &args.n[7]):
        return GS_OK
    row = walk.ndim - 1
    while True:
        for i in range(walk.shape[row]):
            index = indices[i]
            if index < -size or index >= size:
                return GS_BAD_INDEX
            y[i] = walk.at_first + i * walk.first[row] + (index + size if index < 0 else index) * step
        indices += walk.shape[row]
        y += walk.shape[row]
        if not next_row(&walk):
            return GS_OK


cdef int tuple_index(gs_args *args) noexcept nogil:
    cdef const int64_t *indices = <const int64_t *>args.p[0]
    cdef int64_t *y = <int64_t *>args.p[4]
    cdef Py_ssize_t i, k, depth = args.n[1]
    cdef int64_t index, size, place
    for i in range(args.n[0]):
        place = i // args.n[2]
        for k in range(depth):
            index = indices[k]
            size = args.n[3 + k]
            if index < -size or index >= size:
                return GS_BAD_INDEX
            place = place * size + (index + size if index < 0 else index)
        y[i] = place
        indices += depth
    return GS_OK


cdef void scatter_into(
    Py_ssize_t op, const number *updates, const int64_t *places, number *y, Py_ssize_t count, Py_ssize_t inner
) noexcept nogil:
    cdef Py_ssize_t i, k
    cdef number *target
    for i in range(count):
        target = y + places[i] * inner
        for k in range(inner):
            if op == GS_SCATTER_ADD:
                target[k] = plus[number](target[k], updates[k])
            elif op == GS_SCATTER_MUL:
                target[k] = times[number](target[k], updates[k])
            elif op == GS_SCATTER_MIN:
                target[k] = smaller[number](target[k], updates[k])
            else:                                        # GS_SCATTER_MAX
                target[k] = larger[number](target[k], updates[k])
        updates += inner


cdef int scatter(gs_args *args) noexcept nogil:
    cdef Py_ssize_t count = args.n[0], inner = args.n[1], op = args.n[2], i
    cdef const int64_t *places = <const int64_t *>args.p[1]
    cdef const char *updates = <const char *>args.p[0]
    cdef char *y = <char *>args.p[4]
    if op == GS_SCATTER_SET:
        inner *= args.n[4]
        for i in range(count):
            memcpy(y + places[i] * inner, updates + i * inner, inner)
    elif args.n[3] == GS_T_I64:
        scatter_into[int64_t](op, <const int64_t *>updates, places, <int64_t *>y, count, inner)
    elif args.n[3] == GS_T_F32:
        scatter_into[float](op, <const float *>updates, places, <float *>y, count, inner)
    else:
        scatter_into[double](op, <const double *>updates, places, <double *>y, count, inner)
    return GS_OK


INDEXING_KERNELS = {
    "compare": <size_t>&compare,
    "where": <size_t>&where,
    "reduce_i64": <size_t>&reduce_i64,
    "argmax": <size_t>&argmax,
    "topk": <size_t>&topk,
    "cumsum": <size_t>&cumsum,
    "reverse_sequence": <size_t>&reverse_sequence,
    "element_index": <size_t>&element_index,
    "tuple_index": <size_t>&tuple_index,
    "scatter": <size_t>&scatter,
}
