"""Settings: one validated, immutable record of a search; what `--resume` reads back.

Checks need neither torch nor Ray here; what needs a method's or a model's code is checked by `plan.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from tuner import objectives

SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)\s*([KMGT]?B)", re.IGNORECASE)
TIME = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smhd])")
STAGES = re.compile(r"\d{1,4}-\d{1,4}(,\d{1,4}-\d{1,4})*")
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LOCAL = "local"  # --address
HEAD = re.compile(r"[^\s/:]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Settings(BaseModel):
    """Everything a search depends on, as the user said it; None means that a default is worked out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = Field(description="the distillation method; several or `all` for a league")
    dataset: str = Field(
        "digits",
        description="the images: a name of --list datasets, folder:PATH or package.module:factory",
    )
    data_root: Path | None = Field(
        None, description="folder of images already on disk (default: OUT/data)"
    )
    subset: int | None = Field(
        None,
        ge=2,
        description="take so many images for training and validation together, as many of each class (default: all)",
    )
    val_fraction: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of the training images kept for validation (default: the dataset's)",
    )
    image_size: int | None = Field(
        None,
        ge=4,
        le=1024,
        description="height and width that images of a folder or factory are resized to (default: by the first)",
    )
    teacher: tuple[str, ...] = Field(
        (),
        description="a network to train, NAME:FILE, mlflow:models:/NAME@ALIAS; several are averaged "
        "(default: the dataset's)",
    )
    student: str | None = Field(None, description="the student's network (default: the dataset's)")
    teacher_epochs: int | None = Field(
        None, ge=1, description="of a teacher that has to be trained (default: the dataset's)"
    )
    trust_pickle: bool = Field(
        False, description="load teachers' files that hold pickled code, which runs: only your own"
    )

    stages: str | None = Field(
        None,
        description="feature maps to compare, STUDENT-TEACHER as 1-1,2-3 (default: last with last, and so on)",
    )

    trials: int = Field(32, ge=1, description="configurations to try")
    budget_epochs: int | None = Field(
        None,
        ge=1,
        description="end the search when its trials have trained so many epochs together",
    )
    time_budget: str | None = Field(
        None,
        description="end the search after 90s, 30m, 2h or 1d; what follows it takes its own time",
    )
    target: float | None = Field(
        None,
        gt=0,
        le=1,
        description="end the search when a trial reaches this accuracy on validation, as 0.95",
    )
    warm_start: tuple[str, ...] = Field(
        (),
        description="an earlier search in OUT whose trials the sampler learns from; may be repeated",
    )
    epochs: int | None = Field(
        None, ge=1, description="of a fully trained student (default: the dataset's)"
    )
    search: Literal["auto", "tpe", "gp", "cmaes", "qmc", "nsga2", "random", "grid"] = Field(
        "auto",
        description="how configurations are chosen; --list samplers explains",
    )
    scheduler: Literal["auto", "asha", "hyperband", "median", "pbt", "none"] = Field(
        "auto",
        description="which trials are stopped early; --list schedulers explains",
    )
    space: str | None = Field(
        None, description="search space: a YAML file or a preset (default: the method's)"
    )
    set: tuple[str, ...] = Field(
        (),
        description="fix or search one hyperparameter: temperature=4, alpha=uniform(0,1), lr=loguniform(1e-3,1)",
    )
    objective: tuple[Annotated[str, AfterValidator(objectives.check_name)], ...] = Field(
        (objectives.ACCURACY.name,),
        min_length=1,
        description="what is searched for; several give a Pareto front; --list objectives explains",
    )
    constraint: tuple[Annotated[str, AfterValidator(objectives.check_constraint)], ...] = Field(
        (), description="a bound that a student has to keep, as 'n_parameters < 300000'"
    )
    seed: int = Field(0, ge=0, description="of everything drawn at random")
    batch_mode: bool = Field(
        False,
        description="repeat exactly on any number of slots: trials go in batches of --max-concurrent, students are "
        "trained in float32 unless told",
    )

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
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="share of the labels' weight that is spread over all classes, in the hard-label term",
    )

    augment: Literal["none", "crop_flip", "crop_flip_rotate", "randaugment"] | None = Field(
        None, description="random views of the training images (default: the dataset's)"
    )
    eval_every: int = Field(
        1,
        ge=1,
        description="epochs between two looks at validation; the last epoch and those where trials may be stopped "
        "are always looked at",
    )

    confirm_top: int = Field(3, ge=1, description="finalists retrained before one is chosen")
    confirm_seeds: int = Field(
        5, ge=2, description="seeds each finalist and baseline is retrained with"
    )
    tune_baseline: bool = Field(
        False,
        description="search the baseline too, with as many trials: plain KD, or for kd the plain student's recipe",
    )
    evaluate: Literal["none", "quick", "standard", "full"] = Field(
        "quick",
        description="what is measured on the test set: none is accuracy and loss; quick adds calibration, agreement "
        "with the teacher and attacks at one radius; standard stronger attacks at several, and corruptions; full is "
        "standard, and AutoAttack for the champion",
    )
    corruptions: Path | None = Field(
        None,
        description="folder of CIFAR-10-C's, CIFAR-100-C's or MNIST-C's files, for standard and full (default: a lite "
        "set made here)",
    )
    threat: Literal["cckd"] | None = Field(
        None,
        description="attack within a published radius too: cckd is 0.15 on mnist, 0.05 on fashion_mnist, and on "
        "cifar10 0.05 in [-1, 1], which is 0.025 in pixels",
    )

    address: str = Field(
        LOCAL,
        description="the Ray cluster to train on: its head as HOST:PORT, or auto for the one this machine belongs to",
    )
    max_concurrent: int | None = Field(
        None, ge=1, description="trials at once (default: as many as fit)"
    )
    cpus_per_trial: int = Field(1, ge=1, description="CPU cores of a trial")
    gpus_per_trial: float = Field(
        0,
        ge=0,
        allow_inf_nan=False,
        description="GPUs of a trial: a fraction to share one, 2 or more to train one student on all of them",
    )
    accelerator: str | None = Field(
        None,
        description="train on the nodes of --address that have these GPUs, as A100, or a resource of that name",
    )

    hang_after: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="seconds without a report after which a trial's worker is ended, if ten times its longest epoch is "
        "less (default: 300, and 1800 before its first)",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of a student's passes; auto takes what a probe finds faster"
    )
    memory_format: Literal["auto", "contiguous", "channels_last"] = Field(
        "auto", description="of a student's weights and maps, likewise"
    )
    cache_size: str = Field(
        "4GB", description="bound of the cache of the teacher's outputs, as 500MB or 20GB"
    )
    no_cache: bool = Field(False, description="ask a live teacher in every trial")

    out: Path = Field(
        Path("runs"),
        description="folder for everything that is written, or s3://BUCKET/FOLDER or gs://BUCKET/FOLDER",
    )
    name: str | None = Field(None, description="of the search and its folder (default: made up)")
    experiment: str | None = (
        None  # MLflow's, shared by the searches of a league; else the search's name
    )
    tracking_uri: str | None = Field(
        None, description="MLflow's (default: KDTUNE_TRACKING_URI's, or OUT/mlflow.db)"
    )
    tracking_offline: bool = Field(
        False,
        description="search although the tracking server does not answer; --resume NAME delivers the records later",
    )

    @field_validator("teacher", mode="before")
    @classmethod
    def _one_teacher_is_a_list_of_one(cls, teacher: Any) -> Any:
        return (teacher,) if isinstance(teacher, str) else teacher or ()

    @field_validator("warm_start", mode="before")
    @classmethod
    def _one_search_is_a_list_of_one(cls, names: Any) -> Any:
        return (names,) if isinstance(names, str) else names or ()

    @field_validator("name")
    @classmethod
    def _name_is_a_folder_name(cls, name: str | None) -> str | None:
        if name is not None and not NAME.fullmatch(name):
            raise ValueError(
                "must be 1 to 100 letters, digits, '.', '_' or '-', the first a letter or digit"
            )
        return name

    @field_validator("address")
    @classmethod
    def _address_is_a_head(cls, address: str) -> str:
        return check_address(address)

    @field_validator("gpus_per_trial")
    @classmethod
    def _gpus_are_a_share_or_whole(cls, gpus: float) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError("must be a share of one GPU or a whole number of them")
        return gpus

    @field_validator("objective")
    @classmethod
    def _each_objective_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("must name each objective once")
        return names

    @field_validator("constraint")
    @classmethod
    def _constraints_go_together(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        objectives.check_together(texts)
        return texts

    @field_validator("stages")
    @classmethod
    def _stages_are_pairs(cls, text: str | None) -> str | None:
        if text is not None and not STAGES.fullmatch(text):
            raise ValueError("must be pairs STUDENT-TEACHER of map numbers as 1-1,2-3")
        return text

    @field_validator("cache_size")
    @classmethod
    def _size_is_in_bytes(cls, size: str) -> str:
        bytes_of(size)
        return size

    @field_validator("time_budget")
    @classmethod
    def _time_is_in_seconds(cls, text: str | None) -> str | None:
        if text is not None:
            seconds_of(text)
        return text

    @field_validator("out", "data_root", "corruptions")
    @classmethod
    def _path_can_be(cls, path: Path | None) -> Path | None:
        try:
            if path is not None:
                path.expanduser().exists()
        except (OSError, RuntimeError) as error:  # too long; ~nobody
            reason = getattr(error, "strerror", None) or error
            raise ValueError(f"must be a folder that can be written to ({reason})") from None
        return path


def check_name(name: str) -> None:
    """Raise ValueError where a name cannot be a search's, whose folder is called by it."""
    if not NAME.fullmatch(name):
        raise ValueError(
            f"--resume must name a search: 1 to 100 letters, digits, '.', '_' or '-', got {name!r}"
        )


def check_address(address: str) -> str:
    """The address of a cluster; raises ValueError where it cannot be one."""
    if address.startswith("ray://"):
        raise ValueError(
            "must be local, auto or HOST:PORT: Ray's client has no place for the driver's files, so start on a machine "
            "of the cluster or by `ray job submit`"
        )
    if address not in (LOCAL, "auto") and not HEAD.fullmatch(address):
        raise ValueError("must be local, auto or HOST:PORT")
    return address


def bytes_of(size: str) -> int:
    """`500MB` or `4GB` in bytes; raises ValueError for anything else."""
    number = SIZE.fullmatch(size.strip())
    if number is None:
        raise ValueError("must be a size as 500MB or 4GB")
    return int(float(number[1]) * UNITS[number[2].upper()])


def seconds_of(text: str) -> float:
    """`90s`, `30m`, `2h` or `1d` in seconds; raises ValueError for anything else, and for nothing."""
    number = TIME.fullmatch(text.strip())
    if number is None or float(number[1]) <= 0:
        raise ValueError("must be a time above 0 as 90s, 30m, 2h or 1d")
    return float(number[1]) * SECONDS[number[2]]


GROUPS = {
    "what to distill": (
        *("method", "dataset", "data_root", "subset", "val_fraction", "image_size"),
        *("teacher", "student", "teacher_epochs", "trust_pickle", "stages"),
    ),
    "the search": (
        *("trials", "budget_epochs", "time_budget", "target", "epochs"),
        *("search", "scheduler", "space", "set"),
        *("objective", "constraint", "seed", "warm_start", "batch_mode"),
    ),
    "the recipe": ("batch_size", "lr", "optimizer", "label_smoothing", "augment", "eval_every"),
    "the confirmation": (
        "confirm_top",
        "confirm_seeds",
        "tune_baseline",
        "evaluate",
        "corruptions",
        "threat",
    ),
    "the machine": (
        *("address", "max_concurrent", "cpus_per_trial", "gpus_per_trial", "accelerator"),
        "hang_after",
        *("precision", "memory_format", "cache_size", "no_cache"),
    ),
    "the records": ("out", "name", "tracking_uri", "tracking_offline"),
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
