"""The operators: what each computes (`evaluate`, NumPy) and how it becomes kernel calls (`lower`).

One class per operator, registered by its name in the graph's vocabulary. `evaluate` serves constants known at load and
is the definition that kernels are held to; `lower` serves everything else. An operator without `lower` exists only for
shape computations: it must be known when the program is built. A module is imported when a graph has an operator of it.
"""

from .registry import OPS, Op

__all__ = ["OPS", "Op"]
