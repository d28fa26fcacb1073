"""Vector type, its operations, and every activation of abi.h.

To Cython `vf` is a floating-point number, so the arithmetic below reads as such; in C it is a whole vector (simd.h).
"""

from libc.math cimport ceil, cos, erf, exp as libm_exp, floor, log, log1p, rint, sin

cdef extern from "simd.h":
    ctypedef double real
    ctypedef double vf "gs_vf"
    ctypedef int mask "gs_mask"
    const int GS_DOUBLE
    const Py_ssize_t GS_LANES
    const int GS_BIAS
    const double GS_ROUNDER
    vf splat "gs_splat"(real x) noexcept nogil
    vf load "gs_load"(const real* p) noexcept nogil
    vf load_aligned "gs_load_aligned"(const real* p) noexcept nogil
    vf load_once "gs_load_once"(const real* p) noexcept nogil
    vf load_part "gs_load_part"(const real* p, Py_ssize_t count) noexcept nogil
    void store "gs_store"(real* p, vf v) noexcept nogil
    void store_part "gs_store_part"(real* p, vf v, Py_ssize_t count) noexcept nogil
    void put_down "gs_put_down"(vf* p, vf v) noexcept nogil
    real get_lane "gs_get"(vf v, Py_ssize_t lane) noexcept nogil
    vf put_lane "gs_put"(vf v, Py_ssize_t lane, real x) noexcept nogil
    vf muladd "gs_muladd"(vf a, vf b, vf c) noexcept nogil
    vf vmin "gs_min"(vf a, vf b) noexcept nogil
    vf vmax "gs_max"(vf a, vf b) noexcept nogil
    vf vsqrt "gs_sqrt"(vf a) noexcept nogil
    vf vabs "gs_abs"(vf a) noexcept nogil
    vf power_of_two "gs_power"(vf n) noexcept nogil
    mask less "gs_lt"(vf a, vf b) noexcept nogil
    mask less_equal "gs_le"(vf a, vf b) noexcept nogil
    vf select "gs_select"(mask m, vf a, vf b) noexcept nogil

    ctypedef struct gs_args:
        void** p
        Py_ssize_t* n
        double* f

    enum:
        GS_OK, GS_BLOCK, GS_ROWS, GS_SPLIT
        GS_ACT_IDENTITY, GS_ACT_SIGMOID, GS_ACT_TANH, GS_ACT_RELU, GS_ACT_AFFINE, GS_ACT_LEAKY_RELU
        GS_ACT_THRESHOLDED_RELU, GS_ACT_SCALED_TANH, GS_ACT_HARD_SIGMOID, GS_ACT_ELU, GS_ACT_SOFTSIGN
        GS_ACT_SOFTPLUS, GS_ACT_SELU, GS_ACT_HARD_SWISH, GS_ACT_GELU, GS_ACT_GELU_TANH, GS_ACT_EXP, GS_ACT_LOG
        GS_ACT_SQRT, GS_ACT_ABS, GS_ACT_NEG, GS_ACT_RECIPROCAL, GS_ACT_ERF, GS_ACT_CLIP, GS_ACT_FLOOR, GS_ACT_CEIL
        GS_ACT_SIGN, GS_ACT_SIN, GS_ACT_COS, GS_ACT_ROUND

ctypedef double (*scalar_function)(double) noexcept nogil

cdef extern from *:
    """
    #define GS_LOG2E 1.4426950408889634074
    """
    const double GS_LOG2E


cdef inline vf clamp(vf x, double low, double high) noexcept nogil:
    """`x` held in [low, high]; NaN stays."""
    return vmin(splat(high), vmax(splat(low), x))


cdef inline vf exp2m1(vf f) noexcept nogil:
    """2^f - 1 for -1/2 <= f <= 1/2, with a small *relative* error: 4e-9 in single, 6e-18 in double precision.

    f * q(f), q minimax, in Estrin's order: latency is what a small layer waits for.
    """
    cdef vf f2 = f * f, f4 = f2 * f2, f8, low, middle, high
    if GS_DOUBLE:
        f8 = f4 * f4
        low = muladd(
            muladd(splat(9.6181291076068868088e-3), f, splat(5.5504108664821659755e-2)), f2,
            muladd(splat(2.4022650695910098223e-1), f, splat(6.9314718055994530909e-1)))
        middle = muladd(
            muladd(splat(1.3215442586612870547e-6), f, splat(1.5252733853282352968e-5)), f2,
            muladd(splat(1.5403530441738513431e-4), f, splat(1.3333558146396001579e-3)))
        high = muladd(
            splat(4.4566755710138822318e-10), f2,
            muladd(splat(7.0725861813463670926e-9), f, splat(1.0178051727399185754e-7)))
        return f * muladd(high, f8, muladd(middle, f4, low))
    low = muladd(splat(0.24022651084215122803), f, splat(0.69314718802895101201))
    middle = muladd(splat(0.0096180307705219569407), f, splat(0.05550357105517602499))
    high = muladd(splat(0.00015469735205486631811), f, splat(0.0013390866847232127857))
    return f * muladd(high, f4, muladd(middle, f2, low))


cdef inline vf sigmoid(vf x) noexcept nogil:
    """1 / (1 + exp(-x)); the limits keep exp(-x) finite."""
    cdef vf limited, shifted, fraction, scale
    limited = clamp(x, -709.0 if GS_DOUBLE else -88.0, 708.0 if GS_DOUBLE else 87.0)
    shifted = muladd(limited, splat(-GS_LOG2E), splat(GS_ROUNDER + GS_BIAS))
    fraction = muladd(limited, splat(-GS_LOG2E), splat(GS_ROUNDER + GS_BIAS) - shifted)
    scale = power_of_two(shifted)
    return splat(1.0) / (splat(1.0) + muladd(scale, exp2m1(fraction), scale))


cdef inline vf tanh_(vf x) noexcept nogil:
    """tanh(x) = m / (m + 2) with m = exp(2x) - 1: a small relative error around 0 as well."""
    cdef vf limited, shifted, fraction, scale, m
    limited = clamp(x, -22.0 if GS_DOUBLE else -12.0, 22.0 if GS_DOUBLE else 12.0)
    shifted = muladd(limited, splat(2.0 * GS_LOG2E), splat(GS_ROUNDER + GS_BIAS))
    fraction = muladd(limited, splat(2.0 * GS_LOG2E), splat(GS_ROUNDER + GS_BIAS) - shifted)
    scale = power_of_two(shifted)
    m = muladd(scale, exp2m1(fraction), scale - splat(1.0))
    return m / (m + splat(2.0))


cdef inline vf exp_fraction(vf limited, vf* shifted) noexcept nogil:
    """The fraction f of limited * log2(e) = n + f, to full precision; `shifted` receives the bits of n."""
    cdef vf n
    shifted[0] = limited * splat(GS_LOG2E) + splat(GS_ROUNDER + GS_BIAS)
    n = shifted[0] - splat(GS_ROUNDER + GS_BIAS)
    # ln 2 in two parts, the first short enough for an exact product.
    if GS_DOUBLE:
        limited = muladd(n, splat(-6.93147180369123816490e-01), limited)
        limited = muladd(n, splat(-1.90821492927058770002e-10), limited)
    else:
        limited = muladd(n, splat(-0.693359375), limited)
        limited = muladd(n, splat(2.12194440e-4), limited)
    return limited * splat(GS_LOG2E)


cdef inline vf exp_(vf x) noexcept nogil:
    """exp(x); results below twice the smallest normal number are 0."""
    cdef double low = -708.0 if GS_DOUBLE else -86.9
    cdef vf shifted, fraction, half
    fraction = exp_fraction(clamp(x, low, 710.0 if GS_DOUBLE else 89.0), &shifted)
    # One power of two short, made up for at the end: 2^n itself may overflow where exp(x) does not.
    half = power_of_two(shifted - splat(1.0))
    half = muladd(half, exp2m1(fraction), half)
    return select(less(x, splat(low)), splat(0.0), half + half)


cdef inline vf expm1_(vf x) noexcept nogil:
    """exp(x) - 1 for x <= 0 (elu, selu)."""
    cdef vf shifted, fraction, scale
    fraction = exp_fraction(clamp(x, -708.3 if GS_DOUBLE else -87.3, 0.0), &shifted)
    scale = power_of_two(shifted)
    return muladd(scale, exp2m1(fraction), scale - splat(1.0))


cdef vf by_lane(scalar_function function, vf x) noexcept nogil:
    """`function` of libm on each lane, in double precision: for what no recurrent layer spends its time on."""
    cdef Py_ssize_t lane
    for lane in range(GS_LANES):
        x = put_lane(x, lane, <real>function(get_lane(x, lane)))
    return x


cdef double softplus(double x) noexcept nogil:
    return log1p(libm_exp(-x)) + x if x > 0.0 else log1p(libm_exp(x))


cdef double gelu(double x) noexcept nogil:
    return 0.5 * x * (1.0 + erf(x * 0.70710678118654752440))


cdef vf activate(int kind, vf x, vf alpha, vf beta) noexcept nogil:
    """The activation `kind` (GS_ACT_*) of a vector. NaN in a lane stays in that lane."""
    cdef vf zero = splat(0.0), one = splat(1.0)
    if kind == GS_ACT_SIGMOID:
        return sigmoid(x)
    elif kind == GS_ACT_TANH:
        return tanh_(x)
    elif kind == GS_ACT_RELU:
        return vmax(zero, x)
    elif kind == GS_ACT_AFFINE:
        return muladd(alpha, x, beta)
    elif kind == GS_ACT_LEAKY_RELU:
        return select(less(x, zero), alpha * x, x)
    elif kind == GS_ACT_THRESHOLDED_RELU:
        return select(less_equal(x, alpha), zero, x)
    elif kind == GS_ACT_SCALED_TANH:
        return alpha * tanh_(beta * x)
    elif kind == GS_ACT_HARD_SIGMOID:
        return vmin(one, vmax(zero, muladd(alpha, x, beta)))
    elif kind == GS_ACT_ELU:
        return select(less(x, zero), alpha * expm1_(x), x)
    elif kind == GS_ACT_SOFTSIGN:
        return x / (one + vabs(x))
    elif kind == GS_ACT_SOFTPLUS:
        return by_lane(softplus, x)
    elif kind == GS_ACT_SELU:
        return beta * select(less_equal(x, zero), alpha * expm1_(x), x)
    elif kind == GS_ACT_HARD_SWISH:
        return x * vmin(one, vmax(zero, muladd(x, splat(1.0 / 6.0), splat(0.5))))
    elif kind == GS_ACT_GELU:
        return by_lane(gelu, x)
    elif kind == GS_ACT_GELU_TANH:
        beta = splat(0.79788456080286535588) * muladd(splat(0.044715) * x * x, x, x)
        return splat(0.5) * x * (one + tanh_(beta))
    elif kind == GS_ACT_EXP:
        return exp_(x)
    elif kind == GS_ACT_LOG:
        return by_lane(log, x)
    elif kind == GS_ACT_SQRT:
        return vsqrt(x)
    elif kind == GS_ACT_ABS:
        return vabs(x)
    elif kind == GS_ACT_NEG:
        return -x
    elif kind == GS_ACT_RECIPROCAL:
        return one / x
    elif kind == GS_ACT_ERF:
        return by_lane(erf, x)
    elif kind == GS_ACT_CLIP:
        return vmin(beta, vmax(alpha, x))
    elif kind == GS_ACT_FLOOR:
        return by_lane(floor, x)
    elif kind == GS_ACT_CEIL:
        return by_lane(ceil, x)
    elif kind == GS_ACT_SIGN:
        return select(less(zero, x), one, select(less(x, zero), -one, x))
    elif kind == GS_ACT_SIN:
        return by_lane(sin, x)
    elif kind == GS_ACT_COS:
        return by_lane(cos, x)
    elif kind == GS_ACT_ROUND:
        return by_lane(rint, x)
    return x
