"""Operators of TorchScript on what is known: numbers, strings, lists, dictionaries."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["ARITHMETIC", "PLAIN", "key"]

#: Elements of a list or string that the program makes.
MOST_ELEMENTS = 1 << 16
#: Sizes and integers beyond are no sizes of anything.
MOST_BITS = 128


def key(value: Any) -> Any:
    """A key of a dictionary; only what hashes in constant time may be one."""
    if not isinstance(value, (bool, int, float, str)):
        raise TypeError(f"a {type(value).__name__} as a key")
    return value


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of numbers whose operands and result may not be huge."""

    def call(*values: Any) -> Any:
        result = function(*values)
        if isinstance(result, int) and result.bit_length() > MOST_BITS:
            raise OverflowError("an integer that is no size of anything")
        return result

    return call


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and abs(exponent) > MOST_BITS:
        raise OverflowError("an integer that is no size of anything")
    return base**exponent


def _divide(one: Any, other: Any, rounding_mode: str | None = None) -> Any:
    if rounding_mode == "floor":
        return one // other
    if rounding_mode == "trunc":
        return int(one / other) if isinstance(one, float) or isinstance(other, float) else _truncated(one, other)
    return one / other


def _truncated(one: int, other: int) -> int:
    whole = abs(one) // abs(other)
    return whole if (one < 0) == (other < 0) else -whole


#: On numbers that are all known.
ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    "add": _bounded(lambda a, b, alpha=1: a + b * alpha),
    "sub": _bounded(lambda a, b, alpha=1: a - b * alpha),
    "rsub": _bounded(lambda a, b, alpha=1: b - a * alpha),
    "mul": _bounded(operator.mul),
    "div": _divide,
    "true_divide": operator.truediv,
    "floordiv": operator.floordiv,
    "floor_divide": operator.floordiv,
    "remainder": operator.mod,
    "fmod": math.fmod,
    "pow": _bounded(_power),
    "neg": operator.neg,
    "abs": abs,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "__and__": operator.and_,
    "__or__": operator.or_,
    "__xor__": operator.xor,
    "__lshift__": _bounded(lambda a, b: a << min(b, MOST_BITS)),
    "__rshift__": operator.rshift,
    "min": min,
    "max": max,
    "floor": math.floor,
    "ceil": math.ceil,
    "round": round,
    "sqrt": math.sqrt,
    "log": math.log,
    "log2": math.log2,
    "log10": math.log10,
    "exp": math.exp,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "tanh": math.tanh,
    "Int": int,
    "Float": float,
    "Bool": bool,
    "Str": str,
}


def _room(values: Any, more: int) -> None:
    if len(values) + more > MOST_ELEMENTS:
        raise OverflowError(f"a list of more than {MOST_ELEMENTS} elements")


def _append(values: list[Any], value: Any) -> list[Any]:
    _room(values, 1)
    values.append(value)
    return values


def _extend(values: list[Any], more: list[Any]) -> None:
    _room(values, len(more))
    values.extend(more)


def _insert(values: list[Any], place: int, value: Any) -> None:
    _room(values, 1)
    values.insert(place, value)


def _joined(one: Any, other: Any) -> Any:
    _room(one, len(other))
    return one + other


def _repeated(values: Any, count: int) -> Any:
    _room((), len(values) * max(count, 0))
    return values * count


def _slice(values: Any, low: Any = None, high: Any = None, step: int = 1) -> Any:
    return values[slice(low, high, step)]


def _format(text: str, *values: Any) -> str:
    """What an exception would say; not worth more than its beginning."""
    return text[:200]


def _range_length(low: int, high: int, step: int) -> int:
    return len(range(low, high, step))


def _derive_index(index: int, low: int, step: int) -> int:
    return low + index * step


#: On lists, strings, dictionaries; and what says something about the machine or the mode.
PLAIN: Mapping[str, Callable[..., Any]] = {
    "append": _append,
    "extend": _extend,
    "insert": _insert,
    "pop": list.pop,
    "clear": list.clear,
    "reverse": list.reverse,
    "copy": list.copy,
    "list": list,
    "add": _joined,
    "mul": _repeated,
    "slice": _slice,
    "keys": list,
    "values": lambda mapping: list(mapping.values()),
    "items": lambda mapping: list(mapping.items()),
    "get": lambda mapping, name, default=None: mapping.get(key(name), default),
    "format": _format,
    "__range_length": _range_length,
    "__derive_index": _derive_index,
    "is_grad_enabled": lambda: False,
    "set_grad_enabled": lambda value: None,
    "warn": lambda *said: None,
    "device": lambda *said: "cpu",
}
