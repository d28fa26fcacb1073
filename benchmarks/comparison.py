"""What became slower since another run?

Two runs meet different machines, even on one machine. So a case counts as changed only if the middle halves of both its
times and its times against the limit, which is measured in the same rounds, lie apart, and by more than a few percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .figures import micro, rows
from .measuring import Measured
from .peers import OURS
from .results import Report

__all__ = ["Change", "compared", "comparison"]

#: Changes of less than this part are noise, however little they scatter.
LEAST = 0.05


@dataclass(frozen=True)
class Change:
    """One case in both runs.

    Attributes
    ----------
    before_ns, after_ns : (low, median, high)
        Our times: quartiles and median over rounds.
    machine : float
        The limit's time now ÷ then: how much slower the machine itself was.
    verdict : {"slower", "faster", ""}
    """

    key: str
    before_ns: tuple[float, float, float]
    after_ns: tuple[float, float, float]
    machine: float
    verdict: str

    @property
    def ratio(self) -> float:
        """Time now ÷ then."""
        return self.after_ns[1] / self.before_ns[1]


def compared(old: Mapping[str, Any], new: Report) -> list[Change]:
    """Cases that both runs have, in the order of the new one."""
    before = {_key(case): case for case in old["cases"]}
    return [_change(before[case.key], case) for case in new.cases if case.key in before]


def _key(case: Mapping[str, Any]) -> str:
    return f"{case['net']} {case['mode']} {case['frames']}×{case['rows']} {case['precision']} threads={case['threads']}"


def _change(old: Mapping[str, Any], new: Measured) -> Change:
    then, now = old["engines"][OURS]["ns"], new.engines[OURS].ns
    before = (then["low"], then["median"], then["high"])
    after = (now.low, now.median, now.high)
    machine, apart = 1.0, [_apart(before, after)]
    if old["limit"] is not None and new.limit is not None and new.reached is not None:
        machine = new.limit.median / old["limit"]["median"]
        reached = old["reached"]
        # Reached is limit ÷ time: turned over, it is a time.
        apart.append(
            _apart(
                (1 / reached["high"], 1 / reached["median"], 1 / reached["low"]),
                (1 / new.reached.high, 1 / new.reached.median, 1 / new.reached.low),
            )
        )
    verdict = apart[0] if len(set(apart)) == 1 else ""
    return Change(new.key, before, after, machine, verdict)


def _apart(before: Sequence[float], after: Sequence[float]) -> str:
    """Whether the middle halves lie apart, and which way."""
    if after[0] > before[2] and after[1] > before[1] * (1 + LEAST):
        return "slower"
    if after[2] < before[0] and after[1] < before[1] * (1 - LEAST):
        return "faster"
    return ""


def comparison(old: Mapping[str, Any], new: Report, changes: Sequence[Change]) -> str:
    """The changes as text: a table, what differs between the machines, and one line that sums up."""
    then, now = old["surroundings"], new.surroundings
    differing = [
        f"{name} {then[name]!r} then, {value!r} now"
        for name, value in (("processor", now.processor), ("isa", now.isa), ("cores", now.cores))
        if then[name] != value
    ]
    parts = [f"Now, {now.date}, against {then['date']}:"]
    if differing:
        parts.append(f"The machines differ: {'; '.join(differing)}. Times say little about gatestep then.")
    lines = [
        [
            change.key,
            _spread(change.before_ns),
            _spread(change.after_ns),
            f"{change.ratio - 1:+.0%}",
            f"{change.machine - 1:+.0%}",
            change.verdict,
        ]
        for change in sorted(changes, key=lambda change: -change.ratio)
    ]
    head = ["case", "then, µs", "now, µs", "change", "machine", ""]
    if lines:
        parts.append(rows(head, lines))
    slower = sum(change.verdict == "slower" for change in changes)
    faster = sum(change.verdict == "faster" for change in changes)
    parts.append(
        f"{len(changes)} cases in both runs: {slower} slower, {faster} faster. A change counts where the middle halves "
        f"of both the times and the times against the limit lie apart, by more than {LEAST:.0%}."
    )
    return "\n\n".join(parts) + "\n"


def _spread(ns: tuple[float, float, float]) -> str:
    return f"{micro(ns[1])} ({micro(ns[0])} to {micro(ns[2])})"
