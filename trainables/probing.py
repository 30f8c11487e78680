"""The probe of a search: once a student, device and batch; its finding is kept, so that a resumed search agrees."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import torch

from trainables.data.splits import Facts, rename_into
from trainables.precision import Precision, probe
from trainables.seeding import seeded
from trainables.teacher import build_for


def probed(
    student: str,
    facts: Facts,
    batch_size: int,
    bfloat16: bool | None,
    channels_last: bool | None,
    root: Path,
    device: str = "cpu",
) -> tuple[Precision, dict[str, float]]:
    """How to train `student`, and what was measured (milliseconds a step), from the file or from a new probe."""
    torch.set_num_threads(1)
    machine = torch.cuda.get_device_name() if device == "cuda" else _cpu()
    asked = [student, facts.channels, facts.size, batch_size, bfloat16, channels_last]
    key = json.dumps([*asked, machine, torch.__version__])
    path = root / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return Precision(**known["chosen"]), known["milliseconds"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none yet, or damaged
    with seeded(0, "probe"):
        images = torch.rand(batch_size, facts.channels, facts.size, facts.size).to(device)
        chosen, milliseconds = probe(
            lambda: build_for(student, facts), images, bfloat16, channels_last
        )
    root.mkdir(parents=True, exist_ok=True)
    about = {"asked": key, "chosen": asdict(chosen), "milliseconds": milliseconds}
    rename_into(path, json.dumps(about, indent=1).encode())
    return chosen, milliseconds


def _cpu() -> str:
    return f"{torch.backends.cpu.get_cpu_capability()}, one thread"
