"""The inputs and outputs of a TorchScript program: what its signature says, as ports of a graph."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...engine.errors import UnsupportedModelError
from ...engine.graph import Graph
from ..aten import Aten, SymInt, Tensor
from .objects import ScriptArchive
from .shapes import Shapes
from .source import Function
from .values import Unknown, Var

__all__ = ["Inputs", "declare_outputs"]

MOST_OUTPUTS = 1024
_NUMBERS: Mapping[str, Any] = {"int": np.int64, "float": np.float32, "bool": np.bool_}


class _Input(Var):
    """An input, declared when the program first looks at it: only then is a shape assumed."""

    def __init__(self, inputs: Inputs, name: str) -> None:
        super().__init__(Tensor(name, inputs.real, None))
        self.inputs = inputs

    def read(self) -> Tensor:
        if self.tensor.shape is None and not self.version:
            self.tensor = self.inputs.declare(self.tensor.name)
        return super().read()


class Inputs:
    """The arguments of a program's `forward`, as far as they are inputs of a model.

    Parameters
    ----------
    archive : ScriptArchive
    aten : Aten
    shapes : Shapes
    bind : mapping of str to number
        Arguments that the caller fixed.
    real : numpy.dtype
        The type of an input that does arithmetic: that of the weights.
    """

    def __init__(
        self, archive: ScriptArchive, aten: Aten, shapes: Shapes, bind: Mapping[str, Any], real: np.dtype[Any]
    ) -> None:
        self.archive, self.aten, self.shapes, self.bind, self.real = archive, aten, shapes, bind, real
        self.names: list[str] = []
        #: Arguments that are numbers.
        self.numbers: list[str] = []
        #: Arguments that are tensors, or tuples of them, and None by default.
        self.optional: list[str] = []

    def arguments(self, function: Function, optional: Collection[str]) -> dict[str, Any]:
        """What `forward` is called with, those `optional` arguments included."""
        signature = function.tree.args
        given = signature.args[1:]
        defaults = dict(zip((a.arg for a in reversed(given)), reversed(signature.defaults), strict=False))
        made = {}
        for argument in given:
            name = argument.arg
            if name in self.bind:
                made[name] = self.bound(name)
            elif name not in defaults or name in optional:
                made[name] = self.value(name, argument.annotation)
            elif _may_be_state(argument.annotation) and ast.unparse(defaults[name]) == "None":
                self.optional.append(name)
        unknown = sorted(self.bind.keys() - {argument.arg for argument in given})
        if unknown:
            raise UnsupportedModelError(
                "is no input of the model",
                source=self.archive.name,
                attribute="bind",
                value=unknown[0],
                hint=f"Inputs are {sorted(argument.arg for argument in given)}",
            )
        return made

    def bound(self, name: str) -> Any:
        """An argument that the caller fixed."""
        value = np.asarray(self.bind[name])
        self.names.append(name)  # the engine takes it away again
        self.aten.input(name, value.shape, value.dtype)
        return value.item() if value.ndim == 0 else Var(self.aten.constant(value))

    def value(self, name: str, kind: ast.expr | None) -> Any:
        """One argument, of the type that the signature says."""
        match kind:
            case ast.Name(id="Tensor"):
                return self.tensor(name)
            case ast.Name(id=number) if number in _NUMBERS:
                self.names.append(name)
                self.numbers.append(name)
                tensor = self.aten.input(name, (), _NUMBERS[number])
                return {"int": SymInt(name), "bool": Unknown(tensor)}.get(number, Var(tensor))
            case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
                return self.value(name, inner)
            case ast.Subscript(value=ast.Name(id="Tuple"), slice=ast.Tuple(elts=parts)):
                return tuple(self.value(f"{name}_{k}", part) for k, part in enumerate(parts))
        shown = ast.unparse(kind) if kind is not None else "nothing"
        raise UnsupportedModelError(
            f"an input of type {shown[:80]}",
            source=self.archive.name,
            attribute=name,
            hint="Script a module whose forward takes tensors, and tuples of them",
        )

    def tensor(self, name: str) -> Var:
        """An input that is a tensor."""
        self.names.append(name)
        return _Input(self, name)

    def declare(self, name: str) -> Tensor:
        """Make an input one of the graph."""
        dtype = self.shapes.dtypes.get(name, self.real)
        return self.aten.input(name, self.shapes.shape(name), dtype)

    def finish(self) -> None:
        """Put the ports into the order of the signature; one that the program never looked at has any shape."""
        graph = self.aten.graph
        have = {port.name: port for port in graph.inputs}
        for name in self.names:
            if name not in have:
                self.aten.input(name, None, self.real)
        have = {port.name: port for port in graph.inputs}
        graph.inputs[:] = [have[name] for name in self.names]


def _may_be_state(kind: ast.expr | None) -> bool:
    """Whether an argument is an optional tensor, or an optional tuple of tensors."""
    shown = "" if kind is None else ast.unparse(kind)
    return shown == "Optional[Tensor]" or re.fullmatch(r"Optional\[Tuple\[Tensor(, Tensor)*\]\]", shown) is not None


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a result, with what they may be called."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from flat(part, f"{name}_{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        fields = getattr(value, "fields", ())
        for k, part in enumerate(value):
            yield from flat(part, fields[k] if fields else f"{name or 'output'}_{k}" if k or name else "output")
    elif value is not None:
        yield name or "output", value


def declare_outputs(aten: Aten, result: Any, states: Sequence[tuple[str, Any]]) -> None:
    """Make what `forward` returns the outputs of the graph, nested tuples flattened, and `states` behind them."""
    graph = aten.graph
    leaves = list(itertools.islice(flat(result), MOST_OUTPUTS + 1))
    if len(leaves) > MOST_OUTPUTS:
        raise UnsupportedModelError(f"its forward returns more than {MOST_OUTPUTS} values", source=aten.source)
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], tuple) and len(leaves) == 3:
        leaves = [(name, value) for name, (_, value) in zip(("output", "hn", "cn"), leaves, strict=True)]
    if not leaves:
        raise UnsupportedModelError("its forward returns nothing", source=aten.source)
    leaves += states
    taken = {port.name for port in graph.inputs}
    renamed: dict[str, str] = {}
    for name, value in leaves:
        while name in taken:
            name += "_"
        taken.add(name)
        tensor = _tensor(aten, value)
        held = (
            tensor.name in graph.constants
            or tensor.name in renamed
            or any(tensor.name == port.name for port in graph.inputs)
        )
        if held:  # an input, a constant, or the same value once more
            graph.add("Cast", (tensor.name,), (name,), name=name, to=tensor.dtype)
        else:
            renamed[tensor.name] = name
        graph.output(name, tensor.shape, tensor.dtype)
    _rename(graph, renamed)


def _tensor(aten: Aten, value: Any) -> Tensor:
    if isinstance(value, Var):
        return value.read()
    if isinstance(value, Unknown) and value.tensor is not None:
        return value.tensor
    if isinstance(value, (SymInt, bool, int, float)):
        kind = np.float32 if isinstance(value, float) else np.bool_ if isinstance(value, bool) else np.int64
        return aten.tensor(value, np.dtype(kind))
    raise UnsupportedModelError(f"its forward returns a {type(value).__name__}", source=aten.source)


def _rename(graph: Graph, names: Mapping[str, str]) -> None:
    graph.nodes[:] = [node.renamed(names) for node in graph.nodes]
