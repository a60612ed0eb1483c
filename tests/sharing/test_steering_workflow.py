"""Workflow 4 of the reference as written: a shared steering intervention is loaded and generated with.

From a folder and from a hub, of what this library wrote and of what pyvene itself did.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import intervene as pv

from ..reference.stand_ins import byte_tokenizer
from .loopback_hub import Hub, Repo

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "pyvene-interventions.md"
WRITTEN_BY_PYVENE = Path(__file__).parents[1] / "data" / "pyvene_artifacts" / "artifacts" / "steering_llama"
NAME = "zhengxuanzenwu/intervenable_honest_llama2_chat_7B"
BASE = "meta-llama/Llama-2-7b-hf"


def workflow() -> str:
    section = PAGE.read_text(encoding="utf-8").partition("## Workflow 4")[2]
    found = re.search(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert found is not None
    assert f'"{NAME}"' in found.group(1)
    return found.group(1).replace("import pyvene as pv", "import intervene as pv")


def base_model(here: Path) -> Any:
    """A small LLaMA of the artifact's width in a folder of the name that the workflow loads."""
    shape: dict[str, Any] = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3}
    tokens: dict[str, Any] = {
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "vocab_size": len(byte_tokenizer()),
    }
    model: Any = pv.tiny("llama", **shape, num_key_value_heads=3, head_dim=4, **tokens)
    model.save_pretrained(here / BASE)
    byte_tokenizer().save_pretrained(here / BASE)
    return model


@pytest.mark.parametrize(("place", "writer"), [("folder", "intervene"), ("hub", "intervene"), ("hub", "pyvene")])
@pytest.mark.parametrize("hub", ["xet"], indirect=True)
def test_as_written(place: str, writer: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = base_model(tmp_path)
    if writer == "intervene":
        folder = pv.IntervenableModel.load(WRITTEN_BY_PYVENE, model=model).save(tmp_path / "written")
    else:
        folder = WRITTEN_BY_PYVENE
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    if place == "hub":
        hub.repos[NAME] = Repo()
        hub.repos[NAME].commit("main", files)
    else:
        (tmp_path / NAME).mkdir(parents=True)
        for name, content in files.items():
            (tmp_path / NAME / name).write_bytes(content)
    names: dict[str, Any] = {"__name__": "workflow"}
    exec(compile(workflow(), str(PAGE), "exec"), names)
    assert any(f"/{NAME}/resolve/" in entry for entry in hub.log) == (place == "hub")

    # The same by hand: the directions are added at every position, prompt and answer.
    adapted, inputs = pv.adapt(model), names["inputs"]
    state: dict[str, Any] = {
        f"layer.{layer}.attention_output": torch.load(file, weights_only=True)["source_representation"]
        for layer, file in enumerate(sorted(WRITTEN_BY_PYVENE.glob("*.bin")))
    }
    with adapted.session(writes={site: lambda part, v=v: part + v for site, v in state.items()}):
        steered = model.generate(**inputs, max_new_tokens=100, do_sample=False)
    assert len(state) == 2
    assert torch.equal(names["outputs"], steered)
    plain = model.generate(**inputs, max_new_tokens=10, do_sample=False)
    assert not torch.equal(steered[:, : plain.shape[1]], plain)
