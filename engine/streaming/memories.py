"""A graph for streams: what needs frames of before has a memory of them. `remembering` makes it."""

from typing import Any

import numpy as np

from ..graph import Graph
from ..record import Record

__all__ = ["MOST_STEPS", "Memories", "renamed"]

#: More steps of anything than this, or frames per step, no file has a use for.
MOST_STEPS = 1 << 14


class Memories(Record):
    """A graph for streams.

    Attributes
    ----------
    graph : Graph
        Its results are `delay` steps late.
    hop : int
        Frames of the inputs per step.
    outputs : dict
        For every output that is no state: the axis of time, None where it stands for all frames, and frames per step.
    delay : int
        By how many steps results are late because something needs the future.
    ahead : str
        The node that does.
    begins : int
        Steps until the recording has reached every node.
    before : int
        Steps of what stands before the recording, to be made before the first one.
    """

    # What a file says of these is held to their types (`importers/typed.py`), which therefore are no text.
    graph: Graph
    hop: int
    outputs: dict[str, tuple[int | None, int]] | None
    delay: int
    ahead: str
    begins: int
    before: int

    def __init__(
        self,
        graph: Graph,
        hop: int = 1,
        outputs: dict[str, tuple[int | None, int]] | None = None,
        delay: int = 0,
        ahead: str = "",
        begins: int = 0,
        before: int = 0,
    ) -> None:
        self.graph, self.hop, self.outputs = graph, hop, outputs
        self.delay, self.ahead, self.begins, self.before = delay, ahead, begins, before

    def postponed(self, steps: int) -> Graph:
        """The graph with results that are `steps` steps later still."""
        if steps == 0:
            return self.graph
        graph = self.graph.with_(nodes=list(self.graph.nodes), constants=dict(self.graph.constants))
        for name, (axis, rate) in (self.outputs or {}).items():
            inner = renamed(graph, name)
            attrs: dict[str, Any] = {"delay": True, "every": 1, "fill": 0.0, "made": False}
            if axis is not None:
                graph.add("Memory", [inner], [name], name=name, axis=axis, frames=steps * rate, **attrs)
            else:
                zero = graph.constant(np.array([0]))
                (long,) = graph.add("Unsqueeze", [inner, zero])
                (late,) = graph.add("Memory", [long], name=name, axis=0, frames=steps, **attrs)
                graph.add("Squeeze", [late, zero], [name])
        return graph


def renamed(graph: Graph, name: str) -> str:
    """Give the value `name` another name; returns that."""
    other = graph.fresh("inner")
    graph.nodes[:] = [node.renamed({name: other}) for node in graph.nodes]
    return other
