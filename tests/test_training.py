"""Training: resumed equals uninterrupted, step for step against torch.optim, and what diverges says so."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from trainables import objective
from trainables import teacher as teachers
from trainables.checkpoint import STATE, read_state
from trainables.contract import Method, Outputs, Phase
from trainables.data import shelf
from trainables.data.decoding import Decoded
from trainables.data.splits import Split, open_split, prepare
from trainables.methods import load, names
from trainables.recipe import Recipe, learning_rate, make_optimizer
from trainables.seeding import generator, seeded
from trainables.stages import BY_RULE
from trainables.teacher import Teacher
from trainables.trainable import Task, Trial, Workplace, alone
from trainables.training import (
    Divergence,
    Training,
    first_divergence,
    first_epochs,
    validate,
    with_input_gradient,
)

EPOCHS = 4
RECIPE = Recipe(epochs=EPOCHS, batch_size=24, lr=0.05)


def made_up() -> Decoded:
    """Four classes, each a bright quarter of a noisy 8x8 image: 96 to train, 96 to validate, 40 to test."""
    rng = np.random.default_rng(0)
    labels = np.arange(232) % 4
    images = rng.integers(0, 150, (232, 1, 8, 8))
    for image, label in zip(images, labels, strict=True):
        image[:, 4 * (label // 2) :][:, :4, 4 * (label % 2) :][:, :, :4] += 100
    pixels = images.astype(np.uint8)
    return Decoded(pixels[:192], labels[:192], pixels[192:], labels[192:], tuple("abcd"))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """The made-up images in digits' place and an untrained teacher of the default pair."""
    folder = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shelf, "decode", lambda *_: made_up())
        facts = prepare("digits", folder, folder / "cache")
    with seeded(0, "test teacher"):
        model = teachers.build_for("convnet16res", facts)
    content = save(model.state_dict())
    (folder / "weights.safetensors").write_bytes(content)
    known = Teacher(str(folder), "convnet16res", 0.5, hashlib.sha256(content).hexdigest(), 1)
    return Task(facts, known, "convnet4", RECIPE)


@pytest.fixture(scope="module")
def place(task: Task) -> Callable[[str], Workplace]:
    """The workplace of a search of one method; what it prepares is made once."""
    made: dict[str, Workplace] = {}

    def at(name: str) -> Workplace:
        if name not in made:
            root = Path(task.teacher.folder) / "prepared"
            student = "convnet16" if "equal_channels" in load(name).needs else task.student
            file = teachers.prepare(name, task.teacher, student, BY_RULE, task.facts, root)
            made[name] = Workplace(replace(task, student=student, prepared=file))
        return made[name]

    return at


def config(method: str, seed: int = 0, **hyper: Any) -> dict[str, Any]:
    return {
        "id": "x-000",
        "number": 1,
        "method": method,
        "seed": seed,
        "hyper": hyper,
        "epochs": EPOCHS,
    }


def same(a: Any, b: Any) -> bool:
    """Bit for bit, NaN equal to itself."""
    (flat, shape), (other, other_shape) = tree_flatten(a), tree_flatten(b)
    return shape == other_shape and all(
        torch.equal(x.contiguous().view(torch.uint8), y.contiguous().view(torch.uint8))
        if isinstance(x, Tensor) and x.dim()
        else bool(x == y)
        for x, y in zip(flat, other, strict=True)
    )


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """As a checkpoint travels: saved, then loaded with weights_only=True."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
    return loaded


def trained(place: Workplace, epochs: int, **given: Any) -> Training:
    run = place.training(config(**given))
    for _ in range(epochs):
        run.train_epoch()
    return run


INTERRUPTED: list[tuple[dict[str, Any], int]] = [
    *(({"method": name}, 2) for name in names()),
    ({"method": "ab", "first_share": 0.5}, 1),  # inside the first phase of two epochs
    ({"method": "ab", "first_share": 0.5}, 3),
    ({"method": "fitnet", "layer": 1}, 1),
    ({"method": "kd", "augment": "crop_flip"}, 1),
    ({"method": "kd", "optimizer": "adam", "lr": 0.001}, 3),
    ({"method": "kd", "optimizer": "adamw", "lr": 0.001}, 1),
    ({"method": "ckd", "group": 4, "loss": "mse"}, 1),
    ({"method": "ckd", "inner": "vid"}, 3),
    ({"method": "mixup", "sources": 3, "teacher_view": "mixed"}, 1),
    ({"method": "crd", "positive": "relax"}, 3),
    ({"method": "cckd_t_reg", "regulation": 1.0}, 1),
]


@pytest.mark.parametrize(("given", "k"), INTERRUPTED, ids=lambda x: str(x).replace("'", ""))
def test_resumed_equals_uninterrupted(
    given: dict[str, Any], k: int, place: Callable[[str], Workplace]
) -> None:
    """k epochs, a checkpoint, the rest in another process's place: weights, adapter, optimiser and terms."""
    at = place(given["method"])
    whole, before = trained(at, EPOCHS - 1, **given), trained(at, k, **given)
    resumed = at.training(config(**given))
    resumed.load(through_a_file(before.state()))
    for _ in range(EPOCHS - 1 - k):
        resumed.train_epoch()
    assert same(resumed.state(), whole.state())
    assert same(resumed.train_epoch(), whole.train_epoch())
    assert whole.epoch == EPOCHS


@pytest.mark.parametrize("name", [name for name in names() if load(name).target is not None])
def test_the_teacher_stays_as_it_is(name: str, place: Callable[[str], Workplace]) -> None:
    """Parameters and buffers (batch norm's above all) before and after an epoch, bit for bit; no gradient."""
    at = place(name)
    before = through_a_file(at.teacher.state_dict())
    means, divergence = at.training(config(name)).train_epoch()
    assert same(before, at.teacher.state_dict())
    assert divergence is None
    assert all(math.isfinite(value) for value in means.values())
    assert not at.teacher.training
    assert all(p.grad is None and not p.requires_grad for p in at.teacher.parameters())


def test_no_method_refuses_its_pair(place: Callable[[str], Workplace]) -> None:
    """So that the two batteries above are of all methods."""
    for name in names():
        at, method = place(name), load(name)
        context = at._context(teachers.build_for(at.task.student, at.task.facts))
        assert objective.why_not(method, context, objective.defaults(method)) is None, name


def test_a_student_learns(place: Callable[[str], Workplace]) -> None:
    """The made-up classes are easy: from chance (0.25) to nearly all in a few epochs; the loss falls."""
    run = place("vanilla").training(config("vanilla", epochs=8, lr=0.1))
    losses = [run.train_epoch()[0]["train/loss"] for _ in range(8)]
    assert losses[-1] < 0.5 * losses[0]
    assert validate(run.deployed, place("vanilla").val)["accuracy"] > 0.9


def test_trials_share_their_random_numbers(place: Callable[[str], Workplace]) -> None:
    """Same seed, other hyperparameters: the same first weights. Another seed: other ones."""
    at = place("kd")
    one, other, apart = (
        at.training(config("kd", s, alpha=a)) for s, a in ((0, 0.1), (0, 0.9), (1, 0.1))
    )
    assert same(one.student.state_dict(), other.student.state_dict())
    assert not same(one.student.state_dict(), apart.student.state_dict())


def test_training_leaves_torchs_stream_alone(place: Callable[[str], Workplace]) -> None:
    before = torch.get_rng_state()
    place("kd").training(config("kd")).train_epoch()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("progress", "rate"),
    [
        (0, 0),
        (0.05, 0.05),
        (0.1, 0.1),
        (0.325, 0.1 * (0.5 + math.sqrt(0.125))),
        (0.55, 0.05),
        (1, 0),
    ],
)
def test_learning_rate_by_hand(progress: float, rate: float) -> None:
    """Peak 0.1, warm-up a tenth: linear to it, then cos of 0, pi/4, pi/2 and pi over the rest."""
    recipe = Recipe(lr=0.1, warmup_fraction=0.1)
    assert learning_rate(recipe, progress) == pytest.approx(rate, abs=1e-15)


def test_learning_rate_without_warm_up_starts_at_its_peak() -> None:
    assert learning_rate(Recipe(lr=0.3, warmup_fraction=0), 0) == 0.3


def by_hand(
    recipe: Recipe, place: Workplace, plain: Callable[..., torch.optim.Optimizer]
) -> nn.Module:
    """The loop written out: order, rate, cross-entropy, one torch optimiser."""
    images, labels = place.train.images[:].float() / 255, place.train.labels
    with seeded(0, "student"):
        model = teachers.build_for("convnet4", place.task.facts)
    optimizer = plain(model.parameters(), lr=1.0)
    n_steps = len(labels) // recipe.batch_size
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(labels), generator=generator(0, "order", epoch))
        for step in range(n_steps):
            progress = (epoch * n_steps + step + 0.5) / (recipe.epochs * n_steps)
            warm = recipe.warmup_fraction
            share = (progress - warm) / (1 - warm)
            rate = progress / warm if progress < warm else (1 + math.cos(math.pi * share)) / 2
            optimizer.param_groups[0]["lr"] = recipe.lr * rate
            rows = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            optimizer.zero_grad()
            F.cross_entropy(model(images[rows]).logits, labels[rows]).backward()
            optimizer.step()
    return model


@pytest.mark.parametrize(
    ("hyper", "plain"),
    [
        (
            {"optimizer": "sgd", "lr": 0.05},
            lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9, nesterov=True, weight_decay=5e-4),
        ),
        (
            {"optimizer": "sgd", "lr": 0.05, "momentum": 0, "weight_decay": 0.01},
            lambda p, lr: torch.optim.SGD(p, lr, weight_decay=0.01),
        ),
        (
            {"optimizer": "adam", "lr": 0.01},
            lambda p, lr: torch.optim.Adam(p, lr, weight_decay=5e-4),
        ),
        (
            {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1},
            lambda p, lr: torch.optim.AdamW(p, lr, weight_decay=0.1),
        ),
    ],
    ids=["nesterov", "plain sgd", "adam", "adamw"],
)
def test_against_torch_optim_over_twelve_steps(
    hyper: dict[str, Any],
    plain: Callable[..., torch.optim.Optimizer],
    place: Callable[[str], Workplace],
) -> None:
    """Three epochs of four steps, against the loop written by hand."""
    given = {**hyper, "epochs": 3, "warmup_fraction": 0.25}
    run = place("vanilla").training(config("vanilla", **given))
    for _ in range(3):
        run.train_epoch()
    expected = by_hand(RECIPE.changed(given), place("vanilla"), plain).state_dict()
    for name, value in run.student.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize(("share", "handed"), [(0.0, None), (0.25, torch.tensor(0.25))])
def test_label_smoothing_reaches_every_batch(
    share: float, handed: Tensor | None, place: Callable[[str], Workplace]
) -> None:
    """The recipe's share as a tensor; 0 hands nothing on, which is what there was before."""
    run = place("vanilla").training(config("vanilla", label_smoothing=share))
    assert [batch.smoothing for batch, _ in run._batches()] == [handed] * 4


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_make_optimizer_takes_the_recipe(optimizer: str) -> None:
    made = make_optimizer(
        Recipe(optimizer=optimizer, lr=0.3, weight_decay=0.02, momentum=0.8),
        [nn.Parameter(torch.ones(2))],
    )
    assert type(made).__name__.lower() == optimizer
    assert (made.lr, made.weight_decay) == (0.3, 0.02)
    assert getattr(made, "momentum", 0.8) == 0.8


class Tiny(nn.Module):
    """One linear layer over the pixels, with dropout."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout, self.classifier = nn.Dropout(dropout), nn.Linear(64, 4)

    def forward(self, images: Tensor) -> Outputs:
        flat = self.dropout(images.flatten(1) + 1)  # 0 only where dropped
        return Outputs(self.classifier(flat), flat)


def tiny(method: Method, data: Split, dropout: float = 0.0, **more: Any) -> Training:
    return Training(method, {}, replace(RECIPE, **more), 0, lambda: Tiny(dropout), data)


@pytest.fixture(scope="module")
def data(task: Task) -> Split:
    return open_split(task.facts, "train")


def ce(student: Outputs, target: Any, batch: Any) -> dict[str, Tensor]:
    return {"ce": F.cross_entropy(student.logits, batch.labels)}


def test_dropout_resumes(data: Split) -> None:
    """Against uninterrupted; each of the twelve steps drops other pixels."""
    dropped: list[Tensor] = []

    def loss(student: Outputs, target: Any, batch: Any) -> dict[str, Tensor]:
        dropped.append(student.embedding == 0)
        return ce(student, target, batch)

    method = Method(paper="", loss=loss, target=None)
    whole, first, resumed = (tiny(method, data, 0.5) for _ in range(3))
    for run, n in ((whole, 3), (first, 2)):
        for _ in range(n):
            run.train_epoch()
    resumed.load(through_a_file(first.state()))
    assert len(torch.unique(torch.stack(dropped[:12]), dim=0)) == 12
    resumed.train_epoch()
    assert same(resumed.state(), whole.state())


@pytest.mark.parametrize("name", ["vanilla", "kd"])
def test_a_huge_rate_diverges_and_says_where(name: str, place: Callable[[str], Workplace]) -> None:
    run = place(name).training(config(name, lr=1e30))
    _, divergence = run.train_epoch()
    assert divergence == Divergence(1, "ce")


def test_divergence_names_epoch_and_term(data: Split) -> None:
    """A made-up method whose second term is NaN from the third epoch on."""

    def loss(student: Outputs, target: Any, batch: Any) -> dict[str, Tensor]:
        bad = torch.where(batch.epoch >= 2, math.nan, 0.0)
        return {**ce(student, target, batch), "own": bad * student.logits.mean()}

    run = tiny(Method(paper="", loss=loss, target=None), data)
    assert [run.train_epoch()[1] for _ in range(3)] == [None, None, Divergence(3, "own")]


@pytest.mark.parametrize(
    ("values", "term"),
    [
        ([[1, 1], [1, 1]], None),
        ([[1, 1], [1, math.nan]], "b"),
        ([[1, math.inf], [math.nan, 1]], "b"),  # the earlier step
        ([[math.nan, math.nan], [1, 1]], "a"),  # a tie: the first named
        ([[1, 1], [-math.inf, 1]], "a"),
    ],
)
def test_which_term_goes_first(values: list[list[float]], term: str | None) -> None:
    found = first_divergence(torch.tensor(values), ["a", "b"], 7)
    assert found == (Divergence(7, term) if term else None)


@pytest.mark.parametrize(("kept", "share"), [(0, 0.0), (12, 0.5), (24, 1.0)])
def test_keep(data: Split, kept: int, share: float) -> None:
    """Nothing kept: no step, no weight decay, no momentum. The share of samples used is told."""

    def keep(student: Outputs, target: Any, batch: Any) -> Tensor:
        return torch.arange(len(batch.labels)) < kept

    run = tiny(Method(paper="", loss=ce, target=None, keep=keep), data, weight_decay=0.1)
    before = through_a_file(run.student.state_dict())
    means, _ = run.train_epoch()
    assert means["train/samples_used"] == pytest.approx(share)
    assert same(before, run.student.state_dict()) == (kept == 0)
    assert (len(run.optimizer.state) == 0) == (kept == 0)


def test_told_means_are_the_means_over_steps(data: Split) -> None:
    """Terms of 1, 2, 3, 4 in the four steps: mean 2.5; the total is their sum, once."""
    steps = iter(range(1, 5))

    def loss(student: Outputs, target: Any, batch: Any) -> dict[str, Tensor]:
        n = next(steps)
        return {"a": n + 0 * student.logits.sum(), "b": 10.0 * n + 0 * student.logits.sum()}

    means, _ = tiny(Method(paper="", loss=loss, target=None), data).train_epoch()
    assert means == {"train/a": 2.5, "train/b": 25, "train/loss": 27.5}


def phased(share: float) -> Method:
    return Method(paper="", loss=ce, target=None, first_phase=Phase(ce, lambda: share))


@pytest.mark.parametrize(
    ("share", "epochs", "first"),
    [(0, 10, 0), (0.01, 10, 1), (0.34, 10, 3), (0.9, 10, 9), (1, 10, 9), (0.5, 1, 0), (0.5, 2, 1)],
)
def test_first_epochs(share: float, epochs: int, first: int) -> None:
    """At least one where there is a phase, never all."""
    assert first_epochs(phased(share), {}, epochs) == first
    assert first_epochs(Method(paper="", loss=ce), {}, epochs) == 0


def test_each_phase_has_its_own_progress_and_optimiser(data: Split) -> None:
    """Two epochs of four each: `epoch` and `progress` start anew; so do the rate and the momentum."""
    seen: list[tuple[float, float]] = []

    def loss(student: Outputs, target: Any, batch: Any) -> dict[str, Tensor]:
        seen.append((float(batch.epoch), float(batch.progress)))
        return ce(student, target, batch)

    phase = Phase(loss, lambda: 0.5)
    run = tiny(Method(paper="", loss=loss, target=None, first_phase=phase), data)
    optimizers = []
    for _ in range(EPOCHS):
        run.train_epoch()
        optimizers.append(run.optimizer)
    one = [(e, (e * 4 + step) / 8) for e in (0.0, 1.0) for step in range(4)]
    assert seen == one + one
    assert [a is b for a, b in pairwise(optimizers)] == [True, False, True]


def test_input_gradient_is_each_images_own(data: Split) -> None:
    """Against torch.autograd.grad, one image at a time."""
    torch.manual_seed(0)
    model, images, labels = Tiny(), data.images[:5].float() / 255, data.labels[:5]
    found = with_input_gradient(model, images, labels, create_graph=False).input_gradient
    for i in range(5):
        one = images[i : i + 1].clone().requires_grad_()
        loss = F.cross_entropy(model(one).logits, labels[i : i + 1])
        torch.testing.assert_close(found[i : i + 1], torch.autograd.grad(loss, one)[0])


class Says(nn.Module):
    """Says what is written in the pixels: logits are the image's first row."""

    def forward(self, images: Tensor) -> Outputs:
        logits = images[:, 0, 0, :4] * 255
        return Outputs(torch.where(logits == 255, math.nan, logits), logits)


def test_validate_by_hand() -> None:
    """Right, wrong, right, and NaN where argmax would have named the label: 2 of 4; batches make no difference."""
    images = torch.zeros(4, 1, 1, 4, dtype=torch.uint8)
    for i, top in enumerate((0, 1, 2, 0)):
        images[i, 0, 0, top] = 9 if i < 3 else 255
    split = Split(images, torch.tensor([0, 0, 2, 0]))
    assert (
        validate(Says(), split)["accuracy"]
        == validate(Says(), split, batch_size=3)["accuracy"]
        == 0.5
    )
    assert math.isnan(validate(Says(), split)["loss"])
    fine = validate(Says(), Split(images[:3], split.labels[:3]), batch_size=2)
    right = math.log(math.exp(9) + 3) - 9
    assert fine == pytest.approx({"accuracy": 2 / 3, "loss": (2 * right + right + 9) / 3}, rel=1e-5)


def test_validation_changes_nothing(place: Callable[[str], Workplace]) -> None:
    """Neither batch norm's statistics nor the gradients' mode; in eval mode order plays no part."""
    at = place("vanilla")
    run = trained(at, 1, method="vanilla")
    before = through_a_file(run.student.state_dict())
    first = validate(run.student, at.val)
    turned = Split(at.val.images[:].flip(0), at.val.labels.flip(0))
    assert validate(run.student, turned)["accuracy"] == first["accuracy"]
    assert same(before, run.student.state_dict())


def trial(place: Workplace, told: dict[str, Any]) -> Trial:
    """A worker without Ray around it."""
    return alone(place.task, told)


def played(worker: Trial, n: int) -> list[dict[str, Any]]:
    """What a worker reports, without its clock."""
    return [{k: v for k, v in worker.step().items() if not k.endswith("seconds")} for _ in range(n)]


def test_a_worker_that_was_used_equals_a_fresh_one(place: Callable[[str], Workplace]) -> None:
    """Actors are kept between trials: nothing of the last one may stay."""
    used = trial(place("crd"), config("crd", lr=0.2))
    played(used, 2)
    assert used.reset_config(config("crd", beta=2.0))
    assert played(used, EPOCHS) == played(trial(place("crd"), config("crd", beta=2.0)), EPOCHS)


@pytest.mark.parametrize("k", [1, 3])
def test_a_worker_goes_on_from_a_checkpoint(
    k: int, place: Callable[[str], Workplace], tmp_path: Path
) -> None:
    """Saved by one worker, restored by another that was at something else, against uninterrupted."""
    first, other = trial(place("kd"), config("kd")), trial(place("kd"), config("kd", seed=3))
    before = played(first, k)
    first.save_checkpoint(str(tmp_path))
    played(other, 1)
    other.reset_config({**config("kd"), "restore_from": str(tmp_path)})
    assert before + played(other, EPOCHS - k) == played(trial(place("kd"), config("kd")), EPOCHS)


def test_what_a_worker_reports(place: Callable[[str], Workplace]) -> None:
    """Epochs counted from 1; ranked from the end of the first phase; done at the last."""
    told = played(trial(place("ab"), config("ab", first_share=0.5)), EPOCHS)
    assert [one["epoch"] for one in told] == [1, 2, 3, 4]
    assert [one["ranked_epoch"] for one in told] == [0, 0, 1, 2]
    assert [one["done"] for one in told] == [False, False, False, True]
    accuracies = [one["val/accuracy"] for one in told]
    assert [one["val/best_accuracy"] for one in told] == list(np.maximum.accumulate(accuracies))


def test_a_diverged_worker_is_done(place: Callable[[str], Workplace]) -> None:
    (told,) = played(trial(place("kd"), config("kd", lr=1e30)), 1)
    assert (told["diverged"], told["done"], told["failed"]) == ("ce", True, "")


def test_a_raised_error_is_a_report(place: Callable[[str], Workplace]) -> None:
    """The reason in one line, no accuracy, no checkpoint."""
    (told,) = played(trial(place("kd"), config("kd", mode="no such mode")), 1)
    assert told["failed"].startswith("ValueError: mode must be one of")
    assert math.isnan(told["val/accuracy"])
    assert told["done"]


@pytest.mark.parametrize("damage", ["flip", "cut", "no checksum", "gone"])
def test_a_damaged_checkpoint_is_told_and_begun_anew(
    damage: str, place: Callable[[str], Workplace], tmp_path: Path
) -> None:
    """There is none before it: the next epoch is the first, and the file is named with it."""
    worker = trial(place("vanilla"), config("vanilla"))
    played(worker, 1)
    worker.save_checkpoint(str(tmp_path))
    path = tmp_path / STATE
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    {
        "flip": lambda: path.write_bytes(content),
        "cut": lambda: path.write_bytes(content[:-1]),
        "no checksum": (tmp_path / f"{STATE}.sha256").unlink,
        "gone": path.unlink,
    }[damage]()
    worker.load_checkpoint(str(tmp_path))
    assert worker.state is None and "a checkpoint must" in worker.damage
    assert str(tmp_path / STATE) in worker.damage
    told = worker.step()
    assert (told["epoch"], told["damage"]) == (1, worker.damage)


def test_a_checkpoint_holds_no_code(tmp_path: Path) -> None:
    """weights_only refuses a pickle that calls something, checksum or not."""

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    buffer = io.BytesIO()
    torch.save({"version": 1, "epoch": Evil()}, buffer)
    (tmp_path / STATE).write_bytes(buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    (tmp_path / f"{STATE}.sha256").write_text(digest)
    with pytest.raises(ValueError, match=r"must hold tensors .*Weights only load failed"):
        read_state(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_worker_that_turns_to_another_search_trains_as_one_of_its_own(
    place: Callable[[str], Workplace],
) -> None:
    """Against a workplace opened for that search alone; images and teacher stay open, what is prepared does not."""
    first, own = place("kd"), place("ft")
    _ = first.teacher, first.prepared
    moved = first.moved(own.task)
    assert moved.train is first.train and moved.teacher is first.teacher
    assert same(trained(moved, 1, method="ft").state(), trained(own, 1, method="ft").state())
    assert same(
        trained(moved.moved(first.task), 1, method="kd").state(),
        trained(first, 1, method="kd").state(),
    )


def test_a_worker_opens_what_another_search_has_of_its_own(
    place: Callable[[str], Workplace],
) -> None:
    """Another teacher, other data."""
    first = place("kd")
    _ = first.teacher
    other = replace(first.task, teacher=replace(first.task.teacher, accuracy=0.1))
    assert first.moved(other).teacher is not first.teacher
    assert first.moved(replace(first.task, workers=1)).train is not first.train
