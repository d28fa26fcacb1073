"""Specs of the layers without state: what works on the features of each frame alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .spec import FRAMES, IDS, LAST, SAMPLES, Shape, Spec

__all__ = [
    "ELU",
    "GELU",
    "SELU",
    "Dropout",
    "Embedding",
    "Flatten",
    "Hardsigmoid",
    "Hardswish",
    "Identity",
    "Last",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Softsign",
    "Tanh",
    "Unflatten",
]


@dataclass(frozen=True, repr=False)
class Linear(Spec):
    """``y = W x + b`` on the features of every frame."""

    in_features: int
    out_features: int
    bias: bool = True

    def __post_init__(self) -> None:
        self._size("in_features", "out_features")
        self._flag("bias")

    @property
    def width_in(self) -> int:
        """How many features it takes."""
        return self.in_features

    def width_out(self, width: int | None) -> int:
        """How many features it gives."""
        return self.out_features

    def parameters(self) -> Iterator[tuple[str, Shape]]:
        """The name and shape of each weight."""
        yield "weight", (self.out_features, self.in_features)
        if self.bias:
            yield "bias", (self.out_features,)


@dataclass(frozen=True, repr=False)
class Embedding(Spec):
    """A row of the weight for each integer id. It comes first: the input is then int64 ids ``(T, B)``, no features."""

    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None = None

    def __post_init__(self) -> None:
        self._size("num_embeddings", "embedding_dim")
        if self.padding_idx is not None:
            self._size("padding_idx", least=-self.num_embeddings)

    @property
    def takes(self) -> str:
        """Ids."""
        return IDS

    def gives(self, form: str) -> str:
        """Frames for ids."""
        if form != IDS:
            raise ValueError("Embedding takes ids, so it can only come first")
        return FRAMES

    def width_out(self, width: int | None) -> int:
        """How many features it gives."""
        return self.embedding_dim

    def parameters(self) -> Iterator[tuple[str, Shape]]:
        """The name and shape of each weight."""
        yield "weight", (self.num_embeddings, self.embedding_dim)


@dataclass(frozen=True, repr=False)
class LayerNorm(Spec):
    """Normalisation over the features of every frame.

    Parameters
    ----------
    normalized_shape : int
        The number of features. A tuple or list of one is taken too; normalising over more axes would mix frames.
    eps : float
    elementwise_affine, bias : bool
        Whether there are weights, and among them a bias.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong type, or out of range.
    """

    normalized_shape: int
    eps: float = 1e-5
    elementwise_affine: bool = True
    bias: bool = True

    def __post_init__(self) -> None:
        shape: object = self.normalized_shape
        if isinstance(shape, (tuple, list)):
            if len(shape) != 1:
                raise ValueError(f"LayerNorm: normalized_shape must be the number of features, not {shape!r}")
            object.__setattr__(self, "normalized_shape", shape[0])
        self._size("normalized_shape")
        self._number("eps")
        self._flag("elementwise_affine", "bias")

    @property
    def width_in(self) -> int:
        """How many features it takes."""
        return self.normalized_shape

    def parameters(self) -> Iterator[tuple[str, Shape]]:
        """The name and shape of each weight."""
        if self.elementwise_affine:
            yield "weight", (self.normalized_shape,)
            if self.bias:
                yield "bias", (self.normalized_shape,)


@dataclass(frozen=True, repr=False)
class ReLU(Spec):
    """``max(x, 0)``."""

    inplace: bool = False


@dataclass(frozen=True, repr=False)
class Tanh(Spec):
    """``tanh(x)``."""


@dataclass(frozen=True, repr=False)
class Sigmoid(Spec):
    """``1 / (1 + exp(-x))``."""


@dataclass(frozen=True, repr=False)
class LeakyReLU(Spec):
    """``x`` where positive, else ``negative_slope * x``."""

    negative_slope: float = 0.01
    inplace: bool = False

    def __post_init__(self) -> None:
        self._number("negative_slope")


@dataclass(frozen=True, repr=False)
class ELU(Spec):
    """``x`` where positive, else ``alpha * (exp(x) - 1)``."""

    alpha: float = 1.0
    inplace: bool = False

    def __post_init__(self) -> None:
        self._number("alpha")


@dataclass(frozen=True, repr=False)
class SELU(Spec):
    """Scaled ELU, with the constants of self-normalising networks."""

    inplace: bool = False


@dataclass(frozen=True, repr=False)
class GELU(Spec):
    """``x * Phi(x)``, exact, or with `approximate` ``"tanh"``."""

    approximate: str = "none"

    def __post_init__(self) -> None:
        self._choice("approximate", ("none", "tanh"))


@dataclass(frozen=True, repr=False)
class SiLU(Spec):
    """``x * sigmoid(x)``, also called swish."""

    inplace: bool = False


@dataclass(frozen=True, repr=False)
class Softplus(Spec):
    """``log(1 + exp(beta * x)) / beta``.

    PyTorch goes over to ``x`` where ``beta * x`` is above `threshold`. At 20 the two differ by 2e-9, so nothing is lost
    by never doing so; a lower threshold is refused.
    """

    beta: float = 1.0
    threshold: float = 20.0

    def __post_init__(self) -> None:
        self._number("beta", "threshold")
        if self.beta == 0:
            raise ValueError("Softplus: beta must not be 0")
        if self.threshold < 20:
            raise ValueError(f"Softplus: threshold must be at least 20, not {self.threshold!r}")


@dataclass(frozen=True, repr=False)
class Softsign(Spec):
    """``x / (1 + |x|)``."""


@dataclass(frozen=True, repr=False)
class Hardsigmoid(Spec):
    """``clip(x / 6 + 1/2, 0, 1)``."""

    inplace: bool = False


@dataclass(frozen=True, repr=False)
class Hardswish(Spec):
    """``x * clip(x / 6 + 1/2, 0, 1)``."""

    inplace: bool = False


@dataclass(frozen=True, repr=False)
class Softmax(Spec):
    """``exp(x) / sum(exp(x))`` over the features.

    Parameters
    ----------
    dim : int
        -1 (or 2, the same for ``(T, B, features)``). PyTorch's default, None, is the first axis for such input: time or
        batch, which nobody means, so it has to be said.

    Raises
    ------
    ValueError
        Another axis.
    """

    dim: int | None = None

    def __post_init__(self) -> None:
        if self.dim not in (-1, 2):
            raise ValueError(f"{type(self).__name__}: dim must be -1, the features, not {self.dim!r}")


@dataclass(frozen=True, repr=False)
class LogSoftmax(Softmax):
    """The logarithm of `Softmax`; `dim` as there."""


@dataclass(frozen=True, repr=False)
class Identity(Spec):
    """``x``."""


@dataclass(frozen=True, repr=False)
class Dropout(Spec):
    """``x``: dropout is for training. It is here to keep the numbering of a `Sequential`."""

    p: float = 0.5
    inplace: bool = False

    def __post_init__(self) -> None:
        self._number("p")


# Axes


@dataclass(frozen=True, repr=False)
class Last(Spec):
    """The last step of a recording, ``(B, F)`` for ``(T, B, F)``; in a stream, every step is the last one so far.

    PyTorch has no module for it: there it is ``output[-1]``, or ``output[:, -1]`` if batch-first. For a bidirectional
    layer that is what it gives at the last step, whose backward half has seen one frame.
    """

    def gives(self, form: str) -> str:
        """The last step for frames."""
        if form != FRAMES:
            raise ValueError(f"Last takes features over time, not {form}")
        return LAST


@dataclass(frozen=True, repr=False)
class Unflatten(Spec):
    """Numbers become frames of one feature: ``(T, B, 1)`` for ``(T, B)``. It comes first.

    Parameters
    ----------
    dim, unflattened_size
        1 and ``(-1, 1)``, the only form taken: PyTorch's way of putting a feature axis at the end.

    Raises
    ------
    ValueError
        Another form.
    """

    dim: int
    unflattened_size: tuple[int, ...]

    def __post_init__(self) -> None:
        size: object = self.unflattened_size
        if isinstance(size, list):
            object.__setattr__(self, "unflattened_size", tuple(size))
        if self.dim not in (1, -1) or self.unflattened_size != (-1, 1):
            raise ValueError(
                f"Unflatten: only Unflatten(1, (-1, 1)), not Unflatten({self.dim!r}, {self.unflattened_size!r})"
            )

    @property
    def takes(self) -> str:
        """Samples."""
        return SAMPLES

    def gives(self, form: str) -> str:
        """Frames for samples."""
        if form != SAMPLES:
            raise ValueError("Unflatten takes numbers without a feature axis, so it can only come first")
        return FRAMES

    def width_out(self, width: int | None) -> int:
        """One feature."""
        return 1


@dataclass(frozen=True, repr=False)
class Flatten(Spec):
    """Frames of one feature become numbers: ``(T, B)`` for ``(T, B, 1)``. It comes last.

    Parameters
    ----------
    start_dim, end_dim : int
        1 and -1, PyTorch's defaults. With more than one feature that would mix time with features: it is refused.

    Raises
    ------
    ValueError
        Another axis.
    """

    start_dim: int = 1
    end_dim: int = -1

    def __post_init__(self) -> None:
        if self.start_dim not in (1, -2) or self.end_dim not in (-1, 2):
            raise ValueError(
                f"Flatten: only Flatten(1, -1), away with one feature, not {self.start_dim!r}, {self.end_dim!r}"
            )

    @property
    def width_in(self) -> int:
        """One feature."""
        return 1

    def gives(self, form: str) -> str:
        """Samples for frames."""
        if form != FRAMES:
            raise ValueError(f"Flatten takes features over time, not {form}")
        return SAMPLES
