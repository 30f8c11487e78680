"""What is known of a student before it is trained: the size of the network that leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from trainables import methods, objective
from trainables.models.normalized import multiply_adds, n_parameters
from trainables.seeding import seeded
from tuner import spaces
from tuner.objectives import BEFORE, Goals

if TYPE_CHECKING:
    from tuner.plan import Plan


def known(planned: Plan, hyper: Mapping[str, Any], method: str = "") -> dict[str, float]:
    """`n_parameters` and `multiply_adds` of a setting's student, those that the search asks for.

    `method` is the search's own where it is empty. Each network is built once.
    """
    names = planned.goals.names(BEFORE)
    if not names:
        return {}
    name = method or planned.settings.method
    student = str(hyper.get(spaces.STUDENT, planned.student))
    found = planned.sizes.setdefault((name, student, _adapter(name, hyper)), {})
    if not found:
        found |= _measured(planned, name, student, hyper)
    return {name: found[name] for name in names}


def infeasible(planned: Plan, hyper: Mapping[str, Any]) -> str:
    """Which constraint a setting's student breaks before it is trained, with the number; else nothing."""
    before = tuple(one for one in planned.goals.constraints if one.known == BEFORE)
    return "; ".join(Goals(constraints=before).unmet(known(planned, hyper)))


def check(planned: Plan) -> None:
    """Raise ValueError where no student of the space meets the constraints that are known before training.

    Nothing is checked where the size depends on a teacher's network that only the registry knows yet, or on more of the
    space than the student.
    """
    adapter = planned.method.adapter
    if planned.method.deploy and adapter:
        searched = methods.arguments(adapter, dict.fromkeys(planned.searched))
        if searched or not all(wanted.model for wanted in planned.teachers):
            return
    broken = []
    for hyper in spaces.corners(planned.searched, planned.published):
        reason = infeasible(planned, hyper)
        if not reason:
            return
        broken.append(f"{hyper.get(spaces.STUDENT, planned.student)}: {reason}")
    raise ValueError(
        f"--constraint must be met by a student of the space, got {' | '.join(dict.fromkeys(broken))}"
    )


def _adapter(method: str, hyper: Mapping[str, Any]) -> str:
    """What decides about an adapter that leaves with the student, as a key."""
    record = methods.load(method)
    if record.deploy is None or record.adapter is None:
        return ""
    return str(sorted(methods.arguments(record.adapter, dict(hyper)).items()))


def _measured(
    planned: Plan, method: str, student: str, hyper: Mapping[str, Any]
) -> dict[str, float]:
    record = methods.load(method)
    network: nn.Module = planned.build(student)
    if record.deploy is not None:
        with seeded(0, "size"):
            context = planned.paired(planned.look(student))
            values = {**objective.defaults(record), **hyper}
            adapter = objective.build_adapter(record, context, values)
        network = network if adapter is None else record.deploy(context.student_model, adapter)
    shape = (planned.source.channels, planned.source.size, planned.source.size)
    return {
        "n_parameters": float(n_parameters(network)),
        "multiply_adds": float(multiply_adds(network, shape)),
    }
