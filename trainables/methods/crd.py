"""Tell the teacher's view of the same image from its views of images of other classes, and the reverse.

Tian, Krishnan, Isola. Contrastive Representation Distillation. 2019. arXiv:1910.10699.

    v_s, v_t    linear maps of both embeddings to 128 numbers, of unit length; both maps are trained
    bank_s, bank_t    for every training image a running unit vector of its v_s, v_t
    For image i, its positive and K negatives j:   P = exp(v_s . bank_t[j] / tau) / Z_s
    L_s = -1/B sum_i [ log P_i / (P_i + K/N + 1e-7)  +  sum_j log (K/N) / (P_j + K/N + 1e-7) ];  L_t the other way round
    L = lambda * CE + alpha * T^2 KL + beta * (L_s + L_t)

Z_s and Z_t are N times the mean of exp(. / tau) over the first batch, fixed from then on. After each step the bank rows
of the batch become v = unit(m * old + (1 - m) * new).

Defaults: lambda 1, alpha 0, beta 0.8, K = `n_negatives` 16384, tau = `contrast_temperature` 0.07, m = `bank_momentum`
0.5, 128 numbers (`embedding_size`) (RepDistiller; Knowledge-Distillation-Zoo takes tau 0.1 and beta 0.2 or 0.8).
`positive: exact` is the same image, `relax` a random one of its class. `source: logits` embeds logits instead of the
embedding (the relational sweep of Comparative KD).

Departures: K is at most the number of images outside the largest class; the published code then draws with repetition.
Negatives are drawn without repetition, one from each of K equal stretches of the other classes' images in the order of
their classes, from a random start: every image is as likely as any other, and the classes are evenly represented. The
code draws K of them at random. The terms are computed from log P, so they neither overflow nor round. The banks change
after the step, with the vectors of the step, which gives the same numbers as changing them in the forward pass.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.contract import (
    AT_LEAST_1,
    POSITIVE,
    SHARE,
    Batch,
    Context,
    Embedded,
    Method,
    Outputs,
    Scalar,
    embedding_target,
)
from trainables.losses import hard_and_soft, one_of, unit

POSITIVES = ("exact", "relax")
SOURCES = ("embedding", "logits")
CRD_EPS = 1e-7


class Adapted(NamedTuple):
    """What the loss and the banks need."""

    student: Tensor  # (B, embedding_size), unit
    teacher: Tensor
    student_scores: Tensor  # (B, 1 + K): v_s . bank_t, the positive first
    teacher_scores: Tensor  # (B, 1 + K): v_t . bank_s
    log_z: Tensor  # (2,): log of Z_s and Z_t
    noise: Tensor  # 0-d: K / N


class Negatives(nn.Module):
    """Draws images of other classes, evenly; the training labels sorted once."""

    def __init__(self, labels: Tensor, n_classes: int) -> None:
        super().__init__()
        counts = torch.bincount(labels, minlength=n_classes)
        self.register_buffer("labels", labels.clone(), persistent=False)
        self.register_buffer("order", labels.argsort(stable=True), persistent=False)
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("starts", counts.cumsum(0) - counts, persistent=False)
        self.labels: Tensor
        self.order: Tensor
        self.counts: Tensor
        self.starts: Tensor

    def draw(self, indices: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        """(B, count) different images outside each one's class; `count` is at most what every class leaves."""
        own = self.labels[indices].unsqueeze(-1)  # (B, 1)
        others = len(self.labels) - self.counts[own]
        edges = torch.arange(count + 1, device=indices.device) * others // count
        low, high = edges[:, :-1], edges[:, 1:]  # (B, count)
        inside = self._uniform(len(indices), count, generator) * (high - low)
        start = self._uniform(len(indices), 1, generator) * others
        place = (
            low
            + torch.minimum(inside.long(), high - low - 1)
            + torch.minimum(start.long(), others - 1)
        )
        place = torch.where(place >= others, place - others, place)
        return self.order[place + (place >= self.starts[own]) * self.counts[own]]

    def same_class(self, indices: Tensor, generator: torch.Generator | None) -> Tensor:
        """(B,) images of each one's class, itself among them."""
        own = self.labels[indices]
        within = (self._uniform(len(indices), 1, generator).squeeze(-1) * self.counts[own]).long()
        return self.order[self.starts[own] + torch.minimum(within, self.counts[own] - 1)]

    def _uniform(self, rows: int, columns: int, generator: torch.Generator | None) -> Tensor:
        device = generator.device if generator is not None else self.order.device
        return torch.rand(rows, columns, generator=generator, device=device).to(self.order.device)


class Memory(nn.Module):
    """The two maps and the two banks."""

    def __init__(
        self,
        sizes: tuple[int, int],
        labels: Tensor,
        n_classes: int,
        *,
        n_negatives: int,
        contrast_temperature: float,
        bank_momentum: float,
        embedding_size: int,
        positive: str,
        source: str,
    ) -> None:
        super().__init__()
        self.positive = one_of("positive", positive, POSITIVES)
        self.source = one_of("source", source, SOURCES)
        self.temperature, self.momentum = contrast_temperature, bank_momentum
        self.negatives = Negatives(labels, n_classes)
        self.count = min(n_negatives, len(labels) - int(self.negatives.counts.max()))
        self.student = nn.Linear(sizes[0], embedding_size)
        self.teacher = nn.Linear(sizes[1], embedding_size)
        bound = 1 / math.sqrt(embedding_size / 3)
        for name in ("student_bank", "teacher_bank"):
            rows = torch.empty(len(labels), embedding_size).uniform_(-bound, bound)
            self.register_buffer(name, rows)
        self.register_buffer("log_z", torch.full((2,), math.inf))  # until the first batch is done
        self.student_bank: Tensor
        self.teacher_bank: Tensor
        self.log_z: Tensor

    def forward(self, student: Outputs, target: Embedded, batch: Batch) -> Adapted:
        """Scores of the positive and of the negatives, for both directions."""
        of_embedding = self.source == "embedding"
        v_s = unit(self.student(student.embedding if of_embedding else student.logits))
        v_t = unit(self.teacher(target.embedding if of_embedding else target.logits))
        first = batch.indices
        if self.positive == "relax":
            first = self.negatives.same_class(first, batch.generator)
        others = self.negatives.draw(batch.indices, self.count, batch.generator)
        rows = torch.cat([first.unsqueeze(-1), others], -1)  # (B, 1 + K)
        # all N products and then the K wanted: K vectors of every sample would be much more to move than to compute
        scores_s = (v_s @ self.teacher_bank.mT).gather(1, rows)
        scores_t = (v_t @ self.student_bank.mT).gather(1, rows)
        noise = v_s.new_tensor(self.count / len(self.student_bank))
        return Adapted(v_s, v_t, scores_s, scores_t, self._log_z(scores_s, scores_t), noise)

    @torch.no_grad()
    def after_step(self, adapted: Adapted, batch: Batch) -> None:
        """Move the batch's rows of both banks; fix Z after the first batch."""
        self.log_z.copy_(adapted.log_z)
        for bank, new in (
            (self.student_bank, adapted.student),
            (self.teacher_bank, adapted.teacher),
        ):
            mixed = self.momentum * bank[batch.indices] + (1 - self.momentum) * new.to(bank.dtype)
            bank.index_copy_(0, batch.indices, unit(mixed))

    def _log_z(self, *scores: Tensor) -> Tensor:
        now = torch.stack([(s.detach() / self.temperature).flatten().logsumexp(0) for s in scores])
        now = now + math.log(len(self.student_bank)) - math.log(scores[0].numel())
        return torch.where(self.log_z.isinf(), now, self.log_z)


def adapter(
    context: Context,
    *,
    n_negatives: int = 16384,
    contrast_temperature: Scalar = 0.07,
    bank_momentum: Scalar = 0.5,
    embedding_size: int = 128,
    positive: str = "exact",
    source: str = "embedding",
) -> Memory:
    """Maps and banks for the training split of the context."""
    field = "embedding" if source == "embedding" else "logits"
    sizes = tuple(getattr(seen, field).shape[-1] for seen in (context.student, context.teacher))
    return Memory(
        (sizes[0], sizes[1]),
        context.labels,
        context.n_classes,
        n_negatives=n_negatives,
        contrast_temperature=float(contrast_temperature),
        bank_momentum=float(bank_momentum),
        embedding_size=embedding_size,
        positive=positive,
        source=source,
    )


def contrast(scores: Tensor, log_z: Tensor, noise: Tensor, contrast_temperature: Scalar) -> Tensor:
    """L_s or L_t, from (B, 1 + K) scores with the positive first."""
    log_p = scores / contrast_temperature - log_z
    against = (noise + CRD_EPS).log()
    positive = F.logsigmoid(log_p[:, 0] - against)
    negative = noise.log() - against + F.logsigmoid(against - log_p[:, 1:])
    return -(positive + negative.sum(-1)).mean()


def loss(
    student: Outputs,
    target: Embedded,
    batch: Batch,
    *,
    temperature: Scalar = 4.0,
    alpha: Scalar = 0.0,
    beta: Scalar = 0.8,
    lambda_: Scalar = 1.0,
    contrast_temperature: Scalar = 0.07,
) -> dict[str, Tensor]:
    """Hard labels, plain KD, and the contrast in both directions."""
    seen: Adapted = student.adapted
    tau, noise = contrast_temperature, seen.noise
    return {
        **hard_and_soft(student, target.logits, batch, lambda_, alpha, temperature),
        "crd_student": beta * contrast(seen.student_scores, seen.log_z[0], noise, tau),
        "crd_teacher": beta * contrast(seen.teacher_scores, seen.log_z[1], noise, tau),
    }


def refuse(context: Context, **_: object) -> str | None:
    """Why there is nothing to contrast with, or None."""
    if len(context.labels.unique()) > 1:
        return None
    return "the training split must hold two classes or more, got one"


METHOD = Method(
    paper="arXiv:1910.10699",
    loss=loss,
    smooths=True,
    target=embedding_target,
    adapter=adapter,
    refuse=refuse,
    bounds={
        "contrast_temperature": POSITIVE,
        "bank_momentum": SHARE,
        "n_negatives": AT_LEAST_1,
        "embedding_size": AT_LEAST_1,
    },
    choices={"positive": POSITIVES, "source": SOURCES},
)
