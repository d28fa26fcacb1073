"""Products of the precision tiers, whose weights take fewer bits than reals (tiers.py says how they lie).

GS_TIER is the bits of a weight where weights are whole numbers, GS_BFLOAT says that they are the upper halves of reals;
where both are 0, nothing here is compiled into anything. Biases, and all that is not a product, stay reals in every tier.
"""

cdef extern from "simd.h":
    ctypedef long vi "gs_vi"
    const int GS_TIER
    const int GS_BFLOAT
    const int GS_LARGEST
    const int GS_CENTRED
    const int GS_PARTS
    const int GS_BYTES
    vf upper_halves "gs_upper_halves"(const char* p) noexcept nogil
    vi whole_weights "gs_weights"(const char* p) noexcept nogil
    vi whole_inputs "gs_inputs"(const int16_t* q, Py_ssize_t stride, Py_ssize_t k, int part) noexcept nogil
    vi add_part "gs_add_part"(vi sums, vi weights, vi inputs, int part) noexcept nogil
    vi joined "gs_joined"(vi lower, vi upper) noexcept nogil
    vf as_real "gs_real"(vi a) noexcept nogil
    vi no_sums "gs_no_sums"() noexcept nogil
    vi everywhere "gs_everywhere"(int32_t a) noexcept nogil
    real spread_of "gs_spread"(const real* x, Py_ssize_t size, real* middle) noexcept nogil
    void to_whole "gs_quantise"(
        const real* x, Py_ssize_t size, real middle, real factor, int16_t* q, Py_ssize_t stride,
        int32_t* offsets) noexcept nogil


cdef extern from "abi.h":
    enum:
        GS_EXACT
    Py_ssize_t GS_SCRATCH(Py_ssize_t steps, Py_ssize_t batch, Py_ssize_t hidden) noexcept nogil
    Py_ssize_t GS_QUANTISED(Py_ssize_t rows, Py_ssize_t size) noexcept nogil
    Py_ssize_t GS_WHOLE(Py_ssize_t size, Py_ssize_t multiple) noexcept nogil


cdef struct Quantised:
    # Rows of one operand as whole numbers, each with the numbers that make them reals again.
    int16_t* q
    real* scales
    real* middles
    int32_t* offsets  # (rows, chunks): what a sum over GS_EXACT elements of a row starts from
    Py_ssize_t stride
    Py_ssize_t chunks


cdef inline Py_ssize_t operand_reals(Py_ssize_t size, Py_ssize_t gates) noexcept nogil:
    """Reals that the weights of `size` inputs take in a block; of whole numbers their heads, then they, by lines."""
    cdef Py_ssize_t line = 64 // <Py_ssize_t>sizeof(real), weights = size * gates * GS_BLOCK
    if GS_TIER:
        weights = GS_WHOLE(size, 32 // GS_TIER) * gates * GS_BLOCK
        return ((1 + GS_CENTRED) * gates * GS_BLOCK if size else 0) + GS_WHOLE(quotient_up(weights * GS_TIER, 32), line)
    return GS_WHOLE(weights // 2, line) if GS_BFLOAT else weights


cdef inline void add_bytes(
    const int rows, const int units, const int gates, const int packed, const int part, const int parts, vi* lower,
    vi* upper, const char* const* p, const int16_t* const* q, const Py_ssize_t stride, Py_ssize_t k, const Py_ssize_t stop,
) noexcept nogil:
    """`parts` parts of the rows from part `part` on: what is of a second, upper byte goes to `upper`, all else to `lower`."""
    cdef int i, j, gate, target, n
    cdef vi inputs[8]
    cdef vi weights
    while k < stop:
        for i in range(rows):
            for n in range(parts):
                inputs[2 * i + n] = whole_inputs(q[i], stride, k, part + n)
        for j in range(units):
            for gate in range(gates):
                weights = whole_weights(p[j] + (k * packed + gate) * GS_BLOCK * 4)
                for i in range(rows):
                    target = (i * units + j) * 4 + gate
                    for n in range(parts):
                        if n and GS_BYTES:
                            upper[target] = add_part(upper[target], weights, inputs[2 * i + n], part + n)
                        else:
                            lower[target] = add_part(lower[target], weights, inputs[2 * i + n], part + n)
        k += 1


cdef inline void add_fours(
    const int rows, const int units, const int gates, const int slot, const int first, const int packed, vf* sums,
    const real** w, const Quantised* x, const Py_ssize_t unit, const Py_ssize_t row, const Py_ssize_t size,
) noexcept nogil:
    """What `add_products` does, on weights of 8 bits: gates `first` and on of the `packed` ones in a block.

    Sums of GS_EXACT products are exact in 32 bits, in which everything before them may wrap around, and then become
    reals. One row reads its weights once, for both of its bytes; several, whose weights stay in the nearest cache, take
    a pass for the upper bytes and then one for the lower, which leaves the registers to twice as many.
    """
    cdef Py_ssize_t k = 0, count = quotient_up(size, 4), stop, chunk = 0
    cdef int i, j, gate, from_, to
    cdef const char* p[4]
    cdef const int16_t* q[4]
    cdef vi lower[16]
    cdef vi upper[16]
    cdef vf before[16]
    cdef vf scale, product
    for j in range(units):
        p[j] = <const char*>(w[j] + ((1 + GS_CENTRED) * packed + first) * GS_BLOCK)
    for i in range(rows):
        q[i] = x.q + (row + i) * x.stride
    while True:
        stop = min(k + GS_EXACT // 4, count)
        for to in range(rows * units * 4):
            upper[to] = no_sums()
        if GS_BYTES and GS_PARTS == 2 and rows > 1:
            add_bytes(rows, units, gates, packed, 1, 1, upper, upper, p, q, x.stride, k, stop)
        for i in range(rows):
            for to in range(i * units * 4, (i + 1) * units * 4):
                lower[to] = everywhere(x.offsets[(row + i) * x.chunks + chunk])
                if GS_BYTES and GS_PARTS == 2 and rows > 1:
                    lower[to] = joined(lower[to], upper[to])
        if GS_BYTES and rows > 1:
            add_bytes(rows, units, gates, packed, 0, 1, lower, upper, p, q, x.stride, k, stop)
        else:
            add_bytes(rows, units, gates, packed, 0, GS_PARTS, lower, upper, p, q, x.stride, k, stop)
            for to in range(rows * units * 4):
                lower[to] = joined(lower[to], upper[to])
        if stop == count:
            break
        # More inputs than 32 bits take: reals, out of the way of the registers.
        for to in range(rows * units * 4):
            put_down(before + to, as_real(lower[to]) + before[to] if chunk else as_real(lower[to]))
        k = stop
        chunk += 1
    for j in range(units):
        for gate in range(gates):
            scale = load_aligned(w[j] + (first + gate) * GS_BLOCK)
            for i in range(rows):
                from_ = (i * units + j) * 4 + gate
                to = (i * units + j) * 4 + (slot if gate == gates - 1 else gate)
                product = as_real(lower[from_])
                if chunk:
                    product = product + before[from_]
                if GS_CENTRED:
                    sums[to] = muladd(
                        load_aligned(w[j] + (packed + first + gate) * GS_BLOCK), splat(x.middles[row + i]), sums[to])
                sums[to] = muladd(product, scale * splat(x.scales[row + i]), sums[to])


cdef inline void add_pairs(
    const int rows, const int units, const int gates, const int slot, const int first, const int packed, vf* sums,
    const real** w, const Quantised* x, const Py_ssize_t unit, const Py_ssize_t row, const Py_ssize_t size,
) noexcept nogil:
    """What `add_fours` does, on weights of 16 bits. Two products fit into 32 bits, and are reals then."""
    cdef Py_ssize_t k
    cdef int i, j, gate, target
    cdef const char* p[4]
    cdef const int16_t* q[4]
    cdef vi inputs[4]
    cdef vi weights
    cdef vf totals[16]
    cdef vf scale
    for j in range(units):
        p[j] = <const char*>(w[j] + (packed + first) * GS_BLOCK)
    for i in range(rows):
        q[i] = x.q + (row + i) * x.stride
    for target in range(rows * units * 4):
        totals[target] = splat(0.0)
    for k in range(quotient_up(size, 2)):
        for i in range(rows):
            inputs[i] = whole_inputs(q[i], x.stride, k, 0)
        for j in range(units):
            for gate in range(gates):
                weights = whole_weights(p[j] + gate * GS_BLOCK * 4)
                for i in range(rows):
                    target = (i * units + j) * 4 + gate
                    totals[target] = totals[target] + as_real(add_part(no_sums(), weights, inputs[i], 0))
            p[j] += packed * GS_BLOCK * 4
    for j in range(units):
        for gate in range(gates):
            scale = load_aligned(w[j] + (first + gate) * GS_BLOCK)
            for i in range(rows):
                target = (i * units + j) * 4 + (slot if gate == gates - 1 else gate)
                sums[target] = muladd(
                    totals[(i * units + j) * 4 + gate], scale * splat(x.scales[row + i]), sums[target])


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
    """Every row in steps of its own spread / GS_LARGEST. A row that is not finite makes all its sums NaN."""
    cdef Py_ssize_t row
    cdef real spread
    for row in range(rows):
        spread = spread_of(x + row * stride, size, to.middles + row)
        if spread < <real>1e-30:
            spread = 0
        to.scales[row] = spread / <real>GS_LARGEST + spread * 0
        to_whole(
            x + row * stride, size, to.middles[row], <real>GS_LARGEST / spread if spread > 0 else 0,
            to.q + row * to.stride, to.stride, to.offsets + row * to.chunks)


cdef inline void set_quantised(
    Quantised* to, real* memory, Py_ssize_t rows, Py_ssize_t size, Py_ssize_t first
) noexcept nogil:
    """Where GS_QUANTISED(rows, size) reals of `memory` have what from row `first` on."""
    to.stride, to.chunks = GS_WHOLE(size, 32), quotient_up(size, GS_EXACT)
    to.scales, to.middles = memory + first, memory + GS_WHOLE(rows, 16) + first
    memory += 2 * GS_WHOLE(rows, 16)
    to.offsets = <int32_t*>memory + first * to.chunks
    to.q = <int16_t*>(memory + GS_WHOLE(rows * to.chunks, 16)) + first * to.stride
