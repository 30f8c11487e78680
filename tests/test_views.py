"""Views belong to (seed, epoch, image), whatever the batch; a feed shows them grouped as inputs say; named seeds."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from trainables.contract import Inputs
from trainables.data.feed import Feed, mixing_weights
from trainables.data.randaugment import KINDS, operate
from trainables.data.splits import Split
from trainables.data.views import MAGNITUDE, PRESETS, Views, crop_flip, pad_of, rotate, to_float
from trainables.recipe import Recipe
from trainables.seeding import generator, seed_of, seeded


def pictures(n: int = 40, channels: int = 3, size: int = 8) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, size, size), generator=g, dtype=torch.uint8)


def slow_crop_flip(image: Tensor, top: int, left: int, flip: bool, pad: int) -> Tensor:
    """One image, as the words say: pad with black, cut, mirror."""
    channels, height, width = image.shape
    canvas = torch.zeros(channels, height + 2 * pad, width + 2 * pad, dtype=image.dtype)
    canvas[:, pad : pad + height, pad : pad + width] = image
    cut = canvas[:, top : top + height, left : left + width]
    return cut.flip(-1) if flip else cut


@pytest.mark.parametrize("pad", [1, 4])
def test_crop_flip_against_a_slow_reference(pad: int) -> None:
    """Image by image, every shift and both mirrors among them."""
    images, g = pictures(200), torch.Generator().manual_seed(1)
    shift = torch.randint(0, 2 * pad + 1, (200, 2), generator=g)
    flip = torch.rand(200, generator=g) < 0.5
    expected = [
        slow_crop_flip(image, *offsets, bool(mirror), pad)
        for image, offsets, mirror in zip(images, shift.tolist(), flip, strict=True)
    ]
    found = crop_flip(images, shift, flip, pad)
    assert found.dtype == torch.uint8
    assert torch.equal(found, torch.stack(expected))


@pytest.mark.parametrize(("size", "pad"), [(4, 1), (8, 1), (28, 4), (32, 4), (64, 8), (224, 28)])
def test_padding_is_in_proportion(size: int, pad: int) -> None:
    assert pad_of(size) == pad


@pytest.mark.parametrize("strong", [False, True])
@pytest.mark.parametrize("augment", PRESETS)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 8), (3, 32)])
def test_a_view_does_not_depend_on_its_batch(
    augment: str, channels: int, size: int, strong: bool
) -> None:
    """All at once, against other batches of other sizes in another order: the same pixels, exactly."""
    images = pictures(40, channels, size)
    whole = Views(augment, 40, size, 0, 3, strong=strong)(images, torch.arange(40))
    again = Views(augment, 40, size, 0, 3, strong=strong)
    for rows in torch.randperm(40, generator=torch.Generator().manual_seed(2)).split(7):
        assert torch.equal(again(images[rows], rows), whole[rows])
    assert 0 <= whole.min() <= whole.max() <= 1
    assert whole.shape == images.shape


@pytest.mark.parametrize("augment", PRESETS[1:])
@pytest.mark.parametrize(("seed", "epoch", "strong"), [(1, 3, False), (0, 4, False), (0, 3, True)])
def test_another_seed_epoch_or_strength_is_another_view(
    augment: str, seed: int, epoch: int, strong: bool
) -> None:
    images, rows = pictures(), torch.arange(40)
    one = Views(augment, 40, 8, 0, 3)(images, rows)
    other = Views(augment, 40, 8, seed, epoch, strong=strong)(images, rows)
    assert (one != other).flatten(1).any(1).float().mean() > 0.5


@pytest.mark.parametrize("size", [8, 32])
def test_turns_against_torchvision(size: int) -> None:
    """Image by image its rotate; where a pixel lies between two, rounding may differ: in 1 of 200 at most."""
    images = pictures(60, 3, size)
    degrees = 30 * torch.rand(60, generator=torch.Generator().manual_seed(1)) - 15
    found = rotate(images, degrees)
    expected = [
        v2.functional.rotate(image, by) for image, by in zip(images, degrees.tolist(), strict=True)
    ]
    assert found.dtype == torch.uint8
    assert (found != torch.stack(expected)).float().mean() < 1 / 200


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_operations_against_torchvision(kind: tuple[str, int], channels: int) -> None:
    """Its RandAugment's own strengths and operations, image by image."""
    name, sign = kind
    theirs = {"autocontrast": "AutoContrast"}.get(name, name.title().replace("_", ""))
    reference = v2.RandAugment(2, MAGNITUDE)
    magnitudes, signed = reference._AUGMENTATION_SPACE[theirs]
    known = magnitudes(31, 16, 16)
    amount = 0.0 if known is None else float(known[MAGNITUDE]) * (sign if signed else 1)
    images = pictures(10, channels, 16)
    expected = [
        reference._apply_image_or_video_transform(
            image, theirs, amount, reference.interpolation, reference._fill
        )
        for image in images
    ]
    assert torch.equal(operate(images, kind, MAGNITUDE), torch.stack(expected))


def test_strong_views_of_plain_views_are_not_mirrored() -> None:
    """Digits: a preset without mirrors stays without; strong views still differ from the images."""
    views = Views("none", 40, 8, 0, 0, strong=True)
    assert not views.moves
    assert not torch.equal(views(pictures(), torch.arange(40)), to_float(pictures()))


def test_no_augmentation_is_the_image() -> None:
    images = pictures()
    assert torch.equal(Views("none", 40, 8, 0, 0)(images, torch.arange(40)), images.float() / 255)


def test_unknown_views_are_refused() -> None:
    with pytest.raises(
        ValueError,
        match="augment must be one of none, crop_flip, crop_flip_rotate, randaugment, got 'flip'",
    ):
        Views("flip", 4, 8, 0, 0)


def test_how_often_views_shift_and_flip() -> None:
    """Every one of 9 shifts a ninth of the time in both directions, a mirror half of it: within 4 deviations."""
    n, views = 20_000, Views("crop_flip", 20_000, 32, 0, 0)
    for axis in (0, 1):
        counts = torch.bincount(views.shift[:, axis], minlength=9)
        assert len(counts) == 9
        assert (counts - n / 9).abs().max() < 4 * (n * 1 / 9 * 8 / 9) ** 0.5
    assert abs(int(views.flip.sum()) - n / 2) < 4 * (n / 4) ** 0.5


def test_to_float() -> None:
    found = to_float(torch.tensor([0, 51, 255], dtype=torch.uint8))
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx([0, 0.2, 1])


def split_of(n: int) -> Split:
    return Split(pictures(n), torch.arange(n) % 5)


def test_an_epoch_shows_each_image_once() -> None:
    """43 images, batches of 10: four full ones, three images left out, others in the next epoch."""
    feeds = [Feed(split_of(43), Inputs(), Recipe(batch_size=10), 0, epoch) for epoch in (0, 1)]
    seen = [torch.cat([feed(step).indices for step in range(feed.n_steps)]) for feed in feeds]
    assert [len(one) for one in seen] == [40, 40]
    assert [len(one.unique()) for one in seen] == [40, 40]
    assert not torch.equal(seen[0], seen[1])


def test_labels_and_images_belong_to_their_indices() -> None:
    data = split_of(30)
    shown = Feed(data, Inputs(), Recipe(batch_size=8), 0, 0)(1)
    assert torch.equal(shown.labels, data.labels[shown.indices])
    assert torch.equal(shown.images, data.images[shown.indices].float() / 255)
    assert shown.weights is None is shown.singles


def test_a_batch_larger_than_the_data_is_the_data() -> None:
    feed = Feed(split_of(6), Inputs(), Recipe(batch_size=64), 0, 0)
    assert feed.n_steps == 1
    assert sorted(feed(0).indices.tolist()) == list(range(6))


@pytest.mark.parametrize("blocks", [2, 3])
def test_mixtures_by_hand(blocks: int) -> None:
    """The mixed image is the weighted sum of the single ones; the weights sum to 1, step by step others."""
    inputs = Inputs(blocks=blocks, mix=True, strong=(False,) * blocks)
    feed = Feed(split_of(30), inputs, Recipe(batch_size=8), 0, 0)
    shown = feed(0)
    assert shown.weights is not None
    assert shown.singles is not None
    parts = shown.singles.split(8)
    expected = sum(
        (w * part for w, part in zip(shown.weights, parts, strict=True)), torch.zeros(())
    )
    torch.testing.assert_close(shown.images, expected)
    assert shown.weights.sum().item() == pytest.approx(1)
    assert not torch.equal(shown.weights, feed(1).weights)


@pytest.mark.parametrize("concentration", [0.2, 1.0, 8.0])
def test_mixing_weights_against_the_betas_moments(concentration: float) -> None:
    """Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1))."""
    inputs = Inputs(blocks=2, mix=True, concentration=concentration)
    weights = mixing_weights(inputs, 20_000, 0, 0)[:, 0]
    assert weights.mean().item() == pytest.approx(0.5, abs=0.02)
    assert weights.var().item() == pytest.approx(1 / (4 * (2 * concentration + 1)), rel=0.05)


def test_a_strong_block_is_of_the_same_images() -> None:
    inputs = Inputs(blocks=2, forwards=(2,), strong=(False, True))
    shown = Feed(split_of(30), inputs, Recipe(batch_size=8), 0, 0)(0)
    assert torch.equal(*shown.indices.split(8))
    assert not torch.equal(*shown.images.split(8))


def test_blocks_are_drawn_apart() -> None:
    shown = Feed(split_of(30), Inputs(blocks=3, strong=()), Recipe(batch_size=8), 0, 0)(0)
    first, second, third = shown.indices.split(8)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


def test_seeds_depend_on_all_three_and_are_the_same_everywhere() -> None:
    """A fixed value, worked out with hashlib: seeds must not change with Python, torch or the platform."""
    digest = hashlib.sha256(b"7/order/3").digest()[:8]
    assert seed_of(7, "order", 3) == int.from_bytes(digest, "big") // 2
    assert len({seed_of(s, p, e) for s in (0, 1) for p in ("order", "views") for e in (0, 1)}) == 8
    assert torch.equal(
        torch.rand(3, generator=generator(1, "a")), torch.rand(3, generator=generator(1, "a"))
    )


def test_seeded_puts_torchs_stream_back() -> None:
    """Also after an exception."""
    before = torch.get_rng_state()
    with seeded(0, "student"):
        first = torch.rand(3)
    with pytest.raises(KeyError), seeded(0, "student"):
        assert torch.equal(torch.rand(3), first)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)
