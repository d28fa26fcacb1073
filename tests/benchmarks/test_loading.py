"""Loading takes three times the file and 60 MB at the most. How long it takes is measured, but no test."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from gatestep.benchmarks import formats, loading, results, tables
from gatestep.benchmarks.cells import Net

SHARED = Path(__file__).resolve().parents[3] / "shared" / "models"
#: Of the shared cases, those whose weights count for something.
LARGE = 10**6

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is measured on Linux only")


@pytest.mark.parametrize("net", [loading.LARGE, Net("gru", 1401, 1401)], ids=str)
def test_files_of_fifty_megabytes_in_every_format(net: Net, tmp_path: Path) -> None:
    """A layer whose blocks are full, and one whose last rows are padded while they are packed."""
    written = formats.write(tmp_path, net)
    assert {format for _, format, _ in written} >= {"onnx", "onnx, external data", "gatestep", "safetensors", "npz"}
    for source in written:
        loaded = loading.measure(*source)
        assert not loaded.refused, loaded
        assert loaded.file_bytes > 45e6
        assert loaded.file_bytes < loaded.peak_bytes <= 3 * loaded.file_bytes + 60e6, loaded


def test_the_large_shared_cases() -> None:
    if not SHARED.is_dir():
        pytest.skip("no ../shared/models beside the repository")
    large = [source for source in loading.cases(SHARED) if source[2].stat().st_size >= LARGE]
    assert large
    for source in large:
        loaded = loading.measure(*source)
        assert loaded.peak_bytes <= loaded.limit_bytes, loaded


def test_the_table(tmp_path: Path) -> None:
    path = tmp_path / "no.onnx"
    path.write_bytes(b"\x08\x09")
    loaded = loading.measure("small", "onnx", path)
    assert "is not an ONNX file" in loaded.refused
    over = loading.Loaded("large", "pt", 10**6, 12.0, 64 * 10**6, "")
    made = results.Report(results.Surroundings.here({}), loading=[loaded, over])
    text = tables.markdown(made)
    assert "|large|pt|1.00|12|64.0|64×|102%|" in text.replace(" ", "")
    assert "for 1 of 2 files: not for large." in text
    assert '"peak_bytes": 64000000' in results.to_json(made)
