"""Our attacks against foolbox's and ART's, image by image, on the same network with its normalisation inside."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.attacked import made_up, trained_net
from trainables.evaluation.attacks import cross_entropy_each, fgsm, pgd, survives
from trainables.evaluation.threats import Threat
from trainables.models.normalized import LogitsOnly, Normalized

THREATS = (Threat("linf", 0.02), Threat("linf", 0.1), Threat("l2", 0.5))
STEPS = 20
STEP = 2.5 / STEPS  # of PGD, in radii


@pytest.fixture(scope="module")
def network() -> LogitsOnly:
    """Taught on pixels, shifted and stretched again by a normalisation that the oracles know nothing of."""
    return LogitsOnly(Normalized(trained_net(), [0.1], [0.8])).eval()


@pytest.fixture(scope="module")
def pixels() -> tuple[Tensor, Tensor]:
    data = made_up(100, seed=11)
    return data.images.float() / 255, data.labels


def foolbox_says(network: LogitsOnly, kind: str, threat: Threat, *seen: Tensor) -> Tensor:
    """foolbox's adversarial images."""
    import foolbox

    norm = {"linf": "Linf", "l2": "L2"}[threat.norm]
    attacks = foolbox.attacks
    settings: dict[str, Any] = {"random_start": False}
    if kind == "PGD":
        settings |= {"steps": STEPS, "abs_stepsize": STEP * threat.epsilon}
    name = f"{norm}PGD" if kind == "PGD" else f"{norm}FastGradientAttack"
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    return getattr(attacks, name)(**settings)(model, *seen, epsilons=threat.epsilon)[1]


def art_says(network: LogitsOnly, kind: str, threat: Threat, *seen: Tensor) -> Tensor:
    """ART's adversarial images."""
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    model = PyTorchClassifier(
        network,
        loss=torch.nn.CrossEntropyLoss(reduction="sum"),
        input_shape=(1, 8, 8),
        nb_classes=4,
        clip_values=(0, 1),
        device_type="cpu",
    )
    norm: Any = {"linf": "inf", "l2": 2}[threat.norm]
    shared: Any = {"norm": norm, "eps": threat.epsilon, "batch_size": 100}
    attack: Any = FastGradientMethod(model, **shared)
    if kind == "PGD":
        steps: Any = {"eps_step": STEP * threat.epsilon, "max_iter": STEPS, "verbose": False}
        attack = ProjectedGradientDescent(model, num_random_init=0, **shared, **steps)
    images, labels = seen
    return torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))


@pytest.mark.parametrize("oracle", [foolbox_says, art_says])
@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.name)
def test_fgsm_against_the_oracles(
    network: LogitsOnly, pixels: tuple[Tensor, Tensor], threat: Threat, oracle: Any
) -> None:
    """The same images to float32, so the same accuracy."""
    found = fgsm(network, *pixels, threat)
    expected = oracle(network, "FGSM", threat, *pixels)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert torch.equal(survives(network, found, pixels[1]), survives(network, expected, pixels[1]))


@pytest.mark.parametrize(
    ("threat", "oracle"),
    # ART's L2 clamps before it projects, ours and foolbox's after: other images within the same threat
    [*((threat, foolbox_says) for threat in THREATS), *((t, art_says) for t in THREATS[:2])],
)
def test_pgd_against_the_oracles(
    network: LogitsOnly, pixels: tuple[Tensor, Tensor], threat: Threat, oracle: Any
) -> None:
    """Twenty steps on the cross-entropy from the image itself, none of them left out."""
    settings: Any = {"loss": cross_entropy_each, "steps": STEPS, "stop_when_fooled": False}
    found = pgd(network, *pixels, threat, None, **settings)
    expected = oracle(network, "PGD", threat, *pixels)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_stopping_at_the_first_success_fools_whom_foolbox_fools(
    network: LogitsOnly, pixels: tuple[Tensor, Tensor]
) -> None:
    """Whoever stands ours stands foolbox's last step too; ours also keeps what only an earlier step fooled."""
    threat = THREATS[1]
    ours = pgd(network, *pixels, threat, None, loss=cross_entropy_each, steps=STEPS)
    theirs = foolbox_says(network, "PGD", threat, *pixels)
    stand, foolbox = (survives(network, images, pixels[1]) for images in (ours, theirs))
    assert (stand <= foolbox).all()
    assert 0 < stand.float().mean() <= foolbox.float().mean() < 1
    assert (foolbox & ~stand).float().mean() < 0.05
