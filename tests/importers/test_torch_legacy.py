"""The format that torch.save wrote before 1.6, by torch.save itself; and files of it made to harm."""

from __future__ import annotations

import io
import itertools
import pickle
import random
import struct
import tarfile

import numpy as np
import pytest
from gatestep.engine.errors import GatestepError, ModelFormatError, UnsupportedModelError
from gatestep.importers.kinds import is_weights
from gatestep.importers.torch import read_torch
from gatestep.importers.unpickle import unpickle_at
from gatestep.importers.weights import read_weights

torch = pytest.importorskip("torch")


def saved(value, **options) -> bytes:
    """What torch.save wrote."""
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=False, **options)
    return stream.getvalue()


def assert_same(arrays, tensors) -> None:
    """Equal keys in equal order, and bitwise equal values."""
    assert list(arrays) == list(tensors)
    for key, tensor in tensors.items():
        tensor = tensor.detach()
        expected = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        assert arrays[key].flags.c_contiguous, key
        assert arrays[key].flags.aligned, key
        assert not arrays[key].flags.writeable, key
        np.testing.assert_array_equal(arrays[key], expected, err_msg=key, strict=True)


@pytest.mark.parametrize("module", ["LSTM", "GRU", "RNN"])
def test_state_dict_of_a_module(module, tmp_path) -> None:
    state = getattr(torch.nn, module)(7, 5, 2, bidirectional=True).state_dict()
    path = tmp_path / "weights.pth"
    path.write_bytes(saved(state))
    assert is_weights(path)
    for source in (path, str(path), path.read_bytes()):
        assert_same(read_weights(source)[0], state)


@pytest.mark.parametrize("dtype", "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split())
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_dtypes(dtype, protocol) -> None:
    state = {"w": torch.tensor([[0, 1, 2], [3, 50, 7]]).to(getattr(torch, dtype)), "odd": torch.ones(1).bool()}
    assert_same(read_torch(saved(state, pickle_protocol=protocol)), state)


def test_strided_and_shared_storages() -> None:
    base = torch.arange(120, dtype=torch.float32)
    state = {
        "transposed": base.view(10, 12).t(),
        "sliced": base.view(10, 12)[2:7, 1:11:3],
        "expanded": base[:4].expand(3, 4),
        "tail": base[100:],
        "scalar": base[5],
        "empty": base[:0],
        "byte": torch.ones(3, dtype=torch.uint8),
        "other": torch.randn(4).double(),
        "parameter": torch.nn.Parameter(base[:3]),
    }
    got = read_torch(saved(state))
    assert_same(got, state)
    same = torch.randn(3)
    got = read_torch(saved({"a": same, "b": same}))
    assert got["a"] is got["b"]


def test_checkpoints() -> None:
    module = torch.nn.GRU(3, 2)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(2, 1, 3))[0].sum().backward()
    optimizer.step()
    data = saved({"epoch": 3, "model_state_dict": module.state_dict(), "optimizer": optimizer.state_dict()})
    assert_same(read_torch(data), module.state_dict())
    assert_same(read_torch(data, state_dict="model_state_dict"), module.state_dict())


@pytest.mark.filterwarnings("ignore")
def test_what_is_no_weights() -> None:
    with pytest.raises(UnsupportedModelError, match=r"pickled module.*Bilinear.*nothing was run"):
        read_torch(saved(torch.nn.Bilinear(3, 2, 1)))
    with pytest.raises(UnsupportedModelError, match="ComplexFloatStorage"):
        read_torch(saved({"w": torch.ones(2), "odd": torch.ones(3, dtype=torch.complex64)}))
    with pytest.raises(UnsupportedModelError, match="list"):
        read_torch(saved([torch.ones(2)]))


def test_the_tar_format_before_it() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as file:
        info = tarfile.TarInfo("storages")
        info.size = 4
        file.addfile(info, io.BytesIO(b"\x80\x02N."))
    assert is_weights(stream.getvalue())
    with pytest.raises(UnsupportedModelError, match="tar archive, as PyTorch wrote"):
        read_weights(stream.getvalue())


# Made to harm


def parts(state) -> list[bytes]:
    """The five pickles of a file, and what follows them."""
    data = saved(state)
    ends = [0]
    for _ in range(5):
        _, end = unpickle_at(data, ends[-1], source="", calls={}, persistent=lambda identity: None)
        ends.append(end)
    return [*(data[a:b] for a, b in itertools.pairwise(ends)), data[ends[-1] :]]


STATE = {"w": torch.arange(6, dtype=torch.float32)}


def test_the_parts() -> None:
    pieces = parts(STATE)
    assert pieces[5] == struct.pack("<q6f", 6, 0, 1, 2, 3, 4, 5)
    assert b"".join(pieces) == saved(STATE)


@pytest.mark.parametrize(
    ("which", "piece"),
    [
        (1, pickle.dumps(1002, 2)),
        (1, pickle.dumps(1 << 30_000, 2)),
        (1, pickle.dumps("1001", 2)),
        (2, pickle.dumps([], 2)),
        (3, pickle.dumps({"w": 1}, 2)),
        (4, pickle.dumps([], 2)),
        (4, pickle.dumps(["0"], 2)),
        (4, pickle.dumps([1], 2)),
        (4, pickle.dumps("0", 2)),
        (4, pickle.dumps([["0"]], 2)),
        (5, b""),
        (5, struct.pack("<q6f", 7, 0, 1, 2, 3, 4, 5)),
        (5, struct.pack("<q6f", -1, 0, 1, 2, 3, 4, 5)),
        (5, struct.pack("<q5f", 6, 0, 1, 2, 3, 4)),
        (5, struct.pack("<q", 6)),
    ],
)
def test_parts_that_contradict(which, piece) -> None:
    pieces = parts(STATE)
    pieces[which] = piece
    with pytest.raises(GatestepError):
        read_torch(b"".join(pieces))


def test_a_storage_listed_twice() -> None:
    pieces = parts(STATE)
    (key,) = pickle.loads(pieces[4])
    pieces[4] = pickle.dumps([key, key], 2)
    with pytest.raises(ModelFormatError, match="twice"):
        read_torch(b"".join(pieces) + pieces[5])


def test_sizes_beyond_the_file() -> None:
    pieces = parts(STATE)
    for size in (7, 1 << 30):
        huge = pieces[3].replace(b"K\x06N", b"J" + struct.pack("<i", size) + b"N")
        assert huge != pieces[3]
        with pytest.raises(ModelFormatError, match="is not there"):
            read_torch(b"".join([*pieces[:3], huge, pieces[4], struct.pack("<q", size), bytes(24)]))


def test_views_of_storages_are_refused() -> None:
    pieces = parts(STATE)
    view = pieces[3].replace(b"K\x06N", b"K\x06(X\x01\x00\x00\x00aK\x00K\x06t")
    with pytest.raises(UnsupportedModelError, match="view of another"):
        read_torch(b"".join([*pieces[:3], view, *pieces[4:]]))


def test_programs_are_refused_and_not_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    attack = b"\x80\x02cos\nsystem\nX\x0a\x00\x00\x00touch mark\x85R."
    for which in range(1, 5):
        pieces = parts(STATE)
        pieces[which] = attack
        with pytest.raises(UnsupportedModelError, match="nothing was run"):
            read_torch(b"".join(pieces))
    assert not list(tmp_path.iterdir())


def test_truncation() -> None:
    data = saved(STATE | {"h": torch.ones(3).half()})
    for end in range(len(data)):
        with pytest.raises(GatestepError):
            read_torch(data[:end])


def test_mutations() -> None:
    seed = random.Random(7)
    data = saved(STATE | {"h": torch.ones(3).half(), "n": 3})
    for _ in range(4000):
        mutated = bytearray(data)
        for _ in range(seed.randint(1, 4)):
            position = seed.randrange(len(mutated))
            if seed.random() < 0.6:
                mutated[position] = seed.randrange(256)
            elif seed.random() < 0.5:
                del mutated[position : position + seed.randint(1, 5)]
            else:
                mutated[position:position] = seed.randbytes(seed.randint(1, 3))
        try:
            arrays = read_torch(bytes(mutated))
        except GatestepError:
            continue
        assert sum(array.nbytes for array in arrays.values()) < 1 << 12
