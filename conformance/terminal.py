"""The report in a terminal: a matrix that fits 80 columns, and failures in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .matrix import MEANINGS, SYMBOLS, Cell, by_reason, columns, matrix, rows, search, verdict
from .outcome import Outcome, Report, Status

STYLES = {
    Status.PASSED: "green",
    Status.FAILED: "bold red",
    Status.NOT_APPLICABLE: "dim",
    Status.EXPECTED_FAILURE: "yellow",
    Status.UNEXPECTED_PASS: "bold magenta",
}
# For terminals that can't show the symbols.
_ASCII = {**SYMBOLS, Status.PASSED: "+", Status.FAILED: "X", Status.NOT_APPLICABLE: "-"}
_COLUMN = 4


def show(report: Report, console: Console | None = None) -> None:
    """Print a report: matrix, legend, what is wrong in words, the verdict last, where a reader's eye is."""
    console = console or Console(highlight=False)
    symbols = SYMBOLS if console.encoding.lower().startswith("utf") else _ASCII
    for part in _parts(report, symbols, console.width):
        console.print(part)


def abbreviations(laws: Iterable[str]) -> dict[str, str]:
    """Two or three letters for each law, all different: initials for several words, else how it begins.

    >>> abbreviations(["identity", "put_get", "local"])
    {'identity': 'ide', 'put_get': 'pg', 'local': 'loc'}
    """
    short: dict[str, str] = {}
    for law in laws:
        words = [w for w in law.split("_") if w]
        wanted = "".join(w[0] for w in words)[:3] if len(words) > 1 else law[:3]
        # Laws that begin alike: the first two letters and a later one that is still free.
        rest = [wanted[:2] + letter for letter in law[3:] if letter != "_"]
        free = (c for c in (wanted, *rest, *(f"{wanted[:2]}{n}" for n in range(1, 10))) if c not in short.values())
        short[law] = next(free)
    return short


def _parts(report: Report, symbols: dict[Status, str], width: int) -> Iterator[RenderableType]:
    short = abbreviations(columns(report))
    room = max(len(name) for name in (*rows(report), "whole family")) + 1
    fitting = max(1, (width - room) // _COLUMN)
    laws = list(short)
    for start in range(0, len(laws), fitting):
        yield _table(report, laws[start : start + fitting], short, symbols)
    yield _legend(report, short, symbols)
    absent = [o for o in report if o.status is Status.NOT_APPLICABLE]
    if absent:
        yield Text("\nNot applicable", style="bold")
        yield from _reasons(absent)
    expected = [o for o in report if o.status is Status.EXPECTED_FAILURE]
    if expected:
        yield Text("\nExpected failures", style="bold")
        yield from _reasons(expected)
    if report.failures:
        yield Text("\nWhat is wrong", style="bold")
        yield from (_failure(report, outcome, symbols) for outcome in report.failures)
    for note in report.notes:
        yield Text(f"\nNote: {note}")
    yield Text("")
    yield Text(", ".join(f"{name} {version}" for name, version in report.versions.items()), style="dim")
    yield Text(search(report), style="dim")
    good = report.passed
    mark = symbols[Status.PASSED if good else Status.FAILED]
    yield Text(f"{mark} {verdict(report)}", style="bold green" if good else "bold red")


def _table(report: Report, laws: Sequence[str], short: dict[str, str], symbols: dict[Status, str]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for law in laws:
        table.add_column(short[law], justify="center", width=_COLUMN - 1, no_wrap=True)
    chosen = set(laws)
    for title, cells in matrix(report):
        table.add_row(title, *(_cell(c, symbols) for c in cells if c.law in chosen))
    return table


def _cell(cell: Cell, symbols: dict[Status, str]) -> Text:
    if cell.status is None:
        return Text("")
    return Text(symbols[cell.status], style=STYLES[cell.status])


def _legend(report: Report, short: dict[str, str], symbols: dict[Status, str]) -> RenderableType:
    laws = Table.grid(padding=(0, 1))
    laws.add_column(style="bold", no_wrap=True)
    laws.add_column(style="bold", no_wrap=True)
    laws.add_column()
    for law, letters in short.items():
        laws.add_row(letters, law, report.laws.get(law, ""))
    statuses = {o.status for o in report}
    marks = Table.grid(padding=(0, 1))
    marks.add_column(no_wrap=True)
    marks.add_column()
    for status in Status:
        if status in statuses:
            words = f"{status.value} ({report.counts()[status.value]}): {MEANINGS[status]}"
            marks.add_row(Text(symbols[status], style=STYLES[status]), words)
    return Group(Text(""), laws, Text(""), marks)


def _reasons(outcomes: Sequence[Outcome]) -> Iterator[RenderableType]:
    for reason, group in by_reason(outcomes).items():
        yield Padding(Text(reason or "no reason given"), (0, 0, 0, 2))
        yield Padding(Text(", ".join(o.id for o in group), style="dim"), (0, 0, 0, 4))


def _failure(report: Report, outcome: Outcome, symbols: dict[Status, str]) -> RenderableType:
    style = STYLES[outcome.status]
    lines: list[RenderableType] = [
        Text.assemble((f"{symbols[outcome.status]} {outcome.id}", style), f"  {outcome.status.value}")
    ]
    message = outcome.message or (MEANINGS[outcome.status] if outcome.status is Status.UNEXPECTED_PASS else "")
    if message:
        lines.append(Padding(Text(message), (0, 0, 0, 2)))
    if outcome.reason:
        lines.append(Padding(Text(f"reason: {outcome.reason}"), (0, 0, 0, 2)))
    if report.laws.get(outcome.law):
        lines.append(Padding(Text(f"the law: {report.laws[outcome.law]}", style="dim"), (0, 0, 0, 2)))
    if outcome.example:
        lines.append(Padding(Text("minimal example:", style="dim"), (0, 0, 0, 2)))
        lines.append(Padding(Text("\n".join(outcome.example)), (0, 0, 0, 4)))
    return Group(*lines, Text(""))
