"""Run a trained recurrent network on a CPU, one frame at a time.

>>> import gatestep
>>> model = gatestep.load("denoiser.onnx")
>>> stream = model.stream()
>>> for frame in source:          # frame: (257,)
...     mask = stream.step(frame)

Three nouns: a spec (`gatestep.nn`) says what a bare weight file is, a `Model` holds packed weights, a `Stream` holds
state and buffers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gatestep.engine.errors import (
    GatestepError,
    MissingExtraError,
    ModelFormatError,
    ModelWarning,
    ShapeError,
    StateError,
    UnsupportedModelError,
)

if TYPE_CHECKING:
    import onnx
    import torch

    from gatestep import nn
    from gatestep._verify import Report
    from gatestep.engine.graph import Graph, Port
    from gatestep.engine.model import Model
    from gatestep.engine.stream import Snapshot, Stream

__all__ = [
    "GatestepError",
    "MissingExtraError",
    "Model",
    "ModelFormatError",
    "ModelWarning",
    "Port",
    "ShapeError",
    "Snapshot",
    "StateError",
    "Stream",
    "UnsupportedModelError",
    "accelerate",
    "convert",
    "load",
    "nn",
    "verify",
]
__version__ = "0.1.0"


def load(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto | Mapping[str, Any] | torch.nn.Module,
    *,
    spec: nn.Spec | None = None,
    state_dict: str | None = None,
    strip_prefix: str | None = None,
    example: Any = None,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    states: Mapping[str, str] | None = None,
    bind: Mapping[str, Any] | None = None,
    shapes: Mapping[str, Sequence[int | None]] | None = None,
    fix: str | Sequence[str] = (),
    backend: str = "auto",
    dtype: Any = None,
    threads: int = 1,
    precision: str | None = None,
    max_error: float | None = None,
    data: Mapping[str, Any] | None = None,
    self_test: bool = True,
) -> Model:
    """Load a trained model.

    Parameters
    ----------
    source : path, bytes, onnx.ModelProto, mapping of weights, or torch.nn.Module
        An ONNX file; or weights: `.safetensors`, a PyTorch `.pt`/`.pth` state_dict (read without PyTorch, and without
        running anything in the file), `.npz`, JSON (`.nam`, RTNeural, Automated-GuitarAmpModelling, or a state_dict),
        Keras' `.keras` and `.h5` (a chain of layers; takes the extra "keras").
        Programs of PyTorch: `.pt2` of `torch.export` and TorchScript, read without PyTorch; and, where PyTorch is
        loaded, its live modules and exported programs.
        Or a `.gatestep` file, see `convert`. Told apart by content, not by name.
    spec : gatestep.nn.Spec, optional
        What the weights of a bare weight file belong to. A single LSTM, GRU or RNN needs none, nor does a file that
        describes its model.
    state_dict : str, optional
        Where in a PyTorch checkpoint or JSON file the weights are, if there are several: ``"model"``, ``"ema.module"``.
    strip_prefix : str, optional
        What the names of the weights begin with, ``"module."``: the others are left alone. Found by itself where the
        spec fits under one prefix only.
    example : tensor, tuple or mapping, optional
        What a live module is called with: ``x``, ``(x, (h0, c0))``, or keyword arguments. Needed where the module has
        a forward of its own; `torch.export` then runs it once. A module in training mode is taken as in evaluation.
    inputs, outputs : sequence of str, optional
        Names of values of an ONNX graph: load only the part between them.
    states : mapping of str to str, optional
        ``{"input": "output"}`` pairs that carry state by hand, where they are not found by themselves.
    bind : mapping of str to array_like, optional
        ``{"sr": 16000}``: inputs that have this value from now on. What they decide, such as which branch of an If
        runs, is decided once, and the model has them no longer as inputs.
    shapes : mapping of str to sequence of (int or None), optional
        ``{"input": (1, 576)}``: sizes of inputs that the file leaves free, None for what stays free. What a file leaves
        free that is neither time nor batch must be said for a stream.
    fix : str or sequence of str, optional
        What to mend of an ONNX file that is known to be wrong; loading one warns with a `ModelWarning` that names the
        fix. ``"torch-gru"``: GRUs that PyTorch exported with ``linear_before_reset=0`` compute with 1.
        ``"dequantize"``: quantised operators run in floating point, on the weights that their integers stand for. What
        mixes frames only by a scale over the whole recording (`DynamicQuantizeLSTM`) then streams.
    backend : {"auto", "cython", "numba"}
        Who compiled the kernels. "auto" is "cython"; "numba" needs the extra of that name.
    dtype : {"float32", "float64"}, optional
        The arithmetic: float32 unless asked for. Ports keep the file's types (with "float64", floating ones are
        float64).
    threads : int
        How many threads may share the work of a call, from 1 to 64; no more are used than the process may have
        processors, by its affinity and by the quota of its container. Results are the same to the bit. Small layers
        stay on one thread, where a second would make them slower. What threads share is the rows of a batch, the
        directions of a bidirectional layer, and large layers. One call of the process at a time has the other threads;
        a call beside it runs on its own thread.
    precision : {"float32", "w16", "w8", "w8a8", "bfloat16", "auto"}, optional
        What the weights of LSTM, GRU, RNN and dense layers are kept as: whole numbers of 16 or 8 bits with a scale for
        each output, or bfloat16. "w8a8" has what they are multiplied by in 8 bits, too. Smaller weights are read
        faster; what it costs in accuracy is in docs/precision.md, and on your data in `verify`. Everything else stays
        float32. "auto" takes the fastest that keeps `max_error`.
    max_error : float, optional
        For "auto": how far any element of an output may be from what float32 gives, over the largest magnitude of that
        output or 1, whichever is more.
    data : mapping of str to array, optional
        For "auto": inputs of your own to measure on, in the file's shapes; random and extreme ones otherwise.
    self_test : bool
        Hold a `.gatestep` file to the results that are stored in it.

    Returns
    -------
    Model

    Raises
    ------
    UnsupportedModelError
        The file asks for something that gatestep does not do: says which node, attribute and value.
    ModelFormatError
        The file is damaged, or of another kind.
    MissingExtraError
        It takes a package that is not installed; names the extra.
    OSError
        The file cannot be opened.
    """
    import numpy as np

    from gatestep.engine.model import Model
    from gatestep.engine.threads import checked
    from gatestep.importers.kinds import is_container

    real = np.dtype("float32" if dtype is None else dtype)
    if real not in (np.float32, np.float64):
        raise ValueError(f"dtype={dtype!r} is not float32 or float64")
    if backend not in ("auto", "cython", "numba"):
        raise ValueError(f"backend={backend!r} is not 'auto', 'cython' or 'numba'")
    kernels = "cython" if backend == "auto" else backend
    checked(threads, kernels)
    if (precision == "auto") != (max_error is not None):
        raise ValueError("precision='auto' and max_error= go together: the fastest precision that keeps the error")
    if max_error is not None and not max_error >= 0:
        raise ValueError(f"max_error={max_error!r} is not a number from 0 on")
    if data is not None and precision != "auto":
        raise ValueError("data= is what precision='auto' measures on")
    if is_container(source):
        given: dict[str, Any] = {
            "spec": spec,
            "state_dict": state_dict,
            "strip_prefix": strip_prefix,
            "example": example,
            "inputs": inputs,
            "outputs": outputs,
            "fix": fix or None,
        }
        given |= {"states": states, "bind": bind, "shapes": shapes, "dtype": dtype, "precision": precision}
        return _load_file(source, given, kernels, threads, self_test)
    weights = {"spec": spec, "state_dict": state_dict, "strip_prefix": strip_prefix}
    graph = _graph(source, **weights, example=example, inputs=inputs, outputs=outputs, fix=fix, bind=bind)
    settled: dict[str, Any] = {"states": states, "bind": bind, "shapes": shapes}
    tier = "float32" if precision is None or precision == "auto" else precision
    model = Model(graph, backend=kernels, dtype=real, threads=threads, precision=tier, **settled)
    if max_error is None:
        return model
    from gatestep._precision import fastest

    return fastest(model, data, max_error)


def _graph(
    source: Any,
    *,
    example: Any = None,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    fix: str | Sequence[str] = (),
    bind: Mapping[str, Any] | None = None,
    **others: Any,
) -> Graph:
    """The graph of a source, by what it holds, from the options of `load`."""
    from gatestep.importers.kinds import is_live, is_weights

    options = {name: others.get(name) for name in ("spec", "state_dict", "strip_prefix")}
    given = [f"{name}=" for name, value in options.items() if value is not None]
    live = is_live(source)
    if live and given:
        raise ValueError(f"{', '.join(given)} are for weight files; a module describes itself")
    if example is not None and not live:
        raise ValueError("example= is for live modules of PyTorch; a file describes itself")
    if (
        live
        or isinstance(source, Mapping)
        or (isinstance(source, (str, os.PathLike, bytes)) and (options["spec"] or is_weights(source)))
    ):
        if inputs is not None or outputs is not None:
            raise ValueError("inputs= and outputs= name values of an ONNX graph; this is none")
        if fix:
            raise ValueError(f"fix={fix!r} mends ONNX files; this is none")
        if live:
            from gatestep.importers.modules import read_live

            return read_live(source, example=example, bind=bind)
        from gatestep.importers.weights import read_graph

        return read_graph(source, **options, bind=bind)
    if given:
        raise ValueError(f"{', '.join(given)} are for weight files; an ONNX model describes itself")
    from gatestep.importers.onnx import read_onnx

    return read_onnx(source, inputs=inputs, outputs=outputs, fix=fix)


def _load_file(source: Any, given: Mapping[str, Any], backend: str, threads: int, self_test: bool) -> Model:
    """The model of a `.gatestep` file, in which everything but the backend and the threads is settled."""
    from gatestep._stored import load_file

    named = [f"{name}=" for name, value in given.items() if value is not None]
    if named:
        raise ValueError(f"{', '.join(named)}: a .gatestep file keeps what it was converted with; convert again")
    return load_file(source, backend=backend, threads=threads, test=self_test)


def convert(source: Any, path: str | os.PathLike[str], **options: Any) -> None:
    """Write a model as a `.gatestep` file, which loads in milliseconds and needs nothing but NumPy for it.

    Parameters
    ----------
    source : as `load` takes it
    path : path
        Where the file goes. It appears when it is complete.
    **options
        As for `load`: they are settled in the file, all but `backend` and `threads`.

    Raises
    ------
    GatestepError
        As `load`, or the model gives no result for any input.
    OSError
        The file cannot be written.

    Notes
    -----
    The file holds what was found out about the model, and a test of itself: inputs, with what this machine gave for
    them. Its layout is described in docs/format.md.
    """
    from gatestep._convert import convert as write

    write(source, path, **options)


def verify(
    source: Any,
    *,
    data: Mapping[str, Any] | None = None,
    seed: int = 0,
    trusted: bool = False,
    max_error: float | None = None,
    **options: Any,
) -> Report:
    """Hold what a model computes to what it should, and a stream of it to itself.

    Parameters
    ----------
    source : as `load` takes it
    data : mapping of str to array, optional
        Inputs of your own, in the file's shapes, beside random and extreme ones.
    seed : int
        Of the random inputs.
    trusted : bool
        Let PyTorch load the file, if it is one of PyTorch's; that may run code which is in it.
    max_error : float, optional
        For a model in another precision than float32: what may lie between the two, as `load` measures it. Without it,
        as far as the model's results move when every value is moved by half a step of the precision's whole numbers.
    **options
        As for `load`.

    Returns
    -------
    Report
        `passed`, `checks` and `skipped`; prints as a table.

    Examples
    --------
    >>> report = gatestep.verify("denoiser.onnx")
    >>> assert report.passed, report
    """
    from gatestep._verify import verify as hold

    return hold(source, data=data, seed=seed, trusted=trusted, max_error=max_error, **options)


def accelerate(module: torch.nn.Module) -> torch.nn.Module:
    """A module of PyTorch with the same call, whose recurrent layers run on the kernels of gatestep in inference.

    Every `nn.LSTM`, `nn.GRU` and `nn.RNN` in it is replaced, with all its options, packed sequences included. The rest
    stays PyTorch's. The module given is not changed; both share their parameters, so `state_dict`, `load_state_dict`
    and optimizers mean both, and what they change is seen at the next call.

    A layer runs in PyTorch, and warns once with a `ModelWarning` that says why, where gradients are required (call it
    under `torch.no_grad()` or `torch.inference_mode()`), where dropout is active, and for other devices or types than
    float32 and float64 on the CPU.

    Parameters
    ----------
    module : torch.nn.Module

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    MissingExtraError
        PyTorch is not installed.

    Notes
    -----
    Weights changed behind PyTorch's back (``weight.data.mul_(2)``, or through NumPy) are not noticed: PyTorch counts no
    version for these. Assign a new parameter, or use ``with torch.no_grad(): weight.mul_(2)``.
    """
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingExtraError("torch", "torch") from None
    from gatestep._accelerate import accelerated

    return accelerated(module)


#: Where names of the package are that are imported when they are first used: a process may need none of them.
_LATER = {
    "Model": "engine.model",
    "Port": "engine.graph",
    "Snapshot": "engine.stream",
    "Stream": "engine.stream",
    "nn": "nn",
}


def __getattr__(name: str) -> Any:
    """A name of `_LATER`."""
    if name not in _LATER:
        raise AttributeError(f"module 'gatestep' has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f"gatestep.{_LATER[name]}")
    globals()[name] = found = module if name == _LATER[name] else getattr(module, name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
