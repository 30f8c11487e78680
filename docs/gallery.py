"""`python -m docs.gallery` makes a real search of some minutes, and docs/gallery.md with its pictures.

`python -m docs.gallery FOLDER` takes those of a finished search.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from tune import main
from tuner import commands, finished, search_report

PAGE = Path(__file__).with_name("gallery.md")
FOLDER = Path(__file__).with_name("images") / "gallery"
SEARCH = ("--method", "kd", "--trials", "24", "--confirm-top", "2", "--confirm-seeds", "3")
HEAD = """# Gallery

The pictures of one real search as they stand in its report, each with the caption that the report gives it.
`python -m docs.gallery` makes a search and this page anew. The search:

    {command}

[reading-a-report.md](reading-a-report.md) says what each picture is for and how far to trust it.
"""


def make(out: Path) -> None:
    """Search in `out`, then write the page and its pictures."""
    status = main([*SEARCH, "--name", "gallery", "--out", str(out)])
    if status:
        sys.exit(status)
    write(out / "gallery")


def write(folder: Path) -> None:
    """The page and its pictures, of the finished search in `folder`."""
    known = finished.read(folder)
    pictures = search_report.look_back(known.planned, known.told, known.answer).pictures
    FOLDER.mkdir(exist_ok=True, parents=True)
    command = commands.command(known.planned).partition(" --out ")[0]
    parts = [HEAD.format(command=command)]
    for picture in pictures.values():
        shutil.copy(picture.path, FOLDER / picture.path.name)
        image = f"![{picture.title}](images/gallery/{picture.path.name})"
        parts.append(f"\n## {picture.title}\n\n{image}\n\n{picture.caption}\n")
    PAGE.write_text("".join(parts), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        write(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            make(Path(scratch))
