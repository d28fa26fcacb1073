"""The suite works: what it writes, what it skips, what it leaves alone. How fast anything is, is no test."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from gatestep.benchmarks import cold, footprint, peers, results, suite, tables
from gatestep.benchmarks import figures as figures_of

from gatestep.__main__ import main

README = f"# Title\n\nabove\n{tables.START}\nold\n{tables.END}\nbelow\n"


def figures(value: Any) -> list[float]:
    """Every number in what JSON holds."""
    if isinstance(value, dict):
        return [figure for part in value.values() for figure in figures(part)]
    if isinstance(value, list):
        return [figure for part in value for figure in figures(part)]
    return [value] if isinstance(value, (int, float)) else []


@pytest.mark.usefixtures("brief")
def test_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every cell, mode and peer at a size with a ragged block: JSON, Markdown, README, picture, page."""
    pytest.importorskip("matplotlib")
    readme = tmp_path / "README.md"
    readme.write_text(README)
    names = {"json": "r.json", "markdown": "r.md", "readme": "README.md", "plot": "p.svg", "html": "r.html"}
    files = [f"--{option}={tmp_path / name}" for option, name in names.items()]
    parts = "--parts=grid,kernels,tails,growth"
    assert main(["bench", "--quick", "--sizes=3x17", "--nets=none", parts, *files]) == 0
    assert capsys.readouterr().out == ""

    result = json.loads((tmp_path / "r.json").read_text())
    assert result["schema"] == results.SCHEMA
    assert result.keys() == {"schema", *results.Report.__dataclass_fields__}
    assert all(math.isfinite(figure) for figure in figures(result))
    installed, skipped = peers.available(peers.DEFAULT)
    assert result["skipped"] == skipped
    assert [(case["net"], case["mode"]) for case in result["cases"]] == [
        (f"{cell} 3→17", mode) for cell in ("LSTM", "GRU", "RNN") for mode in ("step", "sequence", "batch", "lockstep")
    ]
    for case in result["cases"]:
        assert case["engines"].keys() == {peers.OURS, *installed}
        assert case["ratios"].keys() == set(installed)
        for engine in case["engines"].values():
            assert 0 < engine["ns"]["least"] <= engine["ns"]["low"] <= engine["ns"]["median"] <= engine["ns"]["high"]
            assert (engine["p99_ns"] is None) == (case["mode"] not in ("step", "lockstep"))
            assert engine["error"] < 1e-5
        assert case["limit"]["median"] > 0
    assert len(result["kernels"]) == 3
    assert [growth["axis"] for growth in result["growth"]] == ["hidden", "layers", "rows", "streams"]
    (tails,) = result["tails"].values()
    assert {tail["name"] for tail in tails} == {peers.OURS, *installed}

    assert "| 3→17 |" in (tmp_path / "r.md").read_text()
    written = readme.read_text()
    assert written.startswith(f"# Title\n\nabove\n{tables.START}\nMeasured on ")
    assert written.endswith(f"\n{tables.END}\nbelow\n")
    ElementTree.parse(tmp_path / "p.svg")
    page = (tmp_path / "r.html").read_text()
    assert page.count("<svg") == 4
    assert not re.search(r'(src|href)="(?!#)', page), "the page needs nothing else"
    ids = re.findall(r'id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


@pytest.mark.usefixtures("brief")
def test_other_nets(tmp_path: Path) -> None:
    """What reads in both directions has no steps, and none of LiteRT's; the report says so."""
    readme, full = tmp_path / "README.md", tmp_path / "full.md"
    readme.write_text(README)
    arguments = ["--quick", "--cells=none", "--modes=step,sequence", "--parts=grid", "--peers=numpy,litert"]
    arguments += ["--nets=dtln,bilstm", "--precision=float32,w16", "--threads=1,2"]
    assert main(["bench", *arguments, f"--markdown={full}", f"--readme={readme}"]) == 0
    lines = [line for line in readme.read_text().splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in lines] == ["", ":" + "-" * 17, "2×LSTM 257→128→257"]
    assert len(re.findall(r"\*\*[\d.]+\*\*", lines[-1])) == 2
    assert "- A recording of 5 frames per call: the fastest peer takes" in readme.read_text()
    written = full.read_text()
    assert "2×LSTM. One frame per call" in written
    assert "BiLSTM. A recording of 5 frames per call" in written
    assert "BiLSTM. One frame" not in written
    assert "2×LSTM. One frame per call, state carried, smaller weights, 2 threads" in written
    if "litert" in peers.available(["litert"])[0]:
        assert "no step for what reads in both directions" in written


@pytest.mark.usefixtures("brief")
def test_absent_peer_is_skipped_with_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rest is measured, and the report says what is missing and what brings it."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    arguments = ["--quick", "--parts=grid", "--nets=none", "--cells=gru", "--sizes=2x5", "--modes=step"]
    assert main(["bench", *arguments, "--peers=onnxruntime,numpy"]) == 0
    written = capsys.readouterr()
    assert "onnxruntime is skipped" in written.err
    assert "gatestep[bench]" in written.err
    assert "onnxruntime was skipped" in written.out
    assert "numpy" in written.out


@pytest.mark.usefixtures("brief")
def test_kernels_need_no_peer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--quick", "--parts=kernels", "--sizes=2x5", "--peers=none"]) == 0
    assert "kernel ÷ read" in capsys.readouterr().out


def test_module() -> None:
    """``python -m gatestep.benchmarks`` is ``gatestep bench``, and starts itself again with one thread."""
    environment = {name: value for name, value in os.environ.items() if name not in suite.VARIABLES}
    code = [sys.executable, "-m", "gatestep.benchmarks", "--quick", "--parts=kernels", "--cells=rnn", "--sizes=2x5"]
    result = subprocess.run(
        [*code, "--peers=none"], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert "RNN 2→5" in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize("text", ["", "<!-- bench:end -->\n<!-- bench:start -->", "<!-- bench:start -->\n"])
def test_readme_without_markers_is_left_alone(tmp_path: Path, text: str) -> None:
    """Both markers, once, in order; or an error, and the file as it was."""
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(ValueError, match="bench:start"):
        suite.write_readme(path, "table")
    assert path.read_text() == text


def test_readme_keeps_every_other_byte(tmp_path: Path) -> None:
    """Line ends and letters outside the markers are not touched; writing twice is writing once."""
    path = tmp_path / "README.md"
    path.write_bytes(f"é\r\n{tables.START}\r\nold\r\n{tables.END}\r\nrest\n\n".encode())
    suite.write_readme(path, "new\n")
    once = path.read_bytes()
    assert once == f"é\r\n{tables.START}\nnew\n{tables.END}\r\nrest\n\n".encode()
    suite.write_readme(path, "new\n")
    assert path.read_bytes() == once


def test_tables_line_up() -> None:
    """As text, and as Markdown."""
    lines = figures_of.rows(["size", "a", "longer"], [["1→16", "1.00", "2"], ["512→1024", "10,000", ""]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "| :------- | -----: | -----: |"


def test_cold() -> None:
    """Fresh processes start, and say how long they took and how much memory they had."""
    taken = cold.measure([], 1)
    assert taken.import_ms > 0
    assert all(0 < start.median_ms < 60e3 for start in taken.first_frame.values())
    assert taken.first_frame["numpy"].over_numpy_ms == 0
    assert taken.first_frame.keys() == {"python", "numpy", "gatestep (.gatestep)", "gatestep (.onnx)"}
    if sys.platform == "linux":
        assert taken.first_frame["python"].peak_bytes < taken.first_frame["numpy"].peak_bytes < 500e6


def test_installed_size() -> None:
    """NumPy needs nothing else; what we need includes it."""
    sizes = footprint.installed(["gatestep", "numpy"])
    assert sizes["numpy"][0] == sizes["numpy"][1] > 10e6
    own, full = sizes["gatestep"]
    assert 1e5 < own <= full - sizes["numpy"][0]
