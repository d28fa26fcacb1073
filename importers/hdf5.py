"""HDF5 files from strangers: the HDF5 library only ever looks at them in a process of its own.

It can loop for ever, or crash, over a file that is damaged or was made to harm, and nothing in the same process can end
that. So a child opens the file (`_hdf5_child`), under limits, and answers with plain data; a child that does not is
ended, and the file is refused.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from ..engine.errors import MissingExtraError, ModelFormatError, UnsupportedModelError
from . import _hdf5_child as child
from .archive import MAX_RATIO, MAX_SMALL
from .source import Source, opened

__all__ = ["Hdf5", "read_hdf5"]

#: The time that any file is given, and how many bytes of a larger one a slow machine reads in another second.
SECONDS = 10.0
BYTES_PER_SECOND = 1 << 24
#: The address space of Python, NumPy and h5py, with much to spare.
MEMORY = 1 << 31


@dataclass(frozen=True)
class Hdf5:
    """What the weights of Keras need of an HDF5 file. Paths have no slash at either end.

    Attributes
    ----------
    model_config : str or None
        The attribute of the file; empty if it is no text.
    version : str
        The attribute keras_version of the file; empty if there is none.
    groups : dict of str to int
        How many members each group has; the file itself is ``""``.
    weight_names : dict of str to list of str
        The attribute, of each group that has it.
    links : frozenset of str
        What leads to somewhere else, and was not followed.
    others : dict of str to str
        The types of the datasets that are not floating-point.
    arrays : dict of str to numpy.ndarray
        The datasets that are.
    """

    model_config: str | None
    version: str
    groups: dict[str, int]
    weight_names: dict[str, list[str]]
    links: frozenset[str]
    others: dict[str, str]
    arrays: dict[str, np.ndarray]


def read_hdf5(source: Source, name: str) -> Hdf5:
    """What there is in an HDF5 file.

    Parameters
    ----------
    source : path or bytes
    name : str
        How messages call the file.

    Raises
    ------
    ModelFormatError
        Damaged, larger than the file can hold, or the HDF5 library crashed or came to no end over it.
    UnsupportedModelError
        There is no Python interpreter to start, as in a frozen application.
    MissingExtraError
        h5py is not installed.
    OSError
        No process can be started.
    """
    if importlib.util.find_spec("h5py") is None:
        raise MissingExtraError("h5py", "keras")
    if not sys.executable or getattr(sys, "frozen", False):  # where it is the application itself
        raise UnsupportedModelError("HDF5 takes a Python interpreter of its own, and there is none", source=name)
    size = len(source) if isinstance(source, bytes) else os.stat(source).st_size
    seconds = SECONDS + size // BYTES_PER_SECOND
    room = max(MAX_SMALL, MAX_RATIO * size)
    job = {
        "path": [entry for entry in sys.path if isinstance(entry, str)],
        "room": room,
        "memory": MEMORY + 4 * room,
        "seconds": math.ceil(seconds) + 1,  # of CPU: ends the child where its caller is gone
    }
    # Isolated, because the directory of the script would come first on the path: it has an `onnx` and a `torch`.
    command = [sys.executable, "-I", child.__file__, json.dumps(job)]
    with tempfile.TemporaryFile() as answer:  # not a pipe: what comes out of one is there twice before it is an array
        run = _run(command, source, answer, name, seconds)
        if run.returncode == child.MISSING:
            raise MissingExtraError("h5py", "keras")
        if run.returncode == child.REFUSED:
            reason = run.stderr.decode("ascii", "replace").rpartition("\n")[2]
            raise ModelFormatError(f"{name}: a damaged file of HDF5 ({reason})")
        if run.returncode:
            raise ModelFormatError(f"{name}: the HDF5 library crashed over it ({_ending(run.returncode)})")
        try:
            return _parsed(answer)
        except (ValueError, TypeError, KeyError, AttributeError, struct.error) as error:
            raise ModelFormatError(f"{name}: the HDF5 library left no answer over it") from error


def _run(
    command: list[str], source: Source, answer: IO[bytes], name: str, seconds: float
) -> subprocess.CompletedProcess[bytes]:
    """The child's end; it has the file itself on stdin, where there is one."""
    pipes: dict[str, Any] = {"stdout": answer, "stderr": subprocess.PIPE, "timeout": seconds}
    try:
        if isinstance(source, bytes):
            return subprocess.run(command, input=source, **pipes)
        with opened(source) as file:
            return subprocess.run(command, stdin=file, **pipes)
    except subprocess.TimeoutExpired:
        raise ModelFormatError(
            f"{name}: the HDF5 library came to no end over it in {seconds:g} s and was stopped"
        ) from None


def _ending(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"


def _parsed(answer: IO[bytes]) -> Hdf5:
    left = answer.seek(0, os.SEEK_END)
    answer.seek(0)
    (length,) = child.LENGTH.unpack(answer.read(child.LENGTH.size))
    left -= child.LENGTH.size + length
    header: dict[str, Any] = json.loads(answer.read(length) if left >= 0 else b"")
    arrays = {}
    for path, dtype, shape in header["arrays"]:
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        left -= size
        if kind.kind != "f" or left < 0:
            raise ValueError(f"{size} bytes of {dtype}")
        arrays[path] = np.fromfile(answer, kind, math.prod(shape)).reshape(shape)
    return Hdf5(
        header["model_config"],
        str(header["version"]),
        header["groups"],
        header["weight_names"],
        frozenset(header["links"]),
        header["others"],
        arrays,
    )
