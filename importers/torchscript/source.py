"""The source text in a TorchScript archive: found by name, bounded, and parsed one function at a time.

The text has Python's syntax, and Python's own parser reads it into a tree; nothing is compiled or run. A parser of
nested text can be made to exhaust the machine's stack, so the nesting is measured before it is handed over.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field

from ...engine.errors import ModelFormatError, UnsupportedModelError
from ..archive import Archive

__all__ = ["Code", "Function", "Struct"]

#: Characters of one file, and of all that is read. A network of a thousand layers has one million.
MAX_TEXT = 1 << 22
#: How deep expressions may nest, chains such as ``a.b.c`` and ``a(b)(c)`` counted as they are parsed.
MAX_NESTING = 400
_TOKEN = re.compile(
    r"""(?P<skip>[ \t]+|\#[^\n]*)|(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|(?P<open>[(\[{])"""
    r"""|(?P<close>[)\]}])|(?P<comma>,)|(?P<line>\n)|(?P<word>[A-Za-z0-9_]+)|(?P<other>[^"'\\])|(?P<odd>.)"""
)
_TOP = re.compile(r"^(class|def) +(\w+)", re.MULTILINE)
_METHOD = re.compile(r"^  def +(\w+)", re.MULTILINE)
_FIELD = re.compile(r"^  (\w+) : ", re.MULTILINE)


@dataclass(frozen=True, eq=False)
class Function:
    """A function or method: its qualified name and its syntax tree."""

    name: str
    tree: ast.FunctionDef


@dataclass(eq=False)
class Struct:
    """A class: what it derives from, its attributes in order, the text of its methods."""

    name: str
    base: str
    fields: list[str]
    texts: dict[str, str]
    functions: dict[str, Function] = field(default_factory=dict)


class Code:
    """The folder `code/` of an archive.

    Parameters
    ----------
    archive : Archive
    folder : str
        What its entries begin with, ``"archive/"``.
    """

    def __init__(self, archive: Archive, folder: str) -> None:
        self.archive, self.folder = archive, folder
        self._files: dict[str, dict[str, tuple[str, str]]] = {}
        self._structs: dict[str, Struct] = {}
        self._functions: dict[str, Function] = {}
        self._room = MAX_TEXT

    def damaged(self, what: str) -> ModelFormatError:
        return ModelFormatError(f"{self.archive.name}: {what}")

    def struct(self, name: str) -> Struct | None:
        """A class by its qualified name, ``"__torch__.models.Net"``."""
        if name not in self._structs:
            kind, text = self._find(name)
            if kind != "class":
                return None
            starts = list(_METHOD.finditer(text))
            ends = [match.start() for match in starts[1:]] + [len(text)]
            texts = {m[1]: text[m.start() : end] for m, end in zip(starts, ends, strict=True)}
            head = text[: starts[0].start()] if starts else text
            base = re.match(r"class +\w+(?:\((\w*)\))?", text)
            fields = _FIELD.findall(head)
            self._structs[name] = Struct(name, (base[1] if base else "") or "", fields, texts)
        return self._structs[name]

    def method(self, struct: Struct, name: str) -> Function | None:
        """A method of a class."""
        if name not in struct.functions and name in struct.texts:
            struct.functions[name] = self._parse(f"{struct.name}.{name}", struct.texts[name], "  ")
        return struct.functions.get(name)

    def function(self, name: str) -> Function | None:
        """A function by its qualified name, ``"__torch__.torch.nn.functional.pad"``."""
        if name not in self._functions:
            kind, text = self._find(name)
            if kind != "def":
                return None
            self._functions[name] = self._parse(name, text, "")
        return self._functions[name]

    def _find(self, name: str) -> tuple[str, str]:
        """Which it is, ``"class"`` or ``"def"``, and its text."""
        path, _, last = name.rpartition(".")
        return self._file(path).get(last, ("", ""))

    def _file(self, path: str) -> dict[str, tuple[str, str]]:
        if path not in self._files:
            entry = f"{self.folder}code/{path.replace('.', '/')}.py"
            held: dict[str, tuple[str, str]] = {}
            if entry in self.archive.entries:
                data = self.archive.read(entry, compressed=True)
                self._room -= len(data)
                if self._room < 0:
                    raise UnsupportedModelError(
                        f"its code has more than {MAX_TEXT} characters", source=self.archive.name
                    )
                try:
                    text = data.decode()
                except UnicodeDecodeError as error:
                    raise self.damaged(f"{entry!r} is no text ({error})") from error
                starts = list(_TOP.finditer(text))
                ends = [match.start() for match in starts[1:]] + [len(text)]
                held = {m[2]: (m[1], text[m.start() : end]) for m, end in zip(starts, ends, strict=True)}
                if len(held) != len(starts):
                    raise self.damaged(f"{entry!r} defines a name twice")
            self._files[path] = held
        return self._files[path]

    def _parse(self, name: str, text: str, indent: str) -> Function:
        try:
            if nesting(text) > MAX_NESTING:
                raise ValueError("nested too deeply")
            if indent:  # the tree of a method needs a class around it
                text = f"class _:\n{text}"
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise self.damaged(f"the code of {name[:80]!r} cannot be parsed ({error})") from None
        body = tree.body
        if indent and len(body) == 1 and isinstance(body[0], ast.ClassDef):
            body = body[0].body
        if len(body) != 1 or not isinstance(body[0], ast.FunctionDef):
            raise self.damaged(f"the code of {name[:80]!r} is more than a function")
        return Function(name, body[0])


def nesting(text: str) -> int:
    """An upper bound of the depth of the syntax tree of `text`, found without building it.

    Between two commas, every token may nest one level deeper than the one before; a bracket nests what is in it.
    Strings are those that TorchScript writes: on one line, without a prefix.
    """
    deepest = depth = 0
    levels = [0]
    before = ""
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup or ""
        if kind == "odd" or (kind == "string" and before in ("word", "string")):
            raise ValueError("a quote that TorchScript does not write")
        before = kind
        if kind == "skip":
            continue
        if kind == "open":
            levels[-1] += 1
            levels.append(0)
            depth += 1
        elif kind == "close":
            depth -= levels.pop() if len(levels) > 1 else 0
        elif kind == "comma" or (kind == "line" and len(levels) == 1):
            depth -= levels[-1]
            levels[-1] = 0
        elif kind != "line":
            levels[-1] += 1
            depth += 1
        deepest = max(deepest, depth)
    return deepest
