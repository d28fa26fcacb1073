"""Activations."""

from __future__ import annotations

from typing import Any

from .core import Aten, Tensor, op
from .pointwise import BOOL, binary, clamp, neg, number, scalar, times, unary


@op("leaky_relu")
def leaky_relu(a: Aten, self: Tensor, negative_slope: float = 0.01) -> Tensor:
    return unary(a, "LeakyRelu", self, alpha=float(negative_slope))


@op("elu")
def elu(a: Aten, self: Tensor, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Tensor:
    """``scale * (x > 0 ? x : alpha * (exp(input_scale * x) - 1))``."""
    if scale == input_scale == 1:
        return unary(a, "Elu", self, alpha=float(alpha))
    if input_scale == 1:
        return unary(a, "Selu", self, alpha=float(alpha), gamma=float(scale))
    raise a.unsupported("is not supported", "input_scale", input_scale)


@op("selu")
def selu(a: Aten, self: Tensor) -> Tensor:
    return unary(a, "Selu", self, alpha=1.6732632423543772, gamma=1.0507009873554805)


@op("celu")
def celu(a: Aten, self: Tensor, alpha: float = 1.0) -> Tensor:
    return times(a, unary(a, "Elu", times(a, self, 1 / alpha), alpha=1.0), alpha)  # type: ignore[no-any-return]


@op("gelu")
def gelu(a: Aten, self: Tensor, approximate: str = "none") -> Tensor:
    if approximate not in ("none", "tanh"):
        raise a.unsupported("is not supported", "approximate", approximate)
    return unary(a, "Gelu", self, approximate=approximate)


@op("silu")
def silu(a: Aten, self: Tensor) -> Tensor:
    return binary(a, "Mul", self, unary(a, "Sigmoid", self))


@op("mish")
def mish(a: Aten, self: Tensor) -> Tensor:
    return binary(a, "Mul", self, unary(a, "Tanh", unary(a, "Softplus", self)))


@op("softplus")
def softplus(a: Aten, self: Tensor, beta: Any = 1, threshold: Any = 20) -> Tensor:
    """Beyond the threshold PyTorch takes x itself, which differs by less than exp(-threshold)."""
    if number(a, "threshold", threshold) < 15:
        raise a.unsupported("is not supported", "threshold", threshold, "From 15 on it makes no difference")
    y = unary(a, "Softplus", times(a, self, beta))
    return y if beta == 1 else binary(a, "Div", y, beta)


@op("hardsigmoid")
def hardsigmoid(a: Aten, self: Tensor) -> Tensor:
    return unary(a, "HardSigmoid", self, alpha=1 / 6, beta=0.5)


@op("hardswish")
def hardswish(a: Aten, self: Tensor) -> Tensor:
    return unary(a, "HardSwish", self)


@op("log_sigmoid", "log_sigmoid_forward")
def log_sigmoid(a: Aten, self: Tensor) -> Any:
    y = neg(a, unary(a, "Softplus", neg(a, self)))
    return (y, None) if a.name == "log_sigmoid_forward" else y


@op("tanhshrink")
def tanhshrink(a: Aten, self: Tensor) -> Tensor:
    return binary(a, "Sub", self, unary(a, "Tanh", self))


@op("threshold")
def threshold(a: Aten, self: Tensor, threshold: Any, value: Any) -> Tensor:
    above = a.node("Greater", [self, a.tensor(threshold, self.dtype)], BOOL, self.shape)
    return a.node("Where", [above, self, a.tensor(value, self.dtype)], self.dtype, self.shape)


@op("hardshrink", "softshrink")
def shrink(a: Aten, self: Tensor, lambd: Any = 0.5) -> Tensor:
    if a.name == "softshrink":  # what lies beyond -lambd and lambd, less that
        return binary(a, "Sub", self, clamp(a, self, -lambd, lambd))
    size = a.node("Abs", [self], self.dtype, self.shape)
    outside = a.node("Greater", [size, scalar(a, lambd, self)], BOOL, self.shape)
    return a.node("Where", [outside, self, scalar(a, 0, self)], self.dtype, self.shape)


@op("prelu", "_prelu_kernel")
def prelu(a: Aten, self: Tensor, weight: Tensor) -> Tensor:
    """One slope, or one per channel, axis 1; the kernel's form comes shaped to fit."""
    rank = a.rank(self)
    if a.name == "prelu" and weight.shape != (1,) and rank > 2:
        shape = (*(weight.shape or (None,)), *(1,) * (rank - 2))
        weight = a.node("Unsqueeze", [weight, a.ints(*range(1, rank - 1))], weight.dtype, shape)
    return a.node("PRelu", [self, weight], self.dtype, self.shape)


@op("glu")
def glu(a: Aten, self: Tensor, dim: int = -1) -> Tensor:
    axis = a.axis(self, dim)
    size = self.shape[axis] if self.shape else None
    half = size // 2 if isinstance(size, int) else None
    shape = None if self.shape is None else (*self.shape[:axis], half, *self.shape[axis + 1 :])
    x, gate = a.nodes("Split", [self, ""], [(self.dtype, shape)] * 2, axis=axis, num_outputs=2)
    return binary(a, "Mul", x, unary(a, "Sigmoid", gate))
