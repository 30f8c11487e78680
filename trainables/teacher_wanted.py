"""What `--teacher` may say: a network to train, a file of weights, a library's weights, a registered model.

    resnet56                       trained on the dataset, once
    resnet56#2                     the same with another seed: a second member for an ensemble
    resnet56:FILE                  weights that somebody trained
    torchvision:resnet18           the library's weights where they are of as many classes, else trained
    mlflow:models:/NAME@ALIAS      a model in MLflow's registry, or models:/NAME/VERSION
    resnet56:mlflow:models:/...    the same where kdtune did not register it

Importing this needs no torch; a name of torchvision or timm is looked up there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from trainables import models
from trainables.models import pretrained

SUFFIXES = (".pt", ".pth", ".tar", ".ckpt", ".safetensors", ".bin")
REGISTRY = "mlflow:"
URI = re.compile(r"models:/[^/@]+(/\d+|@[^/@]+)")
FORMS = "NAME, NAME#SEED, NAME:FILE or mlflow:models:/NAME@ALIAS"


@dataclass(frozen=True)
class Wanted:
    """One teacher as it was asked for."""

    text: str  # as `--teacher` would name it again; paths are absolute
    model: str = ""  # a name for models.build; empty where only the registry knows it
    file: str = ""  # of its weights, absolute
    uri: str = ""  # models:/name/version or models:/name@alias
    weights: str = ""  # of the model's library, by the library's name
    seed: int = 0  # of its training

    def origin(self, epochs: int) -> str:
        """How it comes about, in words."""
        if self.uri:
            return f"from {self.uri} in MLflow's registry"
        if self.file:
            return f"from {self.file}"
        if self.weights:
            return f"pretrained, {self.weights}"
        return f"trained for {epochs} epochs" + (f" with seed {self.seed}" if self.seed else "")


def parse(text: str, n_classes: int) -> Wanted:
    """Read one `--teacher`; raises ValueError for unknown names, for files that are not there, for other forms."""
    name, registry, uri = text.rpartition(REGISTRY)
    if registry and (not name or name.endswith(":")):
        if not URI.fullmatch(uri):
            raise ValueError(
                f"--teacher mlflow: must be mlflow:models:/NAME@ALIAS or mlflow:models:/NAME/VERSION, got {text!r}"
            )
        return Wanted(text, _checked(name.removesuffix(":")) if name else "", uri=uri)
    for colon in re.finditer(":", text):
        model, file = text[: colon.start()], text[colon.end() :]
        if _is_model(model) and _looks_like_a_file(file):
            return _of_file(model, file)
    if _looks_like_a_file(text):
        first, colon_, _ = text.partition(":")
        if colon_:
            models.entry(first)
        raise ValueError(f"--teacher must be {FORMS}, got {text!r}")
    model, mark, seed = text.partition("#")
    if mark and not seed.isdecimal():
        raise ValueError(f"a teacher's seed must be a whole number, as in resnet56#2, got {text!r}")
    weights = "" if mark else pretrained.weights_of(_checked(model), n_classes)
    return Wanted(text, _checked(model), weights=weights, seed=int(seed or 0))


def _of_file(model: str, file: str) -> Wanted:
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"a teacher's file must exist, got {file!r} for {model}")
    return Wanted(f"{model}:{path.resolve()}", model, file=str(path.resolve()))


def _looks_like_a_file(text: str) -> bool:
    try:
        return text.endswith(SUFFIXES) or Path(text).expanduser().is_file()
    except (OSError, RuntimeError):  # too long; ~nobody
        return False


def _is_model(name: str) -> bool:
    try:
        models.entry(name)
    except ValueError:
        return False
    return True


def _checked(name: str) -> str:
    models.entry(name)
    return name
