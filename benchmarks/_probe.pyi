from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

class Reader:
    def __init__(self, buffer: NDArray[Any], width: int) -> None: ...
    def seconds(self, count: int) -> float:
        """Time for reading everything `count` times."""

class Multiplier:
    PER_CALL: int
    def __init__(self, width: int) -> None: ...
    def seconds(self, count: int) -> float:
        """Time for `count` times `PER_CALL` products."""

class KernelCall:
    def __init__(
        self, address: int, addresses: dict[int, int], n: Sequence[int], f: Sequence[float], keep: object
    ) -> None: ...
    def seconds(self, count: int) -> float:
        """Time for `count` calls, one after the other, denormals flushed as in a stream."""
