"""TorchScript files against what PyTorch computes with them: traced, scripted, frozen; whole and streamed."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gatestep as gs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


def flat(value: Any) -> list[np.ndarray]:
    if isinstance(value, torch.Tensor):
        return [value.detach().numpy()]
    if isinstance(value, dict):
        value = list(value.values())
    return [array for part in value for array in flat(part)]


def saved(script: Any) -> bytes:
    stream = io.BytesIO()
    torch.jit.save(script, stream)
    return stream.getvalue()


def written(module: nn.Module, how: str, args: tuple[Any, ...]) -> bytes:
    module = module.eval()
    if how == "trace":
        return saved(torch.jit.trace(module, args, check_trace=False))
    script = torch.jit.script(module)
    if how == "freeze":
        script = torch.jit.freeze(script)
    elif how == "optimize":
        script = torch.jit.optimize_for_inference(script)
    return saved(script)


def check(data: bytes, *calls: tuple[Any, ...], atol: float = 1e-5, **options: Any) -> Any:
    """Load it, and hold it against PyTorch for every call."""
    model = gs.load(data, **options)
    module = torch.jit.load(io.BytesIO(data))
    for args in calls:
        with torch.no_grad():
            want = flat(module(*args))
        arrays = [tuple(part.numpy() for part in arg) if isinstance(arg, tuple) else arg.numpy() for arg in args]
        got = model(*arrays)
        got = got if isinstance(got, tuple) else (got,)
        assert len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            np.testing.assert_allclose(one, other, atol=atol, rtol=1e-4, strict=True)
    return model


def check_stream(model: Any, x: np.ndarray, *, batch_first: bool = True) -> None:
    """A stream, frame by frame, gives what the whole call gives."""
    want = model(x)
    want = want[0] if isinstance(want, tuple) else want
    frames = x.swapaxes(0, 1) if batch_first else x
    stream = model.stream(frames.shape[1])
    steps = [stream.step(frame) for frame in frames]
    steps = [step[0] if isinstance(step, tuple) else step for step in steps]
    got = np.stack(steps)
    np.testing.assert_allclose(got.swapaxes(0, 1) if batch_first else got, want, atol=1e-5)
    run = model.stream(frames.shape[1]).run(frames)
    assert (run[0] if isinstance(run, tuple) else run).tobytes() == got.tobytes()


HOW = ("trace", "script", "freeze", "optimize")


class Tagger(nn.Module):
    """A recurrent layer and a head; the state is dropped."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(3, 5, **options)
        wide = (options.get("proj_size") or 5) * (2 if options.get("bidirectional") else 1)
        self.fc = nn.Linear(wide, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.rnn(x)
        return self.fc(y)


OPTIONS = {
    "plain": {},
    "batch_first": {"batch_first": True},
    "layers": {"num_layers": 3, "batch_first": True, "dropout": 0.2},
    "bidirectional": {"bidirectional": True, "num_layers": 2},
    "no bias": {"bias": False, "batch_first": True},
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_layers(kind, options, how) -> None:
    torch.manual_seed(1)
    given = OPTIONS[options]
    x = torch.randn(4, 6, 3)
    model = check(written(Tagger(kind, **given), how, (x,)), (x,), (torch.randn(2, 9, 3),))
    assert model.inputs[0].shape[-1] == 3
    assert [port.name for port in model.inputs] == ["x"]
    assert [port.name for port in model.outputs] == ["output"]
    if given.get("bidirectional"):
        assert not model.streams
    else:
        check_stream(model, x.numpy(), batch_first=given.get("batch_first", False))


@pytest.mark.parametrize("how", HOW)
def test_projection(how) -> None:
    x = torch.randn(4, 6, 3)
    model = check(written(Tagger("LSTM", proj_size=2, batch_first=True), how, (x,)), (x,))
    check_stream(model, x.numpy())


def test_relu_rnn() -> None:
    x = torch.randn(4, 6, 3)
    check(written(Tagger("RNN", nonlinearity="relu"), "script", (x,)), (x,))


def test_the_types_of_weights_are_those_of_inputs() -> None:
    x = torch.randn(2, 4, 3)
    model = check(written(Tagger("GRU", batch_first=True).double(), "script", (x,)), (x.double(),), dtype="float64")
    assert model.inputs[0].dtype == np.float64
    half = gs.load(written(Tagger("GRU", batch_first=True).bfloat16(), "script", (x,)))
    assert half.inputs[0].dtype == np.float32


def test_a_file_for_the_mobile_interpreter_has_the_program_too() -> None:
    script = torch.jit.script(Tagger("LSTM", batch_first=True).eval())
    x = torch.randn(2, 4, 3)
    got = gs.load(script._save_to_buffer_for_lite_interpreter())(x.numpy())
    np.testing.assert_allclose(got, script(x).detach().numpy(), atol=1e-6)


def test_quantised_modules_are_refused_by_name() -> None:
    quantised = torch.ao.quantization.quantize_dynamic(Tagger("LSTM").eval(), {nn.LSTM, nn.Linear})
    with pytest.raises(gs.UnsupportedModelError, match=r"takes an object.*before it was quantised"):
        gs.load(saved(torch.jit.script(quantised)))


def test_a_module_in_training_with_dropout_is_refused() -> None:
    script = torch.jit.script(Tagger("GRU", num_layers=2, dropout=0.5).train())
    with pytest.raises(gs.UnsupportedModelError, match=r"training"):
        gs.load(saved(script))


def test_live_scripts_are_read_like_files() -> None:
    script = torch.jit.script(Tagger("GRU", batch_first=True).eval())
    x = torch.randn(2, 4, 3)
    assert gs.load(script)(x.numpy()).tobytes() == gs.load(saved(script))(x.numpy()).tobytes()
