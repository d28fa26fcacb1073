"""What does it take to load a model: how long, and how much memory at the most?"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .cells import Net
from .formats import write

__all__ = ["LARGE", "MORE", "TIMES", "Loaded", "cases", "measure", "sources"]

#: What a sound file may take at its peak, beyond what the process takes without it.
TIMES, MORE = 3, 60 * 10**6
#: A layer whose file has about 50 MB.
LARGE = Net("lstm", 960, 1344)
#: A manifest's name of files that hold weights and do not say what of: these are only read.
_WEIGHTS = ("torch_state_dict", "torch_checkpoint", "safetensors", "json_weights", "npz_weights", "hdf5_weights")

LOAD = """
import json, resource, sys, time
import gatestep, numpy
def children():
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
def status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field + ":"))
def load():
    try:
        if sys.argv[2] == "weights":
            from gatestep.importers import weights
            held = weights.read_weights(sys.argv[1])
        else:
            held = gatestep.load(sys.argv[1])
    except gatestep.GatestepError as error:
        return str(error)
    return ""
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak counts from here
before = status("VmRSS")
refused = load()
peak = max(status("VmHWM"), children()) - before
begin = time.perf_counter()
load()  # what reads such a file is imported by now
print(json.dumps([time.perf_counter() - begin, max(peak, 0), refused]))
"""


@dataclass(frozen=True)
class Loaded:
    """One file.

    Attributes
    ----------
    file_bytes : int
        External data included.
    load_ms : float
        Median over fresh processes, imports not counted.
    peak_bytes : int
        The most memory while it was loaded, less what the process had before; of a file of Keras also that of the
        process which opens it.
    refused : str
        The error, where it does not load.
    """

    name: str
    format: str
    file_bytes: int
    load_ms: float
    peak_bytes: int
    refused: str

    @property
    def limit_bytes(self) -> int:
        """What `peak_bytes` may be."""
        return TIMES * self.file_bytes + MORE


def measure(name: str, format: str, path: Path, processes: int = 1, *, bare: bool = False) -> Loaded:
    """Load `path` in fresh processes; of `bare` weights, which need a spec, only the weights.

    Raises
    ------
    OSError
        The system does not tell the peak of a process: it is not Linux.
    """
    if not os.access("/proc/self/clear_refs", os.W_OK):
        raise OSError("the peak memory of a process is measured on Linux only")
    kind = "weights" if bare else "model"
    answers = []
    for _ in range(processes):
        run = subprocess.run(
            [sys.executable, "-c", LOAD, str(path), kind], check=True, stdout=subprocess.PIPE, text=True, timeout=600
        )
        answers.append(json.loads(run.stdout))
    seconds, peaks, refused = zip(*answers, strict=True)
    return Loaded(name, format, _size(path), 1e3 * statistics.median(seconds), max(peaks), refused[0])


def _size(path: Path) -> int:
    """Bytes of a file, and of the files beside it that an ONNX file keeps its weights in."""
    beside = path.parent.glob(f"{path.name}*data") if path.suffix == ".onnx" else ()
    return sum(file.stat().st_size for file in (path, *beside))


def cases(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Name, format and file of the cases that the manifest in `folder` lists."""
    for case in json.loads((folder / "manifest.json").read_text())["cases"]:
        if case["expect"] == "ok":
            yield case["name"], case["format"], folder / case["file"]


def sources(shared: Path | None, processes: int) -> Sequence[Loaded]:
    """Everything that there is: the files that the suite writes, and the cases of `shared`."""
    with tempfile.TemporaryDirectory() as folder:
        made = [measure(*source, processes) for source in write(Path(folder), LARGE)]
    if shared is not None and (shared / "manifest.json").exists():
        made += [measure(*source, bare=source[1] in _WEIGHTS) for source in cases(shared)]
    return made
