"""What kind of file it is, told by its first bytes, or by what is in an archive.

So a file costs what its own reader takes to import, and nothing for those of the others.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection
from typing import Any

from .source import Source, opened

__all__ = [
    "CONTAINER_MAGIC",
    "HDF5_MAGIC",
    "KERAS_WEIGHTS",
    "LEGACY_PT2",
    "ZIP_MAGIC",
    "foreign",
    "head_of",
    "is_container",
    "is_json",
    "is_live",
    "is_pt2",
    "is_safetensors",
    "is_torchscript",
    "is_weights",
]

#: Of `.gatestep` files: a byte that no text has, and line ends of both kinds: damaged at once by a transfer "as text".
CONTAINER_MAGIC = b"\x89GST\r\n\x1a\n"
ZIP_MAGIC = b"PK\x03\x04"
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
#: The entry of a zip archive that makes it one of Keras.
KERAS_WEIGHTS = "model.weights.h5"
#: The entry of a zip archive that held a program of `torch.export` before PyTorch 2.9.
LEGACY_PT2 = "serialized_exported_program.json"
#: The limit that safetensors itself sets on a header.
MAX_HEADER = 100_000_000
_BOM = b"\xef\xbb\xbf"
#: Other files that people call weights, by how they begin.
_FOREIGN = (
    (b"GGUF", "a GGUF file"),
    (b"\x93NUMPY", "a single NumPy array; weights have names: np.savez"),
    (b"\x1f\x8b", "a gzip file"),
)


def head_of(source: Source) -> bytes:
    """The first bytes of a file, as many as tell its kind."""
    with opened(source) as file:
        return file.read(512)


def is_container(source: Any) -> bool:
    """Whether `source` is a path or the bytes of a `.gatestep` file."""
    return isinstance(source, (str, os.PathLike, bytes)) and head_of(source).startswith(CONTAINER_MAGIC)


def is_weights(source: Source) -> bool:
    """Whether `weights` reads such a file, or knows and refuses it: a zip archive, safetensors, a pickle, ..."""
    head = head_of(source)
    known = head.startswith((ZIP_MAGIC, HDF5_MAGIC, b"\x80")) or is_safetensors(head) or is_json(head)
    return known or foreign(head) is not None


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins with `head` (9 bytes or more) has a safetensors header: its length, then JSON."""
    return len(head) >= 9 and 2 <= int.from_bytes(head[:8], "little") <= MAX_HEADER and head[8:9] == b"{"


def is_json(head: bytes) -> bool:
    """Whether a file that begins with `head` holds a JSON object."""
    return head.removeprefix(_BOM).lstrip(b" \t\r\n").startswith(b"{")


def foreign(head: bytes) -> str | None:
    """What a file that is known, and not read, is called."""
    if head[257:262] == b"ustar":
        return "a tar archive, as PyTorch wrote before 0.1.10"
    return next((what for magic, what in _FOREIGN if head.startswith(magic)), None)


def is_pt2(names: Collection[str]) -> bool:
    """Whether an archive with entries of these names is a program of `torch.export`."""
    return LEGACY_PT2 in names or any(re.fullmatch(r"(?:[^/]+/)?models/[^/]+\.json", name) for name in names)


def is_torchscript(names: Collection[str]) -> bool:
    """Whether entries with these names make an archive of TorchScript, of any age."""
    parts = {tuple(name.split("/")[1:2]) for name in names}
    return not parts.isdisjoint({("constants.pkl",), ("bytecode.pkl",), ("model.json",)}) or ("code",) in parts


def is_live(source: Any) -> bool:
    """Whether this is a module or program of PyTorch; where PyTorch is not loaded, nothing is one."""
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    return isinstance(source, (torch.nn.Module, torch.jit.ScriptFunction, torch.export.ExportedProgram))
