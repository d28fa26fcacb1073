"""A model: a graph with its weights packed, immutable, shared between threads."""

from __future__ import annotations

import math
from _thread import allocate_lock  # what `threading` calls Lock, without what else it imports
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..kernels import PRECISIONS, tier_build
from ._machine import MOST_ITERATIONS, Machine
from .arrays import exact
from .bounds import fitting
from .errors import ShapeError, UnsupportedModelError
from .graph import Graph, Node, Port
from .lowering import Lowering, NeedsValue
from .ops.plumbing import cast
from .passes.preparing import converted, prepared
from .plan import Plan
from .program import Packed, Program, finish
from .stream import Stream
from .streaming.layout import Layout
from .streaming.memories import MOST_STEPS
from .threads import checked
from .values import Buffer, View
from .walk import sharing

__all__ = ["Model"]

#: Programs for whole calls that are kept, by input shape.
KEPT = 16


class Model:
    """A trained model, ready to run. Made by `gatestep.load`.

    Attributes
    ----------
    source : str
        File or object it came from.
    inputs, outputs : tuple of Port
        As the file has them: `name`, `shape` (strings name free dimensions), `dtype`, `optional`.
    bind : dict
        Inputs of the file that are fixed, and what they are.
    precision : {"float32", "w16", "w8", "w8a8", "bfloat16", "float64"}
        What the weights of cells and dense layers are kept as, save those so small that float32 is faster; `nets` has
        it for each. "float32" where this machine has no faster kernels of what was asked for, which `asked` has.
    streams : bool
        Whether `stream()` works; `print(model)` says which node prevents it.
    delay : int
        Frames of the future that the model needs, in results: `stream(delay=...)` of so many works.
    hop : int
        Frames of the file that a stream takes per step; more than 1 where the model gives a result for so many.
    threads : int
        How many threads may share the work of a call.

    Examples
    --------
    >>> model = gatestep.load("denoiser.onnx")
    >>> stream = model.stream()
    >>> mask = stream.step(frame)  # (F,) -> (F,)
    """

    @sharing()
    def __init__(
        self,
        graph: Graph,
        *,
        states: Mapping[str, str] | None = None,
        backend: str = "cython",
        dtype: Any = np.float32,
        layout: Layout | None = None,
        bind: Mapping[str, Any] | None = None,
        shapes: Mapping[str, Sequence[int | None]] | None = None,
        threads: int = 1,
        precision: str = "float32",
    ) -> None:
        self.threads = checked(threads, backend)
        self.real = np.dtype(dtype)
        self.backend = backend
        self.asked, self.precision = precision, kept(precision, self.real, backend)
        self.nets: dict[str, str] = {}  # by node, what its weights are kept as; known once a program is built
        self.source = graph.source
        self.bind = dict(bind or {})
        self.stored = layout is not None  # not found out by this very code, and so not believed
        if layout is None:
            graph = prepared(graph, self.real, states=states, bind=bind, shapes=shapes)
        else:
            converted(graph, self.real)
        self.graph = graph
        #: Element types at the ports: the file's; with dtype="float64", that for every floating port.
        self.dtypes = {
            p.name: self.real if p.dtype.kind == "f" and self.real == np.float64 else p.dtype
            for p in [*graph.inputs, *graph.outputs]
        }
        self.inputs = tuple(Port(p.name, p.shape, self.dtypes[p.name], p.optional) for p in graph.inputs)
        self.outputs = tuple(Port(p.name, p.shape, self.dtypes[p.name]) for p in graph.outputs)
        self.packed = Packed()
        self._calls: OrderedDict[Any, _Call] = OrderedDict()
        self._bound: frozenset[str] = frozenset()
        self._plans: dict[tuple[int, int], Plan] = {}
        self._lock = allocate_lock()
        self._with_lengths: Model | None = None
        if layout is None:
            from .streaming.framewise import analyse  # not for a `.gatestep` file

            layout = analyse(graph, self.real, states)
        self.layout = layout
        if layout.blocker is None and not self.stored:
            try:
                plan = self._plan(1 if self.layout.free_batch else self._fixed_batch(), self.delay)
                plan.states  # noqa: B018  (whether there is a name and a place for each)
            except (ShapeError, UnsupportedModelError) as error:  # it may still run as a whole
                if getattr(error, "attribute", None) == "precision":
                    raise
                self.layout.blocker = error

    def at(self, precision: str) -> Model:
        """The same model in another precision."""
        model = Model(
            self.graph,
            backend=self.backend,
            dtype=self.real,
            layout=self.layout,
            bind=self.bind,
            threads=self.threads,
            precision=precision,
        )
        model.stored = self.stored
        return model

    @property
    def tier(self) -> str:
        """Which kernels the model runs on: those for reals are of one name, whatever the reals are."""
        return "float32" if self.precision == "float64" else self.precision

    # ------------------------------------------------------------------ streaming
    @property
    def streams(self) -> bool:
        """Whether the model can run one frame at a time, each result about the frame that is given."""
        return self.layout.blocker is None and self.layout.late is None

    @property
    def delay(self) -> int:
        """By how many steps results have to be late; 0 for a causal model."""
        return self.layout.memories.delay

    @property
    def hop(self) -> int:
        """Frames of the file that a stream takes per step."""
        return self.layout.memories.hop

    def stream(self, batch: int | None = None, *, delay: int = 0) -> Stream:
        """A new stream, in the model's initial state.

        Parameters
        ----------
        batch : int, optional
            Rows that step together, each with a state of its own: frames are then ``(B, F)`` instead of ``(F,)``.
        delay : int, optional
            The result of step n belongs to step ``n - delay``, for a model that needs so much of the future.

        Raises
        ------
        UnsupportedModelError
            The model needs the future, or more of it than `delay`; the error names the node that does.
        """
        if self.layout.blocker is not None:
            raise self.layout.blocker.with_traceback(None)
        if not isinstance(delay, (int, np.integer)) or not 0 <= delay <= MOST_STEPS:
            raise ShapeError(f"delay={delay!r} is not a number from 0 to {MOST_STEPS}")
        if delay < self.delay and self.layout.late is not None:
            raise self.layout.late.with_traceback(None)
        return Stream(self._plan(self._rows(batch), int(delay)), batch)

    def _rows(self, batch: int | None) -> int:
        """Rows of the program for `batch`, held against what the file allows."""
        if batch is not None and (not isinstance(batch, (int, np.integer)) or batch < 1):
            raise ShapeError(f"batch={batch!r} is not a positive number")
        rows = 1 if batch is None else int(batch)
        fixed = self._fixed_batch()
        if not self.layout.free_batch and rows != fixed:
            hint = "Use one stream per row" if self.layout.timed else "Use stream(): a frame has the rows of the file"
            raise UnsupportedModelError(
                f"batch={batch} is not possible: {self.layout.batch_blocker}",
                source=self.source,
                hint=f"Use stream(batch={fixed})" if fixed > 1 else hint,
            )
        return rows

    def _fixed_batch(self) -> int:
        """The batch that the file was written for."""
        for port in self.inputs:
            axes = self.layout.axes.get(port.name)
            if axes is not None and axes.batch is not None and port.shape is not None:
                size = port.shape[axes.batch]
                if isinstance(size, int):
                    return size
        return 1

    def _plan(self, rows: int, delay: int) -> Plan:
        with self._lock, fitting(self.stored, self.source):
            if (rows, delay) not in self._plans:
                try:
                    self._plans[rows, delay] = Plan(self, rows, delay)
                except NeedsValue as needs:  # of a file whose layout lies
                    raise needs.error from None
            return self._plans[rows, delay]

    def run(self, frames: Any, out: Any = None) -> Any:
        """Run a whole recording from the initial state, time first.

        Parameters
        ----------
        frames : array, or mapping or tuple of arrays
            ``(T, F)``, with a batch ``(T, B, F)``.
        out : array, or mapping or tuple of arrays, optional
            Where to put the result.

        Returns
        -------
        array, mapping or tuple
            Bit for bit what a fresh stream gives frame by frame. A model that does not stream is called on the whole
            recording.
        """
        if self.streams:
            return self.stream(self._batch_of(frames)).run(frames, out)
        layout = self.layout
        if not layout.axes or not layout.timed:
            assert layout.blocker is not None
            raise layout.blocker.with_traceback(None)
        ports = [p for p in self.inputs if p.name in layout.axes]
        feeds = {}
        for port, value in zip(ports, self._values(ports, frames), strict=True):
            array = exact("frames", port.name, value, port.dtype)
            axes, ndim = layout.axes[port.name], len(port.shape or ())
            order = axes.order(ndim)
            if array.ndim == ndim - 1 and axes.batch is not None:
                array = np.expand_dims(array, order.index(axes.batch))
            if array.ndim != ndim:
                raise ShapeError(f"frames {port.name!r} has shape {array.shape}, expected {ndim} axes, time first")
            feeds[port.name] = np.transpose(array, np.argsort(order))
        squeeze = self._batch_of(frames) is None
        results = []
        for port, value in self(feeds).items():
            if port not in layout.axes:
                continue
            axes = layout.axes[port]
            order = axes.order(value.ndim)
            array = np.transpose(value, order)
            if squeeze and axes.batch is not None and array.shape[order.index(axes.batch)] == 1:
                array = array.squeeze(order.index(axes.batch))
            results.append((port, array))
        if out is not None:
            targets = out if isinstance(out, tuple) else (out,)
            for (_, array), target in zip(results, targets, strict=True):
                np.copyto(target, array)
            return out
        if isinstance(frames, Mapping):
            return dict(results)
        arrays = tuple(array for _, array in results)
        return arrays[0] if len(arrays) == 1 else arrays

    def _batch_of(self, frames: Any) -> int | None:
        """The batch that these frames have, by their number of axes."""
        ports = [p for p in self.inputs if p.name in self.layout.axes and not p.optional]
        for port, value in zip(ports, self._values(ports, frames), strict=True):
            axes = self.layout.axes[port.name]
            if axes.batch is None or port.shape is None or (self.layout.timed and axes.time is None):
                continue
            features = len(axes.order(len(port.shape))) - (1 if axes.time is None else 2)
            shape = np.shape(value)
            if len(shape) == features + 2:
                return int(shape[1])
            if len(shape) == features + 1:
                return None
            raise ShapeError(
                f"frames {port.name!r} has shape {shape}, expected {features + 1} axes, or with a batch {features + 2}"
            )
        return None

    @staticmethod
    def _values(ports: list[Port], given: Any) -> list[Any]:
        """One value per port from a mapping, a tuple or a single array."""
        if isinstance(given, Mapping):
            names = [p.name for p in ports]
            if set(given) != set(names):
                raise ShapeError(f"frames has {sorted(given)}, expected {sorted(names)}")
            return [given[name] for name in names]
        values = list(given) if isinstance(given, tuple) else [given]
        if len(values) != len(ports):
            raise ShapeError(f"frames has {len(values)} arrays, expected {[p.name for p in ports]}")
        return values

    # ------------------------------------------------------------------ whole calls
    def __call__(self, *feeds: Any, lengths: Sequence[int] | None = None) -> Any:
        """One whole call in the file's own shapes, states in and out included; keeps nothing.

        Parameters
        ----------
        *feeds : one mapping, or arrays
            A mapping by name, or arrays in declared order (nested tuples as in ``module(x, (h0, c0))`` are fine);
            optional inputs may be left out.
        lengths : sequence of int, optional
            How many frames of each row there are, in any order. Recurrent operators stop there: what they give beyond
            is zeros, their final states are those at the length, and a reverse direction begins at it. That is what
            PyTorch gives for a packed sequence. For models that have no input for lengths themselves, and in which
            nothing behind the recurrent operators looks along the time axis.

        Returns
        -------
        dict, array or tuple
            A mapping for a mapping; otherwise one array, or a tuple in declared order.

        Raises
        ------
        ShapeError
            An array does not fit its port.
        UnsupportedModelError
            The model asks for something that is not supported, for these shapes; or lengths mean nothing to it.
        """
        if lengths is not None:
            from .passes.lengths import as_lengths

            return self._lengthwise()._called(feeds, as_lengths(lengths))
        return self._called(feeds)

    def _lengthwise(self) -> Model:
        """The same model, whose last input is the lengths."""
        from .passes.lengths import with_lengths

        with self._lock:
            if self._with_lengths is None:
                graph, _ = with_lengths(self.graph, self.real)
                model = Model(
                    graph,
                    backend=self.backend,
                    dtype=self.real,
                    layout=self.layout,
                    threads=self.threads,
                    precision=self.tier,
                )
                model.packed = self.packed
                self._with_lengths = model
            return self._with_lengths

    def _called(self, feeds: tuple[Any, ...], lengths: np.ndarray | None = None) -> Any:
        """A call, with lengths for the last input."""
        last = {} if lengths is None else {self.inputs[-1].name: lengths}
        inputs = self.inputs[: len(self.inputs) - len(last)]
        if len(feeds) == 1 and isinstance(feeds[0], Mapping):
            results = self._call({**feeds[0], **last})
            return {port.name: array for port, array in zip(self.outputs, results, strict=True)}
        flat: list[Any] = []
        for value in feeds:
            flat.extend(value) if isinstance(value, tuple) else flat.append(value)
        if len(flat) > len(inputs):
            raise ShapeError(f"{len(flat)} arrays given, the model has inputs {[p.name for p in inputs]}")
        given = {p.name: value for p, value in zip(inputs, flat, strict=False) if value is not None}
        results = self._call(given | last)
        return results[0] if len(results) == 1 else tuple(results)

    def _call(self, feeds: dict[str, Any]) -> list[np.ndarray]:
        arrays = self._checked(feeds)
        while True:
            key = self._key(arrays)
            with self._lock:
                call = self._calls.get(key)
                if call is not None:
                    self._calls.move_to_end(key)
            if call is None:
                try:
                    call = self._compile(arrays)
                except NeedsValue as needs:
                    if needs.inputs <= self._bound or not needs.inputs & arrays.keys():
                        raise needs.error from None
                    self._bound |= needs.inputs
                    continue
                with self._lock:
                    self._calls[key] = call
                    while len(self._calls) > KEPT:
                        self._calls.popitem(last=False)
            return call([arrays[b.name] for b in call.program.inputs], self)

    def _checked(self, feeds: dict[str, Any]) -> dict[str, np.ndarray]:
        """Arrays of the ports' types, shapes held against the file's."""
        unknown = feeds.keys() - {p.name for p in self.inputs}
        missing = [p.name for p in self.inputs if p.name not in feeds and not p.optional]
        if unknown or missing:
            raise ShapeError(
                f"{self.source}: inputs are {[p.name for p in self.inputs]}; "
                + "; ".join(f"{what} {sorted(n)}" for what, n in (("missing", missing), ("unknown", unknown)) if n)
            )
        arrays: dict[str, np.ndarray] = {}
        symbols: dict[str, int] = {}
        for port in self.inputs:
            if port.name not in feeds:
                continue
            array = exact("input", port.name, feeds[port.name], port.dtype)
            if port.shape is not None:
                fits = len(array.shape) == len(port.shape)
                for have, dim in zip(array.shape, port.shape, strict=False):
                    want = symbols.setdefault(dim, have) if isinstance(dim, str) else dim
                    fits = fits and (want is None or want == have)
                if not fits:
                    raise ShapeError(f"input {port.name!r} has shape {array.shape}, expected {shown(port.shape)}")
            arrays[port.name] = np.require(array, port.dtype, ["C", "A"])
        return arrays

    def _key(self, arrays: Mapping[str, np.ndarray]) -> Any:
        """What a program for whole calls depends on: shapes, and the values that it is built around."""
        if not self._bound:
            return tuple((name, array.shape) for name, array in arrays.items())
        from hashlib import sha256

        return tuple(
            (name, a.shape, sha256(a.data).digest() if name in self._bound else None) for name, a in arrays.items()
        )

    def _compile(self, arrays: Mapping[str, np.ndarray]) -> _Call:
        """A program for whole calls of these shapes."""
        graph = self.graph
        ctx = Lowering(graph, self.real, precision=self.tier)
        buffers: list[Buffer] = []
        symbols = {
            dim: size
            for p in graph.inputs
            if p.name in arrays and p.shape is not None
            for dim, size in zip(p.shape, arrays[p.name].shape, strict=True)
        }
        for port in graph.inputs:
            floating = port.dtype.kind == "f"
            if port.name in self._bound and port.name in arrays:
                array = arrays[port.name]
                ctx.values[port.name] = array.astype(self.real) if floating else array
            elif port.name in arrays:
                shape = arrays[port.name].shape
                buffer = Buffer("input", self.dtypes[port.name], math.prod(shape), name=port.name)
                buffers.append(buffer)
                view = View.whole(buffer, shape)
                node = Node("Input", (), (), {}, port.name)
                ctx.values[port.name] = cast(ctx, node, view, self.real) if floating else view
            elif graph.defaults.get(port.name) is not None:
                default = graph.defaults[port.name]
                assert default is not None
                ctx.values[port.name] = default.astype(self.real) if floating else default
            else:
                shape = tuple(dim if isinstance(dim, int) else symbols.get(dim, 1) for dim in port.shape or ())
                ctx.values[port.name] = np.zeros(shape, dtype=self.real if floating else port.dtype)
        ctx.run([p.name for p in graph.outputs])
        self.nets |= ctx.tiers
        values = [ctx.values[p.name] for p in graph.outputs]
        packed = Packed() if self._bound else self.packed
        outputs = [(value, self.dtypes[p.name]) for p, value in zip(graph.outputs, values, strict=True)]
        program = finish(ctx, buffers, outputs, backend=self.backend, packed=packed, states={}, threads=self.threads)
        return _Call(program, [value.shape for value in values], [dtype for _, dtype in outputs])

    def failure(self, node: Node, where: str = "") -> ShapeError:
        """The error for a kernel that refused what it read."""
        if node.op == "Loop":
            return ShapeError(f"{self.source}: {node.label}: does not end (more than {MOST_ITERATIONS:,} iterations)")
        what = "an index lies outside its table" if node.op == "Gather" else "a length lies outside the time axis"
        return ShapeError(f"{self.source}: {node.label}: {what}{' ' if where else ''}{where}")

    # ------------------------------------------------------------------ looks
    def __str__(self) -> str:
        from .summary import summary

        return summary(self)

    def __repr__(self) -> str:
        ins, outs = (", ".join(p.name for p in ports) for ports in (self.inputs, self.outputs))
        return f"<Model {self.source}: {ins} -> {outs}>"


class _Call:
    """A program for whole calls, and the machines made for it, one per thread inside it at a time."""

    def __init__(self, program: Program, shapes: list[tuple[int, ...]], dtypes: list[Any]) -> None:
        self.program, self.shapes, self.dtypes = program, shapes, dtypes
        self.idle: list[Machine] = []

    def __call__(self, arrays: list[np.ndarray], model: Model) -> list[np.ndarray]:
        try:
            machine = self.idle.pop()
        except IndexError:
            machine = self.program.bind()
        results = [np.empty(shape, dtype) for shape, dtype in zip(self.shapes, self.dtypes, strict=True)]
        failed = machine.run([*arrays, *results])
        self.idle.append(machine)
        if failed >= 0:
            raise model.failure(self.program.instructions[failed].node)
        return results


def kept(precision: str, real: np.dtype[Any], backend: str) -> str:
    """The precision that weights are kept in where `precision` is asked for."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} is not {', '.join(map(repr, PRECISIONS))} or 'auto'")
    if precision == "float32":
        return str(real.name)
    if real != np.float32:
        raise ValueError(f"precision={precision!r} computes in float32: leave dtype={real.name!r} out")
    if backend != "cython":
        raise ValueError(f"precision={precision!r} has no kernels of backend={backend!r}: leave backend out")
    return precision if tier_build(precision) else "float32"


def shown(shape: tuple[Any, ...]) -> str:
    """A port's shape for messages: ``(T, B, 257)``."""
    return f"({', '.join('?' if dim is None else str(dim) for dim in shape)}{',' if len(shape) == 1 else ''})"
