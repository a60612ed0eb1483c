"""What no law says about Pythia: which half of a residual hears of what, and where older releases keep the head."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import intervene

PROMPT = torch.tensor([[5, 17, 9, 33], [21, 3, 8, 40]])


@pytest.mark.parametrize("parallel", [True, False])
def test_the_mlp_hears_of_attention_in_a_sequential_block_alone(parallel: bool) -> None:
    model = intervene.tiny("pythia", use_parallel_residual=parallel)
    adapted = intervene.adapt(model)
    plain = adapted.read("layer.1.mlp_input", input_ids=PROMPT)["layer.1.mlp_input"]
    with (
        torch.no_grad(),
        adapted.session(reads=["layer.1.mlp_input"], writes={"layer.1.attention_output": 1.0}) as seen,
    ):
        model(PROMPT)
    assert torch.equal(seen.values["layer.1.mlp_input"], plain) == parallel


def test_the_rotation_leaves_the_later_features_of_a_head() -> None:
    values = intervene.adapt(intervene.tiny("pythia")).read(
        ["layer.1.query_rotated", "layer.1.head_query_output"], input_ids=PROMPT
    )
    turned, source = values["layer.1.query_rotated"], values["layer.1.head_query_output"]
    # Half of eight, here; not at position 0, whose angles are none.
    assert torch.equal(turned[..., 4:], source[..., 4:])
    assert (turned[:, :, 1:, :4] != source[:, :, 1:, :4]).all()
    assert torch.allclose(turned[:, :, 0], source[:, :, 0])


@pytest.mark.parametrize("parallel", [True, False])
def test_in_training_the_parts_are_what_dropout_leaves(parallel: bool) -> None:
    """They add up to the block's output bit for bit, so that a write says what the stream gets."""
    model = intervene.tiny("pythia", use_parallel_residual=parallel, hidden_dropout=0.5).train()
    names = ["block_input", "attention_output", "mlp_output", "block_output"]
    values = intervene.adapt(model).read([f"layer.1.{name}" for name in names], input_ids=PROMPT)
    start, attention, mlp, end = (values[f"layer.1.{name}"] for name in names)
    assert (attention == 0).any()
    assert torch.equal(mlp + attention + start if parallel else mlp + (attention + start), end)


def test_the_head_is_found_under_its_older_name() -> None:
    model: Any = intervene.tiny("pythia")
    model.embed_out = model.lm_head
    del model.lm_head
    assert intervene.adapt(model)["logits"].port.path == "embed_out"
