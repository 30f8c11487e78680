"""Data: what is decoded is what is read, splits are stratified and the same for all, views belong to (seed, e, i)."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.contract import Inputs
from trainables.data import sources, splits
from trainables.data.feed import Feed, mixing_weights
from trainables.data.sealed import open_test
from trainables.data.sources import Decoded, decode
from trainables.data.splits import Facts, Split, divide, open_split, prepare
from trainables.data.views import N_STRONG, Views, crop_flip, pad_of, strong, to_float
from trainables.recipe import Recipe
from trainables.seeding import generator, seed_of, seeded


def made_up(n_train: int = 50, n_test: int = 20, channels: int = 3, size: int = 8) -> Decoded:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n_train + n_test, channels, size, size), dtype=np.uint8)
    labels = rng.permutation(np.arange(n_train + n_test) % 5)
    return Decoded(
        images[:n_train], labels[:n_train], images[n_train:], labels[n_train:], tuple("abcde")
    )


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Decoded, Facts]:
    """Made-up images stored in digits' place."""
    decoded = made_up()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "decode", lambda name, root: decoded)
        folder = tmp_path_factory.mktemp("cache")
        return decoded, prepare("digits", folder, folder)


def test_what_is_read_is_what_was_decoded(stored: tuple[Decoded, Facts]) -> None:
    """The Arrow files, memory-mapped, against the arrays in memory, all three parts."""
    decoded, facts = stored
    train, val = divide(decoded.train_labels, 0.5)
    for part, images, labels in (
        (open_split(facts, "train"), decoded.train_images[train], decoded.train_labels[train]),
        (open_split(facts, "val"), decoded.train_images[val], decoded.train_labels[val]),
        (open_test(facts), decoded.test_images, decoded.test_labels),
    ):
        assert part.images.dtype == torch.uint8
        assert part.labels.dtype == torch.int64
        assert np.array_equal(part.images.numpy(), images)
        assert np.array_equal(part.labels.numpy(), labels)


def test_facts_against_numpy(stored: tuple[Decoded, Facts]) -> None:
    """Counts, shape and the training part's mean and deviation, a channel; files by their hashes."""
    decoded, facts = stored
    train, _ = divide(decoded.train_labels, 0.5)
    pixels = decoded.train_images[train] / 255
    assert (facts.n_train, facts.n_val, facts.n_test) == (25, 25, 20)
    assert (facts.channels, facts.size, facts.n_classes) == (3, 8, 5)
    assert facts.mean == pytest.approx(pixels.mean((0, 2, 3)))
    assert facts.std == pytest.approx(pixels.std((0, 2, 3)))
    for part, recorded in facts.sha256.items():
        content = (Path(facts.folder) / f"{part}.arrow").read_bytes()
        assert hashlib.sha256(content).hexdigest() == recorded


@pytest.mark.parametrize("part", ["test", "all", "", "../test", "test.arrow"])
def test_open_split_refuses_the_test_set(stored: tuple[Decoded, Facts], part: Any) -> None:
    with pytest.raises(ValueError, match=f"may open train and val, got '{part}'"):
        open_split(stored[1], part)


def test_a_second_call_finds_what_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoded once; the same facts, split included."""
    calls: list[str] = []
    monkeypatch.setattr(splits, "decode", lambda name, root: calls.append(name) or made_up())
    assert prepare("digits", tmp_path, tmp_path) == prepare("digits", tmp_path, tmp_path)
    assert calls == ["digits"]


def test_half_a_preparation_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """facts.json is written last: without it the folder counts for nothing; no temporary file is left."""
    monkeypatch.setattr(splits, "decode", lambda name, root: made_up())
    facts = prepare("digits", tmp_path, tmp_path)
    folder = Path(facts.folder)
    (folder / "facts.json").unlink()
    (folder / "train.arrow").write_bytes(b"half")
    assert prepare("digits", tmp_path, tmp_path) == facts
    assert len(open_split(facts, "train").labels) == 25
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_the_split_is_stratified_whole_and_always_the_same(fraction: float) -> None:
    """Each class's share within one image; disjoint, sorted, nobody lost."""
    labels = np.random.default_rng(0).choice(4, 403, p=[0.1, 0.2, 0.3, 0.4])
    train, val = divide(labels, fraction)
    wanted, found = Counter(labels.tolist()), Counter(labels[val].tolist())
    assert all(abs(found[c] - fraction * wanted[c]) <= 1 for c in wanted)
    assert sorted([*train, *val]) == list(range(403))
    assert np.array_equal(np.sort(train), train)
    assert all(
        np.array_equal(a, b) for a, b in zip(divide(labels, fraction), (train, val), strict=True)
    )


def test_digits_are_scikit_learns() -> None:
    """Against load_digits: every image once, 0..16 as 0..255, a stratified third to test."""
    from sklearn.datasets import load_digits

    found = decode("digits", Path("nowhere"))
    images = np.concatenate([found.train_images, found.test_images])
    pairs = zip(images, [*found.train_labels, *found.test_labels], strict=True)
    original = load_digits()
    expected = zip((original.images * 255 / 16).round(), original.target, strict=True)
    as_set = sorted((x.astype(int).ravel().tolist(), int(y)) for x, y in pairs)
    assert as_set == sorted((x.astype(int).ravel().tolist(), int(y)) for x, y in expected)
    assert (len(found.train_labels), len(found.test_labels)) == (1198, 599)
    assert set(np.bincount(found.test_labels)) <= {58, 59, 60, 61}


def test_images_that_are_not_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that names the folder and the flag, whatever torchvision says."""

    def missing(*_: object, **__: object) -> None:
        raise RuntimeError("Error\ndownloading train-images")

    monkeypatch.setattr("torchvision.datasets.FashionMNIST", missing)
    with pytest.raises(
        ValueError, match=f"FashionMNIST must lie in {tmp_path}.*--data-root"
    ) as caught:
        decode("fashion_mnist", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif("KDTUNE_TEST_DATA" not in os.environ, reason="no real images at hand")
def test_real_mnist(tmp_path: Path) -> None:
    """Known counts of the published files; the split takes a tenth."""
    shutil.copytree(Path(os.environ["KDTUNE_TEST_DATA"]) / "MNIST", tmp_path / "MNIST")
    facts = prepare("mnist", tmp_path, tmp_path / "cache")
    assert (facts.n_train, facts.n_val, facts.n_test) == (54000, 6000, 10000)
    assert facts.mean[0] == pytest.approx(0.1307, abs=1e-3)
    assert open_test(facts).labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


@pytest.mark.parametrize(
    ("shape", "expected"), [((4, 6, 6), (4, 1, 6, 6)), ((4, 6, 6, 3), (4, 3, 6, 6))]
)
def test_arrays_get_their_channels_in_front(
    shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    class Dataset:
        data = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
        targets = (0, 1, 2, 3)

    images, labels = sources._arrays(Dataset())
    assert images.shape == expected
    assert images.flags.c_contiguous
    assert labels.dtype == np.int64
    assert images[1, 0, 2, 3] == Dataset.data[1, 2, 3].ravel()[0]


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


@pytest.mark.parametrize("augment", ["none", "crop_flip", "strong"])
def test_a_view_does_not_depend_on_its_batch(augment: str) -> None:
    """All at once, against other batches of other sizes in another order, and against a second epoch object."""
    images = pictures()
    whole = Views(augment, 40, 8, 0, 3)(images, torch.arange(40))
    again = Views(augment, 40, 8, 0, 3)
    for rows in torch.randperm(40, generator=torch.Generator().manual_seed(2)).split(7):
        torch.testing.assert_close(again(images[rows], rows), whole[rows], rtol=0, atol=1e-6)
    assert 0 <= whole.min() <= whole.max() <= 1


@pytest.mark.parametrize("augment", ["crop_flip", "strong"])
@pytest.mark.parametrize(("seed", "epoch"), [(1, 3), (0, 4)])
def test_another_seed_or_epoch_is_another_view(augment: str, seed: int, epoch: int) -> None:
    images, rows = pictures(), torch.arange(40)
    one, other = (
        Views(augment, 40, 8, 0, 3)(images, rows),
        Views(augment, 40, 8, seed, epoch)(images, rows),
    )
    assert (one != other).flatten(1).any(1).float().mean() > 0.5


def test_no_augmentation_is_the_image() -> None:
    images = pictures()
    assert torch.equal(Views("none", 40, 8, 0, 0)(images, torch.arange(40)), images.float() / 255)


def test_unknown_views_are_refused() -> None:
    with pytest.raises(
        ValueError, match="augment must be one of none, crop_flip, strong, got 'flip'"
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


def test_a_strong_view_in_the_middle_of_its_ranges() -> None:
    """Draws of 0.5 turn, scale, shift and tone nothing: the image, but for the square in the middle."""
    images = pictures().float() / 255
    found = strong(images, torch.full((40, N_STRONG), 0.5))
    expected = images.clone()
    expected[:, :, 3:5, 3:5] = 0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


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
