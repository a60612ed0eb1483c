"""The docs page "Share an intervention", followed from end to end: its hub snippets too, against a hub that is here.

``tests/test_docs.py`` runs what the page marks as Python, which needs no hub.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import intervene as pv

from .loopback_hub import Hub

PAGE = Path(__file__).parents[2] / "docs" / "share.md"
SNIPPET = re.compile(r"^```(?:python|py)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_page_is_true_from_end_to_end(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "token-of-username")
    hub.users["token-of-username"] = "username"
    snippets = SNIPPET.findall(PAGE.read_text(encoding="utf-8"))
    assert any("save_intervention" in code for code in snippets)
    names: dict[str, Any] = {"__name__": "docs"}
    for code in snippets:
        exec(compile(code, str(PAGE), "exec"), names)
    assert set(hub.repos["username/my-intervention"].branches) == {"main", "stronger"}
    assert {"config.json", "README.md"} < set(hub.files("username/my-intervention"))
    # What the hub's last snippet loaded is what the page saved.
    mine: pv.IntervenableModel = names["intervenable"]
    _, found = mine(names["inputs"])
    assert torch.equal(found.logits, names["steered"].logits)
