"""A cluster of real Ray nodes on this machine; those that are added do not see the searches' folder, where they may."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ray._private.services import node_ip_address_from_perspective
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.exceptions import RayError

from tests.conftest import ROOT
from tests.serving import free_port
from tuner import heads, session

PATIENCE = 240.0  # seconds until a node has joined, on slow machines
SOON = {  # the head misses a node that is silent for ten seconds or so, where Ray waits for a minute
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}
TRAINING = "ray::ResourceTrainable.train"  # what Ray calls a trial's process in its epoch
SMALL = "--object-store-memory=80000000"
MANY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}  # nodes, so that loopback will not do for Ray
PROMPT = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}  # its nodes are processes
EMPTY_TABLES = ("auth", "docker", "file_mounts")  # asked for all the same
EMPTY_LISTS = (
    *("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands"),
    *("setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands"),
)
PROVIDER = {
    "type": "external",
    "module": "tests.provider.Provider",
    "use_node_id_as_ip": True,
    "disable_node_updaters": True,
    "disable_launch_config_check": True,
}
AUTOSCALING: dict[str, Any] = {
    "cluster_name": "fake",
    "max_workers": 1,
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 1},
    },
    "head_node_type": "ray.head.default",
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 5,
    "file_mounts_sync_continuously": False,
    **{key: {} for key in EMPTY_TABLES},
    **{key: [] for key in EMPTY_LISTS},
}
BLIND = "mount -t tmpfs none {out} && exec {ray}"  # in a mount namespace of its own


def may_unshare() -> bool:
    """Whether this user may have a mount namespace: root, as in most containers of a CI."""
    asked = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /mnt"]
    with suppress(OSError):
        return subprocess.run(asked, capture_output=True, check=False).returncode == 0
    return False


class Growing:
    """A head of one CPU whose autoscaler, Ray's own, starts another node of one CPU where somebody waits for it."""

    def __init__(self, home: Path) -> None:
        heads.ensure_token()
        own, port = node_ip_address_from_perspective(), free_port()
        self.address = f"{own}:{port}"
        config = home.with_suffix(".json")
        folder = folder_for_sockets()
        provider = {**PROVIDER, "gcs_address": self.address, "folder": str(folder)}
        config.write_text(json.dumps({**AUTOSCALING, "provider": provider}), encoding="ascii")
        asked = ["--head", f"--node-ip-address={own}", f"--port={port}"]
        asked += ["--include-dashboard=false", f"--autoscaling-config={config}"]
        self.node = Node(home, *asked, ray=folder, PYTHONPATH=str(ROOT), **PROMPT)
        self.wait_for(1)

    def wait_for(self, n_alive: int) -> None:
        """Until so many nodes are alive, the head among them."""
        _wait_for_nodes(self.address, n_alive)

    def kill(self) -> None:
        """SIGKILL to all of it, its nodes included."""
        self.node.signal(signal.SIGKILL)
        self.node.end()


class Raylets:
    """A head of one CPU, and nodes of one CPU that come and go."""

    def __init__(self, out: Path) -> None:
        heads.ensure_token()
        self.out, self.alive = out, dict[str, Node]()
        self.nodes: dict[str, Node] = {}  # all that there ever were
        self.blind = may_unshare()
        own = node_ip_address_from_perspective()  # not loopback: drivers join the head among equals
        head = {"num_cpus": 1, "include_dashboard": False, "node_ip_address": own}
        with patch.dict(os.environ, SOON):
            self.cluster = Cluster(initialize_head=True, head_node_args=head)

    @property
    def address(self) -> str:
        """HOST:PORT of the head."""
        return str(self.cluster.address)

    def add(self, *homes: Path, **told: str) -> None:
        """More nodes, called as their folders, with an environment that tells them more."""
        hidden = self.out if self.blind else None
        for home in homes:
            made = Node(home, "--address", self.address, hidden=hidden, **told)
            self.nodes[home.name] = self.alive[home.name] = made
        _wait_for_nodes(self.address, 1 + len(self.alive))

    def kill(self, name: str) -> None:
        """As if its machine had gone."""
        self.alive.pop(name).kill_raylet()

    def freeze(self, name: str) -> None:
        """As if its network had gone: SIGSTOP to all of it."""
        self.alive.pop(name).signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Let it go on, and wait until it has ended by itself, as the head counts it as dead."""
        self.nodes[name].signal(signal.SIGCONT)
        self.nodes[name].process.wait(timeout=PATIENCE)

    def trains(self, name: str) -> bool:
        """Whether a trial is in the middle of an epoch on the node."""
        return any(title.startswith(TRAINING) for _, title in self.nodes[name].processes())

    def close(self) -> None:
        """End all that was started here."""
        for node in self.nodes.values():
            node.end()
        self.cluster.shutdown()


class Node:
    """`ray start` with temporary folders of its own, in a session of its own, blind for the folder `hidden`."""

    def __init__(
        self,
        home: Path,
        *flags: str,
        hidden: Path | None = None,
        ray: Path | None = None,
        **told: str,
    ) -> None:
        home.mkdir()
        self.home = home
        # Ray's own folder of a node, where the code lies that was sent to it
        self.ray = ray or folder_for_sockets()
        start = [sys.executable, "-m", "ray.scripts.scripts", "start", *flags]
        command_line = shlex.join(
            [*start, f"--temp-dir={self.ray}", "--num-cpus=1", "--block", SMALL]
        )
        command = ["sh", "-c", f"exec {command_line}"]
        if hidden:
            blind = BLIND.format(out=hidden, ray=command_line)
            command = ["unshare", "--mount", "sh", "-c", blind]
        with (home / "log").open("wb") as log:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, "TMPDIR": str(home), **MANY, **told},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def processes(self) -> Iterator[tuple[int, str]]:
        """All of it, with their titles."""
        for process in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                if os.getsid(int(process.name)) == self.process.pid:
                    title = (process / "cmdline").read_bytes().replace(b"\0", b" ")
                    yield int(process.name), title.decode(errors="replace").strip()

    def signal(self, number: signal.Signals) -> None:
        """To all of it."""
        for process, _ in list(self.processes()):
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def kill_raylet(self) -> None:
        """SIGKILL, as if its machine had gone; its workers follow."""
        for process, title in self.processes():
            if Path(title.partition(" ")[0]).name == "raylet":
                os.kill(process, signal.SIGKILL)
                return
        raise AssertionError(f"a node must have a raylet, got none in {self.home}")

    def end(self) -> None:
        """All of it, and Ray's folder."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=30)
        self.signal(signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.ray, ignore_errors=True)


def folder_for_sockets() -> Path:
    """One with a short name."""
    return Path(tempfile.mkdtemp(prefix="kdtune-node-", dir=session.roomy()))


def _wait_for_nodes(address: str, n_alive: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while _n_alive(address) != n_alive:
        assert time.monotonic() < deadline, f"{n_alive} nodes must be alive"
        time.sleep(0.5)


def _n_alive(address: str) -> int:
    """0 where the head does not answer yet."""
    with suppress(RayError):
        return sum(n.state == 0 for n in GcsClient(address=address).get_all_node_info().values())
    return 0
