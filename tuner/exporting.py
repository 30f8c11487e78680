"""Models that leave: a recorded student's network as files, each loaded and compared in a process of its own.

The test set stays closed: what is compared, and the accuracy that 8 bits may cost, are on validation.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainables import exporting, records
from trainables.champion import read_weights
from trainables.data.splits import Split, open_split
from trainables.evaluation.predictions import predict, right, sample
from trainables.exported import BATCH
from tuner import stored
from tuner.progress import Board
from tuner.report import rich_table

FOLDER = "exports"
RECORD = "export.json"
VERSION = 1
TOLERANCE = 1e-4  # of logits, relative to the largest where that is above 1
MOST = 2000  # validation images that are compared
RANGES = 256  # training images that show the ranges of 8-bit maps
FAILED = 1  # exit status


@dataclass(frozen=True)
class Checked:
    """What a fresh process found in an exported file."""

    form: str
    file: str
    bytes: int
    sha256: str
    difference: (
        float  # of its logits from the network's, relative to the largest where that is above 1
    )
    accuracy: float  # on the same validation images
    milliseconds_1: float  # a call with one image, the median, on one thread
    milliseconds_64: float

    @property
    def agrees(self) -> bool:
        """Whether it answers as the network does; 8 bits need not."""
        return self.form in exporting.ROUNDED or self.difference <= TOLERANCE


def run(run_id: str, given: dict[str, Any]) -> int:
    """Export the student of that run in the forms of --format; 1 where a file does not answer alike, which is deleted.

    Raises ValueError for what is not there or cannot be exported.
    """
    forms = given.pop("format", ["safetensors"])
    for form in forms:
        exporting.check(form)
    torch.set_num_threads(1)
    board, found = Board(), stored.find(run_id, given, "--export")
    board.say(found.in_words())
    train, val = (open_split(found.facts, part) for part in ("train", "val"))
    seen = sample(train, RANGES, 0, "ranges").images[:]
    export = exporting.Export(found.about, found.facts, read_weights(found.weights), seen)
    some = sample(val, MOST, 0, "exported")
    some = Split(some.images[:], some.labels)
    expected = predict(export.network(), some.images)
    folder = found.place / FOLDER / found.run.run_id
    made = []
    for form in dict.fromkeys(forms):
        with board.waiting(f"exporting {form}"):
            path = exporting.write(form, export, folder)
            made.append(check(form, path, some, expected))
    return _tell(board, found, folder, made, right(expected, some.labels))


def check(form: str, path: Path, images: Split, expected: Tensor) -> Checked:
    """Load the file in a process of its own and compare its logits with those `expected` (N, C)."""
    with tempfile.TemporaryDirectory() as place:
        asked, answer = Path(place) / "images.safetensors", Path(place) / "answer.safetensors"
        save_file({"images": images.images[:].contiguous()}, asked)
        house = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
        command = [sys.executable, "-W", "ignore", "-m", "trainables.exported"]
        done = subprocess.run(
            [*command, str(path), str(asked), str(answer)],
            env={**os.environ, "PYTHONPATH": house, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no word"])[-1]
            raise ValueError(f"{path} must open in a process of its own, got: {reason[:200]}")
        told = load_file(answer)
    content = path.read_bytes()
    return Checked(
        form,
        path.name,
        len(content),
        hashlib.sha256(content).hexdigest(),
        difference(told["logits"], expected),
        right(told["logits"], images.labels).double().mean().item(),
        *told["milliseconds"].tolist(),
    )


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest between two networks' logits, relative to the largest logit where that is above 1; NaN stays NaN."""
    return ((found - expected).abs().max() / expected.abs().max().clamp(min=1)).item()


def _tell(
    board: Board, found: stored.Stored, folder: Path, made: Sequence[Checked], hits: Tensor
) -> int:
    """Write down and print what was made; delete what does not agree. The exit status."""
    wrong = [one for one in made if not one.agrees]
    for one in wrong:
        (folder / one.file).unlink()
    _write(found, folder, made)
    accuracy = hits.double().mean().item()
    rows = [["file", "size", "largest difference", "1 image", f"{BATCH} images", "val accuracy"]]
    for one in made:
        times = (f"{x:.2f} ms" for x in (one.milliseconds_1, one.milliseconds_64))
        size = f"{one.bytes / 1000:,.1f} kB"
        rows.append([one.file, size, f"{one.difference:.1e}", *times, f"{one.accuracy:.2%}"])
    board.console.print(rich_table("On this machine, one thread, median calls", rows))
    board.say(
        f"Each file was opened in a process of its own and asked about {len(hits)} validation images, of which the "
        f"network itself gets {accuracy:.2%}; the test set stays closed."
    )
    for one in wrong:
        board.say(
            f"{one.file} must answer as the network within {TOLERANCE:g}, got {one.difference:.1e}: deleted"
        )
    board.say(f"exports   {folder}")
    return FAILED if wrong else 0


def _write(found: stored.Stored, folder: Path, made: Sequence[Checked]) -> None:
    """What a user of the files has to know, beside them; forms that were made before stay in it."""
    path, facts = folder / RECORD, found.facts
    files = {one.form: asdict(one) if one.agrees else None for one in made}
    known = records.read(path, VERSION, "delete it")["files"] if path.exists() else {}
    about = {
        "run": found.run.run_id,
        "dataset": facts.dataset,
        "student": found.about["student"],
        "method": found.about["method"],
        "images": ["any number", facts.channels, facts.size, facts.size],
        "pixels": "float32 in [0, 1]; the normalisation is inside",
        "logits": ["any number", facts.n_classes],
        "classes": list(facts.classes),
        "torch": torch.__version__,
        "files": {form: told for form, told in {**known, **files}.items() if told},
    }
    records.write(path, about, VERSION)
