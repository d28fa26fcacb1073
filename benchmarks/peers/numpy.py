"""The equations in plain NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..cells import STATES, Array, Case, Weights
from ..timing import looped
from .contender import Absent, Contender

__all__ = ["numpy"]

#: From what x adds to the sums of a step, and the states, to the new states.
Cell = Callable[[Array, list[Array]], list[Array]]


def numpy(case: Case) -> Contender:
    """One product for all gates, the input's for a whole recording at once."""
    if case.reduced:
        raise Absent("no reduced precision")
    if case.threads > 1:
        raise Absent("its threads are those that the process began with")
    net = case.net
    feed, out = case.arrays()
    lead = () if case.rows == 1 else (case.rows,)
    sides = list(_sides(case, lead))
    shaped, results = feed.reshape(case.frames, *lead, -1), out.reshape(case.frames, *lead, -1)
    dense = None if net.dense is None else (np.ascontiguousarray(net.dense[0].T), net.dense[1])

    def call() -> None:
        value: Any = shaped
        for side in sides:
            value = side(value)
        results[:] = value if dense is None else _sigmoid(value @ dense[0] + dense[1])

    return Contender(call, feed, lambda: out, looped("call()", call=call))


def _sides(case: Case, lead: tuple[int, ...]) -> Iterator[Callable[[Array], Array]]:
    """One function per layer, from all frames to all frames."""
    net = case.net
    for directions in net.stack:
        parts = [_direction(case, weights, lead) for weights in directions]
        if net.bidirectional:
            ahead, back = parts

            def both(x: Array, ahead: Callable[[Array], Array] = ahead, back: Callable[[Array], Array] = back) -> Array:
                return np.concatenate([ahead(x), back(x[::-1])[::-1]], axis=-1)

            yield both
        else:
            yield parts[0]


def _direction(case: Case, weights: Weights, lead: tuple[int, ...]) -> Callable[[Array], Array]:
    """One layer in one direction."""
    net = case.net
    w, r, b, c = weights
    w, r = np.ascontiguousarray(w.T), np.ascontiguousarray(r.T)
    bias = b if net.cell == "gru" else b + c
    cell = {"lstm": _lstm, "gru": _gru, "rnn": _rnn}[net.cell](r, c, net.hidden)
    zeros = [np.zeros((*lead, net.hidden), np.float32) for _ in STATES[net.cell]]
    held = [zeros]

    def layer(x: Array) -> Array:
        sums, state = x @ w + bias, zeros if net.bidirectional else held[0]
        y = np.empty((*sums.shape[:-1], net.hidden), np.float32)
        for t, added in enumerate(sums):
            state = cell(added, state)
            y[t] = state[0]
        held[0] = state
        return y

    return layer


def _sigmoid(a: Any) -> Any:
    return 1 / (1 + np.exp(-a))


def _lstm(r: Array, c: Array, size: int) -> Cell:
    def step(x: Array, state: list[Array]) -> list[Array]:
        h, memory = state
        gates = x + h @ r
        i, f, o = _sigmoid(gates[..., :size]), _sigmoid(gates[..., size : 2 * size]), _sigmoid(gates[..., 3 * size :])
        memory = f * memory + i * np.tanh(gates[..., 2 * size : 3 * size])
        return [o * np.tanh(memory), memory]

    return step


def _gru(r: Array, c: Array, size: int) -> Cell:
    def step(x: Array, state: list[Array]) -> list[Array]:
        (h,) = state
        own = h @ r + c
        reset = _sigmoid(x[..., :size] + own[..., :size])
        update = _sigmoid(x[..., size : 2 * size] + own[..., size : 2 * size])
        new = np.tanh(x[..., 2 * size :] + reset * own[..., 2 * size :])
        return [new + update * (h - new)]

    return step


def _rnn(r: Array, c: Array, size: int) -> Cell:
    def step(x: Array, state: list[Array]) -> list[Array]:
        return [np.tanh(x + state[0] @ r)]

    return step
