"""PyTorch's weight files (`.pt`, `.pth`), read without PyTorch and without running what is in them.

Since version 1.6 `torch.save` writes a zip archive: `data.pkl`, a pickle of the saved object in which every storage is
a persistent id, and one uncompressed entry `data/<key>` per storage. A tensor is a strided view of a storage.

Before that it wrote five pickles one after the other: a magic number, the version of the protocol, the machine's byte
order and type sizes, the saved object, the keys of its storages; and then, for each key, a storage: its number of
elements in eight bytes, and the elements. All of that is little-endian, whatever the machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..engine.errors import ModelFormatError, UnsupportedModelError
from ..engine.spec import Spec
from .archive import Archive, Source, opened, source_bytes, source_name
from .kinds import ZIP_MAGIC, is_torchscript
from .torch_modules import is_module, module_spec, module_state
from .torch_tensors import CALLS, DTYPES, StorageRef, TensorReader, TensorRef, byte_order, short, storage_ref
from .unpickle import Inert, unpickle, unpickle_at

__all__ = ["read_checkpoint", "read_tensors", "read_torch"]

#: The newest archive version that PyTorch 2.13 reads.
MAX_VERSION = 10
#: How far nested dictionaries are searched for a state_dict.
MAX_DEPTH = 6
#: Under these names people keep the weights of a checkpoint.
_WEIGHTS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params")
_NOT_WEIGHTS = re.compile(
    r"optimi[sz]er|(?:^|_)optim(?:$|_)|schedul|scaler|callbacks|loops|(?:^|_)rng|_extra_state$", re.IGNORECASE
)
#: The first pickle of the older format, as far as every pickle protocol writes it alike.
_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_HEAD = 32
_PROTOCOL = 1001
_SAVE = "torch.save(model.state_dict(), 'weights.pt')"


def read_torch(source: Source, *, state_dict: str | None = None) -> dict[str, np.ndarray]:
    """The weights in a file of ``torch.save``, without what they belong to; see `read_checkpoint`."""
    return read_checkpoint(source, state_dict=state_dict)[0]


def read_checkpoint(
    source: Source, *, state_dict: str | None = None, described: bool = False
) -> tuple[dict[str, np.ndarray], Spec | None]:
    """The weights in a file that ``torch.save(model.state_dict(), ...)`` wrote, or in a checkpoint.

    Nothing in the file is run, and PyTorch is not needed. Of a pickled module (``torch.save(model, ...)``) the weights
    can be read, but not what it computes with them.

    Parameters
    ----------
    source : path or bytes
    state_dict : str, optional
        Where the weights lie in a checkpoint: ``"ema"``, or ``"nets.encoder"`` for nested dictionaries; ``""`` is the
        top level. Without it, the state_dict is what is called so (or ``model``, ``net``, ...), or the only dictionary
        of tensors apart from an optimizer's.
    described : bool
        Whether it is known what the weights belong to. If not, a pickled module is refused.

    Returns
    -------
    weights : dict of str to numpy.ndarray
        In the file's order. Read-only, C-contiguous; bfloat16 becomes float32, exactly. Names that share a tensor share
        the array.
    spec : Spec or None
        What they belong to, where the file says so: a pickled module of PyTorch's own layers only.

    Raises
    ------
    ModelFormatError
        Damaged or truncated, or sizes that contradict each other.
    UnsupportedModelError
        Not plain tensors (a module of unknown code, TorchScript, `torch.export`), or more than one state_dict to
        choose from.
    OSError
        The file cannot be opened.
    """
    name = source_name(source)
    head = _head(source)
    if head.startswith(b"\x80") and _MAGIC in head:
        return _read_legacy(source, name, state_dict, described)
    _refuse_other_files(head, name)
    with Archive(source) as archive:
        folder = _folder(archive)
        root = unpickle(archive.read(f"{folder}data.pkl"), source=name, calls=CALLS, persistent=storage_ref)
        tensors, spec = _state(root, state_dict, described, name)
        total = sum(entry.file_size for entry in archive.entries.values())
        reader = TensorReader(name, total, lambda storage: archive.read(f"{folder}data/{storage.key}"))
        reader.order = byte_order(archive, folder)
        return reader.arrays(tensors), spec


def read_tensors(data: bytes, name: str) -> dict[str, np.ndarray]:
    """The tensors of a file of `torch.save` that lies within another file: a dictionary of nothing else.

    Parameters
    ----------
    data : bytes
    name : str
        For messages.

    Raises
    ------
    ModelFormatError, UnsupportedModelError
        As for `read_torch`.
    """
    _refuse_other_files(data[:_HEAD], name)
    with Archive(data) as archive:
        archive.name = name
        folder = _folder(archive)
        root = unpickle(archive.read(f"{folder}data.pkl"), source=name, calls=CALLS, persistent=storage_ref)
        if not isinstance(root, dict):
            raise _not_tensors(root, name)
        reader = TensorReader(name, len(data), lambda storage: archive.read(f"{folder}data/{storage.key}"))
        reader.order = byte_order(archive, folder)
        return reader.arrays(_tensors(root, name))


def _head(source: Source) -> bytes:
    with opened(source) as file:
        return file.read(_HEAD)


def _refuse_other_files(head: bytes, name: str) -> None:
    if head[:1] == b"\x80" and not head.startswith(ZIP_MAGIC):
        raise UnsupportedModelError(
            "a plain pickle, not a file of torch.save", source=name, hint=f"Save the weights with {_SAVE}"
        )
    if not head.startswith(ZIP_MAGIC):
        raise ModelFormatError(f"{name}: not a file of torch.save: it does not begin like a zip archive")


def _folder(archive: Archive) -> str:
    """The folder within the archive that everything lies in, its slash included."""
    tops = {name.split("/")[0] for name in archive.entries}
    folder = f"{tops.pop()}/" if len(tops) == 1 else ""
    has = archive.entries.__contains__
    if is_torchscript(archive.entries):
        raise UnsupportedModelError(
            "a TorchScript archive: it holds a program, not only weights",
            source=archive.name,
            hint="Load it without spec= and state_dict=: it describes itself",
        )
    if has(f"{folder}archive_format") or has(f"{folder}models/model.json") or has("serialized_exported_program.json"):
        raise UnsupportedModelError(
            "an archive of torch.export: it holds a program, not only weights",
            source=archive.name,
            hint="Save its weights where PyTorch is installed: "
            "torch.save(torch.export.load(path).state_dict, 'weights.pt'), and load them with spec=",
        )
    if not has(f"{folder}data.pkl"):
        raise ModelFormatError(f"{archive.name}: a zip archive, but not one of torch.save: it has no data.pkl")
    if has(f"{folder}version"):
        version = archive.read(f"{folder}version").strip()
        if not version.isdigit() or len(version) > 9:
            raise ModelFormatError(f"{archive.name}: the archive's version is {version[:20]!r}")
        if int(version) > MAX_VERSION:
            raise UnsupportedModelError(
                f"version {int(version)} of PyTorch's file format; {MAX_VERSION} is the newest known",
                source=archive.name,
            )
    return folder


# Which of the dictionaries is meant


def _is_state_dict(value: object) -> bool:
    return isinstance(value, dict) and any(isinstance(k, str) and isinstance(v, TensorRef) for k, v in value.items())


def _candidates(root: dict[Any, Any]) -> Iterator[tuple[tuple[str, ...], dict[Any, Any]]]:
    """Every dictionary with tensors in it, outermost first, apart from optimizers' and the like; with its path."""
    level: list[tuple[tuple[str, ...], dict[Any, Any]]] = [((), root)]
    seen: set[int] = set()
    for _ in range(MAX_DEPTH):
        deeper = []
        for path, mapping in level:
            if id(mapping) in seen:
                continue
            seen.add(id(mapping))
            if _is_state_dict(mapping):
                yield path, mapping
            deeper += [
                ((*path, key), value)
                for key, value in mapping.items()
                if isinstance(key, str) and isinstance(value, dict) and not _NOT_WEIGHTS.search(key)
            ]
        level = deeper


def _state(root: object, wanted: str | None, described: bool, source: str) -> tuple[dict[str, TensorRef], Spec | None]:
    """The tensors that are meant, and what they belong to if the file says so."""
    if isinstance(root, Inert) and is_module(root) and wanted is None:
        tensors, spec = module_state(root, source), module_spec(root)
        if spec is None and not described:
            raise _not_tensors(root, source)
        return tensors, spec
    if described and isinstance(root, dict):
        root = {
            key: module_state(value, source) if isinstance(value, Inert) and is_module(value) else value
            for key, value in root.items()
        }
    return _tensors(_choose(root, wanted, source), source), None


def _choose(root: object, wanted: str | None, source: str) -> dict[Any, Any]:
    if not isinstance(root, dict):
        raise _not_tensors(root, source)
    if wanted is not None:
        return _at_path(root, wanted, source)
    found = dict(_candidates(root))
    named = {path: mapping for path, mapping in found.items() if path and path[-1] in _WEIGHTS}
    for choice in (named, found):
        if len(choice) == 1:
            return next(iter(choice.values()))
    if found:
        listed = ", ".join(f"{short('.'.join(path))} ({len(found[path])} keys)" for path in list(found)[:8])
        raise UnsupportedModelError(
            f"{len(found)} dictionaries of tensors to choose from: {listed}",
            source=source,
            hint=f"Choose one: state_dict={'.'.join(next(iter(named or found)))[:80]!r}",
        )
    for value in root.values():
        if isinstance(value, Inert):
            raise _not_tensors(value, source)
    raise UnsupportedModelError(
        f"no tensors in it, only {_keys(root)}", source=source, hint=f"Save the weights with {_SAVE}"
    )


def _at_path(root: dict[Any, Any], wanted: str, source: str) -> dict[Any, Any]:
    """Follow a dotted path; names may themselves hold dots, so the longest that fits goes first."""
    value: object = root
    rest = wanted.split(".") if wanted else []
    while rest and isinstance(value, dict):
        for count in range(len(rest), 0, -1):
            if ".".join(rest[:count]) in value:
                value, rest = value[".".join(rest[:count])], rest[count:]
                break
        else:
            break
    if rest or not isinstance(value, dict) or not _is_state_dict(value):
        held = _keys(value) if isinstance(value, dict) else type(value).__name__
        raise UnsupportedModelError(
            "no dictionary of tensors there" if not rest else f"nothing is called {'.'.join(rest)[:80]!r} there",
            source=source,
            attribute="state_dict",
            value=wanted,
            hint=f"There is {held}",
        )
    return value


def _not_tensors(value: object, source: str) -> UnsupportedModelError:
    if isinstance(value, Inert) and is_module(value):
        return UnsupportedModelError(
            f"it holds a pickled module, {short(value.kind)}; what that computes is code that is not in the file, and "
            "loading it would run code; nothing was run",
            source=source,
            hint=f"Say with spec= what its weights belong to (of this file, or of {_SAVE}); or export the model where "
            "that class can be imported: torch.export.save, torch.jit.save or torch.onnx.export",
        )
    if isinstance(value, Inert):
        return UnsupportedModelError(
            f"it holds a pickled object, {short(value.kind)}, whose code is not in the file; nothing was run",
            source=source,
            hint=f"Save only the weights, where that class can be imported: {_SAVE}",
        )
    what = "a single tensor" if isinstance(value, TensorRef) else f"a {type(value).__name__}"
    return UnsupportedModelError(
        f"it holds {what}, not a dictionary of tensors", source=source, hint=f"Save the weights with {_SAVE}"
    )


def _tensors(state: dict[Any, Any], source: str) -> dict[str, TensorRef]:
    """The tensors of a state_dict; numbers, strings and dictionaries beside them are no weights and are passed over."""
    tensors: dict[str, TensorRef] = {}
    for key, value in state.items():
        if isinstance(key, str) and isinstance(value, TensorRef):
            tensors[key] = value
        elif isinstance(value, Inert) and not str(key).endswith("_extra_state"):
            raise UnsupportedModelError(
                f"{short(str(key))} is no plain tensor but made by {short(value.kind)}; nothing was run",
                source=source,
                hint=f"Save only dense tensors: {_SAVE}",
            )
    return tensors


def _keys(mapping: dict[Any, Any]) -> str:
    names = [short(str(key)) for key in list(mapping)[:8]]
    return f"the keys {', '.join(names)}{', ...' if len(mapping) > 8 else ''}" if names else "an empty dictionary"


# The format before 1.6


def _read_legacy(
    source: Source, name: str, state_dict: str | None, described: bool
) -> tuple[dict[str, np.ndarray], Spec | None]:
    data = source_bytes(source)
    seen: dict[str, StorageRef] = {}

    def persistent(identity: object) -> object:
        if isinstance(identity, tuple) and len(identity) == 4 and identity[0] == "module":
            return identity[1]  # a class, with its source beside it
        if not isinstance(identity, tuple) or len(identity) != 6:
            raise ValueError("a persistent id that is no storage")
        if identity[5] is not None:
            raise UnsupportedModelError("a storage that is a view of another, as PyTorch wrote before 0.4", source=name)
        storage = storage_ref(identity[:5])
        seen.setdefault(storage.key, storage)
        return storage

    def value(at: int) -> tuple[object, int]:
        return unpickle_at(data, at, source=name, calls=CALLS, persistent=persistent)

    _, at = value(0)
    protocol, at = value(at)
    if protocol != _PROTOCOL:
        raise UnsupportedModelError(f"a version of PyTorch's older file format other than {_PROTOCOL}", source=name)
    machine, at = value(at)
    if not isinstance(machine, dict):
        raise ModelFormatError(f"{name}: a {type(machine).__name__} where the machine is described")
    root, at = value(at)
    keys, at = value(at)
    tensors, spec = _state(root, state_dict, described, name)
    storages = _legacy_storages(data, at, keys, seen, name)

    def read(storage: StorageRef) -> memoryview:
        if storage.key not in storages:
            raise ModelFormatError(f"{name}: no storage {short(storage.key)} in it")
        return storages[storage.key]

    return TensorReader(name, len(data), read).arrays(tensors), spec


def _legacy_storages(
    data: bytes, at: int, keys: object, seen: dict[str, StorageRef], name: str
) -> dict[str, memoryview]:
    """Where each storage lies; their order and sizes are all that says so."""
    if not isinstance(keys, list):
        raise ModelFormatError(f"{name}: a {type(keys).__name__} where the keys of the storages are listed")
    whole, found = memoryview(data), dict[str, memoryview]()
    for key in keys:
        storage = seen.get(key) if isinstance(key, str) else None
        if storage is None or storage.key in found:
            raise ModelFormatError(f"{name}: the list of storages has one that nothing uses, or one twice")
        code = "u1" if storage.dtype is None else DTYPES.get(storage.dtype)
        if code is None:
            raise UnsupportedModelError(
                f"it has a storage of type {short(str(storage.dtype))}",
                source=name,
                hint="Convert it before saving: model.float()",
            )
        size = storage.size * np.dtype(code).itemsize
        if len(data) - at - 8 < size or int.from_bytes(data[at : at + 8], "little") != storage.size:
            raise ModelFormatError(
                f"{name}: a storage of {storage.size} elements is announced at byte {at} and is not there"
            )
        found[storage.key] = whole[at + 8 : at + 8 + size]
        at += 8 + size
    return found
