"""PyTorch's operators as a TorchScript program calls them: on numbers, on lists, on tensors that are written into."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...engine.errors import UnsupportedModelError
from ..aten import Aten, SymInt, Tensor
from ..torch_tensors import TensorRef
from .demands import Demands
from .objects import ScriptArchive
from .plain import ARITHMETIC, PLAIN, key
from .shapes import Shapes
from .values import Fact, Rank, Size, Unknown, Var

__all__ = ["Operators"]

#: Operators whose result shows the memory of their first argument, and how a write into the result goes back.
_VIEWS = frozenset(
    "select slice narrow transpose t permute squeeze unsqueeze view movedim swapaxes unbind chunk split "
    "split_with_sizes detach alias data expand expand_as unflatten diagonal".split()
)
#: Operators that may give a view or a copy, as PyTorch sees fit.
_MAYBE_VIEWS = frozenset("contiguous reshape flatten to dropout feature_dropout alpha_dropout type_as cpu cuda".split())
#: PyTorch's numbers of element types.
_CODES = {"u1": 0, "i1": 1, "i2": 2, "i4": 3, "i8": 4, "f2": 5, "f4": 6, "f8": 7, "b1": 11}
_NO_TENSOR = (type(None), bool, int, float, str, np.dtype)
_CREATE = frozenset("zeros ones empty full new_zeros new_ones new_empty new_full".split())


class Operators:
    """What the operators of one evaluation become.

    Parameters
    ----------
    aten : Aten
    archive : ScriptArchive
    shapes : Shapes
    """

    key = staticmethod(key)

    def __init__(self, aten: Aten, archive: ScriptArchive, shapes: Shapes) -> None:
        self.aten, self.archive, self.shapes = aten, archive, shapes
        self.demands = Demands(aten, shapes)
        self.progress = 0
        self._stored: dict[TensorRef, Tensor] = {}
        self._sizes: dict[tuple[str, int], Size] = {}
        self._sources: dict[str, Tensor] = {}

    def stored(self, ref: TensorRef, path: str) -> Var:
        """A tensor of the file."""
        if ref not in self._stored:
            self._stored[ref] = self.aten.constant(self.archive.array(ref, path))
        return Var(self._stored[ref])

    # ------------------------------------------------------------------ one call
    def call(self, name: str, args: list[Any], kwargs: dict[str, Any], where: str) -> Any:
        """An operator, ``torch.NAME`` or ``ops.prim.NAME``, on values of the program."""
        self.progress += 1
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

    def _number(self, value: Any) -> Any:
        """A tensor without axes that is a constant, as the number it is."""
        if isinstance(value, Var):
            array = self.aten.known(value.read())
            return value if array is None or array.shape else array.item()
        return value

    # ------------------------------------------------------------------ what looks like Python
    def item(self, thing: Any, index: Any) -> Any:
        """``thing[index]``."""
        if isinstance(thing, dict):
            return thing[key(index)]
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

    def _on___contains__(self, holder: Any, value: Any) -> bool:
        if isinstance(holder, dict):
            return key(value) in holder
        if isinstance(value, (SymInt, Var)) or not isinstance(holder, (list, tuple, str)):
            raise TypeError("a search for what is not known")
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
        return Rank(self.aten.rank(x.read()))

    def _on_size(self, x: Var, dim: int | None = None) -> Any:
        tensor = x.read()
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
        whole = self.aten.cast(value.read(), np.dtype(np.int64))
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
        if isinstance(value, SymInt):
            return Unknown(self.aten.tensor(value, np.dtype(np.bool_)))
        return value if isinstance(value, Unknown) else Unknown(self.aten.cast(value.read(), np.dtype(np.bool_)))

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
                if dims[0] != dims[1]:
                    a, b = (None if isinstance(v, SymInt) or v == "" else v for v in dims)
                    facts.append((a, b))
            else:
                equal = equal and bool(a == b)
        if not equal or not facts:
            return equal if name == "eq" else not equal
        plain = len(ones) == 1 and not isinstance(one, list)
        tensor = self.aten.call(name, [one, other], {}, where="") if plain else None
        return Unknown(tensor, tuple(facts)) if name == "eq" else Unknown(tensor, (), tuple(facts))

    # ------------------------------------------------------------------ tensors
    def _on_to(self, x: Var, *rest: Any, **named: Any) -> Any:
        """To another type; to another device, which is no matter here."""
        kept = [value for value in rest if not isinstance(value, str)]
        named.pop("device", None)
        return self._lowered("to", [x, *kept], named, "")

    def _on_copy_(self, x: Var, other: Any, non_blocking: bool = False) -> Var:
        target, value = x.read(), other.read() if isinstance(other, Var) else other
        made = self.aten.tensor(value, target.dtype)
        if made.shape != target.shape:
            made = self.aten.call("expand_as", [made, target], {}, where="copy_")
        x.write(made)
        return x

    def _lowered(self, name: str, args: list[Any], kwargs: dict[str, Any], where: str) -> Any:
        plain = name[:-1] if name.endswith("_") and not name.startswith("__") else name
        values = [self._read(value) for value in args]
        named = {name: self._read(value) for name, value in kwargs.items()}
        self.demands.check(plain, values, named)
        made = self._shaped(plain, values, self.aten.call(name, values, named, where=where))
        if plain != name:
            if not isinstance(args[0], Var) or not isinstance(made, Tensor):
                raise TypeError(f"{name} writes into what is no tensor")
            args[0].write(made)
            return args[0]
        return self._wrapped(name, args, values, named, made, where)

    def _read(self, value: Any) -> Any:
        if isinstance(value, Var):
            return value.read()
        if isinstance(value, (list, tuple)):
            return [self._read(part) for part in value]
        if isinstance(value, Unknown):
            if value.tensor is None:
                raise TypeError("a truth value that is not known")
            return value.tensor
        if isinstance(value, (SymInt, Tensor, *_NO_TENSOR)):
            return value
        raise TypeError(f"an argument that is a {type(value).__name__}")

    def _wrapped(
        self, name: str, args: list[Any], values: list[Any], named: dict[str, Any], made: Any, where: str
    ) -> Any:
        """The result as the program sees it; a view remembers what it is a view of."""
        base = args[0] if args and isinstance(args[0], Var) else None
        view = base is not None and name in _VIEWS
        maybe = base is not None and name in _MAYBE_VIEWS

        def wrap(value: Any, pick: int | None = None) -> Any:
            if isinstance(value, Tensor):
                if not any(isinstance(arg, (Var, Unknown)) for arg in args) and value.dtype == np.bool_:
                    return Unknown(value)  # sizes compared
                if view or maybe:
                    assert base is not None
                    again = self._again(name, values, named, pick, where) if view else self._refused
                    return Var(value, base, again, self._scatter(name, values, named, pick), base.version)
                return Var(value)
            if isinstance(value, list):
                return [wrap(part, k) for k, part in enumerate(value)]
            if isinstance(value, tuple):
                return tuple(wrap(part, k) for k, part in enumerate(value))
            return value

        return wrap(made)

    def _again(
        self, name: str, values: list[Any], named: dict[str, Any], pick: int | None, where: str
    ) -> Callable[[Tensor], Tensor]:
        def again(base: Tensor) -> Tensor:
            made = self._shaped(name, values, self.aten.call(name, [base, *values[1:]], named, where=where))
            result = made if pick is None else made[pick]
            assert isinstance(result, Tensor)
            return result

        return again

    @staticmethod
    def _refused(base: Tensor) -> Tensor:
        raise ValueError("a tensor is read after what may be another name of it was written into")

    def _scatter(
        self, name: str, values: list[Any], named: dict[str, Any], pick: int | None
    ) -> Callable[[Tensor, Tensor], Tensor] | None:
        """How a write into a view changes what it is a view of."""
        rest = values[1:]
        if name in ("select", "slice"):
            return lambda base, new: self.aten.call(f"{name}_scatter", [base, new, *rest], named, where=name)
        if name == "unbind":
            dim = rest[0] if rest else named.get("dim", 0)
            return lambda base, new: self.aten.call("select_scatter", [base, new, dim, pick], {}, where=name)
        if name in ("detach", "alias", "data"):
            return lambda base, new: new
        if name in ("transpose", "t"):
            return lambda base, new: self.aten.call(name, [new, *rest], named, where=name)
        if name == "unsqueeze":
            return lambda base, new: self.aten.call("squeeze", [new, *rest], named, where=name)
        return None

    def _shaped(self, name: str, values: Sequence[Any], made: Any) -> Any:
        """The result with the names of sizes that the graph's shapes leave out."""
        if not isinstance(made, Tensor) or made.shape is None or None not in made.shape:
            return made
        shape = list(made.shape)
        if name in _CREATE or name in ("expand", "view", "reshape"):
            sizes = next((value for value in values if isinstance(value, list)), [])
            if len(sizes) == len(shape):
                named = [value.dim or None if isinstance(value, Size) else None for value in sizes]
                shape = [have if have is not None else said for have, said in zip(shape, named, strict=True)]
        elif name == "cat" and isinstance(values[0], list) and all(t.shape is not None for t in values[0]):
            axis = self.aten.axis(made, values[1] if len(values) > 1 else 0)
            parts = [t.shape[axis] for t in values[0] if len(t.shape) == len(shape)]
            free = [part for part in parts if not isinstance(part, int)]
            if len(free) == 1 and isinstance(free[0], str) and shape[axis] is None:
                shape[axis] = self.shapes.plus(free[0], sum(part for part in parts if isinstance(part, int)))
        return dataclasses.replace(made, shape=tuple(shape))


_SPECIAL: Mapping[str, Callable[..., Any]] = {
    name.removeprefix("_on_"): method for name, method in vars(Operators).items() if name.startswith("_on_")
}
