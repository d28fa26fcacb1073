"""A pickle machine that builds plain values and nothing else.

A pickle is a program for a stack machine, and Python's own machine calls whatever the program names. This one has no
way to call or to import: names stay names (`Global`), calls and objects become `Inert`, and only functions that the
reader of a format hands in (`calls`) ever run, each on plain values. It needs neither the classes in the file nor
trust in it. One step costs constant time and memory, and the number of steps is bounded.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..engine.errors import GatestepError, ModelFormatError, UnsupportedModelError

__all__ = ["Calls", "Global", "Inert", "Persistent", "unpickle", "unpickle_at"]

#: A weight takes about 30 steps: room for thirty thousand of them.
MAX_STEPS = 1_000_000
MAX_LONG_BYTES = 1 << 12

#: Nothing a trained model needs to name. They would not run here either; such a file is better not trusted at all.
_HOSTILE = re.compile(
    r"(?:bdb|cffi|codeop|commands|cProfile|ctypes|doctest|http|importlib|marshal|nt|numpy\.testing|os|pdb|pickle|pip"
    r"|pkgutil|posix|pty|pydoc|requests|runpy|shutil|smtplib|socket|ssl|subprocess|sys|timeit|torch\.hub"
    r"|urllib|venv|webbrowser)\..*"
    r"|(?:builtins|__builtin__)\.(?:__import__|apply|breakpoint|compile|delattr|eval|exec|execfile|exit|file|globals|input"
    r"|locals|open|quit|setattr|vars)",
    re.DOTALL,
)


@dataclass(frozen=True, eq=False)
class Global:
    """A name of a class or function. It is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Inert:
    """In place of an object that unpickling would have made.

    Attributes
    ----------
    kind : str
        What it would have called.
    state : object
        What it would have been given to set itself up with: mostly the dictionary of its attributes.
    """

    kind: str
    state: object = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.kind


Calls = Mapping[str, Callable[[tuple[Any, ...]], object]]
Persistent = Callable[[object], object]


def unpickle(data: bytes, *, source: str, calls: Calls, persistent: Persistent) -> object:
    """The value that a pickle describes.

    Parameters
    ----------
    data : bytes
        Protocols 2 to 5.
    source : str
        For messages.
    calls : mapping of str to function
        What stands in for the functions that the pickle may call, by ``"module.name"``. They get the arguments, and
        raise ValueError where those make no sense.
    persistent : function
        Gives the value for a persistent id.

    Returns
    -------
    object
        None, bool, int, float, str, bytes, tuple, list, dict (for an OrderedDict too), `Global`, `Inert`, or what
        `calls` and `persistent` gave. May contain itself.

    Raises
    ------
    ModelFormatError
        Not a pickle, cut short, or more than a million steps long.
    UnsupportedModelError
        It names something of the operating system or the interpreter: an attack.
    """
    return unpickle_at(data, 0, source=source, calls=calls, persistent=persistent)[0]


def unpickle_at(data: bytes, at: int, *, source: str, calls: Calls, persistent: Persistent) -> tuple[object, int]:
    """The value that the pickle at byte `at` describes, and where that pickle ends; see `unpickle`."""
    machine = _Machine(data, at, source, calls, persistent)
    try:
        return machine.run(), machine.at
    except GatestepError:
        raise
    except (IndexError, KeyError, ValueError, struct.error) as error:
        raise machine.damaged(str(error) or type(error).__name__) from error


def _key(value: object) -> object:
    """`value` as a dictionary key. Only scalars keep their value: hashing a nested tuple can take forever."""
    if value is None or isinstance(value, (str, bool, float, bytes)):
        return value
    if isinstance(value, int) and -(1 << 60) < value < 1 << 60:  # beyond, unequal integers can share a hash at will
        return value
    return Inert(f"a {type(value).__name__} as a key")


class _Machine:
    def __init__(self, data: bytes, at: int, source: str, calls: Calls, persistent: Persistent) -> None:
        self.data, self.at, self.source, self.calls, self.persistent = data, at, source, calls, persistent
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> object:
        stop = pickle.STOP[0]
        for _ in range(MAX_STEPS):
            code = self.data[self.at]
            self.at += 1
            if code == stop:
                return self.stack.pop()
            step = _STEPS.get(code)
            if step is None:
                raise self.damaged(f"opcode {code:#04x}")
            step(self)
        raise ModelFormatError(f"{self.source}: the pickle takes more than {MAX_STEPS} steps; weights need far fewer")

    def damaged(self, what: str) -> ModelFormatError:
        return ModelFormatError(f"{self.source}: a damaged pickle, at byte {self.at}: {what}")

    # Reading the program

    def take(self, size: int) -> bytes:
        if not 0 <= size <= len(self.data) - self.at:
            raise self.damaged(f"{size} bytes are announced, {len(self.data) - self.at} are left")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form: struct.Struct) -> Any:
        return form.unpack(self.take(form.size))[0]

    def line(self) -> str:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise self.damaged("a name without an end")
        return self.take(end + 1 - self.at)[:-1].decode()

    def items(self) -> list[Any]:
        """What was pushed since the last mark."""
        items = self.stack
        self.stack = self.marks.pop()
        return items

    # Steps

    def push(self, value: object) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.push(self.memo[index])

    def long(self, size: int) -> None:
        if not 0 <= size <= MAX_LONG_BYTES:
            raise self.damaged(f"an integer of {size} bytes")
        self.push(int.from_bytes(self.take(size), "little", signed=True))

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.stack = self.marks.pop()

    def group(self, size: int) -> None:
        if len(self.stack) < size:
            raise self.damaged("the stack is empty")
        self.stack[-size:] = [tuple(self.stack[-size:])]

    def dictionary(self) -> None:
        items = self.items()
        self.push({})
        self.set_items(items)

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Inert):
            raise self.damaged(f"appending to a {type(target).__name__}")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if len(items) % 2:
            raise self.damaged("a key without a value")
        if isinstance(target, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[_key(key)] = value
        elif not isinstance(target, Inert):
            raise self.damaged(f"setting items of a {type(target).__name__}")

    def setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise self.damaged("a name that is no string")
        if _HOSTILE.fullmatch(f"{module}.{name}"):
            raise UnsupportedModelError(
                f"its pickle asks for {f'{module}.{name}'[:80]!r}, which is a program, not weights; nothing was run",
                source=self.source,
                hint="Do not open this file with torch.load or pickle",
            )
        self.push(Global(module, name))

    def stack_name(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.name(module, name)

    def call(self, named: bool = False) -> None:
        """REDUCE, NEWOBJ and, with `named` arguments to drop, NEWOBJ_EX."""
        if named:
            self.stack.pop()
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(arguments, tuple):
            raise self.damaged("a call without arguments")
        if not isinstance(function, Global):
            self.push(Inert(function.kind if isinstance(function, Inert) else type(function).__name__))
        elif str(function) in self.calls and not named:
            self.push(self.calls[str(function)](arguments))
        else:
            # copyreg and getattr make an object of what they are given first, which says more than their own name.
            made = arguments[0] if function.module in ("copyreg", "copy_reg") and arguments else function
            self.push(Inert(str(made if isinstance(made, Global) else function)))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Inert):
            target.state = state
        elif not isinstance(target, dict):  # whose state are attributes such as OrderedDict's _metadata
            raise self.damaged(f"a state for a {type(target).__name__}")

    def inert_set(self) -> None:
        self.items()
        self.push(Inert("builtins.frozenset"))

    def add(self) -> None:
        self.items()
        if not isinstance(self.stack[-1], Inert):
            raise self.damaged(f"adding to a {type(self.stack[-1]).__name__}")


_U1, _U2, _I4, _U4, _U8, _F8 = (struct.Struct(form) for form in ("<B", "<H", "<i", "<I", "<Q", ">d"))
_Step = Callable[[_Machine], object]


def _push(make: Callable[[], object]) -> _Step:
    return lambda m: m.push(make())


def _number(form: struct.Struct) -> _Step:
    return lambda m: m.push(m.number(form))


def _text(form: struct.Struct) -> _Step:
    return lambda m: m.push(m.take(m.number(form)).decode("utf-8", "surrogatepass"))


def _bytes(form: struct.Struct) -> _Step:
    return lambda m: m.push(m.take(m.number(form)))


#: What each opcode does. Those of protocols 0 and 1 that later ones never write, extension codes and out-of-band
#: buffers are left out.
_STEPS: dict[int, _Step] = {
    code[0]: step
    for code, step in {
        pickle.PROTO: lambda m: m.number(_U1),
        pickle.FRAME: lambda m: m.number(_U8),
        pickle.MARK: _Machine.mark,
        pickle.POP: _Machine.pop,
        pickle.POP_MARK: _Machine.items,
        pickle.DUP: lambda m: m.push(m.stack[-1]),
        pickle.NONE: _push(lambda: None),
        pickle.NEWTRUE: _push(lambda: True),
        pickle.NEWFALSE: _push(lambda: False),
        pickle.BININT: _number(_I4),
        pickle.BININT1: _number(_U1),
        pickle.BININT2: _number(_U2),
        pickle.BINFLOAT: _number(_F8),
        pickle.LONG1: lambda m: m.long(m.number(_U1)),
        pickle.LONG4: lambda m: m.long(m.number(_I4)),
        pickle.BINUNICODE: _text(_U4),
        pickle.SHORT_BINUNICODE: _text(_U1),
        pickle.BINUNICODE8: _text(_U8),
        pickle.BINSTRING: _text(_I4),
        pickle.SHORT_BINSTRING: _text(_U1),
        pickle.BINBYTES: _bytes(_U4),
        pickle.SHORT_BINBYTES: _bytes(_U1),
        pickle.BINBYTES8: _bytes(_U8),
        pickle.BYTEARRAY8: _bytes(_U8),
        pickle.EMPTY_TUPLE: _push(tuple),
        pickle.TUPLE: lambda m: m.push(tuple(m.items())),
        pickle.TUPLE1: lambda m: m.group(1),
        pickle.TUPLE2: lambda m: m.group(2),
        pickle.TUPLE3: lambda m: m.group(3),
        pickle.EMPTY_LIST: _push(list),
        pickle.LIST: lambda m: m.push(m.items()),
        pickle.APPEND: lambda m: m.append([m.stack.pop()]),
        pickle.APPENDS: lambda m: m.append(m.items()),
        pickle.EMPTY_DICT: _push(dict),
        pickle.DICT: _Machine.dictionary,
        pickle.SETITEM: _Machine.setitem,
        pickle.SETITEMS: lambda m: m.set_items(m.items()),
        pickle.EMPTY_SET: _push(lambda: Inert("builtins.set")),
        pickle.ADDITEMS: _Machine.add,
        pickle.FROZENSET: _Machine.inert_set,
        pickle.BINPUT: lambda m: m.put(m.number(_U1)),
        pickle.LONG_BINPUT: lambda m: m.put(m.number(_U4)),
        pickle.MEMOIZE: lambda m: m.put(len(m.memo)),
        pickle.BINGET: lambda m: m.get(m.number(_U1)),
        pickle.LONG_BINGET: lambda m: m.get(m.number(_U4)),
        pickle.GLOBAL: lambda m: m.name(m.line(), m.line()),
        pickle.STACK_GLOBAL: _Machine.stack_name,
        pickle.REDUCE: _Machine.call,
        pickle.NEWOBJ: _Machine.call,
        pickle.NEWOBJ_EX: lambda m: m.call(named=True),
        pickle.BUILD: _Machine.build,
        pickle.BINPERSID: lambda m: m.push(m.persistent(m.stack.pop())),
    }.items()
}
