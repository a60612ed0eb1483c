"""BLIP: what no law says. Generation with beams, towers that run alone, paths that a call leaves out."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import intervene

CAPTION, ANSWER, MATCH = "BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForImageTextRetrieval"


@cache
def blip(name: str) -> intervene.Adapted:
    return intervene.adapt(intervene.tiny("blip", name))


def inputs(name: str, rows: int = 2, columns: int = 4) -> dict[str, Any]:
    adapted = blip(name)
    assert adapted.adapter is not None
    return adapted.adapter.example_inputs(adapted.model, rows, columns, torch.Generator().manual_seed(5))


def generate(name: str, given: dict[str, Any], **options: Any) -> Tensor:
    """New tokens and their scores; generate writes into the ids that it is given, so that it gets its own."""
    model: Any = blip(name).model
    own = {n: v.clone() for n, v in given.items() if n != "decoder_input_ids"}
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "output_logits": True, **options}
    result = model.generate(**own, return_dict_in_generate=True, **options)
    return torch.cat([step.flatten() for step in result.logits])


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("beams", [1, 3])
def test_captions_with_beams(beams: int, cached: bool) -> None:
    """Against a raw hook that changes column 1 of the caption's prompt in each forward that holds it."""
    given = inputs(CAPTION)
    site = blip(CAPTION)["text_decoder.layer.0.block_output"].at(positions=1)
    block = blip(CAPTION).model.get_submodule("text_decoder.bert.encoder.layer.0")

    def zero(module: Any, args: Any, output: Tensor) -> Tensor | None:
        if output.shape[1] == 1:
            return None
        return torch.cat([output[:, :1], torch.zeros_like(output[:, 1:2]), output[:, 2:]], 1)

    handle = block.register_forward_hook(zero)
    try:
        wanted = generate(CAPTION, given, num_beams=beams, use_cache=cached)
    finally:
        handle.remove()
    with blip(CAPTION).session(writes={site: 0.0}):
        found = generate(CAPTION, given, num_beams=beams, use_cache=cached)
    assert torch.equal(found, wanted)
    assert not torch.equal(found, generate(CAPTION, given, num_beams=beams, use_cache=cached))


def test_captions_without_a_prompt() -> None:
    """The image alone: generate begins with one token, column 0, and goes on from it."""
    given = {"pixel_values": inputs(CAPTION)["pixel_values"]}
    sites = ["vision.final_norm_output", "text_decoder.layer.1.cross_attention_pattern"]
    with blip(CAPTION).session(reads=sites, keep="all") as session:
        generate(CAPTION, given)
    (image,), patterns = session.values[sites[0]], session.values[sites[1]]
    assert image.shape == (2, 5, 24)
    assert [tuple(p.shape) for p in patterns] == [(2, 4, 1, 5)] * 4
    first = blip(CAPTION)["text_decoder.layer.0.mlp_output"]
    with blip(CAPTION).session(writes={first.at(positions=0): 0.0}):
        zeroed = generate(CAPTION, given)
    assert not torch.equal(zeroed, generate(CAPTION, given))
    with (
        pytest.raises(intervene.NeverFiredError, match=r"position\(s\) \[9\]"),
        blip(CAPTION).session(writes={first.at(positions=9): 0.0}),
    ):
        generate(CAPTION, given)


@pytest.mark.parametrize("cached", [True, False])
def test_keys_of_the_image_are_written_once_and_kept(cached: bool) -> None:
    """Under a cache the first step alone makes the image's keys; what is written there holds for all steps."""
    given = inputs(CAPTION)
    site = blip(CAPTION)["text_decoder.layer.0.cross_key_output"]
    with blip(CAPTION).session(reads=[site], keep="all") as session:
        plain = generate(CAPTION, given, use_cache=cached)
    assert len(session.values[site]) == (1 if cached else 4)
    key = blip(CAPTION).model.get_submodule("text_decoder.bert.encoder.layer.0.crossattention.self.key")
    handle = key.register_forward_hook(lambda m, a, output: torch.cat([output[:, :-1], output[:, -1:] * 0], 1))
    try:
        wanted = generate(CAPTION, given, use_cache=cached)
    finally:
        handle.remove()
    with blip(CAPTION).session(writes={site.at(positions=-1): 0.0}):
        found = generate(CAPTION, given, use_cache=cached)
    assert torch.equal(found, wanted)
    assert not torch.equal(found, plain)


def test_an_answer_is_generated_from_the_question_as_written() -> None:
    """The encoder runs once, over the question's columns; the decoder attends to what it gave."""
    given = inputs(ANSWER)
    question = blip(ANSWER)["text_encoder.layer.-1.block_output"]
    source = blip(ANSWER)["text_decoder.layer.0.cross_attention_source"]
    value = torch.randn(2, 1, 24, generator=torch.Generator().manual_seed(6))
    with blip(ANSWER).session(writes={question.at(positions=-1): value}, reads=[question, source]) as session:
        written = generate(ANSWER, given)
    assert torch.equal(session.values[question][:, 3:], value)
    assert torch.equal(session.values[source], session.values[question])
    assert not torch.equal(written, generate(ANSWER, given))


def test_the_final_norm_is_that_of_all_positions() -> None:
    """The same module norms the class token once more, from what was written."""
    adapted = blip("BlipVisionModel")
    images = inputs("BlipVisionModel")
    written = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(7))
    with adapted.session(writes={"vision.final_norm_output": written}):
        output = adapted.model(**images)
    norm = adapted.model.get_submodule("post_layernorm")
    assert torch.equal(output.last_hidden_state, written)
    assert torch.equal(output.pooler_output, norm(written[:, 0]))


def test_a_text_tower_without_an_image_never_attends_to_one() -> None:
    adapted = blip("BlipTextModel")
    ids = {"input_ids": inputs("BlipTextModel")["input_ids"]}
    assert adapted.read("layer.0.block_output", **ids)["layer.0.block_output"].shape == (2, 4, 24)
    with pytest.raises(intervene.NeverFiredError, match="cross_attention_output"):
        adapted.read("layer.0.cross_attention_output", **ids)


def test_retrieval_has_logits_of_its_matching_head() -> None:
    adapted, given = blip(MATCH), inputs(MATCH)
    assert adapted["logits"].tower is None
    assert torch.equal(adapted.read("logits", **given)["logits"], adapted.model(**given).itm_score)
    with pytest.raises(intervene.NeverFiredError, match="logits"):
        adapted.read("logits", **given, use_itm_head=False)


@pytest.mark.parametrize(
    ("name", "address", "reason"),
    [
        (CAPTION, "vision.layer.0.cross_query_output", "no cross-attention"),
        (CAPTION, "vision.logits", "captions' and answers' logits are text_decoder.logits"),
        (ANSWER, "text_encoder.final_norm_output", "none follows the last"),
        ("BlipVisionModel", "logits", "the bare vision tower has no head"),
        (CAPTION, "text_encoder.layer.0.block_output", "it has vision, text_decoder"),
    ],
)
def test_what_a_tower_lacks_is_said_with_its_reason(name: str, address: str, reason: str) -> None:
    with pytest.raises(intervene.UnknownSiteError, match=reason):
        blip(name)[address]
