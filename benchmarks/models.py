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
from .peers.onnxruntime import bound, session_of
from .peers.openvino import compiled
from .timing import Timed, looped

__all__ = ["MODES", "Own", "Runner", "frames_of", "runners"]

Array = np.ndarray[Any, np.dtype[Any]]
#: One frame per call, state carried; a recording per call, from the initial state, or what the file fixes instead.
MODES = ("step", "sequence")


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
    def name(self) -> str:
        """The file's name."""
        return Path(self.source).name

    @property
    def baseline(self) -> str | None:
        """What `plain` is called, where it differs from the model."""
        if self.model.precision != self.plain.precision:
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


def frames_of(own: Own, mode: str) -> tuple[str, int]:
    """The mode, "call" if the file fixes what a recording would be, and the frames of a call."""
    if mode == "step":
        return mode, 1
    draw = _feeds.random_values(np.random.default_rng(3))
    short, long = (_feeds.whole(own.model, count, 1, draw) for count in (1, cells.SEQUENCE[0]))
    if all(np.shape(short[name]) == np.shape(array) for name, array in long.items()):
        return "call", 1
    try:
        own.model(long)
    except gatestep.ShapeError:
        return "sequence", _feeds.shortest(own.model, draw)
    return "sequence", cells.SEQUENCE[0]


def runners(own: Own, mode: str, frames: int, names: Iterable[str]) -> tuple[dict[str, Runner], dict[str, str]]:
    """Ours, the peers that run the file, and why others do not."""
    draw = _feeds.random_values(np.random.default_rng(3))
    model = own.model
    feeds = _feeds.whole(model, frames, 1, draw)
    results = model(feeds)
    run = _step if mode == "step" else _call
    made, absent = {OURS: run(model, feeds)}, {}
    if own.baseline is not None:
        made[own.baseline] = run(own.plain, feeds)
    pairs = _feeds.state_feeds(model) if mode == "step" else {}
    for name in names:
        try:
            made[name] = _READERS.get(name, _none)(own, feeds, results, pairs)
        except Absent as reason:
            absent[name] = str(reason)
        except Exception as error:  # other engines' errors have no class in common
            absent[name] = f"cannot run the file: {' '.join(str(error).split())[:160]}"
    return made, absent


def _step(model: gatestep.Model, feeds: Mapping[str, Array]) -> Runner:
    """A stream, fed the frame that `feeds` hold."""
    stream = model.stream()
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
    if own.model.precision != own.plain.precision:
        raise Absent("the file has one precision")
    if is_container(own.source):
        raise Absent("a .gatestep file does not hold the original")
    if is_weights(own.source):
        raise Absent("does not read this kind of file")
    return Path(own.source).read_bytes()


def _onnxruntime(
    own: Own, feeds: Mapping[str, Array], results: Mapping[str, Array], pairs: Mapping[str, str]
) -> Runner:
    """Every buffer bound once; two bindings, each taking its states from the other."""
    _onnx(own)
    session = session_of(os.fspath(own.source), own.threads)
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
    """Fixed shapes, states kept by the model, memory shared."""
    runtime: Any = importlib.import_module("openvino")
    passes: Any = importlib.import_module("openvino._offline_transformations")
    model = runtime.Core().read_model(_onnx(own))
    model.reshape({name: list(array.shape) for name, array in feeds.items()})
    if pairs:
        passes.apply_make_stateful_transformation(model, dict(pairs))
    request = compiled(model, own.threads, reduced=False).create_infer_request()
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
