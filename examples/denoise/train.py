"""Train the speech denoiser of this example and export it as `denoiser.onnx` and `denoiser.safetensors`.

Everything is made here: speech by espeak-ng, noise by NumPy (see `corpus.py`). The network sees one frame of
log power at a time and answers with a mask for the noisy spectrum:

    x (T, B, 257) -> Linear 128, ReLU -> GRU 128, 2 layers -> Linear 257, sigmoid -> mask (T, B, 257)
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from corpus import (
    CLIP,
    HELD_OUT_NOISES,
    HELD_OUT_VOICES,
    TRAINING_NOISES,
    held_out_speech,
    speech_clip,
    unit,
)
from dsp import BINS, HOP, RATE, FloatArray, enhance, features, si_sdr, stft, write_wav

try:
    import onnxruntime
    import torch
    from safetensors.torch import load_file, save_file
    from torch import Tensor, nn
except ImportError as error:
    sys.exit(f"training needs {error.name}: pip install torch onnx onnxruntime safetensors")

HERE = Path(__file__).resolve().parent
SEQUENCE = 500  # frames, 8 s
CHUNK = 125  # frames of truncated backpropagation, 2 s
TEST_SNRS = (-5, 0, 3, 10)


class Denoiser(nn.Module):
    """Mask estimator; `hidden` units in the encoder and in both GRU layers."""

    def __init__(self, hidden: int = 128) -> None:
        super().__init__()
        self.encoder = nn.Linear(BINS, hidden)
        self.gru = nn.GRU(hidden, hidden, num_layers=2)
        self.decoder = nn.Linear(hidden, BINS)
        for name, weight in self.gru.named_parameters():
            if name.startswith("weight_hh"):
                # One orthogonal matrix per gate: none makes the state explode or vanish over a long sequence.
                for gate in weight.data.chunk(3):
                    nn.init.orthogonal_(gate)

    def forward(self, x: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
        """Map features `(T, B, 257)` and state `(2, B, H)` to mask `(T, B, 257)` and state `(2, B, H)`."""
        y, hn = self.gru(torch.relu(self.encoder(x)), h0)
        return torch.sigmoid(self.decoder(y)), hn

    def folded(self, mean: Tensor, deviation: Tensor) -> Denoiser:
        """Return a copy that itself computes `(x - mean) / deviation` with these two, `(257,)` each."""
        copy = Denoiser(self.gru.hidden_size)
        copy.load_state_dict(self.state_dict())
        with torch.no_grad():
            copy.encoder.weight /= deviation
            copy.encoder.bias -= copy.encoder.weight @ mean
        return copy.eval()


class Mixer:
    """Endless training batches, mixed anew each time from a fixed stock of speech and noise clips."""

    def __init__(self, minutes: float, rng: np.random.Generator) -> None:
        self._rng = rng
        count = max(8, round(minutes * 60 * RATE / CLIP))
        print(f"making {count} clips of speech and {count} of noise", flush=True)
        self._speech = np.stack([speech_clip(rng) for _ in range(count)]).astype(np.float16)
        kinds = np.arange(count) % len(TRAINING_NOISES)
        self._noise = np.stack([unit(TRAINING_NOISES[kind](rng)) for kind in kinds]).astype(np.float16)

    def _cut(self, stock: np.ndarray) -> FloatArray:
        """Return 8 s `(SEQUENCE * HOP,)` from anywhere in a random clip, continued at the start of it."""
        clip = stock[self._rng.integers(len(stock))]
        return np.roll(clip, self._rng.integers(CLIP))[: SEQUENCE * HOP].astype(np.float32)

    def _equaliser(self, batch: int, deviation_db: float) -> FloatArray:
        """Return smooth random gains `(B, 1, 257)`: other microphones, rooms and distances."""
        knots = self._rng.normal(0, deviation_db, (batch, 6))
        # Knots closer together at low frequencies, as hearing and most real filters are.
        curves = [np.interp(np.sqrt(np.linspace(0, 1, BINS)), np.linspace(0, 1, 6), row) for row in knots]
        return (10 ** (np.stack(curves) / 20)).astype(np.float32)[:, None]

    def batch(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the spectra of `size` noisy sequences and of the speech in them, `(T, B, 257)` each."""
        rng = self._rng
        speech = np.stack([self._cut(self._speech) for _ in range(size)])
        noise = np.stack([self._cut(self._noise) for _ in range(size)])
        for row in noise:
            if rng.random() < 0.3:
                row += self._cut(self._noise) * np.float32(rng.uniform(0.2, 1.0))
        clean = stft(speech) * self._equaliser(size, 4)
        noisy = stft(noise) * self._equaliser(size, 4)

        def rms(spectrum: np.ndarray) -> FloatArray:
            return np.sqrt(np.mean(np.abs(spectrum) ** 2, axis=(1, 2), keepdims=True)) + np.float32(1e-6)

        snr = rng.uniform(-6, 18, (size, 1, 1))
        noisy *= (rms(clean) / rms(noisy) * 10 ** (-snr / 20)).astype(np.float32)
        # Long pauses teach silence. Speech always comes back: a network that sees sequences of noise alone
        # learns to give up on a stream and stays mute.
        for row in np.flatnonzero(rng.random(size) < 0.3):
            begin = rng.integers(SEQUENCE)
            clean[row, begin : begin + rng.integers(SEQUENCE // 2)] = 0
        noisy += clean
        # 16 is the RMS of a bin when the samples have an RMS of one; the levels are -45 to -12 dB of full
        # scale.
        gain = (16 * 10 ** (rng.uniform(-45, -12, (size, 1, 1)) / 20) / rms(noisy)).astype(np.float32)
        return (noisy * gain).swapaxes(0, 1), (clean * gain).swapaxes(0, 1)


def loss_of(mask: Tensor, noisy: Tensor, clean: Tensor, cosine: Tensor) -> Tensor:
    """Return the loss of one chunk.

    The first part compares compressed spectra, by magnitude and with the noisy phase, which weighs quiet
    sounds as hearing does. The second is the SNR of the result in decibels, which is what SI-SDR sees.

    Parameters
    ----------
    mask
        Answer of the network `(T, B, 257)`.
    noisy, clean
        Magnitudes `(T, B, 257)`, scaled so that the noisy sequence has unit RMS.
    cosine
        Cosine of the phase difference of the two `(T, B, 257)`.
    """
    estimate = mask.clamp_min(1e-4) * noisy
    power = 0.3
    # A floor keeps the slope of the power finite in empty bins.
    a, b = (estimate + 1e-4) ** power, (clean + 1e-4) ** power
    # Speech that is lost weighs double, or quiet consonants are the price of quiet pauses.
    lost = 1 + (b > a).float()
    compressed = (lost * (a - b) ** 2 + 0.5 * (a * a - 2 * a * b * cosine + b * b)).mean()
    residual = (estimate**2 - 2 * estimate * clean * cosine + clean**2).mean(dim=(0, 2))
    return compressed + 0.2 * torch.log10(residual + 1e-3).mean()


def train(mixer: Mixer, steps: int, batch: int, hidden: int, start: Path | None) -> Denoiser:
    """Train for `steps` updates with truncated backpropagation; return the self-contained network.

    `start` is a weight file of an earlier run to go on from.
    """
    sample = features(np.abs(mixer.batch(64)[0]) ** 2).reshape(-1, BINS)
    mean, deviation = torch.from_numpy(sample.mean(0)), torch.from_numpy(sample.std(0))
    network = Denoiser(hidden)
    if start is not None:
        network.load_state_dict(load_file(start))
        with torch.no_grad():  # the inverse of folded()
            network.encoder.bias += network.encoder.weight @ mean
            network.encoder.weight *= deviation
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.05)
    h = torch.zeros(2, batch, hidden)
    begin, running = time.monotonic(), 0.0
    per_sequence = SEQUENCE // CHUNK
    for step in range(steps):
        part = step % per_sequence
        if part == 0:
            noisy, clean = mixer.batch(batch)
            x = (torch.from_numpy(features(np.abs(noisy) ** 2)) - mean) / deviation
            loudness = np.sqrt(np.mean(np.abs(noisy) ** 2, axis=(0, 2), keepdims=True))
            magnitudes = [torch.from_numpy(np.abs(spectrum) / loudness) for spectrum in (noisy, clean)]
            cosine = torch.from_numpy(np.cos(np.angle(noisy) - np.angle(clean)))
            # Half of the sequences begin where another one ended: in a stream, nothing resets the state.
            h = h * (torch.rand(1, batch, 1) < 0.5)
        now = slice(part * CHUNK, (part + 1) * CHUNK)
        # The state goes on from chunk to chunk as it will in a stream, the gradient does not.
        mask, h = network(x[now], h.detach())
        loss = loss_of(mask, magnitudes[0][now], magnitudes[1][now], cosine[now])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        running += loss.item()
        if (step + 1) % 100 == 0:
            elapsed = time.monotonic() - begin
            print(
                f"step {step + 1:6d}/{steps}  loss {running / 100:.4f}  {elapsed / 60:5.1f} min", flush=True
            )
            running = 0.0
    return network.folded(mean, deviation)


def export(network: Denoiser, folder: Path) -> None:
    """Write `denoiser.onnx` and `denoiser.safetensors`, then check the ONNX file against PyTorch."""
    save_file(
        {name: value.contiguous() for name, value in network.state_dict().items()},
        folder / "denoiser.safetensors",
    )
    hidden = network.gru.hidden_size
    # The TorchScript exporter: what the newer one writes for a GRU depends on the version of onnxscript, and
    # some versions leave out linear_before_reset, which silently gives another function.
    torch.onnx.export(
        network,
        (torch.zeros(3, 2, BINS), torch.zeros(2, 2, hidden)),
        str(folder / "denoiser.onnx"),
        input_names=["x", "h0"],
        output_names=["mask", "hn"],
        dynamic_axes={"x": {0: "T", 1: "B"}, "h0": {1: "B"}, "mask": {0: "T", 1: "B"}, "hn": {1: "B"}},
        opset_version=17,
        dynamo=False,
    )
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(50, 3, BINS, generator=generator) - 2
    h0 = torch.rand(2, 3, hidden, generator=generator)
    with torch.no_grad():
        expected = network(x, h0)
    session = onnxruntime.InferenceSession(str(folder / "denoiser.onnx"), providers=["CPUExecutionProvider"])
    found = session.run(["mask", "hn"], {"x": x.numpy(), "h0": h0.numpy()})
    worst = max(float(np.abs(a.numpy() - b).max()) for a, b in zip(expected, found, strict=True))
    print(f"ONNX against PyTorch: largest difference {worst:.1e}")
    if worst > 1e-4:
        sys.exit("the exported ONNX file does not compute what the trained network does")


def mixture(voice: tuple[str, str], noise_kind: int, snr_db: float) -> tuple[FloatArray, FloatArray]:
    """Return noisy and clean samples `(N,)` of a held-out voice in a held-out noise, always the same ones."""
    clean = unit(held_out_speech(voice)) * np.float32(0.05)
    noise = unit(HELD_OUT_NOISES[noise_kind](np.random.default_rng(noise_kind + 1)))
    noise = np.resize(noise, len(clean)) * np.float32(0.05 * 10 ** (-snr_db / 20))
    return clean + noise, clean


def evaluate(path: Path) -> None:
    """Print SI-SDR before and after, mean of the held-out voices, by noise and SNR, from the ONNX file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    hidden = session.get_inputs()[1].shape[2]
    for kind, noise in enumerate(HELD_OUT_NOISES):
        for snr in TEST_SNRS:
            scores = []
            for voice in HELD_OUT_VOICES:
                noisy, clean = mixture(voice, kind, snr)
                state = np.zeros((2, 1, hidden), np.float32)

                def step(frame: FloatArray) -> FloatArray:
                    nonlocal state
                    mask, state = session.run(["mask", "hn"], {"x": frame[None, None], "h0": state})
                    return mask[0, 0]

                scores.append((si_sdr(noisy, clean), si_sdr(enhance(noisy, step), clean)))
            before, after = np.mean(scores, axis=0)
            worst = min(y - x for x, y in scores)
            figures = f"{before:6.2f} -> {after:6.2f} dB; gain {after - before:5.2f}, least {worst:5.2f} dB"
            print(f"{noise.__name__:15s} at {snr:3d} dB: SI-SDR {figures}", flush=True)


def make_test_wav(folder: Path) -> None:
    """Write `noisy.wav` and `clean.wav`, 10 s of a held-out voice in a held-out noise at 3 dB."""
    noisy, clean = (samples[: 10 * RATE] for samples in mixture(HELD_OUT_VOICES[0], 0, 3.0))
    write_wav(folder / "noisy.wav", noisy)
    write_wav(folder / "clean.wav", clean)


def main() -> None:
    """Parse the command line, train, export and evaluate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=float, default=80, help="speech (and noise) to make (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=6000, help="updates, of 2 s each (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="sequences in parallel (default: %(default)s)")
    parser.add_argument("--hidden", type=int, default=128, help="units of a layer (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--start", type=Path, help="go on from this denoiser.safetensors")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the files (default: this folder)")
    parser.add_argument("--make-test-wav", action="store_true", help="only write noisy.wav and clean.wav")
    parser.add_argument(
        "--evaluate", action="store_true", help="only print the held-out figures of denoiser.onnx"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.make_test_wav:
        make_test_wav(arguments.out)
        return
    if not arguments.evaluate:
        torch.set_num_threads(arguments.threads)
        torch.manual_seed(arguments.seed)
        mixer = Mixer(arguments.minutes, np.random.default_rng(arguments.seed))
        network = train(mixer, arguments.steps, arguments.batch, arguments.hidden, arguments.start)
        export(network, arguments.out)
    evaluate(arguments.out / "denoiser.onnx")


if __name__ == "__main__":
    main()
