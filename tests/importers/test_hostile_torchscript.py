"""TorchScript files made to harm: always one of our errors, soon, in little memory, and nothing in them ever runs."""

from __future__ import annotations

import contextlib
import io
import random
import time
import zipfile
from typing import Any

import pytest
import torch
from gatestep.engine.errors import GatestepError, ModelFormatError, UnsupportedModelError
from gatestep.importers.torchscript import read_torchscript
from hostile import assert_refused
from torch import nn

from .test_hostile_torch import Code, code, name, tensor

pytestmark = pytest.mark.filterwarnings("ignore")

#: Of processor time, with every allocation traced, which takes several times as long.
SECONDS = 20.0
SPARE = 200 << 20

FORWARD = """class Net(Module):
  __parameters__ = []
  w : Tensor
  def forward(self: __torch__.Net,
    x: Tensor) -> Tensor:
{body}
"""


def module(**attributes: Any) -> Code:
    return Code(name("__torch__", "Net") + b")\x81" + code(attributes) + b"b")


def archive(body: str = "return x", root: Any = None, **entries: bytes | None) -> bytes:
    """An archive of TorchScript whose forward is `body`; an entry that is None is left out."""
    text = FORWARD.format(body="\n".join(f"    {line}" for line in body.split("\n")))
    files: dict[str, bytes | None] = {
        "data.pkl": b"\x80\x02" + code(module(w=tensor(), training=False) if root is None else root) + b".",
        "code/__torch__.py": text.encode(),
        "constants.pkl": b"\x80\x02).",
        "data/0": bytes(24),
        "version": b"3\n",
        "byteorder": b"little",
    }
    files |= entries
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for key, data in files.items():
            if data is not None:
                file.writestr(f"archive/{key}", data)
    return stream.getvalue()


def refused(data: bytes, match: str | None = None, error: type[GatestepError] = GatestepError) -> None:
    assert_refused(read_torchscript, data, match, error, SECONDS, SPARE)


def test_the_assembler_makes_sound_files() -> None:
    graph = read_torchscript(archive("w = self.w\nreturn torch.linear(x, w, None)"))
    assert [node.op for node in graph.nodes] == ["MatMul"]
    assert graph.inputs[0].shape is None


@pytest.mark.parametrize(
    "body",
    [
        "return __import__('os').system('touch ran')",
        "return eval('x')",
        "return exec('x')",
        "return open('ran', 'w')",
        "return x.__class__.__mro__",
        "return torch.__class__",
        "return torch.load('x')",
        "return torch.hub.load('x', 'y')",
        "return torch.ops.load_library('x')",
        "return ops.mine.attack(x)",
        "return self.__class__",
        "return self.__init__",
        "return getattr(self, '__dict__')",
        "return getattr(x, '__class__')",
        "return (self).__reduce__()",
        "return __torch__.os.system('x', )",
        "return __torch__.....os.system('x', )",
        "return [y for y in x]",
        "return (lambda: x)()",
        "return x if x else x",
        "import os",
        "from os import system",
        "global x",
        "del x",
        "try:\n  pass\nexcept:\n  pass",
        "def f():\n  pass",
        "class A:\n  pass",
        "raise x",
        "assert x",
        "yield x",
        "await x",
        "x += 1",
        "x[0] = 1",
        "torch.relu = x",
        "with open('x'):\n  pass",
        "match x:\n  case 1: pass",
        "return f'{x}'",
        "return '''x'''",
        "return b'x'",
        "return 1 .real",
        "return torch.relu(*x)",
        "return torch.relu(**x)",
        "return torch.lowered('relu', x)",
        "return torch._lowered('relu', [x], None, '')",
        "return torch.call('relu', x)",
        "return torch.on_size(x)",
        "return torch.__getattr__(x)",
        "return CONSTANTS.c0",
        "return CONSTANTS.c99999999999999999999999",
        "return CONSTANTS.cx",
        "return CONSTANTS.__class__",
        "return undefined",
        "return self.absent",
        "return (self).absent()",
        "return (self).forward()",
        "return (self).forward(x, x, )",
        "return self",
        "return torch.relu(self)",
        "return torch.relu('x')",
        "return torch.relu(1j)",
        "return torch.relu()",
        "return torch.relu(x, x, x)",
        "return torch.relu(x, nothing=1)",
        "return torch.add(x, None)",
        "return torch.add(x, [x])",
        "return torch.add(x, {})",
        "a, b = x\nreturn a",
        "a, b = 1\nreturn a",
        "return {x: x}",
        "return {(1, 2): x}",
        "return {**x}",
        "return int('x')",
        "return float('x')",
        "return int(x, 2)",
        "return torch.div(1, 0)",
        "return torch.sqrt(-1)",
        "return [1][5]",
        "return [1]['x']",
        "return {}['x']",
        "return torch.select(x, 99, 0)",
        "return torch.zeros(['x'])",
        "return torch.zeros([2], dtype=99)",
        "return torch.lstm(x, [x, x], [], True, 1, 0., False, False, True)",
        "return torch.lstm(x, [x, x], [x], True, 10000000000, 0., False, False, True)",
        "pass",
        "return None",
    ],
)
def test_nothing_but_the_language_is_understood(body, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(archive(body))
    assert not list(tmp_path.iterdir())


def bombs() -> dict[str, str]:
    return {
        "endless loop": "while True:\n  x = torch.relu(x)\nreturn x",
        "endless loop of nothing": "while True:\n  pass\nreturn x",
        "long loop": "for i in range(1000000000):\n  x = torch.relu(x)\nreturn x",
        "huge range": "for i in range(99999999999999999999999999):\n  pass\nreturn x",
        "nested loops": "for i in range(10000):\n  for j in range(10000):\n    pass\nreturn x",
        "recursion": "return (self).forward(x, )",
        "doubled recursion": "return torch.add((self).forward(x, ), (self).forward(x, ))",
        "deep brackets": f"return {'(' * 150}x{')' * 150}",
        "deep lists": f"return {'[' * 150}x{']' * 150}",
        "deeper brackets": f"return {'(' * 5000}x{')' * 5000}",
        "chain of attributes": f"return self{'.w' * 100000}",
        "chain of calls": f"return x{'(1, )' * 100000}",
        "chain of subscripts": f"return x{'[0]' * 100000}",
        "chain of operators": f"return x{' + x' * 100000}",
        "signs": f"return {'-' * 100000}1",
        "nots": f"return {'not ' * 100000}x",
        "conditions": f"return {'x if x else ' * 100000}x",
        "nested calls": f"return {'torch.relu(' * 90}x{')' * 90}",
        "indented": "\n".join(f"{' ' * k}if True:" for k in range(200)),
        "long line": f"return [{'1, ' * 100000}]",
        "long name": f"return {'n' * 1000000}",
        "long string": f"return '{'s' * 1000000}'",
        "big integer": f"return {'9' * 4000}",
        "bigger integer": f"return {'9' * 100000}",
        "tower": "n = 10\nfor i in range(100):\n  n = torch.mul(n, n)\nreturn n",
        "power": "return torch.pow(10, 1000000000000)",
        "shift": "return torch.__lshift__(1, 1000000000000)",
        "doubling list": "a = [x]\nfor i in range(60):\n  a = torch.add(a, a)\nreturn a",
        "repeated list": "return torch.mul([x], 1000000000000)",
        "extended list": "a = [1]\nfor i in range(60):\n  torch.extend(a, a)\nreturn x",
        "list in itself": "a = [x]\nb = torch.append(a, a)\nreturn a",
        "tuple of tuples": "a = (x, x)\nfor i in range(40):\n  a = (a, a)\nreturn a",
        "huge zeros": "return torch.zeros([1000000000, 1000000000])",
        "expanded": "return torch.linear(x, torch.repeat(self.w, [100000, 100000]), None)",
        "many chunks": "return torch.split(torch.zeros([100000000, 2]), 1)",
        "views of views": "for i in range(3000):\n  x = torch.unsqueeze(x, 0)\nreturn x",
        "loop of loops": "for i in range(torch.size(x, 0)):\n  for j in range(100000000):\n    pass\nreturn x",
        "changing shape": "for i in range(torch.size(x, 0)):\n  x = torch.cat([x, x])\nreturn x",
        "many ifs": "\n".join(["if torch.gt(torch.size(x, 0), 3):\n  a = True\nelse:\n  a = False"] * 300)
        + "\nreturn a",
        "writes": "y = torch.zeros([3])\nfor i in range(1000):\n  z = torch.add_(torch.select(y, 0, 0), 1)\nreturn x",
    }


@pytest.mark.parametrize("which", bombs())
def test_program_bombs(which) -> None:
    data = archive(bombs()[which])
    if which in ("deep brackets", "deep lists", "nested calls", "huge zeros", "expanded", "changing shape", "writes"):
        soon(data)  # only long, or for the engine to refuse
    else:
        with pytest.raises(GatestepError):
            soon(data)


def soon(data: bytes) -> None:
    start = time.process_time()
    try:
        read_torchscript(data)
    finally:
        assert time.process_time() - start < SECONDS


def test_objects_that_are_no_modules() -> None:
    refused(archive(root={"w": tensor()}), "no module", ModelFormatError)
    refused(archive(root=tensor()), "no module", ModelFormatError)
    refused(archive(root=Code(name("os", "system") + b")\x81")), "nothing was run", UnsupportedModelError)
    refused(archive(root=Code(name("somewhere", "Net") + b")\x81" + code({}) + b"b")), "no module", ModelFormatError)
    refused(archive(root=Code(name("__torch__", "Other") + b")\x81" + code({}) + b"b")), "code is not in the file")
    refused(archive("return torch.linear(x, self.w, None)", root=Code(name("__torch__", "Net") + b")\x81")))
    packed = Code(name("__torch__.torch.classes.quantized", "LinearPackedParamsBase") + b")\x81" + code((1, 2)) + b"b")
    refused(archive("return ops.quantized.linear(x, self.w, 1., 0)", root=module(w=packed)), "quantized")


def test_a_module_in_itself() -> None:
    loop = Code(name("__torch__", "Net") + b")\x81q\x00}(" + code("w") + b"h\x00ub")
    refused(archive("w = self.w\nreturn (w).forward(x, )", root=loop), "calls within each other", ModelFormatError)
    refused(archive("return torch.linear(x, self.w, None)", root=loop))
    looped = Code(b"]q\x01h\x01a")
    refused(archive("return torch.stack(self.w)", root=module(w=looped)))


def test_names_do_not_leave_the_archive() -> None:
    """A class is looked for under code/ and nowhere else."""
    for kind in (
        "__torch__....etc.Net",
        "__torch__./etc/passwd.Net",
        "__torch__.\x00.Net",
        "__torch__." + "a." * 5000 + "N",
    ):
        module_name, _, last = kind.rpartition(".")
        refused(
            archive(root=Code(name(module_name, last) + b")\x81" + code({}) + b"b")), "not in the file|damaged|pickle"
        )


def test_entries_that_are_missing_or_wrong() -> None:
    for entry in ("data.pkl", "code/__torch__.py", "version", "data/0"):
        refused(archive("return torch.linear(x, self.w, None)", **{entry: None}))
    refused(archive(version=b"99\n"), "version 99", UnsupportedModelError)
    refused(archive(version=b"x"), "version", ModelFormatError)
    refused(archive(byteorder=b"middle"), "byte order", ModelFormatError)
    refused(archive(**{"constants.pkl": b"\x80\x02}."}), "constants", ModelFormatError)
    refused(archive(**{"code/__torch__.py": b"\xff\xfe"}), "no text", ModelFormatError)
    refused(
        archive(**{"code/__torch__.py": b"class Net(Module):\n  def forward("}), "cannot be parsed", ModelFormatError
    )
    refused(archive(**{"code/__torch__.py": b"class Net(Module):\n  pass\nclass Net(Module):\n  pass\n"}), "twice")
    refused(archive(**{"code/__torch__.py": b"#" * (5 << 20)}), "more than", UnsupportedModelError)
    refused(archive(**{"model.json": b"{}", "data.pkl": None}), "before 1.4", UnsupportedModelError)
    refused(archive(**{"bytecode.pkl": b"", "code/__torch__.py": None}), "mobile interpreter", UnsupportedModelError)


def test_types_of_inputs_that_cannot_be() -> None:
    for kind in ("List[Tensor]", "Dict[str, Tensor]", "str", "Any", "__torch__.Net", "Optional[List[int]]", "x" * 5000):
        text = FORWARD.format(body="    return torch.relu(x)").replace("x: Tensor", f"x: {kind}")
        refused(archive(**{"code/__torch__.py": text.encode()}), "an input of type", UnsupportedModelError)


# Damage


@pytest.fixture(scope="module")
def sound() -> dict[str, bytes]:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.fc = nn.GRU(2, 3, batch_first=True), nn.Linear(3, 1)

        def forward(self, x):
            y, h = self.rnn(x)
            for t in range(x.size(1)):
                h = h + y[:, t]
            return self.fc(y), h

    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(Net().eval()), stream)
    with zipfile.ZipFile(stream) as file:
        return {entry: file.read(entry) for entry in file.namelist() if not entry.endswith(".debug_pkl")}


def packed(entries: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for entry, data in entries.items():
            file.writestr(entry, data)
    return stream.getvalue()


@pytest.mark.parametrize("part", ["data.pkl", "__torch__/", "constants.pkl"])
def test_mutations(sound, part) -> None:
    """Checksums keep most damage away from what is read; here they are right."""
    assert read_torchscript(packed(sound)).nodes
    seed = random.Random(11)
    targets = [entry for entry in sound if part in entry]
    assert targets
    words = [
        b"(",
        b")",
        b"[",
        b"]",
        b",",
        b"1",
        b"-1",
        b"x",
        b"input",
        b"torch.",
        b"None",
        b"True",
        b"99999999999",
        b"\n",
        b"    ",
    ]
    for _ in range(120):
        entries = dict(sound)
        entry = seed.choice(targets)
        data = bytearray(entries[entry])
        for _ in range(seed.randint(1, 3)):
            at = seed.randrange(len(data) or 1)
            kind = seed.randrange(4)
            if kind == 0:
                data[at : at + 1] = seed.randbytes(1)
            elif kind == 1:
                del data[at : at + seed.randint(1, 8)]
            elif kind == 2:
                data[at:at] = seed.choice(words)
            else:
                to = seed.randrange(len(data) or 1)
                data[at:at] = data[to : to + seed.randint(1, 40)]
        entries[entry] = bytes(data)
        with contextlib.suppress(GatestepError):
            soon(packed(entries))


def test_truncation(sound) -> None:
    data = packed(sound)
    for end in range(0, len(data), 37):
        with pytest.raises(GatestepError):
            read_torchscript(data[:end])
