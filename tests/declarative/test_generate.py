"""`IntervenableModel.generate`, against sessions around the model's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import intervene as pv

GREEDY: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}


def block(**fields):
    return pv.RepresentationConfig(layer=1, component="block_output", **fields)


@pytest.fixture
def prompt(base):
    return {**base, "attention_mask": torch.ones_like(base["input_ids"])}


def test_returns_sequences_and_the_pair_when_asked(gpt2, prompt):
    steering = torch.linspace(-4, 4, 24)
    intervenable = pv.IntervenableModel(
        block(intervention_type=pv.AdditionIntervention, source_representation=steering), gpt2
    )
    steered = intervenable.generate(prompt, **GREEDY)
    with pv.adapt(gpt2).session(writes={"layer.1.block_output": lambda part: part + steering}):
        expected = gpt2.generate(**prompt, **GREEDY)
    assert torch.equal(steered, expected)
    original, again = intervenable.generate(prompt, output_original_output=True, **GREEDY)
    assert torch.equal(original, gpt2.generate(**prompt, **GREEDY))
    assert torch.equal(again, steered)
    assert not torch.equal(original, steered)


@pytest.mark.parametrize("use_cache", [True, False])
def test_positions_are_the_prompts(gpt2, prompt, source, use_cache):
    intervenable = pv.IntervenableModel(block(), gpt2)
    site = pv.adapt(gpt2)["layer.1.block_output"]
    for where, chosen in ((None, slice(0, 5)), ({"sources->base": [1, 4]}, [1, 4]), ({"sources->base": -1}, -1)):
        value = pv.adapt(gpt2).read([site.at(positions=chosen)], **source)[site.at(positions=chosen)]
        with pv.adapt(gpt2).session(writes={site.at(positions=chosen): value}):
            expected = gpt2.generate(**prompt, use_cache=use_cache, **GREEDY)
        generated = intervenable.generate(prompt, [source], unit_locations=where, use_cache=use_cache, **GREEDY)
        assert torch.equal(generated, expected)


def test_an_open_slice_goes_on_into_what_is_generated(gpt2, prompt):
    steering = torch.linspace(-4, 4, 24)
    intervenable = pv.IntervenableModel(
        block(intervention_type=pv.AdditionIntervention, source_representation=steering), gpt2
    )
    steered = intervenable.generate(prompt, unit_locations={"base": slice(5, None)}, **GREEDY)
    plain = gpt2.generate(**prompt, **GREEDY)
    # The first new token comes from the prompt, which is left alone.
    assert torch.equal(steered[:, :6], plain[:, :6])
    seen = []

    def add(part):
        seen.append(part.shape[1])
        return part + steering if len(seen) > 1 else None

    with pv.adapt(gpt2).session(writes={"layer.1.block_output": add}):
        expected = gpt2.generate(**prompt, **GREEDY)
    assert torch.equal(steered, expected)


def test_collects_each_forward(gpt2, prompt):
    intervenable = pv.IntervenableModel(block(intervention_type=pv.CollectIntervention), gpt2)
    (original, collected), sequences = intervenable.generate(prompt, **GREEDY)
    assert original is None
    assert [tuple(step.shape) for step in collected[0]] == [(2, 5, 24)] + [(2, 1, 24)] * 3
    assert torch.equal(sequences, gpt2.generate(**prompt, **GREEDY))


def test_a_model_that_cannot_says_so():
    intervenable = pv.IntervenableModel(
        pv.RepresentationConfig(component="0.output", intervention_type=pv.ZeroIntervention),
        torch.nn.Sequential(torch.nn.Linear(2, 2)),
    )
    with pytest.raises(pv.UnsupportedModelError, match="generate"):
        intervenable.generate(torch.zeros(1, 2))


def test_a_source_of_one_token_acts_on_one(gpt2, prompt):
    one: dict[str, Any] = {"input_ids": torch.tensor([[7], [8]])}
    intervenable = pv.IntervenableModel(block(), gpt2)
    first = pv.adapt(gpt2)["layer.1.block_output"].at(positions=[0])
    value = pv.adapt(gpt2).read([first], **one)[first]
    with pv.adapt(gpt2).session(writes={first: value}):
        expected = gpt2.generate(**prompt, use_cache=False, **{**GREEDY, "max_new_tokens": 1})
    # With locations it serves as many as they say.
    everywhere = {"sources->base": (0, None)}
    generated = intervenable.generate(prompt, [one], **{**GREEDY, "max_new_tokens": 1})
    assert torch.equal(generated, expected)
    said = intervenable.generate(prompt, [one], unit_locations=everywhere, **GREEDY)
    given = intervenable.generate(prompt, source_representations=value, **GREEDY)
    assert torch.equal(said, given)
    assert not torch.equal(said, intervenable.generate(prompt, [one], **GREEDY))
