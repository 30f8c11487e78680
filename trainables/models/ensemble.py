"""Several networks as one: the mean of their logits.

"If the teacher is an ensemble, either z or q are averaged": here it is z, so one temperature softens them all. An
ensemble gives no feature maps: those of different networks have nothing in common.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainables.contract import Outputs
from trainables.models.normalized import Normalized


class Ensemble(nn.Module):
    """Members take images in [0, 1] and normalise them each in its own way."""

    norms = ()

    def __init__(self, members: Sequence[Normalized]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Outputs:
        """The mean of the members' logits (B, C), and their embeddings one beside the other (B, sum of D)."""
        outputs = [member(images) for member in self.members]
        logits = torch.stack([one.logits for one in outputs]).mean(0)
        return Outputs(logits, torch.cat([one.embedding for one in outputs], 1))

    @property
    def classifier(self) -> nn.Linear:
        """The one linear layer that gives the same logits from the joined embedding: a copy, frozen."""
        heads: list[nn.Linear] = [member.classifier for member in self.members]  # type: ignore[misc]
        n_classes, width = heads[0].weight.shape[0], sum(head.weight.shape[1] for head in heads)
        layer = nn.utils.skip_init(nn.Linear, width, n_classes, device=heads[0].weight.device)
        biases = [head.bias for head in heads if head.bias is not None]
        with torch.no_grad():
            layer.weight.copy_(torch.cat([head.weight for head in heads], 1) / len(heads))
            layer.bias.copy_(sum(biases, torch.zeros_like(layer.bias)) / len(heads))
        return layer.requires_grad_(False)
