"""copy, cast, gather and binary_i64 against NumPy; jumps and counts."""

from __future__ import annotations

import operator
from collections.abc import Callable
from itertools import product
from math import isnan, prod
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

Array = np.ndarray[Any, Any]

settings.register_profile("kernels", deadline=None)
settings.load_profile("kernels")

seeds = st.integers(0, 2**32 - 1)
shapes = hnp.array_shapes(min_dims=0, max_dims=6, min_side=0, max_side=5)
INT64 = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-4, 70), st.sampled_from([-(2**63), 2**63 - 1]))


def strides(array: Array) -> list[int]:
    return [stride // array.itemsize for stride in array.strides]


def padded(sizes: Any) -> list[int]:
    """What `n` has room for: six dimensions."""
    return [*sizes, *[0] * (6 - len(sizes))]


def scattered(base: Array, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """A view of `shape` on the flat `base`, axes in any order and direction, with gaps."""
    order, steps = rng.permutation(len(shape)), rng.choice([-2, -1, 1, 2], len(shape))
    room = [shape[axis] * abs(steps[axis]) for axis in order]
    view = base[: prod(room)].reshape(room).transpose(np.argsort(order))
    slices: tuple[Any, ...] = (..., *(slice(None, None, int(step)) for step in steps))
    scattered_view: Array = view[slices]
    return scattered_view


# ------------------------------------------------------------------------------------------------------------- copy


@given(shape=shapes, itemsize=st.sampled_from([1, 2, 4, 8]), seed=seeds, offset=st.integers(0, 3), data=st.data())
def test_copy_any_strides(
    abi: ModuleType, plumbing: dict[str, int], shape: tuple[int, ...], itemsize: int, seed: int, offset: int, data: Any
) -> None:
    rng = np.random.default_rng(seed)
    dtype, room = np.dtype(f"u{itemsize}"), prod(shape) * 2 ** len(shape)
    source = scattered(rng.integers(0, 255, room).astype(dtype), shape, rng)
    for axis in range(len(shape)):
        if shape[axis] and data.draw(st.booleans(), label=f"axis {axis} is broadcast"):
            source = np.broadcast_to(source.take([0], axis), shape)
    guarded = abi.Guarded.of(rng.integers(0, 255, room).astype(dtype), offset)
    expected = guarded.array.copy()
    state = rng.bit_generator.state
    target = scattered(guarded.array, shape, rng)
    rng.bit_generator.state = state
    scattered(expected, shape, rng)[...] = source
    n = [len(shape), *padded(shape), *padded(strides(source)), *padded(strides(target)), itemsize]
    assert abi.call(plumbing["copy"], {0: source, 4: target}, n) == abi.GS.OK
    assert abi.same_bits(guarded.array, expected)
    assert guarded.intact()


@pytest.mark.parametrize("itemsize", [1, 2, 4, 8])
@pytest.mark.parametrize("backwards", [False, True])
def test_copy_at_a_count(abi: ModuleType, plumbing: dict[str, int], itemsize: int, backwards: bool) -> None:
    """Row by row, from the first or the last, what a copy of all rows gives."""
    rows = np.arange(15, dtype=f"u{itemsize}").reshape(5, 3)
    target, counter = abi.Guarded((5, 3), rows.dtype), np.zeros(1, np.int64)
    start = rows[::-1] if backwards else rows
    for _ in range(5):
        n = [1, 3, *[1] * 5, 1, *[0] * 5, 1, *[0] * 5, itemsize, -3 if backwards else 3, 3]
        assert abi.call(plumbing["copy_at"], {0: start[0], 1: counter, 4: target.array}, n) == abi.GS.OK
        counter += 1
    assert target.intact()
    np.testing.assert_array_equal(target.array, start)


@pytest.mark.parametrize("value", [0, 1, 255])
@pytest.mark.parametrize("when", [0, 1])
def test_jump(abi: ModuleType, plumbing: dict[str, int], value: int, when: int) -> None:
    jumps = abi.call(plumbing["jump"], {0: np.array([value], np.uint8)}, [7, when]) == abi.GS.JUMP
    assert jumps is (bool(value) is bool(when))
    assert abi.call(plumbing["jump"], {}, [7, when]) == abi.GS.JUMP


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize(("again", "status"), [(0, "JUMP"), (1, "AGAIN")])
def test_count(abi: ModuleType, plumbing: dict[str, int], limited: bool, again: int, status: str) -> None:
    """Three times round, with the limit in an array or in the call; as a guard before, it adds nothing."""
    counter, limit = np.zeros(1, np.int64), np.array([3])
    p = {1: counter, 4: counter, **({0: limit} if limited else {})}
    rounds = [abi.call(plumbing["count"], p, [0, 1, 1, 0 if limited else 3, again]) for _ in range(3)]
    assert rounds == [getattr(abi.GS, status)] * 2 + [abi.GS.OK]
    assert counter == 3
    assert abi.call(plumbing["count"], p, [0, 0, 0, 0 if limited else 3, 0]) == abi.GS.JUMP
    counter[0] = 2
    assert abi.call(plumbing["count"], p, [0, 0, 0, 0 if limited else 3, 0]) == abi.GS.OK
    assert counter == 2


# ------------------------------------------------------------------------------------------------------------- cast

TYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
}


def converted(x: Array, dtype: np.dtype[Any]) -> Array:
    """What `cast` means: NumPy, and saturation where C and NumPy leave the result open."""
    if x.dtype.kind == "f" and dtype.kind in "iu":
        limits = np.iinfo(dtype)

        def whole(value: float) -> int:
            return 0 if isnan(value) else int(max(min(value, limits.max), limits.min))

        return np.array([whole(value) for value in x.tolist()], dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        return x.astype(np.float64).astype(dtype) if dtype == np.float16 else x.astype(dtype)


@pytest.mark.parametrize(("source", "target"), list(product(TYPES, TYPES)))
@settings(max_examples=25)
@given(data=st.data(), offset=st.integers(0, 9))
def test_cast(abi: ModuleType, plumbing: dict[str, int], source: str, target: str, data: Any, offset: int) -> None:
    x = abi.Guarded.of(data.draw(hnp.arrays(TYPES[source], st.integers(0, 40))), offset).array
    y = abi.Guarded(x.shape, TYPES[target], offset)
    n = [x.size, getattr(abi.GS, f"T_{source}"), getattr(abi.GS, f"T_{target}")]
    assert abi.call(plumbing["cast"], {0: x, 4: y.array}, n) == abi.GS.OK
    np.testing.assert_array_equal(y.array, converted(x, y.array.dtype))
    assert y.intact()


EDGES = [0.5, 0.999, 126.5, 127.5, 128.0, 255.5, 256.0, 32767.5, 2.0**31 - 1, 2.0**31, 2.0**53, 2.0**63 - 1024, 2.0**63]


@pytest.mark.parametrize("target", ["U8", "I8", "I16", "I32", "I64"])
@pytest.mark.parametrize("source", ["F32", "F64"])
def test_cast_saturates(abi: ModuleType, plumbing: dict[str, int], source: str, target: str) -> None:
    x = np.array([*EDGES, *(-edge for edge in EDGES), np.nan, np.inf, -np.inf, 1e30, -1e30], TYPES[source])
    y = abi.Guarded(x.shape, TYPES[target])
    abi.call(
        plumbing["cast"], {0: x, 4: y.array}, [x.size, getattr(abi.GS, f"T_{source}"), getattr(abi.GS, f"T_{target}")]
    )
    np.testing.assert_array_equal(y.array, converted(x, y.array.dtype))


@pytest.mark.parametrize("wide", ["F32", "F64"])
def test_every_half_there_and_back(abi: ModuleType, plumbing: dict[str, int], wide: str) -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    y, back = np.empty(halves.shape, TYPES[wide]), np.empty_like(halves)
    abi.call(plumbing["cast"], {0: halves, 4: y}, [y.size, abi.GS.T_F16, getattr(abi.GS, f"T_{wide}")])
    abi.call(plumbing["cast"], {0: y, 4: back}, [y.size, getattr(abi.GS, f"T_{wide}"), abi.GS.T_F16])
    np.testing.assert_array_equal(y, halves.astype(TYPES[wide]))
    np.testing.assert_array_equal(np.signbit(y), np.signbit(halves))
    numbers = ~np.isnan(halves)
    assert abi.same_bits(back[numbers], halves[numbers])
    assert np.isnan(back[~numbers]).all()


def test_half_rounds_to_nearest_even(abi: ModuleType, plumbing: dict[str, int]) -> None:
    """The middle between each two neighbours, and the doubles right beside it: where rounding twice would show."""
    halves = np.arange(0x7C01, dtype=np.uint16).view(np.float16).astype(np.float64)
    halves[-1] = 65536.0
    middle = (halves[1:] + halves[:-1]) / 2
    x = np.concatenate([middle, np.nextafter(middle, 0), np.nextafter(middle, np.inf)])
    x = np.concatenate([x, -x])
    y = np.empty(x.shape, np.float16)
    abi.call(plumbing["cast"], {0: x, 4: y}, [x.size, abi.GS.T_F64, abi.GS.T_F16])
    with np.errstate(over="ignore"):
        assert abi.same_bits(y, x.astype(np.float16))


# ----------------------------------------------------------------------------------------------------------- gather


@given(
    outer=st.integers(0, 3),
    size=st.integers(0, 6),
    inner=st.integers(0, 20),
    indices=st.lists(st.one_of(st.integers(-8, 8), INT64), max_size=8),
    seed=seeds,
)
def test_gather(
    abi: ModuleType, plumbing: dict[str, int], outer: int, size: int, inner: int, indices: list[int], seed: int
) -> None:
    data = np.random.default_rng(seed).integers(0, 255, (outer, size, inner), np.uint8)
    y = abi.Guarded((outer, len(indices), inner), np.uint8)
    before = y.array.copy()
    status = abi.call(
        plumbing["gather"], {0: data, 1: np.array(indices, np.int64), 4: y.array}, [outer, size, inner, len(indices)]
    )
    if all(-size <= index < size for index in indices):
        assert status == abi.GS.OK
        np.testing.assert_array_equal(y.array, data[:, np.array(indices, np.intp)])
    else:
        assert status == abi.GS.BAD_INDEX
        np.testing.assert_array_equal(y.array, before)
    assert y.intact()


# ------------------------------------------------------------------------------------------------------- binary_i64


def wrapped(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def divided(a: int, b: int) -> int:
    return 0 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def powered(a: int, b: int) -> int:
    return pow(a % 2**64, b, 2**64) if b >= 0 else {1: 1, -1: -1 if b % 2 else 1}.get(a, 0)


I64: dict[str, Callable[[int, int], int]] = {
    "ADD": operator.add,
    "SUB": operator.sub,
    "MUL": operator.mul,
    "DIV": divided,
    "POW": powered,
    "MIN": min,
    "MAX": max,
    "PRELU": lambda a, b: a if a >= 0 else a * b,
    "MOD": lambda a, b: 0 if b == 0 else a % b,
    "FMOD": lambda a, b: 0 if b == 0 else abs(a) % abs(b) * (-1 if a < 0 else 1),
}


@pytest.mark.parametrize("op", I64)
@given(pair=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=6, min_side=0, max_side=4), data=st.data())
@settings(max_examples=50)
def test_binary_i64(abi: ModuleType, plumbing: dict[str, int], op: str, pair: Any, data: Any) -> None:
    shape = pair.result_shape
    a, b = (data.draw(hnp.arrays(np.int64, side, elements=INT64)) for side in pair.input_shapes)
    wide_a, wide_b = np.broadcast_to(a, shape), np.broadcast_to(b, shape)
    y = abi.Guarded(shape, np.int64, 1)
    n = [getattr(abi.GS, f"BIN_{op}"), len(shape), *padded(shape), *padded(strides(wide_a)), *padded(strides(wide_b))]
    assert abi.call(plumbing["binary_i64"], {0: wide_a, 1: wide_b, 4: y.array}, n) == abi.GS.OK
    expected = [wrapped(I64[op](x, z)) for x, z in zip(wide_a.ravel().tolist(), wide_b.ravel().tolist(), strict=True)]
    assert y.array.ravel().tolist() == expected
    assert y.intact()


def test_binary_i64_in_place(abi: ModuleType, plumbing: dict[str, int]) -> None:
    a, row = np.arange(12, dtype=np.int64).reshape(3, 4), np.arange(4, dtype=np.int64)
    expected = a + row
    n = [abi.GS.BIN_ADD, 2, *padded((3, 4)), *padded((4, 1)), *padded((0, 1))]
    abi.call(plumbing["binary_i64"], {0: a, 1: row, 4: a}, n)
    np.testing.assert_array_equal(a, expected)


# ------------------------------------------------------------------------------------------------------ check_range


@given(
    x=hnp.arrays(np.int32, st.integers(0, 20), elements=st.integers(-3, 12)),
    low=st.integers(-2, 3),
    size=st.integers(0, 9),
)
def test_check_range(abi: ModuleType, plumbing: dict[str, int], x: Array, low: int, size: int) -> None:
    inside = bool(((x >= low) & (x <= low + size)).all())
    status = abi.call(plumbing["check_range"], {0: x}, [x.size, low, low + size])
    assert status == (abi.GS.OK if inside else abi.GS.BAD_INDEX)
