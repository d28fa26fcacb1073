"""The wire format of protocol buffers: fields of a message, from bytes that a stranger wrote.

The library of that name makes an object of two hundred bytes for each message, and an empty message takes two bytes of
a file. So the fields are read here, each against a budget: what a file costs is known before it is spent. What may be
long stays a view of the file.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

__all__ = [
    "BYTES",
    "DOUBLES",
    "FLOAT",
    "INT",
    "INT32",
    "SINGLES",
    "TEXT",
    "VARINTS",
    "VIEW",
    "Damaged",
    "Field",
    "Message",
    "TooMuch",
    "numbers",
    "read",
]

#: What a file may be made of, counted in parts of 64 bytes of memory: a number or a field that is passed over is one
#: part. A node of a usual file takes about twenty.
MAX_PARTS = 1 << 23
#: Messages within messages: as many as the library reads.
MAX_DEPTH = 100
#: Of a packed field, so many bytes are taken apart at a time.
_BLOCK = 1 << 20

#: Kinds of fields: numbers; a string; bytes, and bytes left where they are; many numbers, left where they are.
INT, INT32, FLOAT, TEXT, BYTES, VIEW, SINGLES, DOUBLES, VARINTS = range(9)
#: What one value of each kind is counted as, in this order.
_PARTS = (1, 1, 1, 2, 2, 4, 4, 4, 4)
_MESSAGE_PARTS = 5
_VARINT, _I64, _LENGTH, _I32 = 0, 1, 2, 5
#: How one of many numbers is written where it stands alone.
_ALONE = {SINGLES: _I32, DOUBLES: _I64, VARINTS: _VARINT}
_FLOAT32 = struct.Struct("<f")


class Damaged(ValueError):
    """The bytes are no such message."""


class TooMuch(ValueError):
    """The message has more parts than any file needs."""


class Field(NamedTuple):
    """A field of a message: the attribute it becomes; one of the kinds above, or the class of a message."""

    name: str
    kind: int | type[Message]
    repeated: bool = False


class Message:
    """A message, its fields as attributes; those that are not there have the default of the class.

    `FIELDS` says what there is, by number. Fields with other numbers are passed over.
    """

    FIELDS: ClassVar[dict[int, Field]] = {}

    def HasField(self, name: str) -> bool:
        """Whether the field is there."""
        return name in self.__dict__


M = TypeVar("M", bound=Message)


def read(kind: type[M], data: memoryview) -> M:
    """The message that `data` is.

    Raises
    ------
    Damaged
        The bytes are no message of this kind, or cut short.
    TooMuch
        There are more than `MAX_PARTS` parts in it.
    """
    try:
        return _Reader(data).message(kind, 0, len(data), MAX_DEPTH)
    except (IndexError, struct.error) as error:  # beyond the end of `data`
        raise Damaged("cut short") from error


class _Reader:
    def __init__(self, data: memoryview) -> None:
        self.data, self.left = data, MAX_PARTS

    def spend(self, parts: int) -> None:
        self.left -= parts
        if self.left < 0:
            raise TooMuch

    def varint(self, at: int) -> tuple[int, int]:
        """An unsigned number of up to 64 bits, and where it ends."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self.data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, at
        raise Damaged("a number of more than ten bytes")

    def message(self, kind: type[M], at: int, end: int, depth: int) -> M:
        if depth == 0:
            raise Damaged(f"messages within messages, {MAX_DEPTH} deep")
        made, data, fields = kind(), self.data, kind.FIELDS
        values = made.__dict__
        while at < end:
            self.left -= 1
            if self.left < 0:
                raise TooMuch
            tag = data[at]
            at += 1
            if tag >= 0x80:
                tag, at = self.varint(at - 1)
            wire, field = tag & 7, fields.get(tag >> 3)
            if wire == _LENGTH:
                size = data[at]
                at += 1
                if size >= 0x80:
                    size, at = self.varint(at - 1)
                start, at = at, at + size
            elif wire == _VARINT:
                start = at
                number, at = self.varint(at)
            elif wire in (_I32, _I64):
                start, at = at, at + (4 if wire == _I32 else 8)
            else:
                raise Damaged(f"a field of wire type {wire}")
            if at > end or tag < 8:
                raise Damaged("a field that does not end in its message")
            if field is None:
                continue
            name, what, repeated = field
            value: Any
            if not isinstance(what, int):
                if wire != _LENGTH:
                    raise Damaged(f"a {name} that is no message")
                self.spend(_MESSAGE_PARTS)
                value = self.message(what, start, at, depth - 1)
            else:
                self.spend(_PARTS[what])
                if what >= SINGLES:
                    if wire not in (_LENGTH, _ALONE[what]):
                        raise Damaged(f"a {name} of wire type {wire}")
                    value = data[start:at]
                elif what in (TEXT, BYTES, VIEW):
                    if wire != _LENGTH:
                        raise Damaged(f"a {name} of wire type {wire}")
                    value = data[start:at]
                    if what != VIEW:
                        self.spend((at - start) >> 5)
                        value = bytes(value) if what == BYTES else _text(value, name)
                elif wire == _LENGTH and repeated:
                    values.setdefault(name, []).extend(self.packed(data[start:at], what))
                    continue
                elif what == FLOAT and wire == _I32:
                    (value,) = _FLOAT32.unpack(data[start:at])
                elif what != FLOAT and wire == _VARINT:
                    value = _signed(number, 32 if what == INT32 else 64)
                else:
                    raise Damaged(f"a {name} of wire type {wire}")
            if repeated:
                if name in values:
                    values[name].append(value)
                else:
                    values[name] = [value]
            elif name in values and not isinstance(what, int):
                raise Damaged(f"a second {name}")
            else:
                values[name] = value
        return made

    def packed(self, chunk: memoryview, kind: int) -> list[Any]:
        """The numbers of a repeated field that lie side by side."""
        self.spend(len(chunk) // 4 if kind == FLOAT else _count(chunk))
        dtype = np.dtype("<f4" if kind == FLOAT else np.int32 if kind == INT32 else np.int64)
        return numbers([chunk], dtype).tolist()  # type: ignore[no-any-return]


def _signed(number: int, bits: int) -> int:
    number &= (1 << bits) - 1
    return number - (1 << bits) if number >> (bits - 1) else number


def _text(data: memoryview, name: str) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        raise Damaged(f"a {name} that is not text") from None


def _count(chunk: memoryview) -> int:
    """How many varints end in `chunk`."""
    raw = np.frombuffer(chunk, np.uint8)
    return sum(int(np.count_nonzero(raw[k : k + _BLOCK] < 0x80)) for k in range(0, len(raw), _BLOCK))


def numbers(chunks: Sequence[memoryview], dtype: np.dtype[Any]) -> np.ndarray:
    """The numbers of a packed field.

    Parameters
    ----------
    chunks : sequence of memoryview
        The field, as it was written: in one piece, or in several.
    dtype : numpy.dtype
        ``<f4`` and ``<f8`` lie in the file as they are. Integers are varints, which keep the lower bits of what is
        too large; for int32 that is what protocol buffers say.

    Returns
    -------
    numpy.ndarray
        Of one axis, with memory of its own.

    Raises
    ------
    Damaged
        A number is cut short, or has more than 64 bits.
    """
    if dtype.kind == "f":
        if any(len(chunk) % dtype.itemsize for chunk in chunks):
            raise Damaged("a number cut short")
        parts = [np.frombuffer(chunk, dtype) for chunk in chunks]
        return np.concatenate([np.empty(0, dtype), *parts])
    made = np.empty(sum(map(_count, chunks)), dtype)
    at = 0
    for chunk in chunks:
        raw = np.frombuffer(chunk, np.uint8)
        start = 0
        while start < len(raw):
            block = raw[start : start + _BLOCK]
            ends = np.flatnonzero(block < 0x80)
            if not len(ends) or (start + _BLOCK >= len(raw) and ends[-1] != len(block) - 1):
                raise Damaged("a number cut short")
            values = _varints(block, ends)
            made[at : at + len(values)] = values.view(np.int64 if dtype.kind == "i" else np.uint64).astype(dtype)
            at += len(values)
            start += int(ends[-1]) + 1
    return made


def _varints(block: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The varints in `block` whose last bytes are at `ends`, as uint64."""
    starts = np.concatenate([[0], ends[:-1] + 1])
    longest = int((ends - starts).max()) + 1
    if longest > 10:
        raise Damaged("a number of more than ten bytes")
    values = np.zeros(len(ends), np.uint64)
    for k in range(longest):
        held = starts + k <= ends
        bits = block[np.minimum(starts + k, ends)].astype(np.uint64) & np.uint64(0x7F)
        values |= np.where(held, bits << np.uint64(7 * k), np.uint64(0))
    return values
