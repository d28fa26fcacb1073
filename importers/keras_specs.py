"""Layers that Keras has and PyTorch has not, as specs."""

from __future__ import annotations

from dataclasses import dataclass

from ..engine.spec import LAST, Recurrence, Recurrent, Spec

__all__ = ["Ends", "Hardsigmoid2", "Layer", "Merge"]


@dataclass(frozen=True, repr=False)
class Layer(Recurrent):
    """A recurrent layer with activations of its own, batch-first."""

    held: Recurrence

    @property
    def recurrence(self) -> Recurrence:
        return self.held

    @property
    def batch_first(self) -> bool:
        return True


@dataclass(frozen=True, repr=False)
class Ends(Spec):
    """Where both halves of a Bidirectional end: the forward half at the last step, the backward half at the first."""

    def gives(self, form: str) -> str:
        return LAST


@dataclass(frozen=True, repr=False)
class Merge(Spec):
    """The halves of a Bidirectional made one: their sum, product or mean."""

    mode: str

    def width_out(self, width: int | None) -> int | None:
        return None if width is None else width // 2


@dataclass(frozen=True, repr=False)
class Hardsigmoid2(Spec):
    """What Keras called hard_sigmoid before version 3: ``clip(0.2 x + 0.5, 0, 1)``."""
