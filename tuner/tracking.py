"""What MLflow gets to see: a mirror of the journal, made by a process of its own.

The driver never waits for MLflow: it writes its journal, and the mirror (`python -m tuner.tracking FOLDER ARTIFACTS
PATIENCE`, which mirror.py starts) delivers what it finds there, however slow the server. The mirror ends when the
driver's end of its standard input closes, for whatever reason, and then leaves no run RUNNING. How far it came is kept
in tracking.json, and everything that it does may be done twice: a restarted mirror delivers the rest, once. What is
delivered, and how, is in delivery.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import select
import sys
import time
from pathlib import Path

from tuner import addresses
from tuner.delivery import Delivery
from tuner.journal import FILE
from tuner.tracked import LOCK, note

PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)  # seconds between tries while the server does not answer
POLL = 0.5  # seconds
OWN, SESSIONS = 19, 5  # niceness among processes (Ray's workers have 15) and among sessions


def driver_gone(timeout: float) -> bool:
    """Whether the driver has closed our standard input; waits up to `timeout` seconds for it."""
    ready, _, _ = select.select([sys.stdin], [], [], timeout)
    return bool(ready) and not os.read(sys.stdin.fileno(), 1)


def give_way() -> None:
    """Let trials go first: they are to wait for nobody's records."""
    os.nice(OWN)
    among_sessions(SESSIONS)


def among_sessions(niceness: int) -> None:
    """Take so much time, where Linux shares it among sessions before processes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(niceness), encoding="ascii")


def main() -> int:
    """Mirror until the driver is gone and all is delivered; 0 where nothing is left undone."""
    give_way()
    folder, artifacts, *others = map(Path, (sys.argv[1], sys.argv[2], *sys.argv[4:]))
    with contextlib.ExitStack() as locks:
        for one in (folder, *others):  # the mirror of a driver that was killed may still be at it
            fcntl.flock(locks.enter_context((one / LOCK).open("w")), fcntl.LOCK_EX)
        uri = os.environ[addresses.VARIABLES[0]]
        return mirror([folder, *others], uri, artifacts, float(sys.argv[3]))


def mirror(folders: list[Path], uri: str, artifacts: Path, patience: float) -> int:
    """What `main` does, with nobody else at it; gives up `patience` seconds after the driver has gone.

    What a next driver writes is left to that one's mirror.
    """
    deliveries: dict[Path, Delivery] = {}
    failures, gone, deadline = 0, False, 0.0
    ends = dict.fromkeys(folders, math.inf)
    while True:
        try:
            for folder in folders:
                deliveries[folder] = deliveries.get(folder) or Delivery(folder, uri, artifacts)
            news = [deliveries[folder].deliver(ends[folder]) for folder in folders]
            if gone and not any(news):
                for delivery in deliveries.values():
                    delivery.close()
                return 0
            failures = 0
        except Exception as error:  # whatever a server can do wrong: note it, wait, try again
            note(
                f"not delivered: {addresses.hushed(str(error), uri)[:500] or type(error).__name__}"
            )
            failures += 1
            if gone and time.monotonic() > deadline:
                return 1
        pause = PAUSES[min(failures, len(PAUSES)) - 1] if failures else POLL
        if gone:
            time.sleep(pause if failures else 0)
        elif driver_gone(pause):
            gone, deadline = True, time.monotonic() + patience
            among_sessions(0)  # now somebody may wait
            ends = {folder: (folder / FILE).stat().st_size for folder in folders}


if __name__ == "__main__":
    sys.exit(main())
