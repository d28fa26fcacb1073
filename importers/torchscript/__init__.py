"""TorchScript files (`torch.jit.save`), read without PyTorch and without running what is in them.

Such an archive holds a module as a tree of objects (`data.pkl`), its tensors, and the source text of its methods in
a small part of Python's syntax. The text is evaluated symbolically: calls of methods are followed, numbers and lists
computed, and what happens to tensors becomes the graph.

=========== ===================================================================================
`objects`     the archive: version, objects, constants
`source`      the source text: found by name, bounded, parsed
`interpreter` statements and expressions
`loops`       loops that are not unrolled, in `scopes` of their own
`operators`   PyTorch's operators on numbers (`plain`), lists and tensors (`lowered`)
`shapes`      what is assumed and learned of the shapes of inputs, from `demands`
`ports`       inputs and outputs
`translation` all of it, with what a module keeps from call to call, which is held to zeros by `sameness`
=========== ===================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...engine.graph import Graph
from ..archive import Archive, Source
from .objects import ScriptArchive
from .translation import translated

__all__ = ["read_torchscript"]


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
        An input per tensor that `forward` takes, those of a tuple one by one; an output per tensor that it returns,
        and an input and an output for what the module keeps from call to call. The file says nothing of shapes: the
        numbers of axes are the first that the program makes sense with, sizes follow from weights.

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
        return translated(ScriptArchive(archive), bind or {})
