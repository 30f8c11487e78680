"""The test set. Only `tuner/judging.py` may import this file; a test of the layers holds it to that."""

from __future__ import annotations

from pathlib import Path

from trainables.data.splits import Facts, Split, read

FILE = "test.arrow"


def open_test(facts: Facts) -> Split:
    """The test images and labels: for the finalists, after every choice has been made."""
    return read(Path(facts.folder) / FILE, facts)
