"""PyTorch's operators (ATen), said in the graph's vocabulary.

One table for every front end: programs of `torch.export`, TorchScript files, live modules. A front end makes an `Aten`
for its graph, hands it each call with the arguments as the file has them, and gets handles back.

>>> aten = Aten(graph, "model.pt2")
>>> x = aten.input("x", ("B", 16), np.float32)
>>> y = aten.call("linear", [x, aten.constant(weight), None], {}, where="fc")

=================== =================================================================================
`core`              handles, the table, binding of arguments, promotion of types, sizes
`recurrent`         lstm, gru, rnn_tanh, rnn_relu, their cells, packed sequences
`products`          linear, mm, matmul, einsum, embedding
`pointwise`         arithmetic, comparisons, functions
`activations`       activations
`reductions`        sums, extremes, softmax, running sums, ranking
`views`             what only moves elements
`indexing`          index, gather, scatter and what writes into a part
`creation`          zeros, arange, types
`windows`           convolutions, pooling, padding
`normalizations`    batch, layer, group and instance norm; attention
`aliases`           programs that write in place
`ports`             names of outputs
=================== =================================================================================
"""

from __future__ import annotations

from . import (  # noqa: F401 they fill the table
    activations,
    creation,
    indexing,
    normalizations,
    pointwise,
    products,
    recurrent,
    reductions,
    views,
    windows,
)
from .aliases import Aliases, Ref
from .core import Aten, SymInt, Tensor

__all__ = ["Aliases", "Aten", "Ref", "SymInt", "Tensor"]
