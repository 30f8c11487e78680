"""What the report says beside accuracy: robustness with its flags, calibration, agreement, corruptions.

A network's numbers are those of `trainables/evaluation/suite.py`: lists over seeds for a row, plain for the teacher.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trainables.evaluation import sanity
from trainables.evaluation.ood import PAIRS
from trainables.evaluation.tiers import TIERS
from tuner.confirm import ROLES
from tuner.statistics import interval

QUALITY = {  # name in the suite -> column; accuracies and shares are shown in percent
    "calibration/nll": "NLL",
    "calibration/ece": "ECE",
    "calibration/temperature": "T of validation",
    "calibration/nll_scaled": "NLL at T",
    "calibration/ece_scaled": "ECE at T",
    "agreement/top1": "agreement",
    "agreement/kl": "KL",
    "agreement/eta_s": "repaired",
    "agreement/eta_f": "lost",
    "corruption/lite/mean": "corrupted, lite",
    "corruption/cifar10_c/mean": "CIFAR-10-C",
    "corruption/cifar100_c/mean": "CIFAR-100-C",
    "corruption/mnist_c/mean": "MNIST-C",
    **{f"ood/{name}/msp_auroc": f"AUROC, {name}" for pair in PAIRS.values() for name in pair},
}
IN_UNITS = ("nll", "nll_scaled", "kl", "temperature")  # the others are shares
ATTACKS = {
    "fgsm": "FGSM",
    "pgd_ce": "PGD cross-entropy",
    "pgd_margin": "PGD margin",
    "worst": "worst case",
    "aa": "AutoAttack",
}
Measured = Mapping[str, Any]


def columns(answer: dict[str, Any]) -> list[str]:
    """The headings of `cells`; none where nothing was attacked."""
    return [] if answer["tier"] == "none" else [f"robust {answer['epsilon']:.3g}", "flags"]


def cells(answer: dict[str, Any], row: dict[str, Any]) -> list[str]:
    """The worst case at the dataset's radius, in percent, and whether it can be believed."""
    if answer["tier"] == "none":
        return []
    return [_percent(row["measured"][f"robust/{answer['threat']}/worst"]), flags(row["measured"])]


def flags(measured: Measured) -> str:
    """`masked` or `caveat`, with in how many of the seeds; nothing where no flag is raised."""
    for word, names in (("masked", sanity.MASKING), ("caveat", sanity.CAVEATS)):
        raised = [any(some) for some in zip(*_raised(measured, names), strict=True)]
        if any(raised):
            return word + (f" {sum(raised)} of {len(raised)}" if len(raised) > 1 else "")
    return ""


def warnings(answer: dict[str, Any]) -> list[str]:
    """A sentence for each sign of masked gradients, with the networks that show it."""
    return [
        f"Masked gradients ({who}): {why}; the robust numbers there are upper bounds."
        for why, who in _flagged(answer, sanity.MASKING)
    ]


def sentences(answer: dict[str, Any]) -> list[str]:
    """How everything was measured, and every flag that is raised."""
    tier = answer["tier"]
    if tier == "none":
        return ["Only accuracy and loss were measured (--evaluate none)."]
    usual = "standard" if tier == "full" else tier
    summary = TIERS[usual].summary.partition(": ")[2]
    said = [
        f"Attacks on images in [0, 1], radius in pixels, tier {usual}: {summary}. The worst case counts an image "
        "only where it stands every attack, and a clean mistake as a failure."
    ]
    caveats = [f"Caveat ({who}): {why}." for why, who in _flagged(answer, sanity.CAVEATS)]
    flagged = [*warnings(answer), *caveats]
    return said + (flagged or ["No flag is raised: no sign of masked gradients."])


def robust_rows(networks: Mapping[str, Measured]) -> list[list[str]]:
    """Accuracy by network, radius and attack, in percent; header first."""
    threats = list(dict.fromkeys(t for found in networks.values() for t in _threats(found)))
    known = [
        name
        for name in ATTACKS
        if any(f"robust/{t}/{name}" in found for found in networks.values() for t in threats)
    ]
    rows = [["network", "radius", *(ATTACKS[name] for name in known), "flags"]]
    for who, found in networks.items():
        for threat in _threats(found):
            values = (found.get(f"robust/{threat}/{name}") for name in known)
            shown = ["" if value is None else _percent(value) for value in values]
            rows.append([who, threat.replace("_", " ", 1).replace("_", "/"), *shown, flags(found)])
    return rows if len(rows) > 1 else []


def quality_rows(networks: Mapping[str, Measured]) -> list[list[str]]:
    """Calibration, agreement with the teacher and accuracy on corrupted images; header first."""
    known = [name for name in QUALITY if any(name in found for found in networks.values())]
    rows = [["network", *(QUALITY[name] for name in known)]]
    for who, found in networks.items():
        rows.append([who, *(_quality(name, found.get(name)) for name in known)])
    return rows if known else []


def summary(answer: dict[str, Any]) -> dict[str, float]:
    """For the search's run: each role's mean worst case, the teacher's numbers and the champion's."""
    name, found = f"robust/{answer['threat']}/worst", {}
    for role, row in answer["rows"].items():
        if name in row["measured"]:
            found[f"{name}_{role}"] = interval(row["measured"][name]).mean
    for who in ("teacher", "champion"):
        measured = answer[who].get("measured", {})
        found |= {f"{who}/{key}": value for key, value in measured.items()}
    return found


def networks(answer: dict[str, Any]) -> dict[str, Measured]:
    """What was measured of every row, the teacher and the champion, by the name that tables show."""
    found = {ROLES[role]: row["measured"] for role, row in answer["rows"].items()}
    alone = {who: answer[who].get("measured") for who in ("teacher", "champion")}
    return found | {who: measured for who, measured in alone.items() if measured}


def _threats(measured: Measured) -> list[str]:
    return [name.split("/")[1] for name in measured if name.endswith("/worst")]


def _raised(measured: Measured, names: Mapping[str, str]) -> list[list[bool]]:
    """For each flag that was looked at, whether it is raised, seed by seed."""
    found = (measured.get(f"flags/{name}") for name in names)
    return [[some > 0 for some in _listed(values)] for values in found if values is not None]


def _flagged(answer: dict[str, Any], names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Every flag that is raised, in words, with the networks that show it and in how many seeds."""
    for name, why in names.items():
        shown = []
        for who, found in networks(answer).items():
            for seeds in _raised(found, {name: why}):
                if any(seeds):
                    n = f", {sum(seeds)} of {len(seeds)} seeds" if len(seeds) > 1 else ""
                    shown.append(who + n)
        if shown:
            yield why, "; ".join(shown)


def _quality(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name.rpartition("/")[2] not in IN_UNITS:
        return _percent(value)
    return f"{interval(_listed(value)).mean:.3f}"


def _percent(value: Any) -> str:
    return interval(_listed(value)).text()


def _listed(value: Any) -> list[float]:
    return value if isinstance(value, list) else [value]
