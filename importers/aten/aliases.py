"""Programs that write in place, as programs that do not.

A tensor of PyTorch may be a view of another's memory, and what is written through one is seen through all. Here each
tensor is a `Ref`: a memory and the views that lead to it. To write is to give the memory a new value; to read after
that is to take the views again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .core import Aten, Tensor

__all__ = ["Aliases", "Ref"]

#: Operators that give a view of their first argument's memory.
_VIEWS = frozenset(
    "alias detach view _unsafe_view unflatten transpose swapaxes permute t select slice narrow unsqueeze squeeze "
    "expand expand_as view_as movedim numpy_T mT split split_with_sizes chunk tensor_split unbind dropout "
    "feature_dropout alpha_dropout lift lift_fresh identity".split()
)
#: Operators that give a view, or a copy, depending on how memory lies.
_PERHAPS = frozenset("contiguous reshape flatten to type_as reshape_as".split())
#: What undoes a view of the same elements: the sizes of what it was taken of.
_RESHAPES = frozenset("view _unsafe_view unflatten squeeze unsqueeze view_as".split())


@dataclass(eq=False)
class Memory:
    """What views look at: its present value, and how often it was written."""

    value: Tensor
    version: int = 0
    #: Why nobody may write: it is the caller's, or a part of the model.
    fixed: str = ""
    #: Memories that may be this same one.
    perhaps: list[Memory] = field(default_factory=list)
    unknown: bool = False


@dataclass(frozen=True)
class Step:
    """One view: an operator with its arguments, and which of its results."""

    op: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    which: int | None


@dataclass(eq=False)
class Ref:
    """A tensor of the program."""

    memory: Memory
    steps: tuple[Step, ...]
    value: Tensor
    version: int = 0


class Aliases:
    """`Aten` for programs that write in place: the same call, with `Ref` for `Tensor`."""

    def __init__(self, aten: Aten) -> None:
        self.aten = aten
        self._where = ""

    def new(self, value: Tensor, fixed: str = "") -> Ref:
        """A tensor with a memory of its own; `fixed` says why none may write to it."""
        return Ref(Memory(value, fixed=fixed), (), value)

    def read(self, ref: Ref) -> Tensor:
        """The present value."""
        memory = ref.memory
        if memory.unknown:
            raise self.aten.unsupported(
                "reads what was written in place through another tensor that may share its memory",
                hint="Export the model with run_decompositions(), which leaves nothing written in place",
            )
        if ref.version != memory.version:
            ref.value = self._chain(memory.value, ref.steps)[-1]
            ref.version = memory.version
        return ref.value

    def call(self, op: str, args: Sequence[Any], kwargs: Mapping[str, Any], *, where: str) -> Any:
        """As `Aten.call`."""
        name = op.split(".")[0]
        self._where = where
        if name.endswith("_") and not name.endswith("__") and name not in ("", "_"):
            return self._write(op, args, kwargs)
        made = self.aten.call(op, self._values(args), self._values(kwargs), where=where)
        source = args[0] if args else next(iter(kwargs.values()), None)
        if name in _VIEWS and isinstance(source, Ref):
            kept = (op, tuple(self._values(args[1:])), self._values(dict(list(kwargs.items())[not args :])))
            if isinstance(made, (list, tuple)):
                return [self._view(source, Step(*kept, which), value) for which, value in enumerate(made)]
            return self._view(source, Step(*kept, None), made) if isinstance(made, Tensor) else made
        refs = self._refs(made)
        if name in _PERHAPS and isinstance(source, Ref) and isinstance(refs, Ref):
            refs.memory.perhaps.append(source.memory)
            source.memory.perhaps.append(refs.memory)
        return refs

    def _view(self, source: Ref, step: Step, value: Tensor) -> Ref:
        return Ref(source.memory, (*source.steps, step), value, source.memory.version)

    def _values(self, given: Any) -> Any:
        """Arguments with the present values of tensors."""
        if isinstance(given, Ref):
            return self.read(given)
        if isinstance(given, (list, tuple)):
            return [self._values(value) for value in given]
        if isinstance(given, Mapping):
            return {key: self._values(value) for key, value in given.items()}
        return given

    def _refs(self, made: Any) -> Any:
        if isinstance(made, Tensor):
            return self.new(made)
        if isinstance(made, (list, tuple)):
            return [self._refs(value) for value in made]
        return made

    # ------------------------------------------------------------------ writing
    def _write(self, op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        target = args[0] if args else kwargs.get("self")
        if not isinstance(target, Ref):
            return self.aten.call(op, self._values(args), self._values(kwargs), where=self._where)
        old = self.read(target)
        made = self.aten.call(op, self._values(args), self._values(kwargs), where=self._where)
        memory = target.memory
        if memory.fixed:
            raise self.aten.unsupported(f"writes into {memory.fixed}, which has to stay as it is")
        for other in memory.perhaps:
            other.unknown = True
        value = self.aten.cast(made, old.dtype)
        chain = self._chain(memory.value, target.steps)
        for step, before in zip(reversed(target.steps), reversed(chain[:-1]), strict=True):
            value = self._undone(step, before, value)
        memory.value = value
        memory.version += 1
        return target

    def _chain(self, value: Tensor, steps: Sequence[Step]) -> list[Tensor]:
        """A memory's value, and what each view makes of it in turn."""
        chain = [value]
        for step in steps:
            made = self.aten.call(step.op, [chain[-1], *step.args], step.kwargs, where=self._where)
            chain.append(made if step.which is None else made[step.which])
        return chain

    def _undone(self, step: Step, before: Tensor, value: Tensor) -> Tensor:
        """`before` with the part that a view shows replaced by `value`."""
        name = step.op.split(".")[0]
        call = self.aten.call
        where = self._where
        if name in ("alias", "detach", "lift", "lift_fresh", "identity") or name.endswith("dropout"):
            return value
        if name in ("select", "slice"):
            made: Tensor = call(f"{name}_scatter", [before, value, *step.args], step.kwargs, where=where)
            return made
        if name in ("transpose", "swapaxes", "t", "mT", "numpy_T"):  # each undoes itself
            made = call(name, [value, *step.args], step.kwargs, where=where)
            return made
        if name == "permute":
            (dims,) = step.args or step.kwargs.values()
            axes = [dim % len(dims) for dim in dims]
            made = call(name, [value, [axes.index(k) for k in range(len(axes))]], {}, where=where)
            return made
        if name == "unbind":
            dim = step.args[0] if step.args else step.kwargs.get("dim", 0)
            made = call("select_scatter", [before, value, dim, step.which], {}, where=where)
            return made
        if name in _RESHAPES:
            made = call("view_as", [value, before], {}, where=where)
            return made
        raise self.aten.unsupported(
            f"writes in place through {name}, which is not supported",
            hint="Export the model with run_decompositions(), which leaves nothing written in place",
        )
