"""Other engines that `verify` holds a model to, where they are installed."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from gatestep.engine.errors import ModelFormatError
from gatestep.importers.archive import Archive
from gatestep.importers.kinds import is_container, is_weights

__all__ = ["Peer", "peers"]

Array = np.ndarray[Any, np.dtype[Any]]
#: Options with which the model is another than the file.
CHANGES = ("inputs", "outputs", "fix")


@dataclass(frozen=True)
class Peer:
    """Another engine with the same file in it: a call from inputs by name to outputs by name."""

    name: str
    call: Callable[[Mapping[str, Array]], dict[str, Array]]


def peers(source: Any, trusted: bool, options: Mapping[str, Any], ports: Sequence[Sequence[str]]) -> list[Peer | str]:
    """The engines that can run `source`; for one that cannot, the line that says why.

    Parameters
    ----------
    source, options
        As `gatestep.load` takes them.
    trusted : bool
        Let PyTorch load files.
    ports : (names, names)
        Inputs and outputs of our model, in order.
    """
    changed = [f"{name}=" for name in CHANGES if options.get(name)]
    if changed:
        return [f"other engines: {', '.join(changed)} makes another model of the file"]
    if is_container(source):
        return ["other engines: a .gatestep file does not hold the original"]
    if isinstance(source, Mapping):
        return ["other engines: none takes weights by themselves"]
    if not isinstance(source, (str, os.PathLike, bytes)):
        onnx = type(source).__name__ == "ModelProto"
        return [onnxruntime(source.SerializeToString()) if onnx else torch(lambda _: source, ports)]
    if not is_weights(source):
        return [onnxruntime(source)]
    program = torch_program(source)
    if program is None:
        return ["other engines: none takes weights by themselves"]
    if not trusted:
        return ["torch: not asked, as it may run code that is in the file: trusted=True, or --trusted, allows that"]
    return [torch(program, ports)]


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


def torch_program(source: Any) -> Callable[[Any], Any] | None:
    """What loads this file in PyTorch, if it is one that holds a program."""
    try:
        with Archive(source) as archive:
            names = [name.partition("/")[2] for name in archive.entries]
    except ModelFormatError:
        return None
    loadable = io.BytesIO(source) if isinstance(source, bytes) else os.fspath(source)
    if any(name.startswith("code/") for name in names) and "constants.pkl" in names:
        return lambda torch: torch.jit.load(loadable, map_location="cpu")
    if any(name.startswith("models/") or name == "serialized_exported_program.json" for name in names):
        return lambda torch: torch.export.load(loadable).module()
    return None


def torch(load: Callable[[Any], Any], ports: Sequence[Sequence[str]]) -> Peer | str:
    """PyTorch, with a module of its own."""
    try:
        module_of_torch: Any = import_module("torch")
    except ImportError:
        return "torch: not installed; it comes with: pip install 'gatestep[torch]'"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what PyTorch thinks of its own formats
            module = load(module_of_torch)
    except Exception as error:
        return f"torch: cannot load the file: {' '.join(str(error).split())[:200]}"
    inputs, outputs = ports

    def call(feeds: Mapping[str, Array]) -> dict[str, Array]:
        arrays = [module_of_torch.from_numpy(np.array(feeds[name])) for name in inputs if name in feeds]
        with module_of_torch.no_grad():
            results = flat(module(*arrays))
        return dict(zip(outputs, (np.asarray(result) for result in results), strict=True))

    return Peer("torch", call)


def flat(value: Any) -> list[Any]:
    """The tensors in nested tuples and lists."""
    return [leaf for item in value for leaf in flat(item)] if isinstance(value, (tuple, list)) else [value]


def _as(array: Array, kind: str) -> Array:
    """`array` in the type that a file declares; the engine may compute, and take, another."""
    floats = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
    return array.astype(floats[kind]) if kind in floats and array.dtype.kind == "f" else array
