"""`.gatestep` files written: a model, and a test of it."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np

import gatestep
from gatestep._feeds import first_batch, frames, random_values, shortest, whole
from gatestep._files import replacing
from gatestep._stored import OPTIONS, ROUNDED, STEPS, TOLERANCE, tested
from gatestep.engine.errors import UnsupportedModelError
from gatestep.engine.graph import Graph
from gatestep.engine.model import Model
from gatestep.importers.container import Container
from gatestep.importers.kinds import is_container
from gatestep.importers.writing import Writer

__all__ = ["convert", "imported"]

ROUNDING = ("Quantize", "Integer", "Round")

Array = np.ndarray[Any, np.dtype[Any]]


def imported(source: Any, **options: Any) -> Graph:
    """The graph of whatever `gatestep.load` takes, before anything is done to it."""
    if is_container(source):
        return Container(source).imported
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what there is to warn of has been said by `load`
        return gatestep._graph(source, **options)


def convert(source: Any, path: str | os.PathLike[str], **options: Any) -> None:
    """See `gatestep.convert`."""
    model = gatestep.load(source, **options)
    graph = imported(source, **options)
    test = None
    if is_container(source):
        held = Container(source)
        name, made_with = held.source, held.value(held.options)
        test = held.value(held.selftest)
    else:
        name = os.path.basename(graph.source)
        made_with = {option: options.get(option) for option in OPTIONS} | {
            "dtype": model.real.name,
            "precision": model.asked,
        }
    writer = Writer(model.source)
    entries = {
        "writer": gatestep.__version__,
        "source": name,
        "prepared": {"graph": writer.graph(model.graph), "layout": writer.layout(model.layout)},
        "graph": writer.graph(graph),
        "options": writer.value(made_with),
        "selftest": writer.value(test or self_test(model)),
    }
    with replacing(path) as file:
        writer.write(file, **entries)


def self_test(model: Model) -> dict[str, Any]:
    """Inputs, and what the model gives for them: some frames of a stream, or a whole call where it does not stream."""
    draw = random_values(np.random.default_rng(0))
    batch = first_batch(model) if model.streams else None
    unknown = [port.name for port in model.inputs if port.shape is None and not port.optional]
    if unknown:
        raise UnsupportedModelError(
            f"input {unknown[0]!r} has no declared shape, so there is nothing to test the file with",
            source=model.source,
            hint="Declare its axes in the file",
        )
    if model.streams:
        inputs = frames(model, STEPS, batch, draw)
    else:
        least = shortest(model, draw)
        inputs = whole(model, least if least > 1 else STEPS, 1, draw)
    outputs = tested(model, inputs, batch)
    rounds = any(word in node.op for node in model.graph.nodes for word in ROUNDING)
    tolerance = ROUNDED if rounds or model.asked != "float32" else TOLERANCE[model.real.name]
    return {"inputs": inputs, "outputs": outputs, "batch": batch, "streamed": model.streams, "tolerance": tolerance}
