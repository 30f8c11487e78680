"""Exported files, opened in a process of their own, against the network that they were made of."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trainables import exporting
from trainables.data.splits import Facts, Split, open_split, prepare
from trainables.evaluation.predictions import predict
from trainables.exporting import Export
from trainables.teacher import build_for
from trainables.training import validate
from tuner.exporting import TOLERANCE, check, difference

ABOUT = {"student": "convnet4", "teacher": "convnet16res", "method": "kd", "hyper": {}}


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    root = tmp_path_factory.mktemp("digits")
    return prepare("digits", root / "data", root / "cache")


@pytest.fixture(scope="module")
def student(facts: Facts) -> Export:
    """A network whose last layer alone is fitted, so that answers differ and 8 bits have something to lose."""
    torch.manual_seed(0)
    network, train = build_for("convnet4", facts), open_split(facts, "train")
    with torch.no_grad():
        embedding = network.eval()(train.images[:].float() / 255).embedding
        wanted = 20.0 * torch.eye(facts.n_classes)[train.labels]
        with_bias = torch.cat([embedding, torch.ones(len(embedding), 1)], 1)
        weight = torch.linalg.lstsq(with_bias, wanted).solution
        network.classifier.weight.copy_(weight[:-1].T)
        network.classifier.bias.copy_(weight[-1])
    return Export(ABOUT, facts, {"student": network.state_dict()}, train.images[:200])


@pytest.mark.parametrize("form", exporting.FORMS)
def test_a_file_answers_as_the_network_in_another_process(
    form: str, student: Export, tmp_path: Path
) -> None:
    """Against the network, on 131 images: 64, 64 and 3 at a time; 8 bits by accuracy, six images at most."""
    if form.startswith("onnx"):
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    val = open_split(student.facts, "val")
    some = Split(val.images[:131], val.labels[:131])
    expected = predict(student.network(), some.images)
    accuracy = (expected.argmax(-1) == some.labels).double().mean().item()
    path = exporting.write(form, student, tmp_path)
    found = check(form, path, some, expected)
    assert found.agrees and found.bytes == path.stat().st_size
    assert min(found.milliseconds_1, found.milliseconds_64) > 0
    assert accuracy > 0.5
    if form in exporting.ROUNDED:
        assert found.difference > TOLERANCE
        assert found.accuracy == pytest.approx(accuracy, abs=0.05)
    else:
        assert found.difference <= TOLERANCE and found.accuracy == pytest.approx(accuracy)


def test_pixels_go_in_as_the_search_sees_them(student: Export) -> None:
    """The exported network's accuracy on [0, 1] pixels is that of the training loop's own judge."""
    val = open_split(student.facts, "val")
    logits = predict(student.network(), val.images)
    accuracy = (logits.argmax(-1) == val.labels).double().mean().item()
    assert validate(student.network().model, val)["accuracy"] == pytest.approx(accuracy)


def test_another_networks_file_is_seen(student: Export, tmp_path: Path) -> None:
    """The file of a network whose last layer has been moved by a thousandth does not agree."""
    state = {k: v.clone() for k, v in student.state["student"].items()}
    state["body.classifier.bias"] += 0.1
    path = exporting.write("pt2", replace(student, state={"student": state}), tmp_path)
    val = open_split(student.facts, "val")
    some = Split(val.images[:20], val.labels[:20])
    found = check("pt2", path, some, predict(student.network(), some.images))
    assert not found.agrees


def test_differences_by_hand() -> None:
    """Absolute for small logits, relative to the largest above 1; NaN is never agreement."""
    small, large = torch.tensor([[0.5, -0.5]]), torch.tensor([[800.0, -2.0]])
    assert difference(small + 0.01, small) == pytest.approx(0.01)
    assert difference(large + 0.8, large) == pytest.approx(0.001)
    assert not difference(torch.full((1, 2), torch.nan), small) <= TOLERANCE


def test_what_cannot_be_written_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="must be one of safetensors, pt2, onnx, onnx-int8, got"):
        exporting.check("tflite")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    exporting.check("pt2")
    with pytest.raises(ValueError, match=r"onnx must have onnx, got none: .*kdtune\[onnx\]"):
        exporting.check("onnx")
