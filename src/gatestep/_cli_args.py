"""The grammar of the command line, and what its help says."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import gatestep

__all__ = ["Usage", "parser"]

MODEL_HELP = (
    "an .onnx or .gatestep file, a weight file of a single LSTM, GRU or RNN, or a file that describes its model"
)

RUN_HELP = """\
Run a model over a recording, frame by frame, and say how fast it went.

A model that streams takes one frame at a time, its state carried from frame to
frame, and every frame is timed. A model that needs the future (a bidirectional
one) gets all frames in one call.
"""

RUN_EPILOG = """\
files, by suffix:
  .npy   one array, time first
  .npz   for models with several inputs or outputs: one array each, by the
         names that `gatestep inspect` shows
  .csv   a frame a line; a first line that is not numbers is skipped
  .wav   mono sound, for models whose frame is a block of samples; written
         with 16 bits

examples:
  gatestep run denoiser.onnx spectrum.npy -o mask.npy --rate 62.5
  gatestep run amplifier.onnx guitar.wav -o out.wav
  gatestep run tracker.onnx sensors.csv -o track.csv --state h0=hn --state c0=cn
"""


VERIFY_HELP = """\
Hold what a model computes to what it should.

Random and extreme inputs go through the model, through the same graph as its
operators are defined (in double precision, without any of the engine's kernels),
and through ONNX Runtime or PyTorch where those are installed and read the file.
A stream is held to itself: single steps, chunks, rows side by side and the whole
recording, with states carried inside or by hand.

The exit code is 0 if everything agrees, and 1 if anything does not.
"""

VERIFY_EPILOG = """\
"allowed" is 16 times as far as the results move when every value of the graph is
moved by one unit in the last place, and 512 units of the output's largest
magnitude beside that; with --precision, also 4 times as far as half a step of its
weights moves them, or --max-error. NaN and infinities must stand in the same places.
Denormals count as zero.

examples:
  gatestep verify denoiser.onnx
  gatestep verify tracker.onnx --state h0=hn --inputs recording.npz --json
  gatestep verify denoiser.onnx --precision w8 --inputs recording.npz
"""

CONVERT_HELP = """\
Write a model as a .gatestep file.

It holds the graph, its arrays, what was found out about states and streaming, and
a test of itself that is run when it is loaded. Loading it takes milliseconds and
nothing but NumPy. What options say of the model is settled in the file.
"""


class Usage(Exception):
    """What was typed cannot be done, whatever is in the files."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line.

    `late` describes the rest of it when it is first used: what that has to import, no other command imports.
    """

    def __init__(self, *args: Any, late: Callable[[Parser], None] | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.late = late

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        late, self.late = self.late, None
        if late is not None:
            late(self)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise Usage(f"{message} (see: {self.prog} --help)")


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    raw = argparse.RawDescriptionHelpFormatter
    top = Parser(
        prog="gatestep", description="Run a trained LSTM, GRU or RNN, one frame at a time.", formatter_class=raw
    )
    top.add_argument("--version", action="version", version=f"gatestep {gatestep.__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    run = commands.add_parser(
        "run", help="run a model over a recording", description=RUN_HELP, epilog=RUN_EPILOG, formatter_class=raw
    )
    run.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    run.add_argument("input", metavar="INPUT", type=Path, help="the recording: .npy, .npz, .csv or .wav")
    run.add_argument(
        "-o",
        "--output",
        metavar="OUTPUT",
        type=Path,
        required=True,
        help="where the results go: .npy, .npz, .csv or .wav",
    )
    run.add_argument(
        "--rate",
        metavar="HZ",
        type=rate,
        help="frames per second of the recording (known for .wav), to report × real time",
    )
    run.add_argument("--whole", action="store_true", help="one call, in the model's own shapes, instead of a stream")
    add_model_options(run)

    inspect = commands.add_parser("inspect", help="say what a model is", description="Say what a model is.")
    inspect.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    add_model_options(inspect)

    verify = commands.add_parser(
        "verify",
        help="hold a model to its definition, to other engines and to itself",
        description=VERIFY_HELP,
        epilog=VERIFY_EPILOG,
        formatter_class=raw,
    )
    verify.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    verify.add_argument(
        "--inputs", metavar="NPZ", type=Path, help="also these inputs: arrays by name, in the file's own shapes"
    )
    verify.add_argument("--seed", metavar="N", type=int, default=0, help="of the random inputs (default: 0)")
    verify.add_argument("--json", action="store_true", help="print JSON instead of a table")
    verify.add_argument(
        "--trusted", action="store_true", help="let PyTorch load the file, which may run code that is in it"
    )
    add_model_options(verify)

    convert = commands.add_parser(
        "convert", help="write a model as a .gatestep file", description=CONVERT_HELP, formatter_class=raw
    )
    convert.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    convert.add_argument("output", metavar="OUTPUT", type=Path, help="the .gatestep file to write")
    convert.add_argument(
        "--inputs",
        metavar="FILE",
        type=Path,
        help="for --precision auto: an .npz with inputs of your own to measure on",
    )
    add_model_options(convert)

    commands.add_parser(
        "bench",
        help="measure, beside other engines",
        formatter_class=raw,
        conflict_handler="resolve",  # where it takes lists, its own options replace the model's
        late=bench_arguments,
    )
    return top


def bench_arguments(bench: Parser) -> None:
    """The rest of ``bench``."""
    from gatestep.benchmarks import options

    bench.description, bench.epilog = options.DESCRIPTION, options.EPILOG
    bench.add_argument("model", metavar="MODEL", nargs="?", help=f"{MODEL_HELP}; without it, a grid of nets")
    add_model_options(bench)
    options.add_options(bench)


def add_model_options(command: argparse.ArgumentParser) -> None:
    """Options of `gatestep.load`, which every command takes alike."""
    command.add_argument(
        "--state",
        metavar="IN=OUT",
        type=state,
        action="append",
        default=[],
        help="what output OUT gives is input IN of the next frame; may be repeated (found without, where unambiguous)",
    )
    command.add_argument(
        "--bind",
        metavar="NAME=VALUE",
        type=binding,
        action="append",
        default=[],
        help="input NAME always is VALUE, a number, true or false, or a list of them in brackets; may be repeated",
    )
    command.add_argument(
        "--shape",
        metavar="NAME=SIZES",
        type=sizes,
        action="append",
        default=[],
        help="sizes of input NAME that the file leaves free, such as x=1,576 (? for what stays free); may be repeated",
    )
    command.add_argument(
        "--backend", choices=("auto", "cython", "numba"), default="auto", help="kernels (default: auto)"
    )
    command.add_argument(
        "--threads", metavar="N", type=int, default=1, help="threads that share large layers and batches (default: 1)"
    )
    command.add_argument("--dtype", choices=("float32", "float64"), help="type to compute in (default: float32)")
    command.add_argument(
        "--precision",
        choices=("float32", "w16", "w8", "w8a8", "bfloat16", "auto"),
        help="what weights are kept as (default: float32); auto takes the fastest that keeps --max-error",
    )
    command.add_argument(
        "--max-error",
        metavar="E",
        type=error,
        help="how far results may be from float32, over the largest magnitude of an output or 1, whichever is more",
    )
    command.add_argument(
        "--fix",
        metavar="NAME",
        action="append",
        default=[],
        help="mend a file that is known to be wrong, by the name that the warning gives; may be repeated",
    )
    command.add_argument(
        "--no-self-test", action="store_true", help="do not hold a .gatestep file to the results that are stored in it"
    )


def rate(text: str) -> float:
    """A positive number."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def error(text: str) -> float:
    """A number from 0 on."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return value


def binding(text: str) -> tuple[str, Any]:
    """A pair ``NAME=VALUE``, the value as JSON has it."""
    name, equals, value = text.rpartition("=")
    try:
        if name and equals:
            return name, json.loads(value)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, with a number, true, false or a list as VALUE")


def sizes(text: str) -> tuple[str, tuple[int | None, ...]]:
    """A pair ``NAME=1,576``, with ``?`` for a free size."""
    name, equals, value = text.rpartition("=")
    parts = [part.strip() for part in value.split(",")]
    if not (name and equals) or not all(part == "?" or (part.isascii() and part.isdigit()) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=SIZES, such as x=1,576")
    return name, tuple(None if part == "?" else int(part) for part in parts)


def state(text: str) -> tuple[str, str]:
    """A pair ``IN=OUT``."""
    source, equals, target = text.partition("=")
    if not (source and equals and target):
        raise argparse.ArgumentTypeError(f"{text!r} is not IN=OUT")
    return source, target
