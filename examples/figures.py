"""What every example does with its outcome: a table on the terminal, a picture, and figures in a page of the docs."""

from __future__ import annotations

import intervene  # noqa: F401 - before transformers, which a torchvision of another build would break

# isort: split
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

PURPLE, LILAC, GRAY = "#54278f", "#9e9ac8", "#969696"

Row = Sequence[str]


def report(
    name: str,
    title: str,
    columns: Row,
    rows: Sequence[Row],
    *,
    seconds: float,
    figure: Figure,
    picture: Path | None,
    page: Path | None,
) -> None:
    """Print a table, write the picture, and put the table where ``page`` has ``<!-- figures: name -->``.

    Raises:
        ValueError: the page has no such place.
    """
    table = Table(*map(escape, columns), title=escape(title), title_justify="left")
    for row in rows:
        table.add_row(*map(escape, row))
    Console(width=120).print(table)
    if picture is not None:
        figure.savefig(picture, dpi=100)
    if page is not None:
        _write(page, name, _markdown(columns, rows, seconds))


def save_json(path: Path | None, figures: dict[str, Any]) -> None:
    """Write raw figures where a path is given."""
    if path is not None:
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _markdown(columns: Row, rows: Sequence[Row], seconds: float) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    threads = f"{torch.get_num_threads()} thread" + ("s" if torch.get_num_threads() > 1 else "")
    return f"{table}\n\n{seconds:.0f} seconds on {threads} ({platform.machine()}), torch {torch.__version__}."


def _write(page: Path, name: str, text: str) -> None:
    begin, end = f"<!-- figures: {name} -->", "<!-- end of figures -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{page} has no {begin} ... {end}")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
