"""Operators of ONNX that compare, choose, rank, and index at run time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .forms import INT, REQUIRED, STRING, Attr, Call, Form, flag, same

__all__ = ["FORMS"]


def indices_of_topk(call: Call, k: str, axis: int, largest: bool) -> None:
    """Outputs values and places; the latter are int64 whatever the values are."""
    call.add("TopK", (call.inputs[0], k), call.outputs, axis=axis, largest=largest)
    if len(call.outputs) > 1:
        call.translation.dtypes[call.outputs[1]] = np.dtype(np.int64)


def topk_attribute(call: Call) -> None:
    indices_of_topk(call, call.constant(call.attrs["k"]), call.attrs["axis"], True)


def topk(call: Call) -> None:
    indices_of_topk(call, call.inputs[1], call.attrs["axis"], call.attrs.get("largest", True))


def extreme(call: Call) -> None:
    call.attrs.setdefault("select_last_index", False)
    same(call)


def scatter(op: str) -> Callable[[Call], None]:
    def translate(call: Call) -> None:
        call.attrs.setdefault("reduction", "none")
        call.finish(op, call.inputs, **call.attrs)

    return translate


def gather_nd(call: Call) -> None:
    call.finish("GatherND", call.inputs, batch_dims=call.attrs.get("batch_dims", 0))


_BINARY, _TERNARY = (2, 2), (3, 3)
_AXIS_0 = {"axis": Attr(INT, 0)}
_EXTREME = {**_AXIS_0, "keepdims": flag(True)}


def _reduction(*more: str) -> dict[str, Attr]:
    return {"reduction": Attr(STRING, "none", choices=("none", "add", "mul", *more))}


FORMS: dict[str, tuple[Form, ...]] = {
    **{op: (Form(7, same, _BINARY),) for op in ("Equal", "Greater", "Less", "And", "Or", "Xor")},
    **{op: (Form(12, same, _BINARY),) for op in ("GreaterOrEqual", "LessOrEqual")},
    "Not": (Form(7, same),),
    "IsNaN": (Form(9, same),),
    "IsInf": (Form(10, same, attrs={"detect_negative": flag(True), "detect_positive": flag(True)}),),
    "Where": (Form(9, same, _TERNARY),),
    "OneHot": (Form(9, same, _TERNARY, {"axis": Attr(INT, -1)}),),
    "Trilu": (Form(14, same, (1, 2), {"upper": flag(True)}),),
    **{
        op: (
            Form(7, extreme, attrs=_EXTREME),
            Form(12, extreme, attrs={**_EXTREME, "select_last_index": flag()}),
        )
        for op in ("ArgMax", "ArgMin")
    },
    "TopK": (
        Form(7, topk_attribute, (1, 1), {"k": Attr(INT, REQUIRED), "axis": Attr(INT, -1)}, 2),
        Form(10, topk, _BINARY, {"axis": Attr(INT, -1)}, 2),
        Form(
            11,
            topk,
            _BINARY,
            {
                "axis": Attr(INT, -1),
                "largest": flag(True),
                "sorted": Attr(INT, 1, choices=(0, 1), harmless=True),  # unsorted: any order will do, so this one
            },
            2,
        ),
    ),
    "CumSum": (Form(11, same, _BINARY, {"exclusive": flag(), "reverse": flag()}),),
    "ReverseSequence": (Form(10, same, _BINARY, {"batch_axis": Attr(INT, 1), "time_axis": Attr(INT, 0)}),),
    "GatherElements": (Form(11, same, _BINARY, _AXIS_0),),
    "GatherND": (Form(11, gather_nd, _BINARY), Form(12, gather_nd, _BINARY, {"batch_dims": Attr(INT, 0)})),
    # What operator set 11 renamed.
    "Scatter": (Form(9, scatter("ScatterElements"), _TERNARY, _AXIS_0),),
    "ScatterElements": (
        Form(11, scatter("ScatterElements"), _TERNARY, _AXIS_0),
        Form(16, scatter("ScatterElements"), _TERNARY, {**_AXIS_0, **_reduction()}),
        Form(18, scatter("ScatterElements"), _TERNARY, {**_AXIS_0, **_reduction("min", "max")}),
    ),
    "ScatterND": (
        Form(11, scatter("ScatterND"), _TERNARY),
        Form(16, scatter("ScatterND"), _TERNARY, _reduction()),
        Form(18, scatter("ScatterND"), _TERNARY, _reduction("min", "max")),
    ),
}
