"""Every activation of abi.h on its own: through a dense layer whose weights are 1, so that the sum is x itself."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from gatestep.kernels import pack, reference

Array = np.ndarray[Any, Any]

#: Name in reference.py: name in abi.h, alpha, beta, and the error allowed, in units of 2^-24 (2^-53) of max(1, |y|).
CASES = {
    "Identity": ("IDENTITY", 0.0, 0.0, 0),
    "Sigmoid": ("SIGMOID", 0.0, 0.0, 3),
    "Tanh": ("TANH", 0.0, 0.0, 3),
    "Relu": ("RELU", 0.0, 0.0, 0),
    "Affine": ("AFFINE", 0.5, 0.25, 2),
    "LeakyRelu": ("LEAKY_RELU", 0.125, 0.0, 1),
    "ScaledTanh": ("SCALED_TANH", 1.5, 0.5, 6),
    "HardSigmoid": ("HARD_SIGMOID", 0.25, 0.5, 1),
    "Elu": ("ELU", 0.75, 0.0, 3),
    "Softsign": ("SOFTSIGN", 0.0, 0.0, 2),
    "Softplus": ("SOFTPLUS", 0.0, 0.0, 2),
    "Selu": ("SELU", 1.5, 1.25, 6),
    "HardSwish": ("HARD_SWISH", 0.0, 0.0, 3),
    "Gelu": ("GELU", 0.0, 0.0, 3),
    "GeluTanh": ("GELU_TANH", 0.0, 0.0, 6),
    "Exp": ("EXP", 0.0, 0.0, 4),
    "Abs": ("ABS", 0.0, 0.0, 0),
    "Neg": ("NEG", 0.0, 0.0, 0),
    "Reciprocal": ("RECIPROCAL", 0.0, 0.0, 1),
    "Erf": ("ERF", 0.0, 0.0, 2),
    "Clip": ("CLIP", -0.5, 0.75, 0),
    "Floor": ("FLOOR", 0.0, 0.0, 0),
    "Ceil": ("CEIL", 0.0, 0.0, 0),
    "Sign": ("SIGN", 0.0, 0.0, 0),
    "Sin": ("SIN", 0.0, 0.0, 1),
    "Cos": ("COS", 0.0, 0.0, 1),
    "Round": ("ROUND", 0.0, 0.0, 0),
    "Log": ("LOG", 0.0, 0.0, 1),
    "Sqrt": ("SQRT", 0.0, 0.0, 1),
}


def apply(abi: ModuleType, kernels: Any, kind: str, x: Array, alpha: float = 0.0, beta: float = 0.0) -> Array:
    """The activation of each x; x may have any size."""
    y = np.empty((x.size, 1), kernels.dtype)
    packed = pack.pack_linear(np.ones((1, 1)), None, kernels.dtype)
    n = [x.size, 1, 1, 1, 1, getattr(abi.GS, f"ACT_{kind}")]
    assert abi.call(kernels.kernels["linear"], {0: x, 1: packed, 4: y}, n, [alpha, beta]) == 0
    return y[:, 0]


@pytest.mark.parametrize("name", sorted(CASES))
def test_values(abi: ModuleType, kernel_set: Any, name: str) -> None:
    kind, alpha, beta, ulps = CASES[name]
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(0, 3, 20000), np.linspace(-30, 30, 6001), [-0.0, 0.0, 1.0, -1.0, 1e-6, -1e-6]])
    x = x.astype(kernel_set.dtype)
    if name in ("Log", "Sqrt", "Reciprocal"):
        x = np.abs(x) + kernel_set.dtype.type(0.01)
    got = apply(abi, kernel_set, kind, x, alpha, beta)
    expected = reference.activation(name, alpha, beta)(x)
    unit = 2.0**-24 if kernel_set.dtype == np.float32 else 2.0**-53
    # The definition is itself a float64 computation.
    allowed = unit * (ulps if kernel_set.dtype == np.float32 else ulps + 2)
    assert (np.abs(got - expected) / np.maximum(1, np.abs(expected))).max() <= allowed


@pytest.mark.parametrize("name", ["Sigmoid", "Tanh"])
def test_over_all_floats(abi: ModuleType, kernel_set: Any, name: str) -> None:
    """Every 1021st float32 there is; in float64 a grid and all magnitudes."""
    if kernel_set.dtype == np.float32:
        x = np.arange(0, 2**32, 1021, dtype=np.int64).astype(np.uint32).view(np.float32)
        x = x[np.isfinite(x)]
        allowed = 2e-7
    else:
        x = np.concatenate([np.linspace(-40, 40, 200001), np.ldexp(1.5, np.arange(-1070, 1020)), [-1e308, 1e308]])
        x = np.concatenate([x, -x])
        allowed = 1e-15
    got = apply(abi, kernel_set, CASES[name][0], x)
    assert np.abs(got - reference.activation(name)(x)).max() <= allowed


@pytest.mark.parametrize("name", ["Sigmoid", "Tanh"])
def test_small_values_keep_their_digits(abi: ModuleType, kernel_set: Any, name: str) -> None:
    x = np.ldexp(1.37, np.arange(-60, -2)).astype(kernel_set.dtype)
    x = np.concatenate([x, -x])
    expected = reference.activation(name)(x)
    error = np.abs(apply(abi, kernel_set, CASES[name][0], x) - expected) / np.abs(expected)
    assert error.max() <= (4e-7 if kernel_set.dtype == np.float32 else 1e-15)


@pytest.mark.parametrize("name", sorted(CASES))
def test_nan_stays_in_its_lane(abi: ModuleType, kernel_set: Any, name: str) -> None:
    kind, alpha, beta, _ = CASES[name]
    x = np.full(33, 0.5, kernel_set.dtype)
    x[::2] = np.nan
    got = apply(abi, kernel_set, kind, x, alpha, beta)
    assert np.isnan(got[::2]).all()
    assert np.isfinite(got[1::2]).all()


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("Sigmoid", 0, 1),
        ("Tanh", -1, 1),
        ("HardSigmoid", 0, 1),
        ("Relu", 0, np.inf),
        ("Exp", 0, np.inf),
        ("Elu", -0.75, np.inf),
        ("Softplus", 0, np.inf),
        ("Erf", -1, 1),
        ("Clip", -0.5, 0.75),
        ("Sign", -1, 1),
    ],
)
def test_infinities(abi: ModuleType, kernel_set: Any, name: str, low: float, high: float) -> None:
    kind, alpha, beta, _ = CASES[name]
    x = np.array([-np.inf, np.inf], kernel_set.dtype)
    np.testing.assert_allclose(apply(abi, kernel_set, kind, x, alpha, beta), [low, high], atol=1e-37)


def test_exp_reaches_the_largest_number(abi: ModuleType, kernel_set: Any) -> None:
    top = np.log(np.finfo(kernel_set.dtype).max.astype(np.float64))
    x = np.array([top * (1 - 1e-6), top * 1.001, -top], kernel_set.dtype)
    got = apply(abi, kernel_set, "EXP", x)
    assert np.isfinite(got[0])
    assert got[1] == np.inf
    np.testing.assert_allclose(got[0], np.exp(x[0].astype(np.float64)), rtol=1e-6)


def test_threshold(abi: ModuleType, kernel_set: Any) -> None:
    x = np.array([0.5, 1.0, 1.5, np.nan], kernel_set.dtype)
    np.testing.assert_array_equal(apply(abi, kernel_set, "THRESHOLDED_RELU", x, 1.0), [0, 0, 1.5, np.nan])


def test_threshold_of_a_recurrent_layer_lets_alpha_through(abi: ModuleType, kernel_set: Any) -> None:
    """A layer whose sums are x: weight 1, no bias, h = 0."""
    dtype = kernel_set.dtype
    x = np.array([0.5, 1.0, 1.5], dtype)
    packed = pack.pack_rnn(np.ones((1, 1)), np.zeros((1, 1)), np.zeros(1), dtype)
    h, y = np.zeros((3, 1), dtype), np.empty((3, 1), dtype)
    n = [1, 3, 1, 1, 1, 3, 1, 3, 1, 0, 0, 1, abi.GS.ACT_THRESHOLDED_RELU]
    assert abi.call(kernel_set.kernels["rnn"], {0: x, 1: packed, 2: h, 4: y, 5: h}, n, [np.inf, 1.0]) == 0
    np.testing.assert_array_equal(y[:, 0], [0, 1, 1.5])
