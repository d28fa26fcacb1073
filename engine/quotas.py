"""How much processor time does the system grant this process? Containers and services limit it by control groups."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

__all__ = ["processors"]


def processors(root: Path = Path("/")) -> float:
    """Processors' worth of time that the process's control groups leave it: infinity where nothing limits it.

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` are.
    """
    return min((limit for folder in _groups(root) if (limit := _limit(folder)) is not None), default=math.inf)


def _groups(root: Path) -> Iterator[Path]:
    """Folders of the groups that the process is in, and of those that they are in, up to where they are mounted.

    A path that is not there is one outside of the container: then its own group is what is mounted.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, UnicodeDecodeError):  # not Linux
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Version 2 has one hierarchy without a name; beside version 1 it is "unified".
        for mount in (controllers, "cpu") if controllers else ("", "unified"):
            top = root / "sys/fs/cgroup" / mount
            folder = top / path.lstrip("/")
            yield from (top, *(top / part for part in list(folder.relative_to(top).parents)[:-1]), folder)


def _limit(folder: Path) -> float | None:
    """What one group is limited to: quota ÷ period."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{what}_us").read_text() for what in ("quota", "period"))
        limit = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such file; "max"
        return None
    return limit if limit > 0 else None  # -1 is none
