"""The base of classes that are nothing but their fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

__all__ = ["Record"]

Kind = TypeVar("Kind", bound="Record")


class Record:
    """Fields that are attributes, which `__init__` takes by name: equal where these are equal, and so without a hash.

    What a dataclass is, without its decorator. That writes and compiles methods for every class, in every process that
    imports it: the classes between a file and its first frame would take longer to be made than the model.
    """

    @classmethod
    def of(cls: type[Kind], fields: Mapping[str, Any]) -> Kind:
        """One that has exactly these fields."""
        made = object.__new__(cls)
        made.__dict__.update(fields)
        return made

    def with_(self: Kind, **changes: Any) -> Kind:
        """A copy with other fields."""
        fields = self.__dict__
        assert fields.keys() >= changes.keys(), changes.keys() - fields.keys()
        return self.of({**fields, **changes})

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if type(other) is type(self) else NotImplemented

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"
