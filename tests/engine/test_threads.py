"""More threads: the same bits however the work is divided, callers side by side, forks, exits, rest."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from gatestep.engine import quotas
from gatestep.engine import threads as rule
from gatestep.engine.lowering import Instruction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gatestep as gs

SOME = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
T = 19  # chunks of 8 frames, and single ones; sums over x done ahead
#: What a model computes in: types, and what it keeps its weights as.
ARITHMETIC = [{"dtype": "f4"}, {"dtype": "f8"}, *({"precision": tier} for tier in ("w16", "w8", "w8a8", "bfloat16"))]
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def divided(how: str) -> Iterator[None]:
    """Calls of every size are cut, by rows, by outputs, or by the rule, on a machine of many processors."""
    cuts = {
        "rows": lambda i, threads: (min(threads, rule.work(i)[2]), 1),
        "outputs": lambda i, threads: (1, 1 if i.kernel != "linear" and 10 in i.p else threads),
        "rule": rule.cut,
    }
    with (
        patch.object(rule, "cut", cuts[how]),
        patch.object(rule, "at_most", lambda: 64),
        patch.object(rule, "WORTH_MEETING", 1),
    ):
        yield


@st.composite
def nets(draw: Any) -> dict[str, Any]:
    """A recurrent layer of any kind."""
    op = draw(st.sampled_from(["LSTM", "GRU", "RNN"]))
    layer: dict[str, Any] = {"hidden": draw(st.sampled_from([1, 17, 33, 64, 96, 130, 200]))}
    if draw(st.booleans()):
        layer["direction"] = "bidirectional"
    if draw(st.booleans()):
        layer["clip"] = 0.3
    if op == "LSTM" and draw(st.booleans()):
        layer |= {"projection": draw(st.sampled_from([5, 130])), "peepholes": True}
    if op == "GRU":
        layer["linear_before_reset"] = draw(st.booleans())
    return {"op": op, **layer}


def graph_of(net: Any, layer: dict[str, Any], features: int, columns: int, seed: int = 0) -> Any:
    """A layer, a sum over its directions, and a dense layer: y ``(T, B, columns)``, and the final state."""
    n = net(seed=seed)
    options = {k: v for k, v in layer.items() if k not in ("op", "hidden")}
    x = n.input("x", "T", "B", features)
    y, hn, *_ = n.cell(layer["op"], x, features, layer["hidden"], **options)
    size = layer.get("projection") or layer["hidden"]
    n(
        "Tanh",
        n("Add", n("MatMul", n("ReduceSum", y, [1], keepdims=0), n.weights(size, columns)), n.weights(columns)),
        out="y",
    )
    n("Neg", hn, out="hn")
    return n.output("y", "hn")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def bits(results: Any) -> list[bytes]:
    return [np.asarray(result).tobytes() for result in results]


# ---------------------------------------------------------------------- the same bits


@SOME
@given(
    layer=nets(),
    features=st.sampled_from([3, 40]),
    columns=st.sampled_from([1, 70, 150]),
    batch=st.sampled_from([1, 2, 3, 5, 9, 17]),
    steps=st.sampled_from([1, 3, T]),
    how=st.sampled_from(["rows", "outputs", "rule"]),
    threads=st.integers(2, 5),
    arithmetic=st.sampled_from(ARITHMETIC),
    data=st.data(),
)
def test_calls(
    net: Any,
    layer: Any,
    features: int,
    columns: int,
    batch: int,
    steps: int,
    how: str,
    threads: int,
    arithmetic: Any,
    data: Any,
) -> None:
    made = graph_of(net, layer, features, columns)
    frames = noise(steps, batch, features)
    alone = made.model(**arithmetic)
    with divided(how):
        shared = made.model(**arithmetic, threads=threads)
        got = shared(frames)
        assert bits(got) == bits(alone(frames))
        assert bits(shared(frames)) == bits(got)  # on memory that the call before has left
        lengths = data.draw(st.lists(st.integers(0, steps), min_size=batch, max_size=batch))
        try:
            want = alone(frames, lengths=lengths)
        except gs.UnsupportedModelError:  # the sum over directions looks beyond the end
            return
        assert bits(shared(frames, lengths=lengths)) == bits(want)


@SOME
@given(
    layer=nets().filter(lambda layer: "direction" not in layer),
    batch=st.sampled_from([None, 2, 9]),
    how=st.sampled_from(["rows", "outputs", "rule"]),
    threads=st.integers(2, 5),
    cuts=st.lists(st.integers(0, 83), max_size=3),
)
def test_streams(net: Any, layer: Any, batch: Any, how: str, threads: int, cuts: Any) -> None:
    n = net()
    y = n.layer(
        layer["op"],
        n.input("x", "T", "B", 7),
        7,
        layer["hidden"],
        **{k: v for k, v in layer.items() if k not in ("op", "hidden")},
    )
    size = layer.get("projection") or layer["hidden"]
    n("MatMul", y, n.weights(size, 70), out="y")
    n.output("y")
    frames = noise(83, *([batch] if batch else []), 7)
    want = n.model().run(frames)
    with divided(how):
        stream = n.model(threads=threads).stream(batch)
        assert np.stack([stream.step(frame) for frame in frames]).tobytes() == want.tobytes()
        stream.reset()
        parts = [stream.run(part) for part in np.split(frames, sorted(cuts))]
        assert np.concatenate(parts).tobytes() == want.tobytes()


# ---------------------------------------------------------------------- the rule


def sizes(op: str, t: int, b: int, i: int, h: int) -> Instruction:
    """A call of a recurrent kernel as far as the rule looks at it."""
    return Instruction(op, None, {}, [t, b, i, h, h, b * i, i, b * h, h, 0, 0, 0, 1, 2, 2, 0], [])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "threads", "parts"),
    [
        (sizes("lstm", 1, 1, 1, 16), 2, (1, 1)),
        (sizes("lstm", 200, 1, 8, 32), 2, (1, 1)),
        (sizes("lstm", 1, 1, 128, 256), 2, (1, 2)),
        (sizes("gru", 1, 1, 256, 512), 4, (1, 4)),
        (sizes("lstm", 100, 32, 1, 16), 2, (2, 1)),
        (sizes("lstm", 200, 4, 8, 32), 2, (2, 1)),
        (sizes("lstm", 1, 2, 1, 16), 64, (1, 1)),
    ],
)
def test_small_layers_are_left_whole_and_large_ones_divided(call: Instruction, threads: int, parts: Any) -> None:
    assert rule.cut(call, threads) == parts


def test_no_more_parts_than_processors(net: Any) -> None:
    frames = noise(3, 1, 64)
    made = graph_of(net, {"op": "LSTM", "hidden": 256}, 64, 3)
    with patch.object(rule, "at_most", lambda: 1):
        model = made.model(threads=8)
        model(frames)
    assert model.threads == 8
    assert not any(call.program.shared for call in model._calls.values())


V1 = {"cpu.cfs_quota_us": "150000\n", "cpu.cfs_period_us": "100000\n"}
FREE = {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/\n", {"": {"cpu.max": "max 100000\n"}}, math.inf),
        ("0::/\n", {"": {"cpu.max": "50000 100000\n"}}, 0.5),
        ("0::/a/b\n", {"a": {"cpu.max": "200000 100000\n"}, "a/b": {"cpu.max": "max 100000\n"}}, 2),
        ("0::/outside\n", {"": {"cpu.max": "300000 100000\n"}}, 3),
        ("4:memory:/m\n3:cpuacct,cpu:/a\n", {"cpu/a": V1, "cpu": FREE}, 1.5),
        ("3:cpu,cpuacct:/a\n", {"cpu,cpuacct/a": V1}, 1.5),
        ("3:cpu:/outside\n", {"cpu": V1}, 1.5),
        ("3:cpuset:/a\n", {"cpuset/a": V1, "cpu": V1}, math.inf),
        ("1:cpu:/\n0::/\n", {"cpu": FREE, "unified": {"cpu.max": "100000 100000\n"}}, 1),
        ("0::/\n", {"": {"cpu.max": "?"}}, math.inf),
        ("", {}, math.inf),
    ],
)
def test_quotas(groups: str, files: dict[str, dict[str, str]], limit: float, tmp_path: Path) -> None:
    """Of both versions of control groups, of a group and of those that it is in, and in containers."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    for folder, held in files.items():
        (tmp_path / "sys/fs/cgroup" / folder).mkdir(parents=True, exist_ok=True)
        for name, text in held.items():
            (tmp_path / "sys/fs/cgroup" / folder / name).write_text(text)
    assert quotas.processors(tmp_path) == limit


@pytest.mark.parametrize(("quota", "most"), [(0.5, 1), (1, 1), (1.5, 2), (64, 4), (math.inf, 4)])
def test_a_quota_is_used_up_and_not_exceeded(quota: float, most: int) -> None:
    with (
        patch.object(quotas, "processors", lambda: quota),
        patch.object(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}),
    ):
        assert rule.at_most() == most


def test_the_directions_of_a_layer_run_side_by_side(net: Any) -> None:
    made = graph_of(net, {"op": "GRU", "hidden": 32, "direction": "bidirectional"}, 16, 3)
    frames = noise(100, 1, 16)
    with patch.object(rule, "at_most", lambda: 2):
        model = made.model(threads=2)
        assert bits(model(frames)) == bits(made.model()(frames))
    (call,) = model._calls.values()
    kernels = [i.kernel for i in call.program.instructions]
    assert kernels[kernels.index("beside") :][:3] == ["beside", "gru", "gru"]


@pytest.mark.parametrize("threads", [0, -1, 65, 1.5, True, None, "2"])
def test_a_wrong_number_is_refused(net: Any, threads: Any) -> None:
    with pytest.raises(ValueError, match=r"threads=.* is not a number from 1 to 64"):
        graph_of(net, {"op": "RNN", "hidden": 3}, 2, 1).model(threads=threads)


def test_numba_computes_on_one_thread(net: Any) -> None:
    with pytest.raises(ValueError, match="threads=2 is there for backend 'cython'"):
        graph_of(net, {"op": "RNN", "hidden": 3}, 2, 1).model(threads=2, backend="numba")


def test_a_converted_file_runs_on_any_number(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {
        "weight_ih_l0": rng.standard_normal((1024, 64)) * 0.1,
        "weight_hh_l0": rng.standard_normal((1024, 256)) * 0.1,
        "bias_ih_l0": rng.standard_normal(1024),
        "bias_hh_l0": rng.standard_normal(1024),
    }
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    gs.convert(weights, tmp_path / "m.gatestep", spec=gs.nn.LSTM(64, 256), threads=2)
    frames = noise(20, 64)
    with patch.object(rule, "at_most", lambda: 2):
        one, two = gs.load(tmp_path / "m.gatestep"), gs.load(tmp_path / "m.gatestep", threads=2)
        assert (one.threads, two.threads) == (1, 2)
        assert one.run(frames).tobytes() == two.run(frames).tobytes()
    with pytest.raises(ValueError, match="threads=65 is not a number"):
        gs.load(tmp_path / "m.gatestep", threads=65)


# ---------------------------------------------------------------------- the team

#: What a process of its own begins with: a step that two threads share, and what one thread gives.
BEGIN = """
import os, sys, threading, time
sys.path.insert(0, {tests!r})
import numpy as np
from conftest import Net
from gatestep.engine import threads as rule
rule.at_most = lambda: 8
n = Net()
n.layer("LSTM", n.input("x", "T", "B", 64), 64, 256, out="y")
n.output("y")
frames = np.random.default_rng(0).standard_normal((50, 64)).astype(np.float32)
want = n.model().run(frames).tobytes()
model = n.model(threads=4)
def right():
    stream = model.stream()
    return np.stack([stream.step(frame) for frame in frames]).tobytes() == want == model.run(frames).tobytes()
assert right()
"""


def in_a_process(code: str) -> None:
    """Run `code` behind `BEGIN`, with a limit of time, as a hang is what it is about."""
    begin = BEGIN.format(tests=str(ROOT / "tests"))
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", begin + code], capture_output=True, text=True, timeout=120
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_makes_a_team_of_its_own() -> None:
    in_a_process("""
for _ in range(3):
    child = os.fork()
    if child == 0:
        os._exit(0 if right() and right() else 1)
    assert right()
    assert os.waitpid(child, 0)[1] == 0
""")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_fork_in_the_middle_of_a_call() -> None:
    in_a_process("""
stop = []
def busy():
    while not stop:
        assert right()
thread = threading.Thread(target=busy)
thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        os._exit(0 if right() else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.append(1)
thread.join()
""")


@pytest.mark.parametrize("pause", [0, 0.2])
def test_a_process_ends_whether_helpers_spin_or_sleep(pause: float) -> None:
    in_a_process(f"time.sleep({pause})")


def test_a_process_ends_while_a_daemon_computes() -> None:
    in_a_process("""
def forever():
    while True:
        right()
threading.Thread(target=forever, daemon=True).start()
time.sleep(0.1)
""")


def test_nothing_runs_between_calls() -> None:
    in_a_process("""
time.sleep(0.05)
before = time.process_time()
time.sleep(0.3)
assert time.process_time() - before < 0.02, time.process_time() - before
""")


def test_callers_side_by_side(net: Any) -> None:
    n = net()
    n.layer("LSTM", n.input("x", "T", "B", 64), 64, 256, out="y")
    n.output("y")
    recordings = [noise(40, 64, seed=seed) for seed in range(6)]
    want = [n.model().run(frames).tobytes() for frames in recordings]
    with patch.object(rule, "at_most", lambda: 8), ThreadPoolExecutor(6) as pool:
        models = [n.model(threads=2), n.model(threads=3)]

        def steps(k: int) -> bool:
            stream = models[k % 2].stream()
            return np.stack([stream.step(frame) for frame in recordings[k]]).tobytes() == want[k]

        for _ in range(5):
            assert all(pool.map(steps, range(6)))
            assert all(models[k % 2].run(recordings[k]).tobytes() == want[k] for k in range(6))


def test_denormal_numbers_count_as_zero_on_every_thread(net: Any) -> None:
    n = net()
    n("MatMul", n.input("x", 64, 512), n.weights(512, 512) * 0 + 1, out="y")
    n.output("y")
    tiny = np.full((64, 512), 1e-40, np.float32)
    with patch.object(rule, "at_most", lambda: 4):
        model = n.model(threads=4)
        for _ in range(20):
            assert not model(tiny).any()
            time.sleep(0.0005)
    assert (tiny * np.float32(1)).all()


@pytest.mark.parametrize("flags", [["-O2"], ["-O1", "-g", "-fsanitize=thread"]], ids=["plain", "tsan"])
def test_without_python(tmp_path: Path, flags: list[str]) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    program = tmp_path / "team"
    source = [ROOT / "tests" / "engine" / "team_harness.c", "-I", ROOT / "engine", "-I", ROOT / "kernels"]
    made = subprocess.run([compiler, *flags, *source, "-pthread", "-o", program], capture_output=True, text=True)
    if made.returncode and "-fsanitize=thread" in flags:
        pytest.skip("the compiler has no ThreadSanitizer")
    assert made.returncode == 0, made.stderr
    arguments = [] if "-fsanitize=thread" in flags else ["fork"]
    result = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120)
    if "unexpected memory mapping" in result.stderr:
        pytest.skip("ThreadSanitizer does not run on this system")
    assert (result.returncode, result.stdout, result.stderr) == (0, "0 wrong\n", "")
