"""The shapes of the inputs, which a TorchScript file does not say, found by what the program does with them.

The number of axes of an input is tried: a program that is evaluated under a wrong assumption soon adds a matrix to
something that is none, or runs into an exception of its own. Sizes are learned: a layer takes as many features as its
weight has columns, and what the program checks before it raises an exception holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...engine.errors import GatestepError, ModelFormatError
from ...engine.graph import Dim

__all__ = ["Misfit", "Shapes"]

#: Numbers of axes, the likeliest first: a batch of frames; a batch of sequences; of images; one frame.
RANKS = (2, 3, 4, 1)
#: How often a program is evaluated at most.
MOST_TRIALS = 100


class Misfit(ModelFormatError):
    """Under the present assumption on the inputs the program makes no sense."""


@dataclass
class _Step:
    """The rank of an input was assumed, or, under that, something was learned."""

    name: str
    value: Any
    left: tuple[int, ...] = ()


@dataclass
class Shapes:
    """What is assumed and known of the inputs.

    Attributes
    ----------
    source : str
        For messages.
    loose : bool
        Whether layers may be given a single sequence, image or frame where they usually get a batch.
    ranks : tuple of int
        Numbers of axes to try.
    """

    source: str
    loose: bool = False
    ranks: tuple[int, ...] = RANKS
    #: Shapes that are known from elsewhere.
    given: dict[str, tuple[Dim, ...] | None] = field(default_factory=dict)
    dtypes: dict[str, np.dtype[Any]] = field(default_factory=dict)
    sums: dict[str, tuple[str, int]] = field(default_factory=dict)
    #: Free sizes that were added to each other, so that neither follows from their sum.
    joined: set[str] = field(default_factory=set)
    trail: list[_Step] = field(default_factory=list)
    changed: bool = False
    trials: int = 0
    #: The error of the trial that came furthest, and how far that was.
    worst: tuple[int, GatestepError] | None = None

    def rank(self, name: str) -> int:
        """The number of axes of an input, assumed if need be."""
        for step in self.trail:
            if step.name == name:
                return int(step.value)
        self.trail.append(_Step(name, self.ranks[0], self.ranks[1:]))
        return self.ranks[0]

    def shape(self, name: str) -> tuple[Dim, ...]:
        """The shape of an input."""
        given = self.given.get(name)
        if given is not None:
            return tuple(self.resolved(dim) for dim in given)
        return tuple(self.resolved(f"{name}_{axis}") for axis in range(self.rank(name)))

    def resolved(self, dim: Dim) -> Dim:
        """What is known of a size by now."""
        known = {step.name: step.value for step in self.trail}
        for _ in range(len(known) + 1):
            if not isinstance(dim, str):
                break
            if dim in self.sums:
                part, more = self.sums[dim]
                size = self.resolved(part)
                return size + more if isinstance(size, int) else dim
            if dim not in known:
                break
            dim = known[dim]
        return dim

    def plus(self, dim: str, more: int) -> str:
        """The name of a size that is greater by `more`."""
        name = f"{dim}+{more}"
        self.sums[name] = (dim, more)
        return name

    def equal(self, one: Dim, other: Dim) -> None:
        """Learn that two sizes are equal, or find that they cannot be."""
        one, other = self.resolved(one), self.resolved(other)
        if one is None or other is None or one == other:
            return
        if isinstance(one, int) and isinstance(other, int):
            raise self.misfit(f"{one} elements where there should be {other}")
        name, value = (one, other) if isinstance(one, str) else (other, one)
        if name in self.sums and isinstance(value, str) and value not in self.sums:
            name, value = value, name
        assert isinstance(name, str)
        if name in self.sums:
            if isinstance(value, str):
                return
            name, more = self.sums[name]
            assert isinstance(value, int)
            value -= more
            if value < 0:
                raise self.misfit(f"{value + more} elements where there should be at least {more}")
            return self.equal(name, value)
        self.trail.append(_Step(name, value))
        self.changed = True
        return None

    def misfit(self, what: str) -> Misfit:
        return Misfit(f"{self.source}: {what}")

    def integers(self, name: str) -> None:
        """Learn that an input holds integers."""
        self.dtypes[name] = np.dtype(np.int64)
        self.changed = True

    def again(self, error: GatestepError | None, progress: int) -> bool:
        """Whether to evaluate once more, after a trial that came as far as `progress`."""
        self.trials += 1
        changed, self.changed = self.changed, False
        if self.trials >= MOST_TRIALS:
            return False
        if error is None or changed:
            return changed
        if self.worst is None or progress > self.worst[0]:
            self.worst = (progress, error)
        while self.trail:
            step = self.trail.pop()
            if step.left:
                self.trail.append(_Step(step.name, step.left[0], step.left[1:]))
                return True
        if not self.loose:
            self.loose = True
            return True
        return False


def fixed(shape: Sequence[Dim] | None) -> bool:
    """Whether every size is known."""
    return shape is not None and all(isinstance(size, int) for size in shape)
