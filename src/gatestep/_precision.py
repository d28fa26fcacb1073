"""What a precision tier costs in accuracy, and the fastest that keeps a bound: ``load(precision="auto")``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from gatestep._feeds import calls, edges, first_batch, frames, random_values
from gatestep.engine.errors import ShapeError, UnsupportedModelError
from gatestep.engine.model import Model
from gatestep.kernels import fastest_first

__all__ = ["deviation", "fastest"]

#: Frames of the recording that a stream is measured on: errors of a recurrence settle within some dozens.
FRAMES = 75

Array = np.ndarray[Any, np.dtype[Any]]
#: What is asked of a model in each precision.
Trial = Callable[[Model], Mapping[str, Array]]


def deviation(got: Array, want: Array) -> float:
    """The largest difference, over the largest magnitude of `want` where that is more than 1.

    Infinite where NaN or infinities stand in other places, or the shapes differ.
    """
    if got.shape != want.shape:
        return float("inf")
    mine, theirs = got.astype(np.float64), want.astype(np.float64)
    odd = ~(np.isfinite(mine) & np.isfinite(theirs))
    if not np.array_equal(mine[odd], theirs[odd], equal_nan=True):
        return float("inf")
    if odd.all():
        return 0.0
    return float(np.abs(mine - theirs)[~odd].max() / max(1.0, np.abs(theirs[~odd]).max()))


def trials(model: Model, data: Mapping[str, Any] | None) -> Iterator[Trial]:
    """The caller's inputs; or else random and extreme ones, and a recording where the model streams."""

    def whole(feeds: Mapping[str, Any]) -> Trial:
        return lambda model: model(feeds)

    if data is not None:
        yield whole(dict(data))
        return
    draw = random_values(np.random.default_rng(0))
    for _, feeds in calls(model, edges(model, draw)):
        yield whole(feeds)
    if model.layout.blocker is None:
        batch = first_batch(model)
        given = frames(model, FRAMES, batch, draw)
        yield lambda model: model.stream(batch, delay=model.delay).run(given)


def fastest(model: Model, data: Mapping[str, Any] | None, max_error: float) -> Model:
    """`model`, which is in float32, in the fastest precision whose results stay as close to its own.

    Raises
    ------
    ValueError
        There is nothing to measure with, and no data were given.
    """
    try:
        asked = list(trials(model, data))
    except ShapeError as error:
        raise ValueError(f"precision='auto' measures on data=, and none are given: {error}") from error
    wanted = [trial(model) for trial in asked]
    for precision in fastest_first():
        candidate = model.at(precision)
        close = candidate.precision == precision and keeps(candidate, asked, wanted, max_error)
        if close and precision in candidate.nets.values():
            return candidate
    return model


def keeps(model: Model, asked: list[Trial], wanted: list[Mapping[str, Array]], max_error: float) -> bool:
    """Whether results are as close to what is wanted."""
    try:
        for trial, want in zip(asked, wanted, strict=True):
            got = trial(model)
            if not all(deviation(got[name], want[name]) <= max_error for name in want):
                return False
    except UnsupportedModelError:  # weights that no such number stands for
        return False
    return True
