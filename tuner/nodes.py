"""The machines of a cluster: what each has, whether they go together, how many trials fit.

Decisions on plain data; `cluster.py` asks the machines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

NEEDED = ("ray", "torch", "torchvision", "numpy", "pyarrow", "safetensors", "PyYAML")  # by trials
SAME = ("Python", "ray", "torch")  # as the driver has
TYPE = "accelerator_type:"  # before the name of a kind of GPU, in Ray's resources
OWN = re.compile(
    r"CPU$|GPU$|memory$|object_store_memory$|node:"
)  # resources that every machine has


@dataclass(frozen=True)
class Node:
    """One machine."""

    address: str
    cpus: float
    gpus: float
    versions: dict[str, str] = field(default_factory=dict)  # "" for a package that is not there
    resources: frozenset[str] = frozenset()  # names of all that Ray knows of it

    def fits(self, cpus: float, gpus: float) -> int:
        """How many trials of so many CPUs and GPUs it can train at once; a trial is on one machine."""
        room = [self.cpus // cpus]
        if 0 < gpus < 1:
            room.append(int(self.gpus) * (1 // gpus))  # a share is of one GPU
        elif gpus:
            room.append(self.gpus // gpus)
        return int(min(room))


def fits(nodes: Iterable[Node], cpus: float, gpus: float) -> int:
    """On all of them."""
    return sum(node.fits(cpus, gpus) for node in nodes)


def resource_of(accelerator: str, nodes: Iterable[Node]) -> str:
    """Ray's name for a kind of GPU, or for a resource of the user's own."""
    typed = f"{TYPE}{accelerator}"
    return typed if any(typed in node.resources for node in nodes) else accelerator


def having(nodes: Sequence[Node], accelerator: str | None) -> Sequence[Node]:
    """The machines that have it, or all of them where none is asked for; raises ValueError where no machine has."""
    if accelerator is None:
        return nodes
    wanted = resource_of(accelerator, nodes)
    found = [node for node in nodes if wanted in node.resources]
    if not found:
        there = {name.removeprefix(TYPE) for node in nodes for name in node.resources}
        known = ", ".join(sorted(n for n in there if not OWN.match(n))) or "none"
        raise ValueError(
            f"--accelerator must be one that the cluster's {len(nodes)} nodes have ({known}), got {accelerator}"
        )
    return found


def check_room(
    nodes: Sequence[Node], cpus: int, gpus: float, accelerator: str | None = None
) -> None:
    """Raise ValueError where no machine can ever train a trial, with what the largest have."""
    these = f"{len(nodes)} nodes" + (f" with {accelerator}" if accelerator else "")
    most_cpus = max((node.cpus for node in nodes), default=0)
    most_gpus = max((node.gpus for node in nodes), default=0)
    for flag, asked, most in (("cpus", cpus, most_cpus), ("gpus", gpus, most_gpus)):
        if asked > most:
            raise ValueError(
                f"--{flag}-per-trial must be at most {most:g}, the most that one of the cluster's {these} "
                f"has now, got {asked:g}"
            )
    if not fits(nodes, cpus, gpus):
        raise ValueError(
            f"a trial must fit on one node, got {cpus} CPUs and {gpus:g} GPUs, which none of the cluster's "
            f"{these} has together"
        )


def check_versions(nodes: Iterable[Node], here: dict[str, str]) -> None:
    """Raise ValueError, saying what differs where, unless all have what the driver has and trials need."""
    for node in nodes:
        for name in NEEDED:
            if not node.versions.get(name):
                raise ValueError(f"every node must have {name}, got none on {node.address}")
    for name in SAME:
        others = {node.versions[name] for node in nodes} - {here[name]}
        if others:
            where = "; ".join(
                f"{other} on {', '.join(n.address for n in nodes if n.versions[name] == other)}"
                for other in sorted(others)
            )
            raise ValueError(f"every node must have the driver's {name} {here[name]}, got {where}")


def versions() -> dict[str, str]:
    """What this machine has."""
    import platform
    from importlib import metadata

    found = {"Python": platform.python_version()}
    for name in NEEDED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found
