"""What the runner of the shared cases asks of an engine.

``python ../shared/tools/run_cases.py ../shared/models/manifest.json --adapter tests/adapter.py``
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from gatestep.importers.weights import read_weights

import gatestep as gs
from gatestep import nn

__all__ = ["open_model"]

Feeds = dict[str, np.ndarray]

#: Files that say themselves what they compute.
WHOLE = ("onnx", "torch_export", "torchscript")


def open_model(entry: dict[str, Any], root: str) -> Callable[[Feeds], Feeds]:
    """The file of a case as a function of named arrays."""
    path = os.path.join(root, entry["file"])
    if entry["format"] == "onnx":
        return gs.load(path)
    if entry["format"] in WHOLE:
        return program(entry, gs.load(path))
    chosen = {"state_dict": ".".join(entry["state_key"])} if entry.get("state_key") else {}
    chosen |= {"strip_prefix": entry["strip_prefix"]} if entry.get("strip_prefix") else {}
    if "pipeline" not in entry.get("arch", {}):
        return program(entry, gs.load(path, **chosen))
    return layers(entry, gs.load(path, spec=spec_of(entry, path, chosen), **chosen))


def program(entry: dict[str, Any], model: gs.Model) -> Callable[[Feeds], Feeds]:
    """A program of PyTorch, whose ports have names of their own."""
    order = entry.get("input_order") or list(entry["inputs"])

    def call(feeds: Feeds) -> Feeds:
        arrays = [feeds[name] for name in order if name in feeds]
        inputs = {port.name: array for port, array in zip(model.inputs, arrays, strict=False)}
        return dict(zip(entry["outputs"], model(inputs).values(), strict=False))

    return call


def layers(entry: dict[str, Any], model: gs.Model) -> Callable[[Feeds], Feeds]:
    """Weights with a spec: what it computes is its first output, its states are within."""
    first, *states = entry.get("input_order") or list(entry["inputs"])
    result, *finals = entry["outputs"]
    alone = "unbatched" in entry["arch"].get("layout", "")
    time_first = not any(step.get("batch_first") for step in entry["arch"]["pipeline"])

    def call(feeds: Feeds) -> Feeds:
        x = feeds[first][:, None] if alone else feeds[first]
        if not finals and not any(name in feeds for name in states):
            y = model(x)
            y = y[0] if isinstance(y, tuple) else y
            return {result: y[:, 0] if alone else y}
        x = x if time_first else x.swapaxes(0, 1)
        stream = model.stream(x.shape[1])
        kinds = sorted({name.rpartition(".")[2] for name in stream.state}, reverse=True)  # h, then c
        for kind, name in zip(kinds, states, strict=False):
            given = iter(feeds[name][:, None] if alone else feeds[name])
            for key in stream.state:
                if key.endswith(f".{kind}"):
                    stream.state[key] = next(given)[None]
        y = stream.run(np.ascontiguousarray(x))
        made = {result: y if time_first else y.swapaxes(0, 1)}
        for kind, name in zip(kinds, finals, strict=False):
            made[name] = np.concatenate([value for key, value in stream.state.items() if key.endswith(f".{kind}")])
        return {name: array[:, 0] for name, array in made.items()} if alone else made

    return call


def spec_of(entry: dict[str, Any], path: str, chosen: dict[str, str]) -> nn.Spec:
    """The spec that `arch.pipeline` describes; sizes that it leaves out are those of the weights."""
    stored, _ = read_weights(path, state_dict=chosen.get("state_dict"))
    arrays = {name.removeprefix(chosen.get("strip_prefix", "")): array for name, array in stored.items()}
    specs: dict[str, nn.Spec] = {}
    for k, step in enumerate(entry["arch"]["pipeline"]):
        options = {key: value for key, value in step.items() if key not in ("type", "prefix")}
        learned = tuple(options.pop(key) for key in ("initial_hidden", "initial_cell") if key in options)
        options |= {"initial": learned} if learned else {}
        prefix = step.get("prefix", f"layer{k}")
        if step["type"] in ("Linear", "Embedding"):
            rows, columns = arrays[f"{prefix}.weight"].shape
            sizes = (rows, columns) if step["type"] == "Embedding" else (columns, rows)
            specs[prefix] = getattr(nn, step["type"])(*sizes)
        elif step["type"] == "LastStep":
            specs[prefix] = nn.Last()
        elif step["type"].endswith("Softmax"):
            specs[prefix] = getattr(nn, step["type"])(dim=-1)
        else:
            specs[prefix] = getattr(nn, step["type"])(**options)
    if "samples" in entry["arch"].get("layout", ""):
        specs = {"samples": nn.Unflatten(1, (-1, 1)), **specs, "flat": nn.Flatten()}
    return nn.Sequential(specs)
