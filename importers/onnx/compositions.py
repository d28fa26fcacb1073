"""Operators of ONNX that are written out in others, and those of sums over axes, normalisation and resizing."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .forms import FLOAT, INT, INTS, REQUIRED, STRING, Attr, Call, Form, flag, same, single

__all__ = ["FORMS"]

#: The limits of single precision, which the arithmetic has at least.
_LARGEST, _SMALLEST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)

Emit = Callable[[Call, str], None]
Translate = Callable[[Call], None]


def reduction(emit: Emit) -> tuple[Form, ...]:
    """Forms of a reduction: attribute axes before operator set 18, an input from then on."""

    def attribute(call: Call) -> None:
        axes = call.attrs.pop("axes")
        call.attrs["noop_with_empty_axes"] = False
        emit(call, "" if axes is None else call.constant(axes))

    return (
        Form(7, attribute, (1, 1), {"axes": Attr(INTS), "keepdims": flag(True)}),
        Form(
            18,
            lambda call: emit(call, call.inputs[1]),
            (1, 2),
            {"keepdims": flag(True), "noop_with_empty_axes": flag()},
        ),
    )


def reduce_l1(call: Call, axes: str) -> None:
    call.finish("ReduceSum", (*call.add("Abs", call.inputs[:1]), axes), **call.attrs)


def reduce_log_sum(call: Call, axes: str) -> None:
    call.finish("Log", call.add("ReduceSum", (call.inputs[0], axes), **call.attrs))


def reduce_log_sum_exp(call: Call, axes: str) -> None:
    """The largest is taken out of the sum, so that no power overflows; held finite, so that it can be."""
    x, attrs = call.inputs[0], call.attrs
    limits = (call.constant(-_LARGEST, np.float32), call.constant(_LARGEST, np.float32))

    def largest(keepdims: bool) -> str:
        (top,) = call.add("ReduceMax", (x, axes), **{**attrs, "keepdims": keepdims})
        return call.add("Clip", (top, *limits))[0]

    powers = call.add("Exp", call.add("Sub", (x, largest(True))))
    logarithm = call.add("Log", call.add("ReduceSum", (*powers, axes), **attrs))
    call.finish("Add", (*logarithm, largest(attrs["keepdims"])))


def celu(call: Call) -> None:
    """max(0, x) + min(0, alpha * (exp(x / alpha) - 1)): an Elu in units of alpha."""
    (x,), alpha = call.inputs, call.scalar(call.attrs["alpha"])
    unit = call.add("Elu", call.add("Div", (x, alpha)), alpha=1.0)
    call.finish("Mul", (*unit, alpha))


def tan(call: Call) -> None:
    call.finish("Div", (*call.add("Sin", call.inputs), *call.add("Cos", call.inputs)))


def hyperbolic(op: str) -> Translate:
    """sinh and cosh: half the difference, or the sum, of exp(x) and exp(-x)."""

    def translate(call: Call) -> None:
        powers = (*call.add("Exp", call.inputs), *call.add("Exp", call.add("Neg", call.inputs)))
        call.finish("Mul", (*call.add(op, powers), call.scalar(0.5)))

    return translate


def asinh(call: Call) -> None:
    """sign(x) * log(|x| + sqrt(x * x + 1)): of |x|, so that nothing cancels."""
    (x,), one = call.inputs, call.scalar(1.0)
    (size,) = call.add("Abs", (x,))
    root = call.add("Sqrt", call.add("Add", (*call.add("Mul", (x, x)), one)))
    call.finish("Mul", (*call.add("Sign", (x,)), *call.add("Log", call.add("Add", (size, *root)))))


def acosh(call: Call) -> None:
    """log(x + sqrt(x * x - 1))."""
    (x,), one = call.inputs, call.scalar(1.0)
    root = call.add("Sqrt", call.add("Sub", (*call.add("Mul", (x, x)), one)))
    call.finish("Log", call.add("Add", (x, *root)))


def atanh(call: Call) -> None:
    """log((1 + x) / (1 - x)) / 2."""
    (x,), one = call.inputs, call.scalar(1.0)
    ratio = call.add("Div", (*call.add("Add", (one, x)), *call.add("Sub", (one, x))))
    call.finish("Mul", (*call.add("Log", ratio), call.scalar(0.5)))


def arc_tangent(call: Call, x: str) -> str:
    """The angle of a tangent, to 2e-7: into 0..1 by 1/x, quartered by half angles, then five terms of the series."""
    one = call.scalar(1.0)
    (size,) = call.add("Abs", (x,))
    (part,) = call.add("Min", (size, *call.add("Reciprocal", (size,))))
    for _ in range(2):
        root = call.add("Sqrt", call.add("Add", (*call.add("Mul", (part, part)), one)))
        (part,) = call.add("Div", (part, *call.add("Add", (*root, one))))
    (square,) = call.add("Mul", (part, part))
    total = call.scalar(1 / 9)
    for term in (-1 / 7, 1 / 5, -1 / 3, 1.0):
        (total,) = call.add("Add", (*call.add("Mul", (total, square)), call.scalar(term)))
    angle = call.add("Mul", (*call.add("Mul", (total, part)), call.scalar(4.0)))
    beyond = call.add("Sub", (call.scalar(math.pi / 2), *angle))
    chosen = call.add("Where", (*call.add("Greater", (size, one)), *beyond, *angle))
    return call.add("Mul", (*chosen, *call.add("Sign", (x,))))[0]


def atan(call: Call) -> None:
    call.rename(arc_tangent(call, call.inputs[0]))


def arc_sine(call: Call) -> str:
    """The angle of x / sqrt((1 - x) * (1 + x))."""
    (x,), one = call.inputs, call.scalar(1.0)
    sides = (*call.add("Sub", (one, x)), *call.add("Add", (one, x)))
    return arc_tangent(call, call.add("Div", (x, *call.add("Sqrt", call.add("Mul", sides))))[0])


def asin(call: Call) -> None:
    call.rename(arc_sine(call))


def acos(call: Call) -> None:
    call.finish("Sub", (call.scalar(math.pi / 2), arc_sine(call)))


def hardmax(call: Call) -> None:
    """1 at the first of the largest along the axis, 0 elsewhere."""
    (x,), axis = call.inputs, call.attrs["axis"]
    place = call.add("ArgMax", (x,), axis=axis, keepdims=False, select_last_index=False)
    depth = call.add("Shape", (x,), start=axis, end=axis + 1 if axis != -1 else None)
    call.finish("OneHot", (*place, *depth, call.constant([0, 1], call.dtype() or np.float32)), axis=axis)


def lp_normalization(call: Call) -> None:
    """x over its norm; what is all 0 stays 0."""
    (x,) = call.inputs
    op = "ReduceL2" if call.attrs["p"] == 2 else "ReduceSum"
    source = x if op == "ReduceL2" else call.add("Abs", (x,))[0]
    axes = call.constant([call.attrs["axis"]])
    (norm,) = call.add(op, (source, axes), keepdims=True, noop_with_empty_axes=False)
    call.finish("Div", (x, *call.add("Max", (norm, call.constant(_SMALLEST, np.float32)))))


def mean_variance_normalization(call: Call) -> None:
    """(x - mean) / (deviation + 1e-9)."""
    (x,) = call.inputs
    axes, how = call.constant(call.attrs["axes"]), {"keepdims": True, "noop_with_empty_axes": False}
    (centred,) = call.add("Sub", (x, *call.add("ReduceMean", (x, axes), **how)))
    variance = call.add("ReduceMean", (*call.add("Mul", (centred, centred)), axes), **how)
    deviation = call.add("Add", (*call.add("Sqrt", variance), call.constant(1e-9, np.float32)))
    call.finish("Div", (centred, *deviation))


def group_normalization(per_group: bool) -> Callable[[Call], None]:
    def translate(call: Call) -> None:
        call.finish("GroupNormalization", call.inputs, per_group=per_group, **call.attrs)

    return translate


_STASH = {"stash_type": Attr(INT, 1, choices=(1,), harmless=True)}  # at least single precision inside
_EPSILON = {"epsilon": Attr(FLOAT, single(1e-5))}
_GROUPS = {**_EPSILON, "num_groups": Attr(INT, REQUIRED)}

FORMS: dict[str, tuple[Form, ...]] = {
    **{op: (Form(7, same),) for op in ("Sin", "Cos")},
    "Tan": (Form(7, tan),),
    "Asin": (Form(7, asin),),
    "Acos": (Form(7, acos),),
    "Atan": (Form(7, atan),),
    "Sinh": (Form(9, hyperbolic("Sub")),),
    "Cosh": (Form(9, hyperbolic("Add")),),
    "Asinh": (Form(9, asinh),),
    "Acosh": (Form(9, acosh),),
    "Atanh": (Form(9, atanh),),
    "Celu": (Form(12, celu, attrs={"alpha": Attr(FLOAT, 1.0)}),),
    "Hardmax": (Form(13, hardmax, attrs={"axis": Attr(INT, -1)}),),
    "Round": (Form(11, same),),
    "Mod": (Form(10, same, (2, 2), {"fmod": flag()}),),
    "ReduceL1": reduction(reduce_l1),
    "ReduceLogSum": reduction(reduce_log_sum),
    "ReduceLogSumExp": reduction(reduce_log_sum_exp),
    "Einsum": (Form(12, same, (1, None), {"equation": Attr(STRING, REQUIRED)}),),
    "ConvTranspose": (
        Form(
            7,
            same,
            (2, 3),
            {
                "auto_pad": Attr(STRING, "NOTSET", choices=("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")),
                "dilations": Attr(INTS),
                "group": Attr(INT, 1),
                "kernel_shape": Attr(INTS),
                "output_padding": Attr(INTS),
                "output_shape": Attr(INTS),
                "pads": Attr(INTS),
                "strides": Attr(INTS),
            },
        ),
    ),
    "CenterCropPad": (Form(18, same, (2, 2), {"axes": Attr(INTS)}),),
    "LpNormalization": (Form(7, lp_normalization, attrs={"axis": Attr(INT, -1), "p": Attr(INT, 2, choices=(1, 2))}),),
    "MeanVarianceNormalization": (Form(9, mean_variance_normalization, attrs={"axes": Attr(INTS, (0, 2, 3))}),),
    "GroupNormalization": (
        Form(18, group_normalization(per_group=True), (3, 3), _GROUPS),
        Form(21, group_normalization(per_group=False), (3, 3), {**_GROUPS, **_STASH}),
    ),
    "RMSNormalization": (Form(23, same, (2, 2), {**_EPSILON, **_STASH, "axis": Attr(INT, -1)}),),
}
