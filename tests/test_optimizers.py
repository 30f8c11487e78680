"""The optimisers against torch's own classes, which a training does without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import ROOT
from trainables.optimizers import SGD, Adam, AdamW, Optimizer

COMMON = {"lr": 0.05, "weight_decay": 0.01}
PAIRS: list[tuple[type[Optimizer], Any, dict[str, float], dict[str, Any]]] = [
    (SGD, torch.optim.SGD, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}),
    (SGD, torch.optim.SGD, {"momentum": 0.0}, {"momentum": 0.0}),
    (Adam, torch.optim.Adam, {}, {}),
    (AdamW, torch.optim.AdamW, {}, {}),
]
FORMATS = [torch.contiguous_format, torch.channels_last]
TRAINED = """
import sys
from pathlib import Path
from trainables.data.splits import open_split, prepare
from trainables.methods import load
from trainables.recipe import Recipe
from trainables.teacher import build_for
from trainables.training import Training
here = Path(sys.argv[1])
facts = prepare("digits", here, here)
data = open_split(facts, "train")
run = Training(load("vanilla"), {}, Recipe(epochs=2), 0, lambda: build_for("convnet4", facts), data)
run.train_epoch()
run.load(run.state())
run.train_epoch()
print(run.epoch, "torch._dynamo" in sys.modules)
"""


def weights() -> list[nn.Parameter]:
    """The last one never has a gradient."""
    draws = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(*shape, generator=draws)) for shape in ((3, 4), (5,), (2,))]


def move(parameters: list[nn.Parameter], steps: Any, n: int, first: int = 0) -> None:
    """By made-up gradients."""
    for number in range(first, first + n):
        draws = torch.Generator().manual_seed(100 + number)
        steps.zero_grad()
        for parameter in parameters[:2]:
            parameter.grad = torch.randn(parameter.shape, generator=draws)
        steps.step()


def equal(one: list[nn.Parameter], other: list[nn.Parameter]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("ours", "theirs", "more", "theirs_more"), PAIRS)
def test_each_is_torchs(ours: Any, theirs: Any, more: Any, theirs_more: Any) -> None:
    """Bit for bit over steps, also where either goes on from what the other has kept, with other settings."""
    mine, known = weights(), weights()
    own = ours(mine, **COMMON, **more)
    oracle = theirs(known, **COMMON, **theirs_more, fused=True)
    move(mine, own, 5)
    move(known, oracle, 5)
    assert equal(mine, known)
    kept: dict[int, dict[str, Tensor]] = oracle.state_dict()["state"]
    assert own.state_dict()["state"].keys() == kept.keys()
    again = ours(mine, **COMMON, **more)
    again.load_state_dict(oracle.state_dict())
    groups = oracle.state_dict()["param_groups"]
    oracle = theirs(known, **COMMON, **theirs_more, fused=True)
    oracle.load_state_dict(own.state_dict() | {"param_groups": groups})
    again.lr = oracle.param_groups[0]["lr"] = 0.002
    again.weight_decay = oracle.param_groups[0]["weight_decay"] = 0.3
    move(mine, again, 5, 5)
    move(known, oracle, 5, 5)
    assert equal(mine, known)
    assert torch.equal(mine[2], weights()[2])


@pytest.mark.parametrize(("ours", "more"), [(pair[0], pair[2]) for pair in PAIRS])
@pytest.mark.parametrize("weights_in", FORMATS)
@pytest.mark.parametrize("gradients_in", FORMATS)
@pytest.mark.parametrize("kept_in", FORMATS)
def test_memory_formats_change_nothing(
    ours: Any,
    more: Any,
    weights_in: torch.memory_format,
    gradients_in: torch.memory_format,
    kept_in: torch.memory_format,
) -> None:
    """Of weights, gradients, and a checkpoint: a search may go on where another format is faster."""

    def trained(*formats: torch.memory_format) -> Tensor:
        draws = torch.Generator().manual_seed(0)
        images = (torch.randn(8, 4, 3, 3, generator=draws) for _ in range(4))
        weight = nn.Parameter(next(images).contiguous(memory_format=formats[0]))
        steps = ours([weight], **COMMON, **more)
        for gradient in images:
            weight.grad = gradient.contiguous(memory_format=formats[1])
            steps.step()
            state = steps.state_dict()
            for kept in state["state"].values():
                for name in {"momentum_buffer", "exp_avg", "exp_avg_sq"} & set(kept):
                    kept[name] = kept[name].contiguous(memory_format=formats[2])
            steps = ours([weight], **COMMON, **more)
            steps.load_state_dict(state)
        return weight.detach()

    expected = trained(*[torch.contiguous_format] * 3)
    torch.testing.assert_close(trained(weights_in, gradients_in, kept_in), expected)


def test_a_step_without_gradients_moves_nothing() -> None:
    mine = weights()
    steps = SGD(mine, **COMMON, momentum=0.9)
    steps.step()
    assert equal(mine, weights())
    assert steps.state_dict() == {"state": {}}


def test_a_training_does_not_import_torchs_compiler(tmp_path: Path) -> None:
    """It takes as long as torch itself, in every process that trains."""
    command = [sys.executable, "-c", TRAINED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n"
