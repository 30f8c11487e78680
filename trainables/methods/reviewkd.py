"""Review the student's maps from the last stage down, and match the teacher's at several sizes.

Chen, Liu, Zhao, Jia. Distilling Knowledge via Knowledge Review. CVPR 2021. arXiv:2104.09044, sections 3.2 to 3.4.

    levels: the stages' maps and the embedding as a 1x1 map
    x_l = a * conv1x1(F_s,l) + b * up(x_{l+1})   with a, b = sigmoid(conv1x1([conv1x1(F_s,l), up(x_{l+1})]))
    y_l = conv3x3(x_l)   at the teacher's size and channels; batch norm after each but the attention's convolution
    own = ramp * sum_l HCL(y_l, F_t,l)
    ramp = min(progress / warmup, 1)
    HCL = weighted mean of mean (y - F_t)^2 over the map itself (1) and pooled to 4x4, 2x2, 1x1 (1/2, 1/4, 1/8),
          pooled sizes not below the map's own left out

beta = 5 is the authors' for resnet32x4 to resnet8x4 and for wide networks, and mdistiller's; 8, 1 and 0.6 stand for
other pairs. The warm-up is 20 of 240 epochs; here it rises with every step, from 0 (the authors' by the epoch from 0,
mdistiller's from 1/20). The student's maps are taken after, the teacher's before their activation, without the stem's,
and the embeddings as they are. The fusion has min(512, D_s) channels. Sizes are the networks' own, where the published
code lists them for each pair. Networks of unequal depth are matched from the end.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.contract import SHARE, Batch, Context, Method, Outputs, Scalar
from trainables.losses import Maps, hard_and_soft, matched, pairs, ramp, too_few_maps

LARGEST_MIDDLE = 512  # channels of the fusion
POOLED = (4, 2, 1)  # sizes of HCL


class Reviewed(NamedTuple):
    """The student's maps in the teacher's shapes, the first stage's first, the embedding's last."""

    maps: tuple[Tensor, ...]  # each (B, c_t, h_t, w_t)


class Fusion(nn.Module):
    """One level: attention-based fusion with the level above, then the way out to the teacher's channels."""

    def __init__(self, n_in: int, n_middle: int, n_out: int, *, fuse: bool) -> None:
        super().__init__()
        self.inward = nn.Sequential(
            nn.Conv2d(n_in, n_middle, 1, bias=False), nn.BatchNorm2d(n_middle)
        )
        self.outward = nn.Sequential(
            nn.Conv2d(n_middle, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out)
        )
        self.attention = nn.Conv2d(2 * n_middle, 2, 1) if fuse else None
        for part in (self.inward, self.outward):
            nn.init.kaiming_uniform_(part[0].weight, a=1)  # type: ignore[arg-type]

    def forward(self, x: Tensor, above: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        """The map for the teacher, (B, n_out, *size), and the one for the level below."""
        x = self.inward(x)
        if self.attention is not None and above is not None:
            above = _resized(above, x.shape[-2:])
            shares = self.attention(torch.cat([x, above], 1)).sigmoid()
            x = x * shares[:, :1] + above * shares[:, 1:]
        x = _resized(x, size)
        return self.outward(x), x


class Review(nn.Module):
    """All levels."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        levels = pairs(student_levels(context.student), teacher_levels(context.teacher))
        middle = min(LARGEST_MIDDLE, levels[-1][0].shape[1])
        self.levels = nn.ModuleList(
            Fusion(s.shape[1], middle, t.shape[1], fuse=i < len(levels) - 1)
            for i, (s, t) in enumerate(levels)
        )

    def forward(self, student: Outputs, target: Maps, batch: Batch) -> Reviewed:
        """One map a level, made from the last level down."""
        levels = pairs(student_levels(student), target.maps)
        above: Tensor | None = None
        out: list[Tensor] = []
        for fusion, (s, t) in zip(reversed(self.levels), reversed(levels), strict=True):
            mapped, above = fusion(s, above, t.shape[-2:])
            out.insert(0, mapped)
        return Reviewed(tuple(out))


def student_levels(student: Outputs) -> tuple[Tensor, ...]:
    """The stages' maps after activation, and the embedding as a 1x1 map."""
    return (*student.features[1:], student.embedding[:, :, None, None])


def teacher_levels(teacher: Outputs) -> tuple[Tensor, ...]:
    """The stages' maps before activation, and the embedding as a 1x1 map."""
    return (*teacher.preacts[1:], teacher.embedding[:, :, None, None])


def target(teacher: Outputs) -> Maps:
    """The teacher's logits and levels."""
    return Maps(teacher.logits, teacher_levels(teacher))


def hierarchical(s: Tensor, t: Tensor) -> Tensor:
    """HCL of two maps of one shape."""
    total, weights, weight = ((s - t) ** 2).mean(), 1.0, 1.0
    for size in POOLED:
        if size < s.shape[-2]:
            weight /= 2
            gap = F.adaptive_avg_pool2d(s, size) - F.adaptive_avg_pool2d(t, size)
            total, weights = total + weight * (gap**2).mean(), weights + weight
    return total / weights


def loss(
    student: Outputs,
    target: Maps,
    batch: Batch,
    *,
    beta: Scalar = 5.0,
    lambda_: Scalar = 1.0,
    alpha: Scalar = 0.0,
    temperature: Scalar = 4.0,
    warmup: Scalar = 20 / 240,
) -> dict[str, Tensor]:
    """CE, KD and the review, summed over levels."""
    levels = matched(student.adapted.maps, target.maps)
    gaps = [hierarchical(s, t) for s, t in levels]
    return {
        **hard_and_soft(student, target.logits, batch, lambda_, alpha, temperature),
        "review": beta * ramp(batch.progress, warmup) * torch.stack(gaps).sum(),
    }


def adapter(context: Context) -> Review:
    """The fusions."""
    return Review(context)


def refuse(context: Context, **_: object) -> str | None:
    """The teacher's maps are taken before their activation."""
    if len(context.teacher.preacts) != len(context.teacher.features):
        return (
            "the teacher must give each feature map before its activation too, "
            f"got {len(context.teacher.preacts)} for {len(context.teacher.features)} maps"
        )
    return too_few_maps(context)


def _resized(x: Tensor, size: torch.Size) -> Tensor:
    return x if x.shape[-2:] == size else F.interpolate(x, tuple(size), mode="nearest")


METHOD = Method(
    paper="arXiv:2104.09044",
    loss=loss,
    smooths=True,
    target=target,
    needs=frozenset({"features", "preacts", "teacher"}),
    adapter=adapter,
    refuse=refuse,
    bounds={"warmup": SHARE},
    exceptions={
        "one_sample": "the embedding's level is a 1x1 map, whose batch norm needs two samples or more"
    },
)
