"""The report as Markdown, for documentation: one matrix a family, and why some laws and components are missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .matrix import MEANINGS, SYMBOLS, absent_by_reason, by_reason, columns, matrix, search, verdict
from .outcome import Outcome, Report, Status
from .overview import Place, overview, towers

ABSENT = "∅"


def to_markdown(reports: Sequence[Report]) -> str:
    """One page over the reports of one or several families.

    Raises:
        ValueError: an empty sequence.
    """
    if not reports:
        raise ValueError("there is no report to show; hand in at least one")
    out = ["# Families, components and laws", ""]
    out += [f"`intervene conform {' '.join(r.family for r in reports)} --markdown` makes this page.", ""]
    out += ["Families: " + ", ".join(_link(r) for r in reports) + ".", ""]
    out += ["## How to read it", ""]
    used = [s for s in Status if any(o.status is s for r in reports for o in r)]
    out += [f"- {SYMBOLS[s]} {s.value}: {MEANINGS[s]}" for s in used]
    out += [f"- {ABSENT} absent: the family has no such component, for a reason that its section gives"]
    out += ["- ·: the law is about one component at a time, and the row is about the whole family"]
    out += [
        "- a number: so many checks, as of a component's relations in the spec; 1 of 3 where the others ended better"
    ]
    out += ["", "The laws:", ""]
    laws = {law: statement for report in reports for law, statement in report.laws.items()}
    out += [f"- `{law}`: {statement}" for law, statement in laws.items()]
    out += ["", "## Families", ""]
    rows = [(_link(r), "yes" if r.passed else "**no**", *(str(n) for n in r.counts().values())) for r in reports]
    out += _table(("family", "conforms", *reports[0].counts()), rows)
    out += ["## Components by family", "", "How many checks of a component passed.", ""]
    heads = (f"{_link(c.report)} {c.part}".rstrip() for c in towers(reports))
    places = [(f"`{name}`", *map(_place, found)) for name, found in overview(reports)]
    out += _table(("component", *heads), places)
    for report in reports:
        out += _family(report)
    return "\n".join(out).rstrip() + "\n"


def _link(report: Report) -> str:
    return f"[{report.title}](#{report.family})"


def _place(place: Place) -> str:
    if place.absent:
        return ABSENT
    return "·" if place.status is None else f"{SYMBOLS[place.status]} {place.count}"


def _family(report: Report) -> Iterator[str]:
    yield from (f'<a id="{report.family}"></a>', "", f"## {report.title}", "")
    yield from (f"{verdict(report)}; {search(report)}.", "")
    yield from (", ".join(f"{name} {version}" for name, version in report.versions.items()) + ".", "")
    if report.models:
        yield from (f"Models: {'; '.join(report.models)}.", "")
    rows = []
    for title, cells in matrix(report):
        shown = [" ".join(filter(None, (SYMBOLS[c.status], c.tally))) if c.status else "·" for c in cells]
        rows.append((f"`{title}`", *shown))
    yield from _table(("component", *(f"`{law}`" for law in columns(report))), rows)
    for status in (Status.NOT_APPLICABLE, Status.EXPECTED_FAILURE):
        found = [o for o in report if o.status is status]
        if found:
            yield from (f"{status.value.capitalize()}:", "", *_reasons(found), "")
    for outcome in report.failures:
        yield from (f"- **{outcome.id}** {outcome.status.value}: {outcome.message}", "")
    if report.limits:
        yield from ("Components that some models or settings lack:", "")
        yield from (f"- `{name}`: {'; '.join(sentences)}" for name, sentences in report.limits.items())
        yield ""
    if report.absent:
        yield from ("Components that no model of the family has:", "")
        for reason, names in absent_by_reason(report).items():
            yield f"- {reason}: {', '.join(f'`{name}`' for name in names)}"
        yield ""


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
