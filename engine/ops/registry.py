"""The table of operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..graph import Node
from ..values import Value

if TYPE_CHECKING:
    from ..lowering import Lowering

__all__ = ["OPS", "Op", "register"]

Array = np.ndarray


class Op:
    """An operator. Inputs left out are None; results are a tuple, one per output of the node."""

    #: Only moves elements about, so that an index can be followed through it.
    moves: ClassVar[bool] = False
    #: Computed by `evaluate` where every input is known. Otherwise `lower` decides, and inputs may be sequences.
    folds: ClassVar[bool] = True
    #: Positions of inputs whose values (not only shapes) the program is built around.
    known: ClassVar[Sequence[int]] = ()

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        raise NotImplementedError

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        """Emit kernel calls. The default asks for every input to be known."""
        raise ctx.unknown(node, range(len(inputs)))


OPS: dict[str, type[Op]] = {}


def register(*names: str) -> Callable[[type[Op]], type[Op]]:
    """Enter an operator class in the table, under one name or several."""

    def enter(cls: type[Op]) -> type[Op]:
        for name in names:
            OPS[name] = cls
        return cls

    return enter
