"""The report as one self-contained HTML page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from ..extras import needed
from .matrix import (
    MEANINGS,
    SYMBOLS,
    WHOLE_FAMILY,
    Cell,
    absent_by_reason,
    by_reason,
    columns,
    duration,
    matrix,
    search,
    verdict,
)
from .outcome import Outcome, Report, Status
from .overview import overview, towers

# What a cell says beside its symbol; the full word is in its title.
_SHORT = {
    Status.PASSED: "passed",
    Status.FAILED: "failed",
    Status.NOT_APPLICABLE: "n/a",
    Status.EXPECTED_FAILURE: "expected",
    Status.UNEXPECTED_PASS: "unexpected",
}


def to_html(reports: Report | Sequence[Report]) -> str:
    """One report, or those of several families, as one page that needs no other file and no network.

    Raises:
        MissingDependencyError: jinja2 is not installed.
        ValueError: an empty sequence.
    """
    several = [reports] if isinstance(reports, Report) else list(reports)
    if not several:
        raise ValueError("there is no report to show; hand in at least one")
    laws: dict[str, str] = {}
    for report in several:
        laws.update({law: report.laws.get(law, "") for law in columns(report)} | laws)
    page: str = _template().render(
        reports=several,
        laws=laws,
        verdict=verdict(several[0]) if len(several) == 1 else _verdict_of(several),
        passed=all(r.passed for r in several),
    )
    return page


def _verdict_of(reports: Sequence[Report]) -> str:
    wrong = [r.title for r in reports if not r.passed]
    if not wrong:
        return f"All {len(reports)} families conform"
    return f"{len(wrong)} of {len(reports)} families {'does' if len(wrong) == 1 else 'do'} not conform: " + ", ".join(
        wrong
    )


@cache
def _template() -> Any:
    with needed("jinja2", extra="conformance", by="the HTML report"):
        from jinja2 import Environment, PackageLoader, StrictUndefined
    environment = Environment(
        loader=PackageLoader(__package__ or "intervene.conformance", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        Status=Status,
        SYMBOLS=SYMBOLS,
        WHOLE_FAMILY=WHOLE_FAMILY,
        MEANINGS=MEANINGS,
        SHORT=_SHORT,
        matrix=matrix,
        columns=columns,
        column_cells=column_cells,
        search=search,
        verdict_of=verdict,
        by_reason=by_reason,
        absent_by_reason=absent_by_reason,
        overview=overview,
        towers=towers,
        with_status=with_status,
    )
    environment.filters.update(duration=duration, slug=_slug, klass=_klass)
    return environment.get_template("report.html.j2")


def with_status(report: Report, *statuses: Status) -> list[Outcome]:
    """The report's outcomes that ended in one of ``statuses``."""
    return [o for o in report if o.status in statuses]


def column_cells(report: Report, laws: Iterable[str]) -> list[Cell]:
    """One cell for each law, over all components: the report's line in the overview of several families."""
    return [Cell(report.title, law, tuple(o for o in report if o.law == law)) for law in laws]


def _slug(text: str) -> str:
    """``text`` as part of an HTML id."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text)


def _klass(status: Status | None) -> str:
    return status.value.replace(" ", "-") if status is not None else "empty"
