"""Products of the precision tiers, whose weights take fewer bits than reals (tiers.py says how they lie).

GS_TIER is the bits of a weight where weights are whole numbers, GS_BFLOAT says that they are the upper halves of reals;
where both are 0, nothing here is compiled into anything. Biases, and all that is not a product, stay reals in every tier.
"""

cdef extern from "simd.h":
    ctypedef long vi "gs_vi"
    ctypedef int vs "gs_vs"
    const int GS_TIER
    const int GS_BFLOAT
    vf upper_halves "gs_upper_halves"(const char* p) noexcept nogil
    vs whole_weights "gs_weights"(const char* p) noexcept nogil
    vs pair_of "gs_pair"(const int16_t* p) noexcept nogil
    vi add_pairs "gs_dot"(vi sums, vs a, vs b) noexcept nogil
    vf as_real "gs_real"(vi a) noexcept nogil
    vi no_sums "gs_no_sums"() noexcept nogil
    void to_whole "gs_quantise"(const real* x, Py_ssize_t size, real factor, int16_t* q) noexcept nogil


cdef extern from "abi.h":
    Py_ssize_t GS_SCRATCH(Py_ssize_t steps, Py_ssize_t batch, Py_ssize_t hidden) noexcept nogil
    Py_ssize_t GS_QUANTISED(Py_ssize_t rows, Py_ssize_t size) noexcept nogil
    Py_ssize_t GS_WHOLE(Py_ssize_t size, Py_ssize_t multiple) noexcept nogil


cdef struct Quantised:
    # Rows of one operand as 16-bit integers, each with the number that makes them reals again.
    int16_t* q
    real* scales
    Py_ssize_t stride


cdef inline Py_ssize_t operand_reals(Py_ssize_t size, Py_ssize_t gates) noexcept nogil:
    """Reals that the weights of `size` inputs take in a block; of whole numbers the scales, then the weights, by lines."""
    cdef Py_ssize_t line = 64 // <Py_ssize_t>sizeof(real), weights = size * gates * GS_BLOCK
    if GS_TIER:
        weights = (size + 1) // 2 * 2 * gates * GS_BLOCK
        return (gates * GS_BLOCK if size else 0) + GS_WHOLE(quotient_up(weights * GS_TIER, 32), line)
    return GS_WHOLE(weights // 2, line) if GS_BFLOAT else weights


cdef inline void add_quantised(
    const int rows, const int units, const int gates, const int slot, const int first, const int packed, vf* sums,
    const real** w, const Quantised* x, const Py_ssize_t unit, const Py_ssize_t row, const Py_ssize_t size,
) noexcept nogil:
    """What `add_products` does, on whole numbers: gates `first` and on of the `packed` ones in a block.

    Whole numbers have no order of summation; in 8 bits 256 pairs of products fit into 32 bits, in 16 bits one does.
    """
    cdef Py_ssize_t k = 0, pairs = (size + 1) // 2, stop, lane
    cdef int i, j, gate
    cdef const char* p[4]
    cdef const int16_t* q[4]
    cdef vs inputs[4]
    cdef vs weights
    cdef vi whole[16]
    cdef vf totals[16]
    cdef vf scale
    for j in range(units):
        lane = (unit + j) % GS_SPLIT * GS_LANES
        p[j] = <const char*>(w[j] - lane + packed * GS_BLOCK) + (lane + first * GS_BLOCK) * GS_TIER // 4
    for i in range(rows):
        q[i] = x.q + (row + i) * x.stride
    for i in range(rows * units * 4):
        totals[i] = splat(0.0)
    while k < pairs:
        stop = min(k + 256, pairs)
        if GS_TIER == 8:
            for i in range(rows * units * 4):
                whole[i] = no_sums()
        while k < stop:
            for i in range(rows):
                inputs[i] = pair_of(q[i] + 2 * k)
            for j in range(units):
                for gate in range(gates):
                    weights = whole_weights(p[j] + gate * GS_BLOCK * GS_TIER // 4)
                    for i in range(rows):
                        if GS_TIER == 8:
                            whole[(i * units + j) * 4 + gate] = add_pairs(
                                whole[(i * units + j) * 4 + gate], weights, inputs[i])
                        else:
                            totals[(i * units + j) * 4 + gate] = totals[(i * units + j) * 4 + gate] + as_real(
                                add_pairs(no_sums(), weights, inputs[i]))
                p[j] += packed * GS_BLOCK * GS_TIER // 4
            k += 1
        if GS_TIER == 8:
            for i in range(rows * units * 4):
                totals[i] = totals[i] + as_real(whole[i])
    for j in range(units):
        for gate in range(gates):
            scale = load_aligned(w[j] + (first + gate) * GS_BLOCK)
            for i in range(rows):
                k = (i * units + j) * 4 + (slot if gate == gates - 1 else gate)
                sums[k] = muladd(totals[(i * units + j) * 4 + gate], scale * splat(x.scales[row + i]), sums[k])


cdef inline void add_halves(
    const int rows, const int units, const int gates, const int slot, const int first, const int packed, vf* sums,
    const real** w, const real* x, const Py_ssize_t x_stride, const Py_ssize_t unit, const Py_ssize_t size,
) noexcept nogil:
    """What `add_products` does, bit for bit, on weights of which only the upper half is kept."""
    cdef Py_ssize_t k, lane
    cdef int row, j, gate, target
    cdef const char* p[4]
    cdef vf inputs[4]
    cdef vf weights
    for j in range(units):
        lane = (unit + j) % GS_SPLIT * GS_LANES
        p[j] = <const char*>(w[j] - lane) + (lane + first * GS_BLOCK) * 2
    for k in range(size):
        for row in range(rows):
            inputs[row] = splat(x[row * x_stride + k])
        for j in range(units):
            for gate in range(gates):
                target = j * 4 + (slot if gate == gates - 1 else gate)
                weights = upper_halves(p[j] + gate * GS_BLOCK * 2)
                for row in range(rows):
                    sums[row * units * 4 + target] = muladd(weights, inputs[row], sums[row * units * 4 + target])
            p[j] += packed * GS_BLOCK * 2


cdef void quantise_rows(
    const Quantised* to, const real* x, Py_ssize_t stride, Py_ssize_t rows, Py_ssize_t size
) noexcept nogil:
    """Every row in steps of its own largest element / 32767. A row that is not finite makes all its sums NaN."""
    cdef Py_ssize_t row, k, lane
    cdef vf most, odd, part
    cdef real largest, strange
    for row in range(rows):
        most = odd = splat(0.0)
        k = 0
        while k < size:
            part = load_lanes(x + row * stride + k, size - k)
            most = vmax(vabs(part), most)
            odd = odd + part * splat(0.0)
            k += GS_LANES
        largest = strange = 0
        for lane in range(GS_LANES):
            largest = max(largest, get_lane(most, lane))
            strange += get_lane(odd, lane)
        if largest < 1e-30:
            largest = 0
        to.scales[row] = largest / <real>32767 + strange
        to_whole(x + row * stride, size, <real>32767 / largest if largest > 0 else 0, to.q + row * to.stride)


cdef inline void set_quantised(
    Quantised* to, real* memory, Py_ssize_t rows, Py_ssize_t size, Py_ssize_t first
) noexcept nogil:
    """Where GS_QUANTISED(rows, size) reals of `memory` have what from row `first` on."""
    to.stride = GS_WHOLE(size, 32)
    to.scales = memory + first
    to.q = <int16_t*>(memory + GS_WHOLE(rows, 16)) + first * to.stride
