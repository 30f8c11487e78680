"""What ended a trial that did not finish, in a word and a line, and when its search should be given up.

    failed          its code raised, or its worker died again and again
    out of memory   of the process, its GPU, or the machine
    hung            it reported nothing for longer than watchdog.py allows
    diverged        its loss was no number

A trial whose code raised is not tried again: it would raise again. One that ran out of memory or hung gets a second
chance in a fresh process, from its checkpoint; one whose worker died gets three.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import NamedTuple

FAILED, MEMORY, HUNG, DIVERGED = "failed", "out of memory", "hung", "diverged"
ERRORS = (FAILED, MEMORY, HUNG)  # say nothing of the configuration; samplers ignore them
SUCCESSES = ("finished", "stopped")
LOST = "lost"  # a worker that died; its trial counts as failed where that happens too often
FEWEST = 3  # failures of one kind in a row before a search is given up
MORE_AFTER_SUCCESS = (
    3  # times as many where other trials had gone well: it may be a corner of the space
)
MEMORY_WORDS = re.compile(r"OutOfMemoryError|MemoryError|allocate memory|low on memory")
DEATH_WORDS = re.compile(
    r"actor (is dead|died)|actor \w+ is unavailable|worker.* died|Worker exit type", re.IGNORECASE
)
ADVICE = {
    FAILED: "a bug in the method, the network or the data looks like this: mend it",
    MEMORY: "take a smaller --batch-size or student, or fewer trials at once (--max-concurrent)",
    HUNG: "look at what the worker waits for (a file system, a download, a lock), or raise --hang-after",
    DIVERGED: "a lower learning rate (--lr, or lr in --space), or another normalisation of the images, may cure it",
}


class Failure(NamedTuple):
    """Why a trial's worker stopped."""

    kind: str  # FAILED, MEMORY or LOST
    reason: str


def classified(text: str, *, kernel_killed: bool = False) -> Failure:
    """What Ray wrote of a trial's last failure, or of several with the last at the end.

    `kernel_killed` says that the system has ended processes for lack of memory since the search began.
    """
    last = re.split(r"^Failure # .*$", text, flags=re.MULTILINE)[-1]
    lines = [line.strip() for line in last.splitlines() if line.strip()]
    memory = [line for line in lines if MEMORY_WORDS.search(line)]
    raised = any("creation task" in line for line in lines)  # in the worker's own beginning
    died = not raised and any(DEATH_WORDS.search(line) for line in lines)
    if memory:
        return Failure(MEMORY, memory[-1][:500])
    if died and kernel_killed:
        return Failure(MEMORY, "its worker died while the system was ending processes for memory")
    if died or not lines:  # of a worker that dies between two trials Ray writes nothing
        return Failure(LOST, "its worker process died")
    return Failure(FAILED, lines[-1][:500])


def kernel_kills() -> int:
    """How many processes this machine's kernel has ended for lack of memory since it started; 0 where unknown."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


class Tally:
    """Counts trials that ended in the same bad way, one after the other."""

    def __init__(self, slots: int) -> None:
        self.fewest = max(FEWEST, slots + 1)
        self.kind, self.count, self.reason = "", 0, ""
        self.any_success = False

    def add(self, status: str, reason: str) -> None:
        """One trial's end; an end that is neither a success nor a failure says nothing."""
        if status in SUCCESSES:
            self.kind, self.count, self.any_success = "", 0, True
        elif status in (*ERRORS, DIVERGED):
            self.count = self.count + 1 if status == self.kind else 1
            self.kind, self.reason = status, reason

    @property
    def limit(self) -> int:
        """How many are too many; a sampler learns where students diverge, so that is waited for longer."""
        patient = self.any_success or self.kind == DIVERGED
        return self.fewest * (MORE_AFTER_SUCCESS if patient else 1)

    @property
    def verdict(self) -> str:
        """Why to give the search up; "" where there is no reason yet, or where students diverge but others did not."""
        if self.count < self.limit or (self.kind == DIVERGED and self.any_success):
            return ""
        return f"{self.count} trials in a row: {self.kind}, the last with: {self.reason}. {advice(self.kind)}"


def advice(kind: str) -> str:
    """What to do, as a sentence."""
    words = ADVICE[kind]
    return f"{words[0].upper()}{words[1:]}."
