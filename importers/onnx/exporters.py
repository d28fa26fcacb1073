"""Files that compute something else than the model they were made from: what gives them away, what mends them.

What is known here rests on public reports and on files made with the exporters at fault. Such a file is sound as ONNX,
so nothing else would ever say that its numbers are wrong.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from ...engine.errors import ModelWarning
from .forms import Call, Translation

__all__ = ["FIXES", "chosen", "refuse_lost_projection", "resets_after", "warn"]

#: What `load(..., fix=...)` can be, and what each does.
FIXES = {
    "torch-gru": "GRU nodes reset after the product, as PyTorch's do (linear_before_reset=1)",
    "dequantize": "quantised operators run in floating point on the dequantised weights, so that they stream",
}


def chosen(fix: str | Sequence[str]) -> frozenset[str]:
    """The fixes asked for, each held against those there are."""
    names = [fix] if isinstance(fix, str) else list(fix)
    for name in names:
        if name not in FIXES:
            known = "; ".join(f"{name!r}: {what}" for name, what in FIXES.items())
            raise ValueError(f"fix={name!r} is not known. There are {known}")
    return frozenset(names)


def resets_after(call: Call) -> bool:
    """Whether a GRU resets after the product.

    PyTorch knows no other GRU, but onnxscript up to 0.6.2, which writes what ``torch.onnx.export(dynamo=True)`` gives,
    left the attribute out: the file says 0 where the model means 1.
    """
    if call.attrs["linear_before_reset"] or "torch-gru" in call.translation.fixes:
        return True
    if call.translation.file.producer == "pytorch" or "aten.gru" in call.node.traced:
        call.translation.doubted.append(call.node.label)
    return False


def warn(translation: Translation) -> None:
    """Say which nodes are doubted, once per file."""
    if not translation.doubted:
        return
    first, *more = translation.doubted
    others = f" (and {len(more)} more)" if more else ""
    warnings.warn(
        f"{translation.file.source}: {first}{others}: linear_before_reset=0 in a file from PyTorch, whose GRUs all "
        "compute with 1. PyTorch's exporter with onnxscript 0.6.2 or older writes such files, with wrong numbers in "
        "every runtime. Load it with fix='torch-gru', or export it anew with a newer onnxscript",
        ModelWarning,
        stacklevel=5,  # load's caller
    )


def refuse_lost_projection(call: Call, hidden: int, c0: str) -> None:
    """Refuse an LSTM whose projection an exporter left out.

    PyTorch's dynamo exporter takes the size of the projection for the hidden size, drops ``weight_hr`` and cuts the
    gates out of the other weights by the wrong size; what is left cannot be mended. c0 keeps its true size.
    """
    shape = call.translation.shape(c0)
    size = shape[2] if shape is not None and len(shape) == 3 else None
    torch = call.translation.file.producer == "pytorch" or "aten.lstm" in call.node.traced
    if torch and ("weight_hr" in call.node.traced or (isinstance(size, int) and size != hidden)):
        raise call.unsupported(
            "is an LSTM with projection, whose weights PyTorch's dynamo exporter does not write in full",
            "hidden_size",
            hidden,
            "Load its state_dict instead, from .pt or .safetensors with spec=gatestep.nn.LSTM(..., proj_size=...)",
        )
