"""A user's images: folders of many layouts, factories, and sets that are read from their files when they are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from trainables.contract import Inputs
from trainables.data import decoding, factories, pixels, sources
from trainables.data.feed import Feed
from trainables.data.rows import statistics
from trainables.data.sealed import open_test
from trainables.data.splits import Facts, Split, open_split, prepare
from trainables.data.stream import Streamed
from trainables.recipe import Recipe


def picture(seed: int, width: int, height: int, mode: str = "RGB") -> Image.Image:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def fill(folder: Path, counts: dict[str, int], size: tuple[int, int], mode: str = "RGB") -> None:
    """PNG files below `folder`, so many a class; no two are the same."""
    for name, n in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(n):
            seed = 10000 * sum(folder.name.encode()) + 100 * sum(name.encode()) + i
            picture(seed, *size, mode).save(folder / name / f"{i:03}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes, 12 training, 4 validation and 5 test images each, 10x8 in colour."""
    for part, n in (("train", 12), ("val", 4), ("test", 5)):
        fill(tmp_path / "photos" / part, {"ant": n, "bee!": n, "cat??": n}, (10, 8))
    return tmp_path


def prepared(root: Path, **given: Any) -> Facts:
    return prepare(f"folder:{root}/photos", root / "data", root / "cache", **given)


def test_a_folder_against_pil(root: Path) -> None:
    """Counts, classes, labels; every pixel as PIL reads the file and torchvision cuts its middle."""
    facts = prepared(root)
    assert (facts.n_train, facts.n_val, facts.n_test) == (36, 12, 15)
    assert facts.classes == ("ant", "bee!", "cat??")
    assert (facts.dataset, facts.channels, facts.size) == ("photos", 3, 8)
    files = sorted((root / "photos" / "val").rglob("*.png"))
    expected = [v2.functional.center_crop(np_of(Image.open(file)), [8]) for file in files]
    val = open_split(facts, "val")
    assert torch.equal(val.images[:], torch.stack(expected))
    assert val.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert open_test(facts).images.shape == (15, 3, 8, 8)


def np_of(image: Image.Image) -> Tensor:
    return v2.functional.pil_to_tensor(image)


def test_a_changed_folder_is_read_again(root: Path) -> None:
    before = prepared(root)
    picture(5, 10, 8).save(root / "photos" / "train" / "ant" / "one_more.png")
    assert prepared(root).n_train == before.n_train + 1


def test_class_folders_alone(tmp_path: Path) -> None:
    """A stratified fifth becomes the test set, which is said; nothing lies in two parts."""
    fill(tmp_path / "photos", {"a": 20, "bb": 30}, (8, 8), "L")
    said: list[str] = []
    facts = prepared(tmp_path, say=said.append)
    assert (facts.n_train + facts.n_val, facts.n_test, facts.channels) == (40, 10, 1)
    assert said == ["no test folder: a stratified 20% is set aside"]
    assert open_test(facts).labels.bincount().tolist() == [4, 6]
    assert facts.duplicates["groups"] == 0


@pytest.mark.parametrize(
    ("width", "height", "size", "expected"),
    [(40, 48, None, 40), (300, 90, None, 224), (300, 90, 32, 32), (20, 16, 32, 32)],
)
def test_sizes(width: int, height: int, size: int | None, expected: int, tmp_path: Path) -> None:
    """The first image's shorter side up to 64, else 224, else what was asked for."""
    fill(tmp_path / "photos", {"a": 1, "bb": 1}, (width, height))
    entry = sources.source(f"folder:{tmp_path}/photos", tmp_path, size)
    assert (entry.size, entry.channels, entry.n_classes) == (expected, 3, 2)


@pytest.mark.parametrize("size", [8, 17, 32])
@pytest.mark.parametrize(("width", "height"), [(17, 17), (33, 20), (21, 40)])
def test_the_middle_of_an_image_against_torchvision(width: int, height: int, size: int) -> None:
    image = picture(3, width, height)
    expected = v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.PILToTensor()])(image)
    assert torch.equal(pixels.centre(image, size), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        ([], "folder:PATH must be a folder with PATH/train/<class>"),
        (["photos/test/a", "photos/test/b"], "got no train in"),
        (["photos/train/a"], r"must hold a folder for each class, got \['a'\]"),
        (["photos/train/a", "photos/train/b"], "every class must have images, got none in .*/a"),
    ],
)
def test_folders_that_cannot_be(make: list[str], message: str, tmp_path: Path) -> None:
    for folder in make:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(ValueError, match=message) as caught:
        prepared(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_class_that_only_the_test_set_has(root: Path) -> None:
    fill(root / "photos" / "test", {"dog": 1}, (8, 8))
    with pytest.raises(ValueError, match="must be those of training, got 'dog' too"):
        prepared(root)


@pytest.mark.parametrize(("name", "folder"), [("cinic10", "CINIC-10"), ("imagenet", "imagenet")])
def test_sets_that_must_be_fetched_by_hand(name: str, folder: str, tmp_path: Path) -> None:
    """One line: where they must lie, in which layout, where they come from."""
    with pytest.raises(
        ValueError, match=f"{name} must lie in {tmp_path / folder} .*https://"
    ) as caught:
        prepare(name, tmp_path, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("base", ["CINIC-10", "cinic10", "."])
def test_cinics_own_validation(base: str, tmp_path: Path) -> None:
    """train/ and valid/ are stored one after the other; valid/ is validation unless a fraction is asked for."""
    for part, n in (("train", 4), ("valid", 3), ("test", 2)):
        fill(tmp_path / base / part, {"c" * i: n for i in range(1, 11)}, (32, 32))
    facts = prepare("cinic10", tmp_path, tmp_path / "cache")
    assert (facts.n_train, facts.n_val, facts.n_test) == (40, 30, 20)
    file = tmp_path / base / "valid" / "c" / "000.png"
    assert torch.equal(open_split(facts, "val").images[:1][0], np_of(Image.open(file)))
    assert prepare("cinic10", tmp_path, tmp_path / "cache", val_fraction=0.2).n_val == 14


def test_imagenets_layouts(tmp_path: Path) -> None:
    """val/ is the test set, as class folders or, with the devkit's list, all in one; classes have words for names."""
    base = tmp_path / "imagenet"
    fill(base / "train", {"n01": 30, "n0002": 30}, (40, 32))
    fill(base / "val", {"n01": 1, "n0002": 2}, (40, 32))
    given: dict[str, Any] = {"image_size": 16, "val_fraction": 0.1}
    facts = prepare("imagenet", tmp_path, tmp_path / "cache", **given)
    assert (facts.n_train, facts.n_val, facts.n_test, facts.size) == (54, 6, 3, 16)
    assert facts.classes == ("n0002", "n01")
    flat = sorted((base / "val").rglob("*.png"))
    for i, file in enumerate(flat):
        file.rename(base / "val" / f"{i}.png")
        if not list(file.parent.iterdir()):
            file.parent.rmdir()
    words = {"n01": ("tench", "Tinca tinca"), "n0002": ("crane",)}
    torch.save((words, ["n0002", "n0002", "n01"]), base / "meta.bin")
    again = prepare(
        "imagenet",
        tmp_path,
        tmp_path / "elsewhere",
        **given,
    )
    assert again.sha256 == facts.sha256
    fresh = decoding.decode(sources.source("imagenet", tmp_path, 16), "imagenet", tmp_path)
    assert fresh.classes == ("crane", "tench, Tinca tinca")
    assert fresh.test_labels.tolist() == [0, 0, 1]


@pytest.fixture
def streamed(root: Path, monkeypatch: pytest.MonkeyPatch) -> Facts:
    """The folder, as if it were too large to be decoded."""
    monkeypatch.setattr(decoding, "STREAM_ABOVE", 0)
    return prepared(root, image_size=8)


def test_streamed_images_are_the_stored_ones(
    streamed: Facts, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By row, by slice and in batches, with workers and without, against the same folder decoded; statistics too."""
    monkeypatch.undo()
    decoded = prepare(f"folder:{root}/photos", root / "other", root / "cache", image_size=8)
    assert streamed.streamed
    assert not decoded.streamed
    expected = open_split(decoded, "train").images[:]
    for workers in (0, 1):
        images = open_split(streamed, "train", workers).images
        assert isinstance(images, Streamed)
        assert images.shape == expected.shape
        assert torch.equal(torch.cat(list(images.split(7))), expected)
    rows = torch.tensor([3, 30, 3])
    assert torch.equal(images[rows], expected[rows])
    assert torch.equal(images[2:5], expected[2:5])
    assert (streamed.mean, streamed.std) == statistics([expected])
    assert torch.equal(open_test(streamed).images[:], open_test(decoded).images[:])


@pytest.mark.parametrize("augment", ["none", "crop_flip", "crop_flip_rotate", "randaugment"])
def test_streamed_views_belong_to_seed_epoch_and_image(streamed: Facts, augment: str) -> None:
    """Batches of another size show the same pixels of an image; a step out of order is what it is in order."""
    data, inputs = open_split(streamed, "train"), Inputs(blocks=2, strong=(False, True))
    feeds = [Feed(data, inputs, Recipe(batch_size=n, augment=augment), 0, 3) for n in (12, 9)]
    seen: list[dict[int, Tensor]] = []
    for feed in feeds:
        shown = [feed(step) for step in range(feed.n_steps)]
        rows = torch.cat([one.indices[: feed.batch_size] for one in shown]).tolist()
        views = torch.cat([one.images[: feed.batch_size] for one in shown])
        seen.append(dict(zip(rows, views, strict=True)))
    assert all(torch.equal(seen[0][row], seen[1][row]) for row in range(36))
    assert torch.equal(feeds[0](1).images, feeds[0](1).images)
    other = Feed(data, inputs, Recipe(batch_size=12, augment=augment), 0, 4)
    moved = [
        not torch.equal(seen[0][int(r)], v)
        for r, v in zip(other(0).indices[:12], other(0).images[:12], strict=True)
    ]
    assert any(moved) == (augment != "none")


def test_streamed_draws_leave_torchs_stream_alone(streamed: Facts) -> None:
    data = open_split(streamed, "train")
    before = torch.get_rng_state()
    Feed(data, Inputs(), Recipe(batch_size=4, augment="randaugment"), 0, 0)
    for _ in data.images.split(10):
        pass
    Feed(data, Inputs(), Recipe(batch_size=4, augment="randaugment"), 0, 0)(0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_file_is_named(workers: int, streamed: Facts, root: Path) -> None:
    """In one line, also out of a worker; where the images are decoded beforehand too."""
    bad = root / "photos" / "train" / "ant" / "003.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(ValueError, match=f"an image must be readable, got {bad}: ") as caught:
        list(open_split(streamed, "train", workers).images.split(40))
    assert "\n" not in str(caught.value)


class Items:
    """A dataset of whatever it was given."""

    def __init__(self, items: list[tuple[Any, Any]]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        return self.items[i]


def pixels_in(kind: str, i: int) -> Any:
    image = picture(i, 8, 8, "L" if kind == "grey" else "RGB")
    if kind == "tensor":
        return np_of(image)
    return image if kind == "pil" else np.asarray(image)


def make_pil(root: Path, part: str) -> Items:
    return Items([(pixels_in("pil", i + 100 * (part == "test")), i % 2) for i in range(20)])


def make_tensor(root: Path, part: str) -> Items:
    return Items([(pixels_in("tensor", i + 100 * (part == "test")), i % 2) for i in range(20)])


def make_array(root: Path, part: str) -> Items:
    return Items([(pixels_in("array", i + 100 * (part == "test")), i % 2) for i in range(20)])


def make_grey(root: Path, part: str) -> Items:
    return Items([(pixels_in("grey", i + 100 * (part == "test")), i % 2) for i in range(20)])


def make_floats(root: Path, part: str) -> Items:
    return Items([(torch.rand(3, 8, 8), 0)])


def make_bad_labels(root: Path, part: str) -> Items:
    made = make_pil(root, part)
    made.classes = ("a", "b")  # type: ignore[attr-defined]
    made.items[3] = (made.items[3][0], 2)
    return made


def takes_nothing() -> None: ...


@pytest.mark.parametrize("kind", ["pil", "tensor", "array", "grey"])
def test_a_factorys_images(kind: str, tmp_path: Path) -> None:
    """Whatever form they come in: the same pixels, every one once in training, validation and test."""
    facts = prepare(f"tests.test_folders:make_{kind}", tmp_path, tmp_path / "cache")
    assert (facts.dataset, facts.classes) == (f"make_{kind}", ("0", "1"))
    assert (facts.n_train, facts.n_val, facts.n_test) == (18, 2, 20)
    found = sorted(
        image.tolist() for p in ("train", "val") for image in open_split(facts, p).images[:]
    )  # type: ignore[arg-type]
    mode = "L" if kind == "grey" else "RGB"
    assert found == sorted(np_of(picture(i, 8, 8, mode)).tolist() for i in range(20))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere_at_all:make", "must name a module that can be imported, got No module"),
        ("tests.test_folders:make_pill", "must have a factory 'make_pill', got none, did you mean"),
        ("tests.test_folders:takes_nothing", r"must take \(root, part\), got too many"),
        (
            "tests.test_folders:make_floats",
            "item 0 of .* got float32 of 3 axes; leave ToTensor",
        ),
        (
            "tests.test_folders:make_bad_labels",
            "labels of .* must be from 0 to 1, got 0 to 2 in train",
        ),
    ],
)
def test_factories_that_cannot_be(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(name, tmp_path, tmp_path)


def test_factories_must_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "STREAM_ABOVE", 0)
    with pytest.raises(ValueError, match=r"must fit in .* got 20; give them as folder:PATH"):
        factories.describe("tests.test_folders:make_pil", tmp_path, None)


def test_sizes_are_for_images_read_one_by_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--image-size must be left out or 32 for cifar10, got 64"):
        sources.source("cifar10", tmp_path, 64)


def test_what_must_be_downloaded(tmp_path: Path) -> None:
    """Said before it is: name, size, origin, folder; nothing once the folder or the archive is there."""
    said = sources.download("cifar100", tmp_path)
    assert said.startswith("downloading CIFAR100, 169 MB from www.cs.toronto.edu")
    assert str(tmp_path / "cifar-100-python") in said
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(b"")
    assert sources.download("cifar100", tmp_path) == "" == sources.download("digits", tmp_path)


@pytest.mark.parametrize("name", [*sources.SOURCES, "folder"])
def test_default_networks_take_their_images(name: str, root: Path) -> None:
    """Every pair is of known models with a stem that fits; ImageNet's are not built here."""
    from trainables import models

    entry = sources.source(f"folder:{root}/photos" if name == "folder" else name, root)
    for model in {entry.teacher, entry.student, entry.equal_student}:
        models.entry(model)


def test_a_split_of_streamed_images_is_a_split(streamed: Facts) -> None:
    data: Split = open_split(streamed, "val")
    assert len(data.images) == len(data.labels) == 12
