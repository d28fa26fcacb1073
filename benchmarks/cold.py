"""What does a fresh process pay: the import, everything up to the first frame, and how much memory?"""

from __future__ import annotations

import importlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import gatestep

from .cells import Net
from .tflite import tflite

__all__ = ["Cold", "Start", "measure"]

IMPORT = """
import numpy, time
begin = time.perf_counter(), time.process_time()
import gatestep
print(time.perf_counter() - begin[0], time.process_time() - begin[1])
"""
_OURS = """
import sys, numpy, gatestep
stream = gatestep.load(sys.argv[1]).stream()
stream.step(numpy.zeros(stream.inputs[0].shape, numpy.float32))
"""
#: Up to the first output of a file given as argument; by what does it.
FIRST_FRAME = {
    "python": "",
    "numpy": "import numpy",
    "gatestep (.gatestep)": _OURS,
    "gatestep (.onnx)": _OURS,
    "onnxruntime": """
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
shapes = {port.name: [dim if isinstance(dim, int) else 1 for dim in port.shape] for port in session.get_inputs()}
session.run(None, {name: numpy.zeros(shape, numpy.float32) for name, shape in shapes.items()})
""",
    "openvino": """
import sys, numpy, openvino
model = openvino.Core().compile_model(sys.argv[1], "CPU", {"INFERENCE_NUM_THREADS": 1})
model({port.any_name: numpy.zeros([1 if dim.is_dynamic else dim.get_length() for dim in port.partial_shape], "f")
       for port in model.inputs})
""",
    "litert": """
import sys, numpy
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(sys.argv[1], num_threads=1)
interpreter.allocate_tensors()
given, = interpreter.get_input_details()
interpreter.set_tensor(given["index"], numpy.zeros(given["shape"], numpy.float32))
interpreter.invoke()
interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
""",
    "torch": """
import sys, torch
torch.set_num_threads(1)
with torch.inference_mode():
    torch.jit.load(sys.argv[1])(torch.zeros(1, 1, 40))
""",
}
#: What its file ends in, where it is not ".onnx".
_SUFFIXES = {"gatestep (.gatestep)": ".gatestep", "litert": ".tflite", "torch": ".pt"}
#: Printed by a process when it has its output: when that is, by a clock that all processes share, and the most memory
#: that it had.
_DONE = """
import time
print(time.monotonic())
try:
    with open("/proc/self/status") as file:
        print(next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:")))
except OSError:
    print(0)
"""


@dataclass(frozen=True)
class Start:
    """One way to a first frame: milliseconds from starting the process to its output, and the most memory it had.

    `over_numpy_ms` is how much longer that took than importing NumPy, formed turn by turn. `peak_bytes` is 0 where the
    system does not tell: it is not Linux.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    over_numpy_ms: float
    peak_bytes: int


@dataclass(frozen=True)
class Cold:
    """Fresh processes.

    Attributes
    ----------
    import_ms, import_cpu_ms : float
        ``import gatestep`` where NumPy has been imported: by the clock, and what of it the processor worked for it.
    first_frame : dict
        Up to one frame of LSTM 40→64; "numpy" and "python" only start and, the former, import NumPy.
    """

    processes: int
    import_ms: float
    import_cpu_ms: float
    first_frame: dict[str, Start]


def measure(peers: Iterable[str], processes: int) -> Cold:
    """Start fresh processes by turns."""
    names = ("python", "numpy", "gatestep", *peers)
    wanted = [name for name in FIRST_FRAME if name.split()[0] in names]
    imports: list[tuple[float, float]] = []
    taken: dict[str, list[float]] = {name: [] for name in wanted}
    peaks: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = _files(Path(folder), wanted)
        for turn in range(processes + 1):
            clock, cpu = map(float, _python(folder, IMPORT).split())
            passed = {}
            for name in wanted:
                begin = monotonic()
                done, peak = _python(folder, FIRST_FRAME[name] + _DONE, files[name]).splitlines()[-2:]
                passed[name] = float(done) - begin
                peaks[name] = max(peaks.get(name, 0), int(peak))
            if turn:  # the first ones compile to bytecode, as installing does, and bring the files into memory
                imports.append((clock, cpu))
                for name in wanted:
                    taken[name].append(1e3 * passed[name])
    clocks, cpus = zip(*imports, strict=True)
    return Cold(
        processes,
        1e3 * statistics.median(clocks),
        1e3 * statistics.median(cpus),
        {name: _start(taken[name], taken["numpy"], peaks[name]) for name in wanted},
    )


def _start(ms: list[float], numpy: list[float], peak: int) -> Start:
    ordered = sorted(ms)
    quarter = len(ordered) // 4
    over = statistics.median(own - other for own, other in zip(ms, numpy, strict=True))
    return Start(statistics.median(ordered), ordered[quarter], ordered[-1 - quarter], over, peak)


def _files(folder: Path, wanted: Iterable[str]) -> Mapping[str, str]:
    """The same net, as each has it."""
    net = Net("lstm", 40, 64)
    paths = {name: folder / f"model{_SUFFIXES.get(name, '.onnx')}" for name in wanted}
    for path in set(paths.values()):
        if path.suffix == ".onnx":
            path.write_bytes(net.file())
        elif path.suffix == ".gatestep":
            gatestep.convert(net.file(), path)
        elif path.suffix == ".tflite":
            path.write_bytes(tflite(net, 1))
        else:
            torch: Any = importlib.import_module("torch")
            torch.jit.trace(torch.nn.LSTM(net.inputs, net.hidden), torch.zeros(1, 1, net.inputs)).save(str(path))
    return {name: str(path) for name, path in paths.items()}


def _python(folder: str, code: str, *arguments: str) -> str:
    """Output of a fresh interpreter that works, and keeps its bytecode, in `folder`."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={**environment, "PYTHONPYCACHEPREFIX": folder},
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return result.stdout
