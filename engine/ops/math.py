"""Arithmetic: elementwise operators, products, reductions, normalisations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...kernels import tiers
from ...kernels.precision import BITS
from ..graph import Node
from ..values import Value, View, Weights, collapse, in_order
from .plumbing import axes_of, broadcast, cast, inverse, laid, memory_order, permuted
from .registry import Array, Op, register

if TYPE_CHECKING:
    from ..lowering import Lowering

# ---------------------------------------------------------------------- elementwise

#: The kernels' codes (GS_ACT_* of abi.h), by the name of the operator.
ACTIVATIONS = {
    name: code
    for code, name in enumerate(
        "Identity Sigmoid Tanh Relu Affine LeakyRelu ThresholdedRelu ScaledTanh HardSigmoid Elu Softsign Softplus Selu "
        "HardSwish Gelu GeluTanh Exp Log Sqrt Abs Neg Reciprocal Erf Clip Floor Ceil Sign Sin Cos Round".split()
    )
}


def activation_of(node: Node) -> tuple[str, float, float]:
    """Name and parameters of an elementwise operator, as the kernels take them."""
    attrs = node.attrs
    if node.op == "Gelu":
        return ("GeluTanh" if attrs.get("approximate") == "tanh" else "Gelu"), 0.0, 0.0
    if node.op == "Selu":  # y = gamma * (x > 0 ? x : alpha * (exp(x) - 1))
        return "Selu", attrs["alpha"], attrs["gamma"]
    return node.op, attrs.get("alpha", 0.0), attrs.get("beta", 0.0)


@register(
    *"Sigmoid Tanh Relu LeakyRelu ThresholdedRelu HardSigmoid Elu Softsign Softplus Selu HardSwish Gelu".split(),
    *"Exp Log Sqrt Abs Neg Reciprocal Erf Floor Ceil Sign Sin Cos Round".split(),
)
class Unary(Op):
    """y = f(x), element by element."""

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = inputs
        assert x is not None
        if node.op == "ThresholdedRelu":  # x >= alpha in the recurrent operators, x > alpha by itself
            return (np.where(x > node.attrs["alpha"], x, 0).astype(x.dtype),)
        from ...kernels import reference  # a definition, which no program needs

        return (reference.activation(*activation_of(node))(x).astype(x.dtype),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        (x,) = inputs
        assert isinstance(x, View)
        return (activate(ctx, node, x, *activation_of(node)),)


def activate(ctx: Lowering, node: Node, x: View, name: str, alpha: float, beta: float) -> View:
    """An activation of `x`, as part of the dense layer that made it where nothing else sees that layer's result."""
    code = ACTIVATIONS[name]
    layer = ctx.layer(node.inputs[0])
    if layer is not None and layer.n[5] == ACTIVATIONS["Identity"]:
        layer.n[5], layer.f[:] = code, [alpha, beta]
        ctx.is_layer(node.outputs[0], layer)
        return x
    if x.dtype.kind == "u" and name == "Abs":
        return x
    if x.dtype.kind in "iu" and name in ("Neg", "Abs"):
        negative = binary(ctx, node, "Sub", np.zeros((), x.dtype), x)
        return negative if name == "Neg" else binary(ctx, node, "Max", x, negative)
    return unary(ctx, node, x, name, alpha, beta)


def unary(ctx: Lowering, node: Node, x: View, name: str, alpha: float = 0.0, beta: float = 0.0) -> View:
    """Emit an elementwise operation on its own."""
    code = ACTIVATIONS[name]
    perm = memory_order(x, x.ndim)
    source = ctx.dense(node, permuted(ctx.real_view(node, x), perm))
    y = ctx.temp(source.shape, tags=source.tags)
    ctx.emit("unary", node, {0: source, 4: y}, [source.count, code], [alpha, beta])
    return permuted(y, inverse(perm))


@register("Clip")
class Clip(Op):
    """min(max(x, low), high)."""

    known = (1, 2)

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, low, high = (*inputs, None, None)[:3]
        assert x is not None
        if low is not None:
            x = np.maximum(x, low)
        return (np.asarray(x if high is None else np.minimum(x, high)),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, low, high = (*inputs, None, None)[:3]
        assert isinstance(x, View)
        bounds = [
            default if not isinstance(v, np.ndarray) else float(v.reshape(()))
            for v, default in ((low, -math.inf), (high, math.inf))
        ]
        if x.dtype.kind in "iu":
            for op, bound in (("Max", low), ("Min", high)):
                if isinstance(bound, np.ndarray):
                    x = binary(ctx, node, op, x, bound.reshape(()))
            return (x,)
        return (activate(ctx, node, x, "Clip", *bounds),)


def truncated_division(a: Array, b: Array) -> Array:
    """Division as ONNX has it: towards zero on integers, and never an exception."""
    if a.dtype.kind == "f":
        return np.asarray(a / b)
    safe = np.where(b == 0, 1, b)
    return np.where(b == 0, 0, np.sign(a) * np.sign(safe) * (np.abs(a) // np.abs(safe))).astype(a.dtype)


#: GS_BIN_* of abi.h in order, with their definitions.
BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": truncated_division,
    "Pow": np.power,
    "Min": np.minimum,
    "Max": np.maximum,
    "PRelu": lambda a, b: np.where(a >= 0, a, a * b),
    "Mod": np.mod,
    "Fmod": np.fmod,  # what Mod is with attribute fmod
}
COMPARISONS = frozenset("Equal Greater Less GreaterOrEqual LessOrEqual And Or Xor Not IsNaN IsInf".split())
#: Operators that treat every element by itself.
ELEMENTWISE = COMPARISONS | {*ACTIVATIONS, *BINARY, "Where", "Cast"}


@register(*BINARY)
class Binary(Op):
    """y = a op b, broadcast."""

    @staticmethod
    def _name(node: Node) -> str:
        return "Fmod" if node.attrs.get("fmod") else node.op

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        a, b = inputs
        assert a is not None and b is not None
        return (np.asarray(BINARY[Binary._name(node)](a, b)).astype(a.dtype),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        a, b = inputs
        assert a is not None and b is not None
        if node.op == "Add":
            fused = add_to_layer(ctx, node, a, b) or add_to_layer(ctx, node, b, a)
            if fused is not None:
                return (fused,)
        if node.op == "Pow" and b.dtype != a.dtype and isinstance(b, np.ndarray):
            b = b.astype(a.dtype)
        if a.dtype != b.dtype:
            raise ctx.unsupported(node, f"takes {a.dtype} and {b.dtype}", hint="Cast them to one type")
        return (binary(ctx, node, Binary._name(node), a, b),)


def walked(shape: Sequence[int], views: Sequence[View]) -> list[int]:
    """The order of axes in which the first of `views` lies in memory whose elements are all different."""
    for view in views:
        if all(step > 0 or n == 1 for n, step in zip(shape, view.strides, strict=True)):
            return memory_order(view, view.ndim)
    return list(range(len(shape)))


def binary(ctx: Lowering, node: Node, op: str, a: Value, b: Value) -> View:
    """Emit a broadcast binary operation."""
    wide = np.broadcast_shapes(a.shape, b.shape)
    tags = ctx.same(node, [a, b], wide)
    va, vb = ctx.view(a), ctx.view(b)
    kernel, back = "binary", va.dtype
    if va.dtype != ctx.real:
        if va.dtype.kind not in "iu":
            raise ctx.unsupported(node, f"is not supported on {va.dtype} values")
        kernel = "binary_i64"
        va, vb = (cast(ctx, node, v, np.dtype(np.int64)) for v in (va, vb))
    va, vb = broadcast(va, wide), broadcast(vb, wide)
    y = laid(ctx, wide, va.dtype, tags, walked(wide, [v for v, given in ((va, a), (vb, b)) if given.shape == wide]))
    shape, (_, sa, sb) = collapse(*in_order(wide, y.strides, va.strides, vb.strides))
    if len(shape) > 6:
        raise ctx.unsupported(node, f"broadcasts over {len(shape)} axes; at most 6 are supported")
    fill = 6 - len(shape)
    n = [list(BINARY).index(op), len(shape), *shape, *[1] * fill, *sa, *[0] * fill, *sb, *[0] * fill]
    ctx.emit(kernel, node, {0: va, 1: vb, 4: y}, n)
    return y if back == y.dtype else cast(ctx, node, y, back)


# ---------------------------------------------------------------------- products


def add_to_layer(ctx: Lowering, node: Node, x: Value, bias: Value) -> View | None:
    """`x + bias` as part of the dense layer that made `x`, where that is what it is."""
    if not isinstance(x, View) or not isinstance(bias, np.ndarray):
        return None
    name = next(name for name in node.inputs if ctx.values[name] is x)
    layer = ctx.layer(name)
    if layer is None or layer.weights is None or layer.weights.arrays[1] is not None:
        return None
    if layer.n[5] != ACTIVATIONS["Identity"] or bias.size != layer.n[2] or bias.shape[-1:] != (layer.n[2],):
        return None
    if bias.ndim > x.ndim or x.shape[-1] != layer.n[2]:
        return None
    other = next(other for other in node.inputs if other != name)
    layer.weights = Weights(
        (*layer.weights.key, other), layer.weights.pack, (layer.weights.arrays[0], bias.reshape(-1))
    )
    ctx.is_layer(node.outputs[0], layer)
    return x


def linear(
    ctx: Lowering, node: Node, x: View, w: Array, bias: Array | None, key: tuple[object, ...], precision: str = ""
) -> View:
    """y = x @ w + bias over the last axis of `x`; w is (K, N), known. The caller says whether it is the result."""
    k, n = w.shape
    if not x.shape or x.shape[-1] != k:
        raise ValueError(f"{x.shape} cannot be multiplied by {w.shape}")
    precision = precision or ctx.tier(node, w)
    perm = memory_order(x, x.ndim - 1)
    x = permuted(ctx.real_view(node, x), perm)
    lead, (steps,) = collapse(x.shape[:-1], x.strides[:-1])
    if len(lead) > 1 or (k > 1 and x.strides[-1] != 1):
        x = ctx.dense(node, x)
        lead, steps = (math.prod(x.shape[:-1]),), (k,)
    rows = math.prod(lead)
    ctx.mix(x.tags[-1], node, "sums over the frames")
    y = ctx.temp((*x.shape[:-1], n), tags=(*x.tags[:-1], None))
    slots = {0: x, 4: y}
    if precision in BITS:
        slots[9] = ctx.temp((tiers.scratch(rows, k),))
    ctx.emit(
        tiers.kernel("linear", precision),
        node,
        slots,
        [rows, k, n, steps[0] if steps else k, n, ACTIVATIONS["Identity"]],
        [0.0, 0.0],
        Weights(key, tiers.packer("linear", precision), (w.T, bias)),
    )
    return permuted(y, inverse(perm))


def matmul(ctx: Lowering, node: Node, a: Value, b: Value) -> View:
    """y = a @ b with NumPy's broadcasting, both at run time."""
    va, vb = ctx.real_view(node, a), ctx.real_view(node, b)
    if not (va.shape and vb.shape):
        raise ValueError(f"{va.shape} cannot be multiplied by {vb.shape}")
    ones = va.ndim == 1, vb.ndim == 1
    if ones[0]:
        va = va.with_(shape=(1, *va.shape), strides=(0, *va.strides), tags=(None, *va.tags))
    if ones[1]:
        vb = vb.with_(shape=(*vb.shape, 1), strides=(*vb.strides, 0), tags=(*vb.tags, None))
    if va.shape[-1] != vb.shape[-2]:
        raise ValueError(f"{va.shape} cannot be multiplied by {vb.shape}")
    ctx.mix(va.tags[-1], node, "sums over the frames")
    ctx.mix(vb.tags[-2], node, "sums over the frames")
    lead = np.broadcast_shapes(va.shape[:-2], vb.shape[:-2])
    va, vb = broadcast(va, (*lead, *va.shape[-2:])), broadcast(vb, (*lead, *vb.shape[-2:]))
    shape, (sa, sb) = collapse(lead, va.strides[:-2], vb.strides[:-2])
    if len(shape) > 1:
        va, vb = ctx.dense(node, va), ctx.dense(node, vb)
        shape, sa, sb = (math.prod(lead),), (math.prod(va.shape[-2:]),), (math.prod(vb.shape[-2:]),)
    batch = math.prod(shape)
    tags = [ctx.unify(s, t) for s, t in zip(va.tags[:-2], vb.tags[:-2], strict=True)]
    for known in (value for value in (a, b) if isinstance(value, np.ndarray)):
        for axis in range(2, known.ndim):
            if tags[len(lead) + 1 - axis] is not None and (known != known.take([0], -1 - axis)).any():
                ctx.mix(tags[len(lead) + 1 - axis], node, "depends on the position of the frame")
    m, k, n = va.shape[-2], va.shape[-1], vb.shape[-1]
    y = ctx.temp((*lead, m, n), tags=(*tags, va.tags[-2], vb.tags[-1]))
    ctx.emit(
        "matmul",
        node,
        {0: va, 1: vb, 4: y},
        [batch, m, k, n, sa[0] if sa else 0, sb[0] if sb else 0, *va.strides[-2:], *vb.strides[-2:]],
    )
    gone = {y.ndim - 2 + side for side in (0, 1) if ones[side]}
    return permuted(y, [axis for axis in range(y.ndim) if axis not in gone])


@register("MatMul")
class MatMul(Op):
    """y = a @ b; b of two axes, known at load, is a dense layer."""

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        a, b = inputs
        assert a is not None and b is not None
        return (np.matmul(a, b),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        a, b = inputs
        assert a is not None and b is not None
        if isinstance(a, View) and isinstance(b, np.ndarray) and b.ndim == 2:
            y = linear(ctx, node, a, b, None, ("linear", node.inputs[1]))
            ctx.is_layer(node.outputs[0], ctx.instructions[-1])
            return (y,)
        return (matmul(ctx, node, a, b),)


@register("Gemm")
class Gemm(Op):
    """y = alpha * A' @ B' + beta * C, with A' = A or its transpose."""

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        a, b, c = (*inputs, None)[:3]
        assert a is not None and b is not None
        attrs = node.attrs
        y = attrs["alpha"] * ((a.T if attrs["transA"] else a) @ (b.T if attrs["transB"] else b))
        return (np.asarray(y if c is None else y + attrs["beta"] * c).astype(a.dtype),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        a, b, c = (*inputs, None)[:3]
        assert a is not None and b is not None
        attrs = node.attrs
        alpha, beta = attrs["alpha"], attrs["beta"]
        if a.ndim != 2 or b.ndim != 2:
            raise ValueError(f"takes matrices, not {a.shape} and {b.shape}")
        if attrs["transA"]:
            a = permuted(a, (1, 0)) if isinstance(a, View) else a.T
        if attrs["transB"]:
            b = permuted(b, (1, 0)) if isinstance(b, View) else b.T
        if isinstance(a, View) and isinstance(b, np.ndarray):
            w = b if alpha == 1 else (alpha * b).astype(b.dtype)
            row = isinstance(c, np.ndarray) and c.size in (1, w.shape[1]) and (c.ndim < 2 or c.shape[0] == 1)
            bias = np.broadcast_to(beta * c, (1, w.shape[1]))[0] if row and isinstance(c, np.ndarray) else None
            key = ("gemm", node.inputs[1], node.inputs[2] if row else "", alpha, beta, attrs["transB"])
            y = linear(ctx, node, a, w, bias, key)
            if row or c is None or beta == 0:
                ctx.is_layer(node.outputs[0], ctx.instructions[-1])
                return (y,)
        else:
            y = matmul(ctx, node, a, b)
            if alpha != 1:
                y = binary(ctx, node, "Mul", y, np.array(alpha, dtype=ctx.real))
            if c is None or beta == 0:
                return (y,)
        if beta != 1:
            c = binary(ctx, node, "Mul", c, np.array(beta, dtype=ctx.real))
        return (binary(ctx, node, "Add", y, c),)


# ---------------------------------------------------------------------- reductions and normalisations


def bounds_of(dtype: np.dtype[Any]) -> tuple[float, float]:
    """The least and the largest value of a type: what the extremes of nothing are."""
    if dtype.kind in "iu":
        return np.iinfo(dtype).min, np.iinfo(dtype).max
    return (False, True) if dtype.kind == "b" else (-math.inf, math.inf)


#: GS_RED_* of abi.h in order.
REDUCTIONS: dict[str, Callable[..., Array]] = {
    "ReduceSum": np.sum,
    "ReduceMean": np.mean,
    "ReduceMax": lambda x, axis, keepdims: np.max(x, axis=axis, keepdims=keepdims, initial=bounds_of(x.dtype)[0]),
    "ReduceMin": lambda x, axis, keepdims: np.min(x, axis=axis, keepdims=keepdims, initial=bounds_of(x.dtype)[1]),
    "ReduceProd": np.prod,
    "ReduceL2": lambda x, axis, keepdims: np.sqrt(np.sum(np.square(x), axis=axis, keepdims=keepdims)),
    "ReduceSumSquare": lambda x, axis, keepdims: np.sum(np.square(x), axis=axis, keepdims=keepdims),
}


@register(*REDUCTIONS)
class Reduce(Op):
    """A reduction over `axes`; none means all, or nothing where noop_with_empty_axes."""

    known = (1,)

    @staticmethod
    def _axes(node: Node, ndim: int, axes: Array | None) -> tuple[int, ...]:
        if axes is None or axes.size == 0:
            return () if node.attrs.get("noop_with_empty_axes") else tuple(range(ndim))
        return axes_of(axes, ndim)

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, axes = (*inputs, None)[:2]
        assert x is not None
        over = Reduce._axes(node, x.ndim, axes)
        y = REDUCTIONS[node.op](x, axis=over, keepdims=bool(node.attrs["keepdims"]))
        return (np.asarray(y).astype(x.dtype),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, axes = (*inputs, None)[:2]
        assert isinstance(x, View) and not isinstance(axes, View)
        over = Reduce._axes(node, x.ndim, axes)
        return (reduced(ctx, node, node.op, x, over, bool(node.attrs["keepdims"])),)


#: Reductions of integers; of truth values, the extremes only.
WHOLE = ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSumSquare")


def reduced(ctx: Lowering, node: Node, op: str, x: View, axes: Sequence[int], keepdims: bool) -> View:
    """Emit a reduction over `axes`."""
    over = sorted(axes)
    for axis in over:
        ctx.mix(x.tags[axis], node, "reduces over the frames")
    kept = [k for k in range(x.ndim) if k not in over]
    whole = op in WHOLE and (x.dtype.kind in "iu" or (x.dtype.kind == "b" and op in ("ReduceMax", "ReduceMin")))
    back = x.dtype
    # Reduced axes last: an element's order of summation never depends on how many others there are.
    x = permuted(cast(ctx, node, x, np.dtype(np.int64)) if whole else ctx.real_view(node, x), kept + over)
    source = ctx.dense(node, x)
    lead = len(kept)
    y = ctx.temp(x.shape[:lead], x.dtype, x.tags[:lead])
    count, code = math.prod(x.shape[lead:]), list(REDUCTIONS).index(op)
    if whole:
        ctx.emit("reduce_i64", node, {0: source, 4: y}, [y.count, count, code])
        if count == 0 and op in ("ReduceMax", "ReduceMin"):  # of the narrower type
            y = binary(ctx, node, op[6:], y, np.array(int(bounds_of(back)[op == "ReduceMin"])))
        y = cast(ctx, node, y, back)
    else:
        ctx.emit("reduce", node, {0: source, 4: y}, [y.count, count, 1, code])
    if keepdims:
        sources = [None if k in over else kept.index(k) for k in range(x.ndim)]
        y = y.with_(
            shape=tuple(1 if k is None else y.shape[k] for k in sources),
            strides=tuple(0 if k is None else y.strides[k] for k in sources),
            tags=tuple(None if k is None else y.tags[k] for k in sources),
        )
    return y


@register("Softmax", "LogSoftmax")
class Softmax(Op):
    """exp(x) / sum(exp(x)) along `axis` (all axes from it on where `trailing`), or its logarithm."""

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = inputs
        assert x is not None
        (axis,) = axes_of(np.array(node.attrs["axis"]), x.ndim)
        over = tuple(range(axis, x.ndim)) if node.attrs["trailing"] else axis
        z = x - x.max(axis=over, keepdims=True)
        e = np.exp(z)
        total = e.sum(axis=over, keepdims=True)
        return (z - np.log(total) if node.op == "LogSoftmax" else e / total,)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        (x,) = inputs
        assert isinstance(x, View)
        (axis,) = axes_of(np.array(node.attrs["axis"]), x.ndim)
        over = list(range(axis, x.ndim)) if node.attrs["trailing"] else [axis]
        for k in over:
            ctx.mix(x.tags[k], node, "normalises over the frames")
        rest = sorted((k for k in range(x.ndim) if k not in over), key=lambda k: -x.strides[k])
        perm = rest + over
        source = ctx.dense(node, permuted(ctx.real_view(node, x), perm))
        width = math.prod(x.shape[k] for k in over)
        y = ctx.temp(source.shape, tags=source.tags)
        rows = math.prod(source.shape[: x.ndim - len(over)])
        ctx.emit("softmax", node, {0: source, 4: y}, [rows, width, int(node.op == "LogSoftmax")])
        return (permuted(y, inverse(perm)),)


@register("LayerNormalization")
class LayerNormalization(Op):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, over all axes from `axis` on."""

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        x, scale, bias = (*inputs, None)[:3]
        assert x is not None and scale is not None
        (axis,) = axes_of(np.array(node.attrs["axis"]), x.ndim)
        over = tuple(range(axis, x.ndim))
        centred = x - x.mean(axis=over, keepdims=True)
        variance = np.square(centred).mean(axis=over, keepdims=True)
        y = centred / np.sqrt(variance + node.attrs["epsilon"]) * scale
        return (np.asarray(y if bias is None else y + bias).astype(x.dtype),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        x, scale, bias = (*inputs, None)[:3]
        assert isinstance(x, View) and scale is not None
        if any(node.outputs[1:]):
            raise ctx.unsupported(node, "gives mean and deviation too, which is not supported", attribute="outputs")
        (axis,) = axes_of(np.array(node.attrs["axis"]), x.ndim)
        for tag in x.tags[axis:]:
            ctx.mix(tag, node, "normalises over the frames")
        perm = memory_order(x, axis)
        source = ctx.dense(node, permuted(ctx.real_view(node, x), perm))
        inner = x.shape[axis:]
        p = {0: source, 4: ctx.temp(source.shape, tags=source.tags)}
        for slot, value in ((1, scale), (2, bias)):
            if value is not None:
                wide = np.broadcast_to(value, inner) if isinstance(value, np.ndarray) else broadcast(value, inner)
                p[slot] = ctx.dense(node, wide)
        rows = math.prod(x.shape[:axis])
        ctx.emit("layernorm", node, p, [rows, math.prod(inner)], [node.attrs["epsilon"]])
        return (permuted(p[4], inverse(perm)),)
