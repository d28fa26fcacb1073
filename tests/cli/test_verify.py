"""`verify` and `convert` on the command line: what agrees passes, and what is wrong anywhere does not."""

from __future__ import annotations

import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import FRAMES, Run, good, refused, save
from gatestep.engine import plan
from gatestep.engine.ops import OPS
from gatestep.kernels import pack
from onnx import TensorProto, helper

import gatestep
from gatestep import nn
from gatestep._verify import compared

MODELS = ["gru", "bidirectional", "blocks", "two", "tokens", "levels", "fixed"]


@pytest.mark.parametrize("name", MODELS)
def test_sound_models_pass(run: Run, models: Path, name: str) -> None:
    pytest.importorskip("onnxruntime")
    said = good(run("verify", models / f"{name}.onnx"))
    assert " 0 disagree" in said
    assert "oracle" in said
    assert "onnxruntime" in said
    assert ("same bits" in said) == gatestep.load(models / f"{name}.onnx").streams
    assert ("last index" in said) == (name == "tokens")


def test_states_by_hand(run: Run, models: Path) -> None:
    said = good(run("verify", models / "gru.onnx"))
    assert "states by hand" in said
    assert "last states" in said


def test_json_and_seed(run: Run, models: Path) -> None:
    first, again, other = (
        json.loads(good(run("verify", models / "gru.onnx", "--json", "--seed", seed))) for seed in (1, 1, 2)
    )
    assert first == again != other
    assert first["passed"] is True
    assert {"what", "against", "absolute", "relative", "tolerance", "passed", "note"} == set(first["checks"][0])


def test_inputs_of_ones_own(run: Run, models: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=FRAMES[:, None], h0=np.full((1, 1, 4), 0.25))
    assert "the inputs given" in good(run("verify", models / "gru.onnx", "--inputs", "in.npz"))
    np.savez(tmp_path / "odd.npz", x=FRAMES[:, None], z=FRAMES)
    refused(run("verify", models / "gru.onnx", "--inputs", "odd.npz"), 1, "odd.npz")
    refused(run("verify", models / "gru.onnx", "--inputs", "in.csv"), 2, ".npz")


def test_without_onnxruntime_a_line_says_so(run: Run, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    said = good(run("verify", models / "gru.onnx"))
    assert "not compared: onnxruntime: not installed" in said


def test_torch_is_asked_where_the_file_is_trusted(run: Run, tmp_path: Path) -> None:
    torch: Any = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(model, torch.zeros(5, 3)).save(str(tmp_path / "script.pt"))
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (torch.zeros(5, 3),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "program.pt2")
    said = run("verify", "script.pt", "--trusted").stdout
    assert "does not say what shape" in said  # TorchScript knows no shapes
    (name,) = re.findall("what shape (\\w+) has", said)
    np.savez(tmp_path / "in.npz", **{name: FRAMES})
    for words in (["script.pt", "--inputs", "in.npz"], ["program.pt2"]):
        assert "not compared: torch: not asked" in good(run("verify", *words))
        assert re.search(r" torch +\d", good(run("verify", *words, "--trusted")))


# ---------------------------------------------------------------------- it fails where something is wrong


def without_bias(original: Any) -> Any:
    def packed(w: Any, r: Any, b_ih: Any, *rest: Any, **options: Any) -> Any:
        return original(w, r, np.zeros_like(b_ih), *rest, **options)

    return packed


def nearly(original: Any) -> Any:
    def packed(w: Any, *rest: Any, **options: Any) -> Any:
        return original(np.asarray(w) * (1 + 1e-3), *rest, **options)

    return packed


def disagreeing(done: Any) -> list[str]:
    """The lines that say what disagrees, of a run that ended in failure for it."""
    assert (done.returncode, done.stderr) == (1, "")
    return [line for line in done.stdout.splitlines() if "DISAGREES" in line]


@pytest.mark.parametrize("wrong", [without_bias, nearly])
def test_a_wrong_kernel_is_found(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Any) -> None:
    rng = np.random.default_rng(5)
    shapes = {"weight_ih_l0": (12, 3), "weight_hh_l0": (12, 4), "bias_ih_l0": (12,), "bias_hh_l0": (12,)}
    np.savez(tmp_path / "gru.npz", **{name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()})
    good(run("verify", "gru.npz"))
    monkeypatch.setattr(pack, "pack_gru", wrong(pack.pack_gru))
    lines = disagreeing(run("verify", "gru.npz"))
    assert any("random" in line and "oracle" in line for line in lines)


def test_a_wrong_operator_is_found(run: Run, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OPS["Tanh"], "lower", lambda ctx, node, x: (ctx.view(x),))
    lines = disagreeing(run("verify", models / "two.onnx"))
    assert any("oracle" in line for line in lines)
    assert any("onnxruntime" in line for line in lines)


def test_a_wrong_recognition_is_found(run: Run, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle goes by the graph as imported, not by what was made of it."""

    def rewritten(graph: Any, *_: Any) -> Any:
        for name, array in graph.constants.items():
            graph.constants[name] = array * 1.01 if name == "r" else array
        return graph

    monkeypatch.setattr("gatestep.engine.passes.thawing.thawed", rewritten)
    assert disagreeing(run("verify", models / "two.onnx"))


def test_a_stream_that_begins_elsewhere_is_found(run: Run, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan.Plan, "fresh_memory", lambda self: np.full_like(self.initial, 62))
    lines = disagreeing(run("verify", models / "blocks.onnx"))
    assert any("frames" in line and "oracle" in line for line in lines)


def test_chunks_that_differ_are_found(run: Run, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = plan.Plan.program

    def other(self: Any, frames: int, *rest: Any) -> Any:
        program = original(self, frames, *rest)
        if frames == 8:
            program.instructions[0].f[0] = 0.25  # a clip that nothing else has
            program.instructions[0].n[11] = 1
        return program

    monkeypatch.setattr(plan.Plan, "program", other)
    lines = disagreeing(run("verify", models / "blocks.onnx"))
    assert any("run in one" in line and "same bits" in line for line in lines)


def test_denormals_count_as_zero(run: Run, tmp_path: Path) -> None:
    save(
        tmp_path / "sign.onnx",
        [
            helper.make_node("Sign", ["x"], ["s"]),
            helper.make_node("Abs", ["x"], ["a"]),
            helper.make_node("Log", ["a"], ["y"]),
        ],
        {"x": (["N", 3], TensorProto.FLOAT)},
        {"s": (["N", 3], TensorProto.FLOAT), "y": (["N", 3], TensorProto.FLOAT)},
        {},
    )
    assert "denormals" in good(run("verify", "sign.onnx"))


def test_infinities_and_nan_count() -> None:
    want = np.array([1.0, np.inf, np.nan])
    f32 = want.astype(np.float32)
    assert compared("", "", f32, want, 1e-6, "y").passed
    assert "2 values" in compared("", "", f32, want, 1e-6, "y").note
    for wrong in ([1, np.inf, 0], [1, -np.inf, np.nan], [np.nan, np.inf, np.nan], [1, 1e30, np.nan]):
        check = compared("", "", np.array(wrong, np.float32), want, 1e-6, "y")
        assert not check.passed
        assert "NaN or infinite" in check.note
    too_large = np.array([np.inf], np.float32)
    assert compared("", "", too_large, np.array([1e300]), 1e-6, "y").passed  # infinite in single precision
    assert not compared("", "", np.zeros((2, 1), np.float32), np.zeros((1, 2)), 1e-6, "y").passed
    assert not compared("", "", np.zeros(1, np.float32), -np.zeros(1, np.float32), 0.0, "y").passed


def test_weights_have_no_other_engine() -> None:
    weights = {"weight_ih_l0": np.ones((3, 2)), "weight_hh_l0": np.ones((3, 3))}
    report = gatestep.verify(weights, spec=nn.RNN(2, 3, bias=False))
    assert report.passed
    assert "none takes weights" in report.skipped[0]


# ---------------------------------------------------------------------- convert


def test_convert(run: Run, models: Path, tmp_path: Path) -> None:
    said = good(run("convert", models / "gru.onnx", "gru.gatestep"))
    assert "gru.gatestep: " in said
    assert "loads in" in said
    np.save(tmp_path / "x.npy", FRAMES)
    good(run("run", "gru.gatestep", "x.npy", "-o", "y.npy"))
    good(run("run", models / "gru.onnx", "x.npy", "-o", "z.npy"))
    assert (tmp_path / "y.npy").read_bytes() == (tmp_path / "z.npy").read_bytes()
    good(run("verify", "gru.gatestep"))
    said = good(run("inspect", "gru.gatestep"))
    assert re.search(rf"checksum [0-9a-f]{{8}}, of 'gru\.onnx' by gatestep {gatestep.__version__}\n$", said)
    assert sorted(os.listdir(tmp_path)) == ["gru.gatestep", "x.npy", "y.npy", "z.npy"]


def test_options_are_settled(run: Run, models: Path) -> None:
    good(run("convert", models / "gru.onnx", "gru.gatestep", "--dtype", "float64", "--state", "h0=hn"))
    assert "float64" in good(run("inspect", "gru.gatestep"))
    refused(run("inspect", "gru.gatestep", "--dtype", "float64"), 2, "dtype=", "convert again")
    refused(run("inspect", "gru.gatestep", "--state", "h0=hn"), 2, "states=")


def test_what_cannot_be_converted(run: Run, models: Path, tmp_path: Path) -> None:
    refused(run("convert", models / "text.onnx", "x.gatestep"), 1, "text.onnx")
    refused(run("convert", models / "gru.onnx", "none/x.gatestep"), 2, "none")
    refused(run("convert", models / "gru.onnx", "x.gatestep", "--fix", "teapot"), 2, "teapot")
    assert os.listdir(tmp_path) == []


def test_a_damaged_file(run: Run, models: Path, tmp_path: Path) -> None:
    good(run("convert", models / "gru.onnx", "gru.gatestep"))
    data = bytearray((tmp_path / "gru.gatestep").read_bytes())
    data[-70] ^= 1
    (tmp_path / "gru.gatestep").write_bytes(data)
    for command in ("inspect", "verify"):
        refused(run(command, "gru.gatestep"), 1, "gru.gatestep", "checksum")
