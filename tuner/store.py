"""--out s3://bucket/folder: a search works in a folder of this machine, and what going on takes is kept in the store.

The local folder's name follows from the address, and a file in it names the address, so that --resume with either goes
on sending. A thread looks through it now and then and sends what has changed: the searches' folders, the teachers, and
what methods have prepared. An object is there whole or not at all. On a
machine that has less of a search than the store, --resume fetches it first. MLflow's own database is not sent; without
a tracking server of its own a search that was fetched writes its records anew, from the journal.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from trainables.files import rename_into
from trainables.meanwhile import now_and_then
from tuner.control import SETTINGS
from tuner.journal import FILE
from tuner.tracked import STATE as TRACKED
from tuner.tracked import State

ADDRESS = re.compile(r"(s3|gs)://[^/?#]+(/[^?#]*)?")
MARK = ".store"  # in the local folder
OWN = ("*/settings.json", "*/league.json")  # tell the folders of searches and leagues
SHARED = ("teachers", "cache/prepared", "cache/probes")  # beside the searches' own folders
LEFT_OUT = ("driver.lock", "teacher.lock", "tracking.lock", "tracking.log")
SENT_EVERY = 10.0  # seconds between two looks
TROUBLES = (OSError, pa.ArrowException)


def address_of(out: str | Path) -> str:
    """Of the store that --out names, itself or by its local folder; "" where it is a folder and nothing more."""
    if "://" in str(out):
        return str(out)
    try:
        return Path(out, MARK).expanduser().read_text(encoding="utf-8")
    except (OSError, RuntimeError):  # a folder, or none that can be: the settings say that
        return ""


def local(address: str) -> Path:
    """Where a search works whose --out is `address`; raises ValueError where that is no address."""
    if not ADDRESS.fullmatch(address):
        raise ValueError(
            f"--out must be a folder, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER, got {address!r}"
        )
    digest = hashlib.sha256(address.rstrip("/").encode()).hexdigest()[:8]
    name = re.sub(r"[^a-z0-9]+", "-", address.lower()).strip("-")
    return Path.home() / ".cache" / "kdtune" / f"{name[:60]}-{digest}"


class Store:
    """An object store's folder."""

    def __init__(self, address: str) -> None:
        self.address, self.local = address, local(address)
        try:
            self.system, self.base = fs.FileSystem.from_uri(address.rstrip("/"))
        except TROUBLES as error:
            raise self._unusable(error) from None
        self.sent: dict[Path, tuple[int, int]] = {}  # size and modification time

    def probe(self) -> None:
        """Write, read and delete an object; raises ValueError where that does not go."""
        path, content = f"{self.base}/.probe-{time.time_ns()}", b"kdtune"
        try:
            self._write(path, content)
            with self.system.open_input_stream(path) as stream:
                found = stream.read()
            self.system.delete_file(path)
        except TROUBLES as error:
            raise self._unusable(error) from None
        if found != content:
            raise ValueError(f"--out must give back what is written to it, got another in {path}")

    def mark(self) -> None:
        """Make the local folder, and say in it whose it is."""
        self.local.mkdir(parents=True, exist_ok=True)
        (self.local / MARK).write_text(self.address, encoding="utf-8")

    def fetch(self, name: str) -> None:
        """Bring a search or a league here where the store has more of it than this machine, and what belongs to it.

        That is what is called after it, or after its experiment: a league's searches, and those for tuned baselines.
        """
        try:
            self._bring(name, self._longer(name))
            for folder in SHARED:
                self._bring(folder, False)
            kin = [one for one in self._names() if one.startswith(f"{self._experiment(name)}-")]
            for one in kin:
                self._bring(one, self._longer(one))
        except TROUBLES as error:
            raise self._unusable(error) from None
        for one in {name, *kin}:
            self._forget_more_than_there_is(self.local / one)

    def send(self, left_out: Sequence[str] = LEFT_OUT) -> None:
        """Send what has changed since the last time, and delete what has gone."""
        seen = {path: about for path, about in self._files() if path.name not in left_out}
        for path, about in seen.items():
            if self.sent.get(path) != about:
                try:
                    self._write(self._there(path), path.read_bytes())
                except FileNotFoundError:  # an old checkpoint
                    continue
                self.sent[path] = about
        for path in [path for path in self.sent if path not in seen]:
            if self.system.get_file_info(self._there(path)).type == fs.FileType.File:
                self.system.delete_file(self._there(path))
            del self.sent[path]

    def _files(self) -> Iterator[tuple[Path, tuple[int, int]]]:
        """What is to be kept, with size and modification time."""
        own = [path.parent for pattern in OWN for path in self.local.glob(pattern)]
        for folder in {*own, *(self.local / name for name in SHARED)}:
            for path in folder.rglob("*"):
                with suppress(FileNotFoundError):
                    found = path.stat()
                    if path.is_file() and not path.name.startswith("."):
                        yield path, (found.st_size, found.st_mtime_ns)

    def _there(self, path: Path) -> str:
        return f"{self.base}/{path.relative_to(self.local).as_posix()}"

    def _write(self, path: str, content: bytes) -> None:
        if isinstance(self.system, fs.LocalFileSystem):
            self.system.create_dir(path.rpartition("/")[0])
        with self.system.open_output_stream(path) as stream:
            stream.write(content)

    def _forget_more_than_there_is(self, search: Path) -> None:
        """MLflow may have got lines that the store has not: what it has is then asked of it, not counted in bytes."""
        journal, tracked = search / FILE, search / TRACKED
        if journal.exists() and State.load(tracked).offset > journal.stat().st_size:
            tracked.unlink()

    def _names(self) -> list[str]:
        """Of the store's folders."""
        asked = fs.FileSelector(self.base, allow_not_found=True)
        return [one.base_name for one in self.system.get_file_info(asked)]

    def _experiment(self, name: str) -> str:
        """What a search that is here, and those that belong to it, are called after."""
        told = {}
        with suppress(OSError, ValueError):  # a league, or damaged: who reads it next says that
            told = json.loads((self.local / name / SETTINGS).read_text(encoding="utf-8"))
        return told.get("experiment") or name

    def _longer(self, name: str) -> bool:
        """Whether the store's journal of a search, which only grows, is ahead of the one here."""
        here = self.local / name / FILE
        there = self.system.get_file_info(f"{self.base}/{name}/{FILE}")
        return (there.size or 0) > (here.stat().st_size if here.exists() else -1)

    def _bring(self, folder: str, anew: bool) -> None:
        """Copy a folder's files, those that are not here unless `anew`: each whole or not at all, the journal last."""
        asked = fs.FileSelector(f"{self.base}/{folder}", allow_not_found=True, recursive=True)
        found = self.system.get_file_info(asked)
        for one in sorted(found, key=lambda one: one.base_name == FILE):
            place = self.local / one.path[len(self.base) + 1 :]
            if one.type == fs.FileType.File and (anew or not place.exists()):
                place.parent.mkdir(parents=True, exist_ok=True)
                with self.system.open_input_stream(one.path) as stream:
                    rename_into(place, stream.read())

    def _unusable(self, error: Exception) -> ValueError:
        reason = " ".join(str(error).split())[:200]
        return ValueError(
            f"--out must be a store that can be written and read, got {self.address}: {reason}"
        )


def at_hand(out: Path, name: str) -> None:
    """Fetch a search, where `out` is the local folder of a store."""
    address = address_of(out)
    if address:
        Store(address).fetch(name)


@contextmanager
def shipping(store: Store, *, tracked: bool, say: Callable[[str], None]) -> Iterator[None]:
    """Keep the store as it is here meanwhile, and at the end.

    `tracked`: MLflow's records are elsewhere, so that what it has got is worth knowing on another machine. What cannot
    be sent is said and tried again; after the end --resume sends it.
    """
    said: list[str] = []
    left_out = LEFT_OUT if tracked else (*LEFT_OUT, TRACKED)

    def send() -> None:
        try:
            store.send(left_out)
            said.clear()
        except TROUBLES as error:
            if not said:
                reason = " ".join(str(error).split())[:200]
                say(f"{store.address} could not be written to, it is tried again: {reason}")
            said.append(str(error))

    try:
        with now_and_then(send, SENT_EVERY):
            yield
    finally:
        send()
        say(
            f"{store.address} lacks a part of {store.local}" if said else f"kept in {store.address}"
        )
