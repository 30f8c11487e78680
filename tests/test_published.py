"""Published numbers: every table against kdtune's own names, some numbers against their sources, words by hand."""

from __future__ import annotations

import pytest

from trainables import methods, models
from trainables.data.splits import Facts
from tuner import plan, published
from tuner.finished import Finished
from tuner.journal import Story
from tuner.settings import make

TABLES = published._tables()


@pytest.mark.parametrize(
    "table", TABLES, ids=[f"{t['source'][:20]}-{t['dataset']}" for t in TABLES]
)
def test_tables_name_what_kdtune_has(table: dict[str, object]) -> None:
    """One number a pair, between 50 and 100 percent; networks and methods by kdtune's names; a whole protocol."""
    pairs, rows = table["pairs"], table["rows"]
    assert isinstance(pairs, list) and isinstance(rows, dict)
    for pair in pairs:
        for name in pair.split(" -> "):
            models.entry(name)
    assert set(rows) - {"teacher"} <= set(methods.names())
    assert all(len(row) == len(pairs) for row in rows.values())
    assert all(value is None or 50 < value < 100 for row in rows.values() for value in row)
    protocol = table["protocol"]
    assert isinstance(protocol, dict) and {"epochs", "runs", "choice"} <= set(protocol)


@pytest.mark.parametrize(
    ("pair", "method", "accuracy"),
    [
        (("resnet56", "resnet20"), "kd", 70.66),  # RepDistiller's README
        (("resnet32x4", "resnet8x4"), "dkd", 76.32),  # TTM's
        (
            ("vgg13", "mobilenetv2_half"),
            "at",
            59.40,
        ),  # RepDistiller's: below the student alone, 64.60
    ],
)
def test_numbers_are_those_of_their_sources(
    pair: tuple[str, str], method: str, accuracy: float
) -> None:
    found = {one.method: one.accuracy for one in published.numbers("cifar100", *pair)}
    assert found[method] == accuracy


def test_a_number_that_a_later_source_copied_is_shown_once() -> None:
    """The student alone, 69.06, stands in three tables of this pair."""
    found = published.numbers("cifar100", "resnet56", "resnet20")
    assert [one.accuracy for one in found if one.method == "vanilla"] == [69.06]


def searched(method: str, dataset: str = "cifar100") -> Finished:
    """A made-up search that ended at 70 % plain, 72 and 74 % default, 76 % tuned, as far as the section reads it."""
    known = {"method": method, "dataset": "cifar100", "epochs": 40, "name": "mine"}
    planned = plan.make(make({**known, "teacher": "resnet56", "student": "resnet20"}))
    facts = Facts(dataset, "", (), 3, 32, 45000, 5000, 10000, (), (), "", {})
    accuracies = {"vanilla": [0.70, 0.70], "default": [0.72, 0.74], "tuned": [0.76, 0.76]}
    rows = {role: {"accuracy": values} for role, values in accuracies.items()}
    teacher = {"model": "resnet56", "accuracy": 0.7211}
    answer = {"hyper": {}, "seeds": [1, 2], "teacher": teacher, "rows": rows}
    return Finished(planned, facts, Story(results={"answer": answer}))


def test_ours_and_theirs_stand_side_by_side_with_what_differs() -> None:
    """By hand: dkd is published 71.97 - 69.06 = +2.91 over the student alone; ours 73 - 70 and 76 - 70."""
    shown = published.beside([searched("dkd")])
    rows = {row[0]: row[1:3] for row in shown["rows"]}
    assert rows["dkd"] == ["71.97", "+2.91"]
    assert rows["dkd, published default"][1].startswith("+3.00 ±")
    assert rows["dkd, tuned"] == ["76.00 ± 0.00", "+6.00 ± 0.00"]
    said = " ".join(shown["differs"])
    assert "45,000 in mine" in said and "epochs 240; mine: epochs 40" in said
    assert "72.34 % there, 72.11 % in mine" in said and published.FLATTERED not in said


def test_choosing_the_epoch_on_the_test_set_is_said() -> None:
    """CTKD's numbers are of the best epoch."""
    assert published.FLATTERED in published.beside([searched("ctkd")])["differs"]


def test_where_nothing_is_published_it_is_said() -> None:
    shown = published.beside([searched("dkd", "digits")])
    assert shown["rows"] == shown["differs"] == []
    assert shown["sentences"] == [
        "Nothing published is known here of resnet56 -> resnet20 on digits."
    ]
