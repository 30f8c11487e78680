"""The house's rules, read from the source by ast: which way imports point, and who owns which foreign system."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainables.methods import names

ROOT = Path(__file__).parent.parent
LAYERS = ("tune", "tuner", "trainables", "search_spaces")  # each may import those to its right
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "tune.py", *(p for top in LAYERS[1:] for p in (ROOT / top).rglob("*.py")))
)
OWNERS = {  # foreign system -> the files that may import it
    "optuna": {"tuner/importance.py", "tuner/samplers.py"},
    "mlflow": {"tuner/delivery.py", "tuner/registry.py", "tuner/runs.py"},
    "ray": {
        "trainables/trainable.py",
        "tuner/batches.py",
        "tuner/cluster.py",
        "tuner/evictions.py",
        "tuner/heads.py",
        "tuner/interleaving.py",
        "tuner/population.py",
        "tuner/recorder.py",
        "tuner/roll_call.py",
        "tuner/samplers.py",
        "tuner/schedulers.py",
        "tuner/starting.py",
        "tuner/students.py",
        "tuner/watchdog.py",
    },
    "trainables.data.sealed": {"tuner/judging.py"},
}
BASELINE = {
    "tuner/baselines.py",
    "tuner/confirm.py",
    "tuner/league.py",
    "trainables/teacher_training.py",
}  # may ask for "vanilla": the plain student


def source(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


def imports(text: str, package: str = "") -> Iterator[str]:
    """Every module that `text` imports, `from a import b` as both a and a.b, wherever it stands."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, (package if node.level else "", node.module)))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def wrong_arrows(file: str, text: str) -> list[str]:
    """Imports of a layer to the left of the file's own."""
    own = LAYERS.index(Path(file).with_suffix("").parts[0])
    return [name for name in imports(text) if name.partition(".")[0] in LAYERS[:own]]


def strangers(file: str, text: str) -> list[str]:
    """Foreign systems that the file imports and does not own."""
    found = set(imports(text, package=str(Path(file).parent).replace("/", ".")))
    return [
        system
        for system, owners in OWNERS.items()
        if file not in owners and any(f"{name}.".startswith(f"{system}.") for name in found)
    ]


def calls(text: str, dotted: str) -> bool:
    """Whether `text` calls `dotted`, as in ray.init(...)."""
    nodes = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
    return any(ast.unparse(node.func) == dotted for node in nodes)


def names_asked_for(text: str) -> set[str]:
    """Methods' names that `text` compares something with, matches a case on, or keeps in a dict of functions."""
    asked: list[ast.AST] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Compare):
            asked += [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            asked.append(node.value)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".startswith"):
            asked += node.args
    constants = (c for node in asked for c in ast.walk(node) if isinstance(c, ast.Constant))
    return {c.value for c in constants if isinstance(c.value, str)} & set(names())


@pytest.mark.parametrize("file", FILES)
def test_imports_point_one_way(file: str) -> None:
    """tune.py -> tuner -> trainables -> search_spaces."""
    assert wrong_arrows(file, source(file)) == []


@pytest.mark.parametrize("file", FILES)
def test_each_foreign_system_has_its_files(file: str) -> None:
    assert strangers(file, source(file)) == []


def test_owners_still_own() -> None:
    """A file that has given a system up leaves the list."""
    for system, owners in OWNERS.items():
        for file in owners:
            assert any(f"{name}.".startswith(f"{system}.") for name in imports(source(file))), file


@pytest.mark.parametrize("call", ["ray.init", "ray.shutdown"])
def test_ray_is_started_and_stopped_in_one_place(call: str) -> None:
    assert [file for file in FILES if calls(source(file), call)] == ["tuner/cluster.py"]


@pytest.mark.parametrize("file", [f for f in FILES if not f.startswith("trainables/methods/")])
def test_no_file_asks_for_a_methods_name(file: str) -> None:
    """A record with one more field takes the place of `if method == ...`; the plain student is a baseline."""
    assert names_asked_for(source(file)) <= ({"vanilla"} if file in BASELINE else set())


def test_the_test_set_is_named_by_nobody_else() -> None:
    """Nor is its file opened by its name: only splits writes it and sealed reads it."""
    naming = [
        f
        for f in FILES
        if "test.arrow" in source(f) or 'import_module("trainables.data' in source(f)
    ]
    assert naming == ["trainables/data/sealed.py"]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("trainables/x.py", "def f():\n    from tuner import plan"),
        ("trainables/x.py", "import tuner.plan as p"),
        ("search_spaces/x.py", "from trainables.contract import Method"),
        ("tuner/x.py", "import tune"),
    ],
)
def test_a_wrong_arrow_is_seen(file: str, text: str) -> None:
    """The check itself, against files made up to break the rule."""
    assert wrong_arrows(file, text)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("tuner/x.py", "import optuna.trial"),
        ("trainables/x.py", "import mlflow"),
        ("tuner/plan.py", "from ray import tune"),
        ("trainables/x.py", "from trainables.data.sealed import open_test"),
        ("trainables/x.py", "from trainables.data import sealed"),
        ("trainables/data/x.py", "from .sealed import open_test"),
        ("trainables/data/x.py", "from . import sealed"),
    ],
)
def test_a_stranger_is_seen(file: str, text: str) -> None:
    """The check itself, against files made up to break the rule."""
    assert strangers(file, text)


@pytest.mark.parametrize(
    "text",
    ["if method == 'kd': pass", "x = name in ('at', 'crd')", "match m:\n    case 'ab': pass"],
)
def test_a_question_for_a_name_is_seen(text: str) -> None:
    """The check itself, against lines made up to break the rule."""
    assert names_asked_for(text)
