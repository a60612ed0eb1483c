"""What no law says about ESM."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import intervene


def ids(*tokens: int) -> torch.Tensor:
    return torch.tensor([tokens])


def test_embedding_output_is_after_token_dropout() -> None:
    """Mask tokens are zeroed, and the others scaled by how many masks training had against how many there are."""
    model: Any = intervene.tiny("esm")
    mask = model.config.mask_token_id
    masked = ids(0, 5, mask, 9)
    (found,) = intervene.adapt(model).read(["embedding_output"], input_ids=masked).values()
    words = model.esm.embeddings.word_embeddings(masked)
    words = torch.where((masked == mask).unsqueeze(-1), 0.0, words * (1 - 0.15 * 0.8) / (1 - 1 / 4))
    torch.testing.assert_close(found, words)


def test_example_inputs_hold_no_mask() -> None:
    model: Any = intervene.tiny("esm", vocab_size=5, mask_token_id=4)
    inputs = intervene.adapt(model).adapter.example_inputs(model, 8, 8)  # type: ignore[union-attr]
    assert set(inputs["input_ids"].unique().tolist()) == {3}


def test_absolute_positions_turn_no_queries() -> None:
    adapted = intervene.adapt(intervene.tiny("esm", position_embedding_type="absolute"))
    with pytest.raises(intervene.AbsentComponentError, match="adds absolute positions to its embeddings"):
        adapted.site("query_rotated", layer=0)


def test_queries_turn_and_values_stay() -> None:
    """A rotated query keeps its length, which is that of the query divided by the root of the head's width."""
    adapted = intervene.adapt(intervene.tiny("esm"))
    values = adapted.read(["layer.1.head_query_output", "layer.1.query_rotated"], input_ids=ids(4, 5, 6, 7))
    plain, turned = values["layer.1.head_query_output"], values["layer.1.query_rotated"]
    torch.testing.assert_close(turned.norm(dim=-1), plain.norm(dim=-1) / plain.shape[-1] ** 0.5)
    assert not torch.allclose(turned[..., 1:, :], plain[..., 1:, :] / plain.shape[-1] ** 0.5)


def test_patching_one_residue_brings_its_prediction_back() -> None:
    """The whole stream at a position before the head is all that the head reads there."""
    model: Any = intervene.tiny("esm")
    adapted = intervene.adapt(model)
    clean, corrupted = ids(0, 5, 9, 2), ids(0, 7, 11, 2)
    site = adapted.site("block_output", layer=-1).at(positions=2)
    source = adapted.read([site], input_ids=clean)
    with adapted.session(writes={site: source[site]}), torch.no_grad():
        patched = model(input_ids=corrupted).logits
    with torch.no_grad():
        wanted, other = model(input_ids=clean).logits, model(input_ids=corrupted).logits
    torch.testing.assert_close(patched[:, 2], wanted[:, 2])
    torch.testing.assert_close(patched[:, 1], other[:, 1])
    assert not torch.allclose(patched[:, 2], other[:, 2])
