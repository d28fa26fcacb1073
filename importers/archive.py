"""Zip archives from strangers: what is read is bounded by what is there.

`zipfile` finds the entries; the reading is done here, because the central directory may lie. An entry costs no more
memory than its bytes in the file, and all entries together no more than the file: two entries over the same bytes
are found out.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from types import TracebackType

from ..engine.errors import ModelFormatError, UnsupportedModelError
from .kinds import ZIP_MAGIC
from .source import Source, opened, source_bytes, source_name

__all__ = ["Archive", "Source", "opened", "source_bytes", "source_name"]

#: How many times its size in the file a compressed entry may grow. Trained weights hardly reach 2.
MAX_RATIO = 64
MAX_SMALL = 1 << 24
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED = 0x1


class Archive:
    """A zip file, open for reading.

    Parameters
    ----------
    source : path or bytes

    Raises
    ------
    ModelFormatError
        The directory of the archive is damaged, or names an entry twice.
    OSError
        The file cannot be opened.
    """

    def __init__(self, source: Source) -> None:
        self.name = source_name(source)
        self._file = opened(source)
        try:
            self._size = self._file.seek(0, os.SEEK_END)
            self._zip = zipfile.ZipFile(self._file)
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError, MemoryError, struct.error) as error:
            self._file.close()
            raise ModelFormatError(f"{self.name}: a zip archive cut short or damaged ({error})") from error
        self._read = 0
        self.entries: dict[str, zipfile.ZipInfo] = {}
        for entry in self._zip.infolist():
            if entry.filename in self.entries:
                self.close()
                raise ModelFormatError(f"{self.name}: the archive has two entries {entry.filename!r}")
            self.entries[entry.filename] = entry
        # Cut short, an archive may end with the directory of another that lies within it.
        if self.entries and min(entry.header_offset for entry in self.entries.values()) > 0:
            self.close()
            raise ModelFormatError(f"{self.name}: a zip archive cut short or damaged (its directory is another's)")

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, name: str, *, compressed: bool = False) -> bytes:
        """The bytes of one entry, its checksum verified.

        Parameters
        ----------
        name : str
            One of `entries`.
        compressed : bool
            Whether the entry may be deflated.

        Raises
        ------
        ModelFormatError
            No such entry, or it does not hold what the directory says.
        UnsupportedModelError
            The entry is encrypted, or compressed in a way not allowed here.
        """
        entry = self.entries.get(name)
        if entry is None:
            raise ModelFormatError(f"{self.name}: the archive has no entry {name!r}")
        if entry.flag_bits & _ENCRYPTED:
            raise UnsupportedModelError(f"entry {name!r} of the archive is encrypted", source=self.name)
        stored = entry.compress_type == zipfile.ZIP_STORED
        if not stored and not (compressed and entry.compress_type == zipfile.ZIP_DEFLATED):
            raise UnsupportedModelError(
                f"entry {name!r} of the archive is compressed",
                source=self.name,
                hint="Files of this kind are written uncompressed: save it again, or unpack it and pack it with zip -0",
            )
        data = self._raw(entry)
        if not stored:
            data = self._inflate(entry, data)
        if len(data) != entry.file_size:
            raise ModelFormatError(f"{self.name}: entry {name!r} has {len(data)} bytes, not {entry.file_size}")
        # torch.serialization.set_crc32_options(False) leaves a zero, which then says nothing.
        if entry.CRC and zlib.crc32(data) != entry.CRC:
            raise ModelFormatError(f"{self.name}: entry {name!r} is damaged: its checksum does not match")
        return data

    def _raw(self, entry: zipfile.ZipInfo) -> bytes:
        """The bytes of an entry as they lie in the file."""
        damaged = ModelFormatError(f"{self.name}: entry {entry.filename!r} lies outside the file")
        if not 0 <= entry.header_offset <= self._size - _LOCAL_HEADER.size:
            raise damaged
        self._file.seek(entry.header_offset)
        magic, name_size, extra_size = _LOCAL_HEADER.unpack(self._file.read(_LOCAL_HEADER.size))
        start = entry.header_offset + _LOCAL_HEADER.size + name_size + extra_size
        if magic != ZIP_MAGIC or entry.compress_size < 0 or start + entry.compress_size > self._size:
            raise damaged
        self._read += entry.compress_size
        if self._read > self._size:
            raise ModelFormatError(f"{self.name}: the entries of the archive overlap")
        self._file.seek(start)
        return self._file.read(entry.compress_size)

    def _inflate(self, entry: zipfile.ZipInfo, data: bytes) -> bytes:
        if entry.file_size > max(MAX_SMALL, MAX_RATIO * len(data)):
            raise ModelFormatError(
                f"{self.name}: entry {entry.filename!r} claims to grow from {len(data)} to {entry.file_size} bytes"
            )
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            return inflater.decompress(data, entry.file_size + 1)
        except zlib.error as error:
            raise ModelFormatError(f"{self.name}: entry {entry.filename!r} is damaged ({error})") from error
