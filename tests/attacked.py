"""Small networks and images that the tests of the evaluation share."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.contract import Outputs
from trainables.data.splits import Split


class Linear(nn.Module):
    """z = scale * W x over the flat pixels."""

    def __init__(self, weight: Tensor, scale: float = 1.0) -> None:
        super().__init__()
        self.weight, self.scale = nn.Parameter(weight), scale

    def forward(self, images: Tensor) -> Outputs:
        flat = images.flatten(1)
        return Outputs(self.scale * flat @ self.weight.T, flat)


class Net(nn.Module):
    """A little net that a few steps train; `scale` masks it without changing a single answer."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
        self.scale = scale

    def forward(self, images: Tensor) -> Outputs:
        return Outputs(self.scale * self.body(images), images.flatten(1))


def made_up(n: int = 200, seed: int = 0) -> Split:
    """Four classes, each a bright quarter of a noisy 8x8 image."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 4
    images = torch.randint(0, 160, (n, 1, 8, 8), generator=g)
    for i, label in enumerate(labels.tolist()):
        top, left = 4 * (label // 2), 4 * (label % 2)
        images[i, :, top : top + 4, left : left + 4] += 60
    return Split(images.clamp(max=255).to(torch.uint8), labels)


@cache
def trained_net(seed: int = 0) -> Net:
    """Sixty steps of Adam on the made-up images; the same object each time, so leave it as it is."""
    data = made_up()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Net()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            F.cross_entropy(net(data.images.float() / 255).logits, data.labels).backward()
            optimizer.step()
    return net.eval()


def masked(net: Net, scale: float) -> Net:
    """The same answers with logits `scale` times as large."""
    other = Net(scale)
    other.load_state_dict(net.state_dict())
    return other.eval()
