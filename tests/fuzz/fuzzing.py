"""The fuzzer: mutated files through `load` and a bounded run, each in a process of its own, under limits.

``python tests/fuzz/fuzzing.py --minutes 60`` runs it for as long as that. What it finds it prints with the seed, and
keeps the bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from mutations import mutated
from seeds import MOST_BYTES, seeds

import gatestep as gs

#: Of the processor's time, per file; whatever the machine is doing beside it, and on the clock.
SECONDS, CLOCK = 20, 120
#: The bound that docs/design.md states, beyond what the process has.
TIMES, MORE = 3, 1 << 30
#: Of the files that may be added.
KINDS = (".onnx", ".pt", ".pth", ".pt2", ".jit", ".h5", ".keras", ".json", ".nam", ".safetensors", ".tar")
#: A port that asks for more is not fed.
MOST_ELEMENTS = 1 << 16


def attempt(data: bytes) -> str:
    """What came of it: "ran", "loaded", "refused". Anything but our errors goes through."""
    try:
        model = gs.load(data)
        if model.layout.blocker is not None:
            enough(model.layout.blocker)
    except (gs.GatestepError, OSError) as error:
        enough(error)
        return "refused"
    rng = np.random.default_rng(0)
    feeds = {port.name: drawn(port, rng) for port in model.inputs if not port.optional}
    if any(value is None for value in feeds.values()):
        return "loaded"
    try:
        model(feeds)
        if model.streams:
            stream = model.stream()
            for _ in range(3):
                stream.step({port.name: drawn(port, rng) for port in stream.inputs})
        str(model)
    except (gs.GatestepError, OSError) as error:
        enough(error)
        return "loaded"
    return "ran"


def enough(error: Exception) -> None:
    """An error that only the limit of this process led to is no error of the file: without it, memory would be gone."""
    if "more memory than there is" in str(error):
        raise MemoryError from error


def drawn(port: Any, rng: np.random.Generator) -> Any:
    """Small values for a port, None where they would not be small."""
    shape = [dim if isinstance(dim, int) else 2 for dim in port.shape or ()]
    if np.prod([float(n) for n in shape]) > MOST_ELEMENTS:
        return None
    if np.dtype(port.dtype).kind == "f":
        return rng.standard_normal(shape).astype(port.dtype)
    return rng.integers(0, 2, shape).astype(port.dtype)


def contained(data: bytes) -> str:
    """`attempt` in a fork, under limits; the outcome, or what went wrong beginning with "!"."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            faulthandler.disable()  # a crash is told by how the process ends
            _limit(len(data))
            warnings.simplefilter("ignore")
            sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
            try:
                outcome = attempt(data)
            except BaseException:
                outcome = "!" + traceback.format_exc()
            os.write(writer, outcome[-4000:].encode("utf-8", "replace"))
        finally:
            os._exit(0)
    os.close(writer)
    deadline = time.monotonic() + CLOCK
    status = None
    while status is None:
        ended, code = os.waitpid(child, os.WNOHANG)
        if ended:
            status = code
        elif time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reader)
            return f"! no end after {CLOCK} s"
        else:
            time.sleep(0.001)
    with open(reader, "rb") as answer:
        outcome = answer.read().decode("utf-8", "replace")
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        why = f"{SECONDS} s of work" if number == signal.SIGXCPU else signal.Signals(number).name
        return f"! ended by {why}"
    return outcome or "! no outcome"


def _limit(size: int) -> None:
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    most = now + TIMES * size + MORE
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def case(files: dict[str, bytes], seed: int) -> tuple[str, bytes]:
    """The file of this number."""
    rng = random.Random(seed)
    names = sorted(files)
    made = [name for name in names if name.startswith("made/")]
    name = rng.choice(made if rng.random() < 0.6 else names)
    return name, mutated(files[name], rng, [files[rng.choice(names)]])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="the first case")
    parser.add_argument("--count", type=int, default=400, help="so many cases")
    parser.add_argument("--minutes", type=float, default=0, help="or for so long")
    parser.add_argument("--only", default="", help="files whose name has this in it")
    parser.add_argument("--add", type=Path, help="also the files of this folder")
    parser.add_argument(
        "--keep", type=Path, default=Path(tempfile.gettempdir(), "gatestep-fuzz"), help="where findings go"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = seeds(Path(folder))
    if options.add:
        for path in sorted(options.add.rglob("*")):
            if path.is_file() and path.suffix in KINDS and path.stat().st_size < MOST_BYTES:
                files[str(path.relative_to(options.add))] = path.read_bytes()
    files = {name: data for name, data in files.items() if options.only in name}
    for data in files.values():  # what reads and runs them is imported once, not in every fork
        with warnings.catch_warnings(), contextlib.suppress(gs.GatestepError):
            warnings.simplefilter("ignore")
            gs.load(data)
    outcomes: dict[str, int] = {}
    findings = []
    end = time.monotonic() + 60 * options.minutes
    seed = options.seed
    while time.monotonic() < end if options.minutes else seed < options.seed + options.count:
        name, data = case(files, seed)
        outcome = contained(data)
        kind = "finding" if outcome.startswith("!") else outcome
        outcomes[kind] = outcomes.get(kind, 0) + 1
        if kind == "finding":
            options.keep.mkdir(parents=True, exist_ok=True)
            kept = options.keep / f"{seed}-{Path(name).name}"
            kept.write_bytes(data)
            findings.append({"seed": seed, "file": name, "kept": str(kept), "what": outcome[-1500:]})
            print(f"seed {seed}: {name}: {outcome[-1500:]}\n  kept as {kept}", file=sys.stderr, flush=True)
        seed += 1
    print(json.dumps({"outcomes": outcomes, "findings": findings}))
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
