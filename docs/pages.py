"""`python -m docs.pages` searches with two methods for some minutes, and photographs MLflow's pages of it in Chromium.

`python -m docs.pages OUT` takes the searches `two-kd` and `two-dkd` that OUT holds already.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.browsing import Pages, browser
from tests.serving import Server
from tune import main
from tuner import views
from tuner.delivery import NOTE

FOLDER = Path(__file__).with_name("images") / "mlflow"
SEARCH = ("--method", "kd", "dkd", "--trials", "16", "--confirm-top", "2", "--confirm-seeds", "3")
CHAMPION = "kdtune-digits-convnet4"
WIDTH = 1600  # pixels
SETTLED_MS = 3000  # after its text is there, a page still draws and slides


def make(out: Path) -> None:
    """Search in `out`, then take the pictures."""
    status = main([*SEARCH, "--name", "two", "--out", str(out)])
    if status:
        sys.exit(status)
    photograph(out)


def photograph(out: Path) -> None:
    """Every page of the searches in `out`, a picture each."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    FOLDER.mkdir(exist_ok=True, parents=True)
    server = Server(out)
    try:
        with browser(server.uri, width=WIDTH) as pages:
            for name, page in views_of(client, pages):
                page.wait_for_timeout(SETTLED_MS)
                page.screenshot(path=FOLDER / f"{name}.png")
                print(FOLDER / f"{name}.png")
    finally:
        server.kill()


def views_of(client: Any, pages: Pages) -> Iterator[tuple[str, Any]]:
    """The pages that people meet, one after the other, each when it shows what it is there for."""
    experiment = client.get_experiment_by_name("two").experiment_id
    wanted = "tags.`kd.search` = 'two-kd' and tags.`kd.key` = 'search'"
    (search,) = client.search_runs([experiment], wanted)
    yield "table", pages.open(views.address(experiment), "kd-0", "kd.status")
    charts = pages.open(f"{views.address(experiment)}&compareRunsMode=CHART", views.SECTION)
    pages.traces(at_least=2)
    yield "charts", charts
    link = re.search(r"\((#/compare-runs[^)]*)\)", search.data.tags[NOTE])
    assert link is not None, "the search's description must link the comparison"
    compared = pages.open(link[1], "Parallel Coordinates Plot")
    pages.traces()
    yield "comparison", compared
    known = client.get_model_version_by_alias(CHAMPION, "champion")
    yield "champion", pages.open(f"#/models/{CHAMPION}/versions/{known.version}", "Limits")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        photograph(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            make(Path(scratch))
