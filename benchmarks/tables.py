"""Results as Markdown: every table of a run, and the few that the README shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from .claims import answers, no_less_exact
from .figures import megabytes, micro, rows, times
from .loading import MORE, TIMES
from .measuring import Measured
from .peers import OURS
from .results import Report

__all__ = [
    "AIMED",
    "END",
    "LIMIT",
    "START",
    "TITLES",
    "Table",
    "answered",
    "facts",
    "grouped",
    "markdown",
    "readme",
    "tables",
]

START, END = "<!-- bench:start -->", "<!-- bench:end -->"
#: Files in the table of loading.
LARGEST = 12
TITLES = {
    "step": "One frame per call, state carried",
    "sequence": "A recording of {frames} frames per call",
    "batch": "{rows} recordings of {frames} frames per call",
    "lockstep": "One frame of {rows} streams per call",
    "call": "One call in the file's own shapes",
}

#: Title, heads of the columns, lines.
Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]


# ---------------------------------------------------------------------- tables
def grouped(cases: Iterable[Measured]) -> list[tuple[str, list[Measured]]]:
    """Cases of one kind of net called in one way, with a title; those with smaller weights together."""

    def kind(case: Measured) -> tuple[str, bool, int, str]:
        return case.mode, case.precision != "float32", case.threads, case.net.split()[0] if case.size else "file"

    held = list(cases)
    nets = list(dict.fromkeys(kind(case)[3] for case in held))

    def order(case: Measured) -> tuple[Any, ...]:
        mode, reduced, threads, net = kind(case)
        return reduced, threads, list(TITLES).index(mode), nets.index(net)

    made = []
    for (mode, reduced, threads, net), group in groupby(sorted(held, key=order), key=kind):
        members = list(group)
        title = TITLES[mode].format(frames=members[0].frames, rows=members[0].rows)
        named = title if net == "file" else f"{net}. {title}"
        made.append((", ".join([named, *_unusual(reduced, threads)]), members))
    return made


def _unusual(reduced: bool, threads: int) -> list[str]:
    """What a title has to say of these."""
    return [*(["smaller weights"] if reduced else []), *([f"{threads} threads"] if threads > 1 else [])]


def tables(report: Report) -> list[Table]:
    """Every table of a run."""
    made = [
        (_cases if cases[0].precision == "float32" else _smaller)(title, cases)
        for title, cases in grouped(report.cases)
    ]
    if report.kernels:
        made.append(_kernels(report))
    for net, tails in report.tails.items():
        head = ["", "p50", "p99", "p99.9", "p99.99", "max", "every 10 ms", "cold caches", "after silence"]
        lines = [
            [
                tail.name,
                *(micro(tail.percentiles[q]) for q in ("50", "99", "99.9", "99.99", "100")),
                micro(tail.spaced_ns),
                micro(tail.cold_ns),
                times(tail.silent_ns / tail.lively_ns),
            ]
            for tail in tails
        ]
        made.append((f"{net}. {tails[0].steps:,} steps timed one by one, in µs", head, lines))
    for growth in report.growth:
        lines = [[str(p.value), micro(p.ns.median), micro(p.limit_ns), f"{p.reached:.0%}"] for p in growth.points]
        made.append((f"{growth.net}. How a step grows, in µs", [growth.axis, OURS, "limit", "of the limit"], lines))
    if report.cold is not None:
        lines = [
            [
                name,
                f"{s.median_ms:.0f}",
                f"{s.low_ms:.0f} to {s.high_ms:.0f}",
                f"{s.over_numpy_ms:+.0f}",
                megabytes(s.peak_bytes),
            ]
            for name, s in report.cold.first_frame.items()
        ]
        head = ["", "ms", "middle half", "more than NumPy", "peak MB"]
        made.append(("A fresh process, to its first output", head, lines))
    if report.installed:
        lines = [[name, megabytes(own), megabytes(full)] for name, (own, full) in report.installed.items()]
        made.append(("On the disk, in MB", ["", "itself", "with what it requires"], lines))
    if report.loading:
        made.append(_loading(report))
    return made


def _cases(title: str, cases: Sequence[Measured]) -> Table:
    """One line per net."""
    peers = list(dict.fromkeys(name for case in cases for name in case.engines if name != OURS))
    carried = cases[0].mode == "step"
    bounded = any(case.reached is not None for case in cases)
    head = ["size" if cases[0].size else "file", OURS]
    head += [*(["p99"] if carried else []), *(["limit", "of the limit"] if bounded else []), *peers]
    lines = []
    for case in cases:
        own = case.engines[OURS]
        line = [_line_of(case), f"**{micro(own.ns.median)}**", *([micro(own.p99_ns)] if carried else [])]
        if bounded:
            line += [
                micro(None if case.limit is None else case.limit.median),
                "" if case.reached is None else f"{case.reached.median:.0%}",
            ]
        for name in peers:
            engine = case.engines.get(name)
            line.append("" if engine is None else f"{micro(engine.ns.median)} ({times(case.ratios[name].median)})")
        lines.append(line)
    return title, head, lines


def _smaller(title: str, cases: Sequence[Measured]) -> Table:
    """One line per net, one column per tier; peers are held to the fastest tier that is no less exact."""
    tiers = list(dict.fromkeys(case.precision for case in cases))
    own = {f"{OURS} {tier}" for tier in tiers}
    others = list(dict.fromkeys(name for case in cases for name in case.engines if name != OURS and name not in own))
    lines = []
    for named in dict.fromkeys(_line_of(case) for case in cases):
        members = {case.precision: case for case in cases if _line_of(case) == named}
        line = [named]
        for tier in tiers:
            case = members.get(tier)
            line.append("" if case is None else f"**{micro(case.engines[OURS].ns.median)}** ({_exact(case)})")
        for name in others:
            held = [case for case in members.values() if name in case.engines]
            if held:
                fair = no_less_exact(held, name)
                engine, ratio = fair.engines[name], fair.ratios[name].median
                line.append(f"{micro(engine.ns.median)} ({times(ratio)}, {engine.error:.1e})")
            else:
                line.append("")
        lines.append(line)
    head = ["size" if cases[0].size else "file", *(f"{OURS} {tier}" for tier in tiers), *others]
    return f"{title} (largest error, of the limit)", head, lines


def _line_of(case: Measured) -> str:
    """What the line of a case begins with, in a table of nets of one kind."""
    return case.net.split(maxsplit=1)[1] if case.size else case.net


def _exact(case: Measured) -> str:
    reached = "" if case.reached is None else f", {case.reached.median:.0%}"
    return f"{case.engines[OURS].error:.1e}{reached}"


def _kernels(report: Report) -> Table:
    head = ["net", "packed KiB", "read µs", "kernel µs", "kernel ÷ read", "step(x, out) ns more", "step(x) ns more"]
    lines = [
        [
            kernel.net,
            f"{kernel.packed_bytes / 1024:.0f}",
            micro(kernel.read_ns),
            micro(kernel.kernel_ns),
            f"{kernel.kernel_over_read:.2f}",
            f"{kernel.overhead_out_ns:.0f}",
            f"{kernel.overhead_new_ns:.0f}",
        ]
        for kernel in report.kernels
    ]
    return "The kernel of a step, called from C, and what the call from Python adds", head, lines


def _loading(report: Report) -> Table:
    """The largest files; every one is in the JSON."""
    head = ["model", "format", "file MB", "load ms", "peak MB", "of the file", "of the limit"]
    lines = [
        [
            loaded.name,
            loaded.format,
            f"{loaded.file_bytes / 1e6:.2f}",
            "refused" if loaded.refused else f"{loaded.load_ms:.0f}",
            f"{loaded.peak_bytes / 1e6:.1f}",
            times(loaded.peak_bytes / loaded.file_bytes),
            f"{loaded.peak_bytes / loaded.limit_bytes:.0%}",
        ]
        for loaded in sorted(report.loading, key=lambda loaded: -loaded.file_bytes)[:LARGEST]
    ]
    return "Loading in a fresh process, imports not counted", head, lines


# ---------------------------------------------------------------------- sentences
def facts(report: Report) -> list[str]:
    """Single figures, one sentence each."""
    made = []
    if report.kernels:
        least = min(report.kernels, key=lambda kernel: kernel.packed_bytes)
        made.append(
            f"`stream.step(x, out)` adds {least.overhead_out_ns:.0f} ns to the kernel, `stream.step(x)` "
            f"{least.overhead_new_ns:.0f} ns ({least.net})."
        )
    counts = [count for name, count in report.allocations.items() if name.endswith("step(x, out)")]
    if counts:
        made.append(f"`stream.step(x, out)` asks for memory {max(counts):g} times (every `malloc` counted).")
    if report.cold is not None:
        cold = report.cold
        skip = ("python", "numpy")
        started = [f"{name} {start.median_ms:.0f} ms" for name, start in cold.first_frame.items() if name not in skip]
        made += [
            f"A fresh process, up to its first output: {', '.join(started)}; one that only imports NumPy: "
            f"{cold.first_frame['numpy'].median_ms:.0f} ms.",
            f"`import gatestep` adds {cold.import_ms:.0f} ms to `import numpy` ({cold.import_cpu_ms:.0f} ms of work).",
        ]
    if report.installed:
        sizes = [f"{name} {megabytes(full)}" for name, (_, full) in report.installed.items()]
        made.append(f"On the disk, with what each requires, in MB: {', '.join(sizes)}.")
    if report.loading:
        over = [loaded.name for loaded in report.loading if loaded.peak_bytes > loaded.limit_bytes]
        made.append(
            f"Peak memory while loading is within {TIMES} times the file and {MORE // 10**6} MB for "
            f"{len(report.loading) - len(over)} of {len(report.loading)} files{': not for ' if over else ''}"
            f"{', '.join(over)}."
        )
    made += [f"{name} was skipped: {why}." for name, why in report.skipped.items()]
    absent: dict[str, list[str]] = {}
    for name, why in dict.fromkeys(item for case in report.cases for item in case.absent.items()):
        absent.setdefault(why, []).append(name)
    return made + [f"{', '.join(names)}: {why}." for why, names in absent.items()]


def preamble(report: Report) -> list[str]:
    """Where it was measured, and how to read the figures."""
    where = report.surroundings
    versions = ", ".join(f"{name} {version}" for name, version in where.versions.items())
    made = [f"Measured on {where.date}: {where.processor}, {where.system}, {where.isa}; {versions}."]
    if report.cases:
        made[0] += (
            " One thread and float32 unless said otherwise. Medians in µs; behind a peer's time, how many times ours "
            "it is (median over rounds in which all take turns). Every result was checked first."
        )
    if where.load > 1:
        made.append(
            f"The machine was busy: {where.load:.1f} other processes wanted its {where.cores} cores. Times are too "
            "long, tails far too long; ratios of short calls suffer least."
        )
    return made


LIMIT = (
    "*of the limit*: the time that plain loops on this machine take to read the weights once per frame, or for all "
    "products and sums where that is more, ÷ our time. What lies in the first-level cache is read faster than "
    "activations can be computed. Where weights overflow a cache, a kernel may beat the loop, for it reads to and fro."
)
SMALLER = (
    "*Smaller weights*: the tier and its largest error. Nets of few weights stay float32 in every tier, which is as "
    "fast there, and exact."
)


def markdown(report: Report) -> str:
    """Everything."""
    parts = [
        "# Figures",
        "Written by `gatestep bench`; docs/benchmarks.md says how each is made.",
        *preamble(report),
    ]
    said = facts(report)
    if said:
        parts.append("\n".join(f"- {fact}" for fact in said))
    made = answered(report)
    if made:
        parts += ["## What was to be reached", AIMED, *map(_table, made)]
    parts += ["## Every figure", *map(_table, tables(report))]
    if any(case.reached is not None for case in report.cases):
        parts.append(LIMIT)
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    title, head, lines = table
    return f"**{title}**\n\n{rows(head, lines)}"


def readme(report: Report) -> str:
    """What one wants to know in ten seconds: a frame, ours and the fastest peer; the rest in a few sentences."""
    parts = preamble(report)
    lines = [
        [net, *_summary(tiers["float32"]), *_summary(tiers["smaller"], limited=False)]
        for net, tiers in _steps(report.cases).items()
    ]
    if lines:
        smaller = ["smaller weights", "fastest peer"]
        shown = any(line[4] for line in lines)
        head = ["", "float32", "of the limit", "fastest peer", *(smaller if shown else [])]
        parts += [_table(("One frame per call, state carried", head, [line[: len(head)] for line in lines])), LIMIT]
        parts += [SMALLER] if shown else []
    said = [*_ranges(report.cases), *facts(report)]
    if said:
        parts.append("\n".join(f"- {fact}" for fact in said))
    return "\n\n".join(parts) + "\n"


def _steps(cases: Iterable[Measured]) -> dict[str, dict[str, list[Measured]]]:
    """Steps on one thread by net, those in float32 apart from those with smaller weights; of all but RNNs."""
    made: dict[str, dict[str, list[Measured]]] = {}
    for case in cases:
        if case.mode == "step" and case.threads == 1 and not case.net.startswith("RNN"):
            held = made.setdefault(case.net, {"float32": [], "smaller": []})
            held["float32" if case.precision == "float32" else "smaller"].append(case)
    return made


def _summary(tiers: Sequence[Measured], limited: bool = True) -> list[str]:
    """One net: ours, at which part of the limit, and the fastest peer; with smaller weights as exact as the peer."""
    if not tiers:
        return [""] * (2 + limited)
    peer = tiers[0].fastest
    case = tiers[0] if peer is None else no_less_exact(tiers, peer)
    reduced = case.precision != "float32"
    exact = f" {case.precision}, {case.engines[OURS].error:.1e}" if reduced else ""
    made = [f"**{micro(case.engines[OURS].ns.median)}**{exact}"]
    if limited:
        made.append("" if case.reached is None else f"{case.reached.median:.0%}")
    if peer is None:
        return [*made, ""]
    engine, ratio = case.engines[peer], times(case.ratios[peer].median)
    held = f"{ratio}, {engine.error:.1e}" if reduced else ratio
    return [*made, f"{peer} {micro(engine.ns.median)} ({held})"]


def _ranges(cases: Iterable[Measured]) -> Iterator[str]:
    """How far ahead of the fastest peer, by how a net is called."""
    held = [case for case in cases if case.precision == "float32" and case.mode != "step" and case.fastest is not None]
    for mode, threads in dict.fromkeys((case.mode, case.threads) for case in held):
        members = [case for case in held if (case.mode, case.threads) == (mode, threads)]
        ratios = sorted((case.ratios[case.fastest].median, case.net) for case in members if case.fastest is not None)
        title = TITLES[mode].format(frames=members[0].frames, rows=members[0].rows)
        shared = f", {threads} threads" if threads > 1 else ""
        (least, slow), (most, fast) = ratios[0], ratios[-1]
        many = f"{times(least)} ({slow}) to {times(most)} ({fast})" if len(ratios) > 1 else f"{times(least)} ({slow})"
        yield f"{title}{shared}: the fastest peer takes {many} as long."


AIMED = (
    "*At the limit*: what would be reached if ours took the time of the limit in the same rounds. An aim beyond that "
    "is none for kernels on this machine."
)


def answered(report: Report) -> list[Table]:
    """What gatestep means to reach, and what came out."""
    head = ["", OURS, "against", "reached", "at the limit", "aim", ""]
    made: list[Table] = []
    for about, group in groupby(answers(report), key=lambda answer: answer.about):
        lines = [[a.what, a.ours, a.other, a.figure, a.limit, a.aim, "yes" if a.reached else "no"] for a in group]
        made.append((about, head, lines))
    return made
