# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Kernels that move and convert elements: the same for every instruction set and floating-point type.

What each takes is written in abi.h.
"""

from libc.stdint cimport INT8_MAX, INT8_MIN, INT16_MAX, INT16_MIN, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN, UINT8_MAX, UINT16_MAX, UINT32_MAX
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.math cimport sqrt
from libc.string cimport memcpy


cdef extern from "abi.h":
    ctypedef struct gs_args:
        void *p[12]
        Py_ssize_t n[24]
        double f[8]
    cdef enum:
        GS_OK, GS_BAD_INDEX, GS_JUMP, GS_AGAIN, GS_BESIDE
        GS_BIN_ADD, GS_BIN_SUB, GS_BIN_MUL, GS_BIN_DIV, GS_BIN_POW, GS_BIN_MIN, GS_BIN_MAX, GS_BIN_PRELU, GS_BIN_MOD
        GS_RED_MEAN, GS_RED_MAX, GS_RED_MIN, GS_RED_PROD, GS_RED_L2, GS_RED_SUM_SQUARE
        GS_CMP_EQUAL, GS_CMP_NOT_EQUAL, GS_CMP_LESS, GS_CMP_LESS_EQUAL, GS_CMP_AND
        GS_SCATTER_SET, GS_SCATTER_ADD, GS_SCATTER_MUL, GS_SCATTER_MIN
        GS_T_BOOL, GS_T_U8, GS_T_I8, GS_T_I16, GS_T_I32, GS_T_I64, GS_T_F16, GS_T_F32, GS_T_F64, GS_T_U16, GS_T_U32

cdef extern from *:
    """
    /* Names of their own, so that conversion can tell a truth value from a byte and a half from a short. */
    typedef uint8_t gs_bool;
    typedef uint16_t gs_half;
    """
    ctypedef char gs_bool                                # not uint8_t: a fused type takes equal types for one
    ctypedef short gs_half                               # nor uint16_t

include "walk.pxi"


# ------------------------------------------------------------------------------------------------------------- copy

ctypedef fused element:
    uint8_t
    uint16_t
    uint32_t
    uint64_t


cdef void copy_elements(element *target, const element *source, Walk *walk) noexcept nogil:
    cdef Py_ssize_t row = walk.ndim - 1, i, count = walk.shape[row], step = walk.first[row], stride = walk.second[row]
    cdef const element *s
    cdef element *t
    cdef element value
    while True:
        s = source + walk.at_first
        t = target + walk.at_second
        if step == 1 and stride == 1:
            memcpy(t, s, count * sizeof(element))
        elif step == 0:
            value = s[0]
            for i in range(count):
                t[i * stride] = value
        elif stride == 1:
            for i in range(count):
                t[i] = s[i * step]
        else:
            for i in range(count):
                t[i * stride] = s[i * step]
        if not next_row(walk):
            return


cdef void copy_from_to(gs_args *args, const char *source, char *target) noexcept nogil:
    cdef Walk walk
    if not start_walk(&walk, args.n[0], &args.n[1], &args.n[7], &args.n[13]):
        return
    if args.n[19] == 1:
        copy_elements[uint8_t](<uint8_t *>target, <const uint8_t *>source, &walk)
    elif args.n[19] == 2:
        copy_elements[uint16_t](<uint16_t *>target, <const uint16_t *>source, &walk)
    elif args.n[19] == 4:
        copy_elements[uint32_t](<uint32_t *>target, <const uint32_t *>source, &walk)
    else:
        copy_elements[uint64_t](<uint64_t *>target, <const uint64_t *>source, &walk)


cdef int copy(gs_args *args) noexcept nogil:
    copy_from_to(args, <const char *>args.p[0], <char *>args.p[4])
    return GS_OK


cdef int copy_at(gs_args *args) noexcept nogil:
    cdef Py_ssize_t bytes = <Py_ssize_t>(<const int64_t *>args.p[1])[0] * args.n[19]
    copy_from_to(args, <const char *>args.p[0] + bytes * args.n[20], <char *>args.p[4] + bytes * args.n[21])
    return GS_OK


# ------------------------------------------------------------------------------------------------------------ jumps

cdef int beside(gs_args *args) noexcept nogil:
    return GS_BESIDE


cdef int jump(gs_args *args) noexcept nogil:
    cdef const uint8_t *condition = <const uint8_t *>args.p[0]
    return GS_JUMP if condition == NULL or (condition[0] != 0) == args.n[1] else GS_OK


cdef int count(gs_args *args) noexcept nogil:
    cdef int64_t *counter = <int64_t *>args.p[4]
    cdef int64_t limit = args.n[3]
    if args.p[0] != NULL:
        limit = (<const int64_t *>args.p[0])[0]
    counter[0] += args.n[1]
    if (counter[0] < limit) != args.n[2]:
        return GS_OK
    return GS_AGAIN if args.n[4] else GS_JUMP


# ------------------------------------------------------------------------------------------------------------- cast

ctypedef fused source_t:
    gs_bool
    uint8_t
    int8_t
    uint16_t
    int16_t
    uint32_t
    int32_t
    int64_t
    gs_half
    float
    double

ctypedef fused target_t:
    gs_bool
    uint8_t
    int8_t
    uint16_t
    int16_t
    uint32_t
    int32_t
    int64_t
    gs_half
    float
    double

cdef inline double half_to_double(gs_half half) noexcept nogil:
    """Exact. By cases, never through a subnormal: the caller may run with flush-to-zero on."""
    cdef uint32_t exponent = half & 0x7C00
    cdef uint64_t bits = (<uint64_t>(half & 0x7FFF)) << 42
    cdef double magnitude
    if exponent == 0:
        magnitude = <double>(half & 0x3FF) * (1.0 / 16777216)
    else:
        # From the exponent bias of 15 to that of 1023; infinities and NaNs go on to the topmost exponent.
        bits += (<uint64_t>2016 if exponent == 0x7C00 else <uint64_t>1008) << 52
        memcpy(&magnitude, &bits, sizeof(bits))
    return -magnitude if half & 0x8000 else magnitude


cdef inline gs_half double_to_half(double x) noexcept nogil:
    """Rounds once, to nearest, ties to even."""
    cdef uint64_t bits, magnitude
    cdef uint32_t sign
    cdef double shifted
    memcpy(&bits, &x, sizeof(x))
    sign = <uint32_t>(bits >> 48) & 0x8000
    magnitude = bits & 0x7FFFFFFFFFFFFFFFULL
    if magnitude > 0x7FF0000000000000ULL:
        return <gs_half>(sign | 0x7E00 | (<uint32_t>(magnitude >> 42) & 0x3FF))
    if magnitude >= 0x40EFFE0000000000ULL:            # 65520, halfway from the largest half to the next power
        return <gs_half>(sign | 0x7C00)
    if magnitude < 0x3F10000000000000ULL:            # below 2**-14, halves are multiples of 2**-24,
        memcpy(&shifted, &magnitude, sizeof(x))          # and so are doubles from 2**28 on: the addition rounds
        shifted += 268435456.0
        memcpy(&magnitude, &shifted, sizeof(x))
        return <gs_half>(sign | <uint32_t>(magnitude & 0x7FF))
    magnitude += 0x1FFFFFFFFFFULL + ((magnitude >> 42) & 1)
    return <gs_half>(sign | <uint32_t>((magnitude >> 42) - (1008 << 10)))


cdef inline double clamp(double x, double low, double high) noexcept nogil:
    """Into [low, high]; NaN is 0."""
    if x != x:
        return 0
    return low if x < low else high if x > high else x


cdef inline void store_integer(target_t *y, int64_t x) noexcept nogil:
    """Integers wrap among themselves."""
    if target_t is gs_bool:
        y[0] = x != 0
    elif target_t is gs_half:
        y[0] = double_to_half(<double>x)
    else:
        y[0] = <target_t>x


cdef inline void store_real(target_t *y, double x) noexcept nogil:
    """Integers are truncated toward zero and saturate."""
    if target_t is gs_bool:
        y[0] = x != 0
    elif target_t is gs_half:
        y[0] = double_to_half(x)
    elif target_t is float or target_t is double:
        y[0] = <target_t>x
    elif target_t is uint8_t:
        y[0] = <uint8_t><int32_t>clamp(x, 0, UINT8_MAX)
    elif target_t is int8_t:
        y[0] = <int8_t><int32_t>clamp(x, INT8_MIN, INT8_MAX)
    elif target_t is uint16_t:
        y[0] = <uint16_t><int32_t>clamp(x, 0, UINT16_MAX)
    elif target_t is int16_t:
        y[0] = <int16_t><int32_t>clamp(x, INT16_MIN, INT16_MAX)
    elif target_t is uint32_t:
        y[0] = <uint32_t><int64_t>clamp(x, 0, UINT32_MAX)
    elif target_t is int32_t:
        y[0] = <int32_t>clamp(x, INT32_MIN, INT32_MAX)
    elif x >= 9223372036854775808.0:                     # 2**63 is a double, INT64_MAX is not
        y[0] = INT64_MAX
    else:
        y[0] = <int64_t>clamp(x, -9223372036854775808.0, 9223372036854774784.0)


cdef void convert(const source_t *x, target_t *y, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(count):
        if source_t is gs_half:
            store_real[target_t](y + i, half_to_double(x[i]))
        elif source_t is float or source_t is double:
            store_real[target_t](y + i, <double>x[i])
        elif source_t is gs_bool:
            store_integer[target_t](y + i, <int64_t>(x[i] != 0))
        else:
            store_integer[target_t](y + i, <int64_t>x[i])


cdef void convert_to(const source_t *x, void *y, Py_ssize_t count, Py_ssize_t target) noexcept nogil:
    if target == GS_T_BOOL:
        convert[source_t, gs_bool](x, <gs_bool *>y, count)
    elif target == GS_T_U8:
        convert[source_t, uint8_t](x, <uint8_t *>y, count)
    elif target == GS_T_I8:
        convert[source_t, int8_t](x, <int8_t *>y, count)
    elif target == GS_T_I16:
        convert[source_t, int16_t](x, <int16_t *>y, count)
    elif target == GS_T_I32:
        convert[source_t, int32_t](x, <int32_t *>y, count)
    elif target == GS_T_I64:
        convert[source_t, int64_t](x, <int64_t *>y, count)
    elif target == GS_T_F16:
        convert[source_t, gs_half](x, <gs_half *>y, count)
    elif target == GS_T_F32:
        convert[source_t, float](x, <float *>y, count)
    elif target == GS_T_U16:
        convert[source_t, uint16_t](x, <uint16_t *>y, count)
    elif target == GS_T_U32:
        convert[source_t, uint32_t](x, <uint32_t *>y, count)
    else:
        convert[source_t, double](x, <double *>y, count)


cdef int cast(gs_args *args) noexcept nogil:
    cdef void *x = args.p[0]
    cdef void *y = args.p[4]
    cdef Py_ssize_t count = args.n[0], source = args.n[1], target = args.n[2]
    if source == GS_T_BOOL:
        convert_to[gs_bool](<const gs_bool *>x, y, count, target)
    elif source == GS_T_U8:
        convert_to[uint8_t](<const uint8_t *>x, y, count, target)
    elif source == GS_T_I8:
        convert_to[int8_t](<const int8_t *>x, y, count, target)
    elif source == GS_T_I16:
        convert_to[int16_t](<const int16_t *>x, y, count, target)
    elif source == GS_T_I32:
        convert_to[int32_t](<const int32_t *>x, y, count, target)
    elif source == GS_T_I64:
        convert_to[int64_t](<const int64_t *>x, y, count, target)
    elif source == GS_T_F16:
        convert_to[gs_half](<const gs_half *>x, y, count, target)
    elif source == GS_T_F32:
        convert_to[float](<const float *>x, y, count, target)
    elif source == GS_T_U16:
        convert_to[uint16_t](<const uint16_t *>x, y, count, target)
    elif source == GS_T_U32:
        convert_to[uint32_t](<const uint32_t *>x, y, count, target)
    else:
        convert_to[double](<const double *>x, y, count, target)
    return GS_OK


# ----------------------------------------------------------------------------------------------------------- gather

cdef int gather(gs_args *args) noexcept nogil:
    cdef const char *data = <const char *>args.p[0]
    cdef const int64_t *indices = <const int64_t *>args.p[1]
    cdef char *y = <char *>args.p[4]
    cdef Py_ssize_t outer = args.n[0], size = args.n[1], inner = args.n[2], count = args.n[3], block, i
    cdef int64_t index
    for i in range(count):                               # all of them first: a call that fails has written nothing
        if indices[i] < -size or indices[i] >= size:
            return GS_BAD_INDEX
    for block in range(outer):
        for i in range(count):
            index = indices[i]
            if index < 0:
                index += size
            if inner == 4:                               # a size known to the compiler is a move, not a call
                memcpy(y, data + index * 4, 4)
            elif inner == 8:
                memcpy(y, data + index * 8, 8)
            else:
                memcpy(y, data + index * inner, inner)
            y += inner
        data += size * inner
    return GS_OK


# ------------------------------------------------------------------------------------------------------- binary_i64

cdef inline int64_t divide(int64_t a, int64_t b) noexcept nogil:
    """Toward zero; 0 where the processor would trap on a zero divisor, and -INT64_MIN wraps."""
    if b == 0:
        return 0
    if b == -1:
        return <int64_t>(0 - <uint64_t>a)
    return a // b


cdef inline int64_t remainder(int64_t a, int64_t b, bint floored) noexcept nogil:
    """0 where the processor would trap; with the sign of b if `floored`, else of a."""
    cdef int64_t rest
    if b == 0 or b == -1:
        return 0
    rest = a % b
    return rest + b if floored and rest != 0 and (rest < 0) != (b < 0) else rest


cdef inline int64_t power(int64_t a, int64_t b) noexcept nogil:
    """Modulo 2**64; a negative exponent gives 1/a**-b toward zero, 0 for a = 0."""
    cdef uint64_t result = 1, square = <uint64_t>a
    if b < 0:
        if a == 1 or a == -1:
            return a if b & 1 else 1
        return 0
    while b:
        if b & 1:
            result *= square
        square *= square
        b >>= 1
    return <int64_t>result


cdef inline void binary_row(
    Py_ssize_t op, const int64_t *a, Py_ssize_t da, const int64_t *b, Py_ssize_t db, int64_t *y, Py_ssize_t count
) noexcept nogil:
    """Sums and products run on unsigned numbers, where wrapping is defined."""
    cdef Py_ssize_t i
    if op == GS_BIN_ADD:
        for i in range(count):
            y[i] = <int64_t>(<uint64_t>a[i * da] + <uint64_t>b[i * db])
    elif op == GS_BIN_SUB:
        for i in range(count):
            y[i] = <int64_t>(<uint64_t>a[i * da] - <uint64_t>b[i * db])
    elif op == GS_BIN_MUL:
        for i in range(count):
            y[i] = <int64_t>(<uint64_t>a[i * da] * <uint64_t>b[i * db])
    elif op == GS_BIN_DIV:
        for i in range(count):
            y[i] = divide(a[i * da], b[i * db])
    elif op == GS_BIN_POW:
        for i in range(count):
            y[i] = power(a[i * da], b[i * db])
    elif op == GS_BIN_MIN:
        for i in range(count):
            y[i] = min(a[i * da], b[i * db])
    elif op == GS_BIN_MAX:
        for i in range(count):
            y[i] = max(a[i * da], b[i * db])
    elif op == GS_BIN_PRELU:
        for i in range(count):
            y[i] = a[i * da] if a[i * da] >= 0 else <int64_t>(<uint64_t>a[i * da] * <uint64_t>b[i * db])
    else:
        for i in range(count):
            y[i] = remainder(a[i * da], b[i * db], op == GS_BIN_MOD)


cdef int binary_i64(gs_args *args) noexcept nogil:
    cdef const int64_t *a = <const int64_t *>args.p[0]
    cdef const int64_t *b = <const int64_t *>args.p[1]
    cdef int64_t *y = <int64_t *>args.p[4]
    cdef Py_ssize_t row
    cdef Walk walk
    if not start_walk(&walk, args.n[1], &args.n[2], &args.n[8], &args.n[14]):
        return GS_OK
    row = walk.ndim - 1
    while True:
        binary_row(args.n[0], a + walk.at_first, walk.first[row], b + walk.at_second, walk.second[row], y,
                   walk.shape[row])
        y += walk.shape[row]
        if not next_row(&walk):
            return GS_OK


cdef int check_range(gs_args *args) noexcept nogil:
    cdef const int32_t *x = <const int32_t *>args.p[0]
    cdef Py_ssize_t i
    for i in range(args.n[0]):
        if x[i] < args.n[1] or x[i] > args.n[2]:
            return GS_BAD_INDEX
    return GS_OK


# ---------------------------------------------------------------------------------------------------------- packing

cdef fused real:
    float
    double


cdef void interleaved(
    real *y, Py_ssize_t step, const real *x, Py_ssize_t rows, Py_ssize_t width, Py_ssize_t row, Py_ssize_t column
) noexcept nogil:
    cdef Py_ssize_t first, last, k, lane, grouped = rows & ~3 if column == 1 else 0
    cdef const real *one
    cdef const real *two
    cdef const real *three
    cdef const real *four
    cdef real *out
    for first in range(0, width, 16):  # the rows' cache lines are read once, whole
        last = min(first + 16, width)
        if row == 1:  # a transposed matrix: they are lanes already
            for k in range(first, last):
                memcpy(y + k * step, x + k * column, rows * sizeof(real))
        else:
            for lane in range(0, grouped, 4):  # four at once: a store of their own for each takes twice as long
                one = x + lane * row
                two, three, four = one + row, one + 2 * row, one + 3 * row
                for k in range(first, last):
                    out = y + k * step + lane
                    out[0], out[1], out[2], out[3] = one[k], two[k], three[k], four[k]
            for lane in range(grouped, rows):
                for k in range(first, last):
                    y[k * step + lane] = x[lane * row + k * column]
        for k in range(first, last):
            for lane in range(rows, 16):
                y[k * step + lane] = 0


def interleave(
    size_t y, Py_ssize_t block, Py_ssize_t step, size_t x, Py_ssize_t apart, Py_ssize_t row, Py_ssize_t column,
    Py_ssize_t rows, Py_ssize_t width, Py_ssize_t blocks, bint double_precision,
):
    """Rows side by side: see `pack`. Strides are in elements."""
    cdef Py_ssize_t b, lanes
    with nogil:
        for b in range(blocks):
            lanes = max(min(rows - b * apart, 16), 0)
            if double_precision:
                interleaved[double](
                    <double *>y + b * block, step, <const double *>x + b * apart * row, lanes, width, row, column
                )
            else:
                interleaved[float](
                    <float *>y + b * block, step, <const float *>x + b * apart * row, lanes, width, row, column
                )


include "indexing.pxi"
include "memory.pxi"

KERNELS = {
    **INDEXING_KERNELS,
    **MEMORY_KERNELS,
    "beside": <size_t>&beside,
    "check_range": <size_t>&check_range,
    "copy": <size_t>&copy,
    "copy_at": <size_t>&copy_at,
    "count": <size_t>&count,
    "jump": <size_t>&jump,
    "cast": <size_t>&cast,
    "gather": <size_t>&gather,
    "binary_i64": <size_t>&binary_i64,
}
