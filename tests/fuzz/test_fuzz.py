"""Mutated files of every format: a result, or one of our errors, within seconds and the bound on memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mutations import in_bytes, mutated

import gatestep as gs

FUZZER = Path(__file__).with_name("fuzzing.py")
COUNT = 250

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limits of a process are those of Linux")


@pytest.mark.parametrize("seed", [0, 10_000])
def test_mutated_files(seed: int, tmp_path: Path) -> None:
    command = [sys.executable, str(FUZZER), f"--seed={seed}", f"--count={COUNT}", f"--keep={tmp_path}"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr[-3000:]
    told = json.loads(run.stdout)
    assert not told["findings"]
    outcomes = told["outcomes"]
    assert sum(outcomes.values()) == COUNT
    assert outcomes["ran"] > COUNT // 20  # the mutations leave something to run
    assert outcomes["refused"] > COUNT // 5


def test_the_fuzzer_finds_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of finding, made on purpose."""
    import fuzzing

    def crash(data: bytes) -> None:
        import ctypes

        ctypes.string_at(0)

    def hang(data: bytes) -> None:
        while True:
            pass

    def waste(data: bytes) -> bytearray:
        return bytearray(3 << 30)

    monkeypatch.setattr(fuzzing, "SECONDS", 1)
    for wrong, what in ((crash, "SIGSEGV"), (hang, "1 s of work"), (waste, "MemoryError"), (int, "ValueError")):
        monkeypatch.setattr(gs, "load", wrong)
        assert what in fuzzing.contained(b"x"), wrong


def test_every_seed_is_sound(tmp_path: Path) -> None:
    import fuzzing
    from seeds import seeds

    for name, data in seeds(tmp_path).items():
        if name.startswith("made/"):
            expected = "loaded" if name == "made/script.pt" else "ran"  # a script does not say what shapes it takes
            assert fuzzing.contained(data) == expected, name


def test_a_case_is_its_number() -> None:
    import random

    data = b"\x08\x07" + bytes(range(256))
    for n in range(50):
        first, second = (mutated(data, random.Random(n), [data]) for _ in range(2))
        assert first == second
        assert in_bytes(data, random.Random(n), [data]) == in_bytes(data, random.Random(n), [data])
