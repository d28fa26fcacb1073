"""What does a fresh process pay: the import, and everything up to the first frame?"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from .cells import Layer

__all__ = ["Cold", "measure"]

IMPORT = """
import numpy, time
begin = time.perf_counter(), time.process_time()
import gatestep
print(time.perf_counter() - begin[0], time.process_time() - begin[1])
"""
#: From the start of the interpreter to the first output of a file given as argument; by what does it.
FIRST_FRAME = {
    "python": "",
    "numpy": "import numpy",
    "gatestep": """
import sys, numpy, gatestep
stream = gatestep.load(sys.argv[1]).stream()
stream.step(numpy.zeros(stream.inputs[0].shape, numpy.float32))
""",
    "onnxruntime": """
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
shapes = {port.name: [dim if isinstance(dim, int) else 1 for dim in port.shape] for port in session.get_inputs()}
session.run(None, {name: numpy.zeros(shape, numpy.float32) for name, shape in shapes.items()})
""",
}


@dataclass(frozen=True)
class Cold:
    """Milliseconds, medians over fresh processes.

    Attributes
    ----------
    import_ms, import_cpu_ms : float
        ``import gatestep`` where NumPy has been imported: by the clock, and what of it the processor worked for it.
    first_frame_ms : dict
        From starting the process to its end after one frame of an ONNX file; "numpy" and "python" only start and, the
        former, import NumPy.
    """

    processes: int
    import_ms: float
    import_cpu_ms: float
    first_frame_ms: dict[str, float]


def measure(peers: Iterable[str], processes: int) -> Cold:
    """Start fresh processes by turns."""
    wanted = [name for name in FIRST_FRAME if name in ("python", "numpy", "gatestep", *peers)]
    imports: list[tuple[float, float]] = []
    taken: dict[str, list[float]] = {name: [] for name in wanted}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        file.write_bytes(Layer("lstm", 40, 64).file)
        for turn in range(processes + 1):
            clock, cpu = map(float, _python(folder, IMPORT).split())
            passed = {}
            for name in wanted:
                begin = perf_counter()
                _python(folder, FIRST_FRAME[name], str(file))
                passed[name] = perf_counter() - begin
            if turn:  # the first ones compile to bytecode, as installing does, and bring the files into memory
                imports.append((clock, cpu))
                for name in wanted:
                    taken[name].append(passed[name])
    clocks, cpus = zip(*imports, strict=True)
    return Cold(
        processes,
        1e3 * statistics.median(clocks),
        1e3 * statistics.median(cpus),
        {name: 1e3 * statistics.median(values) for name, values in taken.items()},
    )


def _python(folder: str, code: str, *arguments: str) -> str:
    """Output of a fresh interpreter that works, and keeps its bytecode, in `folder`."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={**environment, "PYTHONPYCACHEPREFIX": folder},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return result.stdout
