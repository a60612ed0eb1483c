"""The HTML report: complete, escaped, and of one piece."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser

import pytest

from intervene.conformance import Outcome, Report, Status, to_html
from intervene.conformance.matrix import SYMBOLS

from .reports import (
    ABSENT,
    ABSENT_COMPONENTS,
    BAD,
    EXPECTED,
    FAILED,
    GOOD,
    LAWS,
    LIMITS,
    PARTIAL,
    PASSED,
    UNEXPECTED,
    outcome,
    report,
)

VOID = {"meta", "link", "br", "img", "input", "hr"}


@dataclass
class Page(HTMLParser):
    """A page read by Python's own parser: tags that must balance, attributes, and texts by element."""

    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    cells: list[tuple[str, str, str]] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        found = {name: value or "" for name, value in attrs}
        self.attributes += [(tag, name, value) for name, value in found.items()]
        if tag == "td":
            self.cells.append((found.get("class", ""), found.get("title", ""), ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "td" in self.open:
            klass, title, text = self.cells[-1]
            self.cells[-1] = klass, title, text + data

    def values(self, name: str) -> list[str]:
        return [value for _, own, value in self.attributes if own == name]


def read(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert not page.open
    return page


@pytest.mark.parametrize("reports", [GOOD, BAD, PARTIAL, [GOOD, BAD, PARTIAL], report()])
def test_well_formed_and_self_contained(reports: Report | list[Report]) -> None:
    html = to_html(reports)
    page = read(html)
    assert not {tag for tag, _, _ in page.attributes} & {"script", "link", "img", "iframe", "object", "base"}
    assert not page.values("src")
    assert not page.values("style")
    assert all(href.startswith("#") for href in page.values("href"))
    assert not re.search(r"url\(|@import|https?://", html)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {href[1:] for href in page.values("href")} <= set(ids)


def test_cells_have_colour_symbol_and_word() -> None:
    by_class = {klass: text for klass, _, text in read(to_html(BAD)).cells}
    words = {
        Status.PASSED: "passed",
        Status.FAILED: "failed",
        Status.NOT_APPLICABLE: "n/a",
        Status.EXPECTED_FAILURE: "expected",
        Status.UNEXPECTED_PASS: "unexpected",
    }
    for status, word in words.items():
        text = by_class[status.value.replace(" ", "-")]
        assert text.split() == [SYMBOLS[status], word]


def test_hover_explains() -> None:
    page = read(to_html(BAD))
    titles = page.values("title")
    assert any(ABSENT.reason in t and ABSENT.id in t for t in titles)
    assert any(FAILED.message in t for t in titles)
    assert set(LAWS.values()) <= set(titles)


def test_everything_is_told() -> None:
    text = " ".join(read(to_html(BAD)).text.split())
    told = [FAILED.message, *FAILED.example, EXPECTED.reason, UNEXPECTED.reason, ABSENT.reason, *LAWS.values()]
    told += ["torch 2.13.0", "profile ci", "derandomized", "41 s", "1 expected failure", "3 passed"]
    told += ["ToyHead, wide", "no rotary <i>embedding</i>", "query_rotated, key_rotated", *LIMITS["block_output"]]
    for words in told:
        assert words in text, words
    for each in BAD:
        assert each.id in text
    assert "Toy & Co does not conform: 2 of 7 checks failed" in text


def test_markup_in_messages_is_text() -> None:
    evil = outcome(
        "put_get:block_output",
        Status.FAILED,
        message="<script>alert(1)</script>",
        example=("<img src=x>",),
        reason='"><b>',
    )
    html = to_html(report(evil, title="<i>Toy</i>"))
    page = read(html)
    assert not {tag for tag, _, _ in page.attributes} & {"script", "img"}
    assert "<script>" not in html
    assert "<i>" not in html
    assert evil.message in page.text
    assert evil.reason in page.text


def test_several_families_share_a_page() -> None:
    page = read(to_html([GOOD, BAD]))
    text = " ".join(page.text.split())
    assert "1 of 2 families does not conform: Toy & Co" in text
    assert {"good", "toy"} <= set(page.values("id"))
    assert text.count("Components by family") == 2  # the link to it, and its heading
    assert not any("query_rotated" in t for t in page.values("title"))  # a row that no family has
    assert "block_output: 2 passed" in page.values("title")
    assert "All 2 families conform" in read(to_html([GOOD, report(*GOOD, family="other")])).text
    with pytest.raises(ValueError, match="no report"):
        to_html([])


def test_reasons_are_grouped() -> None:
    many: list[Outcome] = [
        outcome(f"generation:{c}", Status.NOT_APPLICABLE, reason="one reason for all") for c in "abcdef"
    ]
    html = to_html(report(*many))
    listed = html[html.index("Where a law does not apply") :]
    assert listed.count("one reason for all") == 1
    assert all(f"generation:{c}" in listed for c in "abcdef")


def test_absent_components_are_explained_in_the_table_of_families() -> None:
    other = report(outcome("identity:query_rotated"), family="other", title="Other")
    titles = read(to_html([replace(GOOD, absent=ABSENT_COMPONENTS), replace(other, absent={})])).values("title")
    assert "query_rotated is absent: no rotary <i>embedding</i>" in titles
    assert "query_rotated: 1 passed" in titles


def test_an_empty_cell_says_why() -> None:
    cells = read(to_html(report(*PASSED, outcome("identity:two models", component="")))).cells
    titles = {title for klass, title, _ in cells if klass == "empty"}
    assert "meaning is about one component at a time" in titles
