"""How does the cost of a step grow: with the hidden size, the layers, the rows of a batch, the number of streams?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

import gatestep

from .cells import Case, Net
from .limits import Limits
from .peers import ours
from .timing import Effort, Spread, Timed, looped, rounds

__all__ = ["GROWTHS", "Growth", "Point", "measure"]


@dataclass(frozen=True)
class Point:
    """One size: nanoseconds of a step, of the limit, and limit ÷ step formed round by round."""

    value: int
    ns: Spread
    limit_ns: float
    reached: float


@dataclass(frozen=True)
class Growth:
    """Points along one axis.

    Attributes
    ----------
    axis : str
        What grows.
    net : str
        The net, with ? for what grows.
    """

    axis: str
    net: str
    points: Sequence[Point]


#: By what grows: the net as shown, the values of a short run, those of a full one.
GROWTHS: dict[str, tuple[str, Sequence[int], Sequence[int]]] = {
    "hidden": ("LSTM ?→?", (16, 64, 256), (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)),
    "layers": ("?×LSTM 64→128", (1, 2, 4), (1, 2, 3, 4, 6, 8)),
    "rows": ("LSTM 128→256, ? rows", (1, 3, 16), (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)),
    "streams": ("LSTM 64→128, ? streams", (1, 16, 256), (1, 4, 16, 64, 256, 1024, 4096)),
}


def measure(axis: str, effort: Effort, quick: bool) -> Growth:
    """Every point of one axis."""
    shown, short, full = GROWTHS[axis]
    return Growth(axis, shown, [_point(axis, value, effort) for value in (short if quick else full)])


def _point(axis: str, value: int, effort: Effort) -> Point:
    if axis == "hidden":
        case = Case.of(Net("lstm", value, value), "step")
    elif axis == "layers":
        case = Case.of(Net("lstm", 64, 128, layers=value), "step")
    elif axis == "rows":
        case = Case(Net("lstm", 128, 256), "lockstep", 1, value)
    else:
        case = Case.of(Net("lstm", 64, 128), "step")
    bounds = Limits(case)
    step = _by_turns(case, value) if axis == "streams" else ours(case).timed
    timed = rounds({"step": step, **bounds.contenders}, effort)
    limit = bounds.ns(timed)
    return Point(
        value, Spread.of(timed.ns["step"]), float(np.median(limit)), float(np.median(limit / timed.ns["step"]))
    )


def _by_turns(case: Case, count: int) -> Timed:
    """A step of one of `count` streams of one model after the other."""
    model = gatestep.load(case.net.file())
    x, y = np.ones(case.net.inputs, np.float32), np.empty(case.net.width, np.float32)
    steps: list[Callable[..., object]] = [model.stream().step for _ in range(count)]
    around = looped("for step in steps: step(x, y)", steps=steps, x=x, y=y)
    one = count

    def timed(calls: int) -> float:
        times = -(-calls // one)
        return around(times) * calls / (times * one)

    return timed
