from collections.abc import Sequence
from typing import Any

import numpy as np

class Reader:
    def __init__(self, buffer: np.ndarray[Any, np.dtype[np.uint8]], width: int) -> None: ...
    def seconds(self, count: int) -> float:
        """Time for reading everything `count` times."""

class KernelCall:
    def __init__(
        self, address: int, addresses: dict[int, int], n: Sequence[int], f: Sequence[float], keep: object
    ) -> None: ...
    def seconds(self, count: int) -> float:
        """Time for `count` calls, one after the other, denormals flushed as in a stream."""
