"""One case, or one file: are results equal, how long does each contender take, and how far is that from the limit?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from .cells import Case
from .limits import Limits, reading
from .models import CARRIED, Own, Runner, cannot, runners, shape_of
from .peers import OURS, Contender, contenders, ours
from .timing import Effort, Rounds, Spread, Timed, each, rounds

__all__ = ["TOLERANCE", "Engine", "Measured", "differences", "measure", "measure_model"]

#: Largest difference from the definition that counts as equal, in float32 and with less: of a result between -1 and 1.
TOLERANCE = {False: 1e-4, True: 0.1}
#: Steps of which results are held to the definition: with less than float32, enough to see how far off they get.
STEPS = {False: 16, True: 64}
#: Calls whose results are compared before a file is timed, and the largest difference in float32 and with less, as part
#: of the largest value.
COMPARED, RELATIVE = 4, {False: 1e-3, True: 0.1}


@dataclass(frozen=True)
class Engine:
    """Nanoseconds per call of one contender, and how far its results are from the definition at the most.

    `p99_ns` is of calls timed one by one; only where a call is one frame.
    """

    ns: Spread
    p99_ns: float | None
    error: float


@dataclass(frozen=True)
class Measured:
    """One case.

    Attributes
    ----------
    engines : mapping
        By name, ours among them.
    ratios : mapping
        Peer's time ÷ ours, formed round by round.
    products : int
        Multiplications of a frame of one row; 0 where not known.
    weight_bytes : int
        Weights that a call reads at the least.
    limit : Spread, optional
        The limit, in nanoseconds.
    reached : Spread, optional
        Limit ÷ our time, formed round by round.
    absent : mapping
        Peers that have nothing for this case, and why.
    """

    net: str
    size: str
    mode: str
    frames: int
    rows: int
    precision: str
    threads: int
    products: int
    weight_bytes: int
    engines: Mapping[str, Engine]
    ratios: Mapping[str, Spread]
    limit: Spread | None
    reached: Spread | None
    absent: Mapping[str, str]

    @property
    def key(self) -> str:
        """What it is, for finding it in another run."""
        return f"{self.net} {self.mode} {self.frames}×{self.rows} {self.precision} threads={self.threads}"

    @property
    def fastest(self) -> str | None:
        """The peer that takes the least time."""
        peers = [name for name in self.ratios if not name.startswith(OURS)]
        return min(peers, key=lambda name: self.ratios[name].median, default=None)


def differences(case: Case, made: Mapping[str, Contender]) -> dict[str, float]:
    """How far the results of each are from the definition. All start from zero states and see the same frames."""
    calls = case.inputs(STEPS[case.reduced] if case.carried else 1)
    frames = calls.reshape(-1, *calls.shape[2:])
    expected = case.net.reference(frames).reshape(*calls.shape[:3], -1)
    worst = dict.fromkeys(made, 0.0)
    for x, y in zip(calls, expected, strict=True):
        for name, contender in made.items():
            contender.feed[:] = x
            contender.call()
            worst[name] = max(worst[name], float(np.abs(contender.result() - y).max()))
    return worst


def measure(cases: Sequence[Case], names: Iterable[str], effort: Effort) -> list[Measured]:
    """Time ours at the precision of every case, the peers `names` and the limits, all by turns.

    Parameters
    ----------
    cases : sequence of Case
        Differ in precision alone; one is float32 only if it is the only one.
    names : iterable of str
    effort : Effort

    Returns
    -------
    list of Measured
        One for each case, from the same rounds.

    Raises
    ------
    ArithmeticError
        A result is not what the net computes: then its time means nothing.
    """
    first = cases[0]
    made, absent = contenders(first, names)
    made = {_named(first) if name == OURS else name: contender for name, contender in made.items()}
    made |= {_named(case): ours(case) for case in cases[1:]}
    bounds = [Limits(case) for case in cases]
    tails: dict[str, float] = {}
    with ExitStack() as stack:
        for contender in made.values():
            stack.enter_context(contender.within)
        errors = differences(first, made)
        wrong = {name: error for name, error in errors.items() if not error <= TOLERANCE[first.reduced]}
        if wrong:
            raise ArithmeticError(f"{first}: results differ from the definition: {wrong}")
        timed = rounds(
            {
                **{name: contender.timed for name, contender in made.items()},
                **{f"{b.case.precision} {name}": loop for b in bounds for name, loop in b.contenders.items()},
            },
            effort,
            first.threads,
        )
        if first.carried:
            single = each({name: contender.call for name, contender in made.items()}, effort, first.threads)
            tails = {name: float(np.percentile(ns, 99)) for name, ns in single.items()}
    engines = {name: Engine(Spread.of(timed.ns[name]), tails.get(name), errors[name]) for name in made}
    return [_seen_from(bound, engines, timed, absent) for bound in bounds]


def _named(case: Case) -> str:
    """What we are called among ourselves."""
    return f"{OURS} {case.precision}" if case.reduced else OURS


def _seen_from(bound: Limits, engines: Mapping[str, Engine], timed: Rounds, absent: Mapping[str, str]) -> Measured:
    """One of the cases that took turns."""
    case, own = bound.case, _named(bound.case)
    limit = bound.ns(Rounds({name: timed.ns[f"{case.precision} {name}"] for name in bound.contenders}))
    others = {name: engine for name, engine in engines.items() if name != own}
    return Measured(
        str(case.net),
        case.net.size,
        case.mode,
        case.frames,
        case.rows,
        case.precision,
        case.threads,
        sum(case.net.products),
        bound.nbytes,
        {OURS: engines[own], **others},
        {name: Spread.of(timed.ns[name] / timed.ns[own]) for name in others},
        Spread.of(limit) if bound.known else None,
        Spread.of(limit / timed.ns[own]) if bound.known else None,
        absent,
    )


def measure_model(own: Own, mode: str, names: Iterable[str], effort: Effort) -> Measured:
    """Time a file by turns: ours and the peers that run it, with the results that we have."""
    mode, frames, rows = shape = shape_of(own, mode)
    made, absent = runners(own, shape, names)
    errors, wrong = _compared(made, own.baseline or OURS, RELATIVE[own.reduced])
    absent |= wrong
    made = {name: runner for name, runner in made.items() if name not in wrong}
    weight_bytes = own.model.packed.nbytes
    contending: dict[str, Timed] = {name: runner.timed for name, runner in made.items()}
    bounded, carried = mode == "step" and weight_bytes > 0, mode in CARRIED
    if bounded:
        contending["read"] = reading(weight_bytes)
    timed = rounds(contending, effort, own.threads)
    tails = each({name: runner.advance for name, runner in made.items()}, effort, own.threads) if carried else {}
    return Measured(
        own.name,
        "",
        mode,
        frames,
        rows,
        own.model.precision,
        own.threads,
        0,
        weight_bytes,
        {
            name: Engine(
                Spread.of(timed.ns[name]),
                float(np.percentile(tails[name], 99)) if name in tails else None,
                errors[name],
            )
            for name in made
        },
        {name: Spread.of(timed.ns[name] / timed.ns[OURS]) for name in made if name != OURS},
        Spread.of(timed.ns["read"]) if bounded else None,
        Spread.of(timed.ns["read"] / timed.ns[OURS]) if bounded else None,
        absent,
    )


def _compared(made: Mapping[str, Runner], held: str, allowed: float) -> tuple[dict[str, float], dict[str, str]]:
    """How far results are from those of `held`, ÷ the largest of these or 1, and what is wrong with which peers."""
    errors, wrong = dict.fromkeys(made, 0.0), {}
    for _ in range(COMPARED):
        results = {}
        for name, runner in made.items():
            try:
                results[name] = runner.advance()
            except Exception as error:  # other engines' errors have no class in common
                if name.startswith(OURS):
                    raise
                wrong[name] = cannot(error)
        for key, expected in results[held].items():
            largest = float(np.abs(expected).max(initial=1.0))
            for name, given in results.items():
                if key in given:
                    difference = np.abs(np.reshape(given[key], -1) - np.reshape(expected, -1).astype(np.float64))
                    errors[name] = max(errors[name], float(difference.max(initial=0.0)) / largest)
    for name, far in errors.items():
        if not (far <= allowed or name.startswith(OURS)):
            wrong[name] = f"gives other results: they differ by {far:.2g}"
    return errors, wrong
