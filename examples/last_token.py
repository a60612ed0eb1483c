"""A small GPT-2 that is trained to name the token after each of many short prompts, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import intervene  # noqa: F401 - before transformers, which a torchvision of another build would break

# isort: split
import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel

BATCH = 128


def train(
    draw: Callable[[int], tuple[Tensor, Tensor]],
    *,
    vocabulary: int,
    columns: int,
    layers: int,
    heads: int,
    width: int,
    steps: int,
) -> GPT2LMHeadModel:
    """The model, with weights from torch's random state as it is.

    Args:
        draw: makes that many prompts, (n, position), and the token that follows each, (n,).
        vocabulary: how many tokens there are.
        columns: the longest prompt.
        layers, heads, width: the model's.
        steps: of the optimizer, each on 128 prompts.
    """
    config = GPT2Config(
        vocab_size=vocabulary, n_positions=columns, n_embd=width, n_layer=layers, n_head=heads, initializer_range=0.06,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    with tqdm(range(steps), desc="train", unit="step") as bar:
        for _ in bar:
            ids, following = draw(BATCH)
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1]
            loss = nn.functional.cross_entropy(logits, following)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return model.eval()
