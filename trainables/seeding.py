"""Random draws with names: every generator is made from (seed, purpose, epoch), nothing is seeded globally."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_of(seed: int, purpose: str, epoch: int = 0) -> int:
    """A 63-bit seed that depends on all three and on nothing else."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(
    seed: int, purpose: str, epoch: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator for one purpose in one epoch ("order", "views", "mixing", "negatives")."""
    return torch.Generator(device).manual_seed(seed_of(seed, purpose, epoch))


@contextmanager
def seeded(seed: int, purpose: str, epoch: int = 0) -> Iterator[None]:
    """Torch's own stream under a named seed (weights, dropout), put back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(seed, purpose, epoch))
        yield
