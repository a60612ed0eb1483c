"""Models whose blocks accelerate keeps on the CPU and on disk give the values of the plain one, at every site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model  # type: ignore[import-untyped]
from torch import Tensor

import intervene

# Heads are untied: accelerate takes tied weights apart unless it is told of them.
UNTIED = {"tie_word_embeddings": False}
FAMILIES: dict[str, Any] = {"gpt2": UNTIED, "llama": {}, "mistral": {}, "mixtral": {}, "opt": UNTIED, "pythia": {}}
PROMPT = torch.tensor([[5, 17, 9, 33], [21, 3, 8, 40]])

_each = pytest.mark.parametrize("family", FAMILIES)


def plain(family: str) -> Any:
    return intervene.tiny(family, attn_implementation="eager", **FAMILIES[family])


def dispatched(family: str, folder: Path) -> Any:
    """The same model with its second block on disk, and everything else moved in from the CPU when it is called."""
    model = plain(family)
    blocks = intervene.adapt(model).adapter.locate(intervene.families()[family].blocks)  # type: ignore[union-attr]
    parts = {name.removesuffix(".weight").removesuffix(".bias") for name, _ in model.named_parameters()}
    outside = {name: "cpu" for name in parts if not name.startswith(blocks)}
    inside = {f"{blocks}.{layer}": "disk" if layer == 1 else "cpu" for layer in range(3)}
    return dispatch_model(model, outside | inside, main_device="cpu", offload_dir=str(folder), force_hooks=True)


def away(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.device.type == "meta"}


@_each
def test_every_site_reads_and_writes_as_in_the_plain_model(family: str, tmp_path: Path) -> None:
    models = plain(family), dispatched(family, tmp_path)
    before = away(models[1])
    assert before
    both = [intervene.adapt(model) for model in models]
    sites = [site.address for site in both[0].sites if site.layer in (None, 1)]
    assert [site.address for site in both[1].sites] == [site.address for site in both[0].sites]
    wanted, found = (adapted.read(sites, input_ids=PROMPT) for adapted in both)
    for site in sites:
        assert torch.equal(found[site], wanted[site]), site
        outputs = []
        for adapted in both:
            with torch.no_grad(), adapted.session(writes={site: lambda part: part * 0.5}):
                outputs.append(adapted.model(PROMPT).logits)
        assert torch.equal(*outputs), site
    assert away(models[1]) == before
    with torch.no_grad():
        assert torch.equal(models[1](PROMPT).logits, models[0](PROMPT).logits)


@_each
def test_generation_behind_padding(family: str, tmp_path: Path) -> None:
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    tokens: list[Tensor] = []
    for model in (plain(family), dispatched(family, tmp_path)):
        adapted = intervene.adapt(model)
        with adapted.session(writes={adapted["layer.1.mlp_output"].at(positions=-1): 3.0}):
            tokens.append(model.generate(PROMPT, attention_mask=mask, max_new_tokens=3, do_sample=False))
    assert torch.equal(*tokens)


def test_as_loaded_with_a_device_map(tmp_path: Path) -> None:
    """The way of a user: transformers hands the map on to accelerate."""
    from transformers import LlamaForCausalLM

    model: Any = plain("llama")
    model.save_pretrained(tmp_path / "model")
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "disk"}
    places |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    loaded: Any = LlamaForCausalLM.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "away", attn_implementation="eager"
    )
    assert {name.split(".")[2] for name in away(loaded)} == {"1", "2"}
    sites = [site.address for site in intervene.adapt(model).sites]
    wanted, found = (intervene.adapt(m).read(sites, input_ids=PROMPT) for m in (model, loaded))
    assert all(torch.equal(found[site], wanted[site]) for site in sites)
