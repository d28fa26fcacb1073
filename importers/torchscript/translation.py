"""From a program to a graph: evaluated until its inputs are known, and with what it keeps from call to call."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...engine.errors import GatestepError, ModelFormatError, UnsupportedModelError
from ...engine.graph import Dim, Graph
from ..aten import Aten, Tensor
from ..torch_tensors import TensorRef
from ..unpickle import Inert
from .budget import Budget, TooMuch
from .interpreter import Interpreter
from .objects import ScriptArchive
from .operators import Operators
from .ports import Inputs, declare_outputs
from .sameness import same
from .shapes import Shapes
from .source import Function
from .values import Past, Size, Var

__all__ = ["translated"]

#: What people call a state.
_STATE = re.compile(r"(?:^|_)(?:[hcs]|[hc][xns0]|state|hidden|cell|mem|memory|carry|prev)s?(?:$|_|\d)", re.IGNORECASE)


@dataclass
class _Evaluated:
    """A graph, and what the program left in the attributes of its modules."""

    graph: Graph
    kept: dict[tuple[Inert, str], Any]
    optional: list[str]
    paths: dict[tuple[Inert, str], str]


@dataclass
class _Kept:
    """What an evaluation begins with besides the file: optional arguments that are given, attributes that are set."""

    given: frozenset[str] = frozenset()
    attributes: Mapping[tuple[Inert, str], Any] = dataclasses.field(default_factory=dict)
    shapes: Mapping[str, tuple[Dim, ...] | None] = dataclasses.field(default_factory=dict)


def translated(script: ScriptArchive, bind: Mapping[str, Any]) -> Graph:
    """The graph of a program.

    What a module keeps in its attributes from call to call, and initial states that may be left out, become
    optional inputs where that is proven to be the same: the first call begins as it would with zeros.

    Parameters
    ----------
    script : ScriptArchive
    bind : mapping of str to number
        Arguments that the caller fixed.
    """
    budget = Budget(script.name)
    base = _settled(script, bind, Shapes(script.name), budget, _Kept())
    tensors = {key: value for key, value in base.kept.items() if isinstance(value, Tensor)}
    if not base.optional and not base.kept:
        return _of_any_rank(script, bind, budget, base.graph)
    names = {key: base.paths[key] for key in tensors}
    kept = _Kept(frozenset(base.optional), base.kept, {names[key]: tensor.shape for key, tensor in tensors.items()})
    try:
        full = _settled(script, bind, Shapes(script.name), budget, kept).graph
    except GatestepError:
        if base.kept:
            raise
        return base.graph
    states = [port.name for port in full.inputs if port.name not in {p.name for p in base.graph.inputs}]
    if not same(base.graph, full, zeros=states):
        if not base.kept:
            return base.graph
        raise UnsupportedModelError(
            f"its forward keeps {', '.join(sorted(base.paths.values()))[:200]} from call to call, and does not begin "
            "as with zeros",
            source=script.name,
            hint="Let forward take and return what it keeps",
        )
    full.inputs[:] = [port._replace(optional=port.name in states) for port in full.inputs]
    full.defaults |= dict.fromkeys(states)
    return full


def _of_any_rank(script: ScriptArchive, bind: Mapping[str, Any], budget: Budget, graph: Graph) -> Graph:
    """The graph, its only input of any number of axes if it is the same for two."""
    if len(graph.inputs) != 1 or len(graph.inputs[0].shape or ()) != 2:
        return graph
    (port,) = graph.inputs
    try:
        other = _evaluated(script, bind, Shapes(script.name, ranks=(3,)), budget, _Kept()).graph
    except GatestepError:
        return graph
    if same(graph, other):
        graph.inputs[:] = [port._replace(shape=None)]
        graph.outputs[:] = [output._replace(shape=None) for output in graph.outputs]
    return graph


def _settled(script: ScriptArchive, bind: Mapping[str, Any], shapes: Shapes, budget: Budget, kept: _Kept) -> _Evaluated:
    """The program, evaluated until all that can be known of its inputs is."""
    shapes.given.update(kept.shapes)
    while True:
        error: GatestepError | None = None
        try:
            result = _evaluated(script, bind, shapes, budget, kept)
        except TooMuch:
            raise
        except GatestepError as caught:
            error = caught
        if not shapes.again(error, budget.spent):
            break
    if error is not None:
        raise shapes.worst[1] if shapes.worst is not None else error
    return result


def _evaluated(
    script: ScriptArchive, bind: Mapping[str, Any], shapes: Shapes, budget: Budget, kept: _Kept
) -> _Evaluated:
    budget.begin()
    aten = Aten(Graph(script.name), script.name)
    interpreter = Interpreter(script, Operators(aten, script, shapes, budget), shapes)
    try:
        return _run(script, interpreter, Inputs(script, aten, shapes, bind, _real(script)), kept)
    except GatestepError:
        raise
    except RecursionError:
        raise ModelFormatError(f"{script.name}: its program is nested too deeply") from None
    except (TypeError, ValueError, IndexError, KeyError, ArithmeticError, AttributeError) as error:
        raise ModelFormatError(f"{script.name}: its program makes no sense ({error})") from error


def _run(script: ScriptArchive, interpreter: Interpreter, inputs: Inputs, kept: _Kept) -> _Evaluated:
    aten = inputs.aten
    function = _forward(script, interpreter)
    arguments = inputs.arguments(function, kept.given)
    interpreter.numbers = inputs.numbers
    for (thing, name), value in kept.attributes.items():
        interpreter.attribute(thing, name, missing=None)
        if isinstance(value, Tensor):
            value = inputs.tensor(interpreter.path(thing, name))
        elif isinstance(value, Size):
            value = Past("", value.dim)
        interpreter.attributes[thing][name] = value
    result = interpreter.method(script.root, function.name.rpartition(".")[2], [], arguments)
    after = {key: interpreter.attributes[key[0]][key[1]] for key in interpreter.written}
    inputs.finish()
    states = {f"{interpreter.path(*key)}_next": value for key, value in after.items() if isinstance(value, Var)}
    declare_outputs(aten, result, sorted(states.items(), key=lambda item: item[0]))
    held = {key: value.read() if isinstance(value, Var) else value for key, value in after.items()}
    aten.prune()
    for name, axis, count in _taken_apart(aten.graph):
        inputs.shapes.equal(f"{name}_{axis}", count)
    for dim, size in _sizes_of_states(aten.graph, inputs.shapes):
        inputs.shapes.equal(dim, size)
    return _Evaluated(aten.graph, held, inputs.optional, {key: interpreter.path(*key) for key in after})


def _taken_apart(graph: Graph) -> Iterator[tuple[str, int, int]]:
    """Axes of inputs that the program takes apart into elements 0 to n - 1 and never asks the size of, with that n.

    So does the trace of a loop over time. A longer input would be computed without what is beyond the trace.
    """
    for port in graph.inputs:
        readers = [node for node in graph.nodes if port.name in node.inputs]
        indices: dict[int, set[int]] = {}
        sized: set[int] = set()
        for node in readers:
            axis = node.attrs["axis"] if node.op == "Gather" and node.inputs[0] == port.name else None
            if node.op == "Shape":
                asked = [reader.inputs[1] for reader in graph.nodes if reader.inputs[:1] == node.outputs]
                sized.update(int(i) for i in (_index(graph, name) for name in asked) if i is not None)
            elif axis is None or _index(graph, node.inputs[1]) is None:
                indices.clear()
                break
            else:
                indices.setdefault(axis, set()).add(_index(graph, node.inputs[1]) or 0)
        for axis, found in indices.items() if len(indices) == 1 else ():
            free = port.shape is not None and isinstance(port.shape[axis], str)
            if free and axis not in sized and len(found) > 1 and found == set(range(len(found))):
                yield port.name, axis, len(found)


def _sizes_of_states(graph: Graph, shapes: Shapes) -> Iterator[tuple[str, int]]:
    """Sizes of states that a cell written by hand joins with its input, ``torch.cat([x, h], 1)``.

    Only their sum follows from the weights. An input that is called like a state is as large as the outputs are that
    could be the next one.
    """
    for port in graph.inputs:
        for axis, dim in enumerate(port.shape or () if _STATE.search(port.name) else ()):
            if isinstance(dim, str) and dim in shapes.joined:
                alike = [
                    p.shape for p in graph.outputs if p.shape is not None and len(p.shape) == len(port.shape or ())
                ]
                sizes = {shape[axis] for shape in alike}
                if len(sizes) == 1 and isinstance(size := sizes.pop(), int):
                    yield dim, size


def _index(graph: Graph, name: str) -> int | None:
    array = graph.constants.get(name)
    return int(array) if array is not None and array.ndim == 0 and array.dtype.kind == "i" else None


def _forward(script: ScriptArchive, interpreter: Interpreter) -> Function:
    """The module's `forward`; of several forms of it, the first, which takes tensors."""
    struct = interpreter.struct(script.root)
    for name in ("forward", "forward__0"):
        function = script.code.method(struct, name)
        if function is not None:
            return function
    raise ModelFormatError(f"{script.name}: its module {script.root.kind[:80]!r} has no forward")


def _real(script: ScriptArchive) -> np.dtype[Any]:
    """The type of the weights, if they agree; else single precision."""
    found = set()
    left: list[Any] = [script.root, *script.constants]
    seen: set[int] = set()
    while left:
        value = left.pop()
        if isinstance(value, TensorRef):
            found.add(value.dtype)
        elif isinstance(value, Inert) and id(value) not in seen:
            seen.add(id(value))
            left += value.state.values() if isinstance(value.state, dict) else ()
    floats = found & {"float64", "float32", "float16", "bfloat16"}
    return np.dtype(np.float64 if floats == {"float64"} else np.float32)
