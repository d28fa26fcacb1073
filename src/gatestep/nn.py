"""Specs for files that hold only weights: layers with PyTorch's names, arguments, order and defaults.

>>> from gatestep import nn
>>> spec = nn.Sequential({"rnn": nn.GRU(257, 128), "fc": nn.Linear(128, 257), "mask": nn.Sigmoid()})

`gatestep.load("weights.pt", spec=spec)` then finds the keys ``rnn.weight_ih_l0``, ``fc.weight`` and so on. A file that
holds a single LSTM, GRU or RNN needs no spec.
"""

from gatestep.engine.layers import (
    ELU,
    GELU,
    SELU,
    Dropout,
    Embedding,
    Hardsigmoid,
    Hardswish,
    Identity,
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
)
from gatestep.engine.spec import GRU, LSTM, RNN, Concat, GRUCell, LSTMCell, Residual, RNNCell, Sequential, Spec

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
    "GRUCell",
    "Hardsigmoid",
    "Hardswish",
    "Identity",
    "LSTMCell",
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
]
