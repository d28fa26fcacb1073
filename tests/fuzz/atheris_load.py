"""Coverage-guided fuzzing of `load`, by atheris: ``python tests/fuzz/atheris_load.py CORPUS -max_total_time=3600``.

Without a corpus it begins with the seeds of the fuzzer, which it writes into a new folder.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gatestep"]):  # what is imported later is not seen: all that reads files, now
    for package in map(importlib.import_module, ("gatestep.importers", "gatestep.engine")):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.rpartition(".")[2].startswith("_"):
                importlib.import_module(module.name)
    import fuzzing

from seeds import seeds


def one(data: bytes) -> None:
    fuzzing.attempt(data)


def main() -> None:
    warnings.simplefilter("ignore")
    arguments = sys.argv
    if not any(not argument.startswith("-") for argument in arguments[1:]):
        folder = Path(tempfile.mkdtemp(prefix="gatestep-corpus-"))
        for k, data in enumerate(seeds(folder).values()):
            (folder / f"{k}").write_bytes(data)
        arguments = [*arguments, str(folder)]
    atheris.Setup([*arguments, "-rss_limit_mb=2048", "-timeout=20"], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
