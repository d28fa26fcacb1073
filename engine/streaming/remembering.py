"""A graph for streams out of one for whole recordings: what needs frames of before gets a memory of them.

What is decided (see `rewriting`) has to be the same for recordings of two lengths. Results that need the future come
late; what stands before the recording is made, or kept from changing what it must not, while the first steps run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..errors import UnsupportedModelError
from ..graph import Graph, Node
from ..lowering import TIME, Lowering
from ..walk import is_in
from .memories import MOST_STEPS, Memories, renamed
from .rewriting import Rewriting

__all__ = ["remembered"]


def remembered(
    graph: Graph,
    walked: Callable[[int], Lowering],
    ctx: Lowering,
    time: Mapping[str, int | None],
    states: Collection[str],
) -> Memories:
    """Make the graph for streams.

    Parameters
    ----------
    graph : Graph
    walked : callable
        A walk for so many frames.
    ctx : Lowering
        A walk for any number.
    time : mapping
        Input to axis of time.
    states : collection of str
        Outputs that show states.

    Raises
    ------
    UnsupportedModelError
        A node needs more than some frames of before.
    """
    first = Rewriting(graph, ctx, time, 1)
    first.run()
    hop = math.lcm(*(rate.denominator for rate in first.rates))
    frames = next(ctx.values[name].shape[axis] for name, axis in time.items() if axis is not None)
    longer = -(-frames // hop) * hop
    here, there = (Rewriting(graph, walked(n), time, hop) for n in (longer, longer + hop))
    here.run()
    there.run()
    if here.decisions != there.decisions:
        both = zip(here.decisions, there.decisions, strict=False)
        key = next((mine[0] for mine, other in both if mine != other), graph.nodes[-1].key)
        node = next((node for node in graph.nodes if key in node.outputs), graph.nodes[-1])
        noted = next((m.reason for m in ctx.mixings if m.node is node and is_in(ctx.root(m.tag), TIME)), "")
        raise here.refuse(node, noted or "takes frames by their number in the recording")
    return finished(here, states)


def finished(work: Rewriting, states: Collection[str]) -> Memories:
    """Deliver the outputs, all of them equally late."""
    graph, result = work.graph, work.result
    names = [port.name for port in graph.outputs]
    names = [name for name in names if name not in states] or names
    late, ahead = 0, ""
    for name in names:
        if name in work.timed:
            age = work.timed[name]
            mine, cause = -(age.final // work.per_step(age.rate)), age.ahead
        else:
            mine, cause = (work.shown[name].late, work.shown[name].ahead) if name in work.shown else (0, "")
        if mine > late:
            late, ahead = mine, cause
    outputs: dict[str, tuple[int | None, int]] = {}
    for name in names:
        node = Node("Output", (), (), {}, name)
        if name in work.timed:
            age = work.timed[name]
            rate = work.per_step(age.rate)
            source = work.delayed(node, name, -late * rate)
            if late:
                source = work.begun(node, source, age._replace(lead=-late * rate), 0, 0.0)
            outputs[name] = age.axis, rate
        elif name in work.shown:
            source = work.later(node, work.here(name), late - work.shown[name].late)
            outputs[name] = None, 1
        else:
            continue
        if source != name:
            if any(name in made.outputs for made in result.nodes):
                inner = renamed(result, name)
                work.names.update({key: inner for key, value in work.names.items() if value == name} | {name: inner})
            result.add("Memory", [source], [name], name=name, **nothing(outputs[name][0] or 0))
    attrs = [(node, node.attrs) for node in result.nodes]
    begins = [0, *(a["wait"] for _, a in attrs if "wait" in a)]
    begins += [-((a["lead"] - a["first"]) // a["rate"]) for node, a in attrs if node.op == "Begin"]
    before = 0
    if any(a.get("made") for _, a in attrs):
        before = max(-(-age.lead // work.per_step(age.rate)) for age in work.timed.values())
    if max(work.hop, late, before, *begins) > MOST_STEPS:
        raise UnsupportedModelError(
            f"does not stream: {work.hop} frames per step, results {late} steps late, {before} steps of padding before",
            source=graph.source,
            hint=f"At most {MOST_STEPS} of each are supported; use model(x) on whole recordings",
        )
    return Memories(result, work.hop, outputs, late, ahead, max(begins), before)


def nothing(axis: int) -> dict[str, Any]:
    """Attributes of a `Memory` of no frames."""
    return {"axis": axis, "frames": 0, "delay": False, "every": 1, "fill": 0.0, "made": False}
