"""What the tests that start real processes share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import tuner  # noqa: F401  (Ray reads its environment when it is imported, so this comes before all tests)
from tuner import addresses

ROOT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with whole searches come first: at the end no worker waits for another's long one."""
    long = {item.path for item in items if "tune" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path not in long)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """A test's untrained networks have the same weights whichever tests came before; fixtures come after this."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_store_of_another_test() -> Iterator[None]:
    """`mlflow.set_tracking_uri` writes into the environment, from where the next search would take it."""
    forget_store()
    yield
    forget_store()


def forget_store() -> None:
    for name in addresses.VARIABLES:
        os.environ.pop(name, None)


@dataclass
class Command:
    """A finished `tune.py`."""

    status: int
    out: str
    err: str


def without_store() -> dict[str, str]:
    """The environment, less the store that a fixture in this process may have left in it."""
    return {name: value for name, value in os.environ.items() if name not in addresses.VARIABLES}


def start(*arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    """`python tune.py ...` on a pipe, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "tune.py", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**without_store(), **environment},
    )


@pytest.fixture(scope="session")
def tune() -> Callable[..., Command]:
    """Run `python tune.py ...` to its end."""

    def run(*arguments: str | Path, **environment: str) -> Command:
        process = start(*arguments, **environment)
        out, err = process.communicate(timeout=900)
        return Command(process.returncode, out, err)

    return run
