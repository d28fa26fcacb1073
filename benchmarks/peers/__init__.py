"""Who else can run the same net, and how does each do it fastest?

Every contender reads its input from `feed` and leaves its result in `result`, so that none pays for a copy that its own
interface does not ask for. A peer takes part if it can be imported, and only after its results have been found equal.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterable, Mapping
from dataclasses import replace

from ..cells import Case
from .contender import Absent, Contender, Make
from .gatestep import ours
from .litert import litert
from .numpy import numpy
from .onnxruntime import onnxruntime
from .openvino import openvino
from .torch import torch, torch_compiled

__all__ = ["DEFAULT", "OURS", "PEERS", "Absent", "Contender", "available", "contenders", "ours"]

OURS = "gatestep"
#: Peers by name.
PEERS: dict[str, Make] = {
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "litert": litert,
    "torch": torch,
    "torch-compiled": torch_compiled,
    "numpy": numpy,
}
#: Those that take part unless others are asked for: all that need no minutes to get ready.
DEFAULT = tuple(name for name in PEERS if name != "torch-compiled")
#: Where the package has another name than the peer: what is imported, and what is installed.
_PACKAGES = {"litert": ("ai_edge_litert.interpreter", "ai-edge-litert"), "torch-compiled": ("torch", "torch")}
#: Extras of gatestep that bring a peer, where it is not "bench".
_EXTRAS = {"torch": "torch", "torch-compiled": "torch"}


def available(names: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Versions of the peers that are installed, and why each of the others is skipped."""
    versions, skipped = {}, {}
    for name in names:
        module, package = _PACKAGES.get(name, (name, name))
        try:
            importlib.import_module(module)
            versions[name] = importlib.metadata.version(package)
        except ImportError as error:
            extra = _EXTRAS.get(name, "bench")
            skipped[name] = f"cannot be imported ({error}); pip install 'gatestep[{extra}]' brings it"
    return versions, skipped


def contenders(case: Case, names: Iterable[str]) -> tuple[Mapping[str, Contender], Mapping[str, str]]:
    """Ours and those of `names` that can run this case, and why the others cannot.

    With less than float32, or more than one thread, what we are without that takes part as well.
    """
    made, absent = {OURS: ours(case)}, {}
    if case.reduced:
        made[f"{OURS} float32"] = ours(replace(case, precision="float32"))
    if case.threads > 1:
        made[f"{OURS} 1 thread"] = ours(replace(case, threads=1))
    for name in names:
        try:
            made[name] = PEERS[name](case)
        except Absent as reason:
            absent[name] = str(reason)
    return made, absent
