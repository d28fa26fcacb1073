"""Comparisons, choice, indexing, sums over axes and the rest, held to the ONNX project's own cases.

Each case runs twice: with its inputs at run time, by kernels, and as constants of the file, by `evaluate`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from node_cases import array, feeds_of, node_cases, of_constants
from onnx import helper, numpy_helper
from onnx_models import info, make

import gatestep

#: Modules of the onnx package, and the operators they show.
MODULES = {
    "equal greater greater_or_equal less less_or_equal": "Equal Greater GreaterOrEqual Less LessOrEqual",
    "and_ or_ xor not_ where isnan isinf": "And Or Xor Not Where IsNaN IsInf",
    "argmax argmin topk cumsum reversesequence": "ArgMax ArgMin TopK CumSum ReverseSequence",
    "gatherelements gathernd scatter": "GatherElements GatherND Scatter",
    "scatterelements scatternd onehot trilu": "ScatterElements ScatterND OneHot Trilu",
    "einsum convtranspose center_crop_pad": "Einsum ConvTranspose CenterCropPad",
    "sin cos round mod clip": "Sin Cos Round Mod Clip",
    "celu hardmax tan asin acos atan": "Celu Hardmax Tan Asin Acos Atan",
    "sinh cosh asinh acosh atanh": "Sinh Cosh Asinh Acosh Atanh",
    "reducel1 reduce_log_sum reduce_log_sum_exp": "ReduceL1 ReduceLogSum ReduceLogSumExp",
    "reducel2 reducemax reducemean reducemin": "ReduceL2 ReduceMax ReduceMean ReduceMin",
    "reduceprod reducesum reducesumsquare": "ReduceProd ReduceSum ReduceSumSquare",
    "lpnormalization meanvariancenormalization": "LpNormalization MeanVarianceNormalization",
    "groupnormalization rmsnormalization": "GroupNormalization RMSNormalization",
}
CASES = node_cases(" ".join(MODULES), " ".join(MODULES.values()))
#: What is refused, with a word of the reason: always, or only at run time.
NEVER = {
    "test_equal_string": "STRING",
    "test_equal_string_broadcast": "STRING",
    "test_not_2d": "operator set 1",
    "test_not_3d": "operator set 1",
    "test_not_4d": "operator set 1",
}
UNSIGNED = [
    f"test_{op}_{dtype}"
    for op in ("equal", "greater", "greater_equal", "less", "less_equal", "mod")
    for dtype in ("uint64",)
]
REFUSED = {**NEVER, **dict.fromkeys([*UNSIGNED, "test_top_k_uint64"], "cannot convert uint")}


def check(case: Any, model: onnx.ModelProto, feeds: dict[str, np.ndarray], expected: list[Any]) -> None:
    results = gatestep.load(model)(feeds)
    for got, value in zip(results.values(), map(array, expected), strict=True):
        if value.dtype.kind == "V":  # bfloat16, which is computed in single precision
            np.testing.assert_allclose(got, value.astype("f4"), rtol=2**-7, atol=2**-7)
            continue
        np.testing.assert_allclose(got, value, rtol=case.rtol, atol=1e-5, strict=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_node_case(case: Any) -> None:
    for inputs, outputs in case.data_sets:
        feeds = feeds_of(case, inputs)
        if case.name in REFUSED:
            with pytest.raises(gatestep.UnsupportedModelError, match=REFUSED[case.name]):
                gatestep.load(case.model)(feeds)
            continue
        check(case, case.model, feeds, outputs)


@pytest.mark.parametrize("case", [case for case in CASES if case.name not in NEVER], ids=lambda case: case.name)
def test_node_case_of_constants(case: Any) -> None:
    for inputs, outputs in case.data_sets:
        check(case, of_constants(case, inputs), {}, outputs)


# ---------------------------------------------------------------------- frames, one at a time or none at all


def arg(n: Any, y: str, axis: int, keepdims: bool) -> str:
    return str(n("ArgMax", y, axis=axis, keepdims=keepdims, select_last_index=False))


#: What sees the features of one frame alone, from y of shape (T, B, 6).
WITHIN: dict[str, Callable[[Any, str], str]] = {
    "compare": lambda n, y: n("Where", n("Greater", y, 0.0), y, n("Neg", y)),
    "logic": lambda n, y: n("Where", n("Xor", n("Less", y, 0.1), n("Not", n("IsNaN", y))), y, np.arange(6.0)),
    "mod": lambda n, y: n("Mod", n("Sin", y), 0.3, fmod=True),
    "argmax": lambda n, y: n("Cast", arg(n, y, -1, False), to=np.dtype("f4")),
    "topk": lambda n, y: n("TopK", y, np.array([2]), out=2, axis=-1, largest=True)[0],
    "places": lambda n, y: n("Cast", n("TopK", y, np.array([6]), out=2, axis=-1, largest=False)[1], to=np.dtype("f4")),
    "cumsum": lambda n, y: n("CumSum", y, np.array(2), exclusive=True, reverse=True),
    "gather": lambda n, y: n("GatherElements", y, arg(n, y, -1, True), axis=-1),
    "gathernd": lambda n, y: n("GatherND", y, arg(n, y, -1, True), batch_dims=2),
    "table": lambda n, y: n("GatherND", np.arange(12.0).reshape(6, 2), arg(n, y, -1, True), batch_dims=0),
    "scatter": lambda n, y: n(
        "ScatterElements", y, arg(n, y, -1, True), n("ReduceMin", y, [2]), axis=2, reduction="add"
    ),
    "onehot": lambda n, y: n("OneHot", arg(n, y, -1, False), np.array(6), np.array([-1.0, 1.0]), axis=-1),
    "einsum": lambda n, y: n("Einsum", y, n.weights(6, 5), equation="tbi,io->tbo"),
    "square": lambda n, y: n("Einsum", y, y, equation="tbi,tbj->tbij"),
    "dot": lambda n, y: n("Einsum", y, y, equation="...i,...i"),
    "rms": lambda n, y: n("RMSNormalization", y, n.weights(6), axis=-1, epsilon=1e-5),
    "convolution": lambda n, y: n(
        "Transpose",
        n("ConvTranspose", n("Unsqueeze", y, [1]), n.weights(1, 2, 1, 3), **{**CONVOLUTION, "strides": (1, 2)}),
        perm=(0, 2, 1, 3),
    ),
    "crop": lambda n, y: n("CenterCropPad", y, np.array([9]), axes=(2,)),
    "integers": lambda n, y: n("Cast", n("ReduceMax", n("Cast", y, to=np.dtype("i4")), [2]), to=np.dtype("f4")),
}
CONVOLUTION = {
    **dict.fromkeys(("dilations", "kernel_shape", "output_padding", "output_shape", "pads", "strides")),
    "auto_pad": "NOTSET",
    "group": 1,
}


def ramp(n: Any, y: str) -> str:
    steps = n("Gather", n("Shape", y, start=0, end=None), np.array(0), axis=0)
    return str(n("Unsqueeze", n("Cast", n("Range", np.array(0), steps, np.array(1)), to=np.dtype("f4")), [1, 2]))


def zeros(n: Any, y: str, count: int) -> str:
    """Indices of shape (T, B, count), all 0."""
    return str(n("Cast", n("Einsum", y, np.zeros((6, count)), equation="tbi,ic->tbc"), to=np.dtype("i8")))


#: What needs other frames than the present one, and the node that stream() names.
ACROSS: dict[str, tuple[str, Callable[[Any, str], str]]] = {
    "compare": ("Greater", lambda n, y: n("Where", n("Greater", y, ramp(n, y)), y, 0.0)),
    "where": ("Where", lambda n, y: n("Where", n("Greater", y, 0.0), y, ramp(n, y))),
    "argmax": ("ArgMax", lambda n, y: n("Mul", y, n("Cast", arg(n, y, 0, True), to=np.dtype("f4")))),
    "topk": ("TopK", lambda n, y: n("Mul", y, n("TopK", y, np.array([1]), out=2, axis=0, largest=True)[0])),
    "cumsum": ("CumSum", lambda n, y: n("CumSum", y, np.array(0), exclusive=False, reverse=True)),
    "gather": ("GatherElements", lambda n, y: n("GatherElements", y, zeros(n, y, 6), axis=0)),
    "gathernd": ("GatherND", lambda n, y: n("Mul", y, n("GatherND", y, np.array([[0]]), batch_dims=0))),
    "scatter": (
        "ScatterND",
        lambda n, y: n("ScatterND", y, zeros(n, y, 3), n("ReduceMax", y, [2], keepdims=0), reduction="none"),
    ),
    "elements": ("ScatterElements", lambda n, y: n("ScatterElements", y, zeros(n, y, 6), y, axis=0, reduction="none")),
    "einsum": ("Einsum", lambda n, y: n("Einsum", y, y, y, equation="tbi,tbj,sbj->sbi")),
    "triangle": ("Trilu", lambda n, y: n("Trilu", n("Transpose", y, perm=(1, 0, 2)), upper=True)),
    "crop": ("CenterCropPad", lambda n, y: n("CenterCropPad", y, np.array([3]), axes=(0,))),
}


@pytest.mark.parametrize("kind", WITHIN)
def test_what_sees_one_frame_streams(net: Any, kind: str) -> None:
    n = net()
    y = n.layer("LSTM", n.input("x", "T", "B", 4), 4, 6)
    n.output(WITHIN[kind](n, y))
    x = n.rng.standard_normal((9, 3, 4)).astype("f4")
    (expected,) = n.evaluate({"x": x}).values()
    model = n.model()
    np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-5)
    stream = model.stream(3)
    np.testing.assert_allclose(np.stack([stream.step(frame) for frame in x]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ACROSS)
def test_what_needs_other_frames_runs_but_does_not_stream(net: Any, kind: str) -> None:
    op, build = ACROSS[kind]
    n = net()
    y = n.layer("LSTM", n.input("x", "T", "B", 4), 4, 6)
    n.output(build(n, y))
    x = n.rng.standard_normal((9, 3, 4)).astype("f4")
    (expected,) = n.evaluate({"x": x}).values()
    model = n.model()
    np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(gatestep.UnsupportedModelError, match=op):
        model.stream(3)


def test_sequences_turned_round_do_not_stream(net: Any) -> None:
    n = net()
    y = n.layer("LSTM", n.input("x", "T", "B", 4), 4, 6)
    n.output(n("ReverseSequence", y, n.input("ends", "B", dtype=np.int64), batch_axis=1, time_axis=0))
    feeds = {"x": n.rng.standard_normal((9, 3, 4)).astype("f4"), "ends": np.array([9, 0, 5])}
    (expected,) = n.evaluate(feeds).values()
    model = n.model()
    np.testing.assert_allclose(*model(feeds).values(), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(gatestep.ShapeError, match="ReverseSequence"):
        model({**feeds, "ends": np.array([9, 10, 5])})
    with pytest.raises(gatestep.UnsupportedModelError, match="ReverseSequence"):
        model.stream(3)


# ---------------------------------------------------------------------- numbers that are none, places that are not


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_ranks_with_ties_and_nans(net: Any, largest: bool, dtype: Any) -> None:
    rng = np.random.default_rng(3)
    x = rng.integers(-3, 4, (7, 40)).astype(dtype)
    if dtype == np.float32:
        x[rng.random(x.shape) < 0.1] = np.nan
    for count in (0, 1, 7, 40):
        n = net()
        best, places = n("TopK", n.input("x", 7, 40, dtype=dtype), np.array([count]), out=2, axis=-1, largest=largest)
        n.output(best, dtype=dtype).output(places, dtype=np.int64)
        for op in ("ArgMax", "ArgMin"):
            for last in (False, True):
                found = n(op, "x", axis=1, keepdims=False, select_last_index=last)
                n.output(found, dtype=np.int64)
        got = n.model()({"x": x})
        for name, expected in n.evaluate({"x": x}).items():
            np.testing.assert_array_equal(got[name], expected)


@pytest.mark.parametrize("op", ["GatherElements", "ScatterElements", "GatherND", "ScatterND"])
@pytest.mark.parametrize("bad", [3, -4, 2**62, -(2**63)])
def test_an_index_outside_is_an_error_that_names_the_node(net: Any, op: str, bad: int) -> None:
    n = net()
    x, places = n.input("x", 3, 2), n.input("i", 2, 1, dtype=np.int64)
    updates = {"ScatterElements": n.weights(2, 1), "ScatterND": n.weights(2, 2)}
    attrs = {"GatherND": {"batch_dims": 0}, "ScatterND": {"reduction": "none"}}
    rest = [updates[op]] if op in updates else []
    n.output(n(op, x, places, *rest, name="pick", **attrs.get(op, {"axis": 0, "reduction": "none"})))
    model = n.model()
    feeds = {"x": n.weights(3, 2), "i": np.array([[2], [-3]])}
    (expected,) = n.evaluate(feeds).values()
    np.testing.assert_allclose(*model(feeds).values(), expected, rtol=1e-6)
    with pytest.raises(gatestep.ShapeError, match="pick"):
        model({**feeds, "i": np.array([[0], [bad]])})


#: Indices of x (4, 5, 6) that are known: grids that a view shows, then grids with a place twice, and no grid at all.
KNOWN_PLACES = {
    "slice": np.stack(np.meshgrid([1, 3], [4, 2, 0], indexing="ij"), -1),
    "diagonal": np.repeat(np.arange(4)[:, None], 3, 1),
    "from the end": np.array([[-1, -2], [-2, -3]]),
    "one": np.array([2]),
    "none": np.zeros((0, 2), np.int64),
    "twice": np.array([[0, 1], [0, 1]]),
    "overlapping": np.array([[[0, 0], [0, 1]], [[0, 1], [0, 2]]]),
    "uneven": np.array([[0, 0], [1, 1], [3, 2]]),
}


@pytest.mark.parametrize("name", KNOWN_PLACES)
def test_known_indices(net: Any, name: str) -> None:
    places = KNOWN_PLACES[name]
    n = net()
    x = n.input("x", 4, 5, 6)
    n.output(n("GatherND", x, places, batch_dims=0))
    n.output(
        n("GatherND", n("Transpose", x, perm=(2, 1, 0)), np.flip(places, -1) if places.size else places, batch_dims=0)
    )
    n.output(n("Gather", x, places, axis=1))
    news = n.input("news", *places.shape[:-1], *(4, 5, 6)[places.shape[-1] :])
    n.output(n("ScatterND", x, places, news, reduction="none"))
    n.output(n("ScatterND", n("Neg", x), places, news, reduction="add"))
    model = n.model()
    feeds = {"x": n.rng.standard_normal((4, 5, 6)).astype("f4")}
    feeds["news"] = n.rng.standard_normal(model.inputs[1].shape).astype("f4")
    for got, expected in zip(model(feeds).values(), n.evaluate(feeds).values(), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_batches_of_known_indices(net: Any) -> None:
    n = net()
    places = np.array([[[0], [2], [4]], [[1], [3], [5]], [[2], [4], [6]]])
    n.output(n("GatherND", n.input("x", 3, 7, 2), places, batch_dims=1))
    n.output(n("GatherND", n("Exp", "x"), places[::-1].copy(), batch_dims=1))
    feeds = {"x": n.rng.standard_normal((3, 7, 2)).astype("f4")}
    for got, expected in zip(n.model()(feeds).values(), n.evaluate(feeds).values(), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("keepdims", [0, 1])
def test_log_sum_exp_does_not_overflow(keepdims: int) -> None:
    x = np.array([[1e30, 3e38], [-1e30, -3e38], [np.inf, 0], [-np.inf, -np.inf], [-np.inf, 2], [200, 200]], "f4")
    node = helper.make_node("ReduceLogSumExp", ["x", "axes"], ["y"], keepdims=keepdims)
    axes = {"axes": np.array([1])}
    got = gatestep.load(make([node], [info("x", ["N", 2])], [info("y", None)], weights=axes, opset=18))(x)
    expected = np.logaddexp.reduce(x.astype("f8"), axis=1, keepdims=bool(keepdims))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize(("p", "expected"), [(1, [[0, 0], [0.25, -0.75]]), (2, [[0, 0], [0.316228, -0.948683]])])
def test_what_is_all_zero_has_a_norm_to_divide_by(p: int, expected: list[list[float]]) -> None:
    node = helper.make_node("LpNormalization", ["x"], ["y"], p=p)
    model = gatestep.load(make([node], [info("x", ["N", 2])], [info("y", None)]))
    np.testing.assert_allclose(model(np.array([[0, 0], [1, -3]], "f4")), expected, rtol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("spatial", [(7,), (4, 5)])
@pytest.mark.parametrize("auto", ["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])
def test_transposed_convolution(groups: int, spatial: tuple[int, ...], auto: str) -> None:
    runtime = pytest.importorskip("onnxruntime")
    rng, rank = np.random.default_rng(5), len(spatial)
    x = rng.standard_normal((2, 4, *spatial)).astype("f4")
    constants = {"w": rng.standard_normal((4, 3, *(3, 2)[:rank])).astype("f4"), "b": rng.standard_normal(3 * groups)}
    constants["b"] = constants["b"].astype("f4")
    options: dict[str, Any] = {"strides": [2, 3][:rank], "dilations": [1, 2][:rank], "group": groups, "auto_pad": auto}
    if auto == "NOTSET":
        options |= {"pads": [1, 0, 3, 2][: 2 * rank], "output_padding": [1, 2][:rank]}
    node = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], **options)
    model = make([node], [info("x", x.shape)], [info("y", None)], weights=constants)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x})
    np.testing.assert_allclose(gatestep.load(model)(x), expected, rtol=1e-4, atol=1e-5, strict=True)


EQUATIONS = {
    "bij,bjk->bik": [(2, 3, 4), (2, 4, 5)],
    "bhij,bhkj->bhik": [(2, 2, 3, 4), (2, 2, 5, 4)],
    "ij,jk,kl->il": [(2, 3), (3, 4), (4, 5)],
    "ijk,kl->jil": [(2, 3, 4), (4, 5)],
    "ijk,jkl->il": [(2, 3, 4), (3, 4, 5)],
    "kji,jkl->li": [(3, 4, 2), (4, 3, 5)],
    "i,j->ji": [(3,), (4,)],
    "ii->i": [(4, 4)],
    "iij,jk->k": [(3, 3, 4), (4, 2)],
    "...ij,...jk->...ik": [(2, 3, 4), (2, 4, 5)],
    "...,...": [(2, 3), (2, 3)],
    "b...i,oi->b...o": [(2, 3, 5, 4), (6, 4)],
    "ab,cd->": [(2, 3), (4, 5)],
    " a b -> b a ": [(2, 3)],
    "abc": [(2, 3, 4)],
}


@pytest.mark.parametrize("equation", EQUATIONS)
@pytest.mark.parametrize("known", [(), (0,), (1,)])
def test_sums_over_named_axes(net: Any, equation: str, known: tuple[int, ...]) -> None:
    n = net()
    arrays = [n.weights(*shape) for shape in EQUATIONS[equation]]
    names = [a if k in known and len(arrays) > 1 else n.input(f"x{k}", *a.shape) for k, a in enumerate(arrays)]
    feeds = {name: a for name, a in zip(names, arrays, strict=True) if isinstance(name, str)}
    n.output(n("Einsum", *names, equation=equation))
    (got,) = n.model()(feeds).values()
    np.testing.assert_allclose(got, np.einsum(equation.replace(" ", ""), *arrays), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("equation", ["ij,jk->ijl", "ij->ii", "ij,jk,kl->il", "i,jk->ik", "i1,1k->ik", "ij,ik->jk"])
def test_an_equation_that_does_not_fit_is_an_error_that_names_the_node(net: Any, equation: str) -> None:
    n = net()
    n.output(n("Einsum", n.input("a", 2, 3), n.input("b", 3, 4), equation=equation, name="sum"))
    with pytest.raises(gatestep.ShapeError, match="sum"):
        n.model()({"a": n.weights(2, 3), "b": n.weights(3, 4)})


# ---------------------------------------------------------------------- older operator sets

FLOAT, INT = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
#: Operator set, operator, attributes, shape of `x`, other inputs, types of the outputs.
OLDER: list[tuple[int, str, dict[str, Any], tuple[int, ...], list[np.ndarray], tuple[int, ...]]] = [
    (7, "ArgMax", {"axis": 1}, (3, 5), [], (INT,)),
    (11, "ArgMin", {"axis": -1, "keepdims": 0}, (3, 5), [], (INT,)),
    (7, "TopK", {"k": 2}, (3, 5), [], (FLOAT, INT)),
    (10, "TopK", {"axis": 0}, (3, 5), [np.array([2])], (FLOAT, INT)),
    (11, "TopK", {"largest": 0}, (3, 5), [np.array([3])], (FLOAT, INT)),
    (7, "ReduceL1", {"axes": [1]}, (3, 5), [], (FLOAT,)),
    (13, "ReduceLogSum", {"axes": [-1], "keepdims": 0}, (3, 5), [], (FLOAT,)),
    (7, "ReduceLogSumExp", {}, (3, 5), [], (FLOAT,)),
    (9, "Scatter", {"axis": 1}, (2, 4), [np.array([[1, 3], [0, 2]]), np.ones((2, 2), "f4")], (FLOAT,)),
    (11, "ScatterElements", {}, (2, 4), [np.array([[1, -1]]), np.ones((1, 2), "f4")], (FLOAT,)),
    (11, "ScatterND", {}, (4, 2), [np.array([[1], [3]]), np.ones((2, 2), "f4")], (FLOAT,)),
    (11, "GatherND", {}, (4, 2), [np.array([[1, 1], [3, 0]])], (FLOAT,)),
    (7, "ConvTranspose", {"strides": [2]}, (1, 2, 5), [np.ones((2, 3, 4), "f4")], (FLOAT,)),
    (18, "GroupNormalization", {"num_groups": 2}, (2, 6, 4), [np.array([1.0, 2.0], "f4"), np.ones(2, "f4")], (FLOAT,)),
    (21, "GroupNormalization", {"num_groups": 2}, (2, 6, 4), [np.arange(6, dtype="f4"), np.ones(6, "f4")], (FLOAT,)),
    (9, "MeanVarianceNormalization", {}, (2, 3, 4, 5), [], (FLOAT,)),
    (7, "LpNormalization", {"p": 1, "axis": 0}, (3, 5), [], (FLOAT,)),
    (7, "Less", {}, (3, 5), [np.zeros((5,), "f4")], (onnx.TensorProto.BOOL,)),
    (12, "GreaterOrEqual", {}, (3, 5), [np.zeros((3, 1), "f4")], (onnx.TensorProto.BOOL,)),
    (10, "Mod", {"fmod": 1}, (3, 5), [np.array(0.75, "f4")], (FLOAT,)),
    (10, "ReverseSequence", {"time_axis": 1, "batch_axis": 0}, (3, 5), [np.array([1, 5, 3])], (FLOAT,)),
]


@pytest.mark.parametrize("case", OLDER, ids=lambda case: f"{case[1]}-{case[0]}")
def test_older_operator_sets_as_onnxruntime_has_them(case: Any) -> None:
    runtime = pytest.importorskip("onnxruntime")
    version, op, attrs, shape, others, kinds = case
    rest = {f"c{k}": value for k, value in enumerate(others)}
    outs = [f"y{k}" for k in range(len(kinds))]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *rest], outs, **attrs)],
        "g",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in zip(outs, kinds, strict=True)],
        [numpy_helper.from_array(value, name) for name, value in rest.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)
    x = np.random.default_rng(1).uniform(0.1, 2, shape).astype("f4")
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    results = gatestep.load(model)({"x": x})
    for got, expected in zip(results.values(), session.run(None, {"x": x}), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5, strict=True)


# ---------------------------------------------------------------------- what a file may claim


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("op", "inputs", "attrs"),
    [
        ("OneHot", [np.arange(4), np.array(2**40), np.ones(2)], {"axis": -1}),
        ("OneHot", [np.arange(4), np.array(-1), np.ones(2)], {"axis": -1}),
        ("TopK", [np.arange(4), np.array(2**62)], {"axis": 0, "largest": True}),
        ("TopK", [np.arange(4), np.array(1)], {"axis": 1, "largest": True}),
        ("CumSum", [np.arange(4), np.array(-2)], {"exclusive": False, "reverse": False}),
        ("CenterCropPad", [np.arange(4), np.array([2**60])], {"axes": None}),
        ("CenterCropPad", [np.arange(4), np.array([-1])], {"axes": None}),
        ("ConvTranspose", [np.ones((1, 1, 4)), np.ones((1, 1, 2))], {"strides": (2**60,)}),
        ("ConvTranspose", [np.ones((1, 1, 4)), np.ones((1, 1, 2))], {"output_shape": (2**60,)}),
        ("ConvTranspose", [np.ones((1, 1, 4)), np.ones((1, 1, 2))], {"pads": (-1, 0)}),
        ("ConvTranspose", [np.ones((1, 1, 4)), np.ones((1, 1, 2))], {"strides": (0,)}),
        ("ConvTranspose", [np.ones((1, 1, 4)), np.ones((1, 1, 2))], {"group": 0}),
        ("GatherND", [np.ones((2, 2)), np.zeros((2, 3), int)], {"batch_dims": 0}),
        ("GatherND", [np.ones((2, 2)), np.zeros((2, 1), int)], {"batch_dims": -1}),
        ("ScatterND", [np.ones((2, 2)), np.zeros((2, 1), int), np.ones((1, 2))], {"reduction": "none"}),
        ("GatherElements", [np.ones((2, 2)), np.zeros((3, 1), int)], {"axis": 1}),
        (
            "ScatterElements",
            [np.ones((2, 2)), np.zeros((1, 1), int), np.ones((2, 1))],
            {"axis": 1, "reduction": "none"},
        ),
        ("GroupNormalization", [np.ones((2, 6)), np.ones(6), np.ones(6)], {"num_groups": 4}),
        ("GroupNormalization", [np.ones((2, 6)), np.ones(6), np.ones(6)], {"num_groups": 0}),
        ("Trilu", [np.ones(3), np.array(0)], {"upper": True}),
        ("ReverseSequence", [np.ones((2, 3)), np.array([1, 2, 3])], {"time_axis": 1, "batch_axis": 0}),
    ],
)
def test_a_claim_that_cannot_be_is_an_error(
    net: Any, op: str, inputs: list[Any], attrs: dict[str, Any], known: bool
) -> None:
    defaults = {"ConvTranspose": CONVOLUTION, "GroupNormalization": {"epsilon": 1e-5, "per_group": False}}
    n = net()
    x = inputs[0].astype("f4") if inputs[0].dtype == float else inputs[0]
    first = x if known else n.input("x", *x.shape, dtype=x.dtype)
    count = 2 if op == "TopK" else 1
    made = n(op, first, *inputs[1:], name="claim", out=count, **{**defaults.get(op, {}), **attrs})
    n.output(made[0] if count == 2 else made, dtype=x.dtype)
    with pytest.raises(gatestep.ShapeError, match=r"claim|out of all proportion"):
        n.model()({} if known else {"x": x})


def test_sums_of_nothing(net: Any) -> None:
    for exclusive in (False, True):
        n = net()
        n.output(n("CumSum", n.input("x", "N", 3), np.array(0), exclusive=exclusive, reverse=False))
        assert n.model()(np.zeros((0, 3), "f4")).shape == n.evaluate({"x": np.zeros((0, 3), "f4")}).popitem()[1].shape


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_magnitude_and_sign_of_integers(net: Any, dtype: Any) -> None:
    n = net()
    x = n.input("x", "N", dtype=dtype)
    n.output(n("Abs", x), n("Neg", x), n("Clip", x, np.array(1, dtype), np.array(5, dtype)), dtype=dtype)
    values = np.array([0, 1, 2, 5, 7], dtype) if dtype == np.uint8 else np.array([-7, -1, 0, 3, 9], dtype)
    got = n.model()(values)
    expected = (np.abs(values), 0 - values, np.clip(values, 1, 5))
    for result, wanted in zip(got, expected, strict=True):
        np.testing.assert_array_equal(result, wanted)
