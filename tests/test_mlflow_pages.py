"""MLflow as people meet it: one real search of two methods, its store, and its pages in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import pytest

from tests.browsing import CHROMIUM, Pages, browser
from tests.conftest import Command
from tests.serving import Server
from tuner import registry, views
from tuner.delivery import NOTE
from tuner.journal import Story, story
from tuner.model_card import FILE

TWO = (
    *("--method", "kd", "dkd", "--trials", "3", "--epochs", "2", "--confirm-top", "1"),
    *("--confirm-seeds", "2", "--evaluate", "none", "--teacher", "convnet8"),
    *("--teacher-epochs", "4", "--name", "two"),
)
CHAMPION = "kdtune-digits-convnet4"
in_a_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]


class League(NamedTuple):
    """Two finished searches in one experiment, and their store."""

    out: Path
    client: Any
    experiment: str

    def told(self, method: str) -> Story:
        return story(self.out / f"two-{method}")

    def runs(self, query: str = "", order: str = "attributes.start_time ASC") -> list[Any]:
        return list(self.client.search_runs([self.experiment], query, order_by=[order]))

    def run(self, method: str, key: str = "search") -> Any:
        (found,) = self.runs(f"tags.`kd.search` = 'two-{method}' and tags.`kd.key` = '{key}'")
        return found


@pytest.fixture(scope="module")
def league(tmp_path_factory: pytest.TempPathFactory, tune: Callable[..., Command]) -> League:
    out = tmp_path_factory.mktemp("runs")
    done = tune(*TWO, "--out", out)
    assert done.status == 0, done.err
    assert f"viewStateShareKey={views.KEY}" in done.out
    client = mlflow.MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    return League(out, client, client.get_experiment_by_name("two").experiment_id)


@pytest.fixture(scope="module")
def pages(league: League) -> Iterator[Pages]:
    server = Server(league.out)
    try:
        with browser(server.uri, width=2600) as made:
            yield made
    finally:
        server.kill()


def test_an_experiment_tells_each_question_and_answer(league: League) -> None:
    """Against the journals: one line of the table a method, and the winner's setting."""
    note = league.client.get_experiment(league.experiment).tags[NOTE]
    for method in ("kd", "dkd"):
        told = league.told(method)
        assert told.search["description"] in note
        assert f"\n| {method} | " in note and f"**{method}**: " in note
        own = league.run(method).data.tags[NOTE]
        assert f"trial {told.results['answer']['trial']}" in own or "nothing better" in own
        assert "| plain student |" in own and "report.html" in own


def test_runs_are_linked_with_data_and_models(league: League) -> None:
    """Against the journals: test where a student was judged there; the champion in its student's run too."""
    judged = {method: league.told(method).judged for method in ("kd", "dkd")}
    for run in league.runs("tags.`kd.student` LIKE '%'"):
        parts = {one.dataset.name.removeprefix("digits-") for one in run.inputs.dataset_inputs}
        tags = run.data.tags
        tested = tags["kd.key"] in judged[tags["kd.search"].removeprefix("two-")]
        assert parts == {"train", "validation", *(["test"] if tested else [])}
    for method in ("kd", "dkd"):
        champion = league.told(method).results["answer"]["champion"]["student"]
        (made,) = league.run(method, champion).outputs.model_outputs
        search = league.client.get_run(league.run(method).info.run_id)
        assert made.model_id in [one.model_id for one in search.outputs.model_outputs]
        assert len(search.inputs.model_inputs) == 1 and len(search.inputs.dataset_inputs) == 3


def test_a_champion_has_its_card_its_numbers_and_what_it_needs(league: League) -> None:
    """Against the journal, the card on disk and what is installed here."""
    for method in ("kd", "dkd"):
        champion = league.told(method).results["answer"]["champion"]["student"]
        tag = league.run(method).data.tags["kd.model"].removeprefix("models:/")
        name, _, number = tag.partition("/")
        made = league.client.get_model_version(name, number)
        card = (league.out / f"two-{method}" / FILE).read_text(encoding="utf-8")
        assert made.description == registry.in_short(card) and "## Limits" in card
        model = league.client.get_logged_model(made.source.removeprefix("models:/"))
        numbers = {one.key: one.value for one in model.metrics}
        judged = league.told(method).judged[champion]
        assert {key: numbers[key] for key in judged} == pytest.approx(judged)
        folder = Path(model.artifact_location.removeprefix("file://"))
        needed = (folder / "requirements.txt").read_text()
        assert f"torch=={version('torch').partition('+')[0]}\n" in needed and "numpy==" in needed
        assert (folder / "extra_files" / FILE).read_text(encoding="utf-8") == card
        info = mlflow.models.Model.load(str(folder))
        assert info.signature.inputs.inputs[0].shape == (-1, 1, 8, 8)
        assert info.saved_input_example_info


def test_settings_sort_as_numbers(league: League) -> None:
    """Against sorted(): MLflow's parameters are text, where 10 comes before 4."""
    query = "tags.`kd.kind` = 'search' and tags.`kd.key` != 'search'"
    name = views.as_metric("temperature")
    found = [run.data.metrics[name] for run in league.runs(query, f"metrics.`{name}` ASC")]
    assert len(found) == 6 and found == sorted(found)


@pytest.mark.parametrize("length", [10, registry.MAX_DESCRIPTION, 3 * registry.MAX_DESCRIPTION])
def test_a_long_card_is_cut_at_a_line(length: int) -> None:
    """Whole lines of the card, and where the rest is."""
    card = ("x" * 98 + "\n") * (length // 99 + 1)
    short = registry.in_short(card[:length])
    assert len(short) <= registry.MAX_DESCRIPTION
    rest = short.removesuffix(registry.ELSEWHERE)
    assert card.startswith(rest) and (length <= registry.MAX_DESCRIPTION) == (rest == short)


class TestInABrowser:
    """Each page shows what it must, draws its charts, and no script of it fails."""

    pytestmark = in_a_browser

    @pytest.fixture(autouse=True)
    def no_script_fails(self, pages: Pages) -> Iterator[None]:
        pages.errors.clear()
        yield
        assert pages.errors == []

    def test_runs_table(self, league: League, pages: Pages) -> None:
        """Columns of both methods, readable names, the best on validation first."""
        shown = ("val/accuracy", "test/accuracy", "value/temperature", "value/tckd", "kd.status")
        page = pages.open(views.address(league.experiment), "kd-000", *shown)
        best = league.runs(order="metrics.`val/accuracy` DESC")[0]
        names = page.locator("[role=row] a[href*='/runs/']").all_inner_texts()
        assert names[0] == best.info.run_name
        assert f"{len(league.runs())} matching runs" in page.inner_text("body")

    def test_charts(self, league: League, pages: Pages) -> None:
        """Parallel coordinates of each method, and a chart of the accuracy over epochs with a line for each run."""
        page = pages.open(
            f"{views.address(league.experiment)}&compareRunsMode=CHART", views.SECTION
        )
        pages.traces(at_least=2)
        assert page.locator(".js-plotly-plot").count() >= 2

    def test_comparison(self, league: League, pages: Pages) -> None:
        """The link in the search's description: parallel coordinates over what was searched."""
        link = re.search(r"\((#/compare-runs[^)]*)\)", league.run("kd").data.tags[NOTE])
        assert link is not None
        pages.open(link[1], "Parallel Coordinates Plot", "temperature", "alpha")
        assert pages.traces() >= 1

    def test_search(self, league: League, pages: Pages) -> None:
        """The search's run: the answer's table, and the way to the report."""
        run = league.run("kd")
        where = f"#/experiments/{league.experiment}/runs/{run.info.run_id}"
        page = pages.open(where, "Show more")
        page.get_by_text("Show more").first.click()
        page.get_by_text("published default").locator("visible=true").first.wait_for()
        page.get_by_text("the report").locator("visible=true").first.wait_for()

    def test_champion(self, league: League, pages: Pages) -> None:
        """The alias' version: its card and what it takes."""
        known = league.client.get_model_version_by_alias(CHAMPION, "champion")
        page = pages.open(f"#/models/{CHAMPION}/versions/{known.version}", "Limits", "Teacher")
        assert "champion" in page.inner_text("body")
        told = json.loads(known.tags["val/accuracy"])
        assert 0 < told <= 1
