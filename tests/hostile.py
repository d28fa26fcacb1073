"""What tests of hostile files share."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import pytest
from gatestep.engine.errors import GatestepError


def assert_refused(
    read: Callable[[bytes], object],
    data: bytes,
    match: str | None,
    error: type[GatestepError],
    seconds: float,
    spare: int,
) -> None:
    """`read` raises `error` for the file, within so many seconds of work and three times its size and `spare` bytes."""
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(error, match=match):
            read(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < seconds
    assert peak < 3 * len(data) + spare
