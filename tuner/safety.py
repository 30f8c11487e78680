"""Whether early stopping would have thrown the winner away: how the ranks at each rung go with the ranks at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from tuner.strategies import cutoff

FEWEST = 5  # trials; a rank correlation of fewer says nothing
WEAK = 0.5  # a rank correlation below this is a coin with a lean


class Rung(NamedTuple):
    """What one rung knew of the end, by the trials that reached it."""

    epoch: int
    n: int  # trials
    correlation: float  # Spearman's; NaN with fewer than FEWEST trials or where all are equal
    drops_winner: bool  # the best at the end lay below this rung's cutoff


def rungs(curves: Sequence[Sequence[float]], epochs: Sequence[int]) -> list[Rung]:
    """Each rung's view of the end, from the validation accuracies of trials of equal length, one entry an epoch.

    Only trials trained in full can be compared with their end: where early stopping was on, they are the survivors,
    which lie closer together than all did, so that the correlation is understated. Trials with NaN are left out; of
    equal ends the earlier trial is the winner; a winner that equals the cutoff is kept. Raises ValueError where a rung
    lies outside the curves.
    """
    whole = [curve for curve in curves if curve and all(map(math.isfinite, curve))]
    length = max(map(len, whole), default=0)
    whole = [curve for curve in whole if len(curve) == length]
    outside = [epoch for epoch in epochs if not 1 <= epoch <= length]
    if whole and outside:
        raise ValueError(f"a rung must lie within the {length} epochs of a trial, got {outside[0]}")
    return [_rung(whole, epoch) for epoch in epochs] if whole else []


def _rung(curves: Sequence[Sequence[float]], epoch: int) -> Rung:
    from scipy.stats import spearmanr  # a second and more; a report alone asks

    there, end = [curve[epoch - 1] for curve in curves], [curve[-1] for curve in curves]
    enough = len(curves) >= FEWEST and len(set(there)) > 1 and len(set(end)) > 1
    correlation = float(spearmanr(there, end).statistic) if enough else math.nan
    winner = end.index(max(end))
    return Rung(epoch, len(curves), correlation, there[winner] < cutoff(there))


def warning(found: Sequence[Rung]) -> str:
    """What to tell the user, in a sentence or two; nothing where early stopping is safe by what is known."""
    said = []
    drops = [str(rung.epoch) for rung in found if rung.drops_winner]
    if drops:
        said.append(
            f"Early stopping would have dropped the winner at epoch {', '.join(drops)}: "
            "it lay in the lowest third there."
        )
    weak = [rung for rung in found if rung.correlation < WEAK]
    if weak:
        words = ", ".join(f"{rung.correlation:.2f} at epoch {rung.epoch}" for rung in weak)
        said.append(f"Ranks before the end say little of ranks at the end (correlation {words}).")
    if said:
        said.append("Trust --scheduler none more here, or --scheduler hyperband.")
    return " ".join(said)
