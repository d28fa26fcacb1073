"""Fixtures of the kernel tests: the calling convention, and every kernel set that this machine can run."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from gatestep.kernels import PRECISIONS, _plumbing, available_isas, tier_build

_DTYPES: dict[str, np.dtype[Any]] = {"f32": np.dtype(np.float32), "f64": np.dtype(np.float64)}


@dataclass(frozen=True)
class KernelSet:
    """The kernels of one instruction set for one floating-point type."""

    isa: str
    dtype: np.dtype[Any]
    kernels: dict[str, int]
    precision: str = "float32"


@pytest.fixture(scope="session")
def abi() -> ModuleType:
    """The module abi.py beside this file, which importlib mode leaves without a name to import it by."""
    spec = importlib.util.spec_from_file_location("gatestep_tests_abi", Path(__file__).with_name("abi.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(
    scope="session",
    params=[(isa, name) for isa in available_isas() for name in _DTYPES],
    ids="-".join,
)
def kernel_set(request: pytest.FixtureRequest) -> KernelSet:
    """Each kernel set in turn."""
    isa, name = request.param
    module = importlib.import_module(f"gatestep.kernels._{isa}_{name}")
    return KernelSet(isa, _DTYPES[name], module.KERNELS)


def tier_builds() -> list[tuple[str, str]]:
    """Every build of a precision tier that this machine can run, slower ones included."""
    found = {(tier_build(precision, isa), precision) for isa in available_isas() for precision in PRECISIONS}
    return sorted((build, precision) for build, precision in found if build is not None)


@pytest.fixture(
    scope="session",
    params=[*((isa, name) for isa in available_isas() for name in _DTYPES), *tier_builds()],
    ids="-".join,
)
def fused_set(request: pytest.FixtureRequest) -> KernelSet:
    """Each set of cells and dense layers in turn: as `kernel_set`, and those of the precision tiers."""
    isa, name = request.param
    if name in _DTYPES:
        return KernelSet(isa, _DTYPES[name], importlib.import_module(f"gatestep.kernels._{isa}_{name}").KERNELS)
    return KernelSet(isa, _DTYPES["f32"], importlib.import_module(f"gatestep.kernels.{isa}").KERNELS, name)


@pytest.fixture(scope="session")
def plumbing() -> dict[str, int]:
    """The kernels that every set shares."""
    kernels: dict[str, int] = _plumbing.KERNELS
    return kernels
