"""Sums over named axes, as transposes, sums and matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..graph import Node
from ..values import Value, View
from .logic import LARGEST
from .math import binary, linear, matmul, reduced
from .plumbing import permuted, reshaped
from .registry import Array, Op, register

if TYPE_CHECKING:
    from ..lowering import Lowering

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def terms(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The labels of the operands and of the result, one letter per axis; an ellipsis gets letters of its own."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    operands = left.split(",")
    if len(operands) != len(ranks):
        raise ValueError(f"equation={equation!r} is not one of {len(ranks)} operands")
    spare = [c for c in _LETTERS if c not in equation]
    hidden = [
        rank - len(term.replace("...", "")) if "..." in term else 0 for term, rank in zip(operands, ranks, strict=True)
    ]
    if min(hidden) < 0 or max(hidden) > len(spare):
        raise ValueError(f"equation={equation!r} does not fit operands of {list(ranks)} axes")
    wide = "".join(spare[: max(hidden)])
    expanded = [t.replace("...", wide[len(wide) - n :], 1) for t, n in zip(operands, hidden, strict=True)]
    joined = "".join(expanded)
    if not arrow:
        right = ("..." if "..." in left else "") + "".join(
            c for c in sorted(set(joined) - set(wide)) if joined.count(c) == 1
        )
    result = right.replace("...", wide, 1)
    if any(len(t) != rank for t, rank in zip(expanded, ranks, strict=True)):
        raise ValueError(f"equation={equation!r} does not fit operands of {list(ranks)} axes")
    if not all(c.isascii() and c.isalpha() for c in joined + result):
        raise ValueError(f"equation={equation!r} names axes by something else than letters")
    if len(set(result)) != len(result) or set(result) - set(joined):
        raise ValueError(f"equation={equation!r} has a result that does not follow from its operands")
    return expanded, result


def diagonal(ctx: Lowering, node: Node, x: View, term: str) -> tuple[View, str]:
    """Axes of one name within one operand become one: the strides add up."""
    names = "".join(dict.fromkeys(term))
    if names == term:
        return x, term
    shape, strides, tags = [], [], []
    for name in names:
        places = [k for k, c in enumerate(term) if c == name]
        if len({x.shape[k] for k in places}) > 1:
            raise ValueError(f"axes {name!r} of shape {x.shape} differ in size")
        for k in places if len(places) > 1 else ():
            ctx.mix(x.tags[k], node, "takes the diagonal of the frames")
        shape.append(x.shape[places[0]])
        strides.append(sum(x.strides[k] for k in places))
        tags.append(x.tags[places[0]])
    return x.with_(shape=tuple(shape), strides=tuple(strides), tags=tuple(tags)), names


def summed(ctx: Lowering, node: Node, x: Value, term: str, needed: str) -> tuple[Value, str]:
    """Without repeated axes, and without those that nothing else needs."""
    if isinstance(x, np.ndarray):
        rest = "".join(c for c in dict.fromkeys(term) if c in needed)
        return np.asarray(np.einsum(f"{term}->{rest}", x)), rest
    x, term = diagonal(ctx, node, x, term)
    gone = [k for k, c in enumerate(term) if c not in needed]
    if gone:
        x = reduced(ctx, node, "ReduceSum", x, gone, False)
    return x, "".join(c for c in term if c in needed)


def arranged(ctx: Lowering, node: Node, x: Value, term: str, lead: str, rows: str, columns: str) -> Value:
    """`x` as (*lead, rows, columns), several axes merged into one where need be."""
    perm = [term.index(c) for c in lead + rows + columns]
    shape = [x.shape[k] for k in perm]
    split = len(lead) + len(rows)
    merged = (*shape[: len(lead)], math.prod(shape[len(lead) : split]), math.prod(shape[split:]))
    if isinstance(x, np.ndarray):
        known: Array = x.transpose(perm).reshape(merged)
        return known
    return reshaped(ctx, node, permuted(x, perm), merged)


def product(ctx: Lowering, node: Node, a: Value, s: str, b: Value, t: str, needed: str, key: str) -> tuple[Value, str]:
    """The product of two operands, summed over what they share and nothing else needs."""
    if isinstance(a, np.ndarray):
        a, s, b, t = b, t, a, s
    sizes: dict[str, int] = {}
    for name, size in zip(s + t, (*a.shape, *b.shape), strict=True):
        if sizes.setdefault(name, size) != size:
            raise ValueError(f"axes {name!r} differ in size: {sizes[name]} and {size}")
    shared = [c for c in s if c in t]
    inner = "".join(c for c in shared if c not in needed)
    lead = "".join(c for c in shared if c in needed)
    rows = "".join(c for c in s if c not in t)
    columns = "".join(c for c in t if c not in s)
    names = lead + rows + columns
    if not inner and isinstance(a, View):  # nothing to sum: a product of elements
        wide_a = expanded(a, s, names)
        return binary(ctx, node, "Mul", wide_a, expanded(b, t, names)), names
    left = arranged(ctx, node, a, s, lead, rows, inner)
    right = arranged(ctx, node, b, t, lead, inner, columns)
    if isinstance(left, View) and isinstance(right, np.ndarray) and not lead:
        y = linear(ctx, node, left, right, None, ("einsum", key, t, inner, columns))
    else:
        y = matmul(ctx, node, left, right)
    return reshaped(ctx, node, y, tuple(sizes[c] for c in names)), names


def expanded(x: Value, term: str, names: str) -> Value:
    """`x` with its axes in the order of `names`, and axes of one element for those that it lacks."""
    order = [term.index(c) for c in names if c in term]
    if isinstance(x, np.ndarray):
        known: Array = x.transpose(order).reshape([x.shape[term.index(c)] if c in term else 1 for c in names])
        return known
    places = [term.index(c) if c in term else None for c in names]
    return x.with_(
        shape=tuple(1 if k is None else x.shape[k] for k in places),
        strides=tuple(0 if k is None else x.strides[k] for k in places),
        tags=tuple(None if k is None else x.tags[k] for k in places),
    )


@register("Einsum")
class Einsum(Op):
    """y = the sum, over all names that the result lacks, of the products of the operands: ``ij,jk->ik``."""

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        arrays = [a for a in inputs if a is not None]
        operands, result = terms(node.attrs["equation"], [a.ndim for a in arrays])
        sizes = {c: n for t, a in zip(operands, arrays, strict=True) for c, n in zip(t, a.shape, strict=True)}
        if math.prod(sizes[c] for c in result) > LARGEST:
            raise ValueError(f"a result of {[sizes[c] for c in result]} is out of all proportion")
        return (np.asarray(np.einsum(",".join(operands) + "->" + result, *arrays, optimize=len(arrays) > 2)),)

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        values = [v for v in inputs if v is not None]
        operands, result = terms(node.attrs["equation"], [v.ndim for v in values])
        later = ["".join(operands[k + 1 :]) + result for k in range(len(operands))]
        y, term = summed(ctx, node, values[0], operands[0], later[0])
        for k in range(1, len(values)):
            x, name = summed(ctx, node, values[k], operands[k], term + later[k])
            y, term = product(ctx, node, y, term, x, name, later[k], node.inputs[k])
        if isinstance(y, np.ndarray):
            return (y.transpose([term.index(c) for c in result]),)
        return (permuted(y, [term.index(c) for c in result]),)
