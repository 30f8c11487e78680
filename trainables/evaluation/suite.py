"""Everything that is measured of one trained network, in three tiers; numbers by name, flags among them.

    clean/accuracy, clean/n                              the whole split
    calibration/nll, brier, ece, adaptive_ece            also …_scaled, by a temperature fitted on validation
    agreement/top1, kl, eta_s, eta_f and their counts    with the teacher; agreement_train/… on the training images
    robust/zero_gradients, max_logit, curve/linf_8_255   of the network, whatever the radius
    robust/linf_8_255/fgsm, pgd_margin, worst, n …       one section a threat
    corruption/lite/mean, corruption/lite/contrast …     or cifar10_c, where the user has the files
    ood/fashion_mnist/msp_auroc …                        one section another dataset
    flags/zero_gradients …                               0 or 1; `sanity.flagged` puts them into words

Every robust number comes with its flags: `flags/count` of 0 is the only one that says it may be believed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from trainables.data.splits import Split
from trainables.evaluation import autoattack, official, quality, threats
from trainables.evaluation.attacks import losses_for
from trainables.evaluation.corruptions import LITE, SEVERITIES, corrupt
from trainables.evaluation.ood import detection
from trainables.evaluation.predictions import judged, predict, right, sample
from trainables.evaluation.robust import Tell, robust_numbers, section
from trainables.evaluation.threats import Threat
from trainables.evaluation.tiers import TIERS, Tier
from trainables.seeding import generator


@dataclass(frozen=True)
class Beside:
    """What else a network is measured against; all of it optional."""

    teacher: nn.Module | None = None
    teacher_logits: Tensor | None = None  # (N, C) on the same images, else the teacher is asked
    train: Split | None = None  # agreement is measured there too, un-augmented; asks the teacher
    temperature: float | None = None  # fitted on validation
    surrogates: Mapping[str, nn.Module] = field(default_factory=dict)  # beside the teacher
    corrupted: Path | None = None  # folder of CIFAR-10-C, CIFAR-100-C or MNIST-C; else the lite set
    elsewhere: Mapping[str, Split] = field(default_factory=dict)  # other datasets, by name


def evaluate(
    model: nn.Module,
    data: Split,
    tier: str,
    against: Sequence[Threat],
    beside: Beside | None = None,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    workers: int = 1,
    tell: Tell = lambda what, share: None,
) -> dict[str, float]:
    """Measure a network on one split (uint8 images, labels) against threats in pixels, as a tier says.

    The network takes float images in [0, 1] and gives Outputs or logits; it is judged in eval mode and float32, and
    is left as it was. `workers` threads work at once, best with one thread of torch's own each; their number
    changes no result. Raises ValueError, before anything is attacked, for what cannot be done.
    """
    beside = beside or Beside()
    if tier not in TIERS:
        raise ValueError(f"tier must be one of {', '.join(TIERS)}, got {tier!r}")
    if not len(data.labels):
        raise ValueError("the split must hold at least one image, got 0")
    threats.check(against)
    networks = [model, *([beside.teacher] if beside.teacher else []), *beside.surrogates.values()]
    with ExitStack() as stack:
        for network in networks:
            stack.enter_context(judged(network))
        return _Run(model, data, TIERS[tier], beside, seed, device, workers, tell).measure(against)


@dataclass(frozen=True)
class _Run:
    """One evaluation under way; networks are in eval mode."""

    model: nn.Module
    data: Split
    tier: Tier
    beside: Beside
    seed: int
    device: torch.device | str
    workers: int
    tell: Tell

    def measure(self, against: Sequence[Threat]) -> dict[str, float]:
        """All stages, one after another."""
        n_classes = predict(self.model, self.data.images[:1], self.device).shape[-1]
        published = self._check(n_classes)
        logits = predict(self.model, self.data.images, self.device)
        found = self._answers(logits)
        stages: list[tuple[float, Callable[[Tell], dict[str, float]]]] = [
            (1, lambda tell: self._attacks(against, tell))
        ]
        if self.tier.corruptions:
            weight = 0.2 if published is None else 1.0
            stages.append((weight, lambda tell: self._corruptions(published, tell)))
        if self.beside.elsewhere:
            stages.append((0.1, lambda tell: self._elsewhere(logits, tell)))
        done, total = 0.0, sum(weight for weight, _ in stages)
        for weight, work in stages:

            def part(what: str, share: float, done: float = done, weight: float = weight) -> None:
                self.tell(what, (done + weight * share) / total)

            found |= work(part)
            done += weight
        self.tell("done", 1.0)
        return found

    def _check(self, n_classes: int) -> official.Official | None:
        """Refuse what cannot be done; the published corrupted set, where there is one."""
        losses_for(n_classes)
        if self.tier.autoattack:
            autoattack.check(n_classes)
        told, n = self.beside.teacher_logits, len(self.data.labels)
        if told is not None and tuple(told.shape) != (n, n_classes):
            raise ValueError(
                f"the teacher's logits must be {(n, n_classes)}, got {tuple(told.shape)}"
            )
        if not self.tier.corruptions or self.beside.corrupted is None:
            return None
        _, channels, size, _ = self.data.images.shape
        return official.find(self.beside.corrupted, channels, size, n_classes)

    def _answers(self, logits: Tensor) -> dict[str, float]:
        """Accuracy, calibration and agreement."""
        data, teacher = self.data, self.beside.teacher
        hits = right(logits, data.labels)
        found = {"clean/accuracy": hits.double().mean().item(), "clean/n": float(len(hits))}
        calibrated = quality.calibration(logits, data.labels, self.beside.temperature)
        found |= section("calibration", calibrated)
        told = self.beside.teacher_logits
        if told is None and teacher is not None:
            told = predict(teacher, data.images, self.device)
        if told is not None:
            found |= section("agreement", quality.agreement(logits, told, data.labels))
        train = self.beside.train
        if train is not None and teacher is not None:
            with ThreadPoolExecutor(self.workers) as pool:
                asked = [
                    pool.submit(predict, m, train.images, self.device)
                    for m in (self.model, teacher)
                ]
            said, knew = (one.result() for one in asked)
            found |= section("agreement_train", quality.agreement(said, knew, train.labels))
        return found

    def _attacks(self, against: Sequence[Threat], tell: Tell) -> dict[str, float]:
        """Every threat, on the tier's share of the images, with the flags."""
        most = self.tier.n_attacked
        data = sample(self.data, most, self.seed, "attacked") if most else self.data
        others = dict(self.beside.surrogates)
        if self.beside.teacher is not None:
            others = {"teacher": self.beside.teacher, **others}
        return robust_numbers(
            self.model, data, self.tier, against, others, self.seed, self.device, self.workers, tell
        )

    def _corruptions(self, published: official.Official | None, tell: Tell) -> dict[str, float]:
        """Accuracy by corruption, over all severities, and the mean of those."""
        if published is None:
            names: tuple[str, ...] = tuple(LITE)
            title, main = "lite", names
        else:
            title, main = published.name, published.main
            names = official.available(published)
        found = {}

        def accuracy(name: str) -> float:
            parts = self._made(name) if published is None else [official.read(published, name)]
            hits = [right(predict(self.model, p.images, self.device), p.labels) for p in parts]
            return torch.cat(hits).double().mean().item()

        with ThreadPoolExecutor(self.workers) as pool:
            for name, measured in zip(names, pool.map(accuracy, names), strict=True):
                found[name] = measured
                tell(f"corruption {name}", len(found) / len(names))
        extra = [found[name] for name in names if name not in main]
        means = {"mean": sum(found[name] for name in main) / len(main)}
        means |= {"extra_mean": sum(extra) / len(extra)} if extra else {}
        return section(f"corruption/{title}", {**found, **means})

    def _made(self, name: str) -> Iterator[Split]:
        """The split under one corruption of the lite set, a severity at a time."""
        for severity in range(1, SEVERITIES + 1):
            draws = generator(self.seed, f"corruption {name}", severity)
            yield Split(corrupt(self.data.images[:], name, severity, draws), self.data.labels)

    def _elsewhere(self, logits: Tensor, tell: Tell) -> dict[str, float]:
        """How well confidence tells this dataset from the others."""
        found: dict[str, float] = {}
        for place, (name, other) in enumerate(self.beside.elsewhere.items()):
            tell(f"images of {name}", place / len(self.beside.elsewhere))
            there = predict(self.model, other.images, self.device)
            found |= section(f"ood/{name}", detection(logits, there))
        return found
