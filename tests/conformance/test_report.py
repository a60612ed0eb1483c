"""Reports: what they say of an adapter, as data and in a terminal."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

import intervene
from intervene.components import components
from intervene.conformance import Outcome, Report, Status, Subject, all_laws, check_adapter, generate_checks, show
from intervene.conformance.files import to_document
from intervene.conformance.matrix import columns, duration, matrix, rows, verdict
from intervene.conformance.overview import overview, towers
from intervene.conformance.terminal import abbreviations

from .reports import ABSENT, BAD, EXPECTED, FAILED, GOOD, LAWS, PARTIAL, PASSED, UNEXPECTED, outcome, report


def shown(report: Report, width: int = 80, encoding: str = "utf-8") -> str:
    buffer = io.BytesIO()
    file = io.TextIOWrapper(buffer, encoding=encoding)
    show(report, Console(file=file, width=width, highlight=False))
    file.flush()
    return buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("bad", [FAILED, UNEXPECTED])
def test_one_bad_outcome_is_enough(bad: Outcome) -> None:
    assert report(*PASSED, EXPECTED, ABSENT).passed
    found = report(*PASSED, EXPECTED, ABSENT, bad)
    assert not found.passed
    assert found.failures == (bad,)
    with pytest.raises(AssertionError, match=bad.id):
        found.raise_if_failed()


@pytest.mark.parametrize("outcomes", [(), (ABSENT,), (EXPECTED,)])
def test_nothing_that_passed_is_no_pass(outcomes: tuple[Outcome, ...]) -> None:
    assert not report(*outcomes).passed
    with pytest.raises(AssertionError, match="no check applied"):
        report(*outcomes).raise_if_failed()
    assert "does not conform" in verdict(report(*outcomes))


def test_data_round_trip() -> None:
    data = json.loads(json.dumps(BAD.to_dict()))
    assert Report.from_dict(data) == BAD
    assert data["passed"] is False
    assert data["counts"]["failed"] == 1
    assert to_document([GOOD, BAD])["passed"] is False
    assert to_document([GOOD])["passed"] is True


def test_every_outcome_has_a_cell() -> None:
    stray = outcome("novelty:elsewhere", Status.FAILED)
    found = report(*BAD.outcomes, stray)
    assert rows(found) == (*BAD.components, "elsewhere", "")
    assert columns(found) == (*LAWS, "novelty")
    cells = [cell for _, line in matrix(found) for cell in line]
    twice = [o.id for o in found for _ in o.also]
    assert sorted(o.id for cell in cells for o in cell.outcomes) == sorted([*(o.id for o in found), *twice])


def test_a_relation_is_in_the_row_of_every_component_that_it_names() -> None:
    lines = dict(matrix(GOOD))
    for row in ("block_output", "block_input"):
        (cell,) = [c for c in lines[row] if c.law == "meaning"]
        assert [o.id for o in cell.outcomes] == ["meaning:chain:block_output"]


@pytest.mark.parametrize("family", ["blip", "gpt2", "mamba_ssm", "mixtral"])
def test_no_empty_cell_but_those_of_the_whole_family(family: str) -> None:
    """Each component is in a check of every law, and in a relation: no cell is without an outcome."""
    subject = Subject(family)
    cells = {(row, c.law.id) for c in generate_checks(subject) for row in (c.row, *c.also)}
    missing = [(row, law) for row in subject.all_claimed for law in all_laws() if (row, law) not in cells]
    assert not missing


def test_components_by_family() -> None:
    blip = check_adapter("blip", laws=["shaped"], components=["logits"])
    columns = towers([GOOD, blip])
    assert [(c.report.family, c.part) for c in columns] == [
        ("good", ""),
        ("blip", "vision"),
        ("blip", "text_encoder"),
        ("blip", "text_decoder"),
        ("blip", "as a whole"),
    ]
    lines = dict(overview([GOOD, blip]))
    assert [p.words for p in lines["logits"]] == [
        "logits: not checked",
        "logits is absent: the vision tower ends at final_norm_output; captions' and answers' logits are "
        "text_decoder.logits",
        "logits is absent: the text encoder has no head over its tokens",
        "logits: 1 passed",
        "logits: 1 passed",
    ]
    assert lines["block_output"][0].words == "block_output: 2 passed"
    assert lines["block_output"][-1].absent == "it belongs to vision and text_encoder and text_decoder"


def test_every_component_of_the_vocabulary_is_there_or_absent_with_a_reason() -> None:
    for family in ("blip", "esm", "mamba", "timm_vit"):
        if not intervene.families()[family].available():
            continue
        subject = Subject(family)
        absent = subject.absent
        assert all(absent.values())
        for one in subject.by_tower:
            for name in components():
                row = one.prefix + name
                assert (row in absent) != (name in one.claimed), row


def test_limits_say_which_model_lacks_what() -> None:
    limits = Subject("esm").limits
    assert limits["logits"] == (
        "not in EsmModel: the bare model has no head and ends at final_norm_output; load EsmForMaskedLM for logits",
    )
    assert limits["query_rotated"][0].startswith("not in EsmForMaskedLM as absolute: ")
    assert 'attn_implementation="eager"' in limits["attention_pattern"][0]
    assert "block_output" not in limits


def test_a_cell_shows_its_worst_outcome() -> None:
    for better, worse in [
        (Status.PASSED, Status.FAILED),
        (Status.PASSED, Status.UNEXPECTED_PASS),
        (Status.PASSED, Status.EXPECTED_FAILURE),
        (Status.NOT_APPLICABLE, Status.PASSED),
    ]:
        pair = [outcome("meaning:a", better, "block_output"), outcome("meaning:b", worse, "block_output")]
        (cell,) = [c for _, line in matrix(report(*pair)) for c in line if c.outcomes]
        assert cell.status is worse
        assert cell.tally == "1 of 2"


def test_a_part_of_the_checks_is_no_verdict_over_all() -> None:
    assert verdict(PARTIAL) == "Part conforms so far: 1 of 40 checks ran, none failed"
    assert rows(PARTIAL) == ("block_output",)
    assert columns(PARTIAL) == ("identity",)
    assert verdict(GOOD) == "Good conforms: 4 checks, none failed"
    assert verdict(BAD) == "Toy & Co does not conform: 2 of 7 checks failed"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (9.96, "10.0 s"), (41.2, "41 s"), (200, "3 min 20 s"), (119.6, "2 min 00 s")],
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_abbreviations_are_short_and_differ() -> None:
    laws = ["causal", "caught", "cautious", "put_get", "put_go", "local", "attention_implementations", "id"]
    short = abbreviations(laws)
    assert list(short) == laws
    assert len(set(short.values())) == len(laws)
    assert all(1 < len(letters) <= 3 for letters in short.values())


def test_terminal_fits_eighty_columns() -> None:
    many = {f"law_{'abcdefghijklmnopqrst'[i]}": "a long statement " * 9 for i in range(20)}
    outcomes = [outcome(f"{law}:head_attention_value_output") for law in many]
    wide = Report("f", "F", tuple(outcomes), "ci", 3, {}, ("head_attention_value_output",), many)
    for text in (shown(wide), shown(BAD)):
        assert max(len(line) for line in text.splitlines()) <= 80
    # Too many laws for one table: each still has a cell.
    assert shown(wide).count("✓") == 20 + 2  # the legend and the verdict


def test_terminal_says_what_is_wrong() -> None:
    text = " ".join(shown(BAD).split())
    assert FAILED.message in text
    assert all(line in text for line in FAILED.example)
    assert "our issue 12" in text
    assert "our issue 13" in text
    assert "take it off the list" in text
    assert ABSENT.reason in text
    assert "generation:model" in text
    assert text.endswith("✗ Toy & Co does not conform: 2 of 7 checks failed")
    assert "derandomized" in text
    assert "torch 2.13.0" in text


def test_terminal_without_unicode() -> None:
    text = shown(BAD, encoding="ascii")
    assert "X put_get:block_output" in text


def test_terminal_shows_no_markup() -> None:
    markup = outcome("put_get:block_output", Status.FAILED, message="[bold]not[/bold] [0, 1]", reason="[red]why")
    text = shown(report(markup))
    assert "[bold]not[/bold] [0, 1]" in text
    assert "[red]why" in text
