"""Dimensions without names that are one, as converters leave them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

F, H = 5, 6


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("names", [(None, None, None), ("a", "b", "c")])
@pytest.mark.parametrize("time_first", [False, True])
def test_rows_of_states_are_rows_of_frames(net: Any, names: tuple[Any, ...], time_first: bool) -> None:
    n = net()
    x = n.input("x", *names[:2], F)
    h0, c0 = n.input("h0", names[2], H), n.input("c0", names[2] and "d", H)
    y = x if time_first else n("Transpose", x, perm=(1, 0, 2))
    states = {"h0": n("Unsqueeze", h0, [0]), "c0": n("Unsqueeze", c0, [0])}
    y, h, c = n.cell("LSTM", y, F, H, **states)
    n("Squeeze", y, [1], out="y")
    n("Squeeze", h, [0], out="hn")
    n("Squeeze", c, [0], out="cn")
    model = n.output("y").output("hn").output("cn").model()
    assert model.layout.states == {"h0": "hn", "c0": "cn"}
    assert model.layout.free_batch
    frames = noise(7, 3, F)
    stream = model.stream(3)
    stream.state["h0"], stream.state["c0"] = noise(3, H, seed=1), noise(3, H, seed=2)
    feeds = {"x": frames if time_first else frames.swapaxes(0, 1), "h0": noise(3, H, seed=1), "c0": noise(3, H, seed=2)}
    want = n.evaluate(feeds)
    got = np.stack([stream.step(frame) for frame in frames])
    np.testing.assert_allclose(got, want["y"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(stream.state["c0"], want["cn"], rtol=1e-5, atol=1e-5)


def test_names_that_go_through_stay(net: Any) -> None:
    n = net()
    y = n.layer("GRU", n.input("x", "T", "B", F), F, H)
    n("Add", y, n.input("offset", "K"), out="y")
    model = n.output("y").model()
    assert [port.shape for port in model.inputs] == [("T", "B", F), ("K",)]
