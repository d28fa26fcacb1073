"""Tensors in PyTorch's pickles: strided views of storages, checked against the bytes that there are.

Such a pickle holds no numbers: a storage is a persistent id, and a tensor a call that names a storage, an offset, a
shape and strides. Here both become descriptions; `TensorReader` makes arrays of them when they are wanted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.errors import ModelFormatError, UnsupportedModelError
from .archive import Archive
from .unpickle import Calls, Global, Inert

__all__ = ["CALLS", "DTYPES", "StorageRef", "TensorReader", "TensorRef", "byte_order", "short", "storage_ref"]

#: NumPy's own limit before version 2.
MAX_NDIM = 32
#: Views that repeat a storage (expanded, overlapping) may not need more than this beyond four times the file.
SPARE_BYTES = 1 << 26

DTYPES = {
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


@dataclass(frozen=True, eq=False)
class StorageRef:
    """`size` counts elements of `dtype`; an untyped storage has no dtype and counts bytes."""

    key: str
    dtype: str | None
    size: int


@dataclass(frozen=True, eq=False)
class TensorRef:
    storage: StorageRef
    dtype: str | None
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


# What the pickle may call. A ValueError becomes a ModelFormatError that names the file and the place.


def _sizes(value: object, what: str) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > MAX_NDIM or not all(type(n) is int and n >= 0 for n in value):
        raise ValueError(f"{what} of a tensor must be up to {MAX_NDIM} sizes")
    return value


def storage_ref(identity: object) -> StorageRef:
    """The persistent id of a storage: ``("storage", type, key, device, number of elements)``."""
    if not isinstance(identity, tuple) or len(identity) != 5 or identity[0] != "storage":
        raise ValueError("a persistent id that is no storage")
    _, kind, key, _, size = identity
    if not isinstance(kind, Global) or not isinstance(key, str) or type(size) is not int or size < 0:
        raise ValueError("a persistent id that is no storage")
    if kind.name == "UntypedStorage":
        return StorageRef(key, None, size)
    return StorageRef(key, _STORAGES.get(kind.name, kind.name), size)


def _tensor(storage: object, offset: object, shape: object, strides: object, dtype: str | None = None) -> TensorRef:
    if not isinstance(storage, StorageRef) or type(offset) is not int or offset < 0:
        raise ValueError("a tensor without a storage")
    sizes, steps = _sizes(shape, "the shape"), _sizes(strides, "the strides")
    if len(sizes) != len(steps):
        raise ValueError(f"a tensor of {len(sizes)} axes with {len(steps)} strides")
    return TensorRef(storage, dtype if dtype is not None else storage.dtype, offset, sizes, steps)


def _at_least(arguments: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    if len(arguments) < count:
        raise ValueError(f"a call with {len(arguments)} arguments instead of {count}")
    return arguments


def _tensor_v2(arguments: tuple[Any, ...]) -> TensorRef:
    return _tensor(*_at_least(arguments, 4)[:4])


def _tensor_v3(arguments: tuple[Any, ...]) -> TensorRef:
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


def _set(arguments: tuple[Any, ...]) -> frozenset[str]:
    """The names in a set; nothing else is wanted of one."""
    (items,) = arguments or ([],)
    return frozenset(item for item in items if isinstance(item, str)) if isinstance(items, list) else frozenset()


CALLS: Calls = {
    "__builtin__.set": _set,
    "builtins.set": _set,
    "collections.OrderedDict": _dict,
    "torch.Size": _parameter,
    "torch._utils._rebuild_tensor": _tensor_v2,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
}


class TensorReader:
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

    def __init__(self, source: str, total: int, read: Callable[[StorageRef], bytes | memoryview]) -> None:
        self.source, self.read = source, read
        self.storages: dict[str, bytes | memoryview] = {}
        self.room = SPARE_BYTES + 4 * total

    def arrays(self, tensors: dict[str, TensorRef]) -> dict[str, np.ndarray]:
        made: dict[tuple[object, ...], np.ndarray] = {}
        arrays = {}
        uses = Counter(tensor.storage.key for tensor in tensors.values())
        for name, tensor in tensors.items():
            same = (tensor.storage.key, tensor.dtype, tensor.offset, tensor.shape, tensor.strides)
            if same not in made:
                made[same] = self.array(name, tensor)
            arrays[name] = made[same]
            uses[tensor.storage.key] -= 1
            if not uses[tensor.storage.key]:  # what was converted need not stay
                self.storages.pop(tensor.storage.key, None)
        return arrays

    def array(self, name: str, tensor: TensorRef) -> np.ndarray:
        code = DTYPES.get(tensor.dtype or "")
        if code is None:
            raise UnsupportedModelError(
                f"{short(name)} has elements of type {short(tensor.dtype or 'unknown')}",
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
            raise ModelFormatError(f"{self.source}: {short(name)} of shape {tensor.shape} reaches beyond its storage")
        self.room -= count * dtype.itemsize
        if self.room < 0:
            raise ModelFormatError(f"{self.source}: the tensors are many times larger than the file")
        # An axis of one element may have any stride; NumPy need not hear of it.
        steps = [0 if n == 1 else step * dtype.itemsize for n, step in zip(tensor.shape, tensor.strides, strict=True)]
        view: np.ndarray = np.ndarray(tensor.shape, dtype, data, tensor.offset * dtype.itemsize, steps)
        return _native(view, tensor.dtype)

    def empty(self, name: str, tensor: TensorRef, dtype: np.dtype[Any]) -> np.ndarray:
        if math.prod(n or 1 for n in tensor.shape) * dtype.itemsize >= 1 << 31:
            raise ModelFormatError(f"{self.source}: {short(name)} has the shape {tensor.shape}")
        return _native(np.empty(tensor.shape, dtype), tensor.dtype)

    def storage(self, name: str, tensor: TensorRef, itemsize: int) -> bytes | memoryview:
        key = tensor.storage.key
        data = self.storages.get(key)
        if data is None:
            data = self.storages[key] = self.read(tensor.storage)
        held = len(data) if tensor.storage.dtype is None else len(data) // itemsize
        if held != tensor.storage.size:
            raise ModelFormatError(
                f"{self.source}: {short(name)} wants a storage of {tensor.storage.size}, there are {held}"
            )
        return data


def _native(view: np.ndarray, dtype: str | None) -> np.ndarray:
    """`view` as a read-only, C-contiguous array of a dtype that NumPy has."""
    # Storages of the older format lie at odd places of the file.
    array = np.require(view, view.dtype.newbyteorder("="), ["C", "ALIGNED"]).reshape(view.shape)
    if dtype == "bfloat16":  # the upper half of a float32
        wide = array.astype(np.uint32)
        wide <<= np.uint32(16)
        array = wide.view(np.float32)
    elif dtype == "bool":
        array = array != 0
    array.flags.writeable = False
    return array


def byte_order(archive: Archive, folder: str) -> str:
    """The byte order of an archive's storages, for NumPy."""
    if f"{folder}byteorder" not in archive.entries:
        return "<"
    order = archive.read(f"{folder}byteorder")
    if order not in (b"little", b"big"):
        raise ModelFormatError(f"{archive.name}: the archive's byte order is {order[:20]!r}")
    return "<" if order == b"little" else ">"
