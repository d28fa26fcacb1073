"""Streaming STFT, network features and SI-SDR: the signal processing that training and demo share.

Only NumPy is needed, so the demo does not have to install what the training needs.
"""

from __future__ import annotations

import sys
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
WINDOW = 512
HOP = 256
BINS = WINDOW // 2 + 1

# About 84 dB under full scale: quieter bins are rounding noise of a 16-bit file and must not look like
# signal.
POWER_FLOOR = 1e-6

FloatArray = NDArray[np.float32]
ComplexArray = NDArray[np.complex64]


def window() -> FloatArray:
    """Return the square-root Hann window `(WINDOW,)`.

    It is applied before the FFT and again after the inverse FFT; the two make a periodic Hann window, which
    adds up to exactly one at a hop of half its length.
    """
    return np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)).astype(np.float32)


def features(power: FloatArray) -> FloatArray:
    """Turn a power spectrum into what the network is fed.

    Parameters
    ----------
    power
        Squared magnitudes `(..., BINS)` of the noisy spectrum.

    Returns
    -------
    FloatArray
        Log power `(..., BINS)`. Mean and variance are not normalised here: that is part of the network.
    """
    return np.log10(power + np.float32(POWER_FLOOR))


class StreamingStft:
    """Analysis and overlap-add synthesis, one hop of samples at a time.

    What `synthesise` returns lags what `analyse` was given by one hop (16 ms), because a sample is only
    complete once both windows that cover it have been added.
    """

    def __init__(self) -> None:
        self._window = window()
        self._past = np.zeros(HOP, np.float32)
        self._tail = np.zeros(HOP, np.float32)

    def analyse(self, samples: FloatArray) -> ComplexArray:
        """Return the spectrum `(BINS,)` of the last window, which ends with the new `samples` `(HOP,)`."""
        frame = np.concatenate((self._past, samples))
        self._past = np.array(samples, np.float32)
        return np.fft.rfft(frame * self._window).astype(np.complex64, copy=False)

    def synthesise(self, spectrum: ComplexArray) -> FloatArray:
        """Overlap-add the window of `spectrum` `(BINS,)` and return the samples `(HOP,)` it completes."""
        frame = np.fft.irfft(spectrum, WINDOW).astype(np.float32, copy=False) * self._window
        done = self._tail + frame[:HOP]
        self._tail = frame[HOP:]
        return done


def stft(samples: FloatArray) -> ComplexArray:
    """Return the spectra `(..., T, BINS)` of whole signals `(..., N)`, as `analyse` gives them."""
    count = samples.shape[-1] // HOP
    padded = np.concatenate((np.zeros((*samples.shape[:-1], HOP), np.float32), samples), axis=-1)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=-1)[..., : count * HOP : HOP, :]
    return np.fft.rfft(frames * window()).astype(np.complex64, copy=False)


def enhance(samples: FloatArray, step: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """Stream `samples` `(N,)` through a network, hop by hop; return the result `(N,)` without the lag.

    Parameters
    ----------
    samples
        Noisy speech.
    step
        Takes the features `(BINS,)` of one frame and returns its mask `(BINS,)`. It carries the state of the
        network from call to call.
    """
    stream = StreamingStft()
    # One hop more makes up for the lag of the synthesis, the rest fills the last hop.
    hops = np.concatenate((samples, np.zeros(HOP + -len(samples) % HOP, np.float32))).reshape(-1, HOP)
    cleaned = np.empty_like(hops)
    for hop, out in zip(hops, cleaned, strict=True):
        spectrum = stream.analyse(hop)
        mask = step(features(spectrum.real**2 + spectrum.imag**2))
        out[:] = stream.synthesise(spectrum * mask)
    return cleaned.reshape(-1)[HOP : HOP + len(samples)]


def si_sdr(estimate: FloatArray, reference: FloatArray) -> float:
    """Return the scale-invariant signal-to-distortion ratio, in dB, of `estimate` `(N,)` to `reference`."""
    estimate = estimate.astype(np.float64) - estimate.mean(dtype=np.float64)
    reference = reference.astype(np.float64) - reference.mean(dtype=np.float64)
    target = reference * (estimate @ reference) / (reference @ reference)
    error = estimate - target
    return float(10 * np.log10((target @ target) / (error @ error)))


def read_wav(path: Path) -> FloatArray:
    """Read a mono 16-bit 16 kHz wav file as samples `(N,)` in [-1, 1)."""
    with wave.open(str(path), "rb") as file:
        found = (file.getnchannels(), file.getsampwidth(), file.getframerate())
        if found != (1, 2, RATE):
            sys.exit(
                f"{path}: expected mono 16-bit {RATE} Hz, found {found[0]} channels of {8 * found[1]} bits, "
                f"{found[2]} Hz (convert it with: sox {path.name} -r {RATE} -c 1 -b 16 converted.wav)"
            )
        data = file.readframes(file.getnframes())
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)


def write_wav(path: Path, samples: FloatArray) -> None:
    """Write samples `(N,)` in [-1, 1] as a mono 16-bit 16 kHz wav file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).round().astype("<i2").tobytes())
