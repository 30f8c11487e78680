"""A search's teacher: looked up in the registry, made ready on the cluster, told, written down."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.markup import escape

from trainables import methods, models
from trainables import teacher as teachers
from trainables.champion import read_record
from trainables.data.splits import Facts
from trainables.recipe import Recipe
from trainables.teacher import Teacher
from trainables.teacher_ready import busy, folder_of, joined, ready
from trainables.teacher_training import progress, recipe_of
from trainables.teacher_wanted import REGISTRY, Wanted
from tuner import plan, registry
from tuner.journal import Event, Journal, Story
from tuner.plan import Plan
from tuner.progress import Board, duration

LIBRARIES = re.compile(r"[^:]+|(torchvision|timm):.+")  # networks whose code is known
FOLDER = "teachers"  # below the output folder, shared by its searches
# (function, *arguments, meanwhile=, bring=, brief=): its answer, run on the cluster
Once = Callable[..., Any]


def resolved(planned: Plan) -> Plan:
    """The plan with its teachers from the registry fetched and checked; raises ValueError where they cannot be had."""
    if not any(wanted.uri for wanted in planned.teachers):
        return planned
    known = tuple(
        _fetched(planned, wanted) if wanted.uri else wanted for wanted in planned.teachers
    )
    planned = replace(planned, teachers=known)
    plan.check_models(planned)
    return planned


def _fetched(planned: Plan, wanted: Wanted) -> Wanted:
    root = planned.out / FOLDER / "registry"
    folder = registry.fetch(wanted.uri, planned.tracking_uri, root)
    for path in folder.rglob("champion.json"):
        record = read_record(path.parent)
        if methods.load(record["method"]).deploy is not None:
            raise ValueError(
                f"a teacher must be one network, got a student with {record['method']}'s adapter: {wanted.uri}"
            )
        file = str(path.with_name("champion.safetensors"))
        return replace(wanted, model=named(record["student"], wanted), file=file)
    for path in folder.rglob(teachers.RECORD):
        model = named(teachers.read_record(path.parent)["model"], wanted)
        return replace(wanted, model=model, file=str(path.with_name(teachers.WEIGHTS)))
    pickled = next(folder.rglob("model.pth"), None)
    if pickled is None or not wanted.model:
        raise ValueError(
            f"a registered model must be a champion or teacher of kdtune, or a pickled network given as "
            f"NAME:mlflow:{wanted.uri}, got {wanted.text!r}"
        )
    return replace(wanted, file=str(pickled))


def named(model: str, wanted: Wanted) -> str:
    """The network that a fetched record names; one made by code outside must have been named by the user too."""
    if not LIBRARIES.fullmatch(model) and model != wanted.model:
        raise ValueError(
            f"a registered model's own code must be asked for by name, as {model}:{REGISTRY}{wanted.uri}, got "
            f"{wanted.text!r}"
        )
    return model


def remembered(planned: Plan, told: Story) -> Teacher | None:
    """The teacher that the journal tells of, if its folders are as they were, and here: a search may have moved."""
    event = told.results.get("teacher")
    teacher = _from_event(event) if event else None
    if teacher is None:
        return None
    folders = [Path(one.folder) for one in teacher.members or (teacher,)]
    if not all(folder.is_relative_to(planned.out / FOLDER) for folder in folders):
        return None
    found = [teachers.find(folder) for folder in folders]
    same = [one is not None and one.sha256 for one in found]
    return teacher if same == [one.sha256 for one in teacher.members or (teacher,)] else None


def teach(planned: Plan, facts: Facts, journal: Journal, board: Board, once: Once) -> Teacher:
    """The teacher, found, imported or trained; a resumed search goes on with the one it had."""
    known = remembered(planned, board.story)
    if known is not None:
        board.say(f"teacher: {known.model}, {known.accuracy:.2%} on validation, as before")
        return known
    members = [_member(planned, wanted, facts, board, once) for wanted in planned.teachers]
    teacher = members[0]
    if len(members) > 1:
        with board.waiting("measuring the ensemble"):
            teacher = once(joined, members, facts)
        board.say(f"teacher: together {teacher.accuracy:.2%} on validation, logits averaged")
    board.say(f"teacher: best calibrated at temperature {teacher.temperature:.3g}")
    names = [registered_name(facts.dataset, member.model) for member in members]
    board.take(journal.write("teacher", sync=True, registered_as=names, **asdict(teacher)))
    return teacher


def registered_name(dataset: str, model: str) -> str:
    """What a teacher is called in MLflow's registry."""
    return f"kdtune-teacher-{models.slug(dataset)}-{models.slug(model)}"


def _member(planned: Plan, wanted: Wanted, facts: Facts, board: Board, once: Once) -> Teacher:
    """One teacher, with what a person sees meanwhile."""
    recipe = recipe_of(wanted.model, planned.source, planned.settings.teacher_epochs)
    root = planned.out / FOLDER
    folder = folder_of(wanted, facts, recipe, root)
    where = f"{root.name}/{folder.name}"
    known = teachers.find(folder) is not None
    damage = teachers.damage(folder)
    if damage:
        board.say(escape(f"teacher: {damage}"))
    work = (ready, wanted, facts, recipe, root, planned.settings.trust_pickle)
    started = time.monotonic()
    if known or wanted.file or wanted.weights:
        if not known:
            board.say(f"teacher: importing {wanted.model} {wanted.origin(recipe.epochs)}")
        with board.waiting("looking at the teacher"):
            teacher: Teacher = once(*work, bring=[str(folder)], brief=known)
    else:
        teacher = _trained(board, once, wanted, recipe, folder, work)
    if known:
        said = f"{wanted.model}, {teacher.accuracy:.2%} on validation, found in {where}"
    elif teacher.epochs:
        seconds = duration(time.monotonic() - started)
        said = f"{teacher.accuracy:.2%} on validation after {seconds}, kept in {where}"
    else:
        recorded = f" ({teacher.recorded:.2%} recorded)" if teacher.recorded is not None else ""
        said = f"{teacher.accuracy:.2%} on validation{recorded}, normalisation: {teacher.normalisation}"
        said += f", kept in {where}"
    board.say(f"teacher: {said}")
    return teacher


def _trained(
    board: Board,
    once: Once,
    wanted: Wanted,
    recipe: Recipe,
    folder: Path,
    work: tuple[Any, ...],
) -> Teacher:
    done, _ = progress(folder)
    on = f", going on after epoch {done}" if done else ""
    seed = f" with seed {wanted.seed}" if wanted.seed else ""
    what = f"training {wanted.model} for {recipe.epochs} epochs{seed}{on}"
    board.say(f"teacher: {'waiting for another search that is ' if busy(folder) else ''}{what}")
    with board.counting(f"teacher {wanted.model}", recipe.epochs) as show:

        def meanwhile() -> None:
            epoch, accuracy = progress(folder)
            show(epoch, f"epoch {epoch}/{recipe.epochs}, val accuracy {accuracy:.2%}")

        teacher: Teacher = once(*work, meanwhile=meanwhile, bring=[str(folder)])
    return teacher


def _from_event(event: Event) -> Teacher | None:
    """The teacher as it was journalled; None where another version wrote the event."""
    try:
        lists = {name: tuple(event[name]) for name in ("mean", "std")}
        plain = {name: event[name] for name in teachers.PLAIN} | lists
        members = tuple(m for m in map(_from_event, event["members"]) if m is not None)
        return Teacher(folder=event["folder"], members=members, **plain)
    except KeyError:
        return None
