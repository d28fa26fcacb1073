"""Sound files of every format, small: what the fuzzer begins with."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import gatestep as gs

__all__ = ["seeds"]

SHARED = Path(__file__).resolve().parents[3] / "shared" / "models"
#: A larger file takes longer without being another kind of file.
MOST_BYTES = 200_000


def seeds(folder: Path) -> dict[str, bytes]:
    """Files by name: made here, and the shared cases where they are."""
    made = {
        "made/" + name: data for name, data in {**graphs(), **weights(), **torch_files(), **keras_files(folder)}.items()
    }
    made["made/model.gatestep"] = converted(folder, made["made/gru.onnx"])
    if SHARED.is_dir():
        for path in sorted(SHARED.rglob("*")):
            known = path.suffix in (".onnx", ".pt", ".pt2", ".json", ".safetensors") and path.name != "manifest.json"
            if known and path.stat().st_size < MOST_BYTES:
                made[path.relative_to(SHARED).as_posix()] = path.read_bytes()
    return made


def model(nodes: list[Any], ins: dict[str, Any], outs: dict[str, Any], held: dict[str, Any], **options: Any) -> bytes:
    """An ONNX file."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ins.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in held.items()],
    )
    return bytes(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, **options
        ).SerializeToString()
    )


def graphs() -> dict[str, bytes]:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    node = helper.make_node
    gru = [
        node("GRU", ["x", "w", "r", "b", "", "h0"], ["y", "hn"], hidden_size=5, linear_before_reset=1),
        node("Squeeze", ["y", "one"], ["s"]),
        node("MatMul", ["s", "m"], ["z"]),
        node("Sigmoid", ["z"], ["out"]),
    ]
    held = {"w": draw(1, 15, 4), "r": draw(1, 15, 5), "b": draw(1, 30), "m": draw(5, 3), "one": np.array([1])}
    made = {
        "gru.onnx": model(gru, {"x": ["T", "B", 4], "h0": [1, "B", 5]}, {"out": ["T", "B", 3], "hn": [1, "B", 5]}, held)
    }
    cell = [
        node("MatMul", ["x", "w"], ["a"]),
        node("MatMul", ["h", "r"], ["c"]),
        node("Add", ["a", "c"], ["g"]),
        node("Split", ["g", "sizes"], ["i", "f", "u", "o"], axis=1),
        *(node("Sigmoid", [name], ["s" + name]) for name in "ifo"),
        node("Tanh", ["u"], ["tu"]),
        node("Mul", ["sf", "c0"], ["fc"]),
        node("Mul", ["si", "tu"], ["iu"]),
        node("Add", ["fc", "iu"], ["c1"]),
        node("Tanh", ["c1"], ["tc"]),
        node("Mul", ["so", "tc"], ["h1"]),
    ]
    ports = {"x": ["B", 3], "h": ["B", 4], "c0": ["B", 4]}
    held = {"w": draw(3, 16), "r": draw(4, 16), "sizes": np.array([4] * 4)}
    made["cell.onnx"] = model(cell, ports, {"h1": ["B", 4], "c1": ["B", 4]}, held)
    windows = [
        node("Pad", ["x", "pads"], ["p"]),
        node("Conv", ["p", "k"], ["c"], kernel_shape=[3], dilations=[2]),
        node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
        node("MaxPool", ["n"], ["q"], kernel_shape=[2], strides=[2]),
        node("Transpose", ["q"], ["t"], perm=[0, 2, 1]),
        node("ReduceMean", ["t"], ["u"], axes=[1], keepdims=0),
        node("Softmax", ["u"], ["y"], axis=-1),
    ]
    held = {"k": draw(4, 2, 3), "pads": np.array([0, 0, 4, 0, 0, 0])}
    held |= {name: abs(draw(4)) for name in "sbmv"}
    made["windows.onnx"] = model(windows, {"x": ["B", 2, "T"]}, {"y": ["B", 4]}, held)
    shapes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["n"]),
        node("Concat", ["n", "rest"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["r"]),
        node("Slice", ["r", "zero", "two", "zero"], ["cut"]),
        node("TopK", ["cut", "two"], ["top", "where"], axis=1),
        node("GatherElements", ["cut", "where"], ["e"], axis=1),
        node("Tile", ["e", "reps"], ["tiled"]),
        node("Expand", ["tiled", "wide"], ["y"]),
    ]
    held = {"zero": np.array([0]), "rest": np.array([-1]), "two": np.array([2]), "reps": np.array([1, 2])}
    held["wide"] = np.array([3, 1, 1])
    made["shapes.onnx"] = model(shapes, {"x": ["B", 3, 4]}, {"y": [3, "N", 4]}, held)
    return made | control(node, draw)


def control(node: Any, draw: Any) -> dict[str, bytes]:
    """Branches, loops and functions."""
    info = helper.make_tensor_value_info

    def body(nodes: list[Any], ins: list[Any], outs: list[Any]) -> Any:
        return helper.make_graph(nodes, "body", ins, outs)

    then = body([node("Relu", ["x"], ["t"])], [], [info("t", 1, None)])
    other = body([node("Tanh", ["x"], ["e"])], [], [info("e", 1, None)])
    nodes = [
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Greater", ["sum", "nought"], ["cond"]),
        node("If", ["cond"], ["y"], then_branch=then, else_branch=other),
    ]
    made = {"if.onnx": model(nodes, {"x": [2, 3]}, {"y": [2, 3]}, {"nought": np.float32(0)})}
    step = body(
        [node("Add", ["h_in", "x_in"], ["s"]), node("Tanh", ["s"], ["h_out"]), node("Identity", ["h_out"], ["y_out"])],
        [info("h_in", 1, [1, 3]), info("x_in", 1, [1, 3])],
        [info("h_out", 1, [1, 3]), info("y_out", 1, [1, 3])],
    )
    scan = [node("Scan", ["h", "x"], ["hn", "y"], body=step, num_scan_inputs=1)]
    made["scan.onnx"] = model(scan, {"h": [1, 3], "x": ["T", 1, 3]}, {"hn": [1, 3], "y": ["T", 1, 3]}, {})
    turn = body(
        [node("Add", ["v", "x"], ["v_out"]), node("Identity", ["c"], ["c_out"]), node("Identity", ["v_out"], ["seen"])],
        [info("i", 7, []), info("c", 9, []), info("v", 1, [2, 3])],
        [info("c_out", 9, []), info("v_out", 1, [2, 3]), info("seen", 1, [2, 3])],
    )
    loop = [node("Loop", ["trips", "true", "x"], ["y", "all"], body=turn)]
    held = {"trips": np.array(3), "true": np.array(True)}
    made["loop.onnx"] = model(loop, {"x": [2, 3]}, {"y": [2, 3], "all": ["N", 2, 3]}, held)
    inner = helper.make_function("own", "f", ["a"], ["b"], [node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 17)])
    outer = helper.make_function(
        "own", "g", ["a"], ["c"], [node("f", ["a"], ["b"], domain="own"), node("f", ["b"], ["c"], domain="own")],
        [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)],
    )  # fmt: skip
    calls = model(
        [node("g", ["x"], ["y"], domain="own")], {"x": ["T", 3]}, {"y": ["T", 3]}, {}, functions=[inner, outer]
    )
    proto = onnx.ModelProto.FromString(calls)
    proto.opset_import.append(helper.make_opsetid("own", 1))
    made["functions.onnx"] = bytes(proto.SerializeToString())
    return made


def state() -> dict[str, np.ndarray]:
    """A GRU's weights, as PyTorch names them."""
    rng = np.random.default_rng(1)
    shapes = {"weight_ih_l0": (15, 4), "weight_hh_l0": (15, 5), "bias_ih_l0": (15,), "bias_hh_l0": (15,)}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def weights() -> dict[str, bytes]:
    held, header, end = state(), {}, 0
    for name, array in held.items():
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [end, end := end + array.nbytes]}
    text = json.dumps(header).encode()
    made = {"gru.safetensors": b"".join([len(text).to_bytes(8, "little"), text, *(a.tobytes() for a in held.values())])}
    for kind, save in (("npz", np.savez), ("packed.npz", np.savez_compressed)):
        file = io.BytesIO()
        save(file, **held)  # type: ignore[arg-type]
        made[f"gru.{kind}"] = file.getvalue()
    made["state.json"] = json.dumps({"state_dict": {name: array.tolist() for name, array in held.items()}}).encode()
    rng = np.random.default_rng(2)

    def draw(*shapes: tuple[int, ...]) -> list[Any]:
        return [rng.random(shape).tolist() for shape in shapes]

    layers = [
        {"type": "gru", "shape": [None, None, 3], "activation": "", "weights": draw((1, 9), (3, 9), (2, 9))},
        {"type": "dense", "shape": [None, None, 1], "activation": "tanh", "weights": draw((3, 1), (1,))},
    ]
    made["rtneural.json"] = json.dumps({"in_shape": [None, None, 1], "layers": layers}).encode()
    count = 4 * 3 * (1 + 3) + 4 * 3 + 2 * 3 + 4
    config = {"input_size": 1, "hidden_size": 3, "num_layers": 1}
    nam = {"version": "0.5", "architecture": "LSTM", "config": config, "weights": rng.random(count).tolist()}
    made["amp.nam"] = json.dumps(nam).encode()
    return made


def torch_files() -> dict[str, bytes]:
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    net = torch.nn.GRU(4, 5)
    made = {}
    for name, options in (("zip.pt", {}), ("legacy.pt", {"_use_new_zipfile_serialization": False})):
        file = io.BytesIO()
        torch.save(net.state_dict(), file, **options)
        made[name] = file.getvalue()
    scripted = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())), scripted)
    made["script.pt"] = scripted.getvalue()
    exported = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Linear(4, 3), (torch.zeros(2, 4),)), exported)
    made["exported.pt2"] = exported.getvalue()
    return made


def keras_files(folder: Path) -> dict[str, bytes]:
    """As Keras 3 and Keras 2 write them."""
    if importlib.util.find_spec("h5py") is None:
        return {}
    import zipfile

    import h5py

    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal(shape, np.float32) for shape in ((4, 20), (5, 20), (20,))]
    head = [rng.standard_normal(shape, np.float32) for shape in ((5, 2), (2,))]
    layers = [
        {"class_name": "InputLayer", "config": {"batch_shape": [None, None, 4], "name": "input"}},
        {"class_name": "LSTM", "config": {"name": "lstm", "units": 5, "return_sequences": True}},
        {"class_name": "Dense", "config": {"name": "dense", "units": 2, "activation": "softmax"}},
    ]
    config = json.dumps({"class_name": "Sequential", "config": {"name": "s", "layers": layers}})
    path = folder / "seed.h5"
    with h5py.File(path, "w") as file:
        for group, held in (("layers/lstm/cell/vars", arrays), ("layers/dense/vars", head)):
            for k, array in enumerate(held):
                file[f"{group}/{k}"] = array
    new = io.BytesIO()
    with zipfile.ZipFile(new, "w") as archive:
        archive.writestr("config.json", config)
        archive.writestr("metadata.json", "{}")
        archive.writestr("model.weights.h5", path.read_bytes())
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = config
        for name, held in (("lstm", arrays), ("dense", head)):
            names = [f"{name}/{k}:0" for k in range(len(held))]
            file.create_group(f"model_weights/{name}").attrs["weight_names"] = [n.encode() for n in names]
            for key, array in zip(names, held, strict=True):
                file[f"model_weights/{name}/{key}"] = array
    return {"model.keras": new.getvalue(), "model.h5": path.read_bytes()}


def converted(folder: Path, data: bytes) -> bytes:
    path = folder / "seed.gatestep"
    gs.convert(data, path)
    return path.read_bytes()
