"""What a model computes, held to what it should: `gatestep.verify`.

The measure of "the same" is the model's own. Every value of the graph, constants and inputs included, is moved by one
unit in the last place of the arithmetic, up or down at random, and the oracle computes again: how far the outputs move
says how far correct rounding can take them, through cancellation, saturation and recurrence alike. A result may be
`MARGIN` times as far away, and `ULPS` units of its largest magnitude beside that, for sums of many terms and the
approximations of the activations.

A precision tier rounds more. There every value is also moved by up to half a step of the tier's weights, of the largest
in its row, and results may be `TIER_MARGIN` times as far away as that takes the oracle.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

import gatestep
from gatestep._convert import imported
from gatestep._feeds import (
    Draw,
    calls,
    edges,
    first_batch,
    frames,
    random_values,
    state_feeds,
    table_sizes,
    to_file,
    to_frames,
    whole,
)
from gatestep._peers import Peer, peers
from gatestep._precision import deviation
from gatestep.engine.errors import GatestepError, ShapeError
from gatestep.engine.graph import Graph
from gatestep.engine.model import Model
from gatestep.engine.oracle import evaluate

__all__ = ["Check", "Report", "verify"]

MARGIN, ULPS = 16.0, 512.0
#: Other engines approximate activations to so many units of 1, however small the result is.
ABSOLUTE = 4.0
#: Times that the oracle computes with moved values.
DRAWS = 2
#: Frames of the streaming checks: a chunk of 64, one of 8 and single frames.
FRAMES = 75
#: Frames for what the oracle repeats.
FEW = 6
#: Below this everything counts as zero: the kernels take denormals for zeros.
SMALLEST = {"float32": 1e-35, "float64": 1e-300}

#: Half a step of a tier's weights, and of the rows of w8a8, over the largest of those that share a scale (of bfloat16,
#: over the weight itself).
HALF_STEP = {"w8a8": 1 / 254, "w8": 1 / 254, "w16": 1 / 65534, "bfloat16": 2.0**-9}
TIER_MARGIN = 4.0

Array = np.ndarray[Any, np.dtype[Any]]


#: What the caller's inputs are called.
GIVEN = "the inputs given"


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes
    ----------
    what : str
        The inputs.
    against : str
        What the results were held to.
    absolute, relative : float
        The largest error, and that over the largest magnitude of the output it is in.
    tolerance : float
        What `absolute` may be; 0 where the bits must be the same.
    passed : bool
    note : str
    """

    what: str
    against: str
    absolute: float
    relative: float
    tolerance: float
    passed: bool
    note: str = ""


@dataclass
class Report:
    """What `verify` found; prints as a table.

    Attributes
    ----------
    source : str
    checks : list of Check
    skipped : list of str
        What was not compared, and why.
    precision : str
        What the model's weights were kept as.
    deviation : dict of str to float
        For another precision than float32: for each of the inputs, how far the results are from those of float32, over
        the largest magnitude of an output or 1, whichever is more.
    """

    source: str
    checks: list[Check] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    precision: str = "float32"
    deviation: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether there was something to compare, and all of it agrees."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def json(self) -> str:
        """The report as JSON."""
        data = {"source": self.source, "passed": self.passed, "checks": [asdict(c) for c in self.checks]}
        data |= {"skipped": self.skipped, "precision": self.precision, "deviation": self.deviation}
        finite = json.loads(json.dumps(data), parse_constant=lambda text: text)
        return json.dumps(finite, indent=1)

    def __str__(self) -> str:
        rows = [("check", "against", "max error", "relative", "allowed", "")]
        for c in self.checks:
            verdict = ("ok" if c.passed else "DISAGREES") + (f" ({c.note})" if c.note else "")
            allowed = f"{c.tolerance:.1e}" if c.tolerance else "same bits"
            rows.append((c.what, c.against, f"{c.absolute:.1e}", f"{c.relative:.1e}", allowed, verdict))
        widths = [max(len(row[k]) for row in rows) for k in range(5)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)) for row in rows]
        lines += [f"not compared: {line}" for line in self.skipped]
        if self.deviation:
            worst = max(self.deviation, key=lambda what: self.deviation[what])
            lines.append(f"precision {self.precision}: at most {self.deviation[worst]:.1e} from float32 ({worst})")
            own = self.deviation.get(GIVEN)
            lines += [] if own is None else [f"precision {self.precision}: {own:.1e} from float32 on {GIVEN}"]
        bad = sum(not check.passed for check in self.checks)
        lines.append(f"{len(self.checks)} checks, {bad} disagree" if self.checks else "nothing could be compared")
        return "\n".join(line.rstrip() for line in [self.source, *lines])


def verify(
    source: Any,
    *,
    data: Mapping[str, Any] | None = None,
    seed: int = 0,
    trusted: bool = False,
    max_error: float | None = None,
    **options: Any,
) -> Report:
    """See `gatestep.verify`."""
    auto = options.get("precision") == "auto"
    model = gatestep.load(source, **options, max_error=max_error if auto else None, data=data if auto else None)
    held = Verification(model, imported(source, **options), source, seed, trusted, options)
    held.max_error = max_error
    return held.report(data)


class Verification:
    """One model under test."""

    def __init__(
        self, model: Model, graph: Graph, source: Any, seed: int, trusted: bool, options: Mapping[str, Any]
    ) -> None:
        self.model, self.graph, self.rng = model, graph, np.random.default_rng(seed)
        self.result = Report(model.source, precision=model.precision)
        #: The same model in float32, where it is in a tier, and how far from it results may be.
        self.plain = None if model.tier == "float32" else model.at("float32")
        self.max_error: float | None = None
        types = {port.name: port.dtype for port in graph.inputs}
        self.bound = {name: np.asarray(value, types[name]) for name, value in model.bind.items()}
        self.eps = float(np.finfo(model.real).eps)
        self.peers: list[Peer] = []
        ports = [port.name for port in graph.inputs], [port.name for port in graph.outputs]
        for found in peers(source, trusted, options, ports):
            if isinstance(found, str):
                self.result.skipped.append(found)
            else:
                self.peers.append(found)

    def report(self, data: Mapping[str, Any] | None) -> Report:
        """Everything that can be compared."""
        if data is not None:
            self.whole(GIVEN, dict(data))
        for what, feeds in self.calls():
            self.whole(what, feeds)
        if self.model.layout.blocker is None:
            self.streams()
        else:
            self.result.skipped.append(f"streaming: {self.model.layout.blocker}")
        return self.result

    # ------------------------------------------------------------------ measures
    def rounding(self) -> Callable[[Array], Array]:
        """Moves values by one unit in the last place."""

        def move(array: Array) -> Array:
            moved: Array = array * (1 + self.eps * self.rng.choice((-1.0, 1.0), array.shape))
            return moved

        return move

    def stepping(self) -> Callable[[Array], Array]:
        """Moves values by up to half a step of the tier, of the largest in their row."""
        half = HALF_STEP[self.model.tier]

        def move(array: Array) -> Array:
            size = np.where(np.isfinite(array), np.abs(array), 0.0)
            moved: Array = array + half * self.rng.uniform(-1, 1, array.shape) * (
                size.max(axis=-1, keepdims=True, initial=0.0) if size.ndim else size
            )
            return moved

        return move

    def fits(self, feeds: Mapping[str, Array]) -> bool:
        """Whether the file takes these shapes; the model may take more, where sizes were not really fixed."""
        for port in self.graph.inputs:
            sizes = np.shape(feeds[port.name]) if port.name in feeds else ()
            if any(isinstance(dim, int) and dim != size for dim, size in zip(port.shape or (), sizes, strict=False)):
                return False
        return True

    def oracle(self, feeds: Mapping[str, Array]) -> str:
        """What to call the oracle for these inputs."""
        return "oracle" if self.fits(feeds) else "oracle, freed"

    def expected(self, feeds: Mapping[str, Any]) -> tuple[dict[str, Array], dict[str, float]]:
        """What the oracle gives, and how far from it a result may be.

        Sizes that the file fixes and the model has freed are computed by the graph in which they are free.
        """
        graph, bound = (self.graph, self.bound) if self.fits(feeds) else (self.model.graph, {})
        want = evaluate(graph, {**feeds, **bound})
        allowed = {}
        for name, array in want.items():
            finite = np.abs(array[np.isfinite(array)]) if array.dtype.kind == "f" else np.zeros(0)
            largest = float(finite.max()) if finite.size else 0.0
            allowed[name] = ULPS * self.eps * largest + SMALLEST[self.model.real.name]
        moves = [(self.rounding(), MARGIN)] * DRAWS
        if self.plain is not None:
            moves += [(self.stepping(), TIER_MARGIN)] * DRAWS
        for move, margin in moves:
            try:
                moved = evaluate(graph, {**feeds, **bound}, rounding=move)
            except GatestepError:  # a size that the graph computes in floating point was moved, too
                break
            for name, array in want.items():
                if moved[name].shape == array.shape:
                    with np.errstate(all="ignore"):
                        apart = np.abs(moved[name].astype(np.float64) - array.astype(np.float64))
                    apart = apart[np.isfinite(apart)]
                    allowed[name] += margin * float(apart.max()) if apart.size else 0.0
        return want, allowed

    def hold(
        self,
        what: str,
        against: str,
        got: Mapping[str, Array],
        want: Mapping[str, Array],
        allowed: Mapping[str, float],
    ) -> None:
        """Add a check: of several outputs, the one that is worst for its tolerance."""
        found = [compared(what, against, got[name], want[name], allowed[name], name) for name in want if name in got]
        if found:
            self.result.checks.append(max(found, key=lambda c: (not c.passed, c.absolute / max(c.tolerance, 1e-300))))

    def near(
        self, what: str, got: Mapping[str, Array], plain: Mapping[str, Array], allowed: Mapping[str, float]
    ) -> None:
        """Add a check against float32, of a model in a tier."""
        if self.max_error is not None:
            allowed = {name: self.max_error * max(1.0, largest(array)) for name, array in plain.items()}
        self.result.deviation[what] = max(deviation(got[name], plain[name]) for name in plain)
        self.hold(what, "float32", got, plain, allowed)

    def same(self, what: str, against: str, got: Mapping[str, Array], want: Mapping[str, Array]) -> None:
        """Add a check that bits are the same."""
        self.hold(what, against, got, want, dict.fromkeys(want, 0.0))

    # ------------------------------------------------------------------ whole calls
    def calls(self) -> Iterator[tuple[str, dict[str, Array]]]:
        """Random and edge inputs for whole calls."""
        draw = random_values(self.rng)
        try:
            cases = edges(self.model, draw)
        except ShapeError as error:
            self.result.skipped.append(f"whole calls: {error}")
            return
        for what, count, batch, values in (cases[0], cases[-2]):
            feeds = whole(self.model, count, batch, values)
            if not self.fits(feeds):  # so that the graph as imported is asked, too, and other engines
                yield f"{what.split(', ')[0]}, the file's sizes", self.own_sizes(feeds, values)
        yield from calls(self.model, cases)

    def own_sizes(self, feeds: Mapping[str, Array], draw: Draw) -> dict[str, Array]:
        """Inputs of the sizes that the file fixes, where it does."""
        limits, own = table_sizes(self.model.graph), {port.name: port.shape or () for port in self.graph.inputs}
        sized = {}
        for name, array in feeds.items():
            sizes = zip(own[name], array.shape, strict=True)
            shape = tuple(dim if isinstance(dim, int) else size for dim, size in sizes)
            same = shape == array.shape or name in self.model.layout.lengths
            sized[name] = array if same else draw(shape, array.dtype, limits.get(name, 2))
        return sized

    def whole(self, what: str, feeds: dict[str, Array]) -> None:
        """One whole call against the oracle and the peers."""
        try:
            got = self.model(feeds)
        except ShapeError as error:
            self.result.skipped.append(f"{what}: {error}")
            return
        try:
            asked = {name: flushed(np.asarray(array)) for name, array in feeds.items()}
            want, allowed = self.expected(asked)
        except GatestepError as error:
            self.result.skipped.append(f"{what}: the oracle: {error}")
            return
        self.hold(what, self.oracle(feeds), got, want, allowed)
        if self.plain is not None:
            self.near(what, got, self.plain(feeds), allowed)
        for peer in self.peers if self.fits(feeds) else ():
            try:
                theirs = peer.call({**asked, **self.bound})
            except Exception as error:  # whatever a peer says of a file that it cannot run
                self.result.skipped.append(f"{what}: {peer.name}: {' '.join(str(error).split())[:200]}")
                continue
            self.hold(what, peer.name, got, theirs, {n: value + ABSOLUTE * self.eps for n, value in allowed.items()})

    # ------------------------------------------------------------------ streams
    def streams(self) -> None:
        """Steps, chunks, rows and states."""
        model, batch = self.model, first_batch(self.model)
        draw = random_values(self.rng)
        given = frames(model, FRAMES, batch, draw)
        if all(port.constant for port in self.stream(batch).inputs):
            self.result.skipped.append("streaming: nothing that goes into a frame changes with time")
            return
        stream = self.stream(batch)
        ports = {port.name: port for port in stream.inputs}

        def cut(start: int, end: int) -> dict[str, Array]:
            return {
                n: a if ports[n].constant else a[start * ports[n].hop : end * ports[n].hop] for n, a in given.items()
            }

        def one(t: int) -> dict[str, Array]:
            return {n: a if ports[n].constant or ports[n].hop > 1 else a[0] for n, a in cut(t, t + 1).items()}

        steps = [stream.step(one(t)) for t in range(FRAMES)]
        stepped = {
            port.name: (np.concatenate if port.hop > 1 else np.stack)([step[port.name] for step in steps])
            for port in stream.outputs
        }
        what = f"{FRAMES} frames"
        self.same(what, "steps: run in one", stepped, self.stream(batch).run(given))
        stream = self.stream(batch)
        pieces = [stream.run(cut(start, end)) for start, end in ((0, 1), (1, 6), (6, 70), (70, FRAMES))]
        joined = {name: np.concatenate([piece[name] for piece in pieces]) for name in stepped}
        self.same(what, "steps: run in pieces", stepped, joined)
        if model.layout.free_batch and batch is None:
            rows = frames(model, FRAMES, 3, draw)
            together, alone = self.stream(3).run(rows), self.stream(None)
            single = alone.run({port.name: row(rows[port.name], port, rows, model) for port in alone.inputs})
            rowed = {n: a if model.layout.axes[n].batch is None else a[:, 1] for n, a in together.items()}
            self.same(f"{what}, 3 rows", "one row alone", rowed, single)
        if model.layout.timed:
            self.recording(given, batch)
        by_frame = model.hop == 1 and model.delay == 0
        if by_frame and self.stream(batch).state.keys() == state_feeds(model).keys() != set():
            self.by_hand(given, batch)

    def stream(self, batch: int | None) -> gatestep.Stream:
        """A stream that is as late as the model has to be."""
        return self.model.stream(batch, delay=self.model.delay)

    def lengths(self, count: int, batch: int | None) -> dict[str, Array]:
        """Sequence lengths that are as long as the recording, for inputs that must be given."""
        ports = [port for port in self.model.inputs if port.name in self.model.layout.lengths and not port.optional]
        return {port.name: np.full((batch or 1,), count, port.dtype) for port in ports}

    def recording(self, given: Mapping[str, Array], batch: int | None) -> None:
        """A stream against one call on the whole recording."""
        model = self.model
        stream = self.stream(batch)
        states = {name: stream.state[name] for name in model.layout.states_in()}
        feeds = {**to_file(model, given), **states, **self.lengths(FRAMES * model.hop, batch)}
        try:
            want, allowed = self.expected(feeds)
        except GatestepError as error:
            self.result.skipped.append(f"{FRAMES} frames: the oracle on the whole recording: {error}")
            return
        if self.plain is not None:
            plain = self.plain.stream(batch, delay=model.delay).run(dict(given))
            self.near(f"{FRAMES} frames", stream.run(dict(given)), plain, allowed)
            stream = self.stream(batch)
        shown = to_frames(model, want, batch)
        got = {n: a if model.layout.axes[n].time is not None else a[-1] for n, a in stream.run(dict(given)).items()}
        for port in stream.outputs:
            if model.layout.axes[port.name].time is not None:  # as far as both go
                late = got[port.name][model.delay * port.hop :]
                both = min(len(late), len(shown[port.name]))
                got[port.name], shown[port.name] = late[:both], shown[port.name][:both]
            elif model.delay:  # of some steps ago
                del shown[port.name]
        self.hold(f"{FRAMES} frames", f"{self.oracle(feeds)}, one call", got, shown, allowed)
        ends = {out: stream.state[name] for name, out in state_feeds(model).items()}
        self.hold(
            f"{FRAMES} frames", f"{self.oracle(feeds)}, last states", ends, {out: want[out] for out in ends}, allowed
        )

    def by_hand(self, given: Mapping[str, Array], batch: int | None) -> None:
        """A stream against calls that are handed their states, by the engine and by the oracle."""
        model = self.model
        stream, pairs = model.stream(batch), state_feeds(self.model)
        still = {port.name for port in stream.inputs if port.constant}
        timed = {name for name, axes in model.layout.axes.items() if axes.time is not None}
        states: dict[str, Array] = {name: stream.state[name] for name in pairs}
        doubles: dict[str, Array] = dict(states)
        for t in range(FEW):
            got = stream.step({n: a if n in still else a[t] for n, a in given.items()})
            now = {n: a if n in still else a[t : t + 1] if n in timed else a[t] for n, a in given.items()}
            frame = {**to_file(model, now), **self.lengths(1, batch)}
            try:
                called = model({**frame, **states})
            except ShapeError as error:  # the file fixes how long a call is, or how many rows it has
                self.result.skipped.append(f"states by hand: {error}")
                return
            want, allowed = self.expected({**frame, **doubles})
            states = {name: called[out] for name, out in pairs.items()}
            doubles = {name: want[out] for name, out in pairs.items()}
        what = f"step {FEW}, states by hand"
        many = {name: value * FEW for name, value in allowed.items()}
        got = {name: array[None] if name in timed else array for name, array in got.items()}
        self.hold(what, "whole call", got, to_frames(model, called, batch), many)
        self.hold(what, self.oracle(frame), got, to_frames(model, want, batch), many)
        ends = {out: stream.state[name] for name, out in pairs.items()}
        self.hold(what, f"{self.oracle(frame)}, states", ends, {out: want[out] for out in ends}, many)


def row(array: Array, port: Any, rows: Mapping[str, Array], model: Model) -> Array:
    """Row 1 of what a stream of rows was given at this port."""
    axes = model.layout.axes[port.name]
    if axes.batch is None:
        return array
    return array[1] if port.constant else array[:, 1]


def flushed(array: Array) -> Array:
    """`array` with zeros for its denormals, which is what the kernels take them for."""
    if array.dtype.kind != "f" or array.dtype.itemsize < 4:
        return array
    zero = np.zeros((), array.dtype)
    return np.where(np.abs(array) < np.finfo(array.dtype).tiny, zero, array)


def largest(array: Array) -> float:
    """The largest finite magnitude."""
    finite = np.abs(array[np.isfinite(array)].astype(np.float64))
    return float(finite.max()) if finite.size else 0.0


def compared(what: str, against: str, got: Array, want: Array, allowed: float, name: str) -> Check:
    """One output: NaN and infinities must stand in the same places, the rest be as close as `allowed`."""
    if got.shape != want.shape:
        return Check(what, against, np.inf, np.inf, allowed, False, f"{name}: shape {got.shape}, not {want.shape}")
    if allowed == 0.0:
        same = got.dtype == want.dtype and got.tobytes() == want.tobytes()
    with np.errstate(all="ignore"):
        want = want.astype(got.dtype) if got.dtype.kind == "f" else want  # what the type cannot hold is infinite
        mine, theirs = got.astype(np.float64), want.astype(np.float64)
        odd = ~np.isfinite(theirs) | ~np.isfinite(mine)
        apart = np.abs(mine - theirs)[~odd]
        largest = float(np.abs(theirs[np.isfinite(theirs)]).max()) if np.isfinite(theirs).any() else 0.0
    error = float(apart.max()) if apart.size else 0.0
    relative = error / largest if largest else error
    if not np.array_equal(mine[odd], theirs[odd], equal_nan=True):
        count = int((~(np.isnan(mine[odd]) & np.isnan(theirs[odd])) & (mine[odd] != theirs[odd])).sum())
        return Check(
            what, against, np.inf, np.inf, allowed, False, f"{name}: {count} values are NaN or infinite, or not"
        )
    if allowed == 0.0:
        return Check(what, against, error, relative, 0.0, same, "" if same else f"{name}: other bits")
    note = "" if error <= allowed else name
    if odd.any():
        note = f"{note} {int(odd.sum())} values NaN or infinite in both".strip()
    return Check(what, against, error, relative, allowed, error <= allowed, note)
