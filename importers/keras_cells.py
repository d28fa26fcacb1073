"""Weights of recurrent and dense layers as Keras keeps them, as PyTorch would: the form that specs are built from.

Keras keeps matrices as ``(inputs, outputs)``, gates side by side: i, f, c, o in an LSTM, which is PyTorch's order, and
z, r, h in a GRU, whose PyTorch has r, z, n. There is one bias; only a GRU with ``reset_after`` has a recurrent one too.
"""

from __future__ import annotations

import numpy as np

__all__ = ["dense", "recurrent"]

#: In which order PyTorch has the gates of Keras.
_ORDER = {"RNN": [0], "LSTM": [0, 1, 2, 3], "GRU": [1, 0, 2]}


def dense(kernel: np.ndarray, bias: np.ndarray | None) -> dict[str, np.ndarray]:
    """The weights of a `Linear`."""
    weights = {"weight": kernel.T}
    return weights if bias is None else weights | {"bias": bias}


def recurrent(
    op: str, kernel: np.ndarray, recurrent_kernel: np.ndarray, bias: np.ndarray | None, suffix: str = ""
) -> dict[str, np.ndarray]:
    """The weights of an `RNN`, `LSTM` or `GRU` of one layer.

    Parameters
    ----------
    op : {"RNN", "LSTM", "GRU"}
    kernel : array (inputs, gates * units)
    recurrent_kernel : array (units, gates * units)
    bias : array (gates * units,) or (2, gates * units), or None
    suffix : str
        What follows ``_l0`` in the keys.

    Raises
    ------
    ValueError
        The number of axes, or of columns, is none that such a layer has.
    """
    gates = len(_ORDER[op])
    if kernel.ndim != 2 or recurrent_kernel.ndim != 2 or (bias is not None and bias.ndim not in (1, 2)):
        raise ValueError("a kernel has two axes and a bias one or two")
    columns = {kernel.shape[1], recurrent_kernel.shape[1]} | (set() if bias is None else {bias.shape[-1]})
    if len(columns) > 1 or kernel.shape[1] % gates:
        raise ValueError(f"kernels and bias of {sorted(columns)} columns")

    def ours(array: np.ndarray) -> np.ndarray:
        blocks = array.reshape(*array.shape[:-1], gates, -1)[..., _ORDER[op], :]
        return np.ascontiguousarray(blocks.reshape(array.shape).T)

    weights = {f"weight_ih_l0{suffix}": ours(kernel), f"weight_hh_l0{suffix}": ours(recurrent_kernel)}
    if bias is not None:
        both = bias if bias.ndim == 2 else np.stack([bias, np.zeros_like(bias)])
        if len(both) != 2:
            raise ValueError(f"a bias of the shape {bias.shape}")
        weights |= {f"bias_ih_l0{suffix}": ours(both[0]), f"bias_hh_l0{suffix}": ours(both[1])}
    return weights
