"""docs/importers.md is what its script writes: every row and column is there, and a sample of them still holds."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("torch")

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script that writes the table; TorchScript looks modules of classes up by name."""
    spec = importlib.util.spec_from_file_location("make_importers", DOCS / "make_importers.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules["make_importers"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def table() -> dict[str, dict[str, str]]:
    """The committed cells, by row and column."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (DOCS / "importers.md").read_text().splitlines()
        if line.startswith("|")
    ]
    header, _, *body = rows
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in body}


def test_every_row_and_column_is_there(script: ModuleType, table: dict[str, dict[str, str]]) -> None:
    assert list(table) == [kind.title for kind in script.KINDS]
    assert {tuple(row) for row in table.values()} == {tuple(script.FILES)}


def test_notes_are_those_of_the_cells(table: dict[str, dict[str, str]]) -> None:
    cited = {cell.partition("[")[2].rstrip("]") for row in table.values() for cell in row.values() if "[" in cell}
    notes = re.findall(r"^(\d+)\. ", (DOCS / "importers.md").read_text(), re.MULTILINE)
    assert notes == [str(k) for k in range(1, len(cited) + 1)]
    assert cited == set(notes)


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("GRU", "ONNX, TorchScript exporter, dynamic"),
        ("GRU", "ONNX, dynamo exporter, dynamic"),
        ("LSTM, bidirectional", "ONNX, TorchScript exporter, static"),
        ("LSTM, projection", "ONNX, dynamo exporter, static"),
        ("LSTM, projection", "state_dict, .pt"),
        ("GRU, LayerNorm, Linear, Sigmoid", "state_dict, .safetensors"),
        ("LSTM, 2 layers", ".pt2, static"),
        ("Embedding, GRU, Linear", "TorchScript, traced"),
    ],
)
def test_a_sample_holds(script: ModuleType, table: dict[str, dict[str, str]], kind: str, file: str) -> None:
    if "dynamo" in file:
        pytest.importorskip("onnxscript")
    result = script.examine(next(k for k in script.KINDS if k.title == kind), file)
    committed = table[kind][file]
    assert committed.split()[0] == ("—" if result.error is None else "streams" if result.streams else "whole")
    assert result.error is None or result.error < script.TOLERANCE
