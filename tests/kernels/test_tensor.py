"""unary, binary, reduce, softmax, layernorm and matmul against NumPy, and each result against itself computed alone."""

from __future__ import annotations

from collections.abc import Callable
from math import erf, prod
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

Array = np.ndarray[Any, Any]

settings.register_profile("kernels", deadline=None, max_examples=40)
settings.load_profile("kernels")

seeds = st.integers(0, 2**32 - 1)
offsets = st.integers(0, 5)
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0]


class Tensor:
    """The kernels of one set as functions of arrays; every call checks the guard zones around its result."""

    def __init__(self, abi: ModuleType, kernel_set: Any) -> None:
        self.abi, self.kernels, self.isa, self.dtype = abi, kernel_set.kernels, kernel_set.isa, kernel_set.dtype
        self.eps = float(np.finfo(self.dtype).eps)

    def values(self, seed: int, shape: Any, *, special: bool = False, spread: float = 3.0) -> Array:
        """Normal numbers, one in eight of them special if asked for."""
        rng = np.random.default_rng(seed)
        x = rng.normal(0, spread, shape)
        if special:
            x = np.where(rng.random(shape) < 0.125, rng.choice(SPECIAL, shape), x)
        return np.asarray(x, self.dtype)

    def _call(
        self, name: str, p: dict[int, Array | None], n: Any, f: Any, shape: Any, offset: int, inside: int
    ) -> Array:
        y = self.abi.Guarded(shape, self.dtype, offset) if inside < 0 else self.abi.Guarded.of(p[inside], offset)
        if inside >= 0:
            p = {**p, inside: y.array}
        p = {
            slot: array if array is y.array or array is None else self._moved(array, offset)
            for slot, array in p.items()
        }
        assert self.abi.call(self.kernels[name], {**p, 4: y.array}, n, f) == self.abi.GS.OK
        assert y.intact()
        return np.array(y.array)

    def _moved(self, array: Array, offset: int) -> Array:
        """Dense operands away from where an allocator puts them."""
        return self.abi.Guarded.of(array, offset + 1).array if array.flags.c_contiguous else array

    def unary(self, kind: str, x: Array, alpha: float, beta: float, offset: int = 0, inside: int = -1) -> Array:
        n = [x.size, getattr(self.abi.GS, f"ACT_{kind}")]
        return self._call("unary", {0: x}, n, (alpha, beta), x.shape, offset, inside)

    def binary(self, op: str, a: Array, b: Array, offset: int = 0, inside: int = -1) -> Array:
        shape = np.broadcast_shapes(a.shape, b.shape)
        sizes = [
            [*values, *[0] * (6 - len(shape))]
            for values in (
                shape,
                *([s // self.dtype.itemsize for s in np.broadcast_to(x, shape).strides] for x in (a, b)),
            )
        ]
        n = [getattr(self.abi.GS, f"BIN_{op}"), len(shape), *sizes[0], *sizes[1], *sizes[2]]
        return self._call("binary", {0: a, 1: b}, n, (), shape, offset, inside)

    def reduce(self, kind: str, x: Array, offset: int = 0) -> Array:
        n = [*x.shape, getattr(self.abi.GS, f"RED_{kind}")]
        return self._call("reduce", {0: x}, n, (), (x.shape[0], x.shape[2]), offset, -1)

    def softmax(self, x: Array, logarithm: bool, offset: int = 0, inside: int = -1) -> Array:
        return self._call("softmax", {0: x}, [*x.shape, int(logarithm)], (), x.shape, offset, inside)

    def layernorm(
        self, x: Array, scale: Array | None, bias: Array | None, epsilon: float, offset: int = 0, inside: int = -1
    ) -> Array:
        return self._call("layernorm", {0: x, 1: scale, 2: bias}, x.shape, (epsilon,), x.shape, offset, inside)

    def matmul(self, a: Array, b: Array, offset: int = 0) -> Array:
        (batch, rows, depth), columns = a.shape, b.shape[2]
        steps_a, steps_b = ([stride // self.dtype.itemsize for stride in array.strides] for array in (a, b))
        n = [batch, rows, depth, columns, steps_a[0], steps_b[0], *steps_a[1:], *steps_b[1:]]
        return self._call("matmul", {0: a, 1: b}, n, (), (batch, rows, columns), offset, -1)


@pytest.fixture(scope="session")
def tensor(abi: ModuleType, kernel_set: Any) -> Tensor:
    """The tensor kernels of each set in turn."""
    return Tensor(abi, kernel_set)


def same_numbers(a: Array, b: Array) -> bool:
    """The same bits, whichever NaN a NaN is."""
    return (
        a.dtype == b.dtype
        and np.array_equal(a, b, equal_nan=True)
        and bool((np.signbit(a) == np.signbit(b))[~np.isnan(a)].all())
    )


# ------------------------------------------------------------------------------------------------------------ unary

UNARY: dict[str, Callable[[Array, float, float], Array]] = {
    "IDENTITY": lambda x, a, b: x,
    "SIGMOID": lambda x, a, b: 1 / (1 + np.exp(-x)),
    "TANH": lambda x, a, b: np.tanh(x),
    "RELU": lambda x, a, b: np.maximum(x, 0),
    "AFFINE": lambda x, a, b: a * x + b,
    "LEAKY_RELU": lambda x, a, b: np.where(x >= 0, x, a * x),
    "THRESHOLDED_RELU": lambda x, a, b: np.where(np.isnan(x) | (x > a), x, 0),
    "SCALED_TANH": lambda x, a, b: a * np.tanh(b * x),
    "HARD_SIGMOID": lambda x, a, b: np.clip(a * x + b, 0, 1),
    "ELU": lambda x, a, b: np.where(x >= 0, x, a * np.expm1(x)),
    "SOFTSIGN": lambda x, a, b: x / (1 + np.abs(x)),
    "SOFTPLUS": lambda x, a, b: np.logaddexp(x, 0),
    "SELU": lambda x, a, b: b * np.where(x > 0, x, a * np.expm1(x)),
    "HARD_SWISH": lambda x, a, b: x * np.clip(x / 6 + 0.5, 0, 1),
    "GELU": lambda x, a, b: 0.5 * x * (1 + np.vectorize(erf, [float])(x * np.sqrt(0.5))),
    "GELU_TANH": lambda x, a, b: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "EXP": lambda x, a, b: np.exp(x),
    "LOG": lambda x, a, b: np.log(x),
    "SQRT": lambda x, a, b: np.sqrt(x),
    "ABS": lambda x, a, b: np.abs(x),
    "NEG": lambda x, a, b: -x,
    "RECIPROCAL": lambda x, a, b: 1 / x,
    "ERF": lambda x, a, b: np.vectorize(erf, [float])(x),
    "CLIP": lambda x, a, b: np.clip(x, a, b),
    "FLOOR": lambda x, a, b: np.floor(x),
    "CEIL": lambda x, a, b: np.ceil(x),
    "SIGN": lambda x, a, b: np.sign(x),
    "SIN": lambda x, a, b: np.sin(x),
    "COS": lambda x, a, b: np.cos(x),
    "ROUND": lambda x, a, b: np.round(x),
}


def test_every_activation_is_tested(abi: ModuleType) -> None:
    assert len(UNARY) == abi.GS.ACT_COUNT


@pytest.mark.parametrize("kind", UNARY)
@given(seed=seeds, count=st.integers(0, 70), offset=offsets, inside=st.sampled_from([-1, 0]), data=st.data())
def test_unary(tensor: Tensor, kind: str, seed: int, count: int, offset: int, inside: int, data: Any) -> None:
    x, alpha, beta = tensor.values(seed, count), 0.25, 0.75
    y = tensor.unary(kind, x, alpha, beta, offset, inside)
    with np.errstate(all="ignore"):
        expected = UNARY[kind](x.astype(np.float64), alpha, beta)
    np.testing.assert_allclose(y, expected, rtol=8 * tensor.eps, atol=4 * tensor.eps)
    first = data.draw(st.integers(0, count), label="first")
    last = data.draw(st.integers(first, count), label="last")
    assert tensor.abi.same_bits(tensor.unary(kind, x[first:last], alpha, beta), y[first:last])


@pytest.mark.parametrize("kind", UNARY)
def test_unary_keeps_nan_in_its_lane(tensor: Tensor, kind: str) -> None:
    x = tensor.values(1, 37)
    x[[3, 35]] = np.nan
    y = tensor.unary(kind, x, 0.25, 0.75)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(np.isnan(y), np.isnan(UNARY[kind](x.astype(np.float64), 0.25, 0.75)))


# ----------------------------------------------------------------------------------------------------------- binary

BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "ADD": np.add,
    "SUB": np.subtract,
    "MUL": np.multiply,
    "DIV": np.divide,
    "MIN": np.minimum,
    "MAX": np.maximum,
    "POW": np.power,
    "PRELU": lambda a, b: np.where(a >= 0, a, a * b),
    "MOD": np.mod,
    "FMOD": np.fmod,
}


def test_every_binary_operation_is_tested(abi: ModuleType) -> None:
    assert len(BINARY) == abi.GS.BIN_COUNT


def check_binary(tensor: Tensor, op: str, a: Array, b: Array, y: Array) -> None:
    with np.errstate(all="ignore"):
        expected = BINARY[op](a, b)
    np.testing.assert_allclose(y, expected, rtol=4 * tensor.eps if op == "POW" else 0)
    wide_a, wide_b = (np.broadcast_to(x, y.shape).ravel() for x in (a, b))
    for i in np.random.default_rng(0).integers(0, y.size, min(4, y.size)):
        assert same_numbers(tensor.binary(op, wide_a[i : i + 1], wide_b[i : i + 1]), y.ravel()[i : i + 1])


@pytest.mark.parametrize("op", BINARY)
@given(
    pair=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=6, min_side=0, max_side=5), seed=seeds, offset=offsets
)
def test_binary_broadcasts(tensor: Tensor, op: str, pair: Any, seed: int, offset: int) -> None:
    a, b = (tensor.values(seed + i, shape, special=True) for i, shape in enumerate(pair.input_shapes))
    check_binary(tensor, op, a, b, tensor.binary(op, a, b, offset))


@pytest.mark.parametrize("op", BINARY)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 40)),
    kinds=st.tuples(*[st.sampled_from(["dense", "row", "column", "one", "transposed", "backwards"])] * 2),
    seed=seeds,
    offset=offsets,
)
def test_binary_rows(tensor: Tensor, op: str, shape: tuple[int, int], kinds: Any, seed: int, offset: int) -> None:
    """The inner strides that have a path of their own, at widths that have bodies and tails."""

    def operand(kind: str, seed: int) -> Array:
        rows, columns = shape
        if kind == "transposed":
            return tensor.values(seed, (columns, rows), special=True).T
        if kind == "backwards":
            return tensor.values(seed, shape, special=True)[:, ::-1]
        sizes = {"dense": shape, "row": (columns,), "column": (rows, 1), "one": ()}
        return tensor.values(seed, sizes[kind], special=True)

    a, b = operand(kinds[0], seed), operand(kinds[1], seed + 1)
    check_binary(tensor, op, a, b, tensor.binary(op, a, b, offset))


@pytest.mark.parametrize("inside", [0, 1])
@pytest.mark.parametrize("op", BINARY)
def test_binary_in_place(tensor: Tensor, op: str, inside: int) -> None:
    operands = [tensor.values(0, (3, 37)), tensor.values(1, (3, 37))]
    operands[1 - inside] = operands[1 - inside][:, :1]
    expected = tensor.binary(op, operands[0], operands[1])
    assert same_numbers(tensor.binary(op, operands[0], operands[1], inside=inside), expected)


def test_square_is_a_product(tensor: Tensor) -> None:
    x = tensor.values(0, 100, special=True, spread=1e10)
    two = np.array(2, tensor.dtype)
    assert same_numbers(tensor.binary("POW", x, two), x * x)
    assert same_numbers(tensor.binary("POW", x, np.full(100, two)), x * x)


# ----------------------------------------------------------------------------------------------------------- reduce

REDUCE: dict[str, Callable[..., Any]] = {
    "SUM": np.sum,
    "MEAN": np.mean,
    "MAX": np.max,
    "MIN": np.min,
    "PROD": np.prod,
    "L2": lambda x, axis: np.sqrt(np.sum(x * x, axis)),
    "SUM_SQUARE": lambda x, axis: np.sum(x * x, axis),
}


def test_every_reduction_is_tested(abi: ModuleType) -> None:
    assert len(REDUCE) == abi.GS.RED_COUNT


@pytest.mark.parametrize("kind", REDUCE)
@given(
    outer=st.integers(0, 3),
    count=st.integers(1, 70),
    inner=st.sampled_from([0, 1, 2, 7, 16, 33]),
    seed=seeds,
    offset=offsets,
)
def test_reduce(tensor: Tensor, kind: str, outer: int, count: int, inner: int, seed: int, offset: int) -> None:
    x = tensor.values(seed, (outer, count, inner), spread=1.0)
    y = tensor.reduce(kind, x, offset)
    wide = x.astype(np.float64)
    scale = 1.0 if kind == "PROD" else np.abs(wide).sum(1) + (wide * wide).sum(1) + 1e-30
    expected = REDUCE[kind](wide, axis=1)
    assert (np.abs(y - expected) <= 40 * tensor.eps * np.maximum(np.abs(expected), scale)).all()


@pytest.mark.parametrize("kind", REDUCE)
@given(outer=st.integers(1, 3), count=st.integers(0, 70), inner=st.integers(1, 40), seed=seeds, special=st.booleans())
def test_reduce_has_the_same_bits_along_any_axis(
    tensor: Tensor, kind: str, outer: int, count: int, inner: int, seed: int, special: bool
) -> None:
    x = tensor.values(seed, (outer, count, inner), special=special)
    y = tensor.reduce(kind, x)
    rows = np.ascontiguousarray(x.transpose(0, 2, 1)).reshape(outer * inner, count, 1)
    assert same_numbers(tensor.reduce(kind, rows).reshape(outer, inner), y)
    assert same_numbers(tensor.reduce(kind, rows[-1:]).ravel(), y[-1, -1:])


def test_reduce_of_nothing(tensor: Tensor) -> None:
    for inner in (1, 3):
        nothing = np.zeros((2, 0, inner), tensor.dtype)
        for kind, value in {"SUM": 0, "PROD": 1, "L2": 0, "MAX": -np.inf, "MIN": np.inf, "MEAN": np.nan}.items():
            np.testing.assert_array_equal(tensor.reduce(kind, nothing), np.full((2, inner), value))


@given(count=st.integers(1, 70), inner=st.sampled_from([1, 5]), seed=seeds)
def test_extrema_propagate_nan_as_numpy(tensor: Tensor, count: int, inner: int, seed: int) -> None:
    x = tensor.values(seed, (2, count, inner), special=True)
    np.testing.assert_array_equal(tensor.reduce("MAX", x), x.max(1))
    np.testing.assert_array_equal(tensor.reduce("MIN", x), x.min(1))


# ---------------------------------------------------------------------------------------------- softmax, layernorm


@given(
    rows=st.integers(0, 4),
    width=st.integers(0, 100),
    logarithm=st.booleans(),
    seed=seeds,
    spread=st.sampled_from([0.1, 3.0, 100.0]),
    offset=offsets,
    inside=st.sampled_from([-1, 0]),
)
def test_softmax(
    tensor: Tensor, rows: int, width: int, logarithm: bool, seed: int, spread: float, offset: int, inside: int
) -> None:
    x = tensor.values(seed, (rows, width), spread=spread)
    y = tensor.softmax(x, logarithm, offset, inside)
    if x.size:
        shifted = x.astype(np.float64) - x.max(1, keepdims=True)
        total = np.exp(shifted).sum(1, keepdims=True)
        expected = shifted - np.log(total) if logarithm else np.exp(shifted) / total
        np.testing.assert_allclose(y, expected, rtol=16 * tensor.eps, atol=8 * tensor.eps)
    for row in range(rows):
        assert tensor.abi.same_bits(tensor.softmax(x[row : row + 1], logarithm, offset + 1), y[row : row + 1])


@pytest.mark.parametrize("logarithm", [False, True])
@pytest.mark.parametrize("width", [1, 5, 16, 37])
def test_softmax_of_special_rows(tensor: Tensor, width: int, logarithm: bool) -> None:
    x = tensor.values(0, (5, width))
    clean = tensor.softmax(x, logarithm)
    x[0, width // 2] = np.nan
    x[1] = -np.inf
    x[2, -1] = np.inf
    x[3, 1:] = -np.inf
    y = tensor.softmax(x, logarithm)
    assert np.isnan(y[:2]).all()
    assert np.isnan(y[2, -1])
    assert np.isnan(y[2, :-1]).all() or logarithm
    expected = np.where(np.arange(width), -np.inf if logarithm else 0.0, 0.0 if logarithm else 1.0)
    np.testing.assert_array_equal(y[3], expected)
    assert tensor.abi.same_bits(y[4], clean[4])


def normalised(x: Array, epsilon: float) -> Array:
    x = x.astype(np.float64)
    x = x - x.mean(1, keepdims=True)
    x = x - x.mean(1, keepdims=True)  # what rounding left of a large mean
    return np.asarray(x / np.sqrt((x * x).mean(1, keepdims=True) + epsilon))


@given(
    rows=st.integers(0, 4),
    width=st.integers(0, 100),
    with_scale=st.booleans(),
    with_bias=st.booleans(),
    seed=seeds,
    offset=offsets,
    inside=st.sampled_from([-1, 0]),
)
def test_layernorm(
    tensor: Tensor, rows: int, width: int, with_scale: bool, with_bias: bool, seed: int, offset: int, inside: int
) -> None:
    x = tensor.values(seed, (rows, width))
    scale = tensor.values(seed + 1, width) if with_scale else None
    bias = tensor.values(seed + 2, width) if with_bias else None
    y = tensor.layernorm(x, scale, bias, 1e-5, offset, inside)
    if x.size:
        expected = normalised(x, 1e-5) * (1.0 if scale is None else scale) + (0.0 if bias is None else bias)
        np.testing.assert_allclose(y, expected, rtol=8 * tensor.eps, atol=64 * tensor.eps)
    for row in range(rows):
        alone = tensor.layernorm(x[row : row + 1], scale, bias, 1e-5, offset + 1)
        assert tensor.abi.same_bits(alone, y[row : row + 1])


@pytest.mark.parametrize("mean", [0.0, 1.0, 1000.0, -1e5])
def test_layernorm_keeps_its_precision_around_any_mean(tensor: Tensor, mean: float) -> None:
    x = (tensor.values(0, (8, 1024), spread=1.0) + mean).astype(tensor.dtype)
    y, expected = tensor.layernorm(x, None, None, 1e-5), normalised(x, 1e-5)
    assert np.abs(y - expected).max() <= 8 * tensor.eps * np.abs(expected).max()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_layernorm_keeps_nan_in_its_row(tensor: Tensor, bad: float) -> None:
    x = tensor.values(0, (3, 37))
    clean = tensor.layernorm(x, None, None, 1e-5)
    x[1, 36] = bad
    y = tensor.layernorm(x, None, None, 1e-5)
    assert np.isnan(y[1]).all()
    assert tensor.abi.same_bits(y[[0, 2]], clean[[0, 2]])


# ----------------------------------------------------------------------------------------------------------- matmul

sides = st.one_of(st.integers(0, 9), st.sampled_from([15, 16, 17, 33, 64, 65, 130]))


@given(
    batch=st.integers(0, 2),
    rows=st.integers(0, 9),
    depth=sides,
    columns=sides,
    transposed=st.tuples(st.booleans(), st.booleans()),
    shared=st.tuples(st.booleans(), st.booleans()),
    seed=seeds,
    offset=offsets,
)
def test_matmul(
    tensor: Tensor,
    batch: int,
    rows: int,
    depth: int,
    columns: int,
    transposed: Any,
    shared: Any,
    seed: int,
    offset: int,
) -> None:
    a, b = tensor.values(seed, (batch, rows, depth)), tensor.values(seed + 1, (batch, depth, columns))
    if batch:
        a, b = (np.broadcast_to(x[:1], x.shape) if same else x for x, same in zip((a, b), shared, strict=True))
    dense = tensor.matmul(np.ascontiguousarray(a), np.ascontiguousarray(b))
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    bound = (depth + 1) * tensor.eps * (np.abs(wide_a) @ np.abs(wide_b))
    assert (np.abs(dense - wide_a @ wide_b) <= bound).all()

    def stored_transposed(x: Array) -> Array:
        return np.ascontiguousarray(x.transpose(0, 2, 1)).transpose(0, 2, 1)

    a, b = (stored_transposed(x) if other else x for x, other in zip((a, b), transposed, strict=True))
    assert tensor.abi.same_bits(tensor.matmul(a, b, offset), dense)
    if prod(dense.shape):
        rng = np.random.default_rng(seed)
        i, row, column = (int(rng.integers(size)) for size in dense.shape)
        one = np.s_[i : i + 1]
        alone = tensor.matmul(a[one, row : row + 1], b[one, :, column : column + 1])
        assert tensor.abi.same_bits(alone, dense[one, row : row + 1, column : column + 1])


def test_matmul_keeps_nan_in_its_row_and_column(tensor: Tensor) -> None:
    a, b = tensor.values(0, (1, 5, 20)), tensor.values(1, (1, 20, 37))
    a[0, 2, 3], b[0, 4, 36] = np.nan, np.inf
    expected = np.zeros((5, 37), bool)
    expected[2] = expected[:, 36] = True
    np.testing.assert_array_equal(~np.isfinite(tensor.matmul(a, b)[0]), expected)
