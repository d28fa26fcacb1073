"""PyTorch's operators on tensors that can be written into, and that can be views of one another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...engine.errors import UnsupportedModelError
from ..aten import Aten, SymInt, Tensor
from ..torch_tensors import TensorRef
from ..unpickle import Inert
from .budget import Budget
from .demands import Demands
from .objects import ScriptArchive
from .scopes import Scopes
from .shapes import Shapes
from .values import Past, Size, Unknown, Var

__all__ = ["Lowered"]

#: Operators whose result shows the memory of their first argument, and how a write into the result goes back.
_VIEWS = frozenset(
    "select slice narrow transpose t permute squeeze unsqueeze view movedim swapaxes unbind chunk split "
    "split_with_sizes detach alias expand expand_as unflatten diagonal".split()
)
#: Operators that may give a view or a copy, as PyTorch sees fit.
_MAYBE_VIEWS = frozenset("contiguous reshape flatten to dropout feature_dropout alpha_dropout type_as cpu cuda".split())
_NO_TENSOR = (type(None), bool, int, float, str, np.dtype)
_QUANTISED = "Such hold the weights of quantised layers: save the model as it was before it was quantised"
_CREATE = frozenset("zeros ones empty full new_zeros new_ones new_empty new_full".split())


class Lowered:
    """What calls on tensors add to the graph.

    Parameters
    ----------
    aten : Aten
    archive : ScriptArchive
    shapes : Shapes
    budget : Budget
    """

    def __init__(self, aten: Aten, archive: ScriptArchive, shapes: Shapes, budget: Budget) -> None:
        self.archive, self.shapes, self.budget = archive, shapes, budget
        self.scopes = Scopes(aten)
        self.demands = Demands(aten, shapes)
        self.where = ""
        self._stored: dict[TensorRef, Tensor] = {}
        self._sizes: dict[tuple[str, int], Size] = {}

    @property
    def aten(self) -> Aten:
        """What adds to the graph that the program is within at present."""
        return self.scopes.aten

    def tensor(self, value: Any) -> Tensor:
        """A tensor, size or truth value as the present graph has it."""
        if isinstance(value, Var):
            return self.scopes.here(value.read())
        if isinstance(value, SymInt):
            return Tensor(self.size(value).name, np.dtype(np.int64), ())
        if not isinstance(value, Unknown) or value.tensor is None:
            raise TypeError("a truth value that is not known")
        return self.scopes.here(value.tensor)

    def size(self, value: Any) -> Any:
        """A number, or a size as the present graph has it."""
        if isinstance(value, Past):
            raise TypeError("a size of an earlier call")
        return self.scopes.size(value) if isinstance(value, SymInt) else value

    def stored(self, ref: TensorRef, path: str) -> Var:
        """A tensor of the file."""
        if ref not in self._stored:
            self._stored[ref] = self.scopes.stack[0].aten.constant(self.archive.array(ref, path))
        return Var(self._stored[ref])

    def _number(self, value: Any) -> Any:
        """A tensor without axes that is a constant, as the number it is."""
        if isinstance(value, Var):
            array = self.aten.known(self.tensor(value))
            return value if array is None or array.shape else array.item()
        return value

    def _lowered(self, name: str, args: list[Any], kwargs: dict[str, Any], where: str) -> Any:
        plain = name[:-1] if name.endswith("_") and not name.startswith("__") else name
        values = [self._read(value) for value in args]
        named = {name: self._read(value) for name, value in kwargs.items()}
        self.demands.check(plain, values, named)
        try:
            made = self._shaped(plain, values, self.aten.call(name, values, named, where=where))
        except UnsupportedModelError as error:
            if plain != name:
                raise
            return Var(Tensor("", np.dtype(np.float32), None), failed=error)
        if plain != name:
            if not isinstance(args[0], Var) or not isinstance(made, Tensor):
                raise TypeError(f"{name} writes into what is no tensor")
            args[0].write(made)
            return args[0]
        return self._wrapped(name, args, values, named, made, where)

    def _read(self, value: Any) -> Any:
        if isinstance(value, (Var, Unknown)):
            return self.tensor(value)
        if isinstance(value, (list, tuple)):
            self.budget.operator(len(value) // 8)
            return [self._read(part) for part in value]
        if isinstance(value, SymInt):
            return self.size(value)
        if isinstance(value, _NO_TENSOR):
            return value
        if isinstance(value, Inert):
            raise UnsupportedModelError(
                f"an operator takes an object {value.kind[:80]!r}",
                source=self.aten.source,
                node=f"code of {self.where!r}",
                hint=_QUANTISED if value.kind.startswith("__torch__.torch.classes.") else None,
            )
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
            below = self.scopes.here(base)
            made = self._shaped(name, values, self.aten.call(name, [below, *values[1:]], named, where=where))
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

        def call(name: str, base: Tensor, *more: Any) -> Any:
            given = [self.scopes.here(value) if isinstance(value, Tensor) else value for value in (base, *more)]
            return self.aten.call(name, given, named if len(given) > 2 or name == "transpose" else {}, where=name)

        if name == "select" and len(rest) == 2 and isinstance(rest[1], SymInt):
            return lambda base, new: self._placed(base, new, *rest)
        if name in ("select", "slice"):
            return lambda base, new: call(f"{name}_scatter", base, new, *rest)
        if name == "unbind":
            dim = rest[0] if rest else named.get("dim", 0)
            return lambda base, new: call("select_scatter", base, new, dim, pick)
        if name in ("detach", "alias"):
            return lambda base, new: new
        if name in ("transpose", "t"):
            return lambda base, new: call(name, new, *rest)
        if name == "unsqueeze":
            return lambda base, new: call("squeeze", new, *rest)
        return None

    def _placed(self, base: Tensor, new: Tensor, dim: int, index: SymInt) -> Any:
        """`base` with `new` at a place along an axis that is known when the model is called."""
        aten = self.aten
        base, new = self.scopes.here(base), self.scopes.here(new)
        axis = aten.axis(base, dim)
        places = aten.call("arange", [aten.size(base, axis)], {}, where=self.where)
        here = aten.call("eq", [places, self.size(index)], {}, where=self.where)
        here = aten.call("reshape", [here, [-1, *[1] * (aten.rank(base) - 1 - axis)]], {}, where=self.where)
        raised = aten.call("unsqueeze", [new, axis], {}, where=self.where)
        made = aten.call("where", [here, raised, base], {}, where=self.where)
        return dataclasses.replace(made, shape=base.shape)

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
            self.shapes.joined.update(part for part in free[: len(free) if len(free) > 1 else 0] if part)
        return dataclasses.replace(made, shape=tuple(shape))
