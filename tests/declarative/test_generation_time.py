"""When interventions act in generation, over caches, padding, beams and chunks, for every causal family."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import intervene as pv

from .installed import families, tiny

STEPS = 5
WIDTH = 6
PADDED = torch.tensor([[0, 0, 5, 17, 9, 33], [7, 3, 40, 2, 11, 19]])
CACHES: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "static": {"cache_implementation": "static"},
    "none": {"use_cache": False},
    "chunks of 2": {"prefill_chunk_size": 2},
    "chunks of 4": {"prefill_chunk_size": 4},
}


@cache
def causal_families() -> list[str]:
    def generates(model: Any) -> bool:
        able = hasattr(model, "can_generate") and model.can_generate()
        return able and model.main_input_name == "input_ids" and not model.config.is_encoder_decoder

    return [family for family in families() if generates(tiny(family))]


def ways(family: str) -> list[str]:
    """The caches that a family's models can work with. transformers' `generate` hands a state-space model no prompt in
    chunks: `tests/families/test_mamba.py` shows it by transformers alone, and what chunks by hand do."""
    return [how for how in sorted(CACHES) if "chunks" not in how or not tiny(family)._is_stateful]


def width(model: Any) -> int:
    return int(model.config.hidden_size)


def vector(model: Any, scale: float = 6.0) -> Tensor:
    return torch.randn(width(model), generator=torch.Generator().manual_seed(0)) * scale


def steering(model: Any, **fields: Any) -> pv.IntervenableModel:
    kind = {"intervention_type": pv.AdditionIntervention, "source_representation": vector(model)}
    return pv.IntervenableModel([{"layer": 0, "component": "block_output", **kind, **fields}], model)


def prompt(pads: int = 0) -> dict[str, Tensor]:
    """Two rows; the first has ``pads`` columns of padding on its left."""
    ids = PADDED.clone()
    ids[0, :2] = torch.tensor([21, 30])
    mask = torch.ones_like(ids)
    ids[0, :pads], mask[0, :pads] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def generate(intervenable: pv.IntervenableModel, inputs: Any, *args: Any, **options: Any) -> Any:
    fixed: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "max_new_tokens": STEPS, "min_new_tokens": STEPS}
    return intervenable.generate(inputs, *args, **{**fixed, **options})


def plain(model: Any, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    fixed: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "max_new_tokens": STEPS, "min_new_tokens": STEPS}
    found: Tensor = model.generate(**inputs, **{**fixed, **options})
    return found


Strength = Callable[[int, int, Tensor], float]
"""How strongly a row and column is acted on, given the tokens so far."""


def by_hand(model: Any, inputs: dict[str, Tensor], strength: Strength) -> Tensor:
    """Greedy decoding without a cache: the whole sequence at every step, a vector added by row and column."""
    tokens, mask = inputs["input_ids"], inputs["attention_mask"]
    never = model.generation_config.eos_token_id
    added = vector(model)
    for _ in range(STEPS):
        table = torch.tensor(
            [[strength(row, column, tokens) for column in range(tokens.shape[1])] for row in range(len(tokens))]
        )
        site = pv.adapt(model)["layer.0.block_output"]

        def add(part: Tensor, table: Tensor = table) -> Tensor:
            return part + table[..., None] * added

        where = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if not model._is_stateful else {}
        with torch.no_grad(), pv.adapt(model).session(writes={site: add}):
            logits = model(input_ids=tokens, attention_mask=mask, use_cache=False, **where).logits[:, -1]
        logits[:, never] = -torch.inf
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return tokens


WHENS: dict[str, tuple[Any, Callable[[int, int], float]]] = {
    "nothing said": (None, lambda i, token: 0.0),
    "prompt": ("prompt", lambda i, token: 0.0),
    "generated": ("generated", lambda i, token: 1.0),
    "the third": (2, lambda i, token: float(i == 2)),
    "from the second": (slice(1, None), lambda i, token: float(i >= 1)),
    "second and third": (range(1, 3), lambda i, token: float(1 <= i < 3)),
    "first and fourth": ([0, 3], lambda i, token: float(i in (0, 3))),
    "schedule": ({0: 0.5, 2: 1.5}, lambda i, token: {0: 0.5, 2: 1.5}.get(i, 0.0)),
    "fading": (lambda i, tokens: 0.5**i, lambda i, token: 0.5**i),
    "odd tokens": (lambda i, tokens: tokens % 2 == 1, lambda i, token: float(token % 2)),
    "by row and step": (
        lambda i, tokens: (tokens % 3).float() * (i + 1) / 3,
        lambda i, token: (token % 3) * (i + 1) / 3,
    ),
}


def test_the_causal_families_are_all_here() -> None:
    """Or the properties below would hold of fewer than they say."""
    known = {"gpt2", "llama", "mamba", "mamba2", "mistral", "mixtral", "opt", "pythia"}
    assert known <= set(causal_families())


@given(st.data())
def test_law_10_by_hand_is_as_generated(data: st.DataObject) -> None:
    """Whatever the family, the cache, the chunks and the padding: token for token what decoding by hand gives."""
    family = data.draw(st.sampled_from(causal_families()))
    model = tiny(family)
    pads = data.draw(st.integers(0, 2))
    how = data.draw(st.sampled_from(ways(family)))
    name = data.draw(st.sampled_from(sorted(WHENS)))
    when, strength_of = WHENS[name]
    shape = data.draw(st.sampled_from(["everything", "one for all", "list", "by row", "from the end"]))
    # Positions count each row's tokens, of which the padded row has fewer.
    at = st.integers(0, 5 - pads)
    positions: Any = {
        "everything": st.none(),
        "one for all": at,
        "list": st.lists(at, min_size=1, max_size=3, unique=True),
        "by row": st.tuples(at, st.integers(0, 5)).map(lambda p: [[p[0]], [p[1]]]),
        "from the end": st.integers(-4, -1),
    }[shape]
    positions = data.draw(positions)
    if positions is None and when is None:
        when, strength_of = "all", lambda i, token: 1.0
    inputs = prompt(pads)
    firsts = [pads, 0]

    def named(row: int) -> list[int]:
        if positions is None:
            return list(range(6)) if when in ("all", "prompt") else []
        those = positions[row] if shape == "by row" else [positions] if isinstance(positions, int) else positions
        return [p + firsts[row] if p >= 0 else p + 6 for p in those]

    def strength(row: int, column: int, tokens: Tensor) -> float:
        if column < 6:
            return float(column in named(row))
        return strength_of(column - 6, int(tokens[row, column]))

    expected = by_hand(model, inputs, strength)
    where = None if positions is None else {"base": [positions] if shape == "by row" else positions}
    found = generate(steering(model), inputs, unit_locations=where, when=when, **CACHES[how])
    assert torch.equal(found, expected)


@pytest.mark.parametrize("family", causal_families())
@pytest.mark.parametrize("name", ["prompt", "generated", "second and third", "odd tokens"])
def test_each_of_them_changes_something(family: str, name: str) -> None:
    """Or the comparison above would say nothing."""
    model = tiny(family)
    found = generate(steering(model), prompt(), when=WHENS[name][0])
    assert not torch.equal(found, plain(model, prompt()))


@given(st.data())
def test_beams_and_samples_are_the_same_with_any_cache(data: st.DataObject) -> None:
    family = data.draw(st.sampled_from(causal_families()))
    model = tiny(family)
    inputs = prompt(data.draw(st.integers(0, 2)))
    when = WHENS[data.draw(st.sampled_from(sorted(WHENS)))][0]
    positions: Any = data.draw(st.sampled_from([None, 1, [0, 2], -1, [[[1], [3]]]]))
    where = None if positions is None else {"base": positions}
    several: dict[str, Any] = data.draw(
        st.sampled_from(
            [
                {"num_beams": 2},
                {"num_beams": 3, "num_return_sequences": 2},
                {"do_sample": True, "num_return_sequences": 2},
                {"do_sample": True, "temperature": 2.0},
            ]
        )
    )
    intervenable = steering(model)

    def run(options: dict[str, Any]) -> Tensor:
        torch.manual_seed(5)
        found: Tensor = generate(intervenable, inputs, unit_locations=where, when=when, **several, **options)
        return found

    expected = run(CACHES["none"])
    assert len(expected) == 2 * several.get("num_return_sequences", 1)
    for how in {"dynamic", data.draw(st.sampled_from(ways(family)))}:
        assert torch.equal(run(CACHES[how]), expected)


@pytest.mark.parametrize("beams", [1, 3])
def test_each_row_of_a_batch_is_as_alone(beams: int) -> None:
    """Rows of their own positions, also where each has several beams."""
    model = tiny("gpt2")
    inputs, intervenable = prompt(2), steering(model)
    both = generate(intervenable, inputs, unit_locations={"base": [[[1], [4]]]}, when="generated", num_beams=beams)
    for row, (pads, position) in enumerate([(2, 1), (0, 4)]):
        alone = {"input_ids": inputs["input_ids"][row : row + 1, pads:]}
        found = generate(intervenable, alone, unit_locations={"base": position}, when="generated", num_beams=beams)
        assert torch.equal(both[row, pads:], found[0])


@pytest.mark.parametrize("said", [{}, {"when": "prompt"}, {"unit_locations": {"base": [1, 3]}, "when": "generated"}])
def test_noise_is_that_of_its_place_whatever_the_cache_and_the_padding(said: dict[str, Any]) -> None:
    """Corruption under a cache is the uncached run's: no position has the noise of another forward's first."""
    model = tiny("gpt2")
    noise = pv.NoiseIntervention(noise_level=4.0, seed=2)
    intervenable = pv.IntervenableModel([{"layer": 0, "component": "block_output", "intervention": noise}], model)
    expected = generate(intervenable, prompt(2), **said, use_cache=False)
    for how in ways("gpt2"):
        assert torch.equal(generate(intervenable, prompt(2), **said, **CACHES[how]), expected)
    for row, pads in enumerate((2, 0)):
        alone = {"input_ids": prompt()["input_ids"][row : row + 1, pads:]}
        assert torch.equal(generate(intervenable, alone, **said)[0], expected[row, pads:])
    assert noise.places is None


# -- sources ----------------------------------------------------------------------------------------------------------


def test_a_source_generated_along_with_itself_changes_nothing() -> None:
    for family in causal_families():
        model = tiny(family)
        intervenable = pv.IntervenableModel([{"layer": 1, "component": "block_output"}], model)
        inputs = prompt(2)
        for how in ways(family):
            found = generate(intervenable, inputs, [inputs], generate_sources=True, **CACHES[how])
            assert torch.equal(found, plain(model, inputs, **CACHES[how]))


def test_a_source_generated_along_is_written_token_by_token() -> None:
    """Its last block decides the base's tokens altogether, however much shorter and padded it is."""
    model = tiny("gpt2")
    intervenable = pv.IntervenableModel([{"layer": 2, "component": "block_output"}], model)
    source = {"input_ids": torch.tensor([[44, 8, 12], [51, 6, 6]])}
    theirs = plain(model, source)
    for options in CACHES.values():
        found = generate(
            intervenable, prompt(1), [source], {"sources->base": -1}, generate_sources=True, when="generated", **options
        )
        assert torch.equal(found[:, 6:], theirs[:, 3:])
    # The prompt's last position alone decides the first token.
    found = generate(intervenable, prompt(1), [source], {"sources->base": -1}, generate_sources=True)
    assert torch.equal(found[:, 6], theirs[:, 3])


def test_what_the_model_generates_by_default_is_not_what_a_source_is_read_by() -> None:
    """A source is read in one run, however the base is generated: by defaults of the model or by a config."""
    from transformers import GenerationConfig

    model = tiny("gpt2")
    intervenable = pv.IntervenableModel([{"layer": 1, "component": "block_output"}], model)
    said: dict[str, Any] = {"num_beams": 2, "num_return_sequences": 2, "pad_token_id": 0, "min_length": 10}
    said |= {"max_length": 11, "return_dict_in_generate": True, "output_scores": True, "do_sample": False}
    locations = {"sources->base": (1, 3)}
    other = {"input_ids": PADDED.flip(0)}
    expected = intervenable.generate(prompt(), [other], locations, **said)
    assert len(expected.sequences) == 4
    own, model.generation_config = model.generation_config, GenerationConfig(**said, eos_token_id=2)
    config = GenerationConfig(**said)
    before = config.to_dict()
    try:
        by_default = intervenable.generate(prompt(), [other], locations)
    finally:
        model.generation_config = own
    by_config = intervenable.generate(prompt(), [other], locations, generation_config=config)
    assert torch.equal(by_default.sequences, expected.sequences)
    assert torch.equal(by_config.sequences, expected.sequences)
    assert config.to_dict() == before


def test_sampling_is_not_disturbed_by_a_source_generated_along() -> None:
    model = tiny("gpt2")
    intervenable = pv.IntervenableModel([{"layer": 1, "component": "block_output"}], model)
    torch.manual_seed(0)
    expected = plain(model, prompt(), do_sample=True)
    torch.manual_seed(0)
    found = generate(intervenable, prompt(), [prompt()], {"sources->base": 0}, generate_sources=True, do_sample=True)
    assert torch.equal(found, expected)


def test_the_original_draws_the_same_random_numbers() -> None:
    model = tiny("gpt2")
    torch.manual_seed(0)
    original, intervened = generate(
        steering(model), prompt(), when={0: 0.0}, do_sample=True, output_original_output=True
    )
    assert torch.equal(original, intervened)


def test_sources_of_one_run_meet_the_base_token_by_token() -> None:
    """Whole, with padding of their own: as if neither had any."""
    model = tiny("gpt2")
    intervenable = pv.IntervenableModel([{"layer": 1, "component": "block_output"}], model)
    ids = torch.tensor([[21, 30, 5, 17], [7, 3, 40, 2]])
    other = torch.tensor([[44, 8, 12, 9], [51, 6, 6, 20]])
    expected = generate(intervenable, {"input_ids": ids}, [{"input_ids": other}])

    def padded(tokens: Tensor, left: int) -> dict[str, Tensor]:
        zeros = torch.zeros(2, left, dtype=torch.long)
        mask = torch.cat([zeros, torch.ones_like(tokens)], dim=1)
        return {"input_ids": torch.cat([zeros, tokens], dim=1), "attention_mask": mask}

    for left, right in ((2, 0), (0, 1), (3, 1)):
        base, source = padded(ids, left), padded(other, right)
        for options in CACHES.values():
            found = generate(intervenable, base, [source], **options)
            assert torch.equal(found[:, left:], expected)


def test_the_model_is_not_compiled_for_a_static_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers would on an accelerator, and compile it again for each step's hooks."""
    model, seen = tiny("gpt2"), []
    original = type(model)._valid_auto_compile_criteria

    def asked(self: Any, inputs: Any, config: Any) -> bool:
        seen.append(config.disable_compile)
        answer: bool = original(self, inputs, config)
        return answer

    monkeypatch.setattr(type(model), "_valid_auto_compile_criteria", asked)
    generate(steering(model), prompt(), cache_implementation="static")
    assert seen
    assert all(seen)


def test_a_source_without_a_value_for_generated_tokens() -> None:
    model = tiny("gpt2")
    intervenable = pv.IntervenableModel([{"layer": 1, "component": "block_output"}], model)
    with pytest.raises(pv.InterventionError, match=r"no value for generated tokens.*generate_sources=True"):
        generate(intervenable, prompt(), [prompt()], {"sources->base": [0, 1]}, when="generated")
    one = generate(intervenable, prompt(), [prompt()], {"sources->base": (2, 4)}, when="generated")
    assert not torch.equal(one, plain(model, prompt()))


# -- collecting -------------------------------------------------------------------------------------------------------


def collector(model: Any, **fields: Any) -> pv.IntervenableModel:
    kind = {"layer": 1, "component": "block_output", "intervention_type": pv.CollectIntervention}
    return pv.IntervenableModel([{**kind, **fields}], model)


@pytest.mark.parametrize(("family", "how"), [(family, how) for family in causal_families() for how in ways(family)])
def test_a_tensor_for_each_step(family: str, how: str) -> None:
    model = tiny(family)
    (_, [collected]), tokens = generate(collector(model), prompt(), when="generated", **CACHES[how])
    assert collected.axes == ("batch", "position", "feature")
    assert collected.prompt == 6
    whole = pv.adapt(model).read(["layer.1.block_output"], input_ids=tokens[:, :-1])["layer.1.block_output"]
    if how == "none":
        assert collected.columns == [tuple(range(6, 6 + n)) for n in range(1, STEPS)]
        last = collected[-1]
    else:
        assert collected.columns == [(6 + n,) for n in range(STEPS - 1)]
        assert all(step.shape == (2, 1, width(model)) for step in collected)
        last = collected.joined()
    torch.testing.assert_close(last, whole[:, 6:], atol=1e-5, rtol=1e-4)


def test_positions_are_collected_where_they_pass() -> None:
    model = tiny("gpt2")
    whole = pv.adapt(model).read(["layer.1.block_output"], input_ids=prompt()["input_ids"])["layer.1.block_output"]
    for how in ("dynamic", "chunks of 2", "chunks of 4"):
        where = {"base": [1, 4]}
        (_, [collected]), _ = generate(collector(model), prompt(), unit_locations=where, **CACHES[how])
        torch.testing.assert_close(collected.joined(), whole[:, [1, 4]], atol=1e-5, rtol=1e-4)
        (_, [collected]), _ = generate(collector(model), prompt(), unit_locations={"base": [[[1], [4]]]}, **CACHES[how])
        found = torch.cat([step.reshape(-1, width(model)) for step in _tensors(collected)])
        torch.testing.assert_close(found, torch.stack([whole[0, 1], whole[1, 4]]), atol=1e-5, rtol=1e-4)


def test_rows_of_unequal_numbers_of_positions_are_collected_together() -> None:
    model = tiny("gpt2")
    whole = pv.adapt(model).read(["layer.1.block_output"], input_ids=prompt()["input_ids"])["layer.1.block_output"]
    (_, [collected]), _ = generate(collector(model), prompt(), unit_locations={"base": [[[1], [2, 4]]]}, num_beams=2)
    ((first, second, third, fourth),) = collected
    assert collected.columns == [[(1,), (1,), (2, 4), (2, 4)]]
    for found, expected in ((first, whole[0, [1]]), (second, whole[0, [1]]), (third, whole[1, [2, 4]])):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(third, fourth)
    with pytest.raises(pv.SelectionError, match="rows differ"):
        collected.joined()


def test_rows_of_unequal_numbers_of_positions_have_their_own_sources() -> None:
    """Under beams too: what was read in a row is written in that row's beams."""
    model = tiny("gpt2")
    intervenable = pv.IntervenableModel([{"layer": 2, "component": "block_output"}], model)
    other = {"input_ids": prompt()["input_ids"].flip(0) + 1}
    for several in ({}, {"num_beams": 2}):
        both = generate(intervenable, prompt(), [other], {"sources->base": [[[5], [2, 5]]]}, **several)
        for row, positions in enumerate([[5], [2, 5]]):
            base, source = ({"input_ids": side["input_ids"][row : row + 1]} for side in (prompt(), other))
            alone = generate(intervenable, base, [source], {"sources->base": positions}, **several)
            assert torch.equal(both[row], alone[0])
        assert not torch.equal(both, plain(model, prompt(), **several))


def _tensors(collected: Any) -> list[Tensor]:
    return [tensor for step in collected for tensor in (step if isinstance(step, list) else [step])]


# -- other ways of generating ------------------------------------------------------------------------------------------


def test_a_streamer_gets_the_tokens() -> None:
    from transformers.generation.streamers import BaseStreamer

    class Kept(BaseStreamer):
        def __init__(self) -> None:
            self.tokens: list[int] = []
            self.ended = 0

        def put(self, value: Tensor) -> None:
            self.tokens += value.flatten().tolist()

        def end(self) -> None:
            self.ended += 1

    model, streamer = tiny("gpt2"), Kept()
    one = {"input_ids": prompt()["input_ids"][:1]}
    intervenable = pv.IntervenableModel([{"layer": 1, "component": "block_output"}], model)
    found = generate(intervenable, one, [one], streamer=streamer, generate_sources=True, when="generated")
    assert streamer.tokens == found[0].tolist()
    assert streamer.ended == 1


@cache
def tiny_t5() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    shape: dict[str, Any] = {"decoder_start_token_id": 0, "dropout_rate": 0.0}
    config = T5Config(
        vocab_size=40,
        d_model=16,
        d_kv=4,
        d_ff=16,
        num_layers=2,
        num_heads=2,
        **shape,
    )
    model: nn.Module = T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:  # the library's initial values give one token for all
                parameter.copy_(torch.randn_like(parameter) * 0.5)
    return model


def test_an_encoder_decoder_by_module_paths() -> None:
    model = tiny_t5()
    inputs = {"input_ids": torch.tensor([[5, 17, 9, 33], [7, 3, 30, 2]])}
    added = torch.randn(16, generator=torch.Generator().manual_seed(1)) * 30

    def at(path: str) -> pv.IntervenableModel:
        kind = {"intervention_type": pv.AdditionIntervention, "source_representation": added}
        return pv.IntervenableModel([{"component": path, **kind}], model)

    encoder = at("encoder.block.0.layer.1.output")
    decoder = at("decoder.block.0.layer.2.output")
    for options in ({}, {"use_cache": False}, {"num_beams": 2}, {"num_beams": 2, "use_cache": False}):
        unchanged = plain(model, inputs, **options)
        for intervenable, said in (
            (encoder, {"unit_locations": {"base": [1, -1]}}),
            (decoder, {"when": "generated"}),
            (decoder, {"when": range(1, 3)}),
            (decoder, {"unit_locations": {"base": 0}}),
        ):
            found = generate(intervenable, inputs, **said, **options)
            assert not torch.equal(found, unchanged)
            uncached = generate(intervenable, inputs, **said, **{**options, "use_cache": False})
            assert torch.equal(found, uncached)
    # A source is a prompt too: it needs no decoder's tokens, and what its encoder ends with decides everything.
    other = {"input_ids": inputs["input_ids"].flip(0)}
    modes: list[Any] = ["parallel", "serial"]
    for mode in modes:
        swap = pv.IntervenableConfig([{"component": "encoder.final_layer_norm.output"}], mode=mode)
        found = generate(pv.IntervenableModel(swap, model), inputs, [other])
        assert torch.equal(found, plain(model, other))
        assert not torch.equal(found, plain(model, inputs))
    # The first token comes from the decoder's prompt, its start token, alone.
    found = generate(decoder, inputs, when="generated")
    assert torch.equal(found[:, 1], plain(model, inputs)[:, 1])
    with pytest.raises(pv.NeverFiredError, match="never acted"):
        generate(encoder, inputs, when="generated")


def test_captions_of_images() -> None:
    """BLIP, whose decoder is run alone by generation, with a prompt and without."""
    model = tiny("blip")
    size = model.config.vision_config.image_size
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    text = {"input_ids": torch.tensor([[1, 5, 9, 2], [1, 7, 8, 2]]), "attention_mask": torch.ones(2, 4).long()}
    added = torch.randn(24, generator=torch.Generator().manual_seed(0)) * 6
    kind = {"layer": 0, "intervention_type": pv.AdditionIntervention, "source_representation": added}
    decoder = pv.IntervenableModel([{"component": "text_decoder.block_output", **kind}], model)
    vision = pv.IntervenableModel([{"component": "vision.block_output", **kind}], model)
    cases: list[tuple[Any, dict[str, Any]]] = [
        (decoder, {"when": "generated"}),
        (decoder, {"when": range(1, 3)}),
        (decoder, {"when": lambda step, tokens: tokens % 2 == 0}),
        (decoder, {"unit_locations": {"base": 0}}),
        (vision, {"unit_locations": {"base": 0}}),
    ]
    for inputs in ({"pixel_values": pixels}, {"pixel_values": pixels, **text}):
        fixed: dict[str, Any] = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False}
        unchanged = model.generate(**inputs, **fixed)
        for intervenable, said in cases:
            for beams in (1, 2):
                found = intervenable.generate(inputs, **said, **fixed, num_beams=beams)
                assert torch.equal(
                    found, intervenable.generate(inputs, **said, **fixed, num_beams=beams, use_cache=False)
                )
            assert not torch.equal(intervenable.generate(inputs, **said, **fixed), unchanged)
        other = {**inputs, "pixel_values": pixels.flip(0)}
        theirs = model.generate(**other, **fixed)
        swap = pv.IntervenableModel([{"component": "vision.block_output", "layer": -1}], model)
        assert torch.equal(swap.generate(inputs, [other], **fixed), theirs)
        swap = pv.IntervenableModel([{"component": "text_decoder.block_output", "layer": -1}], model)
        found = swap.generate(inputs, [other], {"sources->base": -1}, when="prompt", **fixed)
        prompt_columns = theirs.shape[1] - STEPS
        assert torch.equal(found[:, prompt_columns], theirs[:, prompt_columns])


def test_heads_and_module_inputs_in_time() -> None:
    """A head at a position, and LoRA, which takes its module's input along."""
    model = tiny("gpt2")
    head = {
        "layer": 1,
        "component": "head_attention_value_output",
        "unit": "h.pos",
        "intervention_type": pv.AdditionIntervention,
        "source_representation": torch.linspace(-40, 40, 8),
    }
    lora = {"layer": 1, "component": "mlp_output", "intervention_type": pv.LoRAIntervention, "low_rank_dimension": 2}
    adapter = pv.IntervenableModel([lora], model)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=3.0)
    heads = pv.IntervenableModel([head], model)
    whole = pv.IntervenableModel([{**head, "unit": "h"}], model)
    for intervenable, said in (
        (heads, {"unit_locations": {"base": [[1, 2], [0, 5]]}}),
        (whole, {"unit_locations": {"base": 1}, "when": "generated"}),
        (adapter, {"when": "generated"}),
        (adapter, {"unit_locations": {"base": [[[1], [4]]]}, "when": [0, 2]}),
    ):
        expected = generate(intervenable, prompt(1), **said, use_cache=False, return_dict_in_generate=True)
        for options in ({}, {"prefill_chunk_size": 2}, {"cache_implementation": "static"}):
            found = generate(intervenable, prompt(1), **said, **options)
            assert torch.equal(found, expected.sequences)
            assert not torch.equal(found, plain(model, prompt(1)))


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("generatd", "Did you mean 'generated'"),
        (-1, "counted from 0"),
        (slice(3, 1), "end is after start"),
        (slice(-2, None), "counted from 0"),
        ([], "none"),
        ([0, -1], r"\[-1\]"),
        ({0.5: 1.0}, r"\[0.5\]"),
        (1.5, "says no time"),
    ],
)
def test_times_that_are_none(when: Any, said: str) -> None:
    with pytest.raises(pv.SelectionError, match=said):
        generate(steering(tiny("gpt2")), prompt(), when=when)


def test_a_time_that_never_comes() -> None:
    intervenable = steering(tiny("gpt2"))
    with pytest.raises(pv.NeverFiredError, match=r"6 column\(s\), and 4 generated token\(s\) came by"):
        generate(intervenable, prompt(), when=range(20, 30))
    with pytest.raises(pv.NeverFiredError, match=r"position\(s\) \[40\] never came by"):
        generate(intervenable, prompt(), unit_locations={"base": [2, 40]})
    generate(intervenable, prompt(), when=lambda step, tokens: False)


def test_each_intervention_has_its_own_time() -> None:
    model = tiny("gpt2")
    kind = {"intervention_type": pv.AdditionIntervention, "source_representation": vector(model)}
    both = pv.IntervenableModel([{"layer": 0, **kind}, {"layer": 1, **kind}], model)
    found = generate(both, prompt(), when={"layer.0.block_output": "generated", "layer.1.block_output": {0: 0.0}})
    assert torch.equal(found, generate(steering(model), prompt(), when="generated"))
    with pytest.raises(pv.ConfigError, match=r"no intervention 'layer\.9"):
        generate(both, prompt(), when={"layer.9.block_output": "generated"})
