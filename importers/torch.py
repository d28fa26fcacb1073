"""PyTorch's weight files (`.pt`, `.pth`), read without PyTorch and without running what is in them.

Since version 1.6 `torch.save` writes a zip archive: `data.pkl`, a pickle of the saved object in which every storage is
a persistent id, and one uncompressed entry `data/<key>` per storage. A tensor is a strided view of a storage.

Before that it wrote five pickles one after the other: a magic number, the version of the protocol, the machine's byte
order and type sizes, the saved object, the keys of its storages; and then, for each key, a storage: its number of
elements in eight bytes, and the elements. All of that is little-endian, whatever the machine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.errors import ModelFormatError, UnsupportedModelError
from .archive import ZIP_MAGIC, Archive, Source, source_name
from .unpickle import Calls, Global, Inert, unpickle, unpickle_at

__all__ = ["is_legacy_tar", "read_torch"]

#: NumPy's own limit before version 2.
MAX_NDIM = 32
#: The newest archive version that PyTorch 2.13 reads.
MAX_VERSION = 10
#: How far nested dictionaries are searched for a state_dict.
MAX_DEPTH = 6
#: Views that repeat a storage (expanded, overlapping) may not need more than this beyond four times the file.
SPARE_BYTES = 1 << 26

_DTYPES = {
    "float64": "f8",
    "float32": "f4",
    "float16": "f2",
    "bfloat16": "u2",
    "int64": "i8",
    "int32": "i4",
    "int16": "i2",
    "int8": "i1",
    "uint64": "u8",
    "uint32": "u4",
    "uint16": "u2",
    "uint8": "u1",
    "bool": "u1",
}
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
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


@dataclass(frozen=True, eq=False)
class _Storage:
    """`size` counts elements of `dtype`; an untyped storage has no dtype and counts bytes."""

    key: str
    dtype: str | None
    size: int


@dataclass(frozen=True, eq=False)
class _Tensor:
    storage: _Storage
    dtype: str | None
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch(source: Source, *, state_dict: str | None = None) -> dict[str, np.ndarray]:
    """The weights in a file that ``torch.save(model.state_dict(), ...)`` wrote, or in a checkpoint.

    Nothing in the file is run, and PyTorch is not needed.

    Parameters
    ----------
    source : path or bytes
    state_dict : str, optional
        Where the weights lie in a checkpoint: ``"ema"``, or ``"nets.encoder"`` for nested dictionaries; ``""`` is the
        top level. Without it, the state_dict is what is called so (or ``model``, ``net``, ...), or the only dictionary
        of tensors apart from an optimizer's.

    Returns
    -------
    dict of str to numpy.ndarray
        In the file's order. Read-only, C-contiguous; bfloat16 becomes float32, exactly. Names that share a tensor share
        the array.

    Raises
    ------
    ModelFormatError
        Damaged or truncated, or sizes that contradict each other.
    UnsupportedModelError
        Not plain tensors (a pickled module, TorchScript, `torch.export`), or more than one state_dict to choose from.
    OSError
        The file cannot be opened.
    """
    name = source_name(source)
    head = _head(source)
    if head.startswith(b"\x80") and _MAGIC in head:
        return _read_legacy(source, name, state_dict)
    _refuse_other_files(head, name)
    with Archive(source) as archive:
        folder = _folder(archive)
        root = unpickle(archive.read(f"{folder}data.pkl"), source=name, calls=_CALLS, persistent=_storage)
        tensors = _tensors(_choose(root, state_dict, name), name)
        total = sum(entry.file_size for entry in archive.entries.values())
        reader = _Reader(name, total, lambda storage: archive.read(f"{folder}data/{storage.key}"))
        reader.order = _byte_order(archive, folder)
        return reader.arrays(tensors)


def _head(source: Source) -> bytes:
    if isinstance(source, bytes):
        return source[:_HEAD]
    with open(source, "rb") as file:
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
    if has(f"{folder}constants.pkl") or any(name.startswith(f"{folder}code/") for name in archive.entries):
        raise UnsupportedModelError(
            "a TorchScript archive: it holds a program, not only weights",
            source=archive.name,
            hint="Save its weights where PyTorch is installed: "
            "torch.save(torch.jit.load(path).state_dict(), 'weights.pt'), and load them with spec=",
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


# What the pickle may call. A ValueError becomes a ModelFormatError that names the file and the place.


def _sizes(value: object, what: str) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > MAX_NDIM or not all(type(n) is int and n >= 0 for n in value):
        raise ValueError(f"{what} of a tensor must be up to {MAX_NDIM} sizes")
    return value


def _storage(identity: object) -> _Storage:
    """The persistent id of a storage: ``("storage", type, key, device, number of elements)``."""
    if not isinstance(identity, tuple) or len(identity) != 5 or identity[0] != "storage":
        raise ValueError("a persistent id that is no storage")
    _, kind, key, _, size = identity
    if not isinstance(kind, Global) or not isinstance(key, str) or type(size) is not int or size < 0:
        raise ValueError("a persistent id that is no storage")
    if kind.name == "UntypedStorage":
        return _Storage(key, None, size)
    return _Storage(key, _STORAGES.get(kind.name, kind.name), size)


def _tensor(storage: object, offset: object, shape: object, strides: object, dtype: str | None = None) -> _Tensor:
    if not isinstance(storage, _Storage) or type(offset) is not int or offset < 0:
        raise ValueError("a tensor without a storage")
    sizes, steps = _sizes(shape, "the shape"), _sizes(strides, "the strides")
    if len(sizes) != len(steps):
        raise ValueError(f"a tensor of {len(sizes)} axes with {len(steps)} strides")
    return _Tensor(storage, dtype if dtype is not None else storage.dtype, offset, sizes, steps)


def _at_least(arguments: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    if len(arguments) < count:
        raise ValueError(f"a call with {len(arguments)} arguments instead of {count}")
    return arguments


def _tensor_v2(arguments: tuple[Any, ...]) -> _Tensor:
    return _tensor(*_at_least(arguments, 4)[:4])


def _tensor_v3(arguments: tuple[Any, ...]) -> _Tensor:
    """A dtype without a storage type of its own: ``(storage, offset, shape, strides, _, _, dtype)``."""
    storage, offset, shape, strides, _, _, dtype = _at_least(arguments, 7)[:7]
    if not isinstance(dtype, Global):
        raise ValueError("a tensor without a dtype")
    return _tensor(storage, offset, shape, strides, dtype.name)


def _parameter(arguments: tuple[Any, ...]) -> object:
    return _at_least(arguments, 1)[0]


def _from_type(arguments: tuple[Any, ...]) -> object:
    """A tensor of a Python subclass: ``(function, type, its arguments, attributes)``."""
    function, _, inner = _at_least(arguments, 3)[:3]
    plain = {"torch._utils._rebuild_tensor_v2": _tensor_v2, "torch._utils._rebuild_tensor_v3": _tensor_v3}
    if not isinstance(inner, tuple) or str(function) not in plain:
        return Inert(str(function) if isinstance(function, Global) else "a tensor subclass")
    return plain[str(function)](inner)


def _dict(arguments: tuple[Any, ...]) -> dict[object, object]:
    if arguments:
        raise ValueError("an OrderedDict with arguments")
    return {}


_CALLS: Calls = {
    "collections.OrderedDict": _dict,
    "torch.Size": _parameter,
    "torch._utils._rebuild_tensor": _tensor_v2,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
}


# Which of the dictionaries is meant


def _is_state_dict(value: object) -> bool:
    return isinstance(value, dict) and any(isinstance(k, str) and isinstance(v, _Tensor) for k, v in value.items())


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
        listed = ", ".join(f"{_short('.'.join(path))} ({len(found[path])} keys)" for path in list(found)[:8])
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
    if isinstance(value, Inert):
        return UnsupportedModelError(
            f"it holds a pickled object, {_short(value.kind)}, whose code is not in the file; nothing was run",
            source=source,
            hint=f"Save only the weights, where that class can be imported: {_SAVE}",
        )
    what = "a single tensor" if isinstance(value, _Tensor) else f"a {type(value).__name__}"
    return UnsupportedModelError(
        f"it holds {what}, not a dictionary of tensors", source=source, hint=f"Save the weights with {_SAVE}"
    )


def _tensors(state: dict[Any, Any], source: str) -> dict[str, _Tensor]:
    """The tensors of a state_dict; numbers, strings and dictionaries beside them are no weights and are passed over."""
    tensors: dict[str, _Tensor] = {}
    for key, value in state.items():
        if isinstance(key, str) and isinstance(value, _Tensor):
            tensors[key] = value
        elif isinstance(value, Inert) and not str(key).endswith("_extra_state"):
            raise UnsupportedModelError(
                f"{_short(str(key))} is no plain tensor but made by {_short(value.kind)}; nothing was run",
                source=source,
                hint=f"Save only dense tensors: {_SAVE}",
            )
    return tensors


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def _keys(mapping: dict[Any, Any]) -> str:
    names = [_short(str(key)) for key in list(mapping)[:8]]
    return f"the keys {', '.join(names)}{', ...' if len(mapping) > 8 else ''}" if names else "an empty dictionary"


# Tensors to arrays


def _byte_order(archive: Archive, folder: str) -> str:
    if f"{folder}byteorder" not in archive.entries:
        return "<"
    order = archive.read(f"{folder}byteorder")
    if order not in (b"little", b"big"):
        raise ModelFormatError(f"{archive.name}: the archive's byte order is {order[:20]!r}")
    return "<" if order == b"little" else ">"


class _Reader:
    """Reads each storage once, when a tensor needs it.

    Parameters
    ----------
    source : str
        For messages.
    total : int
        Size of the file.
    read : function
        Gives the bytes of a storage.
    """

    order = "<"

    def __init__(self, source: str, total: int, read: Callable[[_Storage], bytes | memoryview]) -> None:
        self.source, self.read = source, read
        self.storages: dict[str, bytes | memoryview] = {}
        self.room = SPARE_BYTES + 4 * total

    def arrays(self, tensors: dict[str, _Tensor]) -> dict[str, np.ndarray]:
        made: dict[tuple[object, ...], np.ndarray] = {}
        arrays = {}
        for name, tensor in tensors.items():
            same = (tensor.storage.key, tensor.dtype, tensor.offset, tensor.shape, tensor.strides)
            if same not in made:
                made[same] = self.array(name, tensor)
            arrays[name] = made[same]
        return arrays

    def array(self, name: str, tensor: _Tensor) -> np.ndarray:
        code = _DTYPES.get(tensor.dtype or "")
        if code is None:
            raise UnsupportedModelError(
                f"{_short(name)} has elements of type {_short(tensor.dtype or 'unknown')}",
                source=self.source,
                hint="Convert it before saving: model.float()",
            )
        dtype = np.dtype(self.order + code)
        data = self.storage(name, tensor, dtype.itemsize)
        # The products are Python integers: no size in the file can make them wrap.
        count = math.prod(tensor.shape)
        if count == 0:
            return self.empty(name, tensor, dtype)
        last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
        if (last + 1) * dtype.itemsize > len(data):
            raise ModelFormatError(f"{self.source}: {_short(name)} of shape {tensor.shape} reaches beyond its storage")
        self.room -= count * dtype.itemsize
        if self.room < 0:
            raise ModelFormatError(f"{self.source}: the tensors are many times larger than the file")
        # An axis of one element may have any stride; NumPy need not hear of it.
        steps = [0 if n == 1 else step * dtype.itemsize for n, step in zip(tensor.shape, tensor.strides, strict=True)]
        view: np.ndarray = np.ndarray(tensor.shape, dtype, data, tensor.offset * dtype.itemsize, steps)
        return _native(view, tensor.dtype)

    def empty(self, name: str, tensor: _Tensor, dtype: np.dtype[Any]) -> np.ndarray:
        if math.prod(n or 1 for n in tensor.shape) * dtype.itemsize >= 1 << 31:
            raise ModelFormatError(f"{self.source}: {_short(name)} has the shape {tensor.shape}")
        return _native(np.empty(tensor.shape, dtype), tensor.dtype)

    def storage(self, name: str, tensor: _Tensor, itemsize: int) -> bytes | memoryview:
        key = tensor.storage.key
        data = self.storages.get(key)
        if data is None:
            data = self.storages[key] = self.read(tensor.storage)
        held = len(data) if tensor.storage.dtype is None else len(data) // itemsize
        if held != tensor.storage.size:
            raise ModelFormatError(
                f"{self.source}: {_short(name)} wants a storage of {tensor.storage.size}, there are {held}"
            )
        return data


def _native(view: np.ndarray, dtype: str | None) -> np.ndarray:
    """`view` as a read-only, C-contiguous array of a dtype that NumPy has."""
    # Storages of the older format lie at odd places of the file.
    array = np.require(view, view.dtype.newbyteorder("="), ["C", "ALIGNED"]).reshape(view.shape)
    if dtype == "bfloat16":  # the upper half of a float32
        array = (array.astype(np.uint32) << 16).view(np.float32)
    elif dtype == "bool":
        array = array != 0
    array.flags.writeable = False
    return array


# The format before 1.6


def is_legacy_tar(head: bytes) -> bool:
    """Whether a file that begins with `head` (262 bytes or more) is a tar archive, as PyTorch wrote before 0.1.10."""
    return head[257:262] == b"ustar"


def _read_legacy(source: Source, name: str, state_dict: str | None) -> dict[str, np.ndarray]:
    if isinstance(source, bytes):
        data = source
    else:
        with open(source, "rb") as file:
            data = file.read()
    seen: dict[str, _Storage] = {}

    def persistent(identity: object) -> object:
        if isinstance(identity, tuple) and len(identity) == 4 and identity[0] == "module":
            return identity[1]  # a class, with its source beside it
        if not isinstance(identity, tuple) or len(identity) != 6:
            raise ValueError("a persistent id that is no storage")
        if identity[5] is not None:
            raise UnsupportedModelError("a storage that is a view of another, as PyTorch wrote before 0.4", source=name)
        storage = _storage(identity[:5])
        seen.setdefault(storage.key, storage)
        return storage

    def value(at: int) -> tuple[object, int]:
        return unpickle_at(data, at, source=name, calls=_CALLS, persistent=persistent)

    _, at = value(0)
    protocol, at = value(at)
    if protocol != _PROTOCOL:
        raise UnsupportedModelError(f"a version of PyTorch's older file format other than {_PROTOCOL}", source=name)
    machine, at = value(at)
    if not isinstance(machine, dict):
        raise ModelFormatError(f"{name}: a {type(machine).__name__} where the machine is described")
    root, at = value(at)
    keys, at = value(at)
    tensors = _tensors(_choose(root, state_dict, name), name)
    storages = _legacy_storages(data, at, keys, seen, name)

    def read(storage: _Storage) -> memoryview:
        if storage.key not in storages:
            raise ModelFormatError(f"{name}: no storage {_short(storage.key)} in it")
        return storages[storage.key]

    return _Reader(name, len(data), read).arrays(tensors)


def _legacy_storages(data: bytes, at: int, keys: object, seen: dict[str, _Storage], name: str) -> dict[str, memoryview]:
    """Where each storage lies; their order and sizes are all that says so."""
    if not isinstance(keys, list):
        raise ModelFormatError(f"{name}: a {type(keys).__name__} where the keys of the storages are listed")
    whole, found = memoryview(data), dict[str, memoryview]()
    for key in keys:
        storage = seen.get(key) if isinstance(key, str) else None
        if storage is None or storage.key in found:
            raise ModelFormatError(f"{name}: the list of storages has one that nothing uses, or one twice")
        code = "u1" if storage.dtype is None else _DTYPES.get(storage.dtype)
        if code is None:
            raise UnsupportedModelError(
                f"it has a storage of type {_short(str(storage.dtype))}",
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
