"""A model, interventions on it, and a hub to share them on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import intervene as pv

from .loopback_hub import Hub, serving

TOKEN = "a-token"


@pytest.fixture
def model() -> nn.Module:
    return pv.tiny("gpt2")


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    return {"input_ids": torch.tensor([[5, 17, 9, 33, 21], [7, 3, 40, 2, 11]])}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub on this machine that knows a user "me" by a token, and the client set up for it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serving({TOKEN: "me", "another-token": "you"}) as running:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, running.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", running.endpoint)
        yield running
