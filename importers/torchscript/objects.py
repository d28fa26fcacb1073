"""What is in a TorchScript archive besides code: its version, the tree of objects, the constants."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...engine.errors import ModelFormatError, UnsupportedModelError
from ..archive import Archive
from ..torch_tensors import CALLS, TensorReader, TensorRef, byte_order, storage_ref
from ..unpickle import Calls, Inert, unpickle
from .source import Code

__all__ = ["ScriptArchive"]

#: The versions of the form with `code/`, written since PyTorch 1.4; 10 is what 2.13 writes at most.
VERSIONS = range(2, 11)


def _first(arguments: tuple[Any, ...]) -> object:
    if not arguments:
        raise ValueError("a call without arguments")
    return arguments[0]


#: Lists and dictionaries that say what they hold; devices, which do not matter here.
_TYPED = ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag")
_CALLS: Calls = {
    **CALLS,
    **{f"torch.jit._pickle.{name}": _first for name in _TYPED},
    "torch.device": lambda arguments: str(_first(arguments)),
}


class ScriptArchive:
    """An open archive of ``torch.jit.save``.

    Parameters
    ----------
    archive : Archive

    Attributes
    ----------
    root : Inert
        The module: its class as `kind`, its attributes as `state`; tensors are `TensorRef`.
    constants : tuple
        What the code calls ``CONSTANTS.c0`` and so on.
    code : Code
    """

    def __init__(self, archive: Archive) -> None:
        self.name = archive.name
        entries = archive.entries
        tops = {name.split("/")[0] for name in entries}
        if len(tops) != 1:
            raise ModelFormatError(f"{self.name}: a TorchScript archive of several folders")
        folder = f"{tops.pop()}/"
        if f"{folder}bytecode.pkl" in entries and not any(name.startswith(f"{folder}code/") for name in entries):
            raise self._other("for PyTorch's mobile interpreter: it holds byte code instead of a program")
        if f"{folder}model.json" in entries:
            raise self._other("of a form that PyTorch wrote before 1.4")
        self._check_version(archive, folder)
        total = sum(entry.file_size for entry in entries.values())
        self._readers: dict[str, TensorReader] = {}
        for part in ("data", "constants"):
            reader = TensorReader(self.name, total, _opener(archive, f"{folder}{part}/"))
            reader.order = byte_order(archive, folder)
            self._readers[part] = reader
        self._arrays: dict[TensorRef, np.ndarray] = {}
        self._of_constants: set[TensorRef] = set()
        root = self._unpickled(archive, f"{folder}data.pkl")
        if not isinstance(root, Inert) or not root.kind.startswith("__torch__."):
            raise ModelFormatError(f"{self.name}: a TorchScript archive, but what it holds is no module")
        self.root = root
        constants = self._unpickled(archive, f"{folder}constants.pkl") if f"{folder}constants.pkl" in entries else ()
        if not isinstance(constants, tuple):
            raise ModelFormatError(f"{self.name}: its constants are a {type(constants).__name__}")
        self.constants = constants
        self._of_constants.update(value for value in constants if isinstance(value, TensorRef))
        self.code = Code(archive, folder)

    def array(self, tensor: TensorRef, name: str) -> np.ndarray:
        """The elements of a tensor; `name` is for messages."""
        if tensor not in self._arrays:
            reader = self._readers["constants" if tensor in self._of_constants else "data"]
            self._arrays[tensor] = reader.array(name, tensor)
        return self._arrays[tensor]

    def _other(self, what: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"a TorchScript file {what}",
            source=self.name,
            hint="Save the model with torch.jit.save, with PyTorch 1.4 or newer",
        )

    def _check_version(self, archive: Archive, folder: str) -> None:
        names = [name for name in (f"{folder}version", f"{folder}.data/version") if name in archive.entries]
        if not names:
            raise ModelFormatError(f"{self.name}: a TorchScript archive without a version")
        (name, *_) = names
        version = archive.read(name).strip()
        if not version.isdigit() or len(version) > 9:
            raise ModelFormatError(f"{self.name}: the archive's version is {version[:20]!r}")
        if int(version) not in VERSIONS:
            raise self._other(f"of version {int(version)}; {VERSIONS[0]} to {VERSIONS[-1]} are known")

    def _unpickled(self, archive: Archive, name: str) -> object:
        data = archive.read(name, compressed=True)
        return unpickle(data, source=self.name, calls=_CALLS, persistent=storage_ref)


def _opener(archive: Archive, folder: str) -> Any:
    return lambda storage: archive.read(f"{folder}{storage.key}")
