"""What can go wrong, one class for each thing a caller would do differently."""

from __future__ import annotations

__all__ = [
    "GatestepError",
    "MissingExtraError",
    "ModelFormatError",
    "ModelWarning",
    "NeedsValue",
    "ShapeError",
    "StateError",
    "UnsupportedModelError",
]


class GatestepError(Exception):
    """Base of every error that gatestep raises on purpose."""


class ModelFormatError(GatestepError, ValueError):
    """The file is damaged, truncated, or not what its name says."""


class UnsupportedModelError(GatestepError, ValueError):
    """The file is sound, but asks for something that gatestep does not do.

    Parameters
    ----------
    reason : str
        What is unsupported, in one clause.
    source : str, optional
        File or object the model came from.
    node : str, optional
        ``"LSTM 'encoder/lstm'"``: operator and name.
    attribute, value : optional
        The attribute (or input) at fault and what it holds.
    hint : str, optional
        What the user can do about it.
    """

    def __init__(
        self,
        reason: str,
        *,
        source: str | None = None,
        node: str | None = None,
        attribute: str | None = None,
        value: object = None,
        hint: str | None = None,
    ) -> None:
        self.reason, self.source, self.node = reason, source, node
        self.attribute, self.value, self.hint = attribute, value, hint
        super().__init__(reason)

    def __str__(self) -> str:
        where = [part for part in (self.source, self.node) if part]
        if self.attribute is not None:
            where.append(f"{self.attribute}={self.value!r}" if self.value is not None else self.attribute)
        text = f"{': '.join(where)}: {self.reason}" if where else self.reason
        return f"{text}. {self.hint}" if self.hint else text


class ModelWarning(UserWarning):
    """The file loads, but is known to compute something else than the model it was made from."""


class NeedsValue(Exception):
    """A program cannot be built before the values of these model inputs are known."""

    def __init__(self, inputs: frozenset[str], error: UnsupportedModelError) -> None:
        self.inputs, self.error = inputs, error
        super().__init__(str(error))


class ShapeError(GatestepError, ValueError):
    """An array has the wrong shape, dtype or layout for the port it was given to."""


class StateError(GatestepError, RuntimeError):
    """A stream cannot do this in its present state, or the state given does not fit."""


class MissingExtraError(GatestepError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; it comes with: pip install 'gatestep[{extra}]'")
