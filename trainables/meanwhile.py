"""Something that is done now and then beside something else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def now_and_then(do: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call `do` in a thread of its own every so many seconds; at the end, wait for the call under way."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(seconds):
            do()

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        yield
    finally:
        over.set()
        worker.join()
