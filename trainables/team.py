"""The processes of a student that is trained on several GPUs, one each: the trial's own is rank 0 and leads the others.

The others are started on the same machine, with the trial's visible devices, and kept between trials like the trial's
own process. Rank 0 alone validates, reports and writes checkpoints. Where one is lost, the trial hears of it and why:

    its connections close, which the others find in their next exchange, and rank 0 asks what it has said last;
    an exchange on GPUs may not find out: it is given up after `GRACE` seconds, and after as many again the process is;
    one that hangs is waited for as long as the search's watchdog waits, whose end of rank 0 is the end of all.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import distributed

from trainables.mishaps import in_a_line, out_of_memory
from trainables.parallel import RankLostError, Ranks
from trainables.training import Divergence, Training

if TYPE_CHECKING:
    from trainables.trainable import Task, Workplace

LONGEST = timedelta(minutes=30)  # of one exchange, which may wait for a teacher's first answers
GRACE = 10.0  # seconds
EPOCH = "epoch"  # what rank 0 says to have one trained
READY = "ready"  # what the others say when they have begun


class Student(NamedTuple):
    """What the others build their student from; the state goes as bytes, without shared memory."""

    task: Task
    config: dict[str, Any]
    state: bytes


class Trouble(NamedTuple):
    """The last words of a rank."""

    kind: str  # MEMORY, LOST, or RAISED
    words: str


MEMORY, LOST, RAISED = "memory", "lost", "raised"


class Team:
    """Rank 0's side."""

    def __init__(self, count: int, use_gpu: bool) -> None:
        """Start the others; raises RankLostError where one does not begin."""
        self.ranks, self.use_gpu = Ranks(0, count), use_gpu
        self.folder = Path(tempfile.mkdtemp(prefix="kdtune-ranks-"))
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(1, count)]
        self.connections = [ours for ours, _ in pipes]
        self.processes = [
            context.Process(target=_follow, args=(Ranks(i, count), use_gpu, self.folder, theirs))
            for i, (_, theirs) in enumerate(pipes, 1)
        ]
        # before the interpreter's end waits for its child processes
        self.end = Finalize(self, _end, (self.processes, self.connections, self.folder), None, 1)
        self.idle, self.given_up = threading.Event(), False
        for process, (_, theirs) in zip(self.processes, pipes, strict=True):
            process.start()
            theirs.close()
        try:
            for number, connection in enumerate(self.connections, 1):
                self._begun(number, connection)
            _join(self.ranks, use_gpu, self.folder)
        except Exception:
            self.close()
            raise
        threading.Thread(target=self._stand_by, daemon=True).start()
        self.idle.set()

    def begin(self, task: Task, config: dict[str, Any], state: Mapping[str, Any] | None) -> None:
        """Have the others build the student of `config`, and go on from `state` where there is one."""
        buffer = io.BytesIO()
        if state is not None:
            torch.save(dict(state), buffer)
        self._tell(Student(task, config, buffer.getvalue()))

    def train_epoch(self, run: Training) -> tuple[dict[str, float], Divergence | None]:
        """Train an epoch on all ranks; raises what the rank raised that was the first to fail."""
        self.idle.clear()
        try:
            self._tell(EPOCH)
            return run.train_epoch()
        except Exception as error:
            if not (self.given_up or isinstance(error, RankLostError | distributed.DistError)):
                raise
            raise self._cause(error) from error
        finally:
            self.idle.set()

    def close(self) -> None:
        """End the others."""
        self.end()
        if distributed.is_initialized():
            distributed.destroy_process_group()

    def _tell(self, what: Any) -> None:
        for connection in self.connections:
            with suppress(OSError):  # of one that has gone: the first exchange finds out
                connection.send(what)

    def _begun(self, number: int, connection: Connection) -> None:
        said = _said(connection)
        if said != READY:
            raise self._problem(number, said)

    def _cause(self, error: Exception) -> Exception:
        """Why the exchange failed: what the rank says that failed itself, and has not only lost another."""
        deadline = time.monotonic() + GRACE
        left = dict(enumerate(self.connections, 1))
        while left and time.monotonic() < deadline:
            for number, connection in list(left.items()):
                if connection.poll(GRACE / 100):
                    del left[number]
                    said = _said(connection)
                    if not isinstance(said, Trouble) or said.kind != LOST:
                        return self._problem(number, said)
        return error

    def _problem(self, number: int, said: Trouble | None) -> Exception:
        """As rank 0 raises it."""
        who = f"rank {number} of {self.ranks.count}"
        if said is None:
            self.processes[number - 1].join(GRACE)
            return RankLostError(
                f"{who} ended with exit code {self.processes[number - 1].exitcode}"
            )
        kinds = {MEMORY: torch.OutOfMemoryError, LOST: RankLostError}
        return kinds.get(said.kind, RuntimeError)(f"{said.words} on {who}")

    def _stand_by(self) -> None:
        """In a thread: where a rank has ended and rank 0 waits for it all the same, help it out of there."""
        wait([process.sentinel for process in self.processes])
        if self.idle.wait(GRACE):
            return
        self.given_up = True
        if self.use_gpu:
            distributed.distributed_c10d._abort_process_group()
        if not self.idle.wait(GRACE):
            print("another rank has ended, and this one waits for it", file=sys.stderr, flush=True)
            os._exit(1)


def _said(connection: Connection) -> Any:
    """What the other side has said; None where it has ended."""
    try:
        return connection.recv()
    except (EOFError, OSError):
        return None


def _end(processes: list[SpawnProcess], connections: list[Connection], folder: Path) -> None:
    """Nobody but rank 0 has anything to put away."""
    for process in processes:
        if process.pid is not None:
            process.kill()
            process.join()
    for connection in connections:
        connection.close()
    shutil.rmtree(folder, ignore_errors=True)


def _join(ranks: Ranks, use_gpu: bool, folder: Path) -> None:
    """Meet the others, by a file that only this user can open."""
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all are on this machine
    if use_gpu:
        torch.cuda.set_device(ranks.number)
    store = distributed.FileStore(str(folder / "store"), ranks.count)
    distributed.init_process_group(
        "nccl" if use_gpu else "gloo",
        store=store,
        rank=ranks.number,
        world_size=ranks.count,
        timeout=LONGEST,
    )


def _follow(ranks: Ranks, use_gpu: bool, folder: Path, connection: Connection) -> None:
    """Another rank's life: it does what rank 0 does, until that lets go of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 knows what to do
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    try:
        from trainables.trainable import Workplace  # which imports this file

        connection.send(READY)
        _join(ranks, use_gpu, folder)
        _obey(ranks, connection, Workplace)
    except EOFError:
        pass
    except Exception as error:  # the boundary: rank 0 tells of it
        kind = LOST if isinstance(error, RankLostError | distributed.DistError) else RAISED
        with suppress(OSError):
            told = Trouble(MEMORY if out_of_memory(error) else kind, in_a_line(error))
            connection.send(told)
    os._exit(0)  # at once: Python takes seconds to put away what nobody needs


def _obey(ranks: Ranks, connection: Connection, workplace: type[Workplace]) -> None:
    """Build students and train epochs as rank 0 says; raises EOFError where it has gone."""
    place: Workplace | None = None
    run: Training | None = None
    while True:
        what = connection.recv()
        if isinstance(what, Student):
            place = place.moved(what.task) if place else workplace(what.task)
            run = None  # its memory is needed
            run = place.training(what.config, ranks)
            if what.state:
                run.load(_loaded(what.state))
        elif run is not None:
            run.train_epoch()


def _loaded(state: bytes) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
    return found


def _end_with_parent() -> None:
    """In a thread: end this process when the one that started it has, however that was."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
