"""How much work a program may be."""

from __future__ import annotations

from ...engine.errors import UnsupportedModelError

__all__ = ["Budget", "TooMuch"]

#: Statements that are evaluated, all evaluations of a program together.
MOST_STEPS = 1_000_000
#: Operators, and elements of lists that they are given: in one evaluation, and in all.
MOST_OPERATORS = 60_000
MOST_IN_ALL = 400_000


class TooMuch(UnsupportedModelError):
    """The program is more work than any model is; nothing that is assumed of its inputs would change that."""


class Budget:
    """What is left for a program.

    Parameters
    ----------
    source : str
        For messages.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.steps, self.all, self.operators = MOST_STEPS, MOST_IN_ALL, MOST_OPERATORS

    def begin(self) -> None:
        """Begin an evaluation."""
        self.operators = MOST_OPERATORS

    @property
    def spent(self) -> int:
        """Operators of this evaluation."""
        return MOST_OPERATORS - self.operators

    def step(self) -> None:
        """Take a statement."""
        self.steps -= 1
        if self.steps < 0:
            raise TooMuch(f"its program takes more than {MOST_STEPS} steps", source=self.source)

    def operator(self, count: int = 1) -> None:
        """Take operators."""
        self.operators -= count
        self.all -= count
        if self.operators < 0 or self.all < 0:
            raise TooMuch(f"its program calls operators more than {MOST_OPERATORS} times", source=self.source)
