"""A report's two forms, filled in from their templates, and tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape


def write(template: str, page: dict[str, Any], folder: Path) -> list[Path]:
    """report.md and report.html of the templates of that name into a folder; their paths."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(["html.jinja"], default_for_string=False),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    paths = []
    for form in ("md", "html"):
        text = environment.get_template(f"{template}.{form}.jinja").render(**page)
        paths.append(folder / f"report.{form}")
        paths[-1].write_text(text, "utf-8")
    return paths


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, header first."""
    written = ["| " + " | ".join(row) + " |" for row in rows]
    written.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(written)
