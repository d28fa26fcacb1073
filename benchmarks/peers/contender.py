"""What every contender is: a call, its input, its result."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from ..cells import Array, Case
from ..timing import Timed

__all__ = ["Absent", "Contender", "Make"]


class Absent(Exception):
    """A peer has nothing for this case; says why."""


@dataclass(frozen=True)
class Contender:
    """One way to make the calls of a case.

    Attributes
    ----------
    call : function
        Makes one call.
    feed : array
        Input of the next call, ``(T, B, I)``.
    result : function
        Output of the last call, ``(T, B, H)``.
    timed : function
        Makes many calls.
    within : context manager, optional
        What must be entered around all of it.
    """

    call: Callable[[], object]
    feed: Array
    result: Callable[[], Array]
    timed: Timed
    within: AbstractContextManager[object] = field(default_factory=nullcontext)


Make = Callable[[Case], Contender]
