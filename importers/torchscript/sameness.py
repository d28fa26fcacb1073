"""Whether two graphs compute the same, value by value; what is known to be zeros is the same as zeros."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from ...engine.graph import Graph

__all__ = ["same"]

#: Operators that give zeros for zeros.
_KEEPS_ZEROS = frozenset("Transpose Squeeze Unsqueeze Reshape Slice Gather Expand Tile Split Cast".split())
#: Where a recurrent operator takes initial states, which are zeros where there are none.
_INITIAL = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
_ZEROS = ("zeros",)


def same(one: Graph, other: Graph, *, zeros: Collection[str] = ()) -> bool:
    """Whether the outputs of `one` are the first of those of `other`, where its inputs in `zeros` are zeros."""
    numbers: dict[Any, int] = {}
    first, second = (_outputs(graph, set(zeros), numbers) for graph in (one, other))
    return first == second[: len(first)]


def _outputs(graph: Graph, zeros: set[str], numbers: dict[Any, int], inputs: Iterable[Any] | None = None) -> list[int]:
    """A number for each output, equal for what is computed in the same way of the same."""

    def number(key: Any) -> int:
        return numbers.setdefault(key, len(numbers))

    zero = number(_ZEROS)
    given = [("input", port.name) for port in graph.inputs] if inputs is None else list(inputs)
    held = {
        port.name: zero if port.name in zeros else number(key) for port, key in zip(graph.inputs, given, strict=True)
    }
    for name, array in graph.constants.items():
        digest = hashlib.sha256(np.ascontiguousarray(array).data).digest() if array.any() else None
        axes = array.ndim and array.dtype.kind == "f"
        held[name] = zero if digest is None and axes else number(("constant", array.dtype.str, array.shape, digest))
    for node in graph.nodes:
        initial = _INITIAL.get(node.op, ())
        absent = [zero if k in initial else -1 for k in range(max(len(node.inputs), 9))]
        taken = [held[name] if name else absent[k] for k, name in enumerate(node.inputs)]
        if node.op in _INITIAL:  # those at the end may be left out
            taken += absent[len(taken) :]
        filled = node.op == "ConstantOfShape" and not np.any(node.attrs["value"])
        joined = node.op == "Concat" and all(value == zero for value in taken)
        kept = filled or joined or (node.op in _KEEPS_ZEROS and taken[0] == zero)
        attrs = {name: _attribute(value, numbers) for name, value in node.attrs.items()}
        key = (node.op, repr(sorted(attrs.items())), tuple(taken))
        for k, name in enumerate(node.outputs):
            held[name] = zero if kept else number((key, k))
    return [held[port.name] for port in graph.outputs]


def _attribute(value: Any, numbers: dict[Any, int]) -> Any:
    if isinstance(value, Graph):
        return _outputs(value, set(), numbers, [("body", k) for k in range(len(value.inputs))])
    return value.tolist() if isinstance(value, np.ndarray) else value
