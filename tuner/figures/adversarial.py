"""Adversarial examples as pictures: the image, what the attack changed, the result, and who says what of it."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from trainables.evaluation.examples import Examples, read
from tuner.figures import style
from tuner.figures.seen import Seen

ROWS = ("clean", "change", "attacked")
INCHES = 1.05  # of an image, its words above it


def draw(seen: Seen) -> tuple[Figure, str] | None:
    """A column an example; nothing where none were kept."""
    found = read(seen.planned.folder)
    if found is None or not found.labels:
        return None
    n = len(found.labels)
    lines = len(found.said)
    figure, axes = style.new(len(ROWS) * INCHES + 0.16 * lines + 0.5, n, len(ROWS), squeeze=False)
    most = float((found.adversarial - found.clean).abs().max()) or 1.0
    for i in range(n):
        change = (found.adversarial[i] - found.clean[i]) / (2 * most) + 0.5
        for row, image in enumerate((found.clean[i], change, found.adversarial[i])):
            _show(axes[row, i], image)
        axes[0, i].set_title(f"is {_class(found, found.labels[i])}", fontsize=8)
        axes[2, i].set_xlabel(_answers(found, i), fontsize=7)
    for row, name in enumerate(ROWS):
        axes[row, 0].set_ylabel(name, fontsize=8)
    return figure, _caption(found, most)


def _show(axes: Axes, image: Tensor) -> None:
    """(channels, H, W) in [0, 1], grey or in colours."""
    picture = np.moveaxis(image.numpy(), 0, -1)
    grey = picture.shape[-1] == 1
    axes.imshow(picture[..., 0] if grey else picture, cmap="gray", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _class(found: Examples, number: int) -> str:
    return found.classes[number] if number < len(found.classes) else str(number)


def _answers(found: Examples, i: int) -> str:
    """What each network says of the attacked image; a cross where that is wrong, so that no colour is needed."""
    lines = []
    for who, said in found.said.items():
        mark = "" if said[i][1] == found.labels[i] else " ✗"
        lines.append(f"{who}: {_class(found, said[i][1])[:12]}{mark}")
    return "\n".join(lines)


def _caption(found: Examples, most: float) -> str:
    n = len(found.labels)
    right = {
        who: sum(pair[1] == label for pair, label in zip(said, found.labels, strict=True))
        for who, said in found.said.items()
    }
    told = ", ".join(f"{who} {count} of {n}" for who, count in right.items())
    norm, _, radius = found.threat.partition("_")
    norm = {"linf": "L-infinity", "l2": "L2"}[norm]
    return (
        f"The first test image of each of {n} classes that the tuned student gets right; what PGD on the margin "
        f"changed in it within {norm} {radius.replace('_', '/')} of the pixels' range (grey: nothing, black and "
        f"white: {most:.3g}); and the result, made against the tuned student and shown to the others too. "
        f"Still right: {told}; a cross marks a wrong answer."
    )
