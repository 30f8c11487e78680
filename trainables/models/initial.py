"""First weights, where a network's source asks for others than torch's own."""

from __future__ import annotations

from torch import nn


def fan_out(model: nn.Module) -> None:
    """Convolutions from N(0, 2 / (k * k * channels out)), their biases 0 (He et al. 2015, arXiv:1502.01852, 2.2)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def small_linear(model: nn.Module) -> None:
    """Linear layers from N(0, 0.01^2), their biases 0, as the VGG and MobileNetV2 of RepDistiller."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)
