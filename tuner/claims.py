"""A search's folder: whose name it is, told by its first file, which one driver alone can write."""

from __future__ import annotations

import os
from pathlib import Path

from tuner.control import SETTINGS
from tuner.plan import Plan


def check_free(planned: Plan) -> None:
    """Raise ValueError where the search's folder has anything in it, as one that a driver died in at once has not."""
    folder = planned.folder
    if folder.exists() and not folder.is_dir():
        raise _taken(planned)
    found = folder.iterdir() if folder.exists() else ()
    if any(not path.name.startswith(f".{SETTINGS}") for path in found):
        raise _taken(planned)


def claim(planned: Plan, settings: str) -> None:
    """Make the folder with its settings; raises ValueError where another driver was quicker."""
    planned.folder.mkdir(parents=True, exist_ok=True)
    try:
        write_new(planned.folder / SETTINGS, settings)
    except FileExistsError:
        raise _taken(planned) from None


def write_new(path: Path, text: str) -> None:
    """Write a whole file or nothing; raises FileExistsError where somebody has written it already."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise
    except (
        OSError
    ):  # a file system without links, where the first and the last to come cannot be told
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def _taken(planned: Plan) -> ValueError:
    return ValueError(
        f"--name must be a new search, got {planned.name!r}, which is in {planned.out}; "
        f"--resume {planned.name} goes on with it, --overwrite deletes it first"
    )
