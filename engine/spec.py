"""What a model is, where the file holds only its weights: layers with PyTorch's names, arguments, order and defaults.

A spec is a value: it holds sizes, no weights, and computes nothing. `gatestep.load(path, spec=...)` looks up the
weights of each layer under the names that PyTorch gives them. Arguments that change nothing in inference (`dropout`,
`inplace`, `padding_idx`) are taken and ignored, as in ``module.eval()``. What PyTorch does not have is keyword-only.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Concat",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "Recurrence",
    "Recurrent",
    "Residual",
    "Sequential",
    "Shape",
    "Spec",
]

Shape = tuple[int, ...]


class Spec:
    """One layer, or a composition of layers. Specs are immutable and compare by value."""

    @property
    def prefix(self) -> str | None:
        """Where the keys of the weight file begin, for the outermost spec; None: find out."""
        return None

    @property
    def takes_ids(self) -> bool:
        """Whether it takes integer ids rather than features."""
        return False

    @property
    def width_in(self) -> int | None:
        """How many features it takes; None: any."""
        return None

    def width_out(self, width: int | None) -> int | None:
        """How many features it gives when it is given `width`; None: not known."""
        return width

    def parameters(self) -> Iterator[tuple[str, Shape]]:
        """The name and shape of each weight, as in ``module.state_dict()``."""
        return iter(())

    def children(self) -> Iterator[tuple[str, Spec]]:
        """The layers it is composed of, with the prefix of their keys."""
        return iter(())

    def __repr__(self) -> str:
        """As it would be written: required arguments by place, others where they differ from the default."""
        parts = []
        for item in dataclasses.fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value = getattr(self, item.name)
            if item.default is dataclasses.MISSING:
                parts.append(repr(value))
            elif value != item.default:
                parts.append(f"{item.name}={value!r}")
        return f"{type(self).__name__}({', '.join(parts)})"

    def _size(self, *names: str, least: int = 1) -> None:
        """Check that these arguments are integers and not less than `least`."""
        for name in names:
            value = getattr(self, name)
            try:
                number = operator.index(value)
            except TypeError:
                raise TypeError(f"{type(self).__name__}: {name} must be an integer, not {value!r}") from None
            if number < least or isinstance(value, bool):
                raise ValueError(f"{type(self).__name__}: {name} must be at least {least}, not {value!r}")
            object.__setattr__(self, name, number)

    def _flag(self, *names: str) -> None:
        """Check that these arguments are booleans: a number there is an argument in the wrong place."""
        for name in names:
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{type(self).__name__}: {name} must be True or False, not {getattr(self, name)!r}")

    def _number(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{type(self).__name__}: {name} must be a number, not {value!r}")

    def _choice(self, name: str, choices: Iterable[str]) -> None:
        if getattr(self, name) not in choices:
            raise ValueError(
                f"{type(self).__name__}: {name} must be {' or '.join(map(repr, choices))}, not {getattr(self, name)!r}"
            )


# Recurrent layers


@dataclass(frozen=True)
class Recurrence:
    """What every recurrent layer comes down to.

    Attributes
    ----------
    op : str
        ``"RNN"``, ``"LSTM"`` or ``"GRU"``.
    gates : str
        The gates in the order of the weights' rows, in the letters of `gatestep.engine.graph`.
    proj_size : int
        Size of the projected h; 0: no projection.
    activation : str
        Of a vanilla RNN: ``"Tanh"`` or ``"Relu"``.
    reset_after : bool
        Of a GRU: whether the reset gate acts on the recurrent product (PyTorch) or on h before it.
    cell : bool
        Whether the weights are named like those of a ``torch.nn.*Cell``, and states have no layer axis.
    """

    op: str
    gates: str
    input_size: int
    hidden_size: int
    num_layers: int = 1
    bias: bool = True
    directions: int = 1
    proj_size: int = 0
    activation: str = "Tanh"
    reset_after: bool = True
    cell: bool = False

    @property
    def state_size(self) -> int:
        """Size of h for one direction, which is what it gives."""
        return self.proj_size or self.hidden_size

    def suffix(self, layer: int, direction: int) -> str:
        """What follows ``weight_ih`` in the key."""
        return "" if self.cell else f"_l{layer}{'_reverse' if direction else ''}"

    def parameters(self) -> Iterator[tuple[str, Shape]]:
        """The weights, in PyTorch's order."""
        rows = len(self.gates) * self.hidden_size
        for layer in range(self.num_layers):
            width = self.state_size * self.directions if layer else self.input_size
            for direction in range(self.directions):
                suffix = self.suffix(layer, direction)
                yield f"weight_ih{suffix}", (rows, width)
                yield f"weight_hh{suffix}", (rows, self.state_size)
                if self.bias:
                    yield f"bias_ih{suffix}", (rows,)
                    yield f"bias_hh{suffix}", (rows,)
                if self.proj_size:
                    yield f"weight_hr{suffix}", (self.proj_size, self.hidden_size)


class Recurrent(Spec):
    """A layer with state: `recurrence` says which."""

    @property
    def recurrence(self) -> Recurrence:
        """The layer in the terms common to all of them."""
        raise NotImplementedError

    @property
    def batch_first(self) -> bool:
        """Whether input and output are ``(B, T, features)``."""
        return False

    @property
    def width_in(self) -> int:
        """How many features it takes."""
        return self.recurrence.input_size

    def width_out(self, width: int | None) -> int:
        """Its state size, for each direction."""
        return self.recurrence.state_size * self.recurrence.directions

    def parameters(self) -> Iterator[tuple[str, Shape]]:
        """The name and shape of each weight."""
        return self.recurrence.parameters()


_NONLINEARITIES = {"tanh": "Tanh", "relu": "Relu"}


@dataclass(frozen=True, repr=False)
class RNN(Recurrent):
    """Vanilla RNN: ``h' = act(W_ih x + b_ih + W_hh h + b_hh)``, in one or more layers.

    Alone (not in a `Sequential`) a recurrent layer is called as in PyTorch: `input`, and, where wanted, `h0` (for an
    LSTM `c0` too) of shape ``(num_layers * directions, B, hidden_size)``, give `output` and `hn` (and `cn`).

    Parameters
    ----------
    input_size, hidden_size, num_layers : int
    nonlinearity : {"tanh", "relu"}
    bias : bool
        Whether there are biases.
    batch_first : bool
        Whether input and output are ``(B, T, features)`` rather than ``(T, B, features)``. States never are.
    dropout : float
        Ignored: dropout is for training.
    bidirectional : bool
    prefix : str, optional
        Where the keys begin in the file, such as ``"encoder."``; only for the outermost spec. With a prefix, weights
        outside it are left alone. Without, the prefix is found, and weights left over are an error.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong type, or out of range.
    """

    input_size: int
    hidden_size: int
    num_layers: int = 1
    nonlinearity: str = "tanh"
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False
    prefix: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self._size("input_size", "hidden_size", "num_layers")
        self._flag("bias", "batch_first", "bidirectional")
        self._number("dropout")
        self._choice("nonlinearity", _NONLINEARITIES)

    @property
    def recurrence(self) -> Recurrence:
        """The layer in the terms common to all of them."""
        return Recurrence(
            "RNN",
            "h",
            self.input_size,
            self.hidden_size,
            self.num_layers,
            self.bias,
            1 + self.bidirectional,
            activation=_NONLINEARITIES[self.nonlinearity],
        )


@dataclass(frozen=True, repr=False)
class LSTM(Recurrent):
    """Long short-term memory, gates i, f, g, o; with `proj_size`, ``h = W_hr (o * tanh(c))``.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, prefix
        As for `RNN`.
    proj_size : int
        Size of the projected h, less than `hidden_size`; 0: no projection.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong type, or out of range.
    """

    input_size: int
    hidden_size: int
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False
    proj_size: int = 0
    prefix: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self._size("input_size", "hidden_size", "num_layers")
        self._size("proj_size", least=0)
        self._flag("bias", "batch_first", "bidirectional")
        self._number("dropout")
        if self.proj_size >= self.hidden_size:
            raise ValueError(f"LSTM: proj_size {self.proj_size} must be less than hidden_size {self.hidden_size}")

    @property
    def recurrence(self) -> Recurrence:
        """The layer in the terms common to all of them."""
        return Recurrence(
            "LSTM",
            "ifco",
            self.input_size,
            self.hidden_size,
            self.num_layers,
            self.bias,
            1 + self.bidirectional,
            self.proj_size,
        )


@dataclass(frozen=True, repr=False)
class GRU(Recurrent):
    """Gated recurrent unit, gates r, z, n.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, prefix
        As for `RNN`.
    reset_after : bool
        True is PyTorch's: ``n = tanh(W x + b + r * (R h + b'))``; False is the original paper's:
        ``n = tanh(W x + b + R (r * h) + b')``.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong type, or out of range.
    """

    input_size: int
    hidden_size: int
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False
    reset_after: bool = field(default=True, kw_only=True)
    prefix: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self._size("input_size", "hidden_size", "num_layers")
        self._flag("bias", "batch_first", "bidirectional", "reset_after")
        self._number("dropout")

    @property
    def recurrence(self) -> Recurrence:
        """The layer in the terms common to all of them."""
        return Recurrence(
            "GRU",
            "rzh",
            self.input_size,
            self.hidden_size,
            self.num_layers,
            self.bias,
            1 + self.bidirectional,
            reset_after=self.reset_after,
        )


@dataclass(frozen=True, repr=False)
class RNNCell(Recurrent):
    """The weights of ``torch.nn.RNNCell``, run over time like an `RNN` of one layer.

    Alone it takes `input` ``(T, B, input_size)`` and, where wanted, `h0` ``(B, hidden_size)``, and gives `output` and
    `hn`; in a batch-first `Sequential` it follows the others.

    Parameters
    ----------
    input_size, hidden_size : int
    bias : bool
    nonlinearity : {"tanh", "relu"}
    prefix : str, optional
        As for `RNN`.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong type, or out of range.
    """

    input_size: int
    hidden_size: int
    bias: bool = True
    nonlinearity: str = "tanh"
    prefix: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self._size("input_size", "hidden_size")
        self._flag("bias")
        self._choice("nonlinearity", _NONLINEARITIES)

    @property
    def recurrence(self) -> Recurrence:
        """The layer in the terms common to all of them."""
        activation = _NONLINEARITIES[self.nonlinearity]
        return Recurrence(
            "RNN", "h", self.input_size, self.hidden_size, bias=self.bias, activation=activation, cell=True
        )


@dataclass(frozen=True, repr=False)
class LSTMCell(Recurrent):
    """The weights of ``torch.nn.LSTMCell``, run over time like an `LSTM` of one layer; see `RNNCell`."""

    input_size: int
    hidden_size: int
    bias: bool = True
    prefix: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self._size("input_size", "hidden_size")
        self._flag("bias")

    @property
    def recurrence(self) -> Recurrence:
        """The layer in the terms common to all of them."""
        return Recurrence("LSTM", "ifco", self.input_size, self.hidden_size, bias=self.bias, cell=True)


@dataclass(frozen=True, repr=False)
class GRUCell(Recurrent):
    """The weights of ``torch.nn.GRUCell``, run over time like a `GRU` of one layer; see `RNNCell`."""

    input_size: int
    hidden_size: int
    bias: bool = True
    reset_after: bool = field(default=True, kw_only=True)
    prefix: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self._size("input_size", "hidden_size")
        self._flag("bias", "reset_after")

    @property
    def recurrence(self) -> Recurrence:
        """The layer in the terms common to all of them."""
        return Recurrence(
            "GRU",
            "rzh",
            self.input_size,
            self.hidden_size,
            bias=self.bias,
            reset_after=self.reset_after,
            cell=True,
        )


# Compositions


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
        for name, layer in self.layers:
            what = f"{name!r} {type(layer).__name__}"
            if before and layer.takes_ids:
                raise ValueError(f"Sequential: {what} takes ids, so it can only come first")
            _fits("Sequential", what, layer.width_in, f"{before} gives", width)
            if width is None:
                width = layer.width_in
            width, before = layer.width_out(width), what

    @property
    def takes_ids(self) -> bool:
        """Whether it takes integer ids rather than features."""
        return self.layers[0][1].takes_ids

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
        if len({branch.takes_ids for _, branch in self.branches}) > 1:
            raise ValueError("Concat: some branches take ids and some take features")
        for name, branch in self.branches:
            what = f"{name!r} {type(branch).__name__}"
            _fits("Concat", what, branch.width_in, "another branch takes", self.width_in)

    @property
    def takes_ids(self) -> bool:
        """Whether the branches take integer ids rather than features."""
        return self.branches[0][1].takes_ids

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
        if body.takes_ids:
            raise ValueError(f"Residual: {type(body).__name__} takes ids, which cannot be added to its output")
        _fits("Residual", "the body", body.width_in, "and gives", body.width_out(body.width_in))

    @property
    def width_in(self) -> int | None:
        """How many features it takes; None: any."""
        return self.body.width_in

    def children(self) -> Iterator[tuple[str, Spec]]:
        """The body."""
        yield "", self.body


def _written(named: tuple[tuple[str, Spec], ...]) -> str:
    """Layers as arguments of a composition."""
    if [name for name, _ in named] == [str(n) for n in range(len(named))]:
        return ", ".join(repr(layer) for _, layer in named)
    return "{" + ", ".join(f"{name!r}: {layer!r}" for name, layer in named) + "}"
