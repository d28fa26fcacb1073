"""What importers read from, and how: a path or the bytes of a file, of regular files only."""

from __future__ import annotations

import io
import os
import stat
from typing import BinaryIO

from ..engine.errors import ModelFormatError

__all__ = ["Source", "opened", "source_bytes", "source_name"]

#: What files are read from: a path, or the bytes of the file.
Source = str | os.PathLike[str] | bytes


def source_name(source: Source) -> str:
    """How messages call it: the path, or ``<bytes>``."""
    return "<bytes>" if isinstance(source, bytes) else os.fspath(source)


def opened(source: Source) -> BinaryIO:
    """It, open for reading. A device or a pipe has no end to be measured, and is no file."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not stat.S_ISREG(os.stat(source).st_mode):
        raise ModelFormatError(f"{source_name(source)}: is not a regular file")
    return open(source, "rb")


def source_bytes(source: Source) -> bytes:
    """All of it."""
    with opened(source) as file:
        return file.read()
