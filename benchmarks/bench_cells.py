"""Micro benchmarks for development: ``pytest benchmarks/bench_cells.py`` (with pytest-benchmark)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gatestep.benchmarks.cells import CELLS, SIZES, Layer

import gatestep


@pytest.fixture(params=[(cell, *size) for cell in CELLS for size in SIZES], ids=lambda p: f"{p[0]}-{p[1]}x{p[2]}")
def layer(request: pytest.FixtureRequest) -> Layer:
    """Each layer of the grid."""
    return Layer(*request.param)


def test_step(benchmark: Any, layer: Layer) -> None:
    """One frame into memory that is there."""
    stream = gatestep.load(layer.file).stream()
    benchmark(stream.step, np.ones(layer.inputs, np.float32), np.empty(layer.hidden, np.float32))


def test_run(benchmark: Any, layer: Layer) -> None:
    """A recording of 200 frames."""
    stream = gatestep.load(layer.file).stream()
    benchmark(stream.run, np.ones((200, layer.inputs), np.float32), np.empty((200, layer.hidden), np.float32))
