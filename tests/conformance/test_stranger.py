"""A stranger's package in an environment of its own: installed, proven with one line, broken, mended."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

from intervene.conformance import all_laws

ROOT = Path(__file__).parent.parent.parent
PROJECT = ROOT / "tests" / "stranger"
PAGE = ROOT / "docs" / "prove-your-adapter.md"
ADAPTER = "plainformer/adapter.py"
# The laws' whole list runs once; what a mistake breaks shows in these.
MEANING = ("-k", "meaning")


@dataclass
class Stranger:
    """A copy of the project, installed in an environment beside ours."""

    python: Path
    project: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        own = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "PYTHON"))}
        return subprocess.run(
            [self.python, *arguments],
            cwd=self.project,
            env={**own, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )

    def tests(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)

    def swap(self, first: str, second: str) -> None:
        """Break the adapter by exchanging one piece of its code for another."""
        path = self.project / ADAPTER
        code = path.read_text()
        assert code.count(first) == 1
        path.write_text(code.replace(first, second))

    def mend(self) -> None:
        shutil.copy(PROJECT / ADAPTER, self.project / ADAPTER)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    folder = tmp_path_factory.mktemp("stranger")
    project = folder / "project"
    shutil.copytree(PROJECT, project, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build", ".*"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    found = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    )
    # What is installed here is seen there, torch and this project too; nothing is downloaded or installed twice.
    link = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    (Path(found.stdout.strip()) / "beside.pth").write_text(link)
    made = Stranger(python, project)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "-q")
    done = made.run("-m", "pip", "install", *options, "-e", str(project))
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(autouse=True)
def mended(request: pytest.FixtureRequest) -> None:
    if "stranger" in request.fixturenames:
        request.getfixturevalue("stranger").mend()


def test_it_conforms_in_every_check(stranger: Stranger) -> None:
    done = stranger.tests()
    assert done.returncode == 0, done.stdout
    (passed, skipped) = map(int, re.findall(r"(\d+) (?:passed|skipped)", done.stdout))
    assert passed > 150
    assert skipped


def test_its_model_is_known_by_name(stranger: Stranger) -> None:
    code = """
import sys, intervene, plainformer
assert plainformer.__file__.startswith(sys.argv[1])
model = intervene.tiny("plainformer")
assert type(model) is plainformer.Plainformer
print(intervene.adapt(model).site("mlp_output", layer=1))
"""
    done = stranger.run("-c", code, str(stranger.project))
    assert done.returncode == 0, done.stderr
    assert "layer.1.mlp_output" in done.stdout


MISTAKES = {
    "queries and keys swapped": (
        'Output("attention.query"), Output("attention.key")',
        'Output("attention.key"), Output("attention.query")',
        {"projection:query_output": "attention.query(attention_input)", "projection:key_output": "attention.key"},
    ),
    "input for output": (
        '"block_output": Output()',
        '"block_output": Input()',
        {"residual_sum:block_output": "block_input + attention_output + mlp_output"},
    ),
    "before the nonlinearity": (
        '"mlp_activation": Input("mlp.2")',
        '"mlp_activation": Input("mlp.1")',
        {"projection:mlp_output": "mlp.2(mlp_activation)"},
    ),
}


def check_broken(stranger: Stranger, mistake: str) -> None:
    """Make the mistake, and see the right checks fail with words that name what is wrong."""
    right, wrong, broken = MISTAKES[mistake]
    stranger.swap(right, wrong)
    done = stranger.tests(*MEANING)
    assert done.returncode == 1, done.stdout
    for relation, words in broken.items():
        said = re.search(rf"meaning:{relation}: failed\n((?:E .*\n)+)", done.stdout)
        assert said, done.stdout
        assert words in said.group(1)
        assert "minimal example:" in said.group(1)


@pytest.mark.parametrize("mistake", ["queries and keys swapped", "before the nonlinearity"])
def test_a_mistake_is_told_in_words(stranger: Stranger, mistake: str) -> None:
    check_broken(stranger, mistake)


def test_mended_it_conforms_again(stranger: Stranger) -> None:
    check_broken(stranger, "input for output")
    stranger.mend()
    done = stranger.tests(*MEANING)
    assert done.returncode == 0, done.stdout


def test_the_page_quotes_the_project() -> None:
    """A block under a line that begins with a file's name is an excerpt of it, line for line."""
    text = PAGE.read_text(encoding="utf-8")
    quoted = re.findall(r"^`([\w./]+)`[^\n]*:\n\n```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert {name for name, _ in quoted} >= {
        "plainformer/adapter.py",
        "plainformer/plainformer.toml",
        "test_conformance.py",
        "pyproject.toml",
    }
    for name, block in quoted:
        assert block in (PROJECT / name).read_text(encoding="utf-8"), (name, block)


def test_the_page_lists_the_laws() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for law in all_laws().values():
        assert f"| `{law.id}` | {law.statement} |" in text
