"""A search's settings in its folder: what --resume reads back."""

from __future__ import annotations

from pathlib import Path

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
    """The whole file or nothing, without passwords."""
    hidden = settings.tracking_uri and addresses.redacted(settings.tracking_uri)
    shown = settings.model_copy(update={"tracking_uri": hidden})
    records.write(folder / SETTINGS, shown.model_dump(mode="json"), VERSION)
