"""How far MLflow's mirror has come with a search, kept beside its journal; and the log of what it could not do."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trainables import records

STATE = "tracking.json"
LOG = "tracking.log"
LOCK = "tracking.lock"
VERSION = 1  # of tracking.json
CURE = "MLflow is asked what it has"  # where that is damaged


@dataclass
class State:
    """How far the mirror has come."""

    offset: int = 0  # bytes of the journal
    experiment: str = ""
    runs: dict[str, str] = field(
        default_factory=dict
    )  # student's id, or "" for the search -> run id
    open: list[str] = field(default_factory=list)  # ids of runs that are RUNNING
    model_version: str = ""
    store: str = ""  # the tracking URI, without secrets, where all this is
    refused: int = 0  # records that MLflow did not take, whatever the reason

    @classmethod
    def load(cls, path: Path, say: Callable[[str], None] = lambda _: None) -> State:
        """The state in a file; a fresh one where it is missing or, which is said, damaged: all may be done twice."""
        try:
            return cls(**records.read(path, VERSION, CURE))
        except FileNotFoundError:
            return cls()
        except ValueError as error:
            say(str(error))
        except TypeError as error:
            say(f"{path} must be whole, got a damaged file ({error}); {CURE}")
        return cls()

    def save(self, path: Path) -> None:
        """Write the whole file or nothing."""
        temporary = path.with_suffix(".tmp")
        temporary.write_text(records.text(asdict(self), VERSION), encoding="utf-8")
        temporary.replace(path)


def note(text: str) -> None:
    """One line for tracking.log; nothing where its disk is full."""
    with contextlib.suppress(OSError):
        print(f"{time.strftime('%X')} {text}", flush=True)
