"""The app as a whole: help, version, exit codes, where things are printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import intervene

COMMANDS = ("demo", "trace", "sites", "spec", "conform")


def script(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "intervene.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]


def test_help_lists_the_commands_and_exit_codes(run):
    result = run("--help")
    assert result.exit_code == 0
    for word in (*COMMANDS, "Exit codes", "--version"):
        assert word in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_examples(run, command):
    result = run(command, "--help")
    assert result.exit_code == 0
    after = result.stdout.partition("Examples:")[2]
    assert after.count(f"intervene {command}") >= 2
    assert "--json" in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


def test_version(run):
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"torch-intervene {intervene.__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("nosuch",),
        ("trace",),
        ("trace", "m", "--prompt", "x"),
        ("sites",),
        ("sites", "tiny:gpt2", "--layer", "two"),
        ("demo", "--samples", "0"),
    ],
)
def test_wrong_usage_exits_with_2(run, arguments):
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage" in result.stderr


def test_a_refusal_is_one_message_on_stderr(run):
    result = run("sites", "tiny:gpt3")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: no family 'gpt3'")
    assert "Traceback" not in result.stderr


def test_a_bug_is_not_swallowed(run, monkeypatch):
    monkeypatch.setattr("intervene.cli.sites.shapes", lambda adapted, sites: 1 / 0)
    assert isinstance(run("sites", "tiny:gpt2").exception, ZeroDivisionError)


def test_an_interrupt_exits_with_130(run, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("intervene.cli.sites.shapes", interrupted)
    result = run("sites", "tiny:gpt2")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "interrupted\n")


def test_help_needs_no_model_library():
    code = (
        "import sys\nfrom intervene.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'transformers', 'matplotlib', 'pandas', 'tokenizers'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_as_a_process(tmp_path: Path):
    done = script("sites", "tiny:gpt2", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["family"] == "gpt2"
    refused = script("sites", "tiny:gpt3", cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("error: ")


def test_without_transformers_a_command_names_the_extra(run, uninstall, folder):
    uninstall("transformers")
    for arguments in (("demo",), ("trace", folder, "--prompt", "x", "--subject", "x"), ("sites", folder)):
        result = run(*arguments)
        assert (result.exit_code, result.stdout) == (1, "")
        assert 'pip install "torch-intervene[hf]"' in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize(
    "arguments",
    [("demo", "--no-picture", "--samples", "1"), ("sites", "tiny:gpt2"), ("sites", "tiny:gpt2", "--json")],
)
def test_results_that_cannot_be_written(tmp_path, arguments):
    command = [sys.executable, "-m", "intervene.cli", *arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: the result can't be written to stdout: No space left on device\n"


def test_a_reader_that_has_enough_is_no_error(tmp_path):
    command = [sys.executable, "-m", "intervene.cli", "sites", "tiny:gpt2"]
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, check=False, cwd=tmp_path)
    assert done.stderr == ""
