"""How a search ends: its runs closed, MLflow given the rest, the way on printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from tuner import commands, plan
from tuner.control import locked
from tuner.journal import Journal
from tuner.mirror import Mirror
from tuner.plan import Plan
from tuner.preparing import Underway
from tuner.progress import Board
from tuner.settings import Settings
from tuner.students import Interrupted
from tuner.tracked import LOG

HURRIED_SECONDS = 3  # that a search ended by a signal waits for MLflow


def close_one(one: Underway, status: str) -> None:
    """Write down how one search ended, and every student in it that had not."""
    _close(one.journal, one.board, status)
    one.open = False


def close_all(searches: Sequence[Underway], status: str) -> None:
    """End the boards, and close the searches that have not come to an end by themselves."""
    for one in searches:
        one.board.end()
        if one.open:
            close_one(one, status)


def _close(journal: Journal, board: Board, status: str) -> None:
    """Say how it ended, of every student that had not, and of the search."""
    for student in board.story.students.values():
        if student.status == "running":
            board.story.add(journal.write("end", id=student.id, status="interrupted"))
    if board.story.search or journal.path.stat().st_size:
        board.story.add(journal.write("close", status=status, sync=True))


def farewell(mirror: Mirror, board: Board, planned: Plan, *, hurried: bool) -> None:
    """Wait until MLflow has everything, and say where to look; after a signal it goes on alone after a moment."""
    try:
        with board.waiting("handing the rest to MLflow"):
            complete = mirror.finish(HURRIED_SECONDS if hurried else None)
    except Interrupted:  # who is impatient now has lost nothing
        complete = False
    if not complete:
        board.say(
            escape(f"MLflow has not got everything yet ({mirror.trouble()}); nothing is lost: ")
            + f"{resume_command(planned.name, planned.settings.out)} delivers the rest"
        )
    state = mirror.runs()
    if state.refused:
        board.say(f"MLflow did not take {state.refused} records: {planned.folder / LOG} says why")
    board.say(commands.where_to_look(planned, state))


def deliver_late(planned: Plan) -> int:
    """Deliver what MLflow lacks of a search that has ended; raises ValueError where nobody answers."""
    uri = planned.tracking_uri
    plan.check_tracking(planned, offline=False)
    with locked(planned.folder):
        mirror, board = Mirror(planned.folder, uri, planned.artifacts), Board()
        with board.waiting("handing the rest to MLflow"):
            complete = mirror.finish()
        if complete:
            board.say(f"MLflow has everything now, in {plan.redacted(uri)}")
        else:
            board.say(escape(f"MLflow has not got everything ({mirror.trouble()})"))
        board.say(commands.where_to_look(planned, mirror.runs()))
    return 0 if complete else 1


def resume_command(name: str, out: Path) -> str:
    """`python tune.py --resume NAME`, with --out where it is not the default."""
    elsewhere = out != Settings.model_fields["out"].default
    return f"python tune.py --resume {name}" + (f" --out {out}" if elsewhere else "")
