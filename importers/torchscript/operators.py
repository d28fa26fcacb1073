"""PyTorch's operators as a TorchScript program calls them: on numbers, on lists, on tensors that are written into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...engine.errors import UnsupportedModelError
from ..aten import SymInt, Tensor
from .lowered import Lowered
from .plain import ARITHMETIC, PLAIN, key
from .values import Appended, Fact, Rank, Size, Stacked, Unknown, Var

__all__ = ["Operators"]

#: PyTorch's numbers of element types.
_CODES = {"u1": 0, "i1": 1, "i2": 2, "i4": 3, "i8": 4, "f2": 5, "f4": 6, "f8": 7, "b1": 11}
_PLAIN_VALUES = (type(None), bool, int, float, str)


class Operators(Lowered):
    """What the operators of one evaluation become; see `Lowered` for its parameters."""

    key = staticmethod(key)

    # ------------------------------------------------------------------ one call
    def call(self, name: str, args: list[Any], kwargs: dict[str, Any], where: str) -> Any:
        """An operator, ``torch.NAME`` or ``ops.prim.NAME``, on values of the program."""
        self.budget.operator()
        self.where = where
        if name != "append" and any(isinstance(value, Appended) for value in args):
            raise UnsupportedModelError(
                f"a loop reads ({name[:80]}) a list that it appends to",
                source=self.aten.source,
                node=f"code of {where!r}",
            )
        special = _SPECIAL.get(name)
        if special is not None:
            return special(self, *args, **kwargs)
        known = self._known(name, args, kwargs)
        if known is not NotImplemented:
            return known
        return self._lowered(name, args, kwargs, where)

    def _known(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """The result where every operand is known; NotImplemented where it takes the graph."""
        values = [self._number(value) for value in args] if len(args) <= 3 else args
        numbers = all(isinstance(value, (bool, int, float)) for value in values)
        if name in ARITHMETIC and args and numbers and not all(isinstance(value, Var) for value in args):
            return ARITHMETIC[name](*values, **kwargs)
        if name in ("min", "max") and len(args) == 1 and isinstance(args[0], list):
            return self._extreme(name, args[0])
        if name in PLAIN and not any(isinstance(value, (Var, SymInt, Unknown)) for value in args):
            return PLAIN[name](*args, **kwargs)
        if name in ("append", "extend", "insert", "add", "list", "get") and isinstance(args[0], (list, dict)):
            return PLAIN[name](*args, **kwargs)
        return NotImplemented

    def _extreme(self, name: str, values: list[Any]) -> Any:
        if not values or not all(isinstance(value, (int, float)) for value in values):
            raise TypeError("the extreme of what are no numbers")
        return ARITHMETIC[name](values)

    # ------------------------------------------------------------------ what looks like Python
    def item(self, thing: Any, index: Any) -> Any:
        """``thing[index]``."""
        if isinstance(thing, dict):
            return thing[key(index)]
        if isinstance(thing, Stacked):
            return self._lowered("select", [thing.whole, thing.axis, index], {}, self.where)
        if not isinstance(thing, (list, tuple)) or not isinstance(index, int):
            raise UnsupportedModelError(
                f"an element {type(index).__name__} of a {type(thing).__name__}", source=self.aten.source
            )
        return thing[index]

    def set_item(self, thing: Any, index: Any, value: Any) -> None:
        """``thing[index] = value``."""
        if isinstance(thing, dict):
            thing[key(index)] = value
        elif isinstance(thing, list) and isinstance(index, int):
            thing[index] = value
        else:
            raise TypeError(f"an element of a {type(thing).__name__} is set")

    def _on__set_item(self, thing: Any, index: Any, value: Any) -> Any:
        self.set_item(thing, index, value)
        return thing

    def _on___getitem__(self, thing: Any, index: Any) -> Any:
        return self.item(thing, index)

    def _on___is__(self, one: Any, other: Any) -> bool:
        return one is other

    def _on___isnot__(self, one: Any, other: Any) -> bool:
        return one is not other

    def _on___contains__(self, holder: Any, value: Any) -> Any:
        if isinstance(holder, dict):
            return key(value) in holder
        if isinstance(value, (SymInt, Var)):
            return Unknown()
        if not isinstance(holder, (list, tuple, str)):
            raise TypeError("a search in what is no list")
        if isinstance(value, Rank) and not self.shapes.loose and value in holder and value != max(holder):
            # A layer that takes one sequence or a batch of them: mostly it gets a batch.
            raise self.shapes.misfit("a layer gets a single sequence instead of a batch")
        return value in holder

    def _on___not__(self, value: Any) -> Any:
        return value.negated() if isinstance(value, Unknown) else not value

    def _on_NumToTensor(self, value: Any) -> Any:
        return value

    _on_ImplicitTensorToNum = _on_NumToTensor
    _on_scalar_tensor_default = _on_NumToTensor

    # ------------------------------------------------------------------ what tensors are
    def _on_dim(self, x: Var) -> Rank:
        return Rank(self.aten.rank(self.tensor(x)))

    def _on_size(self, x: Var, dim: int | None = None) -> Any:
        tensor = self.tensor(x)
        if dim is None:
            return [self._size(tensor, axis) for axis in range(self.aten.rank(tensor))]
        return self._size(tensor, self.aten.axis(tensor, dim))

    _on_shape = _on_size

    def _size(self, tensor: Tensor, axis: int) -> Any:
        shape = tensor.shape
        known = self.shapes.resolved(shape[axis]) if shape is not None else None
        if isinstance(known, int):
            return known
        if (tensor.name, axis) not in self._sizes:
            size = self.aten.size(tensor, axis)
            assert isinstance(size, SymInt)
            self._sizes[tensor.name, axis] = Size(size.name, known or "")
        return self._sizes[tensor.name, axis]

    def _on_len(self, x: Any) -> Any:
        if isinstance(x, Stacked):
            return self._on_size(x.whole, x.axis)
        return self._on_size(x, 0) if isinstance(x, Var) else len(x)

    def _on_dtype(self, x: Var) -> int:
        return _CODES[x.read().dtype.str[1:]]

    def _on_is_floating_point(self, x: Var) -> bool:
        return x.read().dtype.kind == "f"

    def _on_is_cuda(self, x: Var) -> bool:
        return False

    _on_requires_grad = _on_is_sparse = _on_is_quantized = _on_is_complex = _on_is_mkldnn = _on_is_cuda

    def _on_device(self, *said: Any, **more: Any) -> str:
        return "cpu"

    # ------------------------------------------------------------------ numbers
    def _on_Int(self, value: Any) -> Any:
        value = self._number(value)
        if isinstance(value, (bool, int, float, str)):
            return int(value)
        if isinstance(value, SymInt):
            return value
        whole = self.aten.cast(self.tensor(value), np.dtype(np.int64))
        return SymInt(self.aten.node("Reshape", [whole, self.aten.ints()], whole.dtype, (), allowzero=False).name)

    _on_IntImplicit = _on_Int

    def _on_Float(self, value: Any) -> Any:
        value = self._number(value)
        return float(value) if isinstance(value, (bool, int, float, str)) else value

    _on_FloatImplicit = _on_ScalarImplicit = _on_item = _on_Float

    def _on_Bool(self, value: Any) -> Any:
        value = self._number(value)
        if isinstance(value, (bool, int, float)):
            return bool(value)
        if isinstance(value, Size) and value.dim:  # what is free in a shape is not nothing
            return True
        if isinstance(value, SymInt):
            return Unknown(self.aten.tensor(self.size(value), np.dtype(np.bool_)))
        return value if isinstance(value, Unknown) else Unknown(self.aten.cast(self.tensor(value), np.dtype(np.bool_)))

    def _on_eq(self, one: Any, other: Any) -> Any:
        return self._compared(one, other, "eq")

    def _on_ne(self, one: Any, other: Any) -> Any:
        return self._compared(one, other, "ne")

    def _compared(self, one: Any, other: Any, name: str) -> Any:
        """Whether numbers, sizes or lists of them are equal; tensors, element by element."""
        if isinstance(one, Var) or isinstance(other, Var):
            known = self._known(name, [one, other], {})
            return self._lowered(name, [one, other], {}, "") if known is NotImplemented else known
        ones, others = (list(v) if isinstance(v, (list, tuple)) else [v] for v in (one, other))
        facts: list[Fact] = []
        equal = len(ones) == len(others)
        for a, b in zip(ones, others, strict=False):
            if isinstance(a, SymInt) or isinstance(b, SymInt):
                dims = tuple(self.shapes.resolved(v.dim) if isinstance(v, Size) else v for v in (a, b))
                equal = equal and 0 not in dims  # what is free in a shape is not nothing
                if dims[0] != dims[1]:
                    a, b = (None if isinstance(v, SymInt) or v == "" else v for v in dims)
                    facts.append((a, b))
            elif isinstance(a, _PLAIN_VALUES) and isinstance(b, _PLAIN_VALUES):
                equal = equal and bool(a == b)
            else:
                raise TypeError("a comparison of what are no numbers")
        if not equal or not facts:
            return equal if name == "eq" else not equal
        plain = len(ones) == 1 and not isinstance(one, list)
        tensor = self.aten.call(name, [self.size(one), self.size(other)], {}, where=self.where) if plain else None
        return Unknown(tensor, tuple(facts)) if name == "eq" else Unknown(tensor, (), tuple(facts))

    # ------------------------------------------------------------------ lists that are tensors
    def _on_append(self, values: Any, value: Any) -> Any:
        if isinstance(values, Appended):
            values.values.append(value)
            return values
        return PLAIN["append"](values, value)

    def _on_unbind(self, x: Var, dim: int = 0) -> Any:
        tensor = self.tensor(x)
        axis = self.aten.axis(tensor, dim)
        known = self.shapes.resolved(tensor.shape[axis]) if tensor.shape is not None else None
        if isinstance(known, int):
            return self._lowered("unbind", [x, dim], {}, self.where)
        return Stacked(x, axis)

    def _on_list(self, values: Any) -> Any:
        return values if isinstance(values, Stacked) else list(values)

    def unpacked(self, thing: Any, count: int) -> Any:
        """A list that is given so many names, so that it has so many elements."""
        if isinstance(thing, Var) and thing.failed is not None:
            raise thing.failed
        if isinstance(thing, Stacked):
            tensor = self.tensor(thing.whole)
            if tensor.shape is not None:
                self.shapes.equal(tensor.shape[thing.axis], count)
            return [self.item(thing, k) for k in range(count)]
        return thing

    def _on_stack(self, tensors: Any, dim: int = 0) -> Any:
        if not isinstance(tensors, Stacked):
            return self._lowered("stack", [tensors, dim], {}, self.where)
        return self._lowered("movedim", [tensors.whole, tensors.axis, dim], {}, self.where)

    def _on_cat(self, tensors: Any, dim: int = 0) -> Any:
        if not isinstance(tensors, Stacked):
            return self._lowered("cat", [tensors, dim], {}, self.where)
        rank = self.aten.rank(self.tensor(tensors.whole)) - 1
        axis = dim % max(rank, 1)
        whole = self._lowered("movedim", [tensors.whole, tensors.axis, axis], {}, self.where)
        part = self._on_size(whole, axis + 1)
        if part == 1:
            return self._lowered("squeeze", [whole, axis + 1], {}, self.where)
        return self._lowered("flatten", [whole, axis, axis + 1], {}, self.where)

    # ------------------------------------------------------------------ tensors
    def _on_data(self, x: Var) -> Any:
        return self._lowered("detach", [x], {}, self.where)

    def _on_to(self, x: Var, *rest: Any, **named: Any) -> Any:
        """To another type; to another device, which is no matter here."""
        kept = [value for value in rest if not isinstance(value, str)]
        named.pop("device", None)
        return self._lowered("to", [x, *kept], named, "")

    def _on_copy_(self, x: Var, other: Any, non_blocking: bool = False) -> Var:
        target, value = self._read(x), self._read(other)
        made = self.aten.tensor(value, target.dtype)
        if made.shape != target.shape:
            made = self.aten.call("expand_as", [made, target], {}, where="copy_")
        x.write(made)
        return x


_SPECIAL: Mapping[str, Callable[..., Any]] = {
    name.removeprefix("_on_"): method for name, method in vars(Operators).items() if name.startswith("_on_")
}
