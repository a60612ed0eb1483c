"""The demo model that ships with the package: small, right about its world, and easy to prompt."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel, PreTrainedTokenizerFast

from intervene import demo
from intervene.demo.facts import CITIES, TEMPLATES, Example, build_world, split_words, vocabulary

WORLD = build_world()


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    return demo.load()[0]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return demo.load()[1]


@torch.no_grad()
def share_right(
    model: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerFast,
    examples: tuple[Example, ...],
    padding_side: str = "left",
) -> float:
    """How often the city is the most likely next token; positions count from a row's first token."""
    batch = tokenizer([e.prompt for e in examples], padding=True, padding_side=padding_side, return_tensors="pt")
    mask = batch["attention_mask"]
    logits = model(**batch, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    last = mask.shape[1] - 1 - mask.flip(1).argmax(dim=1)
    answers = logits[torch.arange(len(examples)), last].argmax(dim=-1)
    cities = torch.tensor(tokenizer.convert_tokens_to_ids([e.target for e in examples]))
    return float((answers == cities).float().mean())


def test_no_two_words_of_a_name_decide_the_city() -> None:
    subjects = defaultdict(list)
    for name, city in WORLD.cities.items():
        words = name.split()
        assert len(words) == 3
        for kept in combinations(range(3), 2):
            subjects[kept, tuple(words[i] for i in kept)].append(city)
    for cities in subjects.values():
        assert len(cities) > 1
        assert len(set(cities)) == len(cities)


def test_held_out_pairs_are_new_but_their_parts_are_not() -> None:
    trained = {(e.subject, e.template) for e in WORLD.train}
    held_out = {(e.subject, e.template) for e in WORLD.held_out}
    assert not trained & held_out
    assert len(trained) + len(held_out) == len(WORLD.cities) * len(TEMPLATES)
    assert {subject for subject, _ in held_out} <= {subject for subject, _ in trained}
    assert {template for _, template in held_out} <= {template for _, template in trained}

    assert not {e.template for e in WORLD.unseen} & {e.template for e in WORLD.train}
    seen_words = {word for e in WORLD.train for word in split_words(e.text)}
    assert {word for e in WORLD.unseen for word in split_words(e.text)} <= seen_words


def test_the_world_is_a_function_of_its_seed() -> None:
    assert build_world(0) == WORLD
    assert build_world(1).cities != WORLD.cities


def test_the_model_is_small() -> None:
    assert (demo.model_path() / "model.safetensors").stat().st_size < 3_000_000
    assert sum(file.stat().st_size for file in demo.model_path().iterdir()) < 3_100_000


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_the_model_is_right_about_held_out_pairs(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, padding_side: str
) -> None:
    examples = WORLD.held_out if padding_side == "left" else WORLD.held_out[::5]
    assert share_right(model, tokenizer, examples, padding_side) > 0.95


def test_the_model_is_right_in_unseen_templates(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast) -> None:
    assert share_right(model, tokenizer, WORLD.unseen) > 0.95


def test_the_tokenizer_knows_the_world_and_writes_it_back(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    assert len(tokenizer) == len(vocabulary()) + 3
    for example in WORLD.train[::50] + WORLD.unseen[::50]:
        ids = tokenizer(example.text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        # A colon is the one mark that the decoder sets apart from the word before it.
        text = tokenizer.decode(ids)
        assert isinstance(text, str)
        assert text.replace(" :", ":") == example.text


def test_a_city_is_one_token_with_or_without_a_space_before_it(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    for city in CITIES:
        bare = tokenizer(city)["input_ids"]
        assert len(bare) == 1
        assert tokenizer(f" {city}")["input_ids"] == bare
        assert tokenizer.decode(bare) == city


def test_offsets_find_the_subject(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = tokenizer(demo.DEMO_PROMPT, return_offsets_mapping=True)
    words = [demo.DEMO_PROMPT[start:end] for start, end in encoded["offset_mapping"]]
    assert " ".join(words) == demo.DEMO_PROMPT
    first = words.index(demo.DEMO_SUBJECT.split()[0])
    assert " ".join(words[first : first + 3]) == demo.DEMO_SUBJECT


def test_unknown_words_and_padding_have_tokens_of_their_own(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    ids = tokenizer("The Eiffel Tower")["input_ids"]
    assert ids[1] == tokenizer.unk_token_id
    assert len({tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id}) == 3
    for side, padded in (("left", 0), ("right", 1)):
        batch = tokenizer(["Tower", "The Tower"], padding=True, padding_side=side)
        assert batch["input_ids"][0][padded] == tokenizer.pad_token_id
        assert batch["attention_mask"][0][padded] == 0


def test_auto_tokenizer_loads_the_same_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    auto = AutoTokenizer.from_pretrained(demo.model_path())
    assert auto(demo.DEMO_PROMPT)["input_ids"] == tokenizer(demo.DEMO_PROMPT)["input_ids"]
    assert auto.pad_token == tokenizer.pad_token


def test_the_demo_prompt_is_a_held_out_pair_that_the_model_knows(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    (example,) = (e for e in WORLD.held_out if e.prompt == demo.DEMO_PROMPT)
    assert (example.subject, example.target) == (demo.DEMO_SUBJECT, demo.DEMO_TARGET)
    with torch.no_grad():
        logits = model(**tokenizer(demo.DEMO_PROMPT, return_tensors="pt")).logits[0, -1]
    target = tokenizer.convert_tokens_to_ids(demo.DEMO_TARGET)
    assert logits.softmax(dim=-1)[target] > 0.9


def test_the_model_ends_its_sentences(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = tokenizer(demo.DEMO_PROMPT, return_tensors="pt")
    # transformers types `self` of generate as a protocol that its own models don't meet.
    ids = model.generate(**prompt, max_new_tokens=8, do_sample=False)[0]  # type: ignore[misc]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert text == f"{demo.DEMO_PROMPT} {demo.DEMO_TARGET}."


@torch.no_grad()
def test_the_trace_has_an_early_and_a_late_site(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Corrupt the subject, restore one block output, after Meng et al. 2022; with bare hooks.

    The bounds are loose around what was measured, which stands in the model card.
    """
    ids = tokenizer(demo.DEMO_PROMPT, return_tensors="pt")["input_ids"]
    target = tokenizer.convert_tokens_to_ids(demo.DEMO_TARGET)
    blocks = model.transformer.h
    clean = model(ids, output_hidden_states=True).hidden_states
    words = demo.DEMO_PROMPT.split()
    first = words.index(demo.DEMO_SUBJECT.split()[0])
    subject = slice(first, first + 3)

    embeddings = model.transformer.wte(ids).repeat(16, 1, 1)
    noise = torch.randn(16, 3, embeddings.shape[-1], generator=torch.Generator().manual_seed(0))
    embeddings[:, subject] += 3 * model.transformer.wte.weight.std() * noise

    def probability(block: int | None = None, position: int = 0) -> float:
        def restore(_module: torch.nn.Module, _args: object, output: torch.Tensor) -> torch.Tensor:
            assert block is not None
            output = output.clone()
            output[:, position] = clean[block + 1][:, position]
            return output

        handle = None if block is None else blocks[block].register_forward_hook(restore)
        try:
            logits = model(inputs_embeds=embeddings).logits[:, -1]
        finally:
            if handle is not None:
                handle.remove()
        return float(logits.softmax(dim=-1)[:, target].mean())

    subject_last, last = first + 2, len(words) - 1
    assert probability() < 0.3
    assert probability(2, subject_last) > 0.8
    assert probability(2, last) < 0.3
    assert probability(6, subject_last) < 0.3
    assert probability(6, last) > 0.8
    between = [probability(block, p) for p in range(subject_last + 1, last) for block in (0, 2, 4, 6)]
    assert max(between) < 0.3


def test_importing_the_demo_loads_no_transformers() -> None:
    code = "import sys, intervene.demo; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_transformers_the_error_names_the_extra(uninstall: Callable[[str], None]) -> None:
    uninstall("transformers")
    with pytest.raises(ImportError, match=r'pip install "torch-intervene\[hf\]"'):
        demo.load()
