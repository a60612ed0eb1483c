"""A runner for the commands, and a small model with a tokenizer on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

import intervene
from intervene.cli import app

WORDS = ("<unk>", "The", "Silver", "Crane", "Tower", "is", "located", "in", "the", "city", "of", "Velmora", "$5")


@pytest.fixture
def run() -> Callable[..., Result]:
    """Run a command as a script would: piped, on a terminal of 80 columns."""

    def call(*arguments: object, **environment: str) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "80", **environment})

    return call


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 with random weights, large enough that noise on the subject shows, and its tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("model")
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(path)
    model = intervene.tiny("gpt2", vocab_size=len(WORDS), initializer_range=0.4, n_layer=4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    model.save_pretrained(path)  # type: ignore[operator]
    return path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands write their pictures into a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
