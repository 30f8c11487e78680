"""A search's settings in its folder: what --resume reads back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainables import records
from tuner import addresses
from tuner.control import SETTINGS
from tuner.settings import Settings, make

VERSION = 1  # of settings.json


def read(folder: Path) -> Settings:
    """The settings as they were written down; raises ValueError, naming the file, where it is damaged."""
    path, cure = (
        folder / SETTINGS,
        "put a copy back, or start the search again under another --name",
    )
    written = records.read(path, VERSION, cure)
    try:
        return make(written)
    except ValueError as error:
        raise ValueError(f"{path} must hold the settings of a search; {cure}: {error}") from None


def write(folder: Path, settings: Settings) -> None:
    """The whole file or nothing."""
    records.write(folder / SETTINGS, _shown(settings), VERSION)


def text(settings: Settings) -> str:
    """The file's content."""
    return records.text(_shown(settings), VERSION)


def _shown(settings: Settings) -> dict[str, Any]:
    """Without passwords."""
    hidden = settings.tracking_uri and addresses.redacted(settings.tracking_uri)
    return settings.model_copy(update={"tracking_uri": hidden}).model_dump(mode="json")
