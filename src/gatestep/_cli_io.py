"""Files that the command line reads frames from and writes them to: npy, npz, csv, wav."""

from __future__ import annotations

import csv
import importlib
import math
import wave
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from ._files import replacing
from .engine.errors import GatestepError, MissingExtraError

__all__ = ["SUFFIXES", "CliError", "Recording", "check", "read", "write"]

SUFFIXES = (".npy", ".npz", ".csv", ".wav")

Array = np.ndarray[Any, np.dtype[Any]]


class CliError(GatestepError):
    """The files on the command line do not fit the model, or each other."""


class Port(Protocol):
    """What is read of a port, of a model or of a stream."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[Any, ...] | None: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...


@dataclass(frozen=True)
class Recording:
    """What a file holds.

    Attributes
    ----------
    path : Path
    arrays : dict
        By name; None is the name where the format has none.
    sample_rate : int or None
        Of a .wav.
    """

    path: Path
    arrays: dict[str | None, Array]
    sample_rate: int | None = None

    @property
    def length(self) -> int:
        """Samples of a .wav."""
        return len(self.arrays[None])

    def assign(self, needed: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Array]:
        """Which array goes to which input: by name, or the only one to the only input that needs one."""
        names = [*needed, *optional]
        if len(self.arrays) == 1 and len(needed) == 1 and not self.arrays.keys() & {*names}:
            return {needed[0]: next(iter(self.arrays.values()))}
        if None in self.arrays:
            raise CliError(f"{self.path}: the model needs {', '.join(needed)}: give them in one .npz, by these names")
        named = {str(name): array for name, array in self.arrays.items()}
        missing, unknown = [n for n in needed if n not in named], [n for n in named if n not in names]
        if missing or unknown:
            odd = f"does not have {', '.join(missing)}" if missing else f"has {', '.join(unknown)}"
            raise CliError(f"{self.path}: {odd}; the inputs are {', '.join(names)}")
        return named

    def frames(self, array: Array, port: Port) -> Array:
        """`array` as frames of a stream's port, (T, ...): sound cut into blocks, lines of a .csv given their shape."""
        shape = port.shape or ()
        size = math.prod(shape)
        if self.sample_rate is not None:
            array = np.pad(array, (0, -len(array) % size)).reshape(-1, *shape)
        elif self.path.suffix.lower() == ".csv" and array.shape[1] == size:
            array = array.reshape(-1, *shape)
        constant = bool(getattr(port, "constant", False)) and array.shape == shape
        if not constant and (array.ndim != len(shape) + 1 or array.shape[1:] != shape):
            expected = ", ".join(map(str, ("frames", *shape)))
            raise CliError(f"{self.path}: {port.name} has shape {array.shape}; expected ({expected}), time first")
        return self.converted(array, port)

    def converted(self, array: Array, port: Port) -> Array:
        """`array` in the port's type: rounded where that has fewer digits, refused where it cannot hold the values."""
        if array.dtype.kind in "fiub":
            with np.errstate(all="ignore"):
                converted: Array = array.astype(port.dtype, order="C")
            same = np.isfinite if port.dtype.kind == "f" else np.asarray
            if np.array_equal(same(converted), same(array)):
                return converted
        raise CliError(f"{self.path}: {port.name} holds {array.dtype} values that {port.dtype} cannot")


def read(path: Path) -> Recording:
    """Read a file by its suffix; samples of a .wav come between -1 and 1."""
    return _READERS[path.suffix.lower()](path)


def check(path: Path, names: Sequence[str] | None, frame_rate: float | None) -> None:
    """Whether a file of this kind can hold these outputs (None: not known yet)."""
    suffix = path.suffix.lower()
    if suffix != ".npz" and names is not None and len(names) != 1:
        raise CliError(f"{path}: the model has the outputs {', '.join(names)}; write them to an .npz")
    if suffix == ".wav" and frame_rate is None:
        raise CliError(f"{path}: sound needs a rate: give a .wav as input, or --rate")


def write(path: Path, results: Mapping[str, Array], frame_rate: float | None, source: Recording) -> None:
    """Write results by the file's suffix: whole, or not at all."""
    with replacing(path) as file:
        if path.suffix.lower() == ".npz":
            _write_npz(file, results)
            return
        (array,) = results.values()
        if path.suffix.lower() == ".npy":
            np.save(file, array)
        elif path.suffix.lower() == ".csv":
            form = "%d" if array.dtype.kind != "f" else "%.17g" if array.dtype.itemsize == 8 else "%.9g"
            np.savetxt(file, array.reshape(len(array), -1) if array.ndim else array[None], fmt=form, delimiter=",")
        elif frame_rate is not None:
            samples = array.reshape(-1)
            rate = round(frame_rate * math.prod(array.shape[1:]))
            if rate == source.sample_rate:
                samples = samples[: source.length]
            _write_wav(file, samples, rate)


def _read_npy(path: Path) -> Recording:
    try:
        return Recording(path, {None: np.load(path, allow_pickle=False)})
    except (ValueError, EOFError) as error:
        raise CliError(f"{path}: not an .npy file of numbers: {error}") from error


def _read_npz(path: Path) -> Recording:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return Recording(path, {name: archive[name] for name in archive.files})
    except (ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise CliError(f"{path}: not an .npz file of numbers: {error}") from error


def _read_csv(path: Path) -> Recording:
    rows: list[list[float]] = []
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        lines = csv.reader(file)
        try:
            for fields in lines:
                if not any(field.strip() for field in fields):
                    continue
                row = _numbers(fields)
                if isinstance(row, str):
                    if lines.line_num == 1:
                        continue
                    raise CliError(f"{path}: line {lines.line_num}: {row!r} is not a number")
                if rows and len(row) != len(rows[0]):
                    raise CliError(
                        f"{path}: line {lines.line_num} has {len(row)} values, the lines before it {len(rows[0])}"
                    )
                rows.append(row)
        except csv.Error as error:
            raise CliError(f"{path}: line {lines.line_num}: {error}") from error
    if not rows:
        raise CliError(f"{path}: no frames in it")
    return Recording(path, {None: np.array(rows)})


def _numbers(fields: Sequence[str]) -> list[float] | str:
    """The values of a line, or the first field that is none."""
    row = []
    for field in fields:
        try:
            row.append(float(field))
        except ValueError:
            return field
    return row


def _read_wav(path: Path) -> Recording:
    with path.open("rb") as file:
        head = file.read(12)
    if head[:4] not in (b"RIFF", b"RIFX", b"RF64") or head[8:12] != b"WAVE":
        raise CliError(f"{path}: not a WAV file")
    try:
        with wave.open(str(path), "rb") as reader:
            if reader.getsampwidth() == 2:
                samples = np.frombuffer(reader.readframes(reader.getnframes()), "<i2") / 32768
                return _mono(path, samples.reshape(-1, reader.getnchannels()), reader.getframerate())
    except (wave.Error, EOFError):
        pass
    try:
        soundfile = importlib.import_module("soundfile")
    except ImportError as error:
        raise MissingExtraError("soundfile (for a WAV file that is not 16-bit PCM)", "audio") from error
    try:
        samples, rate = soundfile.read(path, dtype="float64", always_2d=True)
    except RuntimeError as error:
        raise CliError(f"{path}: {error}") from error
    return _mono(path, samples, rate)


def _mono(path: Path, samples: Array, rate: int) -> Recording:
    if samples.shape[1] != 1:
        raise CliError(f"{path}: {samples.shape[1]} channels; one is needed")
    return Recording(path, {None: samples[:, 0]}, rate)


def _write_npz(file: IO[bytes], arrays: Mapping[str, Array]) -> None:
    # np.savez(**arrays) would take an output called "file" for its own argument.
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _write_wav(file: IO[bytes], samples: Array, rate: int) -> None:
    scaled = np.rint(np.nan_to_num(samples.astype(np.float64)) * 32768)
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(np.clip(scaled, -32768, 32767).astype("<i2").tobytes())


_READERS: dict[str, Callable[[Path], Recording]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".csv": _read_csv,
    ".wav": _read_wav,
}
