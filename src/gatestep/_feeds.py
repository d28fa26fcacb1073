"""Inputs that a model accepts, made up: for self-tests and `verify`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from .engine.errors import ShapeError
from .engine.graph import Graph
from .engine.model import Model
from .engine.ops import OPS

__all__ = [
    "Draw",
    "calls",
    "edges",
    "first_batch",
    "frames",
    "random_values",
    "shortest",
    "state_feeds",
    "table_sizes",
    "timed_inputs",
    "to_file",
    "to_frames",
    "whole",
]

Array = np.ndarray[Any, np.dtype[Any]]
#: Shape, type, and how many different indices an input may hold -> its values.
Draw = Callable[[tuple[int, ...], np.dtype[Any], int], Array]


def random_values(rng: np.random.Generator) -> Draw:
    """Draws standard normal numbers, indices over their whole range, and true or false."""

    def draw(shape: tuple[int, ...], dtype: np.dtype[Any], limit: int) -> Array:
        if dtype.kind == "f":
            return rng.standard_normal(shape).astype(dtype)
        return rng.integers(0, 2 if dtype.kind == "b" else limit, shape).astype(dtype)

    return draw


def table_sizes(graph: Graph) -> dict[str, int]:
    """For inputs of whole numbers: rows of the smallest table that they look up, 2 where they look up none."""
    made = {name: node for node in graph.nodes for name in node.outputs}
    ports = {port.name for port in graph.inputs if port.dtype.kind in "iu"}
    sizes: dict[str, int] = {}
    for node in graph.nodes:
        table = graph.constants.get(node.inputs[0]) if node.op == "Gather" else None
        if table is None:
            continue
        name = node.inputs[1]
        while name not in ports and name in made and (OPS[made[name].op].moves or made[name].op == "Cast"):
            name = made[name].inputs[0]
        axis = node.attrs.get("axis")
        if name in ports and isinstance(axis, int) and -table.ndim <= axis < table.ndim:
            rows = table.shape[axis]
            sizes[name] = min(rows, sizes.get(name, rows))
    return {name: max(sizes.get(name, 2), 1) for name in ports}


def first_batch(model: Model) -> int | None:
    """The batch to stream with where nothing else is wanted: none, or what the file fixes."""
    if model.layout.free_batch:
        return None
    fixed = model._fixed_batch()
    return fixed if fixed > 1 else None


def frames(model: Model, count: int, batch: int | None, draw: Draw) -> dict[str, Array]:
    """Frames for `count` steps of a stream, by port; a port that has no time axis gets one."""
    limits = table_sizes(model.graph)
    return {
        port.name: draw(port.shape if port.constant else of_steps(port, count), port.dtype, limits.get(port.name, 2))
        for port in model.stream(batch, delay=model.delay).inputs
    }


def of_steps(port: Any, count: int) -> tuple[int, ...]:
    """The shape of `count` steps at a port of a stream, time first."""
    return (count * port.hop, *port.shape[1:]) if port.hop > 1 else (count, *port.shape)


#: Steps of a call, or samples of a block, as models ask for them.
LENGTHS = (1, 4, 16, 32, 64, 128, 160, 256, 320, 400, 480, 512, 576, 640, 768, 800, 960, 1024, 1536, 2048, 4096, 16000)


def shortest(model: Model, draw: Draw) -> int:
    """The shortest of the usual lengths that the model takes: windows and the shapes of some files ask for more than 1.

    Raises
    ------
    ShapeError
        It takes none of them.
    """
    for count in LENGTHS:
        try:
            model(whole(model, count, 1, draw))
        except ShapeError as error:
            refusal = error
        else:
            return count
    raise refusal


def edges(model: Model, draw: Draw) -> list[tuple[str, int, int, Draw]]:
    """Random and edge inputs for whole calls: what they are, of how many steps and rows, and what draws them.

    Raises
    ------
    ShapeError
        The model takes none of the usual lengths, or has an input of unknown shape.
    """
    unknown = [port.name for port in model.inputs if port.shape is None and not port.optional]
    if unknown:
        raise ShapeError(f"the file does not say what shape {', '.join(unknown)} has: give data=, or --inputs")
    least = shortest(model, draw)
    some = 9 if least == 1 else least
    return [
        (f"random, {least} step{'s' * (least > 1)}", least, 1, draw),
        (f"random, {least + 1} steps", least + 1, 1, draw),
        (f"random, {max(33, 2 * least)} steps", max(33, 2 * least), 1, draw),
        ("random, batch of 3", some, 3, draw),
        ("zeros, first index", some, 2, lambda shape, dtype, limit: np.zeros(shape, dtype)),
        ("last index", some, 2, lambda shape, dtype, limit: last(draw(shape, dtype, limit), limit)),
        ("100 times as large", some, 2, lambda shape, dtype, limit: scaled(draw(shape, dtype, limit), 100.0)),
        ("denormals", some, 2, lambda shape, dtype, limit: scaled(draw(shape, dtype, limit), 1e-40)),
    ]


def calls(model: Model, cases: list[tuple[str, int, int, Draw]]) -> Iterator[tuple[str, dict[str, Array]]]:
    """Whole calls with such inputs, each once."""
    free, seen = model.layout.timed or not model.layout.axes, set()
    for what, count, batch, values in cases:
        feeds = whole(model, count, batch, values)
        shapes = tuple((name, array.shape) for name, array in feeds.items())
        content = (shapes, b"".join(array.tobytes() for array in feeds.values()) if values is not cases[0][3] else b"")
        if content in seen or (what == "last index" and all(p.dtype.kind == "f" for p in model.inputs)):
            continue
        seen.add(content)
        if not free:
            what = what.split(", ")[0] if "batch" not in what else what
        yield what, feeds


def scaled(array: Array, factor: float) -> Array:
    """Floating values times `factor`."""
    return (array.astype(np.float64) * factor).astype(array.dtype) if array.dtype.kind == "f" else array


def last(array: Array, limit: int) -> Array:
    """Indices replaced by the last there is."""
    return array if array.dtype.kind not in "iu" else np.full_like(array, limit - 1)


def whole(model: Model, count: int, batch: int, draw: Draw) -> dict[str, Array]:
    """Inputs of a whole call of `count` steps and `batch` rows, where the file leaves those free.

    Optional inputs are left out; sequence lengths are as long as the time axis.
    """
    limits = table_sizes(model.graph)
    shapes = whole_shapes(model, count, batch)
    feeds = {}
    for port in model.inputs:
        if port.name in model.layout.lengths:
            times = [shapes[name][axes.time] for name, axes in timed_inputs(model)]
            feeds[port.name] = np.full(shapes[port.name], min(times, default=1), port.dtype)
        elif not port.optional:
            feeds[port.name] = draw(shapes[port.name], port.dtype, limits.get(port.name, 2))
    return feeds


def timed_inputs(model: Model) -> list[tuple[str, Any]]:
    """Inputs that have a time axis, with their axes."""
    known = [(port.name, model.layout.axes.get(port.name)) for port in model.inputs]
    return [(name, axes) for name, axes in known if axes is not None and axes.time is not None]


def whole_shapes(model: Model, count: int, batch: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs of a whole call: a free dimension is time, batch, or what one of its name is elsewhere.

    Where the model's analysis came to nothing, the first free dimension of an input is taken for the batch and others
    for time.
    """
    named: dict[str, int] = {}
    shapes: dict[str, list[int]] = {}
    for port in model.inputs:
        axes, free = model.layout.axes.get(port.name), 0
        shapes[port.name] = []
        for axis, dim in enumerate(port.shape or ()):
            if isinstance(dim, int):
                size = dim
            elif axes is not None:
                size = count if axis == axes.time else batch
            else:
                size = batch if model.layout.axes or free == 0 else count
                free += 1
            shapes[port.name].append(size)
            if isinstance(dim, str) and (axes is not None or not model.layout.axes):
                named.setdefault(dim, size)
    for port in model.inputs:
        for axis, dim in enumerate(port.shape or ()):
            if isinstance(dim, str):
                shapes[port.name][axis] = named.get(dim, shapes[port.name][axis])
    return {name: tuple(shape) for name, shape in shapes.items()}


# ---------------------------------------------------------------------- frames and the file's own shapes


def to_file(model: Model, given: Mapping[str, Array]) -> dict[str, Array]:
    """Frames as the file has them: time first where an input has time, then batch, which may be left out."""
    feeds = {}
    for port in model.inputs:
        if port.name in given:
            axes = model.layout.axes[port.name]
            array, order = given[port.name], axes.order(len(port.shape or ()))
            if axes.batch is not None and array.ndim < len(order):
                array = np.expand_dims(array, order.index(axes.batch))
            feeds[port.name] = np.expand_dims(np.transpose(array, np.argsort(order)), axes.dropped)
    return feeds


def to_frames(model: Model, results: Mapping[str, Array], batch: int | None) -> dict[str, Array]:
    """What a whole call gives as a stream of this batch does: time first where an output has time, then batch."""
    shown = {}
    for name, axes in model.layout.axes.items():
        if name not in results:
            continue
        order = axes.order(results[name].ndim)
        kept = sorted(order)
        array = np.transpose(np.squeeze(results[name], axes.dropped), [kept.index(axis) for axis in order])
        if batch is None and axes.batch is not None and array.shape[order.index(axes.batch)] == 1:
            array = np.squeeze(array, order.index(axes.batch))
        shown[name] = array
    return shown


def state_feeds(model: Model) -> dict[str, str]:
    """Inputs that are states, with the outputs that continue them."""
    return {**{name: out for name, out in model.layout.states.items() if out}, **model.layout.carried}
