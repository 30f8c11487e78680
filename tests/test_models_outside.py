"""Networks from outside: torchvision's seen through their graphs, timm's, and a user's own factory."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.test_models import made, pictures
from trainables.contract import Outputs
from trainables.models.normalized import Normalized


class Small(nn.Module):
    """Two resolutions, a shortcut, activations in place, a functional dropout: what a tracer may trip over."""

    def __init__(self, dropout: float = 0.0, n_classes: int = 10) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.down = nn.Conv2d(8, 8, 1, 2)
        self.fc = nn.Linear(8, n_classes)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(x))
        out += self.down(x)
        x = self.relu(out).mean((2, 3))
        return self.fc(F.dropout(x, self.dropout, self.training) if self.dropout else x)


def test_traced_finds_stages_preacts_and_norms() -> None:
    from trainables.models.traced import traced

    network = Small()
    cut = traced(network, 3, 8).eval()
    images = pictures(2, size=8)
    outputs = cut(images)
    torch.testing.assert_close(outputs.logits, network.eval()(images))
    assert [tuple(m.shape[1:]) for m in outputs.features] == [(8, 8, 8), (8, 4, 4)]
    assert all(
        torch.equal(f, p.relu()) for f, p in zip(outputs.features, outputs.preacts, strict=True)
    )
    assert (outputs.preacts[0] < 0).any()  # the activation in place did not reach it
    assert cut.norms == (network.bn1, network.bn2)
    assert cut.classifier is network.fc


def test_traced_with_dropout_and_copied() -> None:
    """The graphs of training and evaluation differ; a copy keeps the mode it was copied in."""
    from trainables.models.traced import traced

    cut = traced(Small(dropout=0.5), 1, 8).eval()
    images = pictures(2, channels=1, size=8)
    again = copy.deepcopy(cut)
    assert torch.equal(again(images).logits, cut(images).logits)
    cut.train()
    assert not torch.equal(cut(images).embedding, cut(images).embedding)


def test_torchvision_by_name() -> None:
    """Against torchvision's own answer for the same weights."""
    model = made("torchvision:resnet18").eval()
    from torchvision.models import resnet18

    theirs = resnet18(num_classes=10)
    theirs.load_state_dict(model.body.network.state_dict())
    images = pictures(1)
    outputs = model(images)
    torch.testing.assert_close(outputs.logits, theirs.eval()((images - 0.5) / 0.5))
    maps = [(m.shape[1], m.shape[2]) for m in outputs.features]
    assert maps == [(64, 16), (64, 8), (128, 4), (256, 2), (512, 1)]
    assert [norm.num_features for norm in model.norms] == [64, 64, 128, 256, 512]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:resnet81", "did you mean 'torchvision:resnet18'"),
        ("torchvision:squeezenet1_1", "must end in a torch.nn.Linear"),
        ("tests.nowhere:factory", "can be imported, got No module"),
        ("tests.test_models_outside:plane", "factory 'plane', got none, did you mean 'plain'"),
        ("tests.test_models_outside:sys", "got a module"),
        ("tests.test_models_outside:pictures", "must take n_classes, channels and size"),
        ("tests.test_models_outside:wrong_classes", r"shape \(2, 10\) or Outputs, got \(2, 11\)"),
        ("tests.test_models_outside:probabilities", "raw logits"),
        ("tests.test_models_outside:not_a_module", "torch.nn.Module, got str"),
        ("tests.test_models_outside:headless", "`classifier`, got none"),
    ],
)
def test_what_cannot_come_from_outside(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        made(name)
    assert "\n" not in str(caught.value)


def test_timm_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"pip install 'kdtune\[timm\]'"):
        made("timm:resnet18")


def test_timm_by_name() -> None:
    """Against timm's own answer for the same weights."""
    pytest.importorskip("timm")
    model = made("timm:resnet18", channels=1).eval()
    images = pictures(1, channels=1)
    outputs = model(images)
    torch.testing.assert_close(outputs.logits, model.body.network((images - 0.5) / 0.5))
    maps = [(m.shape[1], m.shape[2]) for m in outputs.features]
    assert maps == [(64, 16), (64, 8), (128, 4), (256, 2), (512, 1)]
    assert outputs.preacts == ()


def plain(n_classes: int, channels: int, size: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(channels * size**2, 5), nn.ReLU(), nn.Linear(5, n_classes)
    )


def wrong_classes(n_classes: int, channels: int, size: int) -> nn.Module:
    return plain(n_classes + 1, channels, size)


def probabilities(n_classes: int, channels: int, size: int) -> nn.Module:
    return nn.Sequential(plain(n_classes, channels, size), nn.Softmax(1))


def not_a_module(n_classes: int, channels: int, size: int) -> str:
    return "module"


class Headless(nn.Module):
    def forward(self, x: Tensor) -> Outputs:
        pooled = x.mean((2, 3))
        return Outputs(pooled.repeat(1, 4)[:, :10], pooled)


def headless(n_classes: int, channels: int, size: int) -> nn.Module:
    return Headless()


def ours(n_classes: int, channels: int, size: int) -> nn.Module:
    return made("resnet8", n_classes, channels, size)


def test_a_factory_of_logits() -> None:
    model = made("tests.test_models_outside:plain")
    outputs = model(pictures(2))
    assert outputs.embedding.shape == (2, 5)
    assert outputs.features == outputs.preacts == ()
    torch.testing.assert_close(model.classifier(outputs.embedding), outputs.logits)


def test_a_factory_of_outputs() -> None:
    model = made("tests.test_models_outside:ours")
    assert isinstance(model.body, Normalized)
    assert len(model(pictures(2)).features) == len(model.norms) == 4
