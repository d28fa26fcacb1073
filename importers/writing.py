"""Our own file, written. See docs/format.md."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, field
from hashlib import sha256
from typing import IO, Any

import numpy as np

from ..engine.errors import UnsupportedModelError
from ..engine.graph import Graph, Node, Port
from ..engine.streaming.layout import Layout
from .container import KEYS, PREFIX, VERSION, padding
from .kinds import CONTAINER_MAGIC
from .typed import dtype_name, pack_value

__all__ = ["Writer"]


@dataclass
class Writer:
    """Collects arrays and graphs, equal ones once, and writes the file.

    Attributes
    ----------
    source : str
        What messages about the graphs begin with, which the file does not keep.
    """

    source: str
    arrays: list[np.ndarray] = field(default_factory=list)
    graphs: list[dict[str, Any]] = field(default_factory=list)
    _numbers: dict[Any, int] = field(default_factory=dict)

    def array(self, array: np.ndarray) -> int:
        """The number of an array in the file."""
        dense = np.ascontiguousarray(array, dtype_name(array.dtype)).reshape(array.shape)
        key = dense.dtype.str, dense.shape, sha256(dense.reshape(-1).view(np.uint8).data).digest()
        if key not in self._numbers:
            self._numbers[key] = len(self.arrays)
            self.arrays.append(dense)
        return self._numbers[key]

    def value(self, value: Any) -> Any:
        """A value as JSON, see `typed`."""
        return pack_value(value, self.array, self.graph, self.source)

    def graph(self, graph: Graph) -> int:
        """The number of a graph in the file. Bodies come before the graphs that they are in."""

        def port(port: Port) -> list[Any]:
            shape = None if port.shape is None else [int(d) if isinstance(d, int) else d for d in port.shape]
            return [port.name, shape, dtype_name(port.dtype), port.optional]

        def attributes(node: Node) -> dict[str, Any]:
            packed = {}
            for name, value in node.attrs.items():
                try:
                    packed[name] = self.value(value)
                except UnsupportedModelError as error:
                    raise UnsupportedModelError(
                        error.reason, source=self.source, node=node.label, attribute=name
                    ) from error
            return packed

        data = {
            "inputs": [port(p) for p in graph.inputs],
            "outputs": [port(p) for p in graph.outputs],
            "nodes": [[n.op, n.name, list(n.inputs), list(n.outputs), attributes(n)] for n in graph.nodes],
            "constants": {name: self.array(array) for name, array in graph.constants.items()},
            "defaults": {name: None if a is None else self.array(a) for name, a in graph.defaults.items()},
            "prefix": graph.prefix,
            "notes": list(graph.notes),
            "fresh": graph._fresh,
        }
        key = json.dumps(data)
        if key not in self._numbers:
            self._numbers[key] = len(self.graphs)
            self.graphs.append(data)
        return self._numbers[key]

    def layout(self, layout: Layout) -> dict[str, Any]:
        """A layout, by its fields."""
        return {name: self.value(getattr(layout, name)) for name in Layout.__annotations__}

    def write(self, file: IO[bytes], **entries: Any) -> None:
        """Write the file; `entries` are those of the header beside arrays and graphs."""
        table = [[a.dtype.str, list(a.shape), zlib.crc32(a.reshape(-1).view(np.uint8).data)] for a in self.arrays]
        entries |= {"graphs": self.graphs, "arrays": table}
        header = json.dumps({key: entries[key] for key in KEYS}, separators=(",", ":"), allow_nan=False).encode()
        header += b" " * padding(PREFIX.size + len(header))
        start = PREFIX.pack(CONTAINER_MAGIC, VERSION, zlib.crc32(header), len(header), 0, 0)[:-4]
        file.write(start + struct.pack("<I", zlib.crc32(start)) + header)
        for array in self.arrays:
            file.write(array.reshape(-1).view(np.uint8).data)
            file.write(bytes(padding(array.nbytes)))
