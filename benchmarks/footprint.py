"""How much does each engine put on the disk, with what it cannot do without?"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from collections.abc import Iterable
from pathlib import Path

import gatestep

__all__ = ["installed"]

#: Distributions by engine, where the name is another.
_DISTRIBUTIONS = {"litert": "ai-edge-litert", "torch-compiled": "torch"}
_REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+")


def installed(names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """By engine: bytes of its own, and with everything that it requires."""
    sizes = {}
    for name in names:
        distribution = _DISTRIBUTIONS.get(name, name)
        own = _bytes(distribution)
        sizes[name] = own, own + sum(_bytes(other) for other in _required(distribution) - {distribution})
    return sizes


def _bytes(distribution: str) -> int:
    """Files of one distribution, without bytecode."""
    if distribution == "gatestep":  # an editable install lists no files
        folders = {Path(str(folder)) for folder in gatestep.__path__}
        for part in ("engine", "kernels", "importers", "benchmarks"):
            module = importlib.import_module(f"gatestep.{part}")
            folders |= {Path(str(folder)) for folder in module.__path__}
        files = {file for folder in folders for kind in ("*.py", "*.so", "*.pyi") for file in folder.rglob(kind)}
        return sum(file.stat().st_size for file in files)
    listed = importlib.metadata.distribution(distribution).files or []
    paths = (Path(str(file.locate())) for file in listed if file.suffix != ".pyc")
    return sum(path.stat().st_size for path in paths if path.is_file())


def _required(distribution: str) -> set[str]:
    """Names of all distributions that it needs, itself among them; extras are not needed."""
    found: set[str] = set()
    waiting = [distribution]
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another system, or an older Python
        found.add(name)
        for requirement in requires:
            match = _REQUIREMENT.match(requirement)
            if match is not None and "extra ==" not in requirement:
                waiting.append(match.group())
    return found
