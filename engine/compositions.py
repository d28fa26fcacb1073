"""Specs of layers put together: one after the other, side by side, around."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .spec import SAMPLES, Spec

__all__ = ["Concat", "Residual", "Sequential"]


def _composed(kind: str, layers: tuple[Spec | Mapping[str, Spec], ...]) -> tuple[tuple[str, Spec], ...]:
    """Layers with their names: those of the mapping given alone, or "0", "1", ... in order."""
    first = layers[0] if layers else None
    named = list(first.items()) if len(layers) == 1 and isinstance(first, Mapping) else list(enumerate(layers))
    if not named:
        raise ValueError(f"{kind}: no layers")
    checked = []
    for name, layer in named:
        if not isinstance(layer, Spec):
            raise TypeError(f"{kind}: {str(name)!r} must be a gatestep.nn layer, not {layer!r}")
        if layer.prefix is not None:
            raise ValueError(f"{kind}: {str(name)!r} has a prefix; only the outermost spec can, names say the rest")
        checked.append((str(name), layer))
    return tuple(checked)


def _gives(kind: str, name: str, layer: Spec, form: str) -> str:
    try:
        return layer.gives(form)
    except ValueError as error:
        raise ValueError(f"{kind}: {name!r} {error}") from None


def _fits(kind: str, taker: str, takes: int | None, giver: str, gives: int | None) -> None:
    if takes is not None and gives is not None and takes != gives:
        raise ValueError(f"{kind}: {taker} takes {takes} features, {giver} {gives}")


@dataclass(frozen=True, init=False, repr=False)
class Sequential(Spec):
    """Layers, one after the other.

    Parameters
    ----------
    *layers : Spec, or one mapping of str to Spec
        In a file, the weights of a layer lie under its name: ``"0."``, ``"1."``, ... as in PyTorch, or the keys of the
        mapping, dots allowed: ``Sequential({"rnn": LSTM(16, 32), "head.0": Linear(32, 5)})``.
    prefix : str, optional
        As for `RNN`.
    states : bool
        Whether the states of the recurrent layers are inputs and outputs of a whole call: `rnn.h0`, `rnn.hn`, and for
        an LSTM `rnn.c0`, `rnn.cn`, where ``"rnn"`` is the layer's name.

    Raises
    ------
    TypeError, ValueError
        What is given is no layer, or a layer does not take as many features as the one before it gives.
    """

    layers: tuple[tuple[str, Spec], ...]
    prefix: str | None = None
    states: bool = False

    def __init__(self, *layers: Spec | Mapping[str, Spec], prefix: str | None = None, states: bool = False) -> None:
        object.__setattr__(self, "layers", _composed("Sequential", layers))
        object.__setattr__(self, "prefix", prefix)
        object.__setattr__(self, "states", states)
        self._flag("states")
        width, before = None, ""
        form = self.takes
        for name, layer in self.layers:
            what = f"{name!r} {type(layer).__name__}"
            form = _gives("Sequential", name, layer, form)
            _fits("Sequential", what, layer.width_in, f"{before} gives", width)
            if width is None:
                width = layer.width_in
            width, before = layer.width_out(width), what

    @property
    def takes(self) -> str:
        """What the first layer takes."""
        return self.layers[0][1].takes

    def gives(self, form: str) -> str:
        """What the last layer gives."""
        for name, layer in self.layers:
            form = _gives("Sequential", name, layer, form)
        return form

    @property
    def width_in(self) -> int | None:
        """How many features it takes; None: any."""
        for _, layer in self.layers:
            if layer.width_in is not None:
                return layer.width_in
            if layer.width_out(1) != 1:  # no layer without a width of its own: it changes the number of features
                return None
        return None

    def width_out(self, width: int | None) -> int | None:
        """How many features it gives."""
        for _, layer in self.layers:
            width = layer.width_out(layer.width_in if layer.width_in is not None else width)
        return width

    def children(self) -> Iterator[tuple[str, Spec]]:
        """The layers, with the prefix of their keys."""
        return ((f"{name}." if name else "", layer) for name, layer in self.layers)

    def __repr__(self) -> str:
        """As it would be written."""
        more = f", prefix={self.prefix!r}" if self.prefix is not None else ""
        return f"Sequential({_written(self.layers)}{more}{', states=True' if self.states else ''})"


@dataclass(frozen=True, init=False, repr=False)
class Concat(Spec):
    """The outputs of several branches on the same input, side by side along the features.

    Parameters
    ----------
    *branches : Spec, or one mapping of str to Spec
        Named as in `Sequential`. ``Concat(Identity(), body)`` passes the input on beside the body's output.

    Raises
    ------
    TypeError, ValueError
        What is given is no layer, or the branches take different inputs.
    """

    branches: tuple[tuple[str, Spec], ...]

    def __init__(self, *branches: Spec | Mapping[str, Spec]) -> None:
        object.__setattr__(self, "branches", _composed("Concat", branches))
        if len({branch.takes for _, branch in self.branches}) > 1:
            raise ValueError("Concat: some branches take ids and some take features")
        self.gives(self.takes)
        for name, branch in self.branches:
            what = f"{name!r} {type(branch).__name__}"
            _fits("Concat", what, branch.width_in, "another branch takes", self.width_in)

    @property
    def takes(self) -> str:
        """What the branches take."""
        return self.branches[0][1].takes

    def gives(self, form: str) -> str:
        """What every branch gives."""
        forms = {_gives("Concat", name, branch, form) for name, branch in self.branches}
        if len(forms) > 1 or SAMPLES in forms:
            raise ValueError(f"Concat: the branches give {' and '.join(sorted(forms))}")
        return forms.pop()

    @property
    def width_in(self) -> int | None:
        """How many features it takes; None: any."""
        return next((b.width_in for _, b in self.branches if b.width_in is not None), None)

    def width_out(self, width: int | None) -> int | None:
        """How many features it gives."""
        width = self.width_in if self.width_in is not None else width
        total = 0
        for _, branch in self.branches:
            gives = branch.width_out(width)
            if gives is None:
                return None
            total += gives
        return total

    def children(self) -> Iterator[tuple[str, Spec]]:
        """The branches, with the prefix of their keys."""
        return ((f"{name}." if name else "", branch) for name, branch in self.branches)

    def __repr__(self) -> str:
        """As it would be written."""
        return f"Concat({_written(self.branches)})"


@dataclass(frozen=True, repr=False)
class Residual(Spec):
    """``y = x + body(x)``. It has no name of its own in the keys: the body's weights lie where the residual is.

    Parameters
    ----------
    body : Spec
        Gives as many features as it takes.

    Raises
    ------
    TypeError, ValueError
        The body is no layer, takes ids, or changes the number of features.
    """

    body: Spec

    def __post_init__(self) -> None:
        ((_, body),) = _composed("Residual", (self.body,))
        self.gives(body.takes)
        _fits("Residual", "the body", body.width_in, "and gives", body.width_out(body.width_in))

    @property
    def width_in(self) -> int | None:
        """How many features it takes; None: any."""
        return self.body.width_in

    def gives(self, form: str) -> str:
        """What it is given."""
        gives = _gives("Residual", "body", self.body, form)
        if gives != form:
            raise ValueError(f"Residual: {type(self.body).__name__} takes {form}, which cannot be added to {gives}")
        return form

    def children(self) -> Iterator[tuple[str, Spec]]:
        """The body."""
        yield "", self.body


def _written(named: tuple[tuple[str, Spec], ...]) -> str:
    """Layers as arguments of a composition."""
    if [name for name, _ in named] == [str(n) for n in range(len(named))]:
        return ", ".join(repr(layer) for _, layer in named)
    return "{" + ", ".join(f"{name!r}: {layer!r}" for name, layer in named) + "}"
