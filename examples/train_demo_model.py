"""Train the small GPT-2 that ships with this project, from nothing, on a world of invented facts.

    python examples/train_demo_model.py --output intervene/demo/model

The world is `intervene.demo.facts`: 384 landmarks and the cities they stand in. The model is
transformers' own GPT2LMHeadModel with a word-level tokenizer. Training takes a few minutes on one
CPU core. At the end the script prints how often the model names the right city for pairs of
landmark and sentence that it never saw together.

The model is made for causal tracing, so it should look a fact up at the landmark's last word and
carry the city to the end of the sentence afterwards. Trained plainly (`--bottleneck-share 0`), a
model this small gathers the name's three words at the end of the sentence and looks the fact up
there, and the trace shows hardly an early site. So most training sentences have a *bottleneck*:
the words after the name can't attend to the name in the first blocks, and see only its last word in
the others. The model that comes out is a plain GPT-2 that needs no such mask; where its facts are
looked up is known, which makes it a positive control for a tracing method.
"""

from __future__ import annotations

import intervene  # noqa: F401 - before transformers, which a torchvision of another build would break

# isort: split
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from intervene.demo.facts import Example, build_world, vocabulary

PAD, UNKNOWN, END = "<pad>", "<unk>", "<eos>"
IGNORED = -100  # the label that torch's cross entropy leaves out


def build_tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    """A tokenizer with one token a word or punctuation mark.

    A token doesn't hold the space before it, so "Velmora" and " Velmora" are the same one token.
    """
    words = [PAD, UNKNOWN, END, *vocabulary()]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    # There are no word pieces here: what is wanted is this decoder's spacing around punctuation.
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=END,
        eos_token=END,
        clean_up_tokenization_spaces=False,
    )


def build_model(
    tokenizer: PreTrainedTokenizerFast, layers: int, width: int, heads: int, initializer_range: float
) -> GPT2LMHeadModel:
    """An untrained GPT-2 without dropout; its weights are a function of torch's seed."""
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=tokenizer.model_max_length,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        initializer_range=initializer_range,
        activation_function="gelu_pytorch_tanh",  # gelu_new in one fused kernel
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return GPT2LMHeadModel(config)


def encode(
    tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Whole sentences as token ids, their mask, and each city's index; (n, length) twice, and (n,)."""
    batch = tokenizer(
        [f"{example.text} {END}" for example in examples],
        padding=True,
        padding_side="right",
        return_tensors="pt",
    )
    # The sentence ends with: city, full stop, end of text.
    city_index = batch["attention_mask"].sum(dim=1) - 3
    return batch["input_ids"], batch["attention_mask"], city_index


def attention_masks(
    tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example], length: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Which token may attend to which, True where it may; three masks of shape (n, length, length).

    The first is GPT-2's causal mask. In the second, the tokens after a landmark's name see nothing
    of the name, in the third they see its last word alone.
    """
    causal = torch.ones(length, length, dtype=torch.bool).tril().repeat(len(examples), 1, 1)
    unseen, last_word = causal.clone(), causal.clone()
    for i, example in enumerate(examples):
        first = len(tokenizer.tokenize(example.template.before))
        last = first + len(tokenizer.tokenize(example.subject)) - 1
        unseen[i, last + 1 :, first : last + 1] = False
        last_word[i, last + 1 :, first:last] = False
    return causal, unseen, last_word


@contextmanager
def attention_in_first_blocks(model: GPT2LMHeadModel, blocks: int) -> Iterator[list[torch.Tensor]]:
    """Give the first blocks another attention mask than the rest: the one item of the list yielded."""
    mask: list[torch.Tensor] = []

    def replace(_: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, kwargs | {"attention_mask": mask[0]}

    with ExitStack() as hooks:
        for block in model.transformer.h[:blocks]:
            handle = block.attn.register_forward_pre_hook(replace, with_kwargs=True)
            hooks.callback(handle.remove)
        yield mask


def train(
    model: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[Example],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    city_weight: float,
    bottleneck_share: float,
    bottleneck_blocks: int,
    seed: int,
) -> float:
    """Train in place. Returns the cross entropy of the city, nats, over the last 50 steps."""
    ids, mask, city_index = encode(tokenizer, examples)
    labels = ids.masked_fill(mask == 0, IGNORED)
    causal, unseen, last_word = attention_masks(tokenizer, examples, ids.shape[1])
    rows = torch.arange(batch_size)
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = max(1, min(100, steps // 10))

    def rate(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    recent: list[float] = []
    model.train()
    with (
        attention_in_first_blocks(model, bottleneck_blocks) as early_mask,
        tqdm(range(steps), unit="step", desc="train") as progress,
    ):
        for _ in progress:
            pick = torch.randint(len(examples), (batch_size,), generator=draw)
            length = int(mask[pick].sum(dim=1).max())
            # A random first position, so that the model reads left-padded prompts as well.
            first = torch.randint(model.config.n_positions - length + 1, (batch_size, 1), generator=draw)
            bottleneck = torch.rand(batch_size, 1, 1, generator=draw) < bottleneck_share
            early, late = (
                torch.where(bottleneck, narrow[pick], causal[pick])[:, None, :length, :length]
                for narrow in (unseen, last_word)
            )
            early_mask[:] = [early]
            logits = model(
                input_ids=ids[pick, :length],
                attention_mask=late,
                position_ids=first + torch.arange(length),
                use_cache=False,
            ).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), labels[pick, 1:length].flatten(), ignore_index=IGNORED
            )
            # Most tokens of a sentence don't depend on the fact, so the city weighs more.
            city = city_index[pick]
            city_loss = torch.nn.functional.cross_entropy(logits[rows, city - 1], ids[pick, city])
            optimizer.zero_grad()
            (loss + city_weight * city_loss).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            recent = [*recent[-49:], city_loss.item()]
            progress.set_postfix(loss=f"{loss.item():.3f}", city=f"{city_loss.item():.4f}")
    model.eval()
    return sum(recent) / len(recent)


@torch.no_grad()
def accuracy(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example]
) -> tuple[float, float]:
    """How often the city is the most likely next token, and its mean probability."""
    right, probability = 0, 0.0
    for start in range(0, len(examples), 256):
        ids, mask, city_index = encode(tokenizer, examples[start : start + 256])
        rows = torch.arange(len(ids))
        logits = model(input_ids=ids, attention_mask=mask).logits[rows, city_index - 1]
        city = ids[rows, city_index]
        right += int((logits.argmax(dim=-1) == city).sum())
        probability += float(logits.softmax(dim=-1)[rows, city].sum())
    return right / len(examples), probability / len(examples)


def main(
    output: Annotated[Path, typer.Option(help="Folder to write the model and tokenizer to.")],
    seed: Annotated[int, typer.Option(help="Seed of the weights and of the batches.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 1200,
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences a step.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate of AdamW.")] = 2e-3,
    city_weight: Annotated[float, typer.Option(help="Weight of the city's loss.")] = 4.0,
    bottleneck_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the sentences with a bottleneck.")
    ] = 0.75,
    bottleneck_blocks: Annotated[
        int, typer.Option(min=0, help="First blocks, in which later words can't see the name then.")
    ] = 4,
    layers: Annotated[int, typer.Option(min=1, help="Blocks of the model.")] = 8,
    width: Annotated[int, typer.Option(min=1, help="Width of the residual stream.")] = 64,
    heads: Annotated[int, typer.Option(min=1, help="Attention heads a layer.")] = 4,
    initializer_range: Annotated[float, typer.Option(help="Standard deviation of the weights at the start.")] = 0.06,
    positions: Annotated[int, typer.Option(min=24, help="Longest input, in tokens.")] = 40,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; more are hardly faster.")] = 1,
) -> None:
    """Train the demo model and write it to OUTPUT."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    # The facts are those of world 0 whatever the seed, so that every model knows the same ones.
    world = build_world()
    tokenizer = build_tokenizer(positions)
    model = build_model(tokenizer, layers, width, heads, initializer_range)

    started = time.perf_counter()
    city_loss = train(
        model,
        tokenizer,
        world.train,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        city_weight=city_weight,
        bottleneck_share=bottleneck_share,
        bottleneck_blocks=bottleneck_blocks,
        seed=seed,
    )
    seconds = time.perf_counter() - started

    model.save_pretrained(output)
    tokenizer.save_pretrained(output)

    console = Console()
    console.print(f"trained {steps} steps in {seconds:.0f} s on {threads} threads, seed {seed}")
    console.print(f"city's cross entropy over the last 50 steps: {city_loss:.4f} nats")
    for name, examples in (
        ("training pairs", world.train),
        ("held-out pairs", world.held_out),
        ("unseen templates", world.unseen),
    ):
        share, probability = accuracy(model, tokenizer, examples)
        console.print(f"{name}: {share:.2%} of {len(examples)} right, mean P(city) {probability:.3f}")
    size = (output / "model.safetensors").stat().st_size
    console.print(f"{model.num_parameters()} parameters, model.safetensors {size / 1e6:.2f} MB")


if __name__ == "__main__":
    typer.run(main)
