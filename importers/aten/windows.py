"""Convolutions, pooling, padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...engine.graph import Dim
from .core import Aten, Shape, Tensor, op
from .views import unsqueeze


def _many(value: Any, count: int, default: int = 0) -> tuple[int, ...]:
    """One number for every axis, or as many as there are axes."""
    values = (value,) if isinstance(value, int) else tuple(value or (default,))
    values = values * count if len(values) == 1 else values
    if len(values) != count or not all(isinstance(n, int) for n in values):
        raise ValueError(f"{value} for {count} axes")
    return values


def _length(size: Dim, kernel: int, step: int, before: int, after: int, dilation: int, ceil: bool = False) -> Dim:
    """How many windows there are along an axis."""
    if not isinstance(size, int):
        return None
    free = size + before + after - dilation * (kernel - 1) - 1
    count = -(-free // step) + 1 if ceil else free // step + 1
    return count - 1 if ceil and (count - 1) * step >= size + before else count


@op("conv1d", "conv2d", "conv3d", "convolution", "_convolution")
def convolution(
    a: Aten,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    *rest: Any,
    **given: Any,
) -> Tensor:
    """``conv2d(..., groups)``; ``convolution(..., transposed, output_padding, groups, ...)`` says more."""
    general = a.name.endswith("convolution")
    names = ["transposed", "output_padding", "groups"] if general else ["groups"]
    have = {"transposed": False, "output_padding": 0, "groups": 1} | dict(zip(names, rest, strict=False)) | given
    harmless = {"benchmark", "deterministic", "cudnn_enabled", "allow_tf32"}
    for name in have.keys() - {"transposed", "output_padding", "groups"} - harmless:
        raise a.unsupported("the argument is not supported", name, have[name])
    if have["transposed"]:
        more = (have["output_padding"], have["groups"], dilation)
        return conv_transpose(a, input, weight, bias, stride, padding, *more)
    count = a.rank(weight) - 2
    sizes = _kernel(a, weight)
    steps, apart = _many(stride, count, 1), _many(dilation, count, 1)
    reach = [d * (k - 1) for d, k in zip(apart, sizes, strict=True)]
    if padding == "same":
        if set(steps) != {1}:
            raise a.unsupported("with a stride is not supported", "padding", padding)
        before, after = [n // 2 for n in reach], [n - n // 2 for n in reach]
    elif isinstance(padding, str):
        if padding != "valid":
            raise a.unsupported("is not supported", "padding", padding)
        before = after = [0] * count
    else:
        before = after = list(_many(padding, count))

    def wide(x: Tensor) -> Tensor:
        assert x.shape is not None and weight.shape is not None
        spatial = (
            _length(n, k, s, b, e, d)
            for n, k, s, b, e, d in zip(x.shape[2:], sizes, steps, before, after, apart, strict=True)
        )
        inputs: list[Tensor | str] = [x, weight, bias or ""]
        return a.node(
            "Conv",
            inputs,
            x.dtype,
            (x.shape[0], weight.shape[0], *spatial),
            auto_pad="NOTSET",
            pads=(*before, *after),
            strides=steps,
            kernel_shape=sizes,
            dilations=apart,
            group=have["groups"],
        )

    return _batched(a, wide, input, count)


def _kernel(a: Aten, weight: Tensor) -> tuple[int, ...]:
    sizes = tuple(n for n in (weight.shape or ())[2:] if isinstance(n, int))
    if weight.shape is None or len(sizes) != len(weight.shape) - 2:
        raise a.unsupported("takes weights whose sizes are not known", "weight", weight.shape)
    return sizes


def _batched(a: Aten, wide: Any, input: Tensor, count: int) -> Tensor:
    """Apply to an input that may lack the batch axis."""
    if a.rank(input) == count + 2:
        return wide(input)  # type: ignore[no-any-return]
    y = wide(unsqueeze(a, input, 0))
    return a.node("Squeeze", [y, a.ints(0)], y.dtype, y.shape[1:])


@op("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def conv_transpose(
    a: Aten,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    count = a.rank(weight) - 2
    sizes = _kernel(a, weight)
    steps, pads, extra, apart = (
        _many(value, count, default)
        for value, default in ((stride, 1), (padding, 0), (output_padding, 0), (dilation, 1))
    )

    def wide(x: Tensor) -> Tensor:
        assert x.shape is not None and weight.shape is not None
        channels = weight.shape[1]
        assert isinstance(channels, int)
        spatial = (
            (n - 1) * s - 2 * p + d * (k - 1) + e + 1 if isinstance(n, int) else None
            for n, k, s, p, e, d in zip(x.shape[2:], sizes, steps, pads, extra, apart, strict=True)
        )
        return a.node(
            "ConvTranspose",
            [x, weight, bias or ""],
            x.dtype,
            (x.shape[0], channels * groups, *spatial),
            auto_pad="NOTSET",
            pads=pads * 2,
            strides=steps,
            kernel_shape=sizes,
            dilations=apart,
            group=groups,
            output_padding=extra,
            output_shape=None,
        )

    return _batched(a, wide, input, count)


# ---------------------------------------------------------------------- pooling


@op("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices")
def max_pool(
    a: Aten,
    self: Tensor,
    kernel_size: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Any:
    """The places of the largest are not given; only training and unpooling need them."""
    y = _pool(a, "MaxPool", self, kernel_size, stride, padding, dilation, ceil_mode)
    return (y, None) if a.name.endswith("indices") else y


@op("avg_pool1d", "avg_pool2d", "avg_pool3d")
def avg_pool(
    a: Aten,
    self: Tensor,
    kernel_size: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    if divisor_override is not None:
        raise a.unsupported("is not supported", "divisor_override", divisor_override)
    attrs = {"count_include_pad": count_include_pad}
    return _pool(a, "AveragePool", self, kernel_size, stride, padding, 1, ceil_mode, **attrs)


def _pool(
    a: Aten, kind: str, x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool, **attrs: Any
) -> Tensor:
    count = int(a.name.split("pool")[1][0])
    sizes = _many(kernel, count)
    steps = sizes if stride in ((), [], None) else _many(stride, count, 1)
    pads, apart = _many(padding, count), _many(dilation, count, 1)

    def wide(x: Tensor) -> Tensor:
        assert x.shape is not None
        spatial = (
            _length(n, k, s, p, p, d, ceil)
            for n, k, s, p, d in zip(x.shape[2:], sizes, steps, pads, apart, strict=True)
        )
        return a.node(
            kind,
            [x],
            x.dtype,
            (*x.shape[:2], *spatial),
            auto_pad="NOTSET",
            pads=pads * 2,
            strides=steps,
            kernel_shape=sizes,
            dilations=apart,
            ceil_mode=ceil,
            **attrs,
        )

    return _batched(a, wide, x, count)


@op(*(f"adaptive_{kind}_pool{n}d" for kind in ("avg", "max") for n in (1, 2, 3)), "_adaptive_avg_pool2d")
def adaptive_pool(a: Aten, self: Tensor, output_size: Any) -> Any:
    """To one element, whatever the size; or to a number that divides a known size."""
    count = int(a.name.split("pool")[1][0])
    largest = "max" in a.name
    rank = a.rank(self)
    assert self.shape is not None
    have, want = self.shape[rank - count :], _many(output_size, count, 1)
    if set(want) == {1}:
        axes = a.ints(*range(rank - count, rank))
        kind = "ReduceMax" if largest else "ReduceMean"
        shape = (*self.shape[: rank - count], *want)
        y = a.node(kind, [self, axes], self.dtype, shape, keepdims=True, noop_with_empty_axes=False)
        return (y, None) if largest else y
    if any(not isinstance(n, int) or n % m for n, m in zip(have, want, strict=True)):
        raise a.unsupported(
            f"has to divide the sizes {have}", "output_size", list(want), "Use a pooling of a fixed kernel"
        )
    sizes = [int(n) // m for n, m in zip(have, want, strict=True) if n is not None]
    a.name = f"pool{count}d"
    if largest:
        return _pool(a, "MaxPool", self, sizes, sizes, 0, 1, False), None
    return _pool(a, "AveragePool", self, sizes, sizes, 0, 1, False, count_include_pad=True)


# ---------------------------------------------------------------------- padding

_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@op("constant_pad_nd", "pad")
def pad(a: Aten, self: Tensor, pad: Sequence[int], mode: Any = "constant", value: Any = None) -> Tensor:
    if a.name == "constant_pad_nd":  # (self, pad, value)
        mode, value = "constant", mode if not isinstance(mode, str) else value
    if mode not in _MODES:
        raise a.unsupported("is not supported", "mode", mode)
    return _padded(a, self, list(pad), _MODES[mode], 0 if value is None else value)


@op(*(f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)))
def mirror(a: Aten, self: Tensor, padding: Any) -> Tensor:
    count = int(a.name[-2])
    return _padded(a, self, list(_many(padding, 2 * count)), "reflect" if "reflection" in a.name else "edge", 0)


def _padded(a: Aten, x: Tensor, pads: list[int], mode: str, value: Any) -> Tensor:
    """`pads` are two per axis, from the last axis on."""
    rank, count = a.rank(x), len(pads) // 2
    if len(pads) % 2 or count > rank or not all(isinstance(n, int) for n in pads):
        raise a.unsupported(f"does not fit {rank} axes", "pad", pads)
    before, after = pads[0::2][::-1], pads[1::2][::-1]
    assert x.shape is not None
    tail = x.shape[rank - count :]
    grown = (n + b + e if isinstance(n, int) else None for n, b, e in zip(tail, before, after, strict=True))
    shape: Shape = (*x.shape[: rank - count], *grown)
    if not any(pads):
        return x
    inputs: list[Tensor | str] = [x, a.ints(*before, *after)]
    inputs += [a.constant(np.array(value, x.dtype)), a.ints(*range(rank - count, rank))]
    return a.node("Pad", inputs, x.dtype, shape, mode=mode)
