"""Every activation of abi.h on Vectors: activations.pxi step by step, so that the bits are the same.

The constants and what they stand for are explained there.
"""

from __future__ import annotations

from collections.abc import Callable

from .vector import Vector, in_double, muladd, where_less, where_less_equal

__all__ = ["ACTIVATIONS", "IDENTITY", "THRESHOLDED_RELU", "clamp", "sigmoid", "tanh", "thresholded_relu_of_a_cell"]

_LOG2E = 1.4426950408889634074


def _least(a: Vector | float, b: Vector) -> Vector:
    """b unless a < b."""
    return where_less(a, b, a, b)


def _greatest(a: Vector | float, b: Vector) -> Vector:
    """b unless a > b."""
    return where_less(b, a, a, b)


def clamp(x: Vector, low: Vector | float, high: Vector | float) -> Vector:
    """`x` held in [low, high]; NaN stays."""
    return _least(high, _greatest(low, x))


def _bias(x: Vector) -> float:
    """What brings the nearest integer into the low bits, as the exponent of a power of two."""
    return 12582912.0 + 127.0 if x.kind.bits == 32 else 6755399441055744.0 + 1023.0


def _exp2m1(f: Vector) -> Vector:
    """2^f - 1 for -1/2 <= f <= 1/2."""
    if f.kind.bits == 64:
        f2 = f * f
        f4 = f2 * f2
        f8 = f4 * f4
        low = muladd(
            muladd(9.6181291076068868088e-3, f, 5.5504108664821659755e-2),
            f2,
            muladd(2.4022650695910098223e-1, f, 6.9314718055994530909e-1),
        )
        middle = muladd(
            muladd(1.3215442586612870547e-6, f, 1.5252733853282352968e-5),
            f2,
            muladd(1.5403530441738513431e-4, f, 1.3333558146396001579e-3),
        )
        high = muladd(
            4.4566755710138822318e-10, f2, muladd(7.0725861813463670926e-9, f, 1.0178051727399185754e-7)
        )
        return f * muladd(high, f8, muladd(middle, f4, low))
    f2 = f * f
    f4 = f2 * f2
    low = muladd(0.24022651084215122803, f, 0.69314718802895101201)
    middle = muladd(0.0096180307705219569407, f, 0.05550357105517602499)
    high = muladd(0.00015469735205486631811, f, 0.0013390866847232127857)
    return f * muladd(high, f4, muladd(middle, f2, low))


def sigmoid(x: Vector) -> Vector:
    """1 / (1 + exp(-x))."""
    limited = clamp(x, (-88.0 if x.kind.bits == 32 else -709.0), (87.0 if x.kind.bits == 32 else 708.0))
    shifted = muladd(limited, -_LOG2E, _bias(x))
    fraction = muladd(limited, -_LOG2E, _bias(x) - shifted)
    scale = shifted.power_of_two()
    return 1.0 / (1.0 + muladd(scale, _exp2m1(fraction), scale))


def tanh(x: Vector) -> Vector:
    """tanh(x) = m / (m + 2) with m = exp(2x) - 1."""
    limit = 12.0 if x.kind.bits == 32 else 22.0
    limited = clamp(x, -limit, limit)
    shifted = muladd(limited, 2.0 * _LOG2E, _bias(x))
    fraction = muladd(limited, 2.0 * _LOG2E, _bias(x) - shifted)
    scale = shifted.power_of_two()
    m = muladd(scale, _exp2m1(fraction), scale - 1.0)
    return m / (m + 2.0)


def _exp_fraction(limited: Vector) -> tuple[Vector, Vector]:
    """limited * log2(e) = n + f: the bits of n, and f to full precision."""
    shifted = limited * _LOG2E + _bias(limited)
    n = shifted - _bias(limited)
    limited = muladd(n, (-0.693359375 if limited.kind.bits == 32 else -6.93147180369123816490e-01), limited)
    limited = muladd(n, (2.12194440e-4 if limited.kind.bits == 32 else -1.90821492927058770002e-10), limited)
    return shifted, limited * _LOG2E


def exp(x: Vector) -> Vector:
    """exp(x); results below twice the smallest normal number are 0."""
    low = -86.9 if x.kind.bits == 32 else -708.0
    shifted, fraction = _exp_fraction(clamp(x, low, (89.0 if x.kind.bits == 32 else 710.0)))
    half = (shifted - 1.0).power_of_two()
    half = muladd(half, _exp2m1(fraction), half)
    return where_less(x, low, 0.0, half + half)


def _expm1(x: Vector) -> Vector:
    """exp(x) - 1 for x <= 0."""
    shifted, fraction = _exp_fraction(clamp(x, (-87.3 if x.kind.bits == 32 else -708.3), 0.0))
    scale = shifted.power_of_two()
    return muladd(scale, _exp2m1(fraction), scale - 1.0)


def _identity(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return x


def _sigmoid(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return sigmoid(x)


def _tanh(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return tanh(x)


def _relu(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return _greatest(0.0, x)


def _affine(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return muladd(alpha, x, beta)


def _leaky_relu(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return where_less(x, 0.0, alpha * x, x)


def _thresholded_relu(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return where_less_equal(x, alpha, 0.0, x)


def _scaled_tanh(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return alpha * tanh(beta * x)


def _hard_sigmoid(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return _least(1.0, _greatest(0.0, muladd(alpha, x, beta)))


def _elu(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return where_less(x, 0.0, alpha * _expm1(x), x)


def _softsign(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return x / (1.0 + abs(x))


def _softplus(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    def softplus(wide: Vector) -> Vector:
        small = where_less(0.0, wide, -wide, wide).by_libm("exp").by_libm("log1p")
        return where_less(0.0, wide, small + wide, small)

    return in_double(softplus, x)


def _selu(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return beta * where_less_equal(x, 0.0, alpha * _expm1(x), x)


def _hard_swish(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return x * _least(1.0, _greatest(0.0, muladd(x, 1.0 / 6.0, 0.5)))


def _gelu(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return in_double(lambda wide: 0.5 * wide * (1.0 + (wide * 0.70710678118654752440).by_libm("erf")), x)


def _gelu_tanh(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    inner = 0.79788456080286535588 * muladd(0.044715 * x * x, x, x)
    return 0.5 * x * (1.0 + tanh(inner))


def _exp(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return exp(x)


def _log(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return in_double(lambda wide: wide.by_libm("log"), x)


def _sqrt(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return x.by_llvm("sqrt")


def _abs(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return abs(x)


def _neg(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return -x


def _reciprocal(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return 1.0 / x


def _erf(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return in_double(lambda wide: wide.by_libm("erf"), x)


def _clip(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return _least(beta, _greatest(alpha, x))


def _floor(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return x.by_llvm("floor")


def _ceil(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return x.by_llvm("ceil")


def _sign(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return where_less(0.0, x, 1.0, where_less(x, 0.0, x.every(-1.0), x))


def _sin(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return in_double(lambda wide: wide.by_libm("sin"), x)


def _cos(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return in_double(lambda wide: wide.by_libm("cos"), x)


def _round(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    return in_double(lambda wide: wide.by_libm("rint"), x)


def thresholded_relu_of_a_cell(x: Vector, alpha: Vector, beta: Vector) -> Vector:
    """The recurrent operators of ONNX let x == alpha through."""
    return where_less_equal(alpha, x, x, 0.0)


#: Functions of (x, alpha, beta) in the order of GS_ACT_*.
ACTIVATIONS: tuple[Callable[[Vector, Vector, Vector], Vector], ...] = (
    _identity,
    _sigmoid,
    _tanh,
    _relu,
    _affine,
    _leaky_relu,
    _thresholded_relu,
    _scaled_tanh,
    _hard_sigmoid,
    _elu,
    _softsign,
    _softplus,
    _selu,
    _hard_swish,
    _gelu,
    _gelu_tanh,
    _exp,
    _log,
    _sqrt,
    _abs,
    _neg,
    _reciprocal,
    _erf,
    _clip,
    _floor,
    _ceil,
    _sign,
    _sin,
    _cos,
    _round,
)
#: Their places, where the code speaks of them.
IDENTITY, THRESHOLDED_RELU = 0, 6
