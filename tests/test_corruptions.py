"""The lite corruptions against PIL, SciPy and hand-made values; the published files' layouts."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from trainables.data.splits import Facts, Split
from trainables.evaluation import official
from trainables.evaluation.corruptions import LITE, SEVERITIES, corrupt
from tuner import judging

SEVERE = range(1, SEVERITIES + 1)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int = 4, channels: int = 3, size: int = 32) -> Tensor:
    """Smooth images with noise on top, uint8."""
    g = torch.Generator().manual_seed(5)
    coarse = torch.rand(n, channels, 4, 4, generator=g)
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    return (230 * smooth + 25 * torch.rand(smooth.shape, generator=g)).to(torch.uint8)


@pytest.mark.parametrize("name", LITE)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32), (3, 224)])
def test_images_stay_images(name: str, channels: int, size: int) -> None:
    """Shape and type kept, something changed, the input not; the same seed gives the same images."""
    images = pictures(2, channels, size)
    before = images.clone()
    found = corrupt(images, name, 5, draws())
    assert (found.shape, found.dtype) == (images.shape, torch.uint8)
    assert torch.equal(images, before)
    assert not torch.equal(found, images)
    assert torch.equal(found, corrupt(images, name, 5, draws()))


@pytest.mark.parametrize("name", [name for name in LITE if name != "defocus_blur"])
def test_severity_grows(name: str) -> None:
    """The mean distance from the clean image, severity by severity."""
    images = pictures(16)
    far = [
        (corrupt(images, name, severity, draws()).float() - images).abs().mean().item()
        for severity in SEVERE
    ]
    assert far == sorted(far)


def test_noise_has_its_deviation() -> None:
    """0.10 of the range at severity 5, on mid grey; truncation to a level takes half of one off the mean."""
    grey = torch.full((20, 1, 32, 32), 128, dtype=torch.uint8)
    found = corrupt(grey, "gaussian_noise", 5, draws()).float()
    assert found.std().item() == pytest.approx(25.5, rel=0.02)
    assert found.mean().item() == pytest.approx(127.5, abs=0.6)


def test_shot_noise_has_a_poissons_deviation() -> None:
    """50 photons at white: mean 25.1 and deviation 5.01 of them at grey 128."""
    grey = torch.full((20, 1, 32, 32), 128, dtype=torch.uint8)
    photons = corrupt(grey, "shot_noise", 5, draws()).float() / 255 * 50
    assert photons.std().item() == pytest.approx((128 / 255 * 50) ** 0.5, rel=0.02)


def test_impulse_noise_counts() -> None:
    """7 % of the values at severity 5, half of them white, within 4 deviations."""
    grey = torch.full((20, 1, 32, 32), 128, dtype=torch.uint8)
    found, n = corrupt(grey, "impulse_noise", 5, draws()), grey.numel()
    for level in (0, 255):
        share = (found == level).float().mean().item()
        assert abs(share - 0.035) < 4 * (0.035 / n) ** 0.5


@pytest.mark.parametrize("severity", SEVERE)
def test_gaussian_blur_against_scipy(severity: int) -> None:
    from scipy.ndimage import gaussian_filter

    images, sigma = pictures(), LITE["gaussian_blur"].levels[severity - 1]
    pixels = images.numpy().astype(np.float64)
    expected = gaussian_filter(pixels, (0, 0, sigma, sigma), mode="nearest", truncate=4)
    found = corrupt(images, "gaussian_blur", severity, draws()).numpy()
    assert np.abs(found - np.floor(expected)).max() <= 1


def test_defocus_by_hand() -> None:
    """Severity 5: a disk of radius 1.5 is the 3x3 square, hardly blurred: a ninth of one white pixel each."""
    image = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    image[..., 4, 4] = 255
    found = corrupt(image, "defocus_blur", 5, draws())[0, 0]
    expected = torch.zeros(9, 9, dtype=torch.uint8)
    expected[3:6, 3:6] = 28
    assert torch.equal(found, expected)


@pytest.mark.parametrize("size", [8, 28, 32])
@pytest.mark.parametrize("severity", SEVERE)
def test_pixelate_against_pil(size: int, severity: int) -> None:
    """Down and up with PIL's BOX filter, to a grey level or two: PIL rounds twice."""
    images, few = pictures(3, 1, size), int(size * LITE["pixelate"].levels[severity - 1])
    found = corrupt(images, "pixelate", severity, draws())
    for one, ours in zip(images, found, strict=True):
        picture = Image.fromarray(one[0].numpy())
        small = picture.resize((few, few), Image.Resampling.BOX)
        theirs = np.asarray(small.resize((size, size), Image.Resampling.BOX)).astype(int)
        assert np.abs(theirs - ours[0].numpy().astype(int)).max() <= 2


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_against_pil(channels: int) -> None:
    """Quality 40, a file of each image alone."""
    images = pictures(3, channels)
    found = corrupt(images, "jpeg_compression", 5, draws())
    for one, ours in zip(images, found, strict=True):
        pixels = one.permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(file, "JPEG", quality=40)
        theirs = torch.from_numpy(np.array(Image.open(file))).view(32, 32, channels)
        assert torch.equal(theirs.permute(2, 0, 1), ours)


def test_contrast_and_brightness_by_hand() -> None:
    """Mean 100: 0.15 of the distance is left. Value 0.5 of (0.5, 0.25, 0) raised by 0.3: times 1.6; black to grey."""
    image = torch.tensor([0, 200, 0, 200], dtype=torch.uint8).view(1, 1, 2, 2)
    assert corrupt(image, "contrast", 5, draws()).flatten().tolist() == [85, 115, 85, 115]
    pixels = torch.tensor([[100, 0], [50, 0], [0, 0]], dtype=torch.uint8).view(1, 3, 1, 2)
    found = corrupt(pixels, "brightness", 5, draws())[0, :, 0]
    assert found.tolist() == [[176, 76], [88, 76], [0, 76]]


@pytest.mark.parametrize(
    ("name", "severity", "message"),
    [
        ("fog", 1, "corruption must be one of gaussian_noise, .* got 'fog'"),
        ("contrast", 0, "severity must be 1 to 5, got 0"),
        ("contrast", 6, "severity must be 1 to 5, got 6"),
    ],
)
def test_what_is_not_there_is_refused(name: str, severity: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        corrupt(pictures(), name, severity, draws())


def write_cifar(folder: Path, n: int = 10, extra: bool = False) -> None:
    """A tiny set in CIFAR-10-C's layout: each corruption's images are filled with its place in the list."""
    names = (*official.CIFAR, *(("saturate",) if extra else ()))
    for place, name in enumerate(names):
        np.save(folder / f"{name}.npy", np.full((n, 32, 32, 3), place, np.uint8))
    np.save(folder / "labels.npy", (np.arange(n) % 10).astype(np.uint8))


def write_mnist(folder: Path) -> None:
    """A tiny set in MNIST-C's layout."""
    for place, name in enumerate(official.MNIST):
        (folder / name).mkdir()
        np.save(folder / name / "test_images.npy", np.full((6, 28, 28, 1), place, np.uint8))
        np.save(folder / name / "test_labels.npy", np.arange(6))


def test_cifars_layout(tmp_path: Path) -> None:
    """Channels go in front; the extra corruptions that are there come after the 15."""
    write_cifar(tmp_path, extra=True)
    found = official.find(tmp_path, 3, 32, 10)
    data = official.read(found, "fog")
    assert found.name == "cifar10_c"
    assert official.available(found) == (*official.CIFAR, "saturate")
    assert data.images.shape == (10, 3, 32, 32)
    assert (data.images == official.CIFAR.index("fog")).all()
    assert data.labels.tolist() == list(range(10))
    assert official.find(tmp_path, 3, 32, 100).name == "cifar100_c"


def test_mnists_layout(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    found = official.find(tmp_path, 1, 28, 10)
    data: Split = official.read(found, "zigzag")
    assert (found.name, len(official.available(found))) == ("mnist_c", 15)
    assert data.images.shape == (6, 1, 28, 28)
    assert data.labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (
            lambda folder: (folder / "fog.npy").unlink(),
            (3, 32, 10),
            "all 15 .* got none of fog.npy",
        ),
        (lambda folder: None, (1, 28, 10), "of the dataset's kind .*1 channels.* got cifar10_c"),
        (lambda folder: (folder / "labels.npy").unlink(), (3, 32, 10), "must hold all 15"),
    ],
)
def test_folders_that_do_not_fit(
    tmp_path: Path, spoil: Any, kind: tuple[int, int, int], message: str
) -> None:
    """A mean over 14 corruptions is another number; so is one over another dataset's images."""
    write_cifar(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        official.find(tmp_path, *kind)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_images(tmp_path: Path) -> None:
    """Other counts than labels, another shape; and nothing is ever unpickled: all found before anything is judged."""
    write_cifar(tmp_path)
    for images, message in (
        (np.zeros((3, 32, 32, 3), np.uint8), r"snow must hold uint8 images .* and 10"),
        (np.zeros((10, 3, 32, 32), np.uint8), r"snow must hold images of 3 channels and 32 pixels"),
        (np.array([{"a": 1}], dtype=object), "Python objects"),
    ):
        np.save(tmp_path / "snow.npy", images, allow_pickle=True)
        with pytest.raises(ValueError, match=message):
            official.find(tmp_path, 3, 32, 10)


def test_corruptions_of_another_dataset_are_refused(tmp_path: Path) -> None:
    """MNIST-C's images are of Fashion-MNIST's shape and not of its kind; a user's own dataset is its own affair."""
    write_mnist(tmp_path)
    mnist = Facts(
        *("mnist", "", tuple("0123456789"), 1, 28, 6, 6, 6, (0.5,), (0.5,), "", {}),
    )
    judging.check_corrupted(None, mnist)
    judging.check_corrupted(tmp_path, mnist)
    judging.check_corrupted(tmp_path, replace(mnist, dataset="mine:digits"))
    with pytest.raises(ValueError, match=r"must be those of fashion_mnist, got mnist_c in"):
        judging.check_corrupted(tmp_path, replace(mnist, dataset="fashion_mnist"))
