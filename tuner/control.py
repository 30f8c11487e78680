"""A search's folder from outside: where it lies, whether a driver works there, and how to ask it to stop.

A driver holds a lock on its folder for as long as it lives. `--stop` leaves a file there, which the driver looks for
while it trains the search's trials (budgets.py). Neither torch nor Ray is needed to ask.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuner.journal import so_far
from tuner.progress import make_console
from tuner.settings import Settings

LOCK = "driver.lock"
REQUEST = "stop"
SETTINGS = "settings.json"  # of a search
RECORD = "league.json"  # of a league
OVER = ("confirm", "judge")  # phases in which there is no search to end


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One driver a folder; raises ValueError for the second. A request to stop that nobody heard is forgotten."""
    import fcntl

    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise ValueError(
                f"a search must have one driver, got a second for {folder.name} (process {file.read().strip()} runs it)"
            ) from None
        (folder / REQUEST).unlink(missing_ok=True)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def driver(folder: Path) -> str | None:
    """The process that holds the folder's lock; None where nobody does."""
    import fcntl

    try:
        with (folder / LOCK).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return file.read().strip()
    except FileNotFoundError:
        return None
    return None


def find(name: str, given: dict[str, Any], flag: str) -> Path:
    """The folder of a search or league in the output folder; raises ValueError that names those there are."""
    out = Path(given.get("out", Settings.model_fields["out"].default)).expanduser().resolve()
    others = [key for key in given if key != "out"]
    if others:
        raise ValueError(
            f"--{flag} must stand alone but for --out, got --{others[0].replace('_', '-')} too"
        )
    known = sorted(
        path.parent.name for kind in (SETTINGS, RECORD) for path in out.glob(f"*/{kind}")
    )
    if name not in known:
        raise ValueError(
            f"--{flag} must name a search in {out}, got {name!r}; known: {', '.join(known) or 'none'}"
        )
    return out / name


def searches(league: Path) -> list[Path]:
    """The folders of a league's searches, in order; some may not be there yet."""
    record = json.loads((league / RECORD).read_text(encoding="utf-8"))
    return [league.parent / str(one["name"]) for one in record["searches"]]


def stop(name: str, given: dict[str, Any]) -> int:
    """Ask the driver of a search or league to end it in order; 0, or a ValueError where there is nothing to end."""
    folder = find(name, given, "stop")
    if driver(folder) is None:
        raise ValueError(f"--stop must name a search that is running, got {name}, which is not")
    league = (folder / RECORD).is_file()
    running = [one for one in searches(folder) if driver(one) is not None] if league else [folder]
    searching = [one for one in running if _phase(one) not in OVER]
    if not running:
        raise ValueError(f"--stop must come when trials are trained, got {name}: it is starting")
    if not searching:
        raise ValueError(f"--stop must come before the confirmation, got {name}: it is confirming")
    for one in searching:
        (one / REQUEST).touch()
    of = f"of its {len(searching)} searches " if league else ""
    said = f"ends the running trials {of}at their next epoch, then confirms what it has"
    make_console().print(f"{name}: asked to stop; it {said}", highlight=False, soft_wrap=True)
    return 0


def _phase(folder: Path) -> str:
    """What the search's driver is doing; "" before it has said so."""
    return str(so_far(folder).results.get("phase", {}).get("name", ""))
