"""The line on a terminal."""

from __future__ import annotations

import sys

import pytest
from gatestep.benchmarks.progress import Progress


@pytest.mark.parametrize("terminal", [True, False])
def test_progress(terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What is being measured and how far it has come; elsewhere than on a terminal, nothing; notes always."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    progress = Progress(4)
    for what in ("first", "second", "third", "fourth"):
        with progress.step(what):
            pass
    progress.note("a note")
    written = capsys.readouterr().err
    assert written.endswith("a note\n")
    for text in ("0 of 4  first", "3 of 4, 0:00 left  fourth", "━" * 12 + "╌" * 12 + "   2 of 4"):
        assert (text in written) == terminal
    assert written.count("\n") == 1
