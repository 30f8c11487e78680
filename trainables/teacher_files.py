"""Weights that somebody else wrote: read without running their code, and fitted into a network of ours.

Understood are our own checkpoints, champions and teachers, and state dicts as RepDistiller, mdistiller and most
training scripts write them, alone or beside an epoch and an accuracy.
"""

from __future__ import annotations

import argparse
import codecs
import collections
import hashlib
import pickle
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from trainables import champion, records, teacher

WRAPPERS = ("model", "state_dict", "net", "model_state_dict", "student")
ACCURACIES = ("best_acc", "best_acc1", "acc", "accuracy", "test_acc", "val/accuracy")
MANGLED = ("module.", "_orig_mod.")  # DataParallel, torch.compile
SHARED = ("student.", "model.", "net.", "network.", "body.")  # where every key begins with it
COUNTER = "num_batches_tracked"  # plays no part in evaluation
MEAN, STD = "mean", "std"
# Containers and numbers of training scripts, which hold no code; NumPy's internal names changed with version 2.
HARMLESS: list[Any] = [
    argparse.Namespace,
    collections.OrderedDict,
    collections.defaultdict,
    collections.Counter,
    codecs.encode,
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")),
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8")),
    *(
        (
            getattr(np._core.multiarray, name),  # type: ignore[attr-defined]
            f"numpy.{core}.multiarray.{name}",
        )
        for name in ("scalar", "_reconstruct")
        for core in ("core", "_core")
    ),
]


class Foreign(NamedTuple):
    """What a file says."""

    state: dict[str, Tensor]  # by its own names, wrappers and prefixes taken off
    accuracy: float | None = None  # a share
    mean: tuple[float, ...] = ()  # of a normalisation inside the network
    std: tuple[float, ...] = ()
    split_hash: str = ""  # of the data that our own weights were trained on


def read(path: Path, trust_pickle: bool = False) -> Foreign:
    """The weights in `path`, and what it or our own record beside it says of accuracy, normalisation and data.

    Raises ValueError where it is no file of weights, or holds pickled code and that is not trusted.
    """
    content: Any = load_safetensors(path) if path.suffix == ".safetensors" else None
    if content is None:
        content = _load_torch(path, trust_pickle)
    state, accuracy = _unwrapped(content, path)
    if any(name.startswith("adapter.") for name in state):
        raise ValueError(
            f"a teacher must be one network, got a student with its method's adapter in {path}"
        )
    named = _without_shared({_without_mangling(name): x for name, x in state.items()})
    mean, std = (_numbers(named.pop(part, None)) for part in (MEAN, STD))
    accuracy, split_hash = _beside(path) or (accuracy, "")
    return Foreign(_without_shared(named), accuracy, mean, std, split_hash)


def _beside(path: Path) -> tuple[float, str] | None:
    """Validation accuracy and split of a champion or teacher of ours, where its record lies beside it and fits."""
    ours = ((champion, "val/accuracy"), (teacher, "accuracy"))
    for kind, accuracy in ours:
        try:
            record = records.read(path.parent / kind.RECORD, kind.VERSION, "")
            if record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest():
                return record[accuracy], {**record, **record.get("facts", {})}["split_hash"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """A file of safetensors; raises ValueError where it is none."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"a teacher's file must hold weights, got {path}: {error}") from None


def _load_torch(path: Path, trust_pickle: bool) -> Any:
    try:
        if trust_pickle:
            return torch.load(path, map_location="cpu", weights_only=False)
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, AttributeError, ImportError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"a teacher's file must be one that torch.save wrote, got {path}: {reason}"
        ) from None
    except pickle.UnpicklingError as error:
        if trust_pickle:
            raise ValueError(
                f"a teacher's file must be one that torch.save wrote, got {path}: {error}"
            ) from None
        raise ValueError(
            f"a teacher's file must hold weights only, got {_refused(error)} in {path}; "
            "--trust-pickle loads it, and runs what it holds, if you trust its author"
        ) from None


def _refused(error: Exception) -> str:
    """What the unpickler did not want to load, in a few words."""
    words = str(error).split()
    if "GLOBAL" in words[:-1]:
        return "pickled " + words[words.index("GLOBAL") + 1].rstrip(",")
    return "something else"


def _unwrapped(content: Any, path: Path) -> tuple[dict[str, Tensor], float | None]:
    """The state dict inside its wrappers, and the accuracy on the way to it."""
    accuracy = None
    for _ in range(3):  # wrappers may be nested once
        if isinstance(content, nn.Module):
            content = content.state_dict()
        if not isinstance(content, Mapping):
            break
        accuracy = accuracy if accuracy is not None else _accuracy(content)
        inside = [name for name in WRAPPERS if isinstance(content.get(name), Mapping | nn.Module)]
        if not inside:
            tensors = {str(k): x for k, x in content.items() if isinstance(x, Tensor)}
            if tensors:
                return tensors, accuracy
            break
        content = content[inside[0]]
    keys = ", ".join(map(str, content))[:200] if isinstance(content, Mapping) else ""
    got = f"the keys {keys}" if keys else f"a {type(content).__name__}"
    raise ValueError(
        f"a teacher's file must hold a state dict, alone or as one of {', '.join(WRAPPERS)}, got {got} in {path}"
    )


def _accuracy(content: Mapping[Any, Any]) -> float | None:
    """The accuracy that a checkpoint records, as a share; percent are told by being above 1."""
    for name in ACCURACIES:
        with suppress(TypeError, ValueError, RuntimeError):  # a list of them, a tensor of many
            value = float(content[name]) if name in content else float("nan")
            if 0 < value <= 100:
                return value / 100 if value > 1 else value
    return None


def _without_mangling(name: str) -> str:
    for prefix in MANGLED:
        name = name.replace(prefix, "")
    return name


def _without_shared(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in SHARED:
        if state and all(name.startswith(prefix) for name in state):
            return _without_shared({name.removeprefix(prefix): x for name, x in state.items()})
    return state


def _numbers(x: Tensor | None) -> tuple[float, ...]:
    return () if x is None else tuple(x.float().flatten().tolist())


def fit(network: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Fill `network`, called `name`, with `state`: by name where it has all names, else by order and shape.

    By order is how RepDistiller's and mdistiller's networks fit, which are the same under other names. Raises
    ValueError that names the first parameter that does not fit.
    """
    ours = {k: x for k, x in network.state_dict().items() if not k.endswith(COUNTER)}
    short = _without_shared(dict(ours))
    theirs = {k: x for k, x in state.items() if not k.endswith(COUNTER)}
    by_name = short.keys() <= theirs.keys()
    pairs = [(k, theirs[k]) for k in short] if by_name else list(theirs.items())
    for number, (full, (their_name, x)) in enumerate(zip(ours, pairs, strict=False), 1):
        if ours[full].shape != x.shape:
            raise ValueError(
                f"the file's weights must fit {name}, got {their_name} of shape {tuple(x.shape)} where {full} of "
                f"shape {tuple(ours[full].shape)} is expected (tensor {number} of {len(ours)})"
            )
    if len(pairs) != len(ours):
        raise ValueError(
            f"the file's weights must fit {name}, got {len(pairs)} tensors where {len(ours)} are expected"
        )
    filled = {full: x for full, (_, x) in zip(ours, pairs, strict=True)}
    network.load_state_dict(filled, strict=False)
