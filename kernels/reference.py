"""What the kernels must compute: every cell as its equations, in float64 NumPy.

One direction of one layer each, gates in our order (LSTM i f g o, GRU r z n); x is ``(T, B, I)``. Sources: the ONNX
operator specifications of RNN, GRU and LSTM (https://onnx.ai/onnx/operators/), whose attributes all have their place
here; PyTorch's ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN`` for the gate order and the projection (``proj_size``); TFLite's
LSTM for the other coupling. Where the specification is silent, ONNX Runtime decides: ``clip`` holds the sums that go
into f and g of a cell (peepholes included), and leaves the cell state on its way to h alone; a row of length 0 ends
with states of 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["ACTIVATIONS", "Activation", "Product", "activation", "gru", "lstm", "product", "rnn"]

Array = np.ndarray[Any, np.dtype[np.float64]]
#: Rows times weights, one row of weights for each output: a precision tier has its own (`precision.product`).
Product = Callable[[Array, Array], Array]
#: Name, alpha, beta; None stands for the default of the operator.
Activation = tuple[str, "float | None", "float | None"]

_SIGMOID: Activation = ("Sigmoid", None, None)
_TANH: Activation = ("Tanh", None, None)

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Array) -> Array:
    # Two forms, so that neither overflows.
    small: Array = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def _gelu_tanh(x: Array) -> Array:
    inner: Array = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    return 0.5 * x * (1 + inner)


#: Name: (function of x, alpha, beta; default alpha; default beta). The names and defaults are ONNX's.
ACTIVATIONS: dict[str, tuple[Callable[[Array, float, float], Array], float, float]] = {
    "Identity": (lambda x, a, b: x, 0.0, 0.0),
    "Sigmoid": (lambda x, a, b: _sigmoid(x), 0.0, 0.0),
    "Tanh": (lambda x, a, b: np.tanh(x), 0.0, 0.0),
    "Relu": (lambda x, a, b: np.maximum(x, 0), 0.0, 0.0),
    "Affine": (lambda x, a, b: a * x + b, 1.0, 0.0),
    "LeakyRelu": (lambda x, a, b: np.where(x >= 0, x, a * x), 0.01, 0.0),
    # In a recurrent operator; the operator of that name lets only x > alpha through.
    "ThresholdedRelu": (lambda x, a, b: np.where(x < a, 0, x), 1.0, 0.0),
    "ScaledTanh": (lambda x, a, b: a * np.tanh(b * x), 1.0, 1.0),
    "HardSigmoid": (lambda x, a, b: np.clip(a * x + b, 0, 1), 0.2, 0.5),
    "Elu": (lambda x, a, b: np.where(x >= 0, x, a * np.expm1(np.minimum(x, 0))), 1.0, 0.0),
    "Softsign": (lambda x, a, b: x / (1 + np.abs(x)), 0.0, 0.0),
    "Softplus": (lambda x, a, b: np.logaddexp(x, 0), 0.0, 0.0),
    "Selu": (
        lambda x, a, b: b * np.where(x > 0, x, a * np.expm1(np.minimum(x, 0))),
        1.67326319217681884765625,
        1.05070102214813232421875,
    ),
    "HardSwish": (lambda x, a, b: x * np.clip(x / 6 + 0.5, 0, 1), 0.0, 0.0),
    "Gelu": (lambda x, a, b: 0.5 * x * (1 + _erf(x / math.sqrt(2))), 0.0, 0.0),
    "GeluTanh": (lambda x, a, b: _gelu_tanh(x), 0.0, 0.0),
    "Exp": (lambda x, a, b: np.exp(x), 0.0, 0.0),
    "Log": (lambda x, a, b: np.log(x), 0.0, 0.0),
    "Sqrt": (lambda x, a, b: np.sqrt(x), 0.0, 0.0),
    "Abs": (lambda x, a, b: np.abs(x), 0.0, 0.0),
    "Neg": (lambda x, a, b: -x, 0.0, 0.0),
    "Reciprocal": (lambda x, a, b: 1 / x, 0.0, 0.0),
    "Erf": (lambda x, a, b: _erf(x), 0.0, 0.0),
    "Clip": (lambda x, a, b: np.minimum(np.maximum(x, a), b), -math.inf, math.inf),
    "Floor": (lambda x, a, b: np.floor(x), 0.0, 0.0),
    "Ceil": (lambda x, a, b: np.ceil(x), 0.0, 0.0),
    "Sign": (lambda x, a, b: np.sign(x), 0.0, 0.0),
    "Sin": (lambda x, a, b: np.sin(x), 0.0, 0.0),
    "Cos": (lambda x, a, b: np.cos(x), 0.0, 0.0),
    "Round": (lambda x, a, b: np.round(x), 0.0, 0.0),
}


def activation(name: str, alpha: float | None = None, beta: float | None = None) -> Callable[[ArrayLike], Array]:
    """The activation `name`, in float64.

    Parameters
    ----------
    name : str
        One of `ACTIVATIONS`, in any case: ONNX's eleven of the recurrent operators, and the element-wise operators.
    alpha, beta : float, optional
        The operator's default where None.
    """
    function, default_alpha, default_beta = _BY_LOWER_NAME[name.lower()]
    a = default_alpha if alpha is None else float(alpha)
    b = default_beta if beta is None else float(beta)
    return lambda x: function(np.asarray(x, np.float64), a, b)


_BY_LOWER_NAME = {name.lower(): entry for name, entry in ACTIVATIONS.items()}


def product(rows: Array, weights: Array) -> Array:
    """`rows` (B, K) times `weights` (N, K), as it is."""
    result: Array = rows @ weights.T
    return result


def _clip(x: Array, limit: float | None) -> Array:
    return x if limit is None else np.clip(x, -limit, limit)


def _float64(*arrays: ArrayLike) -> tuple[Array, ...]:
    return tuple(np.asarray(a, np.float64) for a in arrays)


def _initial(state: ArrayLike | None, batch: int, size: int) -> Array:
    return np.zeros((batch, size)) if state is None else np.array(state, np.float64).reshape(batch, size)


def _scan(
    x: Array,
    states: tuple[Array, ...],
    lengths: ArrayLike | None,
    reverse: bool,
    step: Callable[..., tuple[Array, ...]],
) -> tuple[Array, tuple[Array, ...]]:
    """Step through time; a row is asleep at the times behind its length: y is 0 there, its states stay as they are.

    For `reverse` that is the same as running each row from its own last time to the first.
    """
    steps, batch = x.shape[:2]
    awake_until = np.full(batch, steps) if lengths is None else np.asarray(lengths)
    y = np.zeros((steps, *states[0].shape))
    for t in reversed(range(steps)) if reverse else range(steps):
        awake = (t < awake_until)[:, None]
        states = tuple(np.where(awake, new, old) for new, old in zip(step(x[t], *states), states, strict=True))
        y[t] = np.where(awake, states[0], 0)
    stepped = (awake_until > 0)[:, None] | (steps == 0)
    return y, tuple(np.where(stepped, state, 0) for state in states)


def rnn(
    x: ArrayLike,
    w: ArrayLike,
    r: ArrayLike,
    b_ih: ArrayLike,
    b_hh: ArrayLike,
    *,
    h0: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    activations: Sequence[Activation] = (_TANH,),
    clip: float | None = None,
    reverse: bool = False,
    product: Product = product,
) -> tuple[Array, Array]:
    """The plain recurrent layer: h' = f(W x + R h + b_ih + b_hh).

    Parameters
    ----------
    x : array_like, (T, B, I)
    w : array_like, (H, I)
    r : array_like, (H, H)
    b_ih, b_hh : array_like, (H,)
    h0 : array_like, (B, H), optional
    lengths : array_like of int, (B,), optional
    activations : sequence of one (name, alpha, beta)
    clip : float, optional
    reverse : bool
    product : callable, optional
        What stands for ``rows @ weights.T`` everywhere.

    Returns
    -------
    y : ndarray, (T, B, H)
    hn : ndarray, (B, H)

    Notes
    -----
    ONNX ``RNN``: ``Ht = f(Xt*(Wi^T) + Ht-1*(Ri^T) + Wbi + Rbi)``.
    """
    x, w, r, b_ih, b_hh = _float64(x, w, r, b_ih, b_hh)
    f = activation(*activations[0])

    def step(x_t: Array, h: Array) -> tuple[Array, ...]:
        return (f(_clip(product(x_t, w) + product(h, r) + b_ih + b_hh, clip)),)

    y, (hn,) = _scan(x, (_initial(h0, x.shape[1], r.shape[1]),), lengths, reverse, step)
    return y, hn


def lstm(
    x: ArrayLike,
    w: ArrayLike,
    r: ArrayLike,
    b_ih: ArrayLike,
    b_hh: ArrayLike,
    *,
    h0: ArrayLike | None = None,
    c0: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    peepholes: ArrayLike | None = None,
    projection: ArrayLike | None = None,
    activations: Sequence[Activation] = (_SIGMOID, _TANH, _TANH),
    clip: float | None = None,
    coupled: str = "",
    reverse: bool = False,
    product: Product = product,
) -> tuple[Array, Array, Array]:
    """The LSTM layer.

    ::

        i  = f(W_i x + R_i h + p_i * c  + b_i)
        f  = f(W_f x + R_f h + p_f * c  + b_f)
        g  = g(W_g x + R_g h            + b_g)
        c' = f * c + i * g
        o  = f(W_o x + R_o h + p_o * c' + b_o)
        h' = o * h(c')                            or, projected, projection @ (o * h(c'))

    Parameters
    ----------
    x : array_like, (T, B, I)
    w : array_like, (4H, I)
        Gates i, f, g, o.
    r : array_like, (4H, P)
    b_ih, b_hh : array_like, (4H,)
    h0 : array_like, (B, P), optional
    c0 : array_like, (B, H), optional
    lengths : array_like of int, (B,), optional
    peepholes : array_like, (3, H), optional
        Rows i, f, o.
    projection : array_like, (P, H), optional
        Without it P is H.
    activations : sequence of three (name, alpha, beta)
        f, g, h.
    clip : float, optional
        Limit of the sums that go into f and g.
    coupled : {"", "f=1-i", "i=1-f"}
        Which gate follows from the other: ONNX ``input_forget=1`` is ``"f=1-i"``, TFLite's coupled LSTM ``"i=1-f"``.
    reverse : bool
    product : callable, optional
        What stands for ``rows @ weights.T`` everywhere.

    Returns
    -------
    y : ndarray, (T, B, P)
    hn : ndarray, (B, P)
    cn : ndarray, (B, H)

    Notes
    -----
    ONNX ``LSTM``; PyTorch ``nn.LSTM`` for ``proj_size``.
    """
    x, w, r, b_ih, b_hh = _float64(x, w, r, b_ih, b_hh)
    hidden = w.shape[0] // 4
    f_gate, f_cell, f_out = (activation(*a) for a in activations)
    p_i, p_f, p_o = np.zeros((3, hidden)) if peepholes is None else _float64(peepholes)[0]
    p = None if projection is None else _float64(projection)[0]
    if coupled not in ("", "f=1-i", "i=1-f"):
        raise ValueError(f"coupled={coupled!r}")

    def step(x_t: Array, h: Array, c: Array) -> tuple[Array, ...]:
        sums = product(x_t, w) + product(h, r) + b_ih + b_hh
        s_i, s_f, s_g, s_o = np.split(sums, 4, axis=1)
        i = f_gate(_clip(s_i + p_i * c, clip))
        f = f_gate(_clip(s_f + p_f * c, clip))
        if coupled == "f=1-i":
            f = 1 - i
        elif coupled == "i=1-f":
            i = 1 - f
        g = f_cell(_clip(s_g, clip))
        c = f * c + i * g
        o = f_gate(_clip(s_o + p_o * c, clip))
        h = o * f_out(c)
        return (h if p is None else product(h, p)), c

    batch = x.shape[1]
    states = _initial(h0, batch, r.shape[1]), _initial(c0, batch, hidden)
    y, (hn, cn) = _scan(x, states, lengths, reverse, step)
    return y, hn, cn


def gru(
    x: ArrayLike,
    w: ArrayLike,
    r: ArrayLike,
    b_ih: ArrayLike,
    b_hh: ArrayLike,
    *,
    h0: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    activations: Sequence[Activation] = (_SIGMOID, _TANH),
    clip: float | None = None,
    linear_before_reset: bool = True,
    reverse: bool = False,
    product: Product = product,
) -> tuple[Array, Array]:
    """The GRU layer.

    ::

        r  = f(W_r x + R_r h + b_r)
        z  = f(W_z x + R_z h + b_z)
        n  = g(W_n x + b_n + r * (R_n h + b'_n))      linear_before_reset: PyTorch, Keras with reset_after
        n  = g(W_n x + b_n + R_n (r * h) + b'_n)      otherwise: ONNX's default, Keras without
        h' = (1 - z) * n + z * h

    Parameters
    ----------
    x : array_like, (T, B, I)
    w : array_like, (3H, I)
        Gates r, z, n.
    r : array_like, (3H, H)
    b_ih, b_hh : array_like, (3H,)
    h0 : array_like, (B, H), optional
    lengths : array_like of int, (B,), optional
    activations : sequence of two (name, alpha, beta)
        f, g.
    clip : float, optional
        Limit of the sums that go into f and g.
    linear_before_reset : bool
    reverse : bool
    product : callable, optional
        What stands for ``rows @ weights.T`` everywhere.

    Returns
    -------
    y : ndarray, (T, B, H)
    hn : ndarray, (B, H)

    Notes
    -----
    ONNX ``GRU``, its gates z r h put in our order.
    """
    x, w, r, b_ih, b_hh = _float64(x, w, r, b_ih, b_hh)
    hidden = r.shape[1]
    f, g = (activation(*a) for a in activations)
    r_rz, r_n = r[: 2 * hidden], r[2 * hidden :]
    b_rz, b_n = b_hh[: 2 * hidden], b_hh[2 * hidden :]

    def step(x_t: Array, h: Array) -> tuple[Array, ...]:
        s_x = product(x_t, w) + b_ih
        reset, update = np.split(f(_clip(s_x[:, : 2 * hidden] + product(h, r_rz) + b_rz, clip)), 2, axis=1)
        s_n = reset * (product(h, r_n) + b_n) if linear_before_reset else product(reset * h, r_n) + b_n
        n = g(_clip(s_x[:, 2 * hidden :] + s_n, clip))
        return ((1 - update) * n + update * h,)

    y, (hn,) = _scan(x, (_initial(h0, x.shape[1], hidden),), lengths, reverse, step)
    return y, hn
