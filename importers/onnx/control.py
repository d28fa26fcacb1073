"""Branches and loops: bodies as closed graphs, which are handed all that they use from outside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from typing import Any

import numpy as np

from ...engine.graph import Graph, Port
from .forms import GRAPH, INT, INTS, REQUIRED, Attr, Call, Form, Translation, flag, same
from .reader import Body, FileNode
from .tensors import dtype_of, type_name

__all__ = ["FORMS", "depended_on"]


def depended_on(
    nodes: Iterable[FileNode], wanted: Iterable[str], stops: Set[str] = frozenset()
) -> tuple[list[FileNode], set[str]]:
    """The nodes that `wanted` values depend on, in order, and all values they read; `stops` need no making."""
    needed = set(wanted)
    found = []
    for node in reversed(list(nodes)):
        outputs = tuple("" if name in stops else name for name in node.outputs)
        if not needed.isdisjoint(filter(None, outputs)):
            found.append(node._replace(outputs=outputs) if outputs != node.outputs else node)
            needed.update(node.reads)
    return found[::-1], needed


class _Bodies:
    """The bodies of one node on their way into graphs."""

    def __init__(self, call: Call, *bodies: Body) -> None:
        self.call, self.outer = call, call.translation
        self.bodies = bodies
        self.live = [depended_on(body.nodes, body.outputs) for body in bodies]
        #: What the bodies use from outside, as the graph calls it.
        self.captured: list[str] = []
        self._captured_by: list[dict[str, str]] = []
        self._lone: list[list[str]] = []
        for body, (_, needed) in zip(bodies, self.live, strict=True):
            values: dict[str, str] = {}
            lone = []
            for name in body.captured:
                if name not in needed:
                    continue
                if name in self.outer.file.initializers and name not in self.outer.names:
                    lone.append(name)  # a constant of nothing but bodies
                    continue
                values[name] = self.outer.value(name)
            self._captured_by.append(values)
            self._lone.append(lone)
            for value in values.values():
                if value not in self.outer.graph.constants and value not in self.captured:
                    self.captured.append(value)

    def graph(self, k: int, dtypes: Sequence[np.dtype[Any] | None]) -> tuple[Graph, list[np.dtype[Any] | None]]:
        """Body `k` as a graph, its own inputs of the types that are known of them; and the types of its outputs."""
        body, outer = self.bodies[k], self.outer
        nodes, needed = self.live[k]
        graph = Graph(outer.file.source, prefix=body.prefix)
        inner = Translation(outer.file, graph, outer.table, needed, outer.fixes)
        inner.doubted, inner.decoded = outer.doubted, outer.decoded
        for name, dtype in zip(body.inputs, dtypes, strict=True):
            self._input(inner, name, name, dtype)
        ports = {value: graph.fresh(value.lstrip("\0")) for value in self.captured}
        for value, port in ports.items():
            self._input(inner, port, port, outer.dtype(value))
        for name, value in self._captured_by[k].items():
            if value in ports:
                inner.names[name] = ports[value]
            else:
                inner.names[name] = inner.graph.constant(outer.graph.constants[value], value)
        for name in self._lone[k]:
            inner.constant(outer.shared(name), name)
        for node in nodes:
            inner.translate(node)
        made = []
        for name in body.outputs:
            value = inner.value(name)
            made.append(inner.dtype(value))
            graph.outputs.append(Port(value, None, made[-1] or np.dtype(np.float32)))
        return graph, made

    def _input(self, inner: Translation, port: str, name: str, dtype: np.dtype[Any] | None) -> None:
        declared = inner.file.types.get(name)
        if dtype is None and declared is not None and declared.code:
            dtype = dtype_of(declared.code)
        inner.graph.input(port, None, dtype or np.float32)
        inner.names[name] = port
        inner.dtypes[port] = dtype

    def finish(self, inputs: Iterable[str], dtypes: Sequence[np.dtype[Any] | None], **attrs: Any) -> None:
        """Add the node."""
        self.call.finish(self.call.node.op, (*inputs, *self.captured), **attrs)
        for name, dtype in zip(self.call.outputs, dtypes, strict=False):
            if name:
                self.outer.dtypes[name] = dtype


def branch(call: Call) -> None:
    then, orelse = (call.attrs[name] for name in ("then_branch", "else_branch"))
    count = len(call.outputs)
    for body in (then, orelse):
        if body.inputs or not count <= len(body.outputs) == len(then.outputs):
            raise call.damaged(f"a branch has {len(body.inputs)} inputs and {len(body.outputs)} outputs")
    bodies = _Bodies(call, then, orelse)
    (graph, dtypes), (other, _) = (bodies.graph(k, ()) for k in (0, 1))
    bodies.finish(call.inputs, dtypes, then=graph, orelse=other)


def loop(call: Call) -> None:
    body = call.attrs["body"]
    trip, cond, *states = [*call.inputs, "", ""] if len(call.inputs) < 2 else call.inputs
    states = states if len(call.inputs) > 2 else []
    count = len(states)
    if len(body.inputs) != count + 2 or len(body.outputs) < count + 1 or len(call.outputs) > len(body.outputs) - 1:
        raise call.damaged(
            f"has {count} states and {len(call.outputs)} outputs, but a body of {len(body.inputs)} inputs and "
            f"{len(body.outputs)} outputs"
        )
    bodies = _Bodies(call, body)
    types = [call.translation.dtype(name) for name in states]
    graph, made = bodies.graph(0, [np.dtype(np.int64), np.dtype(np.bool_), *types])
    bodies.finish(
        (trip, cond, *states),
        [a or b for a, b in zip([*types, *[None] * len(made)], made[1:], strict=False)],
        body=graph,
        states=count,
    )


def _normal(call: Call, name: str, count: int, axes: bool) -> tuple[int, ...]:
    """A list attribute of Scan, one entry for each of `count` arrays."""
    values = call.attrs.get(name)
    values = (0,) * count if values is None else values
    if len(values) != count:
        raise call.damaged(f"attribute {name} has {len(values)} entries for {count} arrays")
    if not axes and any(value not in (0, 1) for value in values):
        raise call.damaged(f"attribute {name} is {values}, which are not all 0 or 1")
    return tuple(values)


def scan(call: Call) -> None:
    body, xs = call.attrs["body"], call.attrs["num_scan_inputs"]
    states = len(call.inputs) - xs
    ys = len(body.outputs) - states
    if xs < 1 or states < 0 or len(body.inputs) != states + xs or ys < 0 or len(call.outputs) > states + ys:
        raise call.damaged(
            f"has {len(call.inputs)} inputs, {xs} of them to scan, and {len(call.outputs)} outputs, but a body of "
            f"{len(body.inputs)} inputs and {len(body.outputs)} outputs"
        )
    bodies = _Bodies(call, body)
    types = [call.dtype(k) for k in range(states + xs)]
    graph, made = bodies.graph(0, types)
    bodies.finish(
        call.inputs,
        [a or b for a, b in zip([*types[:states], *[None] * ys], made, strict=True)],
        body=graph,
        states=states,
        xs=xs,
        in_axes=_normal(call, "scan_input_axes", xs, axes=True),
        out_axes=_normal(call, "scan_output_axes", ys, axes=True),
        in_reverse=tuple(map(bool, _normal(call, "scan_input_directions", xs, axes=False))),
        out_reverse=tuple(map(bool, _normal(call, "scan_output_directions", ys, axes=False))),
    )


def scan_rows(call: Call) -> None:
    """Operator set 8 has a first axis of rows everywhere: a Scan over rows, of Scans."""
    lengths, *values = call.inputs
    if lengths:
        raise call.unsupported(
            "has sequence lengths, as operator set 8 had them",
            "sequence_lens",
            call.node.inputs[0],
            "Convert it with onnx.version_converter to operator set 9 or newer",
        )
    body, xs = call.attrs["body"], call.attrs["num_scan_inputs"]
    states = len(values) - xs
    ys = len(body.outputs) - states
    if xs < 1 or states < 0 or len(body.inputs) != len(values) or ys < 0 or len(call.outputs) > states + ys:
        raise call.damaged(f"has {len(values)} arrays, {xs} of them to scan, but a body of {len(body.inputs)} inputs")
    bodies = _Bodies(call, body)
    types = [call.translation.dtype(value) for value in values]
    graph, made = bodies.graph(0, types)
    rows = Graph(call.translation.file.source, prefix=f"{body.prefix}rows/")
    inputs = [rows.input(rows.fresh("in"), None, port.dtype) for port in graph.inputs]
    outputs = rows.add(
        "Scan",
        inputs,
        states + ys,
        name=call.node.title,
        body=graph,
        states=states,
        xs=xs,
        in_axes=(0,) * xs,
        out_axes=(0,) * ys,
        in_reverse=tuple(map(bool, _normal(call, "directions", xs, axes=False))),
        out_reverse=(False,) * ys,
    )
    for name, port in zip(outputs, graph.outputs, strict=True):
        rows.output(name, None, port.dtype)
    bodies.finish(
        values,
        made,
        body=rows,
        states=0,
        xs=len(values),
        in_axes=(0,) * len(values),
        out_axes=(0,) * (states + ys),
        in_reverse=(False,) * len(values),
        out_reverse=(False,) * (states + ys),
    )


def empty(call: Call) -> None:
    code = call.attrs["dtype"]
    dtype = dtype_of(code)
    if dtype is None:
        raise call.unsupported("is a data type that is not supported", "dtype", type_name(code))
    call.finish("SequenceEmpty", ())
    call.translation.dtypes[call.outputs[0]] = dtype


_BODY = {"body": Attr(GRAPH, REQUIRED), "num_scan_inputs": Attr(INT, REQUIRED)}
_AXES = {f"scan_{name}": Attr(INTS) for name in ("input_axes", "output_axes", "input_directions", "output_directions")}

FORMS: dict[str, tuple[Form, ...]] = {
    "If": (Form(7, branch, (1, 1), {name: Attr(GRAPH, REQUIRED) for name in ("then_branch", "else_branch")}, None),),
    "Loop": (Form(7, loop, (0, None), {"body": Attr(GRAPH, REQUIRED)}, None, gaps=2),),
    "SequenceEmpty": (Form(11, empty, (0, 0), {"dtype": Attr(INT, 1)}),),
    "SequenceConstruct": (Form(11, same, (1, None)),),
    "SequenceInsert": (Form(11, same, (2, 3)),),
    "SequenceErase": (Form(11, same, (1, 2)),),
    "SequenceAt": (Form(11, same, (2, 2)),),
    "SequenceLength": (Form(11, same),),
    "SplitToSequence": (Form(11, same, (1, 2), {"axis": Attr(INT, 0), "keepdims": flag(True)}),),
    "ConcatFromSequence": (Form(11, same, attrs={"axis": Attr(INT, REQUIRED), "new_axis": flag()}),),
    "Scan": (
        Form(8, scan_rows, (1, None), {**_BODY, "directions": Attr(INTS)}, None, gaps=1),
        Form(9, scan, (1, None), {**_BODY, **_AXES}, None),
    ),
}
