"""ONNX files as checked values in memory: names defined once, nodes in execution order, functions inlined."""

from __future__ import annotations

import heapq
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ...engine.errors import ModelFormatError, UnsupportedModelError
from ...engine.graph import Dim
from . import proto as onnx
from .tensors import Tensors
from .wire import Damaged, TooMuch, read

if TYPE_CHECKING:
    import onnx as library

__all__ = ["DOMAIN", "Body", "FileNode", "OnnxFile", "ValueType", "describe", "open_model", "read_file"]

#: How messages call the default domain, which files write as "" or by this name.
DOMAIN = "ai.onnx"

OLDEST_IR, NEWEST_IR = 3, 14
OLDEST_OPSET, NEWEST_OPSET = 7, 28

#: Metadata of a node in which PyTorch's exporter keeps the call that it wrote the node for.
TRACED = "pkg.torch.onnx.fx_node"

#: Far beyond any recurrent model, and what translates within seconds.
MAX_NODES = 250_000
MAX_CALL_DEPTH = 32
MAX_BODY_DEPTH = 16
#: What a model is read from; one of the library's own is written as a file first.
Source: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | library.ModelProto"

#: Protobuf writes no more.
MAX_FILE_BYTES = 2**31 - 1


class ValueType(NamedTuple):
    """What a file declares of a value. `code` is an ONNX data type; None where the value is no tensor."""

    code: int | None
    shape: tuple[Dim, ...] | None


class Body(NamedTuple):
    """A graph that a node holds: a branch, or what a loop repeats.

    In a node as it is read, names are those of the file. In one that `read_file` gives, they are like no other in the
    file and begin with `prefix` behind a NUL, `nodes` are in execution order, and `captured` are the values of the
    graphs around it that it uses.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[FileNode, ...]
    types: Mapping[str, ValueType]
    initializers: Mapping[str, onnx.TensorProto]
    sparse: frozenset[str]
    captured: tuple[str, ...] = ()
    prefix: str = ""


class FileNode(NamedTuple):
    """A node as the file has it.

    `version` is that of the operator set of its domain, None if the file imports none. `traced` is the call that
    PyTorch's exporter says it wrote the node for.
    """

    op: str
    domain: str
    version: int | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, onnx.AttributeProto]
    name: str
    overload: str = ""
    traced: str = ""
    bodies: Mapping[str, Body] = MappingProxyType({})

    @property
    def reads(self) -> list[str]:
        """All values that it uses, those that only its bodies use included."""
        inner = (name for body in self.bodies.values() for name in body.captured)
        return [*dict.fromkeys(filter(None, (*self.inputs, *inner)))]

    @property
    def title(self) -> str:
        """Its name, or that of its first output."""
        return self.name or next(filter(None, self.outputs), "?")

    @property
    def label(self) -> str:
        """How messages call it: ``LSTM 'encoder'``."""
        return f"{self.op} {self.title!r}"


class OnnxFile:
    """A file that is sound in form; nothing is said yet about whether its operators are known."""

    def __init__(self, source: str, ir_version: int, tensors: Tensors, producer: str) -> None:
        self.source, self.ir_version, self.tensors, self.producer = source, ir_version, tensors, producer
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self.nodes: list[FileNode] = []
        self.types: dict[str, ValueType] = {}
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.sparse: set[str] = set()

    def damaged(self, reason: str, node: FileNode | None = None) -> ModelFormatError:
        """An error that names the file and the node."""
        where = f"{self.source}: {node.label}" if node else self.source
        return ModelFormatError(f"{where}: {reason}")


# ---------------------------------------------------------------------- bytes
def open_model(source: Source, name: str | None = None) -> tuple[onnx.ModelProto, str, str | None]:
    """Parse `source`; returns the model, what messages call it, and its folder (None if it is not a file)."""
    folder = None
    if isinstance(source, bytes | bytearray | memoryview):
        data, label = memoryview(source).cast("B"), name or "<bytes>"
    elif isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        label, folder = name or path, os.path.dirname(path) or "."
        data = _file_bytes(path, label)
    else:
        label = name or "<ModelProto>"
        data = _library_bytes(source, label)
    try:
        model = read(onnx.ModelProto, data)
    except Damaged as error:
        raise ModelFormatError(f"{label}: is not an ONNX file: {_looks_like(data)} ({error})") from None
    except TooMuch:
        raise UnsupportedModelError("has more parts than any recurrent model", source=label) from None
    if not model.HasField("graph"):
        raise ModelFormatError(f"{label}: is not an ONNX file: {_looks_like(data)}")
    return model, label, folder


def _file_bytes(path: str, label: str) -> memoryview:
    # Read, not mapped into memory: a mapped file that someone writes anew takes the process with it.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ModelFormatError(f"{label}: is not a regular file")
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size > MAX_FILE_BYTES:
            raise ModelFormatError(
                f"{label}: is larger than 2 GB, which no ONNX file can be. Larger weights belong in external data"
            )
        return memoryview(file.read())


def _library_bytes(source: Any, label: str) -> memoryview:
    """A model of the onnx package as the bytes of a file."""
    if getattr(getattr(source, "DESCRIPTOR", None), "full_name", None) != "onnx.ModelProto":
        raise TypeError(f"a model is a path, bytes or onnx.ModelProto, not {type(source).__name__}")
    try:
        return memoryview(source.SerializeToString())
    except ValueError as error:  # of more than 2 GB
        raise ModelFormatError(f"{label}: cannot be written as a file ({error})") from error


_SIGNATURES = (
    (0, b"PK\x03\x04", "it is a zip archive, such as a PyTorch (.pt) or Keras (.keras) file"),
    (4, b"TFL3", "it is a TensorFlow Lite file"),
    (4, b"ORTM", "it is in onnxruntime's own .ort format; load the .onnx file it was made from"),
    (0, b"\x89HDF", "it is an HDF5 file, such as Keras weights"),
    (0, b"version https://git-lfs", "it is a Git LFS pointer; fetch the real file with: git lfs pull"),
    (0, b"\x93NUMPY", "it is a NumPy array"),
    (0, b"\x1f\x8b", "it is compressed with gzip; decompress it first"),
    (0, b"GGUF", "it is a GGUF file"),
    (0, b"\x80\x02", "it is a Python pickle, such as an old PyTorch file"),
    (0, b"\x80\x04", "it is a Python pickle"),
)


def _looks_like(file: memoryview) -> str:
    """What else than ONNX these bytes may be."""
    data = bytes(file[:512])
    if not data:
        return "it is empty"
    for offset, signature, meaning in _SIGNATURES:
        if data.startswith(signature, offset):
            return meaning
    head = data.lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "it is a web page, perhaps from a download link that needs a login"
    if head.startswith(b"<?xml"):
        return "it is an XML file"
    if data[8:9] == b"{" and data[:8].rstrip(b"\0") != data[:8]:
        return "it is a safetensors file"
    if head.startswith((b"{", b"[")):
        return "it is a JSON file"
    if data.startswith(b"\x08"):
        return "it is damaged or cut short"
    return "its bytes are of no format known here"


# ---------------------------------------------------------------------- structure
def read_file(model: onnx.ModelProto, source: str, folder: str | None) -> OnnxFile:
    """Check the form of `model` and bring it into one shape."""
    file = OnnxFile(source, int(model.ir_version), Tensors(source, folder), str(model.producer_name))
    _check_ir(file)
    opsets = _opsets(file, model.opset_import, "the model")
    _check_opset(file, opsets)
    graph = model.graph
    _check_size(file, graph)
    for kind, infos, names in (("input", graph.input, file.inputs), ("output", graph.output, file.outputs)):
        for info in infos:
            name = _name(file, info.name, f"an {kind}")
            if not name:
                raise file.damaged(f"has an {kind} without a name")
            names.append(name)
            file.types[name] = _value_type(file, info)
        if len(set(names)) != len(names):
            raise file.damaged(f"declares {kind} {_repeated(names)!r} twice")
    if not file.outputs:
        raise file.damaged("has no outputs")
    for info in graph.value_info:
        file.types.setdefault(_name(file, info.name, "a value"), _value_type(file, info))
    for tensor in graph.initializer:
        name = _name(file, tensor.name, "an initializer")
        if not name:
            raise file.damaged("has an initializer without a name")
        if name in file.initializers:
            raise file.damaged(f"has initializer {name!r} twice")
        file.initializers[name] = tensor
    for sparse in graph.sparse_initializer:
        name = _name(file, sparse.values.name, "an initializer")
        if name in file.initializers or name in file.sparse:
            raise file.damaged(f"has initializer {name!r} twice")
        file.sparse.add(name)
    given = set(file.inputs) | file.initializers.keys() | file.sparse
    inliner = _Inliner(file, _functions(file, model, opsets))
    nodes = list(inliner.nodes((_node(file, proto, opsets) for proto in graph.node), _Scope()))
    file.nodes = _ordered(file, nodes, given)
    made = given.union(*(node.outputs for node in nodes))
    for name in file.outputs:
        if name not in made:
            raise file.damaged(f"output {name!r} is made by no node")
    return file


def _check_size(file: OnnxFile, graph: onnx.GraphProto) -> None:
    for part in ("node", "input", "output", "initializer", "sparse_initializer", "value_info"):
        if len(getattr(graph, part)) > MAX_NODES:
            raise UnsupportedModelError(f"has more than {MAX_NODES} entries of {part}", source=file.source)


def _check_ir(file: OnnxFile) -> None:
    if file.ir_version <= 0:
        raise file.damaged("is not an ONNX file: it has no IR version")
    if file.ir_version < OLDEST_IR:
        raise UnsupportedModelError(
            f"has IR version {file.ir_version}; {OLDEST_IR} is the oldest supported", source=file.source, hint=_CONVERT
        )
    if file.ir_version > NEWEST_IR:
        raise UnsupportedModelError(
            f"has IR version {file.ir_version}; {NEWEST_IR} is the newest supported",
            source=file.source,
            hint=f"Export it with ir_version={NEWEST_IR} or older",
        )


def _check_opset(file: OnnxFile, opsets: Mapping[str, int]) -> None:
    version = opsets.get("")
    if version is None:
        return
    if version < OLDEST_OPSET:
        raise UnsupportedModelError(
            f"has operator set {version}; {OLDEST_OPSET} is the oldest supported", source=file.source, hint=_CONVERT
        )
    if version > NEWEST_OPSET:
        raise UnsupportedModelError(
            f"has operator set {version}; {NEWEST_OPSET} is the newest supported",
            source=file.source,
            hint=f"Export it for operator set {NEWEST_OPSET} or older",
        )


_CONVERT = "Export it anew, or convert it with onnx.version_converter"


def _opsets(file: OnnxFile, imports: Sequence[onnx.OperatorSetIdProto], who: str) -> dict[str, int]:
    opsets: dict[str, int] = {}
    for entry in imports:
        domain, version = _domain(file, entry.domain), int(entry.version)
        if opsets.setdefault(domain, version) != version:
            raise file.damaged(f"{who} imports domain {domain or DOMAIN!r} in two versions")
    return opsets


def _domain(file: OnnxFile, domain: str) -> str:
    domain = _name(file, domain, "a domain")
    return "" if domain == DOMAIN else domain


def _name(file: OnnxFile, name: str, what: str) -> str:
    # NUL starts the names that the graph makes up itself.
    if "\0" in name:
        raise file.damaged(f"has {what} with the unreadable name {name[:80]!r}")
    return name


def _repeated(names: Sequence[str]) -> str:
    return next(name for name, count in Counter(names).items() if count > 1)


def _value_type(file: OnnxFile, info: onnx.ValueInfoProto) -> ValueType:
    if not info.HasField("type"):
        return ValueType(int(onnx.TensorProto.UNDEFINED), None)
    if not info.type.HasField("tensor_type"):
        return ValueType(None, None)
    tensor = info.type.tensor_type
    shape: tuple[Dim, ...] | None = None
    if tensor.HasField("shape"):
        shape = tuple(_dim(file, dim) for dim in tensor.shape.dim)
    return ValueType(int(tensor.elem_type), shape)


def _dim(file: OnnxFile, dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        # Old exporters wrote -1 for a free dimension.
        return int(dim.dim_value) if dim.dim_value >= 0 else None
    return _name(file, dim.dim_param, "a dimension") or None


# ---------------------------------------------------------------------- nodes and functions
class _Function(NamedTuple):
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    declared: frozenset[str]
    defaults: dict[str, onnx.AttributeProto]
    nodes: list[FileNode]


class _Scope(NamedTuple):
    """What names and attributes stand for: in one call of a function, or in a body, which sees what is `around` it.

    The graph itself has none of it.
    """

    depth: int = 0
    prefix: str = ""
    title: str = ""
    names: Mapping[str, str] = MappingProxyType({})
    attrs: Mapping[str, onnx.AttributeProto] | None = None
    around: _Scope | None = None

    def value(self, name: str) -> str:
        if not name:
            return ""
        if self.around is None:
            return self.names.get(name, self.prefix + name)
        return self.names[name] if name in self.names else self.around.value(name)


def _node(file: OnnxFile, proto: onnx.NodeProto, opsets: Mapping[str, int], depth: int = 0) -> FileNode:
    domain = _domain(file, proto.domain)
    if depth > MAX_BODY_DEPTH:
        raise UnsupportedModelError(
            f"has bodies in bodies, more than {MAX_BODY_DEPTH} deep", source=file.source, node=str(proto.op_type)[:80]
        )
    node = FileNode(
        op=_name(file, proto.op_type, "a node"),
        domain=domain,
        version=opsets.get(domain),
        inputs=tuple(_name(file, name, "a value") for name in proto.input),
        outputs=tuple(_name(file, name, "a value") for name in proto.output),
        attrs={_name(file, attr.name, "an attribute"): attr for attr in proto.attribute},
        name=_name(file, proto.name, "a node"),
        overload=_name(file, proto.overload, "a node"),
        traced=next((str(prop.value) for prop in proto.metadata_props if prop.key == TRACED), ""),
        bodies={attr.name: _body(file, attr.g, opsets, depth + 1) for attr in proto.attribute if attr.HasField("g")},
    )
    if len(node.attrs) != len(proto.attribute):
        raise file.damaged(f"has attribute {_repeated([a.name for a in proto.attribute])!r} twice", node)
    return node


def _body(file: OnnxFile, graph: onnx.GraphProto, opsets: Mapping[str, int], depth: int) -> Body:
    """A graph that a node holds, in the file's names."""
    _check_size(file, graph)
    inputs, outputs = (
        tuple(_name(file, info.name, "a value") for info in side) for side in (graph.input, graph.output)
    )
    if len(set(inputs)) != len(inputs):
        raise file.damaged(f"a body declares input {_repeated(inputs)!r} twice")
    if "" in inputs or "" in outputs:
        raise file.damaged("a body has an input or output without a name")
    named: dict[str, onnx.TensorProto] = {}
    for tensor in graph.initializer:
        name = _name(file, tensor.name, "an initializer")
        if not name or name in named:
            raise file.damaged(
                f"a body has initializer {name!r} twice" if name else "has an initializer without a name"
            )
        named[name] = tensor
    infos = (*graph.input, *graph.output, *graph.value_info)
    return Body(
        inputs=inputs,
        outputs=outputs,
        nodes=tuple(_node(file, node, opsets, depth) for node in graph.node),
        types={_name(file, info.name, "a value"): _value_type(file, info) for info in reversed(infos)},
        initializers=named,
        sparse=frozenset(_name(file, sparse.values.name, "an initializer") for sparse in graph.sparse_initializer),
    )


def _functions(
    file: OnnxFile, model: onnx.ModelProto, opsets: Mapping[str, int]
) -> dict[tuple[str, str, str], _Function]:
    functions = {}
    for proto in model.functions:
        name = _name(file, proto.name, "a function")
        key = (_domain(file, proto.domain), name, _name(file, proto.overload, "a function"))
        if key in functions:
            raise file.damaged(f"defines function {name!r} twice")
        imports = {**opsets, **_opsets(file, proto.opset_import, f"function {name!r}")}
        _check_opset(file, imports)
        defaults = {_name(file, attr.name, "an attribute"): attr for attr in proto.attribute_proto}
        inputs, outputs = ([_name(file, value, "a value") for value in side] for side in (proto.input, proto.output))
        if len({*inputs, *outputs}) != len(inputs) + len(outputs):
            raise file.damaged(f"function {name!r} declares {_repeated(inputs + outputs)!r} twice")
        functions[key] = _Function(
            name=name,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            declared=frozenset(_name(file, attr, "an attribute") for attr in proto.attribute) | defaults.keys(),
            defaults=defaults,
            nodes=[_node(file, node, imports) for node in proto.node],
        )
    return functions


class _Inliner:
    """Nodes in one naming, with the bodies of the file's own functions in place of their calls."""

    def __init__(self, file: OnnxFile, functions: Mapping[tuple[str, str, str], _Function]) -> None:
        self.file, self.functions = file, functions
        self.total = self.scopes = 0

    def nodes(self, nodes: Iterable[FileNode], scope: _Scope) -> Iterator[FileNode]:
        """`nodes`, which stand in `scope`."""
        file = self.file
        stack: list[tuple[Iterator[FileNode], _Scope]] = [(iter(nodes), scope)]
        while stack:
            nodes, scope = stack[-1]
            node = next(nodes, None)
            if node is None:
                stack.pop()
                continue
            node = _in_scope(file, node, scope)
            self.count(1 if scope.attrs is None and scope.around is None else _cost(node))
            function = self.functions.get((node.domain, node.op, node.overload))
            if (function is not None or node.bodies) and scope.depth == MAX_CALL_DEPTH:
                raise file.damaged("functions call each other too deeply, or in a circle", node)
            if function is None:
                yield self.with_bodies(node, scope) if node.bodies else node
                continue
            self.scopes += 1
            stack.append((iter(function.nodes), _call(file, node, function, scope, self.scopes)))

    def count(self, cost: int) -> None:
        """Nodes and what goes with them, of all bodies and calls together."""
        self.total += cost
        if self.total > MAX_NODES:
            raise UnsupportedModelError(f"has more than {MAX_NODES} nodes", source=self.file.source)

    def with_bodies(self, node: FileNode, scope: _Scope) -> FileNode:
        """`node` with its bodies in names that are like no other."""
        return node._replace(bodies={name: self.body(node, body, scope) for name, body in node.bodies.items()})

    def body(self, node: FileNode, body: Body, around: _Scope) -> Body:
        file = self.file
        self.scopes += 1
        made = (name for inner in body.nodes for name in inner.outputs if name)
        own = dict.fromkeys((*body.inputs, *body.initializers, *body.sparse, *made))
        self.count(len(own) + sum(map(len, own)) // 256)
        prefix = f"{node.op}{self.scopes}/"
        names = {name: f"\0{prefix}{name}" for name in own}
        scope = _Scope(around.depth + 1, "", node.title, names, around.attrs, around)
        nodes = list(self.nodes(body.nodes, scope))
        file.types.update((names[name], kind) for name, kind in body.types.items() if name in names)
        initializers = {names[name]: tensor for name, tensor in body.initializers.items()}
        file.initializers.update(initializers)
        sparse = frozenset(names[name] for name in body.sparse)
        file.sparse |= sparse
        inputs, outputs = (tuple(map(scope.value, side)) for side in (body.inputs, body.outputs))
        if len({*inputs, *initializers, *sparse}) != len(inputs) + len(initializers) + len(sparse):
            raise file.damaged("has a body with an input that is an initializer as well", node)
        inside = {*names.values(), *(name for inner in nodes for name in inner.outputs)}
        reads = dict.fromkeys(name for inner in nodes for name in inner.reads)
        captured = tuple(name for name in (*reads, *dict.fromkeys(outputs)) if name not in inside)
        given = {*inputs, *initializers, *sparse, *captured}
        return Body(inputs, outputs, tuple(_ordered(file, nodes, given)), {}, initializers, sparse, captured, prefix)


def _in_scope(file: OnnxFile, node: FileNode, scope: _Scope) -> FileNode:
    """`node` with the names and attributes of the call it is part of."""
    attrs: dict[str, onnx.AttributeProto] = {}
    for name, attr in node.attrs.items():
        if not attr.ref_attr_name:
            attrs[name] = attr
        elif scope.attrs is None:
            raise file.damaged(f"attribute {name} refers to an attribute of a function, but is in none", node)
        elif attr.ref_attr_name in scope.attrs:
            attrs[name] = scope.attrs[attr.ref_attr_name]
    if scope.attrs is None and scope.around is None:
        return node
    return node._replace(
        inputs=tuple(map(scope.value, node.inputs)),
        outputs=tuple(map(scope.value, node.outputs)),
        attrs=attrs,
        name=f"{scope.title}/{node.title}",
    )


def _cost(node: FileNode) -> int:
    """What an inlined node counts for: calls copy the names of a body, so that a small file could ask for many."""
    names = (*node.inputs, *node.outputs, node.name)
    return 1 + len(names) // 16 + sum(map(len, names)) // 256


def _call(file: OnnxFile, node: FileNode, function: _Function, scope: _Scope, count: int) -> _Scope:
    if len(node.inputs) > len(function.inputs) or len(node.outputs) > len(function.outputs):
        raise file.damaged(f"gives function {function.name!r} more inputs or outputs than it has", node)
    if unknown := set(node.attrs) - function.declared:
        raise file.damaged(f"gives function {function.name!r} an attribute it does not have: {min(unknown)}", node)
    names = dict(zip(function.inputs, node.inputs, strict=False))
    names.update((name, "") for name in function.inputs[len(node.inputs) :])
    names.update((name, value) for name, value in zip(function.outputs, node.outputs, strict=False) if value)
    return _Scope(scope.depth + 1, f"\0{function.name}{count}/", node.title, names, {**function.defaults, **node.attrs})


# ---------------------------------------------------------------------- order
def _ordered(file: OnnxFile, nodes: list[FileNode], given: Set[str]) -> list[FileNode]:
    """`nodes`, which may use what is `given`, in execution order: the file's own wherever that is one."""
    maker: dict[str, int] = {}
    for k, node in enumerate(nodes):
        for name in filter(None, node.outputs):
            if name in given or name in maker:
                raise file.damaged(f"value {name!r} is defined twice", node)
            maker[name] = k
    waits: list[set[int]] = []
    for node in nodes:
        needs = set()
        for name in node.reads:
            if name in maker:
                needs.add(maker[name])
            elif name not in given:
                raise file.damaged(f"uses value {name!r}, which nothing defines", node)
        waits.append(needs)
    if all(max(needs, default=-1) < k for k, needs in enumerate(waits)):
        return nodes

    readers: list[list[int]] = [[] for _ in nodes]
    for k, needs in enumerate(waits):
        for needed in needs:
            readers[needed].append(k)
    left = [len(needs) for needs in waits]
    ready = [k for k, count in enumerate(left) if count == 0]
    order: list[int] = []
    while ready:
        k = heapq.heappop(ready)
        order.append(k)
        for reader in readers[k]:
            left[reader] -= 1
            if left[reader] == 0:
                heapq.heappush(ready, reader)
    if len(order) < len(nodes):
        stuck = next(node for node, count in zip(nodes, left, strict=True) if count)
        raise file.damaged("is part of a cycle, or waits for one", stuck)
    return [nodes[k] for k in order]


def describe(attr: onnx.AttributeProto) -> Any:
    """What an attribute holds, for messages: a number, text, or the name of its type."""
    kind = onnx.AttributeProto
    if attr.type == kind.INT:
        return int(attr.i)
    if attr.type == kind.FLOAT:
        return float(attr.f)
    if attr.type == kind.STRING:
        return attr.s.decode("utf-8", "replace")[:80]
    if attr.type == kind.INTS:
        return list(attr.ints[:16])
    return None
