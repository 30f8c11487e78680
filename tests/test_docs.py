"""The documentation's commands, run in order as a reader would, searches at a small size; its links, followed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tune
from tests.conftest import ROOT

DOCS = ROOT / "docs"
EXECUTED = ("tutorial", "your-data", "your-model", "your-teacher", "your-method")
FENCE = re.compile(r"^```(\w+) ?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([\w./-]+\.(?:md|png))(?:#[\w-]+)?\)")
SMALL = "--trials 2 --epochs 2 --confirm-top 1 --confirm-seeds 2 --evaluate none"
NO_SEARCH = {"--plan", "--list", "--status", "--report"}
SITE = "site"  # where what a page installs goes
PIP = f"--no-deps --no-build-isolation --quiet --target {SITE}"


def blocks(page: str) -> Iterator[tuple[str, str, str]]:
    """Language, words after it, and content of every fenced block."""
    return (match.groups() for match in FENCE.finditer((DOCS / page).read_text("utf-8")))  # type: ignore[return-value]


def run(command: str) -> None:
    """One command of a page; one that searches nothing in this process, which has torch already.

    Unless something was installed before: the methods of this process are known by now.
    """
    words = shlex.split(command)
    if words[:2] == ["python", "tune.py"]:
        searches = not NO_SEARCH & set(words)
        if not searches and not Path(SITE).exists():
            assert tune.main(words[2:]) == 0, command
            return
        words = ["python", str(ROOT / "tune.py"), *words[2:], *(SMALL.split() * searches)]
    if words[:4] == ["python", "-m", "pip", "install"]:
        words[4:4] = PIP.split()
    found = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{SITE}"}
    done = subprocess.run(
        [sys.executable, *words[1:]],
        env=found,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert (words[0], done.returncode) == ("python", 0), command + done.stderr


@pytest.mark.parametrize("name", EXECUTED)
def test_what_a_page_says_works(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command ends with status 0, in a folder of its own with the files that the page shows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    n_run = 0
    for language, words, content in blocks(f"{name}.md"):
        if language == "bash" and words != "shown":
            for command in content.replace("\\\n", " ").splitlines():
                run(command)
                n_run += 1
        elif "." in words:
            (tmp_path / words).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / words).write_text(content, "utf-8")
    assert n_run > 0


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(f"docs/{p.name}" for p in DOCS.glob("*.md"))]
)
def test_links_lead_somewhere(page: str) -> None:
    """To pages and pictures of the repository."""
    path = ROOT / page
    links = set(LINK.findall(path.read_text("utf-8")))
    assert [link for link in links if not (path.parent / link).exists()] == []
