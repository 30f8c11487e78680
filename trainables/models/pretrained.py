"""Weights that torchvision and timm publish, for datasets of as many classes as they were trained on.

Which there are is known without a network; the weights come through the library and its cache (TORCH_HOME, HF_HOME).
"""

from __future__ import annotations

from collections.abc import Mapping
from pickle import UnpicklingError
from typing import Any, NamedTuple

RGB = 3


class Pretrained(NamedTuple):
    """A library's weights and what belongs to them."""

    state: Mapping[str, Any]  # by the library's names
    mean: tuple[float, ...]  # of the normalisation they were trained with, pixels in [0, 1]
    std: tuple[float, ...]
    accuracy: float | None  # that the library records, a share


def weights_of(name: str, n_classes: int) -> str:
    """The library's name of its weights for the network `name` if they are of `n_classes` classes, else nothing."""
    source, _, rest = name.partition(":")
    if source == "torchvision":
        weights = _torchvision(rest)
        fits = weights is not None and len(weights.meta.get("categories", ())) == n_classes
        return str(weights) if fits else ""
    if source == "timm":
        config = _timm(rest)
        return f"timm {rest}" if config.get("num_classes") == n_classes else ""
    return ""


def fetch(name: str, n_classes: int, channels: int) -> Pretrained:
    """The weights that `weights_of` names, from the library's cache or downloaded; ValueError where neither works."""
    source, _, rest = name.partition(":")
    try:
        if source == "torchvision":
            return _from_torchvision(rest)
        return _from_timm(rest, n_classes, channels)
    except (
        OSError,
        RuntimeError,
        ValueError,
        UnpicklingError,
    ) as error:  # no network, a damaged file
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{name}'s weights must be in the library's cache or downloadable, got: {reason}"
        ) from None


def _torchvision(name: str) -> Any:
    """The default weights of a network of torchvision; None where it or they do not exist."""
    from torchvision import models

    if name not in models.list_models(module=models):
        return None
    return getattr(models.get_model_weights(name), "DEFAULT", None)


def _from_torchvision(name: str) -> Pretrained:
    weights = _torchvision(name)
    preparation = weights.transforms()
    state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    measured: dict[str, float] = next(iter(weights.meta.get("_metrics", {}).values()), {})
    accuracy = measured.get("acc@1")
    return Pretrained(
        state,
        tuple(preparation.mean),
        tuple(preparation.std),
        None if accuracy is None else accuracy / 100,
    )


def _timm(name: str) -> dict[str, Any]:
    """What timm knows of a network's weights; empty without timm, for unknown names and for those without weights."""
    try:
        import timm
    except ImportError:
        return {}
    from trainables.models.outside import HUB

    if name.startswith(HUB):
        try:
            config, _, _ = timm.models.load_model_config_from_hf(name.partition(":")[2])
        except (OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"timm:{name} must be in the hub's cache or reachable, got: {reason}"
            ) from None
        return dict(config)
    known = timm.get_pretrained_cfg(name) if name in timm.list_models() else None
    return known.to_dict() if known is not None and known.has_weights else {}


def _from_timm(name: str, n_classes: int, channels: int) -> Pretrained:
    import timm

    network = timm.create_model(name, pretrained=True, num_classes=n_classes, in_chans=channels)
    mean, std = (tuple(network.pretrained_cfg[part]) for part in ("mean", "std"))
    if channels != RGB:  # timm adds the weights of the colours up
        mean, std = ((sum(part) / len(part),) * channels for part in (mean, std))
    return Pretrained(network.state_dict(), mean, std, None)
