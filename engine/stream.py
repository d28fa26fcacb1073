"""A stream: one model, its state, one caller at a time."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._machine import Frame, Stepper
from .errors import ShapeError, StateError

if TYPE_CHECKING:
    from .model import Model
    from .plan import Plan

__all__ = ["Snapshot", "StateView", "Stream"]


class Snapshot(NamedTuple):
    """The state of a stream at one moment, for `Stream.restore`."""

    plan: Plan
    memory: bytes


class StateView(MutableMapping[str, np.ndarray]):
    """The state of a stream by name: reading copies it out, assigning copies in, in the file's own layout.

    Names are the file's state inputs; where the file starts from its own initial state, the outputs that show the final
    one, or else ``"<node>.h"`` and ``"<node>.c"``, of shape ``(directions, B, H)``. What a convolution or pooling keeps
    of the frames before is ``"<node>.frames"``, what a running reduction keeps ``"<node>.mean"`` and the like.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream, self._plan, self._memory = stream, stream._plan, stream._memory

    def __getitem__(self, name: str) -> np.ndarray:
        place = self._plan.states[name]
        self._stream.check_idle()
        return np.asarray(self._memory.view(self._plan.kept_as(name))[place].astype(self._plan.port_dtype(name)))

    def __setitem__(self, name: str, value: Any) -> None:
        place = self._plan.states.get(name)
        if place is None:
            raise StateError(f"there is no state {name!r}; this stream has {list(self._plan.states)}")
        array, kept = np.asarray(value), self._plan.kept_as(name)
        if array.shape != place.shape:
            raise ShapeError(f"state {name!r} has shape {array.shape}, expected {place.shape}")
        if array.dtype.kind not in "fiub":
            raise ShapeError(f"state {name!r} has dtype {array.dtype}, expected {kept}")
        with np.errstate(over="ignore", invalid="ignore"):
            exact = array.astype(kept)
        if not np.array_equal(exact, array, equal_nan=array.dtype.kind == "f"):
            raise ShapeError(f"state {name!r} has {array.dtype} values that {kept} cannot hold exactly")
        self._stream.check_idle()
        self._memory.view(kept)[place] = exact

    def __delitem__(self, name: str) -> None:
        raise StateError("a state cannot be deleted; reset() starts afresh")

    def __iter__(self) -> Iterator[str]:
        return iter(self._plan.states)

    def __len__(self) -> int:
        return len(self._plan.states)

    def __repr__(self) -> str:
        return f"{{{', '.join(f'{name!r}: {place.shape}' for name, place in self._plan.states.items())}}}"


class Stream(Stepper):
    """One run through a model, frame by frame: the state and every buffer, allocated here and never again.

    Made by `Model.stream`. A stream serves one caller at a time; different streams of one model may run in different
    threads.

    Attributes
    ----------
    inputs, outputs : tuple of Frame
        The frame at each port: `name`, `shape`, `dtype`.
    batch : int or None
        Rows that step together.
    hop : int
        Frames of the file that a step takes.
    delay : int
        The result of step n belongs to step n - delay; the first `delay` results stand for what was before the
        recording, and are zeros.
    """

    def __init__(self, plan: Plan, batch: int | None) -> None:
        self.batch = batch
        self._plan = plan
        self._memory = plan.fresh_memory()
        program = plan.program(1)
        super().__init__(
            program.bind(self._memory),
            tuple(Frame(*spec) for spec in plan.frames(batch, plan.inputs)),
            tuple(Frame(*spec) for spec in plan.frames(batch, plan.outputs)),
            self._memory,
            program.weight_bytes > RELEASE_ABOVE or program.shared,
            program.fallible,
            *plan.beginning(self._memory),
        )

    @property
    def hop(self) -> int:
        """Frames of the file that a step takes."""
        return self._plan.model.hop

    @property
    def delay(self) -> int:
        """By how many steps results are late."""
        return self._plan.delay

    @property
    def model(self) -> Model:
        """The model that this is a stream of."""
        return self._plan.model

    @property
    def state(self) -> StateView:
        """Mapping from the name of each state to its array; assign to set one."""
        return StateView(self)

    def reset(self) -> None:
        """Go back to the model's initial state."""
        self.check_idle()
        self._memory[:] = self._plan.initial

    def snapshot(self) -> Snapshot:
        """The present state, to come back to with `restore`."""
        self.check_idle()
        return Snapshot(self._plan, self._memory.tobytes())

    def restore(self, snapshot: Snapshot) -> None:
        """Take the state of a snapshot of this stream, or of any other of the same model and batch.

        Raises
        ------
        StateError
            The snapshot is of another model or batch.
        """
        if snapshot.plan is not self._plan:
            raise StateError("the snapshot is of another model, or of another batch")
        self.check_idle()
        self._memory[:] = np.frombuffer(snapshot.memory, np.uint8)

    def fork(self) -> Stream:
        """A new stream in the same state, going its own way from here."""
        self.check_idle()
        other = Stream(self._plan, self.batch)
        other._memory[:] = self._memory
        return other

    def build_chunks(self) -> list[tuple[int, Any]]:
        """Machines for chunks of frames."""
        return [(size, self._plan.program(size).bind(self._memory)) for size in self._plan.chunk_sizes]

    def failure(self, call: int, frame: int, begins: bool) -> ShapeError:
        """The error for a kernel that refused what it read."""
        return self._plan.failure(call, frame, begins)

    def __repr__(self) -> str:
        return f"<Stream of {self.model.source} batch={self.batch} state={self.state!r}>"


#: Packed bytes from which a step takes long enough that letting other threads run costs nothing noticeable.
RELEASE_ABOVE = 1 << 20
