"""Tuned baselines: a second search of the same budget beside a method's own, because an untuned baseline flatters it.

For a method of distillation it is plain KD's own search; for plain KD it is one of the plain student's recipe. What the
main search says of recipe and student holds there too, searched or fixed. Its best trial by validation is retrained
with the finalists, over the same seeds. A search of the plain student has no baseline but itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from search_spaces import Domain
from trainables.recipe import RECIPE_KEYS
from tuner import objectives, plan, spaces
from tuner.journal import Journal, Story
from tuner.plan import Plan
from tuner.progress import Board, best_of

PLAIN = "vanilla"  # the plain student
DISTILLED = "kd"  # what every other method is compared with
ROLES = {f"{DISTILLED}-tuned": "tuned plain KD", f"{PLAIN}-tuned": "plain student, tuned recipe"}
EVENT = "baseline"  # of the journal: what a baseline's search has found
REACH = 10  # the plain student's learning rate is searched from a tenth to ten times the recipe's
WEIGHT_DECAY = "loguniform(1e-5, 1e-2)"


@dataclass(frozen=True)
class Beside:
    """The baselines' searches of some searches."""

    plans: tuple[Plan, ...]  # to be run beside them
    of: dict[str, str]  # a search -> the search that tunes its baseline


def role_of(method: str) -> str:
    """The tuned baseline that a method is compared with."""
    return f"{PLAIN if method == DISTILLED else DISTILLED}-tuned"


def beside(planned: Sequence[Plan]) -> Beside:
    """What `--tune-baseline` adds; one search serves all that it suits, also where it is one of them.

    Raises ValueError where none of the searches has a baseline.
    """
    plans: list[Plan] = []
    found = {}
    for one in planned:
        if not one.settings.tune_baseline or one.settings.method == PLAIN:
            continue
        wanted = search_for(one)
        known = (*planned, *plans)
        twin = next((other for other in known if same(other, wanted)), None)
        if twin is None:
            taken = {other.name for other in known}
            twin = (
                renamed(wanted, f"{wanted.name}-{len(plans) + 1}")
                if wanted.name in taken
                else wanted
            )
            plans.append(twin)
        found[one.name] = twin.name
    if not found and any(one.settings.tune_baseline for one in planned):
        raise ValueError(
            "--tune-baseline must have a method that has a baseline, got the plain student's own search"
        )
    return Beside(tuple(plans), found)


def search_for(planned: Plan) -> Plan:
    """The baseline's search for a search; raises ValueError where it cannot be searched like that one."""
    settings = planned.settings
    role = role_of(settings.method)
    experiment = settings.experiment or planned.name
    own = {
        "method": role.removesuffix("-tuned"),
        "name": f"{experiment}-{role}",
        "experiment": experiment,
        "student": planned.student,
        "trials": planned.n_trials,
        "search": "auto" if settings.search == "grid" else settings.search,
        "space": None,
        "set": tuple(f"{name}={value}" for name, value in _space(planned, role).items()),
        "stages": None,
        "tune_baseline": False,
        "objective": (objectives.ACCURACY.name,),
        "constraint": tuple(c for c in settings.constraint if "samples_used" not in c),
    }
    return plan.make(settings.model_copy(update=own))


def _space(planned: Plan, role: str) -> dict[str, object]:
    """What stands in the baseline's space beside its own: recipe and student of the main search."""
    shared = (*RECIPE_KEYS, spaces.STUDENT)
    found: dict[str, object] = {}
    if role == role_of(DISTILLED):
        lr = planned.recipe.lr
        found = {"lr": f"loguniform({lr / REACH:g}, {lr * REACH:g})", "weight_decay": WEIGHT_DECAY}
    for name in shared:
        value = planned.space.get(name)
        if isinstance(value, Domain) and any(key not in shared for key, _ in value.when):
            value = replace(value, when=())  # what it hangs on is no setting of the baseline
        if value is not None:
            found[name] = value
    return found


def same(one: Plan, other: Plan) -> bool:
    """Whether two searches are the same but for their names."""

    def what(planned: Plan) -> tuple[object, ...]:
        chosen = (planned.search, planned.scheduler, planned.n_trials, planned.settings.seed)
        return (planned.settings.method, planned.student, planned.recipe, planned.space, *chosen)

    return what(one) == what(other)


def renamed(planned: Plan, name: str) -> Plan:
    """The same search under another name."""
    return replace(planned, name=name, settings=planned.settings.model_copy(update={"name": name}))


def hand_over(planned: Plan, told: Story, source: str, journal: Journal, board: Board) -> None:
    """Write into a search's journal what the search `source`, told of by `told`, has found for its baseline."""
    best = best_of(told.of_kind("search"))
    role = role_of(planned.settings.method)
    if EVENT in board.story.results:
        return
    if best is None:
        board.say(
            f"{planned.name}: no trial of {source} was trained to the end, so no {ROLES[role]}"
        )
        return
    known = {"role": role, "method": best.method, "hyper": best.hyper, "trial": best.id}
    board.take(journal.write(EVENT, sync=True, search=source, accuracy=best.accuracy, **known))


def not_measured(planned: Plan, told: Story) -> str:
    """What the report adds to what it does not know: nothing where the baseline was tuned too."""
    if planned.settings.method == PLAIN or EVENT in told.results:
        return ""
    return "; a baseline whose own settings were tuned as long (--tune-baseline), without which every gain flatters"


def in_words(planned: Plan) -> str:
    """Of the baseline's search, for `--plan`."""
    space = ", ".join(f"{name}: {value}" for name, value in planned.space.items())
    return (
        f"{planned.n_trials} trials of {planned.settings.method} on top, in {planned.name}: {space}"
    )
