"""Write a net as LiteRT has it: one step, its states in resource variables.

No converter is needed for that: a file is tables of a flatbuffer, and LiteRT brings the classes that write them. The
operators are those that TensorFlow's converter writes for a cell: one dense layer for all gates, of x and h joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cells import GATES, STATES, Net

__all__ = ["tflite"]

#: Version of the operators, where it is not 1: those with weights of 8 bits per output, and asymmetric inputs.
_VERSIONS = {"FULLY_CONNECTED": 9, "ADD": 1, "MUL": 1}


class Writer:
    """One graph in the making: tensors by number."""

    def __init__(self) -> None:
        self.tables: Any = import_module("ai_edge_litert.schema_py_generated")
        self.model = self.tables.ModelT()
        self.model.version, self.model.description = 3, "gatestep benchmarks"
        self.model.buffers = [self.tables.BufferT()]
        self.model.operatorCodes, self.model.subgraphs = [], []
        self.codes: dict[str, int] = {}
        self.begin("main")

    def begin(self, name: str) -> Any:
        """Go on with another graph of the file."""
        self.graph = self.tables.SubGraphT()
        self.graph.name = name
        self.graph.tensors, self.graph.operators, self.graph.inputs, self.graph.outputs = [], [], [], []
        self.model.subgraphs.append(self.graph)
        return self.graph

    def tensor(self, shape: Sequence[int], kind: str = "FLOAT32", data: NDArray[Any] | None = None) -> int:
        """A tensor; with `data`, a constant."""
        made = self.tables.TensorT()
        made.shape, made.type = list(shape), getattr(self.tables.TensorType, kind)
        made.name, made.buffer = f"t{len(self.graph.tensors)}", 0
        if data is not None:
            buffer = self.tables.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            made.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def weights(self, matrix: NDArray[np.float32], eight: bool) -> int:
        """A matrix; with `eight` bits, symmetric with a scale per row."""
        if not eight:
            return self.tensor(matrix.shape, data=matrix)
        scales = np.maximum(np.abs(matrix).max(axis=1), 1e-12) / 127
        made = self.tensor(matrix.shape, "INT8", np.rint(matrix / scales[:, None]).astype(np.int8))
        quantised = self.tables.QuantizationParametersT()
        quantised.scale, quantised.zeroPoint = scales.astype(np.float32), np.zeros(len(scales), np.int64)
        quantised.quantizedDimension = 0
        self.graph.tensors[made].quantization = quantised
        return made

    def add(self, name: str, inputs: Sequence[int], outputs: Sequence[int], **options: Any) -> None:
        """An operator, with the options that differ from their defaults."""
        if name not in self.codes:
            code = self.tables.OperatorCodeT()
            code.builtinCode = getattr(self.tables.BuiltinOperator, name)
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)
            code.version = _VERSIONS.get(name, 1)
            self.codes[name] = len(self.model.operatorCodes)
            self.model.operatorCodes.append(code)
        made = self.tables.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = self.codes[name], list(inputs), list(outputs)
        table = "".join(part.capitalize() for part in name.split("_")) + "Options"
        if hasattr(self.tables, f"{table}T"):
            made.builtinOptionsType = getattr(self.tables.BuiltinOptions, table)
            made.builtinOptions = getattr(self.tables, f"{table}T")()
            for key, value in options.items():
                setattr(made.builtinOptions, key, value)
        self.graph.operators.append(made)

    def apply(self, name: str, inputs: Sequence[int], shape: Sequence[int], **options: Any) -> int:
        """An operator with one result."""
        made = self.tensor(shape)
        self.add(name, inputs, [made], **options)
        return made

    def bytes(self) -> bytes:
        """The file."""
        builder: Any = import_module("flatbuffers").Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def tflite(net: Net, rows: int, eight: bool = False) -> bytes:
    """One step of `rows` rows, ``x (B, I)`` to ``y (B, H)``.

    Parameters
    ----------
    net : Net
        Of one direction.
    rows : int
    eight : bool
        Weights of 8 bits with a scale per row, inputs quantised as they come ("dynamic range").
    """
    writer = Writer()
    main, hidden = writer.graph, net.hidden
    first = writer.tensor((rows, net.inputs))
    main.inputs = [first]
    writer.add("CALL_ONCE", [], [], initSubgraphIndex=1)
    handles: list[tuple[str, int]] = []

    def state(name: str) -> tuple[int, int]:
        handle = writer.tensor((), "RESOURCE")
        writer.add("VAR_HANDLE", [], [handle], container="", sharedName=name)
        handles.append((name, handle))
        return handle, writer.apply("READ_VARIABLE", [handle], (rows, hidden))

    def dense(x: int, matrix: NDArray[np.float32], bias: NDArray[np.float32]) -> int:
        given = [x, writer.weights(matrix, eight), writer.tensor(bias.shape, data=bias)]
        return writer.apply(
            "FULLY_CONNECTED", given, (rows, len(matrix)), keepNumDims=True, asymmetricQuantizeInputs=eight
        )

    def split(x: int, count: int) -> list[int]:
        parts = [writer.tensor((rows, hidden)) for _ in range(count)]
        axis = writer.tensor((), "INT32", np.array(1, np.int32))
        writer.add("SPLIT", [axis, x], parts, numSplits=count)
        return parts

    def unary(name: str, x: int, width: int = hidden) -> int:
        return writer.apply(name, [x], (rows, width))

    def binary(name: str, x: int, y: int) -> int:
        return writer.apply(name, [x, y], (rows, hidden))

    def joined(x: int, h: int, size: int) -> int:
        return writer.apply("CONCATENATION", [x, h], (rows, size + hidden), axis=1)

    value, size, assigned = first, net.inputs, []
    for k, ((w, r, b, c),) in enumerate(net.stack):
        held = [state(f"{kind}{k}") for kind in STATES[net.cell]]
        h = held[0][1]
        if net.cell == "gru":
            both = slice(2 * hidden)
            sums = dense(joined(value, h, size), np.hstack([w, r])[both], (b + c)[both])
            reset, update = split(unary("LOGISTIC", sums, 2 * hidden), 2)
            own = binary("MUL", reset, dense(h, r[2 * hidden :], c[2 * hidden :]))
            new = unary("TANH", binary("ADD", dense(value, w[2 * hidden :], b[2 * hidden :]), own))
            results = [binary("ADD", new, binary("MUL", update, binary("SUB", h, new)))]
        else:
            gates = dense(joined(value, h, size), np.hstack([w, r]), b + c)
            if net.cell == "rnn":
                results = [unary("TANH", gates)]
            else:
                i, f, g, o = split(gates, GATES["lstm"])
                kept = binary("MUL", unary("LOGISTIC", f), held[1][1])
                memory = binary("ADD", kept, binary("MUL", unary("LOGISTIC", i), unary("TANH", g)))
                results = [binary("MUL", unary("LOGISTIC", o), unary("TANH", memory)), memory]
        assigned += [(handle, result) for (handle, _), result in zip(held, results, strict=True)]
        value, size = results[0], hidden
    for handle, result in assigned:
        writer.add("ASSIGN_VARIABLE", [handle, result], [])
    if net.dense is not None:
        value = writer.apply("LOGISTIC", [dense(value, *net.dense)], (rows, net.outputs))
    main.outputs = [value]

    writer.begin("zeros")
    for name, _ in handles:
        handle = writer.tensor((), "RESOURCE")
        writer.add("VAR_HANDLE", [], [handle], container="", sharedName=name)
        zeros = writer.tensor((rows, hidden), data=np.zeros((rows, hidden), np.float32))
        writer.add("ASSIGN_VARIABLE", [handle, zeros], [])
    return writer.bytes()
