"""What every benchmark prints: a Markdown section with its table, the machine and the versions.

`--write` puts the section into RESULTS.md, between the benchmark's two markers; text outside them is a person's.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "RESULTS.md"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def load_average() -> str:
    """Processes that wanted a core, over the last one, five and fifteen minutes."""
    return " ".join(f"{load:.2f}" for load in os.getloadavg())


def machine(packages: Sequence[str], load_before: str) -> str:
    """The line below a table: when, where, how busy, and which versions."""
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    parts = [day, f"{os.cpu_count()} cores, {cpu_model()}", f"Python {platform.python_version()}"]
    parts += [f"{name} {version(name)}" for name in packages]
    parts += [f"load average {load_before} before and {load_average()} after"]
    return "; ".join(parts) + "."


def cpu_model() -> str:
    """The processor as the system names it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.machine()


def publish(name: str, section: str, *, write: bool) -> None:
    """Print a benchmark's section; where asked, replace the one in RESULTS.md."""
    print(section)
    if write:
        RESULTS.write_text(replaced(RESULTS.read_text(encoding="utf-8"), name, section), "utf-8")


def run(name: str, about: str, section: Callable[[], str]) -> None:
    """A benchmark from the command line, where `--write` is all that there is to say; `about` is its docstring."""
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="replace the section in RESULTS.md")
    given = parser.parse_args()
    publish(name, section(), write=given.write)


def run_on_device(name: str, about: str, section: Callable[[int, str], str], rounds: int) -> None:
    """A benchmark of so many rounds on a CPU or a GPU, whose sections have names of their own."""
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=rounds, help=f"default {rounds}")
    parser.add_argument("--write", action="store_true", help="replace the section in RESULTS.md")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default cpu")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device must be cpu where torch sees no GPU, got cuda")
    section_name = name if given.device == "cpu" else f"{name}_gpu"
    publish(section_name, section(given.rounds, given.device), write=given.write)


def replaced(text: str, name: str, section: str) -> str:
    """`text` with `section` between the markers of `name`; raises ValueError where they are not there."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before, found, rest = text.partition(begin)
    _, also_found, after = rest.partition(end)
    if not (found and also_found):
        raise ValueError(
            f"{RESULTS.name} must hold the lines {begin} and {end}, got neither or one"
        )
    return f"{before}{begin}\n\n{section.strip()}\n\n{end}{after}"
