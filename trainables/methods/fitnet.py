"""Regress one of the teacher's middle feature maps (a hint) from the student's.

Romero, Ballas, Ebrahimi Kahou, Chassang, Gatta, Bengio. FitNets: Hints for Thin Deep Nets. 2015. arXiv:1412.6550,
section 2.2 and 2.3.

    stages = two_stage   first  beta * mean (r(F_s) - F_t)^2   (layers up to the guided one, and the regressor r)
                         then   lambda * CE + alpha * T^2 * KL
    stages = joint       all three at once

F is the map of `layer` (0 the stem, 1 the first stage ..., the last one where there are fewer), after its activation;
r is a convolution that fits the sizes, batch norm and ReLU. Defaults: two stages are the paper's; beta = 100, layer 2
and the mean of squares are RepDistiller's and mdistiller's, whose runs are joint (the paper has half the sum of
squares). `first_share` = 1/9 stands for RepDistiller's 30 initial epochs before 240; the paper trains its hint for up
to 500. Departures: the paper's second stage weighs the teacher by a lambda that falls from 4 to 1 at T = 3; here alpha
is constant, and 0 unless asked. Networks of unequal depth are matched from the end.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from trainables.adapters import ConvReg
from trainables.contract import Batch, Context, Method, Outputs, Phase, Scalar
from trainables.losses import (
    FIRST_SHARE,
    Maps,
    hard_and_soft,
    one_of,
    pairs,
    same_size,
    too_few_maps,
)

STAGES = ("two_stage", "joint")


class Hint(NamedTuple):
    """What the regressor makes of the student's guided map."""

    regressed: Tensor  # (B, c_t, h_t, w_t)


class Regressor(nn.Module):
    """r, for the layer it was built for."""

    def __init__(self, context: Context, layer: int) -> None:
        super().__init__()
        ours, theirs = _at(layer, pairs(context.student.features, context.teacher.features))
        self.layer = layer
        self.regress = ConvReg(ours.shape, theirs.shape)

    def forward(self, student: Outputs, target: Maps, batch: Batch) -> Hint:
        """The student's map in the teacher's shape."""
        return Hint(self.regress(_at(self.layer, pairs(student.features, target.maps))[0]))


def hint_target(teacher: Outputs) -> Maps:
    """Logits and every map, the stem's first: which one is the hint is a hyperparameter."""
    return Maps(teacher.logits, teacher.features)


def hint_term(student: Outputs, target: Maps, layer: int) -> Tensor:
    """mean (r(F_s) - F_t)^2."""
    theirs = _at(layer, pairs(student.features, target.maps))[1]
    ((s, t),) = pairs((student.adapted.regressed,), (theirs,))
    s, t = same_size(s, t)
    return ((s - t) ** 2).mean()


def first_loss(
    student: Outputs, target: Maps, batch: Batch, *, beta: Scalar = 100.0, layer: int = 2
) -> dict[str, Tensor]:
    """The hint alone: its gradient ends at the guided layer."""
    return {"hint": beta * hint_term(student, target, layer)}


def loss(
    student: Outputs,
    target: Maps,
    batch: Batch,
    *,
    beta: Scalar = 100.0,
    lambda_: Scalar = 1.0,
    alpha: Scalar = 0.0,
    temperature: Scalar = 4.0,
    layer: int = 2,
    stages: str = "two_stage",
) -> dict[str, Tensor]:
    """CE and KD, and the hint where it is trained along with them."""
    found = hard_and_soft(student, target.logits, batch, lambda_, alpha, temperature)
    if one_of("stages", stages, STAGES) == "joint":
        found["hint"] = beta * hint_term(student, target, layer)
    return found


def adapter(context: Context, *, layer: int = 2) -> Regressor:
    """The regressor for the guided layer."""
    return Regressor(context, layer)


def share(*, stages: str = "two_stage", first_share: Scalar = FIRST_SHARE) -> float:
    """Of all epochs, those of the hint alone."""
    return float(first_share) if one_of("stages", stages, STAGES) == "two_stage" else 0.0


def refuse(context: Context, **_: object) -> str | None:
    """A hint needs a map on either side."""
    return too_few_maps(context, 1)


def _at(layer: int, maps: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return maps[max(0, min(layer, len(maps) - 1))]


METHOD = Method(
    paper="arXiv:1412.6550",
    loss=loss,
    smooths=True,
    target=hint_target,
    needs=frozenset({"features", "teacher"}),
    adapter=adapter,
    first_phase=Phase(first_loss, share),
    refuse=refuse,
    choices={"stages": STAGES},
    bounds={"first_share": (0, 0.9)},
)
