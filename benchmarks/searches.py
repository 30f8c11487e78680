"""Whole searches of sixteen trials: kdtune against a plain Ray Tune function trainable, the same points and epochs.

    python -m benchmarks.searches --data-root FOLDER                  two or three hours on two quiet cores
    python -m benchmarks.searches --data-root FOLDER --write          the same, and replace the section in RESULTS.md
    python -m benchmarks.searches --data-root FOLDER --rounds FILE    keep each round there, and go on with those left

FOLDER holds Fashion-MNIST and CIFAR-10 as torchvision stores them. `--case lenet` or `--case resnet` and `--repeats 1`
make a quick try. The other side is tutorial.py, once with Ray's defaults and once with reuse_actors=True.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.sections import load_average, machine, publish, table
from benchmarks.watch import watch

REPEATS = 5
TEACHER_EPOCHS = 2  # enough to be asked something; how good it is costs no time
GRID = {"temperature": (2.0, 4.0, 8.0, 16.0), "alpha": (0.5, 0.7, 0.9, 1.0)}  # the published in it
FASTER = 3.3  # than the defaults, at least
OURS, STOPPING = "kdtune", "kdtune, default scheduler"
THEIRS, REUSED = "tutorial", "tutorial, reuse_actors"
WAYS = (OURS, THEIRS, REUSED, STOPPING)


@dataclass(frozen=True)
class Case:
    """One search; `n_images` are for training and validation together."""

    dataset: str
    teacher: str
    student: str
    n_images: int
    epochs: int


CASES = {
    "lenet": Case("fashion_mnist", "lenet5", "lenet5_half", 6000, 5),
    "resnet": Case("cifar10", "resnet56", "resnet20", 2000, 3),
}


def given(case: Case, root: Path, scheduler: str | None) -> dict[str, Any]:
    """The search's settings; None for the default scheduler."""
    points = tuple(f"{name}=grid({','.join(map(str, values))})" for name, values in GRID.items())
    known = {"dataset": case.dataset, "teacher": case.teacher, "student": case.student}
    known |= {"subset": case.n_images, "epochs": case.epochs, "data_root": root}
    chosen = {"scheduler": scheduler} if scheduler else {}
    return {**known, **chosen, "search": "grid", "set": points}


def ours(job_file: Path) -> None:
    """Search once in this process, and print when Ray was ready and when all was searched."""
    from benchmarks import engine
    from trainables.data.splits import prepare
    from trainables.probing import probed
    from trainables.teacher import Teacher
    from trainables.trainable import Task
    from tuner import students

    job = json.loads(job_file.read_text(encoding="utf-8"))
    case, root, out = Case(**job["case"]), Path(job["data_root"]), Path(job["out"])
    made = engine.planned(out, **given(case, root, job["scheduler"]))
    facts = prepare(case.dataset, root, Path(job["cache"]), subset=case.n_images)
    with engine.running(made) as (journal, board):
        ready = time.time()
        batch_size = made.recipe.batch_size
        precision, _ = probed(case.student, facts, batch_size, None, None, out / "probes")
        task = Task(
            facts,
            Teacher(**job["teacher"]),
            case.student,
            made.recipe,
            precision=precision,
            cache_folder=str(out / "targets"),
            cache_bytes=made.cache_bytes,
        )
        students.train(students.search(made, task, journal, board))
        searched = time.time()
        ended = [student for student in board.story.students.values() if student.history]
        epochs = sum(len(student.history) for student in ended)
    told = {"trials": len(ended), "epochs": epochs, "precision": str(precision)}
    print(json.dumps({"mark": "ready", "time": ready}), flush=True)
    print(json.dumps({"mark": "searched", "time": searched, "errors": 0, **told}), flush=True)


def jobs_of(case: Case, root: Path, out: Path) -> dict[str, Path]:
    """The job file of each way; images and teacher are the same for all."""
    import numpy as np
    import torch

    from trainables.data.splits import open_split, prepare

    cache = out / "cache"
    facts = prepare(case.dataset, root, cache, subset=case.n_images)
    teacher, body = taught(case, facts, out)
    torch.save(body, out / "weights.pt")
    parts = {part: open_split(facts, part) for part in ("train", "val")}
    arrays = {f"{part}_images": split.images[:].numpy() for part, split in parts.items()}
    labels = {f"{part}_labels": split.labels.numpy() for part, split in parts.items()}
    np.savez(out / "images.npz", **arrays, **labels)
    own = {"case": asdict(case), "data_root": str(root), "cache": str(cache), "teacher": teacher}
    shape = {
        name: getattr(facts, name) for name in ("n_classes", "channels", "size", "mean", "std")
    }
    files = {"images": str(out / "images.npz"), "weights": str(out / "weights.pt")}
    points = [
        {"temperature": temperature, "alpha": alpha, "epochs": case.epochs}
        for temperature in GRID["temperature"]
        for alpha in GRID["alpha"]
    ]
    known = {
        **shape,
        **files,
        "points": points,
        "lr": 0.05,
        "batch_size": 64,
        "epochs": case.epochs,
    }
    known |= {"teacher": case.teacher, "student": case.student, "augment": augment_of(case)}
    jobs = {
        OURS: {**own, "scheduler": "none"},
        STOPPING: {**own, "scheduler": None},
        THEIRS: {**known, "reuse_actors": False},
        REUSED: {**known, "reuse_actors": True},
    }
    written = {}
    for number, (way, job) in enumerate(jobs.items()):
        written[way] = out / f"job-{number}.json"
        written[way].write_text(json.dumps(job), encoding="utf-8")
    return written


def augment_of(case: Case) -> str:
    """The dataset's usual augmentation."""
    from trainables.data import sources

    return sources.SOURCES[case.dataset].augment


def taught(case: Case, facts: Any, out: Path) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """A teacher trained for a few epochs and stored: its record, and its weights without the normalisation's."""
    import torch
    from safetensors.torch import save

    from trainables.data.splits import open_split
    from trainables.methods import load
    from trainables.recipe import Recipe
    from trainables.teacher import Teacher, build_for
    from trainables.training import Training

    torch.set_num_threads(1)
    recipe, data = Recipe(epochs=TEACHER_EPOCHS), open_split(facts, "train")
    run = Training(load("vanilla"), {}, recipe, 0, lambda: build_for(case.teacher, facts), data)
    for _ in range(TEACHER_EPOCHS):
        run.train_epoch()
    content = save(run.student.state_dict())
    (out / "weights.safetensors").write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    record = asdict(Teacher(str(out), case.teacher, 0.0, sha256, TEACHER_EPOCHS))
    return record, run.student.body.state_dict()


def once(way: str, job_file: Path) -> dict[str, Any]:
    """Run one search as a process of its own; raises ValueError where a trial did not end well."""
    job = json.loads(job_file.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="kdtune-benchmark-") as folder:
        here = Path(folder) / "job.json"
        here.write_text(json.dumps({**job, "out": f"{folder}/out", "storage": f"{folder}/ray"}))
        mine = way in (OURS, STOPPING)
        command = ["benchmarks.searches", "--one"] if mine else ["benchmarks.tutorial"]
        seen = watch(["-m", *command, str(here)])
    marks = [json.loads(text) for _, text in seen.lines if text.startswith('{"mark"')]
    found = {mark["mark"]: mark for mark in marks}
    if seen.status or "searched" not in found or found["searched"]["errors"]:
        last = "\n".join(text for _, text in seen.lines[-5:])
        raise ValueError(f"every trial of {way} must end well, got:\n{last}")
    ready, searched = found["ready"]["time"], found["searched"]["time"]
    whole = searched - seen.started
    return {**found["searched"], "search": searched - ready, "whole": whole}


def case_rows(case: Case, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[list[str]]:
    """A line for each way: seconds, and how many times as long it takes as kdtune without early stopping."""
    rows = []
    for way, found in runs.items():
        cells = [
            f"{case.teacher} -> {case.student}",
            way,
            str(found[0].get("epochs", 16 * case.epochs)),
        ]
        for part in ("search", "whole"):
            ratios = [run[part] / mine[part] for run, mine in zip(found, runs[OURS], strict=True)]
            cells += [f"{median(run[part] for run in found):.1f}", f"{median(ratios):.2f}"]
        rows.append(cells)
    return rows


def rounds(name: str, root: Path, repeats: int, file: Path | None) -> list[dict[str, Any]]:
    """At least so many rounds of all ways, those that `file` has among them; a round that is made is added to it."""
    lines = file.read_text(encoding="utf-8").splitlines() if file and file.exists() else []
    known = [found for case, found in map(json.loads, lines) if case == name]
    if len(known) >= repeats:
        return known
    with tempfile.TemporaryDirectory(prefix="kdtune-benchmark-") as folder:
        jobs = jobs_of(CASES[name], root, Path(folder))
        for _ in range(repeats - len(known)):
            known.append({way: once(way, jobs[way]) for way in WAYS})
            if file:
                with file.open("a", encoding="utf-8") as kept:
                    kept.write(json.dumps([name, known[-1]]) + "\n")
    return known


def section(names: Sequence[str], root: Path, repeats: int, file: Path | None) -> str:
    """Measure everything; the Markdown section."""
    before, rows, counted, precisions = load_average(), [], [], []
    for name in names:
        case, found = CASES[name], rounds(name, root, repeats, file)
        runs = {way: [one[way] for one in found] for way in WAYS}
        rows += case_rows(case, runs)
        counted.append(f"{len(found)} of {case.student}")
        precisions.append(f"{case.student} in {runs[OURS][0]['precision']}")
    header = ("teacher -> student", "way", "epochs in all", "search s", "/ kdtune")
    said = (
        f"16 trials; medians of rounds of all ways, {' and '.join(counted)}; target: the tutorial takes {FASTER} times "
        f"as long as kdtune. kdtune trains {', '.join(precisions)}."
    )
    made = table((*header, "with start of the process s", "/ kdtune"), rows)
    return f"{made}\n\n{said} {machine(('ray', 'torch'), before)}"


def main() -> None:
    """Run the benchmark, or one search of ours."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--data-root", type=Path, help="folder of both datasets")
    parser.add_argument("--case", choices=tuple(CASES), help="default: both")
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"default {REPEATS}")
    parser.add_argument("--rounds", type=Path, help="file of rounds, made or gone on with")
    parser.add_argument("--write", action="store_true", help="replace the section in RESULTS.md")
    parser.add_argument("--one", type=Path, metavar="JOB", help="one search in this process")
    asked = parser.parse_args()
    if asked.one:
        ours(asked.one)
        return
    if asked.data_root is None:
        parser.error("--data-root must name the folder of the datasets, got none")
    names = [asked.case] if asked.case else list(CASES)
    found = section(names, asked.data_root, asked.repeats, asked.rounds)
    publish("searches", found, write=asked.write)


if __name__ == "__main__":
    main()
