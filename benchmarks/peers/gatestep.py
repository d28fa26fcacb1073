"""Ours: a stream."""

from __future__ import annotations

from typing import Any

import gatestep

from ..cells import Case
from ..timing import looped
from .contender import Contender

__all__ = ["options", "ours"]


def options(precision: str = "float32", threads: int = 1) -> dict[str, Any]:
    """Of `gatestep.load`: those that differ from its own defaults."""
    given: dict[str, Any] = {} if precision == "float32" else {"precision": precision}
    return given if threads == 1 else {**given, "threads": threads}


def ours(case: Case) -> Contender:
    """Frames by `step`, recordings by `run`, from the state that the last call left; in both directions, a call."""
    feed, out = case.arrays()
    model = gatestep.load(case.net.file(), **options(case.precision, case.threads))
    if case.net.bidirectional:
        results = [out]

        def whole() -> None:
            results[0] = model(feed)

        return Contender(whole, feed, lambda: results[0], looped("model(feed)", model=model, feed=feed))
    stream = model.stream(None if case.rows == 1 else case.rows)
    x, y = (feed[:, 0], out[:, 0]) if case.rows == 1 else (feed, out)
    if case.carried:
        step, frame, target = stream.step, x[0], y[0]
        timed = looped("step(frame, target)", step=step, frame=frame, target=target)
        return Contender(lambda: step(frame, target), feed, lambda: out, timed)
    run = stream.run
    return Contender(lambda: run(x, y), feed, lambda: out, looped("run(x, y)", run=run, x=x, y=y))
