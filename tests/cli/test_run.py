"""`run` and `inspect`, as a shell sees them: files in, files out, exit codes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import FRAMES, Run, good, read_wav, refused, weights, write_wav

import gatestep


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


def test_threads(run: Run, models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", FRAMES)
    for model in ("gru.onnx", "bidirectional.onnx"):
        good(run("run", models / model, "x.npy", "-o", "one.npy"))
        good(run("run", models / model, "x.npy", "-o", "two.npy", "--threads", "2"))
        assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "two.npy").read_bytes()
        good(run("verify", models / model, "--threads", "2"))
    refused(run("inspect", models / "gru.onnx", "--threads", "0"), 2, "threads=0 is not a number from 1 to 64")


def test_an_input_that_is_bound(run: Run, models: Path) -> None:
    h = np.zeros((1, 1, 4)).tolist()
    assert "input   h0" in good(run("inspect", models / "gru.onnx"))
    assert "input   h0" not in good(run("inspect", models / "gru.onnx", "--bind", f"h0={h}"))
    refused(run("inspect", models / "gru.onnx", "--bind", "h0=3"), 1, "h0", "shape ()")


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
    said = good(run("inspect", models / "gru.onnx"))
    size = (models / "gru.onnx").stat().st_size
    assert said == f"{gatestep.load(models / 'gru.onnx')}\n  file    {size:,} bytes\n"
    for word in ("cell ", "weights ", "h0 -> hn", "streams yes"):
        assert word in said


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
    assert good(shell("inspect", models / "gru.onnx")).startswith(str(gatestep.load(models / "gru.onnx")))
    refused(shell("inspect", models / "text.onnx"), 1, "text.onnx")
    refused(shell("inspect", "none.onnx"), 1, "none.onnx: No such file")
    refused(shell("inspect"), 2, "MODEL")
    refused(shell("run", models / "gru.onnx", "none.npy", "-o", "y.npy"), 1, "none.npy: No such file")
