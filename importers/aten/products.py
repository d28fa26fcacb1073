"""Dense layers and products of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .core import Aten, Shape, Tensor, broadcast, op, result_type


def transposed(a: Aten, x: Tensor) -> Tensor:
    """The last two axes exchanged."""
    rank = a.rank(x)
    if rank < 2:
        return x
    perm = (*range(rank - 2), rank - 1, rank - 2)
    assert x.shape is not None
    return a.node("Transpose", [x], x.dtype, tuple(x.shape[k] for k in perm), perm=perm)


@op("matmul", "mm", "bmm", "mv", "dot")
def matmul(a: Aten, self: Tensor, other: Tensor | None = None, **given: Tensor) -> Tensor:
    for name in ("mat2", "vec", "tensor"):
        other = given.pop(name, other)
    if given or other is None:
        raise TypeError(f"matmul of {sorted(given) or 'one tensor'}")
    return a.node("MatMul", [self, other], result_type(self, other), _product(self.shape, other.shape))


def _product(x: Shape, y: Shape) -> Shape:
    if x is None or y is None:
        return None
    rows, columns = x[-2:-1], y[-1:] if len(y) > 1 else ()
    return (*(broadcast(x[:-2], y[:-2]) or ()), *rows, *columns)


@op("linear")
def linear(a: Aten, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    known = a.known(weight)
    y = matmul(a, input, a.constant(known.T) if known is not None else transposed(a, weight))
    return y if bias is None else a.node("Add", [y, bias], y.dtype, y.shape)


def scaled(a: Aten, x: Tensor, factor: Any) -> Tensor:
    """``x * factor``, where the factor is not 1."""
    if type(factor) in (int, float) and factor == 1:
        return x
    return a.node("Mul", [x, a.tensor(factor, x.dtype)], x.dtype, x.shape)


def _plus(a: Aten, product: Tensor, self: Tensor, beta: Any, alpha: Any) -> Tensor:
    if type(beta) in (int, float) and beta == 0:
        return scaled(a, product, alpha)
    terms = [scaled(a, product, alpha), scaled(a, self, beta)]
    return a.node("Add", terms, product.dtype, broadcast(product.shape, self.shape))


@op("addmm")
def addmm(a: Aten, self: Tensor, mat1: Tensor, mat2: Tensor, beta: Any = 1, alpha: Any = 1) -> Tensor:
    return _plus(a, matmul(a, mat1, mat2), self, beta, alpha)


@op("addmv")
def addmv(a: Aten, self: Tensor, mat: Tensor, vec: Tensor, beta: Any = 1, alpha: Any = 1) -> Tensor:
    return _plus(a, matmul(a, mat, vec), self, beta, alpha)


@op("baddbmm")
def baddbmm(a: Aten, self: Tensor, batch1: Tensor, batch2: Tensor, beta: Any = 1, alpha: Any = 1) -> Tensor:
    return _plus(a, matmul(a, batch1, batch2), self, beta, alpha)


@op("einsum")
def einsum(a: Aten, equation: str, tensors: Sequence[Tensor], path: Any = None) -> Tensor:
    """`path` is an order of evaluation only."""
    equation = equation.replace(" ", "")
    shape: Shape = None
    left, arrow, right = equation.partition("->")
    names = left.split(",")
    if not arrow:
        letters = [c for c in left if c.isalpha()]
        right = ("..." if "..." in left else "") + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    sizes = {c: t.shape[k] for n, t in zip(names, tensors, strict=True) if t.shape for k, c in _places(n, len(t.shape))}
    if "..." not in right:
        shape = tuple(sizes.get(c) for c in right)
    dtype = result_type(*tensors)
    return a.node("Einsum", [a.cast(t, dtype) for t in tensors], dtype, shape, equation=f"{left}->{right}")


def _places(names: str, rank: int) -> list[tuple[int, str]]:
    """The axis of every letter of an operand."""
    front, dots, back = names.partition("...")
    return [*enumerate(front), *((rank - len(back) + k, c) for k, c in enumerate(back) if dots)]


@op("embedding")
def embedding(
    a: Aten,
    weight: Tensor,
    indices: Tensor,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """The last three matter to training."""
    shape = None if indices.shape is None or weight.shape is None else (*indices.shape, *weight.shape[1:])
    return a.node("Gather", [weight, indices], weight.dtype, shape, axis=0)


@op("bilinear")
def bilinear(a: Aten, input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y = einsum(a, "...i,oij,...j->...o", [input1, weight, input2])
    return y if bias is None else a.node("Add", [y, bias], y.dtype, y.shape)


@op("t")
def t(a: Aten, self: Tensor) -> Tensor:
    known = a.known(self)
    return a.constant(known.T) if known is not None else transposed(a, self)


@op("outer")
def outer(a: Aten, self: Tensor, vec2: Tensor) -> Tensor:
    dtype = result_type(self, vec2)
    column = a.node("Unsqueeze", [a.cast(self, dtype), a.ints(1)], dtype, (*(self.shape or (None,)), 1))
    shape = (*(self.shape or (None,)), *(vec2.shape or (None,)))
    return a.node("Mul", [column, a.cast(vec2, dtype)], dtype, shape)
