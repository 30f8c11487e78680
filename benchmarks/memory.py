"""How much memory the images take when many trials read them: one copy a node, or one a process.

    python -m benchmarks.memory --dataset cifar100 --processes 8 --data-root FOLDER [--write]

So many processes open a dataset as trials do and read every training and validation image. Each then adds up the
mappings of the Arrow file in its own /proc/self/smaps (Linux): RSS counts a shared page in every process, PSS its
share, so the sum of PSS is what the node spends. With `--made-up` the images are random ones of the dataset's size.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sections import load_average, machine, publish, table

MB = 1024  # kB
N_MADE_UP = 50_000, 10_000  # training and test images


def main() -> None:
    """Measure, print, and where asked write the section of RESULTS.md."""
    parser = argparse.ArgumentParser(description="Memory of the images over many processes.")
    parser.add_argument("--dataset", default="cifar100")
    parser.add_argument("--data-root", type=Path, default=Path("runs/data"))
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument(
        "--made-up", action="store_true", help="random images in the dataset's place"
    )
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    given = parser.parse_args()
    before = load_average()
    with tempfile.TemporaryDirectory() as folder:
        facts = _facts(given, Path(folder))
        rows = measure(facts, given.processes)
    publish("memory", section(given, facts, rows, before), write=given.write)


def measure(facts: Any, n_processes: int) -> list[dict[str, float]]:
    """kB by process: `rss` and `pss` of the Arrow file, `file` its size, and `private`, what is nobody else's."""
    context = multiprocessing.get_context("spawn")
    everybody = context.Barrier(n_processes)
    answers: Any = context.Queue()
    workers = [
        context.Process(target=read_all, args=(facts, everybody, answers))
        for _ in range(n_processes)
    ]
    for worker in workers:
        worker.start()
    found = [answers.get() for _ in workers]
    for worker in workers:
        worker.join()
    return found


def read_all(facts: Any, everybody: Any, answers: Any) -> None:
    """What each process does: touch every image, wait for the others, look at its own mappings, wait again."""
    import torch

    from trainables.data.splits import open_split

    torch.set_num_threads(1)
    splits = [open_split(facts, "train"), open_split(facts, "val")]
    sums = [int(images.sum()) for split in splits for images in split.images.split(500)]
    everybody.wait()
    found = mappings(str(Path(facts.folder) / "train.arrow"))
    everybody.wait()
    answers.put({**found, "sum": sum(sums)})


def mappings(path: str) -> dict[str, float]:
    """kB of this process's mappings of a file, from /proc/self/smaps."""
    totals = {"rss": 0.0, "pss": 0.0, "private": 0.0, "file": Path(path).stat().st_size / 1024}
    words = {"Rss:": "rss", "Pss:": "pss", "Private_Clean:": "private", "Private_Dirty:": "private"}
    here = False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):  # the line of addresses, with the file at its end
            here = line.endswith(path)
        elif here and first in words:
            totals[words[first]] += float(rest[0])
    return totals


def section(
    given: argparse.Namespace, facts: Any, found: list[dict[str, float]], before: str
) -> str:
    """The table, the sentence above it, and the machine."""
    n, size = len(found), found[0]["file"]
    known = {name: sum(one[name] for one in found) for name in ("rss", "pss", "private")}
    rows = [
        ["the Arrow file", f"{size / MB:.1f}"],
        [f"sum of RSS over {n} processes", f"{known['rss'] / MB:.1f}"],
        [f"sum of PSS over {n} processes: what the node spends", f"{known['pss'] / MB:.1f}"],
        ["copies of the images in memory", f"{known['pss'] / size:.2f}"],
        ["private pages of the mapping", f"{known['private'] / MB:.1f}"],
    ]
    made_up = " --made-up" if given.made_up else ""
    kind = "random images of its size" if given.made_up else "the published images"
    shape = f"{facts.n_train + facts.n_val} of {facts.channels}x{facts.size}x{facts.size}"
    intro = f"`python -m benchmarks.memory --dataset {given.dataset} --processes {n}{made_up}`, {kind}, {shape}:"
    below = machine(("torch", "pyarrow"), before)
    return "\n\n".join([intro, table(("memory", "MB"), rows), below])


def _facts(given: argparse.Namespace, folder: Path) -> Any:
    from trainables.data import shelf, splits
    from trainables.data.decoding import Decoded
    from trainables.data.sources import SOURCES

    root = given.data_root.expanduser().resolve()
    if not given.made_up:
        return splits.prepare(given.dataset, root, folder)
    entry, draws = SOURCES[given.dataset], np.random.default_rng(0)
    shape = entry.channels, entry.size, entry.size
    images = [draws.integers(0, 256, (n, *shape), dtype=np.uint8) for n in N_MADE_UP]
    labels = [np.arange(n, dtype=np.int64) % entry.n_classes for n in N_MADE_UP]
    classes = tuple(map(str, range(entry.n_classes)))
    decoded = Decoded(images[0], labels[0], images[1], labels[1], classes)
    shelf.decode = lambda *_: decoded
    return splits.prepare(given.dataset, folder, folder)


if __name__ == "__main__":
    main()
