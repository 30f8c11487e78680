"""A cluster of real Ray nodes on this machine; those that are added do not see the searches' folder, where they may."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
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

from tests.serving import free_port
from tuner import heads

PATIENCE = 240.0  # seconds until a node has joined, on slow machines
SOON = {  # the head misses a node that is silent for ten seconds or so, where Ray waits for a minute
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}
TRIALS = (
    "ray::Trial",
    "ray::ResourceTrainable",
)  # what Ray calls their processes, idle and at work
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
    "type": "fake_multinode",
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
        home.mkdir()
        own, port = node_ip_address_from_perspective(), free_port()
        self.address = f"{own}:{port}"
        config = home / "autoscaling.json"
        provider = {**PROVIDER, "gcs_address": self.address}
        config.write_text(json.dumps({**AUTOSCALING, "provider": provider}), encoding="ascii")
        asked = ["--head", f"--node-ip-address={own}", f"--port={port}", "--num-cpus=1", "--block"]
        asked += ["--include-dashboard=false", f"--autoscaling-config={config}", SMALL]
        self.process = _ray_start(home, *asked, **MANY, **PROMPT)
        self.wait_for(1)

    def wait_for(self, n_alive: int) -> None:
        """Until so many nodes are alive, the head among them."""
        _wait_for_nodes(self.address, n_alive)

    def kill(self) -> None:
        """SIGKILL to all of it, its nodes included."""
        for process, _ in list(_session(self.process.pid)):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()


class Raylets:
    """A head of one CPU, and nodes of one CPU that come and go."""

    def __init__(self, out: Path) -> None:
        heads.ensure_token()
        self.out, self.nodes = out, dict[str, subprocess.Popen[bytes]]()
        self.homes: dict[str, Path] = {}  # of all that there ever were
        self.blind = may_unshare()
        own = node_ip_address_from_perspective()  # not loopback: drivers join the head among equals
        head = {"num_cpus": 1, "include_dashboard": False, "node_ip_address": own}
        with patch.dict(os.environ, SOON):
            self.cluster = Cluster(initialize_head=True, head_node_args=head)

    @property
    def address(self) -> str:
        """HOST:PORT of the head."""
        return str(self.cluster.address)

    def add(self, home: Path, *, wait: bool = True, **told: str) -> str:
        """One more node, with a temporary folder of its own, and an environment that tells it more; its name."""
        home.mkdir()
        self.homes[home.name] = home
        place = ["--address", self.address, "--num-cpus=1", "--block", SMALL]
        hidden = self.out if self.blind else None
        self.nodes[home.name] = _ray_start(home, *place, hidden=hidden, **MANY, **told)
        if wait:
            self.wait_for(1 + len(self.nodes))
        return home.name

    def wait_for(self, n_alive: int) -> None:
        """Until so many nodes are alive, the head among them."""
        _wait_for_nodes(self.address, n_alive)

    def kill(self, name: str) -> None:
        """SIGKILL to a node's raylet, as if its machine had gone; its workers follow."""
        os.kill(_raylet_of(self.nodes.pop(name).pid), signal.SIGKILL)

    def freeze(self, name: str) -> None:
        """SIGSTOP to all of a node, as if its network had gone; `thaw` lets it go on."""
        self._signal(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """SIGCONT to all of it."""
        self._signal(name, signal.SIGCONT)

    def wait_for_end(self, name: str) -> None:
        """Until a node that the head counts as dead has ended by itself."""
        self.nodes.pop(name).wait(timeout=PATIENCE)

    def _signal(self, name: str, number: signal.Signals) -> None:
        for process, _ in _session(self.nodes[name].pid):
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def trains(self, name: str) -> bool:
        """Whether a trial has a worker on the node."""
        return any(title.startswith(TRIALS) for _, title in _session(self.nodes[name].pid))

    def close(self) -> None:
        """End all that was started here."""
        for name, process in self.nodes.items():
            self.thaw(name)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.nodes.values():
            process.wait(timeout=60)
        self.cluster.shutdown()


def _ray_start(
    home: Path, *flags: str, hidden: Path | None = None, **told: str
) -> subprocess.Popen[bytes]:
    """`ray start` with a temporary folder of its own, in a session of its own, blind for the folder `hidden`."""
    ray = shlex.join([sys.executable, "-m", "ray.scripts.scripts", "start", *flags])
    command = ["sh", "-c", f"exec {ray}"]
    if hidden:
        command = ["unshare", "--mount", "sh", "-c", BLIND.format(out=hidden, ray=ray)]
    with (home / "log").open("wb") as log:
        return subprocess.Popen(
            command,
            env={**os.environ, "TMPDIR": str(home), **told},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _wait_for_nodes(address: str, n_alive: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while _n_alive(address) != n_alive:
        assert time.monotonic() < deadline, f"{n_alive} nodes must be alive"
        time.sleep(0.5)


def _n_alive(address: str) -> int:
    """None where the head does not answer yet."""
    with suppress(RayError):
        return sum(n.state == 0 for n in GcsClient(address=address).get_all_node_info().values())
    return 0


def _session(leader: int) -> Iterator[tuple[int, str]]:
    """The processes of a session, with their titles."""
    for process in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if os.getsid(int(process.name)) == leader:
                title = (process / "cmdline").read_bytes().replace(b"\0", b" ")
                yield int(process.name), title.decode(errors="replace").strip()


def _raylet_of(session: int) -> int:
    """The process id of the raylet in a session of processes."""
    for process, _ in _session(session):
        with suppress(OSError):
            if (Path("/proc") / str(process) / "comm").read_text("ascii").strip() == "raylet":
                return process
    raise AssertionError(f"a node must have a raylet, got none in session {session}")
