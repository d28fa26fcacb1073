"""Specs for files that hold only weights: layers with PyTorch's names, arguments, order and defaults.

>>> from gatestep import nn
>>> spec = nn.Sequential({"rnn": nn.GRU(257, 128), "fc": nn.Linear(128, 257), "mask": nn.Sigmoid()})

`gatestep.load("weights.pt", spec=spec)` then finds the keys ``rnn.weight_ih_l0``, ``fc.weight`` and so on. A file that
holds a single LSTM, GRU or RNN needs no spec.

`Last` has no name in PyTorch: it is ``output[-1]``. Where a model takes and gives plain numbers, one a frame, its first
layer is ``Unflatten(1, (-1, 1))`` and its last ``Flatten()``, as in PyTorch. ``LSTM(1, 3, initial=("h0", "c0"))``
begins at states that were learned, which lie in the file under these keys.
"""

from gatestep.engine.compositions import Concat, Residual, Sequential
from gatestep.engine.layers import (
    ELU,
    GELU,
    SELU,
    Dropout,
    Embedding,
    Flatten,
    Hardsigmoid,
    Hardswish,
    Identity,
    Last,
    LayerNorm,
    LeakyReLU,
    Linear,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Softsign,
    Tanh,
    Unflatten,
)
from gatestep.engine.spec import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell, Spec

__all__ = [
    "ELU",
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "SELU",
    "Concat",
    "Dropout",
    "Embedding",
    "Flatten",
    "GRUCell",
    "Hardsigmoid",
    "Hardswish",
    "Identity",
    "LSTMCell",
    "Last",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "RNNCell",
    "ReLU",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Softsign",
    "Spec",
    "Tanh",
    "Unflatten",
]
