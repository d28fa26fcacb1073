"""Files whose call is one frame, states as inputs and outputs: a stream is the loop around ONNX Runtime."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

import gatestep as gs

torch = pytest.importorskip("torch")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
nn = torch.nn

pytestmark = pytest.mark.filterwarnings("ignore")
BANDS, WIDTH = 9, 6


class DualPath(nn.Module):
    """GTCRN's ways: convolutions that keep frames of before, a recurrent layer over the bands of a frame in both
    directions, one over time for each band, caches in one tensor and written with indices.
    """

    def __init__(self, inter: bool = True, before: int = 2) -> None:
        super().__init__()
        self.before = before
        self.encoder = nn.Conv2d(2, WIDTH, (before + 1, 3), padding=(0, 1))
        self.middle = nn.Conv2d(WIDTH, WIDTH, (before + 1, 1), groups=WIDTH)
        self.intra = nn.GRU(WIDTH, WIDTH // 2, batch_first=True, bidirectional=True)
        self.inter = nn.GRU(WIDTH, WIDTH, batch_first=True) if inter else None
        self.decoder = nn.ConvTranspose2d(WIDTH, 2, (1, 3), padding=(0, 1))

    def forward(self, mix: Any, conv_cache: Any, inter_cache: Any) -> Any:  # mix (1, 2, 1, BANDS)
        conv_cache, inter_cache = conv_cache.clone(), inter_cache.clone()
        x = torch.cat([conv_cache[0, :, :2], mix], dim=2)
        conv_cache[0, :, :2] = x[:, :, 1:]
        x = torch.cat([conv_cache[1], torch.relu(self.encoder(x))], dim=2)
        conv_cache[1] = x[:, :, 1:]
        x = torch.tanh(self.middle(x))  # (1, WIDTH, 1, BANDS)
        bands = x.permute(0, 2, 3, 1).reshape(1, BANDS, WIDTH)
        bands = bands + self.intra(bands)[0]
        if self.inter is not None:
            y, h = self.inter(bands.permute(1, 0, 2), inter_cache[0])
            inter_cache[0] = h
            bands = bands + y.permute(1, 0, 2)
        x = bands.reshape(1, 1, BANDS, WIDTH).permute(0, 3, 1, 2) + x
        enh = torch.sigmoid(self.decoder(x)) * mix
        return (enh, conv_cache, inter_cache) if self.inter is not None else (enh, conv_cache)


def held(module: Any, caches: dict[str, Any], *, frames: int = 30, **options: Any) -> gs.Model:
    """The exported module, whose stream gives what ONNX Runtime gives call by call; its states, too."""
    mix = torch.randn(1, 2, 1, BANDS)
    names = ["mix", *caches]
    buffer = io.BytesIO()
    torch.onnx.export(
        module.eval(),
        (mix, *caches.values()),
        buffer,
        input_names=names,
        output_names=["enh", *(f"{name}_out" for name in caches)][: len(module(mix, *caches.values()))],
        dynamo=False,
        opset_version=17,
    )
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    feeds = {port.name: np.zeros(port.shape, np.float32) for port in session.get_inputs()}
    model = gs.load(buffer.getvalue(), **options)
    stream = model.stream()
    assert [port.name for port in stream.inputs] == ["mix"]
    rng = np.random.default_rng(3)
    for _ in range(frames):
        frame = rng.standard_normal((1, 2, 1, BANDS)).astype(np.float32)
        want, *after = session.run(None, feeds | {"mix": frame})
        feeds |= zip([name for name in names[1:] if name in feeds], after, strict=True)
        got = stream.step(frame.reshape(stream.inputs[0].shape))
        np.testing.assert_allclose(got.reshape(want.shape), want, rtol=1e-4, atol=1e-5)
    for name in feeds.keys() - {"mix"}:
        np.testing.assert_allclose(stream.state[name], feeds[name], rtol=1e-4, atol=1e-5)
    return model


def caches(before: int = 2) -> dict[str, Any]:
    return {
        "conv_cache": torch.zeros(2, 1, WIDTH, before, BANDS),
        "inter_cache": torch.zeros(1, 1, BANDS, WIDTH),
    }


@pytest.mark.parametrize("before", [1, 2, 5])
def test_bands_run_both_ways_and_frames_forward(before: int) -> None:
    torch.manual_seed(before)
    model = held(DualPath(before=before), caches(before))
    assert set(model.layout.states_in()) == {"conv_cache", "inter_cache"}


def test_states_may_be_told() -> None:
    torch.manual_seed(1)
    held(DualPath(), caches(), states={"conv_cache": "conv_cache_out", "inter_cache": "inter_cache_out"})


def test_only_the_bands_have_a_recurrent_layer() -> None:
    torch.manual_seed(2)
    model = held(DualPath(inter=False), caches())
    assert set(model.layout.states_in()) == {"conv_cache"}


class Backwards(nn.Module):
    """Both directions of time, whose states are handed on."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 4, bidirectional=True)

    def forward(self, x: Any, h: Any) -> Any:
        return self.gru(x, h)


def test_a_recording_that_runs_backwards_is_no_frame() -> None:
    buffer = io.BytesIO()
    args = torch.randn(9, 1, 4), torch.zeros(2, 1, 4)
    torch.onnx.export(Backwards(), args, buffer, input_names=["x", "h"], output_names=["y", "hn"], dynamo=False)
    with pytest.raises(gs.UnsupportedModelError, match="runs backwards in time"):
        gs.load(buffer.getvalue()).stream()


class Blocks(nn.Module):
    """Windows over a block of samples that lie over each other, and a recurrent layer whose states go on."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Conv1d(1, 8, 8, 4), nn.ConvTranspose1d(8, 1, 8, 4)
        self.lstm = nn.LSTM(8, 8, batch_first=True)

    def forward(self, x: Any, h: Any, c: Any) -> Any:
        y = torch.relu(self.encoder(x))
        z, (h, c) = self.lstm(y.transpose(1, 2), (h, c))
        return self.decoder(z.transpose(1, 2) * y), h, c


def test_a_block_with_states_by_hand_is_a_frame() -> None:
    torch.manual_seed(3)
    buffer, module = io.BytesIO(), Blocks().eval()
    state = torch.zeros(1, 1, 8)
    names = {"input_names": ["x", "h", "c"], "output_names": ["y", "hn", "cn"]}
    torch.onnx.export(module, (torch.zeros(1, 1, 40), state, state), buffer, dynamo=False, **names)
    model = gs.load(buffer.getvalue())
    assert model.delay == 1  # as one recording
    with pytest.raises(gs.UnsupportedModelError, match=r"looks 1 frames ahead.*shapes=\{'x': \(1, 1, n\)\}"):
        model.stream()
    stream, h, c = gs.load(buffer.getvalue(), shapes={"x": (1, 1, 40)}).stream(), state, state
    for k in range(10):
        block = torch.from_numpy(np.random.default_rng(k).standard_normal((1, 1, 40)).astype(np.float32))
        with torch.no_grad():
            want, h, c = module(block, h, c)
        got = stream.step(block.numpy().reshape(stream.inputs[0].shape))
        np.testing.assert_allclose(got.reshape(want.shape), want.numpy(), rtol=1e-4, atol=1e-6)


class Intra(nn.Module):
    """A recording: a layer over the bands of each frame in both directions, one over time for each band."""

    def __init__(self) -> None:
        super().__init__()
        self.intra, self.inter = nn.LSTM(6, 3, batch_first=True, bidirectional=True), nn.LSTM(6, 6, batch_first=True)

    def forward(self, x: Any) -> Any:  # (1, T, BANDS, 6)
        x = x + self.intra(x.reshape(-1, BANDS, 6))[0].reshape(1, -1, BANDS, 6)
        y = self.inter(x.permute(0, 2, 1, 3).reshape(BANDS, -1, 6))[0]
        return x + y.reshape(1, BANDS, -1, 6).permute(0, 2, 1, 3)


def test_bands_are_no_batch() -> None:
    torch.manual_seed(4)
    buffer, module, x = io.BytesIO(), Intra().eval(), torch.randn(1, 11, BANDS, 6)
    torch.onnx.export(
        module, (x,), buffer, input_names=["x"], output_names=["y"], dynamic_axes={"x": {1: "T"}}, dynamo=False
    )
    stream = gs.load(buffer.getvalue()).stream()
    with torch.no_grad():
        want = module(x).numpy()[0]
    got = np.stack([stream.step(frame.reshape(stream.inputs[0].shape)) for frame in x.numpy()[0]])
    np.testing.assert_allclose(got.reshape(want.shape), want, rtol=1e-4, atol=1e-5)
