"""Convolutions in which every channel has weights of its own. What the kernel takes is written in abi.h.

Included after tensor.pxi.
"""

cdef int depthwise(gs_args* args) noexcept nogil:
    cdef const real* row
    cdef const real* w
    cdef real* y = <real*>args.p[4]
    cdef Py_ssize_t channels = args.n[0], a, b, c, k, j, channel, room
    cdef vf total
    for a in range(args.n[1]):
        for b in range(args.n[2]):
            for c in range(args.n[3]):
                row = <const real*>args.p[0] + a * args.n[4] + b * args.n[5] + c * args.n[6]
                channel = 0
                while channel < channels:
                    room = channels - channel
                    w = <const real*>args.p[1] + channel
                    total = fetch(<const real*>args.p[2] + channel, room, 0.0)
                    for k in range(args.n[7]):
                        for j in range(args.n[8]):
                            total = muladd(
                                fetch(w, room, 0.0), fetch(row + k * args.n[9] + j * args.n[10] + channel, room, 0.0), total)
                            w += channels
                    put(y + channel, total, room)
                    channel += GS_LANES
                y += channels
    return GS_OK


WINDOW_KERNELS = {"depthwise": <size_t>&depthwise}
