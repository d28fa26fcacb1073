"""The operators of ONNX, each as forms by operator set, and how each form becomes the graph's one form.

A `Form` says what an operator takes from one operator set on: its attributes with their types and defaults, its inputs
and outputs. A node is held against it before its translation sees it, so an attribute, an input or an output that the
form does not have is always an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from ...engine.errors import ModelFormatError, UnsupportedModelError
from ...engine.graph import Dim, Graph
from .reader import DOMAIN, FileNode, OnnxFile, describe
from .tensors import dtype_of, type_name

__all__ = ["OPS", "Call", "Translation"]

Array = np.ndarray

# ---------------------------------------------------------------------- the state of one translation


@dataclass
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
    """

    file: OnnxFile
    graph: Graph
    needed: set[str]
    names: dict[str, str] = field(default_factory=dict)
    dtypes: dict[str, np.dtype[Any] | None] = field(default_factory=dict)
    inputs: set[str] = field(default_factory=set)
    _tensors: dict[int, tuple[onnx.AttributeProto, Array]] = field(default_factory=dict)

    def value(self, name: str) -> str:
        """The graph's name of a value that a translated node uses; initializers are read at their first use."""
        if name in self.names or not name:
            return self.names.get(name, "")
        if name in self.file.sparse:
            raise UnsupportedModelError(
                f"initializer {name!r} is sparse", source=self.file.source, hint="Store it as a dense tensor"
            )
        self.constant(self.initializer(name), name)
        return name

    def initializer(self, name: str) -> Array:
        """The array of an initializer."""
        return self.file.tensors.array(self.file.initializers[name], f"initializer {name!r}")

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
        """The array of an attribute, decoded once however often its node is inlined."""
        held = self._tensors.get(id(attr))
        if held is None:
            # The attribute is kept as well, so that its id stays its own.
            held = self._tensors[id(attr)] = (attr, self.file.tensors.array(attr.t, what))
        return held[1]

    def translate(self, node: FileNode) -> None:
        """Add what `node` computes to the graph."""
        forms = OPS.get(node.op) if node.domain == "" else None
        if forms is None:
            domain = "" if node.domain == "" else f" of domain {node.domain!r}"
            raise UnsupportedModelError(
                f"operator {node.op}{domain} is not supported",
                source=self.file.source,
                node=node.label,
                hint="Cut the part of the model that you need with inputs=[...] and outputs=[...]",
            )
        if node.version is None:
            raise self.file.damaged(f"the file imports no operator set of domain {DOMAIN!r}", node)
        form = next((form for form in reversed(forms) if form.since <= node.version), None)
        if form is None:
            raise self.file.damaged(
                f"operator {node.op} came with operator set {forms[0].since}; the file imports {node.version}", node
            )
        form.translate(Call(self, node, form))


# ---------------------------------------------------------------------- forms
_A = onnx.AttributeProto
INT, FLOAT, STRING, TENSOR = int(_A.INT), int(_A.FLOAT), int(_A.STRING), int(_A.TENSOR)
INTS, FLOATS, STRINGS = int(_A.INTS), int(_A.FLOATS), int(_A.STRINGS)
SPARSE_TENSOR = int(_A.SPARSE_TENSOR)
REQUIRED = object()


@dataclass(frozen=True)
class Attr:
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


@dataclass(frozen=True)
class Form:
    """An operator from operator set `since` on. `inputs` is (required, at most); None means any number."""

    since: int
    translate: Callable[[Call], None]
    inputs: tuple[int, int | None] = (1, 1)
    attrs: Mapping[str, Attr] = field(default_factory=dict)
    outputs: int | None = 1


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
        if len(inputs) < required or not all(inputs[: len(inputs) if most is None else required]):
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
            names = onnx.AttributeProto.AttributeType.items()
            has, wants = (next((n for n, k in names if k == code), "unknown") for code in (proto.type, kind))
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


def _result_dtype(
    translation: Translation, op: str, inputs: tuple[str, ...], attrs: Mapping[str, Any]
) -> np.dtype[Any] | None:
    """The dtype of what `op` makes."""
    if op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Not"):
        return np.dtype(np.bool_)
    if op in ("Shape", "Size"):
        return np.dtype(np.int64)
    if op == "Cast":
        return attrs["to"]  # type: ignore[no-any-return]
    if op == "ConstantOfShape":
        return attrs["value"].dtype  # type: ignore[no-any-return]
    return translation.dtype(inputs[1 if op == "Where" else 0])


# ---------------------------------------------------------------------- translations: plain ones
def same(call: Call) -> None:
    """The file's form is the graph's."""
    call.finish(call.node.op, call.inputs, **call.attrs)


def renamed(call: Call) -> None:
    call.rename(call.inputs[0])


def axes_to_input(call: Call) -> None:
    """Attribute `axes` to input 1."""
    axes = call.attrs.pop("axes")
    extra = {"noop_with_empty_axes": False} if call.node.op.startswith("Reduce") else {}
    call.finish(call.node.op, (call.inputs[0], "" if axes is None else call.constant(axes)), **call.attrs, **extra)


def chain(call: Call) -> None:
    """Any number of inputs to binary operators, from the left."""
    op = "Add" if call.node.op in ("Sum", "Mean") else call.node.op
    value, *rest = call.inputs
    count = len(call.inputs)
    if not rest:
        call.rename(value)
        return
    last = rest.pop() if call.node.op != "Mean" else ""
    for other in rest:
        (value,) = call.add(op, (value, other))
    if last:
        call.finish(op, (value, last))
    else:
        call.finish("Div", (value, call.scalar(count)))


def softmax(trailing: bool) -> Callable[[Call], None]:
    def translate(call: Call) -> None:
        call.finish(call.node.op, call.inputs, axis=call.attrs["axis"], trailing=trailing)

    return translate


def clip_attributes(call: Call) -> None:
    limits = (call.attrs["min"], call.attrs["max"])
    call.finish("Clip", (call.inputs[0], *("" if limit is None else call.scalar(limit) for limit in limits)))


def slice_attributes(call: Call) -> None:
    starts, ends, axes = (call.attrs[name] for name in ("starts", "ends", "axes"))
    if len(starts) != len(ends) or (axes is not None and len(axes) != len(starts)):
        raise call.damaged("has starts, ends and axes of different lengths")
    indices = (call.constant(starts), call.constant(ends), "" if axes is None else call.constant(axes))
    call.finish("Slice", (call.inputs[0], *indices, ""))


def split(call: Call) -> None:
    sizes, asked = call.attrs.get("split"), call.attrs.get("num_outputs")
    value, *given = call.inputs
    # Outputs left out at the end count all the same.
    count = len(call.node.outputs)
    if asked is not None and (asked != count or given[0]):
        raise call.damaged(f"attribute num_outputs is {asked}, beside {count} outputs and input split {given[0]!r}")
    if sizes is not None and len(sizes) != count:
        raise call.damaged(f"attribute split has {len(sizes)} sizes for {count} outputs")
    given = [call.constant(sizes)] if sizes is not None else given or [""]
    call.add("Split", (value, *given), call.node.outputs, axis=call.attrs["axis"], num_outputs=count)


def dropout(call: Call) -> None:
    """Nothing at inference."""
    if call.uses(1):
        raise call.unsupported("has a mask that is used", "mask", call.outputs[1])
    if len(call.inputs) > 2 and call.inputs[2]:
        training = call.known(2)
        if training is None or training.size != 1 or bool(training.reshape(-1)[0]):
            raise call.unsupported("is in training mode", "training_mode", hint="Export the model for inference")
    call.rename(call.inputs[0])


def cast(call: Call) -> None:
    code = call.attrs["to"]
    to = dtype_of(code)
    if to is None:
        raise call.unsupported("is a data type that is not supported", "to", type_name(code))
    call.finish("Cast", call.inputs, to=to)


def cast_like(call: Call) -> None:
    to = call.dtype(1)
    if to is None:
        raise call.unsupported(f"casts to the type of {call.node.inputs[1]!r}, which is unknown")
    call.finish("Cast", call.inputs[:1], to=to)


def constant(call: Call) -> None:
    given = {name: value for name, value in call.attrs.items() if value is not None}
    if len(given) != 1:
        raise call.damaged(f"has {len(given)} values, not one")
    ((name, value),) = given.items()
    dtypes = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if name == "value":
        array = value
    elif name in dtypes:
        array = np.asarray(value, dtypes[name])
    else:
        raise call.unsupported("holds text, which is not supported", name)
    call.translation.constant(array, call.outputs[0])


def constant_of_shape(call: Call) -> None:
    value = call.attrs["value"]
    value = np.zeros(1, np.float32) if value is None else value
    if value.size != 1:
        raise call.damaged(f"attribute value has {value.size} elements, not one")
    call.finish("ConstantOfShape", call.inputs, value=value.reshape(1))


def swish(call: Call) -> None:
    (x,) = call.inputs
    alpha = call.attrs["alpha"]
    scaled = x if alpha == 1 else call.add("Mul", (x, call.scalar(alpha)))[0]
    call.finish("Mul", (x, *call.add("Sigmoid", (scaled,))))


def mish(call: Call) -> None:
    (x,) = call.inputs
    call.finish("Mul", (x, *call.add("Tanh", call.add("Softplus", (x,)))))


def layer_normalization(call: Call) -> None:
    for k, name in ((1, "Mean"), (2, "InvStdDev")):
        if call.uses(k):
            raise call.unsupported("has a second result that is used", name, call.outputs[k])
    call.add("LayerNormalization", call.inputs, call.outputs[:1], **call.attrs)


# ---------------------------------------------------------------------- translations: recurrent operators
#: ONNX name -> (takes alpha, takes beta, default alpha, default beta)
ACTIVATIONS = {
    "Relu": (False, False, 0.0, 0.0),
    "Tanh": (False, False, 0.0, 0.0),
    "Sigmoid": (False, False, 0.0, 0.0),
    "Affine": (True, True, 1.0, 0.0),
    "LeakyRelu": (True, False, 0.01, 0.0),
    "ThresholdedRelu": (True, False, 1.0, 0.0),
    "ScaledTanh": (True, True, 1.0, 1.0),
    "HardSigmoid": (True, True, 0.2, 0.5),
    "Elu": (True, False, 1.0, 0.0),
    "Softsign": (False, False, 0.0, 0.0),
    "Softplus": (False, False, 0.0, 0.0),
}
_LOWER = {name.lower(): name for name in ACTIVATIONS}

#: operator -> (gates, activations of one direction)
_CELLS = {"LSTM": ("iofc", ("Sigmoid", "Tanh", "Tanh")), "GRU": ("zrh", ("Sigmoid", "Tanh")), "RNN": ("h", ("Tanh",))}


def recurrent(call: Call) -> None:
    op, attrs = call.node.op, call.attrs
    gates, _ = _CELLS[op]
    x, w, r, b, lengths, h0, *rest = call.inputs
    c0, p = rest or ("", "")
    directions = 2 if attrs["direction"] == "bidirectional" else 1
    hidden = _hidden_size(call, w, r, len(gates))
    _check_weights(call, len(gates), directions, hidden)
    if lengths and call.dtype(4) not in (None, np.dtype(np.int32)):
        raise call.damaged(f"input sequence_lens is {call.dtype(4)}, not int32")
    clip = attrs["clip"]
    if clip is not None and not clip > 0:
        raise call.unsupported("is not a positive number", "clip", clip)
    given: dict[str, Any] = {
        "hidden_size": hidden,
        "direction": attrs["direction"],
        "gates": gates,
        "activations": _activations(call, directions),
        "clip": None if clip is None or math.isinf(clip) else clip,
    }
    if op == "LSTM":
        given["coupled"] = "f=1-i" if attrs["input_forget"] else ""
    elif op == "GRU":
        given["linear_before_reset"] = attrs["linear_before_reset"]

    batch_first = bool(attrs.get("layout", 0))
    names = [*call.outputs, "", "", ""][: 3 if op == "LSTM" else 2]
    made = names
    if batch_first:
        x, h0, c0 = (value and call.add("Transpose", (value,), perm=(1, 0, 2))[0] for value in (x, h0, c0))
        made = [name and call.graph.fresh(op.lower()) for name in names]
    inputs = (x, w, r, b, lengths, h0)
    # ONNX has no projection, the last input of the graph's LSTM.
    call.add(op, (*inputs, c0, p, "") if op == "LSTM" else inputs, made, **given)
    if batch_first:
        for k, (name, value) in enumerate(zip(names, made, strict=True)):
            if name:
                call.add("Transpose", (value,), (name,), perm=(1, 0, 2) if k else (2, 0, 1, 3))


def _hidden_size(call: Call, w: str, r: str, gates: int) -> int:
    hidden: Any = call.attrs["hidden_size"]
    if hidden is None:
        shapes = ((r, 2, 1), (w, 1, gates), (r, 1, gates))
        for value, axis, share in shapes:
            shape = call.translation.shape(value)
            size = shape[axis] if shape is not None and len(shape) == 3 else None
            if isinstance(size, int):
                hidden = size // share
                break
        else:
            raise call.unsupported(
                "is left out, and the shapes of the weights are not known", "hidden_size", hint="Set it in the file"
            )
    if hidden <= 0:
        raise call.damaged(f"hidden_size is {hidden}")
    return int(hidden)


def _check_weights(call: Call, gates: int, directions: int, hidden: int) -> None:
    """Hold hidden_size and direction against the weights, where their shapes are known."""
    expected: tuple[tuple[str, int, tuple[int | None, ...]], ...] = (
        ("W", 1, (directions, gates * hidden, None)),
        ("R", 2, (directions, gates * hidden, hidden)),
        ("B", 3, (directions, 2 * gates * hidden)),
        ("P", 7, (directions, 3 * hidden)),
    )
    for name, k, sizes in expected:
        shape = call.translation.shape(call.inputs[k]) if k < len(call.inputs) else None
        if shape is None:
            continue
        if len(shape) != len(sizes) or any(
            isinstance(have, int) and want is not None and have != want for have, want in zip(shape, sizes, strict=True)
        ):
            wanted = ", ".join("any" if size is None else str(size) for size in sizes)
            raise call.damaged(
                f"input {name} has shape {shape}; with hidden_size {hidden} and {directions} "
                f"direction{'s' * (directions - 1)} it must have ({wanted})"
            )


def _activations(call: Call, directions: int) -> tuple[tuple[str, float, float], ...]:
    op = call.node.op
    defaults = _CELLS[op][1]
    names = call.attrs["activations"] or defaults * directions
    count = len(defaults) * directions
    if op == "RNN" and len(names) == 2 and directions == 1:
        # The operator's documented default has two, one for a direction that may not be there.
        names = names[:1]
    if len(names) != count:
        raise call.unsupported(
            f"has {len(names)} entries; {op} with {directions} direction{'s' * (directions - 1)} takes {count}",
            "activations",
            list(names[:16]),
        )
    # Each takes the next alpha and beta only if it has one. Entries left over are ignored, as onnxruntime does.
    alphas, betas = iter(call.attrs["activation_alpha"] or ()), iter(call.attrs["activation_beta"] or ())
    result = []
    for name in names:
        canonical = _LOWER.get(name.lower())
        if canonical is None:
            raise call.unsupported(
                "is no activation of ONNX", "activations", name[:80], f"Known: {', '.join(ACTIVATIONS)}"
            )
        takes_alpha, takes_beta, alpha, beta = ACTIVATIONS[canonical]
        alpha, beta = single(alpha), single(beta)
        result.append(
            (
                canonical,
                next(alphas, alpha) if takes_alpha else alpha,
                next(betas, beta) if takes_beta else beta,
            )
        )
    return tuple(result)


# ---------------------------------------------------------------------- the table
def _recurrent(op: str) -> tuple[Form, ...]:
    attrs = {
        "activations": Attr(STRINGS),
        "activation_alpha": Attr(FLOATS),
        "activation_beta": Attr(FLOATS),
        "clip": Attr(FLOAT),
        "direction": Attr(STRING, "forward", choices=("forward", "reverse", "bidirectional")),
        "hidden_size": Attr(INT),
    }
    if op == "LSTM":
        attrs["input_forget"] = flag()
    elif op == "GRU":
        attrs["linear_before_reset"] = flag()
    inputs, outputs = ((3, 8), 3) if op == "LSTM" else ((3, 6), 2)
    return (
        Form(7, recurrent, inputs, attrs, outputs),
        Form(14, recurrent, inputs, {**attrs, "layout": flag()}, outputs),
    )


def _reduction(since: int) -> tuple[Form, ...]:
    """Attribute axes before operator set `since`, an input from then on."""
    return (
        Form(7, axes_to_input, (1, 1), {"axes": Attr(INTS), "keepdims": flag(True)}),
        Form(since, same, (1, 2), {"keepdims": flag(True), "noop_with_empty_axes": flag()}),
    )


_BINARY = (2, 2)
_CAST = {
    "saturate": Attr(INT, 1, harmless=True),  # both are for 8-bit floats only
    "round_mode": Attr(STRING, "up", harmless=True),
}
_CONSTANT = {"value": Attr(TENSOR), "sparse_value": Attr(SPARSE_TENSOR)}
_CONSTANT_12 = {
    **_CONSTANT,
    "value_float": Attr(FLOAT),
    "value_floats": Attr(FLOATS),
    "value_int": Attr(INT),
    "value_ints": Attr(INTS),
    "value_string": Attr(STRING),
    "value_strings": Attr(STRINGS),
}
_SPLIT = {"axis": Attr(INT, 0)}

OPS: dict[str, tuple[Form, ...]] = {
    **{op: _recurrent(op) for op in _CELLS},
    # values that move
    "Transpose": (Form(7, same, attrs={"perm": Attr(INTS)}),),
    "Squeeze": (Form(7, axes_to_input, (1, 1), {"axes": Attr(INTS)}), Form(13, same, (1, 2))),
    "Unsqueeze": (Form(7, axes_to_input, (1, 1), {"axes": Attr(INTS, REQUIRED)}), Form(13, same, (2, 2))),
    "Reshape": (
        Form(7, lambda call: call.finish("Reshape", call.inputs, allowzero=False), _BINARY),
        Form(14, same, _BINARY, {"allowzero": flag()}),
    ),
    "Flatten": (Form(7, same, attrs={"axis": Attr(INT, 1)}),),
    "Concat": (Form(7, same, (1, None), {"axis": Attr(INT, REQUIRED)}),),
    "Split": (
        Form(7, split, (1, 1), {**_SPLIT, "split": Attr(INTS)}, None),
        Form(13, split, (1, 2), _SPLIT, None),
        Form(18, split, (1, 2), {**_SPLIT, "num_outputs": Attr(INT)}, None),
    ),
    "Slice": (
        Form(
            7,
            slice_attributes,
            (1, 1),
            {"starts": Attr(INTS, REQUIRED), "ends": Attr(INTS, REQUIRED), "axes": Attr(INTS)},
        ),
        Form(10, same, (3, 5)),
    ),
    "Gather": (Form(7, same, _BINARY, {"axis": Attr(INT, 0)}),),
    "Expand": (Form(8, same, _BINARY),),
    "Tile": (Form(7, same, _BINARY),),
    # values that are known, and types
    "Shape": (
        Form(7, lambda call: call.finish("Shape", call.inputs, start=0, end=None)),
        Form(15, same, attrs={"start": Attr(INT, 0), "end": Attr(INT)}),
    ),
    "Size": (Form(7, same),),
    "Constant": (
        Form(7, constant, (0, 0), {"value": Attr(TENSOR)}),
        Form(11, constant, (0, 0), _CONSTANT),
        Form(12, constant, (0, 0), _CONSTANT_12),
    ),
    "ConstantOfShape": (Form(9, constant_of_shape, attrs={"value": Attr(TENSOR)}),),
    "Range": (
        Form(11, same, (3, 3)),
        Form(27, same, (3, 3), {"stash_type": Attr(INT, 1, harmless=True)}),  # how half-precision ranges round
    ),
    "Identity": (Form(7, renamed),),
    "Dropout": (
        Form(7, dropout, (1, 1), {"ratio": Attr(FLOAT, 0.5, harmless=True)}, 2),
        Form(12, dropout, (1, 3), {"seed": Attr(INT, harmless=True)}, 2),
    ),
    "Cast": (
        Form(7, cast, attrs={"to": Attr(INT, REQUIRED)}),
        Form(19, cast, attrs={"to": Attr(INT, REQUIRED), "saturate": _CAST["saturate"]}),
        Form(24, cast, attrs={"to": Attr(INT, REQUIRED), **_CAST}),
    ),
    "CastLike": (
        Form(15, cast_like, _BINARY),
        Form(19, cast_like, _BINARY, {"saturate": _CAST["saturate"]}),
        Form(24, cast_like, _BINARY, _CAST),
    ),
    # arithmetic
    "MatMul": (Form(7, same, _BINARY),),
    "Gemm": tuple(
        Form(
            since,
            same,
            (required, 3),
            {
                "alpha": Attr(FLOAT, 1.0),
                "beta": Attr(FLOAT, 1.0),
                "transA": flag(),
                "transB": flag(),
            },
        )
        for since, required in ((7, 3), (11, 2))
    ),
    **{op: (Form(7, same, _BINARY),) for op in ("Add", "Sub", "Mul", "Div", "Pow", "PRelu")},
    **{op: (Form(7, chain, (1, None)),) for op in ("Min", "Max", "Sum", "Mean")},
    **{op: (Form(7, same, _BINARY),) for op in ("Equal", "Greater", "Less", "And", "Or")},
    **{op: (Form(12, same, _BINARY),) for op in ("GreaterOrEqual", "LessOrEqual")},
    "Not": (Form(7, same),),
    "Where": (Form(9, same, (3, 3)),),
    # elementwise functions
    **{op: (Form(7, same),) for op in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign")},
    **{op: (Form(7, same),) for op in ("Exp", "Log", "Sqrt", "Abs", "Neg", "Reciprocal", "Floor", "Ceil")},
    **{op: (Form(9, same),) for op in ("Erf", "Sign")},
    "HardSwish": (Form(14, same),),
    "LeakyRelu": (Form(7, same, attrs={"alpha": Attr(FLOAT, single(0.01))}),),
    "Elu": (Form(7, same, attrs={"alpha": Attr(FLOAT, 1.0)}),),
    "Selu": (
        Form(
            7,
            same,
            attrs={
                "alpha": Attr(FLOAT, single(1.67326319217681884765625)),
                "gamma": Attr(FLOAT, single(1.05070102214813232421875)),
            },
        ),
    ),
    "HardSigmoid": (Form(7, same, attrs={"alpha": Attr(FLOAT, single(0.2)), "beta": Attr(FLOAT, 0.5)}),),
    # Operator set 10 has it officially; before that it was experimental, with the same meaning.
    "ThresholdedRelu": (Form(7, same, attrs={"alpha": Attr(FLOAT, 1.0)}),),
    "Gelu": (Form(20, same, attrs={"approximate": Attr(STRING, "none", choices=("none", "tanh"))}),),
    "Mish": (Form(18, mish),),
    "Swish": (Form(24, swish, attrs={"alpha": Attr(FLOAT, 1.0)}),),
    "Clip": (
        Form(7, clip_attributes, (1, 1), {"min": Attr(FLOAT), "max": Attr(FLOAT)}),
        Form(11, same, (1, 3)),
    ),
    # along axes
    "Softmax": (
        Form(7, softmax(trailing=True), attrs={"axis": Attr(INT, 1)}),
        Form(13, softmax(trailing=False), attrs={"axis": Attr(INT, -1)}),
    ),
    "LogSoftmax": (
        Form(7, softmax(trailing=True), attrs={"axis": Attr(INT, 1)}),
        Form(13, softmax(trailing=False), attrs={"axis": Attr(INT, -1)}),
    ),
    # Operator set 17 has it officially; onnxruntime writes it into older files, with the same meaning.
    "LayerNormalization": (
        Form(
            7,
            layer_normalization,
            (2, 3),
            {
                "axis": Attr(INT, -1),
                "epsilon": Attr(FLOAT, single(1e-5)),
                # 1: at least single precision inside, which is what there is
                "stash_type": Attr(INT, 1, choices=(1,), harmless=True),
            },
            3,
        ),
    ),
    "ReduceSum": _reduction(13),
    **{
        op: _reduction(18)
        for op in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2", "ReduceSumSquare")
    },
}
