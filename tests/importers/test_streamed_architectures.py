"""Nets as people write them in PyTorch, exported: the whole call is ONNX Runtime's, and so is each frame."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gatestep as gs

torch = pytest.importorskip("torch")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
nn, F = torch.nn, torch.nn.functional

CLOSE = {"rtol": 1e-3, "atol": 1e-4}


class Chomp(nn.Module):
    """Cuts what a convolution with padding on both sides adds at the end."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Any) -> Any:
        return x[:, :, : -self.count].contiguous()


class TCN(nn.Module):
    """Bai et al.: residual blocks of two dilated convolutions, padded on both sides and chomped."""

    def __init__(self) -> None:
        super().__init__()
        blocks, before = [], 6
        for k, channels in enumerate((8, 8, 5)):
            pad = 2 * 2**k
            layers = []
            for size in (before, channels):
                layers += [nn.Conv1d(size, channels, 3, padding=pad, dilation=2**k), Chomp(pad), nn.ReLU()]
            down = nn.Conv1d(before, channels, 1) if before != channels else nn.Identity()
            blocks.append(nn.ModuleList([nn.Sequential(*layers), down]))
            before = channels
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Any) -> Any:
        for body, down in self.blocks:
            x = torch.relu(body(x) + down(x))
        return x


class WaveNet(nn.Module):
    """Gated dilated convolutions, padded before, residual and skipped; two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Conv1d(6, 8, 1)
        self.gates = nn.ModuleList(nn.Conv1d(8, 16, 2, dilation=2**k) for k in range(4))
        self.out = nn.ModuleList(nn.Conv1d(8, 16, 1) for _ in range(4))
        self.last = nn.Conv1d(8, 5, 1)

    def forward(self, x: Any) -> Any:
        x, skips = self.entry(x), 0
        for k, (gate, out) in enumerate(zip(self.gates, self.out, strict=True)):
            a, b = gate(F.pad(x, (2**k, 0))).chunk(2, dim=1)
            rest, skip = out(torch.tanh(a) * torch.sigmoid(b)).chunk(2, dim=1)
            x, skips = x + rest, skips + skip
        return self.last(torch.relu(skips))


class VAD(nn.Module):
    """Convolutions before a recurrent layer, batch first; one probability per frame."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(6, 8, 5), nn.Conv1d(8, 8, 3)
        self.norm, self.gru, self.out = nn.BatchNorm1d(8), nn.GRU(8, 12, batch_first=True), nn.Linear(12, 1)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.norm(self.a(F.pad(x, (4, 0)))))
        x = F.relu(self.b(F.pad(x, (2, 0))))
        y, _ = self.gru(x.transpose(1, 2))
        return torch.sigmoid(self.out(y))


class Enhancer(nn.Module):
    """DPCRN and GTCRN: causal convolutions over time and frequency, a recurrent layer over all of a frame, skips."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleList([nn.Conv2d(2, 6, (2, 3), (1, 2), (0, 1)), nn.Conv2d(6, 8, (3, 3), (1, 2), (0, 1))])
        self.norms = nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(8)])
        self.gru, self.dense = nn.GRU(8 * 5, 24, batch_first=True), nn.Linear(24, 8 * 5)
        self.decoder = nn.ModuleList(
            [nn.ConvTranspose2d(16, 6, (1, 3), (1, 2), (0, 1)), nn.ConvTranspose2d(12, 2, (2, 3), (1, 2), (0, 1))]
        )

    def forward(self, x: Any) -> Any:  # (B, 2, T, 17)
        skips, y = [], x
        for conv, norm in zip(self.encoder, self.norms, strict=True):
            y = F.elu(norm(conv(F.pad(y, (0, 0, conv.kernel_size[0] - 1, 0)))))
            skips.append(y)
        flat = y.permute(0, 2, 1, 3).reshape(y.shape[0], -1, 40)
        y = self.dense(self.gru(flat)[0]).reshape(y.shape[0], -1, 8, 5).permute(0, 2, 1, 3)
        y = F.elu(self.decoder[0](torch.cat([y, skips[1]], 1)))
        y = self.decoder[1](torch.cat([y, skips[0]], 1))[:, :, : x.shape[2]]
        return torch.tanh(y) * x


class Depthwise(nn.Module):
    """Keyword spotting: a strided front, depthwise separable blocks, the mean of all frames."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Conv1d(6, 8, 5, stride=2)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(nn.Conv1d(8, 8, 3, stride=s, groups=8), nn.Conv1d(8, 8, 1), nn.BatchNorm1d(8), nn.ReLU())
                for s in (1, 2, 1)
            )
        )
        self.out = nn.Linear(8, 4)

    def forward(self, x: Any) -> Any:
        return self.out(self.blocks(torch.relu(self.front(x))).mean(dim=2))


class CRNN(nn.Module):
    """Centred convolutions, a pool, a recurrent layer: late by what the convolutions look ahead."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(6, 8, 3, padding=1), nn.Conv1d(8, 8, 5, padding=2)
        self.lstm, self.out = nn.LSTM(8, 10), nn.Linear(10, 3)

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.b(F.leaky_relu(self.a(x))))
        return self.out(self.lstm(x.permute(2, 0, 1))[0])


class Codec(nn.Module):
    """Strides down, a recurrent layer, transposed convolutions that overlap up again: audio in, audio out."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Conv1d(1, 6, 8, 4), nn.Conv1d(6, 8, 4, 2)])
        self.gru = nn.GRU(8, 8)
        self.up = nn.ModuleList([nn.ConvTranspose1d(8, 6, 4, 2), nn.ConvTranspose1d(6, 1, 8, 4)])

    def forward(self, x: Any) -> Any:
        first = F.elu(self.down[0](F.pad(x, (4, 0))))
        y = F.elu(self.down[1](F.pad(first, (2, 0))))
        y = self.gru(y.permute(2, 0, 1))[0].permute(1, 2, 0)
        y = F.elu(self.up[0](y)[:, :, :-2]) + first
        return self.up[1](y)[:, :, :-4]


#: Module, shape of a batch of two, axis of time; steps of delay, frames per step, axis of time of the result.
NETS: dict[str, tuple[Callable[[], Any], tuple[int, ...], int, int, int, int | None]] = {
    "tcn": (TCN, (2, 6, 160), 2, 0, 1, 2),
    "wavenet": (WaveNet, (2, 6, 160), 2, 0, 1, 2),
    "vad": (VAD, (2, 6, 160), 2, 0, 1, 1),
    "enhancer": (Enhancer, (2, 2, 100, 17), 2, 0, 1, 2),
    "depthwise": (Depthwise, (2, 6, 160), 2, 0, 4, None),
    "crnn": (CRNN, (2, 6, 160), 2, 3, 1, 0),
    "codec": (Codec, (2, 1, 800), 2, 0, 8, 2),
}


def exported(module: Any, x: Any, axis: int, path: Any, dynamo: bool) -> bytes:
    """The module as ONNX, batch and time free."""
    if dynamo:
        free = {0: torch.export.Dim("batch"), axis: torch.export.Dim.AUTO}
        program = torch.onnx.export(module, (x,), dynamo=True, dynamic_shapes=(free,), verbose=False)
        program.save(path, external_data=False)
        return bytes(path.read_bytes())
    buffer = io.BytesIO()
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "batch", axis: "time"}}}
    torch.onnx.export(module, (x,), buffer, dynamo=False, opset_version=17, **names)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("kind", NETS)
def test_a_net_streams(kind: str, dynamo: bool, tmp_path: Any) -> None:
    if dynamo:
        pytest.importorskip("onnxscript")
    if kind == "codec" and dynamo:
        pytest.skip("torch.export does not take a GRU behind strided convolutions of free length")
    make, shape, axis, delay, hop, out = NETS[kind]
    torch.manual_seed(7)
    module = make().eval()
    for norm in (m for m in module.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))):
        nn.init.uniform_(norm.running_mean, -0.3, 0.3)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    x = torch.randn(*shape)
    data = exported(module, x, axis, tmp_path / "net.onnx", dynamo)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (want,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    path = tmp_path / f"{kind}.onnx"
    path.write_bytes(data)
    model = gs.load(path)
    np.testing.assert_allclose(model(x.numpy()), want, **CLOSE)
    assert model.layout.blocker is None, model.layout.blocker
    assert (model.delay, model.hop) == (delay, hop)
    frames = np.ascontiguousarray(np.moveaxis(x.numpy(), axis, 0))
    ran = model.stream(2, delay=delay).run(frames)
    stream = model.stream(2, delay=delay)
    steps = [stream.step(frames[k : k + hop] if hop > 1 else frames[k]) for k in range(0, len(frames), hop)]
    if out is None:
        np.testing.assert_allclose(ran[-1], want, **CLOSE)
        assert ran.tobytes() == np.stack(steps).tobytes()
        return
    assert ran.tobytes() == (np.concatenate(steps) if steps[0].ndim == ran.ndim else np.stack(steps)).tobytes()
    whole = np.moveaxis(want, out, 0)
    late = delay * len(ran) // len(steps)
    np.testing.assert_allclose(ran[late:].reshape(whole[: len(ran) - late].shape), whole[: len(ran) - late], **CLOSE)
