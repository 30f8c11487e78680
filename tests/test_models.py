"""The networks: parameter counts and maps against the tables of their sources, and what every one of them promises."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables import models
from trainables.models import facts
from trainables.models.normalized import Normalized, n_parameters

# Parameters at 10 and 100 classes, counted on the code that each network comes from.
COUNTS: dict[str, tuple[int, int | None]] = {
    "lenet5": (61_750, None),
    "lenet5_half": (15_760, None),
    "alexnet": (23_474_250, None),
    "alexnet_half": (5_882_922, None),
    "studentnet": (115_658, None),
    "vgg8": (3_918_858, 3_965_028),
    "vgg11": (9_231_114, 9_277_284),
    "vgg13": (9_416_010, 9_462_180),
    "vgg16": (14_728_266, 14_774_436),
    "vgg19": (20_040_522, 20_086_692),
    "resnet8": (78_042, 83_892),
    "resnet14": (175_258, 181_108),
    "resnet20": (272_474, 278_324),
    "resnet32": (466_906, 472_756),
    "resnet44": (661_338, 667_188),
    "resnet56": (855_770, 861_620),
    "resnet110": (1_730_714, 1_736_564),
    "resnet8x4": (1_210_410, 1_233_540),
    "resnet32x4": (7_410_730, 7_433_860),
    "resnet50": (23_520_842, 23_705_252),
    "wrn-16-1": (175_066, 180_916),
    "wrn-16-2": (691_674, 703_284),
    "wrn-16-4": (2_748_890, 2_772_020),
    "wrn-28-2": (1_467_610, 1_479_220),
    "wrn-28-4": (5_849_050, 5_872_180),
    "wrn-28-10": (36_479_194, 36_536_884),
    "wrn-40-1": (563_930, 569_780),
    "wrn-40-2": (2_243_546, 2_255_156),
    "wrn-40-4": (8_949_210, 8_972_340),
    "mobilenetv2_half": (697_546, 812_836),
    "shufflenetv1": (862_768, 949_258),
    "shufflenetv2": (1_263_278, 1_355_528),
    "shufflenetv2_x0.5": (356_018, 448_268),
    "shufflenetv2_x1.0": (1_268_646, 1_360_896),
    "shufflenetv2_x1.5": (2_492_466, 2_584_716),
    "shufflenetv2_x2.0": (5_366_566, 5_550_976),
}
# Maps as RepDistiller taps them at 32x32, and the embedding; AlexNet's, LeNet's and StudentNet's by hand.
RESNET = "16@32 16@32 32@16 64@8, 64"
VGG = "64@32 128@16 256@8 512@4 512@4, 512"
MAPS = {
    "lenet5": "6@28 16@10, 84",
    "alexnet": "64@28 192@13 384@6 256@6 256@6, 4096",
    "studentnet": "64@32 64@16 64@8 64@4, 256",
    **{f"vgg{layers}": VGG for layers in (8, 11, 13, 16, 19)},
    **{f"resnet{depth}": RESNET for depth in (8, 14, 20, 32, 44, 56, 110)},
    "resnet8x4": "32@32 64@32 128@16 256@8, 256",
    "resnet32x4": "32@32 64@32 128@16 256@8, 256",
    "resnet50": "64@32 256@32 512@16 1024@8 2048@4, 2048",
    "wrn-16-1": RESNET,
    "wrn-40-2": "16@32 32@32 64@16 128@8, 128",
    "wrn-28-10": "16@32 160@32 320@16 640@8, 640",
    "mobilenetv2_half": "16@16 12@16 16@8 48@4 160@2, 1280",
    "shufflenetv1": "24@32 240@16 480@8 960@4, 960",
    "shufflenetv2": "24@32 116@16 232@8 464@4, 1024",
    "shufflenetv2_x2.0": "24@32 244@16 488@8 976@4 2048@4, 2048",
}
# One light network of each kind, for what costs arithmetic.
LIGHT = (
    *("convnet4", "convnet16res", "lenet5_half", "alexnet_half", "studentnet", "vgg8", "resnet8"),
    *("resnet8x4", "wrn-10-1", "wrn-16-2", "mobilenetv2_half", "shufflenetv1"),
    *("shufflenetv2", "shufflenetv2_x0.5"),
)
LINEAR_ENDS = {"mobilenetv2_half"}  # stages that no activation ends


def made(name: str, n_classes: int = 10, channels: int = 3, size: int = 32) -> Normalized:
    gray = (0.5,) * channels
    return models.build(
        name, n_classes=n_classes, channels=channels, size=size, mean=gray, std=gray
    )


def seeded(name: str, seed: int = 0, **options: int) -> Normalized:
    torch.manual_seed(seed)
    return made(name, **options)


def pictures(n: int, channels: int = 3, size: int = 32) -> Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(1))


@cache
def measured(name: str) -> dict[str, Any]:
    return facts.measure(name)


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_those_of_the_source(name: str) -> None:
    at_10, at_100 = COUNTS[name]
    assert measured(name)["parameters"] == at_10
    if at_100:
        with torch.device("meta"):
            assert n_parameters(made(name, n_classes=100)) == at_100


def test_every_named_network_has_its_count() -> None:
    convnets = {name for name in models.names() if models.entry(name).family == "convnet"}
    assert set(COUNTS) == set(models.names()) - convnets


@pytest.mark.parametrize("name", MAPS)
def test_maps_are_those_of_the_source(name: str) -> None:
    maps = " ".join(f"{width}@{side}" for width, side in measured(name)["maps"])
    assert f"{maps}, {measured(name)['embedding']}" == MAPS[name]


def test_the_table_of_facts_is_fresh() -> None:
    """Else: python -m trainables.models.facts."""
    assert facts.table() == {name: measured(name) for name in models.names()}


def test_multiply_adds_by_hand() -> None:
    """LeNet-5: 6*25*28^2 + 16*(6*25)*10^2 in the convolutions, 400*120 + 120*84 + 84*10 after them."""
    assert measured("lenet5")["multiply_adds"] == 117_600 + 240_000 + 48_000 + 10_080 + 840


def test_listing_needs_no_torch() -> None:
    code = "from trainables.models import facts; facts.rows(); import sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", LIGHT)
def test_features_are_activated_preacts_and_logits_come_from_the_embedding(name: str) -> None:
    model = seeded(name).eval()
    outputs = model(pictures(2))
    assert isinstance(model.classifier, nn.Linear)
    torch.testing.assert_close(model.classifier(outputs.embedding), outputs.logits)
    assert len(outputs.features) == len(outputs.preacts) == len(model.norms)
    for i, (feature, preact) in enumerate(zip(outputs.features, outputs.preacts, strict=True)):
        linear = name in LINEAR_ENDS and i > 0
        assert torch.equal(feature, preact if linear else preact.relu())


@pytest.mark.parametrize("name", (*LIGHT, "resnet50"))
def test_norms_stand_right_before_the_activation(name: str) -> None:
    """Adding 1 to the norm's shift adds 1 to its map before activation, sums with a shortcut included."""
    model = seeded(name).eval()
    images = pictures(1)
    for i, norm in enumerate(model.norms):
        if norm is None:
            continue
        before = model(images).preacts[i]
        with torch.no_grad():
            norm.bias += 1
            torch.testing.assert_close(model(images).preacts[i], before + 1)
            norm.bias -= 1


@pytest.mark.parametrize("name", (*LIGHT, "resnet50"))
def test_gradients_reach_every_parameter_and_norms_see_a_batch_once(name: str) -> None:
    model = seeded(name)
    F.cross_entropy(model(pictures(4)).logits, torch.arange(4)).backward()
    for parameter, p in model.named_parameters():
        assert p.grad is not None, parameter
        assert p.grad.isfinite().all(), parameter
        # a shift right before batch normalisation changes nothing, its gradient is zero or noise
        assert p.ndim == 1 or p.grad.abs().sum() > 0, parameter
    counts = [m.num_batches_tracked for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(count == 1 for count in counts)


@pytest.mark.parametrize("name", LIGHT)
def test_weights_follow_the_seed_and_images_do_not_see_each_other(name: str) -> None:
    model = seeded(name).eval()
    images = pictures(3)
    together = model(images).logits
    assert torch.equal(seeded(name).eval()(images).logits, together)
    assert not torch.equal(seeded(name, seed=1).eval()(images).logits, together)
    alone = torch.cat([model(image[None]).logits for image in images])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LIGHT)
@pytest.mark.parametrize(("channels", "size", "n_classes"), [(1, 28, 3), (3, 28, 1), (1, 32, 200)])
def test_other_images_and_classes(name: str, channels: int, size: int, n_classes: int) -> None:
    with torch.device("meta"):
        model = made(name, n_classes, channels, size)
        assert model(torch.zeros(2, channels, size, size)).logits.shape == (2, n_classes)


def copied(ours: Normalized, theirs: nn.Module) -> None:
    """Their weights into ours, by position."""
    names = list(ours.body.state_dict())
    values = theirs.state_dict().values()
    ours.body.load_state_dict(dict(zip(names, values, strict=True)))


def test_resnet50_against_torchvision() -> None:
    """Against torchvision's with a 3x3 stem and without max-pool."""
    from torchvision.models import resnet50

    theirs = resnet50(num_classes=10)
    theirs.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    theirs.maxpool = nn.Identity()  # type: ignore[assignment]
    ours = made("resnet50").eval()
    copied(ours, theirs)
    images = pictures(1)
    torch.testing.assert_close(ours(images).logits, theirs.eval()((images - 0.5) / 0.5))


def test_shufflenetv2_against_torchvision() -> None:
    """Against torchvision's 1x with a 1x1 stem and without max-pool."""
    from torchvision.models import shufflenet_v2_x1_0

    theirs = shufflenet_v2_x1_0(num_classes=10)
    theirs.conv1[0] = nn.Conv2d(3, 24, 1, bias=False)
    theirs.maxpool = nn.Identity()  # type: ignore[assignment]
    ours = made("shufflenetv2").eval()
    copied(ours, theirs)
    images = pictures(2)
    torch.testing.assert_close(ours(images).logits, theirs.eval()((images - 0.5) / 0.5))


def test_vgg11_against_torchvision() -> None:
    """Against the layers that torchvision makes of its table, with three pools instead of five."""
    from torchvision.models.vgg import make_layers

    table: list[str | int] = [64, "M", 128, "M", 256, 256, "M", 512, 512, 512, 512]
    theirs = nn.Sequential(
        make_layers(table, batch_norm=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, 10),
    ).eval()
    ours = made("vgg11").eval()
    copied(ours, theirs)
    images = pictures(2)
    torch.testing.assert_close(ours(images).logits, theirs((images - 0.5) / 0.5))


def test_first_weights_of_resnet_have_fan_out_variance() -> None:
    """N(0, 2 / (9 * 64)) in the last stage; 36,864 draws tell the deviation to better than 2 %."""
    weight = seeded("resnet8").body.stages[-1].blocks[-1].conv.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrn-18-2", r"6n \+ 4.*got wrn-18-2; nearest: wrn-16-2, wrn-22-2"),
        ("wrn-16-0", "width at least 1, got wrn-16-0"),
        ("resnet21", "unknown model 'resnet21', did you mean 'resnet.*known: .*wrn-d-k"),
        ("vgg_8", "did you mean 'vgg8'"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.entry(name)


def test_wrn_of_any_depth_and_width() -> None:
    """wrn-22-3: widths 48-96-192; by hand with n = 3 blocks a group, 2,421,786 parameters at 10 classes.

    Stem 432; groups 9*16*48 + 5*9*48^2 + 16*48 = 111,360; 9*48*96 + 5*9*96^2 + 48*96 = 460,800; and
    9*96*192 + 5*9*192^2 + 96*192 = 1,843,200; BN 2*(16+48*5) + 2*(48+96*5) + 2*(96+192*5) + 2*192; head 1,930.
    """
    by_hand = 432 + 111_360 + 460_800 + 1_843_200 + 512 + 1_056 + 2_112 + 384 + 1_930
    assert n_parameters(made("wrn-22-3")) == by_hand
