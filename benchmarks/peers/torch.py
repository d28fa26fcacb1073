"""PyTorch."""

from __future__ import annotations

import importlib
import timeit
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..cells import Array, Case
from .contender import Absent, Contender

__all__ = ["torch", "torch_compiled"]


def torch(case: Case) -> Contender:
    """Frames by the functional cells, recordings by the modules; eager, inference mode. Reduced: int8 modules."""
    framework = _framework(case)
    if not case.carried:
        return _recordings(case, framework)
    return _frames(case, framework, _quantised(case, framework) if case.reduced else _step(case, framework))


def torch_compiled(case: Case) -> Contender:
    """The functional cells, compiled."""
    if not case.carried or case.reduced:
        raise Absent("only steps in float32 are compiled")
    framework = _framework(case)
    return _frames(case, framework, framework.compile(_step(case, framework), dynamic=False))


def _framework(case: Case) -> Any:
    framework: Any = importlib.import_module("torch")
    framework.set_num_threads(case.threads)
    return framework


def _step(case: Case, framework: Any) -> Callable[[Any, Any], Any]:
    """One frame: from x and states to y and states."""
    net = case.net
    function = {"lstm": framework.lstm_cell, "gru": framework.gru_cell, "rnn": framework.rnn_tanh_cell}[net.cell]
    layers = [tuple(framework.from_numpy(a) for a in weights) for (weights,) in net.stack]
    dense = None if net.dense is None else tuple(framework.from_numpy(a) for a in net.dense)
    if dense is None and len(layers) == 1:
        w, r, b, c = layers[0]
        if net.cell == "lstm":

            def lstm(x: Any, state: Any) -> Any:
                new = function(x, state, w, r, b, c)
                return new[0], new

            return lstm

        def single(x: Any, state: Any) -> Any:
            new = function(x, state, w, r, b, c)
            return new, new

        return single

    def stacked(x: Any, states: Any) -> Any:
        news = []
        for weights, state in zip(layers, states, strict=True):
            new = function(x, state, *weights)
            x = new[0] if net.cell == "lstm" else new
            news.append(new)
        return (x if dense is None else framework.sigmoid(framework.nn.functional.linear(x, *dense))), news

    return stacked


def _frames(case: Case, framework: Any, step: Callable[[Any, Any], Any]) -> Contender:
    """A contender from one step."""
    net = case.net
    feed, _ = case.arrays()
    frame = framework.from_numpy(feed)[0]

    def zeros() -> Any:
        made = tuple(framework.zeros(case.rows, net.hidden) for _ in range(len(net.states) // net.layers))
        return made if net.cell == "lstm" else made[0]

    stacked = net.layers > 1 or net.dense is not None
    first = [zeros() for _ in range(net.layers)] if stacked else zeros()
    state, y = first, None

    def call() -> None:
        nonlocal y, state
        y, state = step(frame, state)

    def result() -> Array:
        return np.asarray(y)[None]

    # The setup makes `state` a local variable of the loop, carried from call to call.
    timed = timeit.Timer(
        "y, state = step(frame, state)", "state = first", globals={"step": step, "frame": frame, "first": first}
    ).timeit
    return Contender(call, feed, result, timed, framework.inference_mode())


def _modules(case: Case, framework: Any) -> Any:
    """The net of modules."""
    net = case.net
    module = getattr(framework.nn, net.cell.upper())(
        net.inputs, net.hidden, net.layers, bidirectional=net.bidirectional
    )
    arrays = [array for directions in net.stack for weights in directions for array in weights]
    with framework.no_grad():
        for parameter, array in zip(module.parameters(), arrays, strict=True):
            parameter.copy_(framework.from_numpy(array))
    return module.eval()


def _recordings(case: Case, framework: Any) -> Contender:
    """A recording per call, from zero states."""
    module: Any = _modules(case, framework)
    dense = None if case.net.dense is None else tuple(framework.from_numpy(a) for a in case.net.dense)
    if case.reduced:
        if case.net.cell == "rnn" or dense is not None:
            raise Absent("no int8 form of this net in one module")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its quantisation is deprecated, and still what it has
            holder = framework.nn.Sequential(module)
            module = framework.ao.quantization.quantize_dynamic(holder, {type(module)})[0]
    feed, _ = case.arrays()
    x, last = framework.from_numpy(feed), None

    def recording() -> None:
        nonlocal last
        last, _ = module(x)
        if dense is not None:
            last = framework.sigmoid(framework.nn.functional.linear(last, *dense))

    timed = timeit.Timer("recording()", globals={"recording": recording}).timeit
    return Contender(recording, feed, lambda: np.asarray(last), timed, framework.inference_mode())


def _quantised(case: Case, framework: Any) -> Callable[[Any, Any], Any]:
    """One frame by a cell with weights of 8 bits."""
    net = case.net
    if net.layers > 1 or net.dense is not None:
        raise Absent("no int8 form of this net in one module")
    kind = getattr(framework.nn, f"{net.cell.upper()}Cell")
    cell = kind(net.inputs, net.hidden)
    with framework.no_grad():
        for parameter, array in zip(cell.parameters(), net.stack[0][0], strict=True):
            parameter.copy_(framework.from_numpy(array))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        held = framework.ao.quantization.quantize_dynamic(framework.nn.Sequential(cell.eval()), {kind})[0]

    def step(x: Any, state: Any) -> Any:
        new = held(x, state)
        return (new[0], new) if net.cell == "lstm" else (new, new)

    return step
