"""The driver's handle on the mirroring process, and what is delivered after a search has ended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tuner import addresses
from tuner.journal import FILE
from tuner.tracked import LOG, STATE, State

QUICK = "20"  # seconds that a request may take
PATIENCE = 60.0  # seconds that the end of a search waits for a server that does not answer


class Mirror:
    """The mirroring process of a search and of those beside it.

    It is started, let go of at the end, and never waited for in between.
    """

    def __init__(
        self,
        folder: Path,
        uri: str,
        artifacts: Path,
        others: Iterable[Path] = (),
        *,
        patience: float = PATIENCE,
    ) -> None:
        """`others`: folders of searches beside the first, of one experiment with it.

        `patience`: seconds that a server which does not answer is waited for once the driver has finished.
        """
        self.folder, self.uri, self.artifacts, self.patience = folder, uri, artifacts, patience
        self.others = tuple(others)
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
        environment["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
        environment["MLFLOW_HTTP_REQUEST_TIMEOUT"] = QUICK
        environment["GIT_PYTHON_REFRESH"] = "quiet"
        environment |= addresses.environment(self.uri)
        arguments = [str(self.folder), str(self.artifacts), str(self.patience)]
        arguments += map(str, self.others)
        with (self.folder / LOG).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "tuner.tracking", *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C in the terminal is for the driver
            )

    def finish(self, within: float | None = None) -> bool:
        """Let the mirror deliver the rest; whether all was delivered `within` so many seconds (its patience and 30).

        One that somebody has killed is started again. One that is still at it, as a slow server lets it, goes on alone.
        """
        if self.process.poll() is not None:
            self.process = self._start()
        if self.process.stdin:
            self.process.stdin.close()
        try:
            return self.process.wait(self.patience + 30 if within is None else within) == 0
        except subprocess.TimeoutExpired:
            return False

    def trouble(self) -> str:
        """Why not everything has been delivered."""
        if self.process.poll() is None:
            return f"it is slow: process {self.process.pid} goes on delivering"
        lines = (self.folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        return lines[-1] if lines else f"exit status {self.process.returncode}"

    def runs(self) -> State:
        """What has been delivered so far."""
        return State.load(self.folder / STATE)


def behind(folder: Path, uri: str | None = None) -> bool:
    """Whether MLflow, at `uri` where that is given, lacks a part of the journal in `folder`, or has a run left open."""
    if not (folder / FILE).exists():
        return False
    state = State.load(folder / STATE)
    elsewhere = uri is not None and addresses.redacted(uri) != state.store
    return elsewhere or state.offset < (folder / FILE).stat().st_size or bool(state.open)
