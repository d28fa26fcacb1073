"""What goes wrong on the command line: an exit code, and one line that says what to do."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from command_line import FRAMES, Run, good, refused, write_wav


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
        (["inspect", "m.onnx", "--bind", "sr"], ["--bind", "NAME=VALUE"]),
        (["inspect", "m.onnx", "--bind", "sr=fast"], ["--bind", "'sr=fast'"]),
        (["inspect", "m.onnx", "--shape", "x=1,many"], ["--shape", "NAME=SIZES"]),
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
