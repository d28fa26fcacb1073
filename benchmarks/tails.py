"""How long does the slowest step take, and the one that comes after a pause, after other work, after silence?"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from .cells import Case, Net
from .peers import Contender, contenders
from .timing import Effort, each

__all__ = ["PERCENTILES", "Amount", "Tail", "measure"]

#: Percentiles that are kept of a distribution; enough of them to draw it.
PERCENTILES = (0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99, 99.999, 100.0)
#: A step is due every so many seconds.
PERIOD = 0.01
#: What is read before a spaced step, so that no cache has the weights: more than the last level has.
COLD_BYTES = 1 << 26
#: Frames of silence: enough for states that lose a 150th with each to become denormal.
SILENCE = 20_000
#: Added to the bias of the gate that keeps the state, so that it decays slowly, as in a net that learned to remember;
#: and what is left of the matrix that the state is multiplied with.
KEEP, FORGET = 5.0, 0.01


@dataclass(frozen=True)
class Amount:
    """How often: calls in a row, spaced calls."""

    steps: int = 1_000_000
    spaced: int = 100


@dataclass(frozen=True)
class Tail:
    """One contender, in nanoseconds.

    Attributes
    ----------
    steps : int
        Calls in a row that were timed one by one.
    percentiles : dict
        Of these.
    spaced_ns, spaced_p99_ns : float
        A call every 10 ms, the processor idle in between.
    cold_ns, cold_p99_ns : float
        The same where other work has taken the caches meanwhile.
    lively_ns, silent_ns : float
        Medians with noise going in, and after 20,000 frames of zeros, which states decay to denormals in.
    """

    name: str
    steps: int
    percentiles: dict[str, float]
    spaced_ns: float
    spaced_p99_ns: float
    cold_ns: float
    cold_p99_ns: float
    lively_ns: float
    silent_ns: float


def measure(net: Net, names: Iterable[str], effort: Effort, amount: Amount) -> list[Tail]:
    """Step by step, each contender; the net is one LSTM or GRU."""
    case = Case.of(net, "step")
    made, _ = contenders(case, names)
    with ExitStack() as stack:
        for contender in made.values():
            stack.enter_context(contender.within)
            contender.feed[:] = case.inputs(1)[0]
        calls = {name: contender.call for name, contender in made.items()}
        long = Effort(effort.seconds * 1e9, effort.round_seconds, effort.least, amount.steps)
        single = each(calls, long)
        spaced, cold = _spaced(made, amount.spaced, 0), _spaced(made, amount.spaced, COLD_BYTES)
    silence = _silence(net, names, effort)
    return [
        Tail(
            name,
            len(single[name]),
            {f"{q:g}": float(np.percentile(single[name], q)) for q in PERCENTILES},
            float(np.percentile(spaced[name], 50)),
            float(np.percentile(spaced[name], 99)),
            float(np.percentile(cold[name], 50)),
            float(np.percentile(cold[name], 99)),
            *silence[name],
        )
        for name in made
    ]


def _spaced(made: Mapping[str, Contender], count: int, cold: int) -> dict[str, NDArray[np.float64]]:
    """Nanoseconds of `count` calls of each, one every `PERIOD`, by turns."""
    other = np.ones(cold // 8 or 1)
    taken: dict[str, list[int]] = {name: [] for name in made}
    due = time.monotonic()
    for _ in range(count):
        for name, contender in made.items():
            if cold:
                other.sum()
            due = max(due + PERIOD, time.monotonic())
            time.sleep(max(due - time.monotonic(), 0))
            begin = perf_counter_ns()
            contender.call()
            taken[name].append(perf_counter_ns() - begin)
    return {name: np.array(values, np.float64) for name, values in taken.items()}


def _silence(net: Net, names: Iterable[str], effort: Effort) -> dict[str, tuple[float, float]]:
    """Medians of a call with noise going in, and after silence."""
    remembering = Net(net.cell, net.inputs, net.hidden)
    for ((_, r, b, c),) in remembering.stack:
        r *= FORGET  # or what the state adds to itself would keep it alive
        b[:], c[:] = 0, 0
        b[net.hidden : 2 * net.hidden] = KEEP  # LSTM's f, GRU's z
    case = Case.of(remembering, "step")
    made, _ = contenders(case, names)
    noise = case.inputs(1)[0]
    with ExitStack() as stack:
        for contender in made.values():
            stack.enter_context(contender.within)
            contender.feed[:] = noise
        calls = {name: contender.call for name, contender in made.items()}
        lively = each(calls, effort)
        for contender in made.values():
            contender.feed[:] = 0
            for _ in range(SILENCE):
                contender.call()
        silent = each(calls, effort)
    return {name: (float(np.median(lively[name])), float(np.median(silent[name]))) for name in made}
