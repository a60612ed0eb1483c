"""`causal_trace` is ROME's recipe: the same numbers come out of a loop written with torch's hooks."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import BloomConfig, BloomForCausalLM, PreTrainedTokenizerFast

import intervene
from intervene import CausalTrace, SweepError
from intervene.tracing import subject_columns, target_token

PROMPT = "The Space Needle is in downtown"
SUBJECT = "Space Needle"
COLUMNS = [1, 2]
WORDS = ["[UNK]", "[BOS]", "[EOS]", *PROMPT.split(), "Seattle", "Paris", "Rome", "Near", "le"]


def make_tokenizer(bos: bool = False) -> PreTrainedTokenizerFast:
    """One token a word; with ``bos`` the beginning is marked."""
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if bos:
        inner.post_processor = processors.TemplateProcessing(single="[BOS] $A", special_tokens=[("[BOS]", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", bos_token="[BOS]", eos_token="[EOS]")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="module")
def model() -> Any:
    return intervene.tiny("gpt2", vocab_size=len(WORDS), initializer_range=0.3)


def trace(model: Any, tokenizer: Any, **options: Any) -> CausalTrace:
    given = {"prompt": PROMPT, "subject": SUBJECT, "samples": 3, "progress": False, **options}
    return intervene.causal_trace(model, tokenizer, **given)


def rome(
    model: Any,
    ids: Tensor,
    token: int | None,
    module: Callable[[int], nn.Module],
    samples: int,
    seed: int,
    sigma: float = 3.0,
    window: int = 1,
) -> tuple[float, float, Tensor]:
    """Meng et al.'s causal trace, cell by cell: the probability clean, corrupted, and (layer, column) restored."""
    layers, width, table = model.config.n_layer, model.config.hidden_size, model.get_input_embeddings()
    generator = torch.Generator().manual_seed(seed)
    noise = sigma * table.weight.detach().std() * torch.randn(samples, 2, width, generator=generator)
    clean: dict[int, Tensor] = {}

    def tensor(output: Any) -> Tensor:
        return output if isinstance(output, Tensor) else output[0]

    def like(output: Any, new: Tensor) -> Any:
        return new if isinstance(output, Tensor) else (new, *output[1:])

    def keep(layer: int) -> Any:
        return lambda module, args, output: clean.update({layer: tensor(output)})

    def corrupt(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[:, COLUMNS] += noise
        return output

    def restore(layer: int, column: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            changed = tensor(output).clone()
            changed[:, column] = clean[layer][0, column]
            return like(output, changed)

        return hook

    def probability(rows: Tensor, hooks: list[tuple[nn.Module, Any]]) -> float:
        handles = [m.register_forward_hook(h) for m, h in hooks]
        with torch.no_grad():
            logits = model(input_ids=rows).logits[:, -1]
        for handle in handles:
            handle.remove()
        return float(logits.softmax(-1)[:, token].mean())

    if token is None:
        with torch.no_grad():
            token = int(model(input_ids=ids).logits[0, -1].argmax())
    first = probability(ids, [(module(i), keep(i)) for i in range(layers)])
    rows, corruption = ids.expand(samples, -1), (table, corrupt)
    second = probability(rows, [corruption])
    restored = torch.zeros(layers, ids.shape[1])
    for layer in range(layers):
        around = [i for i in range(layer - window // 2, layer + (window + 1) // 2) if 0 <= i < layers]
        for column in range(ids.shape[1]):
            patches = [(module(i), restore(i, column)) for i in around]
            restored[layer, column] = probability(rows, [corruption, *patches])
    return first, second, restored


@pytest.mark.parametrize(
    ("component", "window"), [("block_output", 1), ("mlp_output", 2), ("attention_output", 3), ("mlp_output", 1)]
)
@pytest.mark.parametrize("target", [None, "Seattle"])
def test_equals_the_loop(model: Any, tokenizer: Any, component: str, window: int, target: str | None) -> None:
    result = trace(model, tokenizer, component=component, window=window, target=target, seed=4, sigma=2.0)
    token = None if target is None else WORDS.index(target)
    blocks = model.transformer.h
    modules: dict[str, Callable[[int], nn.Module]] = {
        "block_output": lambda layer: blocks[layer],
        "mlp_output": lambda layer: blocks[layer].mlp,
        "attention_output": lambda layer: blocks[layer].attn,
    }
    ids = torch.tensor([[WORDS.index(w) for w in PROMPT.split()]])
    clean, corrupted, restored = rome(model, ids, token, modules[component], 3, 4, 2.0, window)
    assert result.source == pytest.approx(clean, rel=1e-4)
    assert result.base == pytest.approx(corrupted, rel=1e-4)
    torch.testing.assert_close(result.values, restored, atol=0, rtol=1e-4)
    # Numbers that are all alike would agree with anything.
    assert float(restored.std()) > 0.02 * float(restored.mean())
    assert clean != pytest.approx(corrupted, rel=0.02)
    assert result.method == "growing batch"


def test_what_a_trace_says(model: Any, tokenizer: Any) -> None:
    result = trace(model, tokenizer, target="Seattle")
    assert (result.prompt, result.subject, result.target) == (PROMPT, SUBJECT, "Seattle")
    assert result.target_token == WORDS.index("Seattle")
    assert [a.name for a in result.axes] == ["layer", "position"]
    assert result.axis("position").texts == ("The", "Space*", "Needle*", "is", "in", "downtown")
    assert result.samples.shape == (3, 3, 6)
    assert result.title == "p(Seattle) with clean block_output restored"
    assert result.notes["noise"] == {"sigma": 3.0, "samples": 3, "seed": 0}
    assert trace(model, tokenizer, component="mlp_output", window=2).title.endswith("mlp_output restored in 2 layers")


def test_predictions(model: Any, tokenizer: Any) -> None:
    result = trace(model, tokenizer)
    with torch.no_grad():
        ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
        clean = model(input_ids=ids).logits[0, -1].softmax(-1)
    best = clean.topk(5)
    assert [p.token for p in result.clean] == [WORDS[i] for i in best.indices]
    assert [p.probability for p in result.clean] == pytest.approx(best.values.tolist(), abs=1e-5)
    # Left out, the target is the model's own answer.
    assert result.target == result.clean[0].token
    assert result.source == pytest.approx(result.clean[0].probability, abs=1e-5)
    likely = {p.token: p.probability for p in result.corrupted}
    assert len(likely) == 5
    if result.target in likely:
        assert result.base == pytest.approx(likely[result.target], abs=1e-5)


def test_the_same_seed_gives_the_same_trace(model: Any, tokenizer: Any) -> None:
    random = torch.get_rng_state()
    first, again, other = (trace(model, tokenizer, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.samples, again.samples)
    assert first.corrupted == again.corrupted
    assert not torch.equal(first.samples, other.samples)
    assert torch.equal(torch.get_rng_state(), random)


def test_layers_of_a_trace(model: Any, tokenizer: Any) -> None:
    every, some = trace(model, tokenizer), trace(model, tokenizer, layers=[-1, 0])
    assert some.axis("layer").labels == (2, 0)
    torch.testing.assert_close(some.values, every.values[[2, 0]], atol=1e-6, rtol=1e-5)


def test_exports(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    result = trace(model, tokenizer, target="Paris")
    plain = json.loads(json.dumps(result.to_dict()))
    assert plain["target"] == "Paris"
    assert plain["axes"][1]["texts"][1] == "Space*"
    assert plain["clean"][0].keys() == {"token", "probability"}
    assert len(plain["corrupted"]) == 5
    assert list(result.to_pandas().columns) == ["layer", "position", "token", "value"]
    axes = result.plot(path=tmp_path / "trace.png")
    assert [t.get_text() for t in axes.get_yticklabels()][1:3] == ["Space*", "Needle*"]
    assert (tmp_path / "trace.png").read_bytes().startswith(b"\x89PNG")


def test_marked_beginning(model: Any) -> None:
    result = trace(model, make_tokenizer(bos=True), target="Rome")
    assert result.axis("position").texts == ("[BOS]", "The", "Space*", "Needle*", "is", "in", "downtown")
    assert result.target_token == WORDS.index("Rome")


@pytest.mark.parametrize(
    ("subject", "columns"),
    [("Space Needle", [1, 2]), ("The Space", [0, 1]), ("Need", [2]), ("ace Ne", [1, 2]), ("in", [4]), ("town", [5])],
)
def test_subject_columns(tokenizer: Any, subject: str, columns: list[int]) -> None:
    assert subject_columns(tokenizer, PROMPT, subject) == columns


@pytest.mark.parametrize("subject", ["Eiffel Tower", "", "space needle"])
def test_missing_subject(model: Any, tokenizer: Any, subject: str) -> None:
    with pytest.raises(SweepError, match=f"doesn't hold the subject {subject!r}"):
        trace(model, tokenizer, subject=subject)


def test_slow_tokenizer(tokenizer: Any) -> None:
    class Slow:
        is_fast = False

    with pytest.raises(SweepError, match="Slow can't say where its tokens lie"):
        subject_columns(Slow(), PROMPT, SUBJECT)


def test_target_token(tokenizer: Any) -> None:
    ids = tokenizer(PROMPT)["input_ids"]
    assert target_token(tokenizer, PROMPT, ids, "Seattle") == WORDS.index("Seattle")
    assert target_token(tokenizer, PROMPT, ids, "  Paris is near") == WORDS.index("Paris")
    with pytest.raises(SweepError, match="target is empty"):
        target_token(tokenizer, PROMPT, ids, " ")
    with pytest.raises(SweepError, match="no token for the target 'Berlin'"):
        target_token(tokenizer, PROMPT, ids, "Berlin")
    assert target_token(tokenizer, PROMPT, ids, "[UNK]") == 0


def characters() -> PreTrainedTokenizerFast:
    """A token a character, spaces and line ends included."""
    letters = ["[UNK]", *" \n,.()$-HeloWrdx5東京都東"]
    inner = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(dict.fromkeys(letters))}, "[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")


@pytest.mark.parametrize(
    ("prompt", "target", "first"),
    [
        ("Hello", "World", " "),
        ("Hello ", "World", "W"),
        ("Hello", " World", " "),
        ("Hello", "\nWorld", "\n"),
        ("Hello", ", World", ","),
        ("Hello", ")", ")"),
        ("Hello", "(World)", " "),
        ("Hello (", "World", "W"),
        ("Hello,", "World", " "),
        ("Hello", "$5", " "),
        ("東", "京", "京"),
        ("Hello", "東京", "東"),
    ],
)
def test_a_space_stands_before_the_target_where_two_words_have_one(prompt: str, target: str, first: str) -> None:
    tokenizer = characters()
    ids = tokenizer(prompt)["input_ids"]
    assert tokenizer.decode([target_token(tokenizer, prompt, ids, target)]) == first


def test_a_target_that_becomes_one_token_with_the_prompts_end() -> None:
    inner = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    assert tokenizer("(ab")["input_ids"] == [2]
    assert target_token(tokenizer, "a(", tokenizer("a(")["input_ids"], "b") == 1


def test_a_target_by_its_id(model: Any, tokenizer: Any) -> None:
    named, numbered = (trace(model, tokenizer, target=t) for t in ("Rome", WORDS.index("Rome")))
    assert numbered.target == "Rome"
    assert torch.equal(named.values, numbered.values)
    for wrong in (-1, len(WORDS)):
        with pytest.raises(SweepError, match=rf"no token has the id {wrong}: the model has {len(WORDS)} \(0 to"):
            trace(model, tokenizer, target=wrong)


def test_what_is_only_space_is_shown() -> None:
    tokenizer = characters()
    model = intervene.tiny("gpt2", vocab_size=len(tokenizer))
    result = trace(model, tokenizer, prompt="Hello \n", subject="Hello", target="World")
    assert result.axis("position").texts == ("H*", "e*", "l*", "l*", "o*", " ", "\n")
    assert result.target == "W"


@pytest.mark.parametrize(
    "kind", ["GPT2Model", "GPT2ForSequenceClassification", "GPT2ForTokenClassification", "GPT2ForQuestionAnswering"]
)
def test_a_model_without_a_language_models_head(tokenizer: Any, kind: str) -> None:
    with pytest.raises(SweepError, match=f"{kind} has no head that says it: load the model as a causal language model"):
        trace(intervene.tiny("gpt2", kind, vocab_size=len(WORDS)), tokenizer)


def test_unknown_component(model: Any, tokenizer: Any) -> None:
    with pytest.raises(intervene.UnknownSiteError, match="mlp_output"):
        trace(model, tokenizer, component="mlp")


def test_an_adapted_model_does_as_well(model: Any, tokenizer: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = trace(intervene.adapt(model), tokenizer)
    assert torch.equal(first.values, trace(model, tokenizer).values)


def test_the_model_is_as_it_was(model: Any, tokenizer: Any) -> None:
    state = {n: t.clone() for n, t in model.state_dict().items()}
    trace(model, tokenizer)
    hooks = [h for m in model.modules() for n, h in vars(m).items() if "hook" in n and isinstance(h, dict)]
    assert hooks
    assert not any(hooks)
    assert all(torch.equal(state[n], t) for n, t in model.state_dict().items())


def bloom() -> Any:
    """A causal language model that no adapter knows."""
    torch.manual_seed(0)
    config = BloomConfig(vocab_size=len(WORDS), hidden_size=24, n_layer=3, n_head=3, initializer_range=0.3)
    return BloomForCausalLM(config).eval()


def test_a_model_that_no_adapter_knows(tokenizer: Any) -> None:
    model = bloom()
    result = trace(model, tokenizer, component="transformer.h.{layer}.output", target="Rome", seed=4)
    assert [len(axis) for axis in result.axes] == [3, 6]
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    source, base, expected = rome(model, ids, WORDS.index("Rome"), lambda layer: model.transformer.h[layer], 3, 4)
    assert result.source == pytest.approx(source, rel=1e-4)
    assert float(result.base) == pytest.approx(base, rel=1e-4)
    torch.testing.assert_close(result.values, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"window": 3}, {"layers": [2, 0]}], ids=str)
def test_a_path_with_layers_is_the_component_there(model: Any, tokenizer: Any, options: Any) -> None:
    named = trace(model, tokenizer, component="block_output", **options)
    by_path = trace(model, tokenizer, component="transformer.h.{layer}.output", **options)
    torch.testing.assert_close(by_path.values, named.values)
    assert by_path.axis("layer").labels == named.axis("layer").labels


@pytest.mark.parametrize(
    ("component", "message"),
    [
        ("transformer.g.{layer}.output", r"GPT2LMHeadModel has no modules 'transformer.g'.*transformer.h"),
        ("transformer.{layer}.output", r"the modules of 'transformer' are not numbered from 0; they are \['wte'"),
        ("transformer.h.{layer}.mpl.output", r"no module 'transformer.h.0.mpl'"),
        (["transformer.h.{layer}.output", "mlp_output"], "don't go through the same layers"),
    ],
)
def test_a_path_without_such_layers(model: Any, tokenizer: Any, component: Any, message: str) -> None:
    with pytest.raises((intervene.UnknownSiteError, SweepError), match=message):
        trace(model, tokenizer, component=component)
