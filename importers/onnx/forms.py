"""How an operator is held against what its operator set says of it, before it is translated.

A `Form` says what an operator takes from one operator set on: its attributes with their types and defaults, its inputs
and outputs. A node is held against it before its translation sees it, so an attribute, an input or an output that the
form does not have is always an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ...engine.errors import ModelFormatError, UnsupportedModelError
from ...engine.graph import Dim, Graph
from . import proto as onnx
from .reader import DOMAIN, FileNode, OnnxFile, describe

__all__ = [
    "FLOAT",
    "FLOATS",
    "GRAPH",
    "INT",
    "INTS",
    "REQUIRED",
    "SPARSE_TENSOR",
    "STRING",
    "STRINGS",
    "TENSOR",
    "Attr",
    "Call",
    "Form",
    "Translation",
    "flag",
    "same",
    "single",
]

Array = np.ndarray

# ---------------------------------------------------------------------- the state of one translation


class Translation:
    """A file on its way into a graph.

    Attributes
    ----------
    file, graph
    needed : set of str
        Values that the graph's outputs depend on.
    names : dict
        What a value of the file is called in the graph: its own name unless it is another value renamed.
    dtypes : dict
        Of the graph's values, as far as they follow from the operators; constants know their own.
    inputs : set of str
        Names of the graph's inputs.
    table : mapping
        The operators that there are.
    fixes : frozenset of str
        What the caller wants mended (`exporters.FIXES`).
    doubted : list of str
        Nodes that compute something else than the model did that the file was made from.
    decoded : dict
        Tensors that can occur more than once, as their node is inlined, by id.
    """

    def __init__(
        self,
        file: OnnxFile,
        graph: Graph,
        table: Mapping[str, tuple[Form, ...]],
        needed: set[str],
        fixes: frozenset[str] = frozenset(),
    ) -> None:
        self.file, self.graph, self.table, self.needed, self.fixes = file, graph, table, needed, fixes
        self.names: dict[str, str] = {}
        self.dtypes: dict[str, np.dtype[Any] | None] = {}
        self.inputs: set[str] = set()
        self.doubted: list[str] = []
        self.decoded: dict[int, tuple[object, Array]] = {}

    def value(self, name: str) -> str:
        """The graph's name of a value that a translated node uses; initializers are read at their first use."""
        if name in self.names or not name:
            return self.names.get(name, "")
        if name in self.file.sparse:
            raise UnsupportedModelError(
                f"initializer {name!r} is sparse", source=self.file.source, hint="Store it as a dense tensor"
            )
        self.constant(self.shared(name) if name.startswith("\0") else self.initializer(name), name)
        return name

    def initializer(self, name: str) -> Array:
        """The array of an initializer."""
        return self.file.tensors.array(self.file.initializers[name], f"initializer {name!r}")

    def shared(self, name: str) -> Array:
        """The array of an initializer that bodies use: one array, however many of them there are."""
        tensor = self.file.initializers[name]
        return self._decoded(tensor, tensor, f"initializer {name.lstrip(chr(0))!r}")

    def constant(self, array: Array, name: str | None = None) -> str:
        """Add a constant; `name` is the file's, if it has one."""
        if name is not None:
            self.names[name] = name
        return self.graph.constant(array, name)

    def dtype(self, value: str) -> np.dtype[Any] | None:
        """The dtype of a value of the graph, or None if unknown."""
        known = self.graph.constants.get(value)
        return known.dtype if known is not None else self.dtypes.get(value)

    def shape(self, value: str) -> tuple[Dim, ...] | None:
        """The shape of a constant, or what the file declares of a model input."""
        known = self.graph.constants.get(value)
        if known is not None:
            return known.shape
        declared = self.file.types.get(value) if value in self.inputs else None
        return declared.shape if declared else None

    def tensor(self, attr: onnx.AttributeProto, what: str) -> Array:
        """The array of an attribute."""
        return self._decoded(attr, attr.t, what)

    def _decoded(self, owner: object, tensor: onnx.TensorProto, what: str) -> Array:
        """The array of a tensor, decoded once however often its node is inlined."""
        held = self.decoded.get(id(owner))
        if held is None:
            # The owner is kept as well, so that its id stays its own.
            held = self.decoded[id(owner)] = (owner, self.file.tensors.array(tensor, what))
        return held[1]

    def translate(self, node: FileNode) -> None:
        """Add what `node` computes to the graph."""
        forms = self.table.get(f"{node.domain}.{node.op}" if node.domain else node.op)
        if forms is None:
            domain = "" if node.domain == "" else f" of domain {node.domain!r}"
            raise UnsupportedModelError(
                f"operator {node.op}{domain} is not supported",
                source=self.file.source,
                node=node.label,
                hint=_HINTS.get(node.domain, _CUT),
            )
        if node.version is None:
            raise self.file.damaged(f"the file imports no operator set of domain {node.domain or DOMAIN!r}", node)
        form = next((form for form in reversed(forms) if form.since <= node.version), None)
        if form is None:
            raise self.file.damaged(
                f"operator {node.op} came with operator set {forms[0].since}; the file imports {node.version}", node
            )
        form.translate(Call(self, node, form))


_CUT = "Cut the part of the model that you need with inputs=[...] and outputs=[...]"
#: What to do about operators of a domain none of which is known.
_HINTS = {
    "com.microsoft.nchwc": "onnxruntime has optimised the file for one kind of processor: save it with "
    "ORT_ENABLE_EXTENDED, or load the file that it was made from",
}


# ---------------------------------------------------------------------- forms
_A = onnx.AttributeProto
INT, FLOAT, STRING, TENSOR = int(_A.INT), int(_A.FLOAT), int(_A.STRING), int(_A.TENSOR)
INTS, FLOATS, STRINGS, GRAPH = int(_A.INTS), int(_A.FLOATS), int(_A.STRINGS), int(_A.GRAPH)
SPARSE_TENSOR = int(_A.SPARSE_TENSOR)
REQUIRED = object()


class Attr(NamedTuple):
    """An attribute: its type in the file, and what it is if the node does not have it.

    `harmless` ones do not change what inference computes; they are checked and then left out.
    """

    kind: int
    default: Any = None
    choices: tuple[Any, ...] | None = None
    flag: bool = False
    harmless: bool = False


def flag(default: bool = False) -> Attr:
    """An INT that is 0 or 1."""
    return Attr(INT, default, flag=True)


def single(value: float) -> float:
    """A float as it comes out of a file, which holds attributes in single precision."""
    return float(np.float32(value))


class Form(NamedTuple):
    """An operator from operator set `since` on. `inputs` is (required, at most); None means any number.

    Of any number of inputs none may be left out but the first `gaps`.
    """

    since: int
    translate: Callable[[Call], None]
    inputs: tuple[int, int | None] = (1, 1)
    attrs: Mapping[str, Attr] = MappingProxyType({})
    outputs: int | None = 1
    gaps: int = 0


class Call:
    """A node that fits its form, with everything that a translation reads and writes."""

    def __init__(self, translation: Translation, node: FileNode, form: Form) -> None:
        self.translation, self.node, self.graph = translation, node, translation.graph
        required, most = form.inputs
        inputs = list(node.inputs)
        while inputs and not inputs[-1]:
            inputs.pop()
        outputs = list(node.outputs)
        while outputs and not outputs[-1]:
            outputs.pop()
        if most is not None and len(inputs) > most:
            raise self.damaged(f"has {len(inputs)} inputs; operator set {node.version} knows {most}")
        if len(inputs) < required or not all(inputs[form.gaps : len(inputs) if most is None else required]):
            raise self.damaged(f"lacks input {next((k for k, i in enumerate(inputs) if not i), len(inputs))}")
        if form.outputs is not None and len(outputs) > form.outputs:
            raise self.damaged(f"has {len(outputs)} outputs; operator set {node.version} knows {form.outputs}")
        self.inputs = [translation.value(name) for name in inputs]
        if most is not None:
            self.inputs += [""] * (most - len(inputs))
        self.outputs = outputs
        self.attrs = self._attributes(form.attrs)

    def _attributes(self, spec: Mapping[str, Attr]) -> dict[str, Any]:
        for name in self.node.attrs.keys() - spec.keys():
            raise self.unsupported(
                f"is not an attribute of {self.node.op} in operator set {self.node.version}",
                name,
                describe(self.node.attrs[name]),
            )
        values = {}
        for name, attr in spec.items():
            proto = self.node.attrs.get(name)
            if proto is None:
                if attr.default is REQUIRED:
                    raise self.damaged(f"lacks attribute {name}")
                value = attr.default
            else:
                value = self._decode(name, proto, attr.kind)
            if attr.flag:
                if value not in (0, 1):
                    raise self.damaged(f"attribute {name} is {value}, not 0 or 1")
                value = bool(value)
            if attr.choices is not None and value not in attr.choices:
                known = ", ".join(map(repr, attr.choices))
                raise self.unsupported("is not supported", name, value, f"Known: {known}")
            if not attr.harmless:
                values[name] = value
        return values

    def _decode(self, name: str, proto: onnx.AttributeProto, kind: int) -> Any:
        if proto.type != kind:
            names = {member.value: member.name for member in onnx.AttributeType}
            has, wants = (names.get(code, "unknown") for code in (proto.type, kind))
            raise self.damaged(f"attribute {name} is of type {has}, not {wants}")
        if kind == INT:
            return int(proto.i)
        if kind == FLOAT:
            return float(proto.f)
        if kind == STRING:
            return self._text(name, proto.s)
        if kind == INTS:
            return tuple(map(int, proto.ints))
        if kind == FLOATS:
            return tuple(map(float, proto.floats))
        if kind == STRINGS:
            return tuple(self._text(name, s) for s in proto.strings)
        if kind == GRAPH:
            if name not in self.node.bodies:
                raise self.unsupported("is a graph that a function is handed", name, hint="Inline the function")
            return self.node.bodies[name]
        if kind == TENSOR:
            return self.translation.tensor(proto, f"attribute {name} of {self.node.label}")
        raise self.unsupported("is not supported", name)

    def _text(self, name: str, data: bytes) -> str:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise self.damaged(f"attribute {name} is not text") from None

    # ------------------------------------------------------------------ what a translation reads
    def known(self, k: int) -> Array | None:
        """The array of input `k` if it is a constant."""
        return self.graph.constants.get(self.inputs[k])

    def dtype(self, k: int = 0) -> np.dtype[Any] | None:
        """The dtype of input `k`, or None if unknown."""
        return self.translation.dtype(self.inputs[k])

    def uses(self, k: int) -> bool:
        """Whether anything depends on output `k`."""
        return k < len(self.outputs) and self.outputs[k] in self.translation.needed

    def damaged(self, reason: str) -> ModelFormatError:
        return self.translation.file.damaged(reason, self.node)

    def unsupported(
        self, reason: str, attribute: str | None = None, value: object = None, hint: str | None = None
    ) -> UnsupportedModelError:
        return UnsupportedModelError(
            reason,
            source=self.translation.file.source,
            node=self.node.label,
            attribute=attribute,
            value=value,
            hint=hint,
        )

    # ------------------------------------------------------------------ what a translation writes
    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """A new constant."""
        return self.translation.constant(np.asarray(values, dtype))

    def scalar(self, value: float) -> str:
        """A new constant of input 0's type."""
        return self.constant(value, self.dtype() or np.float32)

    def add(self, op: str, inputs: Iterable[str], outputs: int | Sequence[str] = 1, **attrs: Any) -> tuple[str, ...]:
        """Add a node. `outputs`: the file's names, or how many new values to make."""
        inputs = tuple(inputs)
        made = self.graph.add(op, inputs, outputs, name=self.node.title, **attrs)
        dtype = _result_dtype(self.translation, op, inputs, attrs)
        for name in filter(None, made):
            self.translation.dtypes[name] = dtype
            if not isinstance(outputs, int):
                self.translation.names[name] = name
        return made

    def finish(self, op: str, inputs: Iterable[str], **attrs: Any) -> None:
        """Add the node that makes the outputs."""
        self.add(op, inputs, self.outputs, **attrs)

    def rename(self, value: str) -> None:
        """Output 0 is `value`."""
        self.translation.names[self.outputs[0]] = value


#: Operators that make truth values.
_TRUTH = frozenset("Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor Not IsNaN IsInf".split())


def _result_dtype(
    translation: Translation, op: str, inputs: tuple[str, ...], attrs: Mapping[str, Any]
) -> np.dtype[Any] | None:
    """The dtype of what `op` makes."""
    if op in _TRUTH:
        return np.dtype(np.bool_)
    if op in ("Shape", "Size", "ArgMax", "ArgMin", "SequenceLength"):
        return np.dtype(np.int64)
    if op == "Cast":
        return attrs["to"]  # type: ignore[no-any-return]
    if op == "ConstantOfShape":
        return attrs["value"].dtype  # type: ignore[no-any-return]
    if op == "QuantizeLinear":
        return attrs["dtype"]  # type: ignore[no-any-return]
    if op in ("MatMulInteger", "ConvInteger"):
        return np.dtype(np.int32)
    if not inputs:
        return None
    return translation.dtype(inputs[{"Where": 1, "OneHot": 2, "DequantizeLinear": 1}.get(op, 0)])


def same(call: Call) -> None:
    """The file's form is the graph's."""
    call.finish(call.node.op, call.inputs, **call.attrs)
