"""What a model is, where the file holds only its weights: layers with PyTorch's names, arguments, order and defaults.

A spec is a value: it holds sizes, no weights, and computes nothing. `gatestep.load(path, spec=...)` looks up the
weights of each layer under the names that PyTorch gives them. Arguments that change nothing in inference (`dropout`,
`inplace`, `padding_idx`) are taken and ignored, as in ``module.eval()``. What PyTorch does not have is keyword-only.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

__all__ = [
    "FRAMES",
    "GRU",
    "IDS",
    "LAST",
    "LSTM",
    "RNN",
    "SAMPLES",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "Recurrence",
    "Recurrent",
    "Shape",
    "Spec",
]

Shape = tuple[int, ...]

#: What goes from layer to layer: features ``(T, B, F)``, integer ids ``(T, B)``, numbers ``(T, B)``, or the features of
#: the last step alone, ``(B, F)``.
FRAMES, IDS, SAMPLES, LAST = "frames", "ids", "samples", "the last step"


class Spec:
    """One layer, or a composition of layers. Specs are immutable and compare by value."""

    @property
    def prefix(self) -> str | None:
        """Where the keys of the weight file begin, for the outermost spec; None: find out."""
        return None

    @property
    def takes(self) -> str:
        """What it takes where it comes first: `FRAMES`, `IDS` or `SAMPLES`."""
        return FRAMES

    def gives(self, form: str) -> str:
        """What it gives when it is given `form`; ValueError if it cannot be."""
        if form not in (FRAMES, LAST):
            raise ValueError(f"{type(self).__name__} takes features, not {form}")
        return form

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
    activations : tuple of (str, float, float)
        Of gates and candidates in the order of `gatestep.engine.graph`, with alpha and beta, where they are not the
        usual ones; empty: they are.
    cell : bool
        Whether the weights are named like those of a ``torch.nn.*Cell``, and states have no layer axis.
    initial : tuple of str
        The keys of the learned initial states, h and then c; empty: they are zeros.
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
    initial: tuple[str, ...] = ()
    activations: tuple[tuple[str, float, float], ...] = ()

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

    def initial_states(self) -> Iterator[tuple[str, Shape]]:
        """The key and shape of each learned initial state."""
        for key, size in zip(self.initial, (self.state_size, self.hidden_size), strict=False):
            yield key, (self.num_layers * self.directions, size)


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

    def gives(self, form: str) -> str:
        """Frames for frames."""
        if form != FRAMES:
            raise ValueError(f"{type(self).__name__} runs over time and takes features, not {form}")
        return FRAMES

    def _initial(self, *states: str) -> None:
        """Check that `initial`, if given, names a key for each of these states."""
        given: object = vars(self).get("initial")
        if given is None:
            return
        keys = (given,) if isinstance(given, str) else given
        if not isinstance(keys, (tuple, list)) or len(keys) != len(states) or not all(isinstance(k, str) for k in keys):
            wanted = " and of ".join(f"the initial {state}" for state in states)
            raise ValueError(f"{type(self).__name__}: initial must be the key of {wanted}, not {given!r}")
        object.__setattr__(self, "initial", tuple(keys))


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
    initial : str, or tuple of str, optional
        The keys of initial states that were learned: of h, for an LSTM of h and c. They are keys of the whole file
        (after its prefix, not below the layer's own name) and hold ``(num_layers * directions, size)``, the same for
        every row of a batch.
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
    initial: tuple[str, ...] | str | None = field(default=None, kw_only=True)
    prefix: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self._size("input_size", "hidden_size", "num_layers")
        self._flag("bias", "batch_first", "bidirectional")
        self._number("dropout")
        self._initial("h")
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
            initial=tuple(self.initial or ()),
        )


@dataclass(frozen=True, repr=False)
class LSTM(Recurrent):
    """Long short-term memory, gates i, f, g, o; with `proj_size`, ``h = W_hr (o * tanh(c))``.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, initial, prefix
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
    initial: tuple[str, ...] | str | None = field(default=None, kw_only=True)
    prefix: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self._size("input_size", "hidden_size", "num_layers")
        self._size("proj_size", least=0)
        self._flag("bias", "batch_first", "bidirectional")
        self._number("dropout")
        self._initial("h", "c")
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
            initial=tuple(self.initial or ()),
        )


@dataclass(frozen=True, repr=False)
class GRU(Recurrent):
    """Gated recurrent unit, gates r, z, n.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, initial, prefix
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
    initial: tuple[str, ...] | str | None = field(default=None, kw_only=True)
    prefix: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self._size("input_size", "hidden_size", "num_layers")
        self._flag("bias", "batch_first", "bidirectional", "reset_after")
        self._number("dropout")
        self._initial("h")

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
            initial=tuple(self.initial or ()),
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
