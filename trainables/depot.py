"""A search's files on machines that do not see its folder: fetched once a machine, checked, and sent back.

The driver's machine has the files and serves them (`Depot`). A worker has a `Courier`: where it sees the search's
folder, because it is the same machine or a shared file system, every path stays as it is. Elsewhere a file is fetched
into the machine's temporary folder under its SHA-256, by one process while the others wait, and mapped by all from
there; a path of the driver's stands for the place below it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, singledispatch
from pathlib import Path
from typing import Any

from trainables.data.splits import Facts
from trainables.files import rename_into
from trainables.meanwhile import now_and_then
from trainables.teacher import Teacher
from trainables.teacher_wanted import Wanted

PIECE = 32 * 2**20  # bytes that travel at a time
SENT_EVERY = 5.0  # seconds between two looks at what has been written for the driver
Info = tuple[str, int, int | None]  # path, pyarrow's type, size
KEPT_SECONDS = 30 * 86400  # of files that no search on the machine has asked for


class Depot:
    """Serves the files below `roots`; lives on the driver's machine."""

    def __init__(self, roots: Sequence[str]) -> None:
        self.roots = [Path(root) for root in roots]
        self.sums: dict[tuple[str, int, int], str] = {}

    def about(self, path: str) -> tuple[int, int, str] | None:
        """Size, modification time in ns and SHA-256 of a file; None where there is none."""
        try:
            found = self._allowed(path).stat()
        except FileNotFoundError:
            return None
        key = path, found.st_size, found.st_mtime_ns
        if key not in self.sums:
            with Path(path).open("rb") as file:
                self.sums[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return found.st_size, found.st_mtime_ns, self.sums[key]

    def names(self, folder: str) -> list[str]:
        """Of the files in a folder; none where there is no such folder."""
        place = self._allowed(folder)
        return sorted(p.name for p in place.iterdir() if p.is_file()) if place.is_dir() else []

    def read(self, path: str, start: int) -> bytes:
        """The next PIECE of a file."""
        with self._allowed(path).open("rb") as file:
            file.seek(start)
            return file.read(PIECE)

    def write(self, path: str, content: bytes) -> None:
        """A file, whole or not at all."""
        place = self._allowed(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        rename_into(place, content)

    def storage(self, operation: str, *paths: str) -> None:
        """An operation of a file system on paths below the roots."""
        from pyarrow import fs

        getattr(fs.LocalFileSystem(), operation)(*(str(self._allowed(path)) for path in paths))

    def infos(self, paths: Sequence[str]) -> list[Info]:
        """What lies there."""
        from pyarrow import fs

        asked = [str(self._allowed(path)) for path in paths]
        found = fs.LocalFileSystem().get_file_info(asked)
        return [(one.path, int(one.type), one.size) for one in found]

    def listed(self, folder: str, allow_not_found: bool, recursive: bool) -> list[Info]:
        """What lies in a folder."""
        from pyarrow import fs

        asked = fs.FileSelector(str(self._allowed(folder)), allow_not_found, recursive)
        found = fs.LocalFileSystem().get_file_info(asked)
        return [(one.path, int(one.type), one.size) for one in found]

    def _allowed(self, path: str) -> Path:
        place = Path(os.path.normpath(path))
        if not any(place.is_relative_to(root) for root in self.roots):
            raise PermissionError(f"a path must lie below {self.roots[0]}, got {path}")
        return place


@dataclass(frozen=True)
class Courier:
    """What a worker knows of the driver's files; travels to any machine."""

    ask: Callable[..., Any]  # (name of a Depot's function, *arguments): its answer
    out: str  # the searches' folder on the driver's machine
    marker: str  # a file in it
    token: str  # its content

    @property
    def sees(self) -> bool:
        """Whether this process sees the searches' folder."""
        return _sees(self.marker, self.token)

    @property
    def home(self) -> Path:
        """Of this search's files on this machine."""
        return machine() / "searches" / self.token

    def place(self, path: str) -> str:
        """Where the driver's path lies here."""
        below = Path(path).is_relative_to(self.out)
        return path if not path or (below and self.sees) else f"{self.home}{path}"

    def file(self, path: str) -> str:
        """A file of the driver's, fetched unless it is here; its place even where the driver has none."""
        place = Path(self.place(path))
        if place == Path(path):
            return path
        found = self.ask("about", path)
        if found is None:
            return str(place)
        size, modified, sha256 = found
        if _same(Path(path), size, modified):
            return path
        place.parent.mkdir(parents=True, exist_ok=True)
        with _locked(place.with_name(f".{place.name}.lock")):
            kept = self._kept(path, size, sha256, place)
            if not (place.exists() and place.samefile(kept)):
                temporary = place.with_name(f".{place.name}.{os.getpid()}")
                temporary.unlink(missing_ok=True)
                os.link(kept, temporary)
                temporary.replace(place)
        return str(place)

    def folder(self, path: str) -> str:
        """A folder of the driver's with the files in it."""
        if path and self.place(path) != path:
            for name in self.ask("names", path):
                self.file(str(Path(path, name)))
        return self.place(path)

    def _kept(self, path: str, size: int, sha256: str, place: Path) -> Path:
        """The file under its checksum; checked when a search first takes it, fetched where it is not as it was."""
        kept = machine() / "files" / sha256
        kept.parent.mkdir(parents=True, exist_ok=True)
        with _locked(kept.with_suffix(".lock")):
            known = kept.exists() and place.exists() and place.samefile(kept)
            if not known and not (kept.exists() and _sha256(kept) == sha256):
                _forget(machine() / "files")
                _forget(machine() / "searches")
                self._fetch(path, size, sha256, kept)
            os.utime(kept)
        return kept

    def _fetch(self, path: str, size: int, sha256: str, kept: Path) -> None:
        temporary, seen, start = kept.with_suffix(".part"), hashlib.sha256(), 0
        with temporary.open("wb") as file:
            while start < size:
                piece = self.ask("read", path, start)
                if not piece:
                    break
                seen.update(piece)
                file.write(piece)
                start += len(piece)
        if seen.hexdigest() != sha256:
            raise OSError(f"{path} must arrive as it was sent, got another checksum")
        temporary.replace(kept)

    def send(self, place: Path) -> None:
        """A file that was written here, to where the driver has it."""
        self.ask("write", str(place).removeprefix(str(self.home)), place.read_bytes())


@singledispatch
def near(value: Any, courier: Courier) -> Any:
    """The value with its paths as they are on this machine, and what they name fetched."""
    return value


@near.register
def _path(value: Path, courier: Courier) -> Path:
    """A folder to be written into."""
    return Path(courier.place(str(value)))


@near.register
def _facts(value: Facts, courier: Courier) -> Facts:
    train = str(Path(value.folder, "train.arrow"))
    here = Path(courier.file(train))
    if value.streamed and here != Path(train):
        raise ValueError(
            f"images that are not kept decoded must lie where every node sees them, got {value.folder}"
        )
    splits = [courier.file(path) for path in (value.split, value.whole_split)]
    return replace(value, folder=str(here.parent), split=splits[0], whole_split=splits[1])


@near.register
def _teacher(value: Teacher, courier: Courier) -> Teacher:
    members = tuple(near(member, courier) for member in value.members)
    return replace(value, folder=courier.folder(value.folder), members=members)


@near.register
def _wanted(value: Wanted, courier: Courier) -> Wanted:
    return replace(value, file=courier.file(value.file)) if value.file else value


@near.register
def _several(value: list, courier: Courier) -> list[Any]:
    return [near(one, courier) for one in value]


def far(value: Any, courier: Courier) -> Any:
    """What a task on this machine has found, with its paths as they are on the driver's."""
    if isinstance(value, Teacher):
        members = tuple(far(member, courier) for member in value.members)
        return replace(value, folder=far(value.folder, courier), members=members)
    return value.removeprefix(str(courier.home)) if isinstance(value, str) else value


def errand(
    courier: Courier, function: Callable[..., Any], arguments: Sequence[Any], bring: Sequence[str]
) -> Any:
    """`function(*arguments)` on any machine: files and the folders `bring` come first, what it writes goes back.

    It may write into the folders among its arguments that are a Path; the driver sees it within SENT_EVERY seconds.
    """
    for folder in bring:
        courier.folder(folder)
    here = [near(value, courier) for value in arguments]
    written = [one for one, was in zip(here, arguments, strict=True) if isinstance(one, Path)]
    away = [one for one in written if one.is_relative_to(courier.home)]
    with _sending(courier, away):
        found = function(*here)
    return far(found, courier)


@contextmanager
def _sending(courier: Courier, folders: Sequence[Path]) -> Iterator[None]:
    """Send what is written into `folders` meanwhile, now and then and at the end."""
    seen = _written(folders)

    def send() -> None:
        for path, modified in _written(folders).items():
            if seen.get(path) != modified:
                courier.send(path)
                seen[path] = modified

    try:
        with now_and_then(send, SENT_EVERY):
            yield
    finally:
        send()


def _written(folders: Sequence[Path]) -> dict[Path, int]:
    """The files in `folders` with their modification times; hidden ones are on their way."""
    found = {}
    for path in [path for folder in folders for path in folder.rglob("*")]:
        hidden = path.name.startswith(".") or path.suffix == ".lock"
        if not hidden and path.is_file():
            found[path] = path.stat().st_mtime_ns
    return found


def machine() -> Path:
    """This user's folder for files that came from elsewhere, on this machine."""
    place = Path(tempfile.gettempdir()) / f"kdtune-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    if place.is_symlink() or place.stat().st_uid != os.getuid():
        raise ValueError(f"{place} must be a folder of this user's own, got another's")
    return place


def leave(token: str) -> None:
    """Take away what a search had on this machine but the files that another may want too."""
    shutil.rmtree(machine() / "searches" / token, ignore_errors=True)


@cache
def _sees(marker: str, token: str) -> bool:
    try:
        return Path(marker).read_text(encoding="ascii") == token
    except (OSError, UnicodeDecodeError):
        return False


def _same(path: Path, size: int, modified: int) -> bool:
    """Whether the driver's file lies here too: a shared file system keeps size and time, to the nanosecond."""
    try:
        found = path.stat()
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == (size, modified)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _forget(folder: Path) -> None:
    """Delete what nobody has asked for in a long time."""
    for path in folder.glob("*"):
        if path.stat().st_mtime < time.time() - KEPT_SECONDS:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among the machine's processes; a second one waits."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
