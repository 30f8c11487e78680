"""MLflow's pages in a real browser: Debian's Chromium, without a window, hearing every error of a script."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")  # root has no sandbox
# A browser's own word for a layout that took it more than one frame; nothing has failed.
HARMLESS = "ResizeObserver loop completed with undelivered notifications"
PATIENCE_MS = 90_000  # for a page to show what it must
# What MLflow would otherwise put over the first page that a new browser opens.
SEEN = """
try {
    localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
    localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
} catch (refused) {}  // a frame with a file of ours in it has no storage
"""
# Charts are drawn by plotly: a trace is a path, a bar, a point or a parallel-coordinates' canvas.
TRACES = ".js-plotly-plot .trace, .js-plotly-plot .parcoords, .js-plotly-plot .point"
FLAT = "workflowType=machine_learning"


class Pages:
    """A browser's tab on an MLflow server, and what went wrong in it."""

    def __init__(self, page: Any, uri: str) -> None:
        self.page, self.uri = page, uri
        self.errors: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.add_init_script(SEEN)
        page.on("pageerror", self._failed)
        page.on("console", self._hear)
        page.on("response", self._answered)

    def _failed(self, error: Any) -> None:
        self._note(str(error))

    def _note(self, text: str) -> None:
        if HARMLESS not in text:
            self.errors.append(text)

    def _hear(self, message: Any) -> None:
        """A script's own complaint; that a file was not there is heard with the answer."""
        if message.type == "error" and "Failed to load resource" not in message.text:
            self._note(message.text)

    def _answered(self, response: Any) -> None:
        if response.status >= 500:
            self.errors.append(f"{response.status} {response.url}")

    def open(self, fragment: str, *shown: str) -> Any:
        """The page `#/...`, once every text of `shown` can be seen."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.uri}/{fragment}")
        for text in shown:
            self.page.get_by_text(text).locator("visible=true").first.wait_for()
        return self.page

    def table(self, experiment: str, query: str = "", *shown: str) -> Any:
        """The runs of an experiment."""
        wanted = f"&searchFilter={quote(query)}" if query else ""
        return self.open(f"#/experiments/{experiment}/runs?{FLAT}{wanted}", *shown)

    def traces(self, at_least: int = 1) -> int:
        """How many things are drawn in the page's charts, once there are `at_least` so many."""
        self.page.wait_for_function(
            "([what, n]) => document.querySelectorAll(what).length >= n", arg=[TRACES, at_least]
        )
        return int(self.page.locator(TRACES).count())


@contextmanager
def browser(uri: str, width: int = 1400) -> Iterator[Pages]:
    """A tab of a fresh browser on the server at `uri`, `width` pixels wide: columns beyond that are not there."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        try:
            yield Pages(chromium.new_page(viewport={"width": width, "height": 900}), uri)
        finally:
            chromium.close()
