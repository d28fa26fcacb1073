"""Kernels of quantised operators. What each takes is written in abi.h.

Included after activations.pxi, fused.pxi and tensor.pxi. Integer sums are exact, so that their order is the compiler's;
what becomes of them in floating point is computed in one order for every row.
"""

from libc.stdint cimport INT16_MAX, INT16_MIN, INT8_MAX, INT8_MIN, UINT16_MAX, UINT8_MAX
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t

cdef extern from "abi.h":
    enum:
        GS_T_U8, GS_T_I8, GS_T_U16, GS_T_I16

ctypedef fused quantised_t:
    uint8_t
    int8_t
    uint16_t
    int16_t

ctypedef fused stored_t:
    uint8_t
    int8_t
    uint16_t
    int16_t
    int32_t

ctypedef fused byte_t:
    uint8_t
    int8_t


cdef inline real held(real x, real low, real high) noexcept nogil:
    """Into [low, high]; NaN is `low`."""
    return high if x > high else x if x >= low else low


# --------------------------------------------------------------------------------------------------- to and from reals

cdef void quantise_to(const gs_args* args, quantised_t* y, real low, real high) noexcept nogil:
    cdef const real* x = <const real*>args.p[0]
    cdef const real* scales = <const real*>args.p[1]
    cdef const int32_t* zeros = <const int32_t*>args.p[2]
    cdef Py_ssize_t outer, channel, i, inner = args.n[2]
    cdef real scale, zero
    for outer in range(args.n[0]):
        for channel in range(args.n[1]):
            scale = scales[channel]
            zero = 0 if zeros is NULL else <real>zeros[channel]
            for i in range(inner):
                y[i] = <quantised_t><int32_t>(<real>rint(held(x[i] / scale, low - zero, high - zero)) + zero)
            x += inner
            y += inner


cdef int quantise(gs_args* args) noexcept nogil:
    if args.n[3] == GS_T_U8:
        quantise_to[uint8_t](args, <uint8_t*>args.p[4], 0, UINT8_MAX)
    elif args.n[3] == GS_T_I8:
        quantise_to[int8_t](args, <int8_t*>args.p[4], INT8_MIN, INT8_MAX)
    elif args.n[3] == GS_T_U16:
        quantise_to[uint16_t](args, <uint16_t*>args.p[4], 0, UINT16_MAX)
    else:
        quantise_to[int16_t](args, <int16_t*>args.p[4], INT16_MIN, INT16_MAX)
    return GS_OK


cdef void dequantise_from(const gs_args* args, const stored_t* q) noexcept nogil:
    cdef const real* scales = <const real*>args.p[1]
    cdef const int32_t* zeros = <const int32_t*>args.p[2]
    cdef real* y = <real*>args.p[4]
    cdef Py_ssize_t outer, channel, i, inner = args.n[2]
    cdef real scale
    cdef int64_t zero
    for outer in range(args.n[0]):
        for channel in range(args.n[1]):
            scale = scales[channel]
            zero = 0 if zeros is NULL else zeros[channel]
            for i in range(inner):
                y[i] = <real>(q[i] - zero) * scale
            q += inner
            y += inner


cdef int dequantise(gs_args* args) noexcept nogil:
    if args.n[3] == GS_T_U8:
        dequantise_from[uint8_t](args, <const uint8_t*>args.p[0])
    elif args.n[3] == GS_T_I8:
        dequantise_from[int8_t](args, <const int8_t*>args.p[0])
    elif args.n[3] == GS_T_U16:
        dequantise_from[uint16_t](args, <const uint16_t*>args.p[0])
    elif args.n[3] == GS_T_I16:
        dequantise_from[int16_t](args, <const int16_t*>args.p[0])
    else:
        dequantise_from[int32_t](args, <const int32_t*>args.p[0])
    return GS_OK


cdef void centre_from(const gs_args* args, const byte_t* q) noexcept nogil:
    cdef const int32_t* zeros = <const int32_t*>args.p[2]
    cdef int16_t* y = <int16_t*>args.p[4]
    cdef Py_ssize_t outer, channel, i, inner = args.n[2]
    cdef int32_t zero
    for outer in range(args.n[0]):
        for channel in range(args.n[1]):
            zero = 0 if zeros is NULL else zeros[channel]
            for i in range(inner):
                y[i] = <int16_t>(<int32_t>q[i] - zero)
            q += inner
            y += inner


cdef int centre(gs_args* args) noexcept nogil:
    if args.n[3] == GS_T_U8:
        centre_from[uint8_t](args, <const uint8_t*>args.p[0])
    else:
        centre_from[int8_t](args, <const int8_t*>args.p[0])
    return GS_OK


cdef inline void range_of(const real* x, Py_ssize_t count, real* low, real* high) noexcept nogil:
    """Widen [low, high] by the numbers of `x`; NaN is none."""
    cdef Py_ssize_t i
    for i in range(count):
        low[0] = x[i] if x[i] < low[0] else low[0]
        high[0] = x[i] if x[i] > high[0] else high[0]


cdef inline real scale_of(real low, real high, int32_t* zero) noexcept nogil:
    """Scale and zero of uint8 for numbers in [low, high], which has 0 in it."""
    cdef real scale = (high - low) / <real>UINT8_MAX if high != low else 1
    zero[0] = <int32_t>rint(held(-low / scale, 0, UINT8_MAX))
    return scale


cdef int quantise_dynamically(gs_args* args) noexcept nogil:
    cdef const real* x = <const real*>args.p[0]
    cdef uint8_t* y = <uint8_t*>args.p[4]
    cdef int32_t* zero = <int32_t*>args.p[6]
    cdef Py_ssize_t i
    cdef real low = 0, high = 0, scale, offset
    range_of(x, args.n[0], &low, &high)
    scale = scale_of(low, high, zero)
    (<real*>args.p[5])[0] = scale
    offset = <real>zero[0]
    for i in range(args.n[0]):
        y[i] = <uint8_t><int32_t>(<real>rint(held(x[i] / scale, -offset, UINT8_MAX - offset)) + offset)
    return GS_OK


# ------------------------------------------------------------------------------------------------------------ products

cdef inline int32_t dot(const int16_t* a, const int16_t* b, Py_ssize_t count) noexcept nogil:
    cdef uint32_t total = 0                              # where wrapping is defined
    cdef Py_ssize_t i
    for i in range(count):
        total += <uint32_t>(<int32_t>a[i] * <int32_t>b[i])
    return <int32_t>total


cdef int matmul_i16(gs_args* args) noexcept nogil:
    cdef const int16_t* a
    cdef int32_t* y = <int32_t*>args.p[4]
    cdef Py_ssize_t batch, row, column
    for batch in range(args.n[0]):
        for row in range(args.n[1]):
            a = <const int16_t*>args.p[0] + batch * args.n[4] + row * args.n[6]
            for column in range(args.n[2]):
                y[0] = dot(a, <const int16_t*>args.p[1] + batch * args.n[5] + column * args.n[7], args.n[3])
                y += 1
    return GS_OK


# ---------------------------------------------------------------------------------------------------------------- LSTM

cdef void quantised_cell(const gs_args* args, const real* sums, const real* bias, real* c, real* h) noexcept nogil:
    """One row: gates i o f c in `sums`, what follows in the order of ONNX Runtime, bias last."""
    cdef const real* peepholes = <const real*>args.p[7]
    cdef Py_ssize_t size = args.n[3], u = 0, room
    cdef vf clip = splat(<real>args.f[0]), i, o, f, g, cell
    while u < size:
        room = size - u
        cell = fetch(c + u, room, 0.0)
        i, o = fetch(sums + u, room, 0.0), fetch(sums + size + u, room, 0.0)
        f, g = fetch(sums + 2 * size + u, room, 0.0), fetch(sums + 3 * size + u, room, 0.0)
        if peepholes is not NULL:
            i = i + fetch(peepholes + u, room, 0.0) * cell
            f = f + fetch(peepholes + 2 * size + u, room, 0.0) * cell
        if bias is not NULL:
            i, o = i + fetch(bias + u, room, 0.0), o + fetch(bias + size + u, room, 0.0)
            f, g = f + fetch(bias + 2 * size + u, room, 0.0), g + fetch(bias + 3 * size + u, room, 0.0)
        i = activate_gate(args, 0, i, clip)
        f = splat(1.0) - i if args.n[15] == 1 else activate_gate(args, 0, f, clip)
        g = activate_gate(args, 1, g, clip)
        cell = f * cell + i * g
        if peepholes is not NULL:
            o = o + fetch(peepholes + size + u, room, 0.0) * cell
        o = activate_gate(args, 0, o, clip)
        put(c + u, cell, room)
        put(h + u, o * activate_gate(args, 2, cell, splat(INFINITY)), room)
        u += GS_LANES


cdef int quantised_lstm(gs_args* args) noexcept nogil:
    cdef const real* products = <const real*>args.p[0]
    cdef const int16_t* r = <const int16_t*>args.p[1]
    cdef const real* bias = <const real*>args.p[8]
    cdef const real* scales = <const real*>args.p[11]
    cdef const int32_t* lengths = <const int32_t*>args.p[10]
    cdef real* h = <real*>args.p[5]
    cdef real* c = <real*>args.p[6]
    cdef real* sums = <real*>args.p[9]
    cdef int16_t* q = <int16_t*>(sums + 4 * args.n[3])
    cdef real* y
    cdef Py_ssize_t steps = args.n[0], rows = args.n[1], size = args.n[3], step, row, t, i, length
    cdef real low, high, scale
    cdef int32_t zero
    for i in range(rows * size):
        h[i] = (<const real*>args.p[2])[i]
        c[i] = (<const real*>args.p[3])[i]
    for step in range(steps):
        low = high = 0
        for row in range(rows):
            if lengths is NULL or step <= lengths[row]:      # its last h counts once more
                range_of(h + row * size, size, &low, &high)
        scale = scale_of(low, high, &zero)
        for row in range(rows):
            length = steps if lengths is NULL else lengths[row]
            t = length - 1 - step if args.n[9] and step < length else step
            y = <real*>args.p[4] + t * args.n[7] + row * args.n[8]
            if step >= length:
                for i in range(size):
                    y[i] = 0
                continue
            for i in range(size):
                q[i] = <int16_t><int32_t>rint(held(h[row * size + i] / scale, <real>-zero, <real>(UINT8_MAX - zero)))
            for i in range(4 * size):
                sums[i] = (
                    products[(t * rows + row) * 4 * size + i] + <real>dot(r + i * size, q, size) * (scale * scales[i])
                )
            quantised_cell(args, sums, bias, c + row * size, h + row * size)
            for i in range(size):
                y[i] = h[row * size + i]
    for row in range(rows):
        if lengths is not NULL and lengths[row] == 0 and steps > 0:
            for i in range(size):
                h[row * size + i] = c[row * size + i] = 0
    return GS_OK


QUANTISED_KERNELS = {
    "quantise": <size_t>&quantise,
    "dequantise": <size_t>&dequantise,
    "centre": <size_t>&centre,
    "quantise_dynamically": <size_t>&quantise_dynamically,
    "matmul_i16": <size_t>&matmul_i16,
    "quantised_lstm": <size_t>&quantised_lstm,
}
