"""The command: ``python -m gatestep.benchmarks``."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import gatestep

from . import allocations, bounds, cold, loading, peers, report
from .cells import CELLS, MODES, SIZES, Case, Layer
from .timing import Effort

DESCRIPTION = """\
Measure gatestep on this machine, beside whichever peers are installed.

One thread. Contenders take turns in short rounds, and the results of every peer
are found equal to ours before it is timed. With none of --json, --markdown,
--readme and --plot, the tables go to standard output.
"""

#: One thread for every library, whatever it was built with. Read when a library is loaded.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"), "1")
QUICK = Effort(seconds=0.05, least=5, tail=1000)


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    made = argparse.ArgumentParser(
        prog="python -m gatestep.benchmarks",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--quick", action="store_true", help="fewer rounds: rough figures in a tenth of the time")
    made.add_argument("--json", metavar="FILE", type=Path, help="write every figure")
    made.add_argument("--markdown", metavar="FILE", help="write tables; - is standard output")
    made.add_argument("--readme", metavar="FILE", type=Path, help="write the tables between the markers of this file")
    made.add_argument("--plot", metavar="FILE", type=Path, help="write a picture, .png or .svg (needs matplotlib)")
    made.add_argument("--cells", metavar="LIST", type=_listed(CELLS), default=CELLS, help=f"of {','.join(CELLS)}")
    made.add_argument(
        "--sizes", metavar="LIST", type=_sizes, default=SIZES, help="input x hidden, for example 40x64,128x256"
    )
    made.add_argument("--modes", metavar="LIST", type=_listed(MODES), default=MODES, help=f"of {','.join(MODES)}")
    made.add_argument(
        "--peers",
        metavar="LIST",
        type=_listed(tuple(peers.PEERS)),
        default=tuple(peers.PEERS),
        help=f"of {','.join(peers.PEERS)}, or none",
    )
    made.add_argument("--no-process", action="store_true", help="leave out start, loading and allocations")
    made.add_argument(
        "--models",
        metavar="FOLDER",
        type=Path,
        default=Path("../shared/models"),
        help="load the cases of its manifest.json too, if there is one (%(default)s)",
    )
    return made


def _listed(allowed: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """A reader of comma-separated names out of `allowed`; "none" is an empty list."""

    def read(text: str) -> tuple[str, ...]:
        names = () if text == "none" else tuple(dict.fromkeys(text.split(",")))
        wrong = [name for name in names if name not in allowed]
        if wrong:
            raise argparse.ArgumentTypeError(f"{wrong[0]!r} is not one of {', '.join(allowed)}")
        return names

    return read


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    """``40x64,128x256`` as pairs."""
    sizes = []
    for part in text.split(","):
        inputs, _, hidden = part.partition("x")
        if not (inputs.isdecimal() and hidden.isdecimal() and int(inputs) and int(hidden)):
            raise argparse.ArgumentTypeError(f"{part!r} is not INPUTxHIDDEN")
        sizes.append((int(inputs), int(hidden)))
    return tuple(dict.fromkeys(sizes))


class Progress:
    """One line on a terminal that says what is being measured; nothing elsewhere."""

    def __init__(self, total: int) -> None:
        self.done, self.total, self.shown = 0, total, sys.stderr.isatty()

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Show `what` while it lasts."""
        if self.shown:
            print(f"\r\033[K[{self.done + 1}/{self.total}] {what}", end="", file=sys.stderr, flush=True)
        yield
        self.done += 1
        if self.shown and self.done == self.total:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def measured(options: argparse.Namespace) -> report.Report:
    """Run what the options ask for."""
    effort = QUICK if options.quick else Effort()
    versions, skipped = peers.available(options.peers)
    own = {"gatestep": gatestep.__version__, "numpy": np.__version__, "onnx": importlib.metadata.version("onnx")}
    made = report.Report(report.Surroundings.here({**own, **versions}), skipped)
    for name, why in skipped.items():
        print(f"{name} is skipped: {why}", file=sys.stderr)
    layers = [Layer(cell, *size) for cell in options.cells for size in options.sizes]
    cases = [Case.of(layer, mode) for layer in layers for mode in options.modes]
    progress = Progress(len(layers) + len(cases) + 3 * (not options.no_process))
    for layer in layers:
        name = f"{layer.cell} {layer.inputs}→{layer.hidden}"
        with progress.step(f"{name} kernel"):
            made.bounds.append(bounds.measure(layer, effort))
        for mode in options.modes:
            with progress.step(f"{name} {mode}"):
                made.cases.append(peers.measure(Case.of(layer, mode), versions, effort))
    if not options.no_process:
        with progress.step("allocations"):
            try:
                made.allocations = allocations.measure(1000 if options.quick else 10_000)
            except OSError as error:
                made.skipped["allocations"] = str(error)
        with progress.step("fresh processes"):
            made.cold = cold.measure(versions, 3 if options.quick else 15)
        with progress.step("loading"):
            try:
                made.loading += loading.sources(options.models, 1 if options.quick else 5)
            except OSError as error:
                made.skipped["loading"] = str(error)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite and write what was asked for; returns the exit code."""
    options = parser().parse_args(arguments)
    made = measured(options)
    text = report.markdown(made)
    if options.json is not None:
        options.json.write_text(report.to_json(made))
    if options.markdown not in (None, "-"):
        Path(options.markdown).write_text(text)
    if options.markdown == "-" or not (options.json or options.markdown or options.readme or options.plot):
        print(text, end="")
    if options.readme is not None:
        report.write_readme(options.readme, text)
    if options.plot is not None:
        try:
            report.plot(made, options.plot)
        except ImportError as error:
            print(f"no plot: matplotlib cannot be imported ({error})", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        # NumPy and its BLAS are loaded by now, with as many threads as they found cores: start again.
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **ONE_THREAD})
    sys.exit(main())
