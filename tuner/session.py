"""Ray's temporary folder, one of our own a search, so that it can be taken away: Ray never does.

It is made in the system's temporary folder, or in /tmp where that has a long name: Ray's sockets lie in it, and a
socket's path has at most 107 bytes. A file in it, locked for as long as the driver lives, says whose it is. A driver
that was killed leaves its folder; the next search takes away those of this user that nobody has locked and no process
works in.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "kdtune-ray-"
MARKER = "driver.lock"
LONGEST = 20  # bytes of the temporary folder's own path; our name takes 20 more, Ray's 64


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for Ray, gone when this ends."""
    root = roomy()
    sweep(root)
    path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
    with (path / f".{MARKER}").open("w", encoding="ascii") as marker:
        fcntl.flock(marker, fcntl.LOCK_EX)
        marker.write(str(os.getpid()))
        marker.flush()
        (path / f".{MARKER}").rename(path / MARKER)  # from here on it can be swept by others
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def roomy() -> Path:
    """The temporary folder, unless its path is too long for sockets in it."""
    usual = Path(tempfile.gettempdir())
    return usual if len(os.fsencode(usual)) <= LONGEST else Path("/tmp")


def sweep(root: Path) -> list[Path]:
    """Delete what killed drivers of this user left in `root`; what was deleted."""
    gone = [path for path in root.glob(f"{PREFIX}*") if _left_behind(path)]
    for path in gone:
        shutil.rmtree(path, ignore_errors=True)
    return gone


def _left_behind(path: Path) -> bool:
    """Ours, its driver dead, nobody at work in it: Ray's own processes outlive a killed driver by up to a minute."""
    with suppress(OSError), (path / MARKER).open("r", encoding="ascii") as marker:
        if path.is_symlink() or path.stat().st_uid != os.getuid():
            return False
        fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError: its driver lives
        return not processes_in(path)
    return False


def processes_in(path: Path) -> list[int]:
    """Processes whose command line names the folder, as all of Ray's own do; none are known outside Linux."""
    if sys.platform != "linux":
        return []
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            number = int(process.name)
            if os.fsencode(path) in (process / "cmdline").read_bytes():
                found.append(number)
    return found
