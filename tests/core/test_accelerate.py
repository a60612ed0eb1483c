"""Models whose weights accelerate moves in and out: as plain, and left as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model  # type: ignore[import-untyped]
from torch import Tensor, nn

import intervene

SITES = [
    "layer.0.query_output",
    "layer.1.block_input",
    "layer.1.head_attention_value_output",
    "layer.2.mlp_output",
    "logits",
]
PATTERN = "layer.1.attention_pattern"


def offloaded(kind: str, folder: Path) -> Any:
    model: Any = intervene.tiny("gpt2", attn_implementation="eager")
    # Offloading takes tied weights apart unless it is told of them.
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    if kind == "cpu":
        return cpu_offload(model, execution_device=torch.device("cpu"))
    if kind == "blocks":
        # The weights of a whole block come in before it runs and leave after it.
        return cpu_offload(model, execution_device=torch.device("cpu"), preload_module_classes=["GPT2Block"])
    if kind == "disk":
        disk_offload(model, str(folder), execution_device=torch.device("cpu"))
        return model
    device_map = {"transformer.wte": "cpu", "transformer.wpe": "cpu", "transformer.ln_f": "cpu", "lm_head": "cpu"}
    device_map |= {"transformer.drop": "cpu", "transformer.h.0": "cpu", "transformer.h.1": "disk"}
    device_map |= {"transformer.h.2": "disk"}
    return dispatch_model(model, device_map, main_device="cpu", offload_dir=str(folder), force_hooks=True)


def devices(model: nn.Module) -> dict[str, str]:
    return {n: p.device.type for n, p in model.named_parameters()}


@pytest.mark.parametrize("kind", ["cpu", "blocks", "disk", "mixed"])
def test_reads_and_writes_are_those_of_the_plain_model(kind: str, tmp_path: Path, eager: Any, ids: Tensor) -> None:
    model = offloaded(kind, tmp_path)
    away = devices(model)
    assert "meta" in away.values()
    adapted, plain = intervene.adapt(model), intervene.adapt(eager)
    forwards = {n: vars(m).get("forward") for n, m in model.named_modules()}
    expected = plain.read([*SITES, PATTERN], input_ids=ids)
    values = adapted.read([*SITES, PATTERN], input_ids=ids)
    assert devices(model) == away
    for site in expected:
        assert values[site].device.type == "cpu"
        assert torch.equal(values[site], expected[site])
    for address in [*SITES, PATTERN]:
        # One site alone: the forward would stop early, with its weights in the wrong place.
        assert torch.equal(adapted.read(address, input_ids=ids)[address], expected[address])
        assert devices(model) == away
        outputs = []
        for one in (adapted, plain):
            with torch.no_grad(), one.session(writes={address: lambda h: h * 0.5}):
                outputs.append(one.model(ids).logits)
        assert torch.equal(*outputs)
    assert devices(model) == away
    assert {n: vars(m).get("forward") for n, m in model.named_modules()} == forwards
    with torch.no_grad():
        assert torch.equal(model(ids).logits, eager(ids).logits)


@pytest.mark.parametrize("kind", ["cpu", "mixed"])
def test_generation(kind: str, tmp_path: Path, eager: Any, ids: Tensor) -> None:
    out = []
    for model in (offloaded(kind, tmp_path), eager):
        adapted = intervene.adapt(model)
        with adapted.session(writes={adapted["layer.1.block_output"].at(positions=[-1, 0]): 2.0}):
            out.append(model.generate(ids, max_new_tokens=4, do_sample=False))
    assert torch.equal(*out)


def test_a_named_argument_of_a_shadowed_forward(tmp_path: Path, ids: Tensor) -> None:
    """accelerate's forward takes anything; the class's says what the arguments are called."""
    model = offloaded("cpu", tmp_path)
    adapted = intervene.adapt(model)
    plain = adapted.read("transformer.h.0.ln_1.input", input_ids=ids)
    assert torch.equal(plain["transformer.h.0.ln_1.input"], adapted.read("embedding_output", ids)["embedding_output"])
