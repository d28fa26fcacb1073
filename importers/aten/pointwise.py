"""Element by element: arithmetic, comparisons, activations."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from .core import Aten, DType, Shape, SymInt, Tensor, broadcast, op, result_type

BOOL, FLOAT, LONG = np.dtype(np.bool_), np.dtype(np.float32), np.dtype(np.int64)


def shape_of(x: Any) -> Shape:
    return x.shape if isinstance(x, Tensor) else ()


def pair(a: Aten, x: Any, y: Any) -> tuple[Tensor, Tensor, DType, Shape]:
    """Two operands of one type, that type, and the shape of what they make."""
    dtype = result_type(x, y)
    return a.tensor(x, dtype), a.tensor(y, dtype), dtype, broadcast(shape_of(x), shape_of(y))


def binary(a: Aten, kind: str, x: Any, y: Any) -> Tensor:
    """An operator of two operands whatever they are: tensors, numbers, sizes."""
    one, two, dtype, shape = pair(a, x, y)
    if dtype == BOOL:
        if kind not in ("Add", "Mul", "Max", "Min"):
            raise a.unsupported("is not defined for truth values")
        kind = "Or" if kind in ("Add", "Max") else "And"
    return a.node(kind, [one, two], dtype, shape)


def times(a: Aten, x: Any, factor: Any) -> Any:
    """``x * factor``, where the factor is not 1."""
    return x if isinstance(factor, (int, float)) and factor == 1 else binary(a, "Mul", x, factor)


def unary(a: Aten, kind: str, x: Tensor, **attrs: Any) -> Tensor:
    """A function of floating-point values; integers become such first."""
    x = floating(a, x)
    return a.node(kind, [x], x.dtype, x.shape, **attrs)


def floating(a: Aten, x: Tensor) -> Tensor:
    return x if x.dtype.kind == "f" else a.cast(x, FLOAT)


def scalar(a: Aten, value: float, like: Tensor) -> Tensor:
    return a.constant(np.array(value, like.dtype))


def number(a: Aten, name: str, value: Any) -> float:
    """An argument that has to be a number."""
    if isinstance(value, (bool, int, float)):
        return value
    raise a.unsupported("has to be a number that is known", name, type(value).__name__)


# ---------------------------------------------------------------------- arithmetic; of sizes as well

_PYTHON: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Max": max,
    "Min": min,
}


def _sizes(a: Aten, kind: str, x: Any, y: Any) -> Any:
    """Arithmetic of numbers and sizes; None if one of them is a tensor."""
    if isinstance(x, Tensor) or isinstance(y, Tensor):
        return None
    if not isinstance(x, SymInt) and not isinstance(y, SymInt):
        return _within(_PYTHON[kind](x, y))
    made = binary(a, kind, x, y)
    return made if made.dtype != LONG else SymInt(made.name)


def _within(value: Any) -> Any:
    """A number, if it is one of 64 bits: a program of a stranger's could go on squaring."""
    if isinstance(value, int) and abs(value) > 1 << 63:
        raise OverflowError("a size beyond 64 bits")
    return value


def _arithmetic(kind: str) -> Callable[..., Any]:
    def translate(a: Aten, self: Any, other: Any, alpha: Any = 1) -> Any:
        reverse = a.name == "rsub"
        x, y = (other, times(a, self, alpha)) if reverse else (self, times(a, other, alpha))
        made = _sizes(a, kind, x, y)
        return binary(a, kind, x, y) if made is None else made

    return translate


op("add")(_arithmetic("Add"))
op("sub", "rsub", "subtract")(_arithmetic("Sub"))


@op("mul", "multiply", "maximum", "minimum", "sym_max", "sym_min")
def mul(a: Aten, self: Any, other: Any) -> Any:
    kind = {"maximum": "Max", "sym_max": "Max", "minimum": "Min", "sym_min": "Min"}.get(a.name, "Mul")
    made = _sizes(a, kind, self, other)
    return binary(a, kind, self, other) if made is None else made


@op("div", "divide", "true_divide", "truediv")
def div(a: Aten, self: Any, other: Any, rounding_mode: str | None = None) -> Any:
    if rounding_mode == "floor":
        return floor_divide(a, self, other)
    plain = not any(isinstance(value, (Tensor, SymInt)) for value in (self, other))
    if plain and rounding_mode is None:
        return self / other
    x, y, dtype, shape = pair(a, self, other)
    if rounding_mode == "trunc":
        quotient = a.node("Div", [x, y], dtype, shape)
        return quotient if dtype.kind in "iu" else trunc(a, quotient)
    if rounding_mode is not None:
        raise a.unsupported("is not supported", "rounding_mode", rounding_mode)
    if dtype.kind != "f":
        dtype = FLOAT
    return a.node("Div", [a.cast(x, dtype), a.cast(y, dtype)], dtype, shape)


@op("floor_divide", "floordiv")
def floor_divide(a: Aten, self: Any, other: Any) -> Any:
    sizes = not isinstance(self, Tensor) and not isinstance(other, Tensor)
    if sizes and not isinstance(self, SymInt) and not isinstance(other, SymInt):
        return self // other
    x, y, dtype, shape = pair(a, self, other)
    if dtype.kind == "f":
        return a.node("Floor", [a.node("Div", [x, y], dtype, shape)], dtype, shape)
    # Division of integers goes towards zero: with what is left taken away first, there is nothing to round.
    rest = a.node("Mod", [x, y], dtype, shape, fmod=False)
    quotient = a.node("Div", [a.node("Sub", [x, rest], dtype, shape), y], dtype, shape)
    return SymInt(quotient.name) if sizes else quotient


@op("remainder", "mod", "fmod")
def remainder(a: Aten, self: Any, other: Any) -> Any:
    sizes = not isinstance(self, Tensor) and not isinstance(other, Tensor)
    if sizes and not isinstance(self, SymInt) and not isinstance(other, SymInt):
        return math.fmod(self, other) if a.name == "fmod" else self % other
    x, y, dtype, shape = pair(a, self, other)
    rest = a.node("Mod", [x, y], dtype, shape, fmod=a.name == "fmod")
    return SymInt(rest.name) if sizes else rest


@op("pow")
def power(a: Aten, self: Any, exponent: Any) -> Any:
    if not isinstance(self, (Tensor, SymInt)) and not isinstance(exponent, (Tensor, SymInt)):
        return _within(self**exponent) if abs(exponent) <= 64 else float(self) ** exponent
    if isinstance(self, Tensor) and isinstance(exponent, (int, float)) and self.dtype.kind == "f":
        if exponent == 2:
            return a.node("Mul", [self, self], self.dtype, self.shape)
        if exponent == 0.5:
            return a.node("Sqrt", [self], self.dtype, self.shape)
    return binary(a, "Pow", self, exponent)


@op("neg", "negative")
def neg(a: Aten, self: Any) -> Any:
    if isinstance(self, (int, float)):
        return -self
    if isinstance(self, SymInt):
        return SymInt(binary(a, "Sub", 0, self).name)
    return a.node("Neg", [self], self.dtype, self.shape)


@op("square")
def square(a: Aten, self: Tensor) -> Tensor:
    return binary(a, "Mul", self, self)


@op("addcmul", "addcdiv")
def addcmul(a: Aten, self: Tensor, tensor1: Tensor, tensor2: Tensor, value: Any = 1) -> Tensor:
    kind = "Mul" if a.name == "addcmul" else "Div"
    return binary(a, "Add", self, times(a, binary(a, kind, tensor1, tensor2), value))


@op("lerp")
def lerp(a: Aten, self: Tensor, end: Tensor, weight: Any) -> Tensor:
    return binary(a, "Add", self, binary(a, "Mul", weight, binary(a, "Sub", end, self)))


@op("atan2", "hypot")
def hypot(a: Aten, self: Tensor, other: Tensor) -> Tensor:
    if a.name == "atan2":
        raise a.unsupported("the operator is not supported")
    return unary(a, "Sqrt", binary(a, "Add", square(a, self), square(a, other)))


# ---------------------------------------------------------------------- comparisons

_COMPARISONS = {"eq": "Equal", "gt": "Greater", "lt": "Less", "ge": "GreaterOrEqual", "le": "LessOrEqual"}


@op("eq", "ne", "gt", "lt", "ge", "le", "not_equal", "greater", "less", "greater_equal", "less_equal")
def compare(a: Aten, self: Any, other: Any) -> Any:
    name = {"not_equal": "ne", "greater_equal": "ge", "less_equal": "le"}.get(a.name, a.name[:2])
    if not any(isinstance(value, (Tensor, SymInt)) for value in (self, other)):
        return getattr(operator, name)(self, other)
    x, y, _, shape = pair(a, self, other)
    made = a.node(_COMPARISONS.get(name, "Equal"), [x, y], BOOL, shape)
    return made if name != "ne" else a.node("Not", [made], BOOL, shape)


@op("logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor", "__and__", "__or__")
def logical(a: Aten, self: Tensor, other: Any) -> Tensor:
    if not a.name.startswith("logical") and (self.dtype != BOOL or result_type(self, other) != BOOL):
        raise a.unsupported("is supported for truth values only", "dtype", str(self.dtype))
    kind = {"and": "And", "or": "Or", "xor": "Xor"}[a.name.strip("_").rpartition("_")[2]]
    x, y = a.tensor(self, BOOL), a.tensor(other, BOOL)
    return a.node(kind, [x, y], BOOL, broadcast(x.shape, y.shape))


@op("logical_not", "bitwise_not", "__not__")
def logical_not(a: Aten, self: Any) -> Any:
    if isinstance(self, bool):
        return not self
    if a.name == "bitwise_not" and self.dtype != BOOL:
        raise a.unsupported("is supported for truth values only", "dtype", str(self.dtype))
    return a.node("Not", [a.cast(self, BOOL)], BOOL, self.shape)


@op("isnan")
def isnan(a: Aten, self: Tensor) -> Tensor:
    return a.node("IsNaN", [floating(a, self)], BOOL, self.shape)


@op("isinf")
def isinf(a: Aten, self: Tensor) -> Tensor:
    return a.node("IsInf", [floating(a, self)], BOOL, self.shape, detect_negative=True, detect_positive=True)


@op("where")
def where(a: Aten, condition: Tensor, self: Any = None, other: Any = None) -> Tensor:
    if self is None or other is None:
        raise a.unsupported("with a condition alone is not supported")
    x, y, dtype, shape = pair(a, self, other)
    inputs = [a.cast(condition, BOOL), x, y]
    return a.node("Where", inputs, dtype, broadcast(condition.shape, shape))


@op("masked_fill")
def masked_fill(a: Aten, self: Tensor, mask: Tensor, value: Any) -> Tensor:
    inputs = [a.cast(mask, BOOL), a.tensor(value, self.dtype), self]
    return a.node("Where", inputs, self.dtype, broadcast(mask.shape, self.shape))


# ---------------------------------------------------------------------- functions

#: Functions that are operators of the graph without attributes.
_FUNCTIONS = {
    **{name: name.capitalize() for name in ("sigmoid", "tanh", "exp", "log", "sqrt", "erf", "sin", "cos")},
    **{"reciprocal": "Reciprocal", "softsign": "Softsign", "special_erf": "Erf", "special_expit": "Sigmoid"},
}
#: Those that leave integers integers.
_EXACT = {"relu": "Relu", "abs": "Abs", "absolute": "Abs", "floor": "Floor", "ceil": "Ceil", "sign": "Sign"}


@op(*_FUNCTIONS)
def function(a: Aten, self: Tensor) -> Tensor:
    return unary(a, _FUNCTIONS[a.name], self)


@op(*_EXACT)
def exact(a: Aten, self: Any) -> Any:
    if not isinstance(self, Tensor):
        numbers: dict[str, Callable[[Any], Any]] = {"abs": abs, "floor": math.floor, "ceil": math.ceil}
        return numbers[a.name](self)
    kind = _EXACT[a.name]
    if self.dtype.kind != "f" and kind in ("Floor", "Ceil"):
        return self
    if self.dtype.kind != "f" and kind == "Relu":
        return binary(a, "Max", self, 0)
    return a.node(kind, [self], self.dtype, self.shape)


@op("round")
def rounded(a: Aten, self: Tensor, decimals: int = 0) -> Tensor:
    if decimals:
        raise a.unsupported("is not supported", "decimals", decimals)
    return self if self.dtype.kind != "f" else a.node("Round", [self], self.dtype, self.shape)


@op("trunc", "fix")
def trunc(a: Aten, self: Tensor) -> Tensor:
    if self.dtype.kind != "f":
        return self
    size = a.node("Floor", [a.node("Abs", [self], self.dtype, self.shape)], self.dtype, self.shape)
    return binary(a, "Mul", a.node("Sign", [self], self.dtype, self.shape), size)


@op("rsqrt")
def rsqrt(a: Aten, self: Tensor) -> Tensor:
    return unary(a, "Reciprocal", unary(a, "Sqrt", self))


@op("log2", "log10", "log1p", "exp2", "expm1")
def scaled_logarithm(a: Aten, self: Tensor) -> Tensor:
    if a.name == "log1p":
        return unary(a, "Log", binary(a, "Add", self, 1))
    if a.name == "expm1":
        return binary(a, "Sub", unary(a, "Exp", self), 1)
    if a.name == "exp2":
        return unary(a, "Exp", binary(a, "Mul", self, math.log(2)))
    return binary(a, "Mul", unary(a, "Log", self), 1 / math.log(2 if a.name == "log2" else 10))


@op("clamp", "clip", "clamp_min", "clamp_max")
def clamp(a: Aten, self: Tensor, min: Any = None, max: Any = None) -> Tensor:
    if a.name == "clamp_max" and max is None:
        min, max = None, min
    limits = [value for value in (min, max) if value is not None]
    if any(isinstance(limit, (Tensor, SymInt)) for limit in limits):
        for kind, limit in (("Max", min), ("Min", max)):
            self = self if limit is None else binary(a, kind, self, limit)
        return self
    dtype = result_type(self, *limits)
    bounds: list[Tensor | str] = ["" if limit is None else a.tensor(limit, dtype) for limit in (min, max)]
    return a.node("Clip", [a.cast(self, dtype), *bounds], dtype, self.shape)


@op("hardtanh")
def hardtanh(a: Aten, self: Tensor, min_val: Any = -1, max_val: Any = 1) -> Tensor:
    return clamp(a, self, min_val, max_val)


@op("relu6")
def relu6(a: Aten, self: Tensor) -> Tensor:
    return clamp(a, self, 0, 6)
