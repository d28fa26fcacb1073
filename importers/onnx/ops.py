"""The operators of ONNX, each as forms by operator set, and how each form becomes the graph's one form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import compositions, control, indexing, microsoft, quantised, recurrent, windows
from .forms import (
    FLOAT,
    FLOATS,
    INT,
    INTS,
    REQUIRED,
    SPARSE_TENSOR,
    STRING,
    STRINGS,
    TENSOR,
    Attr,
    Call,
    Form,
    flag,
    same,
    single,
)
from .tensors import dtype_of, type_name

__all__ = ["OPS"]


def renamed(call: Call) -> None:
    call.rename(call.inputs[0])


def axes_to_input(call: Call) -> None:
    """Attribute `axes` to input 1."""
    axes = call.attrs.pop("axes")
    extra = {"noop_with_empty_axes": False} if call.node.op.startswith("Reduce") else {}
    call.finish(call.node.op, (call.inputs[0], "" if axes is None else call.constant(axes)), **call.attrs, **extra)


def chain(call: Call) -> None:
    """Any number of inputs to binary operators, from the left."""
    op = "Add" if call.node.op in ("Sum", "Mean") else call.node.op
    value, *rest = call.inputs
    count = len(call.inputs)
    if not rest:
        call.rename(value)
        return
    last = rest.pop() if call.node.op != "Mean" else ""
    for other in rest:
        (value,) = call.add(op, (value, other))
    if last:
        call.finish(op, (value, last))
    else:
        call.finish("Div", (value, call.scalar(count)))


def softmax(trailing: bool) -> Callable[[Call], None]:
    def translate(call: Call) -> None:
        call.finish(call.node.op, call.inputs, axis=call.attrs["axis"], trailing=trailing)

    return translate


def clip_attributes(call: Call) -> None:
    limits = (call.attrs["min"], call.attrs["max"])
    call.finish("Clip", (call.inputs[0], *("" if limit is None else call.scalar(limit) for limit in limits)))


def slice_attributes(call: Call) -> None:
    starts, ends, axes = (call.attrs[name] for name in ("starts", "ends", "axes"))
    if len(starts) != len(ends) or (axes is not None and len(axes) != len(starts)):
        raise call.damaged("has starts, ends and axes of different lengths")
    indices = (call.constant(starts), call.constant(ends), "" if axes is None else call.constant(axes))
    call.finish("Slice", (call.inputs[0], *indices, ""))


def split(call: Call) -> None:
    sizes, asked = call.attrs.get("split"), call.attrs.get("num_outputs")
    value, *given = call.inputs
    # Outputs left out at the end count all the same.
    count = len(call.node.outputs)
    if asked is not None and (asked != count or given[0]):
        raise call.damaged(f"attribute num_outputs is {asked}, beside {count} outputs and input split {given[0]!r}")
    if sizes is not None and len(sizes) != count:
        raise call.damaged(f"attribute split has {len(sizes)} sizes for {count} outputs")
    given = [call.constant(sizes)] if sizes is not None else given or [""]
    call.add("Split", (value, *given), call.node.outputs, axis=call.attrs["axis"], num_outputs=count)


def dropout(call: Call) -> None:
    """Nothing at inference."""
    if call.uses(1):
        raise call.unsupported("has a mask that is used", "mask", call.outputs[1])
    if len(call.inputs) > 2 and call.inputs[2]:
        training = call.known(2)
        if training is None or training.size != 1 or bool(training.reshape(-1)[0]):
            raise call.unsupported("is in training mode", "training_mode", hint="Export the model for inference")
    call.rename(call.inputs[0])


def cast(call: Call) -> None:
    code = call.attrs["to"]
    to = dtype_of(code)
    if to is None:
        raise call.unsupported("is a data type that is not supported", "to", type_name(code))
    given = call.dtype()
    if given is not None and given.kind == to.kind == "f":
        call.rename(call.inputs[0])  # there is one type of real numbers, the arithmetic's
    else:
        call.finish("Cast", call.inputs, to=to)


def cast_like(call: Call) -> None:
    to = call.dtype(1)
    if to is None:
        raise call.unsupported(f"casts to the type of {call.node.inputs[1]!r}, which is unknown")
    call.finish("Cast", call.inputs[:1], to=to)


def constant(call: Call) -> None:
    given = {name: value for name, value in call.attrs.items() if value is not None}
    if len(given) != 1:
        raise call.damaged(f"has {len(given)} values, not one")
    ((name, value),) = given.items()
    dtypes = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if name == "value":
        array = value
    elif name in dtypes:
        array = np.asarray(value, dtypes[name])
    else:
        raise call.unsupported("holds text, which is not supported", name)
    call.translation.constant(array, call.outputs[0])


def constant_of_shape(call: Call) -> None:
    value = call.attrs["value"]
    value = np.zeros(1, np.float32) if value is None else value
    if value.size != 1:
        raise call.damaged(f"attribute value has {value.size} elements, not one")
    call.finish("ConstantOfShape", call.inputs, value=value.reshape(1))


def swish(call: Call) -> None:
    (x,) = call.inputs
    alpha = call.attrs["alpha"]
    scaled = x if alpha == 1 else call.add("Mul", (x, call.scalar(alpha)))[0]
    call.finish("Mul", (x, *call.add("Sigmoid", (scaled,))))


def mish(call: Call) -> None:
    (x,) = call.inputs
    call.finish("Mul", (x, *call.add("Tanh", call.add("Softplus", (x,)))))


def layer_normalization(call: Call) -> None:
    for k, name in ((1, "Mean"), (2, "InvStdDev")):
        if call.uses(k):
            raise call.unsupported("has a second result that is used", name, call.outputs[k])
    call.add("LayerNormalization", call.inputs, call.outputs[:1], **call.attrs)


# ---------------------------------------------------------------------- the table
def _reduction(since: int) -> tuple[Form, ...]:
    """Attribute axes before operator set `since`, an input from then on."""
    return (
        Form(7, axes_to_input, (1, 1), {"axes": Attr(INTS), "keepdims": flag(True)}),
        Form(since, same, (1, 2), {"keepdims": flag(True), "noop_with_empty_axes": flag()}),
    )


_BINARY = (2, 2)
_CAST = {
    "saturate": Attr(INT, 1, harmless=True),  # both are for 8-bit floats only
    "round_mode": Attr(STRING, "up", harmless=True),
}
_CONSTANT = {"value": Attr(TENSOR), "sparse_value": Attr(SPARSE_TENSOR)}
_CONSTANT_12 = {
    **_CONSTANT,
    "value_float": Attr(FLOAT),
    "value_floats": Attr(FLOATS),
    "value_int": Attr(INT),
    "value_ints": Attr(INTS),
    "value_string": Attr(STRING),
    "value_strings": Attr(STRINGS),
}
_SPLIT = {"axis": Attr(INT, 0)}

OPS: dict[str, tuple[Form, ...]] = {
    **recurrent.FORMS,
    **windows.FORMS,
    **indexing.FORMS,
    **compositions.FORMS,
    **quantised.FORMS,
    **microsoft.FORMS,
    **control.FORMS,
    # values that move
    "Transpose": (Form(7, same, attrs={"perm": Attr(INTS)}),),
    "Squeeze": (Form(7, axes_to_input, (1, 1), {"axes": Attr(INTS)}), Form(13, same, (1, 2))),
    "Unsqueeze": (Form(7, axes_to_input, (1, 1), {"axes": Attr(INTS, REQUIRED)}), Form(13, same, (2, 2))),
    "Reshape": (
        Form(7, lambda call: call.finish("Reshape", call.inputs, allowzero=False), _BINARY),
        Form(14, same, _BINARY, {"allowzero": flag()}),
    ),
    "Flatten": (Form(7, same, attrs={"axis": Attr(INT, 1)}),),
    "Concat": (Form(7, same, (1, None), {"axis": Attr(INT, REQUIRED)}),),
    "Split": (
        Form(7, split, (1, 1), {**_SPLIT, "split": Attr(INTS)}, None),
        Form(13, split, (1, 2), _SPLIT, None),
        Form(18, split, (1, 2), {**_SPLIT, "num_outputs": Attr(INT)}, None),
    ),
    "Slice": (
        Form(
            7,
            slice_attributes,
            (1, 1),
            {"starts": Attr(INTS, REQUIRED), "ends": Attr(INTS, REQUIRED), "axes": Attr(INTS)},
        ),
        Form(10, same, (3, 5)),
    ),
    "Gather": (Form(7, same, _BINARY, {"axis": Attr(INT, 0)}),),
    "Expand": (Form(8, same, _BINARY),),
    "Tile": (Form(7, same, _BINARY),),
    # values that are known, and types
    "Shape": (
        Form(7, lambda call: call.finish("Shape", call.inputs, start=0, end=None)),
        Form(15, same, attrs={"start": Attr(INT, 0), "end": Attr(INT)}),
    ),
    "Size": (Form(7, same),),
    "Constant": (
        Form(7, constant, (0, 0), {"value": Attr(TENSOR)}),
        Form(11, constant, (0, 0), _CONSTANT),
        Form(12, constant, (0, 0), _CONSTANT_12),
    ),
    "ConstantOfShape": (Form(9, constant_of_shape, attrs={"value": Attr(TENSOR)}),),
    "Range": (
        Form(11, same, (3, 3)),
        Form(27, same, (3, 3), {"stash_type": Attr(INT, 1, harmless=True)}),  # how half-precision ranges round
    ),
    "Identity": (Form(7, renamed),),
    "Dropout": (
        Form(7, dropout, (1, 1), {"ratio": Attr(FLOAT, 0.5, harmless=True)}, 2),
        Form(12, dropout, (1, 3), {"seed": Attr(INT, harmless=True)}, 2),
    ),
    "Cast": (
        Form(7, cast, attrs={"to": Attr(INT, REQUIRED)}),
        Form(19, cast, attrs={"to": Attr(INT, REQUIRED), "saturate": _CAST["saturate"]}),
        Form(24, cast, attrs={"to": Attr(INT, REQUIRED), **_CAST}),
    ),
    "CastLike": (
        Form(15, cast_like, _BINARY),
        Form(19, cast_like, _BINARY, {"saturate": _CAST["saturate"]}),
        Form(24, cast_like, _BINARY, _CAST),
    ),
    # arithmetic
    "MatMul": (Form(7, same, _BINARY),),
    "Gemm": tuple(
        Form(
            since,
            same,
            (required, 3),
            {
                "alpha": Attr(FLOAT, 1.0),
                "beta": Attr(FLOAT, 1.0),
                "transA": flag(),
                "transB": flag(),
            },
        )
        for since, required in ((7, 3), (11, 2))
    ),
    **{op: (Form(7, same, _BINARY),) for op in ("Add", "Sub", "Mul", "Div", "Pow", "PRelu")},
    **{op: (Form(7, chain, (1, None)),) for op in ("Min", "Max", "Sum", "Mean")},
    # elementwise functions
    **{op: (Form(7, same),) for op in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign")},
    **{op: (Form(7, same),) for op in ("Exp", "Log", "Sqrt", "Abs", "Neg", "Reciprocal", "Floor", "Ceil")},
    **{op: (Form(9, same),) for op in ("Erf", "Sign")},
    "HardSwish": (Form(14, same),),
    "LeakyRelu": (Form(7, same, attrs={"alpha": Attr(FLOAT, single(0.01))}),),
    "Elu": (Form(7, same, attrs={"alpha": Attr(FLOAT, 1.0)}),),
    "Selu": (
        Form(
            7,
            same,
            attrs={
                "alpha": Attr(FLOAT, single(1.67326319217681884765625)),
                "gamma": Attr(FLOAT, single(1.05070102214813232421875)),
            },
        ),
    ),
    "HardSigmoid": (Form(7, same, attrs={"alpha": Attr(FLOAT, single(0.2)), "beta": Attr(FLOAT, 0.5)}),),
    # Operator set 10 has it officially; before that it was experimental, with the same meaning.
    "ThresholdedRelu": (Form(7, same, attrs={"alpha": Attr(FLOAT, 1.0)}),),
    "Gelu": (Form(20, same, attrs={"approximate": Attr(STRING, "none", choices=("none", "tanh"))}),),
    "Mish": (Form(18, mish),),
    "Swish": (Form(24, swish, attrs={"alpha": Attr(FLOAT, 1.0)}),),
    "Clip": (
        Form(7, clip_attributes, (1, 1), {"min": Attr(FLOAT), "max": Attr(FLOAT)}),
        Form(11, same, (1, 3)),
    ),
    # along axes
    "Softmax": (
        Form(7, softmax(trailing=True), attrs={"axis": Attr(INT, 1)}),
        Form(13, softmax(trailing=False), attrs={"axis": Attr(INT, -1)}),
    ),
    "LogSoftmax": (
        Form(7, softmax(trailing=True), attrs={"axis": Attr(INT, 1)}),
        Form(13, softmax(trailing=False), attrs={"axis": Attr(INT, -1)}),
    ),
    # Operator set 17 has it officially; onnxruntime writes it into older files, with the same meaning.
    "LayerNormalization": (
        Form(
            7,
            layer_normalization,
            (2, 3),
            {
                "axis": Attr(INT, -1),
                "epsilon": Attr(FLOAT, single(1e-5)),
                # 1: at least single precision inside, which is what there is
                "stash_type": Attr(INT, 1, choices=(1,), harmless=True),
            },
            3,
        ),
    ),
    "ReduceSum": _reduction(13),
    **{
        op: _reduction(18)
        for op in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2", "ReduceSumSquare")
    },
}
