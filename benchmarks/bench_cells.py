"""Micro benchmarks for development: ``pytest benchmarks/bench_cells.py`` (with pytest-benchmark)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gatestep.benchmarks.cells import CELLS, SIZES, Net

import gatestep


@pytest.fixture(params=[(cell, *size) for cell in CELLS for size in SIZES], ids=lambda p: f"{p[0]}-{p[1]}x{p[2]}")
def net(request: pytest.FixtureRequest) -> Net:
    """Each net of the grid."""
    return Net(*request.param)


def test_step(benchmark: Any, net: Net) -> None:
    """One frame into memory that is there."""
    stream = gatestep.load(net.file()).stream()
    benchmark(stream.step, np.ones(net.inputs, np.float32), np.empty(net.hidden, np.float32))


def test_run(benchmark: Any, net: Net) -> None:
    """A recording of 200 frames."""
    stream = gatestep.load(net.file()).stream()
    benchmark(stream.run, np.ones((200, net.inputs), np.float32), np.empty((200, net.hidden), np.float32))
