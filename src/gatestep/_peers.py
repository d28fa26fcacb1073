"""Other engines that `verify` holds a model to, where they are installed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from gatestep.importers.container import is_container
from gatestep.importers.weights import is_weights

__all__ = ["Peer", "peers"]

Array = np.ndarray[Any, np.dtype[Any]]
#: Options with which the model is another than the file.
CHANGES = ("inputs", "outputs", "fix")


@dataclass(frozen=True)
class Peer:
    """Another engine with the same file in it: a call from inputs by name to outputs by name."""

    name: str
    call: Callable[[Mapping[str, Array]], dict[str, Array]]


def peers(source: Any, trusted: bool, options: Mapping[str, Any]) -> list[Peer | str]:
    """The engines that can run `source`; for one that cannot, the line that says why."""
    changed = [f"{name}=" for name in CHANGES if options.get(name)]
    if changed:
        return [f"other engines: {', '.join(changed)} makes another model of the file"]
    if is_container(source):
        return ["other engines: a .gatestep file does not hold the original"]
    if not isinstance(source, (str, os.PathLike, bytes)) or is_weights(source):
        return ["other engines: none takes weights by themselves"]
    return [onnxruntime(source)]


def onnxruntime(source: Any) -> Peer | str:
    """ONNX Runtime."""
    try:
        ort: Any = import_module("onnxruntime")
    except ImportError:
        return "onnxruntime: not installed; it comes with: pip install 'gatestep[bench]'"
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(
            source if isinstance(source, bytes) else os.fspath(source), settings, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its errors have no class in common
        return f"onnxruntime: cannot load the file: {' '.join(str(error).split())[:200]}"
    names = [output.name for output in session.get_outputs()]
    types = {given.name: given.type for given in session.get_inputs()}

    def call(feeds: Mapping[str, Array]) -> dict[str, Array]:
        arrays = {name: _as(array, types[name]) for name, array in feeds.items() if name in types}
        return dict(zip(names, session.run(names, arrays), strict=True))

    return Peer("onnxruntime", call)


def _as(array: Array, kind: str) -> Array:
    """`array` in the type that a file declares; the engine may compute, and take, another."""
    floats = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
    return array.astype(floats[kind]) if kind in floats and array.dtype.kind == "f" else array
