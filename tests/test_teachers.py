"""Teachers: trained, found again, imported from files of many kinds, verified, averaged."""

from __future__ import annotations

import argparse
import json
import shutil
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.test_training import made_up, same
from trainables import models, records
from trainables import teacher as teachers
from trainables import teacher_wanted as wanted
from trainables.checkpoint import STATE, write_state
from trainables.data import shelf
from trainables.data.sources import source
from trainables.data.splits import Facts, open_split, prepare
from trainables.methods import load as load_method
from trainables.models import pretrained
from trainables.models.normalized import Normalized
from trainables.recipe import Recipe
from trainables.seeding import generator, seeded
from trainables.teacher import Teacher
from trainables.teacher_files import fit, read
from trainables.teacher_ready import folder_of, joined, ready
from trainables.teacher_training import progress, recipe_of, train
from trainables.training import Training, validate
from tuner import teaching
from tuner.journal import Story

RECIPE = Recipe(epochs=6, batch_size=24, lr=0.1)


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """Made-up images of four classes in digits' place."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shelf, "decode", lambda *_: made_up())
        return prepare("digits", folder, folder / "cache")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where teachers lie, shared by the tests that only read."""
    return tmp_path_factory.mktemp("teachers")


@pytest.fixture(scope="module")
def trained(facts: Facts, root: Path) -> Teacher:
    return ready(wanted.parse("convnet4", 4), facts, RECIPE, root)


def imported(path: Path, facts: Facts, root: Path, trust: bool = False) -> Teacher:
    return ready(wanted.parse(f"convnet4:{path}", 4), facts, RECIPE, root, trust)


def bare(teacher: Teacher, facts: Facts) -> Normalized:
    """The trained network, unfrozen from its folder."""
    network = teachers.load(teacher, facts)
    assert isinstance(network, Normalized)
    return network


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def test_a_teacher_is_trained_found_and_loaded(trained: Teacher, facts: Facts, root: Path) -> None:
    """Its recorded accuracy is that of the weights on disk; it comes back frozen; nothing of the training is left."""
    model = teachers.load(trained, facts)
    folder = Path(trained.folder)
    assert teachers.find(folder) == trained
    assert ready(wanted.parse("convnet4", 4), facts, RECIPE, root) == trained
    assert validate(model, open_split(facts, "val"))["accuracy"] == trained.accuracy > 0.5
    assert progress(folder) == (6, trained.accuracy)
    assert not model.training and not (folder / STATE).exists()
    assert not any(p.requires_grad for p in model.parameters())


def test_a_moved_searchs_teacher_is_the_one_beside_it(trained: Teacher, tmp_path: Path) -> None:
    """Not where the search was before, though a teacher lies there still: nodes are served from its own folder."""
    place = tmp_path / "here" / "teachers" / Path(trained.folder).name
    shutil.copytree(trained.folder, place)
    told = Story(results={"teacher": {**asdict(trained), "folder": str(place)}})
    plans: Any = [SimpleNamespace(out=tmp_path / name) for name in ("here", "elsewhere")]
    known, moved = (teaching.remembered(planned, told) for planned in plans)
    assert known == replace(trained, folder=str(place)) and moved is None


def test_training_resumed_equals_uninterrupted(
    trained: Teacher, facts: Facts, tmp_path: Path
) -> None:
    """A state after three of six epochs, as a killed training leaves it, gone on with: bit for bit the same."""
    data = open_split(facts, "train")
    build = partial(teachers.build_for, "convnet4", facts)
    run = Training(load_method("vanilla"), {}, RECIPE, 0, build, data)
    for _ in range(3):
        run.train_epoch()
    write_state(tmp_path, run.state())
    resumed = train("convnet4", facts, RECIPE, tmp_path, 0)
    assert same(resumed.state_dict(), bare(trained, facts).state_dict())


def test_a_damaged_state_is_begun_anew(trained: Teacher, facts: Facts, tmp_path: Path) -> None:
    write_state(tmp_path, {"epoch": 3})
    (tmp_path / STATE).write_bytes(b"cut short")
    again = train("convnet4", facts, RECIPE, tmp_path, 0)
    assert same(again.state_dict(), bare(trained, facts).state_dict())


def test_two_searches_at_once_train_one_teacher(facts: Facts, tmp_path: Path) -> None:
    """Both get it; what was written was written once (its state would be gone on with otherwise)."""
    one = wanted.parse("convnet4", 4)
    with ThreadPoolExecutor(2) as pool:
        work = [pool.submit(ready, one, facts, RECIPE, tmp_path) for _ in range(2)]
        found = [some.result() for some in work]
    assert found[0] == found[1] and len(list(tmp_path.glob("*/weights.safetensors"))) == 1


def test_a_damaged_teacher_is_not_found_and_not_loaded(facts: Facts, tmp_path: Path) -> None:
    made = ready(wanted.parse("convnet4", 4), facts, RECIPE, tmp_path)
    path = Path(made.folder) / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert teachers.find(path.parent) is None
    with pytest.raises(ValueError, match="weights must be those recorded"):
        teachers.load(made, facts)


def test_a_found_teacher_that_has_lost_its_accuracy_is_refused(
    facts: Facts, tmp_path: Path
) -> None:
    """Recorded two points above what it has; the tolerance is one."""
    made = ready(wanted.parse("convnet4", 4), facts, RECIPE, tmp_path)
    path = Path(made.folder) / "teacher.json"
    record = json.loads(path.read_text())
    record["checked_accuracy"] += 0.02
    records.write(path, {k: v for k, v in record.items() if k != "crc32"}, teachers.VERSION)
    with pytest.raises(ValueError, match=r"must come near its recorded .*delete "):
        ready(wanted.parse("convnet4", 4), facts, RECIPE, tmp_path)


def test_a_teacher_that_learnt_nothing_is_refused(facts: Facts, tmp_path: Path) -> None:
    """Rates too low and too high; nothing is recorded."""
    one = wanted.parse("convnet4", 4)
    with pytest.raises(ValueError, match=r"must beat chance \(25.0%\), got .* learnt nothing"):
        ready(one, facts, Recipe(epochs=1, lr=1e-9), tmp_path)
    with pytest.raises(ValueError, match=r"without diverging, got .* in epoch 1; take another"):
        ready(one, facts, Recipe(epochs=1, lr=1e30, batch_size=24), tmp_path)
    assert not list(tmp_path.glob("*/teacher.json"))


def test_teachers_are_told_apart_by_all_they_depend_on(facts: Facts, tmp_path: Path) -> None:
    """Network, seed, recipe, data, split, file: another folder each, all with names that a folder may have."""
    (tmp_path / "w.pt").write_bytes(b"weights")
    one = wanted.parse("convnet4", 4)
    other_data = replace(facts, sha256={**facts.sha256, "train": "other"})
    others = [
        (wanted.parse("torchvision:resnet18", 4), facts, RECIPE),
        (wanted.parse("convnet4#2", 4), facts, RECIPE),
        (wanted.parse(f"convnet4:{tmp_path / 'w.pt'}", 4), facts, RECIPE),
        (one, facts, replace(RECIPE, lr=0.2)),
        (one, replace(facts, split_hash="other"), RECIPE),
        (one, other_data, RECIPE),
    ]
    found = {folder_of(*some, tmp_path) for some in [(one, facts, RECIPE), *others]}
    assert len(found) == 7
    assert all(models.slug(folder.name) == folder.name for folder in found)


def test_the_recipe_is_the_datasets_and_the_networks() -> None:
    """Today's digits teacher, and RepDistiller's lower rate for light networks; --teacher-epochs overrides."""
    digits = source("digits", Path())
    assert recipe_of("convnet16res", digits) == Recipe(epochs=20, augment="none")
    assert recipe_of("shufflenetv1", digits).lr == recipe_of("mobilenetv2_half", digits).lr == 0.01
    assert recipe_of("convnet16res", digits, 3).epochs == 3


REGISTERED = "mlflow:models:/name@best"


@pytest.mark.parametrize(
    ("text", "model", "file", "uri", "seed"),
    [
        ("resnet20", "resnet20", "", "", 0),
        ("resnet20#7", "resnet20", "", "", 7),
        ("wrn-40-2:W", "wrn-40-2", "W", "", 0),
        ("torchvision:resnet18", "torchvision:resnet18", "", "", 0),
        ("torchvision:resnet18:W", "torchvision:resnet18", "W", "", 0),
        ("some.module:factory:W", "some.module:factory", "W", "", 0),
        (REGISTERED, "", "", "models:/name@best", 0),
        (f"resnet20:{REGISTERED}", "resnet20", "", "models:/name@best", 0),
        ("mlflow:models:/name/3", "", "", "models:/name/3", 0),
    ],
)
def test_what_a_teacher_may_be_called(
    text: str, model: str, file: str, uri: str, seed: int, tmp_path: Path
) -> None:
    """W stands for a file that exists, whose own name holds a colon."""
    path = tmp_path / "a:b"
    path.write_bytes(b"weights")
    found = wanted.parse(text.replace("W", str(path)), 10)
    assert (found.model, found.uri, found.seed) == (model, uri, seed)
    assert found.file == (str(path) if file else "")


def body(teacher: Teacher, facts: Facts) -> OrderedDict[str, Tensor]:
    """The trained network's state without its normalisation, as a training script would save it."""
    return OrderedDict(bare(teacher, facts).body.state_dict())


WRAPPINGS: list[Callable[[Any], Any]] = [
    lambda state: state,
    lambda state: {"model": state, "best_acc": torch.tensor(91.5), "epoch": 3},
    lambda state: {"state_dict": {f"module.{k}": x for k, x in state.items()}, "acc": 0.915},
    lambda state: {"net": {f"_orig_mod.module.{k}": x for k, x in state.items()}},
    lambda state: {"model": {"state_dict": state}, "best_acc1": np.float64(91.5)},
    lambda state: {"opt": argparse.Namespace(lr=np.float32(0.1)), "model_state_dict": state},
    lambda state: {"model": {f"model.{k}": x for k, x in state.items()}, "test_acc": [1, 2]},
]


@pytest.mark.parametrize("number", range(len(WRAPPINGS)))
def test_state_dicts_in_their_wrappers(
    number: int, trained: Teacher, facts: Facts, tmp_path: Path
) -> None:
    """Against the state that was wrapped; an accuracy beside it is read as a share."""
    state = body(trained, facts)
    found = read(saved(WRAPPINGS[number](state), tmp_path / "w.pt"))
    assert same(found.state, dict(state))
    assert found.accuracy == (pytest.approx(0.915) if number in (1, 2, 4) else None)


def test_an_imported_teacher_answers_as_the_original(
    trained: Teacher, facts: Facts, tmp_path: Path
) -> None:
    """Of a bare state dict the normalisation is found: all others do worse or as well and come later."""
    path = saved({"model": body(trained, facts), "best_acc": 99.0}, tmp_path / "w.pt")
    made = imported(path, facts, tmp_path)
    images = torch.rand(5, 1, 8, 8, generator=generator(0, "images"))
    same_logits = [teachers.load(one, facts)(images).logits for one in (trained, made)]
    torch.testing.assert_close(*same_logits)
    assert made.normalisation == "the training pixels', best of 3 tried on validation"
    assert made.elsewhere and made.recorded == 0.99 and made.mean == pytest.approx(facts.mean)
    assert teachers.find(Path(made.folder)) == made


def test_our_own_weights_bring_their_record(trained: Teacher, facts: Facts, tmp_path: Path) -> None:
    """The file of a teacher on the same split: its normalisation, its accuracy, not trained elsewhere."""
    made = imported(Path(trained.folder) / "weights.safetensors", facts, tmp_path)
    assert (made.normalisation, made.recorded, made.elsewhere) == (
        "its own",
        trained.accuracy,
        False,
    )


def test_a_champions_file_brings_its_normalisation(
    trained: Teacher, facts: Facts, tmp_path: Path
) -> None:
    """Its names begin with student.; with a method's adapter beside them it is no network of ours."""
    state = {f"student.{k}": x for k, x in bare(trained, facts).state_dict().items()}
    save_file(state, tmp_path / "champion.safetensors")
    made = imported(tmp_path / "champion.safetensors", facts, tmp_path)
    assert (made.normalisation, made.accuracy) == ("its own", trained.accuracy)
    save_file({**state, "adapter.head": torch.zeros(1)}, tmp_path / "simkd.safetensors")
    with pytest.raises(ValueError, match="got a student with its method's adapter"):
        imported(tmp_path / "simkd.safetensors", facts, tmp_path)


class Basic(nn.Module):
    """RepDistiller's block, by its names."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.downsample = None
        if stride > 1:
            conv = nn.Conv2d(n_in, n_out, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class RepDistillersResNet8(nn.Module):
    """As in RepDistiller's models/resnet.py: conv1, bn1, layer1 to layer3, fc."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Basic(16, 16, 1))
        self.layer2 = nn.Sequential(Basic(16, 32, 2))
        self.layer3 = nn.Sequential(Basic(32, 64, 2))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def resnet8(n_classes: int = 10) -> Normalized:
    grey = (0.0,) * 3, (1.0,) * 3
    return models.build(
        "resnet8", n_classes=n_classes, channels=3, size=32, mean=grey[0], std=grey[1]
    )


def test_repdistillers_names_are_fitted_by_order() -> None:
    """Against its own forward pass, with running statistics that are not those of a fresh network."""
    with seeded(0, "foreign"):
        theirs, ours = RepDistillersResNet8(), resnet8()
        images = torch.rand(8, 3, 32, 32)
        theirs(images)
    fit(ours.body, theirs.eval().state_dict(), "resnet8")
    torch.testing.assert_close(ours.eval()(images).logits, theirs(images))


def test_torchvisions_names_are_fitted_by_name() -> None:
    """Against torchvision's own network, its tensors in another order."""
    from torchvision.models import get_model

    shape = {"n_classes": 10, "channels": 3, "size": 64}
    with seeded(0, "foreign"):
        theirs = get_model("resnet18", num_classes=10)
        ours = models.build("torchvision:resnet18", **shape, mean=(0.0,) * 3, std=(1.0,) * 3)
        images = torch.rand(2, 3, 64, 64)
    state = dict(reversed(theirs.eval().state_dict().items()))
    fit(ours.body, state, "torchvision:resnet18")
    torch.testing.assert_close(ours.eval()(images).logits, theirs(images))


def test_what_does_not_fit_is_named() -> None:
    """Classes, stem, and length: the first tensor that does not fit, both shapes; how many were expected."""
    state = RepDistillersResNet8().state_dict()
    with pytest.raises(
        ValueError, match=r"fit resnet8, got fc.weight of shape \(10, 64\) where clas"
    ):
        fit(resnet8(100).body, state, "resnet8")
    wide = {**state, "conv1.weight": torch.zeros(32, 3, 3, 3)}
    with pytest.raises(
        ValueError, match=r"got conv1.weight of shape \(32, 3, 3, 3\) .*\(16, 3, 3, 3\)"
    ):
        fit(resnet8().body, wide, "resnet8")
    more = {**state, "fc2.weight": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"got 48 tensors where 47 are expected"):
        fit(resnet8().body, more, "resnet8")


class Whole(nn.Module):
    """Somebody's network, pickled whole; its state dict is convnet4's."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.net = inside


class Evil:
    """Code that runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickled_code_is_not_run(facts: Facts, tmp_path: Path) -> None:
    path = saved({"model": Evil(tmp_path / "ran")}, tmp_path / "w.pt")
    with pytest.raises(
        ValueError, match=r"must hold weights only, got .*; --trust-pickle loads it"
    ):
        imported(path, facts, tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_pickled_network_is_loaded_where_it_is_trusted(
    trained: Teacher, facts: Facts, tmp_path: Path
) -> None:
    path = saved(Whole(bare(trained, facts).body), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"got pickled tests\.test_teachers\.Whole in"):
        imported(path, facts, tmp_path)
    assert imported(path, facts, tmp_path, trust=True).accuracy == trained.accuracy


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_a_file_that_is_none(name: str, facts: Facts, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match="a teacher's file must"):
        imported(tmp_path / name, facts, tmp_path)
    saved({"epoch": 3, "lr": 0.1}, tmp_path / "empty.pt")
    with pytest.raises(ValueError, match=r"must hold a state dict, .* got the keys epoch, lr"):
        imported(tmp_path / "empty.pt", facts, tmp_path)


def test_a_teacher_of_another_class_order_is_refused(
    trained: Teacher, facts: Facts, tmp_path: Path
) -> None:
    """The same network with its classes moved on by one: nothing right, and all right under other names."""
    state = {k: x.roll(1, 0) if "classifier" in k else x for k, x in body(trained, facts).items()}
    path = saved(state, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"must beat chance .* its classes are in another order"):
        imported(path, facts, tmp_path)


def test_a_teacher_of_other_data_is_refused(facts: Facts, tmp_path: Path) -> None:
    """Untrained weights stand for a wrong file."""
    with seeded(0, "wrong file"):
        network = teachers.build_for("convnet4", facts).body
    path = saved(network.state_dict(), tmp_path / "w.pt")
    with pytest.raises(ValueError, match="none of 3 normalisations helps, so it is the wrong file"):
        imported(path, facts, tmp_path)


def test_a_teacher_far_below_its_record_is_refused(
    trained: Teacher, facts: Facts, tmp_path: Path
) -> None:
    """Two of four classes in each other's place: half right, above chance."""
    swapped = torch.tensor([1, 0, 2, 3])
    state = {k: x[swapped] if "classifier" in k else x for k, x in body(trained, facts).items()}
    path = saved({"model": state, "best_acc": 99.9}, tmp_path / "w.pt")
    with pytest.raises(
        ValueError, match=r"must come near its recorded 99.9%, got .* classes are in another order"
    ):
        imported(path, facts, tmp_path)


def test_an_ensemble_averages_logits(trained: Teacher, facts: Facts, root: Path) -> None:
    """By hand; its classifier reads its embedding; it finds its members again; twice the same is refused."""
    other = ready(wanted.parse("convnet8#2", 4), facts, RECIPE, root)
    both = joined([trained, other], facts)
    images = torch.rand(5, 1, 8, 8, generator=generator(0, "images"))
    outputs = teachers.load(both, facts)(images)
    apart = [teachers.load(one, facts)(images).logits for one in (trained, other)]
    torch.testing.assert_close(outputs.logits, sum(apart) / 2)
    classifier = teachers.load(both, facts).classifier
    torch.testing.assert_close(classifier(outputs.embedding), outputs.logits)
    assert both.model == "convnet4 + convnet8" and both.accuracy > 0.5 and not outputs.features
    assert teachers.untrained(both.model, facts)(images).embedding.shape == outputs.embedding.shape
    with pytest.raises(ValueError, match="must differ, got convnet4 twice"):
        joined([trained, trained], facts)


def test_members_of_an_ensemble_normalise_for_themselves(trained: Teacher, facts: Facts) -> None:
    """Against the member alone, whose mean and std are not the data's."""
    shifted = replace(trained, mean=(0.5,), std=(0.5,))
    network = teachers.build_for("convnet4", facts, shifted.mean, shifted.std)
    images = torch.rand(3, 1, 8, 8, generator=generator(0, "images"))
    expected = network.eval().body((images - 0.5) / 0.5).logits
    torch.testing.assert_close(network(images).logits, expected)


def test_pretrained_weights_are_taken_where_their_classes_are_as_many() -> None:
    """ImageNet's thousand; a seed asks for training; other networks have none."""
    name = "torchvision:squeezenet1_1"
    assert wanted.parse(name, 1000).weights == "SqueezeNet1_1_Weights.IMAGENET1K_V1"
    assert not wanted.parse(name, 10).weights
    assert not wanted.parse(f"{name}#1", 1000).weights
    assert not wanted.parse("resnet20", 1000).weights


def test_pretrained_weights_come_from_the_librarys_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made-up weights under the published file's name; ImageNet's normalisation and accuracy; a damaged file."""
    from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / SqueezeNet1_1_Weights.DEFAULT.url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    state = squeezenet1_1().state_dict()
    saved(state, path)
    found = pretrained.fetch("torchvision:squeezenet1_1", 1000, 3)
    assert same(dict(found.state), dict(state))
    assert found.mean == (0.485, 0.456, 0.406) and found.accuracy == pytest.approx(0.58178)
    path.write_bytes(b"cut short")
    with pytest.raises(ValueError, match=r"squeezenet1_1's weights must be in the library's cache"):
        pretrained.fetch("torchvision:squeezenet1_1", 1000, 3)
