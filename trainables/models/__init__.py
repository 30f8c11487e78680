"""The networks: one file a family. A network takes images in [0, 1] and returns Outputs.

Each has `classifier` (nn.Linear, embedding to logits) and `norms`, the BatchNorm2d or None right before each feature
map's activation. Nothing here imports torch before a network is built.
"""

from __future__ import annotations

import importlib
import re
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from search_spaces import nearest

if TYPE_CHECKING:
    from trainables.models.normalized import Normalized


@dataclass(frozen=True)
class Entry:
    """Where a network is built."""

    family: str  # the file
    summary: str
    options: dict[str, Any] = field(default_factory=dict)  # of the family's `build`
    teacher_lr: float = 0.05  # peak rate of sgd when it is trained on labels, RepDistiller's


LONGEST = 120  # letters of a name in a file's name
LIGHT_LR = 0.01  # RepDistiller's for MobileNetV2 and the ShuffleNets, which 0.05 can break


def _convnet(width: int, blocks: int, summary: str) -> Entry:
    return Entry("convnet", summary, {"width": width, "blocks": blocks})


def _resnet(depth: int, widths: tuple[int, ...] = (16, 16, 32, 64)) -> Entry:
    summary = f"residual network of depth {depth}, widths {'-'.join(map(str, widths[1:]))}"
    return Entry("resnet", summary, {"depth": depth, "widths": widths})


def _wrn(depth: int, width: int) -> Entry:
    summary = f"wide residual network of depth {depth}, {width} times 16-32-64"
    return Entry("wrn", summary, {"depth": depth, "width": width})


def _vgg(layers: int, *depths: int) -> Entry:
    return Entry(
        "vgg", f"VGG-{layers} with batch normalisation, one linear layer", {"depths": depths}
    )


def _shufflenetv2(times: str, *widths: int) -> Entry:
    summary = f"ShuffleNetV2 {times}, as PkuDavidGuan/Distillation has it"
    return Entry("shufflenetv2", summary, {"widths": widths, "slim": False}, LIGHT_LR)


MODELS = {
    "convnet4": _convnet(4, 0, "four 3x3 convolutions, widths 4-4-8-16"),
    "convnet8": _convnet(8, 0, "four 3x3 convolutions, widths 8-8-16-32"),
    "convnet16": _convnet(16, 0, "four 3x3 convolutions, widths 16-16-32-64"),
    "convnet16res": _convnet(16, 1, "a stem and three residual blocks, widths 16-16-32-64"),
    "lenet5": Entry(
        "lenet", "LeNet-5 with batch normalisation (CCKD)", {"widths": (6, 16, 120, 84)}
    ),
    "lenet5_half": Entry("lenet", "the same at half its widths", {"widths": (3, 8, 60, 42)}),
    "alexnet": Entry(
        "alexnet",
        "AlexNet with batch normalisation (CCKD)",
        {"widths": (64, 192, 384, 256, 256), "hidden": 4096},
    ),
    "alexnet_half": Entry(
        "alexnet",
        "the same at half its widths",
        {"widths": (32, 96, 192, 128, 128), "hidden": 2048},
    ),
    "studentnet": Entry("studentnet", "four 3x3 convolutions, each of width 64"),
    "vgg8": _vgg(8, 1, 1, 1, 1, 1),
    "vgg11": _vgg(11, 1, 1, 2, 2, 2),
    "vgg13": _vgg(13, 2, 2, 2, 2, 2),
    "vgg16": _vgg(16, 2, 2, 3, 3, 3),
    "vgg19": _vgg(19, 2, 2, 4, 4, 4),
    **{f"resnet{depth}": _resnet(depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
    "resnet8x4": _resnet(8, (32, 64, 128, 256)),
    "resnet32x4": _resnet(32, (32, 64, 128, 256)),
    "resnet50": Entry("resnet50", "ResNet-50 with bottleneck blocks and a 3x3 stem"),
    **{f"wrn-16-{width}": _wrn(16, width) for width in (1, 2, 4)},
    **{f"wrn-28-{width}": _wrn(28, width) for width in (2, 4, 10)},
    **{f"wrn-40-{width}": _wrn(40, width) for width in (1, 2, 4)},
    "mobilenetv2_half": Entry(
        "mobilenetv2", "MobileNetV2 at half its widths", {"share": 0.5}, LIGHT_LR
    ),
    "shufflenetv1": Entry("shufflenetv1", "ShuffleNet with three groups", teacher_lr=LIGHT_LR),
    "shufflenetv2": Entry(
        "shufflenetv2",
        "ShuffleNetV2 1x, as RepDistiller has it",
        {"widths": (116, 232, 464, 1024), "slim": True},
        LIGHT_LR,
    ),
    "shufflenetv2_x0.5": _shufflenetv2("0.5x", 48, 96, 192, 1024),
    "shufflenetv2_x1.0": _shufflenetv2("1x", 116, 232, 464, 1024),
    "shufflenetv2_x1.5": _shufflenetv2("1.5x", 176, 352, 704, 1024),
    "shufflenetv2_x2.0": _shufflenetv2("2x", 244, 488, 976, 2048),
}
PATTERNS = {  # names that stand for many networks
    "wrn-d-k": "wide residual network of depth d = 6n + 4, k times 16-32-64",
    "torchvision:NAME": "any classifier of torchvision, as torchvision:resnet18",
    "timm:NAME": "any classifier of timm, as timm:resnet18 (pip install 'kdtune[timm]')",
    "package.module:factory": "your own factory(n_classes=, channels=, size=) -> torch.nn.Module",
}
WRN = re.compile(r"wrn-(\d+)-(\d+)")
OUTSIDE = re.compile(r"torchvision:.+|timm:.+|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def names() -> tuple[str, ...]:
    """Every network's name; PATTERNS has those that stand for many."""
    return tuple(MODELS)


def entry(name: str) -> Entry:
    """The entry of a network; raises ValueError for an unknown name.

    A name that points outside (torchvision:, timm:, package.module:) is not followed before the network is built.
    """
    if name in MODELS:
        return MODELS[name]
    wide = WRN.fullmatch(name)
    if wide:
        return _any_wrn(name, int(wide[1]), int(wide[2]))
    if OUTSIDE.fullmatch(name):
        return Entry("outside", f"from outside: {name}", {"name": name})
    known = (*MODELS, *PATTERNS)
    raise ValueError(f"unknown model {name!r}{nearest(name, known)}; known: {', '.join(known)}")


def slug(name: str) -> str:
    """A network's name as it may stand in a file's name or a registered model's: `:` and `/` become `-`.

    Of one that is too long for a file's name the end is a checksum.
    """
    short = re.sub(r"[^A-Za-z0-9._-]+", "-", name)
    if len(short) <= LONGEST:
        return short
    return f"{short[: LONGEST - 9]}-{zlib.crc32(short.encode()):08x}"


def _any_wrn(name: str, depth: int, width: int) -> Entry:
    if depth >= 10 and depth % 6 == 4 and width >= 1:
        return _wrn(depth, width)
    lower = max(10, (depth - 4) // 6 * 6 + 4)
    raise ValueError(
        f"the depth of wrn-d-k must be 6n + 4 and its width at least 1, got {name}; "
        f"nearest: wrn-{lower}-{max(1, width)}, wrn-{lower + 6}-{max(1, width)}"
    )


def build(
    name: str,
    *,
    n_classes: int,
    channels: int,
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Normalized:
    """A network for (channels, size, size) images in [0, 1], which it normalises itself.

    Weights come from torch's current random stream. Raises ValueError for an unknown name and for images that the
    network cannot take.
    """
    import torch

    from trainables.models.normalized import Normalized

    known = entry(name)
    family = importlib.import_module(f"{__name__}.{known.family}")
    if known.family == "outside":
        family.look_up(name)
    try:
        body = family.build(n_classes=n_classes, channels=channels, size=size, **known.options)
        model = Normalized(body, mean, std)
        with torch.no_grad():
            model.eval()(torch.zeros(1, channels, size, size))
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{name} must be able to take the images, got {channels}x{size}x{size}: {reason}"
        ) from None
    return model.train()
