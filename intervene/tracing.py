"""`causal_trace`: where a model keeps a fact (Meng et al. 2022, https://arxiv.org/abs/2202.05262)."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor, nn

from .adapted import Adapted, adapt
from .errors import SweepError
from .sweeps.engine import accepts, run_once
from .sweeps.metrics import Probability
from .sweeps.noise import GaussianNoise
from .sweeps.result import SweepResult
from .sweeps.sources import corruption
from .sweeps.sweep import GIB, sweep


@dataclass(frozen=True)
class Prediction:
    """A next token and its probability, between 0 and 1."""

    token: str
    probability: float


@dataclass(frozen=True)
class CausalTrace(SweepResult):
    """A sweep that restores clean activations in runs whose subject is corrupted.

    ``source`` is the clean probability of the target, ``base`` the corrupted one (the mean over noise samples) and
    ``values`` the probability with one cell restored: what that cell brings back is its indirect effect.

    Attributes:
        prompt: the text that was traced.
        subject: the part of it that was corrupted.
        target: the token whose probability is measured, as text.
        target_token: its id.
        clean: the likeliest next tokens of the clean run, the likeliest first.
        corrupted: the same for the corrupted runs, their probabilities averaged.
    """

    prompt: str = ""
    subject: str = ""
    target: str = ""
    target_token: int = -1
    clean: tuple[Prediction, ...] = ()
    corrupted: tuple[Prediction, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: that of a sweep, with prompt, subject, target and predictions."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        listed = {
            name: [{"token": p.token, "probability": p.probability} for p in own[name]]
            for name in ("clean", "corrupted")
        }
        texts = {n: own[n] for n in ("prompt", "subject", "target", "target_token")}
        return {**texts, **super().to_dict(), **listed}


def causal_trace(
    model: nn.Module | Adapted,
    tokenizer: Any,
    *,
    prompt: str,
    subject: str,
    target: str | int | None = None,
    component: str = "block_output",
    layers: Sequence[int] | None = None,
    window: int = 1,
    sigma: float = 3.0,
    samples: int = 10,
    seed: int = 0,
    memory: int = GIB,
    progress: bool = True,
) -> CausalTrace:
    """Corrupt the subject's embeddings with noise, restore one clean activation at a time, and see what brings the
    target back.

    Args:
        model: a causal language model in eval mode.
        tokenizer: its (fast) tokenizer.
        prompt: the text, for example ``"The Space Needle is in downtown"``.
        subject: a part of the prompt, ``"The Space Needle"``; its first occurrence is corrupted.
        target: the continuation to measure; its first token counts. A space goes between it and the prompt where two
            words would have one. A token's id says exactly which; the model's own answer is the default.
        component: what is restored; Meng et al. also show ``"mlp_output"`` and ``"attention_output"``. Of a model that
            no adapter knows, a module path with ``{layer}`` for the number: ``"model.layers.{layer}.output"``.
        layers: the layers restored; all by default.
        window: how many layers around a cell's own are restored with it; Meng et al. take 10 of 48 for MLP and
            attention.
        sigma: the noise, in standard deviations of the token embeddings.
        samples: how many noise draws are averaged.
        seed: the noise's seed.
        memory: bytes that the activations of one forward may take.
        progress: show a bar where it takes longer than a second.

    Returns:
        The target's probability, (layers, positions), positions labelled with their tokens, the subject's with an
        asterisk.

    Raises:
        SweepError: a subject that the prompt doesn't hold, a target that no token begins, a tokenizer that can't say
            where tokens lie, or a model without a language model's head.
        UnknownSiteError: the component is none of this model's.
    """
    adapted = model if isinstance(model, Adapted) else adapt(model)
    if len(adapted.towers) > 1:
        raise SweepError(
            f"causal_trace gives a model a prompt alone, and {type(adapted.model).__name__} has the towers "
            f"{', '.join(adapted.towers)}: call intervene.sweep with all its inputs, component="
            f'"{adapted.towers[-1]}.{component}" and noise=GaussianNoise(...)'
        )
    _require_head(adapted.model)
    device = next(adapted.model.parameters()).device
    encoded = tokenizer(prompt, return_tensors="pt")
    inputs = {n: v.to(device) for n, v in encoded.items() if accepts(adapted.model, n)}
    ids: list[int] = inputs["input_ids"][0].tolist()
    columns = subject_columns(tokenizer, prompt, subject)
    clean_logits = _last_logits(adapted, inputs)
    if isinstance(target, int):
        token = _known(target, clean_logits.shape[-1])
    else:
        token = int(clean_logits[0].argmax()) if target is None else target_token(tokenizer, prompt, ids, target)
    noise = GaussianNoise(columns, sigma=sigma, samples=samples, seed=seed)
    result = sweep(
        adapted,
        base=inputs,
        metric=Probability(token),
        component=component,
        layers=layers,
        window=window,
        noise=noise,
        memory=memory,
        progress=progress,
        tokens=[_shown(tokenizer, i) + ("*" if column in columns else "") for column, i in enumerate(ids)],
    )
    text = _shown(tokenizer, token)
    known = {f.name: getattr(result, f.name) for f in fields(result)}
    known["title"] = f"p({text}) with clean {component} restored" + (f" in {window} layers" if window > 1 else "")
    return CausalTrace(
        **known,
        prompt=prompt,
        subject=subject,
        target=text,
        target_token=token,
        clean=_predictions(tokenizer, clean_logits),
        corrupted=_predictions(tokenizer, _corrupted_logits(adapted, inputs, noise)),
    )


def subject_columns(tokenizer: Any, prompt: str, subject: str) -> list[int]:
    """The columns of the prompt's tokens that hold a character of ``subject``'s first occurrence.

    Raises:
        SweepError: the prompt doesn't hold it, or the tokenizer has no offsets.
    """
    begin = prompt.find(subject)
    if begin < 0 or not subject:
        raise SweepError(f"the prompt {prompt!r} doesn't hold the subject {subject!r}")
    if not getattr(tokenizer, "is_fast", False):
        raise SweepError(f"{type(tokenizer).__name__} can't say where its tokens lie in the text: use a fast tokenizer")
    offsets = tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
    end = begin + len(subject)
    return [c for c, (first, last) in enumerate(offsets) if first < end and last > begin]


def target_token(tokenizer: Any, prompt: str, ids: Sequence[int], target: str) -> int:
    """The first token of ``target`` as a continuation of the prompt.

    Raises:
        SweepError: the target is empty, or the tokenizer has no token for it.
    """
    if not target.strip():
        raise SweepError("the target is empty: say a continuation, or leave it out for the model's own")
    continuation = (" " if _words_meet(prompt, target) else "") + target
    whole = tokenizer(prompt + continuation)["input_ids"]
    # Alone where the prompt's last token and the target's first became one, or something marks a text's end.
    goes_on = whole[: len(ids)] == list(ids)
    found = whole[len(ids) :] if goes_on else tokenizer(continuation, add_special_tokens=False)["input_ids"]
    unknown = getattr(tokenizer, "unk_token_id", None)
    if not found or (found[0] == unknown and target.strip() != tokenizer.unk_token):
        raise SweepError(f"the tokenizer has no token for the target {target!r}")
    return int(found[0])


# Scripts that put no space between words, by how Unicode's names of their letters begin.
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


def _words_meet(prompt: str, target: str) -> bool:
    """Whether ``prompt`` ends and ``target`` begins with what a space divides."""
    before, after = prompt[-1:] or " ", target[0]
    if before.isspace() or after.isspace():
        return False
    if any(unicodedata.name(c, "").startswith(_UNSPACED) for c in (before, after)):
        return False
    # What opens stands close to what follows it; what closes, and other punctuation, to what comes before.
    return unicodedata.category(before) not in ("Ps", "Pi") and unicodedata.category(after) not in ("Pe", "Pf", "Po")


def _known(token: int, vocabulary: int) -> int:
    if not 0 <= token < vocabulary:
        raise SweepError(f"no token has the id {token}: the model has {vocabulary} (0 to {vocabulary - 1})")
    return token


def _shown(tokenizer: Any, token: int) -> str:
    """A token's text without the spaces around it, unless it is nothing else."""
    text: str = tokenizer.decode([token])
    return text.strip(" ") or text


def _require_head(model: nn.Module) -> None:
    """Raise for a model of transformers that gives no tokens' logits."""
    head = getattr(model, "get_output_embeddings", None)
    if head is not None and head() is None:
        raise SweepError(
            f"causal_trace measures what the next token is, and {type(model).__name__} has no head that says it: load "
            f"the model as a causal language model"
        )


def _last_logits(adapted: Adapted, inputs: Mapping[str, Any]) -> Tensor:
    return run_once(adapted, inputs)[0][:, -1]


def _corrupted_logits(adapted: Adapted, inputs: Mapping[str, Tensor], noise: GaussianNoise) -> Tensor:
    rows = {n: v.expand(noise.samples, *v.shape[1:]) for n, v in inputs.items()}
    columns = inputs["input_ids"].shape[1]
    with adapted.session(writes=corruption(adapted, noise, columns)(range(noise.samples), 0)):
        return _last_logits(adapted, rows)


def _predictions(tokenizer: Any, logits: Tensor, count: int = 5) -> tuple[Prediction, ...]:
    """The likeliest tokens under the mean of the rows' distributions."""
    mean = logits.float().softmax(-1).mean(0)
    top = mean.topk(min(count, len(mean)))
    return tuple(Prediction(_shown(tokenizer, int(i)), float(p)) for i, p in zip(top.indices, top.values, strict=True))
