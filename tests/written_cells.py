"""Cells written out as elementary operators, in the many ways of files."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
F, H, B = 5, 7, 3


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class Writer:
    """Writes a cell with elementary operators, in a way that `rng` chooses."""

    def __init__(self, n: Any, rng: random.Random) -> None:
        self.n, self.rng = n, rng

    def either(self, op: str, a: Any, b: Any, **options: Any) -> Any:
        """A commutative operator, one way round or the other."""
        return self.n(op, *((a, b) if self.rng.random() < 0.5 else (b, a)), **options)

    def one_minus(self, z: Any) -> Any:
        return self.rng.choice(
            [
                lambda: self.n("Sub", 1.0, z),
                lambda: self.n("Add", self.n("Neg", z), np.ones(H)),
                lambda: self.n("Sub", np.ones(1), z),
            ]
        )()

    def product(self, value: Any, size: int, width: int, bias: bool) -> Any:
        """A dense layer, as MatMul or Gemm."""
        rank2 = self.rank == 2
        if rank2 and self.rng.random() < 0.5:
            transposed = self.rng.random() < 0.5
            matrix = self.n.weights(width, size) if transposed else self.n.weights(size, width)
            options = {"alpha": self.rng.choice([1.0, 0.5]), "beta": self.rng.choice([1.0, 2.0])}
            return self.n(
                "Gemm", value, matrix, *([self.n.weights(width)] if bias else []), transB=transposed, **options
            )
        out = self.n("MatMul", value, self.n.weights(size, width))
        return (
            self.either("Add", out, self.n.weights(*self.rng.choice([(width,), (1, width)])[-self.rank :]))
            if bias
            else out
        )

    def cut(self, value: Any, count: int) -> list[Any]:
        """Pieces of H along the last axis."""
        axis = self.rng.choice([-1, self.rank - 1])
        how = self.rng.choice(["split", "equal", "slice"])
        if count == 1:
            return [value]
        if how == "slice":
            return [
                self.n("Slice", value, [k * H], [k * H + H if k + 1 < count else 2**31 - 1], [axis], [1])
                for k in range(count)
            ]
        sizes = np.full(count, H) if how == "split" else None
        return list(self.n("Split", value, sizes, out=count, axis=axis, num_outputs=count))

    def sums(self, x: Any, h: Any, letters: str, size: int = F) -> dict[str, Any]:
        """What goes into these gates: x and h through matrices, in some order, with or without biases."""
        order = self.rng.sample(letters, len(letters))
        width, biases = H * len(order), (self.rng.random() < 0.5, self.rng.random() < 0.5)
        how = self.rng.choice(["two", "concat", "by gate", "cut first"])
        if how == "by gate":
            each = [
                self.either("Add", self.product(x, size, H, biases[0]), self.product(h, H, H, biases[1])) for _ in order
            ]
            return dict(zip(order, each, strict=True))
        if how == "concat":
            parts = [(x, size), (h, H)]
            self.rng.shuffle(parts)
            both = self.n("Concat", *(value for value, _ in parts), axis=-1)
            return dict(zip(order, self.cut(self.product(both, size + H, width, biases[0]), len(order)), strict=True))
        of_x, of_h = self.product(x, size, width, biases[0]), self.product(h, H, width, biases[1])
        if how == "two":
            return dict(zip(order, self.cut(self.either("Add", of_x, of_h), len(order)), strict=True))
        pairs = zip(self.cut(of_x, len(order)), self.cut(of_h, len(order)), strict=True)
        return dict(zip(order, (self.either("Add", *pair) for pair in pairs), strict=True))

    def lstm(self, x: Any, h: Any, c: Any, size: int = F) -> tuple[Any, Any]:
        sums = self.sums(x, h, "ifco", size)
        i, f, o = (self.n("Sigmoid", sums[k]) for k in "ifo")
        c = self.either("Add", self.either("Mul", f, c), self.either("Mul", i, self.n("Tanh", sums["c"])))
        return self.either("Mul", o, self.n("Tanh", c)), c

    def gru(self, x: Any, h: Any, *, before: bool) -> Any:
        if before:
            sums = self.sums(x, h, "rz")
            r = self.n("Sigmoid", sums["r"])
            n = self.n("Tanh", self.sums(x, self.either("Mul", r, h), "h")["h"])
        else:
            order = self.rng.sample("rzh", 3)
            biases = (self.rng.random() < 0.5, self.rng.random() < 0.5)
            of_x, of_h = (
                dict(zip(order, self.cut(self.product(value, width, 3 * H, bias), 3), strict=True))
                for value, width, bias in ((x, F, biases[0]), (h, H, biases[1]))
            )
            sums = {k: self.either("Add", of_x[k], of_h[k]) for k in "rz"}
            r = self.n("Sigmoid", sums["r"])
            n = self.n("Tanh", self.either("Add", of_x["h"], self.either("Mul", r, of_h["h"])))
        z = self.n("Sigmoid", sums["z"])
        kept, new = (h, n) if self.rng.random() < 0.7 else (n, h)  # or 1 - z for z
        forms = [
            lambda: self.either("Add", self.either("Mul", self.one_minus(z), new), self.either("Mul", z, kept)),
            lambda: self.either("Add", new, self.either("Mul", z, self.n("Sub", kept, new))),
            lambda: self.n("Sub", new, self.either("Mul", z, self.n("Sub", new, kept))),
            lambda: self.n("Sub", kept, self.either("Mul", self.one_minus(z), self.n("Sub", kept, new))),
            lambda: self.either("Add", self.n("Sub", new, self.either("Mul", z, new)), self.either("Mul", kept, z)),
        ]
        return self.rng.choice(forms)()

    def step(self, kind: str, shape: tuple[Any, ...]) -> dict[str, str]:
        """A model of one step, with its states as inputs and outputs; returns them."""
        n, self.rank = self.n, len(shape) + 1
        x, h = n.input("x", *shape, F), n.input("h", *shape, H)
        states = {"h": "hn"}
        if kind == "LSTM":
            h, c = self.lstm(x, h, n.input("c", *shape, H))
            n("Reshape", c, [0] * self.rank, out="cn", allowzero=False)
            n.output("cn", shape=(*shape, H))
            states["c"] = "cn"
        elif kind == "RNN":
            h = n(self.rng.choice(["Tanh", "Relu", "Softsign"]), self.sums(x, h, "h")["h"])
        else:
            h = self.gru(x, h, before=kind == "GRU before")
        n("Reshape", h, [0] * self.rank, out="hn", allowzero=False)
        n("MatMul", h, n.weights(H, 2), out="y")
        n.output("hn", shape=(*shape, H)).output("y", shape=(*shape, 2))
        return states
