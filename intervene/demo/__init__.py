"""A small trained GPT-2 that ships with the package, and a prompt to trace in it.

The model knows the cities of 384 invented landmarks (see :mod:`intervene.demo.facts`) and nothing
else; words that are not in its world become ``<unk>``. ``examples/train_demo_model.py`` trained it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..extras import needed

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

__all__ = ["DEMO_PROMPT", "DEMO_SUBJECT", "DEMO_TARGET", "load", "model_path"]

DEMO_PROMPT = "The Hollow Crane Museum was built long ago in the old town of"
"""A sentence up to the city; the model has not seen this landmark in this sentence in training."""

DEMO_SUBJECT = "Hollow Crane Museum"
"""The landmark in ``DEMO_PROMPT``, three tokens."""

DEMO_TARGET = "Elbrava"
"""The landmark's city, one token."""


def model_path() -> Path:
    """The folder with the model's configuration, weights and tokenizer."""
    return Path(__file__).parent / "model"


def load() -> tuple[GPT2LMHeadModel, PreTrainedTokenizerFast]:
    """Load the demo model, in evaluation mode on the CPU in float32, and its tokenizer.

    Needs no network.

    Raises:
        MissingDependencyError: transformers is not installed (it is an ``ImportError``).
    """
    with needed("transformers", extra="hf", by="the demo model"):
        from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = model_path()
    model = GPT2LMHeadModel.from_pretrained(folder, local_files_only=True)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    return model, tokenizer
