"""Quantised kernels against NumPy: to and from integers, exact products, the LSTM that quantises its state."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

Array = np.ndarray[Any, Any]
CODES = {"uint8": "T_U8", "int8": "T_I8", "uint16": "T_U16", "int16": "T_I16", "int32": "T_I32"}
SHAPES = [(1, 1, 1), (1, 1, 37), (3, 5, 4), (2, 17, 1), (0, 3, 2)]


def zeros_of(rng: np.random.Generator, dtype: str, channels: int) -> Array:
    limits = np.iinfo(dtype)
    return rng.integers(limits.min // 2, limits.max // 2 + 1, channels).astype(np.int32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize("with_zero", [True, False])
def test_quantise(abi: ModuleType, kernel_set: Any, shape: Any, dtype: str, with_zero: bool) -> None:
    rng, limits = np.random.default_rng(0), np.iinfo(dtype)
    x = (rng.standard_normal(shape) * limits.max).astype(kernel_set.dtype)
    x[x > limits.max * 0.8] = np.inf
    x.reshape(-1)[1::7] = np.nan
    x.reshape(-1)[::5] = np.round(x.reshape(-1)[::5]) + kernel_set.dtype.type(0.5)  # ties, by a scale of 1
    scale = np.array([1, 0.37, 2.5] * shape[1], kernel_set.dtype)[: shape[1]]
    zero = zeros_of(rng, dtype, shape[1]) if with_zero else None
    y = abi.Guarded(shape, dtype)
    n = [*shape, getattr(abi.GS, CODES[dtype])]
    assert abi.call(kernel_set.kernels["quantise"], {0: x, 1: scale, 2: zero, 4: y.array}, n) == abi.GS.OK
    q = np.rint(x / scale[:, None]) + (0 if zero is None else zero[:, None])
    expected = np.where(q >= limits.min, np.minimum(q, limits.max), limits.min)
    np.testing.assert_array_equal(y.array, expected.astype(dtype))
    assert y.intact()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("with_zero", [True, False])
def test_dequantise(abi: ModuleType, kernel_set: Any, shape: Any, dtype: str, with_zero: bool) -> None:
    rng, limits = np.random.default_rng(1), np.iinfo(dtype)
    q = rng.integers(limits.min, limits.max + 1, shape).astype(dtype)
    scale = rng.standard_normal(shape[1]).astype(kernel_set.dtype)
    zero = zeros_of(rng, dtype, shape[1]) if with_zero else None
    y = abi.Guarded(shape, kernel_set.dtype)
    n = [*shape, getattr(abi.GS, CODES[dtype])]
    assert abi.call(kernel_set.kernels["dequantise"], {0: q, 1: scale, 2: zero, 4: y.array}, n) == abi.GS.OK
    wide = q.astype(np.int64) - (0 if zero is None else zero[:, None])
    assert abi.same_bits(y.array, wide.astype(kernel_set.dtype) * scale[:, None])
    assert y.intact()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_centre(abi: ModuleType, kernel_set: Any, shape: Any, dtype: str) -> None:
    rng, limits = np.random.default_rng(2), np.iinfo(dtype)
    q = rng.integers(limits.min, limits.max + 1, shape).astype(dtype)
    for zero in (None, rng.integers(limits.min, limits.max + 1, shape[1]).astype(np.int32)):
        y = abi.Guarded(shape, np.int16)
        n = [*shape, getattr(abi.GS, CODES[dtype])]
        assert abi.call(kernel_set.kernels["centre"], {0: q, 2: zero, 4: y.array}, n) == abi.GS.OK
        np.testing.assert_array_equal(y.array, q.astype(int) - (0 if zero is None else zero[:, None]))
        assert y.intact()


def by_its_range(x: Array) -> tuple[Array, Array, Array]:
    """uint8 with the range of `x` and 0, in the type of `x`."""
    low, high = np.nanmin([*x.reshape(-1), 0]).astype(x.dtype), np.nanmax([*x.reshape(-1), 0]).astype(x.dtype)
    scale = (high - low) / x.dtype.type(255) if high != low else x.dtype.type(1)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    q = np.rint(x / scale) + zero
    return np.where(q >= 0, np.minimum(q, 255), 0), scale, zero


@pytest.mark.parametrize("values", [[], [0, 0], [3, 4], [-3, -4], [-1, 2, np.nan, 0.3], [*np.linspace(-2, 7, 99)]])
def test_quantise_dynamically(abi: ModuleType, kernel_set: Any, values: list[float]) -> None:
    x = np.array(values, kernel_set.dtype)
    y, scale, zero = abi.Guarded(x.shape, np.uint8), abi.Guarded((1,), x.dtype), abi.Guarded((1,), np.int32)
    slots = {0: x, 4: y.array, 5: scale.array, 6: zero.array}
    assert abi.call(kernel_set.kernels["quantise_dynamically"], slots, [x.size]) == abi.GS.OK
    expected = by_its_range(x)
    np.testing.assert_array_equal(y.array, expected[0])
    assert (scale.array[0], zero.array[0]) == expected[1:]
    assert y.intact() and scale.intact() and zero.intact()


@pytest.mark.parametrize(
    ("batch", "m", "n", "k"), [(1, 1, 1, 1), (1, 3, 7, 33), (2, 4, 5, 16), (1, 2, 3, 0), (3, 1, 2, 100)]
)
def test_products_are_exact(abi: ModuleType, kernel_set: Any, batch: int, m: int, n: int, k: int) -> None:
    rng = np.random.default_rng(3)
    a, b = (rng.integers(-(2**15), 2**15, (batch, rows, k)).astype(np.int16) for rows in (m, n))
    y = abi.Guarded((batch, m, n), np.int32)
    sizes = [batch, m, n, k, m * k, n * k, k, k]
    assert abi.call(kernel_set.kernels["matmul_i16"], {0: a, 1: b, 4: y.array}, sizes) == abi.GS.OK
    exact = a.astype(np.int64) @ b.astype(np.int64).swapaxes(1, 2)
    np.testing.assert_array_equal(y.array, exact.astype(np.int32))  # which wraps as well
    assert y.intact()


def gate(x: Array, clip: float) -> Array:
    return 1 / (1 + np.exp(-np.clip(x, -clip, clip)))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("size", [1, 15, 16, 33])
@pytest.mark.parametrize("variant", ["plain", "rare", "reverse"])
def test_quantised_lstm(abi: ModuleType, kernel_set: Any, rows: int, size: int, variant: str) -> None:
    rng, steps, real = np.random.default_rng(4), 6, kernel_set.dtype
    products = rng.standard_normal((steps, rows, 4 * size)).astype(real)
    r = rng.integers(-255, 256, (4 * size, size)).astype(np.int16)
    h0, c0 = (rng.standard_normal((rows, size)).astype(real) for _ in "hc")
    scale = rng.uniform(0.001, 0.003, 4 * size).astype(real)
    bias = rng.standard_normal(4 * size).astype(real) if variant != "plain" else None
    peepholes = rng.standard_normal((3, size)).astype(real) if variant == "rare" else None
    lengths = np.array([4, 0, 6], np.int32)[:rows] if variant == "reverse" else None
    clip, coupled = (0.8, 1) if variant == "rare" else (np.inf, 0)
    y = abi.Guarded((steps, rows, size), real)
    hn, cn, scratch = (abi.Guarded(s, real) for s in ((rows, size), (rows, size), (4 * size + rows * size,)))
    n = [steps, rows, 0, size, 0, 0, 0, rows * size, size, int(variant == "reverse"), 0, 0]
    n += [abi.GS.ACT_SIGMOID, abi.GS.ACT_TANH, abi.GS.ACT_TANH, coupled]
    slots = {0: products, 1: r, 2: h0, 3: c0, 4: y.array, 5: hn.array, 6: cn.array, 7: peepholes, 8: bias}
    slots |= {9: scratch.array, 10: lengths, 11: scale}
    assert abi.call(kernel_set.kernels["quantised_lstm"], slots, n, [clip]) == abi.GS.OK

    # The same by hand, in double precision behind the integers, which are those of the kernel's own h.
    ends = np.full(rows, steps) if lengths is None else lengths
    c, expected = c0.astype(float), np.zeros((steps, rows, size))
    p, b = (np.zeros((3, size)) if peepholes is None else peepholes), (0 if bias is None else bias)
    h = h0.copy()
    for step in range(steps):
        live = np.flatnonzero(step < ends)
        at = ends[live] - 1 - step if variant == "reverse" else np.full(live.size, step)
        _, h_scale, zero = by_its_range(h[step <= ends])  # the last h of a row counts once more
        q = np.clip(np.rint(h[live] / h_scale) + zero, 0, 255)
        sums = products[at, live] + ((q - zero) @ r.T.astype(float)) * (h_scale * scale) + b
        i, o, f, g = np.split(sums.astype(float), 4, axis=1)
        i = gate(i + p[0] * c[live], clip)
        f = 1 - i if coupled else gate(f + p[2] * c[live], clip)
        c[live] = f * c[live] + i * np.tanh(np.clip(g, -clip, clip))
        expected[at, live] = gate(o + p[1] * c[live], clip) * np.tanh(c[live])
        h[live] = y.array[at, live]
    h[ends == 0] = c[ends == 0] = 0
    np.testing.assert_allclose(y.array, expected, atol=3e-6)
    np.testing.assert_allclose(cn.array, c, atol=3e-6)
    np.testing.assert_array_equal(hn.array, h)
    assert all(g.intact() for g in (y, hn, cn, scratch))
