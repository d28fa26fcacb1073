"""Operators of ONNX over windows: convolutions, pooling, padding; and normalisation per channel."""

from __future__ import annotations

from .forms import FLOAT, INT, INTS, REQUIRED, STRING, Attr, Call, Form, flag, same, single

__all__ = ["CONV", "FORMS"]


def one_output(call: Call) -> None:
    """Only output 0; what training or unpooling would take is left out, and refused where something uses it."""
    for k in range(1, len(call.outputs)):
        if call.uses(k):
            raise call.unsupported(f"gives more than its result (output {k}), which is not supported")
    call.add(call.node.op, call.inputs, call.outputs[:1], **call.attrs)


def pad_attributes(call: Call) -> None:
    pads, value = call.attrs.pop("pads"), call.attrs.pop("value")
    call.finish("Pad", (call.inputs[0], call.constant(pads), call.scalar(value), ""), **call.attrs)


def max_pool(call: Call) -> None:
    if call.attrs.pop("storage_order", 0):
        raise call.unsupported("is not supported", "storage_order", 1)
    call.attrs.setdefault("ceil_mode", False)
    call.attrs.setdefault("dilations", None)
    one_output(call)


def average_pool(call: Call) -> None:
    call.attrs.setdefault("ceil_mode", False)
    call.attrs.setdefault("dilations", None)
    one_output(call)


_WINDOW = {
    "auto_pad": Attr(STRING, "NOTSET", choices=("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")),
    "pads": Attr(INTS),
    "strides": Attr(INTS),
}
#: Of every operator that convolves, quantised and fused ones too.
CONV = {**_WINDOW, "kernel_shape": Attr(INTS), "dilations": Attr(INTS), "group": Attr(INT, 1)}
_KERNEL = {**_WINDOW, "kernel_shape": Attr(INTS, REQUIRED)}
_DILATED = {"ceil_mode": flag(), "dilations": Attr(INTS)}
_EPSILON = {"epsilon": Attr(FLOAT, single(1e-5))}
_BATCH = {**_EPSILON, "momentum": Attr(FLOAT, single(0.9), harmless=True)}
_MODES = ("constant", "reflect", "edge")

FORMS: dict[str, tuple[Form, ...]] = {
    "Conv": (Form(7, same, (2, 3), CONV),),
    "MaxPool": (
        Form(7, max_pool, attrs=_KERNEL),
        Form(8, max_pool, attrs={**_KERNEL, "storage_order": Attr(INT, 0)}, outputs=2),
        Form(10, max_pool, attrs={**_KERNEL, **_DILATED, "storage_order": Attr(INT, 0)}, outputs=2),
    ),
    "AveragePool": (
        Form(7, average_pool, attrs={**_KERNEL, "count_include_pad": flag()}),
        Form(10, average_pool, attrs={**_KERNEL, "count_include_pad": flag(), "ceil_mode": flag()}),
        Form(19, average_pool, attrs={**_KERNEL, **_DILATED, "count_include_pad": flag()}),
    ),
    "GlobalAveragePool": (Form(7, same),),
    "GlobalMaxPool": (Form(7, same),),
    "BatchNormalization": (
        Form(7, one_output, (5, 5), {**_BATCH, "spatial": Attr(INT, 1, choices=(1,), harmless=True)}, 5),
        Form(9, one_output, (5, 5), _BATCH, 5),
        Form(14, one_output, (5, 5), {**_BATCH, "training_mode": Attr(INT, 0, choices=(0,), harmless=True)}, 3),
    ),
    "InstanceNormalization": (Form(7, same, (3, 3), _EPSILON),),
    "Pad": (
        Form(
            7,
            pad_attributes,
            (1, 1),
            {
                "mode": Attr(STRING, "constant", choices=_MODES),
                "pads": Attr(INTS, REQUIRED),
                "value": Attr(FLOAT, 0.0),
            },
        ),
        Form(11, same, (2, 3), {"mode": Attr(STRING, "constant", choices=_MODES)}),
        Form(18, same, (2, 4), {"mode": Attr(STRING, "constant", choices=_MODES)}),
        Form(19, same, (2, 4), {"mode": Attr(STRING, "constant", choices=(*_MODES, "wrap"))}),
    ),
}
