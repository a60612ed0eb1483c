"""The report as Markdown, for documentation: one matrix a family, and why some laws don't apply."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .matrix import MEANINGS, SYMBOLS, by_reason, columns, matrix, search, verdict
from .outcome import Outcome, Report, Status


def to_markdown(reports: Sequence[Report]) -> str:
    """One page over the reports of one or several families.

    Raises:
        ValueError: an empty sequence.
    """
    if not reports:
        raise ValueError("there is no report to show; hand in at least one")
    out = ["# Families and laws", ""]
    out += [f"`intervene conform {' '.join(r.family for r in reports)} --markdown` makes this page.", ""]
    used = [s for s in Status if any(o.status is s for r in reports for o in r)]
    out += [f"- {SYMBOLS[s]} {s.value}: {MEANINGS[s]}" for s in used]
    out += ["- an empty cell: the law has nothing to check there", ""]
    laws = {law: statement for report in reports for law, statement in report.laws.items()}
    out += [f"- `{law}`: {statement}" for law, statement in laws.items()]
    out += [""]
    rows = [
        (f"[{r.title}](#{r.family})", "yes" if r.passed else "**no**", *(str(n) for n in r.counts().values()))
        for r in reports
    ]
    out += _table(("family", "conforms", *reports[0].counts()), rows)
    for report in reports:
        out += _family(report)
    return "\n".join(out).rstrip() + "\n"


def _family(report: Report) -> Iterator[str]:
    yield from (f'<a id="{report.family}"></a>', "", f"## {report.title}", "")
    yield from (f"{verdict(report)}; {search(report)}.", "")
    yield from (", ".join(f"{name} {version}" for name, version in report.versions.items()) + ".", "")
    rows = []
    for title, cells in matrix(report):
        shown = [" ".join(filter(None, (SYMBOLS[c.status], c.tally))) if c.status else "" for c in cells]
        rows.append((f"`{title}`", *shown))
    yield from _table(("component", *(f"`{law}`" for law in columns(report))), rows)
    for status in (Status.NOT_APPLICABLE, Status.EXPECTED_FAILURE):
        found = [o for o in report if o.status is status]
        if found:
            yield from (f"{status.value.capitalize()}:", "", *_reasons(found), "")
    for outcome in report.failures:
        yield from (f"- **{outcome.id}** {outcome.status.value}: {outcome.message}", "")


def _reasons(outcomes: Sequence[Outcome]) -> Iterator[str]:
    for reason, those in by_reason(outcomes).items():
        by_law: dict[str, list[str]] = {}
        for outcome in those:
            by_law.setdefault(outcome.law, []).append(outcome.subject)
        named = "; ".join(f"`{law}` of {', '.join(names)}" for law, names in by_law.items())
        yield f"- {reason}: {named}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|---|{':-:|' * (len(head) - 1)}"
    yield from (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
    yield ""
