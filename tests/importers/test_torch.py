"""Weight files of PyTorch, against what PyTorch itself put into them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from gatestep.engine.errors import ModelFormatError, UnsupportedModelError
from gatestep.importers.torch import read_torch
from gatestep.importers.weights import read_weights

torch = pytest.importorskip("torch")

CASES = Path(__file__).parents[3] / "shared" / "models"


def saved(value, **options) -> bytes:
    """What torch.save writes."""
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def assert_same(arrays, tensors) -> None:
    """Equal keys in equal order, and bitwise equal values."""
    assert list(arrays) == list(tensors)
    for key, tensor in tensors.items():
        tensor = tensor.detach()
        expected = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        assert arrays[key].dtype == expected.dtype, key
        assert arrays[key].flags.c_contiguous, key
        assert not arrays[key].flags.writeable, key
        np.testing.assert_array_equal(arrays[key], expected, err_msg=key, strict=True)


@pytest.mark.parametrize("module", ["LSTM", "GRU", "RNN"])
def test_state_dict_of_a_module(module, tmp_path) -> None:
    state = getattr(torch.nn, module)(7, 5, 2, bidirectional=True).state_dict()
    path = tmp_path / "weights.pt"
    torch.save(state, path)
    assert_same(read_torch(path), state)
    assert_same(read_torch(str(path)), state)
    assert_same(read_torch(path.read_bytes()), state)
    weights, name = read_weights(path)
    assert_same(weights, state)
    assert name == str(path)


@pytest.mark.parametrize(
    "dtype",
    "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool".split(),
)
def test_dtypes(dtype) -> None:
    values = torch.tensor([[0, 1, 2], [3, 250, 7]]).to(getattr(torch, dtype))
    assert_same(read_torch(saved({"w": values})), {"w": values})


def test_special_values_keep_their_bits() -> None:
    values = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-45, 3.4e38])
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        state = {"w": values.to(dtype)}
        got = read_torch(saved(state))["w"]
        assert got.tobytes() == (state["w"].float() if dtype is torch.bfloat16 else state["w"]).numpy().tobytes()


def test_strided_views() -> None:
    base = torch.arange(120, dtype=torch.float32)
    state = {
        "transposed": base.view(10, 12).t(),
        "sliced": base.view(10, 12)[2:7, 1:11:3],
        "permuted": base.view(2, 3, 4, 5).permute(3, 1, 0, 2),
        "expanded": base[:4].expand(3, 4),
        "tail": base[100:],
        "scalar": base[5],
        "empty": base[:0],
        "no rows": torch.zeros(0, 7),
        "one": base.view(10, 12)[:1, ::12],
    }
    assert_same(read_torch(saved(state)), state)


def test_shared_storage_is_read_once() -> None:
    weight = torch.randn(6, 4)
    arrays = read_torch(saved({"a": weight, "b": weight, "c": weight[2:]}))
    assert arrays["a"] is arrays["b"]
    assert np.shares_memory(arrays["a"], arrays["c"])


def test_parameters_and_subclasses() -> None:
    class Named(torch.Tensor):
        pass

    plain = torch.randn(3, 2)
    parameter = torch.nn.Parameter(plain.clone())
    parameter.note = "an attribute of its own"
    state = {"parameter": torch.nn.Parameter(plain), "with state": parameter}
    assert_same(read_torch(saved(state)), state)
    # A subclass's class is not looked up, so it need not be importable.
    Named.__module__, Named.__qualname__ = "nowhere", "Named"
    sys.modules["nowhere"] = type(sys)("nowhere")
    sys.modules["nowhere"].Named = Named
    try:
        data = saved({"w": plain.as_subclass(Named)})
    finally:
        del sys.modules["nowhere"]
    np.testing.assert_array_equal(read_torch(data)["w"], plain.numpy())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(protocol) -> None:
    state = torch.nn.GRU(3, 4).state_dict()
    assert_same(read_torch(saved(state, pickle_protocol=protocol)), state)


def test_without_checksums() -> None:
    state = torch.nn.GRU(3, 4).state_dict()
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        data = saved(state)
    finally:
        torch.serialization.set_crc32_options(before)
    assert_same(read_torch(data), state)


def test_big_endian(monkeypatch) -> None:
    """What a big-endian machine writes: the same archive with the bytes of each element the other way round."""
    state = {"w": torch.arange(6, dtype=torch.float64).view(2, 3), "n": torch.tensor([1, 2**40])}
    swapped = {name: torch.from_numpy(tensor.numpy().byteswap()) for name, tensor in state.items()}
    monkeypatch.setattr(sys, "byteorder", "big")
    data = saved(swapped)
    monkeypatch.undo()
    assert_same(read_torch(data), state)


# Checkpoints


def checkpoint(**more):
    model = torch.nn.LSTM(4, 3)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(5, 2, 4))[0].sum().backward()
    optimizer.step()
    return model.state_dict(), {"epoch": 3, "optimizer": optimizer.state_dict(), "loss": 0.25, **more}


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net", "generator weights"])
def test_checkpoint(key) -> None:
    state, rest = checkpoint()
    assert_same(read_torch(saved({**rest, key: state})), state)


def test_checkpoint_with_more_than_tensors() -> None:
    """Lightning and others keep objects beside the weights; their classes are neither needed nor looked at."""
    import argparse

    state, rest = checkpoint(
        args=argparse.Namespace(lr=1e-3),
        best=np.float64(0.5),
        curve=np.ones(3),
        path=Path("runs"),
        rng=torch.get_rng_state(),
        callbacks={"best": {"score": torch.tensor(0.5)}},
        best_score=torch.tensor(0.5),
        sets={1, 2},
        metadata=OrderedDict(a=(1, [2.5, None, True, 1 << 80, b"x"])),
    )
    assert_same(read_torch(saved({**rest, "state_dict": state})), state)


def test_choice_of_state_dict() -> None:
    first, second = torch.nn.GRU(3, 2).state_dict(), torch.nn.GRU(3, 2).state_dict()
    data = saved({"teacher": first, "student": second, "nets": {"v1.0": first}})
    with pytest.raises(UnsupportedModelError, match=r"teacher.*student.*state_dict="):
        read_torch(data)
    assert_same(read_torch(data, state_dict="student"), second)
    assert_same(read_torch(data, state_dict="nets.v1.0"), first)
    with pytest.raises(UnsupportedModelError, match=r"'teecher'.*the keys 'teacher', 'student', 'nets'"):
        read_torch(data, state_dict="teecher")
    with pytest.raises(UnsupportedModelError, match="no dictionary of tensors there"):
        read_torch(data, state_dict="nets")
    assert_same(read_torch(saved({"ema": first, "model": second})), second)
    with pytest.raises(UnsupportedModelError, match="to choose from"):
        read_torch(saved({"net": first, "model": second}))
    assert_same(read_torch(saved({"w": torch.ones(2), "model": first}), state_dict=""), {"w": torch.ones(2)})


def test_extra_state_and_numbers_are_no_weights() -> None:
    state = {"w": torch.ones(2), "version": 3, "_extra_state": np.float32(1), "note": None}
    assert list(read_torch(saved(state))) == ["w"]


# What is no file of plain tensors


class Module(torch.nn.Module):
    """Pickled by reference: a reader would have to import this file."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = torch.nn.GRU(3, 2)


def test_pickled_module() -> None:
    Module.__module__ = "somewhere"
    sys.modules["somewhere"] = type(sys)("somewhere")
    sys.modules["somewhere"].Module = Module
    try:
        whole, inside = saved(Module()), saved({"model": Module(), "epoch": 1})
    finally:
        del sys.modules["somewhere"]
    for data in (whole, inside):
        with pytest.raises(UnsupportedModelError, match=r"somewhere\.Module.*nothing was run.*model\.state_dict\(\)"):
            read_torch(data)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_and_export(tmp_path) -> None:
    module = torch.nn.Linear(2, 2)
    path = tmp_path / "m.pt"
    torch.jit.trace(module, torch.ones(1, 2)).save(str(path))
    with pytest.raises(UnsupportedModelError, match=r"TorchScript.*describes itself"):
        read_torch(path)
    torch.export.save(torch.export.export(module, (torch.ones(1, 2),)), tmp_path / "m.pt2")
    with pytest.raises(UnsupportedModelError, match=r"torch\.export.*state_dict"):
        read_torch(tmp_path / "m.pt2")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        lambda: torch.ones(3, dtype=torch.complex64),
        lambda: torch.ones(3).to(torch.float8_e4m3fn),
        lambda: torch.ones(3, device="meta"),
        lambda: np.ones(3),
    ],
    ids=["sparse", "quantised", "complex", "float8", "meta", "numpy"],
)
def test_other_tensors(make) -> None:
    with pytest.raises(UnsupportedModelError, match="'odd'"):
        read_torch(saved({"w": torch.ones(2), "odd": make()}))


@pytest.mark.parametrize("value", [torch.ones(3), [torch.ones(3)], {"a": 1}, {}, 5, None])
def test_no_state_dict(value) -> None:
    with pytest.raises(UnsupportedModelError, match="state_dict"):
        read_torch(saved(value))


def test_missing_file(tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        read_torch(tmp_path / "none.pt")


def test_not_a_torch_file() -> None:
    with pytest.raises(ModelFormatError, match="does not begin like a zip archive"):
        read_torch(b"not a model at all")
    with pytest.raises(ModelFormatError, match="does not begin like a zip archive"):
        read_torch(b"")


def test_reading_does_not_import_torch(tmp_path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(torch.nn.LSTM(3, 2).state_dict(), path)
    code = (
        "import sys; from gatestep.importers.weights import read_weights; "
        f"weights, _ = read_weights({str(path)!r}); "
        "assert len(weights) == 4; assert not {'torch', 'onnx', 'safetensors'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared model cases are not here")
@pytest.mark.parametrize("name", ["torch/SeqTagger_LSTM", "torch/KWSProj", "real/nam/lstm", "real/rtneural/gru_torch"])
def test_shared_files(name) -> None:
    path = CASES / f"{name}.pt"
    assert_same(read_torch(path), torch.load(path, weights_only=True))


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared model cases are not here")
def test_shared_files_that_are_refused() -> None:
    cases = json.loads((CASES / "manifest.json").read_text())["cases"]
    reasons = {"torch_module": "pickled module", "torchscript": "a program", "torch_export": "a program"}
    refused = [c for c in cases if c["format"] in reasons]
    assert refused
    for case in refused:
        with pytest.raises(UnsupportedModelError, match=reasons[case["format"]]):
            read_torch(CASES / case["file"])
