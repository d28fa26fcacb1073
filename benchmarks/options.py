"""The grammar of ``gatestep bench``, and what its help says."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from ..kernels.precision import PRECISIONS
from .cells import CELLS, MODES, NETS, SIZES
from .peers import DEFAULT, PEERS

__all__ = ["DESCRIPTION", "EPILOG", "PARTS", "add_options"]

DESCRIPTION = """\
Measure gatestep on this machine, beside whichever other engines are installed.

Without MODEL, a grid of nets with random weights: cells by sizes, called frame by
frame, for a whole recording, for a batch of recordings, for many streams at once.
With MODEL, your own file, in every engine that reads it.

Contenders take turns in short rounds, ratios are formed round by round, and no
engine is timed before its results have been found right.
"""

EPILOG = """\
parts:
  grid     every case, beside the peers and the limit
  claims   what gatestep means to reach: also with smaller weights, with two
           threads, in fresh processes; a few minutes by itself
  kernels  the kernel of a step alone, and what the call from Python adds
  tails    10^6 steps one by one; steps every 10 ms; after silence
  growth   with hidden size, layers, rows and streams
  process  cold start, memory, installed size, requests for memory
  loading  time and memory of loading files

With none of --json, --markdown, --html, --readme, --plot and --compare, tables go
to standard output. Engines come with: pip install 'gatestep[bench]'.

examples:
  gatestep bench --quick
  gatestep bench --parts claims
  gatestep bench denoiser.onnx --html report.html
  gatestep bench --cells gru --sizes 40x64 --modes step --precision float32,w8
  gatestep bench --json new.json --compare old.json
"""
PARTS = ("grid", "claims", "kernels", "tails", "growth", "process", "loading")


def add_options(command: argparse.ArgumentParser) -> None:
    """Everything but what is said of a model."""
    command.add_argument("--quick", action="store_true", help="fewer rounds: rough figures in a tenth of the time")
    _list(command, "cells", CELLS, CELLS)
    command.add_argument(
        "--sizes", metavar="LIST", type=sizes, default=SIZES, help="input x hidden, for example 40x64,128x256"
    )
    _list(command, "nets", tuple(NETS), tuple(NETS), "nets beside the grid")
    _list(command, "modes", MODES, MODES)
    _list(command, "parts", PARTS, PARTS)
    _list(command, "peers", tuple(PEERS), DEFAULT)
    _list(command, "precision", PRECISIONS, ("float32",), "measure at each of these")
    command.add_argument(
        "--threads", metavar="LIST", type=threads, default=(1,), help="measure with each of these numbers (default: 1)"
    )
    command.add_argument("--trusted", action="store_true", help="let PyTorch load MODEL, which may run code in it")
    command.add_argument("--json", metavar="FILE", type=Path, help="write every figure")
    command.add_argument("--markdown", metavar="FILE", type=Path, help="write every table; - is standard output")
    command.add_argument("--html", metavar="FILE", type=Path, help="write a page with plots (needs matplotlib)")
    command.add_argument("--plot", metavar="FILE", type=Path, help="write a picture, .svg or .png (needs matplotlib)")
    command.add_argument("--readme", metavar="FILE", type=Path, help="write a summary between the markers of this file")
    command.add_argument("--compare", metavar="OLD", type=Path, help="show what changed since another run's --json")
    command.add_argument(
        "--fail-if-slower", action="store_true", help="with --compare: exit code 1 if a case is slower"
    )
    command.add_argument(
        "--files",
        metavar="FOLDER",
        type=Path,
        help="load the cases of the manifest.json in this folder too, in the part loading",
    )


def _list(
    command: argparse.ArgumentParser, name: str, allowed: Sequence[str], default: tuple[str, ...], more: str = ""
) -> None:
    """An option that takes comma-separated names."""
    shown = "all" if default == tuple(allowed) else ",".join(default)
    command.add_argument(
        f"--{name}",
        metavar="LIST",
        type=listed(allowed),
        default=default,
        help=f"{more + ': ' if more else ''}of {','.join(allowed)}, or none (default: {shown})",
    )


def listed(allowed: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """A reader of comma-separated names out of `allowed`; "none" is an empty list."""

    def read(text: str) -> tuple[str, ...]:
        names = () if text == "none" else tuple(dict.fromkeys(text.split(",")))
        wrong = [name for name in names if name not in allowed]
        if wrong:
            raise argparse.ArgumentTypeError(f"{wrong[0]!r} is not one of {', '.join(allowed)}")
        return names

    return read


def sizes(text: str) -> tuple[tuple[int, int], ...]:
    """``40x64,128x256`` as pairs."""
    found = []
    for part in text.split(","):
        inputs, _, hidden = part.partition("x")
        if not (inputs.isdecimal() and hidden.isdecimal() and int(inputs) and int(hidden)):
            raise argparse.ArgumentTypeError(f"{part!r} is not INPUTxHIDDEN")
        found.append((int(inputs), int(hidden)))
    return tuple(dict.fromkeys(found))


def threads(text: str) -> tuple[int, ...]:
    """``1,2`` as numbers."""
    for part in text.split(","):
        if not (part.isdecimal() and int(part)):
            raise argparse.ArgumentTypeError(f"{part!r} is not a number of threads")
    return tuple(dict.fromkeys(map(int, text.split(","))))
