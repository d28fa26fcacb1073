"""Python values as JSON, so that they come back as exactly what they were.

JSON has no tuples, no element types, no infinities, and no keys but text. Here ``null``, booleans, whole numbers, text
and finite floats (as the shortest decimal that reads back to the same bits) stand for themselves, and an array for a
tuple; everything else is an object with one key that says what it is:

=================================== ==================================================
``{"float": "inf"}``                a float that is not finite: ``inf``, ``-inf``, ``nan``
``{"list": [...]}``                 a list
``{"set": [...]}``                  a frozen set, in the order of its elements' JSON
``{"map": [[key, value], ...]}``    a dictionary
``{"dtype": "<f4"}``                an element type
``{"array": 3}``                    array 3 of the file, 0-d for a NumPy scalar
``{"graph": 0}``                    graph 0 of the file: a body
``{"axes": {...}}``                 `Axes`, by its fields
``{"memories": {...}}``             `Memories`, by its fields
``{"error": {...}}``                one of our errors: its class, what it says, and what it names
=================================== ==================================================

Nothing in it names a class or a function to call, and `conforms` holds what comes back to the annotation of its place.
"""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine import errors
from ..engine.errors import GatestepError, ModelFormatError, UnsupportedModelError
from ..engine.graph import Graph
from ..engine.record import Record
from ..engine.streaming.layout import Axes
from ..engine.streaming.memories import Memories

__all__ = ["DTYPES", "MOST_DEPTH", "conforms", "dtype_named", "pack_value", "unpack_value"]

#: Element types that a file may name.
DTYPES = {
    text: np.dtype(text)
    for text in ("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8")
}
#: Records that a value may be, which come back by their fields.
RECORDS: dict[str, type[Record]] = {"axes": Axes, "memories": Memories}
#: Values inside values; deeper nesting no model has for good reasons.
MOST_DEPTH = 16
_LIMIT = 1 << 63
_ERRORS = ("ModelFormatError", "ShapeError", "UnsupportedModelError")
_FIELDS = ("reason", "node", "attribute", "value", "hint")


def dtype_name(dtype: np.dtype[Any]) -> str:
    """The name of an element type in a file: little-endian, with a size."""
    text: str = dtype.newbyteorder("<").str
    if text not in DTYPES:
        raise UnsupportedModelError(f"elements of type {dtype} have no place in a .gatestep file")
    return text


def dtype_named(text: Any) -> np.dtype[Any]:
    """The element type of that name."""
    if not isinstance(text, str) or text not in DTYPES:
        raise ModelFormatError(f"no element type {text!r}"[:120])
    return DTYPES[text]


def pack_value(value: Any, array: Callable[[np.ndarray], int], graph: Callable[[Graph], int], source: str = "") -> Any:
    """`value` as JSON has it.

    Parameters
    ----------
    value : Any
    array, graph : callable
        Give arrays and graphs their numbers in the file.
    source : str
        The name that errors begin with, which the file does not keep.
    """

    def pack(value: Any) -> Any:
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"float": repr(float(value))}
        if isinstance(value, np.generic):
            return {"array": array(np.asarray(value))}
        for name, kind in RECORDS.items():
            if isinstance(value, kind):
                return {name: {field: pack(getattr(value, field)) for field in kind.__annotations__}}
        if isinstance(value, tuple):
            return [pack(item) for item in value]
        if isinstance(value, list):
            return {"list": [pack(item) for item in value]}
        if isinstance(value, (set, frozenset)):
            return {"set": sorted((pack(item) for item in value), key=json.dumps)}
        if isinstance(value, dict):
            return {"map": [[pack(key), pack(item)] for key, item in value.items()]}
        if isinstance(value, np.dtype):
            return {"dtype": dtype_name(value)}
        if isinstance(value, np.ndarray):
            return {"array": array(value)}
        if isinstance(value, Graph):
            return {"graph": graph(value)}
        if isinstance(value, GatestepError):
            return {"error": error(value)}
        raise UnsupportedModelError(f"a {type(value).__name__} has no place in a .gatestep file")

    def error(value: GatestepError) -> dict[str, Any]:
        name = type(value).__name__
        known = name if name in _ERRORS else "ModelFormatError"
        if isinstance(value, UnsupportedModelError):
            shown = {name: getattr(value, name) for name in _FIELDS}
            if not isinstance(shown["value"], (type(None), bool, int, float, str, tuple)):
                shown["value"] = repr(shown["value"])
            return {"class": known, **{field: pack(item) for field, item in shown.items() if item is not None}}
        return {"class": known, "reason": str(value).removeprefix(f"{source}: ")}

    return pack(value)


def unpack_value(data: Any, array: Callable[[Any], np.ndarray], graph: Callable[[Any], Graph], source: str) -> Any:
    """What `pack_value` made `data` of.

    Raises
    ------
    ModelFormatError
        It is no such thing.
    """

    def unpack(data: Any, depth: int) -> Any:
        if data is None or isinstance(data, (bool, str)):
            return data
        if isinstance(data, int):
            if not -_LIMIT <= data < 2 * _LIMIT:
                raise ModelFormatError("a number of more than 64 bits")
            return data
        if isinstance(data, float):
            return data
        if depth == MOST_DEPTH:
            raise ModelFormatError(f"values inside values, {MOST_DEPTH} deep")
        if isinstance(data, list):
            return tuple(unpack(item, depth + 1) for item in data)
        if not isinstance(data, dict) or len(data) != 1:
            raise ModelFormatError("an object that says more than one thing, or nothing")
        ((kind, inner),) = data.items()
        if kind in ("list", "set", "map") and isinstance(inner, list):
            items = [unpack(item, depth + 1) for item in inner]
            return list(items) if kind == "list" else frozenset(items) if kind == "set" else mapping(items)
        if kind == "float" and inner in ("inf", "-inf", "nan"):
            return float(inner)
        if kind == "dtype":
            return dtype_named(inner)
        if kind == "array":
            return array(inner)
        if kind == "graph":
            return graph(inner)
        if kind in RECORDS and isinstance(inner, dict):
            return record(RECORDS[kind], {name: unpack(item, depth + 1) for name, item in inner.items()})
        if kind == "error" and isinstance(inner, dict):
            return error({name: unpack(item, depth + 1) for name, item in inner.items()})
        raise ModelFormatError(f"no value {kind[:40]!r}")

    def mapping(items: list[Any]) -> dict[Any, Any]:
        if any(not isinstance(item, tuple) or len(item) != 2 for item in items):
            raise ModelFormatError("a map with an entry that is no pair")
        return dict(items)

    def error(fields: dict[str, Any]) -> GatestepError:
        name, reason = fields.pop("class", None), fields.pop("reason", None)
        texts = all(isinstance(item, str) for key, item in fields.items() if key != "value")
        if name not in _ERRORS or not isinstance(reason, str) or not texts or not fields.keys() <= set(_FIELDS):
            raise ModelFormatError("an error that is none of ours")
        if name == "UnsupportedModelError":
            return UnsupportedModelError(reason, source=source, **fields)
        made: GatestepError = getattr(errors, name)(f"{source}: {reason}")
        return made

    try:
        return unpack(data, 0)
    except TypeError as unhashable:  # a list as a key or in a set
        raise ModelFormatError(f"a value that cannot be where it is ({unhashable})") from unhashable


def record(kind: type[Record], fields: dict[str, Any]) -> Any:
    """A record from its fields, each held to its annotation."""
    hints = kind.__annotations__
    if fields.keys() != hints.keys():
        odd = sorted(fields.keys() ^ hints.keys())
        raise ModelFormatError(f"{kind.__name__} with other fields: {', '.join(map(repr, odd))}"[:200])
    for name, value in fields.items():
        if not conforms(value, hints[name]):
            raise ModelFormatError(f"{kind.__name__}.{name} of another type")
    return kind.of(fields)


def conforms(value: Any, hint: Any) -> bool:
    """Whether `value` is what an annotation says."""
    if hint is Any:
        return True
    if hint is None or hint is type(None):
        return value is None
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(conforms(value, arg) for arg in args)
    if origin is np.dtype or hint is np.dtype:
        return isinstance(value, np.dtype)
    if origin is np.ndarray:
        return isinstance(value, np.ndarray)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(args) == 2 and args[1] is Ellipsis:
            return all(conforms(item, args[0]) for item in value)
        return len(value) == len(args) and all(map(conforms, value, args))
    if origin in (list, frozenset):
        return isinstance(value, origin) and all(conforms(item, args[0]) for item in value)
    if origin is dict:
        if not isinstance(value, dict):
            return False
        return all(conforms(key, args[0]) and conforms(item, args[1]) for key, item in value.items())
    if origin is typing.Literal:
        return isinstance(value, str) and value in args
    if hint in (int, float):
        return type(value) is hint
    return isinstance(value, hint)
