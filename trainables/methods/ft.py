"""Match factors: what an autoencoder makes of the teacher's last map, and a translator of the student's.

Kim, Park, Kwak. Paraphrasing Complex Network: Network Compression via Factor Transfer. NeurIPS 2018. arXiv:1802.04977,
section 3.

    u_t = encoder(F_t), trained once to reconstruct F_t = decoder(encoder(F_t));   u_s = translator(F_s)

    factor = energy   own = mean | n(mean_c u_t,c^2) - n(mean_c u_s,c^2) |   over batch and positions
    factor = flat     own = mean | n(u_t) - n(u_s) |                         over batch, channels and positions

n divides a sample's flattened values by their Euclidean norm. energy with beta = 200 is RepDistiller's; flat with
beta = 500 is the authors' code. The last maps after their activation; the larger factor is average-pooled to the
smaller one's size. A factor has k = 0.5 of the teacher's channels. Encoder and translator are three 3x3 convolutions
with LeakyReLU(0.1), the decoder three transposed ones; as in RepDistiller the translator has batch norm (the authors'
has none). The autoencoder is trained by `prepare`, one step of SGD (0.01, momentum 0.9, weight decay 5e-4, squared
error: RepDistiller) for each batch it is handed; five passes are the authors' (RepDistiller: 30).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.contract import Batch, Context, Method, Outputs, Scalar
from trainables.losses import full, hard_and_soft, one_of, same_size, too_few_maps, unit

K = 0.5  # a factor's channels for each of the teacher's
SLOPE = 0.1  # of LeakyReLU
SEED = 0  # of the paraphraser's weights: prepared once a search, whatever the trial's seed
FACTORS = ("energy", "flat")


class Factors(NamedTuple):
    """The teacher's logits and the paraphraser's factors."""

    logits: Tensor  # (B, C)
    factors: Tensor  # (B, k c_t, H, W)


class Translated(NamedTuple):
    """The translator's factors."""

    factors: Tensor  # (B, k c_t, h, w)


class Translator(nn.Module):
    """The student's last map to factors."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        widths = (n_in, n_in, n_out, n_out)
        parts: list[nn.Module] = []
        for a, b in pairwise(widths):
            parts += [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.LeakyReLU(SLOPE)]
        self.body = nn.Sequential(*parts)

    def forward(self, student: Outputs, target: Factors, batch: Batch) -> Translated:
        """The student's factors, at its own size."""
        return Translated(self.body(student.features[-1]))


def adapter(context: Context) -> Translator:
    """The translator."""
    n_out = n_factors(context.teacher.features[-1])
    return Translator(context.student.features[-1].shape[1], n_out)


def n_factors(maps: Tensor) -> int:
    """Channels of a factor."""
    return max(1, int(maps.shape[1] * K))


def prepare(context: Context, outputs: Iterator[Outputs]) -> dict[str, Tensor]:
    """The encoder of a paraphraser trained on the teacher's last maps, one step a batch.

    Raises ValueError for no batches, and where the training diverges.
    """
    first = next(outputs, None)
    if first is None:
        raise ValueError("the paraphraser must be trained on one batch of maps or more, got none")
    with torch.inference_mode(False):
        both = _paraphraser(context.teacher.features[-1]).to(first.features[-1].device)
    optimizer = torch.optim.SGD(both.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    for seen in chain([first], outputs):
        _step(both, optimizer, seen.features[-1])
    encoder = {name: tensor.detach() for name, tensor in both[0].state_dict().items()}
    if not all(bool(tensor.isfinite().all()) for tensor in encoder.values()):
        raise ValueError("the paraphraser must have finite weights after training, got NaN or inf")
    return encoder


def target(teacher: Outputs, prepared: Mapping[str, Tensor]) -> Factors:
    """The teacher's factors."""
    x = full(teacher.features[-1])
    for i in (0, 2, 4):
        weight, bias = (prepared[f"{i}.{part}"].to(x) for part in ("weight", "bias"))
        x = F.leaky_relu(F.conv2d(x, weight, bias, padding=1), SLOPE)
    return Factors(teacher.logits, x)


def factor_gap(student_factors: Tensor, teacher_factors: Tensor, factor: str) -> Tensor:
    """Mean absolute difference of the normalised factors."""
    maps = same_size(full(student_factors), full(teacher_factors))
    if one_of("factor", factor, FACTORS) == "energy":
        maps = tuple((u**2).mean(1) for u in maps)  # type: ignore[assignment]
    s, t = (unit(u.flatten(1)) for u in maps)
    return (s - t).abs().mean()


def loss(
    student: Outputs,
    target: Factors,
    batch: Batch,
    *,
    beta: Scalar = 200.0,
    lambda_: Scalar = 1.0,
    alpha: Scalar = 0.0,
    temperature: Scalar = 4.0,
    factor: str = "energy",
) -> dict[str, Tensor]:
    """CE, KD and the factors' gap."""
    return {
        **hard_and_soft(student, target.logits, batch, lambda_, alpha, temperature),
        "factors": beta * factor_gap(student.adapted.factors, target.factors, factor),
    }


def refuse(context: Context, **_: object) -> str | None:
    """Factors are made of the last maps."""
    return too_few_maps(context, 1)


def _step(both: nn.Sequential, optimizer: torch.optim.Optimizer, maps: Tensor) -> None:
    with torch.inference_mode(False), torch.enable_grad():
        maps = full(maps).detach().clone()
        optimizer.zero_grad()
        F.mse_loss(both(maps), maps).backward()
        optimizer.step()


def _paraphraser(maps: Tensor) -> nn.Sequential:
    c, k = maps.shape[1], n_factors(maps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        down = [nn.Conv2d(a, b, 3, padding=1) for a, b in ((c, c), (c, k), (k, k))]
        up = [nn.ConvTranspose2d(a, b, 3, padding=1) for a, b in ((k, k), (k, c), (c, c))]
    return nn.Sequential(_with_leaky_relu(down), _with_leaky_relu(up))


def _with_leaky_relu(layers: list[nn.Conv2d] | list[nn.ConvTranspose2d]) -> nn.Sequential:
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.LeakyReLU(SLOPE))))


METHOD = Method(
    paper="arXiv:1802.04977",
    loss=loss,
    smooths=True,
    target=target,
    needs=frozenset({"features", "teacher"}),
    adapter=adapter,
    prepare=prepare,
    prepare_epochs=5,
    refuse=refuse,
    choices={"factor": FACTORS},
)
