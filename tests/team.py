"""What a team's records stand on, all of it real and on loopback: PostgreSQL, an S3 server, MLflow with basic-auth."""

from __future__ import annotations

import base64
import json
import secrets
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

from tests.postgres import Postgres
from tests.serving import Server

BUCKET = "kdtune"
ADMIN, MEMBER = "boss", "member"
RIGHTS = """[mlflow]
default_permission = EDIT
database_uri = {uri}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
"""


@contextmanager
def object_store() -> Iterator[dict[str, str]]:
    """An S3 server with one bucket; what a process needs to reach it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    told = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "of-a-test",
        "AWS_SECRET_ACCESS_KEY": "of-a-test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    try:
        client(told).create_bucket(Bucket=BUCKET)
        yield told
    finally:
        server.stop()


def client(told: dict[str, str]) -> boto3.client:
    return boto3.client(
        "s3",
        endpoint_url=told["AWS_ENDPOINT_URL"],
        region_name=told["AWS_DEFAULT_REGION"],
        aws_access_key_id=told["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=told["AWS_SECRET_ACCESS_KEY"],
    )


class Team:
    """The server, with an administrator and one member, who may do what every member may."""

    def __init__(self, folder: Path, postgres: Postgres, s3: dict[str, str]) -> None:
        self.postgres, self.password = postgres, secrets.token_hex(8)
        admins = secrets.token_hex(8)
        rights = folder / "rights.ini"
        rights.write_text(RIGHTS.format(uri=postgres.uri), encoding="ascii")
        told = {
            "MLFLOW_BACKEND_STORE_URI": postgres.uri,
            "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}/mlflow",
            "MLFLOW_AUTH_CONFIG_PATH": str(rights),
            "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN,
            "MLFLOW_AUTH_ADMIN_PASSWORD": admins,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(8),
            **s3,
        }
        self.server = Server(folder, "--app-name", "basic-auth", told=told)
        self.secrets = (self.password, admins, postgres.password)
        self._ask("POST", "users/create", admins, username=MEMBER, password=self.password)

    @property
    def credentials(self) -> dict[str, str]:
        """The member's, as the environment of a search has them."""
        return {"MLFLOW_TRACKING_USERNAME": MEMBER, "MLFLOW_TRACKING_PASSWORD": self.password}

    def _ask(self, verb: str, what: str, admins: str, **content: str) -> None:
        word = base64.b64encode(f"{ADMIN}:{admins}".encode()).decode()
        headers = {"Authorization": f"Basic {word}", "Content-Type": "application/json"}
        url = f"{self.server.uri}/api/2.0/mlflow/{what}"
        asked = urllib.request.Request(url, json.dumps(content).encode(), headers, method=verb)
        urllib.request.urlopen(asked, timeout=60).close()
