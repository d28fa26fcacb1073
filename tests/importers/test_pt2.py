"""Exported programs (`.pt2`) against what PyTorch computes with them; and files that are damaged, or ask too much."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gatestep as gs

torch = pytest.importorskip("torch")
nn = torch.nn
CASE = Path(__file__).parents[3] / "shared" / "models" / "torch" / "SeqTagger_LSTM.pt2"


class Tagger(nn.Module):
    """Two layers, a projection, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 8, 2, batch_first=True, proj_size=5)
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Any) -> Any:
        return self.fc(self.rnn(x)[0])


class Carried(nn.Module):
    """States in and out, an embedding, results under keys."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)
        self.gru = nn.GRU(4, 6, 2)

    def forward(self, ids: Any, h: Any) -> Any:
        y, hn = self.gru(self.table(ids), h)
        return {"logp": torch.log_softmax(y, -1), "state": {"h": hn}}


class Cells(nn.Module):
    """A loop over cells that writes its results in place."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(4, 6)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Any) -> Any:
        h, c = x.new_zeros(x.shape[0], 6), x.new_zeros(x.shape[0], 6)
        out = torch.zeros(x.shape[0], x.shape[1], 6)
        for t in range(x.shape[1]):
            h, c = self.cell(x[:, t], (h, c))
            out[:, t] = h
        y = out.mul(2)
        self.act(y)
        return y


class Mixed(nn.Module):
    """Convolutions, normalisation, pooling, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), nn.BatchNorm1d(6), nn.SiLU(), nn.MaxPool1d(2))
        self.rnn = nn.GRU(6, 6, batch_first=True, bidirectional=True)
        self.norm, self.att = nn.LayerNorm(12), nn.MultiheadAttention(12, 3, batch_first=True)
        self.register_buffer("mean", torch.randn(12))

    def forward(self, x: Any) -> Any:
        y = self.norm(self.rnn(self.net(x.transpose(1, 2)).transpose(1, 2))[0] - self.mean)
        z, _ = self.att(y, y, y, need_weights=False)
        return (y + z).mean(1), z[..., -1].softmax(-1)


def example(kind: type) -> tuple[Any, ...]:
    if kind is Carried:
        return torch.randint(0, 9, (7, 2)), torch.randn(2, 2, 6)
    return (torch.randn(2, 6, 4),)


def exported(kind: type, *, dynamic: bool = False, decomposed: bool = False) -> tuple[Any, Any, tuple[Any, ...]]:
    torch.manual_seed(2)
    module, given = kind().eval(), example(kind)
    shapes = None
    if dynamic:
        shapes = tuple(dict.fromkeys(range(x.dim()), torch.export.Dim.AUTO) for x in given)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, given, dynamic_shapes=shapes)
        return module, program.run_decompositions() if decomposed else program, given


def saved(program: Any) -> bytes:
    stream = io.BytesIO()
    torch.export.save(program, stream)
    return stream.getvalue()


def legacy(program: Any) -> bytes:
    """The layout that PyTorch wrote before 2.9."""
    from torch._export.serde.serialize import serialize

    artifact = serialize(program)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("serialized_exported_program.json", artifact.exported_program)
        archive.writestr("serialized_state_dict.pt", artifact.state_dict)
        archive.writestr("serialized_constants.pt", artifact.constants)
        archive.writestr("serialized_example_inputs.pt", artifact.example_inputs)
        archive.writestr("version", "8.8")
    return stream.getvalue()


def same(model: gs.Model, module: Any, given: tuple[Any, ...]) -> None:
    got = model(*(x.numpy() for x in given))
    with torch.no_grad():
        want = torch.utils._pytree.tree_leaves(module(*given))
    for one, two in zip(got if isinstance(got, tuple) else (got,), want, strict=True):
        assert one.shape == two.shape
        np.testing.assert_allclose(one, two.numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", [Tagger, Carried, Cells, Mixed])
@pytest.mark.parametrize("form", ["plain", "dynamic", "decomposed", "legacy"])
def test_programs(kind: type, form: str) -> None:
    module, program, given = exported(kind, dynamic=form == "dynamic", decomposed=form == "decomposed")
    model = gs.load(legacy(program) if form == "legacy" else saved(program))
    same(model, module, given)
    if form == "dynamic" and kind is not Carried:
        same(model, module, (torch.randn(5, *given[0].shape[1:]),))


def test_ports_are_those_that_the_user_sees() -> None:
    _, program, _ = exported(Carried, dynamic=True)
    model = gs.load(saved(program))
    assert [port.name for port in model.inputs] == ["ids", "h"]
    assert [port.name for port in model.outputs] == ["logp", "state_h"]
    assert model.inputs[0].dtype == np.int64
    batch = model.inputs[0].shape[1]
    assert isinstance(batch, str)
    assert model.inputs[1].shape == (2, batch, 6)


def test_a_program_streams() -> None:
    if not CASE.exists():
        pytest.skip("no ../shared/models beside the repository")
    model = gs.load(CASE)
    with np.load(CASE.with_name("SeqTagger_LSTM.0.npz")) as data:
        x, y = data["in.x"], data["out.y"]
    stream = model.stream(2)
    got = np.stack([stream.step(frame) for frame in x.swapaxes(0, 1)], axis=1)
    np.testing.assert_allclose(got, y, atol=2e-5)


def test_states_of_a_program_are_the_streams() -> None:
    module, program, (ids, h) = exported(Carried, dynamic=True)
    model = gs.load(saved(program))
    assert model.streams, model.layout.blocker
    got = model.run(ids.numpy())
    want = module(ids, torch.zeros_like(h))["logp"]
    np.testing.assert_allclose(got, want.detach().numpy(), atol=1e-5)


def test_pytorch_is_not_needed() -> None:
    if not CASE.exists():
        pytest.skip("no ../shared/models beside the repository")
    code = f"import sys, gatestep; gatestep.load({str(CASE)!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


# ---------------------------------------------------------------------- refused


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Any) -> Any:
        self.count += 1
        return x * self.count


class Spectrum(nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.fft.rfft(x).abs()


def test_a_buffer_that_changes_is_refused_by_name() -> None:
    for decomposed in (False, True):
        _, program, _ = exported(Counting, decomposed=decomposed)
        with pytest.raises(gs.UnsupportedModelError, match="count"):
            gs.load(saved(program))


def test_an_operator_without_translation_is_refused_by_name() -> None:
    _, program, _ = exported(Spectrum)
    with pytest.raises(gs.UnsupportedModelError, match="fft_rfft"):
        gs.load(saved(program))


def test_a_spec_is_for_weights() -> None:
    _, program, _ = exported(Spectrum)
    with pytest.raises(ValueError, match="describes itself"):
        gs.load(saved(program), spec=gs.nn.Linear(1, 1))


def rewritten(data: bytes, change: Callable[[str, bytes], bytes | None]) -> bytes:
    """The archive with every entry as `change` gives it back."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            entry = change(name, old.read(name))
            if entry is not None:
                new.writestr(name, entry)
    return stream.getvalue()


@pytest.fixture(scope="module")
def program() -> bytes:
    return saved(exported(Tagger)[1])


def test_weights_that_are_missing_or_too_short_are_damage(program: bytes) -> None:
    missing = rewritten(program, lambda name, data: None if "weight_0" in name else data)
    short = rewritten(program, lambda name, data: data[:8] if "weight_0" in name else data)
    for damaged in (missing, short, program[:-100], program[:500]):
        with pytest.raises(gs.ModelFormatError):
            gs.load(damaged)


def test_sizes_that_no_file_holds_are_damage(program: bytes) -> None:
    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("weights_config.json"):
            return data
        table = json.loads(data)
        for entry in table["config"].values():
            entry["tensor_meta"]["sizes"][0]["as_int"] = 1 << 40
        return json.dumps(table).encode()

    with pytest.raises(gs.ModelFormatError, match="beyond its storage"):
        gs.load(rewritten(program, change))


def nodes(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON value: container and key."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in list(items):
        found += [(value, key), *nodes(child)]
    return found


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_program_that_says_anything_else_is_an_error_of_ours_or_runs(program: bytes, data: Any) -> None:
    junk = st.sampled_from([None, 0, -1, 2**70, "", "x", [], {}, [[]], {"as_int": -5}, True, 1.5])

    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("model.json"):
            return content
        value = json.loads(content)
        places = nodes({key: value[key] for key in ("graph_module", "schema_version")})
        for _ in range(data.draw(st.integers(1, 3))):
            container, key = data.draw(st.sampled_from(places))
            container[key] = data.draw(junk)
        return json.dumps(value).encode()

    with contextlib.suppress(gs.GatestepError):
        gs.load(rewritten(program, change))
