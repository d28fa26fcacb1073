"""Comparisons, choice, ranks, sums and places against NumPy; nothing is written outside a result."""

from __future__ import annotations

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
sizes = st.integers(0, 5)
NUMBERS = ["int64", "float32", "float64"]
TYPES = {"bool": "T_BOOL", "int64": "T_I64", "float32": "T_F32", "float64": "T_F64"}
COMPARISONS = {
    "EQUAL": np.equal,
    "NOT_EQUAL": np.not_equal,
    "LESS": np.less,
    "LESS_EQUAL": np.less_equal,
    "AND": np.logical_and,
    "OR": np.logical_or,
}


def numbers(seed: int, shape: Any, dtype: str) -> Array:
    """Few different numbers, so that many are equal; of floating-point ones, some are NaN."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, shape).astype(dtype)
    if np.dtype(dtype).kind == "f":
        x = np.where(rng.random(shape) < 0.1, np.nan, x).astype(dtype)
    return x


def walk(shape: tuple[int, ...], *operands: Array) -> list[int]:
    """What `n` says of a broadcast."""
    lists = [shape, *([s // a.itemsize for s in np.broadcast_to(a, shape).strides] for a in operands)]
    return [len(shape), *(v for values in lists for v in [*values, *[0] * (6 - len(shape))])]


def call(
    abi: ModuleType, plumbing: dict[str, int], name: str, p: dict[int, Array], n: Any, *results: Any
) -> list[Array]:
    """Run a kernel; `results` are (shape, dtype) of slots 4 and 5."""
    guarded = [abi.Guarded(shape, dtype, 1) for shape, dtype in results]
    slots = {4 + k: result.array for k, result in enumerate(guarded)}
    assert abi.call(plumbing[name], {**p, **slots}, n) == abi.GS.OK
    assert all(result.intact() for result in guarded)
    return [result.array for result in guarded]


def test_every_comparison_is_tested(abi: ModuleType) -> None:
    assert len(COMPARISONS) == abi.GS.CMP_COUNT


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("op", COMPARISONS)
@given(pair=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=6, min_side=0, max_side=4), seed=seeds)
def test_compare(abi: ModuleType, plumbing: dict[str, int], op: str, dtype: str, pair: Any, seed: int) -> None:
    a, b = (numbers(seed + k, shape, dtype) for k, shape in enumerate(pair.input_shapes))
    shape = pair.result_shape
    n = [getattr(abi.GS, f"CMP_{op}"), *walk(shape, a, b), getattr(abi.GS, TYPES[dtype])]
    (y,) = call(abi, plumbing, "compare", {0: a, 1: b}, n, (shape, np.bool_))
    np.testing.assert_array_equal(y, COMPARISONS[op](a, b))


@pytest.mark.parametrize("itemsize", [1, 2, 4, 8])
@given(pair=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=6, min_side=0, max_side=4), seed=seeds)
def test_where(abi: ModuleType, plumbing: dict[str, int], itemsize: int, pair: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, 255, shape).astype(f"u{itemsize}") for shape in pair.input_shapes)
    shape = pair.result_shape
    condition = rng.integers(0, 2, shape).astype(bool)
    (y,) = call(
        abi, plumbing, "where", {0: condition, 1: a, 2: b}, [itemsize, *walk(shape, a, b)], (shape, f"u{itemsize}")
    )
    np.testing.assert_array_equal(y, np.where(condition, a, b))


@pytest.mark.parametrize("kind", ["SUM", "MAX", "MIN", "PROD", "SUM_SQUARE"])
@given(rows=sizes, count=sizes, seed=seeds)
def test_reduce_i64(abi: ModuleType, plumbing: dict[str, int], kind: str, rows: int, count: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-(2**63), 2**63 - 1, (rows, count))
    (y,) = call(abi, plumbing, "reduce_i64", {0: x}, [rows, count, getattr(abi.GS, f"RED_{kind}")], ((rows,), np.int64))
    limits = np.iinfo(np.int64)
    expected = {
        "SUM": lambda: x.sum(1),
        "MAX": lambda: x.max(1, initial=limits.min),
        "MIN": lambda: x.min(1, initial=limits.max),
        "PROD": lambda: x.prod(1),
        "SUM_SQUARE": lambda: (x * x).sum(1),
    }[kind]()
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("dtype", NUMBERS)
@given(rows=sizes, width=st.integers(1, 20), least=st.booleans(), last=st.booleans(), seed=seeds)
def test_argmax(
    abi: ModuleType, plumbing: dict[str, int], dtype: str, rows: int, width: int, least: bool, last: bool, seed: int
) -> None:
    x = numbers(seed, (rows, width), dtype)
    n = [rows, width, getattr(abi.GS, TYPES[dtype]), least, last]
    (y,) = call(abi, plumbing, "argmax", {0: x}, n, ((rows,), np.int64))
    find = np.argmin if least else np.argmax
    np.testing.assert_array_equal(y, width - 1 - find(x[:, ::-1], 1) if last else find(x, 1))


@pytest.mark.parametrize("dtype", NUMBERS)
@given(rows=sizes, width=st.integers(0, 40), largest=st.booleans(), seed=seeds, data=st.data())
def test_topk(
    abi: ModuleType, plumbing: dict[str, int], dtype: str, rows: int, width: int, largest: bool, seed: int, data: Any
) -> None:
    x = numbers(seed, (rows, width), dtype)
    count = data.draw(st.integers(0, width))
    n = [rows, width, count, largest, getattr(abi.GS, TYPES[dtype])]
    best, places = call(abi, plumbing, "topk", {0: x}, n, ((rows, count), dtype), ((rows, count), np.int64))
    order = np.argsort(x, 1, kind="stable")
    if largest:
        order = (width - 1 - np.argsort(x[:, ::-1], 1, kind="stable"))[:, ::-1]
    np.testing.assert_array_equal(places, order[:, :count])
    np.testing.assert_array_equal(best, np.take_along_axis(x, places, 1))


@pytest.mark.parametrize("dtype", NUMBERS)
@given(shape=st.tuples(sizes, sizes, sizes), exclusive=st.booleans(), reverse=st.booleans(), seed=seeds)
def test_cumsum(
    abi: ModuleType, plumbing: dict[str, int], dtype: str, shape: Any, exclusive: bool, reverse: bool, seed: int
) -> None:
    x = numbers(seed, shape, dtype)
    n = [*shape, exclusive, reverse, getattr(abi.GS, TYPES[dtype])]
    (y,) = call(abi, plumbing, "cumsum", {0: x}, n, (shape, dtype))
    forward = x[:, ::-1] if reverse else x
    expected = np.zeros_like(forward)
    for k in range(shape[1]):
        expected[:, k] = forward[:, : k + (not exclusive)].sum(1)
    np.testing.assert_array_equal(y, expected[:, ::-1] if reverse else expected)


@given(batch=sizes, steps=sizes, inner=sizes, seed=seeds, low=st.integers(-1, 0), high=st.integers(0, 6))
def test_reverse_sequence(
    abi: ModuleType, plumbing: dict[str, int], batch: int, steps: int, inner: int, seed: int, low: int, high: int
) -> None:
    rng = np.random.default_rng(seed)
    x, lengths = rng.integers(0, 255, (batch, steps, inner), np.uint8), rng.integers(low, high + 1, batch)
    y = abi.Guarded(x.shape, np.uint8, 1)
    before = y.array.copy()
    status = abi.call(plumbing["reverse_sequence"], {0: x, 1: lengths, 4: y.array}, [batch, steps, inner])
    if ((lengths >= 0) & (lengths <= steps)).all():
        assert status == abi.GS.OK
        expected = np.array(x)
        for row, length in enumerate(lengths):
            expected[row, :length] = x[row, :length][::-1]
        np.testing.assert_array_equal(y.array, expected)
    else:
        assert status == abi.GS.BAD_INDEX
        np.testing.assert_array_equal(y.array, before)
    assert y.intact()


@given(shape=hnp.array_shapes(min_dims=1, max_dims=6, max_side=4), seed=seeds, data=st.data())
def test_element_index(abi: ModuleType, plumbing: dict[str, int], shape: Any, seed: int, data: Any) -> None:
    rng = np.random.default_rng(seed)
    axis = data.draw(st.integers(0, len(shape) - 1))
    size = shape[axis] + data.draw(st.integers(-1, 2))
    full = tuple(size if k == axis else n + int(rng.integers(0, 2)) for k, n in enumerate(shape))
    indices = rng.integers(-size - 1, size + 1, shape) if seed % 2 else rng.integers(-size, max(size, 1), shape)
    places = np.arange(np.prod(full)).reshape(full)
    strides = [s // 8 for s in places.strides]
    n = [len(shape), *shape, *[1] * (6 - len(shape)), *(0 if k == axis else s for k, s in enumerate(strides))]
    n += [*[0] * (6 - len(shape)), strides[axis], size]
    y = abi.Guarded(shape, np.int64, 1)
    status = abi.call(plumbing["element_index"], {0: indices, 4: y.array}, n)
    if ((indices >= -size) & (indices < size)).all():
        assert status == abi.GS.OK
        part = places[tuple(slice(None) if k == axis else slice(0, m) for k, m in enumerate(shape))]
        np.testing.assert_array_equal(y.array, np.take_along_axis(part, indices, axis))
    else:
        assert status == abi.GS.BAD_INDEX
    assert y.intact()


@given(shape=hnp.array_shapes(min_dims=1, max_dims=6, max_side=4), blocks=st.integers(1, 3), rows=sizes, seed=seeds)
def test_tuple_index(abi: ModuleType, plumbing: dict[str, int], shape: Any, blocks: int, rows: int, seed: int) -> None:
    rng, depth = np.random.default_rng(seed), len(shape)
    reach = np.array(shape) + seed % 2
    indices = rng.integers(-reach, reach, (blocks, rows, depth))
    y = abi.Guarded((blocks, rows), np.int64, 1)
    n = [blocks * rows, depth, max(rows, 1), *shape]
    status = abi.call(plumbing["tuple_index"], {0: indices, 4: y.array}, n)
    if ((indices >= -np.array(shape)) & (indices < np.array(shape))).all():
        assert status == abi.GS.OK
        places = np.arange(blocks * np.prod(shape)).reshape(blocks, *shape)
        block = np.arange(blocks)[:, None]
        np.testing.assert_array_equal(y.array, places[(block, *np.moveaxis(indices, -1, 0))])
    else:
        assert status == abi.GS.BAD_INDEX
    assert y.intact()


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("op", ["SET", "ADD", "MUL", "MIN", "MAX"])
@given(size=st.integers(1, 5), count=sizes, inner=sizes, seed=seeds)
def test_scatter(
    abi: ModuleType, plumbing: dict[str, int], op: str, dtype: str, size: int, count: int, inner: int, seed: int
) -> None:
    places = np.random.default_rng(seed).integers(0, size, count)
    updates, y = numbers(seed, (count, inner), dtype), abi.Guarded.of(numbers(seed + 1, (size, inner), dtype), 1)
    expected = y.array.copy()
    combine = {"ADD": np.add, "MUL": np.multiply, "MIN": np.minimum, "MAX": np.maximum, "SET": lambda a, b: b}[op]
    for place, update in zip(places, updates, strict=True):
        expected[place] = combine(expected[place], update)
    n = [count, inner, getattr(abi.GS, f"SCATTER_{op}"), getattr(abi.GS, TYPES[dtype]), np.dtype(dtype).itemsize]
    assert abi.call(plumbing["scatter"], {0: updates, 1: places, 4: y.array}, n) == abi.GS.OK
    np.testing.assert_array_equal(y.array, expected)
    assert y.intact()
