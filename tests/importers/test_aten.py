"""Operators of ATen against PyTorch: the same call to both, by overload and without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gatestep.engine.graph import Graph
from gatestep.importers.aten import Aten, SymInt, Tensor

import gatestep as gs

torch = pytest.importorskip("torch")
RNG = torch.Generator().manual_seed(1)


def f(*shape: int) -> Any:
    """Random floating-point values."""
    return torch.randn(*shape, generator=RNG)


def p(*shape: int) -> Any:
    """Positive ones."""
    return torch.rand(*shape, generator=RNG) + 0.1


def i(*shape: int, high: int = 5) -> Any:
    """Integers of both signs."""
    return torch.randint(-high, high, shape, generator=RNG)


def k(*shape: int, high: int = 3) -> Any:
    """Places."""
    return torch.randint(0, high, shape, generator=RNG)


def b(*shape: int) -> Any:
    return torch.randint(0, 2, shape, generator=RNG).bool()


def said(op: str, args: list[Any], kwargs: dict[str, Any], fixed: bool, free: bool) -> list[np.ndarray]:
    """What the graph of one call computes; tensors are its inputs, or its constants where `fixed`."""
    graph = Graph("test")
    aten = Aten(graph, "test")
    feeds: dict[str, np.ndarray] = {}

    def handle(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            array = value.detach().numpy()
            if fixed and feeds:
                return aten.constant(array)
            name = f"x{len(feeds)}"
            feeds[name] = array
            shape = [f"n{n}" if free and n > 1 else n for n in array.shape]
            return aten.input(name, shape, array.dtype)
        if isinstance(value, torch.dtype):
            return np.dtype(str(value).removeprefix("torch."))
        if isinstance(value, (list, tuple)):
            return [handle(item) for item in value]
        return value

    made = aten.call(op, handle(args), {key: handle(value) for key, value in kwargs.items()}, where="here")
    results = [r for r in (made if isinstance(made, (list, tuple)) else [made]) if r is not None]
    for n, value in enumerate(results):
        result = value if isinstance(value, Tensor) else Tensor(value.name, np.dtype(np.int64), ())
        assert isinstance(value, (Tensor, SymInt))
        graph.add("Cast", (result.name,), (f"y{n}",), to=result.dtype)
        graph.output(f"y{n}", result.shape, result.dtype)
    model = gs.Model(graph)
    got = list(model(feeds).values())
    for array, value in zip(got, results, strict=True):
        if isinstance(value, Tensor) and value.shape is not None:
            assert len(value.shape) == array.ndim
            sizes = zip(value.shape, array.shape, strict=True)
            assert all(not isinstance(said, int) or said == size for said, size in sizes)
    return got


def call(op: str, args: list[Any], kwargs: dict[str, Any]) -> list[np.ndarray]:
    name, _, overload = op.partition(".")
    packet = getattr(torch.ops.aten, name)
    made = (getattr(packet, overload) if overload else packet)(*args, **kwargs)
    return [t.numpy() for t in (made if isinstance(made, (list, tuple)) else [made])]


def check(op: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, only: int | None = None) -> None:
    want = call(op, list(args), kwargs)[:only]
    for fixed, free in ((False, False), (True, False)):
        for name in {op, op.partition(".")[0]}:
            got = said(name, list(args), kwargs, fixed, free)[:only]
            assert len(got) == len(want)
            for array, expected in zip(got, want, strict=True):
                assert array.dtype == expected.dtype, name
                assert array.shape == expected.shape, name
                np.testing.assert_allclose(array, expected, rtol=1e-5, atol=2e-6, err_msg=name)


X = (2, 3, 4)
POINTWISE = [
    *[
        (name, (f(*X),))
        for name in "sigmoid tanh exp erf sin cos relu abs floor ceil sign neg trunc round silu".split()
    ],
    *[(name, (f(*X),)) for name in "silu selu hardsigmoid hardswish mish log_sigmoid square relu6".split()],
    *[(name, (f(*X),)) for name in "isnan isinf exp2 expm1 softplus leaky_relu elu celu gelu hardtanh".split()],
    *[(name, (f(*X),)) for name in "logical_not softshrink hardshrink clone alias contiguous".split()],
    *[(name, (p(*X),)) for name in "log log2 log10 log1p sqrt rsqrt reciprocal".split()],
    *[(name, (i(*X),)) for name in "abs neg relu sigmoid tanh exp sqrt square floor".split() if name != "sqrt"],
    *[(f"{name}.Tensor", (f(*X), f(4))) for name in "add sub mul div maximum".split() if name != "maximum"],
    *[(f"{name}.Tensor", (i(*X), f(4))) for name in ("add", "sub", "mul")],
    *[(f"{name}.Tensor", (i(*X), i(3, 1))) for name in ("add", "sub", "mul")],
    *[(f"{name}.Scalar", (f(*X), 3)) for name in "add sub mul div rsub".split()],
    *[(f"{name}.Scalar", (i(*X), 2.5)) for name in "add sub mul".split()],
    ("add.Tensor", (b(*X), b(4))),
    ("mul.Tensor", (b(*X), f(4))),
    ("div.Tensor", (i(*X), i(*X).abs() + 1)),
    ("maximum", (f(*X), f(4))),
    ("minimum", (i(*X), i(4))),
    ("pow.Tensor_Scalar", (f(*X), 2)),
    ("pow.Tensor_Scalar", (p(*X), 0.5)),
    ("pow.Tensor_Scalar", (p(*X), -1.5)),
    ("pow.Tensor_Tensor", (p(*X), f(4))),
    ("pow.Scalar", (2.0, f(*X))),
    ("remainder.Scalar", (f(*X), 0.7)),
    ("remainder.Tensor", (i(*X), k(*X) + 1)),
    ("fmod.Scalar", (f(*X), 0.7)),
    ("floor_divide", (i(*X), k(*X) + 1)),
    ("floor_divide", (f(*X), p(4))),
    *[(f"{name}.Tensor", (i(*X), i(4))) for name in "eq ne lt gt le ge".split()],
    *[(f"{name}.Scalar", (f(*X), 0)) for name in "eq ne lt gt le ge".split()],
    ("logical_and", (b(*X), b(4))),
    ("logical_or", (f(*X), b(4))),
    ("logical_xor", (b(*X), b(4))),
    ("bitwise_and.Tensor", (b(*X), b(4))),
    ("bitwise_not", (b(*X),)),
    ("where.self", (b(*X), f(4), f(3, 1))),
    ("where.ScalarOther", (b(*X), f(4), 0.5)),
    ("masked_fill.Scalar", (f(*X), b(3, 4), -1.0)),
    ("masked_fill.Scalar", (f(*X), b(3, 4), float("-inf"))),
    ("masked_fill.Tensor", (f(*X), b(3, 4), torch.tensor(2.0))),
    ("clamp", (f(*X), -0.5, 0.5)),
    ("clamp", (i(*X), None, 2)),
    ("clamp.Tensor", (f(*X), f(4) - 1, f(4) + 1)),
    ("clamp_min", (f(*X), 0.1)),
    ("clamp_max", (f(*X), 0.1)),
    ("hardtanh", (f(*X), -0.3, 0.4)),
    ("leaky_relu", (f(*X), 0.2)),
    ("elu", (f(*X), 0.7)),
    ("celu", (f(*X), 0.7)),
    ("gelu", (f(*X),), {"approximate": "tanh"}),
    ("softplus", (f(*X), 2, 20)),
    ("threshold", (f(*X), 0.1, 2.0)),
    ("prelu", (f(2, 3, 4), f(3))),
    ("prelu", (f(2, 3), f(3))),
    ("prelu", (f(2, 3, 4), f(1))),
    ("glu", (f(2, 3, 4),)),
    ("glu", (f(2, 4, 3), 1)),
    ("addcmul", (f(*X), f(4), f(3, 1)), {"value": 0.5}),
    ("addcdiv", (f(*X), f(4), p(3, 1)), {"value": 0.5}),
    ("lerp.Scalar", (f(*X), f(*X), 0.3)),
    ("lerp.Tensor", (f(*X), f(*X), p(4))),
    ("hypot", (f(*X), f(4))),
    ("add.Tensor", (f(*X), f(4)), {"alpha": 2}),
    ("sub.Tensor", (f(*X), f(4)), {"alpha": 0.5}),
    ("div.Tensor_mode", (f(*X), p(4)), {"rounding_mode": "floor"}),
    ("div.Tensor_mode", (f(*X), p(4)), {"rounding_mode": "trunc"}),
    ("div.Tensor_mode", (i(*X), k(*X) + 1), {"rounding_mode": "trunc"}),
    ("to.dtype", (f(*X), torch.int64)),
    ("to.dtype", (i(*X), torch.float32)),
    ("to.dtype", (f(*X), torch.bool)),
    ("_to_copy", (i(*X),), {"dtype": torch.float32}),
    ("type_as", (i(*X), f(1))),
]
REDUCTIONS = [
    ("sum", (f(*X),)),
    ("sum", (b(*X),)),
    ("sum.dim_IntList", (f(*X), [1], True)),
    ("sum.dim_IntList", (f(*X), [0, -1])),
    ("sum.dim_IntList", (i(*X), [1]), {"dtype": torch.float32}),
    ("mean", (f(*X),)),
    ("mean.dim", (f(*X), [-1], True)),
    ("mean.dim", (f(*X), [1, 2])),
    ("amax", (f(*X), [1])),
    ("amin", (f(*X), [1, 2], True)),
    ("max", (f(*X),)),
    ("max.dim", (f(*X), 1)),
    ("min.dim", (i(7, 5), -1, True)),
    ("max.other", (f(*X), f(4))),
    ("prod.dim_int", (f(*X), 1)),
    ("argmax", (f(*X), 1)),
    ("argmax", (f(*X),)),
    ("argmin", (f(*X), -1, True)),
    ("any.dim", (b(*X), 1)),
    ("all", (b(*X),)),
    ("norm.ScalarOpt_dim", (f(*X), 2, [1])),
    ("linalg_vector_norm", (f(*X), 1, [1], True)),
    ("linalg_vector_norm", (f(*X),)),
    ("logsumexp", (f(*X), [1])),
    ("logsumexp", (f(*X), [1, 2], True)),
    ("var.correction", (f(*X), [1])),
    ("var.dim", (f(*X), [1], False)),
    ("std.correction", (f(*X), [0, 2]), {"correction": 0, "keepdim": True}),
    ("var_mean.correction", (f(*X), [-1]), {"correction": 1, "keepdim": True}),
    ("softmax.int", (f(*X), 1)),
    ("_softmax", (f(*X), -1, False)),
    ("log_softmax.int", (f(*X), -1)),
    ("_log_softmax", (f(*X), 0, False)),
    ("cumsum", (f(*X), 1)),
    ("cumsum", (i(*X), -1)),
    ("topk", (f(2, 7), 3)),
    ("topk", (f(7, 2), 3, 0, False)),
    ("sort", (f(2, 7),)),
    ("sort", (f(7, 2), 0, True)),
    ("argsort", (f(2, 7), -1, True)),
    ("cosine_similarity", (f(2, 5), f(2, 5))),
    ("aminmax", (f(*X),), {"dim": 1}),
]
VIEWS = [
    ("view", (f(*X), [6, 4])),
    ("view", (f(*X), [2, -1])),
    ("view", (f(*X), [2, 3, 2, 2])),
    ("reshape", (f(*X), [-1])),
    ("reshape", (f(*X), [4, 3, 2])),
    ("flatten.using_ints", (f(2, 3, 4, 5), 1, 2)),
    ("flatten.using_ints", (f(2, 3, 4),)),
    ("unflatten.int", (f(2, 12), 1, [3, -1])),
    ("transpose.int", (f(*X), 0, -1)),
    ("permute", (f(*X), [2, 0, 1])),
    ("t", (f(3, 4),)),
    ("movedim.int", (f(*X), 0, 2)),
    ("squeeze", (f(2, 1, 3, 1),)),
    ("squeeze.dim", (f(2, 1, 3), 1)),
    ("squeeze.dim", (f(2, 1, 3), 0)),
    ("squeeze.dims", (f(2, 1, 3, 1), [1, 3])),
    ("unsqueeze", (f(*X), -1)),
    ("unsqueeze", (f(*X), 1)),
    ("expand", (f(3, 1), [2, 3, 4])),
    ("expand", (f(3, 1), [-1, 4])),
    ("expand_as", (f(3, 1), f(2, 3, 4))),
    ("view_as", (f(3, 4), f(6, 2))),
    ("repeat", (f(3, 2), [2, 1, 3])),
    ("tile", (f(3, 2), [2])),
    ("repeat_interleave.self_int", (f(3, 2), 2, 0)),
    ("repeat_interleave.self_int", (f(3, 2), 2)),
    ("cat", ([f(2, 3), f(2, 4)], 1)),
    ("cat", ([f(2, 3), i(2, 3)], 0)),
    ("stack", ([f(2, 3), f(2, 3)], -1)),
    ("hstack", ([f(2, 3), f(2, 4)],)),
    ("vstack", ([f(3), f(3)],)),
    ("select.int", (f(*X), 1, -1)),
    ("slice.Tensor", (f(2, 9), 1, 2, 8, 3)),
    ("slice.Tensor", (f(2, 9), 1, -3, 9223372036854775807)),
    ("narrow", (f(2, 9), 1, 2, 5)),
    ("split.Tensor", (f(2, 7), 3, 1)),
    ("split_with_sizes", (f(2, 7), [3, 4], 1)),
    ("chunk", (f(2, 7), 3, 1)),
    ("tensor_split.sections", (f(2, 7), 3, 1)),
    ("unbind.int", (f(2, 3), 1)),
    ("flip", (f(*X), [0, 2])),
    ("roll", (f(*X), [1], [2])),
    ("roll", (f(*X), [-1, 2], [0, 2])),
    ("swapaxes", (f(*X), 0, 1)),
]
INDEXING = [
    ("index.Tensor", (f(5, 4), [k(3)])),
    ("index.Tensor", (f(5, 4), [None, k(2, 3)])),
    ("index.Tensor", (f(5, 4, 3), [k(2, 3), k(3)])),
    ("index.Tensor", (f(5, 4, 3), [None, k(6), k(6)])),
    ("index.Tensor", (f(5, 4, 3), [k(6), None, k(6)])),
    ("index_select", (f(5, 4), 1, k(3))),
    ("gather", (f(5, 4), 1, k(5, 2))),
    ("scatter.src", (f(5, 4), 1, torch.tensor([[0, 1], [2, 3]]), f(2, 2))),
    ("scatter.value", (f(5, 4), 0, k(1, 4), 2.0)),
    ("scatter_add", (f(5, 4), 1, k(5, 3), f(5, 4))),
    ("index_put", (f(5, 4), [torch.tensor([0, 2])], f(2, 4))),
    ("index_put", (f(5, 4), [torch.tensor([0, 2]), torch.tensor([1, 1])], torch.tensor(3.0)), {"accumulate": True}),
    ("index_put", (f(5, 4), [b(5, 4)], torch.tensor(3.0))),
    ("select_scatter", (f(5, 4), f(5), 1, 2)),
    ("select_scatter", (f(5, 4), f(4), 0, -1)),
    ("slice_scatter", (f(5, 4), f(2, 4), 0, 1, 3)),
    ("slice_scatter", (f(5, 4), f(5, 2), 1, 2)),
    ("copy", (f(5, 4), f(4))),
    ("one_hot", (k(2, 3), 4)),
    ("tril", (f(3, 4),)),
    ("triu", (f(3, 4), 1)),
    ("unfold", (f(2, 9), 1, 4, 2)),
    ("unfold", (f(9, 2), 0, 3, 3)),
    ("meshgrid", ([f(3), f(4)],)),
]
PRODUCTS = [
    ("linear", (f(2, 3, 4), f(5, 4), f(5))),
    ("linear", (f(2, 4), f(5, 4))),
    ("addmm", (f(5), f(2, 4), f(4, 5))),
    ("addmm", (f(2, 5), f(2, 4), f(4, 5)), {"beta": 0.5, "alpha": 2}),
    ("mm", (f(2, 4), f(4, 5))),
    ("bmm", (f(3, 2, 4), f(3, 4, 5))),
    ("baddbmm", (f(3, 2, 5), f(3, 2, 4), f(3, 4, 5)), {"beta": 0.3}),
    ("matmul", (f(3, 2, 4), f(4, 5))),
    ("matmul", (f(3, 2, 4), f(4))),
    ("mv", (f(2, 4), f(4))),
    ("einsum", ("bti,ij->btj", [f(2, 3, 4), f(4, 5)])),
    ("einsum", ("...i,i", [f(2, 3, 4), f(4)])),
    ("outer", (f(3), f(4))),
    ("bilinear", (f(2, 3), f(2, 4), f(5, 3, 4), f(5))),
    ("embedding", (f(5, 3), k(2, 4))),
]
WINDOWS = [
    ("conv1d", (f(2, 4, 9), f(6, 4, 3), f(6))),
    ("conv1d", (f(2, 4, 9), f(6, 2, 3), None, [2], [1], [2], 2)),
    ("conv1d.padding", (f(2, 4, 9), f(6, 4, 4), f(6), [1], "same", [1])),
    ("conv1d", (f(4, 9), f(6, 4, 3))),
    ("conv2d", (f(2, 4, 9, 8), f(6, 4, 3, 2), f(6), [2, 1], [1, 0])),
    ("convolution", (f(2, 4, 9), f(6, 4, 3), f(6), [1], [1], [1], False, [0], 1)),
    ("convolution", (f(2, 4, 9), f(4, 3, 3), f(6), [2], [1], [1], True, [1], 2)),
    ("conv_transpose1d", (f(2, 4, 9), f(4, 3, 3), f(3), [2], [1], [1])),
    ("conv_transpose2d.input", (f(2, 4, 5, 6), f(4, 3, 3, 2), f(3), [2, 1])),
    ("max_pool1d", (f(2, 4, 9), [3])),
    ("max_pool1d", (f(2, 4, 10), [3], [2], [1], [1], True)),
    ("max_pool2d", (f(2, 4, 9, 8), [3, 2], [2, 2], [1, 0])),
    ("avg_pool1d", (f(2, 4, 9), [3], [2], [1])),
    ("avg_pool1d", (f(2, 4, 9), [3], [2], [1], True, False)),
    ("avg_pool2d", (f(2, 4, 9, 8), [3, 2])),
    ("adaptive_avg_pool1d", (f(2, 4, 9), [1])),
    ("adaptive_avg_pool1d", (f(2, 4, 9), [3])),
    ("adaptive_avg_pool2d", (f(2, 4, 9, 8), [1, 1])),
    ("constant_pad_nd", (f(2, 3, 4), [1, 2], 0.5)),
    ("constant_pad_nd", (f(2, 3, 4), [1, -1, 2, 0])),
    ("pad", (f(2, 3, 4), [1, 2], "reflect")),
    ("pad", (f(2, 3, 4), [1, 2], "replicate")),
    ("pad", (f(2, 3, 4), [1, 2], "circular")),
    ("reflection_pad1d", (f(2, 3, 4), [1, 2])),
    ("replication_pad1d", (f(2, 3, 4), [1, 2])),
]
NORMS = [
    ("layer_norm", (f(2, 3, 4), [4], f(4), f(4))),
    ("layer_norm", (f(2, 3, 4), [3, 4], f(3, 4), None, 1e-3)),
    ("layer_norm", (f(2, 3, 4), [4])),
    ("rms_norm", (f(2, 3, 4), [4], f(4), 1e-4)),
    ("group_norm", (f(2, 6, 4), 3, f(6), f(6))),
    ("group_norm", (f(2, 6, 4), 2)),
    ("instance_norm", (f(2, 3, 8), f(3), f(3), None, None, True, 0.1, 1e-5, True)),
    ("instance_norm", (f(2, 3, 8), None, None, f(3), p(3), False, 0.1, 1e-5, True)),
    ("batch_norm", (f(2, 3, 8), f(3), f(3), f(3), p(3), False, 0.1, 1e-5, True)),
    ("batch_norm", (f(4, 3), None, None, f(3), p(3), False, 0.1, 1e-3, True)),
    ("_weight_norm", (f(4, 3, 2), f(4, 1, 1))),
    ("_weight_norm", (f(4, 3), f(1, 3), 1)),
    ("scaled_dot_product_attention", (f(2, 3, 4, 5), f(2, 3, 6, 5), f(2, 3, 6, 5))),
    ("scaled_dot_product_attention", (f(2, 4, 5), f(2, 4, 5), f(2, 4, 5)), {"is_causal": True, "scale": 0.3}),
    ("scaled_dot_product_attention", (f(2, 4, 5), f(2, 6, 5), f(2, 6, 5), b(4, 6) | torch.eye(4, 6).bool())),
]
FIRST = [
    ("_native_batch_norm_legit_no_training", (f(2, 3, 8), f(3), f(3), f(3), p(3), 0.1, 1e-5)),
    ("native_layer_norm", (f(2, 3, 4), [4], f(4), f(4), 1e-5)),
    ("native_group_norm", (f(2, 6, 4), f(6), f(6), 2, 6, 4, 3, 1e-5)),
    ("max_pool2d_with_indices", (f(2, 4, 9, 8), [3, 2])),
    ("adaptive_max_pool1d", (f(2, 4, 9), [3])),
    ("native_dropout", (f(2, 3), 0.5, False)),
]


def cases(*tables: list[Any]) -> list[Any]:
    found = [(*case, {}) if len(case) == 2 else case for table in tables for case in table]
    return [pytest.param(*case, id=f"{k}-{case[0]}") for k, case in enumerate(found)]


@pytest.mark.parametrize(
    ("op", "args", "kwargs"), cases(POINTWISE, REDUCTIONS, VIEWS, INDEXING, PRODUCTS, WINDOWS, NORMS)
)
def test_operator(op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    check(op, args, kwargs)


@pytest.mark.parametrize(("op", "args", "kwargs"), cases(FIRST))
def test_operator_whose_first_result_is_wanted(op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    check(op, args, kwargs, only=1)
