"""Precision tiers: true to their definition, as close to float32 as is documented, refused where they cannot be."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gatestep.engine.model import Model
from gatestep.kernels import (
    PRECISIONS,
    available_isas,
    fastest_first,
    isa,
    precision,
    reference,
    tier_build,
    tiers,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import gatestep
from gatestep import nn

Array = np.ndarray[Any, Any]
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
TIERS = [tier for tier in PRECISIONS if tier != "float32" and tier_build(tier)]
#: What the tiers may be off at, for weights of this kind: the figures of docs/precision.md, with room.
BOUNDS = {"w16": 5e-5, "w8": 8e-3, "w8a8": 2e-2, "bfloat16": 8e-3}
#: How far from its definition a tier may come: a state of 8 bits may be rounded to the number beside the definition's.
DRIFT = {"w16": 2e-4, "w8": 2e-4, "w8a8": 3e-2, "bfloat16": 2e-4}
each_tier = pytest.mark.parametrize("tier", TIERS)


@pytest.fixture(autouse=True, scope="module")
def small_nets_too() -> Iterator[None]:
    """The tiers on nets of any size: tests are made of small ones."""
    with pytest.MonkeyPatch.context() as patch:
        for tier in tiers.WORTH:
            patch.setitem(tiers.WORTH, tier, 0)
        yield


def weights(cell: str, inputs: int, hidden: int, seed: int = 0, columns: int = 5) -> dict[str, Array]:
    """A recurrent layer and a dense one, as PyTorch names them."""
    rng = np.random.default_rng(seed)
    rows = GATES[cell] * hidden
    shapes = {
        "weight_ih_l0": (rows, inputs),
        "weight_hh_l0": (rows, hidden),
        "bias_ih_l0": (rows,),
        "bias_hh_l0": (rows,),
    }
    shapes = {f"rnn.{name}": shape for name, shape in shapes.items()}
    shapes |= {"fc.weight": (columns, hidden), "fc.bias": (columns,)}
    limit = hidden**-0.5
    return {name: rng.uniform(-limit, limit, shape).astype(np.float32) for name, shape in shapes.items()}


def spec(cell: str, inputs: int, hidden: int, columns: int = 5) -> Any:
    return nn.Sequential({"rnn": getattr(nn, cell)(inputs, hidden), "fc": nn.Linear(hidden, columns)})


def load(cell: str, inputs: int, hidden: int, tier: str, seed: int = 0, **options: Any) -> Model:
    return gatestep.load(
        weights(cell, inputs, hidden, seed), spec=spec(cell, inputs, hidden), precision=tier, **options
    )


def called(model: Model, x: Array) -> Array:
    """The first output for `x`."""
    results = model({model.inputs[0].name: x})
    return next(iter(results.values()))  # type: ignore[no-any-return]


def defined(cell: str, held: dict[str, Array], x: Array, tier: str) -> Array:
    """What the tier's definition gives for x (T, B, I)."""
    product = precision.product(tier)
    args = [held[f"rnn.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    y = getattr(reference, cell.lower())(x, *args, product=product)[0]
    flat = product(y.reshape(-1, y.shape[2]), held["fc.weight"].astype(np.float64)) + held["fc.bias"]
    return flat.reshape(*y.shape[:2], -1)


@each_tier
@settings(max_examples=25, deadline=None)
@given(
    cell=st.sampled_from(sorted(GATES)),
    inputs=st.sampled_from([1, 3, 16, 33]),
    hidden=st.sampled_from([1, 8, 17, 64, 70, 130]),
    seed=st.integers(0, 99),
    cuts=st.lists(st.integers(1, 80), max_size=4),
)
def test_step_run_batch_and_pool_have_the_same_bits(
    tier: str, cell: str, inputs: int, hidden: int, seed: int, cuts: list[int]
) -> None:
    model = load(cell, inputs, hidden, tier, seed)
    x = np.random.default_rng(seed).standard_normal((81, 3, inputs)).astype(np.float32)
    whole = called(model, x)
    want = defined(cell, weights(cell, inputs, hidden, seed), x, tier)
    np.testing.assert_allclose(whole, want, atol=DRIFT[tier], rtol=1e-4)
    rows = model.stream(batch=3).run(x)
    assert rows.tobytes() == whole.tobytes()
    stream = model.stream()
    steps = np.stack([stream.step(frame) for frame in x[:, 1].copy()])
    assert steps.tobytes() == whole[:, 1].tobytes()
    stream, ends = model.stream(), sorted({0, 81, *cuts})
    pieces = [stream.run(x[a:b, 2].copy()) for a, b in pairwise(ends)]
    assert np.concatenate(pieces).tobytes() == whole[:, 2].tobytes()


@each_tier
@pytest.mark.parametrize("cell", sorted(GATES))
def test_threads_leave_the_bits(tier: str, cell: str) -> None:
    """Rows shared, and outputs of one row; whole numbers of a row are then made by whoever computes it."""
    one, two = (load(cell, 40, 260, tier, threads=threads) for threads in (1, 2))
    rng = np.random.default_rng(0)
    for batch in (1, 3, 37):
        x = rng.standard_normal((35, batch, 40)).astype(np.float32)
        assert called(one, x).tobytes() == called(two, x).tobytes()
    assert one.stream().run(x[:, 0].copy()).tobytes() == two.stream().run(x[:, 0].copy()).tobytes()


def test_projections_are_in_the_tier() -> None:
    rng, x = np.random.default_rng(0), np.random.default_rng(1).standard_normal((20, 2, 9)).astype(np.float32)
    shapes = {"weight_ih_l0": (160, 9), "weight_hh_l0": (160, 24), "bias_ih_l0": (160,), "bias_hh_l0": (160,)}
    held = {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    held["weight_hr_l0"] = rng.normal(0, 0.2, (24, 40)).astype(np.float32)
    args = [held[name] for name in shapes]
    for tier in TIERS:
        want = reference.lstm(x, *args, projection=held["weight_hr_l0"], product=precision.product(tier))[0]
        got = called(gatestep.load(held, spec=nn.LSTM(9, 40, proj_size=24), precision=tier), x)
        np.testing.assert_allclose(got, want, atol=DRIFT[tier], rtol=1e-4)


@each_tier
@pytest.mark.parametrize("cell", sorted(GATES))
def test_error_is_what_the_table_says(tier: str, cell: str) -> None:
    """Over 200 steps, for weights as PyTorch initialises them, against the definition in float64."""
    for inputs, hidden in ((40, 64), (128, 256)):
        x = np.random.default_rng(1).standard_normal((200, 1, inputs)).astype(np.float32)
        want = defined(cell, weights(cell, inputs, hidden), x, "float32")
        got = called(load(cell, inputs, hidden, tier), x)
        assert np.abs(got - want).max() < BOUNDS[tier]
        if tier == "w8":  # and it is another tier than w16
            assert np.abs(got - want).max() > 1e-4


def test_bfloat16_weights_lose_nothing() -> None:
    """Where the weights are bfloat16 already, the bits are those of float32."""
    held = weights("LSTM", 40, 64)
    cut = {
        name: (precision.halved(a).astype(np.uint32) << 16).view(np.float32).reshape(a.shape) if a.ndim == 2 else a
        for name, a in held.items()
    }
    x = np.random.default_rng(0).standard_normal((40, 2, 40)).astype(np.float32)
    plain, tier = (gatestep.load(cut, spec=spec("LSTM", 40, 64), precision=p) for p in ("float32", "bfloat16"))
    assert called(plain, x).tobytes() == called(tier, x).tobytes()


@each_tier
@pytest.mark.parametrize("size", [1e-35, 1e-20, 1e-6, 1.0, 1e6, 1e20, 1e37])
def test_no_size_of_input_saturates(tier: str, size: float) -> None:
    """A row's scale is its own: it loses a part of its largest element, whatever that is."""
    held = {"weight": np.random.default_rng(0).standard_normal((8, 24)).astype(np.float32)}
    x = (np.random.default_rng(1).standard_normal((5, 24)) * size).astype(np.float32)
    x[3] /= 1e3  # beside larger rows
    got = gatestep.load(held, spec=nn.Linear(24, 8, bias=False), precision=tier)(x[:, None])[:, 0]
    want = x.astype(np.float64) @ held["weight"].T.astype(np.float64)
    part = {"w16": 1e-3, "w8": 3e-2, "w8a8": 3e-2, "bfloat16": 1e-2}[tier]
    for row in range(5):
        largest = max(float(np.abs(x[row]).max()), 1e-36 if tier == "bfloat16" else 1e-30)  # what counts as zero
        assert np.abs(got[row] - want[row]).max() <= 24 * part * largest


@each_tier
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_spoils_its_own_row_alone(tier: str, odd: float) -> None:
    model = load("GRU", 7, 33, tier)
    x = np.random.default_rng(0).standard_normal((6, 4, 7)).astype(np.float32)
    clean = called(model, x)
    x[2, 1, 3] = odd
    spoilt = called(model, x)
    assert np.isnan(spoilt[2:, 1]).all() or tier == "bfloat16"
    assert not np.array_equal(spoilt[2:, 1], clean[2:, 1])
    assert spoilt[:2].tobytes() == clean[:2].tobytes()
    assert spoilt[:, [0, 2, 3]].tobytes() == clean[:, [0, 2, 3]].tobytes()


@each_tier
def test_rows_of_zeros(tier: str) -> None:
    """Rows of weights, and rows of inputs."""
    held = weights("LSTM", 5, 20)
    held["rnn.weight_hh_l0"][3:50] = 0
    held["fc.weight"][1] = 0
    x = np.random.default_rng(0).standard_normal((9, 2, 5)).astype(np.float32)
    x[3:5] = 0
    got = called(gatestep.load(held, spec=spec("LSTM", 5, 20), precision=tier), x)
    np.testing.assert_allclose(got, defined("LSTM", held, x, tier), atol=DRIFT[tier], rtol=1e-4)
    assert (got[..., 1] == held["fc.bias"][1]).all()


# ---------------------------------------------------------------------- what is refused


@each_tier
@pytest.mark.parametrize(("name", "node"), [("rnn.weight_hh_l0", "LSTM"), ("fc.weight", "Gemm|MatMul")])
@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_weights_that_are_not_finite(tier: str, name: str, node: str, odd: float) -> None:
    held = weights("LSTM", 5, 20)
    held[name][3, 2] = odd
    with pytest.raises(gatestep.UnsupportedModelError, match=rf"({node}).*precision='{tier}'.*not finite"):
        gatestep.load(held, spec=spec("LSTM", 5, 20), precision=tier)
    assert gatestep.load(held, spec=spec("LSTM", 5, 20)).precision == "float32"


@pytest.mark.skipif("bfloat16" not in TIERS, reason="float32 stands in for it here")
def test_weights_beyond_bfloat16() -> None:
    held = {"weight": np.full((3, 4), np.finfo(np.float32).max)}
    model = gatestep.load(held, spec=nn.Linear(4, 3, bias=False), precision="bfloat16")
    with pytest.raises(gatestep.UnsupportedModelError, match="too large"):
        model(np.zeros((1, 1, 4), np.float32))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "int4"}, "'w8a8', 'w8', 'w16', 'bfloat16', 'float32' or 'auto'"),
        ({"precision": "w8", "dtype": "float64"}, "computes in float32"),
        ({"precision": "w8", "backend": "numba"}, "no kernels of backend='numba'"),
        ({"precision": "auto"}, "go together"),
        ({"max_error": 0.1}, "go together"),
        ({"precision": "w8", "max_error": 0.1}, "go together"),
        ({"precision": "auto", "max_error": -1.0}, "from 0 on"),
        ({"precision": "w8", "data": {}}, "measures on"),
    ],
)
def test_options_that_do_not_go(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        gatestep.load(weights("GRU", 3, 8), spec=spec("GRU", 3, 8), **options)


# ---------------------------------------------------------------------- what is said of it


@each_tier
def test_a_model_says_what_it_is_kept_as(tier: str) -> None:
    model = load("GRU", 3, 8, tier)
    assert (model.precision, model.asked) == (tier, tier)
    assert {*model.nets.values()} == {tier}
    assert len(model.nets) == 2
    assert f"kept as {tier}: " in str(model)
    assert "biases" in str(model)
    assert model.packed.nbytes < load("GRU", 3, 8, "float32").packed.nbytes


@pytest.mark.skipif(not TIERS, reason="float32 stands in for all of them")
def test_small_nets_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tier is for speed, and reading few weights takes no time; what is not touched may also be infinite."""
    monkeypatch.setitem(tiers.WORTH, "w8", 6 << 10)
    held = weights("LSTM", 40, 64)
    held["fc.weight"][0, 0] = np.inf
    model = gatestep.load(held, spec=spec("LSTM", 40, 64), precision="w8")
    assert list(model.nets.values()) == ["w8", "float32"]
    assert "kept as w8: LSTM" in str(model)
    assert "kept as float32: MatMul 'fc', biases" in str(model)
    plain, same = (load("GRU", 3, 8, tier) for tier in ("float32", "w8"))
    x = np.ones((5, 1, 3), np.float32)
    assert called(plain, x).tobytes() == called(same, x).tobytes()


def test_float32_and_float64_say_so() -> None:
    assert load("GRU", 3, 8, "float32").precision == "float32"
    assert gatestep.load(weights("GRU", 3, 8), spec=spec("GRU", 3, 8), dtype="float64").precision == "float64"
    assert "kept as" not in str(load("GRU", 3, 8, "float32"))


def test_convolutions_stay_as_they_are() -> None:
    x, w = (helper.make_tensor_value_info("x", 1, [2, 3, 9]), np.ones((4, 3, 2), np.float32))
    y, node = helper.make_tensor_value_info("y", 1, None), helper.make_node("Conv", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(w, "w")])
    model = gatestep.load(helper.make_model(graph), precision=TIERS[0] if TIERS else "w8")
    assert model(np.ones((2, 3, 9), np.float32)).shape == (2, 4, 8)
    assert not model.nets


@pytest.mark.skipif("avx2" not in available_isas(), reason="float32 is the slower one on every set of this machine")
def test_where_no_tier_is_faster_float32_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatestep.engine.model.tier_build", lambda tier: tier_build(tier, "baseline"))
    model = load("GRU", 3, 8, "w8")
    assert (model.precision, model.asked) == ("float32", "w8")
    assert f"kept as float32: {isa} has no kernels of w8" in str(model)


# ---------------------------------------------------------------------- auto


@pytest.mark.skipif(not TIERS, reason="no tier is faster here")
def test_auto_takes_the_fastest_that_keeps_the_error() -> None:
    for max_error, chosen in ((0.5, fastest_first()[0]), (3e-4, "w16"), (0.0, "float32")):
        model = load("LSTM", 8, 32, "auto", max_error=max_error)
        assert (model.precision, model.asked) == (chosen, chosen)


def test_rows_of_8_bits_are_tried_where_bytes_are_multiplied() -> None:
    assert fastest_first("baseline") == ("w8", "w16", "bfloat16")
    build = tier_build("w8a8") or ""
    assert ("w8a8" in fastest_first()) == ("vnni" in build)


@pytest.mark.skipif(not TIERS, reason="no tier is faster here")
def test_auto_keeps_bfloat16_weights_as_they_are() -> None:
    held = weights("LSTM", 8, 32)
    held = {n: (precision.halved(a).astype(np.uint32) << 16).view(np.float32).reshape(a.shape) for n, a in held.items()}
    assert gatestep.load(held, spec=spec("LSTM", 8, 32), precision="auto", max_error=0.0).precision == "bfloat16"


@pytest.mark.skipif(not TIERS, reason="no tier is faster here")
def test_auto_measures_on_the_data_given() -> None:
    """A dense layer loses what is small beside the largest of a row: only the data know whether that is so."""
    held = {"weight": np.zeros((1, 4), np.float32)}
    held["weight"][0] = [1, 0, 0, 0]
    even, uneven = np.ones((3, 4), np.float32), np.full((3, 4), 1e6, np.float32)
    uneven[:, 0] = 3
    for x, chosen in ((even, fastest_first()[0]), (uneven, "bfloat16")):
        options = {"precision": "auto", "max_error": 1e-3, "data": {"input": x[:, None]}}
        assert gatestep.load(held, spec=nn.Linear(4, 1, bias=False), **options).precision == chosen


@pytest.mark.skipif(not TIERS, reason="no tier is faster here")
def test_auto_passes_over_what_the_weights_do_not_allow() -> None:
    held = weights("RNN", 3, 8)
    held["fc.weight"][0, 0] = np.inf
    assert gatestep.load(held, spec=spec("RNN", 3, 8), precision="auto", max_error=1.0).precision == "float32"


# ---------------------------------------------------------------------- files


@each_tier
def test_a_container_keeps_its_precision(tier: str, tmp_path: Path) -> None:
    held, made = weights("LSTM", 8, 32), tmp_path / "m.gatestep"
    gatestep.convert(held, made, spec=spec("LSTM", 8, 32), precision=tier)
    model, x = gatestep.load(made), np.random.default_rng(0).standard_normal((20, 2, 8)).astype(np.float32)
    assert (model.precision, model.asked) == (tier, tier)
    want = gatestep.load(held, spec=spec("LSTM", 8, 32), precision=tier)
    assert called(model, x).tobytes() == called(want, x).tobytes()
    with pytest.raises(ValueError, match=r"precision=: a \.gatestep file keeps"):
        gatestep.load(made, precision="float32")
    again = tmp_path / "again.gatestep"
    gatestep.convert(made, again)
    assert gatestep.load(again).precision == tier


@pytest.mark.skipif(not TIERS, reason="no tier is faster here")
def test_converting_settles_auto(tmp_path: Path) -> None:
    options = {"spec": spec("LSTM", 8, 32), "precision": "auto", "max_error": 3e-4}
    gatestep.convert(weights("LSTM", 8, 32), tmp_path / "m.gatestep", **options)
    assert gatestep.load(tmp_path / "m.gatestep").precision == "w16"


# ---------------------------------------------------------------------- the page


@pytest.mark.skipif(not TIERS, reason="no tier is faster here")
def test_the_page_is_what_its_script_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(__file__).resolve().parents[2] / "docs"
    monkeypatch.syspath_prepend(folder)
    script = importlib.import_module("make_precision")
    lines = [line for line in (folder / "precision.md").read_text().splitlines() if "→" in line]
    rows = {cells[1].strip(): cells[2:-1] for cells in (line.split("|") for line in lines)}
    grid = [f"{cell} {inputs}→{hidden}" for cell in script.GATES for inputs, hidden in script.SIZES]
    assert [name for name in rows if "row" not in name] == grid
    assert len(rows) == len(grid) + len(script.RECORDINGS)
    for cell in script.GATES:
        for tier, written in zip(script.TIERS, rows[f"{cell} 128→256"], strict=True):
            if tier in precision.BITS:
                assert 0.5 < script.measured(cell, 128, 256, tier)[0] / float(written.split(",")[0]) < 2
