"""What a model is, in a few lines."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np

from ..kernels import isa
from .errors import GatestepError, NeedsValue
from .graph import Dim, Graph, Port
from .ops.recurrent import STANDARD
from .walk import port_shapes, walk

if TYPE_CHECKING:
    from .model import Model

__all__ = ["summary"]


def port_line(port: Port) -> str:
    """``x (T, B, 257) float32``."""

    def dim(size: Dim) -> str:
        return "?" if size is None else str(size)

    shape = "of any rank" if port.shape is None else f"({', '.join(map(dim, port.shape))})"
    return f"{port.name} {shape} {port.dtype}{' (optional)' if port.optional else ''}"


def summary(model: Model) -> str:
    """Layers, cells, parameters, packed bytes, states, whether it streams and if not why."""
    graph = model.graph
    lines = [model.source]
    lines += [f"  input   {port_line(p)}" for p in model.inputs]
    lines += [f"  output  {port_line(p)}" for p in model.outputs]
    for part in graph.everything():
        lines += node_lines(part)
    lines += [f"  changed {note}" for note in graph.notes]
    arrays = {id(a): a for part in graph.everything() for a in part.constants.values()}  # bodies share them
    defaults = [a for a in graph.defaults.values() if a is not None]
    parameters = sum(a.size for a in [*arrays.values(), *defaults] if a.dtype.kind == "f" and a.size > 1)
    packed = f"; {model.packed.nbytes:,} bytes packed" if model.packed.arrays else ""
    lines.append(f"  weights {parameters:,} parameters, {np.dtype(model.real).name}{packed}")
    lines += kept_lines(model)
    lines += [f"  state   {line}" for line in state_lines(model)]
    if model.layout.blocker is not None:
        lines.append(f"  streams no: {model.layout.blocker}")
    else:
        stream = model.stream(delay=model.delay) if model.layout.free_batch else None
        frames = ", ".join(f"{f.name} {f.shape}" for f in stream.inputs) if stream else ""
        late = f", {model.delay} steps late ({model.layout.memories.ahead} looks ahead)" if model.delay else ""
        lines.append(f"  streams yes{late}{f', one frame is {frames}' if frames else ''}")
        if model.hop > 1:
            lines.append(f"          a step takes {model.hop} frames of the file")
        if model.layout.batch_blocker:
            lines.append(f"          one row at a time: {model.layout.batch_blocker}")
    return "\n".join(lines)


def kept_lines(model: Model) -> list[str]:
    """In which precision each net is."""
    if model.asked == "float32":
        return []
    if model.tier == "float32":
        return [f"  kept as float32: {isa} has no kernels of {model.asked} that are faster"]
    kept = {tier: [net for net, own in model.nets.items() if own == tier] for tier in (model.tier, "float32")}
    lines = [f"  kept as {model.tier}: {', '.join(kept[model.tier])}"] if kept[model.tier] else []
    return [
        *lines,
        f"  kept as float32: {', '.join([*kept['float32'], 'biases, peepholes, convolutions and all else'])}",
    ]


def shape_of(graph: Graph, name: str) -> tuple[int, ...]:
    """The shape of weights, also where the file puts them together; of no axes where that is not known."""
    array = graph.constants.get(name, graph.defaults.get(name))
    if array is not None:
        return array.shape
    with contextlib.suppress(GatestepError, NeedsValue):
        return walk(graph, np.dtype(np.float32), port_shapes(graph, {}), [name]).values[name].shape
    return ()


def node_lines(graph: Graph) -> list[str]:
    """Cells and control flow, in this graph and not in the bodies in it."""
    lines = []
    for node in graph.nodes:
        if node.op in ("LSTM", "GRU", "RNN"):
            extras = [node.attrs["direction"]] if node.attrs["direction"] != "forward" else []
            weights = shape_of(graph, node.inputs[1])
            size = f"{weights[2]} -> " if len(weights) == 3 else ""
            names = [name for name, _, _ in node.attrs["activations"]]
            usual = [*STANDARD[node.op]] * (len(names) // len(STANDARD[node.op]))
            extras += ["activations " + " ".join(names)] if names != usual else []
            extras += [f"clip {node.attrs['clip']}"] if node.attrs["clip"] is not None else []
            extras += [node.attrs["coupled"]] if node.attrs.get("coupled") else []
            extras += ["peepholes"] if len(node.inputs) > 7 and node.inputs[7] else []
            extras += ["projection"] if len(node.inputs) > 8 and node.inputs[8] else []
            if node.op == "GRU" and not node.attrs["linear_before_reset"]:
                extras.append("reset before the product")
            extras += node.attrs.get("origin", ())
            lines.append(f"  cell    {node.label} {size}{node.attrs['hidden_size']}{''.join(f', {e}' for e in extras)}")
        elif node.op in ("Loop", "Scan"):
            body = node.attrs["body"]
            lines.append(f"  {node.op.lower():7} {node.label} {node.attrs['states']} states, {len(body.nodes)} nodes")
        elif node.op == "If":
            lines.append(f"  branch  {node.label} by what is known when it runs")
    return lines


def state_lines(model: Model) -> list[str]:
    """Names of the states, and how each is carried."""
    layout = model.layout
    lines = [f"{name} -> {out}" if out else f"{name} (given at the start)" for name, out in layout.states.items()]
    lines += [f"{name} -> {out}" for name, out in layout.carried.items()]
    return lines + [f"{name} (carried inside)" for name in layout.finals]
