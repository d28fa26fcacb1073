"""ONNX files, operator sets 7 to 28, as graphs.

`read_onnx` translates; it computes nothing. The file may come from a stranger: every size is checked before memory is
taken, no path leaves the model's folder, and what is not understood in full is refused by name.

=========== ==========================================================================================
`wire`       the fields of a message, each against a budget
`proto`      the messages that a file is made of
`reader`     the form of a file: names, order, the file's own functions
`tensors`    weights as arrays, external data included
`control`    branches and loops: bodies as closed graphs
`ops`        the table of operators: what each operator set has, and the graph's one form of it
`quantised`  operators on integers; `microsoft`, those of onnxruntime's own
`exporters`  files known to be written wrongly: warnings, fixes, refusals
`floating`   a quantised graph in floating point, where the caller wants one
=========== ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...engine.errors import UnsupportedModelError
from ...engine.graph import Dim, Graph
from . import proto as onnx
from .control import depended_on
from .exporters import chosen, warn
from .forms import Translation
from .ops import OPS
from .reader import FileNode, OnnxFile, Source, open_model, read_file
from .tensors import dtype_of, type_name

__all__ = ["read_onnx"]


def read_onnx(
    source: Source,
    *,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    name: str | None = None,
    fix: str | Sequence[str] = (),
) -> Graph:
    """Translate an ONNX model into a graph.

    Parameters
    ----------
    source : path, bytes or onnx.ModelProto
        A path is needed where weights lie in external data.
    inputs, outputs : sequence of str, optional
        Names of values to cut the model at. Each of `inputs` becomes an input of the graph, with the shape and dtype
        that the file declares of it (float32 of unknown shape if it declares nothing); each of `outputs` an output.
        What the outputs do not depend on is not read.
    name : str, optional
        What error messages call the model; the path by default.
    fix : str or sequence of str, optional
        What to mend of files that are known to be wrong: names of `exporters.FIXES`.

    Returns
    -------
    Graph
        Only with nodes that the outputs depend on. Ports are in the file's order, or in that of `inputs` and
        `outputs`. Initializers are constants; one that is also an input of the file is the default of an optional
        input, except before IR version 4, where every initializer had to be listed as one.

    Raises
    ------
    ModelFormatError
        If the file is no ONNX file, or is damaged.
    UnsupportedModelError
        If it holds something that has no translation, or a name to cut at is not in it.
    """
    fixes = chosen(fix)
    model, label, folder = open_model(source, name)
    file = read_file(model, label, folder)
    cut = _names(file, "inputs", inputs)
    wanted = _names(file, "outputs", outputs) or file.outputs

    nodes, needed = _needed(file, wanted, cut)
    graph = Graph(label)
    translation = Translation(file, graph, OPS, needed, fixes)
    for port in _inputs(file, cut, needed, whole=outputs is None):
        _declare_input(translation, port)
    for node in nodes:
        translation.translate(node)
    _declare_outputs(translation, wanted)
    warn(translation)
    if "dequantize" in fixes:
        from .floating import in_float

        return in_float(graph)
    return graph


def _names(file: OnnxFile, argument: str, names: Sequence[str] | None) -> list[str] | None:
    """Check names to cut at."""
    if names is None:
        return None
    names = [names] if isinstance(names, str) else list(names)
    known = {*file.inputs, *file.initializers, *file.sparse}.union(*(node.outputs for node in file.nodes))
    known.discard("")
    for name in names:
        if name not in known:
            from difflib import get_close_matches

            close = get_close_matches(name, known, 3) if len(known) < 10_000 else []
            hint = f"Did you mean {' or '.join(map(repr, close))}?" if close else None
            raise UnsupportedModelError(
                "is no value of the model", source=file.source, attribute=argument, value=name, hint=hint
            )
    if not names or len(set(names)) != len(names):
        raise UnsupportedModelError(
            "must name values, each once", source=file.source, attribute=argument, value=names[:16]
        )
    return names


def _needed(file: OnnxFile, wanted: Sequence[str], cut: Sequence[str] | None) -> tuple[list[FileNode], set[str]]:
    """The nodes that `wanted` values depend on, in order, and all values they read."""
    stops = set(cut if cut is not None else file.inputs)
    nodes, needed = depended_on(file.nodes, wanted, stops)
    for name in file.inputs if cut is not None else ():
        if name in needed and name not in stops and name not in file.initializers:
            raise UnsupportedModelError(
                f"the outputs also depend on {name!r}",
                source=file.source,
                attribute="inputs",
                value=list(cut or ())[:16],
                hint="Add it to inputs, or cut behind it",
            )
    return nodes, needed


def _inputs(file: OnnxFile, cut: list[str] | None, needed: set[str], *, whole: bool) -> list[str]:
    """What the inputs of the graph are."""
    if cut is not None:
        return cut
    names = file.inputs if file.ir_version >= 4 else [name for name in file.inputs if name not in file.initializers]
    return [name for name in names if whole or name in needed]


def _declared(file: OnnxFile, name: str) -> tuple[tuple[Dim, ...] | None, np.dtype[Any] | None]:
    """Shape and dtype that the file declares of a value, as far as it does."""
    declared = file.types.get(name)
    if declared is None:
        return None, None
    if declared.code is None:
        raise UnsupportedModelError(f"{name!r} is not a tensor", source=file.source, hint=_CUT)
    if declared.code == onnx.TensorProto.UNDEFINED:
        return declared.shape, None
    dtype = dtype_of(declared.code)
    if dtype is None:
        raise UnsupportedModelError(
            f"{name!r} has data type {type_name(declared.code)}, which is not supported", source=file.source, hint=_CUT
        )
    return declared.shape, dtype


_CUT = "Cut the part of the model that you need with inputs=[...] and outputs=[...]"


def _declare_input(translation: Translation, name: str) -> None:
    file, graph = translation.file, translation.graph
    shape, dtype = _declared(file, name)
    default = translation.initializer(name) if name in file.initializers else None
    if default is not None:
        shape, dtype = default.shape if shape is None else shape, default.dtype
    graph.input(name, shape, dtype or np.float32, optional=default is not None, default=default)
    translation.inputs.add(name)
    translation.names[name] = name
    translation.dtypes[name] = dtype


def _declare_outputs(translation: Translation, wanted: Sequence[str]) -> None:
    """Declare the outputs; one that is another value renamed gets a value of its own name."""
    file, graph = translation.file, translation.graph
    taken = translation.inputs | set(wanted)
    renames: dict[str, str] = {}
    for name in wanted:
        value = translation.value(name)
        shape, dtype = _declared(file, name)
        dtype = dtype or translation.dtype(value) or np.dtype(np.float32)
        graph.output(name, shape, dtype)
        if value == name:
            continue
        if value in graph.constants:
            graph.constant(graph.constants[value], name)
        elif value in taken or value in renames:
            # Two names of one value: an input that is an output as well, or two outputs.
            graph.add("Cast", (renames.get(value, value),), (name,), name=name, to=dtype)
        else:
            renames[value] = name
    if renames:
        graph.nodes[:] = [node.renamed(renames) for node in graph.nodes]
