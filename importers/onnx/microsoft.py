"""Operators of onnxruntime's own, domain ``com.microsoft``: what its quantiser and its optimiser write into files.

Those that are fused are written out again, as the engine fuses by itself; those on integers as in `quantised`.
"""

from __future__ import annotations

from collections.abc import Callable

from .forms import FLOAT, FLOATS, INT, REQUIRED, STRING, Attr, Call, Form, flag, single
from .quantised import (
    FLOAT32,
    dequantised,
    dequantize_linear,
    integer_product,
    quantised,
    quantize_linear,
    requantised,
    scaled,
)
from .recurrent import ATTRS, activations, clip
from .windows import CONV

__all__ = ["FORMS"]


def lacking(call: Call, *positions: int) -> None:
    """Refuse a node without one of these inputs, which stand behind some that may be left out."""
    for k in positions:
        if not call.inputs[k]:
            raise call.damaged(f"lacks input {k}")


# ---------------------------------------------------------------------- integers
def dynamic_quantize_lstm(call: Call) -> None:
    lacking(call, 8, 9, 10, 11)
    attrs, shape = call.attrs, call.translation.shape(call.inputs[2])
    if shape is None or len(shape) != 3 or not isinstance(shape[1], int):
        raise call.unsupported("has weights of unknown shape", hint="Make them a constant of the file")
    if attrs["hidden_size"] not in (None, shape[1]):
        raise call.damaged(f"hidden_size is {attrs['hidden_size']}, and R has shape {shape}")
    call.finish(
        "DynamicQuantizeLSTM",
        call.inputs,
        hidden_size=shape[1],
        direction=attrs["direction"],
        gates="iofc",
        activations=activations(call, "LSTM", 2 if attrs["direction"] == "bidirectional" else 1),
        clip=clip(call),
        coupled="f=1-i" if attrs["input_forget"] else "",
    )


def qgemm(call: Call) -> None:
    """alpha * A' @ B' + C, where C is in units of alpha * a_scale * b_scale."""
    a, a_scale, a_zero, b, b_scale, b_zero, c, y_scale, y_zero = call.inputs
    a, b = (
        call.add("Transpose", (value,), perm=(1, 0))[0] if call.attrs[name] else value
        for name, value in (("transA", a), ("transB", b))
    )
    product = integer_product(call, "MatMulInteger", (a, b, a_zero, b_zero), c)
    scales = [a_scale, b_scale]
    if call.attrs["alpha"] != 1:
        scales.insert(0, call.constant(call.attrs["alpha"], FLOAT32))
    if y_scale:
        requantised(call, scaled(call, product, *scales, over=y_scale), y_zero)
    else:
        call.rename(scaled(call, product, *scales))


def matmul_integer_to_float(call: Call) -> None:
    a, b, a_scale, b_scale, a_zero, b_zero, bias = call.inputs
    _scaled_product(call, a, b, a_scale, b_scale, a_zero, b_zero, bias)


def dynamic_quantize_matmul(call: Call) -> None:
    a, b, b_scale, b_zero, bias = call.inputs
    q, scale, zero = call.add("DynamicQuantizeLinear", (a,), 3)
    _scaled_product(call, q, b, scale, b_scale, zero, b_zero, bias)


def _scaled_product(
    call: Call, a: str, b: str, a_scale: str, b_scale: str, a_zero: str, b_zero: str, bias: str
) -> None:
    made = scaled(call, integer_product(call, "MatMulInteger", (a, b, a_zero, b_zero)), a_scale, b_scale)
    if bias:
        call.finish("Add", (made, bias))
    else:
        call.rename(made)


def qlinear_binary(op: str) -> Callable[[Call], None]:
    def translate(call: Call) -> None:
        lacking(call, 3, 4, 6)
        a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = call.inputs
        values = (dequantised(call, a, a_scale, a_zero), dequantised(call, b, b_scale, b_zero))
        quantised(call, call.add(op, values)[0], y_scale, y_zero)

    return translate


def qlinear_unary(op: str) -> Callable[[Call], None]:
    def translate(call: Call) -> None:
        lacking(call, 3)
        x, x_scale, x_zero, y_scale, y_zero = call.inputs
        quantised(call, call.add(op, (dequantised(call, x, x_scale, x_zero),), **call.attrs)[0], y_scale, y_zero)

    return translate


def qlinear_softmax(call: Call) -> None:
    call.attrs["trailing"] = call.attrs.pop("opset") < 13
    qlinear_unary("Softmax")(call)


def qlinear_concat(call: Call) -> None:
    y_scale, y_zero, *rest = call.inputs
    if len(rest) % 3:
        raise call.damaged(f"has {len(call.inputs)} inputs, which are no whole number of tensors with scale and zero")
    values = [dequantised(call, *rest[k : k + 3]) for k in range(0, len(rest), 3)]
    quantised(call, call.add("Concat", values, axis=call.attrs["axis"])[0], y_scale, y_zero)


def qlinear_where(call: Call) -> None:
    condition, x, x_scale, x_zero, y, y_scale, y_zero, z_scale, z_zero = call.inputs
    values = (dequantised(call, x, x_scale, x_zero), dequantised(call, y, y_scale, y_zero))
    quantised(call, call.add("Where", (condition, *values))[0], z_scale, z_zero)


# ---------------------------------------------------------------------- products, fused with what stands around them
def fused_matmul(call: Call) -> None:
    a, b = call.inputs
    for k in (0, 1):
        if call.attrs[f"transBatch{'AB'[k]}"]:
            raise call.unsupported("is not supported", f"transBatch{'AB'[k]}", 1)
    a, b = (_transposed(call, value) if call.attrs[f"trans{'AB'[k]}"] else value for k, value in enumerate((a, b)))
    _finished(call, call.add("MatMul", (a, b))[0])


def _transposed(call: Call, value: str) -> str:
    """The last two axes in the other order."""
    shape = call.translation.shape(value)
    if shape is not None:
        order = list(range(len(shape)))
        return call.add("Transpose", (value,), perm=(*order[:-2], order[-1], order[-2]))[0]
    return call.add("Einsum", (value,), equation="...ij->...ji")[0]


def _finished(call: Call, product: str) -> None:
    """A product times `alpha`, and its activation."""
    if call.attrs["alpha"] != 1:
        (product,) = call.add("Mul", (product, call.scalar(call.attrs["alpha"])))
    _activated(call, product)


#: Activations of fused operators: the attributes that they take, with defaults, in the order of their parameters.
_ACTIVATIONS: dict[str, tuple[tuple[str, float], ...]] = {
    **dict.fromkeys(("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "HardSwish"), ()),
    "LeakyRelu": (("alpha", single(0.01)),),
    "Elu": (("alpha", 1.0),),
    "ThresholdedRelu": (("alpha", 1.0),),
    "HardSigmoid": (("alpha", single(0.2)), ("beta", 0.5)),
}


def _activated(call: Call, value: str) -> None:
    """The node's output: its activation of `value`."""
    name, given = call.attrs.get("activation"), call.attrs.get("activation_params")
    if not name:
        call.rename(value)
        return
    if name == "Clip" and given is not None and len(given) == 2:
        call.finish("Clip", (value, *(call.scalar(limit) for limit in given)))
        return
    known = _ACTIVATIONS.get(name)
    if known is None or (given is not None and len(given) > len(known)):
        raise call.unsupported("is not supported", "activation", name, f"Known: {', '.join(_ACTIVATIONS)}")
    attrs = {}
    for k, (parameter, default) in enumerate(known):
        asked = call.attrs.get(f"activation_{parameter}")
        attrs[parameter] = given[k] if given is not None and k < len(given) else default if asked is None else asked
    call.finish(name, (value,), **attrs)


def fused_gemm(call: Call) -> None:
    attrs = {name: call.attrs[name] for name in ("alpha", "beta", "transA", "transB")}
    _activated(call, call.add("Gemm", call.inputs, **attrs)[0])


def fused_conv(call: Call) -> None:
    x, w, b, z = call.inputs
    attrs = {name: call.attrs[name] for name in CONV}
    (value,) = call.add("Conv", (x, w, b), **attrs)
    if z:
        (value,) = call.add("Add", (value, z))
    _activated(call, value)


# ---------------------------------------------------------------------- functions and normalisations
def gelu(approximate: str) -> Callable[[Call], None]:
    """Of x, or of x and a bias."""

    def translate(call: Call) -> None:
        x, bias = (*call.inputs, "")[:2]
        if bias:
            (x,) = call.add("Add", (x, bias))
        call.finish("Gelu", (x,), approximate=approximate)

    return translate


def quick_gelu(call: Call) -> None:
    """x * sigmoid(alpha * x)."""
    (x,) = call.inputs
    call.finish("Mul", (x, *call.add("Sigmoid", call.add("Mul", (x, call.scalar(call.attrs["alpha"]))))))


def skip_layer_normalization(op: str) -> Callable[[Call], None]:
    """Of input + skip + bias, which is the fourth output; the second and third are for training."""

    def translate(call: Call) -> None:
        x, skip, gamma, *rest = call.inputs
        beta, bias = rest if op == "LayerNormalization" else ("", *rest)
        for k in (1, 2):
            if call.uses(k):
                raise call.unsupported(f"gives more than its result (output {k}), which is not supported")
        (value,) = call.add("Add", (x, skip))
        if bias:
            (value,) = call.add("Add", (value, bias))
        if call.uses(3):
            call.translation.names[call.outputs[3]] = value
        inputs = (value, gamma, beta) if op == "LayerNormalization" else (value, gamma)
        call.add(op, inputs, call.outputs[:1], axis=-1, epsilon=call.attrs["epsilon"])

    return translate


_TRANS = {"transA": flag(), "transB": flag()}
_ALPHA = {"alpha": Attr(FLOAT, 1.0)}
_ACTIVATION = {"activation": Attr(STRING), "activation_alpha": Attr(FLOAT), "activation_beta": Attr(FLOAT)}
_EPSILON = {"epsilon": Attr(FLOAT, single(1e-12))}
_AXIS = {"axis": Attr(INT, 1)}

_FORMS: dict[str, Form] = {
    "DynamicQuantizeLSTM": Form(1, dynamic_quantize_lstm, (3, 12), {**ATTRS, "input_forget": flag()}, 3),
    "QGemm": Form(1, qgemm, (6, 9), {**_TRANS, **_ALPHA}),
    "MatMulIntegerToFloat": Form(1, matmul_integer_to_float, (4, 7)),
    "DynamicQuantizeMatMul": Form(1, dynamic_quantize_matmul, (3, 5)),
    "QuantizeLinear": Form(1, quantize_linear, (2, 3), _AXIS),
    "DequantizeLinear": Form(1, dequantize_linear, (2, 3), _AXIS),
    "QLinearAdd": Form(1, qlinear_binary("Add"), (2, 8)),
    "QLinearMul": Form(1, qlinear_binary("Mul"), (2, 8)),
    "QLinearSigmoid": Form(1, qlinear_unary("Sigmoid"), (2, 5)),
    "QLinearLeakyRelu": Form(1, qlinear_unary("LeakyRelu"), (2, 5), {"alpha": Attr(FLOAT, single(0.01))}),
    "QLinearSoftmax": Form(1, qlinear_softmax, (2, 5), {"axis": Attr(INT, -1), "opset": Attr(INT, REQUIRED)}),
    "QLinearConcat": Form(1, qlinear_concat, (5, None), {"axis": Attr(INT, REQUIRED)}),
    "QLinearWhere": Form(1, qlinear_where, (9, 9)),
    "FusedMatMul": Form(1, fused_matmul, (2, 2), {**_TRANS, **_ALPHA, "transBatchA": flag(), "transBatchB": flag()}),
    "FusedGemm": Form(1, fused_gemm, (2, 3), {**_TRANS, **_ALPHA, "beta": Attr(FLOAT, 1.0), **_ACTIVATION}),
    "FusedConv": Form(1, fused_conv, (2, 4), {**CONV, "activation": Attr(STRING), "activation_params": Attr(FLOATS)}),
    "Gelu": Form(1, gelu("none")),
    "BiasGelu": Form(1, gelu("none"), (2, 2)),
    "FastGelu": Form(1, gelu("tanh"), (1, 2)),
    "QuickGelu": Form(1, quick_gelu, attrs={"alpha": Attr(FLOAT, single(1.702))}),
    "SkipLayerNormalization": Form(1, skip_layer_normalization("LayerNormalization"), (3, 5), _EPSILON, 4),
    "SkipSimplifiedLayerNormalization": Form(1, skip_layer_normalization("RMSNormalization"), (3, 4), _EPSILON, 4),
}
FORMS: dict[str, tuple[Form, ...]] = {
    **{f"com.microsoft.{op}": (form,) for op, form in _FORMS.items()},
    # Of the default domain by name, but of onnxruntime's making.
    "SimplifiedLayerNormalization": (
        Form(
            7,
            lambda call: call.finish("RMSNormalization", call.inputs, **call.attrs),
            (2, 2),
            {
                "axis": Attr(INT, -1),
                "epsilon": Attr(FLOAT, single(1e-5)),
                "stash_type": Attr(INT, 1, choices=(1,), harmless=True),
            },
            1,
        ),
    ),
}
