"""The command line, as a process and within this one, in an empty folder; and models for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import FRAMES, Done, Run, save, weights
from onnx import TensorProto, helper

from gatestep.__main__ import main


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small models."""
    folder = tmp_path_factory.mktemp("models")
    f32, i64 = TensorProto.FLOAT, TensorProto.INT64
    axis = {"axes": np.array([1])}
    squeeze = helper.make_node("Squeeze", ["y4", "axes"], ["y"])

    def recurrent(op: str, **attrs: object) -> onnx.NodeProto:
        return helper.make_node(op, ["x", "w", "r", "", "", *(["h0"] if op == "GRU" else [])], ["y4", "hn"], **attrs)

    save(
        folder / "gru.onnx",
        [recurrent("GRU", hidden_size=4), squeeze],
        {"x": (["T", 1, 3], f32), "h0": ([1, 1, 4], f32)},
        {"y": (["T", 1, 4], f32), "hn": ([1, 1, 4], f32)},
        {**weights(1, 3, 4, 3), **axis},
    )
    save(
        folder / "bidirectional.onnx",
        [recurrent("RNN", hidden_size=4, direction="bidirectional")],
        {"x": (["T", 1, 3], f32)},
        {"y4": (["T", 2, 1, 4], f32)},
        weights(2, 1, 4, 3),
    )
    save(
        folder / "blocks.onnx",
        [recurrent("RNN", hidden_size=8), squeeze],
        {"x": (["T", 1, 8], f32)},
        {"y": (["T", 1, 8], f32)},
        {**weights(1, 1, 8, 8), **axis},
    )
    save(
        folder / "two.onnx",
        [
            helper.make_node("Concat", ["a", "b"], ["x"], axis=2),
            recurrent("RNN", hidden_size=4),
            squeeze,
            helper.make_node("Tanh", ["a"], ["file"]),
        ],
        {"a": (["T", 1, 1], f32), "b": (["T", 1, 2], f32)},
        {"y": (["T", 1, 4], f32), "file": (["T", 1, 1], f32)},
        {**weights(1, 1, 4, 3), **axis},
    )
    save(
        folder / "tokens.onnx",
        [helper.make_node("Gather", ["table", "ids"], ["x"]), recurrent("RNN", hidden_size=4), squeeze],
        {"ids": (["T", 1], i64)},
        {"y": (["T", 1, 4], f32)},
        {**weights(1, 1, 4, 3), **axis, "table": FRAMES},
    )
    save(
        folder / "levels.onnx",
        [recurrent("RNN", hidden_size=1), helper.make_node("Squeeze", ["y4", "inner"], ["y"])],
        {"x": (["T", 1, 1], f32)},
        {"y": (["T"], f32)},
        {**weights(1, 1, 1, 1), "inner": np.array([1, 2, 3])},
    )
    save(
        folder / "fixed.onnx",
        [
            recurrent("RNN", hidden_size=4),
            helper.make_node("Reshape", ["y4", "shape"], ["flat"]),
            helper.make_node("MatMul", ["flat", "matrix"], ["y"]),
        ],
        {"x": ([5, 1, 3], f32)},
        {"y": ([1, 2], f32)},
        {**weights(1, 1, 4, 3), "shape": np.array([1, 20]), "matrix": np.ones((20, 2), np.float32)},
    )
    (folder / "text.onnx").write_text("not a model\n")
    return folder


@pytest.fixture
def shell(tmp_path: Path) -> Run:
    """Run the command line as a process of its own, in an empty folder."""

    def call(*arguments: object, env: dict[str, str] | None = None) -> Done:
        return subprocess.run(
            [sys.executable, "-m", "gatestep", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONIOENCODING": "utf-8", **(env or {})},
            capture_output=True,
            encoding="utf-8",
            stdin=subprocess.DEVNULL,
            timeout=120,
        )

    return call


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The same within this process, which saves starting another one for every case."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Done:
        code = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, said.out, said.err)

    return call
