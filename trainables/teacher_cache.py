"""What the teacher says about an epoch's views, computed once and read by every trial that gets there.

An entry is one Arrow file: the targets of every step of one epoch, or, where the views never change, of every image.
Its name is a hash of all that the targets depend on, so a stale one cannot be found; a checksum tells a damaged one,
which is deleted and computed again. Entries appear whole or not at all. One process computes an epoch while the others
compute the epochs after it, or wait. A process that dies lets go of its lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import struct
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

VERSION = 1
PATIENCE = 600.0  # seconds to wait for another process's epoch before going on with a live teacher
POLL = 0.005  # seconds
ABOUT = b"kdtune.targets"  # in the schema's metadata
CHECKSUM = struct.Struct("<I")
Leaves = tuple[Tensor, ...]


@dataclass(frozen=True)
class TargetCache:
    """A folder of entries, shared by the processes of a machine and bounded in bytes."""

    folder: Path
    limit_bytes: int

    def fetch(
        self,
        keys: Sequence[dict[str, Any]],
        compute: Callable[[int], Leaves],
    ) -> tuple[Leaves | None, bool]:
        """The leaves of keys[0], and whether another made them; None where they took too long to come.

        `compute(i)` gives the leaves of keys[i]; `keys` after the first are of the epochs that come next, which a
        waiting process computes meanwhile.
        """
        path, *later = (self.path_of(key) for key in keys)
        deadline = time.monotonic() + PATIENCE
        found = self._read(path, keys[0])
        ours = False
        while found is None and time.monotonic() < deadline:
            ours = self._make(path, keys[0], compute, 0)
            if not ours and not self._help(path, later, keys, compute):
                time.sleep(POLL)
            found = self._read(path, keys[0])
        return found, found is not None and not ours

    def path_of(self, key: dict[str, Any]) -> Path:
        """Where the entry of a key lies."""
        text = json.dumps([VERSION, key], sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.arrow"

    def _help(
        self,
        wanted: Path,
        later: Sequence[Path],
        keys: Sequence[dict[str, Any]],
        compute: Callable[[int], Leaves],
    ) -> bool:
        """Make one of the later entries while another process makes the wanted one; whether there was one to make."""
        for number, path in enumerate(later, 1):
            if wanted.exists():
                return True
            if not path.exists() and self._make(path, keys[number], compute, number):
                return True
        return False

    def _make(
        self, path: Path, key: dict[str, Any], compute: Callable[[int], Leaves], number: int
    ) -> bool:
        """Compute and write an entry; False where another process is at it or has just been."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_suffix(".lock")) as ours:
            if not ours or path.exists():
                return False
            _write(path, key, compute(number))
            self._evict(keep=path)
        return True

    def _read(self, path: Path, key: dict[str, Any]) -> Leaves | None:
        """The leaves of an entry; None where it is not there. A damaged one is deleted."""
        try:
            leaves = _read(path, key)
            os.utime(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, OSError) as error:
            warnings.warn(
                f"deleted a damaged file of teacher outputs, {path}: {error}", stacklevel=2
            )
            path.unlink(missing_ok=True)
            return None
        return leaves

    def _evict(self, keep: Path) -> None:
        """Delete the entries that were used longest ago until the rest fits."""
        found = []
        for path in self.folder.glob("*.arrow"):
            with contextlib.suppress(FileNotFoundError):  # another process evicts too
                about = path.stat()
                found.append((about.st_mtime_ns, about.st_size, path))
        excess = sum(size for _, size, _ in found) - self.limit_bytes
        for _, size, path in sorted(found):
            if excess <= 0:
                return
            if path != keep:
                path.unlink(missing_ok=True)
                path.with_suffix(".lock").unlink(missing_ok=True)
                excess -= size


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Whether the lock is ours; it is let go of when the process ends, however that is."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def _write(path: Path, key: dict[str, Any], leaves: Leaves) -> None:
    """An Arrow file of one record batch, a column a leaf, a row a step or an image; then its CRC-32."""
    values = [leaf.cpu().contiguous().numpy() for leaf in leaves]
    shapes = [list(some.shape) for some in values]
    columns = [
        pa.FixedSizeListArray.from_arrays(pa.array(some.reshape(-1)), some[0].size)
        for some in values
    ]
    schema = pa.schema(
        [(str(i), column.type) for i, column in enumerate(columns)],
        metadata={ABOUT: json.dumps({"version": VERSION, "key": key, "shapes": shapes})},
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    content = sink.getvalue()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.write(CHECKSUM.pack(zlib.crc32(content)))
    temporary.replace(path)


def _read(path: Path, key: dict[str, Any]) -> Leaves:
    """The leaves of an entry; raises ValueError where it is not whole or not of this key."""
    with pa.memory_map(str(path)) as source:
        whole = source.read_buffer()
    content = whole.slice(0, max(0, whole.size - CHECKSUM.size))
    if whole[content.size :].to_pybytes() != CHECKSUM.pack(zlib.crc32(content)):
        raise ValueError("it must match its checksum")  # before Arrow parses what may be anything
    batch = pa.ipc.open_file(content).get_batch(0)
    about = json.loads(batch.schema.metadata[ABOUT])
    if about["version"] != VERSION or about["key"] != json.loads(json.dumps(key)):
        raise ValueError("it must be of the key in its name")
    values = [column.flatten().to_numpy(zero_copy_only=True) for column in batch.columns]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the memory is read-only, and nobody writes
        return tuple(
            torch.from_numpy(some.reshape(shape))
            for some, shape in zip(values, about["shapes"], strict=True)
        )
