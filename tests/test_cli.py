"""The command line, as a shell sees it: files in, files out, exit codes, one line for what goes wrong."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import gatestep
from gatestep.__main__ import main

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]

FRAMES = np.random.default_rng(7).standard_normal((40, 3)).astype(np.float32)


def save(path: Path, nodes: list, inputs: dict, outputs: dict, constants: dict) -> Path:
    """An ONNX file from nodes, ports given as name -> (shape, type) and constant arrays."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, (shape, kind) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, (shape, kind) in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def weights(directions: int, gates: int, hidden: int, size: int) -> dict[str, np.ndarray]:
    """Random w and r of a recurrent operator."""
    rng = np.random.default_rng(3)
    draw = lambda *shape: rng.uniform(-0.5, 0.5, shape).astype(np.float32)  # noqa: E731
    return {"w": draw(directions, gates * hidden, size), "r": draw(directions, gates * hidden, hidden)}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small models."""
    folder = tmp_path_factory.mktemp("models")
    f32, i64 = TensorProto.FLOAT, TensorProto.INT64
    axis = {"axes": np.array([1])}
    squeeze = helper.make_node("Squeeze", ["y4", "axes"], ["y"])

    def recurrent(op: str, **attrs: object) -> onnx.NodeProto:
        return helper.make_node(op, ["x", "w", "r", "", "", *(["h0"] if op == "GRU" else [])], ["y4", "hn"], **attrs)

    save(
        folder / "gru.onnx",
        [recurrent("GRU", hidden_size=4), squeeze],
        {"x": (["T", 1, 3], f32), "h0": ([1, 1, 4], f32)},
        {"y": (["T", 1, 4], f32), "hn": ([1, 1, 4], f32)},
        {**weights(1, 3, 4, 3), **axis},
    )
    save(
        folder / "bidirectional.onnx",
        [recurrent("RNN", hidden_size=4, direction="bidirectional")],
        {"x": (["T", 1, 3], f32)},
        {"y4": (["T", 2, 1, 4], f32)},
        weights(2, 1, 4, 3),
    )
    save(
        folder / "blocks.onnx",
        [recurrent("RNN", hidden_size=8), squeeze],
        {"x": (["T", 1, 8], f32)},
        {"y": (["T", 1, 8], f32)},
        {**weights(1, 1, 8, 8), **axis},
    )
    save(
        folder / "two.onnx",
        [
            helper.make_node("Concat", ["a", "b"], ["x"], axis=2),
            recurrent("RNN", hidden_size=4),
            squeeze,
            helper.make_node("Tanh", ["a"], ["file"]),
        ],
        {"a": (["T", 1, 1], f32), "b": (["T", 1, 2], f32)},
        {"y": (["T", 1, 4], f32), "file": (["T", 1, 1], f32)},
        {**weights(1, 1, 4, 3), **axis},
    )
    save(
        folder / "tokens.onnx",
        [helper.make_node("Gather", ["table", "ids"], ["x"]), recurrent("RNN", hidden_size=4), squeeze],
        {"ids": (["T", 1], i64)},
        {"y": (["T", 1, 4], f32)},
        {**weights(1, 1, 4, 3), **axis, "table": FRAMES},
    )
    save(
        folder / "levels.onnx",
        [recurrent("RNN", hidden_size=1), helper.make_node("Squeeze", ["y4", "inner"], ["y"])],
        {"x": (["T", 1, 1], f32)},
        {"y": (["T"], f32)},
        {**weights(1, 1, 1, 1), "inner": np.array([1, 2, 3])},
    )
    save(
        folder / "fixed.onnx",
        [
            recurrent("RNN", hidden_size=4),
            helper.make_node("Reshape", ["y4", "shape"], ["flat"]),
            helper.make_node("MatMul", ["flat", "matrix"], ["y"]),
        ],
        {"x": ([5, 1, 3], f32)},
        {"y": ([1, 2], f32)},
        {**weights(1, 1, 4, 3), "shape": np.array([1, 20]), "matrix": np.ones((20, 2), np.float32)},
    )
    (folder / "text.onnx").write_text("not a model\n")
    return folder


@pytest.fixture
def shell(tmp_path: Path) -> Run:
    """Run the command line as a process of its own, in an empty folder."""

    def call(*arguments: object, env: dict[str, str] | None = None) -> Done:
        return subprocess.run(
            [sys.executable, "-m", "gatestep", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONIOENCODING": "utf-8", **(env or {})},
            capture_output=True,
            encoding="utf-8",
            stdin=subprocess.DEVNULL,
            timeout=120,
        )

    return call


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The same within this process, which saves starting another one for every case."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Done:
        code = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, said.out, said.err)

    return call


def write_wav(path: Path, samples: np.ndarray, width: int = 2, channels: int = 1) -> Path:
    """A PCM file; `samples` between -1 and 1."""
    scaled = np.round(samples * 2 ** (8 * width - 1)).astype("<i4")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(16000)
        file.writeframes(scaled[:, None].view("u1").reshape(-1, 4)[:, :width].tobytes())
    return path


def read_wav(path: Path) -> tuple[np.ndarray, int]:
    """Samples as integers, and the rate."""
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2"), file.getframerate()


def good(done: Done) -> str:
    """What it printed, having gone well."""
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def refused(done: Done, code: int, *words: str) -> None:
    """It ended with this code and one line that has these words in it."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert re.fullmatch(r"gatestep: error: [^\n]+\n", done.stderr), done.stderr
    for word in words:
        assert word in done.stderr


# ---------------------------------------------------------------------- runs that go well
def test_npy(shell: Run, models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", FRAMES)
    said = good(shell("run", models / "gru.onnx", "x.npy", "-o", "y.npy", "--rate", "100"))
    y = np.load(tmp_path / "y.npy")
    np.testing.assert_array_equal(y, gatestep.load(models / "gru.onnx").run(FRAMES))
    assert y.shape == (40, 4)
    assert re.search(r"40 frames, written to y\.npy\n", said)
    figures = re.search(r"per frame: ([\d.]+) µs median, ([\d.]+) µs p99, ([\d.]+) µs max\n", said)
    assert figures is not None
    median, high, most = map(float, figures.groups())
    assert 0 < median <= high <= most
    assert re.search(r"real time: [\d.]+ × \(at 100 frames per second\)\n$", said)
    assert sorted(os.listdir(tmp_path)) == ["x.npy", "y.npy"]


def test_values(run: Run, models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", FRAMES)
    good(run("run", models / "bidirectional.onnx", "x.npy", "-o", "y.npy"))
    held = weights(2, 1, 4, 3)
    expected = np.zeros((40, 2, 4))
    for direction, times in enumerate((range(40), reversed(range(40)))):
        h = np.zeros(4)
        for t in times:
            h = np.tanh(held["w"][direction] @ FRAMES[t] + held["r"][direction] @ h)
            expected[t, direction] = h
    np.testing.assert_allclose(np.load(tmp_path / "y.npy").reshape(40, 2, 4), expected, atol=1e-5)


def test_no_rate(run: Run, models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", FRAMES)
    assert "real time" not in good(run("run", models / "gru.onnx", "x.npy", "-o", "y.npy"))


def test_double_precision_input_and_arithmetic(run: Run, models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", FRAMES.astype(np.float64))
    good(run("run", models / "gru.onnx", "x.npy", "-o", "y.npy"))
    good(run("run", models / "gru.onnx", "x.npy", "-o", "z.npy", "--dtype", "float64"))
    y, z = np.load(tmp_path / "y.npy"), np.load(tmp_path / "z.npy")
    assert (y.dtype, z.dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(y, z, atol=1e-5)


def test_backend(run: Run, models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", FRAMES)
    good(run("run", models / "gru.onnx", "x.npy", "-o", "y.npy", "--backend", "cython"))
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), gatestep.load(models / "gru.onnx").run(FRAMES))


def test_state_pairs(run: Run, models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", FRAMES)
    good(run("run", models / "gru.onnx", "x.npy", "-o", "y.npy", "--state", "h0=hn"))
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), gatestep.load(models / "gru.onnx").run(FRAMES))


def test_csv_with_and_without_header(run: Run, models: Path, tmp_path: Path) -> None:
    lines = "\n".join(",".join(f"{value:.9g}" for value in frame) for frame in FRAMES)
    (tmp_path / "plain.csv").write_text(lines + "\n\n")
    (tmp_path / "headed.csv").write_text("\ufeffleft,right,both\n" + lines, encoding="utf-8")
    expected = gatestep.load(models / "gru.onnx").run(FRAMES)
    for name in ("plain", "headed"):
        assert "40 frames" in good(run("run", models / "gru.onnx", f"{name}.csv", "-o", "y.csv"))
        np.testing.assert_array_equal(np.loadtxt(tmp_path / "y.csv", delimiter=",", dtype=np.float32), expected)


def test_csv_keeps_every_bit_of_doubles(run: Run, models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", FRAMES)
    good(run("run", models / "gru.onnx", "x.npy", "-o", "y.csv", "--dtype", "float64"))
    expected = gatestep.load(models / "gru.onnx", dtype="float64").run(FRAMES)
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "y.csv", delimiter=","), expected)


def test_several_inputs_and_outputs(shell: Run, models: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", b=FRAMES[:, 1:], a=FRAMES[:, :1])
    assert "40 frames" in good(shell("run", models / "two.onnx", "in.npz", "-o", "out.npz"))
    expected = gatestep.load(models / "two.onnx").run({"a": FRAMES[:, :1], "b": FRAMES[:, 1:]})
    with np.load(tmp_path / "out.npz") as results:
        assert sorted(results.files) == ["file", "y"]
        for name in results.files:
            np.testing.assert_array_equal(results[name], expected[name])


def test_npz_with_one_array_needs_no_name(run: Run, models: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", FRAMES)
    good(run("run", models / "gru.onnx", "in.npz", "-o", "y.npy"))
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), gatestep.load(models / "gru.onnx").run(FRAMES))


def test_whole_numbers_from_csv(run: Run, models: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.csv").write_text("3\n1\n4\n1\n5\n")
    good(run("run", models / "tokens.onnx", "ids.csv", "-o", "y.npy"))
    expected = gatestep.load(models / "tokens.onnx").run(np.array([3, 1, 4, 1, 5]))
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)


@pytest.mark.parametrize("width", [2, 3])
def test_wav(run: Run, models: Path, tmp_path: Path, width: int) -> None:
    samples = np.round(np.sin(np.arange(803) / 9) * 2**14) / 2**15
    write_wav(tmp_path / "in.wav", samples, width)
    said = good(run("run", models / "blocks.onnx", "in.wav", "-o", "out.wav"))
    assert "101 frames" in said
    assert "(at 2000 frames per second)" in said
    blocks = np.pad(samples, (0, 5)).reshape(-1, 8).astype(np.float32)
    expected = np.rint(gatestep.load(models / "blocks.onnx").run(blocks).reshape(-1)[:803] * 32768.0)
    got, rate = read_wav(tmp_path / "out.wav")
    assert rate == 16000
    np.testing.assert_array_equal(got, expected)


def test_wav_from_frames_at_a_rate(run: Run, models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((10, 8), 100, np.float32))
    good(run("run", models / "blocks.onnx", "x.npy", "-o", "out.wav", "--rate", "1000"))
    got, rate = read_wav(tmp_path / "out.wav")
    assert (len(got), rate) == (80, 8000)


def test_model_that_does_not_stream(run: Run, models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", FRAMES)
    said = good(run("run", models / "bidirectional.onnx", "x.npy", "-o", "y.npy", "--rate", "10"))
    assert "40 frames in one call, because the model does not stream" in said
    assert "real time: " in said
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), gatestep.load(models / "bidirectional.onnx").run(FRAMES))


def test_whole_call_in_the_shapes_of_the_file(run: Run, models: Path, tmp_path: Path) -> None:
    h0 = np.full((1, 1, 4), 0.25, np.float32)
    np.savez(tmp_path / "in.npz", x=FRAMES[:, None], h0=h0)
    assert "one call" in good(run("run", models / "gru.onnx", "in.npz", "-o", "out.npz", "--whole"))
    expected = gatestep.load(models / "gru.onnx")({"x": FRAMES[:, None], "h0": h0})
    with np.load(tmp_path / "out.npz") as results:
        for name in ("y", "hn"):
            np.testing.assert_array_equal(results[name], expected[name])


def test_outputs_of_one_number(run: Run, models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", FRAMES[:, :1])
    good(run("run", models / "levels.onnx", "x.npy", "-o", "y.csv"))
    y = np.loadtxt(tmp_path / "y.csv", dtype=np.float32)
    np.testing.assert_array_equal(y, gatestep.load(models / "levels.onnx").run(FRAMES[:, :1]))


def test_empty_wav(run: Run, models: Path, tmp_path: Path) -> None:
    write_wav(tmp_path / "in.wav", np.zeros(0))
    assert good(run("run", models / "blocks.onnx", "in.wav", "-o", "out.wav")).startswith("0 frames")
    assert len(read_wav(tmp_path / "out.wav")[0]) == 0


def test_model_of_one_shape_only(run: Run, models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", FRAMES[:5, None])
    refused(run("run", models / "fixed.onnx", "x.npy", "-o", "y.npy"), 1, "does not stream", "--whole")
    good(run("run", models / "fixed.onnx", "x.npy", "-o", "y.npy", "--whole"))
    expected = gatestep.load(models / "fixed.onnx")(FRAMES[:5, None])
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)


def test_no_frames(run: Run, models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", FRAMES[:0])
    assert good(run("run", models / "gru.onnx", "x.npy", "-o", "y.npy", "--rate", "9")).startswith("0 frames")
    assert np.load(tmp_path / "y.npy").shape == (0, 4)


def test_output_replaces_what_a_link_points_to(run: Run, models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", FRAMES)
    (tmp_path / "old.npy").write_text("old")
    (tmp_path / "link.npy").symlink_to("old.npy")
    good(run("run", models / "gru.onnx", "x.npy", "-o", "link.npy"))
    assert (tmp_path / "link.npy").is_symlink()
    assert np.load(tmp_path / "old.npy").shape == (40, 4)


def test_inspect(run: Run, models: Path) -> None:
    assert good(run("inspect", models / "gru.onnx")) == f"{gatestep.load(models / 'gru.onnx')}\n"


def test_help_and_version(shell: Run) -> None:
    assert good(shell("--version")) == f"gatestep {gatestep.__version__}\n"
    assert "gatestep run " in good(shell("run", "--help"))
    for command in ("run", "inspect"):
        assert command in good(shell("--help"))


def test_terminal_without_unicode(shell: Run, models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", FRAMES)
    said = good(shell("run", models / "gru.onnx", "x.npy", "-o", "y.npy", env={"PYTHONIOENCODING": "ascii"}))
    assert "median" in said


def test_script_is_installed() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("gatestep"), "--version"], capture_output=True, encoding="utf-8", timeout=60
    )
    assert good(done) == f"gatestep {gatestep.__version__}\n"


def test_long_work_shows_progress_and_can_be_interrupted(models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((10_000_000, 3), np.float32))
    (tmp_path / "y.npy").write_text("old")
    terminal, end = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "gatestep", "run", models / "gru.onnx", "x.npy", "-o", "y.npy"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=end,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    os.close(end)
    try:
        shown = b""
        while b" of 10000000 frames" not in shown:
            shown += os.read(terminal, 1000)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert b"gatestep: error: interrupted" in os.read(terminal, 10000)
    finally:
        process.kill()
        process.communicate()
        os.close(terminal)
    assert sorted(os.listdir(tmp_path)) == ["x.npy", "y.npy"]
    assert (tmp_path / "y.npy").read_text() == "old"


def test_reader_of_the_output_gone(models: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "gatestep", "inspect", models / "gru.onnx"],
        stdout=writing,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=60,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_exit_codes_of_the_process(shell: Run, models: Path) -> None:
    assert good(shell("inspect", models / "gru.onnx")) == f"{gatestep.load(models / 'gru.onnx')}\n"
    refused(shell("inspect", models / "text.onnx"), 1, "text.onnx")
    refused(shell("inspect", "none.onnx"), 1, "none.onnx: No such file")
    refused(shell("inspect"), 2, "MODEL")
    refused(shell("run", models / "gru.onnx", "none.npy", "-o", "y.npy"), 1, "none.npy: No such file")


# ---------------------------------------------------------------------- what was typed is wrong
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["COMMAND", "gatestep --help"]),
        (["walk"], ["walk"]),
        (["run"], ["MODEL", "gatestep run --help"]),
        (["run", "m.onnx", "x.npy"], ["-o"]),
        (["run", "m.onnx", "x.npy", "-o", "y.npy", "--fast"], ["--fast"]),
        (["run", "m.onnx", "x.mp3", "-o", "y.npy"], ["x.mp3", ".wav"]),
        (["run", "m.onnx", "x.npy", "-o", "y"], ["y", ".npz"]),
        (["run", "m.onnx", "x.npy", "-o", "y.npy", "--rate", "0"], ["--rate", "'0'"]),
        (["run", "m.onnx", "x.npy", "-o", "y.npy", "--rate", "many"], ["--rate", "'many'"]),
        (["run", "m.onnx", "x.npy", "-o", "y.npy", "--state", "h0"], ["--state", "IN=OUT"]),
        (["run", "m.onnx", "x.npy", "-o", "y.npy", "--backend", "magic"], ["--backend", "magic"]),
        (["run", "m.onnx", "x.npy", "-o", "y.npy", "--dtype", "int8"], ["--dtype", "int8"]),
        (["inspect"], ["MODEL"]),
    ],
)
def test_usage(run: Run, arguments: list[str], words: list[str]) -> None:
    refused(run(*arguments), 2, *words)


def test_rate_of_a_wav(run: Run, models: Path, tmp_path: Path) -> None:
    write_wav(tmp_path / "in.wav", np.zeros(80))
    refused(run("run", models / "blocks.onnx", "in.wav", "-o", "y.npy", "--rate", "3"), 2, "--rate")


# ---------------------------------------------------------------------- the model or the data are wrong
@pytest.mark.parametrize("command", [["inspect"], ["run", "-o", "y.npy"]])
def test_models_that_cannot_be_loaded(run: Run, models: Path, tmp_path: Path, command: list[str]) -> None:
    np.save(tmp_path / "x.npy", FRAMES)
    data = ["x.npy"] if command[0] == "run" else []
    refused(run(*command, "none.onnx", *data), 1, "none.onnx", "No such file")
    refused(run(*command, models / "text.onnx", *data), 1, "text.onnx")
    refused(run(*command, models, *data), 1, str(models))
    refused(run(*command, models / "gru.onnx", *data, "--state", "nothing=hn"), 1, "nothing")


ARRAYS = {
    "pickled": (np.array([{}], dtype=object), ["x.npy"]),
    "other width": (FRAMES[:, :2], ["(40, 2)", "(frames, 3)"]),
    "with batch": (FRAMES[:, None], ["(40, 1, 3)", "(frames, 3)"]),
    "one frame": (FRAMES[0], ["(3,)"]),
    "complex": (FRAMES.astype(complex), ["complex128"]),
    "too large": (np.full((40, 3), 1e300), ["float64", "float32"]),
    "text": (np.array([["a", "b", "c"]]), ["<U1"]),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_that_do_not_fit(run: Run, models: Path, tmp_path: Path, case: str) -> None:
    array, words = ARRAYS[case]
    np.save(tmp_path / "x.npy", array)
    (tmp_path / "y.npy").write_text("old")
    refused(run("run", models / "gru.onnx", "x.npy", "-o", "y.npy"), 1, "x.npy", *words)
    assert (tmp_path / "y.npy").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["x.npy", "y.npy"]


@pytest.mark.parametrize("case", [k for k in ARRAYS if k != "with batch"])
def test_arrays_that_do_not_fit_one_call(run: Run, models: Path, tmp_path: Path, case: str) -> None:
    np.save(tmp_path / "x.npy", ARRAYS[case][0])
    refused(run("run", models / "bidirectional.onnx", "x.npy", "-o", "y.npy"), 1)
    refused(run("run", models / "bidirectional.onnx", "x.npy", "-o", "y.npy", "--whole"), 1)


FILES = {
    "x.npy": [(b"", []), (b"\x93NUMPY but no more", []), (b"text", [])],
    "x.npz": [(b"", []), (b"PK\x03\x04 and no more", [])],
    "x.csv": [
        (b"", ["no frames"]),
        (b"a,b,c\n", ["no frames"]),
        (b"1,2,3\n4,x,6\n", ["line 2", "'x'"]),
        (b"1,2,3\n4,5\n", ["line 2", "2 values"]),
        (b"1,2\n", ["(1, 2)", "(frames, 3)"]),
        (b"\xff\xfe\x00\n1\x00\n", ["line "]),
        (b"x" * 200_000, ["line 1"]),
    ],
    "x.wav": [(b"", ["not a WAV"]), (b"text, and a lot of it", ["not a WAV"]), (b"RIFF\x04\0\0\0WAVE", ["x.wav"])],
}


@pytest.mark.parametrize(("name", "index"), [(name, i) for name, cases in FILES.items() for i in range(len(cases))])
def test_damaged_files(run: Run, models: Path, tmp_path: Path, name: str, index: int) -> None:
    content, words = FILES[name][index]
    (tmp_path / name).write_bytes(content)
    refused(run("run", models / "gru.onnx", name, "-o", "y.npy"), 1, name, *words)
    assert os.listdir(tmp_path) == [name]


def test_input_missing(run: Run, models: Path) -> None:
    for suffix in ("npy", "npz", "csv", "wav"):
        refused(run("run", models / "gru.onnx", f"none.{suffix}", "-o", "y.npy"), 1, f"none.{suffix}: No such file")


def test_output_folder_missing(run: Run, models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", FRAMES)
    refused(run("run", models / "gru.onnx", "x.npy", "-o", "none/y.npy"), 1, "none/y.npy")


def test_names_that_do_not_fit(run: Run, models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", FRAMES)
    np.savez(tmp_path / "less.npz", a=FRAMES[:, :1])
    np.savez(tmp_path / "more.npz", a=FRAMES[:, :1], b=FRAMES[:, 1:], c=FRAMES)
    np.savez(tmp_path / "uneven.npz", a=FRAMES[:, :1], b=FRAMES[:7, 1:])
    refused(run("run", models / "two.onnx", "x.npy", "-o", "y.npz"), 1, "a, b", ".npz")
    refused(run("run", models / "two.onnx", "less.npz", "-o", "y.npz"), 1, "does not have b", "a, b")
    refused(run("run", models / "two.onnx", "more.npz", "-o", "y.npz"), 1, "has c", "a, b")
    refused(run("run", models / "two.onnx", "uneven.npz", "-o", "y.npz"), 1, "a 40", "b 7")


@pytest.mark.parametrize("suffix", ["npy", "csv", "wav"])
def test_several_outputs_for_one_array(run: Run, models: Path, tmp_path: Path, suffix: str) -> None:
    np.savez(tmp_path / "in.npz", b=FRAMES[:, 1:], a=FRAMES[:, :1])
    refused(run("run", models / "two.onnx", "in.npz", "-o", f"y.{suffix}", "--rate", "5"), 1, "y, file", ".npz")
    assert os.listdir(tmp_path) == ["in.npz"]


def test_fractions_are_no_whole_numbers(run: Run, models: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.csv").write_text("3\n1.5\n")
    refused(run("run", models / "tokens.onnx", "ids.csv", "-o", "y.npy"), 1, "ids", "int64")


def test_index_outside_the_table(run: Run, models: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.csv").write_text("3\n99\n")
    refused(run("run", models / "tokens.onnx", "ids.csv", "-o", "y.npy"), 1, "outside")
    assert os.listdir(tmp_path) == ["ids.csv"]


def test_sound_that_does_not_fit(run: Run, models: Path, tmp_path: Path) -> None:
    write_wav(tmp_path / "in.wav", np.zeros(80))
    write_wav(tmp_path / "stereo.wav", np.zeros(80), channels=2)
    np.save(tmp_path / "x.npy", FRAMES)
    np.save(tmp_path / "blocks.npy", np.zeros((4, 8)))
    refused(run("run", models / "blocks.onnx", "stereo.wav", "-o", "y.npy"), 1, "2 channels")
    refused(run("run", models / "blocks.onnx", "in.wav", "-o", "y.npy", "--whole"), 1, "--whole")
    refused(run("run", models / "bidirectional.onnx", "in.wav", "-o", "y.npy"), 1, "streams")
    refused(run("run", models / "two.onnx", "in.wav", "-o", "y.npz"), 1, "a, b")
    refused(run("run", models / "blocks.onnx", "blocks.npy", "-o", "y.wav"), 1, "--rate")


def test_extra_for_sound_is_named(shell: Run, models: Path, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "soundfile.py").write_text("raise ImportError")
    write_wav(tmp_path / "in.wav", np.zeros(80), width=3)
    env = {"PYTHONPATH": str(hidden)}
    refused(shell("run", models / "blocks.onnx", "in.wav", "-o", "y.wav", env=env), 1, "soundfile", "gatestep[audio]")
    write_wav(tmp_path / "in.wav", np.zeros(80))
    good(shell("run", models / "blocks.onnx", "in.wav", "-o", "y.wav", env=env))
