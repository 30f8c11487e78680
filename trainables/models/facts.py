"""What is known of each network before torch is imported: parameters, multiply-adds, maps.

`python -m trainables.models.facts` measures them on torch's meta device (no memory, no arithmetic) and writes
facts.json beside this file; a test fails where that is stale. Measured at 10 classes on 32x32x3 images, LeNet on
28x28x1, the small convnets on 8x8x1. A multiply-add is one product in a convolution or a linear layer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainables import models

FILE = Path(__file__).with_name("facts.json")
IMAGES = {"lenet": (1, 28), "convnet": (1, 8)}  # by family: channels, pixels a side
USUAL_IMAGES = (3, 32)
N_CLASSES = 10
HEADER = ("model", "parameters", "multiply-adds", "images", "maps, embedding", "what it is")


def table() -> dict[str, dict[str, Any]]:
    """By network: images (channels, side), parameters, multiply_adds, maps [(channels, side), ...], embedding."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def rows() -> list[tuple[str, ...]]:
    """The table for people, a row a network, then the names that stand for many."""
    known = table()
    listed = [(name, *_row(known[name]), models.entry(name).summary) for name in models.names()]
    return listed + [(name, "", "", "", "", about) for name, about in models.PATTERNS.items()]


def measure(name: str) -> dict[str, Any]:
    """One network's facts, as in `table`."""
    import torch

    from trainables.models.normalized import multiply_adds, n_parameters

    channels, size = IMAGES.get(models.entry(name).family, USUAL_IMAGES)
    gray = (0.5,) * channels
    with torch.device("meta"), torch.no_grad():
        model = models.build(
            name, n_classes=N_CLASSES, channels=channels, size=size, mean=gray, std=gray
        )
        outputs = model.eval()(torch.zeros(1, channels, size, size))
        products = multiply_adds(model, (channels, size, size))
    return {
        "images": [channels, size],
        "parameters": n_parameters(model),
        "multiply_adds": products,
        "maps": [[m.shape[1], m.shape[2]] for m in outputs.features],
        "embedding": outputs.embedding.shape[1],
    }


def main() -> None:
    """Measure every network and write the file."""
    lines = (f' "{name}": {json.dumps(measure(name))}' for name in models.names())
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _row(known: dict[str, Any]) -> tuple[str, ...]:
    channels, size = known["images"]
    maps = " ".join(f"{width}@{side}" for width, side in known["maps"])
    return (
        f"{known['parameters']:,}",
        _millions(known["multiply_adds"]),
        f"{size}x{size}x{channels}",
        f"{maps}, {known['embedding']}",
    )


def _millions(number: int) -> str:
    """Three digits or more, as in 0.02 M, 40.8 M, 1,082 M."""
    millions = number / 1e6
    return f"{millions:,.{2 - (millions >= 10) - (millions >= 100)}f} M"


if __name__ == "__main__":
    main()
