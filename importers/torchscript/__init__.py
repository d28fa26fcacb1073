"""TorchScript files (`torch.jit.save`), read without PyTorch and without running what is in them.

Such an archive holds a module as a tree of objects (`data.pkl`), its tensors, and the source text of its methods in
a small part of Python's syntax. The text is evaluated symbolically: calls of methods are followed, numbers and lists
computed, and what happens to tensors becomes the graph.

=========== ===================================================================================
`objects`     the archive: version, objects, constants
`source`      the source text: found by name, bounded, parsed
`interpreter` statements and expressions
`operators`   PyTorch's operators on numbers, lists and tensors, writing into tensors included
`shapes`      what is assumed and learned of the shapes of inputs, with `demands`
`ports`       inputs and outputs
=========== ===================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...engine.errors import GatestepError, ModelFormatError
from ...engine.graph import Graph
from ..archive import Archive, Source
from ..aten import Aten
from ..torch_tensors import TensorRef
from ..unpickle import Inert
from .interpreter import Interpreter
from .objects import ScriptArchive, is_torchscript
from .operators import Operators
from .ports import Inputs, declare_outputs
from .shapes import Shapes

__all__ = ["is_torchscript", "read_torchscript"]


def read_torchscript(source: Source, *, bind: Mapping[str, Any] | None = None) -> Graph:
    """Translate the `forward` of a TorchScript module into a graph.

    Parameters
    ----------
    source : path or bytes
    bind : mapping of str to number, optional
        Values of inputs, known from now on.

    Returns
    -------
    Graph
        An input per tensor that `forward` takes without a default, those of a tuple one by one; an output per
        tensor that it returns. The file says nothing of shapes: the numbers of axes are the first that
        the program makes sense with, sizes follow from weights.

    Raises
    ------
    ModelFormatError
        The file is damaged, or its program makes no sense.
    UnsupportedModelError
        The program does what has no translation.
    OSError
        The file cannot be opened.
    """
    with Archive(source) as archive:
        return _translated(ScriptArchive(archive), bind or {})


def _translated(script: ScriptArchive, bind: Mapping[str, Any]) -> Graph:
    """The graph of a program, evaluated until its inputs are known."""
    shapes = Shapes(script.name)
    while True:
        error: GatestepError | None = None
        aten = Aten(Graph(script.name), script.name)
        operators = Operators(aten, script, shapes)
        try:
            _evaluate(script, aten, operators, shapes, bind)
        except GatestepError as caught:
            error = caught
        except RecursionError:
            error = ModelFormatError(f"{script.name}: its program is nested too deeply")
        if not shapes.again(error, operators.progress):
            break
    if error is not None:
        raise shapes.worst[1] if shapes.worst is not None else error
    aten.prune()
    return aten.graph


def _evaluate(script: ScriptArchive, aten: Aten, operators: Operators, shapes: Shapes, bind: Mapping[str, Any]) -> None:
    interpreter = Interpreter(script, operators, shapes)
    struct = interpreter.struct(script.root)
    function = script.code.method(struct, "forward")
    if function is None:
        raise ModelFormatError(f"{script.name}: its module {script.root.kind[:80]!r} has no forward")
    inputs = Inputs(script, aten, shapes, bind, _real(script))
    result = interpreter.method(script.root, "forward", [], inputs.arguments(function))
    inputs.finish()
    declare_outputs(aten, result)


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
