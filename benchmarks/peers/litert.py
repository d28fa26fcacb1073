"""LiteRT, with XNNPACK."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..cells import Case
from ..tflite import tflite
from ..timing import looped
from .contender import Absent, Contender

__all__ = ["litert"]


def litert(case: Case) -> Contender:
    """A step whose states are resource variables; a recording is a loop over steps. Reduced: int8, dynamic range."""
    if case.net.bidirectional:
        raise Absent("no step for what reads in both directions")
    runtime: Any = importlib.import_module("ai_edge_litert.interpreter")
    with _quiet():
        interpreter = runtime.Interpreter(
            model_content=tflite(case.net, case.rows, case.reduced), num_threads=case.threads
        )
        interpreter.allocate_tensors()
    given = interpreter.get_input_details()[0]["index"]
    taken = interpreter.get_output_details()[0]["index"]
    feed, out = case.arrays()
    put, invoke, get = interpreter.set_tensor, interpreter.invoke, interpreter.get_tensor
    if case.carried:
        frame, results = feed[0], [out[0]]

        def call() -> None:
            put(given, frame)
            invoke()
            results[0] = get(taken)

        statement = "put(given, frame); invoke(); y = get(taken)"
        timed = looped(statement, put=put, given=given, frame=frame, invoke=invoke, get=get, taken=taken)
        return Contender(call, feed, lambda: np.asarray(results[0])[None], timed)

    def recording() -> None:
        for t, x in enumerate(feed):
            put(given, x)
            invoke()
            out[t] = get(taken)

    return Contender(recording, feed, lambda: out, looped("recording()", recording=recording))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The runtime writes to the process's stderr that it uses XNNPACK."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
