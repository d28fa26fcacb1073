"""Write accuracy.md: how far the kernels are from the float64 definitions, on this machine's instruction sets.

Run ``python docs/make_accuracy.py``. Errors are the largest absolute differences; where a value is
above 1 they are relative.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from gatestep.kernels import pack, reference

from gatestep import kernels

Array = np.ndarray[Any, Any]

_HERE = Path(__file__).resolve().parent
_DTYPES = ("float32", "float64")
_STEPS = 1000
#: Name in reference.py: position in abi.h's enumeration, alpha, beta, lowest and highest x.
_ACTIVATIONS: dict[str, tuple[str, float, float, float, float]] = {
    "Sigmoid": ("SIGMOID", 0, 0, -100, 100),
    "Tanh": ("TANH", 0, 0, -100, 100),
    "Affine": ("AFFINE", 0.5, 0.25, -100, 100),
    "LeakyRelu": ("LEAKY_RELU", 0.01, 0, -100, 100),
    "ScaledTanh": ("SCALED_TANH", 1.7159, 0.6667, -100, 100),
    "HardSigmoid": ("HARD_SIGMOID", 0.2, 0.5, -100, 100),
    "Elu": ("ELU", 1, 0, -100, 100),
    "Softsign": ("SOFTSIGN", 0, 0, -100, 100),
    "Softplus": ("SOFTPLUS", 0, 0, -100, 100),
    "Selu": ("SELU", 1.6732632, 1.050701, -100, 100),
    "HardSwish": ("HARD_SWISH", 0, 0, -100, 100),
    "Gelu": ("GELU", 0, 0, -100, 100),
    "GeluTanh": ("GELU_TANH", 0, 0, -100, 100),
    "Exp": ("EXP", 0, 0, -80, 80),
    "Log": ("LOG", 0, 0, 1e-30, 100),
    "Sqrt": ("SQRT", 0, 0, 0, 100),
    "Reciprocal": ("RECIPROCAL", 0, 0, 0.01, 100),
    "Erf": ("ERF", 0, 0, -100, 100),
}


class _Args(ctypes.Structure):
    _fields_ = (("p", ctypes.c_void_p * 12), ("n", ctypes.c_ssize_t * 24), ("f", ctypes.c_double * 8))


def _call(address: int, p: dict[int, Array], n: Iterable[int], f: Iterable[float]) -> None:
    args = _Args()
    for slot, array in p.items():
        args.p[slot] = array.ctypes.data
    for slot, size in enumerate(n):
        args.n[slot] = size
    for slot, scalar in enumerate(f):
        args.f[slot] = scalar
    status = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(address)(ctypes.addressof(args))
    if status:
        raise RuntimeError(f"status {status}")


def _activation_kind(name: str) -> int:
    """The value of GS_ACT_<name>: the enumeration counts from 0 in the order of abi.h."""
    header = (_HERE.parent / "kernels" / "abi.h").read_text()
    body = header[header.index("GS_ACT_IDENTITY") : header.index("GS_ACT_COUNT")]
    names = [word.strip(",") for word in body.split() if word.startswith("GS_ACT_")]
    return names.index(f"GS_ACT_{name}")


def activation_error(name: str, dtype: Any, isa: str) -> float:
    """Through a dense layer of one input, weight 1 and no bias, whose sum is x itself."""
    kind, alpha, beta, low, high = _ACTIVATIONS[name]
    x = np.concatenate([np.linspace(low, high, 1_000_001), np.linspace(max(low, -8), min(high, 8), 1_000_001)])
    x = x.astype(dtype)
    y = np.empty(x.size, dtype)
    packed = pack.pack_linear(np.ones((1, 1)), None, dtype)
    address = kernels.kernel_set("cython", dtype, isa).address("linear", (), ())
    _call(address, {0: x, 1: packed, 4: y}, [x.size, 1, 1, 1, 1, _activation_kind(kind)], [alpha, beta])
    expected = reference.activation(name, alpha, beta)(x)
    return float((np.abs(y - expected) / np.maximum(1, np.abs(expected))).max())


def cell_error(cell: str, steps: int, dtype: Any, isa: str) -> float:
    """The worst of ten layers 40 to 64 after `steps` steps on unit noise, with weights as PyTorch draws them."""
    inputs, hidden, worst = 40, 64, 0.0
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[cell]
    kinds = [
        _activation_kind(k)
        for k in {"lstm": ("SIGMOID", "TANH", "TANH"), "gru": ("SIGMOID", "TANH")}.get(cell, ("TANH",))
    ]
    define: Callable[..., Any] = getattr(reference, cell)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        shapes = (gates * hidden, inputs), (gates * hidden, hidden), (gates * hidden,), (gates * hidden,)
        w, r, b_ih, b_hh = (rng.uniform(-1, 1, shape).astype(dtype) / dtype(np.sqrt(hidden)) for shape in shapes)
        x = rng.standard_normal((steps, 1, inputs)).astype(dtype)
        y, h, c = np.empty((steps, 1, hidden), dtype), np.zeros(hidden, dtype), np.zeros(hidden, dtype)
        if cell == "gru":
            packed = pack.pack_gru(w, r, b_ih, b_hh, dtype)
        else:
            packed = (pack.pack_lstm if cell == "lstm" else pack.pack_rnn)(w, r, b_ih.astype(float) + b_hh, dtype)
        n = [steps, 1, inputs, hidden, hidden, inputs, inputs, hidden, hidden, 0, 0, 0, *kinds]
        address = kernels.kernel_set("cython", dtype, isa).address(cell, (), ())
        _call(address, {0: x, 1: packed, 2: h, 3: c, 4: y, 5: h, 6: c}, n, [np.inf])
        worst = max(worst, float(np.abs(y - define(x, w, r, b_ih, b_hh)[0]).max()))
    return worst


def main() -> None:
    """Measure and write."""
    columns = [(isa, dtype) for dtype in _DTYPES for isa in kernels.available_isas()]
    lines = [
        "# Accuracy",
        "",
        f"Written by `docs/make_accuracy.py` on {platform.machine()}. Largest error against the float64 definitions of",
        "`kernels/reference.py`: absolute, for values above 1 relative. The float64 columns include the rounding of",
        "the definitions themselves.",
        "",
        "| | " + " | ".join(f"{dtype} {isa}" for isa, dtype in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    rows: list[tuple[str, Callable[[Any, str], float]]] = [
        (name, lambda dtype, isa, name=name: activation_error(name, dtype, isa)) for name in _ACTIVATIONS
    ]
    rows += [
        (
            f"{cell.upper()} 40→64, {steps} step{'s' * (steps > 1)}",
            lambda dtype, isa, cell=cell, steps=steps: cell_error(cell, steps, dtype, isa),
        )
        for cell in ("lstm", "gru", "rnn")
        for steps in (1, _STEPS)
    ]
    for title, measure in rows:
        errors = [measure(np.dtype(dtype).type, isa) for isa, dtype in columns]
        lines.append(f"| {title} | " + " | ".join(f"{error:.1e}" for error in errors) + " |")
    (_HERE / "accuracy.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
