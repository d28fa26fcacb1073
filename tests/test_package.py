"""The package as a user meets it: what an import brings, what it is called, what it says about itself."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from gatestep.benchmarks.cells import Net

import gatestep
from gatestep import nn

ROOT = Path(__file__).resolve().parent.parent


def fresh(code: str, folder: Path, *arguments: str) -> str:
    """What `code` prints in a new interpreter, away from the tree and from what the environment adds to the path."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, *arguments], cwd=folder, capture_output=True, encoding="utf-8", timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_brings_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys, gatestep; print(*sorted(m for m in sys.modules if '.' not in m))"
    heavy = {"onnx", "google", "numba", "llvmlite", "torch", "safetensors", "matplotlib", "soundfile", "argparse"}
    assert heavy & set(fresh(code, tmp_path).split()) == set()


def test_a_file_costs_what_its_own_reader_takes_to_import(tmp_path: Path) -> None:
    """What finds out about a model is not imported for a file that holds it, nor what reads other files."""
    gatestep.convert(Net("lstm", 3, 4).file(), tmp_path / "model.gatestep")
    (tmp_path / "model.onnx").write_bytes(Net("lstm", 3, 4).file())
    code = "import sys, numpy, gatestep; before = {*sys.modules}; s = gatestep.load(sys.argv[1]).stream(); "
    code += "s.step(numpy.zeros(s.inputs[0].shape, 'f')); print(*sorted({*sys.modules} - before))"
    never = {"numpy.ma", "fractions", "threading", "zipfile", "gatestep.engine.spec", "gatestep.importers.aten"}
    never |= {f"gatestep.engine.passes.{name}" for name in ("cells", "rolling", "loops", "normalising", "binding")}
    never |= {"gatestep.engine.streaming.remembering"}
    never |= {f"gatestep.engine.ops.{name}" for name in ("windows", "quantised", "sequences", "loop", "einsum")}
    analysis = {"gatestep.importers.onnx", "gatestep.engine.streaming.framewise", "gatestep.engine.passes.thawing"}
    for suffix, without in ((".onnx", never), (".gatestep", never | analysis)):
        assert without & set(fresh(code, tmp_path, str(tmp_path / f"model{suffix}")).split()) == set()


def test_cython_backend_does_not_import_numba(tmp_path: Path) -> None:
    code = "import sys, gatestep.kernels as k; k.kernel_set('cython', 'float32'); print('numba' in sys.modules)"
    assert fresh(code, tmp_path) == "False"


@pytest.mark.parametrize("folder", ["engine", "kernels", "importers", "benchmarks"])
def test_folders_are_reached_through_the_package_only(folder: str, tmp_path: Path) -> None:
    code = f"import importlib.util as u; print(u.find_spec({folder!r}))"
    assert str(ROOT) not in fresh(code, tmp_path)
    assert fresh(f"import gatestep.{folder}; print('there')", tmp_path) == "there"


def test_version_is_that_of_the_metadata() -> None:
    assert gatestep.__version__ == importlib.metadata.version("gatestep")


def test_metadata_names_every_extra() -> None:
    extras = set(importlib.metadata.metadata("gatestep").get_all("Provides-Extra") or ())
    assert {"numba", "torch", "audio", "bench", "all"} <= extras


def test_numpy_is_all_that_it_needs() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.findall(r"^dependencies = (.*)$", project, re.MULTILINE) == ['["numpy>=1.23"]']


def test_typed() -> None:
    assert Path(gatestep.__file__).with_name("py.typed").is_file()


def public_names() -> list[tuple[str, object]]:
    """Every public name, and every public member that its class itself brings to it."""
    found: list[tuple[str, object]] = [("gatestep", gatestep)]
    for module in (gatestep, nn):
        for name in module.__all__:
            thing = getattr(module, name)
            found.append((f"{module.__name__}.{name}", thing))
            if inspect.isclass(thing):
                for owner in thing.__mro__:
                    if owner.__module__.startswith("gatestep."):
                        found += [
                            (f"{module.__name__}.{name}.{key}", member)
                            for key, member in vars(owner).items()
                            if not key.startswith("_") and (callable(member) or isinstance(member, property))
                        ]
    return found


def test_public_names_say_what_they_are() -> None:
    assert [name for name, thing in public_names() if not (inspect.getdoc(thing) or "").strip()] == []


def test_the_numba_backend_without_numba_names_the_extra(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['numba'] = sys.modules['llvmlite'] = None\n"
        "import numpy as np, gatestep\n"
        "weights = {'weight_ih_l0': np.ones((4, 1), 'f4'), 'weight_hh_l0': np.ones((4, 1), 'f4')}\n"
        "try:\n    gatestep.load(weights, backend='numba')\n"
        "except gatestep.MissingExtraError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert "gatestep[numba]" in done.stdout
