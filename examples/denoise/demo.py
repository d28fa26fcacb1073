"""Clean noisy speech with gatestep, one hop of 16 ms at a time, as a live stream would arrive.

Writes `denoised.wav` and `spectrogram.png`, and prints SI-SDR before and after and what a frame costs; the
same with onnxruntime on one thread, if that is installed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from dsp import BINS, HOP, RATE, FloatArray, enhance, read_wav, si_sdr, stft, write_wav

import gatestep as gs

try:
    import onnxruntime
except ImportError:
    onnxruntime = None
try:
    from matplotlib.figure import Figure
except ImportError:
    Figure = None

HERE = Path(__file__).resolve().parent
Step = Callable[[FloatArray], FloatArray]

# What `denoiser.safetensors` does not say: it holds the weights alone. `denoiser.onnx` needs no spec.
SPEC = gs.nn.Sequential(
    {
        "encoder": gs.nn.Linear(BINS, 128),
        "relu": gs.nn.ReLU(),
        "gru": gs.nn.GRU(128, 128, num_layers=2),
        "decoder": gs.nn.Linear(128, BINS),
        "mask": gs.nn.Sigmoid(),
    }
)


def gatestep_step(path: Path) -> Step:
    """Return the step function of a new gatestep stream, which carries the state itself."""
    stream = gs.load(path, spec=None if path.suffix == ".onnx" else SPEC).stream()
    mask = np.empty(BINS, np.float32)

    def step(frame: FloatArray) -> FloatArray:
        stream.step(frame, mask)
        return mask

    return step


def onnxruntime_session(path: Path) -> onnxruntime.InferenceSession:
    """Open the model for one thread, like gatestep."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def onnxruntime_step(path: Path) -> Step:
    """Return a step function by onnxruntime in its plain form, with the state passed as an array."""
    session = onnxruntime_session(path)
    state = np.zeros((2, 1, session.get_inputs()[1].shape[2]), np.float32)

    def step(frame: FloatArray) -> FloatArray:
        nonlocal state
        mask, state = session.run(["mask", "hn"], {"x": frame[None, None], "h0": state})
        return mask[0, 0]

    return step


def onnxruntime_bound_step(path: Path) -> Step:
    """Return a step function by onnxruntime in its quickest form, with every array bound beforehand."""
    session = onnxruntime_session(path)
    x, mask = np.zeros((2, 1, 1, BINS), np.float32)
    states = np.zeros((2, 2, 1, session.get_inputs()[1].shape[2]), np.float32)
    bindings = []
    # Two bindings in turn: what one writes as the new state, the other reads as the old one.
    for old, new in ((states[0], states[1]), (states[1], states[0])):
        binding = session.io_binding()
        for name, array in (("x", x), ("h0", old)):
            binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        for name, array in (("mask", mask), ("hn", new)):
            binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        # A binding only knows addresses: the array stays with it so that it lives as long.
        bindings.append((binding, new))

    def step(frame: FloatArray) -> FloatArray:
        x[0, 0] = frame
        session.run_with_iobinding(bindings[0][0])
        bindings.reverse()
        return mask[0, 0]

    return step


def measured(name: str, make_step: Callable[[Path], Step], model: Path, noisy: FloatArray) -> FloatArray:
    """Stream `noisy` `(N,)` through a new step function, print what it cost and return the result `(N,)`."""
    # The first second goes through twice, so that caches and allocators are warm when it counts.
    enhance(noisy[:RATE], make_step(model))
    step = make_step(model)
    nanoseconds = []

    def timed(frame: FloatArray) -> FloatArray:
        begin = time.perf_counter_ns()
        mask = step(frame)
        nanoseconds.append(time.perf_counter_ns() - begin)
        return mask

    begin = time.perf_counter()
    cleaned = enhance(noisy, timed)
    hop = (time.perf_counter() - begin) / len(nanoseconds)
    median, p99, worst = np.percentile(nanoseconds, (50, 99, 100)) / 1000
    print(
        f"{name:22s} network step: median {median:6.1f}  p99 {p99:6.1f}  max {worst:7.1f} us;"
        f"  whole hop, with STFT: {hop * 1e6:6.1f} us, {HOP / RATE / hop:4.0f} x real time"
    )
    return cleaned


def draw(path: Path, panels: dict[str, FloatArray]) -> None:
    """Write the spectrograms of `panels`, a title and samples `(N,)` each, below each other as a picture."""
    figure = Figure(figsize=(10, 2.6 * len(panels)), layout="constrained")
    for index, (title, samples) in enumerate(panels.items()):
        axes = figure.add_subplot(len(panels), 1, index + 1)
        level = 20 * np.log10(np.abs(stft(samples)).T + 1e-5)
        extent = (0, len(samples) / RATE, 0, RATE / 2000)
        axes.imshow(level, origin="lower", aspect="auto", extent=extent, vmin=-50, vmax=25, cmap="magma")
        axes.set(title=title, ylabel="kHz")
    axes.set_xlabel("seconds")
    figure.savefig(path, dpi=100)


def main() -> None:
    """Parse the command line and run the demo."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "noisy", type=Path, nargs="?", help="wav to clean, mono 16-bit 16 kHz (default: the noisy.wav here)"
    )
    parser.add_argument("--clean", type=Path, help="what it should sound like, if known, for SI-SDR")
    parser.add_argument(
        "--model", type=Path, default=HERE / "denoiser.onnx", help="(default: denoiser.onnx here)"
    )
    parser.add_argument(
        "--out", type=Path, default=HERE / "out", help="folder to write to (default: out here)"
    )
    arguments = parser.parse_args()
    if arguments.noisy is None:
        arguments.noisy, arguments.clean = HERE / "noisy.wav", HERE / "clean.wav"
    noisy = read_wav(arguments.noisy)
    print(f"{arguments.noisy.name}: {len(noisy) / RATE:.1f} s, hops of {1000 * HOP / RATE:.0f} ms")

    cleaned = measured("gatestep", gatestep_step, arguments.model, noisy)
    if onnxruntime is None:
        print("onnxruntime is not installed, so there is no comparison (pip install 'gatestep[bench]')")
    else:
        onnx_file = arguments.model.with_suffix(".onnx")
        other = measured("onnxruntime", onnxruntime_step, onnx_file, noisy)
        bound = measured("onnxruntime, bound", onnxruntime_bound_step, onnx_file, noisy)
        worst = max(np.abs(cleaned - other).max(), np.abs(cleaned - bound).max())
        print(
            f"largest difference between the outputs of gatestep and onnxruntime: {worst:.1e} of full scale"
        )

    panels = {"before": noisy, "after": cleaned}
    if arguments.clean is not None:
        clean = read_wav(arguments.clean)
        before, after = si_sdr(noisy, clean), si_sdr(cleaned, clean)
        print(f"SI-SDR: {before:.2f} dB before, {after:.2f} dB after: {after - before:+.2f} dB")
        panels["clean speech, for comparison"] = clean
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_wav(arguments.out / "denoised.wav", cleaned)
    print(f"wrote {arguments.out / 'denoised.wav'}")
    if Figure is None:
        print("matplotlib is not installed, so there is no picture (pip install 'gatestep[audio]')")
    else:
        draw(arguments.out / "spectrogram.png", panels)
        print(f"wrote {arguments.out / 'spectrogram.png'}")


if __name__ == "__main__":
    main()
