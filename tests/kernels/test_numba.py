"""The kernels that Numba compiles: the bits of the Cython kernels, the oracle's values, and the cache on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from gatestep.kernels import pack, reference
from hypothesis import given, settings
from hypothesis import strategies as st

from gatestep import kernels

pytest.importorskip("numba", reason="the extra 'numba' is not installed")

Array = np.ndarray[Any, Any]
NAMES = list(reference.ACTIVATIONS)
STANDARD = {"lstm": ("Sigmoid", "Tanh", "Tanh"), "gru": ("Sigmoid", "Tanh"), "rnn": ("Tanh",)}
COUPLINGS = ["", "f=1-i", "i=1-f"]

settings.register_profile("numba", deadline=None, max_examples=30)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A cache of this module's own: what is tested is what is compiled here."""
    directory = tmp_path_factory.mktemp("numba")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUMBA_CACHE_DIR", str(directory))
        yield directory


@dataclass(frozen=True)
class Case:
    """A layer, as the oracle and as the kernels take it."""

    cell: str
    inputs: int
    hidden: int
    batch: int = 1
    steps: int = 3
    dtype: str = "float32"
    isa: str = kernels.isa
    state: int = 0  # the size of h, where it is projected
    activations: Sequence[str] = ()
    alpha: float = 0.6
    beta: float = 0.4
    clip: float | None = None
    coupling: int = 0  # and 1 for the GRU that resets before the product
    peepholes: bool = False
    lengths: Sequence[int] | None = None
    reverse: bool = False
    parity: int = 0
    seed: int = 0
    width: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", self.state or self.hidden)

    @property
    def general(self) -> bool:
        return bool(self.activations or self.clip or self.coupling or self.peepholes or self.state)

    def arrays(self) -> dict[str, Array]:
        """Weights in float64, inputs and states in the kernels' type."""
        rng = np.random.default_rng(self.seed)
        rows = {"lstm": 4, "gru": 3, "rnn": 1}[self.cell] * self.hidden

        def normal(*shape: int) -> Array:
            return rng.normal(0, 1 / np.sqrt(shape[-1]), shape).astype(self.dtype).astype(np.float64)

        sequence = rng.normal(size=(self.steps, self.batch, self.inputs)).astype(self.dtype)
        return {
            "w": normal(rows, self.inputs),
            "r": normal(rows, self.width),
            "b": normal(2, rows),
            "p": normal(3, self.hidden),
            "projection": normal(self.width, self.hidden),
            "x": sequence,
            "h0": normal(self.batch, self.width).astype(self.dtype),
            "c0": normal(self.batch, self.hidden).astype(self.dtype),
        }


def run(abi: ModuleType, backend: str, case: Case, arrays: dict[str, Array]) -> tuple[Array, ...]:
    """y, hn and (for an LSTM) cn; every buffer is guarded and starts off a vector's boundary."""
    dtype, a = np.dtype(case.dtype), arrays
    steps, batch = a["x"].shape[:2]
    if case.cell == "gru":
        w = pack.pack_gru(a["w"], a["r"], *a["b"], dtype)
    else:
        packing = pack.pack_lstm if case.cell == "lstm" else pack.pack_rnn
        w = packing(a["w"], a["r"], a["b"].sum(axis=0), dtype)
    shapes = [(steps, batch, case.width), (batch, case.width), (batch, case.hidden)]
    y, hn, cn = (abi.Guarded(shape, dtype, k) for k, shape in enumerate(shapes))
    names = case.activations or STANDARD[case.cell]
    codes = [getattr(abi.GS, "ACT_" + constant(name)) for name in names]
    i, h, p = case.inputs, case.hidden, case.width
    n = [steps, batch, i, h, p, batch * i, i, batch * p, p, case.reverse, case.parity, case.general]
    n += [*(*codes, 0, 0)[:3], case.coupling]
    f = [np.inf if case.clip is None else case.clip, *(case.alpha, case.beta) * 3]
    pointers = {
        0: abi.Guarded.of(a["x"], 1).array,
        1: w,
        2: a["h0"],
        3: a["c0"],
        4: y.array,
        5: hn.array,
        6: cn.array,
        7: pack.pack_peepholes(a["p"], dtype) if case.peepholes else None,
        8: pack.pack_linear(a["projection"], None, dtype) if case.state else None,
        9: pack.aligned_empty(4 * batch * (-(-h // 16) * 16) + 64, dtype),
        10: None if case.lengths is None else np.array(case.lengths, np.int32),
    }
    address = kernels.kernel_set(backend, dtype, case.isa).address(case.cell, n, f)
    assert abi.call(address, pointers, n, f) == abi.GS.OK
    assert y.intact()
    assert hn.intact()
    assert cn.intact()
    results = (y, hn, cn) if case.cell == "lstm" else (y, hn)
    return tuple(np.array(guarded.array) for guarded in results)


def constant(name: str) -> str:
    """HardSigmoid as HARD_SIGMOID."""
    return "".join("_" + c if c.isupper() and k else c for k, c in enumerate(name)).upper()


def oracle(case: Case, a: dict[str, Array]) -> tuple[Array, ...]:
    """The same from kernels/reference.py."""
    options: dict[str, Any] = {
        "h0": a["h0"],
        "lengths": case.lengths,
        "activations": [(name, case.alpha, case.beta) for name in case.activations or STANDARD[case.cell]],
        "clip": case.clip,
        "reverse": case.reverse,
    }
    args = (a["x"], a["w"], a["r"], *a["b"])
    if case.cell == "rnn":
        return reference.rnn(*args, **options)
    if case.cell == "gru":
        return reference.gru(*args, linear_before_reset=not case.coupling, **options)
    return reference.lstm(
        *args,
        c0=a["c0"],
        peepholes=a["p"] if case.peepholes else None,
        projection=a["projection"] if case.state else None,
        coupled=COUPLINGS[case.coupling],
        **options,
    )


CASES = [
    Case("lstm", 1, 1),
    Case("lstm", 17, 15, dtype="float64"),
    Case("lstm", 3, 33, batch=7, parity=1),
    Case("lstm", 2, 17, 3, activations=("HardSigmoid", "Softsign", "ScaledTanh"), clip=1.5, peepholes=True),
    Case("lstm", 4, 33, 3, state=5, lengths=(3, 0, 2), reverse=True),
    Case("lstm", 2, 16, activations=("Sigmoid", "Affine", "LeakyRelu"), coupling=1, state=16, dtype="float64"),
    Case("lstm", 2, 16, 2, coupling=2),
    Case("gru", 1, 16),
    Case("gru", 3, 15, 6, dtype="float64", parity=1),
    Case("gru", 5, 150, reverse=True),
    Case("gru", 3, 33, 3, coupling=1, lengths=(2, 3, 0), clip=2.0),
    Case("gru", 2, 17, activations=("HardSigmoid", "ThresholdedRelu"), coupling=1, dtype="float64"),
    Case("rnn", 3, 33, 5),
    Case("rnn", 3, 81, dtype="float64"),
    Case("rnn", 2, 17, activations=("Relu",), lengths=(2,), reverse=True),
    *(Case("lstm", 3, 17, isa=isa) for isa in kernels.available_isas()[1:]),
    *(Case("gru", 3, 33, 2, dtype="float64", isa=isa) for isa in kernels.available_isas()[1:]),
]


def label(case: Case) -> str:
    return f"{case.cell}-{case.inputs}-{case.hidden}-{case.batch}-{case.dtype}-{case.isa}-{case.general:d}"


@pytest.mark.parametrize("case", CASES, ids=label)
def test_the_bits_of_the_other_backend_and_the_values_of_the_oracle(abi: ModuleType, case: Case) -> None:
    arrays = case.arrays()
    results = run(abi, "numba", case, arrays)
    for ours, cython in zip(results, run(abi, "cython", case, arrays), strict=True):
        assert abi.same_bits(ours, cython)
    tolerance = 2e-5 if case.dtype == "float32" else 1e-13
    awake = slice(None) if case.lengths is None else np.array(case.lengths) > 0
    for number, (ours, expected) in enumerate(zip(results, oracle(case, arrays), strict=True)):
        rows = (slice(None), awake) if number == 0 else awake
        np.testing.assert_allclose(ours[rows], expected[rows], rtol=tolerance, atol=tolerance)


def dense(abi: ModuleType, backend: str, x: Array, w: Array, code: int, isa: str | None = None) -> Array:
    """A dense layer with a bias of 0.25, alpha 0.3 and beta 0.7."""
    y = abi.Guarded((x.shape[0], w.shape[0]), x.dtype, 1)
    n, f = [x.shape[0], x.shape[1], w.shape[0], x.shape[1], w.shape[0], code], [0.3, 0.7]
    packed = pack.pack_linear(w, np.full(w.shape[0], 0.25), x.dtype)
    address = kernels.kernel_set(backend, x.dtype, isa).address("linear", n, f)
    assert abi.call(address, {0: x, 1: packed, 4: y.array}, n, f) == abi.GS.OK
    assert y.intact()
    return np.array(y.array)


@pytest.mark.parametrize(
    ("rows", "columns", "dtype"),
    [(1, 257, "float32"), (1, 33, "float64"), (11, 80, "float32"), (6, 5, "float32"), (3, 129, "float64")],
)
def test_dense(abi: ModuleType, rows: int, columns: int, dtype: str) -> None:
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(rows, 7)).astype(dtype), rng.normal(size=(columns, 7))
    ours = dense(abi, "numba", x, w, abi.GS.ACT_TANH)
    assert abi.same_bits(ours, dense(abi, "cython", x, w, abi.GS.ACT_TANH))
    np.testing.assert_allclose(ours, np.tanh(x @ w.T + 0.25), atol=2e-6 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize(("dtype", "kinds"), [("float32", range(30)), ("float64", (1, 2, 9, 11, 16))])
def test_activations(abi: ModuleType, dtype: str, kinds: Sequence[int]) -> None:
    assert len(range(30)) == abi.GS.ACT_COUNT
    rng = np.random.default_rng(2)
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, 88.5, -88.5, 710.0, -746.0]
    x = np.concatenate([special, rng.normal(0, 3, 2000), rng.normal(0, 60, 300), rng.normal(0, 1e-3, 100)])
    x = x.astype(dtype)[:, None]
    for kind in kinds:
        ours, cython = (dense(abi, backend, x, np.ones((1, 1)), kind) for backend in ("numba", "cython"))
        finite = ~np.isnan(cython)
        assert abi.same_bits(ours[finite], cython[finite]), kind
        assert np.isnan(ours[~finite]).all(), kind


SAME_BITS = [Case("lstm", 3, 33, 7), Case("gru", 3, 33, 7), Case("rnn", 3, 33, 7)]


@pytest.mark.parametrize("case", SAME_BITS, ids=label)
def test_a_row_alone_and_in_chunks(abi: ModuleType, case: Case) -> None:
    """Neither the other rows nor the cut into chunks shows in the bits of a row."""

    @settings(settings.get_profile("numba"))
    @given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.data())
    def check(seed: int, steps: int, data: Any) -> None:
        drawn = replace(case, seed=seed, steps=steps, parity=seed % 2)
        arrays = drawn.arrays()
        together = run(abi, "numba", drawn, arrays)
        row, cut = data.draw(st.integers(0, case.batch - 1)), data.draw(st.integers(0, steps))
        rest = {name: arrays[name][row : row + 1] for name in ("h0", "c0")}
        pieces = []
        for part in (slice(0, cut), slice(cut, None)):
            piece = arrays | rest | {"x": arrays["x"][part, row : row + 1]}
            y, *states = run(abi, "numba", drawn, piece)
            pieces.append(y)
            rest = dict(zip(("h0", "c0"), [*states, rest["c0"]], strict=False))
        assert abi.same_bits(np.concatenate(pieces)[:, 0], together[0][:, row])
        for state, ours in zip(together[1:], states, strict=True):
            assert abi.same_bits(ours[0], state[row])

    check()


def test_everything_else_is_the_other_backend_s() -> None:
    ours, cython = (kernels.kernel_set(backend, "float32") for backend in ("numba", "cython"))
    assert ours.address("softmax", [1, 4, 0], []) == cython.address("softmax", [1, 4, 0], [])
    assert ours.address("linear", [0, 3, 4, 3, 4, 0], []) == cython.address("linear", [0, 3, 4, 3, 4, 0], [])
    with pytest.raises(KeyError):
        ours.address("no such kernel", [], [])


def test_a_kernel_of_one_s_own(abi: ModuleType) -> None:
    """Any C function with the signature of abi.h is a kernel; for one, a `cfunc` that reads `gs_args` as arrays."""
    from numba import carray, cfunc, types
    from numba.core import cgutils
    from numba.extending import intrinsic

    @intrinsic  # type: ignore[untyped-decorator]
    def pointer(typing, address):  # type: ignore[no-untyped-def]
        def lower(context, builder, sig, args):  # type: ignore[no-untyped-def]
            return builder.inttoptr(args[0], cgutils.voidptr_t)

        return types.voidptr(types.intp), lower

    @cfunc(types.intc(types.intp))  # type: ignore[untyped-decorator]
    def gain(args):  # type: ignore[no-untyped-def]
        words, f = carray(pointer(args), 36, np.int64), carray(pointer(args + 288), 8, np.float64)
        p, n = words[:12], words[12:]
        x, y = carray(pointer(p[0]), n[0], np.float32), carray(pointer(p[4]), n[0], np.float32)
        for k in range(n[0]):
            y[k] = x[k] * f[0]
        return 0

    x, y = np.arange(5, dtype=np.float32), np.zeros(5, np.float32)
    assert abi.call(gain.address, {0: x, 4: y}, [5], [0.5]) == abi.GS.OK
    np.testing.assert_array_equal(y, x / 2)


# ---------------------------------------------------------------------------------------------------- the cache on disk

PROGRAM = """
import ctypes, sys
import numpy as np
from gatestep import kernels
from gatestep.kernels import pack

class Args(ctypes.Structure):
    _fields_ = (("p", ctypes.c_void_p * 12), ("n", ctypes.c_ssize_t * 24), ("f", ctypes.c_double * 8))

x, w, y = np.ones((1, 2), np.float32), pack.pack_linear(np.ones((3, 2)), None, "float32"), np.zeros((1, 3), np.float32)
args = Args()
args.p[0], args.p[1], args.p[4] = x.ctypes.data, w.ctypes.data, y.ctypes.data
args.n[:6] = 1, 2, 3, 2, 3, 0
address = kernels.kernel_set("numba", "float32").address("linear", list(args.n), list(args.f))
assert ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(address)(ctypes.addressof(args)) == 0
assert (y == 2).all()
print("compiled" if "numba" in sys.modules else "loaded")
"""


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., str]:
    """Run a program in a new process, its cache in `tmp_path`/kernels."""

    def run_program(program: str = PROGRAM, **environment: str) -> str:
        env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "kernels")} | environment
        done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run_program


def test_a_second_process_does_not_compile(python: Callable[..., str], tmp_path: Path) -> None:
    assert python() == "compiled"
    assert python() == "loaded"
    (kept,) = (tmp_path / "kernels" / "gatestep").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-1])
    assert python() == "compiled"
    assert kept.read_bytes()[:40] == whole[:40]
    if os.name == "posix":
        kept.chmod(0o666)  # anybody may have written it
        assert python() == "compiled"


def test_no_place_for_a_cache(python: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert python(NUMBA_CACHE_DIR=str(file)) == "compiled"


def test_the_key_says_what_the_code_depends_on() -> None:
    from gatestep.kernels.numba.code import Target, recall, store
    from gatestep.kernels.numba.shape import shape_of

    target = Target(kernels.isa)
    n = [1, 1, 2, 3, 3, 2, 2, 3, 3, 0, 0, 0, 1, 2, 2, 0]
    shape = shape_of("lstm", n, kernels.isa, 32)
    keys = {
        target.key(shape),
        target.key(replace(shape, inputs=3)),
        target.key(replace(shape, activations=(1, 2, 3))),
        target.key(shape_of("lstm", n, kernels.isa, 64)),
        target.key(shape_of("lstm", [1, 2, *n[2:]], kernels.isa, 32)),
    }
    features, target.features = target.features, target.features + ",+other"
    keys.add(target.key(shape))
    target.features = features
    assert len(keys) == 6
    assert target.key(shape_of("lstm", [64, *n[1:]], kernels.isa, 32)) == target.key(shape)  # any number of steps
    store(shape, "a" * 32, b"code")
    assert recall(shape, "a" * 32) == b"code"
    assert recall(shape, "b" * 32) is None


def test_not_imported_unless_asked_for(python: Callable[..., str]) -> None:
    program = """
import sys
import gatestep
from gatestep import kernels
kernels.kernel_set("cython", "float32").address("lstm", [], [])
print(sorted({"numba", "llvmlite", "gatestep.kernels.numba"} & set(sys.modules)))
"""
    assert python(program) == "[]"


def test_numba_missing(python: Callable[..., str]) -> None:
    program = """
import sys
sys.modules["numba"] = None
from gatestep import kernels
try:
    kernels.kernel_set("numba", "float32")
except ImportError as error:
    print(error)
"""
    assert "gatestep[numba]" in python(program)
