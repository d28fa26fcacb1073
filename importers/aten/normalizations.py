"""Batch, layer, group, instance and RMS norm; attention, which ends in one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .core import Aten, DType, Tensor, op
from .pointwise import BOOL, binary
from .products import matmul, transposed


def _channels(a: Aten, x: Tensor) -> int:
    size = x.shape[1] if x.shape is not None and len(x.shape) > 1 else None
    if not isinstance(size, int):
        raise a.unsupported("takes a tensor whose number of channels is not known")
    return size


def _or(a: Aten, given: Tensor | None, value: float, size: int, dtype: DType) -> Tensor:
    """A parameter, or its default."""
    return a.constant(np.full(a.bounded(size, "channels"), value, dtype)) if given is None else given


@op(
    *"batch_norm native_batch_norm cudnn_batch_norm _native_batch_norm_legit".split(),
    *"_native_batch_norm_legit_no_training _batch_norm_no_update _batch_norm_with_update".split(),
)
def batch_norm(
    a: Aten,
    input: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    *rest: Any,
    **given: Any,
) -> Any:
    """With the statistics of training. The statistics of the batch, which some forms give as well, are not given."""
    still = a.name in ("_native_batch_norm_legit_no_training", "_batch_norm_no_update")
    names = ["momentum", "eps"] if still else ["training", "momentum", "eps", "cudnn_enabled"]
    have = dict(zip(names, rest, strict=False)) | given
    if have.get("training") or "update" in a.name.replace("no_update", "") or running_mean is None:
        raise a.unsupported("normalises by the batch it is given", "training", True, "Export after model.eval()")
    size = _channels(a, input)
    inputs = [input, _or(a, weight, 1, size, input.dtype), _or(a, bias, 0, size, input.dtype)]
    y = a.node(
        "BatchNormalization",
        [*inputs, running_mean, running_var or ""],
        input.dtype,
        input.shape,
        epsilon=float(have["eps"]),
    )
    if a.name == "batch_norm":
        return y
    return (y, None, None, None) if a.name.startswith("_batch_norm") else (y, None, None)


@op("layer_norm", "native_layer_norm")
def layer_norm(
    a: Aten,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = False,
) -> Any:
    sizes = [int(n) for n in normalized_shape]
    if weight is None:
        a.bounded(math.prod(sizes), "channels")
    scale = a.constant(np.ones(sizes, input.dtype)) if weight is None else weight
    attrs = {"axis": -len(sizes), "epsilon": float(eps), "stash_type": 1}
    y = a.node("LayerNormalization", [input, scale, bias or ""], input.dtype, input.shape, **attrs)
    return (y, None, None) if a.name.startswith("native") else y


@op("rms_norm", "_fused_rms_norm")
def rms_norm(
    a: Aten,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Any:
    sizes = [int(n) for n in normalized_shape]
    if weight is None:
        a.bounded(math.prod(sizes), "channels")
    scale = a.constant(np.ones(sizes, input.dtype)) if weight is None else weight
    epsilon = float(np.finfo(input.dtype).eps) if eps is None else float(eps)
    attrs = {"axis": -len(sizes), "epsilon": epsilon}
    y = a.node("RMSNormalization", [input, scale], input.dtype, input.shape, **attrs)
    return (y, None) if a.name.startswith("_fused") else y


@op("_weight_norm", "_weight_norm_interface")
def weight_norm(a: Aten, v: Tensor, g: Tensor, dim: int = 0) -> Any:
    """``g * v / norm(v)``, the norm over all axes but `dim`; -1: over all."""
    over = [k for k in range(a.rank(v)) if dim == -1 or k != a.axis(v, dim)]
    size = a.part("linalg_vector_norm", v, 2, over, True)
    made = binary(a, "Mul", v, binary(a, "Div", g, size))
    return (made, size) if a.name.endswith("interface") else made


@op("group_norm")
def group_norm(
    a: Aten,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    size = _channels(a, input)
    inputs = [input, _or(a, weight, 1, size, input.dtype), _or(a, bias, 0, size, input.dtype)]
    attrs = {"num_groups": num_groups, "epsilon": float(eps), "per_group": False}
    return a.node("GroupNormalization", inputs, input.dtype, input.shape, **attrs)


@op("native_group_norm")
def native_group_norm(
    a: Aten,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    N: Any,
    C: Any,
    HxW: Any,
    group: int,
    eps: float,
) -> tuple[Tensor, None, None]:
    """`N`, `C` and `HxW` are the input's own sizes."""
    return group_norm(a, input, group, weight, bias, eps), None, None


@op("instance_norm")
def instance_norm(
    a: Aten,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> Tensor:
    size = _channels(a, input)
    inputs = [input, _or(a, weight, 1, size, input.dtype), _or(a, bias, 0, size, input.dtype)]
    if not use_input_stats:
        running = [running_mean or "", running_var or ""]
        return a.node("BatchNormalization", [*inputs, *running], input.dtype, input.shape, epsilon=float(eps))
    return a.node("InstanceNormalization", inputs, input.dtype, input.shape, epsilon=float(eps))


@op("scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu")
def attention(
    a: Aten,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """softmax(query @ key.T * scale + mask) @ value."""
    if a.name.startswith("_"):  # (query, key, value, dropout_p, is_causal, *, attn_mask, scale)
        raise a.unsupported("the operator is not supported", hint="Export without decomposing attention")
    if dropout_p:
        raise a.unsupported("is in training mode", "dropout_p", dropout_p, "Export the model after model.eval()")
    if enable_gqa:
        raise a.unsupported("is not supported", "enable_gqa", enable_gqa)
    rank = a.rank(query)
    width = (query.shape or ())[rank - 1]
    if scale is None and not isinstance(width, int):
        raise a.unsupported("takes a tensor whose last axis is not known", "scale", scale)
    factor = scale if scale is not None else 1 / math.sqrt(width) if isinstance(width, int) else 1.0
    scores = binary(a, "Mul", matmul(a, query, transposed(a, key)), factor)
    if is_causal:
        lengths = (query.shape or ())[-2], (key.shape or ())[-2]
        if not all(isinstance(n, int) for n in lengths):
            raise a.unsupported("along an axis whose size is not known is not supported", "is_causal", is_causal)
        a.bounded(max(int(n) for n in lengths if n is not None) ** 2 >> 8, "pairs of frames")
        attn_mask = a.constant(np.tri(*(int(n) for n in lengths if n is not None), dtype=bool))
    if attn_mask is not None and attn_mask.dtype == BOOL:
        low = a.constant(np.array(-np.inf, scores.dtype))
        scores = a.node("Where", [attn_mask, scores, low], scores.dtype, scores.shape)
    elif attn_mask is not None:
        scores = binary(a, "Add", scores, attn_mask)
    weights = a.node("Softmax", [scores], scores.dtype, scores.shape, axis=-1, trailing=False)
    return matmul(a, weights, value)
