"""A file of the user's own in every engine that reads it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gatestep.benchmarks import models, peers, timing
from gatestep.benchmarks.cells import MODES, Net
from gatestep.benchmarks.measuring import measure_model

import gatestep
from gatestep.__main__ import main


@pytest.fixture
def own(tmp_path: Path) -> models.Own:
    """Two layers with states carried by hand."""
    path = tmp_path / "net.onnx"
    path.write_bytes(Net("lstm", 3, 5, layers=2, outputs=4).file())
    model = gatestep.load(path)
    return models.Own(str(path), model, model)


SHAPES = {"step": (1, 1), "sequence": (5, 1), "batch": (3, 2), "lockstep": (1, 3)}


@pytest.mark.parametrize("precision", ["float32", "w8"])
@pytest.mark.parametrize("mode", MODES)
def test_peers_compute_the_same(own: models.Own, mode: str, precision: str, brief: timing.Effort) -> None:
    """Step after step with the state carried, or call after call without; with smaller weights, nearly."""
    installed, _ = peers.available(["onnxruntime", "openvino"])
    if precision != "float32":
        own = replace(own, model=gatestep.load(own.source, precision=precision))
        if not own.reduced:
            pytest.skip("no kernels of w8 that are faster")
    shape = models.shape_of(own, mode)
    assert shape == (mode, *SHAPES[mode])
    made, absent = models.runners(own, shape, installed)
    if own.reduced:
        assert made.pop("gatestep float32")
    assert made.keys() == {peers.OURS, *installed}
    assert not absent
    seen = []
    for _ in range(3):
        results = {name: runner.advance() for name, runner in made.items()}
        seen.append(results[peers.OURS]["y"].reshape(-1))
        for name in installed:
            atol = 0.05 if own.reduced else 1e-6
            np.testing.assert_allclose(results[name]["y"].reshape(-1), seen[-1], atol=atol, err_msg=name)
    assert np.array_equal(seen[0], seen[1]) == (mode in ("sequence", "batch"))
    measured = measure_model(own, mode, installed, brief)
    assert measured.engines.keys() - {"gatestep float32"} == {peers.OURS, *installed}
    assert (measured.limit is not None) == (mode == "step")


def test_what_the_file_fixes(tmp_path: Path) -> None:
    """A file of one frame has no recordings."""
    path = tmp_path / "frame.onnx"
    path.write_bytes(Net("rnn", 3, 5).file(1, 1))
    model = gatestep.load(path)
    own = models.Own(str(path), model, model)
    assert models.shape_of(own, "sequence") == ("call", 1, 1)
    with pytest.raises(gatestep.UnsupportedModelError, match="fixes the frames of a call"):
        models.shape_of(own, "batch")


def test_rows_that_only_we_free(tmp_path: Path, brief: timing.Effort) -> None:
    """A file of one row and one frame steps with many here; a peer that refuses is left out with a line."""
    path = tmp_path / "frame.onnx"
    path.write_bytes(Net("rnn", 3, 5).file(1, 1))
    model = gatestep.load(path)
    own = models.Own(str(path), model, model)
    installed, _ = peers.available(["onnxruntime"])
    measured = measure_model(own, "lockstep", installed, brief)
    assert measured.rows == 3
    assert measured.engines.keys() == {peers.OURS}
    assert all("cannot run the file" in measured.absent[name] for name in installed)


def test_torch_is_asked_only_if_trusted(tmp_path: Path, brief: timing.Effort) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "net.pt"
    torch.jit.trace(torch.nn.GRU(3, 5), torch.zeros(4, 1, 3)).save(str(path))
    model = gatestep.load(path)
    _, absent = models.runners(models.Own(str(path), model, model), ("sequence", 4, 1), ["torch", "onnxruntime"])
    assert "--trusted" in absent["torch"]
    assert "does not read" in absent["onnxruntime"]
    measured = measure_model(models.Own(str(path), model, model, trusted=True), "sequence", ["torch"], brief)
    assert measured.engines["torch"].error < 1e-6


def test_a_peer_with_other_results_is_left_out(
    own: models.Own, brief: timing.Effort, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(own: models.Own, feeds: dict, results: dict, pairs: dict) -> models.Runner:
        made = models.runners(own, ("step", 1, 1), [])[0][peers.OURS]
        return models.Runner(lambda: {name: 2 * array for name, array in made.advance().items()}, made.timed)

    monkeypatch.setitem(models._READERS, "numpy", wrong)
    measured = measure_model(own, "step", ["numpy"], brief)
    assert measured.engines.keys() == {peers.OURS}
    assert "gives other results" in measured.absent["numpy"]


@pytest.mark.usefixtures("brief")
def test_command(own: models.Own, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that streams; a converted one, which no peer reads; one that needs the future."""
    assert main(["bench", "--quick", own.source]) == 0
    assert "| net.onnx |" in capsys.readouterr().out
    assert main(["bench", "--quick", "--precision=w8,float32", "--threads=1,2", "--peers=none", own.source]) == 0
    written = capsys.readouterr().out
    assert "gatestep 1 thread" in written
    if gatestep.load(own.source, precision="w8").precision == "w8":
        assert "state carried, smaller weights, 2 threads" in written
        assert "gatestep float32" in written
    gatestep.convert(own.source, tmp_path / "net.gatestep")
    assert main(["bench", "--quick", str(tmp_path / "net.gatestep")]) == 0
    assert "does not hold the original" in capsys.readouterr().out
    both = tmp_path / "both.onnx"
    both.write_bytes(Net("gru", 3, 5, bidirectional=True).file())
    assert main(["bench", "--quick", str(both)]) == 0
    written = capsys.readouterr().out
    assert "both.onnx step was skipped" in written
    assert "A recording of 5 frames" in written
