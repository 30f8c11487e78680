"""Several finished searches on one page: a league table, which of them differ, and what makes them no fair match.

Searches are compared where the same test images judged them. Paired tests are made among those that share all
else too (split, networks, recipe, seeds), so that a difference is the method's; other differences are named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from tuner import commands, figures, league_rows, pages, pairs, published
from tuner.figures import standing
from tuner.figures.style import STYLE
from tuner.finished import Finished
from tuner.progress import settings_in_words
from tuner.statistics import interval

LONGEST = 100  # letters of the page's folder

SHARED: dict[str, Callable[[Finished], str]] = {  # what a fair match has in common, in words
    "training and validation images": lambda one: (
        f"{one.facts.n_train} and {one.facts.n_val} images, split {one.facts.split_hash[:8]}"
    ),
    "teacher": lambda one: (
        f"{one.answer['teacher']['model']}, {one.answer['teacher']['sha256'][:8]}"
    ),
    "student": lambda one: one.student,
    "recipe": lambda one: settings_in_words(vars(one.planned.recipe)),
    "seeds": lambda one: ", ".join(map(str, one.answer["seeds"])),
}
NAMED: dict[str, Callable[[Finished], str]] = {  # what is said beside, where it differs
    "budget": lambda one: f"{len(one.told.of_kind('search'))} trials",
    "evaluation": lambda one: f"--evaluate {one.answer['tier']}",
    "times the test set was opened": lambda one: str(one.answer.get("opened", 1)),
}


def write(found: Sequence[Finished], with_published: bool) -> list[Path]:
    """report.md, report.html and the picture into OUT/compare-…; the paths of the pages.

    Raises ValueError where no two of them were judged by the same test images.
    """
    groups = matches(found)
    if all(len(group) == 1 for group in groups):
        data = "; ".join(f"{one.name} {one.facts.dataset}" for one in found)
        raise ValueError(
            f"--report must name searches judged by the same test images to compare them, got {data}"
        )
    name = ("compare-" + "-".join(one.name for one in found))[:LONGEST]
    folder = found[0].planned.out / name
    folder.mkdir(exist_ok=True)
    page = {
        "name": name,
        "searches": [one.name for one in found],
        "parts": [_part(group, folder, n) for n, group in enumerate(groups)],
        "apart": len(groups) > 1,
        "published": published.beside(found) if with_published else None,
        "command": commands.rebuild(
            [one.name for one in found],
            found[0].planned,
            *(["--compare-published"] if with_published else []),
        ),
    }
    return pages.write("compare", page, folder)


def matches(found: Sequence[Finished]) -> list[list[Finished]]:
    """The searches by the test images that judged them, in their order."""
    groups: dict[str, list[Finished]] = {}
    for one in found:
        groups.setdefault(one.facts.sha256["test"], []).append(one)
    return list(groups.values())


def _part(group: Sequence[Finished], folder: Path, n: int) -> dict[str, Any]:
    """What the page says of searches with the same test images."""
    ranked = sorted(group, key=lambda one: -interval(one.tuned).mean)
    fair = fair_matches(ranked)
    paired = [
        {"said": pairs.sentences(of), "rows": pairs.matrix(of), "names": list(of)} for of in fair
    ]
    with mpl.rc_context(STYLE):
        figure, caption = standing.draw({one.name: one.tuned for one in ranked})
        picture = figures.kept(
            _made(folder / "figures"), f"standing-{n}", standing.TITLE, figure, caption
        )
    return {
        "data": f"{group[0].facts.dataset}, {group[0].facts.n_test} test images",
        "table": league_rows.table(
            {f"{one.name} ({one.planned.settings.method})": one.answer for one in ranked}
        ),
        "sentences": sentences(ranked),
        "paired": paired,
        "notes": differences(group),
        "picture": picture,
    }


def fair_matches(found: Sequence[Finished]) -> list[dict[str, list[float]]]:
    """Test accuracies seed by seed, by name, of searches that share all that a paired test needs; two or more each."""
    groups: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for one in found:
        key = tuple(tell(one) for tell in SHARED.values())
        groups.setdefault(key, {})[one.name] = one.tuned
    return [group for group in groups.values() if len(group) > 1]


def sentences(ranked: Sequence[Finished]) -> list[str]:
    """Who came out first, and what may be said of that."""
    if len(ranked) < 2:
        return [f"{ranked[0].name} alone was judged by these images: there is nothing to compare."]
    best = ranked[0]
    said = f"{best.name} has the highest test accuracy, {interval(best.tuned).text()} %"
    rivals = [one.name for one in ranked[1:] if not _fair(best, one)]
    if rivals:
        return [
            f"{said}; against {', '.join(rivals)} more than the method differs (below), so that difference is no "
            "verdict on the method."
        ]
    return [said + "."]


def _fair(one: Finished, other: Finished) -> bool:
    return all(tell(one) == tell(other) for tell in SHARED.values())


def differences(found: Sequence[Finished]) -> list[str]:
    """What is not the same in all of them, each with who has what."""
    said = []
    for what, tell in {**SHARED, **NAMED}.items():
        values: dict[str, list[str]] = {}
        for one in found:
            values.setdefault(tell(one), []).append(one.name)
        if len(values) > 1:
            each = "; ".join(f"{', '.join(names)}: {value}" for value, names in values.items())
            said.append(f"{what}: {each}")
    return said


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder
