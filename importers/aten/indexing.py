"""Reading and writing by index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .core import Aten, Shape, SymInt, Tensor, broadcast, dim_of, op
from .pointwise import BOOL, LONG, binary
from .views import FAR, cat, permute, slice_, unsqueeze


@op("index", "_unsafe_index")
def index(a: Aten, self: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    """``self[indices]``, None standing for a whole axis."""
    places = [(k, i) for k, i in enumerate(indices) if i is not None]
    if not places:
        return self
    _whole_numbers(a, [i for _, i in places])
    rank = a.rank(self)
    assert self.shape is not None
    if len(places) == 1:
        axis, picked = places[0]
        shape: Shape = (*self.shape[:axis], *(picked.shape or ()), *self.shape[axis + 1 :])
        return a.node("Gather", [self, picked], self.dtype, None if picked.shape is None else shape, axis=axis)
    axes = [k for k, _ in places]
    rest = [k for k in range(rank) if k not in axes]
    front = permute(a, self, [*axes, *rest])
    tuples = _tuples(a, [i for _, i in places])
    wide = tuples.shape[:-1] if tuples.shape else ()
    made = a.node("GatherND", [front, tuples], self.dtype, (*wide, *(self.shape[k] for k in rest)), batch_dims=0)
    if axes != list(range(axes[0], axes[0] + len(axes))) or axes[0] == 0:
        return made  # indices that do not lie side by side: what they give comes first
    count = len(wide)
    order = [*range(count, count + axes[0]), *range(count), *range(count + axes[0], count + len(rest))]
    return permute(a, made, order)


def _whole_numbers(a: Aten, indices: Sequence[Tensor]) -> None:
    for i in indices:
        if i.dtype.kind not in "iu":
            raise a.unsupported(
                "indexing by truth values gives as many elements as are true, which is not supported",
                "indices",
                str(i.dtype),
            )


def _tuples(a: Aten, indices: Sequence[Tensor]) -> Tensor:
    """Indices of several axes, broadcast, side by side along a new last axis."""
    wide = broadcast(*(i.shape for i in indices))
    if wide is None:
        raise a.unsupported("takes indices whose number of axes is not known")
    shape = ""
    for i in indices:
        one = a.sizes(i)
        wider = a.graph.add("Expand", (_ones(a, shape), one)) if shape else ()
        shape = a.graph.add("Shape", wider, start=0, end=None)[0] if wider else one
    spread = [a.node("Expand", [a.cast(i, LONG), shape], LONG, wide) for i in indices]
    return cat(a, [unsqueeze(a, i, len(wide)) for i in spread], len(wide))


def _ones(a: Aten, shape: str) -> str:
    return a.graph.add("ConstantOfShape", (shape,), value=np.ones(1, np.int64))[0]


@op("index_select")
def index_select(a: Aten, self: Tensor, dim: int, index: Tensor) -> Tensor:
    axis = a.axis(self, dim)
    shape = self.shape or ()
    count = (index.shape or (None,))[0] if index.shape != () else 1
    flat = unsqueeze(a, index, 0) if index.shape == () else index
    return a.node("Gather", [self, flat], self.dtype, (*shape[:axis], count, *shape[axis + 1 :]), axis=axis)


@op("gather", "take_along_dim")
def gather(
    a: Aten, self: Tensor, dim: Any = None, index: Any = None, sparse_grad: bool = False, indices: Any = None
) -> Tensor:
    if a.name == "take_along_dim":  # (self, indices, dim), and the indices broadcast
        raise a.unsupported("the operator is not supported", hint="Write it as torch.gather")
    return a.node("GatherElements", [self, index], self.dtype, index.shape, axis=a.axis(self, dim))


@op("scatter", "scatter_add", "scatter_reduce")
def scatter(
    a: Aten,
    self: Tensor,
    dim: int,
    index: Tensor,
    src: Any = None,
    reduce: Any = None,
    value: Any = None,
    include_self: bool = True,
) -> Tensor:
    kinds = {None: "none", "add": "add", "multiply": "mul", "sum": "add", "prod": "mul", "amax": "max", "amin": "min"}
    if reduce not in kinds:
        raise a.unsupported("is not supported", "reduce", reduce)
    if not include_self:
        raise a.unsupported("is not supported", "include_self", include_self)
    reduction = "add" if a.name == "scatter_add" else kinds[reduce]
    updates = src if value is None else value
    if isinstance(updates, Tensor):
        if updates.shape != index.shape:  # only as much as there are indices
            for axis, size in enumerate(index.shape or ()):
                updates = slice_(a, updates, axis, 0, size if size is not None else FAR)
        updates = a.cast(updates, self.dtype)
    else:
        updates = a.node("Expand", [a.tensor(updates, self.dtype), a.sizes(index)], self.dtype, index.shape)
    attrs = {"axis": a.axis(self, dim), "reduction": reduction}
    return a.node("ScatterElements", [self, index, updates], self.dtype, self.shape, **attrs)


@op("index_put", "_unsafe_index_put", "_index_put_impl")
def index_put(
    a: Aten,
    self: Tensor,
    indices: Sequence[Tensor | None],
    values: Tensor,
    accumulate: bool = False,
    unsafe: bool = False,
) -> Tensor:
    given = [i for i in indices if i is not None]
    leading = list(indices[: len(given)])
    if len(given) == 1 and given[0].dtype == BOOL and given[0].shape == self.shape and values.shape in ((), (1,)):
        if accumulate:
            values = binary(a, "Add", self, values)
        return a.node("Where", [given[0], a.cast(values, self.dtype), self], self.dtype, self.shape)
    _whole_numbers(a, given)
    if any(i is None for i in leading) or self.shape is None:
        raise a.unsupported("writes along axes other than the first, which is not supported")
    tuples = _tuples(a, given)
    shape = (*(tuples.shape or (None,))[:-1], *self.shape[len(given) :])
    sizes = a.ints(
        *(a.size(tuples, k) for k in range(len(shape) - len(self.shape) + len(given))),
        *(a.size(self, k) for k in range(len(given), len(self.shape))),
    )
    updates = a.node("Expand", [a.cast(values, self.dtype), sizes], self.dtype, shape)
    reduction = "add" if accumulate else "none"
    return a.node("ScatterND", [self, tuples, updates], self.dtype, self.shape, reduction=reduction)


@op("select_scatter")
def select_scatter(a: Aten, self: Tensor, src: Tensor, dim: int, index: Any) -> Tensor:
    axis = a.axis(self, dim)
    if not isinstance(index, int):
        raise a.unsupported("has to be a number that is known", "index", type(index).__name__)
    return slice_scatter(a, self, unsqueeze(a, src, axis), axis, index, FAR if index == -1 else index + 1)


@op("slice_scatter")
def slice_scatter(
    a: Aten, self: Tensor, src: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Tensor:
    """`self` with a part of one axis replaced."""
    axis = a.axis(self, dim)
    if step != 1:
        raise a.unsupported("is not supported", "step", step)
    start, end = 0 if start is None else start, FAR if end is None else end
    parts = [slice_(a, self, axis, 0, start), a.cast(src, self.dtype), slice_(a, self, axis, end, None)]
    if type(start) is int and start == 0:
        del parts[0]
    size = self.shape[axis] if self.shape else None
    if type(end) is int and (end == FAR or (isinstance(size, int) and end >= size)):
        parts.pop()
    return _with_shape(cat(a, parts, axis), self.shape)


def _with_shape(x: Tensor, shape: Shape) -> Tensor:
    return Tensor(x.name, x.dtype, shape)


@op("copy")
def copy(a: Aten, self: Tensor, src: Any, non_blocking: bool = False) -> Tensor:
    """`src` in the shape and type of `self`."""
    value = a.tensor(src, self.dtype)
    if value.shape == self.shape and None not in (self.shape or (None,)):
        return value
    return a.node("Expand", [value, a.sizes(self)], self.dtype, self.shape)


@op("one_hot")
def one_hot(a: Aten, self: Tensor, num_classes: int = -1) -> Tensor:
    if type(num_classes) is not int or num_classes < 1:
        raise a.unsupported("has to be given", "num_classes", num_classes)
    shape = None if self.shape is None else (*self.shape, num_classes)
    values = a.constant(np.array([0, 1], np.int64))
    return a.node("OneHot", [self, a.ints(num_classes), values], LONG, shape, axis=-1)


@op("tril", "triu")
def triangle(a: Aten, self: Tensor, diagonal: int = 0) -> Tensor:
    k = a.graph.constant(np.array(diagonal, np.int64))
    return a.node("Trilu", [self, k], self.dtype, self.shape, upper=a.name == "triu")


@op("unfold")
def unfold(a: Aten, self: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Windows along one axis, their elements along a new last one."""
    axis = a.axis(self, dimension)
    length = self.shape[axis] if self.shape else None
    if not isinstance(length, int):
        raise a.unsupported("takes windows of an axis whose size is not known", "dimension", dimension)
    count = max((length - size) // step + 1, 0)
    a.bounded(count * size >> 8, "elements of windows")
    places = np.arange(count)[:, None] * step + np.arange(size)
    wide = index(a, self, [None] * axis + [a.constant(places.astype(np.int64))])
    rank = a.rank(wide)
    return permute(a, wide, [k for k in range(rank) if k != axis + 1] + [axis + 1])


@op("masked_select", "nonzero", "unique", "_unique2")
def counted(a: Aten, *args: Any, **kwargs: Any) -> Tensor:
    raise a.unsupported("gives as many elements as its values say, which is not supported")


@op("meshgrid")
def meshgrid(a: Aten, tensors: Sequence[Tensor], indexing: str = "ij") -> list[Tensor]:
    if indexing != "ij":
        raise a.unsupported("is not supported", "indexing", indexing)
    count = len(tensors)
    sizes: list[int | SymInt] = [a.size(t, 0) for t in tensors]
    shape = tuple(dim_of(n) for n in sizes)
    grids = []
    for k, t in enumerate(tensors):
        column = a.node("Unsqueeze", [t, a.ints(*(j for j in range(count) if j != k))], t.dtype, None)
        grids.append(a.node("Expand", [column, a.ints(*sizes)], t.dtype, shape))
    return grids
