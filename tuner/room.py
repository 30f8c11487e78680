"""Room on the disk: asked for before a search, watched while it runs, missed in one clear message.

A search that runs out of room ends in good order while there is a little left; where a write fails all the same,
for want of room or because the folder may no longer be written to, it ends with the same message. What was written
stays as it is, and --resume goes on once there is room.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

LEAST = (
    32 * 2**20
)  # bytes that a search leaves free: for the last checkpoints, the journal and MLflow's database
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
FORBIDDEN = (errno.EACCES, errno.EPERM)  # of our own folder; a data set's files are another matter
DREGS = 2**20  # bytes; with less left, whatever went wrong went wrong for want of room


class NoRoomError(OSError):
    """There is no room left, or no right to write."""


def check(folder: Path) -> None:
    """Raise ValueError where the disk is too full to begin with."""
    place = next(some for some in (folder, *folder.parents) if some.exists())
    free = shutil.disk_usage(place).free
    if free < LEAST:
        raise ValueError(f"--out must have {_mb(LEAST)} free at least, got {_mb(free)} in {folder}")


def watch(folder: Path) -> None:
    """Raise NoRoomError where the disk of a running search is nearly full."""
    free = shutil.disk_usage(folder).free
    if free < LEAST:
        raise NoRoomError(errno.ENOSPC, f"less than {_mb(LEAST)} are left")


def lacking(text: str, folder: Path) -> bool:
    """Whether what a worker said, in words, is that it could not write to `folder`."""
    said = [code for code in (*FULL, *FORBIDDEN) if f"[Errno {code}]" in text]
    return any(code in FULL or str(folder) in text for code in said)


def cause(error: BaseException, folder: Path) -> OSError | None:
    """The write to `folder` that failed and led to an exception; None where something else did."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and _to_blame(seen, folder):
            return seen
        seen = seen.__cause__ or seen.__context__
    if isinstance(error, Exception) and (lacking(str(error), folder) or _full(folder)):
        return NoRoomError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return None


def _to_blame(error: OSError, folder: Path) -> bool:
    ours = error.filename is not None and str(error.filename).startswith(str(folder))
    return error.errno in FULL or (error.errno in FORBIDDEN and ours)


def _full(folder: Path) -> bool:
    return folder.exists() and shutil.disk_usage(folder).free < DREGS


def in_words(folder: Path, error: OSError, command: str) -> str:
    """What a person has to know: the folder, what is free there, what to do."""
    free = shutil.disk_usage(folder).free if folder.exists() else 0
    reason = error.strerror or str(error)
    return (
        f"{folder} must be a folder that can be written to, got: {reason} ({_mb(free)} free). "
        f"What was written is whole; make room, then go on with: {command}"
    )


def at_the_start(error: OSError) -> str:
    """The same before there is anything to go on with."""
    return f"{error.filename or '--out'} must be writable, got: {error.strerror or error}"


def _mb(size: int) -> str:
    return f"{size / 2**20:.1f} MB"
