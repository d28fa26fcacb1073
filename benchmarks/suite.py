"""A run of the suite: what the options ask for, measured and written."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

import gatestep

from . import allocations, claims, cold, footprint, growth, limits, loading, measuring, pictures, tails
from . import tables as text
from .cells import MODES, Case, Net, grid
from .comparison import compared, comparison
from .models import Own
from .page import page
from .peers import OURS, available
from .progress import Progress
from .results import Report, Surroundings, read_json, to_json
from .tables import END, START
from .timing import Effort

__all__ = ["FULL", "QUICK", "alone", "run", "write_readme"]

FULL = Effort()
QUICK = Effort(seconds=0.05, least=5, tail=1000)
#: The net whose tails are looked at.
TAILED = Net("lstm", 40, 64)
#: Read by the libraries when they are loaded.
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


def alone() -> None:
    """Start this process again if NumPy and its BLAS were loaded with as many threads as they found cores.

    Engines whose threads are asked for get them by their own settings.
    """
    wanted = dict.fromkeys(VARIABLES, "1")
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **wanted})


def run(options: argparse.Namespace, own: Iterable[Own] = ()) -> int:
    """Measure, and write what was asked for; returns the exit code.

    Parameters
    ----------
    options : Namespace
        As `options.add_options` makes them.
    own : iterable of Own
        The user's file at every precision and number of threads, instead of the grid.

    Raises
    ------
    OSError, ValueError
        A file cannot be written, or read for comparison; says which.
    """
    old = read_json(options.compare) if options.compare is not None else None
    for path in (options.json, options.markdown, options.html, options.plot, options.readme):
        if path is not None and not path.parent.is_dir():
            raise FileNotFoundError(2, "there is no such folder", str(path.parent))
    made = measured(options, list(own))
    if options.json is not None:
        options.json.write_text(to_json(made))
    if options.markdown is not None and str(options.markdown) != "-":
        options.markdown.write_text(text.markdown(made))
    if options.plot is not None:
        pictures.save(made, options.plot)
    if options.html is not None:
        options.html.write_text(page(made, pictures.figures(made)), encoding="utf-8")
    if options.readme is not None:
        write_readme(options.readme, text.readme(made))
    written = (options.json, options.html, options.plot, options.readme, options.compare)
    if str(options.markdown) == "-" or not any((*written, options.markdown)):
        print(text.markdown(made), end="")
    if old is None:
        return 0
    changes = compared(old, made)
    print(comparison(old, made, changes), end="")
    return int(options.fail_if_slower and any(change.verdict == "slower" for change in changes))


def measured(options: argparse.Namespace, own: list[Own]) -> Report:
    """Everything that the options ask for."""
    effort = QUICK if options.quick else FULL
    versions, skipped = available(options.peers)
    base = {OURS: gatestep.__version__, "numpy": np.__version__}
    report = Report(Surroundings.here({**base, **versions}), skipped)
    parts = [part for part in options.parts if not own or part == "grid"]
    nets = [] if own else list(grid(options.cells, options.sizes, options.nets))
    cases = list(_cases(nets, options)) if "grid" in parts else []
    single = [net for net in nets if net.layers == net.directions == 1 and not net.outputs and "kernels" in parts]
    if "claims" in parts:
        cases += claims.cases(cases)
        single += [net for net in claims.KERNELS if net not in single]
    jobs = len(own) * len(MODES) + len(cases) + len(single) + len(set(parts) - {"grid", "kernels"}) + bool(cases)
    progress = Progress(jobs)
    for name, why in skipped.items():
        progress.note(f"{name} is skipped: {why}")
    if cases:
        with progress.step("this machine"):
            report.ceiling = limits.ceiling(effort, limits.SETS[::4] if options.quick else limits.SETS)
    for model in own:
        for mode in MODES:
            if mode in options.modes:
                with progress.step(f"{model.name} {mode}"):
                    _measure_model(report, model, mode, versions, effort)
    for together in cases:
        with progress.step(f"{together[0].net} {together[0].mode}"):
            report.cases += measuring.measure(together, versions, effort)
    for net in single:
        with progress.step(f"{net} kernel"):
            report.kernels.append(limits.kernel(net, effort))
    _others(report, options, parts, versions, effort, progress)
    progress.close()
    return report


def _cases(nets: Iterable[Net], options: argparse.Namespace) -> Iterator[list[Case]]:
    """The grid, at every precision and number of threads; what is less than float32 together."""
    reduced = [precision for precision in options.precision if precision != "float32"]
    for net in nets:
        for mode in options.modes:
            if net.states or mode in ("sequence", "batch"):
                for threads in options.threads:
                    for tiers in (["float32"] if "float32" in options.precision else [], reduced):
                        if tiers:
                            yield [Case.of(net, mode, tier, threads) for tier in tiers]


def _measure_model(report: Report, model: Own, mode: str, names: Iterable[str], effort: Effort) -> None:
    """A way in which the file cannot be called is left out with a line."""
    try:
        report.cases.append(measuring.measure_model(model, mode, names, effort))
    except gatestep.GatestepError as error:
        report.skipped[f"{model.name} {mode}"] = str(error)


def _others(
    report: Report,
    options: argparse.Namespace,
    parts: Iterable[str],
    versions: dict[str, str],
    effort: Effort,
    progress: Progress,
) -> None:
    """What is not about single cases."""
    quick = options.quick
    if "tails" in parts:
        with progress.step("tails"):
            amount = tails.Amount(2000, 5) if quick else tails.Amount()
            report.tails[str(TAILED)] = tails.measure(TAILED, versions, effort, amount)
    axes = list(growth.GROWTHS) if "growth" in parts else ["rows"] if "claims" in parts else []
    if axes:
        with progress.step("growth"):
            report.growth = [growth.measure(axis, effort, quick) for axis in axes]
    if "process" in parts or "claims" in parts:
        with progress.step("fresh processes"):
            report.cold = cold.measure(versions, 3 if quick else 15)
    if "process" in parts:
        report.installed = footprint.installed([OURS, *versions])
        with progress.step("requests for memory"):
            try:
                report.allocations = allocations.measure(1000 if quick else 10_000)
            except OSError as error:
                report.skipped["allocations"] = str(error)
    if "loading" in parts:
        with progress.step("loading"):
            try:
                report.loading += loading.sources(options.files, 1 if quick else 5)
            except OSError as error:
                report.skipped["loading"] = str(error)


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
