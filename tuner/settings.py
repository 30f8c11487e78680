"""Settings: one validated, immutable record of a search; what `--resume` reads back.

Checks need neither torch nor Ray here; what needs a method's or a model's code is checked by `plan.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Settings(BaseModel):
    """Everything a search depends on, as the user said it; None means that a default is worked out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = Field(description="the distillation method; several or `all` for a league")
    dataset: str = Field("digits", description="the images")
    data_root: Path | None = Field(
        None, description="folder of images already on disk (default: OUT/data)"
    )
    teacher: str | None = Field(None, description="the teacher's network (default: the dataset's)")
    student: str | None = Field(None, description="the student's network (default: the dataset's)")

    trials: int = Field(32, ge=1, description="configurations to try")
    epochs: int | None = Field(
        None, ge=1, description="of a fully trained student (default: the dataset's)"
    )
    search: Literal["auto", "tpe", "gp", "cmaes", "qmc", "nsga2", "random", "grid"] = Field(
        "auto",
        description="how configurations are chosen: auto, tpe, gp, cmaes, qmc, nsga2, random or grid",
    )
    scheduler: Literal["auto", "asha", "hyperband", "median", "pbt", "none"] = Field(
        "auto",
        description="which trials are stopped early: auto, asha, hyperband, median, pbt or none",
    )
    space: str | None = Field(
        None, description="search space: a YAML file or a preset (default: the method's)"
    )
    set: tuple[str, ...] = Field(
        (),
        description="fix or search one hyperparameter: temperature=4, alpha=uniform(0,1), lr=loguniform(1e-3,1)",
    )
    seed: int = Field(0, ge=0, description="of everything drawn at random")

    batch_size: int = Field(64, ge=1, description="images a step")
    lr: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="peak learning rate (default: 0.05 for sgd, else 0.001)",
    )
    optimizer: Literal["sgd", "adam", "adamw"] = Field(
        "sgd", description="sgd is with Nesterov momentum 0.9"
    )

    confirm_top: int = Field(3, ge=1, description="finalists retrained before one is chosen")
    confirm_seeds: int = Field(
        5, ge=2, description="seeds each finalist and baseline is retrained with"
    )

    max_concurrent: int | None = Field(
        None, ge=1, description="trials at once (default: as many as fit)"
    )
    cpus_per_trial: int = Field(1, ge=1, description="CPU cores of a trial")
    gpus_per_trial: float = Field(
        0, ge=0, allow_inf_nan=False, description="GPUs of a trial, a fraction to share one"
    )

    out: Path = Field(Path("runs"), description="folder for everything that is written")
    name: str | None = Field(None, description="of the search and its folder (default: made up)")
    experiment: str | None = (
        None  # MLflow's, shared by the searches of a league; else the search's name
    )
    tracking_uri: str | None = Field(None, description="MLflow's (default: OUT/mlflow.db)")

    @field_validator("name")
    @classmethod
    def _name_is_a_folder_name(cls, name: str | None) -> str | None:
        if name is not None and not NAME.fullmatch(name):
            raise ValueError(
                "must be 1 to 100 letters, digits, '.', '_' or '-', the first a letter or digit"
            )
        return name

    @field_validator("out", "data_root")
    @classmethod
    def _path_can_be(cls, path: Path | None) -> Path | None:
        try:
            if path is not None:
                path.expanduser().exists()
        except (OSError, RuntimeError) as error:  # too long; ~nobody
            reason = getattr(error, "strerror", None) or error
            raise ValueError(f"must be a folder that can be written to ({reason})") from None
        return path


GROUPS = {
    "what to distill": ("method", "dataset", "data_root", "teacher", "student"),
    "the search": ("trials", "epochs", "search", "scheduler", "space", "set", "seed"),
    "the recipe": ("batch_size", "lr", "optimizer"),
    "the confirmation": ("confirm_top", "confirm_seeds"),
    "the machine": ("max_concurrent", "cpus_per_trial", "gpus_per_trial"),
    "the records": ("out", "name", "tracking_uri"),
}


def make(given: dict[str, Any]) -> Settings:
    """Settings from flags; raises ValueError with one line that says what must hold and what came."""
    try:
        return Settings(**given)
    except ValidationError as error:
        raise ValueError(_first_problem(error)) from None


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    flag = "--" + str(problem["loc"][0]).replace("_", "-")
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    message = message.partition(", unable to parse")[0]
    must = message if message.startswith("must") else f"must be {message}"
    return f"{flag} {must}, got {problem['input']!r}"
