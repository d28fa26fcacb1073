"""Pickled modules: weights are read, classes are not imported, and only PyTorch's own layers make a model."""

from __future__ import annotations

import io
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from gatestep.engine.errors import ModelFormatError, UnsupportedModelError
from gatestep.importers.torch import read_checkpoint
from torch import nn

import gatestep as gs
from gatestep import nn as specs


class Net(nn.Module):
    """Its forward is known nowhere but here."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 4, batch_first=True)
        self.fc = nn.Linear(4, 2)
        self.register_buffer("scale", torch.ones(2))
        self.register_buffer("scratch", torch.ones(5), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.rnn(x)[0])


def saved(value: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(value, stream, **options)
    return stream.getvalue()


@pytest.fixture
def elsewhere(monkeypatch) -> None:
    """`Net` belongs to a package that cannot be imported where the file is read."""
    module = type(sys)("mypkg")
    module.Net = Net
    monkeypatch.setitem(sys.modules, "mypkg", module)
    monkeypatch.setattr(Net, "__module__", "mypkg")


SPEC = specs.Sequential({"rnn": specs.GRU(3, 4, batch_first=True), "fc": specs.Linear(4, 2)})


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("old", [False, True])
def test_the_refusal_names_the_class_and_what_to_do(old, monkeypatch) -> None:
    data = saved(Net(), _use_new_zipfile_serialization=not old)
    monkeypatch.delitem(sys.modules, "mypkg")
    with pytest.raises(UnsupportedModelError) as caught:
        gs.load(data)
    for said in ("pickled module", "'mypkg.Net'", "would run code", "spec=", "state_dict()", "torch.onnx.export"):
        assert said in str(caught.value)
    assert "mypkg" not in sys.modules


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("old", [False, True])
def test_with_a_spec_its_weights_are_read(old, monkeypatch) -> None:
    net = Net().eval()
    data = saved(net, _use_new_zipfile_serialization=not old)
    monkeypatch.delitem(sys.modules, "mypkg")
    arrays, spec = read_checkpoint(data, described=True)
    assert spec is None
    assert arrays.keys() == net.state_dict().keys()
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(arrays[name], value.numpy())


@pytest.mark.usefixtures("elsewhere")
def test_a_spec_says_what_a_module_computes() -> None:
    net = Net().eval()
    del net.scale
    x = torch.randn(2, 7, 3)
    got = gs.load(saved(net), spec=SPEC)(x.numpy())
    np.testing.assert_allclose(got, net(x).detach().numpy(), atol=1e-6)
    inside = gs.load(saved({"model": net, "epoch": 3}), spec=SPEC)(x.numpy())
    assert inside.tobytes() == got.tobytes()


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LSTM(3, 5, 2, batch_first=True, dropout=0.1),
        lambda: nn.LSTM(3, 5, proj_size=2, bidirectional=True),
        lambda: nn.GRU(3, 5, bias=False),
        lambda: nn.RNN(3, 5, nonlinearity="relu"),
        lambda: nn.Sequential(
            nn.Linear(3, 4), nn.LeakyReLU(0.3), nn.LayerNorm(4, eps=1e-3), nn.Linear(4, 2, bias=False)
        ),
        lambda: nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.GELU("tanh")), nn.Dropout(0.4), nn.Softmax(dim=-1)),
    ],
)
def test_layers_of_pytorch_describe_themselves(make) -> None:
    torch.manual_seed(3)
    module = make().eval()
    x = torch.randn(4, 6, 3)
    with torch.no_grad():
        want = module(x)
    got = gs.load(saved(module))(x.numpy())
    got = got[0] if isinstance(got, tuple) else got
    np.testing.assert_allclose(got, (want[0] if isinstance(want, tuple) else want).numpy(), atol=1e-5)


def test_what_is_more_than_its_layers_is_refused() -> None:
    hooked = nn.Linear(3, 2)
    hooked.register_forward_hook(print)
    normed = nn.Sequential(nn.Linear(3, 2), nn.Bilinear(2, 2, 2))
    for module in (hooked, normed):
        with pytest.raises(UnsupportedModelError, match="pickled module"):
            gs.load(saved(module))


def test_a_module_in_itself() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    module.add_module("loop", nn.Sequential())
    module.loop.add_module("back", module)
    with pytest.raises(ModelFormatError, match="lies in itself"):
        gs.load(saved(module), spec=specs.Linear(2, 2))
    with pytest.raises(ModelFormatError, match="lies in itself"):
        gs.load(saved(module))
    many = nn.Sequential()
    for _ in range(50):  # two to the fiftieth modules
        many = nn.Sequential(many, many)
    with pytest.raises(ModelFormatError, match="nested too deeply"):
        gs.load(saved(many))
