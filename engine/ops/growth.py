"""How many elements an operator over known arrays makes, before there is memory for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..graph import Node
from .registry import Array

__all__ = ["growth", "held"]


def growth(node: Node, inputs: Sequence[Any]) -> int:
    """The elements of the result, or more; of operators that broadcast unless told otherwise."""
    arrays = [array for array in inputs if isinstance(array, np.ndarray)]
    try:
        if node.op in _GROWTH:
            return _GROWTH[node.op](node, arrays)
        return math.prod(np.broadcast_shapes(*(array.shape for array in arrays)))
    except (ValueError, IndexError, ArithmeticError, TypeError):  # no broadcasting, or inputs that do not fit
        return sum(array.size for array in arrays)


def held(array: Array) -> int:
    """The elements that `array` has memory for."""
    return math.prod(n for n, step in zip(array.shape, array.strides, strict=True) if step)


def _product(node: Node, arrays: Sequence[Array]) -> int:
    a, b = arrays[:2]
    rows, columns = (a.shape[-2] if a.ndim > 1 else 1), (b.shape[-1] if b.ndim > 1 else 1)
    return int(math.prod(np.broadcast_shapes(a.shape[:-2], b.shape[:-2])) * rows * columns)


def _gemm(node: Node, arrays: Sequence[Array]) -> int:
    a, b = arrays[:2]
    return int(a.shape[1 if node.attrs.get("transA") else 0] * b.shape[0 if node.attrs.get("transB") else 1])


def _gather(node: Node, arrays: Sequence[Array]) -> int:
    table, index = arrays[:2]
    return int(table.size // max(table.shape[node.attrs.get("axis", 0)], 1) * index.size)


def _gather_nd(node: Node, arrays: Sequence[Array]) -> int:
    table, index = arrays[:2]
    return int(index.size // max(index.shape[-1], 1) * table.size)


def _layer(node: Node, arrays: Sequence[Array]) -> int:
    x, w, r = arrays[:3]
    return int(x.shape[0] * x.shape[1] * w.shape[0] * max(r.shape[1:]))


def _conv(node: Node, arrays: Sequence[Array]) -> int:
    x, w = arrays[:2]
    return int(x.size // max(x.shape[1], 1) * w.shape[0])


_GROWTH: dict[str, Callable[[Node, Sequence[Array]], int]] = {
    "MatMul": _product,
    "MatMulInteger": _product,
    "Gemm": _gemm,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Concat": lambda node, arrays: sum(array.size for array in arrays),
    "OneHot": lambda node, arrays: arrays[0].size * int(arrays[1].reshape(-1)[0]),
    "Tile": lambda node, arrays: arrays[0].size * math.prod(map(int, arrays[1].reshape(-1))),
    "Range": lambda node, arrays: math.ceil((arrays[1].item() - arrays[0].item()) / arrays[2].item()),
    "LSTM": _layer,
    "GRU": _layer,
    "RNN": _layer,
    "Conv": _conv,
    "ConvTranspose": lambda node, arrays: arrays[0].size * arrays[1].size,
    # What only shows its input, whatever its size.
    "Expand": lambda node, arrays: arrays[0].size,
    "ConstantOfShape": lambda node, arrays: 1,
    "Reshape": lambda node, arrays: arrays[0].size,
    "Slice": lambda node, arrays: arrays[0].size,
}
