"""What several searches say on one terminal."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from tests.test_confirm import trial
from tuner.standings import Standings


def standings(terminal: bool) -> tuple[Standings, StringIO]:
    out = StringIO()
    console = Console(file=out, width=120, force_terminal=terminal)
    return Standings(["l-kd", "l-dkd"], console), out


def test_what_all_say_is_said_once_and_a_trials_end_with_its_search() -> None:
    """On a pipe."""
    made, out = standings(terminal=False)
    for member in made.members:
        member.say("teacher: found")
    for member in made.members:
        member.begin("search", ("search",), 3)
        member.say("test set opened once")
        member.story.students["kd-001"] = trial(1, 0.9)
        member.take({"event": "end", "id": "kd-001", "status": "finished"})
        member.end()
    said = out.getvalue()
    assert said.count("teacher: found") == 1 and said.count("test set opened once") == 2
    assert "l-kd [1/3] kd-001 finished" in said and "l-dkd [1/3] kd-001 finished" in said


def test_one_table_has_a_row_for_each_search() -> None:
    """On a terminal, where a second live table would be an error; by hand: 40 epochs, the better one of two trials."""
    made, _ = standings(terminal=True)
    for member in made.members:
        member.live_possible = True
        member.begin("search", ("search",), 3)
    first = made.members[0]
    first.story.students = {s.id: s for s in (trial(1, 0.8), trial(2, 0.9))}
    picture = Console(file=StringIO(), width=120)
    picture.print(made.picture())
    lines = picture.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[2].split()[:5] == ["l-kd", "2/3", "0", "40", "90.00%"]
    assert lines[3].split()[:2] == ["l-dkd", "0/3"]
    for member in made.members:
        member.end()
    assert made.live is None
