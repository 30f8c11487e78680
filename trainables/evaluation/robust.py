"""All robust numbers of one network, threat by threat, and the flags that say whether they can be believed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from trainables.data.splits import Split
from trainables.evaluation import autoattack, sanity
from trainables.evaluation.predictions import predict
from trainables.evaluation.threats import Threat
from trainables.evaluation.tiers import Tier
from trainables.evaluation.worst_case import only_transferred, stand
from trainables.seeding import generator

Tell = Callable[[str, float], None]  # what is being done, and the share of it all that is done


def robust_numbers(
    model: nn.Module,
    data: Split,
    tier: Tier,
    against: Sequence[Threat],
    others: Mapping[str, nn.Module],
    seed: int,
    device: torch.device | str,
    workers: int,
    tell: Tell,
) -> dict[str, float]:
    """`robust/…` and `flags/…` for all images of `data`; the networks are in eval mode already.

    Threats are gone through from the smallest, norm by norm. A flag is raised by any one of them.
    """
    tell("gradients", 0.0)
    with ThreadPoolExecutor(workers) as pool:
        asked = pool.submit(sanity.gradients, model, data, device)
        radii = sanity.curve(model, data, seed, device, tier.curve)
    shares = asked.result()
    found = {**section("robust", shares), **section("robust/curve", radii)}
    logits = predict(model, data.images, device)
    again = predict(model, data.images[: sanity.BATCH], device)
    flags = Counter(
        sanity.overall_flags(shares, radii)
    )  # | takes the larger count: raised by either
    flags |= Counter(sanity.model_flags(logits, again, data.labels))
    stood: dict[str, Tensor] = {}
    for place, threat in enumerate(sorted(against)):

        def part(what: str, share: float, place: int = place, name: str = threat.name) -> None:
            tell(f"{what} {name}", (place + share) / len(against))

        before, n_classes = stood.get(threat.norm), logits.shape[-1]
        measured, stood[threat.norm] = within(
            model, data, tier, threat, before, others, n_classes, seed, device, workers, part
        )
        found |= section(f"robust/{threat.name}", measured)
        flags |= Counter(sanity.threat_flags(measured))
    raised = {name: float(flags[name]) for name in (*sanity.MASKING, *sanity.CAVEATS)}
    return {**found, **section("flags", raised), "flags/count": sum(raised.values())}


def within(
    model: nn.Module,
    data: Split,
    tier: Tier,
    threat: Threat,
    before: Tensor | None,
    others: Mapping[str, nn.Module],
    n_classes: int,
    seed: int,
    device: torch.device | str,
    workers: int,
    tell: Tell,
) -> tuple[dict[str, float], Tensor]:
    """The numbers of one threat, and which images (N,) stand it; `before` tells which stood a smaller one."""
    result = stand(
        model,
        data,
        threat,
        tier.budget,
        n_classes,
        before=before,
        seed=seed,
        device=device,
        workers=workers,
        tell=lambda share: tell("attacks within", share),
    )
    measured, stands = result.metrics(), result.worst
    n, size = tier.n_transferred, len(data.labels)
    drawn = torch.randperm(size, generator=generator(seed, "transferred"))[:n]
    for name, other in others.items() if n else ():
        tell(f"examples of {name} within", 1.0)
        some, steps = Split(data.images[drawn], data.labels[drawn]), tier.budget.steps
        measured[f"only_transfer_{name}"] = only_transferred(
            model, other, some, stands[drawn], threat, steps, seed, device
        )
    if tier.autoattack:
        tell("AutoAttack within", 1.0)
        stands = autoattack.stands(model, data, threat, stands, n_classes, seed, device)
        measured["aa"] = stands.double().mean().item()
    return measured, stands


def section(name: str, found: Mapping[str, float]) -> dict[str, float]:
    """`found` under one name: name/key."""
    return {f"{name}/{key}": value for key, value in found.items()}
