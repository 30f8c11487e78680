"""Small JSON files of ours: a version, a checksum over all the rest, written whole or not at all.

Files that were written before there were checksums are read without; what is damaged is never believed.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.files import rename_into

CHECKSUM = "crc32"
VERSION = "version"


def text(content: Mapping[str, Any], version: int) -> str:
    """A record as its file holds it."""
    body = json.loads(json.dumps({VERSION: version, **content}))
    return json.dumps({**body, CHECKSUM: _checksum(body)}, indent=1)


def write(path: Path, content: Mapping[str, Any], version: int) -> None:
    """Write a record; OSError where there is no room or no right."""
    rename_into(path, text(content, version).encode())


def read(path: Path, version: int, cure: str) -> dict[str, Any]:
    """A record without its version and checksum.

    Raises ValueError that names the file and says the `cure` where it is damaged or of a later version, OSError where
    there is none.
    """
    content = path.read_bytes()
    try:
        body = json.loads(content)
        if not isinstance(body, dict):
            raise ValueError("it is no record")
        known = body.pop(CHECKSUM, None)
        if known is not None and known != _checksum(body):
            raise ValueError("its checksum is another")
    except ValueError as error:  # JSON's and Unicode's errors are ValueErrors too
        reason = " ".join(str(error).split())[:100]
        raise ValueError(f"{path} must be whole, got a damaged file ({reason}); {cure}") from None
    except RecursionError:
        raise ValueError(f"{path} must be whole, got a damaged file; {cure}") from None
    found = body.pop(VERSION, version)
    if found != version:
        raise ValueError(f"{path} must be of version {version}, got {found}; {cure}")
    return body


def _checksum(body: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(body, sort_keys=True).encode()):08x}"
