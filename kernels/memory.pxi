# Kernels of streams that remember or look ahead: what stands before a recording, states that wait for it, running
# reductions. Included after walk.pxi; what each takes is written in abi.h. A clock counts the steps of a stream.

cdef int begin(gs_args *args) noexcept nogil:
    cdef const char *x = <const char *>args.p[0]
    cdef const char *fill = <const char *>args.p[2]
    cdef char *y = <char *>args.p[4]
    cdef Py_ssize_t block, frame, i, count = args.n[1], inner = args.n[2], size = args.n[3]
    cdef int64_t first = (<const int64_t *>args.p[1])[0] * args.n[4] + args.n[5]
    for block in range(args.n[0]):
        for frame in range(count):
            if first + frame < args.n[6]:
                for i in range(inner):
                    memcpy(y + i * size, fill, size)
            else:
                memcpy(y, x, inner * size)
            x += inner * size
            y += inner * size
    return GS_OK


cdef int hold(gs_args *args) noexcept nogil:
    if (<const int64_t *>args.p[1])[0] < args.n[1]:
        memcpy(args.p[4], args.p[0], args.n[0])
    return GS_OK


cdef int tick(gs_args *args) noexcept nogil:
    (<int64_t *>args.p[4])[0] += 1
    return GS_OK


# ---------------------------------------------------------------------------------------------------------- running

ctypedef fused floating:
    float
    double


cdef inline double joined(Py_ssize_t kind, double total, double x) noexcept nogil:
    """What a reduction is after one more element."""
    if kind == GS_RED_MAX:
        return x if x > total or x != x else total
    if kind == GS_RED_MIN:
        return x if x < total or x != x else total
    if kind == GS_RED_PROD:
        return total * x
    if kind == GS_RED_L2 or kind == GS_RED_SUM_SQUARE:
        return total + x * x
    return total + x


cdef inline double shown(Py_ssize_t kind, double total, double seen) noexcept nogil:
    """A reduction as the operator gives it."""
    if kind == GS_RED_MEAN:
        return total / seen
    return sqrt(total) if kind == GS_RED_L2 else total


cdef void run_along(const floating *x, floating *y, double *total, double *seen, gs_args *args) noexcept nogil:
    """Frame by frame in double precision: the same bits however a recording is cut."""
    cdef Py_ssize_t block, frame, i, outer = args.n[0], count = args.n[1], inner = args.n[2], kind = args.n[3]
    cdef bint every = args.n[4], exclusive = args.n[5]
    cdef const floating *source
    cdef floating *target
    cdef double *mine
    for frame in range(count):
        seen[0] += 1
        for block in range(outer):
            source = x + (block * count + frame) * inner
            mine = total + block * inner
            target = y + ((block * count + frame) if every else block) * inner
            for i in range(inner):
                if exclusive:
                    target[i] = <floating>mine[i]
                mine[i] = joined(kind, mine[i], <double>source[i])
                if not exclusive and (every or frame == count - 1):
                    target[i] = <floating>shown(kind, mine[i], seen[0])


cdef int running(gs_args *args) noexcept nogil:
    if args.n[6] == GS_T_F32:
        run_along[float](<const float *>args.p[0], <float *>args.p[4], <double *>args.p[5], <double *>args.p[6], args)
    else:
        run_along[double](<const double *>args.p[0], <double *>args.p[4], <double *>args.p[5], <double *>args.p[6], args)
    return GS_OK


MEMORY_KERNELS = {
    "begin": <size_t>&begin,
    "hold": <size_t>&hold,
    "tick": <size_t>&tick,
    "running": <size_t>&running,
}
