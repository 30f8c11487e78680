"""Methods from other packages, and the page about methods."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from docs.methods import PAGE, page
from tests.conftest import ROOT, Command
from tuner.journal import story


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example package, installed by pip into a folder of its own."""
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(ROOT / "tests" / "plugin", folder / "source")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", folder / "site", source], check=True, timeout=120)
    return folder / "site"


def test_another_packages_method_is_listed_and_searched(
    installed: Path, tmp_path: Path, tune: Callable[..., Command]
) -> None:
    """Its space lies beside it, its default is the first trial."""
    listed = tune("--list", "methods", PYTHONPATH=str(installed))
    assert "Match the teacher's logits (an example" in listed.out
    found = tune(
        "--method", "mine", "--trials", "2", "--epochs", "2", "--confirm-top", "1", "--confirm-seeds", "2",
        "--out", tmp_path, "--name", "mine", PYTHONPATH=str(installed),
    )  # fmt: skip
    assert found.status == 0, found.err
    assert story(tmp_path / "mine").of_kind("search")[0].hyper == {"beta": 1.0}


def test_docs_methods_is_up_to_date() -> None:
    """Run `python -m docs.methods` where this fails."""
    assert PAGE.read_text(encoding="utf-8") == page()
