"""Handles, the table of operators, and what every translation uses."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np

from ...engine.errors import GatestepError, ModelFormatError, UnsupportedModelError
from ...engine.graph import Dim, Graph

__all__ = ["TABLE", "Aten", "SymInt", "Tensor", "op"]

DType = np.dtype[Any]
Shape = tuple[Dim, ...] | None

#: PyTorch's numbers of element types, as TorchScript writes them. NumPy has no bfloat16: float32 holds it.
_SCALAR_TYPES = ("u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8", None, None, None, "?", None, None, None, "f4")
#: Arguments that say where and how memory lies, not what is computed.
_PLACEMENT = frozenset(("device", "layout", "pin_memory", "memory_format", "non_blocking", "requires_grad"))
#: More parts than this no program takes an axis into, nor has it that many channels.
MOST_PARTS = 1 << 16
#: The graph's operators whose result is all zeros where their first input is.
_KEEPS_ZEROS = frozenset("Transpose Squeeze Unsqueeze Reshape Slice Gather Expand Tile Split Cast".split())


@dataclass(frozen=True)
class Tensor:
    """A value of the graph.

    Attributes
    ----------
    name : str
        In the graph.
    dtype : numpy.dtype
        As PyTorch promotes it; bfloat16 is float32.
    shape : tuple of (int | str | None), or None
        Strings name free dimensions; None where a size, or even the number of axes, is not known.
    """

    name: str
    dtype: DType
    shape: Shape


@dataclass(frozen=True)
class SymInt:
    """A size that is known when the model is called: an int64 value of the graph, without axes."""

    name: str


_F = TypeVar("_F", bound=Callable[..., Any])
#: ATen's name without overload -> its translation. Parameters are called as in ATen's schema.
TABLE: dict[str, Callable[..., Any]] = {}


def op(*names: str) -> Callable[[_F], _F]:
    """Enter a translation under one name or several."""

    def enter(translation: _F) -> _F:
        for name in names:
            TABLE[name] = translation
        return translation

    return enter


@cache
def _signature(name: str) -> inspect.Signature:
    signature = inspect.signature(TABLE[name])
    return signature.replace(parameters=list(signature.parameters.values())[1:])


class Aten:
    """The state of one translation into `graph`.

    Parameters
    ----------
    graph : Graph
    source : str
        What messages call the model.
    """

    def __init__(self, graph: Graph, source: str) -> None:
        self.graph, self.source = graph, source
        #: Values that are zeros throughout, whatever their sizes.
        self.zeros: set[str] = set()
        #: The operator of the present call, without overload, and where it is.
        self.name = self.where = self._op = ""

    def call(self, op: str, args: Sequence[Any], kwargs: Mapping[str, Any], *, where: str) -> Any:
        """Add what an operator computes to the graph.

        Parameters
        ----------
        op : str
            ATen's name without namespace: ``"add"``, or with overload, ``"add.Tensor"``. The in-place form, ``"add_"``,
            gives what ends up in its first argument; which other names see that is for the front end to say.
        args, kwargs
            Numbers, strings, None, dtypes (or PyTorch's numbers of them), `Tensor`, `SymInt`, and lists of these.
        where : str
            Module path or line, for messages and as the name of the nodes.

        Returns
        -------
        Tensor, SymInt, number, list, tuple or None
            As the operator gives it.

        Raises
        ------
        UnsupportedModelError
            No translation, for this operator or this argument.
        ModelFormatError
            Arguments that fit no operator.
        """
        name = op.split(".")[0]
        if name not in TABLE and name.endswith("_") and name[:-1] in TABLE:
            name = name[:-1]
        self._op, self.where, self.name = op, where, name
        if name not in TABLE:
            raise self.unsupported("the operator is not supported")
        given = {key: value for key, value in kwargs.items() if not self._is_placement(name, key, value)}
        try:
            bound = _signature(name).bind(*args, **given)
        except TypeError as error:
            known = _signature(name).parameters
            for key, value in given.items():
                if key not in known:
                    raise self.unsupported("the argument is not supported", key, value) from None
            raise ModelFormatError(f"{self.source}: {self._label}: {error}") from None
        try:
            return TABLE[name](self, *bound.args, **bound.kwargs)
        except GatestepError:
            raise
        except (TypeError, ValueError, IndexError, KeyError, AttributeError, OverflowError, AssertionError) as error:
            raise ModelFormatError(f"{self.source}: {self._label}: its arguments do not fit ({error})") from error

    def part(self, name: str, *args: Any) -> Any:
        """What another operator gives, as a part of the present one."""
        outer, self.name = self.name, name
        try:
            return TABLE[name](self, *args)
        finally:
            self.name = outer

    def _is_placement(self, name: str, key: str, value: object) -> bool:
        """Whether an argument only says where memory lies; a sparse layout says more."""
        return key in _PLACEMENT and key not in _signature(name).parameters and (key != "layout" or value in (None, 0))

    @property
    def _label(self) -> str:
        return f"{self._op} {self.where!r}"

    def unsupported(
        self, reason: str, attribute: str | None = None, value: object = None, hint: str | None = None
    ) -> UnsupportedModelError:
        """The error for the present call."""
        return UnsupportedModelError(
            reason, source=self.source, node=self._label, attribute=attribute, value=value, hint=hint
        )

    # ------------------------------------------------------------------ values
    def input(self, name: str, shape: Sequence[Dim] | None, dtype: Any, *, optional: bool = False) -> Tensor:
        """Declare a model input."""
        self.graph.input(name, shape, dtype, optional=optional)
        return Tensor(name, np.dtype(dtype), None if shape is None else tuple(shape))

    def constant(self, array: Any, name: str | None = None) -> Tensor:
        """A tensor that is known."""
        array = np.asarray(array)
        made = Tensor(self.graph.constant(array, name), array.dtype, array.shape)
        if array.size and not array.any():
            self.zeros.add(made.name)
        return made

    def known(self, x: object) -> np.ndarray | None:
        """The array of a tensor that is a constant."""
        return self.graph.constants.get(x.name) if isinstance(x, Tensor) else None

    def nodes(
        self, kind: str, inputs: Iterable[Tensor | str], results: Sequence[tuple[DType, Shape]], **attrs: Any
    ) -> list[Tensor]:
        """Append a node with several outputs, of these types and shapes."""
        names = [x if isinstance(x, str) else x.name for x in inputs]
        made = self.graph.add(kind, names, len(results), name=self.where, **attrs)
        if kind in _KEEPS_ZEROS and names[0] in self.zeros:
            self.zeros.update(made)
        return [Tensor(name, *result) for name, result in zip(made, results, strict=True)]

    def node(self, kind: str, inputs: Iterable[Tensor | str], dtype: DType, shape: Shape, **attrs: Any) -> Tensor:
        """Append a node with one output."""
        return self.nodes(kind, inputs, [(dtype, shape)], **attrs)[0]

    def ints(self, *values: int | SymInt | Tensor) -> str:
        """The name of a list of sizes."""
        if all(isinstance(value, (int, np.integer)) for value in values):
            return self.graph.constant(np.array(values, np.int64))
        parts: list[str] = []
        for value in values:
            if isinstance(value, (SymInt, Tensor)):
                parts += self.graph.add("Unsqueeze", (value.name, self.ints(0)), name=self.where)
            else:
                parts.append(self.ints(value))
        return parts[0] if len(parts) == 1 else self.graph.add("Concat", parts, name=self.where, axis=0)[0]

    def int_scalar(self, value: int | SymInt) -> str:
        """The name of one size, without axes."""
        return value.name if isinstance(value, SymInt) else self.graph.constant(np.array(value, np.int64))

    def tensor(self, value: Any, dtype: DType) -> Tensor:
        """A tensor, number or size as a tensor of this type."""
        if isinstance(value, SymInt):
            value = Tensor(value.name, np.dtype(np.int64), ())
        if isinstance(value, Tensor):
            return self.cast(value, dtype)
        if not isinstance(value, (bool, int, float)):
            raise TypeError(f"{type(value).__name__} is no number")
        return self.constant(np.array(value, dtype))

    def cast(self, x: Tensor, dtype: DType) -> Tensor:
        """`x` with another element type; one floating type is as good as another, as all become the arithmetic's."""
        if x.dtype == dtype:
            return x
        if x.dtype.kind == dtype.kind == "f":
            return dataclasses.replace(x, dtype=dtype)
        return self.node("Cast", [x], dtype, x.shape, to=dtype)

    def dtype(self, value: Any, default: DType | None = None) -> DType:
        """An argument `dtype`, as PyTorch numbers them."""
        if value is None and default is not None:
            return default
        if isinstance(value, np.dtype):
            return value
        code = _SCALAR_TYPES[value] if type(value) is int and 0 <= value < len(_SCALAR_TYPES) else None
        if code is None:
            raise self.unsupported("is an element type that is not supported", "dtype", value)
        return np.dtype(code)

    # ------------------------------------------------------------------ sizes
    def rank(self, x: Tensor) -> int:
        """The number of axes."""
        if x.shape is None:
            raise self.unsupported(
                "takes a tensor whose number of axes is not known",
                hint="Say the shapes of the model's inputs, or export it with torch.export",
            )
        return len(x.shape)

    def axis(self, x: Tensor, dim: int, extra: int = 0) -> int:
        """An axis counted from the front; `extra` more than `x` has."""
        rank = self.rank(x) + extra
        if type(dim) is not int or not -max(rank, 1) <= dim < max(rank, 1):
            raise IndexError(f"dim={dim!r} of {rank} axes")
        return dim + max(rank, 1) if dim < 0 else dim

    def axes(self, x: Tensor, dims: int | Sequence[int] | None) -> list[int]:
        """Several axes; none at all means every one."""
        dims = [dims] if isinstance(dims, int) else dims
        return [self.axis(x, dim) for dim in dims] if dims else list(range(self.rank(x)))

    def size(self, x: Tensor, dim: int) -> int | SymInt:
        """The size of an axis."""
        if x.shape is not None:
            dim = self.axis(x, dim)
            known = x.shape[dim]
            if isinstance(known, int):
                return known
        (shape,) = self.graph.add("Shape", [x.name], name=self.where, start=0, end=None)
        return SymInt(self.graph.add("Gather", [shape, self.int_scalar(dim)], name=self.where, axis=0)[0])

    def bounded(self, count: int, what: str) -> int:
        """A number that a program only claims, before something is made that often."""
        if count > MOST_PARTS:
            raise self.unsupported(f"asks for {count} {what}, more than the {MOST_PARTS} that are supported")
        return count

    def sizes(self, x: Tensor) -> str:
        """The name of the list of all sizes."""
        if x.shape is not None and all(isinstance(size, int) for size in x.shape):
            return self.graph.constant(np.array(x.shape, np.int64))
        return self.graph.add("Shape", [x.name], name=self.where, start=0, end=None)[0]

    # ------------------------------------------------------------------ the end
    def prune(self) -> None:
        """Drop nodes and constants that no output depends on."""
        needed = {port.name for port in self.graph.outputs}
        nodes = []
        for node in reversed(self.graph.nodes):
            if not needed.isdisjoint(node.outputs):
                nodes.append(node)
                needed.update(node.inputs)
        self.graph.nodes[:] = nodes[::-1]
        for name in self.graph.constants.keys() - needed:
            del self.graph.constants[name]


# ---------------------------------------------------------------------- types and shapes


def dim_of(value: Any) -> Dim:
    """A size as a part of a shape."""
    return int(value) if isinstance(value, (int, np.integer)) else None


def broadcast(*shapes: Shape) -> Shape:
    """The common shape, as far as it is known."""
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes):
        return None
    rank = max(map(len, known), default=0)
    padded = [(1,) * (rank - len(shape)) + shape for shape in known]
    return tuple(_common(sizes) for sizes in zip(*padded, strict=True))


def _common(sizes: tuple[Dim, ...]) -> Dim:
    wide = {size for size in sizes if size != 1}
    fixed = {size for size in wide if isinstance(size, int)}
    if len(fixed) > 1:
        raise ValueError(f"sizes {sorted(fixed)} do not broadcast")
    if fixed:
        return fixed.pop()
    return wide.pop() if len(wide) == 1 else 1 if not wide else None


def promoted(a: DType, b: DType) -> DType:
    """PyTorch's common type of two."""
    if a.kind == b.kind == "f" or (a.kind in "iu" and b.kind in "iu"):
        return np.promote_types(a, b)
    order = "buif"  # a boolean yields to an integer, that to a float
    return a if order.index(a.kind) > order.index(b.kind) else b


def _category(dtype: DType) -> int:
    return {"b": 0, "u": 1, "i": 1, "f": 2}[dtype.kind]


def result_type(*values: Any) -> DType:
    """What PyTorch makes of tensors and numbers together: a number counts only where it is of a higher kind."""
    levels: list[DType | None] = [None, None, None]  # tensors with axes, without, numbers

    def enter(level: int, dtype: DType) -> None:
        held = levels[level]
        levels[level] = dtype if held is None else promoted(held, dtype)

    for value in values:
        if isinstance(value, Tensor):
            enter(1 if value.shape == () else 0, value.dtype)
        elif isinstance(value, (bool, int, float, SymInt)):
            enter(2, np.dtype(bool if isinstance(value, bool) else "f4" if isinstance(value, float) else "i8"))
        else:
            raise TypeError(f"{type(value).__name__} is neither a tensor nor a number")
    result: DType | None = None
    for dtype in levels:
        if result is None:
            result = dtype
        elif dtype is not None and _category(dtype) > _category(result):
            result = promoted(result, dtype)
    assert result is not None
    return result
