"""One layer in every format that can be written here."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import gatestep

from .cells import Net

__all__ = ["write"]

_NAMES = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
Weights = Mapping[str, np.ndarray]


def write(folder: Path, net: Net) -> list[tuple[str, str, Path]]:
    """Name, format and file of a `net` of one layer: with the packages of its makers also in their formats.

    Parameters
    ----------
    folder : Path
        Is made.
    net : Net
        Of one LSTM, GRU or RNN.
    """
    import onnx

    folder.mkdir(exist_ok=True)
    state = dict(zip(_NAMES, net.stack[0][0], strict=True))
    made = {"onnx": folder / "layer.onnx", "onnx, external data": folder / "external.onnx"}
    made["onnx"].write_bytes(net.file())
    (folder / "external.onnx.data").unlink(missing_ok=True)  # onnx.save appends
    onnx.save(
        onnx.load_from_string(net.file()),
        made["onnx, external data"],
        save_as_external_data=True,
        location="external.onnx.data",
    )
    made["gatestep"] = folder / "layer.gatestep"
    gatestep.convert(made["onnx"], made["gatestep"])
    made["safetensors"] = folder / "layer.safetensors"
    made["safetensors"].write_bytes(_safetensors(state))
    made["npz"] = folder / "layer.npz"
    np.savez(made["npz"], **state)  # type: ignore[arg-type]
    if importlib.util.find_spec("torch") is not None:
        made |= _torch(folder, net, state)
    if importlib.util.find_spec("h5py") is not None and net.cell == "lstm":
        made |= _keras(folder, net, state)
    return [(str(net), format, path) for format, path in made.items()]


def _safetensors(state: Weights) -> bytes:
    header, end = {}, 0
    for name, array in state.items():
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [end, end := end + array.nbytes]}
    text = json.dumps(header).encode()
    return b"".join([len(text).to_bytes(8, "little"), text, *(array.tobytes() for array in state.values())])


def _torch(folder: Path, net: Net, state: Weights) -> dict[str, Path]:
    """A state_dict in both forms, and programs of both kinds."""
    torch: Any = import_module("torch")
    made = {"torch": folder / "layer.pt", "torch, before 1.6": folder / "old.pt"}
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    torch.save(tensors, made["torch"])
    torch.save(tensors, made["torch, before 1.6"], _use_new_zipfile_serialization=False)
    layer: Any = getattr(torch.nn, net.cell.upper())(net.inputs, net.hidden).eval()
    layer.load_state_dict(tensors)
    frames = torch.zeros(3, 1, net.inputs)
    made |= {"torchscript": folder / "traced.pt", "pt2": folder / "layer.pt2"}
    torch.jit.save(torch.jit.trace(layer, frames), str(made["torchscript"]))
    torch.export.save(torch.export.export(layer, (frames,)).run_decompositions({}), str(made["pt2"]))
    return made


def _keras(folder: Path, net: Net, state: Weights) -> dict[str, Path]:
    """An LSTM as Keras 2 and Keras 3 write it: (inputs, gates), one bias."""
    import zipfile

    h5py: Any = import_module("h5py")
    w, r, *biases = state.values()
    arrays = [w.T, r.T, biases[0] + biases[1]]
    layers = [
        {"class_name": "InputLayer", "config": {"batch_shape": [None, None, net.inputs], "name": "input"}},
        {"class_name": "LSTM", "config": {"name": "lstm", "units": net.hidden, "return_sequences": True}},
    ]
    config = json.dumps({"class_name": "Sequential", "config": {"name": "net", "layers": layers}})
    made = {"h5": folder / "layer.h5", "keras": folder / "layer.keras"}
    with h5py.File(made["h5"], "w") as file:
        file.attrs["model_config"] = config
        names = [f"lstm/{k}:0" for k in range(3)]
        file.create_group("model_weights/lstm").attrs["weight_names"] = [name.encode() for name in names]
        for name, array in zip(names, arrays, strict=True):
            file[f"model_weights/lstm/{name}"] = array
    weights = folder / "model.weights.h5"
    with h5py.File(weights, "w") as file:
        for k, array in enumerate(arrays):
            file[f"layers/lstm/cell/vars/{k}"] = array
    with zipfile.ZipFile(made["keras"], "w") as archive:
        archive.writestr("config.json", config)
        archive.writestr("metadata.json", "{}")
        archive.write(weights, weights.name)
    weights.unlink()
    return made
