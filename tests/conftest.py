"""What tests of the engine share: small models built node by node, and what they must give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gatestep.engine.graph import Graph
from gatestep.engine.model import Model
from gatestep.engine.oracle import evaluate

GATES = {"LSTM": "iofc", "GRU": "zrh", "RNN": "h"}
STANDARD = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
#: What the graph vocabulary asks for, where a test says nothing.
DEFAULTS: dict[str, dict[str, Any]] = {
    "Softmax": {"axis": -1, "trailing": False},
    "LogSoftmax": {"axis": -1, "trailing": False},
    "LayerNormalization": {"axis": -1, "epsilon": 1e-5},
    "Gemm": {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0},
    "Gather": {"axis": 0},
    "LeakyRelu": {"alpha": 0.01},
    **{f"Reduce{kind}": {"keepdims": 1} for kind in ("Sum", "Mean", "Max", "Min", "Prod", "L2", "SumSquare")},
}


class Net:
    """A graph, built by calling it: ``net("Add", x, 2.0)`` adds a node and returns the name of its result.

    Arrays and numbers among the inputs become constants, None an input left out.
    """

    def __init__(self, seed: int = 0, source: str = "test.net") -> None:
        self.graph = Graph(source)
        self.rng = np.random.default_rng(seed)

    def input(self, name: str, *shape: int | str | None, dtype: Any = np.float32, **options: Any) -> str:
        return self.graph.input(name, shape, dtype, **options)

    def output(self, *names: str, dtype: Any = np.float32, shape: Sequence[Any] | None = None) -> Net:
        for name in names:
            self.graph.output(name, shape, dtype)
        return self

    def __call__(self, op: str, *inputs: Any, out: str | Sequence[str] | int = 1, name: str = "", **attrs: Any) -> Any:
        names = [self._value(value) for value in inputs]
        outs = self.graph.add(
            op, names, [out] if isinstance(out, str) else out, name=name, **DEFAULTS.get(op, {}) | attrs
        )
        return outs[0] if len(outs) == 1 else outs

    def _value(self, value: Any) -> str:
        if value is None or isinstance(value, str):
            return value or ""
        array = np.asarray(value)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        return self.graph.constant(array)

    def weights(self, *shape: int) -> np.ndarray:
        return (self.rng.standard_normal(shape) * 0.4).astype(np.float32)

    def cell(
        self,
        op: str,
        x: Any,
        size: int,
        hidden: int,
        *,
        h0: Any = None,
        c0: Any = None,
        lengths: Any = None,
        bias: bool = True,
        projection: int = 0,
        peepholes: bool = False,
        coupled: str = "",
        clip: float | None = None,
        activations: Sequence[tuple[str, float, float]] | None = None,
        linear_before_reset: bool = True,
        direction: str = "forward",
        out: Sequence[str] | None = None,
        name: str = "",
    ) -> tuple[str, ...]:
        """A recurrent operator with weights of its own: y ``(T, D, B, P)``, hn, and for LSTM cn."""
        d, g = 2 if direction == "bidirectional" else 1, len(GATES[op])
        state = projection or hidden
        inputs = [x, self.weights(d, g * hidden, size), self.weights(d, g * hidden, state)]
        inputs += [self.weights(d, 2 * g * hidden) if bias else None, lengths, h0]
        attrs: dict[str, Any] = {
            "hidden_size": hidden,
            "direction": direction,
            "gates": GATES[op],
            "activations": tuple(activations or [(name, 0.0, 0.0) for name in STANDARD[op]]) * d,
            "clip": clip,
        }
        if op == "LSTM":
            inputs += [c0, self.weights(d, 3 * hidden) if peepholes else None]
            inputs += [self.weights(d, projection, hidden) if projection else None]
            attrs["coupled"] = coupled
        if op == "GRU":
            attrs["linear_before_reset"] = linear_before_reset
        outs: Any = out or (3 if op == "LSTM" else 2)
        return tuple(self(op, *inputs, out=outs, name=name, **attrs))

    def layer(self, op: str, x: Any, size: int, hidden: int, out: str | None = None, **options: Any) -> str:
        """A recurrent operator's y as ``(T, B, P)``."""
        y = self.cell(op, x, size, hidden, **options)[0]
        return str(self("Squeeze", y, [1], **({"out": out} if out else {})))

    def model(self, **options: Any) -> Model:
        return Model(self.graph, **options)

    def evaluate(self, feeds: Mapping[str, Any], names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """The outputs (or values `names`) in float64, by the operators' definitions alone."""
        return evaluate(self.graph, feeds, names)


@pytest.fixture(scope="session")
def net() -> type[Net]:
    """The class of small models."""
    return Net


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of outside models and tools that lies beside the repository, where it does."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "models" / "manifest.json").exists():
        pytest.skip("no shared/models beside the repository")
    return folder
