"""Gates of cells: an activation of a sum of dense terms, with what recurrent operators allow beside it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from ..graph import ACTIVATING
from ..ops.math import activation_of
from .affine import Affine, Known

__all__ = ["Activation", "Gate", "Gates"]

#: Name, alpha and beta, as the recurrent operators have them.
Activation = tuple[str, float, float]


@dataclass(frozen=True)
class Gate:
    """One gate.

    Attributes
    ----------
    activation : (str, float, float)
    sum : Affine
        What goes into it.
    peepholes : dict
        Value to the vector that it is multiplied by, element by element.
    clip : float, optional
        The limit that the sum is held within.
    """

    activation: Activation
    sum: Affine
    peepholes: dict[str, np.ndarray] = field(default_factory=dict)
    clip: float | None = None

    @property
    def plain(self) -> bool:
        """Whether nothing but dense terms goes into it."""
        return not self.peepholes

    def complement(self) -> Gate | None:
        """The gate that is one minus this one; None where no such gate is known."""
        name, alpha, beta = self.activation
        if name not in ("Sigmoid", "HardSigmoid") or not self.plain or (name == "HardSigmoid" and not alpha):
            return None
        turned = -self.sum
        if name == "HardSigmoid":  # 1 - clip(a x + b) = clip(a (-x + (1 - 2 b) / a) + b)
            if self.clip is not None and beta != 0.5:
                return None
            turned = replace(turned, bias=turned.bias + (1 - 2 * beta) / alpha)
        return replace(self, sum=turned)


class Gates:
    """The gates among the values of a graph."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self._found: dict[str, Gate | None] = {}

    def of(self, name: str) -> Gate | None:
        """The gate that makes this value."""
        if name not in self._found:
            self._found[name] = self._gate(name)
        return self._found[name]

    def activation(self, name: str) -> tuple[Activation, str] | None:
        """The activation that makes this value, and what goes into it."""
        node = self.known.made.get(name)
        if node is None:
            return None
        if node.op in ACTIVATING:
            return activation_of(node), node.inputs[0]
        if node.op == "Clip" and self.limits(name) == (0.0, 1.0):
            return ("HardSigmoid", 1.0, 0.0), node.inputs[0]
        return None

    def limits(self, name: str) -> tuple[float, float] | None:
        """What a Clip holds its input within."""
        node = self.known.made[name]
        values = [self.known.values.get(k) for k in node.inputs[1:3]]
        if len(values) < 2 or any(k not in self.known.fixed for k in node.inputs[1:3]):
            return None
        low, high = values
        if not isinstance(low, np.ndarray) or not isinstance(high, np.ndarray) or low.size != 1 or high.size != 1:
            return None
        return float(low.reshape(-1)[0]), float(high.reshape(-1)[0])

    def _gate(self, name: str) -> Gate | None:
        found = self.activation(name)
        if found is None:
            return None
        activation, before = found
        before, clip = self.unclipped(before)
        total = self.known.affine(before)
        if total is not None:
            return Gate(activation, total, {}, clip)
        peepholes: dict[str, np.ndarray] = {}
        dense = []
        for sign, addend in self.known.addends(before):
            part = self.known.affine(addend)
            if part is not None:
                dense.append(part.times(sign))
                continue
            value, vector = self.known.scaled(addend)
            if vector is None or value in peepholes:
                return None
            peepholes[value] = sign * vector
        if not dense or len({part.width for part in dense}) != 1:
            return None
        return Gate(activation, sum(dense[1:], dense[0]), peepholes, clip)

    def unclipped(self, name: str) -> tuple[str, float | None]:
        """What a sum is before it is held within limits, and the limit."""
        if self.known.op(name) == "Clip":
            limits = self.limits(name)
            if limits is not None and limits[0] == -limits[1] < 0:
                return self.known.made[name].inputs[0], limits[1]
        return name, None
