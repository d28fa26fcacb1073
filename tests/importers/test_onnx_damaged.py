"""The shared ONNX cases translate; damaged files give errors of ours and nothing else."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from gatestep.engine.errors import GatestepError, ModelFormatError, UnsupportedModelError  # noqa: E402
from gatestep.engine.graph import Graph  # noqa: E402
from gatestep.importers.onnx import read_onnx  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_models import CASES, assert_sound, function_model, info, make, own  # noqa: E402


def onnx_cases() -> list[Any]:
    manifest = CASES / "manifest.json"
    if not manifest.is_file():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"no shared cases at {CASES}"))]
    cases = json.loads(manifest.read_text())["cases"]
    return [pytest.param(case, id=case["name"]) for case in cases if case["format"] == "onnx"]


#: Cases that must fail and do so here; others fail on the values that they are given.
REFUSED = {
    "ort/lstm_MismatchedWeightShapeIsRejected_0": "input W has shape",
    "ort/rnn_RNN_with_invalid_activation_load_failure_0": "Invalid_activation",
}


@pytest.mark.parametrize("case", onnx_cases())
def test_shared_case(case: dict[str, Any]) -> None:
    path = CASES / case["file"]
    if case["name"] in REFUSED:
        with pytest.raises(GatestepError, match=REFUSED[case["name"]]) as refusal:
            read_onnx(path)
        assert str(path) in str(refusal.value)
        return
    graph = read_onnx(path)
    if case["expect"] == "ok":
        assert [port.name for port in graph.inputs] == list(case["inputs"])
        assert [port.name for port in graph.outputs] == list(case["outputs"])
    assert_sound(graph)


def small_models() -> list[bytes]:
    """Small models that use much of the format."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((1, 8, 3)).astype(np.float32),
        "r": helper.make_tensor("r", TensorProto.FLOAT, (1, 8, 2), rng.standard_normal(16)),
        "axes": np.array([1]),
    }
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r", "", "", "h0"], ["a", "hn"], name="cell", hidden_size=2, clip=3.0),
        helper.make_node("Squeeze", ["a", "axes"], ["b"]),
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.float32([2]))),
        helper.make_node("Twice", ["b", "k"], ["c"], domain="own"),
        helper.make_node("Split", ["c"], ["d", "e"], axis=2),
        helper.make_node("Concat", ["e", "d"], ["y"], axis=-1),
    ]
    body = [helper.make_node("Mul", ["p", "q"], ["t"]), helper.make_node("LeakyRelu", ["t"], ["u"], alpha=0.5)]
    inputs = [info("x", ("T", 1, 3)), info("h0", (1, 1, 2))]
    model = function_model(
        nodes, [own("Twice", ["p", "q"], ["u"], body)], inputs=inputs, outputs=["y", "hn"], weights=weights
    )
    plumbing = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Slice", ["s", "i", "j"], ["n"]),
        helper.make_node("ConstantOfShape", ["n"], ["z"], value=numpy_helper.from_array(np.float32([1]))),
        helper.make_node("Cast", ["z"], ["f"], to=TensorProto.DOUBLE),
        helper.make_node("Gemm", ["x", "g"], ["y"], transB=1),
        helper.make_node("Identity", ["f"], ["v"]),
    ]
    other = make(plumbing, outputs=["y", "v"], weights={"i": [0], "j": [1], "g": np.ones((4, 3), np.float32)})
    return [model.SerializeToString(), other.SerializeToString()]


def outcome(data: bytes) -> Graph | None:
    """Only our own errors may come out; everything else fails the test."""
    try:
        return read_onnx(data)
    except (ModelFormatError, UnsupportedModelError):
        return None


@pytest.mark.parametrize("data", small_models(), ids=["lstm", "plumbing"])
def test_cut_short_anywhere(data: bytes) -> None:
    assert outcome(data) is not None
    for end in range(len(data)):
        outcome(data[:end])


@pytest.mark.parametrize("data", small_models(), ids=["lstm", "plumbing"])
def test_any_bit_flipped(data: bytes) -> None:
    for k in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[k] ^= 1 << bit
            outcome(bytes(damaged))


@pytest.mark.parametrize("data", small_models(), ids=["lstm", "plumbing"])
def test_bytes_shuffled(data: bytes) -> None:
    rng = random.Random(1)
    for _ in range(2000):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            choice, k = rng.randrange(4), rng.randrange(len(damaged))
            if choice == 0:
                damaged[k] = rng.randrange(256)
            elif choice == 1:
                damaged[k:k] = damaged[rng.randrange(len(damaged)) :][: rng.randrange(40)]
            elif choice == 2:
                del damaged[k : k + rng.randrange(1, 20)]
            else:
                damaged[k : k + 9] = b"\xff" * 8 + b"\x7f"
        outcome(bytes(damaged))
