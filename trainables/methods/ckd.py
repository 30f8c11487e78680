"""Compare groups of images: the difference of their mean logits should be the teacher's, and that of their labels.

Wilf, Xu, Liang, Obolenskiy, Fried, Morency. Comparative Knowledge Distillation. 2023. arXiv:2311.02253.

    A sample is `group` images: the first ceil(group / 2) positive, the others negative.
    Dz = mean over the positive of z - mean over the negative of z, for student, teacher and one-hot labels
    kl    L = lambda * KL_T(Dy || Dz_s) + beta * KL_T(Dz_t || Dz_s)
          with KL_T(a || b) = T^2 KL(softmax(a / T) || softmax(b / T)), batch mean
    mse   L = lambda * mean (Dz_s - Dy)^2 + beta * mean (Dz_s - Dz_t)^2,   the means over B and C

The student sees the positive and the negative images in separate passes. There is no cross-entropy with the labels;
`lambda` weighs the term with Dy, which at T = 4 is a weak one: one-hot labels over 4 are nearly uniform.

Defaults: lambda 1 (w_cls), beta 1 (w_rel), T 4, kl, groups of 3: the public code of 2023. Its release of 2025 has mse
and groups of 2; the two are not the same loss, and both are presets. Departures: the authors draw up to 100 000 groups
once and ask the teacher once an image; how groups and the teacher's views are drawn is the loop's business here.

`inner` adds a loss on the same differences of features, `inner_weight` times (by default the published weight):

    hint (100)          mean (r(DF_s) - DF_t)^2 at map 2 (the stem is 0), r a convolution, batch norm and ReLU
    vid (1)             the variational bound of vid, over all stages
    correlation (0.02)  the delta form of correlation, on the embeddings

r's ReLU makes the hint's prediction non-negative though DF_t is not; so it is in the authors' code. Their teacher sees
the stored views again for it. `standardize` (LSKD, arXiv:2403.01427) acts on both networks' logits, before differences.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.adapters import ConvReg
from trainables.contract import (
    NON_NEGATIVE,
    Batch,
    Context,
    Embedded,
    Inputs,
    Method,
    Outputs,
    Scalar,
)
from trainables.losses import (
    Maps,
    delta_congruence,
    one_of,
    pairs,
    same_size,
    softened_kl,
    standardized,
    too_few_maps,
)
from trainables.methods import correlation, vid

LOSSES = ("kl", "mse")
INNER_WEIGHTS = {"none": 0.0, "hint": 100.0, "vid": 1.0, "correlation": 0.02}
INNERS = tuple(INNER_WEIGHTS)
HINT_LAYER = 2
EMBEDDING_SIZE = 128  # of the inner correlation


class Target(NamedTuple):
    """The teacher's logits; for an inner loss also its embedding and maps."""

    logits: Tensor  # (group * B, C)
    embedding: Tensor | None = None
    features: tuple[Tensor, ...] = ()


class Compared(NamedTuple):
    """The student's and the teacher's differences, as the inner loss compares them."""

    student: tuple[Tensor, ...]
    teacher: tuple[Tensor, ...]
    variances: tuple[Tensor, ...] = ()  # of vid


def target(teacher: Outputs, *, inner: str = "none") -> Target:
    """What is compared: the logits alone, unless there is an inner loss."""
    if one_of("inner", inner, INNERS) == "none":
        return Target(teacher.logits)
    return Target(teacher.logits, teacher.embedding, teacher.features)


def sides(group: int) -> tuple[int, int]:
    """How many images of a group are positive, and how many negative."""
    return group - group // 2, group // 2


def inputs(*, group: int = 3) -> Inputs:
    """`group` images a sample; the positive ones in one pass, the negative ones in another."""
    return Inputs(blocks=group, forwards=sides(group), strong=(False,) * group)


def difference(x: Tensor, group: int) -> Tensor:
    """(group * B, ...), block after block, to (B, ...): mean of the positive minus mean of the negative blocks."""
    blocks = x.unflatten(0, (group, -1))
    positive, _ = sides(group)
    return blocks[:positive].mean(0) - blocks[positive:].mean(0)


class Differences(nn.Module):
    """The inner loss's trained parts, applied to differences."""

    def __init__(self, context: Context, inner: str, group: int) -> None:
        super().__init__()
        self.inner, self.group = inner, group
        self.part: nn.Module
        if inner == "hint":
            ours, theirs = hinted(context.student.features, context.teacher.features)
            self.part = ConvReg(ours.shape, theirs.shape)
        elif inner == "vid":
            self.part = vid.Regressors(context)
        else:
            sizes = context.student.embedding.shape[-1], context.teacher.embedding.shape[-1]
            self.part = correlation.Embed(*sizes, EMBEDDING_SIZE)

    def forward(self, student: Outputs, target: Target, batch: Batch) -> Compared:
        """Both networks' differences, the student's in the teacher's terms."""
        ours = student._replace(
            embedding=difference(student.embedding, self.group),
            features=tuple(difference(f, self.group) for f in student.features),
        )
        maps = tuple(difference(f, self.group) for f in target.features)
        if self.inner == "hint":
            s, t = hinted(ours.features, maps)
            s, t = same_size(self.part(s), t)
            return Compared((s,), (t,))
        if self.inner == "vid":
            expected = self.part(ours, Maps(target.logits, maps[1:]), batch)
            found = [same_size(m, t) for m, t in pairs(expected.means, maps[1:])]
            s_all, t_all = zip(*found, strict=True)
            return Compared(tuple(s_all), tuple(t_all), expected.variances)
        assert target.embedding is not None
        embedding = difference(target.embedding, self.group)
        seen = self.part(ours, Embedded(target.logits, embedding), batch)
        return Compared((seen.student,), (seen.teacher,))


def hinted(student_maps: Any, teacher_maps: Any) -> tuple[Tensor, Tensor]:
    """The maps between which the hint passes."""
    both = pairs(student_maps, teacher_maps)
    return both[min(HINT_LAYER, len(both) - 1)]


def adapter(context: Context, *, inner: str = "none", group: int = 3) -> Differences | None:
    """The inner loss's trained parts; None without one."""
    if one_of("inner", inner, INNERS) == "none":
        return None
    return Differences(context, inner, group)


def inner_term(compared: Compared, inner: str) -> Tensor:
    """The inner loss, unweighted."""
    both = list(zip(compared.student, compared.teacher, strict=True))
    if inner == "hint":
        return ((both[0][0] - both[0][1]) ** 2).mean()
    if inner == "correlation":
        return delta_congruence(*both[0])
    stages = [
        vid.negative_log_likelihood(s, variance, t)
        for (s, t), variance in zip(both, compared.variances, strict=True)
    ]
    return torch.stack(stages).sum()


def loss(
    student: Outputs,
    target: Target,
    batch: Batch,
    *,
    temperature: Scalar = 4.0,
    beta: Scalar = 1.0,
    lambda_: Scalar = 1.0,
    group: int = 3,
    loss: str = "kl",
    inner: str = "none",
    inner_weight: Scalar | None = None,
    standardize: bool = False,
) -> dict[str, Tensor]:
    """The comparison with the labels, with the teacher, and of features."""
    s, t = student.logits, target.logits
    if standardize:
        s, t = standardized(s), standardized(t)
    s, t = difference(s, group), difference(t, group)
    y = difference(F.one_hot(batch.labels, s.shape[-1]).to(s.dtype), group)
    if one_of("loss", loss, LOSSES) == "kl":
        hard, soft = softened_kl(s, y, temperature), softened_kl(s, t, temperature)
    else:
        hard, soft = ((s - y) ** 2).mean(), ((s - t) ** 2).mean()
    found = {"ckd_labels": lambda_ * hard, "ckd": beta * soft}
    if one_of("inner", inner, INNERS) != "none":
        weight = INNER_WEIGHTS[inner] if inner_weight is None else inner_weight
        found[f"ckd_{inner}"] = weight * inner_term(student.adapted, inner)
    return found


def refuse(context: Context, *, inner: str = "none", **_: object) -> str | None:
    """Why the inner loss finds nothing to compare, or None."""
    if inner not in ("hint", "vid"):
        return None
    return too_few_maps(context, 2 if inner == "vid" else 1)


METHOD = Method(
    paper="arXiv:2311.02253",
    loss=loss,
    target=target,
    adapter=adapter,
    inputs=inputs,
    refuse=refuse,
    bounds={"inner_weight": NON_NEGATIVE},
    choices={"group": (2, 3, 4), "loss": LOSSES, "inner": INNERS},
)
