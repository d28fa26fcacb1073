"""The manners of a stream in real time: a step asks for no memory, `run` lets other threads work."""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from gatestep.benchmarks import allocations
from gatestep.benchmarks.cells import CELLS, Net

import gatestep


@pytest.fixture(scope="module")
def requests() -> dict[str, float]:
    """Requests for memory per call."""
    try:
        return allocations.measure(1000)
    except OSError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("cell", CELLS)
def test_step_asks_for_no_memory(requests: dict[str, float], cell: str) -> None:
    """Not once in 1000 steps, from `malloc` and all its relatives, with Python's objects taken from `malloc` too."""
    assert requests[f"{cell} step(x, out)"] == 0
    assert requests[f"{cell} step(x)"] == 0  # whose results are let go of


def test_the_count_counts(requests: dict[str, float]) -> None:
    """An object of a known kind, and the array that a step without `out` returns to one who keeps them."""
    assert requests[allocations.CONTROL] >= 1
    assert all(requests[f"{cell} step(x), kept"] >= 0.9 for cell in CELLS)


@pytest.fixture
def ticks() -> Iterator[list[float]]:
    """Times at which another thread had the interpreter, which it asks for every millisecond."""
    stamps: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.is_set():
            stamps.append(time.perf_counter())
            time.sleep(1e-3)

    thread = threading.Thread(target=tick)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)  # then a thread has the interpreter until it lets go of it by itself
    thread.start()
    try:
        yield stamps
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)


def ticks_during(stamps: list[float], call: Callable[[], object]) -> int:
    """How often the other thread had the interpreter in the middle half of a call."""
    begin = time.perf_counter()
    call()
    quarter = (time.perf_counter() - begin) / 4
    return sum(begin + quarter < stamp < begin + 3 * quarter for stamp in list(stamps))


def test_run_lets_other_threads_work(ticks: list[float]) -> None:
    """Another thread goes on while a recording is computed; while the interpreter is held, it does not."""
    hold = ctypes.PyDLL(None).usleep  # keeps the interpreter, which ctypes.CDLL would not
    assert ticks_during(ticks, lambda: hold(200_000)) == 0

    net = Net("lstm", 256, 512)
    stream = gatestep.load(net.file()).stream()
    length, passed, others = 250, 0.0, 0
    while passed < 0.4:  # long enough for the other thread to come around many times, on whatever machine
        length *= 2
        frames, out = np.zeros((length, net.inputs), np.float32), np.empty((length, net.hidden), np.float32)
        begin = time.perf_counter()
        others = ticks_during(ticks, functools.partial(stream.run, frames, out))
        passed = time.perf_counter() - begin
    assert others >= 3
