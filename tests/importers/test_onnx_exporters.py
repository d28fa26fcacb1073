"""Files that exporters are known to have written wrongly: what is said of them, and what mends them."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from gatestep.kernels import reference  # noqa: E402
from onnx import helper  # noqa: E402
from onnx_models import info, make  # noqa: E402

from gatestep import ModelWarning, UnsupportedModelError, load  # noqa: E402

H, INPUTS = 3, 2
GRU = "%gru : call_function[target=torch.ops.aten.gru.input](args = (%x, %zeros, [%p_weight_ih_l0], True, 1))"
LSTM = "%lstm : call_function[target=torch.ops.aten.lstm.input](args = (%x, [%p_weight_ih_l0, %p_weight_hr_l0]))"


def cell(op: str, *, producer: str = "pytorch", traced: str = "", c0: int = 0, **attrs: Any) -> Any:
    """A file of one cell, with the marks of PyTorch's dynamo exporter. `c0`: the size of the initial state."""
    rng, gates = np.random.default_rng(0), {"LSTM": 4, "GRU": 3}[op]
    shapes = {"w": (1, gates * H, INPUTS), "r": (1, gates * H, H), "b": (1, 2 * gates * H)}
    weights: dict[str, Any] = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    inputs = ["x", "w", "r", "b"]
    if c0:
        weights |= {"h0": np.zeros((1, 1, H), np.float32), "c0": np.zeros((1, 1, c0), np.float32)}
        inputs += ["", "h0", "c0"]
    node = helper.make_node(op, inputs, ["y"], name="rnn", hidden_size=H, **attrs)
    if traced:
        node.metadata_props.add(key="pkg.torch.onnx.fx_node", value=traced)
    model = make([node], [info("x", ("T", 1, INPUTS))], [info("y", None)], opset=20, weights=weights)
    model.producer_name = producer
    return model


def gru(model: Any, x: np.ndarray, after: bool) -> np.ndarray:
    """What the GRU of `model` gives, by the definition."""
    w, r, b = (np.float64(onnx.numpy_helper.to_array(t)[0]) for t in model.graph.initializer)
    order = [1, 0, 2]  # z r h -> r z n
    w, r = (a.reshape(3, H, -1)[order].reshape(3 * H, -1) for a in (w, r))
    b_ih, b_hh = (a.reshape(3, H)[order].reshape(-1) for a in np.split(b, 2))
    return reference.gru(np.float64(x), w, r, b_ih, b_hh, linear_before_reset=after)[0][:, None]


@pytest.mark.parametrize(
    ("producer", "traced", "attrs"),
    [("pytorch", GRU, {"linear_before_reset": 0}), ("pytorch", "", {}), ("onnx.optimizer", GRU, {})],
    ids=["exported", "metadata dropped", "producer replaced"],
)
def test_torch_gru_is_doubted_and_mended(tmp_path: Path, producer: str, traced: str, attrs: dict[str, Any]) -> None:
    model = cell("GRU", producer=producer, traced=traced, **attrs)
    path = tmp_path / "gru.onnx"
    path.write_bytes(model.SerializeToString())
    x = np.random.default_rng(1).standard_normal((6, 1, INPUTS)).astype(np.float32)
    with pytest.warns(ModelWarning, match=re.escape(str(path)) + ": GRU 'rnn'.*fix='torch-gru'") as caught:
        as_written = load(path)
    assert [warning.filename for warning in caught] == [__file__]
    np.testing.assert_allclose(as_written(x), gru(model, x, False), atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mended = load(path, fix="torch-gru")
    np.testing.assert_allclose(mended(x), gru(model, x, True), atol=1e-6)
    assert np.abs(gru(model, x, True) - gru(model, x, False)).max() > 1e-2


@pytest.mark.parametrize(
    "model",
    [cell("GRU", traced=GRU, linear_before_reset=1), cell("GRU", producer="tf2onnx"), cell("LSTM", c0=H)],
    ids=["exported rightly", "another exporter", "LSTM"],
)
def test_sound_files_are_not_doubted(model: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(model)


def test_fix_is_for_what_is_wrong_only() -> None:
    right = cell("GRU", linear_before_reset=1)
    x = np.ones((4, 1, INPUTS), np.float32)
    np.testing.assert_array_equal(load(right, fix=["torch-gru"])(x), load(right)(x))


@pytest.mark.parametrize(
    "model", [cell("LSTM", traced=LSTM), cell("LSTM", c0=H + 2)], ids=["by its call", "by its state"]
)
def test_lost_projection_is_refused(model: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=r"LSTM 'rnn'.*with projection.*proj_size"):
        load(model)


def test_fixes_are_known_by_name() -> None:
    with pytest.raises(ValueError, match=r"fix='torch-lstm' is not known.*'torch-gru'"):
        load(cell("GRU"), fix=["torch-gru", "torch-lstm"])
    with pytest.raises(ValueError, match="mends ONNX files"):
        load({"weight_ih_l0": np.zeros((3, 1), np.float32)}, fix="torch-gru")
