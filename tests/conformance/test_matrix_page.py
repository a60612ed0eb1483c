"""docs/matrix.md and docs/matrix.html are about the families, components and laws that there are.

What they found is not checked again here; test_families.py holds every family against every law.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import intervene
from intervene.conformance import all_laws, generate_checks

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE = (DOCS / "matrix.md").read_text(encoding="utf-8")
HTML = (DOCS / "matrix.html").read_text(encoding="utf-8")
AGAIN = "make the page again: CONTRIBUTING.md says how"
OWN = sorted(n for n, adapter in intervene.families().items() if adapter.__module__.startswith("intervene."))
SECTIONS = dict(re.findall(r'^<a id="(\w+)"></a>\n(.*?)(?=^<a id=|\Z)', PAGE, re.MULTILINE | re.DOTALL))


def table(text: str) -> list[list[str]]:
    """The first table's cells, without code marks."""
    lines = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert lines is not None
    rows = [[cell.strip(" `") for cell in line.strip("|").split(" | ")] for line in lines.group().splitlines()]
    return [rows[0], *rows[2:]]


def test_every_family_has_a_section() -> None:
    assert list(SECTIONS) == OWN, AGAIN
    assert list(re.findall(r'<section id="(\w+)">', HTML)) == OWN, AGAIN


@pytest.mark.parametrize("family", OWN)
def test_rows_columns_and_reasons_are_the_specs(family: str) -> None:
    section, spec = SECTIONS[family], intervene.families()[family].load_spec()
    head, *rows = table(section)
    assert head == ["component", *all_laws()], AGAIN
    towers = [(f"{tower.name}." if tower.name else "", tower) for tower in spec.towers.values()]
    claimed = [prefix + name for prefix, tower in towers for name in tower.components]
    assert [row[0] for row in rows] == [*claimed, "whole family"], AGAIN
    for prefix, tower in towers:
        for name, reason in tower.lacking().items():
            if not prefix and len(towers) > 1:
                continue  # of a model with towers, most is theirs
            assert re.search(rf"^- {re.escape(reason)}: .*`{prefix}{name}`", section, re.MULTILINE), (name, AGAIN)


@pytest.mark.parametrize("family", OWN)
def test_all_checks_were_run_and_every_cell_is_green_or_explained(family: str) -> None:
    section, title = SECTIONS[family], intervene.families()[family].load_spec().title
    count = len(list(generate_checks(family)))
    assert f"{title} conforms: {count:,} checks, none failed" in section, AGAIN
    assert f"{title} conforms: {count:,} checks, none failed" in HTML, AGAIN
    _, *rows = table(section)
    for name, *cells in rows:
        assert all(re.fullmatch(r"✓( \d+( of \d+)?)?|–( \d+)?|·", cell) for cell in cells), (name, cells)
        assert "·" not in cells or name == "whole family", name
