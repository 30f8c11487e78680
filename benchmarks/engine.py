"""A search's own machinery around a benchmark: Ray, journal and MLflow's mirror, and nobody to watch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from tuner import cluster, plan, settings
from tuner.journal import VERSION, Journal
from tuner.mirror import Mirror
from tuner.plan import Plan
from tuner.progress import Board

NAME = "x"
PATIENCE = 5.0  # seconds for the mirror's rest: it delivers in its own time, not in the driver's


def planned(folder: Path, **given: Any) -> Plan:
    """The plan of a kd search in `folder`, which is made."""
    made = plan.make(settings.make({"method": "kd", **given, "out": folder, "name": NAME}))
    made.folder.mkdir(parents=True)
    return made


@contextmanager
def running(made: Plan) -> Iterator[tuple[Journal, Board]]:
    """Everything that a search needs beside its task, with a Ray that has its slots."""
    with searching(made, made.slots) as (journal, board, mirror):
        yield journal, board
    mirror.finish(PATIENCE)


@contextmanager
def searching(made: Plan, n_cpus: int) -> Iterator[tuple[Journal, Board, Mirror]]:
    """The same, with a Ray of so many CPUs; what the mirror has not delivered is left to it."""
    journal = Journal(made.folder)
    told: dict[str, Any] = {
        "version": VERSION,
        "name": NAME,
        "experiment": NAME,
        "token": NAME,
        "description": "",
    }
    told["searched"] = dict.fromkeys(made.searched, "number")
    journal.write("search", **told, settings={"method": "kd"}, facts={})
    with cluster.running(n_cpus), Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        mirror = Mirror(made.folder, made.tracking_uri, made.artifacts)
        yield journal, Board(Console(file=nowhere)), mirror
    journal.close()
