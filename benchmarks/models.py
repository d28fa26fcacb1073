"""A file of the user's own: ours, and the peers that read it, frame by frame or in one call."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import gatestep

from .. import _feeds, _peers
from ..importers.kinds import is_container, is_weights
from . import cells
from .peers import OURS, Absent
from .peers.onnxruntime import bound, int8, session_of
from .peers.openvino import compiled
from .timing import Timed, looped

__all__ = ["CARRIED", "Own", "Runner", "cannot", "runners", "shape_of"]

Array = np.ndarray[Any, np.dtype[Any]]
#: Those in which a call is one frame, with the state carried; the others are recordings, from the initial state.
CARRIED = ("step", "lockstep")


@dataclass(frozen=True)
class Own:
    """A model of a file, and what is needed to ask others for the same.

    Attributes
    ----------
    source : path
    model, plain : Model
        The model, and what it is as the file has it and with one thread.
    threads : int
        Of `model`.
    changed : sequence of str
        Options with which the model is another than the file.
    trusted : bool
        Let PyTorch load the file.
    """

    source: str
    model: gatestep.Model
    plain: gatestep.Model
    threads: int = 1
    changed: tuple[str, ...] = ()
    trusted: bool = False

    @property
    def reduced(self) -> bool:
        """Whether the model's weights are smaller than the file's."""
        return self.model.precision != self.plain.precision

    @property
    def name(self) -> str:
        """The file's name."""
        return Path(self.source).name

    @property
    def baseline(self) -> str | None:
        """What `plain` is called, where it differs from the model."""
        if self.reduced:
            return f"{OURS} {self.plain.precision}"
        return f"{OURS} 1 thread" if self.threads > 1 else None


@dataclass(frozen=True)
class Runner:
    """One engine with the file in it.

    Attributes
    ----------
    advance : function
        Takes one call, gives its outputs by name.
    timed : function
        Makes many calls.
    """

    advance: Callable[[], Mapping[str, Array]]
    timed: Timed


def shape_of(own: Own, mode: str) -> tuple[str, int, int]:
    """The mode, frames and rows of a call; "call" is the mode where the file fixes what a recording would be.

    Raises
    ------
    UnsupportedModelError
        The file fixes rows, or frames where there are to be several of both.
    """
    frames, rows = {"step": (1, 1), "sequence": cells.SEQUENCE, "batch": cells.BATCH, "lockstep": cells.LOCKSTEP}[mode]
    layout, draw = own.model.layout, _feeds.random_values(np.random.default_rng(3))
    short, long = (_feeds.whole(own.model, count, rows, draw) for count in (1, frames))
    found = {
        np.shape(short[name])[axes.batch]
        for name, axes in layout.axes.items()
        if name in short and axes.batch is not None
    }
    if rows > 1 and not (layout.free_batch and found == {rows}):
        why = layout.batch_blocker or "the file fixes the number of rows"
        raise gatestep.UnsupportedModelError(f"{rows} rows in one call: {why}", source=own.source)
    if mode in CARRIED:
        return mode, frames, rows
    if all(np.shape(short[name]) == np.shape(array) for name, array in long.items()):
        if rows > 1:
            raise gatestep.UnsupportedModelError("recordings: the file fixes the frames of a call", source=own.source)
        return "call", 1, 1
    try:
        own.model(long)
    except gatestep.ShapeError:
        return mode, _feeds.shortest(own.model, draw), rows
    return mode, frames, rows


def runners(own: Own, shape: tuple[str, int, int], names: Iterable[str]) -> tuple[dict[str, Runner], dict[str, str]]:
    """Ours, the peers that run the file, and why others do not; `shape` is as `shape_of` gives it."""
    mode, frames, rows = shape
    draw = _feeds.random_values(np.random.default_rng(3))
    model = own.model
    feeds = _feeds.whole(model, frames, rows, draw)
    results = model(feeds)
    carried = mode in CARRIED

    def run(model: gatestep.Model) -> Runner:
        return _step(model, feeds, rows) if carried else _call(model, feeds)

    made, absent = {OURS: run(model)}, {}
    if own.baseline is not None:
        made[own.baseline] = run(own.plain)
    pairs = _feeds.state_feeds(model) if carried else {}
    for name in names:
        try:
            made[name] = _READERS.get(name, _none)(own, feeds, results, pairs)
        except Absent as reason:
            absent[name] = str(reason)
        except Exception as error:  # other engines' errors have no class in common
            absent[name] = cannot(error)
    return made, absent


def cannot(error: Exception) -> str:
    """What a peer says of a file, or of its shapes, in a line."""
    return f"cannot run the file: {' '.join(str(error).split())[:160]}"


def _step(model: gatestep.Model, feeds: Mapping[str, Array], rows: int) -> Runner:
    """A stream, fed the frame that `feeds` hold."""
    stream = model.stream(None if rows == 1 else rows)
    axes = model.layout.axes
    frame = {
        port.name: np.ascontiguousarray(
            np.transpose(feeds[port.name], axes[port.name].order(feeds[port.name].ndim)).reshape(port.shape)
            if port.name in axes
            else feeds[port.name]
        )
        for port in stream.inputs
    }
    outputs = {port.name: np.empty(port.shape, port.dtype) for port in stream.outputs}
    x, out = tuple(frame.values()), tuple(outputs.values())
    if len(x) == len(out) == 1:
        (x,), (out,) = x, out  # type: ignore[assignment]
    step = stream.step

    def advance() -> Mapping[str, Array]:
        step(x, out)
        return {name: array.copy() for name, array in outputs.items()}

    return Runner(advance, looped("step(x, out)", step=step, x=x, out=out))


def _call(model: gatestep.Model, feeds: Mapping[str, Array]) -> Runner:
    """A call in the file's own shapes."""
    return Runner(lambda: dict(model(feeds)), looped("model(feeds)", model=model, feeds=feeds))


# ---------------------------------------------------------------------- peers
def _onnx(own: Own) -> bytes:
    """The file, where it is ONNX and the model is what the file says."""
    if own.changed:
        raise Absent(f"{', '.join(own.changed)} makes another model of the file")
    if is_container(own.source):
        raise Absent("a .gatestep file does not hold the original")
    if is_weights(own.source):
        raise Absent("does not read this kind of file")
    return Path(own.source).read_bytes()


def _onnxruntime(
    own: Own, feeds: Mapping[str, Array], results: Mapping[str, Array], pairs: Mapping[str, str]
) -> Runner:
    """Every buffer bound once; two bindings, each taking its states from the other. Reduced: int8."""
    _onnx(own)
    session = session_of(int8(own.source) if own.reduced else os.fspath(own.source), own.threads)
    held = [{name: np.zeros_like(feeds[name]) for name in pairs} for _ in range(2)]
    fixed = {name: np.ascontiguousarray(array) for name, array in feeds.items() if name not in pairs}
    outputs = {name: np.empty(array.shape, array.dtype) for name, array in results.items()}
    bindings = []
    for before, after in (held, held[::-1]):
        given = {**fixed, **before}
        taken = {**outputs, **{pairs[name]: array for name, array in after.items()}}
        bindings.append(bound(session, given, taken))
    run = session.run_with_iobinding
    turn = 0

    def advance(_kept: object = (fixed, held)) -> Mapping[str, Array]:  # a binding holds addresses, not the arrays
        nonlocal turn
        run(bindings[turn])
        turn = 1 - turn
        return {name: array.copy() for name, array in outputs.items()}

    def timed(count: int) -> float:
        this, other = bindings
        double = -(-count // 2)
        return looped("run(this); run(other)", run=run, this=this, other=other)(double) * count / (2 * double)

    return Runner(advance, timed)


def _openvino(own: Own, feeds: Mapping[str, Array], results: Mapping[str, Array], pairs: Mapping[str, str]) -> Runner:
    """Fixed shapes, states kept by the model, memory shared. Reduced: bf16."""
    runtime: Any = importlib.import_module("openvino")
    passes: Any = importlib.import_module("openvino._offline_transformations")
    model = runtime.Core().read_model(_onnx(own))
    model.reshape({name: list(array.shape) for name, array in feeds.items()})
    if pairs:
        passes.apply_make_stateful_transformation(model, dict(pairs))
    request = compiled(model, own.threads, own.reduced).create_infer_request()
    fixed = {name: np.ascontiguousarray(array) for name, array in feeds.items() if name not in pairs}
    outputs = {name: np.empty(a.shape, a.dtype) for name, a in results.items() if name not in pairs.values()}
    for name, array in {**fixed, **outputs}.items():
        request.set_tensor(name, runtime.Tensor(array, shared_memory=True))
    infer = request.infer

    def advance(_kept: object = fixed) -> Mapping[str, Array]:
        infer()
        return {name: array.copy() for name, array in outputs.items()}

    return Runner(advance, looped("infer()", infer=infer))


def _torch(own: Own, feeds: Mapping[str, Array], results: Mapping[str, Array], pairs: Mapping[str, str]) -> Runner:
    """The program that the file holds, states handed on by hand."""
    program = None if is_container(own.source) or not is_weights(own.source) else _peers.torch_program(own.source)
    if program is None:
        raise Absent("does not read this kind of file")
    if own.reduced:
        raise Absent("no int8 form of a program")
    if not own.trusted:
        raise Absent("not asked, as it may run code that is in the file: --trusted allows that")
    framework: Any = importlib.import_module("torch")
    framework.set_num_threads(own.threads)
    module = program(framework)
    held = {name: framework.from_numpy(np.array(array)) for name, array in feeds.items()}
    held |= {name: framework.zeros_like(held[name]) for name in pairs}

    def call() -> list[Any]:
        values = _peers.flat(module(*held.values()))
        named = dict(zip(results, values, strict=True))
        held.update({name: named[out] for name, out in pairs.items()})
        return values

    def advance() -> Mapping[str, Array]:
        with framework.no_grad():
            return dict(zip(results, (value.clone().numpy() for value in call()), strict=True))

    def timed(count: int) -> float:
        with framework.no_grad():
            return looped("call()", call=call)(count)

    return Runner(advance, timed)


def _none(own: Own, feeds: Mapping[str, Array], results: Mapping[str, Array], pairs: Mapping[str, str]) -> Runner:
    raise Absent("does not read this kind of file")


_READERS: dict[str, Callable[..., Runner]] = {"onnxruntime": _onnxruntime, "openvino": _openvino, "torch": _torch}
