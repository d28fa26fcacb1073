"""What needs other frames than the present one, or another state than its own, does not stream: refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from streamed import FAR, refused, speech


@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
def test_what_runs_backwards(net: Any, direction: str) -> None:
    n, x = speech(net)
    n("Tanh", n.cell("LSTM", x, 4, 3, direction=direction, name="enc")[0], out="y")
    refused(n.output("y"), f"LSTM 'enc': does not stream: it runs backwards in time .direction={direction}")


ALONG: dict[str, tuple[Callable[[Any, str], str], str]] = {
    "softmax": (lambda n, y: n("Softmax", y, axis=0), "Softmax '.*': does not stream: it normalises over the frames"),
    "layer norm": (lambda n, y: n("LayerNormalization", y, n.weights(3), axis=0), "LayerNormalization '.*normalises"),
    "delay": (lambda n, y: n("Concat", n("Mul", n("Slice", y, [0], [1], [0]), 0.0), y, axis=0), "(Slice|Concat) '"),
    "first": (lambda n, y: n("Gather", y, np.array(0)), "Gather '.*takes part of the frames"),
    "last two": (lambda n, y: n("Slice", y, [-2], [FAR], [0]), "Slice '.*takes part of the frames"),
    "at most 1000": (lambda n, y: n("Slice", y, [0], [1000], [0]), "Slice '.*takes part of the frames"),
    "backwards": (lambda n, y: n("Slice", y, [-1], [-FAR], [0], [-1]), "Slice '.*takes part of the frames"),
    "twice": (lambda n, y: n("Tile", y, [2, 1, 1]), "Tile '.*repeats the frames"),
    "attention": (
        lambda n, y: n("MatMul", n("Transpose", y, perm=(1, 0, 2)), n("Transpose", y, perm=(1, 2, 0))),
        "MatMul '.*along more than one axis",
    ),
    "folded": (lambda n, y: n("Reshape", n("Transpose", y, perm=(1, 0, 2)), [0, -1]), "Reshape '.*within one axis"),
    "position": (
        lambda n, y: n(
            "Add",
            y,
            n(
                "Unsqueeze",
                n(
                    "Cast",
                    n("Range", np.array(0), n("Gather", n("Shape", y), np.array(0)), np.array(1)),
                    to=np.dtype("f4"),
                ),
                [1, 2],
            ),
        ),
        "Add '.*depends on the position of the frame",
    ),
    "count": (
        lambda n, y: n("Div", y, n("Cast", n("Gather", n("Shape", y), np.array(0)), to=np.dtype("f4"))),
        "Div '.*depends on the number of frames",
    ),
    "last ahead": (
        lambda n, y: n.layer("GRU", n("Add", y, n("Slice", y, [-1], [FAR], [0])), 3, 2),
        "GRU '.*hold what comes after",
    ),
    "other axis": (
        lambda n, y: n.layer("GRU", n("Transpose", y, perm=(1, 0, 2)), 3, 2),
        "GRU '.*(along an axis|frames for rows|along more)",
    ),
}


@pytest.mark.parametrize("kind", ALONG)
def test_what_needs_more_than_the_present_frame(net: Any, kind: str) -> None:
    make, reason = ALONG[kind]
    n, x = speech(net)
    n("Tanh", make(n, n.layer("GRU", x, 4, 3)), out="y")
    refused(n.output("y"), reason)


def test_a_decoder_that_begins_where_an_encoder_ends(net: Any) -> None:
    n, x = speech(net)
    hn = n.cell("GRU", x, 4, 3)[1]
    n.layer("GRU", x, 4, 3, h0=hn, name="decoder", out="y")
    refused(n.output("y"), "GRU 'decoder': does not stream: it begins at a state")


def test_a_state_computed_from_an_input(net: Any) -> None:
    n, x = speech(net)
    h0 = n("Tanh", n("MatMul", n.input("e", 1, "B", 2), n.weights(2, 3)))
    n.layer("GRU", x, 4, 3, h0=h0, name="decoder", out="y")
    refused(n.output("y"), "GRU 'decoder': does not stream: it begins at a state")
