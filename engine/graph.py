"""The graph: one small vocabulary of operators for every source.

Importers translate into it and never compute; the engine reads nothing else. Operators carry the names and the
semantics of the newest ONNX operator set, in *one* form each, so that nothing behind this module knows of opsets:

* What newer operator sets take as inputs is an input: ``Squeeze(x, axes)``, ``Unsqueeze(x, axes)``,
  ``Reshape(x, shape)``, ``Slice(x, starts, ends, axes, steps)``, ``Split(x, split)``, ``Clip(x, min, max)``,
  ``Expand(x, shape)``, ``ReduceMean(x, axes)`` and the like. Missing optional inputs are ``""``.
* Attributes are plain Python values, always all present with the operator's defaults filled in; ``Cast`` has ``to`` as
  a ``numpy.dtype``; ``ConstantOfShape`` has ``value``, an array of one element.
* ``Softmax`` and ``LogSoftmax`` have ``axis`` and ``trailing``; ``trailing=True`` (operator sets before 13) normalises
  over all axes from ``axis`` on.
* ``Constant``, ``Dropout`` (inference) and ``Identity`` do not occur: they are values, not operators.

The recurrent operators take the inputs of ONNX, layout 0:

``LSTM(x, w, r, b, lengths, h0, c0, p, projection)`` gives ``(y, hn, cn)``; ``GRU`` and ``RNN``
``(x, w, r, b, lengths, h0)`` give ``(y, hn)``, with D directions

=========== =================  =====================================================
x           ``(T, B, I)``      y ``(T, D, B, P)``, hn ``(D, B, P)``, cn ``(D, B, H)``
w           ``(D, G*H, I)``    G gates, in the order of attribute ``gates``
r           ``(D, G*H, P)``    P = H without projection
b           ``(D, 2*G*H)``     input biases, then recurrent biases
lengths     ``(B,)`` int32
p           ``(D, 3*H)``       peepholes i, o, f (ONNX's order)
projection  ``(D, P, H)``      h = projection @ (o * act(c))
=========== =================  =====================================================

with attributes ``hidden_size`` int; ``direction`` ``"forward" | "reverse" | "bidirectional"``; ``gates``, a string such
as ``"iofc"`` (ONNX), ``"ifco"`` (Keras and PyTorch: c is PyTorch's g) for LSTM, ``"zrh"`` (ONNX) or ``"rzh"``
(PyTorch: h is its n) for GRU, ``"h"`` for RNN; ``activations``, a tuple of ``(name, alpha, beta)`` with ONNX names and
defaults filled in, f, g, h per direction one after the other; ``clip`` float or None; LSTM: ``coupled``
``"" | "f=1-i" | "i=1-f"``; GRU: ``linear_before_reset`` bool. ``recognised`` is true on one step of a
cell that the file writes out (see `cells`): it begins at exactly what the graph hands it, call after call. So does
one with `banded`, which a stream has where it runs along an axis of each frame (see `banded`). ``origin``
says, for summaries, what an operator was made of.

Quantised operators, where an integer q stands for (q - zero) * scale: ``QuantizeLinear(x, scale, zero)`` with
attributes ``axis``, ``block_size`` (0: none) and ``dtype``; ``DequantizeLinear`` without the last;
``DynamicQuantizeLinear(x)``, which gives q, scale and zero; ``MatMulInteger(a, b, a_zero, b_zero)`` and
``ConvInteger``, exact in int32; ``DynamicQuantizeLSTM``, with the attributes of LSTM and four more inputs
(`ops/quantised.py`, `ops/quantised_lstm.py`).

Control flow holds graphs as attributes. They are closed: all that they use from outside is an input of the node and of
the body, the captured values, in the same order, and no value has the name of one in another graph. What a body gives
may be one of its inputs or constants, and one value more than once.

``If(cond, *captured)`` has ``then`` and ``orelse``, both with the inputs ``captured``. ``Loop(trip, cond, *state,
*captured)``, with ``body`` and the number of ``states``, gives the last states and then what each iteration gave,
stacked; the body's inputs are ``i, cond, *state, *captured``, its outputs ``cond, *state, *scans``; trip and cond may
be ``""``. ``Scan(*state, *xs, *captured)`` has ``body``, the numbers ``states`` and ``xs``, and tuples ``in_axes`` and
``in_reverse``, one entry for each of xs, ``out_axes`` and ``out_reverse``, one for each of ys: the body's inputs are
``*state, *xs, *captured`` with the axis taken out of xs, its outputs ``*state, *ys``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .record import Record

__all__ = ["ACTIVATING", "CELLS", "HOLDING", "SLIDING", "Dim", "Graph", "Node", "Port", "ancestors", "needed"]

CELLS = frozenset(("LSTM", "GRU", "RNN"))
#: Operators that recurrent operators have for an activation. Clip is one where it is a HardSigmoid.
ACTIVATING = frozenset("Sigmoid Tanh Relu HardSigmoid Elu LeakyRelu Softsign Softplus".split())
#: Operators with bodies.
HOLDING = frozenset(("If", "Loop", "Scan"))
#: Operators over windows.
SLIDING = frozenset("Conv ConvInteger QLinearConv MaxPool AveragePool ConvTranspose".split())

#: A size, the name of a free dimension, or None where the file says nothing.
Dim = int | str | None


class Port(NamedTuple):
    """One input or output of a model.

    Attributes
    ----------
    name : str
        As the file has it.
    shape : tuple of (int | str | None), or None
        The file's own; strings name free dimensions; None where the file gives no rank.
    dtype : numpy.dtype
    optional : bool
        An input that may be left out: it has a default in the file, or is an initial state of zeros.
    """

    name: str
    shape: tuple[Dim, ...] | None
    dtype: np.dtype[Any]
    optional: bool = False


class Node(Record):
    """One operator. `name` is the file's, for messages; `inputs` and `outputs` name values, ``""`` where left out.

    Nodes are never changed, but replaced.
    """

    def __init__(
        self, op: str, inputs: tuple[str, ...], outputs: tuple[str, ...], attrs: dict[str, Any], name: str = ""
    ) -> None:
        self.op, self.inputs, self.outputs, self.attrs, self.name = op, inputs, outputs, attrs, name

    @property
    def key(self) -> str:
        """The first value it makes: what tells it from every other node."""
        return next((name for name in self.outputs if name), "")

    @property
    def label(self) -> str:
        """How messages call it: ``LSTM 'encoder'``."""
        return f"{self.op} {(self.name or self.key).lstrip(chr(0))!r}"

    def renamed(self, names: Mapping[str, str]) -> Node:
        """The same operator on values whose names are other ones."""
        inputs, outputs = (tuple(names.get(name, name) for name in side) for side in (self.inputs, self.outputs))
        return self.with_(inputs=inputs, outputs=outputs)

    @property
    def bodies(self) -> dict[str, Graph]:
        """The graphs that it holds, by attribute."""
        return {name: value for name, value in self.attrs.items() if isinstance(value, Graph)}


class Graph(Record):
    """Nodes in execution order over named values.

    `defaults` holds, for optional inputs, an array, or None for zeros of the port's shape. `prefix` begins the names
    that a body makes up, so that they are its own. `notes` say, for summaries, what is no longer as in the file.
    """

    def __init__(
        self,
        source: str,
        inputs: Iterable[Port] = (),
        outputs: Iterable[Port] = (),
        *,
        prefix: str = "",
        notes: tuple[str, ...] = (),
    ) -> None:
        self.source = source
        self.inputs, self.outputs = list(inputs), list(outputs)
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self.defaults: dict[str, np.ndarray | None] = {}
        self.prefix, self.notes = prefix, notes
        self._fresh = 0

    def everything(self) -> Iterator[Graph]:
        """The graph itself and those that its nodes hold, at any depth."""
        yield self
        for node in self.nodes:
            for body in node.bodies.values():
                yield from body.everything()

    def blank(self) -> Graph:
        """A graph of the same ports and constants that has no nodes yet; names stay apart."""
        return self.with_(nodes=[], constants=dict(self.constants))

    def fresh(self, hint: str = "v") -> str:
        """A value name that no file uses."""
        self._fresh += 1
        return f"\0{self.prefix}{hint}{self._fresh}"

    def input(
        self,
        name: str,
        shape: Sequence[Dim] | None,
        dtype: Any,
        *,
        optional: bool = False,
        default: np.ndarray | None = None,
    ) -> str:
        """Declare a model input; `optional` without a `default` means zeros."""
        self.inputs.append(Port(name, None if shape is None else tuple(shape), np.dtype(dtype), optional))
        if optional:
            self.defaults[name] = default
        return name

    def output(self, name: str, shape: Sequence[Dim] | None, dtype: Any) -> None:
        """Declare that the value `name` is a model output."""
        self.outputs.append(Port(name, None if shape is None else tuple(shape), np.dtype(dtype)))

    def constant(self, array: Any, name: str | None = None) -> str:
        """Add a constant value and return its name."""
        name = name if name is not None else self.fresh("const")
        self.constants[name] = np.asarray(array)
        return name

    def add(
        self, op: str, inputs: Iterable[str], outputs: int | Sequence[str] = 1, *, name: str = "", **attrs: Any
    ) -> tuple[str, ...]:
        """Append a node; `outputs` is how many values it makes, or their names. Returns the names."""
        outs = tuple(self.fresh(op.lower()) for _ in range(outputs)) if isinstance(outputs, int) else tuple(outputs)
        self.nodes.append(Node(op, tuple(inputs), outs, attrs, name))
        return outs


def needed(graph: Graph, wanted: Iterable[str], given: Mapping[str, Any]) -> list[Node]:
    """The nodes that `wanted` values depend on, in order; `given` values need no making."""
    missing = {name for name in wanted if name not in given}
    nodes = []
    for node in reversed(graph.nodes):
        if missing.intersection(node.outputs):
            nodes.append(node)
            missing.update(name for name in node.inputs if name and name not in given)
    return nodes[::-1]


def ancestors(graph: Graph, names: Iterable[str]) -> set[str]:
    """All values that `names` are computed from, themselves included."""
    seen = set(names)
    for node in reversed(graph.nodes):
        if seen.intersection(node.outputs):
            seen.update(node.inputs)
    return seen
