"""Quantised operators of ONNX, and what those of onnxruntime share with them.

The graph has six (`engine/ops/quantised.py`): to and from integers, exact products of integers, and one LSTM.
Everything else is written out in them: a product, its scales, and what rounds the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...engine.graph import Node
from ...engine.ops import OPS
from . import proto as onnx
from .forms import INT, Attr, Call, Form, same
from .tensors import dtype_of, type_name
from .windows import CONV

__all__ = ["FORMS", "dequantised", "integer_product", "quantised", "requantised", "scaled"]

#: What integers can stand for numbers at run time.
_INTEGERS = ("uint8", "int8", "uint16", "int16")
FLOAT32 = np.dtype(np.float32)


# ---------------------------------------------------------------------- parts
def dequantised(call: Call, q: str, scale: str, zero: str) -> str:
    """``(q - zero) * scale``, one of each for the whole tensor."""
    attrs = {"axis": 0, "block_size": 0}
    folded = _folded(call, "DequantizeLinear", (q, scale, zero), attrs)
    if folded is not None:
        return call.translation.constant(folded)
    return call.add("DequantizeLinear", (q, scale, zero), **attrs)[0]


def quantised(call: Call, x: str, scale: str, zero: str) -> None:
    """The node's output: `x` in integers of the zero point's type, uint8 without one."""
    dtype = call.translation.dtype(zero) if zero else np.dtype(np.uint8)
    call.finish("QuantizeLinear", (x, scale, zero), axis=0, block_size=0, dtype=_integers(call, dtype))


def requantised(call: Call, x: str, zero: str) -> None:
    """The node's output: `x`, which is in units of its scale already, in integers."""
    quantised(call, x, call.constant(1.0, FLOAT32), zero)


def integer_product(call: Call, op: str, inputs: Sequence[str], bias: str = "", **attrs: Any) -> str:
    """An exact product as floating-point numbers; `bias` is in its units."""
    sums = call.add(op, inputs, **attrs)
    if bias:
        sums = call.add("Add", (*sums, bias))
    return call.add("Cast", sums, to=FLOAT32)[0]


def scaled(call: Call, x: str, *scales: str, over: str = "") -> str:
    """`x` times the product of `scales`, which is divided by `over` first."""
    factor, *others = scales
    for other in others:
        (factor,) = call.add("Mul", (factor, other))
    if over:
        (factor,) = call.add("Div", (factor, over))
    return call.add("Mul", (x, factor))[0]


def _integers(call: Call, dtype: np.dtype[Any] | None) -> np.dtype[Any]:
    if dtype is None or dtype.name not in _INTEGERS:
        raise call.unsupported(f"quantises to {dtype or 'an unknown type'}", hint=f"There are {', '.join(_INTEGERS)}")
    return dtype


def _one(call: Call, k: int, name: str) -> None:
    """Refuse more than one number where there may be one for each row."""
    shape = call.translation.shape(call.inputs[k])
    if shape is not None and any(size != 1 for size in shape):
        raise call.unsupported("has more than one number, which is not supported", name, tuple(shape))


# ---------------------------------------------------------------------- to and from integers
def quantize_linear(call: Call) -> None:
    attrs = call.attrs
    asked = attrs.pop("output_dtype", 0)
    dtype = call.dtype(2) if call.inputs[2] else np.dtype(np.uint8)
    if asked:
        named = dtype_of(asked)
        if named is None:
            raise call.unsupported("is a data type that is not supported", "output_dtype", type_name(asked))
        if call.inputs[2] and dtype is not None and named != dtype:
            raise call.damaged(f"attribute output_dtype is {named}, beside a zero point of {dtype}")
        dtype = named
    attrs.setdefault("axis", 1)
    attrs.setdefault("block_size", 0)
    _finish(call, "QuantizeLinear", dtype=_integers(call, dtype), **attrs)


def dequantize_linear(call: Call) -> None:
    attrs = call.attrs
    asked = attrs.pop("output_dtype", 0)
    if asked and (to := dtype_of(asked)) is not None and to.kind != "f":
        raise call.damaged(f"attribute output_dtype is {to}")
    attrs.setdefault("axis", 1)
    attrs.setdefault("block_size", 0)
    _finish(call, "DequantizeLinear", **attrs)


def _finish(call: Call, op: str, **attrs: Any) -> None:
    """The node, or the constant that it is."""
    folded = _folded(call, op, call.inputs, attrs)
    if folded is None:
        call.finish(op, call.inputs, **attrs)
    else:
        call.translation.constant(folded, call.outputs[0])


def _folded(call: Call, op: str, inputs: Sequence[str], attrs: dict[str, Any]) -> np.ndarray | None:
    """What `op` gives for constants: a weight that is stored in integers is a weight."""
    known = [call.graph.constants.get(name) for name in inputs]
    if any(name and array is None for name, array in zip(inputs, known, strict=True)):
        return None
    try:
        with np.errstate(all="ignore"):
            (array,) = OPS[op].evaluate(Node(op, (), (), attrs, call.node.title), *known)
    except (ValueError, IndexError, TypeError) as error:
        raise call.damaged(str(error)) from None
    return array


def dynamic_quantize_linear(call: Call) -> None:
    made = call.add("DynamicQuantizeLinear", call.inputs, (*call.outputs, "", "")[:3])
    for name, dtype in zip(made, (np.uint8, call.dtype(), np.uint8), strict=True):
        if name:
            call.translation.dtypes[name] = None if dtype is None else np.dtype(dtype)


# ---------------------------------------------------------------------- products
def qlinear_matmul(call: Call) -> None:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = call.inputs
    _one(call, 1, "a_scale")
    product = integer_product(call, "MatMulInteger", (a, b, a_zero, b_zero))
    requantised(call, scaled(call, product, a_scale, b_scale, over=y_scale), y_zero)


def qlinear_conv(call: Call) -> None:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias = call.inputs
    shape = call.translation.shape(w)
    if shape is None:
        raise call.unsupported("has weights of unknown rank", hint="Make them a constant of the file")
    _one(call, 1, "x_scale")
    along = call.constant([-1, *[1] * (len(shape) - 2)])

    def channels(value: str) -> str:
        """One for all, or one for each channel, in a shape that broadcasts along the result."""
        return value and call.add("Reshape", (value, along), allowzero=False)[0]

    product = integer_product(call, "ConvInteger", (x, w, x_zero, w_zero), channels(bias), **call.attrs)
    requantised(call, scaled(call, product, x_scale, channels(w_scale), over=y_scale), y_zero)


_AXIS = {"axis": Attr(INT, 1)}
_SATURATE = {"saturate": Attr(INT, 1, harmless=True)}  # for 8-bit floats only
_BLOCK = {"block_size": Attr(INT, 0)}
_TYPE = {"output_dtype": Attr(INT, 0)}
#: In what the division is done: at least single precision.
_PRECISION = {"precision": Attr(INT, 0, choices=(0, int(onnx.TensorProto.FLOAT)), harmless=True)}

FORMS: dict[str, tuple[Form, ...]] = {
    "QuantizeLinear": (
        Form(10, quantize_linear, (2, 3)),
        Form(13, quantize_linear, (2, 3), _AXIS),
        Form(19, quantize_linear, (2, 3), {**_AXIS, **_SATURATE}),
        Form(21, quantize_linear, (2, 3), {**_AXIS, **_SATURATE, **_BLOCK, **_TYPE}),
        Form(23, quantize_linear, (2, 3), {**_AXIS, **_SATURATE, **_BLOCK, **_TYPE, **_PRECISION}),
    ),
    "DequantizeLinear": (
        Form(10, dequantize_linear, (2, 3)),
        Form(13, dequantize_linear, (2, 3), _AXIS),
        Form(21, dequantize_linear, (2, 3), {**_AXIS, **_BLOCK}),
        Form(23, dequantize_linear, (2, 3), {**_AXIS, **_BLOCK, **_TYPE}),
    ),
    "DynamicQuantizeLinear": (Form(11, dynamic_quantize_linear, outputs=3),),
    "MatMulInteger": (Form(10, same, (2, 4)),),
    "ConvInteger": (Form(10, same, (2, 4), CONV),),
    "QLinearMatMul": (Form(10, qlinear_matmul, (8, 8)),),
    "QLinearConv": (Form(10, qlinear_conv, (8, 9), CONV),),
}
