"""Results as JSON, as Markdown, as a picture, and between two markers of a README."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..kernels import isa
from .bounds import Bound
from .cells import MODES
from .cold import Cold
from .loading import MORE, TIMES, Loaded
from .peers import OURS, Measured

__all__ = ["Report", "Surroundings", "markdown", "plot", "to_json", "write_readme"]

#: Of the JSON: counts up when a field changes its meaning or goes.
SCHEMA = 1
START, END = "<!-- bench:start -->", "<!-- bench:end -->"
#: Files in the table of loading.
LARGEST = 12
TITLES = {
    "step": "One frame per call, state carried",
    "sequence": "A recording of {frames} frames per call",
    "batch": "{rows} recordings of {frames} frames per call",
}


@dataclass(frozen=True)
class Surroundings:
    """Where and when it was measured."""

    date: str
    processor: str
    cores: int
    load: float
    system: str
    isa: str
    versions: Mapping[str, str]

    @classmethod
    def here(cls, versions: Mapping[str, str]) -> Surroundings:
        """Here and now. `load` is the mean number of processes that wanted to run, over the last minute."""
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan
        return cls(
            time.strftime("%Y-%m-%d"),
            _processor(),
            os.cpu_count() or 1,
            round(load, 2),
            f"{platform.system()} {platform.machine()}",
            isa,
            {"python": platform.python_version(), **versions},
        )


@dataclass
class Report:
    """Everything that one run of the suite found out.

    Attributes
    ----------
    skipped : dict
        What was not measured, and why.
    """

    surroundings: Surroundings
    skipped: dict[str, str] = field(default_factory=dict)
    bounds: list[Bound] = field(default_factory=list)
    cases: list[Measured] = field(default_factory=list)
    allocations: dict[str, float] | None = None
    cold: Cold | None = None
    loading: list[Loaded] = field(default_factory=list)


def to_json(report: Report) -> str:
    """Every figure, times in nanoseconds unless the name says otherwise."""
    return json.dumps({"schema": SCHEMA, **asdict(report)}, indent=1) + "\n"


def markdown(report: Report) -> str:
    """Tables, and a line on what they were measured with."""
    where = report.surroundings
    versions = ", ".join(f"{name} {version}" for name, version in where.versions.items())
    parts = [
        f"Measured on {where.date}: {where.processor}, {where.system}, {where.isa}, one thread, float32; {versions}. "
        "Medians in µs; behind a peer's time, how many times ours it is (median over rounds in which all take turns). "
        "The peers' results were checked to be equal to ours.",
    ]
    if where.load > 1:
        parts.append(
            f"The machine was busy: {where.load:.1f} other processes wanted its {where.cores} cores. The times are too "
            "long, the 99th percentiles far too long; ratios of short calls suffer least."
        )
    for cell in dict.fromkeys(case.cell for case in report.cases):
        for mode in MODES:
            cases = [case for case in report.cases if (case.cell, case.mode) == (cell, mode)]
            if cases:
                title = TITLES[mode].format(frames=cases[0].frames, rows=cases[0].rows)
                parts += [f"**{cell.upper()}.** {title}:", _table(cases, report.bounds)]
    if report.cases and report.bounds:
        parts.append(
            "*of the limit*: the time that a plain loop takes to read the packed weights once ÷ the kernel's time. "
            "What lies in the first-level cache is read faster than products and activations can follow one another. "
            "Where weights overflow a cache, the kernel may beat the loop, for it reads them to and fro."
        )
    elif report.bounds:
        parts.append(_bounds_table(report.bounds))
    if report.loading:
        parts += ["**Loading** in a fresh process, imports not counted:", _loading_table(report.loading)]
    facts = list(_facts(report))
    if facts:
        parts.append("\n".join(f"- {fact}" for fact in facts))
    return "\n\n".join(parts) + "\n"


def _facts(report: Report) -> list[str]:
    """Single figures, one sentence each."""
    facts = []
    if report.bounds:
        least = min(report.bounds, key=lambda bound: bound.packed_bytes)
        facts.append(
            f"`stream.step(x, out)` adds {least.overhead_out_ns:.0f} ns to the kernel, `stream.step(x)` "
            f"{least.overhead_new_ns:.0f} ns ({_name(least)})."
        )
    if report.allocations is not None:
        counts = [count for name, count in report.allocations.items() if name.endswith("step(x, out)")]
        facts.append(f"`stream.step(x, out)` asks for memory {max(counts):g} times (every `malloc` counted).")
    if report.cold is not None:
        cold = report.cold
        started = [f"{name} {ms:.0f} ms" for name, ms in cold.first_frame_ms.items() if name not in ("python", "numpy")]
        facts += [
            f"`import gatestep` adds {cold.import_ms:.0f} ms to `import numpy` ({cold.import_cpu_ms:.0f} ms of work).",
            f"A fresh process that loads an ONNX file and computes one frame: {', '.join(started)}; one that only "
            f"imports NumPy: {cold.first_frame_ms['numpy']:.0f} ms.",
        ]
    if report.loading:
        over = [loaded.name for loaded in report.loading if loaded.peak_bytes > loaded.limit_bytes]
        facts.append(
            f"Peak memory while loading is within {TIMES} times the file and {MORE // 10**6} MB for "
            f"{len(report.loading) - len(over)} of {len(report.loading)} files{': not for ' if over else ''}"
            f"{', '.join(over)}."
        )
    facts += [f"{name} was skipped: {why}." for name, why in report.skipped.items()]
    return facts


def _name(of: Bound | Measured) -> str:
    return f"{of.cell.upper()} {of.inputs}→{of.hidden}"


def _table(cases: Sequence[Measured], bounds: Sequence[Bound]) -> str:
    """One line per size."""
    peers = list(dict.fromkeys(name for case in cases for name in case.engines if name != OURS))
    reached = {(b.cell, b.inputs, b.hidden): 1 / b.kernel_over_read for b in bounds}
    steps = cases[0].mode == "step"
    head = ["size", OURS, *(["p99"] if steps else []), *peers, *(["of the limit"] if steps and reached else [])]
    lines = []
    for case in cases:
        own = case.engines[OURS]
        line = [f"{case.inputs}→{case.hidden}", f"**{_micro(own.median_ns)}**"]
        if steps:
            line.append(_micro(own.p99_ns))
        for name in peers:
            latency = case.engines.get(name)
            line.append("" if latency is None else f"{_micro(latency.median_ns)} ({_ratio(case.ratios[name])})")
        if steps and reached:
            fraction = reached.get((case.cell, case.inputs, case.hidden))
            line.append("" if fraction is None else f"{fraction:.0%}")
        lines.append(line)
    return _rows(head, lines)


def _bounds_table(bounds: Sequence[Bound]) -> str:
    """The kernels alone, where nothing else was measured."""
    head = ["size", "packed KiB", "read µs", "kernel µs", "kernel ÷ read", "step(x, out) ns more", "step(x) ns more"]
    lines = [
        [
            _name(bound),
            f"{bound.packed_bytes / 1024:.0f}",
            _micro(bound.read_ns),
            _micro(bound.kernel_ns),
            f"{bound.kernel_over_read:.2f}",
            f"{bound.overhead_out_ns:.0f}",
            f"{bound.overhead_new_ns:.0f}",
        ]
        for bound in bounds
    ]
    return _rows(head, lines)


def _loading_table(loading: Sequence[Loaded]) -> str:
    """The largest files; every one is in the JSON."""
    head = ["model", "format", "file MB", "load ms", "peak MB", "of the file", "of the limit"]
    lines = [
        [
            loaded.name,
            loaded.format,
            f"{loaded.file_bytes / 1e6:.2f}",
            "refused" if loaded.refused else f"{loaded.load_ms:.0f}",
            f"{loaded.peak_bytes / 1e6:.1f}",
            f"{loaded.peak_bytes / loaded.file_bytes:.1f}×",
            f"{loaded.peak_bytes / loaded.limit_bytes:.0%}",
        ]
        for loaded in sorted(loading, key=lambda loaded: -loaded.file_bytes)[:LARGEST]
    ]
    return _rows(head, lines)


def _rows(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def _micro(ns: float | None) -> str:
    """Nanoseconds as µs with three digits, whole ones from 100 on."""
    if ns is None:
        return ""
    us = ns / 1e3
    return f"{us:,.0f}" if us >= 100 else f"{us:.{2 if us < 10 else 1}f}" if us >= 1 else f"{us:.3f}"


def _ratio(ratio: float) -> str:
    return f"{ratio:.0f}×" if ratio >= 10 else f"{ratio:.1f}×" if ratio >= 2 else f"{ratio:.2f}×"


def write_readme(path: Path, text: str) -> None:
    """Put `text` between the markers, and leave everything else as it is.

    Raises
    ------
    ValueError
        The file does not have each marker once, in order.
    """
    old = path.read_bytes().decode()
    if old.count(START) != 1 or old.count(END) != 1 or old.index(START) > old.index(END):
        raise ValueError(f"{path} must have one line {START} and, below it, one line {END}")
    before, _, rest = old.partition(START)
    _, _, after = rest.partition(END)
    path.write_bytes(f"{before}{START}\n{text.strip()}\n{END}{after}".encode())


def plot(report: Report, path: Path) -> None:
    """Latency of a step against the size of the weights, ours, the peers' and the limit."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cells = list(dict.fromkeys(case.cell for case in report.cases if case.mode == "step"))
    if not cells:
        raise ValueError("a plot needs steps among the modes")
    figure, panels = pyplot.subplots(1, len(cells), figsize=(5.2 * len(cells), 4), sharey=True, squeeze=False)
    for panel, cell in zip(panels[0], cells, strict=True):
        cases = [case for case in report.cases if (case.cell, case.mode) == (cell, "step")]
        sizes = [f"{case.inputs}→{case.hidden}" for case in cases]
        for name in dict.fromkeys(name for case in cases for name in case.engines):
            values = [case.engines[name].median_ns / 1e3 if name in case.engines else math.nan for case in cases]
            panel.plot(sizes, values, "o-", label=name, linewidth=2.5 if name == OURS else 1.2)
        reads: dict[str, Any] = {f"{b.inputs}→{b.hidden}": b.read_ns / 1e3 for b in report.bounds if b.cell == cell}
        if reads:
            limits = [reads.get(size, math.nan) for size in sizes]
            panel.plot(sizes, limits, "k--", label="reading the weights once", linewidth=1)
        panel.set(title=f"{cell.upper()}, one step", yscale="log", xlabel="input→hidden size")
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("µs per step (median)")
    panels[0][-1].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=144)
    pyplot.close(figure)


def _processor() -> str:
    """The processor's name, as the system has it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    return platform.processor() or platform.machine()
