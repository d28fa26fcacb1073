"""Every operator, lowered to kernels, against its definition; the definitions against ONNX Runtime."""

from __future__ import annotations

import importlib
import pkgutil
import random
from typing import Any

import numpy as np
import pytest
from gatestep.engine import ops
from gatestep.engine.errors import GatestepError, ShapeError, UnsupportedModelError
from gatestep.engine.ops import OPS
from gatestep.engine.ops.registry import MODULES
from hypothesis import given, settings
from hypothesis import strategies as st

import gatestep as gs

F32, F64, I32, I64 = (np.dtype(name) for name in ("f4", "f8", "i4", "i8"))
FAR = 2**31 - 1
Case = tuple[str, list[Any], dict[str, Any]]
rng = np.random.default_rng(0)


def f(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(F32)


def i(*shape: int, low: int = -9, high: int = 9, dtype: Any = I64) -> np.ndarray:
    return rng.integers(low, high, shape).astype(dtype)


def k(*values: int) -> tuple[np.ndarray]:
    """Integers known at load; what is not in a tuple is an input."""
    return (np.array(values, I64),)


SMOOTH = "Sigmoid Tanh Relu Softsign Softplus Exp Abs Neg Erf Floor Ceil Sign HardSwish".split()
SHAPED: list[tuple[int, ...]] = [(3, 5), (), (1,), (2, 0, 3), (17,)]
PAIRS: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((3, 5), (3, 5)),
    ((3, 5), (5,)),
    ((3, 1), (1, 5)),
    ((2, 3, 4), (3, 1)),
    ((), (2, 3)),
    ((0, 3), (1, 3)),
    ((2, 1, 3, 1, 2, 1), (1, 2, 1, 3, 1, 2)),
]
CASES: list[Case] = [
    *((op, [f(*shape)], {}) for op in SMOOTH for shape in SHAPED),
    *((op, [np.abs(f(3, 5)) + 0.1], {}) for op in ("Log", "Sqrt", "Reciprocal")),
    ("LeakyRelu", [f(3, 5)], {"alpha": 0.2}),
    ("ThresholdedRelu", [f(3, 5)], {"alpha": 0.5}),
    ("ThresholdedRelu", [np.array([0.5, 0.25, 0.75], F32)], {"alpha": 0.5}),
    ("HardSigmoid", [f(3, 5)], {"alpha": 0.3, "beta": 0.4}),
    ("Elu", [f(3, 5)], {"alpha": 0.7}),
    ("Selu", [f(3, 5)], {"alpha": 1.6, "gamma": 1.1}),
    ("Gelu", [f(3, 5)], {"approximate": "none"}),
    ("Gelu", [f(3, 5)], {"approximate": "tanh"}),
    ("Clip", [f(3, 5), (np.array(-0.5, F32),), (np.array(0.5, F32),)], {}),
    ("Clip", [f(3, 5), None, (np.array(0.5, F32),)], {}),
    ("Clip", [f(3, 5), (np.array(-0.5, F32),)], {}),
    *((op, [f(*a), f(*b)], {}) for op in ("Add", "Sub", "Mul", "Min", "Max") for a, b in PAIRS),
    *((op, [f(3, 5), (f(5),)], {}) for op in ("Add", "Sub", "Mul", "Div")),
    *((op, [(f(3, 1),), f(3, 5)], {}) for op in ("Add", "Sub", "Mul", "Div")),
    ("Div", [f(3, 5), np.abs(f(5)) + 0.5], {}),
    ("Pow", [np.abs(f(3, 5)) + 0.1, (np.array(2, F32),)], {}),
    ("Pow", [np.abs(f(3, 5)) + 0.1, (np.array(2, I64),)], {}),
    ("PRelu", [f(2, 3, 4), (f(3, 1),)], {}),
    *((op, [i(3, 5), i(5)], {}) for op in ("Add", "Sub", "Mul", "Min", "Max")),
    ("Div", [i(3, 5), (np.array([2, -2, 3, -3, 7]),)], {}),
    ("Add", [i(3, 5, dtype=I32), i(5, dtype=I32)], {}),
    *(
        ("MatMul", [f(*a), f(*b)], {})
        for a, b in (
            ((3, 5), (5, 2)),
            ((5,), (5, 2)),
            ((3, 5), (5,)),
            ((5,), (5,)),
            ((2, 3, 5), (5, 4)),
            ((2, 3, 5), (2, 5, 4)),
            ((2, 1, 3, 5), (4, 5, 2)),
            ((3, 0), (0, 2)),
            ((0, 3), (3, 2)),
            ((1, 17), (17, 33)),
        )
    ),
    *(
        ("MatMul", [f(*a), (f(*b),)], {})
        for a, b in (
            ((3, 5), (5, 2)),
            ((5,), (5, 2)),
            ((2, 3, 5), (5, 17)),
            ((4, 33), (33, 1)),
            ((3, 5), (5,)),
            ((2, 3, 5), (2, 5, 4)),
        )
    ),
    *(
        (
            "Gemm",
            [f(*((5, 3) if ta else (3, 5))), b if run else (b,), c if run else (c,)],
            {"alpha": al, "beta": be, "transA": ta, "transB": tb},
        )
        for run in (0, 1)
        for ta in (0, 1)
        for tb in (0, 1)
        for al, be in ((1.0, 1.0), (0.5, 2.0), (1.0, 0.0))
        for b in [f(*((4, 5) if tb else (5, 4)))]
        for c in (f(4), f(1, 4), f(3, 4), f(3, 1), f(1), f())
    ),
    ("Gemm", [f(3, 5), (f(5, 4),)], {"alpha": 2.0, "beta": 1.0, "transA": 0, "transB": 0}),
    *(
        (op, [f(2, 3, 4), axes], {"keepdims": keep})
        for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2", "ReduceSumSquare")
        for axes, keep in ((k(-1), 1), (k(0), 0), (k(0, 2), 1), (k(1), 0), (None, 0), (None, 1))
    ),
    ("ReduceSum", [f(2, 3), k()], {"keepdims": 0, "noop_with_empty_axes": 1}),
    ("ReduceSum", [f(2, 0, 3), k(1)], {"keepdims": 0}),
    *((op, [f(2, 3, 4)], {"axis": axis, "trailing": False}) for op in ("Softmax", "LogSoftmax") for axis in (-1, 0, 1)),
    ("Softmax", [np.array([[1e38, -1e38, 3], [-np.inf, 0, 1]], F32)], {"axis": -1, "trailing": False}),
    *(
        ("LayerNormalization", [f(2, 3, 4), (f(*(2, 3, 4)[axis:]),), bias], {"axis": axis, "epsilon": 1e-5})
        for axis in (-1, 1, 0)
        for bias in (None, (f(*(2, 3, 4)[axis:]),))
    ),
    *(("Transpose", [f(2, 3, 4)], {"perm": perm}) for perm in ((0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1))),
    ("Transpose", [i(2, 3)], {"perm": (1, 0)}),
    ("Squeeze", [f(1, 3, 1, 4), k(0)], {}),
    ("Squeeze", [f(1, 3, 1, 4), k(-2, 0)], {}),
    ("Squeeze", [f(1, 3, 1, 4)], {}),
    ("Unsqueeze", [f(3, 4), k(0, -1)], {}),
    ("Unsqueeze", [f(), k(0)], {}),
    ("Unsqueeze", [f(3, 4), k(3, 1)], {}),
    *(("Reshape", [f(2, 3, 4), k(*to)], {"allowzero": 0}) for to in ((6, 4), (0, -1), (-1,), (2, 0, 2, 2), (4, 3, 2))),
    ("Reshape", [f(0, 3), k(0, 5)], {"allowzero": 1}),
    ("Reshape", [f(1), k()], {"allowzero": 0}),
    *(("Flatten", [f(2, 3, 4)], {"axis": axis}) for axis in (0, 1, 2, 3, -1)),
    *(("Concat", [f(2, 3), f(2, 3), (f(2, 3),)], {"axis": axis}) for axis in (0, 1, -1)),
    ("Concat", [f(2, 3), f(0, 3)], {"axis": 0}),
    ("Concat", [f(2, 3)], {"axis": 1}),
    *(
        ("Slice", [f(5, 6), k(*a), k(*b), k(*axes), k(*steps)], {})
        for a, b, axes, steps in (
            ((1,), (4,), (0,), (1,)),
            ((-1,), (-FAR,), (1,), (-1,)),
            ((0,), (FAR,), (1,), (2,)),
            ((4, -5), (1, -1), (0, 1), (-2, 3)),
            ((3,), (3,), (0,), (1,)),
            ((-100,), (100,), (-1,), (1,)),
            ((7,), (9,), (0,), (1,)),
            ((4,), (-100,), (0,), (-1,)),
        )
    ),
    ("Slice", [f(5, 6), k(1, 2), k(3, 4)], {}),
    ("Split", [f(2, 7), k(3, 0, 4)], {"axis": 1, "out": 3}),
    ("Split", [f(2, 7)], {"axis": -1, "num_outputs": 3, "out": 3}),
    ("Split", [f(4, 2), None], {"axis": 0, "num_outputs": 2, "out": 2}),
    *(
        ("Gather", [f(3, 4, 5), (index,)], {"axis": axis})
        for axis in (0, 1, -1)
        for index in (np.array(1), np.array([0, -1]), np.array([[2, 1], [0, 0]]), np.array([-2]), np.zeros((0,), I64))
    ),
    *(
        ("Gather", [f(3, 4, 5), i(*shape, low=-3, high=3, dtype=dtype)], {"axis": axis})
        for shape in ((), (4,), (2, 3))
        for axis in (0, 1)
        for dtype in (I64, I32)
    ),
    ("Gather", [(f(10, 4),), i(2, 3, low=0, high=9)], {"axis": 0}),
    ("Gather", [i(5), i(3, low=-5, high=5)], {"axis": 0}),
    ("Expand", [f(3, 1), k(2, 3, 4)], {}),
    ("Expand", [f(3, 4), k(1, 1)], {}),
    ("Expand", [f(), k(2, 2)], {}),
    ("Tile", [f(2, 3), k(2, 1)], {}),
    ("Tile", [f(2, 3), k(1, 0)], {}),
    ("Tile", [f(2, 1, 3), k(2, 4, 2)], {}),
    *(
        ("Cast", [value], {"to": np.dtype(to)})
        for value in (f(3, 4) * 5, i(3, 4), i(4, dtype=I32), i(3, 2).astype(bool))
        for to in ("f4", "i8", "i4", "u1", "?")
        if not (to == "u1" and value.dtype.kind in "fi")
    ),
    ("Shape", [f(2, 3, 4)], {"start": 0}),
    ("Shape", [f(2, 3, 4)], {"start": -2, "end": 3}),
    ("Size", [f(2, 3)], {}),
]
KNOWN: list[Case] = [
    ("Where", [np.array([True, False]), f(3, 2), f(2)], {}),
    ("Range", [np.array(0), np.array(7), np.array(2)], {}),
    ("Range", [np.array(5.0, F32), np.array(1.0, F32), np.array(-1.5, F32)], {}),
    ("ConstantOfShape", [np.array([2, 3])], {"value": np.array([7], F32)}),
    *((op, [i(3, 4), i(4)], {}) for op in ("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual")),
    *((op, [i(3).astype(bool), i(3).astype(bool)], {}) for op in ("And", "Or")),
    ("Not", [i(3).astype(bool)], {}),
]


def names(cases: list[Case]) -> list[str]:
    return [f"{op}-{number}" for number, (op, _, _) in enumerate(cases)]


def built(net: Any, case: Case, known: bool = False) -> tuple[Any, dict[str, np.ndarray]]:
    """The net of one node, and its inputs."""
    op, values, attrs = case
    n = net()
    inputs, feeds = [], {}
    for number, value in enumerate(values):
        if value is None or isinstance(value, tuple) or known:
            inputs.append(value[0] if isinstance(value, tuple) else value)
        else:
            name = f"x{number}"
            inputs.append(n.input(name, *value.shape, dtype=value.dtype))
            feeds[name] = value
    attrs = dict(attrs)
    count = attrs.pop("out", 1)
    outs = [f"y{number}" for number in range(count)]
    n(op, *inputs, out=outs if count > 1 else "y0", **attrs)
    for name, array in n.evaluate(feeds, outs).items():
        n.output(name, dtype=F32 if array.dtype.kind == "f" else array.dtype, shape=array.shape)
    return n, feeds


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
def test_lowered_as_defined(net: Any, case: Case) -> None:
    n, feeds = built(net, case)
    got = n.model()(dict(feeds))
    for name, want in n.evaluate(feeds).items():
        assert got[name].shape == want.shape
        assert got[name].dtype == (F32 if want.dtype.kind == "f" else want.dtype)
        np.testing.assert_allclose(got[name], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", [c for c in CASES if any(isinstance(v, np.ndarray) for v in c[1])][::3])
def test_in_double_precision(net: Any, case: Case) -> None:
    n, feeds = built(net, case)
    model = n.model(dtype=F64)
    doubles = {name: array.astype(F64) if array.dtype.kind == "f" else array for name, array in feeds.items()}
    got = model(doubles)
    for name, want in n.evaluate(doubles).items():
        np.testing.assert_allclose(got[name], want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("case", CASES + KNOWN, ids=names(CASES + KNOWN))
def test_known_values_are_folded(net: Any, case: Case) -> None:
    n, _ = built(net, (case[0], [v[0] if isinstance(v, tuple) else v for v in case[1]], case[2]), known=True)
    model = n.model()
    got = model({})
    for name, want in n.evaluate({}).items():
        np.testing.assert_allclose(got[name], want, rtol=1e-6, atol=1e-6)
        assert got[name].shape == want.shape


@pytest.mark.parametrize("case", CASES + KNOWN, ids=names(CASES + KNOWN))
def test_defined_as_onnxruntime_has_it(net: Any, case: Case) -> None:
    ort = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    n, feeds = built(net, case)
    if any(np.size(a) == 0 for a in [*feeds.values(), *n.graph.constants.values()]):
        pytest.skip("ONNX Runtime has crashed on arrays of no elements")
    (node,) = n.graph.nodes
    attrs = {name: value for name, value in node.attrs.items() if name != "trailing"}
    inputs = list(node.inputs)
    while not inputs[-1]:
        inputs.pop()
    if node.op == "Cast":
        attrs["to"] = onnx.helper.np_dtype_to_tensor_dtype(attrs["to"])
    if node.op == "ConstantOfShape":
        attrs["value"] = onnx.numpy_helper.from_array(attrs["value"])
    info = onnx.helper.make_tensor_value_info
    kind = onnx.helper.np_dtype_to_tensor_dtype
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(node.op, inputs, node.outputs, **attrs)],
        "g",
        [info(p.name, kind(p.dtype), p.shape) for p in n.graph.inputs],
        [info(p.name, kind(p.dtype), None) for p in n.graph.outputs],
        [onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in n.graph.constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)
    try:
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        wanted = session.run(None, feeds)
    except Exception as error:  # ORT has no kernel for it, or holds shapes to be something else
        pytest.skip(f"ONNX Runtime: {str(error)[:80]}")
    for got, want in zip(n.evaluate(feeds).values(), wanted, strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_every_operator_is_here() -> None:
    """Those of math and plumbing; other modules have tests of their own."""
    here = {name for name, op in OPS.items() if op.__module__.rpartition(".")[2] in ("math", "plumbing")}
    assert here - {"Sin", "Cos", "Round", "Mod", "Fmod"} <= {op for op, _, _ in CASES + KNOWN}


def test_every_operator_is_in_the_module_that_the_table_says() -> None:
    for file in pkgutil.iter_modules(ops.__path__):
        importlib.import_module(f"{ops.__name__}.{file.name}")  # what the table does not have is an error there
    assert {name: op.__module__.rpartition(".")[2] for name, op in OPS.items()} == {
        name: module for module, names in MODULES.items() for name in names.split()
    }
    assert "Nonesuch" not in OPS and OPS.get("Nonesuch") is None


# ---------------------------------------------------------------------- fusion


@pytest.mark.parametrize("bias", [(4,), (1, 4), (1, 1, 4), (1,), (3, 4), (2, 1, 1)])
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("shown", ["nothing", "product", "sum", "both"])
@pytest.mark.parametrize("double", [False, True])
def test_a_dense_layer_is_fused_only_where_nothing_sees_it(
    net: Any, bias: Any, swapped: bool, shown: str, double: bool
) -> None:
    n = net()
    x = n.input("x", 2, 3, 5)
    product = n("MatMul", x, n.weights(5, 4), out="product")
    terms = [product, n.weights(*bias)]
    total = n("Add", *(terms[::-1] if swapped else terms), out="sum")
    if double:
        total = n("Add", total, n.weights(4))
    n("Tanh", total, out="y")
    n.output("y", *{"nothing": [], "both": ["product", "sum"]}.get(shown, [shown]))
    feeds = {"x": f(2, 3, 5)}
    got = n.model()(feeds)
    for name, want in n.evaluate(feeds).items():
        np.testing.assert_allclose(got[name], want, rtol=1e-5, atol=1e-6)


def test_a_product_used_twice_stays_itself(net: Any) -> None:
    n = net()
    x = n.input("x", 3, 4)
    product = n("MatMul", x, n.weights(4, 4))
    n("Add", n("Tanh", n("Add", product, n.weights(4))), n("Mul", product, product), out="y")
    n("Add", product, product, out="z")
    n.output("y", "z")
    feeds = {"x": f(3, 4)}
    got = n.model()(feeds)
    for name, want in n.evaluate(feeds).items():
        np.testing.assert_allclose(got[name], want, rtol=1e-5, atol=1e-6)


def test_a_bias_after_a_transpose_goes_along_its_own_axis(net: Any) -> None:
    n = net()
    x = n.input("x", 4, 4)
    turned = n("Transpose", n("MatMul", x, n.weights(4, 4)), perm=(1, 0))
    n("Sigmoid", n("Add", turned, n.weights(4)), out="y")
    n.output("y")
    feeds = {"x": f(4, 4)}
    np.testing.assert_allclose(n.model()(feeds)["y"], n.evaluate(feeds)["y"], rtol=1e-5, atol=1e-6)


def test_a_constant_after_a_convolution_goes_along_its_own_axis(net: Any) -> None:
    n = net()
    shared = {
        "strides": (1,),
        "pads": (0, 0),
        "dilations": (1,),
        "auto_pad": "NOTSET",
        "kernel_shape": (1,),
        "group": 1,
    }
    n("Tanh", n("Add", n("Conv", n.input("x", 2, 3, 4), n.weights(4, 3, 1), **shared), n.weights(4)), out="y")
    n.output("y")
    feeds = {"x": f(2, 3, 4)}
    np.testing.assert_allclose(n.model()(feeds)["y"], n.evaluate(feeds)["y"], rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------- outputs and memory


def test_outputs_that_are_inputs_constants_and_each_other(net: Any) -> None:
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Identity", ["c"], ["known"]),
        helper.make_node("Tanh", ["x"], ["t"]),
        helper.make_node("Identity", ["t"], ["t2"]),
        helper.make_node("Transpose", ["t"], ["turned"], perm=[1, 0]),
        helper.make_node("Transpose", ["x"], ["x turned"], perm=[1, 0]),
        helper.make_node("Neg", ["t"], ["n"]),
    ]
    outs = ["same", "known", "t", "t2", "turned", "x turned", "n", "c"]
    c = f(2, 2)
    graph = helper.make_graph(
        nodes, "g", [info("x", 1, [2, 3])], [info(o, 1, None) for o in outs], [onnx.numpy_helper.from_array(c, "c")]
    )
    model = gs.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    x = f(2, 3)
    kept = x.copy()
    got = model({"x": x})
    t = np.tanh(x)
    for name, want in zip(outs, [x, c, t, t, t.T, x.T, -t, c], strict=True):
        np.testing.assert_allclose(got[name], want, rtol=1e-5, atol=1e-6)
        got[name][...] = 7  # each its own memory, and none the model's
    again = model({"x": kept})
    np.testing.assert_array_equal(again["known"], c)
    np.testing.assert_array_equal(again["same"], kept)
    assert (x == kept).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_memory_is_shared_only_between_values_that_never_meet(net: Any, seed: int) -> None:
    pick = random.Random(seed)
    n = net(seed=seed)
    values = [n.input("a", 5, 6), n.input("b", 5, 6)]
    for _ in range(pick.randrange(5, 40)):
        kind = pick.randrange(6)
        x, y = pick.choice(values[-12:]), pick.choice(values)
        if kind == 0:
            values.append(n("Tanh", x))
        elif kind < 3:
            values.append(n(pick.choice(["Add", "Sub", "Mul"]), x, y))
        elif kind == 3:
            values.append(n("Tanh", n("Add", n("MatMul", x, n.weights(6, 6)), n.weights(6))))
        elif kind == 4:
            both = n("Concat", x, y, axis=1)
            values.append(n("Slice", both, [pick.randrange(7)], [FAR], [1]))
            values[-1] = n("Slice", values[-1], [0], [6], [1])
        else:
            values.append(n("Transpose", n("Softmax", n("Transpose", x, perm=(1, 0)), axis=0), perm=(1, 0)))
    outs = list(dict.fromkeys([values[-1], *pick.sample(values[2:], min(3, len(values) - 2))]))
    n.output(*outs)
    model = n.model()
    for _ in range(2):
        feeds = {"a": f(5, 6), "b": f(5, 6)}
        got = model(feeds)
        for name, want in n.evaluate(feeds).items():
            np.testing.assert_allclose(got[name], want, rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------------- errors


def one(net: Any, op: str, *inputs: Any, **attrs: Any) -> Any:
    """A net of one node over ``x``, which is ``(T, 4)``, in a file of a name."""
    n = net(source="speech.onnx")
    n.input("x", "T", 4)
    n(op, "x", *inputs, name="enc/one", out="y", **attrs)
    return n.output("y")


BROKEN: list[tuple[str, tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    ("Nonsense", (), {}, UnsupportedModelError, r"operator Nonsense is not supported\. Cut the part"),
    ("Transpose", (), {"perm": (0, 2)}, ShapeError, r"perm=\(0, 2\)"),
    ("Squeeze", ([0],), {}, ShapeError, "not all of one element"),
    ("Unsqueeze", ([5],), {}, ShapeError, "axes"),
    ("Reshape", ([3, 3],), {}, ShapeError, "cannot reshape"),
    ("Reshape", ([-1, -1],), {}, ShapeError, "not a shape"),
    ("MatMul", (np.ones((3, 2), "f4"),), {}, ShapeError, "multiplied"),
    ("Gather", (np.array([9]),), {"axis": 1}, ShapeError, "outside"),
    ("Gather", (np.array([0.5], "f4"),), {"axis": 1}, ShapeError, "not integers"),
    ("Slice", ([0], [1], [1], [0]), {}, ShapeError, "step of 0"),
    ("Split", ([1, 1],), {"axis": 1, "out": ["y", "z"]}, ShapeError, "split"),
    ("Concat", (np.ones((3, 3, 3), "f4"),), {"axis": 0}, ShapeError, "rank"),
    ("Add", (np.ones((2, 3), "f4"),), {}, ShapeError, "broadcast"),
    ("Add", (np.ones(4, "i8"),), {}, UnsupportedModelError, r"float32 and int64\. Cast"),
    ("Tile", ([2],), {}, ShapeError, "repeats"),
    ("LayerNormalization", (np.ones(3, "f4"),), {}, ShapeError, "shape"),
    ("Softmax", (), {"axis": 5}, ShapeError, "axes"),
]


@pytest.mark.parametrize("case", BROKEN, ids=[f"{case[0]}-{k}" for k, case in enumerate(BROKEN)])
def test_errors_name_the_file_the_node_and_the_reason(net: Any, case: Any) -> None:
    op, inputs, attrs, error, reason = case
    out = attrs.get("out", "y")
    n = net(source="speech.onnx")
    n.input("x", "T", 4)
    n(op, "x", *inputs, name="enc/one", **{"out": out} | attrs)
    n.output("y")
    with pytest.raises(error, match=reason) as caught:
        n.model()({"x": f(2, 4)})
    assert str(caught.value).startswith(f"speech.onnx: {op} 'enc/one': ")


@pytest.mark.parametrize(
    ("field", "shape"), [(1, (1, 24, 3)), (2, (1, 24, 5)), (3, (1, 47)), (5, (1, 9, 6)), (7, (1, 3))]
)
def test_weights_that_do_not_fit_are_named(net: Any, field: int, shape: tuple[int, ...]) -> None:
    n = net(source="speech.onnx")
    n.cell("LSTM", n.input("x", "T", "B", 4), 4, 6, out=["y", "hn", "cn"], name="enc")
    (node,) = n.graph.nodes
    inputs = [*node.inputs, *[""] * (9 - len(node.inputs))]
    inputs[field] = n.graph.constant(np.zeros(shape, F32))
    n.graph.nodes[0] = type(node)(node.op, tuple(inputs), node.outputs, node.attrs, node.name)
    n.output("y")
    with pytest.raises(GatestepError, match=r"^speech\.onnx: LSTM 'enc': ") as caught:
        n.model()({"x": f(2, 3, 4)})
    assert str(shape) in str(caught.value) or "X has shape" in str(caught.value)  # W says what X must be


@pytest.mark.parametrize(
    ("feeds", "reason"),
    [
        ({}, "missing"),
        ({"x": f(2, 4), "z": f(1)}, "unknown"),
        ({"x": f(2, 5)}, r"shape \(2, 5\), expected \(T, 4\)"),
        ({"x": f(4)}, r"shape \(4,\)"),
        ({"x": f(2, 4).astype(F64)}, "astype"),
        ({"x": "text"}, "x"),
        ({"x": [[1.0, 2.0], [3.0]]}, "no array"),
    ],
)
def test_wrong_feeds_are_refused(net: Any, feeds: Any, reason: str) -> None:
    model = one(net, "Tanh").model()
    with pytest.raises(ShapeError, match=reason):
        model(feeds)


@pytest.mark.parametrize("known", [True, False])
def test_no_product_of_a_single_number(net: Any, known: bool) -> None:
    n = net()
    b = n.weights(3, 2) if known else n.input("b", 3, 2)
    n("MatMul", n.input("a"), b, out="y")
    model = n.output("y").model()
    feeds = {"a": np.float32(1)} | ({} if known else {"b": np.ones((3, 2), np.float32)})
    with pytest.raises(gs.ShapeError, match=r"\(\) cannot be multiplied by \(3, 2\)"):
        model(feeds)
