"""The command line: ``gatestep run``, ``inspect``, ``verify``, ``convert`` and ``bench``, or ``python -m gatestep``."""

from __future__ import annotations

import argparse
import importlib.util
import io
import itertools
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np

import gatestep
from gatestep import GatestepError, MissingExtraError, UnsupportedModelError
from gatestep._cli_args import Usage, parser
from gatestep.importers.container import Container
from gatestep.importers.kinds import is_container

if TYPE_CHECKING:
    from gatestep import Model, Stream

    from ._cli_io import Recording

__all__ = ["main"]

#: Exit codes: what the caller typed is wrong; the model or the data are.
USAGE, FAILED, INTERRUPTED = 2, 1, 130


def model_options(options: argparse.Namespace) -> dict[str, Any]:
    """What is said of the model, as `gatestep.load` takes it."""
    given = {
        "states": dict(options.state) or None,
        "bind": dict(options.bind) or None,
        "shapes": dict(options.shape) or None,
        "fix": tuple(options.fix) or None,
        "dtype": options.dtype,
        "precision": options.precision,
        "max_error": options.max_error,
    }
    settled = {name: value for name, value in given.items() if value is not None}
    return {**settled, "backend": options.backend, "threads": options.threads, "self_test": not options.no_self_test}


def load(options: argparse.Namespace) -> Model:
    """The model that the options ask for."""
    with usage():
        return gatestep.load(options.model, **model_options(options))


@contextmanager
def usage() -> Iterator[None]:
    """What `load` says of its own arguments is about what was typed."""
    try:
        yield
    except GatestepError:
        raise
    except ValueError as error:
        raise Usage(str(error)) from error


def inspect(options: argparse.Namespace) -> int:
    """``gatestep inspect``: print the summary, and what there is to say of the file."""
    model = load(options)
    if model.asked != "float32" and not model.nets:
        from ._feeds import random_values, shortest

        with suppress(GatestepError):  # what its nets are kept as is known once it has been called
            shortest(model, random_values(np.random.default_rng(0)))
    print(model)
    size = os.stat(options.model).st_size
    if not is_container(options.model):
        print(f"  file    {size:,} bytes")
        return 0
    held = Container(options.model)
    held.check()
    print(f"  file    {size:,} bytes, checksum {held.checksum:08x}, of {held.source!r} by gatestep {held.writer}")
    return 0


def verify(options: argparse.Namespace) -> int:
    """``gatestep verify``: print the report."""
    data = given(options)
    with usage():
        report = gatestep.verify(
            options.model, data=data, seed=options.seed, trusted=options.trusted, **model_options(options)
        )
    print(report.json() if options.json else report)
    return 0 if report.passed else FAILED


def given(options: argparse.Namespace) -> dict[str, Any] | None:
    """What ``--inputs`` holds, in the types of the model's inputs."""
    from . import _cli_io as files

    if options.inputs is None:
        return None
    if options.inputs.suffix.lower() != ".npz":
        raise Usage(f"--inputs {options.inputs}: the suffix is not .npz")
    plain = {**vars(options), "precision": None, "max_error": None}
    model, recording = load(argparse.Namespace(**plain)), files.read(options.inputs)
    ports = {port.name: port for port in model.inputs}
    named = recording.assign(
        [port.name for port in model.inputs if not port.optional],
        [port.name for port in model.inputs if port.optional],
    )
    return {name: recording.converted(array, ports[name]) for name, array in named.items()}


def convert(options: argparse.Namespace) -> int:
    """``gatestep convert``: write the file, and say what it costs to load."""
    if not options.output.parent.is_dir():
        raise Usage(f"{options.output}: there is no folder {options.output.parent}")
    with usage():
        gatestep.convert(options.model, options.output, data=given(options), **model_options(options))
    began = time.perf_counter()
    gatestep.load(options.output)
    took = time.perf_counter() - began
    print(f"{options.output}: {options.output.stat().st_size:,} bytes, loads in {took * 1e3:.1f} ms")
    return 0


def bench(options: argparse.Namespace) -> int:
    """``gatestep bench``: measure, and write what was found."""
    from gatestep.benchmarks import suite
    from gatestep.benchmarks.models import Own

    needed = {"onnx": options.model is None, "matplotlib": options.plot is not None or options.html is not None}
    for package, what in {"onnx": "the nets of the grid", "matplotlib": "--plot and --html"}.items():
        if needed[package] and importlib.util.find_spec(package) is None:
            raise MissingExtraError(f"{package} (for {what})", "bench")
    suite.alone()
    own = []
    if options.model is not None:
        plain = None
        changed = tuple(f"{name}=" for name in ("fix", "dtype") if getattr(options, name))
        for precision, threads in itertools.product(options.precision, options.threads):
            kept = None if precision == "float32" else precision  # a file may have its own
            model = load(argparse.Namespace(**{**vars(options), "precision": kept, "threads": threads}))
            if plain is None:
                plain = load(argparse.Namespace(**{**vars(options), "precision": None, "threads": 1}))
            own.append(Own(options.model, model, plain, threads, changed, options.trusted))
    with usage():
        return suite.run(options, own)


def run(options: argparse.Namespace) -> int:
    """``gatestep run``: read, compute, write, report."""
    from . import _cli_io as files

    for path in (options.input, options.output):
        if path.suffix.lower() not in files.SUFFIXES:
            raise Usage(f"{path}: the suffix is none of {', '.join(files.SUFFIXES)}")
    if not options.output.parent.is_dir():
        raise files.CliError(f"{options.output}: there is no folder {options.output.parent}")
    recording = files.read(options.input)
    if recording.sample_rate is not None and options.rate is not None:
        raise Usage("--rate: a .wav file has a rate of its own")
    model = load(options)
    if model.streams and not options.whole:
        step_through(model.stream(), recording, options)
    else:
        call_once(model, recording, options)
    return 0


def step_through(stream: Stream, recording: Recording, options: argparse.Namespace) -> None:
    """Every frame through the stream, each one timed."""
    from . import _cli_io as files

    ports = stream.inputs
    given = recording.assign([port.name for port in ports])
    feeds = [recording.frames(given[port.name], port) for port in ports]
    moving = [feed.ndim > len(port.shape) for feed, port in zip(feeds, ports, strict=True)]
    lengths = {port.name: len(feed) for feed, port, moves in zip(feeds, ports, moving, strict=True) if moves}
    if len(set(lengths.values())) != 1:
        what = ", ".join(f"{name} {length}" for name, length in lengths.items()) or "none has a time axis"
        raise files.CliError(f"{options.input}: the inputs do not have one number of frames: {what}")
    count = next(iter(lengths.values()))
    frame_rate = options.rate
    if recording.sample_rate is not None:
        frame_rate = recording.sample_rate / math.prod(ports[0].shape)
    files.check(options.output, [port.name for port in stream.outputs], frame_rate)

    results = [np.empty((count, *port.shape), port.dtype) for port in stream.outputs]
    single = len(feeds) == len(results) == 1
    durations = np.empty(count, np.int64)
    now = time.perf_counter_ns
    with progress(count) as show:
        for t in range(count):
            frame: Any = tuple(feed[t, ...] if moves else feed for feed, moves in zip(feeds, moving, strict=True))
            out: Any = tuple(result[t, ...] for result in results)
            if single:
                (frame,), (out,) = frame, out
            began = now()
            stream.step(frame, out)
            durations[t] = now() - began
            show(t)
    named = {port.name: result for port, result in zip(stream.outputs, results, strict=True)}
    files.write(options.output, named, frame_rate, recording)
    print(f"{count} frames, written to {options.output}")
    if not count:
        return
    median, high, most = np.percentile(durations, (50, 99, 100)) / 1e3
    print(f"per frame: {median:.2f} µs median, {high:.2f} µs p99, {most:.2f} µs max")
    report_real_time(count, int(durations.sum()), frame_rate)


def call_once(model: Model, recording: Recording, options: argparse.Namespace) -> None:
    """Everything in one call: in the file's own shapes, or, for a model that needs the future, frames time first."""
    from . import _cli_io as files

    if recording.sample_rate is not None or options.output.suffix.lower() == ".wav":
        why = "--whole is given" if options.whole else "this model does not (see: gatestep inspect)"
        raise files.CliError(f"a .wav file takes a model that streams, and {why}")
    files.check(options.output, None, options.rate)
    ports = {port.name: port for port in model.inputs}
    given = recording.assign(
        [port.name for port in model.inputs if not port.optional],
        [port.name for port in model.inputs if port.optional],
    )
    feeds = {name: recording.converted(array, ports[name]) for name, array in given.items()}
    began = time.perf_counter_ns()
    try:
        results = model(feeds) if options.whole else model.run(feeds)
    except UnsupportedModelError as error:
        if options.whole:
            raise
        raise files.CliError(f"{error}. Or add --whole, for one call in the file's own shapes") from error
    duration = time.perf_counter_ns() - began
    files.check(options.output, list(results), options.rate)
    files.write(options.output, results, options.rate, recording)
    if options.whole:
        print(f"one call, written to {options.output}: {duration / 1e3:.2f} µs")
        return
    count = max(len(array) for array in feeds.values())
    print(f"{count} frames in one call, because the model does not stream, written to {options.output}")
    if not count:
        return
    print(f"per frame: {duration / 1e3 / count:.2f} µs mean")
    report_real_time(count, duration, options.rate)


def report_real_time(count: int, duration: int, frame_rate: float | None) -> None:
    """How many times faster than `count` frames last, where that is known."""
    if frame_rate is not None:
        print(f"real time: {count / frame_rate / (max(duration, 1) / 1e9):.1f} × (at {frame_rate:g} frames per second)")


@contextmanager
def progress(count: int) -> Iterator[Callable[[int], None]]:
    """A function to call after each frame: shows on a terminal how far a long run has come."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    shown = time.monotonic()

    def show(done: int) -> None:
        nonlocal shown
        if time.monotonic() - shown > 0.2:
            shown = time.monotonic()
            print(f"\r{done} of {count} frames", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def one_line(error: BaseException) -> str:
    """An error's message without line breaks."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.
    """
    for channel in (sys.stdout, sys.stderr):
        if isinstance(channel, io.TextIOWrapper):  # a terminal that has no µ shows an escape, not a traceback
            channel.reconfigure(errors="backslashreplace")
    try:
        options = parser().parse_args(arguments)
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"gatestep: warning: {message}", file=sys.stderr)
            commands = {"run": run, "inspect": inspect, "verify": verify, "convert": convert, "bench": bench}
            code = commands[options.command](options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return complain("interrupted", INTERRUPTED)
    except Usage as error:
        return complain(str(error), USAGE)
    except BrokenPipeError:  # who read the output has gone: nobody is there to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (GatestepError, OSError, MemoryError) as error:
        return complain(one_line(error), FAILED)
    return code


def complain(message: str, code: int) -> int:
    """One line on stderr."""
    print(f"gatestep: error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
