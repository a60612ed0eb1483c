"""`intervene conform`: exit codes, and where what is printed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from intervene.cli import app

ADAPTER = Path(__file__).parent.parent / "stranger" / "plainformer" / "adapter.py"
PLAIN = f"{ADAPTER}:PlainformerAdapter"
BROKEN = """
from plainformer.adapter import PlainformerAdapter

class Broken(PlainformerAdapter):
    def components(self, config):
        table = dict(super().components(config))
        table["query_output"], table["key_output"] = table["key_output"], table["query_output"]
        return table
"""
FEW = ("--law", "meaning", "--component", "query_output")
ID = "meaning:projection:query_output"


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The stranger's adapter with queries and keys swapped, as a file."""
    monkeypatch.syspath_prepend(str(ADAPTER.parent.parent))
    (tmp_path / "broken.py").write_text(BROKEN)
    return f"{tmp_path}/broken.py:Broken"


def conform(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["conform", *map(str, arguments)], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})


def words(text: str) -> str:
    """Without the frame that typer draws around errors, and on one line."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", text).split())


def test_help_has_examples() -> None:
    result = conform("--help")
    assert result.exit_code == 0
    assert result.stdout.partition("Examples:")[2].count("intervene conform") >= 3
    for option in ("--law", "--component", "--profile", "--json", "--html", "--expected-failures", "--seed"):
        assert option in result.stdout


def test_an_adapter_that_conforms() -> None:
    result = conform(PLAIN, *FEW)
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert re.search(r"✓ Plainformer conforms so far: 1 of \d+ checks ran, none failed\s*$", result.stdout)


def test_an_adapter_that_does_not(broken: str, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    result = conform(broken, *FEW, "--html", page)
    assert result.exit_code == 1
    assert f"✗ {ID} failed" in words(result.stdout)
    assert "minimal example:" in result.stdout
    assert "✗ Plainformer does not conform: 1 of 1 check failed" in words(result.stdout)
    assert "report:" in result.stderr
    assert ID in page.read_text(encoding="utf-8")


def test_json_is_alone_on_stdout(broken: str) -> None:
    result = conform(broken, *FEW, "--json", "--seed", 7)
    assert result.exit_code == 1
    data = json.loads(result.stdout)
    assert data["passed"] is False
    (report,) = data["reports"]
    assert (report["family"], report["seed"], report["profile"]) == ("plainformer", 7, "ci")
    assert [o["id"] for o in report["outcomes"]] == [ID]
    assert report["outcomes"][0]["message"]


def test_several_adapters() -> None:
    result = conform(PLAIN, "gpt2", "--law", "shaped", "--component", "logits", "--json")
    assert result.exit_code == 0, result.output
    assert [r["family"] for r in json.loads(result.stdout)["reports"]] == ["plainformer", "gpt2"]


def test_processes_and_markdown(tmp_path: Path) -> None:
    page = tmp_path / "matrix.md"
    few = ("--law", "shaped", "--law", "generation", "--component", "attention_output")
    result = conform("gpt2", PLAIN, *few, "--jobs", 2, "--markdown", page)
    assert result.exit_code == 0, result.output
    text = page.read_text(encoding="utf-8")
    assert "| [GPT-2](#gpt2) | yes | 2 | 0 |" in text
    assert "| [Plainformer](#plainformer) | yes | 1 | 0 | 1 |" in text
    assert "| `attention_output` | ✓ | – |" in text
    assert "- the spec claims no model class that generates: `generation` of attention_output" in text


def test_a_failure_in_markdown(broken: str, tmp_path: Path) -> None:
    page = tmp_path / "matrix.md"
    assert conform(broken, *FEW, "--markdown", page).exit_code == 1
    text = page.read_text(encoding="utf-8")
    assert f"- **{ID}** failed: query_output = attention.query(attention_input)" in text
    assert "| `query_output` | ✗ |" in text


def test_expected_failures(broken: str, tmp_path: Path) -> None:
    path = tmp_path / "expected.toml"
    path.write_text(f'"{ID}" = "our issue 7"\n')
    several = ("--law", "shaped", *FEW, "--expected-failures", path)
    result = conform(broken, *several)
    assert result.exit_code == 0, result.output
    assert "our issue 7" in result.stdout
    result = conform(PLAIN, *several)
    assert result.exit_code == 1
    assert "unexpected pass" in result.stdout


def test_the_models_are_run_where_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """On torch's meta device, which draws no random numbers, no check can run."""
    (report,) = json.loads(conform(PLAIN, *FEW, "--device", "meta", "--json").stdout)["reports"]
    assert "'meta'" in report["outcomes"][0]["message"]


def test_thorough_tells_its_seed() -> None:
    (report,) = json.loads(conform(PLAIN, *FEW, "--profile", "thorough", "--json").stdout)["reports"]
    assert isinstance(report["seed"], int)
    assert report["outcomes"][0]["examples"] > 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name adapters, or say --all"),
        (("gpt2", "--all"), "name adapters, or say --all"),
        (("gpt2", "--jobs", "0"), "--jobs"),
        (("gpt",), "no family 'gpt'; there are"),
        (("gpt2", "--device", "gpu"), "device 'gpu' can't be used"),
        (("gpt2", "--law", "idetity"), "Did you mean 'identity'?"),
        (("gpt2", "--component", "query"), "no component 'query'"),
        (("gpt2", "--profile", "fast"), "'fast'"),
        (("gpt2", "--html", "nowhere/report.html"), "there is no folder nowhere"),
        (("gpt2", "--expected-failures", "nowhere.toml"), "nowhere.toml"),
        (("gpt2", "gpt2"), "family 'gpt2' is named twice"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], message: str) -> None:
    result = conform(*arguments)
    assert result.exit_code == 2
    assert message in words(result.stderr)
    assert not result.stdout


def test_an_unmatched_expected_failure_is_wrong_usage(tmp_path: Path) -> None:
    path = tmp_path / "expected.toml"
    path.write_text('\n"meaning:projection:query_outputs" = "why"\n')
    result = conform(PLAIN, *FEW, "--expected-failures", path)
    assert result.exit_code == 2
    assert f"line 2: no check 'meaning:projection:query_outputs'; did you mean '{ID}'" in words(result.stderr)
