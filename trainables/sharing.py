"""A GPU that trials share: none may take more of its memory than its share, so that it starves no neighbour."""

from __future__ import annotations

import torch

CONTEXT_BYTES = 600 * 2**20  # that CUDA and its libraries take in each process, uncounted by torch


def allocatable(share: float, total_bytes: int) -> float:
    """What part of a GPU's memory torch may allocate for a trial that has `share` of it: at least half of that."""
    return max(share / 2, share - CONTEXT_BYTES / total_bytes)


def keep_to(share: float) -> None:
    """Have this process run out of memory where it would take more than its `share` of its GPU."""
    if 0 < share < 1:
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        torch.cuda.set_per_process_memory_fraction(allocatable(share, total))
