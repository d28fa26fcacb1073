"""Names of outputs, for models that give tuples and dictionaries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .core import Aten, Tensor

__all__ = ["declare_outputs", "flat_names", "result_tree"]


def flat_names(tree: Any, count: int) -> list[str]:
    """Names for the tensors of a nested result.

    Parameters
    ----------
    tree
        Dictionaries and lists of such; None is a tensor.
    count : int
        How many tensors there are; if the tree says otherwise, it does not count.

    Returns
    -------
    list of str
        Keys and places joined by ``_``, ``"state_0"``; without keys they begin with ``output``.
    """
    names = list(_flat(tree, ""))
    if len(names) != count or len(set(names)) != count:
        names = ["output"] if count == 1 else [f"output_{k}" for k in range(count)]
    return names


def _flat(tree: Any, path: str) -> list[str]:
    if isinstance(tree, Mapping):
        return [name for key, child in tree.items() for name in _flat(child, f"{path}_{key}" if path else str(key))]
    if isinstance(tree, (list, tuple)):
        if len(tree) == 1 and not path:
            return _flat(tree[0], path)
        return [name for k, child in enumerate(tree) for name in _flat(child, f"{path or 'output'}_{k}")]
    return [path or "output"]


def declare_outputs(aten: Aten, outputs: Mapping[str, Tensor]) -> None:
    """Make these values the outputs of the graph, under these names; an input of the same name keeps it."""
    graph = aten.graph
    inputs = {port.name for port in graph.inputs}
    renames: dict[str, str] = {}
    for wanted, value in outputs.items():
        name = wanted
        while name in inputs:
            name += "_out"
        if value.name in graph.constants:
            graph.constant(graph.constants[value.name], name)
        elif value.name in inputs or value.name in renames:  # one value under two names
            graph.add("Cast", (value.name,), (name,), name=name, to=value.dtype)
        else:
            renames[value.name] = name
        graph.output(name, value.shape, value.dtype)
    graph.nodes[:] = [node.renamed(renames) for node in graph.nodes]


def result_tree(spec: str | None) -> Any:
    """How outputs nest: keys of dictionaries, lists; a leaf is None."""
    if not spec:
        return None
    parsed = json.loads(spec)
    return _branch(parsed[1] if isinstance(parsed, list) else parsed)


def _branch(node: dict[str, Any]) -> Any:
    children = [_branch(child) for child in node["children_spec"]]
    kind = node["type"]
    if kind is None:
        return None
    if kind in ("builtins.dict", "collections.OrderedDict"):
        keys = json.loads(node["context"]) if isinstance(node["context"], str) else node["context"]
        if isinstance(keys, list) and len(keys) == len(children):
            return {str(key): child for key, child in zip(keys, children, strict=True)}
    return children
