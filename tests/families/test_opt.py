"""What no law says about OPT: positions behind padding, and what its one post-norm size lacks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import intervene
from intervene.errors import AbsentComponentError

POST_NORM: dict[str, Any] = {"do_layer_norm_before": False, "word_embed_proj_dim": 20}


def test_positions_are_counted_over_the_real_tokens() -> None:
    """Learned positions are added before the first block, so that embeddings show them."""
    adapted = intervene.adapt(intervene.tiny("opt"))
    ids, mask = torch.tensor([[5, 17, 9]]), torch.tensor([[0, 0, 1, 1, 1]])
    padded = torch.cat([torch.zeros(1, 2, dtype=torch.long), ids], 1)
    plain = adapted.read("embedding_output", input_ids=ids)["embedding_output"]
    moved = adapted.read("embedding_output", input_ids=padded, attention_mask=mask)["embedding_output"]
    unmasked = adapted.read("embedding_output", input_ids=padded)["embedding_output"]
    assert torch.equal(moved[:, 2:], plain)
    assert not torch.equal(unmasked[:, 2:], plain)


def test_the_mlp_has_rows_and_positions_again() -> None:
    """Its modules see all rows' tokens as one list; each row has positions of its own, in the prompt and after it."""
    model: Any = intervene.tiny("opt")
    adapted = intervene.adapt(model)
    ids = torch.tensor([[5, 17, 9], [21, 3, 8]])
    site = adapted["layer.1.mlp_activation"].at(positions=torch.tensor([[0], [2]]))
    with torch.no_grad(), adapted.session(reads=[site], writes={site: 2.0}) as session:
        model(ids)
    assert session.values[site].shape == (2, 1, 40)
    with adapted.session(reads=["layer.1.mlp_activation"], keep="all") as session:
        model.generate(ids, max_new_tokens=3, do_sample=False)
    shapes = [tuple(value.shape) for value in session.values["layer.1.mlp_activation"]]
    assert shapes == [(2, 3, 40), (2, 1, 40), (2, 1, 40)]


def test_post_norm_has_no_final_norm_and_says_what_to_read() -> None:
    model: Any = intervene.tiny("opt", **POST_NORM)
    adapted = intervene.adapt(model)
    with pytest.raises(AbsentComponentError, match=r"no norm after its last block.* read block_output"):
        adapted.site("final_norm_output")
    ids = torch.tensor([[5, 17, 9]])
    values = adapted.read(["embedding_output", "layer.2.block_output", "logits"], input_ids=ids)
    assert values["embedding_output"].shape == (1, 3, 24)
    narrow = model.model.decoder.project_out(values["layer.2.block_output"])
    assert torch.allclose(model.lm_head(narrow), values["logits"], atol=1e-5)


def test_a_final_norm_that_old_checkpoints_were_saved_without() -> None:
    adapted = intervene.adapt(intervene.tiny("opt", _remove_final_layer_norm=True))
    with pytest.raises(AbsentComponentError):
        adapted.site("final_norm_output")
    assert adapted.read("logits", input_ids=torch.tensor([[5, 17]]))["logits"].shape == (1, 2, 61)
