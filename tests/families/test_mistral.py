"""What no law says about Mistral: how far its attention looks back, and a cache that forgets."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import intervene

WINDOW = 4
PROMPT = torch.randint(3, 61, (2, 10), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("window", [WINDOW, None])
def test_a_position_attends_to_its_window(window: int | None) -> None:
    adapted = intervene.adapt(intervene.tiny("mistral", sliding_window=window))
    read = adapted.read("layer.0.attention_pattern", attention="eager", input_ids=PROMPT)
    columns = torch.arange(10)
    back = columns[:, None] - columns
    seen = (back >= 0) & (back < (window or 10))
    assert torch.equal(read["layer.0.attention_pattern"] > 0, seen.expand(2, 4, 10, 10))


def test_what_is_written_beyond_the_window_comes_through_the_layers_between() -> None:
    """One layer looks back over three positions, so that three layers look back over nine."""
    model: Any = intervene.tiny("mistral")
    adapted = intervene.adapt(model)
    plain = adapted.read("logits", input_ids=PROMPT)["logits"]
    for layer, reach in enumerate([9, 6, 3]):
        with torch.no_grad(), adapted.session(writes={adapted.site("block_input", layer).at(positions=0): 3.0}):
            moved = (model(PROMPT).logits != plain).any(-1)
        assert moved.tolist() == [[column <= reach for column in range(10)]] * 2


@pytest.mark.parametrize("position", [0, 3, 6, 9, -1, -7])
def test_generation_goes_on_from_a_window_of_the_prompt(position: int) -> None:
    """The cache keeps the last positions alone; positions are still those of the prompt."""
    model: Any = intervene.tiny("mistral")
    adapted = intervene.adapt(model)
    mask = torch.ones_like(PROMPT)
    mask[1, :3] = 0
    tokens = []
    for use_cache in (True, False):
        with adapted.session(writes={adapted["layer.1.block_output"].at(positions=position): 5.0}):
            tokens.append(
                model.generate(PROMPT, attention_mask=mask, max_new_tokens=6, do_sample=False, use_cache=use_cache)
            )
    assert torch.equal(*tokens)
