"""What a stream has to give: at every frame what the whole call gives at the end of the recording up to there.

For tests of the engine; `assert_streams` and `assert_right` hold a model to the operators' definitions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gatestep.engine.errors import GatestepError

FAR = 2**31 - 1
T, B = 9, 3  # a chunk of eight, and one
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def cut(model: Any, feeds: dict[str, np.ndarray], frames: int, rows: int) -> dict[str, np.ndarray]:
    """The first frames of the first rows."""
    out = {}
    for name, array in feeds.items():
        axes = model.layout.axes.get(name)
        for axis, size in ((axes.time, frames), (axes.batch, rows)) if axes else ():
            if axis is not None:
                array = array.take(np.arange(size), axis)
        out[name] = array
    return out


def framed(model: Any, feeds: dict[str, np.ndarray], batch: int | None) -> dict[str, np.ndarray]:
    """The file's arrays as the stream takes them."""
    out = {}
    for name, array in feeds.items():
        axes = model.layout.axes.get(name)
        if axes is None:
            continue
        array = array.transpose(axes.order(array.ndim))
        out[name] = array if batch or axes.batch is None else array.take(0, 0 if axes.time is None else 1)
    return out


def last(model: Any, name: str, whole: np.ndarray, got: np.ndarray, frames: int, batch: int | None) -> list[np.ndarray]:
    """What the whole call shows of its last frame, flat.

    One for the axis of time. Where an axis holds frames and rows, or where the file dropped axes of one element,
    one for each place that time can have.
    """
    axes = model.layout.axes[name]
    ndim = got.ndim + (axes.time is not None) + (axes.batch is not None and batch is None)
    if whole.ndim == ndim:
        whole = whole.transpose(axes.order(ndim))
        if axes.time is not None:
            return [whole[-1].reshape(-1)]
        if whole.size == got.size:
            return [whole.reshape(-1)]
    if whole.size != frames * got.size:
        return [whole.reshape(-1)]
    rows = batch or 1
    lead = [int(np.prod(whole.shape[:axis])) for axis in range(whole.ndim + 1)]
    places = {
        (n, frames, whole.size // n // frames) for d in lead for n in (d, d * rows) if whole.size % (n * frames) == 0
    }
    return [whole.reshape(place)[:, -1].reshape(-1) for place in sorted(places)]


def assert_streams(n: Any, model: Any, feeds: dict[str, np.ndarray], batch: int | None = None) -> None:
    """Every prefix, by the operators' definitions alone; and the same bits from run."""
    rows, layout = batch or 1, model.layout
    mine = cut(model, feeds, T, rows)
    frames = framed(model, mine, batch)
    timed = {name for name in frames if layout.axes[name].time is not None}
    frozen = any("time un-frozen" in note for note in model.graph.notes)
    stream, steps = model.stream(batch), []
    for t in range(T):
        step = stream.step({name: a[t] if name in timed else a for name, a in frames.items()})
        steps.append(step)
        if t == 0 and any(node.op == "Squeeze" and not node.inputs[1] for node in n.graph.nodes):
            continue  # with one frame, the file drops the axis of time as well: its other nodes mean other axes
        if frozen and t + 1 < T:
            continue  # with another number of frames than its own, the file means something else or nothing
        prefix = cut(model, mine, t + 1, rows)
        try:
            want = n.evaluate(prefix)
        except (ValueError, IndexError):  # the file does not take so few frames
            continue
        for name, got in step.items():
            if np.isinf(want[name]).any():
                continue  # the largest of no frames
            time = layout.axes[name].time
            if time is not None and want[name].ndim > time and want[name].shape[time] != t + 1:
                continue  # frames cut off or added, at one end or the other, which the result does not say
            options = last(model, name, want[name], got, t + 1, batch)
            assert any(o.size == got.size and np.allclose(got.reshape(-1), o, **CLOSE) for o in options), (
                t,
                name,
                got,
                options,
            )
        for name in layout.finals:
            np.testing.assert_allclose(stream.state[name].reshape(want[name].shape), want[name], **CLOSE)
    whole = model.run(frames)
    for name, array in whole.items():
        assert array.tobytes() == np.stack([step[name] for step in steps]).tobytes()


def assert_rows(model: Any, feeds: dict[str, np.ndarray], rows: int) -> None:
    """What each row gives by itself; for a file of one row, which says nothing of others."""
    frames = framed(model, cut(model, feeds, T, rows), rows)
    timed = {name for name in frames if model.layout.axes[name].time is not None}
    together, alone = model.stream(rows), [model.stream() for _ in range(rows)]
    for t in range(T):
        given = {name: a[t] if name in timed else a for name, a in frames.items()}
        got = together.step(given)
        for k, stream in enumerate(alone):
            own = {n: a[k] if model.layout.axes[n].batch is not None else a for n, a in given.items()}
            for name, want in stream.step(own).items():
                mine = got[name] if got[name].size == want.size else got[name].reshape(rows, -1)[k]
                assert mine.tobytes() == want.tobytes(), (t, name, got[name], want)


def assert_right(n: Any, feeds: dict[str, np.ndarray]) -> bool:
    """The property, or a refusal; whether it streams."""
    model = n.model()
    called = model(dict(feeds))
    for name, want in n.evaluate(feeds).items():
        np.testing.assert_allclose(called[name], want, **CLOSE)
    str(model)
    if not model.streams:
        with pytest.raises(GatestepError, match=r"test\.net|'"):
            model.stream()
        return False
    if model.layout.timed and model.hop == 1:  # test_memories has others
        feeds = sized(model, feeds)
        fixed = next(
            (
                port.shape[axes.batch]
                for port in model.inputs
                if (axes := model.layout.axes.get(port.name)) is not None and axes.batch is not None
            ),
            None,
        )
        alone = model.layout.free_batch or not isinstance(fixed, int) or fixed == 1
        assert_streams(n, model, feeds, None if alone else fixed)
        if model.layout.free_batch and any(axes.batch is not None for axes in model.layout.axes.values()):
            freed = any("batch un-frozen" in note for note in model.graph.notes)
            assert_rows(model, feeds, 2) if freed else assert_streams(n, model, feeds, 2)
    return True


def sized(model: Any, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Feeds of T frames and B rows, along the axes that the model takes for time and batch."""
    out = {}
    for name, array in feeds.items():
        axes = model.layout.axes.get(name)
        shape = [
            T if axes and k == axes.time else B if axes and k == axes.batch else s for k, s in enumerate(array.shape)
        ]
        out[name] = noise(*shape, seed=7)
    return out


def speech(net: Any, *shape: Any) -> tuple[Any, str]:
    """A net with an input of frames of 4, ``(T, B, 4)`` unless told."""
    n = net(source="speech.onnx")
    return n, n.input("x", *(shape or ("T", "B", 4)))


def holds(n: Any, *feeds: tuple[str, np.ndarray]) -> Any:
    """Assert that it streams, rightly; the model."""
    model = n.model()
    assert model.streams, model.layout.blocker
    assert_streams(n, model, dict(feeds))
    if model.layout.free_batch:
        assert_streams(n, model, dict(feeds), 2)
    return model


def refused(n: Any, match: str) -> None:
    """Assert that it does not stream, for this reason, and that it still runs as a whole."""
    model = n.model()
    assert not model.streams
    with pytest.raises(GatestepError, match=match) as caught:
        model.stream()
    assert str(caught.value).startswith("speech.onnx")
    assert str(caught.value) in str(model)
    feeds = {p.name: noise(*(d if isinstance(d, int) else {"T": T, "B": 2}[d] for d in p.shape)) for p in model.inputs}
    for name, want in n.evaluate(feeds).items():
        np.testing.assert_allclose(model(feeds)[name], want, **CLOSE)
