"""Our own file, read: a graph with its arrays, what was found out about it, and a test of itself. See docs/format.md.

A file is a prefix of 32 bytes, a header in JSON, and the arrays, each at the next multiple of 64 after the one before:
where an array lies is never stated, so no two can overlap and none can lie outside. Everything has a CRC-32, which
detects damage; it is no signature.

Arrays are views of the mapped file, and those that nobody asks for are never read.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
import zlib
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

from ..engine.errors import ModelFormatError, UnsupportedModelError
from ..engine.graph import Graph, Node, Port
from ..engine.ops import OPS
from ..engine.ops.math import ACTIVATIONS
from ..engine.ops.recurrent import GATES
from ..engine.streaming.layout import Layout
from ..engine.streaming.memories import MOST_STEPS
from ..engine.values import MOST_ELEMENTS
from .kinds import CONTAINER_MAGIC as MAGIC
from .source import Source, opened, source_name
from .typed import conforms, dtype_named, record, unpack_value

__all__ = ["ALIGNMENT", "KEYS", "PREFIX", "VERSION", "Container", "padding"]

VERSION = 1
ALIGNMENT = 64
#: Magic, version, CRC-32 of the header, length of the header, zero, CRC-32 of the 28 bytes before.
PREFIX = struct.Struct("<8sIIQII")
#: A longer header no model has: it is enough for some hundred thousand nodes.
MOST_HEADER = 1 << 26
#: What control flow must have.
CONTROL: dict[str, dict[str, Any]] = {
    "If": {"then": Graph, "orelse": Graph},
    "Loop": {"body": Graph, "states": int},
    "Scan": {
        **{"body": Graph, "states": int, "xs": int},
        **dict.fromkeys(("in_axes", "in_reverse", "out_axes", "out_reverse"), tuple[Any, ...]),
    },
}
GRAPH_KEYS = {"inputs", "outputs", "nodes", "constants", "defaults", "prefix", "notes", "fresh"}
KEYS = ("writer", "source", "options", "graph", "prepared", "selftest", "graphs", "arrays")


def padding(size: int) -> int:
    """Bytes from `size` to the next multiple of the alignment."""
    return -size % ALIGNMENT


class Container:
    """An open file, its prefix and header checked; an array is checked when it is first asked for.

    Attributes
    ----------
    name : str
        What messages call the file.
    writer : str
        The version of gatestep that wrote it.
    source : str
        What it was converted from.
    options, prepared, selftest : JSON
        The header's entries: what the model was converted with; `graph` and `layout` as analysed, or None; the test.
    checksum : int
        CRC-32 of the header, which has those of the arrays in it: two files of one checksum hold the same.

    Raises
    ------
    ModelFormatError
        Damaged or truncated.
    UnsupportedModelError
        Of a version that this gatestep does not read.
    OSError
        The file cannot be opened.
    """

    def __init__(self, source: Source) -> None:
        self.name = source_name(source)
        self._data = _mapped(source)
        header = self._header()
        self.writer, self.source = header["writer"], header["source"]
        self.options, self.prepared, self.selftest = header["options"], header["prepared"], header["selftest"]
        self._imported, self._graphs, self._table = header["graph"], header["graphs"], header["arrays"]
        self._arrays: dict[int, np.ndarray] = {}
        self._read: dict[int, Graph] = {}
        self._places = self._laid_out()

    # ------------------------------------------------------------------ bytes
    def _damaged(self, what: str) -> ModelFormatError:
        return ModelFormatError(f"{self.name}: {what}")

    def _header(self) -> dict[str, Any]:
        data = self._data
        if len(data) < PREFIX.size or not bytes(data[: len(MAGIC)]) == MAGIC:
            raise self._damaged("no .gatestep file, or cut short")
        _, version, crc, length, zero, own = PREFIX.unpack(data[: PREFIX.size])
        if zlib.crc32(data[: PREFIX.size - 4]) != own:
            raise self._damaged("damaged: the checksum of the first 32 bytes does not fit")
        if version != VERSION:
            raise UnsupportedModelError(
                f"a .gatestep file of format version {version}; this gatestep reads version {VERSION}",
                source=self.name,
                hint="Convert the original file again",
            )
        if zero or length > MOST_HEADER or length > len(data) - PREFIX.size:
            raise self._damaged(f"damaged or cut short: a header of {length:,} bytes in a file of {len(data):,}")
        self._end = PREFIX.size + length
        text = bytes(data[PREFIX.size : self._end])
        if zlib.crc32(text) != crc:
            raise self._damaged("damaged: the checksum of the header does not fit")
        self.checksum = crc
        try:
            header = json.loads(text.decode("utf-8"), parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise self._damaged(f"the header is not JSON ({error})"[:200]) from error
        if not isinstance(header, dict) or header.keys() != set(KEYS):
            raise self._damaged(f"the header has other entries than {', '.join(KEYS)}")
        texts = isinstance(header["writer"], str) and isinstance(header["source"], str)
        tables = isinstance(header["graphs"], list) and isinstance(header["arrays"], list)
        if not texts or not tables or not isinstance(header["options"], dict):
            raise self._damaged("an entry of the header is of another type")
        return header

    def _laid_out(self) -> list[tuple[np.dtype[Any], tuple[int, ...], int, int]]:
        """Type, shape, place and checksum of every array, which fill the file exactly."""
        places, end = [], self._end
        if padding(end):
            raise self._damaged("the header does not end at a multiple of 64")
        for entry in self._table:
            if not isinstance(entry, list) or len(entry) != 3 or not isinstance(entry[1], list):
                raise self._damaged("an array that is not [type, shape, checksum]")
            dtype, shape, crc = self._dtype(entry[0]), self._shape(entry[1], entry[1]), entry[2]
            if type(crc) is not int or any(type(size) is not int for size in shape):
                raise self._damaged("an array that is not [type, shape, checksum]")
            places.append((dtype, shape, end, crc))
            end += math.prod(shape) * dtype.itemsize
            end += padding(end)
        if end != len(self._data):
            raise self._damaged(f"damaged or cut short: {len(self._data):,} bytes, where the header speaks of {end:,}")
        return places

    def _dtype(self, text: Any) -> np.dtype[Any]:
        try:
            return dtype_named(text)
        except ModelFormatError as error:
            raise self._damaged(str(error)) from None

    def _shape(self, shape: list[Any], shown: Any) -> tuple[Any, ...]:
        """A shape whose sizes are in proportion; names of free dimensions may be among them."""
        sizes = [size for size in shape if type(size) is int]
        if len(shape) > 32 or any(size < 0 for size in sizes) or math.prod(sizes) > MOST_ELEMENTS:
            raise self._damaged(f"a shape out of all proportion: {shown!r}"[:200])
        return tuple(shape)

    def array(self, number: Any) -> np.ndarray:
        """Array `number`: a read-only view of the file."""
        if type(number) is not int or not 0 <= number < len(self._places):
            raise self._damaged(f"there is no array {number!r}"[:200])
        if number not in self._arrays:
            dtype, shape, start, crc = self._places[number]
            size = math.prod(shape) * dtype.itemsize
            data = self._data[start : start + size + padding(size)]
            if zlib.crc32(data[:size]) != crc or any(data[size:]):
                raise self._damaged(f"damaged: the checksum of array {number} does not fit")
            flat = np.frombuffer(data[:size], dtype) if size else np.empty(0, dtype)
            if dtype == np.bool_ and (flat.view(np.uint8) > 1).any():
                raise self._damaged(f"array {number} has booleans that are neither true nor false")
            array = flat.reshape(shape).astype(dtype.newbyteorder("="), copy=False)
            array.flags.writeable = False
            self._arrays[number] = array
        return self._arrays[number]

    def check(self) -> None:
        """Hold every array in the file against its checksum."""
        for number in range(len(self._places)):
            self.array(number)

    # ------------------------------------------------------------------ graphs
    def value(self, data: Any) -> Any:
        """A value of the header, see `typed`."""
        return self._value(data, len(self._graphs))

    def _value(self, data: Any, below: int) -> Any:
        try:
            return unpack_value(data, self.array, lambda number: self.graph(number, below), self.name)
        except ModelFormatError as error:
            raise error if str(error).startswith(self.name) else self._damaged(str(error)) from error

    @property
    def imported(self) -> Graph:
        """The graph as the importer made it, floating constants in the type of the arithmetic."""
        return self.graph(self._imported)

    def graph(self, number: Any, below: int | None = None) -> Graph:
        """Graph `number`; a body has a lower number than what it is in."""
        if type(number) is not int or not 0 <= number < (len(self._graphs) if below is None else below):
            raise self._damaged(f"there is no graph {number!r}, or not there"[:200])
        if number not in self._read:
            try:
                self._read[number] = self._graph(self._graphs[number], number)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                if isinstance(error, (ModelFormatError, UnsupportedModelError)):
                    raise
                raise self._damaged(f"graph {number} is not what a graph is ({error!r})"[:200]) from error
        return self._read[number]

    def _graph(self, data: Any, number: int) -> Graph:
        graph = Graph(self.name, [self._port(p) for p in data["inputs"]], [self._port(p) for p in data["outputs"]])
        graph.constants = {name: self.array(index) for name, index in data["constants"].items()}
        optional = {p.name for p in graph.inputs if p.optional}
        graph.defaults = {n: None if index is None else self.array(index) for n, index in data["defaults"].items()}
        graph.prefix, graph.notes, graph._fresh = data["prefix"], tuple(data["notes"]), data["fresh"]
        texts = isinstance(graph.prefix, str) and all(isinstance(note, str) for note in graph.notes)
        names = [port.name for port in graph.inputs]
        counted = type(graph._fresh) is int and len({*names}) == len(names)
        if data.keys() != GRAPH_KEYS or not texts or not counted or "" in names:
            raise self._damaged(f"graph {number} is not what a graph is")
        if graph.defaults.keys() != optional:
            raise self._damaged(f"graph {number}: other inputs have defaults than may be left out")
        made = {"", *names, *graph.constants}
        for entry in data["nodes"]:
            node = self._node(entry, number)
            if not made.issuperset(node.inputs):
                missing = next(name for name in node.inputs if name not in made)
                raise self._damaged(f"{node.label}: nothing before it makes {missing[:80]!r}")
            for name in node.outputs:
                if name and name in made:
                    raise self._damaged(f"{node.label}: {name[:80]!r} is made twice")
                made.add(name)
            graph.nodes.append(node)
        for port in graph.outputs:
            if port.name not in made or not port.name:
                raise self._damaged(f"nothing makes the output {port.name[:80]!r}")
        return graph

    def _port(self, entry: list[Any]) -> Port:
        name, shape, dtype, optional = entry
        if not isinstance(name, str) or type(optional) is not bool:
            raise self._damaged("an input or output that is not [name, shape, type, optional]")
        if shape is not None and not all(d is None or isinstance(d, str) or type(d) is int for d in shape):
            raise self._damaged(f"{name[:80]!r} has sizes that are neither numbers nor names")
        return Port(name, None if shape is None else self._shape(shape, shape), self._dtype(dtype), optional)

    def _node(self, entry: list[Any], number: int) -> Node:
        op, name, inputs, outputs, attrs = entry
        texts = [op, name, *inputs, *outputs]
        if not all(isinstance(text, str) for text in texts) or not isinstance(attrs, dict):
            raise self._damaged("a node that is not [operator, name, inputs, outputs, attributes]")
        if not isinstance(inputs, list) or not isinstance(outputs, list) or not any(outputs):
            raise self._damaged(f"{op[:80]} {name[:80]!r}: inputs or outputs are no lists of names")
        if op not in OPS:
            raise UnsupportedModelError(
                f"operator {op[:80]} is not supported",
                source=self.name,
                node=f"{op[:80]} {name[:80]!r}",
                hint=f"Written by gatestep {self.writer[:20]}; update, or convert the original file again",
            )
        values = {key: self._value(value, number) for key, value in attrs.items()}
        node = Node(op, tuple(inputs), tuple(outputs), values, name)
        if op in GATES and not _is_cell(node):
            raise self._damaged(f"{node.label}: attributes that no cell has")
        must = CONTROL.get(op, {})
        if not must.keys() <= attrs.keys() or not all(conforms(values[name], kind) for name, kind in must.items()):
            raise self._damaged(f"{node.label}: attributes that no {op} has")
        return node

    # ------------------------------------------------------------------ what was found out
    def analysed(self) -> tuple[Graph, Layout]:
        """The graph as rewritten for running, and its layout, names in it held against the graph."""
        if not isinstance(self.prepared, dict) or self.prepared.keys() != {"graph", "layout"}:
            raise self._damaged("what is prepared is no graph and layout")
        graph, stored = self.graph(self.prepared["graph"]), self.prepared["layout"]
        if not isinstance(stored, dict):
            raise self._damaged("the layout is no object")
        try:
            layout: Layout = record(Layout, {name: self.value(item) for name, item in stored.items()})
        except ModelFormatError as error:
            raise error if str(error).startswith(self.name) else self._damaged(str(error)) from error
        self._fits(graph, layout)
        return graph, layout

    def _fits(self, graph: Graph, layout: Layout) -> None:
        """Whether the layout speaks of this graph's inputs, outputs and axes."""
        ins, outs = {p.name: p for p in graph.inputs}, {p.name: p for p in graph.outputs}
        made = {*ins, *graph.constants, *(name for node in graph.nodes for name in node.outputs)}
        lists: list[tuple[Iterable[str], Iterable[str]]] = [
            (layout.axes, ins | outs),
            (layout.carried, ins),
            (layout.carried.values(), outs),
            (layout.states, ins),
            ([out for out in layout.states.values() if out is not None], outs),
            (layout.finals, outs),
            (layout.kept, outs),
            (layout.lengths, ins),
            (layout.state_batch, ins),
        ]
        for names, known in lists:
            for name in names:
                if name not in {*known}:
                    raise self._damaged(f"the layout speaks of {name[:80]!r}, which is no input or output")
        if any(key not in made for key, _ in layout.owned):
            raise self._damaged("the layout speaks of a state of no node")
        memories = layout.memories
        counts = (memories.hop, memories.delay + 1, memories.begins + 1, memories.before + 1)
        streamed = [(port.name, port.shape, port.dtype) for port in (*memories.graph.inputs, *memories.graph.outputs)]
        if streamed != [(port.name, port.shape, port.dtype) for port in (*graph.inputs, *graph.outputs)]:
            raise self._damaged("the graph for streams has other inputs or outputs")
        if not all(1 <= count <= MOST_STEPS + 1 for count in counts) or not {*(memories.outputs or {})} <= {*outs}:
            raise self._damaged("the layout has memories that are no stream's")
        taken = {*layout.carried, *layout.states, *layout.lengths}
        for name, port in ins.items() if layout.blocker is None else ():
            read = any(name in node.inputs for node in graph.nodes) or name in outs
            if read and (name in layout.axes) + (name in taken) + (graph.defaults.get(name) is not None) == 0:
                raise self._damaged(f"the layout does not say what the input {name[:80]!r} is")
            if port.shape is None:
                raise self._damaged(f"a layout for an input {name[:80]!r} of any rank")
        for name, axes in layout.axes.items():
            used = [axis for axis in (axes.time, axes.batch, *axes.dropped) if axis is not None]
            shape = (ins | outs)[name].shape
            rank = 32 if shape is None or name not in ins else len(shape)
            if len({*used}) != len(used) or any(not 0 <= axis < rank for axis in used):
                raise self._damaged(f"the layout has axes that {name[:80]!r} does not have")


def _is_cell(node: Node) -> bool:
    """Whether the attributes are those of a cell, see `graph`; whether they fit its weights, lowering finds."""
    wanted: dict[str, Any] = {
        "hidden_size": int,
        "direction": Literal["forward", "reverse", "bidirectional"],
        "gates": str,
        "activations": tuple[tuple[str, float, float], ...],
        "clip": float | None,
    }
    if node.op == "LSTM":
        wanted["coupled"] = Literal["", "f=1-i", "i=1-f"]
    if node.op == "GRU":
        wanted["linear_before_reset"] = bool
    # Of a cell that was recognised; of one along the bands of a frame; of one in a stream that keeps frames.
    others: dict[str, Any] = {"recognised": bool, "origin": tuple[str, ...], "banded": bool, "wait": int, "made": bool}
    wanted |= {name: kind for name, kind in others.items() if name in node.attrs}
    return (
        node.attrs.keys() == wanted.keys()
        and all(conforms(value, wanted[name]) for name, value in node.attrs.items())
        and sorted(node.attrs["gates"]) == sorted(GATES[node.op])
        and all(name in ACTIVATIONS for name, _, _ in node.attrs["activations"])
    )


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _mapped(source: Source) -> memoryview:
    """The bytes of a file, mapped; or those given."""
    if isinstance(source, bytes):
        return memoryview(source)
    with opened(source) as file:
        if os.fstat(file.fileno()).st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
