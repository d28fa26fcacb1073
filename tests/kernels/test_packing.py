"""Packed weights against the layout that pack.py states, the choice of an instruction set, and finding kernels."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from gatestep.kernels import _isa, pack
from hypothesis import given, settings
from hypothesis import strategies as st

from gatestep import kernels

SIZES = [1, 15, 16, 17, 33, 64, 65, 100]


def weights(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def lane(a: np.ndarray[Any, Any], unit: int) -> Any:
    """a[unit], or zeros behind the last unit."""
    return a[unit] if unit < len(a) else np.zeros_like(a[0])


@pytest.mark.parametrize("hidden", SIZES)
def test_lstm(hidden: int) -> None:
    w, r, b = weights(4 * hidden, 3), weights(4 * hidden, 5), weights(4 * hidden)
    every = np.concatenate([b[:, None], w, r], axis=1).reshape(4, hidden, 9)
    blocks = pack.pack_lstm(w, r, b, np.float64).reshape(-1, 9, 4, 16)
    for block, k, gate, unit in np.ndindex(blocks.shape):
        assert blocks[block, k, gate, unit] == lane(every[gate], 16 * block + unit)[k]


@pytest.mark.parametrize("hidden", SIZES)
def test_gru(hidden: int) -> None:
    w, r, b_ih, b_hh = weights(3 * hidden, 2), weights(3 * hidden, hidden), weights(3 * hidden), weights(3 * hidden) + 1
    blocks = pack.pack_gru(w, r, b_ih, b_hh, np.float64).reshape(-1, (4 + 3 * (2 + hidden)) * 16)
    x_bias, h_bias = b_ih.reshape(3, hidden), b_hh.reshape(3, hidden)
    biases = [x_bias[0] + h_bias[0], x_bias[1] + h_bias[1], x_bias[2], h_bias[2]]
    products = np.concatenate([w, r], axis=1).reshape(3, hidden, 2 + hidden)
    for block, content in enumerate(blocks):
        for unit in range(16):
            assert content[unit:64:16].tolist() == [lane(b, 16 * block + unit) for b in biases]
            rest = content[64:].reshape(-1, 3, 16)
            for gate in range(3):
                assert (rest[:, gate, unit] == lane(products[gate], 16 * block + unit)).all()


@pytest.mark.parametrize("columns", SIZES)
@pytest.mark.parametrize("biased", [True, False])
def test_linear(columns: int, biased: bool) -> None:
    w, b = weights(columns, 4), weights(columns)
    every = np.concatenate([(b if biased else 0 * b)[:, None], w], axis=1)
    packed = pack.pack_linear(w, b if biased else None, np.float64)
    left, column = -(-columns // 16), 0
    while left:
        width = min(left, 4)
        group, packed = np.split(packed, [width * 16 * 5])
        for k, block, unit in np.ndindex(5, width, 16):
            assert group.reshape(5, width, 16)[k, block, unit] == lane(every, column + 16 * block + unit)[k]
        left, column = left - width, column + 16 * width
    assert packed.size == 0


def test_rnn_is_a_dense_layer_of_both_operands() -> None:
    w, r, b = weights(20, 3), weights(20, 20), weights(20)
    both = pack.pack_linear(np.concatenate([w, r], axis=1), b, np.float32)
    np.testing.assert_array_equal(pack.pack_rnn(w, r, b, np.float32), both)


@given(rows=st.integers(1, 40), width=st.integers(1, 50), form=st.sampled_from(["dense", "T", "back", "askew", "half"]))
@settings(deadline=None)
def test_weights_as_they_lie(rows: int, width: int, form: str) -> None:
    """Transposed, backwards, at any address, of another type: what is packed is what they are."""
    w = weights(rows, width).astype(np.float32)
    held = w
    if form == "T":
        held = np.ascontiguousarray(w.T).T
    elif form == "back":
        held = np.ascontiguousarray(w[::-1, ::-1])[::-1, ::-1]
    elif form == "askew":
        held = np.frombuffer(b"." + w.tobytes(), np.float32, offset=1).reshape(w.shape)
    elif form == "half":
        held = w.astype(np.float16)
        w = held.astype(np.float32)
    np.testing.assert_array_equal(
        pack.pack_linear(held, None, np.float32), pack.pack_linear(w.copy(), None, np.float32)
    )
    first = pack.pack_linear(w, None, np.float32)[: 16 * min(4, -(-rows // 16)) * (1 + width)].reshape(1 + width, -1)
    for unit in range(min(rows, first.shape[1])):
        np.testing.assert_array_equal(first[1:, unit], w[unit])


def test_peepholes() -> None:
    p = weights(3, 17)
    rows = pack.pack_peepholes(p, np.float64).reshape(3, 32)
    np.testing.assert_array_equal(rows[:, :17], p)
    assert (rows[:, 17:] == 0).all()


def test_biases_are_added_before_rounding() -> None:
    b_ih, b_hh = np.full(3, 1.0, np.float32), np.full(3, 2.0**-30, np.float32)
    packed = pack.pack_gru(np.zeros((3, 1)), np.zeros((3, 1)), b_ih, -b_ih + b_hh, np.float64)
    assert packed[0] == np.float64(b_ih[0]) + np.float64((-b_ih + b_hh)[0])


@pytest.mark.parametrize("count", [1, 7, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_aligned(count: int, dtype: Any) -> None:
    for _ in range(5):
        a = pack.aligned_empty(count, dtype)
        assert a.ctypes.data % 64 == 0
        assert a.shape == (count,)
        assert a.dtype == dtype


def test_choice_of_instruction_set() -> None:
    available = kernels.available_isas()
    assert "baseline" in available
    assert _isa.choose({}) == available[0]
    for name in available:
        assert _isa.choose({"GATESTEP_ISA": name.upper()}) == name
    with pytest.raises(ImportError, match=r"GATESTEP_ISA='sse9'.*baseline"):
        _isa.choose({"GATESTEP_ISA": "sse9"})


@pytest.mark.parametrize("dtype", [np.float32, "float64"])
def test_kernel_sets(dtype: Any) -> None:
    for name in kernels.available_isas():
        found = kernels.kernel_set("cython", dtype, name)
        assert found.isa == name
        assert found.dtype == dtype
        assert kernels.kernel_set("cython", dtype, name) is found
        for kernel in ("lstm", "gru", "rnn", "linear", "copy"):
            assert found.address(kernel, (), ()) > 0
        with pytest.raises(KeyError):
            found.address("transformer", (), ())
    assert kernels.kernel_set("cython", dtype).isa == kernels.isa


def test_numba_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(compiled: object) -> None:
        raise ModuleNotFoundError("No module named 'numba'", name="numba")

    stub = ModuleType("gatestep.kernels.numba")
    stub.kernel_set = refuse  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    kernels._find.cache_clear()
    with pytest.raises(ImportError, match=r"gatestep\[numba\]"):
        kernels.kernel_set("numba", np.float32)


def test_what_is_not_there() -> None:
    with pytest.raises(ValueError, match="'cython' and 'numba'"):
        kernels.kernel_set("fortran", np.float32)
    with pytest.raises(ValueError, match="float32 and float64"):
        kernels.kernel_set("cython", np.float16)
    with pytest.raises(ValueError, match="this machine has"):
        kernels.kernel_set("cython", np.float32, "sse9")
