"""`.gatestep` files read: the model in one, held to the test that it carries of itself."""

from __future__ import annotations

from typing import Any

import numpy as np

import gatestep
from gatestep.engine.errors import GatestepError, ModelFormatError, UnsupportedModelError
from gatestep.engine.model import Model
from gatestep.importers.container import Container

__all__ = ["OPTIONS", "ROUNDED", "STEPS", "TOLERANCE", "load_file", "tested"]

#: Frames of a self-test.
STEPS = 4
#: How far the results of a self-test may be from those in the file, over the largest magnitude among these: another
#: instruction set sums in another order. Where a model rounds inside, that may put a value on the other side; and a
#: machine on which a precision tier does not pay computes in float32.
TOLERANCE = {"float32": 1e-4, "float64": 1e-10}
ROUNDED = 0.05
#: What a model is made with, beside its graph: these are fixed in a file.
OPTIONS = ("states", "dtype", "bind", "shapes", "precision")

Array = np.ndarray[Any, np.dtype[Any]]


def load_file(source: Any, *, backend: str, threads: int, test: bool) -> Model:
    """The model in a `.gatestep` file.

    Raises
    ------
    ModelFormatError
        It is damaged, or not what `convert` writes, or its test of itself fails.
    UnsupportedModelError
        A newer gatestep wrote it.
    OSError
        It cannot be opened.
    """
    held = Container(source)
    if _version(held.writer) > _version(gatestep.__version__):
        raise UnsupportedModelError(
            f"written by gatestep {held.writer[:20]}, which is newer than this, {gatestep.__version__}",
            source=held.name,
            hint="Update gatestep, or convert the original file again",
        )
    try:
        options = held.value(held.options)
        if not isinstance(options, dict) or not options.keys() <= set(OPTIONS) or options["dtype"] not in TOLERANCE:
            raise ModelFormatError(f"{held.name}: no options that a model is made with")
        if held.writer == gatestep.__version__:
            graph, layout = held.analysed()
            model = Model(graph, backend=backend, layout=layout, threads=threads, **options)
        else:  # what another version found out need not be what this one goes by
            model = Model(held.imported, backend=backend, threads=threads, **options)
        if test:
            check(model, held)
    except GatestepError:
        raise
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError, MemoryError) as error:
        raise ModelFormatError(f"{held.name}: not what gatestep writes ({error!r})"[:300]) from error
    return model


def check(model: Model, held: Container) -> None:
    """Whether the model gives what it gave when it was converted."""
    test = held.value(held.selftest)
    if not isinstance(test, dict) or test.keys() != {"inputs", "outputs", "batch", "streamed", "tolerance"}:
        raise ModelFormatError(f"{held.name}: the self-test is none")
    if test["streamed"] is not model.streams or not 0 < test["tolerance"] <= ROUNDED:
        raise ModelFormatError(f"{held.name}: the self-test is of another model")
    results = tested(model, test["inputs"], test["batch"])
    for name, want in test["outputs"].items():
        got = results[name]
        error = largest_error(got, want)
        if not error <= test["tolerance"]:
            raise ModelFormatError(
                f"{held.name}: the self-test fails: output {name!r} is {error:.1e} of its magnitude away from what "
                f"the file says (at most {test['tolerance']:.0e}); self_test=False loads it all the same"
            )


def largest_error(got: Array, want: Array) -> float:
    """The largest difference over the largest magnitude of `want`; NaN and infinities must be in the same places."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return float("inf")
    if got.size == 0:
        return 0.0
    got, want = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    scale = max(float(np.abs(want[finite]).max()), float(np.finfo(np.float32).tiny))
    return float(np.abs(got[finite] - want[finite]).max()) / scale


def _version(text: str) -> tuple[int, ...]:
    """``0.10.1`` as numbers; what follows them does not count."""
    numbers = []
    for part in text.split(".")[:3]:
        if not part.isdecimal():
            break
        numbers.append(int(part[:9]))
    return tuple(numbers)


def tested(model: Model, inputs: dict[str, Array], batch: int | None) -> dict[str, Array]:
    """What the model gives for the inputs of a self-test: step by step, or in one call."""
    if not model.streams:
        results: dict[str, Array] = model(inputs)
        return results
    stream = model.stream(batch)
    frames = {
        port.name: [array] * STEPS if port.constant else array.reshape(STEPS, *port.shape)
        for port, array in ((port, inputs[port.name]) for port in stream.inputs)
    }
    steps = [stream.step({name: array[t] for name, array in frames.items()}) for t in range(STEPS)]
    return {port.name: np.stack([step[port.name] for step in steps]) for port in stream.outputs}
