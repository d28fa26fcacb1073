"""``gatestep bench``: what was typed wrong is an error before anything is measured."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from command_line import Run, good, refused
from gatestep.benchmarks import suite


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No need to start again with one thread."""
    for name in suite.VARIABLES:
        monkeypatch.setenv(name, "1")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--sizes", "3"),
        ("--sizes", "0x4"),
        ("--sizes", "axb"),
        ("--cells", "x"),
        ("--nets", "x"),
        ("--modes", "x"),
        ("--parts", "x"),
        ("--peers", "x"),
        ("--precision", "x"),
        ("--threads", "0"),
        ("--threads", "x"),
    ],
)
def test_wrong_values(run: Run, option: str, value: str) -> None:
    refused(run("bench", option, value), 2, option, repr(value), "gatestep bench --help")


def test_wrong_files(run: Run, tmp_path: Path) -> None:
    refused(run("bench", "none.onnx"), 1, "none.onnx", "No such file")
    refused(run("bench", "--json", "nowhere/x.json"), 1, "nowhere")
    refused(run("bench", "--compare", "old.json"), 1, "old.json", "No such file")
    (tmp_path / "old.json").write_text("[]")
    refused(run("bench", "--compare", "old.json"), 2, "old.json", "schema")
    (tmp_path / "old.json").write_text("{")
    refused(run("bench", "--compare", "old.json"), 2, "old.json", "not the JSON of a run")


@pytest.mark.parametrize(("package", "arguments"), [("matplotlib", ["--html", "r.html"]), ("onnx", [])])
def test_missing_extra(run: Run, monkeypatch: pytest.MonkeyPatch, package: str, arguments: list[str]) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    refused(run("bench", *arguments), 1, package, "gatestep[bench]")


def test_help(shell: Run) -> None:
    said = good(shell("bench", "--help"))
    for word in ("MODEL", "--compare", "litert", "pip install 'gatestep[bench]'"):
        assert word in said
