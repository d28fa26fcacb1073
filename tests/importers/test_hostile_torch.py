"""Torch files made to harm: always one of our errors, soon, in little memory, and nothing in them ever runs."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import zipfile
from typing import Any

import numpy as np
import pytest
from gatestep.engine.errors import GatestepError, ModelFormatError, UnsupportedModelError
from gatestep.importers.torch import read_torch
from hostile import assert_refused

#: Of processor time, with every allocation traced, which takes several times as long.
SECONDS = 10.0
#: Bytes, beyond three times the file.
SPARE = 150 << 20


class Code(bytes):
    """Opcodes, to stand for the value they make."""


def name(module: str, attribute: str) -> Code:
    return Code(f"c{module}\n{attribute}\n".encode())


def code(value: Any) -> bytes:
    """Opcodes that push `value`."""
    match value:
        case Code():
            return bytes(value)
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8b" + struct.pack("<i", len(raw)) + raw
        case str():
            raw = value.encode()
            return b"X" + struct.pack("<I", len(raw)) + raw
        case float():
            return b"G" + struct.pack(">d", value)
        case tuple():
            return b"(" + b"".join(map(code, value)) + b"t"
        case list():
            return b"](" + b"".join(map(code, value)) + b"e"
        case dict():
            return b"}(" + b"".join(code(k) + code(v) for k, v in value.items()) + b"u"
    raise TypeError(value)


def call(function: Code, *arguments: Any) -> Code:
    return Code(function + code(arguments) + b"R")


def storage(size: Any = 6, *, key: Any = "0", kind: str = "FloatStorage") -> Code:
    return Code(code(("storage", name("torch", kind), key, "cpu", size)) + b"Q")


def tensor(offset: Any = 0, shape: Any = (2, 3), strides: Any = (3, 1), source: Any = None) -> Code:
    return call(
        name("torch._utils", "_rebuild_tensor_v2"),
        storage() if source is None else source,
        offset,
        shape,
        strides,
        False,
        call(name("collections", "OrderedDict")),
    )


def archive(root: Any, *, compression: int = zipfile.ZIP_STORED, **entries: bytes) -> bytes:
    """A file of torch.save that holds `root`; entries are named with `__` for `/`."""
    program = root if isinstance(root, bytes) and not isinstance(root, Code) else b"\x80\x02" + code(root) + b"."
    files = {
        "data.pkl": program,
        "byteorder": b"little",
        "version": b"3\n",
        "data/0": np.arange(6, dtype="f4").tobytes(),
    }
    files |= {key.replace("__", "/"): data for key, data in entries.items()}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        for key, data in files.items():
            file.writestr(f"archive/{key}", data)
    return stream.getvalue()


def refused(data: bytes, match: str | None = None, error: type[GatestepError] = GatestepError) -> None:
    assert_refused(read_torch, data, match, error, SECONDS, SPARE)


def test_the_assembler_makes_sound_files() -> None:
    got = read_torch(archive({"w": tensor(), "tail": tensor(4, (2,), (1,))}))
    np.testing.assert_array_equal(got["w"], np.arange(6, dtype="f4").reshape(2, 3))
    np.testing.assert_array_equal(got["tail"], np.array([4, 5], "f4"))


# Code


@pytest.mark.parametrize(
    ("module", "function"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("nt", "system"),
        ("subprocess", "Popen"),
        ("builtins", "exec"),
        ("builtins", "eval"),
        ("__builtin__", "eval"),
        ("builtins", "__import__"),
        ("importlib", "import_module"),
        ("runpy", "_run_code"),
        ("os.path", "join"),
        ("shutil", "rmtree"),
        ("pickle", "loads"),
        ("torch.hub", "load"),
    ],
)
@pytest.mark.parametrize("place", ["root", "value", "key", "beside", "in tensor", "stack global"])
def test_programs_are_refused_and_not_run(module, function, place, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    attack = call(name(module, function), "touch ran; echo ran > ran")
    root: Any = {
        "root": attack,
        "value": {"w": tensor(), "x": attack},
        "key": {"w": tensor(), attack: 1},
        "beside": {"state_dict": {"w": tensor()}, "args": [attack]},
        "in tensor": {"w": tensor(source=attack)},
        "stack global": Code(code(module) + code(function) + b"\x93" + code(("touch ran",)) + b"R"),
    }[place]
    refused(archive(root), "nothing was run", UnsupportedModelError)
    assert not list(tmp_path.iterdir())


def test_a_real_reduce_attack(tmp_path) -> None:
    mark = tmp_path / "ran"

    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {mark}",)

    for protocol in (2, 3, 4, 5):
        program = pickle.dumps({"w": Attack()}, protocol)
        refused(archive(program), "nothing was run", UnsupportedModelError)
        refused(program, "plain pickle", UnsupportedModelError)
    assert not mark.exists()
    pickle.loads(program)
    assert mark.exists(), "the attack must be a real one"


@pytest.mark.parametrize(
    "make",
    [
        lambda: call(name("random", "seed"), 1),
        lambda: Code(name("random", "Random") + b")\x81"),
        lambda: Code(name("random", "Random") + b")}\x92"),
        lambda: Code(call(name("random", "Random")) + code({"x": 1}) + b"b"),
        lambda: call(call(name("operator", "attrgetter"), "__class__"), 3),
        lambda: call(call(name("builtins", "getattr"), name("random", "Random"), "seed"), 3),
        lambda: call(name("torch.storage", "_load_from_bytes"), "x"),
        lambda: call(name("numpy._core.multiarray", "scalar"), 1),
    ],
    ids=["reduce", "newobj", "newobj_ex", "build", "call of a call", "getattr", "load_from_bytes", "numpy"],
)
def test_nothing_is_ever_called(make, monkeypatch) -> None:
    """Whatever a pickle names, looking it up is the first step; there is none."""

    def forbidden(*arguments: object) -> None:
        raise AssertionError(f"called with {arguments}")

    monkeypatch.setattr("random.seed", forbidden)
    monkeypatch.setattr("random.Random", forbidden)
    monkeypatch.setattr("operator.attrgetter", forbidden)
    refused(archive({"w": tensor(), "x": make()}), "'x' is no plain tensor", UnsupportedModelError)
    # Beside the weights such an object is neither built nor missed.
    assert list(read_torch(archive({"state_dict": {"w": tensor()}, "x": make()}))) == ["w"]


# Sizes that lie


@pytest.mark.parametrize(
    "root",
    [
        tensor(1),
        tensor(shape=(3, 3)),
        tensor(strides=(4, 1)),
        tensor(shape=(2**62, 2**62), strides=(2**62, 1)),
        tensor(shape=(2**63,), strides=(1,)),
        tensor(shape=(2**64, 2**64), strides=(0, 0)),
        tensor(shape=(2**40, 2), strides=(0, 1)),
        tensor(2**64),
        tensor(-1),
        tensor(shape=(-2, 3)),
        tensor(strides=(-3, 1)),
        tensor(shape=(0, 2**62)),
        tensor(shape=(2, 3, 1)),
        tensor(shape=(True, 3)),
        tensor(shape=(2.0, 3)),
        tensor(shape=[2, 3]),
        tensor(shape="23"),
        tensor(offset="0"),
        tensor(shape=(1,) * 33, strides=(1,) * 33),
        tensor(source=storage(7)),
        tensor(source=storage(5)),
        tensor(source=storage(2**70)),
        tensor(source=storage(-6)),
        tensor(source=storage("6")),
        tensor(source=storage(key="1")),
        tensor(source=storage(key="../version")),
        tensor(source=storage(key=0)),
        tensor(source=storage(kind="DoubleStorage")),
        tensor(source=Code(code("storage") + b"Q")),
        tensor(source=Code(code(("module", 1)) + b"Q")),
        tensor(source=3),
        call(name("torch._utils", "_rebuild_tensor_v2")),
        call(name("torch._utils", "_rebuild_tensor_v3"), storage(), 0, (2,), (1,), False, None, "float32"),
        call(name("torch._utils", "_rebuild_parameter")),
        call(name("torch._tensor", "_rebuild_from_type_v2"), 1),
    ],
)
def test_sizes_that_contradict(root) -> None:
    refused(archive({"w": root}), "bytes", ModelFormatError)


def test_views_that_multiply_the_file() -> None:
    """A hundred expanded views of 4 MB each from 24 bytes."""
    refused(archive({f"w{n}": tensor(shape=(10**6 + n,), strides=(0,)) for n in range(100)}), "larger than the file")


def test_unknown_version_and_byte_order() -> None:
    refused(archive({"w": tensor()}, version=b"11\n"), "version 11", UnsupportedModelError)
    refused(archive({"w": tensor()}, version=b"x"), "version", ModelFormatError)
    refused(archive({"w": tensor()}, version=b"9" * 5000), "version", ModelFormatError)
    refused(archive({"w": tensor()}, byteorder=b"middle"), "byte order", ModelFormatError)


# Archives


def test_zip_bomb() -> None:
    data = archive({"w": tensor()}, compression=zipfile.ZIP_DEFLATED, data__0=bytes(1 << 28))
    assert len(data) < 1 << 20
    refused(data, "is compressed", UnsupportedModelError)


def test_overlapping_entries() -> None:
    """Many storages over the same bytes of the file: 64 times 4 MB in 4 MB."""
    size, count = 1 << 22, 64
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        root = {f"w{n}": tensor(0, (size // 4,), (1,), storage(size // 4, key=str(n))) for n in range(count)}
        file.writestr("archive/data.pkl", b"\x80\x02" + code(root) + b".")
        file.writestr("archive/data/0", bytes(size))
        first = file.getinfo("archive/data/0")
        for n in range(1, count):
            copy = zipfile.ZipInfo(f"archive/data/{n}")
            for slot in ("header_offset", "CRC", "file_size", "compress_size"):
                setattr(copy, slot, getattr(first, slot))
            file.filelist.append(copy)
            file.NameToInfo[copy.filename] = copy
    refused(stream.getvalue(), "overlap|damaged", ModelFormatError)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_entry_named_twice() -> None:
    stream = io.BytesIO(archive({"w": tensor()}))
    with zipfile.ZipFile(stream, "a") as file:
        file.writestr("archive/data/0", bytes(24))
    refused(stream.getvalue(), "two entries", ModelFormatError)


def test_other_archives() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("word/document.xml", "<xml/>")
    refused(stream.getvalue(), "no data.pkl", ModelFormatError)
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    refused(empty.getvalue(), "does not begin", ModelFormatError)


# Pickles


@pytest.mark.parametrize(
    "program",
    [
        b"",
        b".",
        b"\x80\x02",
        b"\x80\x02}",
        b"\x80\x02t.",
        b"\x80\x02(u.",
        b"\x80\x02}(Nu.",
        b"\x80\x02R.",
        b"\x80\x02NNR.",
        b"\x80\x02Q.",
        b"\x80\x02h\x05.",
        b"\x80\x02q\x01.",
        b"\x80\x02X\xff\xff\xff\xffabc.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        b"\x80\x02\x8b\xff\xff\xff\x7f.",
        b"\x80\x02\x8b\xff\xff\xff\xff.",
        b"\x80\x02cos",
        b"\x80\x02c\xff\n\xff\n.",
        b"\x80\x02X\x01\x00\x00\x00\xff.",
        b"\x80\x02Nb.",
        b"\x80\x02NNb.",
        b"\x80\x02NNa.",
        b"\x80\x02NN\x90.",
        b"\x80\x02NN\x93.",
        b"I" + b"9" * 100_000 + b"\n.",
        b"L" + b"9" * 100_000 + b"L\n.",
        b"\x80\x02\x82\x01.",
        b"\x80\x05\x97.",
        b"(i__main__\nX\n.",
        b"\x80\xff" + bytes(range(256)),
    ],
)
def test_malformed_pickles(program) -> None:
    refused(archive(program))


def bombs() -> dict[str, bytes]:
    deep = 100_000
    return {
        "memo index": b"\x80\x02Nr\xff\xff\xff\xff.",
        "deep lists": b"\x80\x02" + b"]" * deep + b"a" * (deep - 1) + b".",
        "deep tuples": b"\x80\x02)" + b"\x85" * deep + b".",
        "deep tuple as a key": b"\x80\x02})" + b"\x85" * deep + b"Ns.",
        "deep dictionaries": b"\x80\x02" + (b"}" + code("model")) * deep + b"N" + b"s" * deep + b".",
        "marks": b"\x80\x02" + b"(" * 1_500_000,
        "billion laughs": b"\x80\x02)" + b"2\x86" * 100 + b".",
        "billion laughs as a key": b"\x80\x02})" + b"2\x86" * 100 + b"Ns.",
        "billion laughs in a list": b"\x80\x02]" + b"2a" * 100 + b".",
        "endless": b"\x80\x02" + b"N0" * 1_500_000 + b".",
        "empty dictionaries": b"\x80\x02" + b"}" * 1_500_000,
        "a list in itself": b"\x80\x02]2a.",
        "a dictionary in itself": b"\x80\x02}q\x00" + code("model") + b"h\x00s.",
        "calls of calls": b"\x80\x02" + name("a", "b") + b")R" * 100_000 + b".",
        "colliding keys": b"\x80\x02}(" + b"".join(code(n * (2**61 - 1)) + b"N" for n in range(50_000)) + b"u.",
        "long names": b"\x80\x02" + name("m" * 1_000_000, "n" * 1_000_000) + b")R.",
        "long keys": b"\x80\x02" + code({"k" * 1_000_000: 1}) + b".",
    }


@pytest.mark.parametrize("which", bombs())
def test_pickle_bombs(which) -> None:
    refused(archive(bombs()[which]))


def test_messages_stay_short() -> None:
    for which in ("long names", "long keys"):
        with pytest.raises(GatestepError) as caught:
            read_torch(archive(bombs()[which]))
        assert len(str(caught.value)) < 1000


# Damage


def test_truncation() -> None:
    data = archive({"w": tensor(), "b": tensor(4, (2,), (1,))})
    for end in range(len(data)):
        with pytest.raises(GatestepError):
            read_torch(data[:end])


def test_bit_flips() -> None:
    """Each flip is found, or in a place that does not matter: then the weights are the same."""
    data = archive({"w": tensor(), "b": tensor(4, (2,), (1,))})
    sound = read_torch(data)
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            try:
                got = read_torch(bytes(flipped))
            except GatestepError:
                continue
            assert got.keys() == sound.keys()
            for key, array in sound.items():
                np.testing.assert_array_equal(got[key], array)


def test_mutated_pickles() -> None:
    """Checksums keep most damage away from the pickle machine; here they are right."""
    seed = random.Random(7)
    program = b"\x80\x02" + code({"w": tensor(), "b": tensor(4, (2,), (1,)), "n": 3}) + b"."
    for _ in range(3000):
        mutated = bytearray(program)
        for _ in range(seed.randint(1, 4)):
            position = seed.randrange(len(mutated))
            kind = seed.randrange(3)
            if kind == 0:
                mutated[position] = seed.randrange(256)
            elif kind == 1:
                del mutated[position : position + seed.randint(1, 5)]
            else:
                mutated[position:position] = seed.randbytes(seed.randint(1, 3))
        try:
            arrays = read_torch(archive(bytes(mutated)))
        except GatestepError:
            continue
        assert all(array.size <= 6 for array in arrays.values())
