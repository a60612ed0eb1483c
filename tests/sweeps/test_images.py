"""Sweeps over images, whose positions no input counts, against single runs patched with torch's own hooks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import intervene
from intervene import SweepError
from intervene.sweeps import LogitDifference

METRIC = LogitDifference(1, 3)
BLOCKS = {"vit": "vit.layers", "dinov2": "dinov2.encoder.layer", "timm_vit": "blocks"}


def scores(model: Any, images: dict[str, Tensor]) -> float:
    with torch.no_grad():
        output = model(**images)
    return float(METRIC(output if isinstance(output, Tensor) else output.logits))


@pytest.mark.parametrize("family", sorted(BLOCKS))
def test_every_position_of_every_layer(family: str) -> None:
    adapter = intervene.families()[family]
    if not adapter.available():
        pytest.skip(f"{adapter.load_spec().library} is not installed")
    model: Any = intervene.tiny(family)
    generator = torch.Generator().manual_seed(5)
    base, source = (adapter.example_inputs(model, 1, generator=generator) for _ in range(2))
    found = intervene.sweep(model, base=base, source=source, component="block_output", metric=METRIC)
    assert found.values.shape == (3, 5)
    assert found.base == pytest.approx(scores(model, base), abs=1e-5)
    for layer, block in enumerate(model.get_submodule(BLOCKS[family])):
        kept: list[Tensor] = []
        handle = block.register_forward_hook(lambda m, a, output, kept=kept: kept.append(output.clone()))
        scores(model, source)
        handle.remove()
        for position in range(5):

            def put(m: Any, a: Any, output: Tensor, at: int = position, new: Tensor = kept[0]) -> Tensor:
                output = output.clone()
                output[:, at] = new[:, at]
                return output

            handle = block.register_forward_hook(put)
            wanted = scores(model, base)
            handle.remove()
            assert float(found.values[layer, position]) == pytest.approx(wanted, abs=1e-4)


def test_heads_of_an_image_model() -> None:
    model: Any = intervene.tiny("vit")
    base = intervene.families()["vit"].example_inputs(model, 1, generator=torch.Generator().manual_seed(5))
    found = intervene.sweep(
        model, base=base, source=0.0, component="head_attention_value_output", axes=("layer", "head"), metric=METRIC
    )
    assert found.values.shape == (3, 3)
    assert len({round(float(v), 5) for v in found.values.flatten()}) == 9


def test_a_component_without_positions_is_refused_before_anything_runs() -> None:
    model: Any = intervene.tiny("vit")
    images = intervene.families()["vit"].example_inputs(model, 1)
    ran: list[int] = []
    model.register_forward_pre_hook(lambda module, args: ran.append(1))
    with pytest.raises(SweepError, match="logits: cannot choose positions: the axes here are batch, class; choose"):
        intervene.sweep(model, base=images, source=0.0, component="logits", metric=METRIC)
    assert not ran
