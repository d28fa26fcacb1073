"""Models from outside: the cases of ../shared/models by its own runner, ONNX's node tests, and the same, streamed."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter import open_model
from node_cases import node_cases

import gatestep as gs

SHARED = Path(__file__).resolve().parents[2] / "shared"
MANIFEST = SHARED / "models" / "manifest.json"
CASES: list[dict[str, Any]] = json.loads(MANIFEST.read_text())["cases"] if MANIFEST.exists() else []


def by_name(cases: list[dict[str, Any]]) -> Any:
    """Parameters with readable names; one that skips where there are no cases."""
    if not CASES:
        return [pytest.param({}, marks=pytest.mark.skip(reason="no ../shared/models beside the repository"))]
    return [pytest.param(case, id=case["name"]) for case in cases]


@cache
def runner() -> Any:
    """The module of run_cases.py."""
    spec = importlib.util.spec_from_file_location("shared_run_cases", SHARED / "tools" / "run_cases.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("case", by_name(CASES))
def test_case(case: dict[str, Any]) -> None:
    passed, why, _ = runner().run_case(open_model, case, str(SHARED / "models"))
    assert passed, why


# ---------------------------------------------------------------------- streamed


def frames_of(model: Any, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The file's arrays, time first, then batch, without states."""
    feeds = {}
    for port in model.inputs:
        axes = model.layout.axes.get(port.name)
        if axes is not None and port.name in arrays:
            feeds[port.name] = arrays[port.name].transpose(axes.order(arrays[port.name].ndim))
    return feeds


STREAMED = [
    c for c in CASES if c["streamable"] == "internal" and c["expect"] == "ok" and c["format"] in ("onnx", "torchscript")
]


@pytest.mark.parametrize("case", by_name(STREAMED))
def test_a_stream_gives_what_the_whole_call_gives(case: dict[str, Any]) -> None:
    root = str(SHARED / "models")
    model = gs.load(os.path.join(root, case["file"]))
    with np.load(os.path.join(root, case["data"])) as data:
        feeds = {key[3:]: data[key] for key in data.files if key.startswith("in.")}
    weights = [p.name for p in model.inputs if p.name in ("W", "R", "B", "P")]
    if weights:  # the reason names what is at fault
        with pytest.raises(gs.GatestepError) as caught:
            model.stream()
        assert Path(case["file"]).name in str(caught.value)
        assert any(repr(name) in str(caught.value) for name in weights)
        return
    streamed_once(model, feeds, case)


def streamed_once(model: Any, feeds: dict[str, np.ndarray], case: dict[str, Any]) -> None:
    """The loop of steps against one call, for as many rows as the case has."""
    want = model(feeds)
    layout = model.layout
    frames = frames_of(model, feeds)
    assert layout.timed
    lead = next(name for name in frames if layout.axes[name].time is not None)
    batch = frames[lead].shape[1] if layout.axes[lead].batch is not None else None
    stream = model.stream(batch)
    for name in layout.states:
        if name in feeds:
            stream.state[name] = feeds[name]
    steps: list[Any] = [
        stream.step({n: a[t] if layout.axes[n].time is not None else a for n, a in frames.items()})
        for t in range(len(frames[lead]))
    ]
    lengths = next((feeds[name] for name in layout.lengths if name in feeds), None)
    if lengths is not None and (lengths != len(steps)).any():
        return  # recordings that end early: a stream has no such thing
    for name, axes in layout.axes.items():
        if name not in want:
            continue
        whole = want[name].transpose(axes.order(want[name].ndim))
        if not steps:  # a recording of no frames
            assert stream.run(frames)[name].size == whole.size == 0
            continue
        got = np.stack([step[name] for step in steps]) if axes.time is not None else steps[-1][name]
        np.testing.assert_allclose(got, whole.reshape(got.shape), atol=case["atol"], rtol=case["rtol"])
    for name in layout.finals:
        np.testing.assert_allclose(stream.state[name], want[name], atol=case["atol"], rtol=case["rtol"])


LOOPED = [c for c in CASES if c["streamable"] == "state_io"]


@pytest.mark.parametrize("case", by_name(LOOPED))
def test_states_are_found_without_being_told(case: dict[str, Any]) -> None:
    model = gs.load(SHARED / "models" / case["file"])
    with np.load(SHARED / "models" / case["data"]) as archive:
        data = {key: archive[key] for key in archive.files}
    ins = {key[3:]: value for key, value in data.items() if key.startswith("in.")}
    states = {fed: out for out, fed in case["run"]["state"].items()}
    assert model.layout.states | model.layout.carried == states
    ((name, calls),) = ins.items()
    axes = model.layout.axes[name]
    batch = calls.shape[1 + axes.batch] if axes.batch is not None else None
    stream = model.stream(batch)
    for state in states:
        stream.state[state] = data[f"init.{state}"]
    for k, call in enumerate(calls):  # each holds one frame, or several
        if axes.time is None:
            result = stream.step({name: call.reshape(stream.inputs[0].shape)})
        else:
            result = stream.run({name: call.transpose(axes.order(call.ndim))})
        for out, got in result.items():
            want = data[f"out.{out}"][k]
            if axes.time is not None:
                want = want.transpose(model.layout.axes[out].order(want.ndim))
            np.testing.assert_allclose(got, want.reshape(got.shape), atol=case["atol"], rtol=case["rtol"])
    for state in states:
        if f"final.{state}" in data:
            np.testing.assert_allclose(
                stream.state[state], data[f"final.{state}"], atol=case["atol"], rtol=case["rtol"]
            )


def test_dtln_runs_its_622_blocks() -> None:
    case = next((c for c in CASES if c["name"] == "real/dtln_model_1"), None)
    if case is None:
        pytest.skip("no ../shared/models beside the repository")
    model = gs.load(SHARED / "models" / case["file"])
    with np.load(SHARED / "models" / case["data"]) as data:
        (name,) = (key for key in data.files if key.startswith("in."))
        blocks, want = data[name], data[next(key for key in data.files if key.startswith("out."))]
    assert len(blocks) == 622
    stream = model.stream()
    frames = np.ascontiguousarray(blocks.reshape(622, *stream.inputs[0].shape))
    got = stream.run(frames)
    assert got.tobytes() == np.stack(list(map(model.stream().step, frames))).tobytes()
    np.testing.assert_allclose(got.reshape(want.shape), want, atol=case["atol"], rtol=case["rtol"])


# ---------------------------------------------------------------------- ONNX's own node tests


CASES_OF_ONNX = node_cases("rnn gru lstm", "RNN GRU LSTM")


@pytest.mark.parametrize("case", CASES_OF_ONNX, ids=lambda case: case.name)
def test_onnx_node(case: Any) -> None:
    model = gs.load(case.model)
    ((inputs, outputs),) = case.data_sets
    got = model(dict(zip([p.name for p in model.inputs], inputs, strict=True)))
    for port, want in zip(model.outputs, outputs, strict=True):
        assert got[port.name].dtype == want.dtype
        np.testing.assert_allclose(got[port.name], want, rtol=case.rtol, atol=case.atol, strict=True)


def test_there_are_eighteen_node_tests() -> None:
    assert len(CASES_OF_ONNX) == 18
