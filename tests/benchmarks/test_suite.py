"""The suite works: what it writes, what it skips, what it leaves alone. How fast anything is, is no test."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gatestep.benchmarks import __main__ as command
from gatestep.benchmarks import bounds, cells, cold, peers, report, timing
from gatestep.benchmarks._probe import Reader
from gatestep.kernels import pack, reference

import gatestep

BRIEF = timing.Effort(seconds=1e-3, round_seconds=1e-4, least=3, tail=100)

LATENCY = {"median_ns": float, "best_ns": float, "p99_ns": (float, type(None))}
CASE = {
    "cell": str,
    "inputs": int,
    "hidden": int,
    "mode": str,
    "frames": int,
    "rows": int,
    "engines": dict,
    "ratios": dict,
    "p99_ratios": dict,
}
SCHEMA = {
    "schema": int,
    "surroundings": {
        "date": str,
        "processor": str,
        "cores": int,
        "load": float,
        "system": str,
        "isa": str,
        "versions": dict,
    },
    "skipped": dict,
    "bounds": list,
    "cases": list,
    "allocations": (dict, type(None)),
    "cold": (dict, type(None)),
    "loading": list,
}


def assert_schema(value: Any, schema: Any) -> None:
    """`value` has exactly the keys of `schema`, with values of its types, and no figure is NaN or negative."""
    if isinstance(schema, Mapping):
        assert value.keys() == schema.keys()
        for key, part in schema.items():
            assert_schema(value[key], part)
    else:
        assert isinstance(value, schema)
        if isinstance(value, float):
            assert math.isfinite(value)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure hardly at all."""
    monkeypatch.setattr(command, "QUICK", BRIEF)
    monkeypatch.setattr(cells, "BATCH", (3, 2))
    monkeypatch.setattr(cells, "SEQUENCE", (5, 1))


@pytest.mark.usefixtures("brief")
def test_whole_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every mode and peer at a size with a ragged block: JSON, Markdown, README."""
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\nabove\n{report.START}\nold\n{report.END}\nbelow\n")
    files = [f"--json={tmp_path / 'r.json'}", f"--markdown={tmp_path / 'r.md'}", f"--readme={readme}"]
    assert command.main(["--quick", "--no-process", "--sizes=3x17,2x5", *files]) == 0
    assert capsys.readouterr().out == ""

    result = json.loads((tmp_path / "r.json").read_text())
    assert_schema(result, SCHEMA)
    assert result["schema"] == report.SCHEMA
    installed, skipped = peers.available(peers.PEERS)
    assert result["skipped"] == skipped
    assert len(result["bounds"]) == 4
    assert len(result["cases"]) == 12
    for bound in result["bounds"]:
        assert bound.keys() == bounds.Bound.__dataclass_fields__.keys()
        assert bound["kernel_ns"] > 0
        assert bound["read_ns"] > 0
    for case in result["cases"]:
        assert_schema(case, dict.fromkeys(CASE, object) | CASE)
        assert case["engines"].keys() == {peers.OURS, *installed}
        assert case["ratios"].keys() == set(installed)
        assert case["p99_ratios"].keys() == (set(installed) if case["mode"] == "step" else set())
        for latency in case["engines"].values():
            assert_schema(latency, LATENCY)
            assert (latency["p99_ns"] is None) == (case["mode"] != "step")

    text = (tmp_path / "r.md").read_text()
    assert "| 3→17 |" in text
    assert "LSTM" in text
    assert "GRU" in text
    assert readme.read_text() == f"# Title\n\nabove\n{report.START}\n{text.strip()}\n{report.END}\nbelow\n"


@pytest.mark.usefixtures("brief")
def test_absent_peer_is_skipped_with_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rest is measured, and the report says what is missing."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    arguments = ["--quick", "--no-process", "--cells", "gru", "--sizes", "2x5", "--peers", "onnxruntime,numpy"]
    assert command.main([*arguments, "--modes", "step"]) == 0
    written = capsys.readouterr()
    assert "onnxruntime is skipped" in written.err
    assert "onnxruntime was skipped" in written.out
    assert "numpy" in written.out


@pytest.mark.usefixtures("brief")
def test_without_peers_or_modes_the_kernels_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """The kernels against the limit need no peer."""
    assert command.main(["--quick", "--no-process", "--sizes", "2x5", "--peers", "none", "--modes", "none"]) == 0
    assert "kernel ÷ read" in capsys.readouterr().out


@pytest.mark.usefixtures("brief")
def test_plot(tmp_path: Path) -> None:
    """A picture, if matplotlib is there."""
    pytest.importorskip("matplotlib")
    picture = tmp_path / "p.png"
    arguments = ["--quick", "--no-process", "--sizes", "2x5,3x17", "--peers", "numpy", "--modes", "step"]
    assert command.main([*arguments, "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "arguments", [["--sizes", "3"], ["--sizes", "0x4"], ["--sizes", "axb"], ["--cells", "x"], ["--peers", "x"]]
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One line that names what is wrong."""
    with pytest.raises(SystemExit) as error:
        command.main(arguments)
    assert error.value.code == 2
    assert repr(arguments[1]) in capsys.readouterr().err


def test_command() -> None:
    """``python -m gatestep.benchmarks`` starts itself again with one thread, and works from there."""
    environment = {name: value for name, value in os.environ.items() if name not in command.ONE_THREAD}
    code = [sys.executable, "-m", "gatestep.benchmarks", "--help"]
    result = subprocess.run(code, env=environment, capture_output=True, text=True, check=True)
    assert "--readme" in result.stdout


@pytest.mark.parametrize("cell", cells.CELLS)
@pytest.mark.parametrize("mode", cells.MODES)
def test_contenders_compute_the_cell(cell: str, mode: str) -> None:
    """Ours and every installed peer, call after call, against the definition of the cell."""
    shape = {"step": (1, 1), "sequence": (4, 1), "batch": (4, 3)}[mode]
    case = cells.Case(cells.Layer(cell, 5, 19), mode, *shape)
    w, r, b, c = case.layer.weights
    installed, _ = peers.available(peers.PEERS)
    calls = case.inputs(3 if mode == "step" else 1)
    frames = calls.reshape(-1, *calls.shape[2:])
    expected = (reference.lstm if cell == "lstm" else reference.gru)(frames, w, r, b, c)[0]
    for name in (peers.OURS, *installed):
        contender = peers.ours(case) if name == peers.OURS else peers.PEERS[name](case)
        results = []
        with contender.within:
            for x in calls:
                contender.feed[:] = x
                contender.call()
                results.append(contender.result().copy())
            assert contender.timed(3) > 0
        np.testing.assert_allclose(np.concatenate(results), expected, atol=1e-5, err_msg=name)


def test_unequal_results_are_never_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that computes something else stops the suite."""

    def wrong(case: cells.Case) -> peers.Contender:
        made = peers.numpy(case)
        return peers.Contender(made.call, made.feed, lambda: made.result() + 1e-2, made.timed)

    monkeypatch.setitem(peers.PEERS, "numpy", wrong)
    with pytest.raises(ArithmeticError, match="numpy"):
        peers.measure(cells.Case(cells.Layer("lstm", 2, 5), "step", 1, 1), ["numpy"], BRIEF)


@pytest.mark.parametrize("text", ["", "<!-- bench:end -->\n<!-- bench:start -->", "<!-- bench:start -->\n"])
def test_readme_without_markers_is_left_alone(tmp_path: Path, text: str) -> None:
    """Both markers, once, in order; or an error, and the file as it was."""
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(ValueError, match="bench:start"):
        report.write_readme(path, "table")
    assert path.read_text() == text


def test_readme_keeps_every_other_byte(tmp_path: Path) -> None:
    """Line ends and letters outside the markers are not touched; writing twice is writing once."""
    path = tmp_path / "README.md"
    path.write_bytes(f"é\r\n{report.START}\r\nold\r\n{report.END}\r\nrest\n\n".encode())
    report.write_readme(path, "new\n")
    once = path.read_bytes()
    assert once == f"é\r\n{report.START}\nnew\n{report.END}\r\nrest\n\n".encode()
    report.write_readme(path, "new\n")
    assert path.read_bytes() == once


@pytest.mark.parametrize("cell", cells.CELLS)
def test_kernel_call_is_the_step_of_a_stream(cell: str) -> None:
    """What is timed as the kernel gives the bits that as many steps give."""
    model = gatestep.load(cells.Layer(cell, 7, 33).file)
    x = np.linspace(-1, 1, 7, dtype=np.float32)
    call, weights, y = bounds.kernel_call(model, x)
    assert call.seconds(3) > 0
    stream = model.stream()
    np.testing.assert_array_equal(y, [stream.step(x) for _ in range(3)][-1])
    assert weights.nbytes == model.packed.nbytes


def test_reader_refuses_what_it_would_misread() -> None:
    """A wrong width, an empty or a misaligned buffer."""
    memory = pack.aligned_empty(256, np.uint8)
    assert Reader(memory, 16).seconds(2) > 0
    for buffer, width in ((memory, 8), (memory[1:], 16), (memory[:0], 16)):
        with pytest.raises(ValueError, match=r"width|buffer"):
            Reader(buffer, width)


def test_rounds_and_ratios() -> None:
    """Ratios are formed within a round: what slows a round down for all does not change them."""
    noise = np.array([1.0, 10.0, 1.0, 5.0])
    timed = timing.Rounds({"a": 2 * noise, "b": noise})
    assert timed.ratio("a", "b") == 2
    assert timed.best("a") == 2
    assert timed.median("b") == 3
    assert timed.difference("a", "b") == 3


def test_every_contender_has_as_many_rounds() -> None:
    """By turns, and as often."""
    order: list[str] = []

    def timed(name: str) -> timing.Timed:
        def run(count: int) -> float:
            order.append(name)
            return count * 1e-4

        return run

    result = timing.rounds({name: timed(name) for name in "abc"}, BRIEF)
    assert {len(ns) for ns in result.ns.values()} == {len(result.ns["a"])}
    assert [ns.round(3).tolist() for ns in result.ns.values()] == [[1e5] * len(result.ns["a"])] * 3
    assert order.count("a") == order.count("b") == order.count("c")


def test_cold() -> None:
    """Fresh processes start, and say how long they took."""
    taken = cold.measure([], 1)
    assert taken.import_ms > 0
    assert taken.first_frame_ms.keys() == {"python", "numpy", "gatestep"}
