"""A model, interventions on it, and a hub to share them on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import intervene as pv

from .loopback_hub import Hub, connect, serving

TOKEN = "a-token"


@pytest.fixture
def model() -> nn.Module:
    return pv.tiny("gpt2")


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    return {"input_ids": torch.tensor([[5, 17, 9, 33, 21], [7, 3, 40, 2, 11]])}


@pytest.fixture(params=["xet", "lfs"])
def hub(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub on this machine that knows a user "me" by a token, and the client set up for it, with xet and without."""
    with serving({TOKEN: "me", "another-token": "you"}) as running:
        connect(running, monkeypatch, tmp_path, speaks_xet=request.param == "xet")
        yield running
