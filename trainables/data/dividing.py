"""Which images are for training and which for validation, and which of them a subset takes. Pure and seeded."""

from __future__ import annotations

import numpy as np

from trainables.data.decoding import Labels

SPLIT_SEED = 0  # one split for all searches, so that teachers can be shared between them


def divide(labels: Labels, fraction: float) -> tuple[Labels, Labels]:
    """Stratified, seeded (training, validation) indices, each sorted; raises ValueError for classes of one image."""
    from sklearn.model_selection import train_test_split

    indices = np.arange(len(labels))
    try:
        train, val = train_test_split(
            indices, test_size=fraction, stratify=labels, random_state=SPLIT_SEED
        )
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"every class must have images on both sides of a split, got a share of {fraction:g} "
            f"of {len(labels)} images: {reason}"
        ) from None
    return np.sort(train), np.sort(val)


def take(labels: Labels, train: Labels, val: Labels, n: int) -> tuple[Labels, Labels]:
    """The subset of `n` images of a split, in its proportion: (training, validation) indices, each sorted.

    Each class has as many images as any other, give or take one, as long as it has enough. The images of a small subset
    are among those of any larger one. Raises ValueError where a class would have none in a part, or `n` is too large.
    """
    total, n_classes = len(train) + len(val), len(np.unique(labels))
    share = len(val) / total
    enough = -(-n_classes * total // min(len(train), len(val)))
    n_val = round(n * share)
    if n > total or min(n_val, n - n_val) < n_classes:
        raise ValueError(
            f"--subset must be from about {enough} (one image a class in training and in validation, whose share is "
            f"{share:.3g}) to {total} here, got {n}"
        )
    ordered = balanced(train, labels[train]), balanced(val, labels[val], backwards=True)
    return np.sort(ordered[0][: n - n_val]), np.sort(ordered[1][:n_val])


def balanced(indices: Labels, labels: Labels, *, backwards: bool = False) -> Labels:
    """`indices` in a fixed order that takes one image of each class in turn, each class's shuffled.

    `backwards` takes the classes in reverse, so that the odd images of training and validation fall to other classes.
    """
    draws = np.random.default_rng(SPLIT_SEED)
    shuffled = draws.permutation(len(indices))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    turn = np.concatenate([np.arange(count) for count in counts])
    of_class = np.repeat(np.arange(len(counts)), counts)
    return indices[by_class[np.lexsort((-of_class if backwards else of_class, turn))]]
