"""The machines of a cluster, as plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from ray._private.runtime_env.packaging import create_package

from tests.conftest import ROOT
from tuner import luggage, nodes
from tuner.nodes import Node
from tuner.settings import Settings, make

HERE = {"Python": "3.12.1", "ray": "2.60.0", "torch": "2.11.0"} | dict.fromkeys(
    nodes.NEEDED[2:], "1"
)


@pytest.mark.parametrize(
    ("node", "asked", "room"),
    [
        (Node("a", 8, 0), (1, 0), 8),
        (Node("a", 8, 0), (3, 0), 2),
        (Node("a", 8, 2), (1, 0.25), 8),  # 4 a GPU
        (Node("a", 8, 2), (1, 0.4), 4),  # 2 a GPU: a share is not cut in two
        (Node("a", 8, 3), (1, 2), 1),
        (Node("a", 8, 0), (1, 1), 0),
    ],
)
def test_how_many_trials_fit(node: Node, asked: tuple[float, float], room: int) -> None:
    """Counted by hand."""
    assert node.fits(*asked) == room


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((9, 0), "--cpus-per-trial must be at most 8, .* got 9"),
        ((1, 3), "--gpus-per-trial must be at most 2, .* got 3"),
        ((8, 1), "a trial must fit on one node, got 8 CPUs and 1 GPUs"),
    ],
)
def test_a_trial_that_fits_nowhere_is_refused(asked: tuple[int, float], message: str) -> None:
    """Two nodes have enough together, and none alone."""
    cluster = [Node("a", 8, 0), Node("b", 2, 2)]
    with pytest.raises(ValueError, match=message):
        nodes.check_room(cluster, *asked)


MIXED = [
    Node("a", 8, 2, resources=frozenset({"CPU", "GPU", "node:10.0.0.1", "accelerator_type:A100"})),
    Node("b", 8, 4, resources=frozenset({"CPU", "GPU", "memory", "accelerator_type:T4"})),
    Node("c", 4, 0, resources=frozenset({"CPU", "object_store_memory", "fast"})),
]


@pytest.mark.parametrize(
    ("accelerator", "addresses", "resource"),
    [
        (None, ["a", "b", "c"], ""),
        ("A100", ["a"], "accelerator_type:A100"),
        ("fast", ["c"], "fast"),
    ],
)
def test_trials_go_where_the_accelerator_is(
    accelerator: str | None, addresses: list[str], resource: str
) -> None:
    """A kind of GPU by Ray's own resource, or a resource of the user's own."""
    assert [node.address for node in nodes.having(MIXED, accelerator)] == addresses
    if accelerator:
        assert nodes.resource_of(accelerator, MIXED) == resource


def test_an_accelerator_that_is_nowhere_is_refused() -> None:
    """With those that there are; and one that is there, where its nodes are too small."""
    message = (
        r"--accelerator must be one that the cluster's 3 nodes have \(A100, T4, fast\), got H100"
    )
    with pytest.raises(ValueError, match=message):
        nodes.having(MIXED, "H100")
    message = (
        "--gpus-per-trial must be at most 2, .* of the cluster's 1 nodes with A100 has now, got 4"
    )
    with pytest.raises(ValueError, match=message):
        nodes.check_room(nodes.having(MIXED, "A100"), 1, 4, "A100")


@pytest.mark.parametrize(("gpus", "hidden"), [(0.0, True), (0.25, False), (2.0, False)])
def test_a_trial_without_a_gpu_sees_none(gpus: float, hidden: bool, tmp_path: Path) -> None:
    """Ray would show it all of its node's; where a trial has some, Ray says which."""
    sent = luggage.environment(settings(gpus_per_trial=gpus), tmp_path)["env_vars"]
    assert (sent.get("CUDA_VISIBLE_DEVICES") == "") == hidden


def test_nodes_alike_are_taken() -> None:
    nodes.check_versions([Node("a", 1, 0, HERE), Node("b", 1, 0, HERE)], HERE)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"torch": "2.12.0"}, "every node must have the driver's torch 2.11.0, got 2.12.0 on b"),
        ({"Python": "3.13.0"}, "every node must have the driver's Python 3.12.1, got 3.13.0 on b"),
        ({"safetensors": ""}, "every node must have safetensors, got none on b"),
    ],
)
def test_what_differs_where_is_said(changed: dict[str, str], message: str) -> None:
    """In one sentence."""
    cluster = [Node("a", 1, 0, HERE), Node("b", 1, 0, {**HERE, **changed})]
    with pytest.raises(ValueError, match=message):
        nodes.check_versions(cluster, HERE)


def settings(**given: Any) -> Settings:
    return make({"method": "kd", **given})


@pytest.mark.parametrize(
    ("given", "travels"),
    [
        ({}, False),
        ({"teacher": ("resnet56:weights.pt", "torchvision:resnet50")}, False),
        ({"dataset": "folder:images", "set": ("temperature=4",)}, False),
        ({"student": "mine:network"}, True),
        ({"set": ("student=choice(resnet8,my.nets:small)",)}, True),
    ],
)
def test_the_users_folder_travels_where_it_is_needed(
    given: dict[str, Any], travels: bool, tmp_path: Path
) -> None:
    """Only where a network of the user's own is named."""
    assert ("working_dir" in luggage.environment(settings(**given), tmp_path)) == travels


@pytest.mark.parametrize("package", luggage.PACKAGES)
def test_nothing_of_kdtunes_own_stays_behind(package: str, tmp_path: Path) -> None:
    """But for what Python has compiled, as Ray packs it."""
    folder = ROOT / package
    files = {path.relative_to(ROOT) for path in folder.rglob("*") if path.is_file()}
    left = files - packed(folder, tmp_path, include_parent_dir=True)
    assert {path.suffix for path in left} <= {".pyc"}


def test_of_the_users_folder_code_alone_travels(tmp_path: Path) -> None:
    """Ray packs what we count: neither hidden files nor data."""
    for name in ("mine.py", "nets/small.py", "nets/.cache/small.py", ".git/config", "weights.pt"):
        path = tmp_path / "here" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1", encoding="ascii")
    expected = {Path("mine.py"), Path("nets/small.py")}
    assert packed(tmp_path / "here", tmp_path) == expected
    sent = luggage.sent(tmp_path / "here")
    assert {path.relative_to(tmp_path / "here") for path in sent} == expected


def packed(folder: Path, place: Path, **how: bool) -> set[Path]:
    """The files that Ray would send."""
    rules = list(luggage.EXCLUDED)
    create_package(str(folder), place / "sent.zip", include_gitignore=True, excludes=rules, **how)
    names = ZipFile(place / "sent.zip").namelist()
    return {Path(name) for name in names if not name.endswith("/")}


def test_a_large_folder_is_refused(tmp_path: Path) -> None:
    """By a sparse file above the limit; what is no code does not count."""
    for name in ("big.bin", "data.npy"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2 * 2**30)
    with pytest.raises(
        ValueError, match=r"at most 200 MiB, got 2,048 MiB .* 2,048 of it in big.bin"
    ):
        luggage.environment(settings(student="mine:network"), tmp_path)


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "head:", "http://head:6379", ""])
def test_an_address_is_local_auto_or_a_head(address: str) -> None:
    with pytest.raises(ValueError, match="--address must be local, auto or HOST:PORT"):
        settings(address=address)
