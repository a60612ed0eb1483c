"""`intervene demo`, end to end with the model that ships."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from intervene import demo

PNG = b"\x89PNG\r\n\x1a\n"


def test_as_a_newcomer_runs_it(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "intervene.cli", "demo"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert demo.DEMO_TARGET in done.stdout
    for word in demo.DEMO_SUBJECT.split():
        assert f"{word}*" in done.stdout
    assert "The picture is in causal_trace.png" in done.stdout
    assert (tmp_path / "causal_trace.png").read_bytes().startswith(PNG)


def test_json_shows_the_early_and_the_late_site(run):
    data = json.loads(run("demo", "--json", "--no-picture").stdout)
    assert (data["prompt"], data["subject"], data["target"]) == (demo.DEMO_PROMPT, demo.DEMO_SUBJECT, demo.DEMO_TARGET)
    assert data["clean"][0]["token"] == demo.DEMO_TARGET
    assert data["clean"][0]["probability"] > 0.5 > data["base"]
    early, late = data["readings"]
    assert early["layer"] < late["layer"]
    assert early["restored"] > 0.5
    assert late["restored"] == pytest.approx(1.0, abs=0.01)


def test_another_prompt_of_its_world(run):
    result = run("demo", "--prompt", demo.DEMO_PROMPT, "--subject", demo.DEMO_SUBJECT, "--json", "--no-picture")
    assert json.loads(result.stdout)["target"] == demo.DEMO_TARGET


def test_words_it_has_never_seen_are_named(run):
    result = run("demo", "--prompt", "The Eiffel Tower is in", "--subject", "Eiffel Tower", "--no-picture")
    assert result.exit_code == 0, result.stderr
    assert "has never seen Eiffel" in result.stderr


def test_a_prompt_needs_a_subject(run):
    result = run("demo", "--prompt", "The Silver Crane Tower is in")
    assert result.exit_code == 2
    assert "--subject" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "", "--subject", ""], "'--prompt': '' says nothing"),
        (["--prompt", "", "--subject", "Crane"], "'--prompt': '' says nothing"),
        (["--subject", ""], "'--subject': '' says nothing"),
        (["--subject", " "], "'--subject': ' ' says nothing"),
    ],
)
def test_a_text_given_and_empty_is_not_the_one_built_in(run, options, message):
    result = run("demo", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_another_subject_of_the_prompt_built_in(run):
    data = json.loads(run("demo", "--subject", "Hollow", "--json", "--no-picture", "--samples", 1).stdout)
    assert (data["prompt"], data["subject"]) == (demo.DEMO_PROMPT, "Hollow")


def test_a_prompt_longer_than_the_model(run):
    result = run("demo", "--prompt", "Crane " * 65, "--subject", "Crane", "--no-picture")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: the prompt has 65 tokens, and the model takes 40: say a shorter one\n"
