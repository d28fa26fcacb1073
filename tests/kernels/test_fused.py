"""The compiled cells and the dense layer: against the float64 definitions, and bit for bit against themselves."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from gatestep.kernels import pack, precision, reference, tiers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

Array = np.ndarray[Any, Any]

SIZES = [1, 2, 8, 15, 16, 17, 31, 33, 48, 65, 70, 130]
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
STANDARD = {
    "lstm": [("Sigmoid", None, None), ("Tanh", None, None), ("Tanh", None, None)],
    "gru": [("Sigmoid", None, None), ("Tanh", None, None)],
    "rnn": [("Tanh", None, None)],
}
#: The eleven activations of ONNX's recurrent operators: name in abi.h, alpha, beta.
RECURRENT = {
    "Sigmoid": ("SIGMOID", 0.0, 0.0),
    "Tanh": ("TANH", 0.0, 0.0),
    "Relu": ("RELU", 0.0, 0.0),
    "Affine": ("AFFINE", 0.4, 0.1),
    "LeakyRelu": ("LEAKY_RELU", 0.03, 0.0),
    "ThresholdedRelu": ("THRESHOLDED_RELU", 0.3, 0.0),
    "ScaledTanh": ("SCALED_TANH", 0.8, 0.6),
    "HardSigmoid": ("HARD_SIGMOID", 0.3, 0.4),
    "Elu": ("ELU", 0.7, 0.0),
    "Softsign": ("SOFTSIGN", 0.0, 0.0),
    "Softplus": ("SOFTPLUS", 0.0, 0.0),
}


@dataclass
class Layer:
    """Weights in float64 that the kernel's type can hold, and everything that is not a size."""

    cell: str
    inputs: int
    hidden: int
    seed: int = 0
    activations: list[tuple[str, float | None, float | None]] = field(default_factory=list)
    clip: float | None = None
    reset_before: bool = False
    coupled: str = ""
    peephole: bool = False
    projected: int | None = None
    reverse: bool = False
    general: bool = False

    def __post_init__(self) -> None:
        self.activations = self.activations or STANDARD[self.cell]
        self.state = self.projected or self.hidden
        self.general = bool(
            self.general
            or self.clip is not None
            or self.reset_before
            or self.coupled
            or self.peephole
            or self.projected
            or (self.cell != "rnn" and self.activations != STANDARD[self.cell])
        )

    def weights(self, dtype: Any) -> list[Array]:
        """w, r, b_ih, b_hh."""
        rng = np.random.default_rng(self.seed)
        rows = GATES[self.cell] * self.hidden
        shapes = (rows, self.inputs), (rows, self.state), (rows,), (rows,)
        scale = 1 / np.sqrt(self.inputs + self.state)
        return [rng.normal(0, scale, shape).astype(dtype) for shape in shapes]

    def extras(self, dtype: Any) -> tuple[Array | None, Array | None]:
        """Peepholes (3, H) and projection (P, H)."""
        rng = np.random.default_rng(self.seed + 1)
        p = rng.normal(0, 0.3, (3, self.hidden)).astype(dtype) if self.peephole else None
        m = rng.normal(0, 0.5, (self.state, self.hidden)).astype(dtype) if self.projected else None
        return p, m

    def expected(self, kernels: Any, x: Array, h0: Array, c0: Array, lengths: Array | None) -> tuple[Array, ...]:
        """What the definitions give."""
        dtype = kernels.dtype
        options: dict[str, Any] = {
            "h0": h0,
            "lengths": lengths,
            "activations": self.activations,
            "clip": self.clip,
            "reverse": self.reverse,
            "product": precision.product(kernels.precision),
        }
        if self.cell == "lstm":
            p, m = self.extras(dtype)
            options |= {"c0": c0, "peepholes": p, "projection": m, "coupled": self.coupled}
        if self.cell == "gru":
            options["linear_before_reset"] = not self.reset_before
        return getattr(reference, self.cell)(x, *self.weights(dtype), **options)  # type: ignore[no-any-return]

    def packed(self, kernels: Any) -> Array:
        w, r, b_ih, b_hh = self.weights(kernels.dtype)
        biases = (b_ih, b_hh) if self.cell == "gru" else (b_ih.astype(np.float64) + b_hh,)
        return tiers.packer(self.cell, kernels.precision)(w, r, *biases, kernels.dtype)

    def scratch(self, kernels: Any, steps: int, batch: int) -> int:
        whole = tiers.scratch(pack.ahead(steps, batch) * batch, self.inputs)
        whole += tiers.scratch(batch, max(self.hidden, self.state))
        return pack.scratch(steps, batch, self.hidden) + (whole if kernels.precision in precision.BITS else 0)

    def run(
        self,
        abi: ModuleType,
        kernels: Any,
        x: Array,
        h0: Array,
        c0: Array,
        lengths: Array | None = None,
        *,
        offset: int = 0,
        in_place: bool = False,
        parity: int = 0,
    ) -> tuple[Array, ...]:
        """The kernel on guarded buffers; y is strided, in the middle of a wider array."""
        gs, dtype = abi.GS, kernels.dtype
        steps, batch, _ = x.shape
        peepholes, projection = self.extras(dtype)
        x_in, h_in, c_in = (abi.Guarded.of(a, offset) for a in (x, h0, c0))
        y = abi.Guarded((steps, batch, self.state + 3), dtype, offset)
        hn = h_in if in_place else abi.Guarded(h0.shape, dtype, offset)
        cn = c_in if in_place else abi.Guarded(c0.shape, dtype, offset)
        scratch = abi.Guarded(self.scratch(kernels, steps, batch), dtype)
        kinds = [RECURRENT[name] for name, _, _ in self.activations] + [("IDENTITY", 0.0, 0.0)] * 2
        flag = {"f=1-i": 1, "i=1-f": 2}.get(self.coupled, int(self.reset_before))
        n = [steps, batch, self.inputs, self.hidden, self.state, batch * self.inputs, self.inputs]
        n += [batch * (self.state + 3), self.state + 3, int(self.reverse), parity, int(self.general)]
        n += [getattr(gs, f"ACT_{kind}") for kind, _, _ in kinds[:3]] + [flag]
        f = [np.inf if self.clip is None else self.clip]
        for (_, alpha, beta), (_, default_alpha, default_beta) in zip(
            [*self.activations, *[("", None, None)] * 2][:3], kinds[:3], strict=True
        ):
            f += [default_alpha if alpha is None else alpha, default_beta if beta is None else beta]
        status = abi.call(
            kernels.kernels[self.cell],
            {
                0: x_in.array,
                1: self.packed(kernels),
                2: h_in.array,
                3: c_in.array,
                4: y.array,
                5: hn.array,
                6: cn.array,
                7: None if peepholes is None else pack.pack_peepholes(peepholes, dtype),
                8: None if projection is None else tiers.packer("linear", kernels.precision)(projection, None, dtype),
                9: scratch.array,
                10: lengths,
            },
            n,
            f,
        )
        assert status == gs.OK
        for name, buffer in {"x": x_in, "h0": h_in, "c0": c_in, "y": y, "hn": hn, "cn": cn, "scratch": scratch}.items():
            assert buffer.intact(), f"wrote outside {name}"
        assert (y.array[..., self.state :].view(np.uint8) == y.PATTERN).all(), "wrote between rows of y"
        assert abi.same_bits(x_in.array, x)
        if not in_place:
            assert abi.same_bits(h_in.array, h0)
            assert abi.same_bits(c_in.array, c0)
        out = y.array[..., : self.state].copy(), hn.array
        return (*out, cn.array) if self.cell == "lstm" else out


def data(layer: Layer, dtype: Any, steps: int, batch: int, seed: int) -> tuple[Array, Array, Array]:
    """x, h0, c0."""
    rng = np.random.default_rng(seed)
    shapes = (steps, batch, layer.inputs), (batch, layer.state), (batch, layer.hidden)
    x, h0, c0 = (rng.normal(0, 1, shape).astype(dtype) for shape in shapes)
    return x, np.tanh(h0), c0


#: A state may be rounded to the whole number beside that of the definition: what comes of it, at once and in the end.
ROUNDED = {"w16": (2e-4, 1e-4), "w8": (2e-4, 1e-4), "w8a8": (2e-2, 5e-2)}


def assert_close(got: tuple[Array, ...], expected: tuple[Array, ...], kernels: Any, tolerance: float = 0.0) -> None:
    # A layer of activations without limits grows, and rounds what it cancels at the size that it has grown to.
    size = max([1.0, *(np.abs(part).max() for part in expected if part.size)])
    exact = 1e-5 if kernels.dtype == np.float32 else 1e-13
    tolerance = tolerance or ROUNDED.get(kernels.precision, (exact,))[0]
    for name, a, b in zip(("y", "hn", "cn"), got, expected, strict=False):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * size, err_msg=name)


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    cell = draw(st.sampled_from(sorted(GATES)))
    hidden = draw(st.sampled_from(SIZES))
    activation = st.sampled_from(sorted(RECURRENT)).map(lambda name: (name, *RECURRENT[name][1:]))
    count = len(STANDARD[cell])
    lstm = cell == "lstm"
    return Layer(
        cell,
        draw(st.sampled_from(SIZES)),
        hidden,
        seed=draw(st.integers(0, 99)),
        activations=draw(st.one_of(st.just([]), st.lists(activation, min_size=count, max_size=count))),
        clip=draw(st.sampled_from([None, None, 0.25, 1.0])),
        reset_before=cell == "gru" and draw(st.booleans()),
        coupled=draw(st.sampled_from(["", "f=1-i", "i=1-f"])) if lstm else "",
        peephole=lstm and draw(st.booleans()),
        projected=draw(st.sampled_from([None, *SIZES])) if lstm else None,
        reverse=draw(st.booleans()),
        general=draw(st.booleans()),
    )


@settings(max_examples=120, deadline=None)
@given(layer=layers(), steps=st.integers(0, 4), batch=st.integers(0, 9), draws=st.data())
def test_cells_match_their_definition(
    abi: ModuleType, fused_set: Any, layer: Layer, steps: int, batch: int, draws: st.DataObject
) -> None:
    dtype = fused_set.dtype
    x, h0, c0 = data(layer, dtype, steps, batch, draws.draw(st.integers(0, 99)))
    some = st.lists(st.integers(0, steps), min_size=batch, max_size=batch).map(lambda v: np.array(v, np.int32))
    lengths = draws.draw(st.one_of(st.none(), some))
    if fused_set.precision in precision.BITS:  # next to a step, a sum may be rounded to its other side
        steep = ("ThresholdedRelu", *RECURRENT["ThresholdedRelu"][1:])
        layer.activations = [("Tanh", None, None) if a == steep else a for a in layer.activations]
    expected = layer.expected(fused_set, x, h0, c0, lengths)
    # What explodes multiplies its rounding, too.
    assume(all(np.abs(part).max() < 1e4 for part in expected if part.size))
    got = layer.run(
        abi,
        fused_set,
        x,
        h0,
        c0,
        lengths,
        offset=draws.draw(st.integers(0, 3)),
        in_place=draws.draw(st.booleans()),
        parity=draws.draw(st.integers(0, 1)),
    )
    assert_close(got, expected, fused_set)


@pytest.mark.parametrize("cell", sorted(GATES))
@pytest.mark.parametrize("hidden", SIZES)
def test_standard_cells_at_every_size(abi: ModuleType, fused_set: Any, cell: str, hidden: int) -> None:
    layer = Layer(cell, 40, hidden, seed=hidden)
    for batch in (1, 2, 3, 4, 5, 7):
        x, h0, c0 = data(layer, fused_set.dtype, 3, batch, batch)
        assert_close(layer.run(abi, fused_set, x, h0, c0), layer.expected(fused_set, x, h0, c0, None), fused_set)


@settings(max_examples=60, deadline=None)
@given(layer=layers(), batch=st.integers(1, 9), seed=st.integers(0, 99))
def test_one_step_rounds_as_its_definition(
    abi: ModuleType, fused_set: Any, layer: Layer, batch: int, seed: int
) -> None:
    """From the same x and h, whole numbers are the same, and so nothing is left but what single precision is off."""
    layer = replace(layer, activations=[], projected=None, reset_before=False)
    x, h0, c0 = data(layer, fused_set.dtype, 1, batch, seed)
    expected = layer.expected(fused_set, x, h0, c0, None)
    assert_close(
        layer.run(abi, fused_set, x, h0, c0), expected, fused_set, 2e-5 if fused_set.precision in ROUNDED else 0.0
    )


@settings(max_examples=60, deadline=None)
@given(layer=layers(), steps=st.integers(1, 6), batch=st.integers(1, 9), draws=st.data())
def test_cuts_of_batch_and_time_leave_the_bits(
    abi: ModuleType, fused_set: Any, layer: Layer, steps: int, batch: int, draws: st.DataObject
) -> None:
    layer.reverse = False
    x, h0, c0 = data(layer, fused_set.dtype, steps, batch, 3)
    whole = layer.run(abi, fused_set, x, h0, c0)
    rows = sorted({0, batch, *draws.draw(st.lists(st.integers(0, batch)))})
    times = sorted({0, steps, *draws.draw(st.lists(st.integers(0, steps)))})
    for row, row_end in pairwise(rows):
        h, c = h0[row:row_end], c0[row:row_end]
        for time, time_end in pairwise(times):
            parity, offset = draws.draw(st.integers(0, 1)), draws.draw(st.integers(0, 2))
            part = np.ascontiguousarray(x[time:time_end, row:row_end])
            y, h, *rest = layer.run(abi, fused_set, part, h, c, parity=parity, offset=offset)
            c = rest[0] if rest else c
            assert abi.same_bits(y, whole[0][time:time_end, row:row_end].copy())
        for got, all_rows in zip((h, *rest), whole[1:], strict=True):
            assert abi.same_bits(got, all_rows[row:row_end].copy())


@pytest.mark.parametrize("cell", sorted(GATES))
@pytest.mark.parametrize("hidden", [17, 33, 130])
def test_any_number_of_steps_has_the_bits_of_single_ones(
    abi: ModuleType, fused_set: Any, cell: str, hidden: int
) -> None:
    layer, steps = Layer(cell, 7, hidden), 35  # sums over x of 16 steps are done ahead; what is left may be one step
    x, h0, c0 = data(layer, fused_set.dtype, steps, 1, 4)
    single, h, c = [], h0, c0
    for time in range(steps):
        y, h, *rest = layer.run(abi, fused_set, x[time : time + 1], h, c)
        c = rest[0] if rest else c
        single.append(y)
    for count in range(1, steps + 1):
        whole = layer.run(abi, fused_set, x[:count], h0, c0)[0]
        assert abi.same_bits(whole, np.concatenate(single[:count])), count


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_general_path_has_the_bits_of_the_fast_one(abi: ModuleType, fused_set: Any, cell: str) -> None:
    for hidden in (17, 64):
        fast, general = Layer(cell, 9, hidden), Layer(cell, 9, hidden, general=True)
        x, h0, c0 = data(fast, fused_set.dtype, 5, 3, 1)
        for a, b in zip(fast.run(abi, fused_set, x, h0, c0), general.run(abi, fused_set, x, h0, c0), strict=True):
            assert abi.same_bits(a, b)


@settings(max_examples=40, deadline=None)
@given(layer=layers(), batch=st.integers(2, 7), draws=st.data())
def test_what_happens_in_a_row_stays_in_it(
    abi: ModuleType, fused_set: Any, layer: Layer, batch: int, draws: st.DataObject
) -> None:
    x, h0, c0 = data(layer, fused_set.dtype, 3, batch, 8)
    clean = layer.run(abi, fused_set, x, h0, c0)
    row = draws.draw(st.integers(0, batch - 1))
    x[1, row] = draws.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    spoilt = layer.run(abi, fused_set, x, h0, c0)
    others = np.arange(batch) != row
    assert abi.same_bits(spoilt[0][:, others], clean[0][:, others])
    for a, b in zip(spoilt[1:], clean[1:], strict=True):
        assert abi.same_bits(a[others], b[others])


@pytest.mark.parametrize("cell", sorted(GATES))
@pytest.mark.parametrize("hidden", [16, 33, 70])
def test_nan_in_gives_nan_out(abi: ModuleType, fused_set: Any, cell: str, hidden: int) -> None:
    layer = Layer(cell, 3, hidden)
    x, h0, c0 = data(layer, fused_set.dtype, 2, 2, 0)
    x[0, 1, 1] = np.nan
    y = layer.run(abi, fused_set, x, h0, c0)[0]
    assert np.isnan(y[:, 1]).all()
    assert np.isfinite(y[:, 0]).all()


def test_parity_follows_the_steps(abi: ModuleType, fused_set: Any) -> None:
    layer = Layer("gru", 4, 40)
    x, h0, _ = data(layer, fused_set.dtype, 3, 1, 0)
    args = abi.Args()
    packed, y, hn = layer.packed(fused_set), np.empty((3, 1, 40), fused_set.dtype), h0.copy()
    scratch = pack.aligned_empty(layer.scratch(fused_set, 3, 1), fused_set.dtype)
    for slot, array in {0: x, 1: packed, 2: h0, 4: y, 5: hn, 9: scratch}.items():
        args.p[slot] = array.ctypes.data
    args.n[:12] = [3, 1, 4, 40, 40, 4, 4, 40, 40, 0, 0, 0]
    function = abi.ctypes.CFUNCTYPE(abi.ctypes.c_int, abi.ctypes.c_void_p)(fused_set.kernels["gru"])
    assert function(abi.ctypes.addressof(args)) == 0
    assert args.n[10] == 1


def test_a_thousand_steps_stay_close(abi: ModuleType, fused_set: Any) -> None:
    dtype = fused_set.dtype
    for cell in GATES:
        layer = Layer(cell, 20, 64)
        x, h0, c0 = data(layer, dtype, 1000, 1, 2)
        got, expected = layer.run(abi, fused_set, x, h0, c0)[0], layer.expected(fused_set, x, h0, c0, None)[0]
        exact = 2e-6 if dtype == np.float32 else 1e-14
        allowed = ROUNDED.get(fused_set.precision, (exact, exact))[1]
        assert np.abs(got - expected).max() <= allowed, cell


# ------------------------------------------------------------------------------------------------------------- linear


def linear(
    abi: ModuleType, kernels: Any, x: Array, w: Array, b: Array | None, act: tuple[str, float, float], offset: int
) -> Array:
    rows, columns = x.shape[0], w.shape[0]
    x_in = abi.Guarded((rows, x.shape[1] + 2), kernels.dtype, offset)
    x_in.array[:, : x.shape[1]] = x
    y = abi.Guarded((rows, columns + 5), kernels.dtype, offset)
    n = [rows, x.shape[1], columns, x.shape[1] + 2, columns + 5, getattr(abi.GS, f"ACT_{act[0]}")]
    packed = tiers.packer("linear", kernels.precision)(w, b, kernels.dtype)
    scratch = abi.Guarded(tiers.scratch(rows, x.shape[1]) if kernels.precision in precision.BITS else 0, kernels.dtype)
    p = {0: x_in.array, 1: packed, 4: y.array, 9: scratch.array}
    assert abi.call(kernels.kernels["linear"], p, n, act[1:]) == 0
    assert x_in.intact()
    assert scratch.intact()
    assert y.intact()
    assert (y.array[:, columns:].view(np.uint8) == y.PATTERN).all()
    return y.array[:, :columns].copy()


@settings(max_examples=100, deadline=None)
@given(
    rows=st.integers(0, 9),
    width=st.sampled_from([0, *SIZES, 512, 1030]),
    columns=st.sampled_from([*SIZES, 64, 80, 96, 128, 144, 176, 257]),
    name=st.sampled_from(sorted(RECURRENT)),
    biased=st.booleans(),
    offset=st.integers(0, 3),
)
def test_linear(
    abi: ModuleType, fused_set: Any, rows: int, width: int, columns: int, name: str, biased: bool, offset: int
) -> None:
    dtype, act = fused_set.dtype, RECURRENT[name]
    rng = np.random.default_rng(columns + 1000 * width)
    x, w, b = (rng.normal(0, 0.3, s).astype(dtype) for s in ((rows, width), (columns, width), columns))
    got = linear(abi, fused_set, x, w, b if biased else None, act, offset)
    sums = precision.product(fused_set.precision)(x.astype(np.float64), w.astype(np.float64)) + (b if biased else 0)
    expected = reference.activation(name, *act[1:])(sums)
    # The threshold is a step: a sum next to it may fall on either side.
    tolerance = 5e-5 if fused_set.precision in precision.BITS else 5e-6 if dtype == np.float32 else 1e-13
    sure = np.abs(sums - act[1]) > max(1e-5, tolerance) if name == "ThresholdedRelu" else np.full(sums.shape, True)
    np.testing.assert_allclose(got[sure], expected[sure], rtol=tolerance, atol=tolerance)
    for row in range(rows):
        alone = linear(abi, fused_set, x[row : row + 1], w, b if biased else None, act, 0)
        assert abi.same_bits(alone, got[row : row + 1])


@pytest.mark.parametrize("width", [1, 511, 512, 513, 1024, 3000])
def test_sums_of_the_largest_products(abi: ModuleType, fused_set: Any, width: int) -> None:
    """Every whole number as large as it can be: no sum of them may leave its 32 bits."""
    signs = np.sign(np.random.default_rng(width).normal(size=width))
    act = RECURRENT["Affine"]
    for signed in (np.ones(width), signs):
        x = np.stack([signed, -signed, np.ones(width), signed]).astype(fused_set.dtype)
        w = np.stack([signed, -signed, np.ones(width)] * 7).astype(fused_set.dtype)
        expected = 0.4 * (x.astype(np.float64) @ w.T.astype(np.float64)) + 0.1
        np.testing.assert_allclose(linear(abi, fused_set, x, w, None, act, 0), expected, rtol=1e-4)
