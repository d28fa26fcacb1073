"""What tests of ONNX files share: small models built in memory, and graphs in a form to compare."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gatestep.engine.graph import Graph
from gatestep.importers.onnx import read_onnx
from onnx import TensorProto, helper, numpy_helper

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
CASES = Path(os.environ.get("GATESTEP_MODELS", Path(__file__).resolve().parents[2] / "shared" / "models"))


def info(name: str, shape: Sequence[Any] | None = (2, 3), dtype: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def make(
    nodes: Sequence[Any],
    inputs: Sequence[Any] = ("x",),
    outputs: Sequence[Any] = ("y",),
    *,
    opset: int = 17,
    ir: int = 8,
    weights: dict[str, Any] | None = None,
    functions: Sequence[Any] = (),
    imports: Sequence[Any] = (),
    value_info: Sequence[Any] = (),
) -> Any:
    """A model; inputs and outputs given by name are float32 of shape (2, 3)."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [info(i) if isinstance(i, str) else i for i in inputs],
        [info(o) if isinstance(o, str) else o for o in outputs],
        [
            array if isinstance(array, TensorProto) else numpy_helper.from_array(np.asarray(array), name)
            for name, array in (weights or {}).items()
        ],
        value_info=list(value_info),
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), *imports],
        ir_version=ir,
        functions=list(functions),
    )


def plain(graph: Graph) -> list[tuple[Any, ...]]:
    """The nodes of a graph as (op, inputs, outputs, attributes); constants made on the way appear as lists."""
    inputs = {port.name for port in graph.inputs}
    values = {}
    for name, array in graph.constants.items():
        values[name] = name if not name.startswith("\0") else array.tolist()

    def show(name: str) -> Any:
        assert not name or name in inputs or name in values or any(name in node.outputs for node in graph.nodes)
        return values.get(name, name.lstrip("\0"))

    return [(n.op, [show(i) for i in n.inputs], [o.lstrip("\0") for o in n.outputs], n.attrs) for n in graph.nodes]


def one(op: str, inputs: Sequence[str] = ("x",), outputs: Sequence[str] = ("y",), opset: int = 17, **attrs: Any) -> Any:
    """What a model of one node becomes. Inputs other than "x" are model inputs as well."""
    names = list(dict.fromkeys(i for i in inputs if i))
    model = make([helper.make_node(op, inputs, outputs, name="n", **attrs)], names, outputs[:1], opset=opset, ir=8)
    return plain(read_onnx(model))


def refused(error: type[Exception], match: str, run: Callable[[], object]) -> Any:
    with pytest.raises(error, match=match) as caught:
        run()
    assert "<ModelProto>" in str(caught.value)
    return caught.value


def function_model(nodes: Sequence[Any], functions: Sequence[Any], **options: Any) -> Any:
    return make(nodes, functions=functions, imports=[helper.make_opsetid("own", 1)], **options)


def own(name: str, inputs: Sequence[str], outputs: Sequence[str], nodes: Sequence[Any], **options: Any) -> Any:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, inputs, outputs, nodes, imports, **options)


def assert_sound(graph: Graph, taken: set[str] | None = None) -> None:
    """Every value is made once, before its use, under a name that no other graph of the model has."""
    taken = set() if taken is None else taken
    known = {port.name for port in graph.inputs} | graph.constants.keys()
    for node in graph.nodes:
        assert known.issuperset(filter(None, node.inputs)), node
        made = set(filter(None, node.outputs))
        assert known.isdisjoint(made), node
        known |= made
    assert known.issuperset(port.name for port in graph.outputs)
    own = known - graph.constants.keys()
    assert taken.isdisjoint(own)
    taken |= own
    for node in graph.nodes:
        for body in node.bodies.values():
            assert_sound(body, taken)
