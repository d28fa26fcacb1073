"""What one run of the suite found out, as data and as JSON."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..kernels import isa
from .cold import Cold
from .growth import Growth
from .limits import Ceiling, Kernel
from .loading import Loaded
from .measuring import Measured
from .tails import Tail

__all__ = ["SCHEMA", "Report", "Surroundings", "read_json", "to_json"]

#: Of the JSON: counts up when a field changes its meaning or goes.
SCHEMA = 3


@dataclass(frozen=True)
class Surroundings:
    """Where and when it was measured."""

    date: str
    processor: str
    cores: int
    load: float
    system: str
    isa: str
    versions: Mapping[str, str]

    @classmethod
    def here(cls, versions: Mapping[str, str]) -> Surroundings:
        """Here and now. `load` is the mean number of processes that wanted to run, over the last minute."""
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan
        return cls(
            time.strftime("%Y-%m-%d"),
            _processor(),
            os.cpu_count() or 1,
            round(load, 2),
            f"{platform.system()} {platform.machine()}",
            isa,
            {"python": platform.python_version(), **versions},
        )


@dataclass
class Report:
    """Everything that one run of the suite found out; what was not asked for is empty.

    Attributes
    ----------
    skipped : dict
        What was not measured, and why.
    allocations : dict
        Requests for memory per call, by what is called.
    installed : dict
        Bytes on the disk by engine: its own, and with what it requires.
    """

    surroundings: Surroundings
    skipped: dict[str, str] = field(default_factory=dict)
    ceiling: Ceiling | None = None
    cases: list[Measured] = field(default_factory=list)
    kernels: list[Kernel] = field(default_factory=list)
    tails: dict[str, list[Tail]] = field(default_factory=dict)
    growth: list[Growth] = field(default_factory=list)
    allocations: dict[str, float] = field(default_factory=dict)
    cold: Cold | None = None
    installed: dict[str, tuple[int, int]] = field(default_factory=dict)
    loading: list[Loaded] = field(default_factory=list)


def to_json(report: Report) -> str:
    """Every figure, times in nanoseconds unless the name says otherwise."""
    return json.dumps({"schema": SCHEMA, **asdict(report)}, indent=1) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """What `to_json` wrote to a file.

    Raises
    ------
    ValueError
        It is no such file, or of another version.
    """
    try:
        held = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not the JSON of a run: {error}") from error
    found = held.get("schema") if isinstance(held, dict) else None
    if found != SCHEMA:
        raise ValueError(f"{path} is not the JSON of a run of this version: schema {found!r}, expected {SCHEMA}")
    return dict(held)


def _processor() -> str:
    """The processor's name, as the system has it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    return platform.processor() or platform.machine()
