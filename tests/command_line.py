"""What tests of the command line share: small ONNX files, sound, and what is asked of a process that has ended."""

from __future__ import annotations

import re
import subprocess
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]

FRAMES = np.random.default_rng(7).standard_normal((40, 3)).astype(np.float32)


def save(path: Path, nodes: list, inputs: dict, outputs: dict, constants: dict) -> Path:
    """An ONNX file from nodes, ports given as name -> (shape, type) and constant arrays."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, (shape, kind) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, (shape, kind) in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def weights(directions: int, gates: int, hidden: int, size: int) -> dict[str, np.ndarray]:
    """Random w and r of a recurrent operator."""
    rng = np.random.default_rng(3)
    draw = lambda *shape: rng.uniform(-0.5, 0.5, shape).astype(np.float32)  # noqa: E731
    return {"w": draw(directions, gates * hidden, size), "r": draw(directions, gates * hidden, hidden)}


def write_wav(path: Path, samples: np.ndarray, width: int = 2, channels: int = 1) -> Path:
    """A PCM file; `samples` between -1 and 1."""
    scaled = np.round(samples * 2 ** (8 * width - 1)).astype("<i4")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(16000)
        file.writeframes(scaled[:, None].view("u1").reshape(-1, 4)[:, :width].tobytes())
    return path


def read_wav(path: Path) -> tuple[np.ndarray, int]:
    """Samples as integers, and the rate."""
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2"), file.getframerate()


def good(done: Done) -> str:
    """What it printed, having gone well."""
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def refused(done: Done, code: int, *words: str) -> None:
    """It ended with this code and one line that has these words in it."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert re.fullmatch(r"gatestep: error: [^\n]+\n", done.stderr), done.stderr
    for word in words:
        assert word in done.stderr
