"""How much disk a search will need, reckoned from its networks before anything is started."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from trainables import objective
from tuner import shelf, spaces
from tuner.plan import Plan

STATES = {"sgd": 1, "adam": 2, "adamw": 2}  # tensors that an optimiser keeps for each weight
RECORDS_BYTES = 8_000_000  # MLflow's empty database, report, figures
STUDENT_BYTES = 100_000  # of records for each student: its run, its epochs


def forecast(planned: Plan) -> dict[str, int]:
    """Bytes by what they are for, the most that there will be at a time; images only where their number is known.

    Needs every teacher's network to be known.
    """
    s = planned.settings
    students = dict.fromkeys((planned.student, *spaces.students(planned.space)))
    one = max(checkpoint_bytes(planned, name) for name in students)
    n_students = planned.n_trials + planned.n_confirmed
    under_way = planned.slots * (shelf.KEPT + 1)  # one of them being written
    teacher = size_of(planned.networks.teacher_model)
    trained = any(not (one.file or one.weights) for one in planned.teachers)
    found = {
        "checkpoints of students under way": under_way * one,
        "of the best trials": s.confirm_top * one,
        "of confirmed students": planned.n_confirmed * one,
        "teacher": teacher * (1 + 2 * trained),  # its weights; while it is trained its state, too
        "records": RECORDS_BYTES + STUDENT_BYTES * n_students,
    }
    n_images = s.subset or planned.source.n_images
    if n_images is not None:
        source = planned.source
        found["training images"] = n_images * source.channels * source.size**2
        found["the teacher's outputs"] = _outputs_bytes(planned, n_images)
    return found


def checkpoint_bytes(planned: Plan, student: str) -> int:
    """Weights and the optimiser's state; a method's own part with them, unless it is first prepared from the data."""
    whole = planned.networks if student == planned.student else planned.look(student)
    network, method = whole.student_model, planned.method
    parts: list[nn.Module] = [network]
    if method.prepare is None:
        n_train = planned.settings.subset or planned.source.n_images or 1
        labels = torch.arange(n_train) % planned.source.n_classes
        context = replace(planned.paired(whole), labels=labels)
        values = {**objective.defaults(method), **planned.published}
        adapter = objective.build_adapter(method, context, values)
        parts += [adapter] if adapter is not None else []
    states = STATES[str(planned.published.get("optimizer", planned.recipe.optimizer))]
    return sum(size_of(part) + states * _trained_bytes(part) for part in parts)


def size_of(network: nn.Module) -> int:
    """Bytes of weights and buffers."""
    tensors = [*network.parameters(), *network.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _trained_bytes(network: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in network.parameters() if p.requires_grad)


def _outputs_bytes(planned: Plan, n_images: int) -> int:
    """What the cache will hold: an entry for each epoch and seed, or one for all where views never change."""
    choice = planned.teacher_part(n_images)
    if not choice.kept:
        return 0
    entries = 1
    if not choice.by_image:
        entries = planned.recipe.epochs * (1 + planned.settings.confirm_seeds)
    return min(planned.cache_bytes, entries * choice.epoch_bytes)


def in_words(found: dict[str, int]) -> str:
    """`about 1.2 GB: training images 1 GB, ...`, the largest first; what is below a megabyte is left out."""
    parts = sorted(found.items(), key=lambda part: -part[1])
    told = ", ".join(f"{name} {megabytes(size)}" for name, size in parts if size >= 10**6)
    return f"about {megabytes(sum(found.values()))}: {told}"


def megabytes(size: int) -> str:
    """`12 MB`, `3.4 GB`."""
    return f"{size / 1e9:,.1f} GB" if size >= 10**9 else f"{size / 1e6:.0f} MB"
