"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def rename_into(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that it is either there whole or not at all."""
    with renamed(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def renamed(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, which becomes `path` where all goes well and vanishes where not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
