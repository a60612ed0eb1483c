"""`intervene scaffold`: what it writes passes as it stands, and refuses before anything is written."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from intervene.cli import app
from intervene.conformance import check_adapter
from intervene.conformance.target import load_adapter

STRANGER = Path(__file__).parent.parent / "stranger"
MAKER = """
from plainformer.model import Plainformer, PlainformerConfig

def tiny(**config):
    sizes = {"vocab_size": 29, "width": 16, "heads": 2, "depth": 3, "context": 32}
    return Plainformer(PlainformerConfig(**{**sizes, **config}))

def number():
    return 3

def flat():
    from torch import nn
    return nn.Linear(2, 2)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(STRANGER))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "making.py").write_text(MAKER)
    yield tmp_path
    for name in ("making", "adapter"):
        sys.modules.pop(name, None)


def scaffold(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["scaffold", *arguments], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})


def test_what_is_written_passes_as_it_stands(folder: Path) -> None:
    result = scaffold("mine", "--model", "making:tiny")
    assert result.exit_code == 0, result.output
    assert "wrote mine.toml" in result.stdout
    spec = (folder / "mine.toml").read_text()
    assert 'blocks = "blocks"' in spec
    assert 'layers = "depth"' in spec
    assert 'widths.feature = "width"' in spec
    adapter = (folder / "adapter.py").read_text()
    assert "#   attention.query: Linear (16, 16)" in adapter
    assert '# "mlp_activation": ...,  What enters the MLP' in adapter
    assert "router_logits" not in adapter
    report = check_adapter(load_adapter("adapter.py:MineAdapter"), laws=["identity", "meaning", "shaped", "alive"])
    assert report.passed, [o.describe() for o in report.failures]


def test_the_test_that_is_written_runs(folder: Path) -> None:
    scaffold("mine", "--model", "making:tiny")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_conformance.py", "-k", "shaped"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env={"PYTHONPATH": f"{STRANGER}:{folder}"}
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("Mine", "--model", "making:tiny"), 2, "'Mine' is no name"),
        (("mine", "--model", "making:tiny", "--into", "nowhere"), 2, "there is no folder nowhere"),
        (("mine", "--model", "making"), 1, "say module:function"),
        (("mine", "--model", "making:tinny"), 1, "no attribute 'tinny'"),
        (("mine", "--model", "making:number"), 1, "makes a int, no torch.nn.Module"),
        (("mine", "--model", "making:flat"), 1, "no list of two or more modules of one class"),
    ],
)
def test_refusals_write_nothing(folder: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    result = scaffold(*arguments)
    assert result.exit_code == code
    assert message in " ".join(re.sub("[│╭╮╰╯─]", " ", result.output).split())
    assert [p.name for p in folder.iterdir() if p.is_file()] == ["making.py"]


def test_files_that_stand_there_stay(folder: Path) -> None:
    (folder / "adapter.py").write_text("mine\n")
    result = scaffold("mine", "--model", "making:tiny")
    assert result.exit_code == 1
    assert "adapter.py stand in" in " ".join(re.sub("[│╭╮╰╯─]", " ", result.output).split())
    assert (folder / "adapter.py").read_text() == "mine\n"
    assert not (folder / "mine.toml").exists()
