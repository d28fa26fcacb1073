"""A program that would leave its memory is refused before it is bound to any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gatestep.engine import bounds
from gatestep.engine.errors import ShapeError
from gatestep.engine.graph import Node
from gatestep.engine.lowering import Instruction
from gatestep.engine.values import Buffer, View
from gatestep.kernels import PRECISIONS, _plumbing, kernel_set, pack, tiers
from gatestep.kernels.precision import BITS

F32, I64, I32, I16, U1 = (np.dtype(kind) for kind in (np.float32, np.int64, np.int32, np.int16, np.uint8))
SIX = (1, 1, 1, 1)


def view(dtype: Any, *shape: int) -> View:
    return View.whole(Buffer("temp", np.dtype(dtype), int(np.prod(shape))), shape)


def padded(*values: int) -> list[int]:
    return [*values, *[1] * (6 - len(values))]


#: A call of each kernel that touches all of its memory: views, sizes, and packed weights.
T, B, X, H = 5, 2, 3, 4
STATES = {2: (F32, B, H), 4: (F32, T, B, H), 5: (F32, B, H)}
CELL = [T, B, X, H, H, B * X, X, B * H, H, 0, 0, 0, 1, 2, 2, 0]
SCRATCH = {9: (F32, 5 * 2 * 64 * 6 + 64)}
CALLS: dict[str, tuple[dict[int, Any], list[int], int | None]] = {
    "lstm": ({0: (F32, T, B, X), **STATES, 3: (F32, B, H), 6: (F32, B, H), **SCRATCH}, CELL, 64 * 8),
    "gru": ({0: (F32, T, B, X), **STATES, **SCRATCH, 10: (I32, B)}, CELL, 16 * (4 + 3 * 7)),
    "rnn": ({0: (F32, T, B, X), **STATES, **SCRATCH}, CELL, 16 * 8),
    "linear": ({0: (F32, 6, 3), 4: (F32, 6, 5)}, [6, 3, 5, 3, 5, 0], 64),
    "matmul": ({0: (F32, 2, 3, 4), 1: (F32, 2, 4, 5), 4: (F32, 2, 3, 5)}, [2, 3, 4, 5, 12, 20, 4, 1, 5, 1], None),
    "unary": ({0: (F32, 9), 4: (F32, 9)}, [9, 1], None),
    "binary": (
        {0: (F32, 3, 4), 1: (F32, 4), 4: (F32, 3, 4)},
        [0, 2, *padded(3, 4), *padded(4, 1), *padded(0, 1)],
        None,
    ),
    "binary_i64": ({0: (I64, 4), 1: (I64, 4), 4: (I64, 4)}, [0, 1, *padded(4), *padded(1), *padded(1)], None),
    "compare": ({0: (F32, 4), 1: (F32, 4), 4: (U1, 4)}, [0, 1, *padded(4), *padded(1), *padded(1), 7], None),
    "where": (
        {0: (U1, 4), 1: (F32, 4), 2: (F32, 4), 4: (F32, 4)},
        [4, 1, *padded(4), *padded(1), *padded(1)],
        None,
    ),
    "reduce": ({0: (F32, 2, 3, 4), 4: (F32, 2, 4)}, [2, 3, 4, 0], None),
    "reduce_i64": ({0: (I64, 2, 3), 4: (I64, 2)}, [2, 3, 0], None),
    "softmax": ({0: (F32, 2, 3), 4: (F32, 2, 3)}, [2, 3, 0], None),
    "layernorm": ({0: (F32, 2, 3), 1: (F32, 3), 2: (F32, 3), 4: (F32, 2, 3)}, [2, 3], None),
    "copy": ({0: (F32, 3, 4), 4: (F32, 3, 4)}, [2, *padded(3, 4), *padded(4, 1), *padded(4, 1), 4], None),
    "cast": ({0: (I32, 5), 4: (F32, 5)}, [5, 4, 7], None),
    "copy_at": (
        {0: (F32, 3, 4), 1: (I64, 1), 4: (F32, 3, 4)},
        [2, *padded(3, 4), *padded(4, 1), *padded(4, 1), 4, 0, 0],
        None,
    ),
    "jump": ({0: (U1, 1)}, [0, 1], None),
    "count": ({0: (I64, 1), 1: (I64, 1), 4: (I64, 1)}, [0, 1, 0], None),
    "check_range": ({0: (I32, 5)}, [5, 0, 3], None),
    "gather": ({0: (F32, 2, 3, 4), 1: (I64, 5), 4: (F32, 2, 5, 4)}, [2, 3, 16, 5], None),
    "argmax": ({0: (F32, 2, 3), 4: (I64, 2)}, [2, 3, 7, 0, 0], None),
    "topk": ({0: (F32, 2, 3), 4: (F32, 2, 2), 5: (I64, 2, 2)}, [2, 3, 2, 1, 7], None),
    "cumsum": ({0: (F32, 2, 3, 4), 4: (F32, 2, 3, 4)}, [2, 3, 4, 0, 0, 7], None),
    "reverse_sequence": ({0: (F32, 2, 3, 4), 1: (I64, 2), 4: (F32, 2, 3, 4)}, [2, 3, 16], None),
    "element_index": ({0: (I64, 3, 4), 4: (I64, 3, 4)}, [2, *padded(3, 4), *padded(0, 1), 4, 3], None),
    "tuple_index": ({0: (I64, 5, 2), 4: (I64, 5)}, [5, 2, 9, *padded(3, 3)], None),
    "scatter": ({0: (F32, 5, 4), 1: (I64, 5), 4: (F32, 9, 4)}, [5, 4, 0, 7, 4], None),
    "quantise": ({0: (F32, 2, 3, 4), 1: (F32, 3), 2: (I32, 3), 4: (U1, 2, 3, 4)}, [2, 3, 4, 1], None),
    "dequantise": ({0: (U1, 2, 3, 4), 1: (F32, 3), 2: (I32, 3), 4: (F32, 2, 3, 4)}, [2, 3, 4, 1], None),
    "centre": ({0: (U1, 2, 3, 4), 2: (I32, 3), 4: (I16, 2, 3, 4)}, [2, 3, 4, 1], None),
    "quantise_dynamically": ({0: (F32, 5), 4: (U1, 5), 5: (F32, 1), 6: (I32, 1)}, [5], None),
    "matmul_i16": ({0: (I16, 2, 3, 4), 1: (I16, 2, 5, 4), 4: (I32, 2, 3, 5)}, [2, 3, 5, 4, 12, 20, 4, 4], None),
    "quantised_lstm": (
        {0: (F32, T, B, 4 * H), **STATES, 3: (F32, B, H), 6: (F32, B, H), 9: (F32, 4 * H + B * H), 11: (F32, 4 * H)},
        [T, B, 0, H, 0, 0, 0, B * H, H, 0, 0, 0, 1, 2, 2, 0],
        4 * H * H,
    ),
}
#: Sizes that lie in no memory of their own: flags, codes, limits, and what the kernel checks as it runs.
FREE = {
    **dict.fromkeys(("lstm", "gru", "rnn"), range(9, 16)),
    **dict.fromkeys(("binary", "binary_i64", "where"), (0,)),
    **dict.fromkeys(("quantise", "dequantise", "centre"), (3,)),
    "quantised_lstm": (2, 4, 5, 6, *range(9, 16)),
    **dict.fromkeys(("cast", "check_range"), (1, 2)),
    **dict.fromkeys(("reduce_i64", "softmax"), (2,)),
    "compare": (0, 20),
    "linear": (5,),
    "unary": (1,),
    "reduce": (3,),
    "argmax": (2, 3, 4),
    "topk": (3, 4),
    "cumsum": (3, 4, 5),
    "element_index": range(7, 15),
    "tuple_index": range(2, 9),
    "scatter": (2, 3),
    **dict.fromkeys(("copy", "copy_at"), (19,)),
}


#: The kernels of precision tiers touch what the others do, but for weights, which are bytes, and scratch.
FUSED = ("lstm", "gru", "rnn", "linear")
for name in FUSED:
    for precision in PRECISIONS[:-1]:
        views, n, _ = CALLS[name]
        operands, outputs = ([X, H], H) if name != "linear" else ([n[1]], n[2])
        whole = (
            tiers.scratch(pack.ahead(T, B) * B, X) + tiers.scratch(B, H) if name != "linear" else tiers.scratch(*n[:2])
        )
        if precision in BITS:
            views = {**views, 9: (F32, views.get(9, (F32, 0))[1] + whole)}
        CALLS[tiers.kernel(name, precision)] = views, n, tiers.packed_bytes(name, operands, outputs, precision)
        FREE[tiers.kernel(name, precision)] = FREE[name]


def instruction(kernel: str) -> tuple[Instruction, np.ndarray | None]:
    views, n, packed = CALLS[kernel]
    made = {slot: view(*what) for slot, what in views.items()}
    weights = None if packed is None else np.zeros(packed, F32)
    return Instruction(kernel, Node("Op", (), ("y",), {}, "n"), made, list(n), []), weights


def test_every_kernel_is_known() -> None:
    real = kernel_set("cython", F32)
    names = {*_plumbing.KERNELS, *real._addresses}
    names |= {tiers.kernel(name, precision) for name in FUSED for precision in PRECISIONS}
    assert set(bounds.REACHES) >= names
    assert names >= set(CALLS)


@pytest.mark.parametrize("kernel", CALLS)
def test_what_lies_inside_passes(kernel: str) -> None:
    call, weights = instruction(kernel)
    bounds.check([call], [weights], "m")


@pytest.mark.parametrize("kernel", CALLS)
def test_larger_sizes_do_not(kernel: str) -> None:
    """Whatever size or stride grows along an axis of more than one element, some buffer is too small for it."""
    for k, value in enumerate(CALLS[kernel][1]):
        if k in FREE.get(kernel, ()) or value in (0, 1):
            continue
        call, weights = instruction(kernel)
        for wrong in (value + 1000, -value - 1000):
            call.n[k] = wrong
            with pytest.raises(ShapeError, match=f"m: Op 'n': {kernel} would leave its memory"):
                bounds.check([call], [weights], "m")


CHANGES: dict[str, Callable[[View], View]] = {
    "offset": lambda v: v.with_(offset=v.count),
    "before": lambda v: v.with_(offset=-1),
    "stride": lambda v: v.with_(strides=tuple(s * 3 for s in v.strides)),
    "backwards": lambda v: v.with_(strides=tuple(-s for s in v.strides)),
    "shape": lambda v: v.with_(shape=(v.shape[0] + 1, *v.shape[1:])),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kernel", CALLS)
def test_views_that_lie_do_not(kernel: str, change: str) -> None:
    for slot in CALLS[kernel][0]:
        call, weights = instruction(kernel)
        if call.p[slot].count == 1 and change in ("stride", "backwards"):
            continue  # of one element no stride is ever taken
        call.p[slot] = CHANGES[change](call.p[slot])
        with pytest.raises(ShapeError, match="would leave its memory"):
            bounds.check([call], [weights], "m")


def test_packed_weights_that_are_too_few_do_not() -> None:
    for kernel in ("lstm", "gru", "rnn", "linear"):
        call, weights = instruction(kernel)
        assert weights is not None
        with pytest.raises(ShapeError, match="slot 1"):
            bounds.check([call], [weights[:-1]], "m")
