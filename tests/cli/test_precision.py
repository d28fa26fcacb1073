"""``--precision`` and ``--max-error`` on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import FRAMES, Run, good, refused
from gatestep.kernels import fastest_first, tier_build, tiers

import gatestep

pytestmark = pytest.mark.skipif(tier_build("w8") is None, reason="float32 is faster here, and stands in")


@pytest.fixture(autouse=True, scope="module")
def small_nets_too() -> Iterator[None]:
    """The tiers on nets of any size: tests are made of small ones."""
    with pytest.MonkeyPatch.context() as patch:
        for tier in tiers.WORTH:
            patch.setitem(tiers.WORTH, tier, 0)
        yield


@pytest.mark.parametrize("name", ["gru", "bidirectional", "tokens", "fixed"])
@pytest.mark.parametrize("tier", ["w8a8", "w8", "w16", "bfloat16"])
def test_verify_prints_the_error_against_float32(run: Run, models: Path, name: str, tier: str) -> None:
    said = good(run("verify", models / f"{name}.onnx", "--precision", tier))
    assert re.search(rf"precision {tier}: at most \d\.\de-\d\d from float32 \(", said)
    assert re.search(r" float32 +\d", said)
    assert ("same bits" in said) == gatestep.load(models / f"{name}.onnx").streams
    assert " 0 disagree" in said


def test_verify_on_ones_own_data(run: Run, models: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=FRAMES[:, None], h0=np.full((1, 1, 4), 0.25))
    words = ("verify", models / "gru.onnx", "--precision", "w8", "--inputs", "in.npz")
    assert re.search(r"precision w8: \d\.\de-\d\d from float32 on the inputs given", good(run(*words)))
    report = json.loads(good(run(*words, "--json")))
    assert report["precision"] == "w8"
    assert 0 < report["deviation"]["the inputs given"] < 0.05
    assert 0 < max(report["deviation"].values()) < 0.2  # inputs 100 times as large saturate every gate


def test_verify_holds_to_max_error(run: Run, models: Path) -> None:
    words = ("verify", models / "gru.onnx", "--precision", "w8", "--max-error")
    good(run(*words, "0.1"))
    done = run(*words, "1e-5")
    assert done.returncode == 1
    assert any("float32" in line and "DISAGREES" in line for line in done.stdout.splitlines())


def test_auto(run: Run, models: Path, tmp_path: Path) -> None:
    words = ("--precision", "auto", "--max-error")
    assert f"kept as {fastest_first()[0]}:" in good(run("inspect", models / "gru.onnx", *words, "0.3"))
    assert "kept as w16" in good(run("inspect", models / "gru.onnx", *words, "3e-3"))
    assert "precision w16: at most" in good(run("verify", models / "gru.onnx", *words, "3e-3"))
    np.savez(tmp_path / "in.npz", x=np.zeros_like(FRAMES[:, None]), h0=np.zeros((1, 1, 4)))
    good(run("convert", models / "gru.onnx", "m.gatestep", *words, "1e-6", "--inputs", "in.npz"))
    assert gatestep.load(tmp_path / "m.gatestep").precision == fastest_first()[0]  # of nothing, it makes nothing
    refused(run("inspect", models / "gru.onnx", "--precision", "auto"), 2, "go together")
    refused(run("inspect", models / "gru.onnx", *words, "-1"), 2, "-1")


def test_inspect_says_which_nets(run: Run, models: Path) -> None:
    for name, node in (("gru", "GRU"), ("bidirectional", "RNN")):
        said = good(run("inspect", models / f"{name}.onnx", "--precision", "w16"))
        assert re.search(rf"kept as w16: {node}", said)
        assert "kept as float32: biases" in said
    assert "kept as" not in good(run("inspect", models / "gru.onnx"))


def test_convert_records_it(run: Run, models: Path) -> None:
    good(run("convert", models / "gru.onnx", "m.gatestep", "--precision", "w8"))
    assert "kept as w8: GRU" in good(run("inspect", "m.gatestep"))
    assert "precision w8: at most" in good(run("verify", "m.gatestep"))
    refused(run("inspect", "m.gatestep", "--precision", "w16"), 2, "precision=")
