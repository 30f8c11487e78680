"""Where the main job's wall time goes, what its driver costs, and how the tutorials' way compares.

    python -m benchmarks.main_job            a few minutes on two quiet cores
    python -m benchmarks.main_job --write    the same, and replace the section in RESULTS.md

1. `python tune.py --method kd` as a process of its own, nothing cached, its time split by the journal's events.
2. The driver's CPU time, its own without Ray's daemons and workers, for a trial and for a report.
3. The points that the search tried, for as many epochs as each was trained there, by a plain Ray Tune function
   trainable (tutorial.py).

Everything is imported once before, so that neither side waits for a cold disk.

Flags that are not this command's go to tune.py: `--trials 4 --epochs 4` makes a quick try.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.sections import load_average, machine, publish, table
from benchmarks.story import PARTS, Ours, read_ours
from benchmarks.watch import Watched, watch

NAME = "main"
WARM = "import mlflow, optuna, ray.tune, torchvision, tuner.search, trainables.trainable"
PACKAGES = ("ray", "torch", "optuna", "mlflow")


def ours(out: Path, flags: Sequence[str]) -> Ours:
    """Run the main job once; raises ValueError where it fails."""
    command = ["tune.py", "--method", "kd", "--out", str(out), "--name", NAME, *flags]
    seen = watch(command)
    if seen.status:
        last = "\n".join(text for _, text in seen.lines[-5:])
        raise ValueError(f"tune.py must end with status 0, got {seen.status}:\n{last}")
    return read_ours(out / NAME, seen)


def theirs(out: Path, run: Ours) -> dict[str, float]:
    """Run the tutorials' way once; seconds from its start until Ray is ready, and of the search.

    Raises ValueError where a trial fails.
    """
    job = out / "job.json"
    job.write_text(json.dumps(tutorial_job(out, run)))
    seen = watch(["-m", "benchmarks.tutorial", str(job)])
    marks = {m["mark"]: m for m in marks_of(seen)}
    if seen.status or "searched" not in marks or marks["searched"]["errors"]:
        last = "\n".join(text for _, text in seen.lines[-5:])
        raise ValueError(f"every trial of the tutorial must end well, got:\n{last}")
    ready, searched = marks["ready"]["time"], marks["searched"]["time"]
    threads = float(marks["searched"]["threads"])
    return {"start": ready - seen.started, "search": searched - ready, "threads": threads}


def marks_of(seen: Watched) -> list[dict[str, Any]]:
    """The JSON lines among what the tutorial printed."""
    return [json.loads(text) for _, text in seen.lines if text.startswith('{"mark"')]


def tutorial_job(out: Path, run: Ours) -> dict[str, Any]:
    """The same networks, images and points, in a form that knows nothing of kdtune."""
    import numpy as np
    import torch
    from safetensors.torch import load_file

    from trainables.data.splits import open_split, prepare

    facts = prepare(run.settings["dataset"], out / "data", out / "cache" / "data")
    train, val = open_split(facts, "train"), open_split(facts, "val")
    np.savez(
        out / "images.npz",
        train_images=train.images[:].numpy(),
        train_labels=train.labels.numpy(),
        val_images=val.images[:].numpy(),
        val_labels=val.labels.numpy(),
    )
    (weights,) = (out / "teachers").glob("*/weights.safetensors")
    body = {
        k.removeprefix("body."): v for k, v in load_file(weights).items() if k.startswith("body.")
    }
    torch.save(body, out / "weights.pt")
    known: dict[str, Any] = {"points": run.points, "mean": facts.mean, "std": facts.std}
    known |= {name: getattr(facts, name) for name in ("n_classes", "channels", "size")}
    known |= {name: run.settings[name] for name in ("teacher", "student", "epochs", "batch_size")}
    files = {"images": "images.npz", "weights": "weights.pt", "storage": "tutorial"}
    known |= {"augment": "none", "reuse_actors": False}
    return {**known, "lr": run.settings["lr"] or 0.1, **{k: str(out / v) for k, v in files.items()}}


def figure(values: Sequence[float], digits: int = 1) -> str:
    """The median and, of several, the range."""
    middle = f"{median(values):.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def wall_table(runs: Sequence[Ours]) -> str:
    """The parts of the main job."""
    rows = [[part, figure([run.parts[part] for run in runs])] for part in PARTS]
    rows.append(["whole job", figure([run.wall for run in runs])])
    return table(("part of the main job", "wall s"), rows)


def driver_table(runs: Sequence[Ours]) -> str:
    """What the driver costs."""
    rows = []
    if all(run.cpu is not None for run in runs):
        whole = [run.cpu or 0.0 for run in runs]
        search = [run.search_cpu or 0.0 for run in runs]
        pairs = list(zip(search, runs, strict=True))
        rows = [
            ["driver CPU, whole job, s", figure(whole)],
            ["driver CPU, search, s", figure(search, 2)],
            ["the same a trial, ms", figure([1e3 * s / run.n_trials for s, run in pairs])],
            ["the same a report, ms", figure([1e3 * s / run.n_reports for s, run in pairs])],
        ]
    idle = [1e3 * run.slot_idle / run.n_trials for run in runs]
    rows.append(["time of a slot not spent on training or validation, a trial, ms", figure(idle)])
    return table(("overhead", "measured"), rows)


def ratio_table(runs: Sequence[Ours], others: Sequence[dict[str, float]]) -> str:
    """Both ways, with and without the processes' start."""
    both = list(zip(runs, others, strict=True))
    without = [(run.search_wall, other["search"]) for run, other in both]
    full = [(r.start_wall + r.search_wall, o["start"] + o["search"]) for r, o in both]
    rows = [
        [
            words,
            *(figure([pair[i] for pair in pairs]) for i in (0, 1)),
            figure([b / a for a, b in pairs]) + "x",
        ]
        for words, pairs in (("search alone", without), ("with the start of the process", full))
    ]
    return table(("the same trials and epochs", "kdtune s", "tutorial s", "ratio"), rows)


def section(repeats: int, flags: Sequence[str]) -> str:
    """Measure everything; the Markdown section."""
    before, runs, others = load_average(), [], []
    watch(["-c", WARM])
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="kdtune-benchmark-") as folder:
            runs.append(ours(Path(folder), flags))
            others.append(theirs(Path(folder), runs[-1]))
    counts = ", ".join(
        f"{run.n_trials} trials, {run.n_reports} of {run.n_trials * run.settings['epochs']} epochs"
        for run in runs
    )
    s = runs[0].settings
    said = (
        f"{s['dataset']}, {s['teacher']} -> {s['student']}, up to {runs[0].slots} trials at once; "
    )
    said += (
        f"trained in the search: {counts}; {others[0]['threads']:.0f} torch thread(s) a trial of the tutorial"
        + (f"; {' '.join(flags)}" if flags else "")
        + "."
    )
    parts = [wall_table(runs), driver_table(runs), ratio_table(runs, others)]
    return "\n\n".join([*parts, f"{said} {machine(PACKAGES, before)}"])


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=1, help="of the whole comparison")
    parser.add_argument("--write", action="store_true", help="replace the section in RESULTS.md")
    given, flags = parser.parse_known_args()
    publish("main_job", section(given.repeats, flags), write=given.write)


if __name__ == "__main__":
    main()
