"""Networks from outside: torchvision's, timm's, and a user's own factory, made to give Outputs.

They are built without pretrained weights. torchvision's are cut at their stages by traced.py; timm's give their
stages themselves, after activation only; a user's module that returns logits gives its last linear layer's input as
embedding and no feature maps, one that returns Outputs is taken as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces import nearest
from trainables.contract import Outputs
from trainables.factory import named

# Heads beside the main one, which nobody would train; and torchvision's own first weights without its warning.
TORCHVISION_OPTIONS = {
    name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")
}


HUB = (
    "hf_hub:",
    "hf-hub:",
)  # how timm marks names on the hub of Hugging Face, which it looks up itself


def look_up(name: str) -> Callable[..., nn.Module]:
    """What builds `torchvision:NAME`, `timm:NAME` or `package.module:factory` from (n_classes, channels, size).

    Raises ValueError where there is no such thing.
    """
    source, _, rest = name.partition(":")
    if source == "torchvision":
        return _torchvision(rest)
    if source == "timm":
        return _timm(rest)
    return _factory(name)


def build(*, name: str, n_classes: int, channels: int, size: int) -> nn.Module:
    """The network behind `name`, with `classifier` and `norms`; raises ValueError where it cannot be wrapped."""
    try:
        return look_up(name)(n_classes=n_classes, channels=channels, size=size)
    except AssertionError as error:  # how some networks of torchvision and timm refuse a size
        raise ValueError(str(error)) from None


def _torchvision(name: str) -> Callable[..., nn.Module]:
    from torchvision import models

    _check_known("torchvision", name, models.list_models(module=models))

    def make(*, n_classes: int, channels: int, size: int) -> nn.Module:
        from trainables.models.traced import traced

        options: dict[str, Any] = dict(TORCHVISION_OPTIONS.get(name, {}))
        if name.startswith("vit_"):
            options["image_size"] = size
        network = models.get_model(name, weights=None, num_classes=n_classes, **options)
        return traced(network, channels, size)

    return make


def _timm(name: str) -> Callable[..., nn.Module]:
    try:
        import timm
    except ImportError:
        raise ValueError(
            f"timm:{name} needs timm, which is not installed: pip install 'kdtune[timm]'"
        ) from None
    if not name.startswith(HUB):
        _check_known("timm", name, timm.list_models())

    def make(*, n_classes: int, channels: int, size: int) -> nn.Module:
        known = timm.get_pretrained_cfg(name)
        options = {"img_size": size} if known is not None and known.fixed_input_size else {}
        network = timm.create_model(name, num_classes=n_classes, in_chans=channels, **options)
        return FromTimm(network, torch.zeros(2, channels, size, size))

    return make


def _factory(name: str) -> Callable[..., nn.Module]:
    shape = {"n_classes": 10, "channels": 3, "size": 32}
    factory = named(name, "n_classes, channels and size", **shape)

    def make(*, n_classes: int, channels: int, size: int) -> nn.Module:
        network = factory(n_classes=n_classes, channels=channels, size=size)
        return _wrapped(network, n_classes, torch.zeros(2, channels, size, size))

    return make


def _check_known(source: str, name: str, known: list[str]) -> None:
    if name not in known:
        near = nearest(f"{source}:{name}", [f"{source}:{other}" for other in known])
        raise ValueError(
            f"unknown model '{source}:{name}'{near}; known: the {len(known)} that {source} lists with list_models()"
        )


class FromTimm(nn.Module):
    """A network of timm; feature maps are the last of each resolution among its intermediate ones, no preacts."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        """Raises ValueError where the network cannot be read, as tried on `images`."""
        super().__init__()
        self.network: Any = network
        classifier = network.get_classifier()  # type: ignore[operator]
        if not isinstance(classifier, nn.Linear):
            raise ValueError(
                f"it must end in one torch.nn.Linear, got {type(classifier).__name__} as its classifier"
            )
        network.eval()
        with torch.no_grad():
            expected, outputs = network(images), self(images)
        network.train()
        if not torch.allclose(expected, outputs.logits, rtol=1e-3, atol=1e-4):
            raise ValueError("its classifier must read what forward_head(pre_logits=True) gives")
        self.norms = (None,) * len(outputs.features)

    @property
    def classifier(self) -> nn.Linear:
        """The last linear layer."""
        return self.network.get_classifier()

    def forward(self, images: Tensor) -> Outputs:
        """Outputs without pre-activations."""
        if hasattr(self.network, "forward_intermediates"):
            last, maps = self.network.forward_intermediates(images)
        else:
            last, maps = self.network.forward_features(images), []
        embedding = self.network.forward_head(last, pre_logits=True)
        features = {m.shape[2:]: m for m in maps if m.ndim == 4}
        return Outputs(self.classifier(embedding), embedding, tuple(features.values()))


class FromLogits(nn.Module):
    """A network that returns logits; its last linear layer's input is the embedding."""

    norms = ()

    def __init__(self, network: nn.Module, classifier: str) -> None:
        super().__init__()
        self.network = network
        self.classifier_name = classifier

    @property
    def classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.network.get_submodule(self.classifier_name)

    def forward(self, images: Tensor) -> Outputs:
        """Outputs without feature maps."""
        seen: list[Tensor] = []
        hook = self.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits = self.network(images)
        finally:
            hook.remove()
        return Outputs(logits, seen[-1])


def _wrapped(network: object, n_classes: int, images: Tensor) -> nn.Module:
    if not isinstance(network, nn.Module):
        raise ValueError(f"the factory must return a torch.nn.Module, got {type(network).__name__}")
    calls: list[tuple[str, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: calls.append((name, out)))
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        answer = network.eval()(images)
    for hook in hooks:
        hook.remove()
    logits = answer.logits if isinstance(answer, Outputs) else answer
    if not isinstance(logits, Tensor) or logits.shape != (len(images), n_classes):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"it must return logits of shape {(len(images), n_classes)} or Outputs, got {got}"
        )
    if isinstance(answer, Outputs):
        return _complete(network.train(), len(answer.features))
    if not calls or not torch.equal(calls[-1][1], logits):
        raise ValueError(
            "it must return what its last torch.nn.Linear gives, as raw logits, got something else"
        )
    return FromLogits(network.train(), calls[-1][0])


def _complete(network: nn.Module, n_maps: int) -> nn.Module:
    """A network that returns Outputs, with `norms` of None where it has none of its own."""
    if not isinstance(getattr(network, "classifier", None), nn.Linear):
        raise ValueError(
            "a module that returns Outputs must have its torch.nn.Linear as `classifier`, got none"
        )
    if not hasattr(network, "norms"):
        network.norms = (None,) * n_maps  # type: ignore[assignment]
    return network
