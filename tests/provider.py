"""Nodes for Ray's autoscaler that are processes on this machine, each with a folder of its own.

Ray's own provider lets all of them share the head's folder, where a node that unpacks code that was sent to it deletes
what another works in.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any
from unittest.mock import patch

from ray._private import parameter
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class Provider(FakeMultiNodeProvider):  # type: ignore[misc]
    """Puts Ray's files of the nth node into folder n of the provider's `folder`."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self.folders = (f"{provider_config['folder']}/{n}" for n in itertools.count(1))

    def _create_node_with_resources_and_labels(self, *told: Any) -> None:
        own = partial(parameter.RayParams, temp_dir=next(self.folders))
        with patch.object(parameter, "RayParams", own):
            super()._create_node_with_resources_and_labels(*told)
