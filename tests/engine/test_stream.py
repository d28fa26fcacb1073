"""A stream: the same bits for every cut, rows and streams apart, state as a value, every array handled or refused."""

from __future__ import annotations

import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from gatestep.engine.errors import ShapeError, StateError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SIZES = st.sampled_from([1, 2, 5, 15, 16, 17, 33])
FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ACTIVATIONS = ["Sigmoid", "Tanh", "Relu", "Softsign", "HardSigmoid", "ScaledTanh", "Elu"]
T = 75  # a chunk of 64, one of 8, and single frames


@st.composite
def layers(draw: Any) -> dict[str, Any]:
    """A recurrent operator of any kind, common or rare."""
    op = draw(st.sampled_from(["LSTM", "GRU", "RNN"]))
    options: dict[str, Any] = {"op": op, "hidden": draw(SIZES), "bias": draw(st.booleans())}
    if draw(st.booleans()):
        return options
    options["clip"] = draw(st.sampled_from([None, 0.3]))
    if draw(st.booleans()):
        count = {"LSTM": 3, "GRU": 2, "RNN": 1}[op]
        names = draw(st.lists(st.sampled_from(ACTIVATIONS), min_size=count, max_size=count))
        options["activations"] = tuple((name, 0.5, 0.7) for name in names)
    if op == "LSTM":
        options["peepholes"] = draw(st.booleans())
        options["coupled"] = draw(st.sampled_from(["", "f=1-i", "i=1-f"]))
        options["projection"] = draw(st.sampled_from([0, 3, 16]))
    if op == "GRU":
        options["linear_before_reset"] = draw(st.booleans())
    return options


def stacked(net: Any, features: int, stack: list[dict[str, Any]], dtype: Any = np.float32) -> Any:
    """A model of these layers, ``(T, B, F)``."""
    n = net(seed=features)
    value, size = n.input("x", "T", "B", features), features
    for layer in stack:
        options = {k: v for k, v in layer.items() if k not in ("op", "hidden")}
        value = n.layer(layer["op"], value, size, layer["hidden"], **options)
        size = layer.get("projection") or layer["hidden"]
    n("Sigmoid", n("Add", n("MatMul", value, n.weights(size, 3)), n.weights(3)), out="y")
    return n.output("y").model(dtype=dtype)


def noise(*shape: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.fixture(scope="module")
def model(net: Any) -> Any:
    """A GRU of 17 over 5 features, and a dense layer."""
    return stacked(net, 5, [{"op": "GRU", "hidden": 17}])


# ---------------------------------------------------------------------- the same bits


@FEW
@given(
    stack=st.lists(layers(), min_size=1, max_size=2),
    features=SIZES,
    batch=st.sampled_from([None, 1, 2, 3, 5]),
    cuts=st.lists(st.integers(0, T), max_size=4),
    dtype=st.sampled_from(["f4", "f8"]),
)
def test_every_cut_gives_the_same_bits(net: Any, stack: Any, features: int, batch: Any, cuts: Any, dtype: str) -> None:
    model = stacked(net, features, stack, dtype)
    frames = noise(T, *([batch] if batch else []), features, dtype=dtype)
    whole = model.run(frames)
    stream = model.stream(batch)
    assert np.stack([stream.step(frame) for frame in frames]).tobytes() == whole.tobytes()
    stream.reset()
    parts = [stream.run(part) for part in np.split(frames, sorted(cuts))]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    rows = frames if batch else frames[:, None]
    called = np.asarray(model(rows)).reshape(whole.shape)
    np.testing.assert_allclose(called, whole, rtol=1e-4, atol=1e-5)


@FEW
@given(layer=layers(), features=SIZES, batch=st.integers(1, 9))
def test_a_row_is_what_it_is_alone(net: Any, layer: Any, features: int, batch: int) -> None:
    model = stacked(net, features, [layer])
    frames = noise(11, batch, features)
    together = model.run(frames)
    for row in range(batch):
        alone = model.run(np.ascontiguousarray(frames[:, row]))
        assert alone.tobytes() == together[:, row].tobytes()


@FEW
@given(layer=layers(), batch=st.integers(2, 7), bad=st.sampled_from([np.nan, np.inf, -np.inf, 1e38]), data=st.data())
def test_what_is_not_a_number_stays_in_its_row(net: Any, layer: Any, batch: int, bad: float, data: Any) -> None:
    model = stacked(net, 5, [layer, {"op": "LSTM", "hidden": 17}])
    frames = noise(10, batch, 5)
    clean = model.run(frames)
    row = data.draw(st.integers(0, batch - 1))
    frames[data.draw(st.integers(0, 9)), row, data.draw(st.integers(0, 4))] = bad
    others = [k for k in range(batch) if k != row]
    assert model.run(frames)[:, others].tobytes() == clean[:, others].tobytes()


def test_nan_goes_in_and_comes_out(model: Any) -> None:
    stream = model.stream()
    frame = noise(5)
    frame[2] = np.nan
    assert np.isnan(stream.step(frame)).all()
    assert np.isnan(stream.step(noise(5))).all()
    stream.reset()
    assert np.isfinite(stream.step(noise(5))).all()


def test_no_frames_leave_everything_as_it_was(model: Any) -> None:
    stream = model.stream()
    stream.step(noise(5))
    before = stream.snapshot()
    assert stream.run(np.empty((0, 5), np.float32)).shape == (0, 3)
    assert stream.snapshot() == before
    assert model.run(np.empty((0, 2, 5), np.float32)).shape == (0, 2, 3)


# ---------------------------------------------------------------------- state as a value


def test_streams_do_not_disturb_each_other(model: Any) -> None:
    recordings = [noise(20, 5, seed=seed) for seed in range(4)]
    alone = [model.run(frames) for frames in recordings]
    streams = [model.stream() for _ in recordings]
    mixed = [
        np.stack(column)
        for column in zip(
            *[[s.step(r[t]) for s, r in zip(streams, recordings, strict=True)] for t in range(20)], strict=True
        )
    ]
    for one, other in zip(alone, mixed, strict=True):
        assert one.tobytes() == other.tobytes()


def test_snapshot_restore_reset_and_fork(model: Any) -> None:
    frames = noise(30, 5)
    whole = model.run(frames)
    stream = model.stream()
    stream.run(frames[:10])
    kept, twin = stream.snapshot(), stream.fork()
    rest = stream.run(frames[10:])
    assert rest.tobytes() == whole[10:].tobytes()
    assert twin.run(frames[10:]).tobytes() == rest.tobytes()
    stream.restore(kept)
    assert stream.run(frames[10:]).tobytes() == rest.tobytes()
    stream.reset()
    assert stream.run(frames).tobytes() == whole.tobytes()
    model.stream().restore(kept)  # another stream of the same model


def test_a_snapshot_of_something_else_is_refused(net: Any, model: Any) -> None:
    other = stacked(net, 5, [{"op": "GRU", "hidden": 17}])
    for snapshot in (other.stream().snapshot(), model.stream(2).snapshot()):
        stream = model.stream()
        with pytest.raises(StateError, match="another model"):
            stream.restore(snapshot)


@FEW
@given(batch=st.sampled_from([None, 1, 3]), form=st.sampled_from(["two", "stacked", "interleaved", "batch first"]))
def test_state_reads_and_sets_in_the_layout_of_the_file(net: Any, batch: Any, form: str) -> None:
    n = net()
    x = n.input("x", "T", "B", 4)
    if form == "two":
        h, c = n.input("h", 1, "B", 6), n.input("c", 1, "B", 6)
        y, hn, cn = n.cell("LSTM", x, 4, 6, h0=h, c0=c)
        names = {"h": hn, "c": cn}
    else:
        shape, axis, perm = {
            "stacked": ((2, "B", 6), 0, (0, 1, 2)),
            "interleaved": ((1, "B", 6, 2), 3, (0, 1, 2, 3)),
            "batch first": (("B", 2, 6), 0, (1, 0, 2)),
        }[form]
        s = n("Transpose", n.input("s", *shape), perm=perm)
        halves = [n("Gather", s, np.array(k), axis=axis) for k in (0, 1)]
        if form != "interleaved":
            halves = [n("Unsqueeze", half, [0]) for half in halves]
        y, hn, cn = n.cell("LSTM", x, 4, 6, h0=halves[0], c0=halves[1])
        after = [n("Unsqueeze", v, [3]) if form == "interleaved" else v for v in (hn, cn)]
        joined = n("Concat", *after, axis=axis)
        back = tuple(np.argsort(perm))
        names = {"s": n("Transpose", joined, perm=tuple(int(k) for k in back))}
    y = n("Squeeze", y, [1], out="y")
    model = n.output(y, *names.values()).model()
    rows = batch or 1
    frames = noise(12, rows, 4)
    stream = model.stream(batch)
    assert set(stream.state) == set(names)
    steps = frames if batch else frames[:, 0]
    stream.run(steps[:7])
    feeds = {"x": frames[:7]} | {name: np.zeros(v.shape, np.float32) for name, v in stream.state.items()}
    want = model(feeds)
    for name, out in names.items():
        np.testing.assert_allclose(stream.state[name], want[out], rtol=1e-5, atol=1e-6)
    states = {name: noise(*v.shape, seed=3) for name, v in stream.state.items()}
    for name, value in states.items():
        stream.state[name] = value
        np.testing.assert_array_equal(stream.state[name], value)
    want = model({"x": frames[7:]} | states)
    got = stream.run(steps[7:])
    np.testing.assert_allclose(got, want["y"].reshape(got.shape), rtol=1e-5, atol=1e-6)


def test_a_state_is_set_exactly_or_not_at_all(model: Any) -> None:
    stream = model.stream()
    (name,) = stream.state
    stream.step(noise(5))
    before = stream.snapshot()
    shape = stream.state[name].shape
    for wrong in (
        np.zeros(3),
        np.full(shape, 0.1),
        np.zeros(shape, complex),
        np.full(shape, 2**24 + 1),
        np.zeros(shape, object),
    ):
        with pytest.raises(ShapeError, match=r"state '.*' has"):
            stream.state[name] = wrong
    with pytest.raises(StateError, match="no state 'z'"):
        stream.state["z"] = np.zeros(shape)
    with pytest.raises(StateError, match="reset"):
        del stream.state[name]
    with pytest.raises(KeyError):
        stream.state["z"]
    assert stream.snapshot() == before
    stream.state[name] = np.zeros(shape)  # float64, but nothing is lost
    stream.state[name][:] = 7  # a copy
    assert not stream.state[name].any()


# ---------------------------------------------------------------------- arrays of every kind


def misaligned(array: np.ndarray) -> np.ndarray:
    memory = np.empty(array.nbytes + 1, np.uint8)
    view = memory[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


class Marked(np.ndarray):
    """A subclass."""


KINDS: dict[str, Any] = {
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "reversed": lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1],
    "fortran": np.asfortranarray,
    "misaligned": misaligned,
    "big endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "subclass": lambda a: a.view(Marked),
    "list": lambda a: a.tolist(),
    "float16": lambda a: a.astype(np.float16),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [None, 3])
def test_arrays_of_every_kind_are_read_exactly(model: Any, kind: str, batch: Any) -> None:
    frames = noise(20, *([batch] if batch else []), 5).astype(np.float16).astype(np.float32)
    want = model.run(frames)
    stream = model.stream(batch)
    steps = np.stack([stream.step(KINDS[kind](frame)) for frame in frames])
    stream.reset()
    assert steps.tobytes() == want.tobytes()
    assert stream.run(KINDS[kind](frames)).tobytes() == want.tobytes()
    assert model.run(KINDS[kind](frames)).tobytes() == want.tobytes()


def test_a_read_only_frame_is_read_and_no_frame_is_written(model: Any) -> None:
    frames = noise(10, 5)
    kept = frames.copy()
    frames.flags.writeable = False
    stream = model.stream()
    stream.step(frames[0])
    stream.run(frames[1:])
    assert (frames == kept).all()


WRONG: dict[str, Any] = {
    "float64": (lambda: noise(5, dtype=np.float64), "cannot hold exactly"),
    "int64": (lambda: np.zeros(5, np.int64), "cannot hold exactly"),
    "complex": (lambda: np.zeros(5, np.complex64), "cannot hold exactly"),
    "object": (lambda: np.zeros(5, object), "cannot hold exactly"),
    "too short": (lambda: noise(4), r"shape \(4,\)"),
    "too long": (lambda: noise(6), r"shape \(6,\)"),
    "a batch": (lambda: noise(1, 5), r"shape \(1, 5\)"),
    "a number": (lambda: np.float32(3), r"shape \(\)"),
    "empty": (lambda: noise(0), r"shape \(0,\)"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_frame_is_refused_and_the_state_stays(model: Any, kind: str) -> None:
    make, message = WRONG[kind]
    stream = model.stream()
    stream.run(noise(3, 5))
    before = stream.snapshot()
    with pytest.raises(ShapeError, match=message):
        stream.step(make())
    if kind not in ("a batch", "a number"):
        with pytest.raises(ShapeError):
            stream.run(np.stack([make()] * 3))
    for nonsense in ("text", None, ["a"], [[1.0], [2.0, 3.0]], {"y": noise(5)}, (noise(5), noise(5))):
        with pytest.raises((ShapeError, ValueError, TypeError)):
            stream.step(nonsense)
    assert stream.snapshot() == before


def test_out_is_written_and_returned(model: Any) -> None:
    frames = noise(20, 5)
    want = model.run(frames)
    out = np.full((20, 3), np.nan, np.float32)
    stream = model.stream()
    for t in range(20):
        row = out[t]
        assert stream.step(frames[t], row) is row
    assert out.tobytes() == want.tobytes()
    stream.reset()
    out[:] = np.nan
    assert stream.run(frames, out) is out
    assert out.tobytes() == want.tobytes()


HELD = {
    "itself": lambda y: y,
    "view": lambda y: y[1:],
    "buffer": memoryview,
}


@pytest.mark.parametrize("hold", HELD)
def test_a_result_that_is_still_in_use_is_never_written_again(model: Any, hold: str) -> None:
    x = noise(9, 5)
    stream, other = model.stream(), model.stream()
    expected = other.run(x)
    held = [HELD[hold](stream.step(frame)) for frame in x]
    for got, y in zip(held, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(got), np.asarray(HELD[hold](y)))


def test_results_that_were_let_go_of_serve_again(model: Any) -> None:
    stream, frame, places = model.stream(), noise(5), set()
    for _ in range(20):
        y = stream.step(frame)
        places.add(y.ctypes.data)
    assert len(places) == 2


def _reshape(y: Any) -> None:
    y.shape = (1, *y.shape)


def _lock(y: Any) -> None:
    y.flags.writeable = False


@pytest.mark.parametrize("change", [_reshape, _lock])
def test_a_result_that_the_caller_has_changed_does_not_serve_again(model: Any, change: Any) -> None:
    stream, other, frame = model.stream(), model.stream(), noise(5)
    for _ in range(6):
        y, expected = stream.step(frame), other.step(frame, np.empty(other.outputs[0].shape, np.float32))
        assert y.shape == expected.shape
        assert y.flags.writeable
        np.testing.assert_array_equal(y, expected)
        change(y)


def test_a_weak_reference_sees_its_own_result_or_nothing(model: Any) -> None:
    stream, frame = model.stream(), noise(5)
    seen = weakref.ref(stream.step(frame))
    first = None if seen() is None else seen().copy()
    for _ in range(4):
        stream.step(frame)
        assert seen() is None or np.array_equal(seen(), first)


def test_a_wrong_out_is_refused_and_the_state_stays(model: Any) -> None:
    stream = model.stream()
    before = stream.snapshot()
    fixed = np.zeros(3, np.float32)
    fixed.flags.writeable = False
    good = np.zeros(3, np.float32)
    wrong = [
        fixed,
        np.zeros(4, np.float32),
        np.zeros(3),
        np.zeros(6, np.float32)[::2],
        misaligned(good),
        good.astype(">f4"),
        good.view(Marked),
        [0.0] * 3,
    ]
    for out in [*wrong, np.zeros((1, 3), np.float32)]:
        with pytest.raises(ShapeError, match="out"):
            stream.step(noise(5), out)
    for out in wrong:
        with pytest.raises(ShapeError, match="out"):
            stream.run(noise(1, 5), [out] if isinstance(out, list) else out[None])
    assert stream.snapshot() == before


@pytest.mark.parametrize("batch", [None, 2])
def test_out_may_be_the_frame_itself_or_overlap_it(net: Any, batch: Any) -> None:
    n = net()
    x = n.input("x", "T", "B", 8)
    n("Add", x, n.layer("GRU", x, 8, 8), out="y")
    model = n.output("y").model()
    lead = [batch] if batch else []
    frames = noise(20, *lead, 8)
    want = model.run(frames)
    stream = model.stream(batch)
    for t, frame in enumerate(frames.copy()):
        assert stream.step(frame, frame) is frame
        assert frame.tobytes() == want[t].tobytes()
    size = 8 * (batch or 1)
    stream.reset()
    memory = np.empty(size + 3, np.float32)
    for t, frame in enumerate(frames):
        memory[:size] = frame.reshape(-1)
        out = memory[3:].reshape(*lead, 8)
        stream.step(memory[:size].reshape(*lead, 8), out)
        assert out.tobytes() == want[t].tobytes()
    stream.reset()
    same = frames.copy()
    stream.run(same, same)
    assert same.tobytes() == want.tobytes()
    stream.reset()
    memory = np.concatenate([frames.reshape(-1), np.zeros(5, np.float32)])
    out = memory[5:].reshape(frames.shape)
    stream.run(memory[:-5].reshape(frames.shape), out)
    assert out.tobytes() == want.tobytes()


# ---------------------------------------------------------------------- several ports


@pytest.fixture(scope="module")
def many(net: Any) -> Any:
    """Two inputs with time, one without; two outputs."""
    n = net()
    a, b, e = n.input("a", "T", "B", 3), n.input("b", "T", "B", 2), n.input("e", "B", 2)
    wide = n("Expand", n("Unsqueeze", e, [0]), n("Shape", b))
    y = n.layer("LSTM", n("Concat", a, b, wide, axis=2), 7, 4)
    n("Tanh", y, out="p")
    n("MatMul", y, n.weights(4, 2), out="q")
    return n.output("p", "q").model()


@pytest.mark.parametrize("batch", [None, 3])
def test_several_ports_take_mappings_and_tuples(many: Any, batch: Any) -> None:
    lead = [batch] if batch else []
    a, b, e = noise(20, *lead, 3), noise(20, *lead, 2, seed=1), noise(*lead, 2, seed=2)
    p, q = many.run((a, b, e))
    stream = many.stream(batch)
    for t in range(20):
        if t % 2:
            got = stream.step({"e": e, "a": a[t], "b": b[t]})
            assert list(got) == ["p", "q"]
            got = got["p"], got["q"]
        else:
            got = stream.step((a[t], b[t], e), out=(np.empty((*lead, 4), "f4"), np.empty((*lead, 2), "f4")))
        assert got[0].tobytes() == p[t].tobytes()
        assert got[1].tobytes() == q[t].tobytes()
    mapped = many.run({"a": a, "b": b, "e": e})
    assert mapped["q"].tobytes() == q.tobytes()
    x = (v if batch else v[:, None] for v in (a, b))
    called = many(*x, e if batch else e[None])
    np.testing.assert_allclose(called[0].reshape(p.shape), p, rtol=1e-5, atol=1e-6)


def test_wrong_sets_of_ports_are_refused(many: Any) -> None:
    stream = many.stream()
    good = {"a": noise(3), "b": noise(2), "e": noise(2)}
    before = stream.snapshot()
    shared = np.zeros(6, np.float32)
    for frame, out in (
        ({k: good[k] for k in "ab"}, None),
        (good | {"z": noise(1)}, None),
        (noise(3), None),
        ((good["a"], good["b"]), None),
        (good | {"b": noise(3)}, None),
        (good, np.zeros(4, np.float32)),
        (good, {"p": np.zeros(4, np.float32)}),
        (good, (shared[:4], shared[2:4])),  # two results in one place
    ):
        with pytest.raises(ShapeError):
            stream.step(frame, out)
    with pytest.raises(ShapeError, match="frames"):
        stream.run({"a": noise(4, 3), "b": noise(5, 2), "e": noise(2)})
    assert stream.snapshot() == before


# ---------------------------------------------------------------------- ids


@pytest.fixture(scope="module")
def speller(net: Any) -> Any:
    """An embedding of 10 ids before a GRU."""
    n = net()
    ids = n.input("ids", "T", "B", dtype=np.int64)
    n.layer("GRU", n("Gather", n.weights(10, 4), ids, name="table"), 4, 6, out="y")
    return n.output("y").model()


@pytest.mark.parametrize("frame", [0, 3, 63, 64, 70, 74])
def test_an_id_out_of_range_names_node_and_frame(speller: Any, frame: int) -> None:
    ids = np.arange(T, dtype=np.int64) % 10
    stream = speller.stream()
    stream.run(ids)
    before = stream.snapshot()
    for bad in (10, -11, 2**40):
        ids[frame] = bad
        with pytest.raises(ShapeError, match=f"'table'.*at frame {frame}$"):
            stream.run(ids)
        assert stream.snapshot() == before
        with pytest.raises(ShapeError, match="'table'"):
            stream.step(ids[frame])
        assert stream.snapshot() == before


def test_ids_are_read_exactly(speller: Any) -> None:
    ids = np.random.default_rng(0).integers(-10, 10, (T, 3))
    want = speller.run(ids)
    stream = speller.stream(3)
    assert np.stack([stream.step(row) for row in ids]).tobytes() == want.tobytes()
    assert speller.run(ids.astype(np.int32)).tobytes() == want.tobytes()
    one = speller.stream()
    assert one.step(4).tobytes() == speller.run(np.array([4])).tobytes()
    for wrong in (np.float32(4), np.uint64(4), 4.5, "4"):
        with pytest.raises((ShapeError, ValueError)):
            one.step(wrong)


# ---------------------------------------------------------------------- threads and the processor's modes


@pytest.fixture(scope="module")
def heavy(net: Any) -> Any:
    """Packed weights above a megabyte: a step lets other threads run."""
    return stacked(net, 600, [{"op": "LSTM", "hidden": 256}])


def test_two_threads_in_one_stream(heavy: Any) -> None:
    frames = np.repeat(noise(60, 600), 2, axis=1)[:, ::2]  # strided: each step goes through the staging buffer
    serial = heavy.stream()
    want = [serial.step(frame) for frame in frames]
    stream = heavy.stream()
    stop = threading.Event()
    refused = []

    def disturb() -> None:
        other = np.full((600, 2), 9, np.float32)[:, 0]
        while not stop.is_set():
            for call in (
                lambda: stream.run(np.zeros((0, 600), np.float32)),
                stream.snapshot,
                lambda: stream.step(other, out="no"),
            ):
                try:
                    call()
                except StateError:
                    refused.append(call)
                except ShapeError:
                    pass
            time.sleep(1e-4)  # else the interpreter changes hands only inside of calls, and the stream is never free

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for t, frame in enumerate(frames):
            while True:
                try:
                    got = stream.step(frame)
                    break
                except StateError:
                    refused.append(t)
            assert got.tobytes() == want[t].tobytes()
    finally:
        stop.set()
        thread.join()


def test_a_stream_in_use_says_so(heavy: Any) -> None:
    frames = noise(4000, 600)
    stream = heavy.stream()
    thread = threading.Thread(target=stream.run, args=(frames,))
    thread.start()
    messages = set()
    while thread.is_alive():
        for call in (
            lambda: stream.step(frames[0]),
            lambda: stream.run(frames[:2]),
            stream.reset,
            stream.fork,
            stream.snapshot,
        ):
            try:
                call()
            except StateError as error:
                messages.add(str(error))
        if messages:
            break
    thread.join()
    assert messages == {"another thread is inside this stream; give each thread a stream of its own"}


def test_many_streams_in_many_threads(model: Any) -> None:
    recordings = [noise(300, 5, seed=seed) for seed in range(16)]
    want = [model.run(frames) for frames in recordings]

    def steps(frames: np.ndarray) -> np.ndarray:
        stream = model.stream()
        return np.stack([stream.step(frame) for frame in frames])

    with ThreadPoolExecutor(8) as pool:
        for call in (model.run, steps, lambda frames: model(frames[:, None])[:, 0]):
            for got, expected in zip(pool.map(call, recordings), want, strict=True):
                np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(pool.map(steps, recordings), want, strict=True))


def test_denormal_numbers_outside_are_left_alone(model: Any, speller: Any) -> None:
    tiny = np.full(4, np.finfo(np.float32).tiny, np.float32)
    stream, failing = model.stream(), speller.stream()
    stream.step(noise(5))
    stream.run(noise(20, 5))
    model(noise(3, 1, 5))
    with pytest.raises(ShapeError):
        failing.run(np.array([99]))
    with pytest.raises(ShapeError):
        failing.step(99)
    assert (tiny / 4 > 0).all()
    assert (tiny / 4 * 4 == tiny).all()
