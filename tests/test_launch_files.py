"""The launch files in cluster/, read by the parsers that will read them."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from ray import autoscaler

from tests.conftest import ROOT
from tuner import nodes
from tuner.settings import make

CLUSTER = ROOT / "cluster"
PINNED = {
    one.name.lower(): one
    for line in (CLUSTER / "requirements.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
    for one in [Requirement(line)]
}


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / name).read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_ray_up_takes_the_file(name: str) -> None:
    """By Ray's own schema; both kinds of node are started with the token, and the token goes to them."""
    (config,) = documents(name)
    schema = Path(autoscaler.__file__).with_name("ray-schema.json")
    jsonschema.validate(config, json.loads(schema.read_text(encoding="utf-8")))
    assert config["head_node_type"] in config["available_node_types"]
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_AUTH_MODE=token" in config[commands][-1]
    assert "~/.ray/auth_token" in config["file_mounts"]


def test_workers_are_on_spot() -> None:
    (aws,), (gcp,) = documents("aws.yaml"), documents("gcp.yaml")
    types = [config["available_node_types"]["worker"]["node_config"] for config in (aws, gcp)]
    assert types[0]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert {"provisioningModel": "SPOT"} in types[1]["scheduling"]


def cluster_specs() -> list[dict[str, Any]]:
    (_, cluster), (_, job) = documents("kuberay-cluster.yaml"), documents("kuberay-job.yaml")
    assert (cluster["kind"], job["kind"]) == ("RayCluster", "RayJob")
    return [cluster["spec"], job["spec"]["rayClusterSpec"]]


@pytest.mark.parametrize("spec", cluster_specs(), ids=["cluster", "job"])
def test_kuberay(spec: dict[str, Any]) -> None:
    """Token authentication, autoscaling, the pinned Ray; every volume that is mounted is there."""
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"]
    assert PINNED["ray"].specifier.contains(spec["rayVersion"])
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        mounted = {m["name"] for c in pod["containers"] for m in c["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_two_kuberay_files_describe_one_cluster() -> None:
    cluster, job = cluster_specs()
    assert cluster == job


def test_the_jobs_command_is_one() -> None:
    """Its flags are settings that pass their checks."""
    words = documents("kuberay-job.yaml")[1]["spec"]["entrypoint"].split()
    given = {
        k.removeprefix("--").replace("-", "_"): v
        for k, v in zip(words[1::2], words[2::2], strict=True)
    }
    assert make(given).address == "auto"


def test_the_slurm_script_parses() -> None:
    """By bash itself."""
    done = subprocess.run(["bash", "-n", CLUSTER / "slurm.sh"], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_pins_hold_what_nodes_need() -> None:
    """Within the versions that kdtune itself asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    floors = {r.name.lower(): r for r in map(Requirement, project["dependencies"])}
    assert {name.lower() for name in nodes.NEEDED} <= PINNED.keys()
    for name, pin in PINNED.items():
        (version,) = pin.specifier
        assert version.operator == "=="
        assert name not in floors or floors[name].specifier.contains(version.version)


def test_authentication_is_never_off() -> None:
    for path in CLUSTER.iterdir():
        assert not re.search(r"AUTH_MODE\W*disabled", path.read_text(encoding="utf-8")), path
