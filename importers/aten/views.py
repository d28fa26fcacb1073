"""What only moves elements: views, joins and parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ...engine.graph import Dim
from .core import Aten, Shape, SymInt, Tensor, dim_of, op, result_type

#: "To the end", as PyTorch writes it.
FAR = 2**63 - 1


@op(
    *"alias clone detach contiguous lift lift_fresh lift_fresh_copy resolve_conj resolve_neg positive identity".split(),
    *"dropout feature_dropout alpha_dropout feature_alpha_dropout".split(),
)
def same(a: Aten, self: Any = None, p: float = 0.0, train: bool = False, input: Any = None) -> Any:
    """The same values; dropout at inference is one of these."""
    if train and p:
        raise a.unsupported("is in training mode", "train", train, "Export the model after model.eval()")
    return input if self is None else self


@op("native_dropout")
def native_dropout(a: Aten, input: Tensor, p: float, train: bool | None) -> tuple[Tensor, None]:
    return same(a, input, p, bool(train)), None


@op("sym_size", "size")
def size(a: Aten, self: Tensor, dim: int | None = None) -> Any:
    if dim is None:
        return [a.size(self, k) for k in range(a.rank(self))]
    return a.size(self, dim)


@op("dim", "sym_numel", "numel")
def dim(a: Aten, self: Tensor) -> Any:
    if a.name == "dim":
        return a.rank(self)
    if self.shape is not None and all(isinstance(n, int) for n in self.shape):
        return math.prod(n for n in self.shape if isinstance(n, int))
    return SymInt(a.graph.add("Size", [self.name])[0])


# ---------------------------------------------------------------------- shapes


@op("view", "reshape", "_unsafe_view", "_reshape_alias", "view_copy")
def view(a: Aten, self: Tensor, size: Any = None, stride: Any = None, shape: Any = None, dtype: Any = None) -> Tensor:
    """`stride` follows from the size, which is all there is to see."""
    if dtype is not None:
        raise a.unsupported("reads the same bytes as another type, which is not supported", "dtype", dtype)
    target = list(size if shape is None else shape)
    return reshaped(a, self, target)


def reshaped(a: Aten, x: Tensor, target: list[Any]) -> Tensor:
    """`x` in another shape.

    Leading sizes that stay as they are, and one that follows from the rest, are said so: the graph then fits other
    sizes as well as those that a file was written with.
    """
    shape = tuple(dim_of(n) for n in target)
    wanted: list[Any] = list(target)
    if x.shape is not None and all(isinstance(n, int) for n in (*x.shape, *shape)):
        count = math.prod(int(n) for n in x.shape if n is not None)
        if -1 in shape:
            rest = -math.prod(int(n) for n in shape if n is not None)
            shape = tuple(count // rest if n == -1 and rest else n for n in shape)
        if math.prod(int(n) for n in shape if n is not None) != count:
            raise ValueError(f"{x.shape} cannot become {tuple(target)}")
        if count:
            kept = 0
            while kept < min(len(shape), len(x.shape)) and shape[kept] == x.shape[kept]:
                kept += 1
            wanted = [0] * kept + list(shape[kept:])
            if kept < len(shape):
                merged = next((k for k in range(kept, len(shape)) if shape[k] not in x.shape[kept:]), kept)
                wanted[merged] = -1
    elif -1 in shape:
        shape = tuple(None if n == -1 else n for n in shape)
    zero = 0 in target
    return a.node("Reshape", [x, a.ints(*wanted)], x.dtype, shape, allowzero=zero and wanted == target)


@op("flatten")
def flatten(a: Aten, self: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    rank = a.rank(self)
    if rank == 0:
        return reshaped(a, self, [1])
    start, end = a.axis(self, start_dim), a.axis(self, end_dim)
    if start == end:
        return self
    assert self.shape is not None
    middle = self.shape[start : end + 1]
    joined = math.prod(n for n in middle if isinstance(n, int)) if all(isinstance(n, int) for n in middle) else None
    shape: Shape = (*self.shape[:start], joined, *self.shape[end + 1 :])
    tail = [a.size(self, k) for k in range(end + 1, rank)]
    # -1 stands for what is joined, unless an axis behind it has to be asked for its size all the same.
    return a.node("Reshape", [self, a.ints(*[0] * start, -1, *tail)], self.dtype, shape, allowzero=False)


@op("unflatten")
def unflatten(a: Aten, self: Tensor, dim: int, sizes: Sequence[Any]) -> Tensor:
    axis = a.axis(self, dim)
    assert self.shape is not None
    before = [0] * axis
    after = [a.size(self, k) for k in range(axis + 1, len(self.shape))]
    whole = self.shape[axis]
    known = [dim_of(n) for n in sizes]
    if isinstance(whole, int) and -1 in known:
        rest = math.prod(n for n in known if isinstance(n, int) and n != -1)
        known = [whole // rest if n == -1 else n for n in known]
    shape = (*self.shape[:axis], *(None if n == -1 else n for n in known), *self.shape[axis + 1 :])
    return a.node("Reshape", [self, a.ints(*before, *sizes, *after)], self.dtype, shape, allowzero=False)


@op("transpose", "swapaxes", "swapdims")
def transpose(a: Aten, self: Tensor, dim0: int, dim1: int) -> Tensor:
    order = list(range(a.rank(self)))
    one, two = a.axis(self, dim0), a.axis(self, dim1)
    if order:
        order[one], order[two] = two, one
    return permute(a, self, order)


@op("permute")
def permute(a: Aten, self: Tensor, dims: Sequence[int]) -> Tensor:
    order = tuple(a.axis(self, dim) for dim in dims)
    shape = tuple((self.shape or ())[k] for k in order)
    return self if order == tuple(range(len(order))) else a.node("Transpose", [self], self.dtype, shape, perm=order)


@op("movedim", "moveaxis")
def movedim(a: Aten, self: Tensor, source: Any, destination: Any) -> Tensor:
    sources, targets = a.axes(self, source), a.axes(self, destination)
    order = [k for k in range(a.rank(self)) if k not in sources]
    for target, axis in sorted(zip(targets, sources, strict=True)):
        order.insert(target, axis)
    return permute(a, self, order)


@op("numpy_T", "mT", "adjoint")
def reversed_axes(a: Aten, self: Tensor) -> Tensor:
    rank = a.rank(self)
    if a.name == "numpy_T":
        return permute(a, self, list(range(rank))[::-1])
    return transpose(a, self, -1, -2)


@op("squeeze", "squeeze_copy")
def squeeze(a: Aten, self: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    """An axis of another size than 1 stays; one of free size is taken to be such an axis."""
    rank = a.rank(self)
    assert self.shape is not None
    asked = list(range(rank)) if dim is None else a.axes(self, dim)
    drop = [k for k in asked if rank and self.shape[k] == 1]
    if any(self.shape[k] is None for k in asked if rank):
        raise a.unsupported("may or may not drop an axis whose size is not known", "dim", dim)
    if not drop:
        return self
    kept = tuple(n for k, n in enumerate(self.shape) if k not in drop)
    return a.node("Squeeze", [self, a.ints(*drop)], self.dtype, kept)


@op("unsqueeze")
def unsqueeze(a: Aten, self: Tensor, dim: int) -> Tensor:
    if self.shape is None:
        return a.node("Unsqueeze", [self, a.ints(dim)], self.dtype, None)
    axis = a.axis(self, dim, 1)
    return a.node("Unsqueeze", [self, a.ints(axis)], self.dtype, (*self.shape[:axis], 1, *self.shape[axis:]))


@op("expand", "expand_copy", "broadcast_to")
def expand(a: Aten, self: Tensor, size: Sequence[Any], implicit: bool = False) -> Tensor:
    """-1 keeps a size."""
    rank = a.rank(self)
    assert self.shape is not None
    before = len(size) - rank
    shape = tuple(self.shape[k - before] if n == -1 else dim_of(n) for k, n in enumerate(size))
    if shape == self.shape and None not in shape:
        return self
    target = a.ints(*(1 if n == -1 else n for n in size))
    return a.node("Expand", [self, target], self.dtype, shape)


@op("expand_as", "view_as", "reshape_as")
def expand_as(a: Aten, self: Tensor, other: Tensor) -> Tensor:
    if a.name == "expand_as":
        return a.node("Expand", [self, a.sizes(other)], self.dtype, other.shape)
    return a.node("Reshape", [self, a.sizes(other)], self.dtype, other.shape, allowzero=True)


@op("repeat", "tile")
def repeat(a: Aten, self: Tensor, repeats: Sequence[Any] = (), dims: Sequence[Any] = ()) -> Tensor:
    times = list(repeats or dims)
    rank = a.rank(self)
    if a.name == "tile":
        times = [1] * (rank - len(times)) + times
    for _ in range(len(times) - rank):
        self = unsqueeze(a, self, 0)
    assert self.shape is not None
    shape = tuple(_times(n, r) for n, r in zip(self.shape, times, strict=True))
    return a.node("Tile", [self, a.ints(*times)], self.dtype, shape)


def _times(size: Dim, count: Any) -> Dim:
    if type(count) is int and count == 1:
        return size
    return size * count if isinstance(size, int) and isinstance(count, int) else None


@op("repeat_interleave")
def repeat_interleave(a: Aten, self: Tensor, repeats: Any, dim: int | None = None, output_size: Any = None) -> Tensor:
    if type(repeats) is not int:
        raise a.unsupported("has to be one number", "repeats", type(repeats).__name__)
    if dim is None:
        self, dim = reshaped(a, self, [-1]), 0
    axis = a.axis(self, dim)
    wide = unsqueeze(a, self, axis + 1)
    tiled = repeat(a, wide, [repeats if k == axis + 1 else 1 for k in range(a.rank(wide))])
    return flatten(a, tiled, axis, axis + 1)


# ---------------------------------------------------------------------- joins and parts


@op("cat", "concat", "concatenate")
def cat(a: Aten, tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    whole = [t for t in tensors if t.shape != (0,)]  # what PyTorch lets pass as nothing
    if not whole:
        return tensors[0]
    dtype = result_type(*tensors)
    parts = [a.cast(t, dtype) for t in whole]
    first = parts[0]
    if first.shape is None:
        return a.node("Concat", parts, dtype, None, axis=dim)
    axis = a.axis(first, dim)
    sizes = [None if t.shape is None else t.shape[axis] for t in parts]
    total = sum(n for n in sizes if isinstance(n, int)) if all(isinstance(n, int) for n in sizes) else None
    shape = tuple(
        total if k == axis else next((t.shape[k] for t in parts if t.shape and t.shape[k] is not None), None)
        for k in range(len(first.shape))
    )
    return parts[0] if len(parts) == 1 else a.node("Concat", parts, dtype, shape, axis=axis)


@op("stack")
def stack(a: Aten, tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    axis = a.axis(tensors[0], dim, 1)
    return cat(a, [unsqueeze(a, t, axis) for t in tensors], axis)


@op("hstack", "vstack")
def hstack(a: Aten, tensors: Sequence[Tensor]) -> Tensor:
    if a.name == "hstack":
        return cat(a, tensors, 0 if a.rank(tensors[0]) == 1 else 1)
    return cat(a, [unsqueeze(a, t, 0) if a.rank(t) == 1 else t for t in tensors], 0)


@op("select", "select_copy")
def select(a: Aten, self: Tensor, dim: int, index: Any) -> Tensor:
    shape: Shape = None
    if self.shape is not None:
        dim = a.axis(self, dim)
        shape = (*self.shape[:dim], *self.shape[dim + 1 :])
    return a.node("Gather", [self, a.int_scalar(index)], self.dtype, shape, axis=dim)


@op("slice", "slice_copy", "narrow")
def slice_(
    a: Aten,
    self: Tensor,
    dim: int = 0,
    start: Any = None,
    end: Any = None,
    step: Any = 1,
    length: Any = None,
) -> Tensor:
    if a.name == "narrow":
        length = end if length is None else length
        if isinstance(start, int) and isinstance(length, int):
            end = start + length
            end = FAR if end == 0 else end
        else:
            end = a.part("add", start, length)
    start, end = 0 if start is None else start, FAR if end is None else end
    size = None
    if self.shape is not None:
        dim = a.axis(self, dim)
        size = self.shape[dim]
    whole = type(start) is int and start == 0 and type(end) is int and step == 1
    if whole and (end == FAR or (isinstance(size, int) and end >= size)):
        return self
    shape: Shape = None
    if self.shape is not None:
        known = isinstance(size, int) and all(isinstance(n, int) for n in (start, end, step))
        count: Dim = len(range(*slice(start, end, step).indices(size))) if known and isinstance(size, int) else None
        shape = (*self.shape[:dim], count, *self.shape[dim + 1 :])
    return a.node("Slice", [self, a.ints(start), a.ints(end), a.ints(dim), a.ints(step)], self.dtype, shape)


@op("split", "split_with_sizes", "unsafe_split", "split_copy", "split_with_sizes_copy")
def split(a: Aten, self: Tensor, split_size: Any = None, dim: int = 0, split_sizes: Any = None) -> list[Tensor]:
    sizes = split_size if split_sizes is None else split_sizes
    axis = a.axis(self, dim)
    whole = self.shape[axis] if self.shape else None
    if not isinstance(sizes, (list, tuple)):
        if not isinstance(whole, int) or type(sizes) is not int or sizes < 1:
            raise a.unsupported("splits an axis whose size is not known", "dim", dim)
        a.bounded(whole // sizes, "parts")
        sizes = [min(sizes, whole - at) for at in range(0, whole, sizes)] or [0]
    return _parts(a, self, axis, list(sizes))


@op("chunk", "unsafe_chunk")
def chunk(a: Aten, self: Tensor, chunks: int, dim: int = 0) -> list[Tensor]:
    axis = a.axis(self, dim)
    whole = self.shape[axis] if self.shape else None
    if not isinstance(whole, int):
        raise a.unsupported("splits an axis whose size is not known", "dim", dim)
    return split(a, self, max(-(-whole // chunks), 1), axis)


@op("tensor_split")
def tensor_split(a: Aten, self: Tensor, indices: Any = None, dim: int = 0, sections: Any = None) -> list[Tensor]:
    axis = a.axis(self, dim)
    whole = self.shape[axis] if self.shape else None
    parts = indices if sections is None else sections
    if not isinstance(whole, int):
        raise a.unsupported("splits an axis whose size is not known", "dim", dim)
    if type(parts) is int:
        a.bounded(parts, "parts")
    cuts = np.cumsum([whole // parts + (k < whole % parts) for k in range(parts)])[:-1] if type(parts) is int else parts
    a.bounded(len(cuts), "parts")
    edges = [0, *(min(int(c), whole) for c in cuts), whole]
    return _parts(a, self, axis, [max(end - start, 0) for start, end in pairwise(edges)])


def _parts(a: Aten, x: Tensor, axis: int, sizes: list[Any]) -> list[Tensor]:
    assert x.shape is not None
    results = [(x.dtype, (*x.shape[:axis], dim_of(n), *x.shape[axis + 1 :])) for n in sizes]
    return a.nodes("Split", [x, a.ints(*sizes)], results, axis=axis, num_outputs=len(sizes))


@op("unbind")
def unbind(a: Aten, self: Tensor, dim: int = 0) -> list[Tensor]:
    axis = a.axis(self, dim)
    count = self.shape[axis] if self.shape else None
    if not isinstance(count, int):
        raise a.unsupported("takes apart an axis whose size is not known", "dim", dim)
    return [select(a, self, axis, k) for k in range(a.bounded(count, "parts"))]


@op("flip")
def flip(a: Aten, self: Tensor, dims: Sequence[int]) -> Tensor:
    axes = a.axes(self, list(dims)) if dims else []
    count = len(axes)
    if not count:
        return self
    bounds = [a.ints(*[-1] * count), a.ints(*[-(2**31)] * count), a.ints(*axes), a.ints(*[-1] * count)]
    return a.node("Slice", [self, *bounds], self.dtype, self.shape)


@op("roll")
def roll(a: Aten, self: Tensor, shifts: Any, dims: Any = ()) -> Tensor:
    moves, axes = ([v] if isinstance(v, int) else list(v) for v in (shifts, dims))
    if len(moves) != len(axes):
        raise a.unsupported("of the flattened tensor is not supported", "dims", dims)
    for move, dim in zip(moves, axes, strict=True):
        size = self.shape[a.axis(self, dim)] if self.shape else None
        if isinstance(size, int):
            move %= max(size, 1)
        elif move < 0:
            raise a.unsupported("is negative, along an axis whose size is not known", "shifts", shifts)
        if move:
            self = cat(a, [a.part("slice", self, dim, -move), a.part("slice", self, dim, None, -move)], dim)
    return self
