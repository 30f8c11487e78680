"""Every node of the cluster that was joined is asked: what it has, and to delete what it needs no more."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from tuner import nodes
from tuner.nodes import Node

ANSWER = 60.0  # seconds to wait for a node to say what it has
TIDYING = 5.0  # seconds to wait for nodes to delete what they need no more


def present() -> tuple[Node, ...]:
    """What each node has; raises ValueError where one does not answer."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    return tuple(
        Node(
            node["NodeManagerAddress"],
            node["Resources"].get("CPU", 0),
            node["Resources"].get("GPU", 0),
            versions,
            frozenset(node["Resources"]),
        )
        for node, versions in zip(alive, _versions(alive), strict=True)
    )


def _versions(alive: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Of Python and packages on each node."""
    import ray

    asked = [
        ray.remote(num_cpus=0)(nodes.versions).options(scheduling_strategy=on(node["NodeID"]))
        for node in alive
    ]
    try:
        found: list[dict[str, str]] = ray.get([one.remote() for one in asked], timeout=ANSWER)
    except ray.exceptions.GetTimeoutError:
        raise ValueError(
            f"every node must start a process within {ANSWER:.0f} s, got none"
        ) from None
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"every node must be able to start a process, got: {reason}") from None
    return found


def tidy(token: str) -> None:
    """Delete what a search had on each node that answers soon; what is left is deleted by a later search."""
    import ray

    from trainables.depot import leave

    work = ray.remote(num_cpus=0, max_retries=0)(leave)
    with suppress(ray.exceptions.RayError):
        alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        asked = [work.options(scheduling_strategy=on(node)).remote(token) for node in alive]
        ray.wait(asked, num_returns=len(asked), timeout=TIDYING)


def on(node: str, *, soft: bool = False) -> Any:
    """Ray's way to say that a task runs there; elsewhere if need be, where `soft`."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=soft)
