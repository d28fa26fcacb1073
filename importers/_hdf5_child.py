"""The process that opens an HDF5 file: run by path, with the bytes on stdin; `hdf5` is the other end.

The answer on stdout is the length of a header (8 bytes, little-endian), the header as JSON, and the arrays one after
the other as they lie in memory. What is wrong with the file is said on stderr, with the exit code `REFUSED`.

Nothing of gatestep is imported here, and h5py only once the search path is that of the caller.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import json
import math
import os
import struct
import sys
from typing import Any

__all__ = ["LENGTH", "MISSING", "REFUSED", "main"]

LENGTH = struct.Struct("<Q")
REFUSED, MISSING = 3, 4
MAX_OBJECTS = 1 << 16
MAX_DEPTH = 64
MAX_NAMES = 1 << 12
#: Where Keras keeps weights. The rest is mostly the optimizer's, twice as large as the model.
_TOPS = ("model_weights", "layers", "_layer_checkpoint_dependencies")


class _Walk:
    """What there is in the groups of a file, by path: never more than the file can hold, and nothing outside it."""

    def __init__(self, h5py: Any, room: int) -> None:
        self.h5py, self.room, self.objects = h5py, room, 0
        self.groups: dict[str, int] = {}
        self.links: list[str] = []
        self.names: dict[str, list[str]] = {}
        self.others: dict[str, str] = {}
        self.arrays: list[tuple[str, Any]] = []

    def use(self, size: int) -> None:
        self.room -= size
        if self.room < 0:
            raise ValueError("the weights are many times larger than the file")

    def file(self, root: Any) -> None:
        top = list(itertools.islice(root, MAX_OBJECTS))
        pending = self.group("", root, [name for name in top if name in _TOPS] or top)
        while pending:
            path, group = pending.pop()
            pending += self.group(path, group, group)

    def group(self, path: str, group: Any, members: Any) -> list[tuple[str, Any]]:
        """Enter one group and what lies in it; the groups in it are returned."""
        if path.count("/") >= MAX_DEPTH:
            raise ValueError(f"groups within groups, {MAX_DEPTH} deep")
        if "weight_names" in group.attrs:
            if math.prod(group.attrs.get_id("weight_names").shape) > MAX_NAMES:
                raise ValueError("a layer of too many weights")
            names = [n.decode() if isinstance(n, bytes) else str(n) for n in group.attrs["weight_names"]]
            self.use(sum(map(len, names)))
            self.names[path] = names
        groups = []
        self.groups[path] = 0
        for name in members:
            self.groups[path] += 1
            self.objects += 1
            if self.objects > MAX_OBJECTS:  # also where hard links go in circles
                raise ValueError(f"more than {MAX_OBJECTS} objects")
            inner = f"{path}/{name}" if path else name
            self.use(len(inner))
            # Looked at before anything follows it: it may lead to another file.
            if not isinstance(group.get(name, getlink=True), self.h5py.HardLink):
                self.links.append(inner)
                continue
            found = group[name]
            if isinstance(found, self.h5py.Group):
                groups.append((inner, found))
            elif isinstance(found, self.h5py.Dataset):
                self.dataset(inner, found)
        return groups

    def dataset(self, path: str, data: Any) -> None:
        if data.is_virtual or data.external or data.shape is None:
            return
        if data.dtype.kind != "f":
            self.others[path] = str(data.dtype)[:40]
            return
        self.use(data.size * data.dtype.itemsize)
        self.arrays.append((path, data))


def _answer(h5py: Any, file: Any, room: int) -> None:
    with h5py.File(file, "r") as root:
        walk = _Walk(h5py, room)
        config = root.attrs.get("model_config")
        if config is not None:
            config = config.decode() if isinstance(config, bytes) else config if isinstance(config, str) else ""
        version = root.attrs.get("keras_version", "")
        version = version.decode("ascii", "replace") if isinstance(version, bytes) else version
        walk.file(root)
        header = {
            "model_config": config,
            "version": version[:40] if isinstance(version, str) else "",
            "groups": walk.groups,
            "links": walk.links,
            "weight_names": walk.names,
            "others": walk.others,
            "arrays": [(path, array.dtype.str, array.shape) for path, array in walk.arrays],
        }
        text = json.dumps(header).encode()
        sys.stdout.buffer.write(LENGTH.pack(len(text)) + text)
        for _, array in walk.arrays:
            sys.stdout.buffer.write(array[()])
        sys.stdout.buffer.flush()


def _limit(memory: int, seconds: int) -> None:
    try:
        import resource
    except ImportError:  # not on Windows, where the caller's clock has to do
        return
    for kind, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        with contextlib.suppress(OSError, ValueError):  # a limit that this system does not take
            resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def main() -> int:
    """Answer for the file on stdin within the bounds in ``argv[1]``; the exit code."""
    job = json.loads(sys.argv[1])
    sys.path[:] = job["path"]
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # each thread's buffers count as memory
    try:
        h5py: Any = importlib.import_module("h5py")
    except ImportError:
        return MISSING
    _limit(job["memory"], job["seconds"])
    try:
        given: Any = sys.stdin.buffer
        _answer(h5py, given if given.seekable() else io.BytesIO(given.read()), job["room"])
    except Exception as error:  # h5py raises whatever the HDF5 library stumbles over, of nearly every type
        reason = "out of memory" if isinstance(error, MemoryError) else str(error) or type(error).__name__
        sys.stderr.write("\n" + " ".join(reason.split())[:200].encode("ascii", "replace").decode())
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
