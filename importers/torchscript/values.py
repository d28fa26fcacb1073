"""What names stand for while a TorchScript program is evaluated.

None, bool, int, float, str, list, tuple and dict are themselves; `SymInt` is a whole number that is known when the
model is called; `Inert` is a module or another object. The rest is here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ...engine.errors import UnsupportedModelError
from ..aten import SymInt, Tensor

__all__ = ["Appended", "Blank", "Fact", "Named", "Past", "Rank", "Size", "Stacked", "Unknown", "Var"]

#: Two sizes that are equal.
Fact = tuple[Any, Any]


@dataclass(eq=False)
class Var:
    """A tensor as the program sees it: something that can be written into.

    Attributes
    ----------
    tensor : Tensor
        Its value at present.
    version : int
        How often it was written.
    base, made, seen : Var or None, function, int
        Of a view: what it is a view of, how its value is made from that of the base, and the version of the base that
        `tensor` was made from.
    scatter : function or None
        How the value of the base is made from that of the base and of the view; None where that is not possible.
    broken : str
        Why it cannot be read any more.
    failed : Exception or None
        Why there was never anything to read; what nothing reads does not matter.
    """

    tensor: Tensor
    base: Var | None = None
    made: Callable[[Tensor], Tensor] | None = None
    scatter: Callable[[Tensor, Tensor], Tensor] | None = None
    seen: int = 0
    version: int = 0
    broken: str = ""
    failed: UnsupportedModelError | None = None

    def read(self) -> Tensor:
        """Its value, after what was written into its base."""
        if self.failed is not None:
            raise self.failed
        base = self.base
        if base is not None and self.made is not None and not (base.broken and base.version == self.seen):
            below = base.read()
            if base.version != self.seen:
                self.tensor, self.seen = self.made(below), base.version
                self.version += 1
        if self.broken:
            raise ValueError(self.broken)
        return self.tensor

    def write(self, tensor: Tensor) -> None:
        """Give it, and what it is a view of, another value."""
        self.read()
        self.tensor = tensor
        self.version += 1
        if self.base is not None:
            if self.scatter is not None:
                self.base.write(self.scatter(self.base.read(), tensor))
            else:
                self.base.version += 1
                self.base.broken = "it was written into through a view of it, in a way that is not followed"
            self.seen = self.base.version


class Rank(int):
    """A number of axes: an integer that says what it counts."""


@dataclass(frozen=True)
class Size(SymInt):
    """The size of an axis whose name is known."""

    dim: str = ""


class Past(Size):
    """A size in an earlier call: it can be compared, and is nowhere in the graph."""


@dataclass(frozen=True, eq=False)
class Unknown:
    """A truth value that is known when the model is called.

    Attributes
    ----------
    tensor : Tensor or None
        Where the graph computes it.
    if_true, if_false : tuple of Fact
        What is known in either case.
    """

    tensor: Tensor | None = None
    if_true: tuple[Fact, ...] = ()
    if_false: tuple[Fact, ...] = ()

    def negated(self) -> Unknown:
        return Unknown(None, self.if_false, self.if_true)


class Named(tuple[Any, ...]):
    """A named tuple."""

    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Blank:
    """A variable that is declared and not set."""


@dataclass(eq=False)
class Stacked:
    """A list of tensors that is one tensor, with the list along an axis.

    Attributes
    ----------
    whole : Var
    axis : int
    length : int or SymInt or None
        Of the list; None where that is the size of the axis.
    """

    whole: Var
    axis: int
    length: Any = None


@dataclass(eq=False)
class Appended:
    """A list in the body of a loop that only appends to it."""

    values: list[Any] = field(default_factory=list)
