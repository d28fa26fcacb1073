"""Which nets, in which sizes, called how? The grid, and the models for it: random weights, in a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels import reference

__all__ = ["BATCH", "CELLS", "GATES", "LOCKSTEP", "MODES", "NETS", "SEQUENCE", "SIZES", "STATES", "Case", "Net"]

Array = NDArray[np.float32]
#: `weight_ih`, `weight_hh`, `bias_ih`, `bias_hh`.
Weights = tuple[Array, Array, Array, Array]

CELLS = ("lstm", "gru", "rnn")
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
STATES = {"lstm": ("h", "c"), "gru": ("h",), "rnn": ("h",)}
#: ONNX's order of gates, by PyTorch's: i o f c of i f g o, and z r h of r z n.
_ONNX = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}
#: Input and hidden size.
SIZES = ((1, 16), (8, 32), (40, 64), (64, 128), (128, 256), (256, 512), (512, 1024))
MODES = ("step", "sequence", "batch", "lockstep")
#: Frames and rows of a call in the modes of that name.
SEQUENCE = (200, 1)
BATCH = (100, 32)
LOCKSTEP = (1, 64)


@dataclass(frozen=True)
class Net:
    """Recurrent layers with random weights, and a dense layer with a sigmoid behind them if `outputs` is not 0.

    Attributes
    ----------
    cell : {"lstm", "gru", "rnn"}
    inputs, hidden, layers, outputs : int
    bidirectional : bool
    """

    cell: str
    inputs: int
    hidden: int
    layers: int = 1
    outputs: int = 0
    bidirectional: bool = False

    def __str__(self) -> str:
        many = f"{self.layers}×" if self.layers > 1 else ""
        dense = f"→{self.outputs}" if self.outputs else ""
        return f"{many}{'Bi' if self.bidirectional else ''}{self.cell.upper()} {self.size}{dense}"

    @property
    def size(self) -> str:
        """Input and hidden size."""
        return f"{self.inputs}→{self.hidden}"

    @property
    def directions(self) -> int:
        """1, or 2."""
        return 1 + self.bidirectional

    @property
    def width(self) -> int:
        """Values in a frame of the result."""
        return self.outputs or self.directions * self.hidden

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the states, ``(1, B, H)`` each: none where a call is a whole recording."""
        kinds = () if self.bidirectional else STATES[self.cell]
        return tuple(f"{kind}{layer}" for layer in range(self.layers) for kind in kinds)

    @property
    def products(self) -> tuple[int, int]:
        """Multiplications of a frame with what does not wait for the frame before, and with what does."""
        gates, wide = GATES[self.cell] * self.directions * self.hidden, self.directions * self.hidden
        ahead = gates * (self.inputs + (self.layers - 1) * wide) + wide * self.outputs
        return ahead, gates * self.hidden * self.layers

    @cached_property
    def stack(self) -> tuple[tuple[Weights, ...], ...]:
        """Weights by layer and direction, uniform as PyTorch draws them, in its order of gates: i f g o, and r z n."""
        random = np.random.default_rng([self.inputs, self.hidden])
        gates, limit = GATES[self.cell] * self.hidden, self.hidden**-0.5

        def draw(size: int) -> Weights:
            shapes = ((gates, size), (gates, self.hidden), (gates,), (gates,))
            w, r, b, c = (random.uniform(-limit, limit, shape).astype(np.float32) for shape in shapes)
            return w, r, b, c

        sizes = (self.inputs, *[self.directions * self.hidden] * (self.layers - 1))
        return tuple(tuple(draw(size) for _ in range(self.directions)) for size in sizes)

    @cached_property
    def dense(self) -> tuple[Array, Array] | None:
        """Weight and bias of the dense layer."""
        if not self.outputs:
            return None
        size = self.directions * self.hidden
        random, limit = np.random.default_rng(self.outputs), size**-0.5
        weight, bias = (random.uniform(-limit, limit, shape) for shape in ((self.outputs, size), self.outputs))
        return weight.astype(np.float32), bias.astype(np.float32)

    def file(self, frames: int | str = "T", rows: int | str = "B") -> bytes:
        """An ONNX file: ``x (T, B, I)`` to ``y (T, B, H)``, states ``h0_in`` to ``h0_out`` and so on."""
        from onnx import TensorProto, helper, numpy_helper

        nodes: list[Any] = []
        constants: dict[str, np.ndarray] = {"axis": np.array([1]), "flat": np.array([0, 0, -1])}
        kinds, value = STATES[self.cell] if self.states else (), "x"
        for k, directions in enumerate(self.stack):
            order = _ONNX[self.cell]
            parts = [[np.concatenate([np.split(a, len(order))[g] for g in order]) for a in part] for part in directions]
            constants |= {f"w{k}": np.stack([p[0] for p in parts]), f"r{k}": np.stack([p[1] for p in parts])}
            constants[f"b{k}"] = np.stack([np.concatenate(p[2:]) for p in parts])
            attributes: dict[str, Any] = {"hidden_size": self.hidden}
            if self.cell == "gru":
                attributes["linear_before_reset"] = 1
            if self.bidirectional:
                attributes["direction"] = "bidirectional"
            before, after = [f"{kind}{k}_in" for kind in kinds], [f"{kind}{k}_out" for kind in kinds]
            given = [value, f"w{k}", f"r{k}", f"b{k}", *(["", *before] if before else [])]
            nodes.append(helper.make_node(self.cell.upper(), given, [f"all{k}", *after], **attributes))
            value = "y" if k == self.layers - 1 and self.dense is None else f"y{k}"
            if self.bidirectional:
                nodes += [
                    helper.make_node("Transpose", [f"all{k}"], [f"side{k}"], perm=[0, 2, 1, 3]),
                    helper.make_node("Reshape", [f"side{k}", "flat"], [value]),
                ]
            else:
                nodes.append(helper.make_node("Squeeze", [f"all{k}", "axis"], [value]))
        if self.dense is not None:
            constants |= {"dense": np.ascontiguousarray(self.dense[0].T), "bias": self.dense[1]}
            nodes += [
                helper.make_node("MatMul", [value, "dense"], ["product"]),
                helper.make_node("Add", ["product", "bias"], ["sum"]),
                helper.make_node("Sigmoid", ["sum"], ["y"]),
            ]

        def port(name: str, *shape: str | int) -> Any:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        used = {name for node in nodes for name in node.input}
        graph = helper.make_graph(
            nodes,
            "net",
            [port("x", frames, rows, self.inputs), *(port(f"{name}_in", 1, rows, self.hidden) for name in self.states)],
            [port("y", frames, rows, self.width), *(port(f"{name}_out", 1, rows, self.hidden) for name in self.states)],
            [numpy_helper.from_array(array, name) for name, array in constants.items() if name in used],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return bytes(model.SerializeToString())

    def reference(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """The result for ``x (T, B, I)`` from zero states, by definition."""
        cell: Any = getattr(reference, self.cell)
        value = np.asarray(x, np.float64)
        for directions in self.stack:
            value = np.concatenate(
                [cell(value, *weights, reverse=bool(side))[0] for side, weights in enumerate(directions)], axis=-1
            )
        if self.dense is not None:
            value = 1 / (1 + np.exp(-(value @ self.dense[0].T.astype(np.float64) + self.dense[1])))
        return value


#: Nets that the grid does not have: the first of DTLN (speech denoising), and one that reads in both directions.
NETS = {"dtln": Net("lstm", 257, 128, layers=2, outputs=257), "bilstm": Net("lstm", 128, 256, bidirectional=True)}


@dataclass(frozen=True)
class Case:
    """A net and the way it is called.

    Attributes
    ----------
    net : Net
    mode : {"step", "sequence", "batch", "lockstep"}
        One frame per call, state carried; a recording per call; a batch of recordings per call; one frame of many
        streams per call.
    frames, rows : int
        Of one call.
    precision : str
        Of the weights, as `gatestep.load` takes it.
    threads : int
        For every contender.
    """

    net: Net
    mode: str
    frames: int
    rows: int
    precision: str = "float32"
    threads: int = 1

    @classmethod
    def of(cls, net: Net, mode: str, precision: str = "float32", threads: int = 1) -> Case:
        """The case of this mode, with its usual numbers of frames and rows."""
        shapes = {"step": (1, 1), "sequence": SEQUENCE, "batch": BATCH, "lockstep": LOCKSTEP}
        return cls(net, mode, *shapes[mode], precision, threads)

    @property
    def carried(self) -> bool:
        """Whether a call is one frame, and goes on from the state that the last one left."""
        return self.frames == 1

    @property
    def reduced(self) -> bool:
        """Whether it is about less than float32."""
        return self.precision != "float32"

    def inputs(self, calls: int) -> Array:
        """Input of `calls` calls, ``(calls, T, B, I)``."""
        random = np.random.default_rng(7)
        return random.standard_normal((calls, self.frames, self.rows, self.net.inputs), np.float32)

    def arrays(self) -> tuple[Array, Array]:
        """Memory for what goes in, ``(T, B, I)``, and comes out, ``(T, B, H)``."""
        return (
            np.zeros((self.frames, self.rows, self.net.inputs), np.float32),
            np.zeros((self.frames, self.rows, self.net.width), np.float32),
        )


def grid(cells: tuple[str, ...], sizes: tuple[tuple[int, int], ...], nets: tuple[str, ...]) -> Iterator[Net]:
    """The layers of these cells and sizes, and the other nets."""
    yield from (Net(cell, *size) for cell in cells for size in sizes)
    yield from (NETS[name] for name in nets)
