"""One walk over a graph with sizes for its free dimensions that nothing else has, and a tag on every axis.

What is found about time, batch, states and cells is read off such walks.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import numpy as np

from .errors import UnsupportedModelError
from .graph import Graph
from .lowering import Lowering
from .values import MOST_AXES, Buffer, Merged, Tag, View

__all__ = ["axis_of", "axis_tag", "begun", "is_in", "port_shapes", "sharing", "tagged", "tags_of", "unused", "walk"]

#: More free dimensions than this no file has for good reasons.
MOST_FREE = 24
#: Frames that all windows together can be apart, or reach.
MOST_APART = 1 << 16
#: Walks that are kept while they are shared: what one has computed from constants is kept with it.
MOST_KEPT = 4
#: The walks that are shared here, by what they depend on, the last used last; beside each what its key has the ids of.
_Shared = OrderedDict[Any, tuple[Any, Lowering]]
_shared: ContextVar[_Shared | None] = ContextVar("_shared", default=None)


def port_shapes(
    graph: Graph, fixed: Mapping[tuple[str, int], int], long: int | None = None
) -> dict[str, tuple[int, ...]]:
    """Concrete shapes of all inputs: the file's sizes, primes for free ones, `fixed` for the axes that it names.

    From axis `long` on, free ones are as long as all windows of the graph can need.
    """
    symbols: dict[str, int] = {}
    spare: Iterator[int] | None = None
    shapes = {}
    for port in graph.inputs:
        if port.shape is None:
            raise UnsupportedModelError(
                f"input {port.name!r} has no declared shape", source=graph.source, hint="Declare its axes in the file"
            )
        if len(port.shape) > MOST_AXES:
            raise UnsupportedModelError(
                f"input {port.name!r} has more axes than an array can have ({MOST_AXES})", source=graph.source
            )
        shape = []
        for axis, dim in enumerate(port.shape):
            if (port.name, axis) in fixed:
                size = fixed[port.name, axis]
            elif isinstance(dim, int):
                size = dim
            elif dim is not None and dim in symbols:
                size = symbols[dim]
            else:
                spare = iter(unused(graph)[:-2]) if spare is None else spare
                size = take(spare, graph)
                size = size if long is None or axis < long else lengthened(graph, size)
                symbols |= {} if dim is None else {dim: size}
            shape.append(size)
        shapes[port.name] = tuple(shape)
    return shapes


def lengthened(graph: Graph, size: int) -> int:
    """A multiple of `size` that all windows of the graph fit in, and divide where they are apart."""
    step, reach = 1, 0
    for node in graph.nodes:
        if node.attrs.get("strides") or node.attrs.get("dilations"):
            strides = node.attrs.get("strides") or (1,)
            place = 3 if node.op == "QLinearConv" else 1
            weights = graph.constants.get(node.inputs[place]) if len(node.inputs) > place else None
            sizes = node.attrs.get("kernel_shape") or (weights.shape[2:] if weights is not None else ())
            reach += step * max(
                (k * d for k, d in zip(sizes, node.attrs.get("dilations") or sizes, strict=False)), default=0
            )
            step = min(step * max(strides), MOST_APART)
    return size * step * (1 + min(reach, MOST_APART) // (size * step))


@cache
def primes() -> tuple[int, ...]:
    """Those from 53 to 2000."""
    return tuple(n for n in range(53, 2000, 2) if all(n % k for k in range(3, 45, 2)))


def unused(graph: Graph) -> list[int]:
    """Primes that are no size in the file. The last two are for time and batch."""
    sizes = {n for array in graph.constants.values() for n in array.shape}
    for array in graph.constants.values():
        if array.dtype.kind in "iu" and array.size < 64:  # shapes, bounds, indices and what is one off
            sizes.update(int(n) + d for n in array.reshape(-1) for d in (-1, 0, 1))
    sizes.update(n for port in graph.inputs for n in port.shape or () if isinstance(n, int))
    found = list(itertools.islice((n for n in primes() if n not in sizes), MOST_FREE))
    if len(found) < 2:
        raise UnsupportedModelError("no size is left to tell time and batch by", source=graph.source)
    return found


def take(spare: Iterator[int], graph: Graph) -> int:
    """The next size that nothing else has."""
    try:
        return next(spare)
    except StopIteration:
        raise UnsupportedModelError("too many free dimensions", source=graph.source) from None


def axis_tag(name: str, axis: int) -> str:
    """The tag of an axis of an input."""
    return f"{name}\0{axis}"


def is_in(tag: Tag, what: str) -> bool:
    """Whether a resolved tag is `what`, or merged from it."""
    return any(is_in(part, what) for part, _ in tag.parts) if isinstance(tag, Merged) else tag == what


def walk(
    graph: Graph,
    real: np.dtype[Any],
    shapes: Mapping[str, tuple[int, ...]],
    outputs: Iterable[str] | None = None,
    squeezed: Mapping[str, tuple[int, ...]] | None = None,
    precision: str = "float32",
) -> Lowering:
    """Lower the graph, or what `outputs` need of it, for these shapes, with tags on every axis."""
    wanted = [port.name for port in graph.outputs] if outputs is None else list(outputs)
    shared = _shared.get()
    if shared is None:
        ctx = begun(graph, real, shapes, squeezed, precision)
        ctx.run(wanted)
        return ctx
    parts = *graph.nodes, *graph.constants.values(), *graph.defaults.values()
    names = *wanted, *graph.constants, *graph.defaults, *graph.inputs
    sizes = *shapes.items(), *(squeezed or {}).items()
    key = tuple(map(id, parts)), names, sizes, real, precision
    if key in shared:
        shared.move_to_end(key)
    else:
        ctx = begun(graph, real, shapes, squeezed, precision)
        ctx.run(wanted)
        shared[key] = parts, ctx
        while len(shared) > MOST_KEPT:
            shared.popitem(last=False)
    return shared[key][1].copied(graph)


@contextmanager
def sharing() -> Iterator[None]:
    """Give the same walk once more where it is asked for again: the passes over a graph most often do."""
    token = _shared.set(OrderedDict())
    try:
        yield
    finally:
        _shared.reset(token)


def begun(
    graph: Graph,
    real: np.dtype[Any],
    shapes: Mapping[str, tuple[int, ...]],
    squeezed: Mapping[str, tuple[int, ...]] | None = None,
    precision: str = "float32",
) -> Lowering:
    """A walk that has its inputs, and nothing yet of what is made of them."""
    ctx = Lowering(graph, real, carry=True, sketch=True, squeezed=dict(squeezed or {}), precision=precision)
    for port in graph.inputs:
        default = graph.defaults.get(port.name)
        if default is not None:
            ctx.values[port.name] = default
            continue
        dtype = real if port.dtype.kind == "f" else port.dtype
        shape = shapes[port.name]
        buffer = Buffer("input", dtype, int(np.prod(shape)), name=port.name)
        ctx.values[port.name] = View.whole(buffer, shape, tuple(axis_tag(port.name, k) for k in range(len(shape))))
    return ctx


def axis_of(ctx: Lowering, tags: tuple[Tag, ...], what: str) -> int | None:
    """The first axis whose tag is `what`."""
    return next((k for k, tag in enumerate(tags) if ctx.root(tag) == what), None)


def tagged(ctx: Lowering, axes: Mapping[str, int | None], what: str) -> None:
    """Say which axes of the inputs are time, or batch."""
    for name, axis in axes.items():
        if axis is not None:
            ctx.unify(axis_tag(name, axis), what)


def tags_of(ctx: Lowering, name: str) -> tuple[Tag, ...]:
    value = ctx.values[name]
    return value.tags if isinstance(value, View) else (None,) * value.ndim
