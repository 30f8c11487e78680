"""Ray Tune's storage where a worker may not see the search's folder: a file system that goes through its courier.

On the driver's machine, and wherever the folder is seen, it is the local file system; elsewhere every operation is
carried out on the driver's machine, and a file is written there whole when it is closed.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from pyarrow import fs

from trainables.depot import Courier, Info


def through(courier: Courier) -> fs.PyFileSystem:
    """The file system, with the driver's paths."""
    return fs.PyFileSystem(Handler(courier))


class Sent(io.BytesIO):
    """A file that goes to the driver's machine when it is closed."""

    def __init__(self, courier: Courier, path: str, before: bytes = b"") -> None:
        super().__init__()
        self.write(before)
        self.courier, self.path = courier, path

    def close(self) -> None:
        """Send it, once."""
        if not self.closed:
            self.courier.ask("write", self.path, self.getvalue())
        super().close()


class Handler(fs.FileSystemHandler):
    """What pyarrow asks of a file system written in Python."""

    def __init__(self, courier: Courier) -> None:
        self.courier = courier

    def __eq__(self, other: object) -> bool:
        """Of the same search."""
        return isinstance(other, Handler) and other.courier.token == self.courier.token

    __hash__ = None  # type: ignore[assignment]

    def _do(self, operation: str, *arguments: Any) -> None:
        if self.courier.sees:
            getattr(fs.LocalFileSystem(), operation)(*arguments)
        else:
            self.courier.ask("storage", operation, *arguments)

    def get_type_name(self) -> str:
        """Shown in messages."""
        return "kdtune"

    def normalize_path(self, path: str) -> str:
        """As it is."""
        return path

    def get_file_info(self, paths: Sequence[str]) -> list[fs.FileInfo]:
        """One for each path, of type NotFound where there is none."""
        if self.courier.sees:
            return list(fs.LocalFileSystem().get_file_info(list(paths)))
        return _infos(self.courier.ask("infos", list(paths)))

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        """Of what is in a folder."""
        if self.courier.sees:
            return list(fs.LocalFileSystem().get_file_info(selector))
        asked = selector.base_dir, selector.allow_not_found, selector.recursive
        return _infos(self.courier.ask("listed", *asked))

    def create_dir(self, path: str, recursive: bool) -> None:
        """Nothing where it is there."""
        self._do("create_dir", path)

    def delete_dir(self, path: str) -> None:
        """With all that is in it."""
        self._do("delete_dir", path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        """The folder stays."""
        self._do("delete_dir_contents", path)

    def delete_root_dir_contents(self) -> None:
        """Never."""
        raise PermissionError("the root must stay as it is")

    def delete_file(self, path: str) -> None:
        """One file."""
        self._do("delete_file", path)

    def move(self, src: str, dest: str) -> None:
        """Rename."""
        self._do("move", src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        """One file."""
        self._do("copy_file", src, dest)

    def open_input_stream(self, path: str) -> pa.NativeFile:
        """To be read from its beginning."""
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> pa.NativeFile:
        """To be read anywhere; the worker has fetched it by then."""
        return pa.OSFile(self.courier.file(path), "rb")

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        """To be written."""
        if self.courier.sees:
            return pa.OSFile(path, "wb")
        return pa.PythonFile(Sent(self.courier, path), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        """Ray Tune appends to nothing."""
        raise NotImplementedError(f"a file must be written whole, got more for {path}")


def _infos(told: Sequence[Info]) -> list[fs.FileInfo]:
    return [fs.FileInfo(path, fs.FileType(kind), size=size) for path, kind, size in told]
