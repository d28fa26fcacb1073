"""Which cells, in which sizes, called how? The grid, and the models for it: random weights, in a file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BATCH", "CELLS", "MODES", "SEQUENCE", "SIZES", "Case", "Layer"]

CELLS = ("lstm", "gru")
#: Input and hidden size.
SIZES = ((1, 16), (8, 32), (40, 64), (64, 128), (128, 256), (256, 512))
MODES = ("step", "sequence", "batch")
#: Frames and rows of a call in the modes of that name.
SEQUENCE = (200, 1)
BATCH = (100, 32)

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """One recurrent layer with random weights, in PyTorch's order of gates: LSTM i f g o, GRU r z n.

    Attributes
    ----------
    cell : {"lstm", "gru"}
    inputs, hidden : int
    """

    cell: str
    inputs: int
    hidden: int

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the states."""
        return ("h", "c") if self.cell == "lstm" else ("h",)

    @cached_property
    def weights(self) -> tuple[Array, Array, Array, Array]:
        """`weight_ih`, `weight_hh`, `bias_ih`, `bias_hh`, uniform as PyTorch draws them."""
        random = np.random.default_rng([self.inputs, self.hidden])
        gates, limit = 4 if self.cell == "lstm" else 3, self.hidden**-0.5
        shapes = ((gates * self.hidden, self.inputs), (gates * self.hidden, self.hidden), gates * self.hidden)
        w, r, b, c = (random.uniform(-limit, limit, shape).astype(np.float32) for shape in (*shapes, shapes[-1]))
        return w, r, b, c

    @cached_property
    def file(self) -> bytes:
        """An ONNX file of this layer: ``x (T, B, I)`` to ``y (T, B, H)``, states ``h0`` to ``hn`` and so on."""
        from onnx import TensorProto, ValueInfoProto, helper, numpy_helper

        order = (0, 3, 1, 2) if self.cell == "lstm" else (1, 0, 2)  # ONNX: i o f c, and z r h
        w, r, b, c = (np.concatenate([np.split(a, len(order))[gate] for gate in order])[None] for a in self.weights)
        constants = {"w": w, "r": r, "b": np.concatenate([b, c], axis=1), "directions": np.array([1])}
        before = [f"{name}0" for name in self.states]
        after = [f"{name}n" for name in self.states]
        attributes: dict[str, Any] = {"hidden_size": self.hidden}
        if self.cell == "gru":
            attributes["linear_before_reset"] = 1
        nodes = [
            helper.make_node(self.cell.upper(), ["x", "w", "r", "b", "", *before], ["all", *after], **attributes),
            helper.make_node("Squeeze", ["all", "directions"], ["y"]),
        ]

        def port(name: str, *shape: str | int) -> ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        graph = helper.make_graph(
            nodes,
            f"{self.cell}_{self.inputs}_{self.hidden}",
            [port("x", "T", "B", self.inputs), *(port(name, 1, "B", self.hidden) for name in before)],
            [port("y", "T", "B", self.hidden), *(port(name, 1, "B", self.hidden) for name in after)],
            [numpy_helper.from_array(array, name) for name, array in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return bytes(model.SerializeToString())


@dataclass(frozen=True)
class Case:
    """A layer and the way it is called.

    Attributes
    ----------
    layer : Layer
    mode : {"step", "sequence", "batch"}
        One frame per call, state carried; a recording per call; a batch of recordings per call.
    frames, rows : int
        Of one call.
    """

    layer: Layer
    mode: str
    frames: int
    rows: int

    @classmethod
    def of(cls, layer: Layer, mode: str) -> Case:
        """The case of this mode, with its usual numbers of frames and rows."""
        return cls(layer, mode, *{"step": (1, 1), "sequence": SEQUENCE, "batch": BATCH}[mode])

    def inputs(self, calls: int) -> Array:
        """Input of `calls` calls, ``(calls, T, B, I)``."""
        random = np.random.default_rng(7)
        return random.standard_normal((calls, self.frames, self.rows, self.layer.inputs), np.float32)
