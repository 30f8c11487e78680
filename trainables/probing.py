"""The probe of a search: once a student, device and batch; its finding is kept, so that a resumed search agrees."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import asdict
from pathlib import Path

import torch

from trainables import records
from trainables.data.splits import Facts
from trainables.precision import Precision, probe
from trainables.seeding import seeded
from trainables.teacher import build_for

VERSION = 1  # of what is kept
Finding = tuple[Precision, dict[str, float]]  # how to train, and milliseconds a step by way


def probed(
    student: str,
    facts: Facts,
    batch_size: int,
    bfloat16: bool | None,
    channels_last: bool | None,
    root: Path,
    device: str = "cpu",
) -> Finding:
    """How to train `student`, and what was measured, from the file or from a new probe."""
    torch.set_num_threads(1)
    machine = torch.cuda.get_device_name() if device == "cuda" else _cpu()
    asked = [student, facts.channels, facts.size, batch_size, bfloat16, channels_last]
    key = json.dumps([*asked, machine, torch.__version__])
    path = root / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    try:
        known = records.read(path, VERSION, "it is probed again")
        return Precision(**known["chosen"]), known["milliseconds"]
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"took no notice of what an earlier probe found: {error!r}", stacklevel=2)
    with seeded(0, "probe"):
        images = torch.rand(batch_size, facts.channels, facts.size, facts.size).to(device)
        chosen, milliseconds = probe(
            lambda: build_for(student, facts), images, bfloat16, channels_last
        )
    root.mkdir(parents=True, exist_ok=True)
    about = {"asked": key, "chosen": asdict(chosen), "milliseconds": milliseconds}
    records.write(path, about, VERSION)
    return chosen, milliseconds


def _cpu() -> str:
    return f"{torch.backends.cpu.get_cpu_capability()}, one thread"
