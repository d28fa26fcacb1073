"""How long does one call take, on a machine that does other things too?

Contenders take turns in short rounds, so that whatever slows the machine down for a while slows all of them, and ratios
are formed within a round before the median over rounds is taken.
"""

from __future__ import annotations

import gc
import timeit
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter, perf_counter_ns, process_time, sleep, thread_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Effort", "Rounds", "Spread", "Timed", "each", "looped", "rounds"]

#: Makes so many calls and returns the seconds that they took.
Timed = Callable[[int], float]
#: Calls that a round begins with and does not time: they bring back what the other contenders drove out of the caches.
WARM_UP = 2
#: Part of a round for which its thread must have had the processor.
UNDISTURBED = 0.97
#: Undisturbed rounds that suffice.
ENOUGH = 5
#: Rounds at most, as a multiple of those wanted, where they take less than SLICE seconds.
REPEATS = 3
SLICE = 0.01
#: Where contenders have threads: what a turn spends on waiting for those of the one before, about; a look at whether
#: they still spin, the part of it for which they may, and the longest wait. (ONNX Runtime's spin for 35 ms.)
WAIT = 0.01
GLANCE, SPINNING, MOST_WAIT = 0.002, 0.05, 0.2
#: Seconds of calls that wake a contender's own threads, and bring them to processors of their own: as long as LiteRT's
#: take.
WAKING = 0.03


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes
    ----------
    seconds : float
        For all rounds of one contender, about.
    round_seconds : float
        One round: short, so that many fall between two interruptions.
    least : int
        Rounds at least, however slow a call is.
    tail : int
        Calls that are timed one by one at most, for the 99th percentile.
    """

    seconds: float = 0.2
    round_seconds: float = 4e-4
    least: int = 9
    tail: int = 10_000


@dataclass(frozen=True)
class Spread:
    """A figure over rounds: median, quartiles, the least, and of how many rounds."""

    median: float
    low: float
    high: float
    least: float
    rounds: int

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Spread:
        """From one value per round."""
        low, median, high = np.percentile(values, (25, 50, 75))
        return cls(float(median), float(low), float(high), float(values.min()), len(values))


@dataclass(frozen=True)
class Rounds:
    """Nanoseconds per call, by contender and round."""

    ns: Mapping[str, NDArray[np.float64]]

    def median(self, name: str) -> float:
        """Over rounds."""
        return float(np.median(self.ns[name]))

    def ratio(self, above: str, below: str) -> float:
        """Median of `above` ÷ `below`, formed round by round."""
        return float(np.median(self.ns[above] / self.ns[below]))

    def difference(self, more: str, less: str) -> float:
        """Median of `more` - `less`, formed round by round."""
        return float(np.median(self.ns[more] - self.ns[less]))


def looped(statement: str, **names: Any) -> Timed:
    """A Python statement, timed in a loop as a user would write it."""
    return timeit.Timer(statement, globals=names).timeit


def rounds(contenders: Mapping[str, Timed], effort: Effort, threads: int = 1) -> Rounds:
    """Time all contenders by turns; each round begins with another one.

    A round in which the system gave the processor to somebody else says nothing about a contender. It is left out, and
    another one made, where rounds are short enough to fall between two such moments. If too few are left, all count.

    With more `threads`, those of a contender may go on for a while after its turn, waiting for the next call, and keep
    the processor from the next contender. So its turn begins when they sleep, and with calls that wake its own. Then
    all rounds count: a caller that waits for its threads does not work, but is not disturbed.
    """
    names = list(contenders)
    pause = WAIT if threads > 1 else 0.0
    lengths = {}
    for name in names:
        _rest(pause)
        lengths[name] = _length(contenders[name], effort.round_seconds)
    slowest = max(seconds for _, seconds in lengths.values())
    total = max(effort.least, int(effort.seconds / (max(slowest, effort.round_seconds) + pause)))
    ns: dict[str, list[float]] = {name: [] for name in names}
    quiet: list[bool] = []
    most = total * (REPEATS if slowest < SLICE else 1)
    while sum(quiet) < total and len(quiet) < most:
        turn = len(quiet) % len(names)
        quiet.append(True)
        for name in names[turn:] + names[:turn]:
            timed, (count, seconds) = contenders[name], lengths[name]
            _rest(pause)
            if threads > 1:
                timed(max(int(WAKING * count / seconds), 1))
            elif count > 1:
                timed(WARM_UP)
            begin, worked = perf_counter(), thread_time()
            ns[name].append(timed(count) / count * 1e9)
            worked, passed = thread_time() - worked, perf_counter() - begin
            quiet[-1] &= worked > UNDISTURBED * passed or threads > 1
    kept = np.array(quiet) | (sum(quiet) < min(ENOUGH, effort.least))
    return Rounds({name: np.array(values)[kept] for name, values in ns.items()})


def _rest(pause: float) -> None:
    """Return when no thread of this process spins any more; at once where there is to be no `pause`."""
    began = perf_counter()
    while pause and perf_counter() - began < MOST_WAIT:
        worked, at = process_time(), perf_counter()
        sleep(GLANCE)
        if process_time() - worked < SPINNING * (perf_counter() - at):
            return


def _length(timed: Timed, seconds: float) -> tuple[int, float]:
    """Calls that take about `seconds`, and what they take: four calls at least, or one that takes far too long."""
    first = timed(1)
    if first > 100 * seconds:  # what is new to the first call is little of that
        return 1, first
    count = 1
    # The fastest of three: one that was interrupted would make every round too short.
    while (taken := min(timed(count) for _ in range(3))) < seconds / 4 and count < 1 << 24:
        count *= 2
    once = max(taken / count, 1e-9)
    calls = max(int(seconds / once), 4) if once < 5 * seconds else 1
    return calls, calls * once


def each(calls: Mapping[str, Callable[[], object]], effort: Effort, threads: int = 1) -> dict[str, NDArray[np.float64]]:
    """Nanoseconds of single calls, by turns, without what reading the clock costs.

    Parameters
    ----------
    calls : mapping
        By name; each must be a function without arguments that does one call.
    effort : Effort
    threads : int
        Of each: see `rounds`.

    Returns
    -------
    dict of ndarray
    """
    empty = _stamped(_nothing, 1000)
    clock = float(np.median(empty))
    taken: dict[str, list[NDArray[np.float64]]] = {name: [] for name in calls}
    sizes = {}
    for name, call in calls.items():
        once = float(np.median(_stamped(call, 20)))
        sizes[name] = int(min(effort.tail, max(100, effort.seconds * 1e9 / once)))
    turns = 20
    for _ in range(turns):
        for name, call in calls.items():
            _rest(WAIT if threads > 1 else 0.0)
            taken[name].append(_stamped(call, -(-sizes[name] // turns)))
    return {name: np.maximum(np.concatenate(parts) - clock, 0) for name, parts in taken.items()}


def _nothing() -> None:
    """What the clock itself costs is measured on."""


def _stamped(call: Callable[[], object], count: int) -> NDArray[np.float64]:
    """Nanoseconds of each of `count` calls, after a short warm-up."""
    ns = [0] * count
    clock = perf_counter_ns
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(WARM_UP):
            call()
        for k in range(count):
            begin = clock()
            call()
            ns[k] = clock() - begin
    finally:
        if collecting:
            gc.enable()
    return np.array(ns, np.float64)
