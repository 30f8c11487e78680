"""Run an exported network in a process that has nothing of the one that made it.

    python -m trainables.exported FILE IMAGES ANSWER

IMAGES is a safetensors file with uint8 `images`; ANSWER becomes one with `logits` (N, C) and `milliseconds` (the median
of a call with 1 and with BATCH images, on one thread). The images go through in batches of BATCH and a rest.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

BATCH = 64
CALLS = 30  # that are timed
WARM_UP = 3
Run = Callable[[Tensor], Tensor]  # images (B, channels, H, W) in [0, 1] -> logits (B, C)


def opened(path: Path) -> Run:
    """The network in a file, by the file's ending, on one thread."""
    if path.suffix == ".pt2":
        # unpickles: for files that were exported here just now
        return torch.export.load(path).module()
    if path.suffix == ".onnx":
        return _onnx(path)
    from trainables.champion import load_champion

    return load_champion(path.parent)


def _onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run(None, {taken.name: images.numpy()})
        return torch.from_numpy(logits)

    return run


def milliseconds(run: Run, images: Tensor) -> float:
    """The median of CALLS calls, after a warm-up."""
    seconds = []
    for _ in range(WARM_UP + CALLS):
        started = time.perf_counter()
        run(images)
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[WARM_UP:])


@torch.no_grad()
def main(arguments: list[str]) -> None:
    """Open, answer, time, write."""
    torch.set_num_threads(1)
    file, asked, answer = map(Path, arguments)
    run, images = opened(file), load_file(asked)["images"]
    logits = torch.cat([run(part.float() / 255) for part in images.split(BATCH)])
    first = images[:1].float() / 255
    times = [milliseconds(run, first), milliseconds(run, first.expand(BATCH, -1, -1, -1).clone())]
    save_file({"logits": logits.contiguous(), "milliseconds": torch.tensor(times)}, answer)


if __name__ == "__main__":
    main(sys.argv[1:])
