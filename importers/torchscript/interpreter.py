"""Evaluates a TorchScript program symbolically: its statements become nodes of a graph.

Only what is listed here is understood, and nothing is ever handed to Python to run. Numbers and lists are computed,
tensors become values of the graph, loops are unrolled, a branch is taken where its condition is known. The number of
steps is bounded.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from ...engine.errors import GatestepError, ModelFormatError, UnsupportedModelError
from ..aten import SymInt
from ..torch_tensors import TensorRef
from ..unpickle import Inert
from .loops import Loop, assigned
from .objects import ScriptArchive
from .operators import Operators
from .shapes import Shapes
from .source import Function, Struct
from .values import Blank, Named, Unknown, Var

__all__ = ["Interpreter"]

#: Calls within calls.
MOST_CALLS = 48
#: Operators that change a list.
_WRITES = frozenset("append extend insert pop clear reverse remove sort _set_item Delete RaiseException".split())
_GRAD_MODES = ("no_grad", "enable_grad", "set_grad_enabled", "inference_mode")


class _Return(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value


class Raised(ModelFormatError):
    """The program raises an exception of its own."""


class Interpreter:
    """One evaluation of a program.

    Parameters
    ----------
    archive : ScriptArchive
    operators : Operators
        What the program's operators become.
    shapes : Shapes
    """

    def __init__(self, archive: ScriptArchive, operators: Operators, shapes: Shapes) -> None:
        self.archive, self.operators, self.shapes = archive, operators, shapes
        self.calls: list[str] = []
        #: The attributes of each object as they are by now, and where in the module it lies.
        self.attributes: dict[Inert, dict[str, Any]] = {}
        self.paths: dict[Inert, str] = {archive.root: ""}
        #: Attributes that the program set: object and name.
        self.written: dict[tuple[Inert, str], None] = {}
        self.constants: dict[int, Any] = {}
        #: Inputs that are numbers, which the caller may bind.
        self.numbers: list[str] = []

    # ------------------------------------------------------------------ errors
    @property
    def where(self) -> str:
        return self.calls[-1] if self.calls else ""

    def unsupported(self, what: str, hint: str | None = None) -> UnsupportedModelError:
        return UnsupportedModelError(what, source=self.archive.name, node=f"code of {self.where[:120]!r}", hint=hint)

    def damaged(self, what: str) -> ModelFormatError:
        return ModelFormatError(f"{self.archive.name}: code of {self.where[:120]!r}: {what}")

    # ------------------------------------------------------------------ functions
    def struct(self, thing: Inert) -> Struct:
        struct = self.archive.code.struct(thing.kind)
        if struct is None:
            raise self.unsupported(f"it holds an object {thing.kind[:80]!r}, whose code is not in the file")
        return struct

    def method(self, thing: Inert, name: str, arguments: Sequence[Any], named: dict[str, Any]) -> Any:
        """Call a method of an object."""
        function = self.archive.code.method(self.struct(thing), name)
        if function is None:
            raise self.damaged(f"{thing.kind[:80]!r} has no method {name[:80]!r}")
        path = self.paths.get(thing, "")
        return self.function(function, [thing, *arguments], named, f"{path}.{name}".lstrip("."))

    def function(self, function: Function, arguments: Sequence[Any], named: dict[str, Any], where: str) -> Any:
        """Call a function."""
        if len(self.calls) >= MOST_CALLS:
            raise self.damaged(f"more than {MOST_CALLS} calls within each other")
        signature = function.tree.args
        names = [argument.arg for argument in signature.args]
        env = dict(zip(names, arguments, strict=False))
        if len(arguments) > len(names) or not named.keys() <= set(names) - env.keys():
            raise self.damaged(f"a call of {function.name[:80]!r} with arguments that it does not take")
        env |= named
        self.calls.append(where)
        try:
            defaults = dict(zip(reversed(names), reversed(signature.defaults), strict=False))
            for name in names:
                if name not in env:
                    if name not in defaults:
                        raise self.damaged(f"a call without the argument {name!r}")
                    env[name] = self.value(defaults[name], {})
            self.block(function.tree.body, env)
        except _Return as result:
            return result.value
        finally:
            self.calls.pop()
        return None

    # ------------------------------------------------------------------ statements
    def block(self, statements: Sequence[ast.stmt], env: dict[str, Any]) -> None:
        for statement in statements:
            self.operators.budget.step()
            try:
                self.statement(statement, env)
            except (GatestepError, _Return):
                raise
            except (TypeError, ValueError, IndexError, KeyError, ArithmeticError, AttributeError) as error:
                raise self.damaged(f"{type(statement).__name__}: {error or type(error).__name__}") from error

    def statement(self, node: ast.stmt, env: dict[str, Any]) -> None:
        match node:
            case ast.Assign(targets=[target], value=value):
                self.assign(target, self.value(value, env), env)
            case ast.AnnAssign(target=target, value=value):
                self.assign(target, Blank() if value is None else self.value(value, env), env)
            case ast.Expr(value=value):
                self.value(value, env)
            case ast.Return(value=value):
                raise _Return(None if value is None else self.value(value, env))
            case ast.Pass():
                pass
            case ast.If(test=test, body=body, orelse=orelse):
                self.branch(self.value(test, env), body, orelse, env)
            case ast.For(target=ast.Name(id=name), iter=ast.Call(func=ast.Name(id="range"), args=[count]), body=body):
                self.count(name, self.value(count, env), body, env)
            case ast.While(test=test, body=body):
                self.repeat(test, body, env)
            case ast.With(items=[ast.withitem(context_expr=context)], body=body):
                thing = self.value(context, env)
                if not isinstance(thing, Inert) or thing.kind.rpartition(".")[2] not in _GRAD_MODES:
                    raise self.unsupported("a 'with' statement")
                self.block(body, env)
            case _:
                raise self.unsupported(f"a statement {type(node).__name__}")

    def assign(self, target: ast.expr, value: Any, env: dict[str, Any]) -> None:
        match target:
            case ast.Name(id=name):
                env[name] = value
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                value = self.operators.unpacked(value, len(parts))
                if not isinstance(value, (tuple, list)) or len(value) != len(parts):
                    raise self.damaged(f"{len(parts)} names for what is not as many values")
                for part, each in zip(parts, value, strict=True):
                    self.assign(part, each, env)
            case ast.Attribute(value=owner, attr=name):
                thing = self.value(owner, env)
                if not isinstance(thing, Inert):
                    raise self.damaged("an attribute of what is no object is set")
                self.attribute(thing, name, missing=None)
                self.attributes[thing][name] = value
                self.written[thing, name] = None
            case ast.Subscript(value=owner, slice=index):
                thing, place = self.value(owner, env), self.value(index, env)
                self.operators.set_item(thing, place, value)
            case _:
                raise self.unsupported(f"an assignment to {type(target).__name__}")

    def branch(self, test: Any, body: Sequence[ast.stmt], orelse: Sequence[ast.stmt], env: dict[str, Any]) -> None:
        if isinstance(test, Var):
            test = self.operators.call("Bool", [test], {}, self.where)
        if not isinstance(test, Unknown):
            return self.block(body if self.known_truth(test, "a condition") else orelse, env)
        # A program that raises an exception says what it expects.
        for raising, other, facts in ((body, orelse, test.if_false), (orelse, body, test.if_true)):
            if any(_raises(statement) for statement in raising):
                for one, two in facts:
                    self.shapes.equal(one, two)
                return self.block(other, env)
        if all(_only_names(statement) for statement in (*body, *orelse)):
            one, two = dict(env), dict(env)
            self.block(body, one)
            self.block(orelse, two)
            for name in one.keys() & two.keys():
                env[name] = self.merged(test, one[name], two[name], name)
            return None
        raise self.undecided("a condition")

    def merged(self, test: Unknown, one: Any, two: Any, name: str) -> Any:
        """What a name stands for behind an `if` that is not decided."""
        if one is two or (isinstance(one, (bool, int, float, str)) and type(one) is type(two) and one == two):
            return one
        if isinstance(one, (bool, Unknown)) and isinstance(two, (bool, Unknown)):
            a, b = (v if isinstance(v, Unknown) else Unknown() for v in (one, two))
            # `x or y` is false, and `x and y` true, where both are.
            false = (*test.if_false, *b.if_false) if one is True else ()
            true = (*test.if_true, *a.if_true) if two is False else ()
            return Unknown(None, true, false)
        raise self.undecided(f"the condition that decides what {name[:80]!r} is")

    def undecided(self, what: str) -> UnsupportedModelError:
        bound = f"Say its numbers: bind={{{', '.join(f'{name!r}: ...' for name in self.numbers[:8])}}}; or export"
        return self.unsupported(
            f"{what} is not known before the model is called",
            f"{bound if self.numbers else 'Export'} the model with torch.export or torch.jit.trace",
        )

    def known_truth(self, value: Any, what: str) -> bool:
        if isinstance(value, (Unknown, Var)):
            raise self.undecided(what)
        if not isinstance(value, (bool, int)):
            raise self.damaged(f"{what} is a {type(value).__name__}")
        return bool(value)

    def count(self, name: str, count: Any, body: Sequence[ast.stmt], env: dict[str, Any]) -> None:
        if isinstance(count, SymInt):
            loop = Loop(self.operators, env, assigned(body), lambda inside: self.block(body, inside), self.unsupported)
            loop.run(count, name)
            return
        if not isinstance(count, int):
            raise self.undecided("the number of turns of a loop")
        for turn in range(count):
            self.operators.budget.step()
            env[name] = turn
            self.block(body, env)

    def repeat(self, test: ast.expr, body: Sequence[ast.stmt], env: dict[str, Any]) -> None:
        """A loop with a condition: unrolled as long as that is known."""

        def turn(inside: dict[str, Any]) -> Any:
            self.block(body, inside)
            return self.value(test, inside)

        while True:
            more = self.value(test, env)
            if isinstance(more, Unknown) and more.tensor is not None:
                Loop(self.operators, env, assigned(body), turn, self.unsupported).run(None, None, more)
                return
            self.operators.budget.step()
            if not self.known_truth(more, "a loop"):
                return None
            self.block(body, env)

    # ------------------------------------------------------------------ expressions
    def value(self, node: ast.expr, env: dict[str, Any]) -> Any:
        match node:
            case ast.Constant(value=value) if value is None or isinstance(value, (bool, int, float, str)):
                return value
            case ast.Name(id=name):
                if name in env:
                    return env[name]
                if name in ("inf", "nan"):
                    return float(name)
                raise self.damaged(f"the name {name[:80]!r} is not defined")
            case ast.Attribute():
                return self.dotted(node, env)
            case ast.Call():
                return self.call(node, env)
            case ast.Tuple(elts=parts):
                return tuple(self.value(part, env) for part in parts)
            case ast.List(elts=parts):
                return [self.value(part, env) for part in parts]
            case ast.Dict(keys=keys, values=values):
                made = {}
                for key, part in zip(keys, values, strict=True):
                    made[self.operators.key(self.value(key, env) if key is not None else None)] = self.value(part, env)
                return made
            case ast.Subscript(value=owner, slice=index):
                return self.item(self.value(owner, env), index, env)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                value = self.value(operand, env)
                if type(value) in (int, float):
                    return -value
        raise self.unsupported(f"an expression {type(node).__name__}")

    def item(self, thing: Any, index: ast.expr, env: dict[str, Any]) -> Any:
        if isinstance(index, ast.Slice):
            low, high = (None if part is None else self.value(part, env) for part in (index.lower, index.upper))
            if not isinstance(thing, (tuple, list, str)) or index.step is not None:
                raise self.unsupported("a slice of what is no list")
            if not all(value is None or isinstance(value, int) for value in (low, high)):
                raise self.undecided("a bound of a slice")
            return thing[low:high]
        return self.operators.item(thing, self.value(index, env))

    def dotted(self, node: ast.Attribute, env: dict[str, Any]) -> Any:
        """``self.weight``, ``CONSTANTS.c0``, or the name of a function."""
        path = _path(node)
        if path and path[0] not in env:
            if path[0] == "CONSTANTS" and len(path) == 2:
                return self.constant(path[1])
            return self.named(".".join(path))
        owner = self.value(node.value, env)
        if isinstance(owner, Named) and node.attr in owner.fields:
            return owner[owner.fields.index(node.attr)]
        if not isinstance(owner, Inert):
            raise self.damaged(f"an attribute {node.attr[:80]!r} of what is no object")
        return self.attribute(owner, node.attr)

    def named(self, name: str) -> Any:
        if name.startswith("__torch__."):
            return self.archive.code.function(name) or self.archive.code.struct(name) or self.absent(name)
        raise self.unsupported(f"the name {name[:80]!r}")

    def absent(self, name: str) -> Any:
        raise self.unsupported(f"the code of {name[:80]!r} is not in the file")

    def constant(self, name: str) -> Any:
        index = int(name[1:]) if name[1:].isdecimal() and len(name) < 9 else -1
        if not name.startswith("c") or not 0 <= index < len(self.archive.constants):
            raise self.damaged(f"there is no constant {name[:80]!r}")
        if index not in self.constants:
            self.constants[index] = self.held(self.archive.constants[index], name)
        return self.constants[index]

    def attribute(self, thing: Inert, name: str, missing: Any = ...) -> Any:
        """An attribute of an object."""
        if not isinstance(thing.state, dict):
            raise self.unsupported(f"it holds an object {thing.kind[:80]!r} that was not saved as its attributes")
        held = self.attributes.setdefault(thing, {})
        if name not in held:
            if name not in thing.state and missing is ...:
                raise self.damaged(f"{thing.kind[:80]!r} has no attribute {name[:80]!r}")
            path = self.path(thing, name)
            held[name] = self.held(thing.state.get(name), path)
            if isinstance(held[name], Inert):
                self.paths.setdefault(held[name], path)
        return held[name]

    def path(self, thing: Inert, name: str) -> str:
        """Where an attribute lies in the module."""
        return f"{self.paths.get(thing, '')}.{name}".lstrip(".")

    def held(self, value: Any, path: str) -> Any:
        """A value of the archive, as the program sees it."""
        done: dict[int, Any] = {}

        def convert(value: Any, depth: int) -> Any:
            if depth > 32:
                raise self.damaged(f"{path[:80]!r} is nested too deeply")
            if isinstance(value, TensorRef):
                return self.operators.stored(value, path)
            if not isinstance(value, (list, tuple, dict)):
                return value
            if id(value) in done:
                return done[id(value)]
            if isinstance(value, tuple):
                done[id(value)] = tuple(convert(part, depth + 1) for part in value)
            elif isinstance(value, list):
                made = done[id(value)] = []
                made += [convert(part, depth + 1) for part in value]
            else:
                done[id(value)] = {key: convert(part, depth + 1) for key, part in value.items()}
            return done[id(value)]

        return convert(value, 0)

    # ------------------------------------------------------------------ calls
    def call(self, node: ast.Call, env: dict[str, Any]) -> Any:
        function = node.func
        if isinstance(function, ast.Name) and function.id not in env:
            return self.builtin(function.id, node, env)
        if any(isinstance(argument, ast.Starred) for argument in node.args) or any(
            k.arg is None for k in node.keywords
        ):
            raise self.unsupported("a call with a number of arguments that is not fixed")
        arguments = [self.value(argument, env) for argument in node.args]
        named = {keyword.arg: self.value(keyword.value, env) for keyword in node.keywords if keyword.arg is not None}
        if isinstance(function, ast.Attribute):
            path = _path(function)
            if path and path[0] in ("torch", "ops") and path[0] not in env:
                return self.operator(path, arguments, named)
            if path and path[0] == "__torch__" and path[-1] == "__new__":
                return Inert(".".join(path[:-1]), {})
            if not path or path[0] in env:
                owner = self.value(function.value, env)
                if isinstance(owner, Inert):
                    return self.method(owner, function.attr, arguments, named)
                raise self.unsupported(f"a method {function.attr[:80]!r} of what is no object")
        target = self.value(function, env)
        if isinstance(target, Function):
            return self.function(target, arguments, named, target.name.removeprefix("__torch__."))
        if isinstance(target, Struct) and target.base == "NamedTuple":
            made = Named(arguments)
            made.fields = tuple(target.fields)
            if named or len(made) != len(target.fields):
                raise self.damaged(f"{target.name[:80]!r} is made with other fields than it has")
            return made
        raise self.unsupported("a call of what is no function")

    def operator(self, path: tuple[str, ...], arguments: list[Any], named: dict[str, Any]) -> Any:
        if path == ("ops", "prim", "RaiseException"):
            said = arguments[0] if arguments else ""
            raise Raised(f"{self.archive.name}: {self.where[:120]!r} raises an exception: {str(said)[:200]}")
        if path[:2] == ("ops", "quantized"):
            raise self.unsupported(
                f"the quantised operator {'.'.join(path)[:80]!r}", "Save the model as it was before it was quantised"
            )
        if path[:-1] not in (("torch",), ("ops", "prim"), ("ops", "aten")):
            raise self.unsupported(f"the operator {'.'.join(path)[:80]!r} is not one of PyTorch's own")
        return self.operators.call(path[-1], arguments, named, self.where)

    def builtin(self, name: str, node: ast.Call, env: dict[str, Any]) -> Any:
        """What TorchScript writes like a function of Python."""
        match name, node.args:
            case (("annotate" | "unchecked_cast"), [_, value]):
                made = self.value(value, env)
                # An attribute of another object in the file may have the same list.
                return made
            case "unchecked_unwrap_optional", [value]:
                return self.value(value, env)
            case "uninitialized", [_]:
                return Blank()
            case "getattr", [owner, ast.Constant(value=str(attr))]:
                thing = self.value(owner, env)
                if isinstance(thing, Inert):
                    return self.attribute(thing, attr)
            case (("int" | "float" | "bool" | "str"), [value]):
                return self.operators.call(name.capitalize(), [self.value(value, env)], {}, self.where)
        raise self.unsupported(f"a call of {name[:80]!r}")


def _path(node: ast.expr) -> tuple[str, ...]:
    """The parts of a dotted name; nothing if it is none."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return (node.id, *reversed(parts)) if isinstance(node, ast.Name) else ()


def _raises(statement: ast.stmt) -> bool:
    match statement:
        case ast.Expr(value=ast.Call(func=ast.Attribute() as function)):
            return _path(function) == ("ops", "prim", "RaiseException")
    return False


def _only_names(statement: ast.stmt) -> bool:
    """Whether a statement does nothing but give names to what operators compute."""
    match statement:
        case ast.Pass():
            return True
        case ast.Assign(targets=[ast.Name() | ast.Tuple()], value=value):
            calls = (node.func for node in ast.walk(value) if isinstance(node, ast.Call))
            return all(_is_pure(function) for function in calls)
    return False


def _is_pure(function: ast.expr) -> bool:
    """Whether a call changes nothing: an operator that does not write into its arguments."""
    if isinstance(function, ast.Name):
        return True
    path = _path(function)
    name = path[-1] if path else ""
    writes = name in _WRITES or (name.endswith("_") and not name.endswith("__"))
    return path[:1] in (("torch",), ("ops",)) and not writes
