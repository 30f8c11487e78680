"""A cluster of real Ray nodes on this machine; those that are added do not see the searches' folder, where they may."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from ray._private.services import node_ip_address_from_perspective
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster

from tuner import heads

PATIENCE = 90.0  # seconds until a node has joined, on slow machines
BLIND = "mount -t tmpfs none {out} && exec {ray}"  # in a mount namespace of its own


def may_unshare() -> bool:
    """Whether this user may have a mount namespace: root, as in most containers of a CI."""
    asked = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /mnt"]
    with suppress(OSError):
        return subprocess.run(asked, capture_output=True, check=False).returncode == 0
    return False


class Raylets:
    """A head of one CPU, and nodes of one CPU that come and go."""

    def __init__(self, out: Path) -> None:
        heads.ensure_token()
        self.out, self.nodes = out, dict[str, subprocess.Popen[bytes]]()
        self.blind = may_unshare()
        own = node_ip_address_from_perspective()  # not loopback: drivers join the head among equals
        head = {"num_cpus": 1, "include_dashboard": False, "node_ip_address": own}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)

    @property
    def address(self) -> str:
        """HOST:PORT of the head."""
        return str(self.cluster.address)

    def add(self, home: Path, *, wait: bool = True) -> str:
        """One more node, with a temporary folder of its own; its name."""
        home.mkdir()
        ray = f"{sys.executable} -m ray.scripts.scripts start --address={self.address} --num-cpus=1 --block"
        command = BLIND.format(out=self.out, ray=ray) if self.blind else f"exec {ray}"
        unshared = ["unshare", "--mount"] if self.blind else []
        with (home / "log").open("wb") as log:
            self.nodes[home.name] = subprocess.Popen(
                [*unshared, "sh", "-c", f"{command} --object-store-memory=80000000"],
                env={**os.environ, "TMPDIR": str(home), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            self.wait_for(1 + len(self.nodes))
        return home.name

    def wait_for(self, n_alive: int) -> None:
        """Until so many nodes have joined."""
        head, deadline = GcsClient(address=self.address), time.monotonic() + PATIENCE
        while sum(node.state == 0 for node in head.get_all_node_info().values()) < n_alive:
            assert time.monotonic() < deadline, "a node must join"
            time.sleep(0.5)

    def kill(self, name: str) -> None:
        """SIGKILL to a node's raylet, as if its machine had gone; its workers follow."""
        os.kill(_raylet_of(self.nodes.pop(name).pid), signal.SIGKILL)

    def close(self) -> None:
        """End all that was started here."""
        for process in self.nodes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.nodes.values():
            process.wait(timeout=60)
        self.cluster.shutdown()


def _raylet_of(session: int) -> int:
    """The process id of the raylet in a session of processes."""
    for process in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            name = (process / "comm").read_text(encoding="ascii").strip()
            if name == "raylet" and os.getsid(int(process.name)) == session:
                return int(process.name)
    raise AssertionError(f"a node must have a raylet, got none in session {session}")
