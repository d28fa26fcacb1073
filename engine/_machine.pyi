"""The executor: a flat list of kernel calls over fixed memory, and the hot path of a stream through it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

Call = tuple[int, list[tuple[int, int, int]], list[int], list[float]]

#: Of loops that may have no end, in one run of a program.
MOST_ITERATIONS: int
#: That work is shared between.
MOST_THREADS: int
#: Addresses of a `gs_team` for calls that follow each other closely, and of one for calls that take long.
TEAMS: tuple[int, int]

class Machine:
    """A program bound to its memory."""

    def __init__(self, calls: list[Call], keep: object) -> None: ...
    def run(self, arrays: list[np.ndarray[Any, Any]]) -> int:
        """Make every call once over these arrays; the number of the call that failed, or -1."""

class Frame:
    """The layout of one frame at one port of a stream."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    constant: bool
    hop: int
    def __init__(self, name: str, shape: tuple[int, ...], dtype: DTypeLike, constant: bool, hop: int = 1) -> None: ...

class Stepper:
    """Machines, state and ports of one stream."""

    inputs: tuple[Frame, ...]
    outputs: tuple[Frame, ...]
    def __init__(
        self,
        machine: Machine,
        inputs: tuple[Frame, ...],
        outputs: tuple[Frame, ...],
        memory: np.ndarray[Any, Any],
        release: bool,
        fallible: bool,
        beginning: Machine | None = None,
        clock: int = 0,
        until: int = 0,
    ) -> None: ...
    def step(
        self,
        frame: Any | Mapping[str, Any] | tuple[Any, ...],
        out: Any | Mapping[str, Any] | tuple[Any, ...] | None = None,
    ) -> Any:
        """Advance by one frame."""

    def run(
        self,
        frames: Any | Mapping[str, Any] | tuple[Any, ...],
        out: Any | Mapping[str, Any] | tuple[Any, ...] | None = None,
    ) -> Any:
        """Advance by a chunk of frames, continuing from the present state."""

    def check_idle(self) -> None:
        """Raise StateError where another thread is inside this stream."""

    def build_chunks(self) -> list[tuple[int, Machine]]:
        """Machines for chunks of frames, longest first; made when first needed."""

    def failure(self, call: int, frame: int, begins: bool) -> Exception:
        """The error for a call that failed."""
