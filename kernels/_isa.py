"""Which instruction set the kernels run on."""

from __future__ import annotations

import os
from collections.abc import Mapping

from . import _cpu

__all__ = ["VARIABLE", "available_isas", "choose", "isa"]

#: The environment variable that forces a choice.
VARIABLE = "GATESTEP_ISA"


def available_isas() -> tuple[str, ...]:
    """Names of the instruction sets that this machine and its operating system can run, the best first."""
    return _cpu.supported()


def choose(environment: Mapping[str, str] = os.environ) -> str:
    """The instruction set that `GATESTEP_ISA` asks for, or else the best one.

    Raises
    ------
    ImportError
        The variable names one that the machine does not have, or none at all.
    """
    available = available_isas()
    wanted = environment.get(VARIABLE, "").strip().lower()
    if not wanted:
        return available[0]
    if wanted not in available:
        raise ImportError(f"{VARIABLE}={wanted!r}: this machine has {', '.join(available)}")
    return wanted


#: The chosen one.
isa = choose()
