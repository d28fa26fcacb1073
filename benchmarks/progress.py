"""How far a run has come: one line on a terminal, nothing elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Progress"]

#: Characters of the bar.
WIDTH = 24


class Progress:
    """A bar for `total` steps of about equal length, on stderr."""

    def __init__(self, total: int) -> None:
        self.done, self.total, self.shown = 0, total, sys.stderr.isatty()
        self.began = time.monotonic()

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Show `what` while it lasts."""
        if self.shown:
            filled = WIDTH * self.done // self.total
            line = f"{'━' * filled}{'╌' * (WIDTH - filled)} {self.done:>3} of {self.total}{self._left()}  {what}"
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\033[K{line[:width]}", end="", file=sys.stderr, flush=True)
        yield
        self.done += 1

    def _left(self) -> str:
        if self.done < 3:
            return ""
        seconds = (time.monotonic() - self.began) / self.done * (self.total - self.done)
        return f", {int(seconds) // 60}:{int(seconds) % 60:02d} left"

    def note(self, line: str) -> None:
        """Print a line that stays."""
        self.close()
        print(line, file=sys.stderr)

    def close(self) -> None:
        """Take the bar away."""
        if self.shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
