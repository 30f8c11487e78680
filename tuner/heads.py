"""The head of a cluster: found, reached, and our token accepted, before Ray is asked to join it.

Ray itself would try for half a minute and then blame something else.
"""

from __future__ import annotations

import os
import secrets
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 5.0  # seconds to wait for the head's port to answer


def found(address: str) -> str:
    """HOST:PORT of the cluster meant; for `auto` RAY_ADDRESS's, or that which this machine is part of."""
    if address != "auto":
        return address
    told = os.environ.get("RAY_ADDRESS", "")
    return told if ":" in told and "/" not in told else _found_here()


def check(address: str) -> None:
    """Raise ValueError where nobody answers there, or refuses our token: Ray itself would try for a long time."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError, RayError

    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"--address must be a cluster's head, got {address}: {reason}") from None
    if not token_at_hand():
        raise ValueError(
            "a cluster's token must be at hand, got none: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, or put it into "
            "~/.ray/auth_token"
        )
    try:
        with _silent():
            GcsClient(address=address).get_all_node_info(timeout=PATIENCE)
    except AuthenticationError:
        raise ValueError(
            f"the token must be that of the cluster at {address}, got another: see RAY_AUTH_TOKEN, "
            "RAY_AUTH_TOKEN_PATH and ~/.ray/auth_token"
        ) from None
    except RayError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"--address must be a cluster's head, got {address}: {reason}") from None


def _found_here() -> str:
    """The cluster that this machine is part of."""
    from ray._private.services import find_gcs_addresses

    found = sorted(find_gcs_addresses())
    if len(found) != 1:
        got = ", ".join(found) or "none"
        raise ValueError(f"--address auto must find one cluster on this machine, got {got}")
    return found[0]


@contextmanager
def _silent() -> Iterator[None]:
    """Ray's native code writes its own account of what we say in a line."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def token_at_hand() -> bool:
    """Whether Ray finds a token; true where the user has switched it off for a cluster that has none."""
    told = (os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return any(told) or _token_file().exists() or os.environ["RAY_AUTH_MODE"] != "token"


def _token_file() -> Path:
    return Path.home() / ".ray" / "auth_token"


def ensure_token() -> None:
    """Ray's token, made if there is none, readable by its owner alone."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = _token_file()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(secrets.token_hex(32), encoding="utf-8")
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
