"""Sources that are generated along, against runs of the model put together by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import intervene as pv

from .installed import tiny
from .test_generation_time import CACHES, STEPS, causal_families, generate, plain, prompt, tiny_t5, ways

SOURCE = {"input_ids": torch.tensor([[44, 8, 12], [51, 6, 6]])}


def swap(model: nn.Module, layer: int = 1, **fields: Any) -> pv.IntervenableModel:
    return pv.IntervenableModel([{"layer": layer, "component": "block_output", **fields}], model)


def held(model: Any, sequences: Tensor, prompt_columns: int, layer: int = 1) -> Tensor:
    """A block's output at the generated tokens that pass by, from one run over the finished sequences."""
    address = f"layer.{layer}.block_output"
    return pv.adapt(model).read([address], input_ids=sequences[:, :-1])[address][:, prompt_columns:]


def written(values: Tensor, lengths: list[int] | None = None) -> Callable[[Tensor], Tensor | None]:
    """Writes the i-th of ``values`` in the i-th forward after the prompt's, in rows that have as many."""
    seen = -1

    def write(part: Tensor) -> Tensor | None:
        nonlocal seen
        seen += 1
        if seen == 0 or seen > values.shape[1]:
            return None
        having = torch.tensor([length >= seen for length in lengths or [STEPS] * len(values)])
        times = len(part) // len(values)
        new, having = values[:, seen - 1].repeat_interleave(times, 0), having.repeat_interleave(times)
        return torch.where(having[:, None], new, part[:, -1])[:, None]

    return write


def by_hand(model: Any, values: Tensor, lengths: list[int] | None = None, layer: int = 1, **options: Any) -> Tensor:
    with pv.adapt(model).session(writes={f"layer.{layer}.block_output": written(values, lengths)}):
        return plain(model, prompt(), **options)


ALONG: dict[str, Any] = {"generate_sources": True, "when": "generated"}


@pytest.mark.parametrize("family", causal_families())
def test_under_beam_search_a_source_is_its_best_sequence(family: str) -> None:
    model = tiny(family)
    best = plain(model, SOURCE, num_beams=3)
    expected = by_hand(model, held(model, best, 3), num_beams=3)
    assert not torch.equal(expected, plain(model, prompt(), num_beams=3))
    for how in ways(family):
        found = generate(swap(model), prompt(), [SOURCE], **ALONG, num_beams=3, **CACHES[how])
        assert torch.equal(found, expected)


def test_beams_of_the_source_change_places() -> None:
    """Or following them back would not be tested: a sequence's tokens were in other rows on the way."""
    found = plain(tiny("gpt2"), SOURCE, num_beams=3, return_dict_in_generate=True)
    assert any(len(set(row.tolist())) > 1 for row in found.beam_indices[:, 1:])  # type: ignore[attr-defined]


def test_under_beam_search_the_prompt_of_a_source_is_read_as_ever() -> None:
    model = tiny("gpt2")
    for locations in ({"sources->base": (1, 3)}, {"sources->base": ([[[0], [2, 1]]], [[[5], [4, 3]]])}):
        expected = generate(swap(model), prompt(), [SOURCE], locations, num_beams=2)
        found = generate(swap(model), prompt(), [SOURCE], locations, generate_sources=True, num_beams=2)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("several", [{"num_beams": 1}, {"num_beams": 2}, {"num_beams": 2, "num_return_sequences": 2}])
def test_a_row_that_has_ended_has_nothing_more_to_write(several: dict[str, Any]) -> None:
    """Whatever a longer row's steps fill it up with; so each row is as it is alone."""
    model = tiny("gpt2")
    one = {**several, "num_return_sequences": 1, "min_new_tokens": None}

    def ending_with(end: int) -> tuple[Tensor, list[int]]:
        theirs = plain(model, SOURCE, **one, eos_token_id=end)
        return theirs, [row.index(end) if end in row else STEPS - 1 for row in theirs[:, 3:].tolist()]

    end = next(token for token in range(64) if len(set(ending_with(token)[1])) == 2)
    theirs, lengths = ending_with(end)
    options = {**several, "min_new_tokens": None, "eos_token_id": end}
    expected = by_hand(model, held(model, theirs, 3), lengths, **options)
    found = generate(swap(model), prompt(), [SOURCE], **ALONG, **options)
    assert torch.equal(found, expected)
    ignored = by_hand(model, held(model, theirs, 3), **options)
    assert not torch.equal(ignored, expected)


def test_sampled_sequences_go_with_sampled_sequences() -> None:
    """The source's first for a prompt with the base's first; several rows, some with a patch of their own."""
    model = tiny("gpt2")
    sampled: dict[str, Any] = {"do_sample": True, "num_return_sequences": 2}

    def seeded(call: Callable[[], Tensor]) -> Tensor:
        torch.manual_seed(3)
        return call()

    own = seeded(lambda: plain(model, prompt(), **sampled))
    by_row: dict[str, Any] = {"unit_locations": {"sources->base": [[[1], [2, 4]]]}}
    for said in ({**ALONG, "when": "all"}, ALONG, {**ALONG, **by_row}):

        def along(said: dict[str, Any] = said) -> Tensor:
            found: Tensor = generate(swap(model), prompt(), [prompt()], **said, **sampled)
            return found

        assert torch.equal(seeded(along), own)
    theirs = seeded(lambda: plain(model, SOURCE, **sampled))
    expected = seeded(lambda: by_hand(model, held(model, theirs, 3), **sampled))
    found = seeded(lambda: generate(swap(model), prompt(), [SOURCE], **ALONG, **sampled))
    assert torch.equal(found, expected)
    assert not torch.equal(found, own)
    # One row serves all of the base's, each of its samples the same one of theirs.
    one = {"input_ids": SOURCE["input_ids"][:1]}
    theirs = seeded(lambda: plain(model, one, **sampled))
    expected = seeded(lambda: by_hand(model, held(model, theirs, 3).repeat(2, 1, 1), **sampled))
    found = seeded(lambda: generate(swap(model), prompt(), [one], **ALONG, **sampled))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("beams", [1, 2])
def test_a_head_of_a_source(beams: int) -> None:
    """Only the head that is named, at generated tokens too."""
    model = tiny("gpt2")
    site = pv.adapt(model)["layer.1.head_attention_value_output"]
    best = plain(model, SOURCE, num_beams=beams)
    at_tokens = written(pv.adapt(model).read([site], input_ids=best[:, :-1])[site][:, 2, 3:])
    narrow = site.at(heads=2)

    def write(part: Tensor) -> Tensor | None:
        new = at_tokens(part[:, 0])
        return None if new is None else new[:, None]

    with pv.adapt(model).session(writes={narrow: write}):
        expected = plain(model, prompt(), num_beams=beams)
    intervenable = pv.IntervenableModel([{"layer": 1, "component": "head_attention_value_output", "unit": "h"}], model)
    found = generate(intervenable, prompt(), [SOURCE], {"sources->base": 2}, **ALONG, num_beams=beams)
    assert torch.equal(found, expected)
    assert not torch.equal(found, plain(model, prompt(), num_beams=beams))


@pytest.mark.parametrize("beams", [1, 3])
def test_sources_in_series_are_generated_along_one_after_the_other(beams: int) -> None:
    model = tiny("gpt2")
    adapted = pv.adapt(model)
    one: dict[str, Any] = {"num_beams": beams}
    second = {"input_ids": torch.tensor([[9, 1, 30, 22], [14, 50, 2, 2]])}
    first = held(model, plain(model, SOURCE, **one), 3, layer=0)
    # The second source's run, with the first's tokens in it, and what it then holds.
    with adapted.session(writes={"layer.0.block_output": written(first)}):
        middle = plain(model, second, **one)
    whole = torch.arange(middle.shape[1] - 1) >= 4
    with (
        torch.no_grad(),
        adapted.session(
            reads=["layer.1.block_output"],
            writes={"layer.0.block_output": lambda part: torch.where(whole[:, None], _after(part, first, 4), part)},
        ) as session,
    ):
        model(input_ids=middle[:, :-1])
    expected = by_hand(model, session.values["layer.1.block_output"][:, 4:], **one)
    config = pv.IntervenableConfig([{"layer": 0}, {"layer": 1}], mode="serial")
    found = generate(pv.IntervenableModel(config, model), prompt(), [SOURCE, second], **ALONG, **one)
    assert torch.equal(found, expected)
    alone = generate(swap(model), prompt(), [second], **ALONG, **one)
    assert not torch.equal(found, alone)


@pytest.mark.parametrize("along", [False, True])
def test_what_is_collected_in_a_source_is_given_back(along: bool) -> None:
    """In series an intervention may collect in a source's run, which the base's has no say in."""
    model = tiny("gpt2")
    collecting = {"layer": 0, "component": "block_output", "intervention_type": pv.CollectIntervention}
    config = pv.IntervenableConfig([collecting, {"layer": 1}, collecting], mode="serial")
    second = {"input_ids": torch.tensor([[9, 1, 30, 22, 3, 8], [14, 50, 2, 2, 5, 5]])}
    (_, collected), found = generate(
        pv.IntervenableModel(config, model),
        prompt(),
        [None, second, None],
        generate_sources=along,
        max_new_tokens=3,
        min_new_tokens=3,
    )
    whole = pv.adapt(model).read("layer.0.block_output", input_ids=second["input_ids"])["layer.0.block_output"]
    first = collected[0].joined()[:, :6] if along else collected[0]
    torch.testing.assert_close(first, whole)
    base = pv.adapt(model).read("layer.0.block_output", input_ids=found[:, :-1])["layer.0.block_output"]
    torch.testing.assert_close(collected[1].joined(), base, atol=1e-5, rtol=1e-4)
    assert len(collected) == 2


def test_an_assistant_changes_nothing() -> None:
    """Its candidates pass by together with the prompt, and some again after they were rejected."""
    model, base = tiny("gpt2"), {"input_ids": prompt()["input_ids"][1:]}
    vector = torch.randn(24, generator=torch.Generator().manual_seed(0)) * 6
    added = {"intervention_type": pv.AdditionIntervention, "source_representation": vector}
    steering, one = swap(model, 0, **added), {"input_ids": SOURCE["input_ids"][:1]}
    helps: list[dict[str, Any]] = [{"assistant_model": pv.tiny("gpt2", seed=1)}, {"prompt_lookup_num_tokens": 2}]
    cases: list[tuple[pv.IntervenableModel, list[Any], dict[str, Any]]] = [
        (steering, [], {"when": "generated"}),
        (steering, [], {"when": [0, 2]}),
        (steering, [], {"when": "prompt"}),
        (steering, [], {"unit_locations": {"base": -1}}),
        (steering, [], {"when": lambda step, tokens: tokens % 2 == 0}),
        (swap(model), [[one]], ALONG),
    ]
    for intervenable, sources, said in cases:
        expected = generate(intervenable, base, *sources, **said)
        for assistance in helps:
            assert torch.equal(generate(intervenable, base, *sources, **said, **assistance), expected)


def _after(part: Tensor, values: Tensor, columns: int) -> Tensor:
    return torch.cat([part[:, :columns], values], 1)


def test_in_series_what_a_source_lacks_is_said() -> None:
    config = pv.IntervenableConfig([{"layer": 0}, {"layer": 1}], mode="serial")
    intervenable = pv.IntervenableModel(config, tiny("gpt2"))
    with pytest.raises(pv.NeverFiredError, match=r"layer\.0.*never acted"):
        generate(intervenable, prompt(), [SOURCE, SOURCE], generate_sources=True, when=range(20, 30))


@pytest.mark.parametrize("beams", [1, 2])
def test_an_encoder_decoders_source(beams: int) -> None:
    """A decoder's tokens along with the source's best sequence; an encoder has none."""
    model = tiny_t5()
    base, source = (
        {"input_ids": torch.tensor(ids)} for ids in ([[5, 17, 9, 33], [7, 3, 30, 2]], [[8, 8, 30], [1, 21, 4]])
    )
    path = "decoder.block.1.layer.2.output"
    options = {"num_beams": beams}
    best = plain(model, source, **options)
    whole = pv.adapt(model).read([path], source["input_ids"], decoder_input_ids=best[:, :-1])[path][:, 1:]
    with pv.adapt(model).session(writes={path: written(whole)}):
        expected = plain(model, base, **options)
    for cache in (True, False):
        found = generate(
            pv.IntervenableModel([{"component": path}], model), base, [source], **ALONG, **options, use_cache=cache
        )
        assert torch.equal(found, expected)
    assert not torch.equal(found, plain(model, base, **options))
    encoder = pv.IntervenableModel([{"component": "encoder.final_layer_norm.output"}], model)
    other = {"input_ids": base["input_ids"].flip(0)}
    found = generate(encoder, base, [other], generate_sources=True, **options)
    assert torch.equal(found, plain(model, other, **options))


def test_a_generate_that_does_not_say_where_its_beams_were() -> None:
    from transformers import GPT2LMHeadModel

    own: Any = GPT2LMHeadModel.generate

    class Terse(GPT2LMHeadModel):
        def generate(self, *args: Any, **kwargs: Any) -> Any:
            found = own(self, *args, **kwargs)
            return found if isinstance(found, Tensor) else found.sequences

    model: Any = Terse(tiny("gpt2").config).eval()
    with pytest.raises(pv.UnsupportedModelError, match=r"Terse.generate doesn't say.*num_beams=1"):
        generate(swap(model), prompt(), [prompt()], **ALONG, num_beams=2)
    generate(swap(model), prompt(), [prompt()], **ALONG)


@pytest.mark.parametrize("mode", ["parallel", "serial"])
def test_the_run_of_a_source_stops_once_it_is_read(mode: Any) -> None:
    """The last block is run for the base alone."""
    model = tiny("gpt2")
    ran: list[int] = []
    handle = model.transformer.h[-1].register_forward_hook(lambda module, args, output: ran.append(args[0].shape[1]))
    try:
        config = pv.IntervenableConfig([{"layer": 0}], mode=mode)
        generate(pv.IntervenableModel(config, model), prompt(), [SOURCE], {"sources->base": 1})
    finally:
        handle.remove()
    assert ran == [6, *[1] * (STEPS - 1)]
