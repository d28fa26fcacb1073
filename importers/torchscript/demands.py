"""What operators demand of their arguments, where it says something about the inputs of the program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..aten import Aten, Tensor
from .shapes import Shapes

__all__ = ["Demands"]

#: Nodes that give the elements of their first input, moved.
_MOVES = frozenset("Transpose Reshape Squeeze Unsqueeze Slice Split Expand Gather Tile Cast".split())
_ELEMENTWISE = frozenset("add sub mul div rsub maximum minimum".split())
#: Tensors that one is taken apart into.
MOST_PIECES = 1 << 12
_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
_WINDOWS = {"conv1d": 1, "conv2d": 2, "conv3d": 3}


class Demands:
    """Holds the arguments of operators against what these take.

    Parameters
    ----------
    aten : Aten
    shapes : Shapes
    """

    def __init__(self, aten: Aten, shapes: Shapes) -> None:
        self.aten, self.shapes = aten, shapes

    def check(self, name: str, values: list[Any], named: Mapping[str, Any]) -> None:
        """Learn from a call, or find that it makes no sense; arguments that are missing are the operator's matter."""
        if name in _GATES:
            self._layers(name, values)
        elif name.removesuffix("_cell") in _GATES:
            self._cell(name.removesuffix("_cell"), values)
        elif name in _ELEMENTWISE:
            self._elementwise(values)
        else:
            demand = _DEMANDS.get(name)
            if demand is not None and values:
                demand(self, values)

    # ------------------------------------------------------------------ helpers
    def rank(self, x: Any, *ranks: int) -> None:
        if isinstance(x, Tensor) and x.shape is not None and len(x.shape) not in ranks and not self.shapes.loose:
            raise self.shapes.misfit(f"a tensor of {len(x.shape)} axes where {' or '.join(map(str, ranks))} are usual")

    def size(self, x: Any, axis: int, size: Any) -> None:
        """`x` has so many elements along an axis."""
        if isinstance(x, Tensor) and x.shape is not None and -len(x.shape) <= axis < len(x.shape):
            self.shapes.equal(x.shape[axis], size)

    @staticmethod
    def dim(x: Any, axis: int) -> Any:
        fits = isinstance(x, Tensor) and x.shape is not None and -len(x.shape) <= axis < len(x.shape)
        return x.shape[axis] if fits else None

    def integers(self, x: Any) -> None:
        """`x` holds integers; where it is made of an input by moving elements, so does that."""
        if not isinstance(x, Tensor) or x.dtype.kind != "f":
            return
        made = {output: node for node in self.aten.graph.nodes for output in node.outputs}
        name = x.name
        while name in made and made[name].op in _MOVES:
            name = made[name].inputs[0]
        if any(port.name == name for port in self.aten.graph.inputs):
            self.shapes.integers(name)

    # ------------------------------------------------------------------ operators
    def _layers(self, name: str, values: list[Any]) -> None:
        x, states, params = values[:3]
        states = states if isinstance(states, list) else [states]
        if not isinstance(params, list) or len(params) < 2:
            return
        self.rank(x, 3)
        self.size(x, 2, self.dim(params[0], 1))
        batch = self.dim(x, 0 if values[8:9] == [True] else 1)
        layers = values[4] * (2 if values[7] else 1) if len(values) > 7 and isinstance(values[4], int) else None
        rows = self.dim(params[0], 0)
        widths = [self.dim(params[1], 1), rows // _GATES[name] if isinstance(rows, int) else None]
        for state, width in zip(states, widths, strict=False):
            self.rank(state, 3)
            for axis, size in enumerate((layers, batch, width)):
                self.size(state, axis, size)

    def _cell(self, name: str, values: list[Any]) -> None:
        x, states, w, r = values[:4]
        self.rank(x, 2)
        self.size(x, -1, self.dim(w, 1))
        for state in states if isinstance(states, list) else [states]:
            self.rank(state, 2)
            self.size(state, -1, self.dim(r, 1))
            self.size(state, 0, self.dim(x, 0))

    def _linear(self, values: list[Any]) -> None:
        x, w = values[:2]
        self.rank(x, *range(2, 9))
        self.size(x, -1, self.dim(w, -1))

    def _matmul(self, values: list[Any]) -> None:
        x, w = values[-2:]
        inner = -2 if self.dim(w, -2) is not None else -1
        self.size(x, -1, self.dim(w, inner))
        self.size(w, inner, self.dim(x, -1))

    def _convolution(self, values: list[Any]) -> None:
        x, w = values[:2]
        if not isinstance(w, Tensor) or w.shape is None:
            return
        transposed = len(values) > 6 and values[6] is True
        self.rank(x, len(w.shape))
        groups = values[8] if len(values) > 8 else 1
        self._channels(x, w, groups if not transposed else None, transposed)

    def _window(self, values: list[Any]) -> None:
        x, w = values[:2]
        if isinstance(w, Tensor) and w.shape is not None:
            self.rank(x, len(w.shape))
            self._channels(x, w, values[6] if len(values) > 6 else 1, False)

    def _window_transposed(self, values: list[Any]) -> None:
        x, w = values[:2]
        if isinstance(w, Tensor) and w.shape is not None:
            self.rank(x, len(w.shape))
            self._channels(x, w, None, True)

    def _channels(self, x: Any, w: Tensor, groups: Any, transposed: bool) -> None:
        columns = self.dim(w, 0 if transposed else 1)
        if isinstance(columns, int) and (groups is None or isinstance(groups, int)):
            self.size(x, 1, columns * (groups or 1))

    def _batch_norm(self, values: list[Any]) -> None:
        for known in values[1:5]:
            self.size(values[0], 1, self.dim(known, 0))

    def _layer_norm(self, values: list[Any]) -> None:
        sizes = values[1]
        if isinstance(sizes, list):
            for axis, size in enumerate(reversed(sizes), 1):
                self.size(values[0], -axis, size)

    def _embedding(self, values: list[Any]) -> None:
        self.integers(values[1])

    def _index(self, values: list[Any]) -> None:
        self.integers(values[2])

    def _join(self, values: list[Any]) -> None:
        parts = values[0]
        shapes = [t.shape for t in parts if isinstance(t, Tensor) and t.shape is not None]
        if len(shapes) != len(parts) or not shapes:
            return
        ranks = {len(shape) for shape in shapes if shape != (0,)}
        if len(ranks) > 1:
            raise self.shapes.misfit("tensors of several numbers of axes are joined")
        rank = max(ranks, default=1)
        axis = values[1] if len(values) > 1 else 0
        for shape in shapes[1:]:
            for k in range(min(len(shape), len(shapes[0]))):
                if k != axis % rank:
                    self.shapes.equal(shapes[0][k], shape[k])

    def _elementwise(self, values: list[Any]) -> None:
        """Tensors of as many axes have the same sizes, but where one has a single element."""
        x, y = [v.shape if isinstance(v, Tensor) else None for v in values[:2]] if len(values) > 1 else (None, None)
        if x is None or y is None:
            return
        for one, other in zip(reversed(x), reversed(y), strict=False):
            if one != 1 and other != 1:
                self.shapes.equal(one, other)

    def _pieces(self, values: list[Any]) -> None:
        """A tensor is not taken into more pieces than a list may have elements."""
        x, size = [*values[:2], 0][:2]
        shape = x.shape if isinstance(x, Tensor) and x.shape is not None else ()
        whole = max((n for n in shape if isinstance(n, int)), default=0)
        if whole > MOST_PIECES * (size if isinstance(size, int) and size > 0 else 1):
            raise self.shapes.misfit(f"a tensor is taken into more than {MOST_PIECES} pieces")

    def _chunks(self, values: list[Any]) -> None:
        if len(values) > 1 and isinstance(values[1], int) and values[1] > MOST_PIECES:
            raise self.shapes.misfit(f"a tensor is taken into more than {MOST_PIECES} pieces")


_DEMANDS: Mapping[str, Callable[[Demands, list[Any]], None]] = {
    "linear": Demands._linear,
    "matmul": Demands._matmul,
    "mm": Demands._matmul,
    "addmm": lambda self, values: self._matmul(values[1:3]),
    "_convolution": Demands._convolution,
    **dict.fromkeys(_WINDOWS, Demands._window),
    "conv_transpose1d": Demands._window_transposed,
    "conv_transpose2d": Demands._window_transposed,
    "batch_norm": Demands._batch_norm,
    "layer_norm": Demands._layer_norm,
    "embedding": Demands._embedding,
    "index_select": Demands._index,
    "gather": Demands._index,
    "cat": Demands._join,
    **dict.fromkeys(("split", "unsafe_split"), Demands._pieces),
    **dict.fromkeys(("chunk", "unsafe_chunk", "tensor_split"), Demands._chunks),
    "unbind": lambda self, values: self._pieces(values[:1]),
}
