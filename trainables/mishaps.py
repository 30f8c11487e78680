"""What an exception in a trial means: whether memory ran out, and how to tell it in a line."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch

NO_MEMORY = (  # in a RuntimeError of torch
    *("can't allocate memory", "CUDA out of memory", "CUDA error: out of memory"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),  # by CUDA's libraries
)


def out_of_memory(error: BaseException) -> bool:
    """Whether the process or its GPU had no memory left; in a fresh process there may be room."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def in_a_line(error: BaseException) -> str:
    """`ValueError: the message (mine.py, line 14)`: the last place that is not torch's own."""
    library = Path(torch.__file__).parent
    places = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if library not in Path(frame.filename).parents
    ]
    where = f" ({Path(places[-1].filename).name}, line {places[-1].lineno})" if places else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"
