"""Write the table in precision.md: what each precision tier costs in accuracy, and gains in bytes and time, here.

Run ``make precision``. Weights are as PyTorch initialises them, inputs normal; errors are the largest differences
from the cell in float64 over all elements of all steps. Times are the least of many, of single steps of a stream.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from gatestep.kernels import PRECISIONS, isa, reference

import gatestep
from gatestep import nn

Array = np.ndarray[Any, Any]

PAGE = Path(__file__).resolve().parent / "precision.md"
BEGIN, END = "<!-- written by docs/make_precision.py -->\n", "<!-- up to here -->\n"
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
SIZES = ((8, 32), (40, 64), (128, 256), (512, 512))
STEPS = 200
#: Cell, sizes, rows, steps.
RECORDINGS = [
    (cell, inputs, hidden, rows, steps)
    for cell in ("LSTM", "GRU")
    for inputs, hidden in ((40, 64), (128, 256))
    for rows, steps in ((1, 200), (32, 100))
]
#: From the float32 that everything is compared with to the smallest.
TIERS = tuple(reversed(PRECISIONS))


def layer(cell: str, inputs: int, hidden: int, seed: int) -> dict[str, Array]:
    """Weights as PyTorch names them."""
    rng = np.random.default_rng(seed)
    rows = GATES[cell] * hidden
    shapes = {
        "weight_ih_l0": (rows, inputs),
        "weight_hh_l0": (rows, hidden),
        "bias_ih_l0": (rows,),
        "bias_hh_l0": (rows,),
    }
    limit = hidden**-0.5
    return {name: rng.uniform(-limit, limit, shape).astype(np.float32) for name, shape in shapes.items()}


def measured(cell: str, inputs: int, hidden: int, tier: str) -> tuple[float, int, float]:
    """Error after STEPS steps, bytes of packed weights, microseconds for a step."""
    held = layer(cell, inputs, hidden, 0)
    model = gatestep.load(held, spec=getattr(nn, cell)(inputs, hidden), precision=tier)
    x = np.random.default_rng(1).standard_normal((STEPS, 1, inputs)).astype(np.float32)
    want = getattr(reference, cell.lower())(x, *held.values())[0]
    error = float(np.abs(model.stream(batch=1).run(x) - want).max())
    stream = model.stream()
    frames, out = x[:, 0].copy(), np.empty(hidden, np.float32)
    best = float("inf")
    for k in range(600):
        some = frames[10 * k % STEPS :][:10]
        began = time.perf_counter()
        for frame in some:
            stream.step(frame, out)
        best = min(best, (time.perf_counter() - began) / len(some))
    return error, model.packed.nbytes, best * 1e6


def recording(cell: str, inputs: int, hidden: int, tier: str, rows: int, steps: int) -> float:
    """Milliseconds for a recording of some rows."""
    model = gatestep.load(layer(cell, inputs, hidden, 0), spec=getattr(nn, cell)(inputs, hidden), precision=tier)
    x = np.random.default_rng(1).standard_normal((steps, rows, inputs)).astype(np.float32)
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        model.run(x)
        best = min(best, time.perf_counter() - began)
    return best * 1e3


def table() -> list[str]:
    """The lines between the marks."""
    lines = [
        f"Measured on {isa}: largest error against float64 over {STEPS} steps, packed weights, time of a step.",
        "",
        "| | " + " | ".join(TIERS) + " |",
        "|---|" + "---:|" * len(TIERS),
    ]
    for cell in GATES:
        for inputs, hidden in SIZES:
            found = [measured(cell, inputs, hidden, tier) for tier in TIERS]
            cells = [f"{error:.1e}, {count / 1024:,.0f} KiB, {us:.2f} µs" for error, count, us in found]
            lines.append(f"| {cell} {inputs}→{hidden} | " + " | ".join(cells) + " |")
    lines += ["", "Recordings:", "", "| | " + " | ".join(TIERS) + " |", "|---|" + "---:|" * len(TIERS)]
    for cell, inputs, hidden, rows, steps in RECORDINGS:
        cells = [f"{recording(cell, inputs, hidden, tier, rows, steps):.2f} ms" for tier in TIERS]
        what = f"{cell} {inputs}→{hidden}, {rows} row{'s' * (rows > 1)} × {steps} steps"
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Measure, and put the table in its place."""
    before, rest = PAGE.read_text().split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(before + BEGIN + "\n".join(table()) + "\n" + END + after)


if __name__ == "__main__":
    main()
