"""Normalisations written out as means, squares and roots run as one operator."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from written_cells import CLOSE, noise

F = 6


def divided(n: Any, rng: random.Random, top: Any, variance: Any, epsilon: float) -> Any:
    """``top / sqrt(variance + epsilon)``, spelled in some way."""
    total = n("Add", variance, epsilon) if rng.random() < 0.5 else n("Add", epsilon, variance)
    root = n("Sqrt", total) if rng.random() < 0.5 else n("Pow", total, 0.5)
    return rng.choice(
        [
            lambda: n("Div", top, root),
            lambda: n("Mul", top, n("Reciprocal", root)),
            lambda: n("Mul", n("Div", 1.0, root), top),
            lambda: n("Mul", top, n("Pow", total, -0.5)),
        ]
    )()


def written(n: Any, rng: random.Random, x: Any, axes: list[int], *, mean: bool, width: int = F) -> Any:
    centre = n("Sub", x, n("ReduceMean", x, axes)) if mean else x
    again = n("Sub", x, n("ReduceMean", x, axes)) if mean and rng.random() < 0.3 else centre
    if rng.random() < 0.4:
        again = n("Cast", again, to=np.dtype(np.float32))
    square = n("Pow", again, 2.0) if rng.random() < 0.5 else n("Mul", again, again)
    y = divided(n, rng, centre, n("ReduceMean", square, axes), 1e-3)
    if rng.random() < 0.8:
        y = n("Mul", y, n.weights(width)) if rng.random() < 0.5 else n("Mul", n.weights(width), y)
        y = n("Add", y, n.weights(width)) if rng.random() < 0.8 else y
    return y


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_every_spelling(net: Any, seed: int, mean: bool) -> None:
    n, rng = net(seed), random.Random(seed)
    x = n.input("x", "T", "B", F)
    n("Neg", written(n, rng, x, [rng.choice([-1, 2])], mean=mean), out="y")
    model = n.output("y").model()
    ops = {node.op for node in model.graph.nodes}
    assert ("LayerNormalization" if mean else "RMSNormalization") in ops
    assert not ops & {"Sub", "Div", "Sqrt", "Pow", "Reciprocal", "ReduceMean"}
    feeds = {"x": noise(4, 3, F)}
    np.testing.assert_allclose(model(feeds)["y"], n.evaluate(feeds)["y"], **CLOSE)


def test_behind_a_cell_it_streams(net: Any) -> None:
    n = net()
    y = written(n, random.Random(0), n.layer("GRU", n.input("x", "T", "B", 3), 3, F), [2], mean=True)
    model = (n("Neg", y, out="y"), n.output("y").model())[1]
    assert "LayerNormalization" in {node.op for node in model.graph.nodes}
    x = noise(5, 2, 3)
    stream = model.stream(2)
    assert np.stack([stream.step(frame) for frame in x]).tobytes() == model(x).tobytes()


MISSES: dict[str, Any] = {
    "over the frames": lambda n, x: written(n, random.Random(0), x, [0], mean=True),
    "another centre": lambda n, x: n(
        "Div",
        n("Sub", x, n("ReduceMax", x, [2])),
        n("Sqrt", n("Add", n("ReduceMean", n("Pow", n("Sub", x, n("ReduceMean", x, [2])), 2.0), [2]), 1e-5)),
    ),
    "other axes": lambda n, x: n(
        "Div",
        n("Sub", x, n("ReduceMean", x, [1, 2])),
        n("Sqrt", n("Add", n("ReduceMean", n("Pow", n("Sub", x, n("ReduceMean", x, [1, 2])), 2.0), [2]), 1e-5)),
    ),
    "cubes": lambda n, x: n("Div", x, n("Sqrt", n("Add", n("ReduceMean", n("Abs", n("Pow", x, 3.0)), [2]), 1e-5))),
    "a sum": lambda n, x: n("Div", x, n("Sqrt", n("Add", n("ReduceSum", n("Mul", x, x), [2]), 1e-5))),
}


@pytest.mark.parametrize("miss", MISSES)
def test_near_misses_stay_as_they_are(net: Any, miss: str) -> None:
    n = net()
    n("Neg", MISSES[miss](n, n.input("x", "T", 3, F)), out="y")
    model = n.output("y").model()
    assert not {node.op for node in model.graph.nodes} & {"LayerNormalization", "RMSNormalization"}
    feeds = {"x": noise(4, 3, F)}
    np.testing.assert_allclose(model(feeds)["y"], n.evaluate(feeds)["y"], **CLOSE)


def test_what_else_sees_the_parts_keeps_them(net: Any) -> None:
    n = net()
    x = n.input("x", "B", F)
    mean = n("ReduceMean", x, [1])
    centre = n("Sub", x, mean)
    y = n("Div", centre, n("Sqrt", n("Add", n("ReduceMean", n("Mul", centre, centre), [1]), 1e-5)))
    n("Add", n("Mul", y, n.weights(F)), y, out="y")
    n("Neg", mean, out="mean")
    model = n.output("y", "mean").model()
    assert {"LayerNormalization", "ReduceMean"} <= {node.op for node in model.graph.nodes}
    feeds = {"x": noise(4, F)}
    for name, want in n.evaluate(feeds).items():
        np.testing.assert_allclose(model(feeds)[name], want, **CLOSE)


def test_statistics_of_the_call_through_a_batch_normalisation(net: Any) -> None:
    """How TensorFlow's layer normalisation is converted: every frame of every row is a channel of its own."""
    n = net()
    x = n.input("x", "B", "T", F)
    flat = n("Reshape", x, [1, -1, F, 1])
    mean = n("ReduceMean", flat, [2, 3])
    variance = n("ReduceMean", n("Pow", n("Sub", flat, mean), 2.0), [0, 2, 3], keepdims=0)
    rows = n("Reshape", n("ReduceProd", n("Slice", n("Shape", x), [0], [2], [0], [1]), [0]), [1])
    ones, zeros = n("Expand", np.ones(1, np.float32), rows), n("Expand", np.zeros(1, np.float32), rows)
    y = n("BatchNormalization", flat, ones, zeros, n("Reshape", mean, [-1]), variance, epsilon=1e-3)
    y = n("Transpose", n("Mul", n("Reshape", y, n("Shape", x)), n.weights(F)), perm=(1, 0, 2))
    n("Neg", n.layer("GRU", y, F, 4), out="y")
    model = n.output("y").model()
    feeds = {"x": noise(3, 5, F)}
    np.testing.assert_allclose(model(feeds)["y"], n.evaluate(feeds)["y"], **CLOSE)
    stream = model.stream(3)
    steps = [stream.step(np.ascontiguousarray(feeds["x"][:, t])) for t in range(5)]
    assert np.stack(steps).tobytes() == model(feeds)["y"].tobytes()
