"""Who else can run the same layer, and how does each do it fastest?

Every contender reads its input from `feed` and leaves its result in `result`, so that none pays for a copy that its own
interface does not ask for. A peer takes part if it can be imported, and only after its results have been found equal.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import timeit
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import gatestep

from .cells import Array, Case
from .timing import Effort, Timed, each, looped, rounds

__all__ = ["PEERS", "Latency", "Measured", "available", "measure"]

#: Largest difference that still counts as equal. Sums of thousands of products in another order differ by 1e-6.
TOLERANCE = 1e-4
OURS = "gatestep"


@dataclass(frozen=True)
class Contender:
    """One way to make the calls of a case.

    Attributes
    ----------
    call : function
        Makes one call.
    feed : array
        Input of the next call, ``(T, B, I)``.
    result : function
        Output of the last call, ``(T, B, H)``.
    timed : function
        Makes many calls.
    within : context manager, optional
        What must be entered around all of it.
    """

    call: Callable[[], object]
    feed: Array
    result: Callable[[], Array]
    timed: Timed
    within: AbstractContextManager[object] = field(default_factory=nullcontext)


@dataclass(frozen=True)
class Latency:
    """Nanoseconds per call. `p99_ns` is of calls timed one by one; only for steps."""

    median_ns: float
    best_ns: float
    p99_ns: float | None


@dataclass(frozen=True)
class Measured:
    """One case.

    Attributes
    ----------
    engines : mapping
        Latency by name, ours among them.
    ratios : mapping
        Peer's time ÷ ours: the median of the ratios within a round.
    p99_ratios : mapping
        Peer's 99th percentile ÷ ours; only for steps.
    """

    cell: str
    inputs: int
    hidden: int
    mode: str
    frames: int
    rows: int
    engines: Mapping[str, Latency]
    ratios: Mapping[str, float]
    p99_ratios: Mapping[str, float]


def ours(case: Case) -> Contender:
    """A stream; for a recording, its `run`, which goes on from the state that the last call left."""
    layer = case.layer
    feed = np.zeros((case.frames, case.rows, layer.inputs), np.float32)
    out = np.zeros((case.frames, case.rows, layer.hidden), np.float32)
    stream = gatestep.load(layer.file).stream(None if case.rows == 1 else case.rows)
    x, y = (feed[:, 0], out[:, 0]) if case.rows == 1 else (feed, out)
    if case.mode == "step":
        step, frame, target = stream.step, x[0], y[0]
        timed = looped("step(frame, target)", step=step, frame=frame, target=target)
        return Contender(lambda: step(frame, target), feed, lambda: out, timed)
    run = stream.run
    return Contender(lambda: run(x, y), feed, lambda: out, looped("run(x, y)", run=run, x=x, y=y))


def onnxruntime(case: Case) -> Contender:
    """The same file, one thread, every buffer bound once; two bindings, each taking its states from the other."""
    runtime: Any = importlib.import_module("onnxruntime")
    layer = case.layer
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(layer.file, options, providers=["CPUExecutionProvider"])
    feed = np.zeros((case.frames, case.rows, layer.inputs), np.float32)
    out = np.zeros((case.frames, case.rows, layer.hidden), np.float32)
    held = [{name: np.zeros((1, case.rows, layer.hidden), np.float32) for name in layer.states} for _ in range(2)]
    bindings = []
    for before, after in (held, held[::-1]):
        binding = session.io_binding()
        taken = {"x": feed, **{f"{name}0": array for name, array in before.items()}}
        given = {"y": out, **{f"{name}n": array for name, array in after.items()}}
        for name, array in taken.items():
            binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        for name, array in given.items():
            binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        bindings.append(binding)
    run = session.run_with_iobinding
    this, other = bindings

    def call() -> None:
        nonlocal this, other
        run(this)
        this, other = other, this

    def result(_kept: object = held) -> Array:  # a binding holds addresses, not the arrays
        return out

    def timed(count: int) -> float:
        pairs = -(-count // 2)
        return looped("run(this); run(other)", run=run, this=this, other=other)(pairs) * count / (2 * pairs)

    return Contender(call, feed, result, timed)


def torch(case: Case) -> Contender:
    """Steps by the functional cell, recordings by the module; eager, inference mode, one thread."""
    framework: Any = importlib.import_module("torch")
    framework.set_num_threads(1)
    layer = case.layer
    feed = np.zeros((case.frames, case.rows, layer.inputs), np.float32)
    x = framework.from_numpy(feed)
    within = framework.inference_mode()
    if case.mode == "step":
        w, r, b, c = (framework.from_numpy(a) for a in layer.weights)
        cell = framework.lstm_cell if layer.cell == "lstm" else framework.gru_cell
        frame = x[0]
        zeros = tuple(framework.zeros(case.rows, layer.hidden) for _ in layer.states)
        state = zeros if layer.cell == "lstm" else zeros[0]

        def call() -> None:
            nonlocal state
            state = cell(frame, state, w, r, b, c)

        def result() -> Array:
            return np.asarray(state[0] if layer.cell == "lstm" else state)[None]

        names = {"cell": cell, "frame": frame, "first": state, "w": w, "r": r, "b": b, "c": c}
        statement = "state = cell(frame, state, w, r, b, c)"
        # The setup makes `state` a local variable of the loop, carried from call to call.
        timed = timeit.Timer(statement, setup="state = first", globals=names).timeit
        return Contender(call, feed, result, timed, within)
    module = getattr(framework.nn, layer.cell.upper())(layer.inputs, layer.hidden)
    with framework.no_grad():
        for parameter, array in zip(module.parameters(), layer.weights, strict=True):
            parameter.copy_(framework.from_numpy(array))
    last: Any = None

    def recording() -> None:
        nonlocal last
        last, _ = module(x)

    return Contender(recording, feed, lambda: np.asarray(last), looped("module(x)", module=module, x=x), within)


def numpy(case: Case) -> Contender:
    """The equations in plain NumPy: one product for all gates, the input's for a whole recording at once."""
    layer = case.layer
    w, r, b, c = layer.weights
    w, r = np.ascontiguousarray(w.T), np.ascontiguousarray(r.T)
    feed = np.zeros((case.frames, case.rows, layer.inputs), np.float32)
    out = np.zeros((case.frames, case.rows, layer.hidden), np.float32)
    lead = () if case.rows == 1 else (case.rows,)
    state = [np.zeros((*lead, layer.hidden), np.float32) for _ in layer.states]
    size = layer.hidden

    def sigmoid(a: Any) -> Any:
        return 1 / (1 + np.exp(-a))

    def lstm(x: Array) -> Array:
        h, memory = state
        gates = x + h @ r
        i, f, o = sigmoid(gates[..., :size]), sigmoid(gates[..., size : 2 * size]), sigmoid(gates[..., 3 * size :])
        memory = f * memory + i * np.tanh(gates[..., 2 * size : 3 * size])
        state[:] = o * np.tanh(memory), memory
        return state[0]

    def gru(x: Array) -> Array:
        (h,) = state
        own = h @ r + c
        reset = sigmoid(x[..., :size] + own[..., :size])
        update = sigmoid(x[..., size : 2 * size] + own[..., size : 2 * size])
        new = np.tanh(x[..., 2 * size :] + reset * own[..., 2 * size :])
        state[0] = new + update * (h - new)
        return state[0]

    cell, bias = (lstm, b + c) if layer.cell == "lstm" else (gru, b)
    shaped, results = feed.reshape(case.frames, *lead, -1), out.reshape(case.frames, *lead, -1)

    def call() -> None:
        for t, x in enumerate(shaped @ w + bias):
            results[t] = cell(x)

    return Contender(call, feed, lambda: out, looped("call()", call=call))


#: Peers by name: the package that each needs has the same name.
PEERS: dict[str, Callable[[Case], Contender]] = {"onnxruntime": onnxruntime, "torch": torch, "numpy": numpy}


def available(names: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Versions of the peers that are installed, and why each of the others is skipped."""
    versions, skipped = {}, {}
    for name in names:
        try:
            importlib.import_module(name)
            versions[name] = importlib.metadata.version(name)
        except ImportError as error:
            skipped[name] = f"cannot be imported ({error})"
    return versions, skipped


def unequal(case: Case, contenders: Mapping[str, Contender]) -> dict[str, float]:
    """Peers whose results differ from ours, and by how much. All start from zero states and see the same frames."""
    calls = 16 if case.mode == "step" else 1
    worst = dict.fromkeys(contenders, 0.0)
    for x in case.inputs(calls):
        for contender in contenders.values():
            contender.feed[:] = x
            contender.call()
        for name, contender in contenders.items():
            difference = float(np.abs(contender.result() - contenders[OURS].result()).max())
            worst[name] = max(worst[name], difference)
    return {name: difference for name, difference in worst.items() if not difference <= TOLERANCE}


def measure(case: Case, names: Iterable[str], effort: Effort) -> Measured:
    """Time ours and the peers `names` by turns.

    Raises
    ------
    ArithmeticError
        A peer gives other results than we do: then its time means nothing.
    """
    contenders = {OURS: ours(case), **{name: PEERS[name](case) for name in names}}
    tails: dict[str, float] = {}
    with ExitStack() as stack:
        for contender in contenders.values():
            stack.enter_context(contender.within)
        wrong = unequal(case, contenders)
        if wrong:
            raise ArithmeticError(f"{case}: results differ: {wrong}")
        timed = rounds({name: contender.timed for name, contender in contenders.items()}, effort)
        if case.mode == "step":
            single = each({name: contender.call for name, contender in contenders.items()}, effort)
            tails = {name: float(np.percentile(ns, 99)) for name, ns in single.items()}
    peers = [name for name in contenders if name != OURS]
    return Measured(
        case.layer.cell,
        case.layer.inputs,
        case.layer.hidden,
        case.mode,
        case.frames,
        case.rows,
        {name: Latency(timed.median(name), timed.best(name), tails.get(name)) for name in contenders},
        {name: timed.ratio(name, OURS) for name in peers},
        {name: tails[name] / tails[OURS] for name in peers if name in tails},
    )
