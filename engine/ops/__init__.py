"""The operators: what each computes (`evaluate`, NumPy) and how it becomes kernel calls (`lower`).

One class per operator, registered by its name in the graph's vocabulary. `evaluate` serves constants known at load and
is the definition that kernels are held to; `lower` serves everything else. An operator without `lower` exists only for
shape computations: it must be known when the program is built.
"""

from . import (
    control,
    einsum,
    indexing,
    logic,
    loop,
    math,
    memory,
    normalizations,
    plumbing,
    quantised,
    quantised_lstm,
    recurrent,
    resizing,
    scan,
    sequences,
    windows,
)
from .registry import OPS, Op

__all__ = [
    "OPS",
    "Op",
    "control",
    "einsum",
    "indexing",
    "logic",
    "loop",
    "math",
    "memory",
    "normalizations",
    "plumbing",
    "quantised",
    "quantised_lstm",
    "recurrent",
    "resizing",
    "scan",
    "sequences",
    "windows",
]
