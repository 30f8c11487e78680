"""Data: what is decoded is what is read, splits are stratified and the same for all, subsets nested, damage noticed."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import pickle
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainables.data import decoding, shelf, store
from trainables.data.decoding import Decoded, decode
from trainables.data.dividing import divide, take
from trainables.data.rows import Rows, statistics
from trainables.data.sealed import open_test
from trainables.data.sources import SOURCES
from trainables.data.splits import Facts, open_split, prepare, whole


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
        patch.setattr(shelf, "decode", lambda *_: decoded)
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
        assert part.images[:].dtype == torch.uint8
        assert part.labels.dtype == torch.int64
        assert np.array_equal(part.images[:].numpy(), images)
        assert np.array_equal(part.labels.numpy(), labels)


def test_facts_against_numpy(stored: tuple[Decoded, Facts]) -> None:
    """Counts, shape and the training part's mean and deviation, a channel; what is stored by its hash."""
    decoded, facts = stored
    train, _ = divide(decoded.train_labels, 0.5)
    pixels = decoded.train_images[train] / 255
    assert (facts.n_train, facts.n_val, facts.n_test) == (25, 25, 20)
    assert (facts.channels, facts.size, facts.n_classes) == (3, 8, 5)
    assert facts.mean == pytest.approx(pixels.mean((0, 2, 3)))
    assert facts.std == pytest.approx(pixels.std((0, 2, 3)))
    buffers = decoded.test_images.tobytes() + decoded.test_labels.tobytes()
    assert facts.sha256["test"] == hashlib.sha256(buffers).hexdigest()
    assert Facts(**json.loads(json.dumps(asdict(facts)))).n_train == 25


@pytest.mark.parametrize("part", ["test", "all", "", "../test", "test.arrow"])
def test_open_split_refuses_the_test_set(stored: tuple[Decoded, Facts], part: Any) -> None:
    with pytest.raises(ValueError, match=f"may open train and val, got '{part}'"):
        open_split(stored[1], part)


def test_a_second_call_finds_what_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoded once; the same facts, split included."""
    calls: list[str] = []
    monkeypatch.setattr(shelf, "decode", lambda entry, *_: calls.append(entry.name) or made_up())
    assert prepare("digits", tmp_path, tmp_path) == prepare("digits", tmp_path, tmp_path)
    assert calls == ["digits"]


def test_half_a_preparation_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """data.json is written last: without it the folder counts for nothing; no temporary file is left."""
    monkeypatch.setattr(shelf, "decode", lambda *_: made_up())
    facts = prepare("digits", tmp_path, tmp_path)
    folder = Path(facts.folder)
    (folder / "data.json").unlink()
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

    found = decode(SOURCES["digits"], "digits", Path("nowhere"))
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
        decode(SOURCES["fashion_mnist"], "fashion_mnist", tmp_path)
    assert "\n" not in str(caught.value)


def test_whole_sets_keep_the_split_they_had() -> None:
    """The digits' split as recorded results have it: sklearn's, half, seed 0, hashed over both index lists."""
    from sklearn.model_selection import train_test_split

    labels = decode(SOURCES["digits"], "digits", Path("nowhere")).train_labels
    train, val = (
        np.sort(rows)
        for rows in train_test_split(
            np.arange(1198), test_size=0.5, stratify=labels, random_state=0
        )
    )
    assert all(map(np.array_equal, divide(labels, 0.5), (train, val)))


def indices(facts: Facts, part: Any) -> set[int]:
    """A part's rows in the stored training set."""
    images = open_split(facts, part).images
    assert isinstance(images, Rows)
    return set(images.rows.tolist())


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Facts]:
    """The digits, prepared in one folder."""
    folder = tmp_path_factory.mktemp("digits")
    return lambda **given: prepare("digits", folder, folder / "cache", **given)


def test_subsets_are_nested_and_balanced(digits: Callable[..., Facts]) -> None:
    """Each part of a subset inside that part of the next; classes equal, give or take one, in all and in each part."""
    chain = [digits(subset=n) for n in (20, 137, 400)] + [digits()]
    for small, large in itertools.pairwise(chain):
        assert indices(small, "train") < indices(large, "train")
        assert indices(small, "val") < indices(large, "val")
    for facts, n in zip(chain, (20, 137, 400), strict=False):
        parts = [open_split(facts, part).labels for part in ("train", "val")]
        assert sum(map(len, parts)) == n
        for labels in (*parts, torch.cat(parts)):
            counts = torch.bincount(labels, minlength=10)
            assert counts.max() - counts.min() <= 1
    assert len({facts.split_hash for facts in chain}) == 4


def test_teachers_get_the_whole_set_of_a_subset(digits: Callable[..., Facts]) -> None:
    """The same facts as without --subset, and the same normalisation for both."""
    part = digits(subset=100)
    assert whole(part) == digits() == whole(digits())
    assert (part.mean, part.std) == (digits().mean, digits().std)


@pytest.mark.parametrize("n", [19, 1199])
def test_subsets_that_cannot_be(n: int, digits: Callable[..., Facts]) -> None:
    with pytest.raises(
        ValueError, match=f"--subset must be from about 20 .* to 1198 here, got {n}"
    ):
        digits(subset=n)


def test_a_class_that_runs_out_leaves_its_place_to_others() -> None:
    """Worked by hand: classes of 2 and 8; 6 of training are all 2 of the first and 4 of the second."""
    labels = np.array([0] * 4 + [1] * 16)
    train, val = np.array([0, 1, *range(4, 12)]), np.array([2, 3, *range(12, 20)])
    some, others = take(labels, train, val, 12)
    assert np.bincount(labels[some]).tolist() == [2, 4] == np.bincount(labels[others]).tolist()
    assert set(some) <= set(train)
    assert set(others) <= set(val)


def test_a_share_of_the_users(digits: Callable[..., Facts]) -> None:
    """--val-fraction 0.25 of 1198; the stored images are the same."""
    facts = digits(val_fraction=0.25)
    assert (facts.n_train, facts.n_val) == (898, 300)
    assert facts.folder == digits().folder
    with pytest.raises(ValueError, match="every class must have images on both sides of a split"):
        digits(val_fraction=0.001)


def test_a_published_validation_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last images of the stored training set, unless a fraction is asked for."""
    decoded = replace(made_up(), n_published_val=20)
    monkeypatch.setattr(shelf, "decode", lambda *_: decoded)
    monkeypatch.setitem(SOURCES, "digits", replace(SOURCES["digits"], val_fraction=None))
    assert indices(prepare("digits", tmp_path, tmp_path), "val") == set(range(30, 50))
    assert prepare("digits", tmp_path, tmp_path, val_fraction=0.5).n_val == 25


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("harm", ["flip", "cut", "gone", "other"])
def test_damaged_images_are_named_and_decoded_again(part: str, harm: str, tmp_path: Path) -> None:
    """One bit, half a file, no file, no Arrow file: each is said, and the facts are as before."""
    facts = prepare("digits", tmp_path, tmp_path)
    path = Path(facts.folder) / f"{part}.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    whole_file = {"flip": content, "cut": content[: len(content) // 2], "other": b"nonsense"}
    path.unlink()
    if harm != "gone":
        path.write_bytes(whole_file[harm])
    said: list[str] = []
    assert prepare("digits", tmp_path, tmp_path, say=said.append) == facts
    assert [f"{part}.arrow is damaged" in text for text in said] == [True]
    prepare("digits", tmp_path, tmp_path, say=said.append)
    assert len(said) == 1


def test_a_damaged_split_is_made_again(tmp_path: Path) -> None:
    """A bit of the stored indices: against its hash, silently, because nothing is lost."""
    facts = prepare("digits", tmp_path, tmp_path)
    content = bytearray(Path(facts.split).read_bytes())
    content[len(content) // 2] ^= 1
    Path(facts.split).write_bytes(content)
    assert prepare("digits", tmp_path, tmp_path) == facts
    assert indices(facts, "train").isdisjoint(indices(facts, "val"))


def test_a_data_root_that_cannot_be_written_to(tmp_path: Path) -> None:
    """A file lies where the folder should be: the cache takes its place, and is found there again."""
    (tmp_path / "root").write_bytes(b"")
    facts = prepare("digits", tmp_path / "root", tmp_path / "cache")
    assert Path(facts.folder).is_relative_to(tmp_path / "cache")
    assert prepare("digits", tmp_path / "root", tmp_path / "cache") == facts


def test_what_an_arrow_file_says_of_itself(stored: tuple[Decoded, Facts]) -> None:
    """Dataset, classes, counts, checksum, and numpy's mean and deviation over the whole published training set."""
    decoded, facts = stored
    about = store.read(Path(facts.folder) / "train.arrow").about
    pixels = decoded.train_images / 255
    assert about["mean"] == pytest.approx(pixels.mean((0, 2, 3)))
    assert about["std"] == pytest.approx(pixels.std((0, 2, 3)))
    known = {"dataset": "digits", "classes": list("abcde"), "n": 50, "n_test": 20}
    assert {name: about[name] for name in known} == known
    assert about["sha256"] == facts.sha256["train"]


def test_duplicates_by_hand() -> None:
    """Images 0 and 3 are one, across parts, labelled apart; 1 and 2 are one within training."""
    train = np.zeros((4, 1, 2, 2), dtype=np.uint8)
    train[0], train[1], train[2], train[3] = 1, 2, 2, 3
    test = np.full((2, 1, 2, 2), 4, dtype=np.uint8)
    test[0] = 1
    found = store.duplicates([train, test], [np.array([0, 1, 1, 0]), np.array([1, 0])])
    expected = {"groups": 2, "train_and_test": 1, "within_train": 1, "different_labels": 1}
    assert found == expected


def test_rows_are_a_tensors() -> None:
    """Against indexing the base: by tensor, by slice, in batches, the shape."""
    base = torch.arange(2 * 3 * 20, dtype=torch.uint8).view(20, 2, 3, 1)
    chosen = torch.tensor([7, 3, 19, 0, 4])
    rows, picked = Rows(base, chosen), base[chosen]
    some = torch.tensor([4, 0, 0])
    assert torch.equal(rows[some], picked[some])
    assert torch.equal(rows[1:3], picked[1:3])
    assert torch.equal(torch.cat(list(rows.split(2))), picked)
    assert (len(rows), rows.shape) == (5, picked.shape)


def test_statistics_against_numpy() -> None:
    images = np.random.default_rng(1).integers(0, 256, (30, 3, 5, 5), dtype=np.uint8)
    mean, std = statistics(torch.from_numpy(images).split(7))
    assert mean == pytest.approx((images / 255).mean((0, 2, 3)), abs=1e-12)
    assert std == pytest.approx((images / 255).std((0, 2, 3)), abs=1e-12)


def real(*names: str) -> Callable[[Any], Any]:
    """Skips a test unless KDTUNE_TEST_DATA names a folder with these files."""
    folder = os.environ.get("KDTUNE_TEST_DATA", "")
    there = bool(folder) and all((Path(folder) / name).exists() for name in names)
    return pytest.mark.skipif(not there, reason="no real images at hand")


def pixels_of(file: Any, part: str) -> np.ndarray[Any, Any]:
    """(N, 3, 32, 32) from an npz of differences (green; red and blue minus green)."""
    green, others = (
        file[part + end].cumsum(1, dtype=np.uint8).cumsum(2, dtype=np.uint8)
        for end in ("_g", "_rb")
    )
    return np.stack([green + others[..., 0], green, green + others[..., 1]], 1)


@real("cifar100_subset.npz", "cifar100_train_rest.npz")
def test_duplicates_of_cifar100() -> None:
    """Known counts: 26 groups, 10 across training and test, 17 with different labels."""
    folder = Path(os.environ["KDTUNE_TEST_DATA"])
    halves = [np.load(folder / f"cifar100_{name}.npz") for name in ("subset", "train_rest")]
    train = np.concatenate([pixels_of(half, "train") for half in halves])
    labels = np.concatenate([half["train_label"] for half in halves])
    parts = [train, pixels_of(halves[0], "test")]
    found = store.duplicates(parts, [labels, halves[0]["test_label"]])
    assert (found["groups"], found["train_and_test"], found["different_labels"]) == (26, 10, 17)


@real("cifar10.npz")
def test_cifar10_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published counts, order and constants; python batches in torchvision's layout, whose md5 is not asked for."""
    file = np.load(Path(os.environ["KDTUNE_TEST_DATA"]) / "cifar10.npz")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    parts = {f"train{i}": f"data_batch_{i}" for i in range(1, 6)} | {"test": "test_batch"}
    for part, name in parts.items():
        batch = {
            "data": pixels_of(file, part).reshape(-1, 3072),
            "labels": file[f"{part}_label"].tolist(),
        }
        (folder / name).write_bytes(pickle.dumps(batch))
    names = file["class_name"].tobytes().decode().split("\n")
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    for check in ("cifar.check_integrity", "utils.check_integrity"):
        monkeypatch.setattr(f"torchvision.datasets.{check}", lambda *_: True)
    facts = prepare("cifar10", tmp_path, tmp_path / "cache")
    assert (facts.n_train, facts.n_val, facts.n_test) == (45000, 5000, 10000)
    assert facts.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=2e-3)
    assert open_test(facts).labels[:8].tolist() == [3, 8, 8, 0, 6, 6, 1, 6]


@real("MNIST")
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

    images, labels = decoding._arrays(Dataset())
    assert images.shape == expected
    assert images.flags.c_contiguous
    assert labels.dtype == np.int64
    assert images[1, 0, 2, 3] == Dataset.data[1, 2, 3].ravel()[0]
