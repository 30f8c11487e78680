"""Where MLflow is: the tracking URI, checked, without its secrets wherever it is written or shown.

Passwords belong in the environment: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for servers, which MLflow
reads itself, and KDTUNE_TRACKING_URI or MLFLOW_TRACKING_URI for whole URIs, as of databases.
"""

from __future__ import annotations

import base64
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

VARIABLES = ("KDTUNE_TRACKING_URI", "MLFLOW_TRACKING_URI")  # the first that is set counts
USER, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
DATABASES = (
    "postgresql",
    "mysql",
    "mssql",
)  # beside sqlite and http, what MLflow stores its runs in
SECRET = re.compile(r"pass|pwd|token|secret|key|odbc_connect", re.IGNORECASE)  # names of parameters
HIDDEN = "***"
OTHER_WAYS = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4")
CREDENTIALS = ".mlflow/credentials"  # in the home folder
# The first answers to everybody, the second asks who it is.
PAGES = ("health", "api/2.0/mlflow/experiments/search?max_results=1")
PATIENCE = 15.0  # seconds for a server's first answer


class Login(NamedTuple):
    """A URI as it may stand anywhere, and the user and password that it held."""

    uri: str
    user: str = ""
    password: str = ""


def default() -> str | None:
    """The URI that the environment gives, if it does."""
    return next((os.environ[name] for name in VARIABLES if os.environ.get(name)), None)


def redacted(uri: str) -> str:
    """A URI without its user, its password, and parameters that are secret by their name."""
    try:
        parts = urlsplit(uri)
    except ValueError:  # "http://[": shown as far as it cannot hold a secret
        return uri.partition("://")[0] + "://" + HIDDEN
    if "@" in parts.netloc:
        uri = uri.replace(parts.netloc, f"{HIDDEN}@" + parts.netloc.rpartition("@")[2], 1)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    if any(SECRET.search(name) for name, _ in pairs):
        shown = [(name, HIDDEN if SECRET.search(name) else value) for name, value in pairs]
        uri = uri.replace(f"?{parts.query}", f"?{urlencode(shown, safe='*/')}", 1)
    return uri


def completed(written: str | None, given: str | None) -> str | None:
    """The URI of a search that goes on: what is `given` now, or what was written down.

    Raises ValueError where a secret was left out of what was written, and is not given again.
    """
    if given:
        return given
    if written is None or HIDDEN not in written:
        return written
    known = default()
    if known and redacted(known) == written:
        return known
    raise ValueError(
        f"--tracking-uri must be given again, or in {VARIABLES[0]}, got a search that reports to {written}: "
        "passwords are not written down"
    )


def login(uri: str) -> Login:
    """A server's URI apart from its user and password; of a database they stay, as its driver wants them."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return Login(uri)
    who, _, host = parts.netloc.rpartition("@")
    user, _, password = who.partition(":")
    return Login(urlunsplit(parts._replace(netloc=host)), unquote(user), unquote(password))


def environment(uri: str) -> dict[str, str]:
    """What a process that talks to MLflow is told by its environment: arguments can be seen by all."""
    return {VARIABLES[0]: login(uri).uri, **credentials(uri)}


def credentials(uri: str) -> dict[str, str]:
    """The user and password of a server's URI, under the names that MLflow reads; nothing where there are none."""
    known = login(uri)
    return {USER: known.user, PASSWORD: known.password} if known.user else {}


def secrets(uri: str) -> tuple[str, ...]:
    """What must not be shown of a URI, as it is written and decoded; longest first."""
    parts = urlsplit(uri)
    who = parts.netloc.rpartition("@")[0]
    _, _, password = who.partition(":")
    found = {who, password} | {v for k, v in parse_qsl(parts.query) if SECRET.search(k)}
    found |= {unquote(one) for one in found} | {os.environ.get(PASSWORD, "")}
    return tuple(sorted((one for one in found if one), key=len, reverse=True))


def hushed(message: str, uri: str) -> str:
    """A message, of one line, without the secrets of the URI."""
    text = " ".join(message.split())
    for secret in secrets(uri):
        text = text.replace(secret, HIDDEN)
    return text


def check(uri: str, check_writable: Callable[[Path], None], *, offline: bool = False) -> None:
    """Raise ValueError where `uri` is none that MLflow takes, or, unless `offline`, where nobody answers there."""
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise ValueError(f"--tracking-uri must be a URI, got {redacted(uri)}: {error}") from None
    if parts.scheme in ("http", "https"):
        if not offline:
            _check_server(uri)
    elif parts.scheme == "sqlite":
        path = uri.removeprefix("sqlite:///")
        if not path.startswith("/"):
            raise ValueError(
                f"--tracking-uri must be absolute, as in sqlite:////folder/mlflow.db, got {uri}"
            )
        check_writable(Path(path).parent)
    elif parts.scheme.partition("+")[0] not in DATABASES:  # to those the mirror connects
        source = next((f" ({name})" for name in VARIABLES if os.environ.get(name) == uri), "")
        raise ValueError(
            f"--tracking-uri must be sqlite:////folder/mlflow.db or http://server, got {redacted(uri)}{source}: MLflow "
            "has given up folders of files (mlflow migrate-filestore moves one)"
        )


def _check_server(uri: str) -> None:
    """Raise ValueError where no MLflow answers, or one that does not know the user and password at hand."""
    for page in PAGES:
        try:
            with urllib.request.urlopen(_request(uri, page), timeout=PATIENCE) as answer:
                answer.read()
        except urllib.error.HTTPError as error:
            if error.code == 401 and not _signs_in_otherwise():
                raise ValueError(
                    f"{USER} and {PASSWORD} must be those of a user of the server, got {_who(uri)} at {redacted(uri)}"
                ) from None
            if error.code not in (401, 403):  # then it lives, and MLflow has credentials of its own
                raise ValueError(
                    f"--tracking-uri must be an MLflow server that answers, got {redacted(uri)}: "
                    f"{hushed(str(error), uri)}; {OFFLINE}"
                ) from None
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            reason = hushed(str(getattr(error, "reason", error)), uri)
            raise ValueError(
                f"--tracking-uri must be a server that can be reached, got {redacted(uri)}: {reason}; {OFFLINE}"
            ) from None


def _request(uri: str, page: str) -> urllib.request.Request:
    known = login(uri)
    request = urllib.request.Request(f"{known.uri.rstrip('/')}/{page}")
    user, password = known.user or os.environ.get(USER), known.password or os.environ.get(PASSWORD)
    if user:
        word = base64.b64encode(f"{user}:{password or ''}".encode()).decode()
        request.add_header("Authorization", f"Basic {word}")
    return request


def _who(uri: str) -> str:
    """As far as it may be shown."""
    return "others" if login(uri).user or os.environ.get(USER) else "none"


def _signs_in_otherwise() -> bool:
    """Whether MLflow has a way of its own, which we do not go."""
    return any(map(os.environ.get, OTHER_WAYS)) or Path.home().joinpath(CREDENTIALS).exists()


OFFLINE = "--tracking-offline searches without it, and the records wait on disk"
