"""Write importers.md: which models of PyTorch load from which kind of file, which stream, and how far they are off.

Run ``make importers``. It takes torch and onnxscript, makes every file anew in a temporary folder, loads it, and holds
it to what torch computes. `examine` is one cell of the table.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import gatestep
from gatestep import nn as spec

HERE = Path(__file__).resolve().parent
STEPS, SIZE, HIDDEN = 7, 5, 8
#: More than this is another number, not another rounding.
TOLERANCE = 1e-5

# ---------------------------------------------------------------------- models


class Sequence(nn.Module):
    """A recurrent layer, and what stands behind its output."""

    def __init__(self, rnn: nn.Module, *rest: nn.Module) -> None:
        super().__init__()
        self.rnn, self.rest = rnn, nn.Sequential(*rest)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest(self.rnn(x)[0])


class LastStep(Sequence):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest(self.rnn(x)[0][:, -1])


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.rnn, self.out = (
            nn.Embedding(11, SIZE),
            nn.GRU(SIZE, HIDDEN, 2, batch_first=True),
            nn.Linear(8, 11),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.rnn(self.table(x))[0])


class Convolution(nn.Module):
    """A causal convolution in front of a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.rnn = nn.Conv1d(SIZE, 6, 3), nn.GRU(6, HIDDEN, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(nn.functional.pad(x.transpose(1, 2), (2, 0)))
        return self.rnn(torch.relu(y).transpose(1, 2))[0]


class LSTMLoop(nn.Module):
    """A cell, frame by frame."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(SIZE, HIDDEN)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.zeros(x.shape[0], self.cell.hidden_size)
        c, outputs = h, []
        for t in range(x.shape[1]):
            h, c = self.cell(x[:, t], (h, c))
            outputs.append(h)
        return torch.stack(outputs, 1)


class GRULoop(nn.Module):
    """A cell, frame by frame."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(SIZE, HIDDEN)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, outputs = torch.zeros(x.shape[0], self.cell.hidden_size), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            outputs.append(h)
        return torch.stack(outputs, 1)


class ByHand(nn.Module):
    """The state goes in and comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.LSTM(SIZE, HIDDEN, batch_first=True), nn.Linear(HIDDEN, 3)

    def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> Any:
        y, (h, c) = self.rnn(x, (h, c))
        return self.out(y), h, c


@dataclass(frozen=True)
class Kind:
    """A row: how the module is made, and its spec where weights alone do not say what it is."""

    title: str
    make: Callable[[], nn.Module]
    spec: Callable[[], Any] | None = None
    time: int = 1

    def module(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make().eval()

    def inputs(self, steps: int = STEPS) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(1)
        if self.make is Language:
            return (torch.randint(0, 11, (1, steps)),)
        x = torch.randn(1, steps, SIZE).transpose(1, self.time)
        return (x, torch.randn(1, 1, HIDDEN), torch.randn(1, 1, HIDDEN)) if self.make is ByHand else (x,)


def layer(module: str, *args: Any, batch_first: bool = True, **options: Any) -> Kind:
    """A recurrent layer by itself."""
    said = {"bidirectional": "bidirectional", "proj_size": "projection", "bias": "no bias", "nonlinearity": "ReLU"}
    words = [f"{n} layers" for n in args] + [said[name] for name in options] + ["time first"] * (not batch_first)
    sizes, options = (SIZE, HIDDEN, *args), {**options, "batch_first": batch_first}
    return Kind(
        ", ".join([module, *words]),
        lambda: Sequence(getattr(nn, module)(*sizes, **options)),
        lambda: spec.Sequential({"rnn": getattr(spec, module)(*sizes, **options)}),
        int(batch_first),
    )


def headed() -> Kind:
    """A GRU with layers behind it, normalised."""
    return Kind(
        "GRU, LayerNorm, Linear, Sigmoid",
        lambda: Sequence(
            nn.GRU(SIZE, HIDDEN, batch_first=True), nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, 3), nn.Sigmoid()
        ),
        lambda: spec.Sequential(
            {
                "rnn": spec.GRU(SIZE, HIDDEN, batch_first=True),
                "rest.0": spec.LayerNorm(HIDDEN),
                "rest.1": spec.Linear(HIDDEN, 3),
                "rest.2": spec.Sigmoid(),
            }
        ),
    )


KINDS = [
    layer("LSTM"),
    layer("LSTM", 2),
    layer("LSTM", bidirectional=True),
    layer("LSTM", proj_size=3),
    layer("LSTM", bias=False),
    layer("LSTM", batch_first=False),
    layer("GRU"),
    layer("GRU", 2),
    layer("GRU", bidirectional=True),
    layer("RNN"),
    layer("RNN", nonlinearity="relu"),
    Kind("LSTMCell in a loop", LSTMLoop),
    Kind("GRUCell in a loop", GRULoop),
    headed(),
    Kind("causal Conv1d, ReLU, GRU", Convolution),
    Kind(
        "Embedding, GRU, Linear",
        Language,
        lambda: spec.Sequential(
            {
                "table": spec.Embedding(11, SIZE),
                "rnn": spec.GRU(SIZE, HIDDEN, 2, batch_first=True),
                "out": spec.Linear(HIDDEN, 11),
            }
        ),
    ),
    Kind(
        "GRU, last step, Linear",
        lambda: LastStep(nn.GRU(SIZE, HIDDEN, batch_first=True), nn.Linear(HIDDEN, 3)),
        lambda: spec.Sequential(
            {"rnn": spec.GRU(SIZE, HIDDEN, batch_first=True), "last": spec.Last(), "rest.0": spec.Linear(HIDDEN, 3)}
        ),
    ),
    Kind("LSTM with states in and out", ByHand),
]

# ---------------------------------------------------------------------- files


def onnx_file(dynamo: bool, dynamic: bool) -> Callable[[Kind, Path], Any]:
    def write(kind: Kind, folder: Path) -> Any:
        path, inputs = folder / "model.onnx", kind.inputs()
        options: dict[str, Any] = {"dynamo": dynamo, "input_names": ["x", "h", "c"][: len(inputs)]}
        if dynamo:
            options |= {"verbose": False, "dynamic_shapes": dynamic_shapes(kind) if dynamic else None}
        else:
            options |= {"opset_version": 17, "dynamic_axes": {"x": {kind.time: "T"}} if dynamic else None}
        torch.onnx.export(kind.module(), inputs, path, **options)
        return gatestep.load(path)

    return write


def dynamic_shapes(kind: Kind) -> tuple[Any, ...]:
    return ({kind.time: torch.export.Dim("T", min=2)}, *[None] * (len(kind.inputs()) - 1))


def weights_file(how: str) -> Callable[[Kind, Path], Any]:
    def write(kind: Kind, folder: Path) -> Any:
        if kind.spec is None:
            raise Skipped("Weights alone do not say what stands around them, and there is no spec for that.")
        state, path = kind.module().state_dict(), folder / f"model.{'safetensors' if how == 'safetensors' else 'pt'}"
        if how == "safetensors":
            from safetensors.torch import save_file

            save_file(state, path)
        else:
            torch.save(state, path, _use_new_zipfile_serialization=how == "zip")
        return gatestep.load(path, spec=kind.spec())

    return write


def exported_program(dynamic: bool) -> Callable[[Kind, Path], Any]:
    def write(kind: Kind, folder: Path) -> Any:
        path, inputs = folder / "model.pt2", kind.inputs()
        program = torch.export.export(kind.module(), inputs, dynamic_shapes=dynamic_shapes(kind) if dynamic else None)
        torch.export.save(program, path)
        return gatestep.load(path)

    return write


def torchscript(how: str) -> Callable[[Kind, Path], Any]:
    def write(kind: Kind, folder: Path) -> Any:
        path, module = folder / "model.pt", kind.module()
        script = torch.jit.script(module) if how == "script" else torch.jit.trace(module, kind.inputs())
        script.save(str(path))
        return gatestep.load(path)

    return write


FILES: dict[str, Callable[[Kind, Path], Any]] = {
    "ONNX, TorchScript exporter, static": onnx_file(dynamo=False, dynamic=False),
    "ONNX, TorchScript exporter, dynamic": onnx_file(dynamo=False, dynamic=True),
    "ONNX, dynamo exporter, static": onnx_file(dynamo=True, dynamic=False),
    "ONNX, dynamo exporter, dynamic": onnx_file(dynamo=True, dynamic=True),
    "state_dict, .pt": weights_file("zip"),
    "state_dict, before 1.6": weights_file("legacy"),
    "state_dict, .safetensors": weights_file("safetensors"),
    ".pt2, static": exported_program(dynamic=False),
    ".pt2, dynamic": exported_program(dynamic=True),
    "TorchScript, traced": torchscript("trace"),
    "TorchScript, scripted": torchscript("script"),
}

# ---------------------------------------------------------------------- the table


class Skipped(Exception):
    """There is no such file, and why."""


@dataclass(frozen=True)
class Result:
    """One cell of the table.

    Attributes
    ----------
    error : float or None
        Largest difference to torch, of the whole call and, where the model streams, of its frames.
    streams : bool
    note : str
        Why there is nothing, or no stream.
    """

    error: float | None = None
    streams: bool = False
    note: str = ""

    def shown(self, notes: list[str]) -> str:
        """What the table says; `notes` grows by what it says below."""
        mark = f" [{notes.index(self.note) + 1}]" if self.note in notes else ""
        if self.note and not mark:
            notes.append(self.note)
            mark = f" [{len(notes)}]"
        if self.error is None:
            return f"—{mark}"
        return f"{'streams' if self.streams else 'whole'} {self.error:.0e}{mark}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters say."""
    logging.disable(logging.CRITICAL)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def examine(kind: Kind, file: str) -> Result:
    """Make a file of this kind, load it, hold it to torch."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        try:
            model = FILES[file](kind, Path(folder))
        except gatestep.GatestepError as error:
            return Result(note=plain(str(error), folder))
        except Skipped as error:
            return Result(note=str(error))
        except Exception as error:
            return Result(note=f"PyTorch does not write it: {said_by_torch(error)}.")
        return measured(kind, model, folder)


def measured(kind: Kind, model: Any, folder: str) -> Result:
    inputs = kind.inputs()
    with torch.no_grad():
        expected = kind.module()(*inputs)
    values = [value.numpy() for value in (expected if isinstance(expected, tuple) else (expected,))]
    try:
        got = model(*(value.numpy() for value in inputs))
    except gatestep.GatestepError as error:
        return Result(note=plain(str(error), folder))
    results = list(got) if isinstance(got, tuple) else [got]
    error = max(float(np.abs(a - b).max()) for a, b in zip(results, values, strict=False))
    if not model.streams:
        return Result(error, note=plain(str(model.layout.blocker), folder))
    stream = model.stream()
    if len(inputs) > 1:
        for name, value in zip(("h", "c"), inputs[1:], strict=True):
            stream.state[name] = value.numpy()
    frames = []
    for frame in inputs[0].select(1 - kind.time, 0).numpy():
        try:
            result = stream.step(frame)
        except gatestep.ShapeError:  # a file of one row alone may keep that row in its frames
            result = stream.step(frame[None])
        frames.append(np.ravel(result[0] if isinstance(result, tuple) else result))
    found = np.stack(frames) if values[0].ndim == 3 else frames[-1]
    return Result(max(error, float(np.abs(found - values[0].reshape(found.shape)).max())), True)


def plain(message: str, folder: str) -> str:
    """A message without names of files and nodes, which differ where the sentence does not."""
    text = re.sub(rf"{re.escape(folder)}/model\.\w+: ", "", message)
    text = re.sub(r"([A-Z]\w+) '[^']*'", r"\1", text)
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def said_by_torch(error: Exception) -> str:
    """What PyTorch says, without where in its graph or in whose file."""
    text = re.split(r"\[Caused|File \"", re.sub(r"\s+", " ", str(error)))[0].strip()
    whole = text if len(text) <= 200 else text[:200].rpartition(". ")[0] or text[:200]
    return whole.rstrip(". ").replace("|", "\\|")


def main() -> None:
    """Make every file, and write the table."""
    notes: list[str] = []
    rows = []
    for kind in KINDS:
        cells = []
        for file in FILES:
            result = examine(kind, file)
            if result.error is not None and result.error > TOLERANCE:
                raise SystemExit(f"{kind.title}, {file}: differs from torch by {result.error:.1e}")
            cells.append(result.shown(notes))
        print(f"{kind.title}: {'; '.join(cells)}", file=sys.stderr)
        rows.append(f"| {kind.title} | " + " | ".join(cells) + " |")
    lines = [
        "# Models of PyTorch, by kind of file",
        "",
        f"Written by `make importers` with torch {torch.__version__.split('+')[0]}. Every file is made anew, loaded,",
        "and held to what torch computes in single precision.",
        "",
        "- *streams*: frame by frame, states kept; *whole*: as whole recordings only, and why",
        "- the number: the largest difference to torch, of the whole call and of the stream; the script fails where",
        f"  it is more than {TOLERANCE:.0e}",
        "- —: there is no such file, or it does not load, and why",
        f"- *static* files were made for {STEPS} frames, *dynamic* ones for any number",
        f"- layers have {SIZE} inputs and {HIDDEN} units",
        "",
        "| | " + " | ".join(FILES) + " |",
        "|---|" + "---|" * len(FILES),
        *rows,
        "",
        *(f"{k}. {note}" for k, note in enumerate(notes, 1)),
    ]
    (HERE / "importers.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
