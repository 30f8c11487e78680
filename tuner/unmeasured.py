"""What a report does not know: said, so that nobody takes silence for a good sign."""

from __future__ import annotations

from typing import Any

from tuner import baselines
from tuner.journal import Story
from tuner.plan import Plan

LACKS = {  # what a tier of --evaluate leaves out
    "none": "calibration, agreement with the teacher, attacks and corruptions: --evaluate quick measures the first "
    "three, standard all",
    "quick": "attacks at other radii and norms, examples of other networks, and corrupted images: --evaluate standard",
    "standard": "AutoAttack: --evaluate full",
    "full": "AutoAttack of any network but the champion",
}


def sentences(planned: Plan, told: Story) -> list[str]:
    """One each: what the tier left out, what no tier has, what the search held fixed, whose baseline is untuned."""
    answer = told.results["answer"]
    recipe = "" if {"lr", "weight_decay"} & set(planned.searched) else ", other recipes"
    said: list[Any] = [
        LACKS[answer["tier"]],
        f"other data, other networks{recipe}, and images that are of none of the classes",
        "attackers who know the defence, where a flag says that gradients are masked"
        if answer["tier"] != "none"
        else "",
        baselines.not_measured(planned, told).removeprefix("; "),
    ]
    return [one for one in said if one]
