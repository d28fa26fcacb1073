"""LSTM, GRU and RNN of ATen, their cells, packed sequences, new tensors; and what is refused."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from gatestep.engine.graph import Graph
from gatestep.importers.aten import Aliases, Aten, Tensor

import gatestep as gs

torch = pytest.importorskip("torch")


def aten(**inputs: Any) -> tuple[Aten, list[Tensor]]:
    graph = Graph("test")
    a = Aten(graph, "test")
    return a, [a.input(name, [None] * x.ndim, x.numpy().dtype) for name, x in inputs.items()]


def outputs(a: Aten, *values: Tensor) -> gs.Model:
    for n, value in enumerate(values):
        a.graph.add("Cast", (value.name,), (f"y{n}",), to=value.dtype)
        a.graph.output(f"y{n}", value.shape, value.dtype)
    a.prune()
    return gs.Model(a.graph)


OPTIONS = list(itertools.product(("LSTM", "GRU", "RNN"), (1, 2), (False, True), (True, False), (True, False)))


@pytest.mark.parametrize(("kind", "layers", "both", "bias", "first"), OPTIONS)
@pytest.mark.parametrize("zero", [True, False])
def test_sequences(kind: str, layers: int, both: bool, bias: bool, first: bool, zero: bool) -> None:
    torch.manual_seed(3)
    module = getattr(torch.nn, kind)(4, 6, layers, bias=bias, bidirectional=both, batch_first=first)
    x = torch.randn(3, 5, 4)
    rows = layers * (2 if both else 1)
    h, c = torch.randn(2, rows, 3 if first else 5, 6)
    if zero:
        h, c = torch.zeros_like(h), torch.zeros_like(c)
    with torch.no_grad():
        want, last = module(x, (h, c) if kind == "LSTM" else h)
    a, (tx, th, tc) = aten(x=x, h=h, c=c)
    if zero:
        shape = [rows, a.call("size", [tx, 0 if first else 1], {}, where="n"), 6]
        th = tc = a.call("zeros", [shape], {}, where="zeros")
    weights = [a.constant(w.detach().numpy()) for w in module.parameters()]
    name = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn_tanh"}[kind]
    rest = [weights, bias, layers, 0.0, False, both, first]
    made = a.call(f"{name}.input", [tx, [th, tc] if kind == "LSTM" else th, *rest], {}, where="rnn")
    model = outputs(a, *made)
    feeds = {p.name: {"x": x, "h": h, "c": c}[p.name].numpy() for p in model.inputs}
    expected = [want, *(last if kind == "LSTM" else [last])]
    for got, wanted in zip(model(feeds).values(), expected, strict=True):
        np.testing.assert_allclose(got, wanted.numpy(), atol=2e-6)


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn_tanh", "rnn_relu"])
@pytest.mark.parametrize("bias", [True, False])
def test_cells(kind: str, bias: bool) -> None:
    torch.manual_seed(4)
    gates = {"lstm": 4, "gru": 3}.get(kind, 1)
    x, h, c = torch.randn(3, 4), torch.randn(3, 6), torch.randn(3, 6)
    weights = [torch.randn(gates * 6, 4), torch.randn(gates * 6, 6)]
    weights += [torch.randn(gates * 6), torch.randn(gates * 6)] if bias else []
    state = [h, c] if kind == "lstm" else h
    want = getattr(torch.ops.aten, f"{kind}_cell")(x, state, *weights)
    a, (tx, th, tc) = aten(x=x, h=h, c=c)
    constants = [a.constant(w.numpy()) for w in weights]
    made = a.call(f"{kind}_cell", [tx, [th, tc] if kind == "lstm" else th, *constants], {}, where="cell")
    model = outputs(a, *(made if kind == "lstm" else [made]))
    got = model({"x": x.numpy(), "h": h.numpy(), "c": c.numpy()})
    for one, two in zip(got.values(), want if kind == "lstm" else [want], strict=True):
        np.testing.assert_allclose(one, two.numpy(), atol=2e-6)


def test_projection() -> None:
    module = torch.nn.LSTM(4, 6, 2, bidirectional=True, proj_size=3)
    x = torch.randn(5, 3, 4)
    want, _ = module(x)
    a, (tx,) = aten(x=x)
    zero = [a.call("zeros", [[4, 3, n]], {}, where="z") for n in (3, 6)]
    weights = [a.constant(w.detach().numpy()) for w in module.parameters()]
    y, _, _ = a.call("lstm", [tx, zero, weights, True, 2, 0.0, False, True, False], {}, where="lstm")
    np.testing.assert_allclose(outputs(a, y)(x.numpy()), want.detach().numpy(), atol=2e-6)


@pytest.mark.parametrize("total", [-1, 7])
@pytest.mark.parametrize("first", [True, False])
def test_packed_sequences(total: int, first: bool) -> None:
    module = torch.nn.LSTM(4, 6, 2, bidirectional=True)
    x, lengths = torch.randn(3, 7, 4), torch.tensor([5, 3, 1])
    x = x if first else x.transpose(0, 1).contiguous()
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=first)
    y, (h, c) = module(packed)
    want, ends = torch.nn.utils.rnn.pad_packed_sequence(y, first, total_length=None if total < 0 else total)
    a, (tx, tl) = aten(x=x, lengths=lengths)
    data, sizes = a.call("_pack_padded_sequence", [tx, tl, first], {}, where="pack")
    zero = a.call("zeros", [[4, 3, 6]], {}, where="z")
    weights = [a.constant(w.detach().numpy()) for w in module.parameters()]
    y, th, tc = a.call("lstm.data", [data, sizes, [zero, zero], weights, True, 2, 0.0, False, True], {}, where="lstm")
    padded, back = a.call("_pad_packed_sequence", [y, sizes, first, 0.0, total], {}, where="pad")
    model = outputs(a, padded, back, th, tc)
    got = model({"x": x.numpy(), "lengths": lengths.numpy()}).values()
    for one, two in zip(got, (want, ends, h, c), strict=True):
        np.testing.assert_allclose(one, two.detach().numpy(), atol=2e-6)


@pytest.mark.parametrize(
    ("op", "args", "kwargs"),
    [
        ("zeros", [[2, 3]], {}),
        ("ones", [[2, 3]], {"dtype": torch.int64}),
        ("full", [[2], 2.5], {}),
        ("full", [[2], 3], {}),
        ("arange", [7], {}),
        ("arange", [2, 7], {}),
        ("arange", [1.0, 2.0, 0.3], {}),
        ("linspace", [0.0, 1.0, 5], {}),
        ("scalar_tensor", [2.5], {}),
    ],
)
def test_new_tensors(op: str, args: list[Any], kwargs: dict[str, Any]) -> None:
    want = getattr(torch.ops.aten, op)(*args, **kwargs)
    a, _ = aten()
    given = {key: np.dtype(str(value).removeprefix("torch.")) for key, value in kwargs.items()}
    got = outputs(a, a.call(op, args, given, where="here"))({})["y0"]
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-6)
    assert got.dtype == want.numpy().dtype
    assert got.shape == want.shape


@pytest.mark.parametrize("op", ["zeros_like", "ones_like", "new_zeros", "new_full", "full_like"])
def test_tensors_like_others(op: str) -> None:
    x = torch.randn(2, 3)
    rest = {"new_zeros": [[4]], "new_full": [[4], 1.5], "full_like": [1.5]}.get(op, [])
    a, (tx,) = aten(x=x)
    got = outputs(a, a.call(op, [tx, *rest], {}, where="here"))(x.numpy())
    np.testing.assert_array_equal(got, getattr(torch.ops.aten, op)(x, *rest).numpy(), strict=True)


def test_the_type_of_a_scalar_counts_only_where_it_is_of_a_higher_kind() -> None:
    tensors = [torch.ones(2, dtype=d) for d in (torch.bool, torch.int32, torch.int64, torch.float32, torch.float64)]
    scalars = [torch.ones((), dtype=t.dtype) for t in tensors]
    for x, y in itertools.product(tensors, [*tensors, *scalars, True, 2, 2.5]):
        for op in ("mul", "add"):
            want = getattr(torch.ops.aten, op)(x, y)
            a, (tx,) = aten(x=x)
            other = a.constant(y.numpy()) if isinstance(y, torch.Tensor) else y
            assert a.call(op, [tx, other], {}, where="here").dtype == want.numpy().dtype, (x, y)


def refused(match: str, op: str, *args: Any, **kwargs: Any) -> None:
    a, (tx,) = aten(x=torch.ones(2, 3))
    with pytest.raises(gs.UnsupportedModelError, match=match) as caught:
        a.call(op, [tx, *args], kwargs, where="net.layer")
    assert "net.layer" in str(caught.value)


def test_refusals_name_operator_argument_and_value() -> None:
    refused("fft_fft.*not supported", "fft_fft.default")
    refused("colour=3.*not supported", "relu", colour=3)
    refused("layout=1", "zeros_like", layout=1)
    refused("training mode", "dropout", 0.5, True)
    refused("dtype=9", "to", 9)
    refused("as many elements", "nonzero")


def test_arguments_that_fit_no_operator_are_damage() -> None:
    a, (tx,) = aten(x=torch.ones(2, 3))
    for op, args in (("relu", []), ("transpose", [tx, 7, 0]), ("cat", [3]), ("view", [tx, [4, 4]]), ("add", [tx, "x"])):
        a.input(f"y{op}", [2, 3], np.float32)
        fixed = [Tensor(tx.name, tx.dtype, (2, 3)) if v is tx else v for v in args]
        with pytest.raises(gs.ModelFormatError, match="net"):
            a.call(op, fixed, {}, where="net")


def test_what_a_program_claims_is_bounded() -> None:
    a, _ = aten()
    x = a.input("x", (1 << 40, 1 << 40, 4), np.float32)
    for op, args in (
        ("unbind", [x, 0]),
        ("split", [x, 1, 0]),
        ("tensor_split", [x, 1 << 30, 0]),
        ("batch_norm", [x, None, None, x, x, False, 0.1, 1e-5, True]),
        ("layer_norm", [x, [1 << 40]]),
        ("unfold", [x, 0, 2, 1]),
    ):
        with pytest.raises(gs.UnsupportedModelError, match="more than the"):
            a.call(op, args, {}, where="net")
    with pytest.raises(gs.ModelFormatError, match="64 bits"):
        a.call("mul", [1 << 62, 4], {}, where="net")
    with pytest.raises(gs.ModelFormatError):
        a.call("pow", [10, 10**9], {}, where="net")


def test_programs_that_write_in_place() -> None:
    x = torch.arange(12.0).reshape(3, 4)

    def program(x: Any, call: Any) -> Any:
        y = call("mul", [x, 2.0])
        row = call("select", [y, 0, 1])
        part = call("slice", [row, 0, 1, 3])
        call("fill_", [part, 7.0])
        call("add_", [call("transpose", [y, 0, 1]), 1.0])
        call("copy_", [call("view", [call("unsqueeze", [row, 0]), [4]]), call("neg", [row])])
        first, *_ = call("unbind", [y, 1])
        call("relu_", [first])
        return y, row, part, first

    want = program(x, lambda op, args: getattr(torch.ops.aten, op)(*args))
    a, _ = aten()
    aliases = Aliases(a)
    made = program(aliases.new(a.input("x", (3, 4), np.float32)), lambda op, args: aliases.call(op, args, {}, where=op))
    got = outputs(a, *map(aliases.read, made))(x.numpy())
    for one, two in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, two.numpy())


def test_writing_where_it_cannot_be_followed_is_refused() -> None:
    a, _ = aten()
    aliases = Aliases(a)
    x = a.input("x", (3, 4), np.float32)

    def call(op: str, *args: Any) -> Any:
        return aliases.call(op, args, {}, where=op)

    with pytest.raises(gs.UnsupportedModelError, match=r"fill_.*input 'x'"):
        call("fill_", aliases.new(x, "input 'x'"), 0.0)
    y = call("mul", aliases.new(x), 2.0)
    z = call("contiguous", y)
    call("fill_", y, 0.0)
    with pytest.raises(gs.UnsupportedModelError, match="may share its memory"):
        call("relu", z)
    with pytest.raises(gs.UnsupportedModelError, match="through expand"):
        call("fill_", call("expand", call("mul", y, 2.0), [2, 3, 4]), 0.0)
