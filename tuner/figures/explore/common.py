"""What all figures of the page to explore share."""

from __future__ import annotations

import html
from typing import Any

from tuner.figures.seen import Seen
from tuner.figures.style import look
from tuner.journal import Student
from tuner.progress import settings_in_words

ACCURACY = "validation accuracy, %"


def new(height: int, **layout: Any) -> Any:
    """A figure of this height, in dots, with its legend above."""
    from plotly.graph_objects import Figure

    return Figure(layout={"height": height, "legend": {"orientation": "h", "y": 1.1}, **layout})


def hover(seen: Seen, one: Student) -> str:
    """What a trial's mark says: who it is, what it tried, how it ended."""
    role = ", ".join(filter(None, (one.id, seen.role(one))))
    last = f"{100 * one.accuracy:.2f} % after epoch {len(one.history)}, {look(one).label}"
    return "<br>".join(map(html.escape, (role, settings_in_words(one.hyper), last)))
