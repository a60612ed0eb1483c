"""Markdown for the terminal whose tables lose no text on a narrow one."""

from __future__ import annotations

from typing import ClassVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Markdown, MarkdownElement, TableElement
from rich.table import Table


class WholeTable(TableElement):
    """A table whose cells break rather than end in dots; of up to three columns the first, names to copy, stays in
    one piece."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for part in super().__rich_console__(console, options):
            if isinstance(part, Table):
                for column in part.columns:
                    column.overflow = "fold"
                part.columns[0].no_wrap = len(part.columns) <= 3
            yield part


class Page(Markdown):
    """A page with such tables."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {**Markdown.elements, "table_open": WholeTable}
