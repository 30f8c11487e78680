"""A report's two forms, filled in from their templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape

from tuner.journal import Journal


def write(template: str, page: dict[str, Any], folder: Path, journal: Journal) -> None:
    """report.md and report.html of the templates of that name into the search's folder, and its MLflow run."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(["html.jinja"], default_for_string=False),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for form in ("md", "html"):
        path = folder / f"report.{form}"
        path.write_text(
            environment.get_template(f"{template}.{form}.jinja").render(**page), "utf-8"
        )
        journal.write("file", id="", path=str(path))
