"""Indirect object identification in a small GPT-2: which heads name the right person?

    python examples/ioi.py

"Then, Mary and John went to the store. John gave a ring to" is to be continued with Mary: the indirect object (IO), not
the subject (S), which is said twice. In GPT-2 small, Wang et al. 2022 ("Interpretability in the Wild",
https://arxiv.org/abs/2211.00593) found heads at the end of the sentence that attend to the subject's second mention
(S-inhibition) and steer later ones that copy the other name (name movers). This trains a small GPT-2 on such sentences
alone, with nothing said about how to solve them, and looks what heads it grew:

- patching: in the same sentence with the other name repeated the answer is the opposite one; each head's output at the
  sentence's end is taken over from the right sentence, and the logit difference IO - S is measured;
- attention from the end to IO and to both mentions of S;
- direct effect: what each head adds to the logit difference by itself, through the unembedding;
- copying: how often the name that is most raised by a head attending to the IO is the IO.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated

import last_token
import torch
import typer
from figures import report
from matplotlib.figure import Figure
from torch import Tensor
from transformers import GPT2LMHeadModel

import intervene
from intervene.sweeps import LogitDifference, SweepResult

NAMES = (
    "Mary", "John", "Tom", "James", "Dan", "Sid", "Martin", "Amy", "Kate", "Anna", "Paul", "Lucy", "Mark", "Ruth",
    "Jack", "Emma", "Adam", "Rose", "Luke", "Jane", "Peter", "Clara", "Simon", "Alice", "Henry", "Laura", "Oscar",
    "Nina", "Frank", "Helen", "Karl", "Sarah",
)  # fmt: skip
PLACES = ("store", "park", "school", "garden", "station", "office", "house")
OBJECTS = ("ring", "kiss", "bone", "ball", "book", "drink", "basket")
# [A] and [B] are the two names in either order, [S] is one of them.
TEMPLATES = tuple(
    text.split()
    for text in (
        "Then , [A] and [B] went to the [place] . [S] gave a [object] to",
        "When [A] and [B] got a [object] at the [place] , [S] decided to give it to",
        "After the lunch , [A] and [B] went to the [place] and [S] gave a [object] to",
        "Then [A] and [B] had a long argument , and afterwards [S] said to",
        "Friends [A] and [B] found a [object] at the [place] . [S] handed it to",
    )
)
WORDS = sorted({w for t in TEMPLATES for w in t if not w.startswith("[")})
VOCABULARY = (*WORDS, *NAMES, *PLACES, *OBJECTS)
HELD_OUT = 0.2  # of the pairs (IO, S)


@dataclass
class Sentences:
    """Sentences of one template.

    Attributes:
        ids: (n, position) the sentence up to the indirect object.
        flipped: the same with the other name repeated, whose answer is ``s``.
        io, s: (n,) the two names.
        template: its words.
    """

    ids: Tensor
    flipped: Tensor
    io: Tensor
    s: Tensor
    template: list[str]

    def column(self, word: str) -> int:
        """Where a word of the template stands."""
        return self.template.index(word)

    def io_and_s1(self) -> tuple[Tensor, Tensor]:
        """(n,) twice: where each sentence has the IO, and S for the first time."""
        first, second = self.column("[A]"), self.column("[B]")
        io = torch.where(self.ids[:, first] == self.io, first, second)
        return io, first + second - io


class Data:
    """Draws sentences; some pairs of names are never trained on."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._index = {word: i for i, word in enumerate(VOCABULARY)}
        pairs = torch.tensor([(a, b) for a in range(len(NAMES)) for b in range(len(NAMES)) if a != b])
        pairs = pairs[torch.randperm(len(pairs), generator=self._generator)]
        cut = int(HELD_OUT * len(pairs))
        self.names = self._ids(NAMES)
        self._pairs = {"train": self.names[pairs[cut:]], "held out": self.names[pairs[:cut]]}

    def _ids(self, words: tuple[str, ...]) -> Tensor:
        return torch.tensor([self._index[w] for w in words])

    def _pick(self, choices: Tensor, n: int) -> Tensor:
        return choices[torch.randint(len(choices), (n,), generator=self._generator)]

    def draw(self, n: int, split: str = "train", template: int | None = None) -> Sentences:
        """``n`` sentences of one template, a random one where none is named."""
        words = TEMPLATES[template if template is not None else int(self._pick(torch.arange(len(TEMPLATES)), 1))]
        io, s = self._pick(self._pairs[split], n).unbind(1)
        io_first = torch.rand(n, generator=self._generator) < 0.5
        slots = {
            "[A]": torch.where(io_first, io, s),
            "[B]": torch.where(io_first, s, io),
            "[S]": s,
            "[place]": self._pick(self._ids(PLACES), n),
            "[object]": self._pick(self._ids(OBJECTS), n),
        }
        columns = [slots[w] if w in slots else torch.full((n,), self._index[w]) for w in words]
        ids = torch.stack(columns, 1)
        flipped = ids.clone()
        flipped[:, words.index("[S]")] = io
        return Sentences(ids, flipped, io, s, words)


def train(layers: int, heads: int, width: int, steps: int, data: Data, seed: int) -> GPT2LMHeadModel:
    """A GPT-2 that is told which name comes next, and nothing else."""
    torch.manual_seed(seed)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        sentences = data.draw(count)
        return sentences.ids, sentences.io

    return last_token.train(
        draw, vocabulary=len(VOCABULARY), columns=24, layers=layers, heads=heads, width=width, steps=steps
    )


@torch.no_grad()
def accuracy(model: GPT2LMHeadModel, data: Data) -> float:
    """How often the IO is the most likely next word, for pairs of names not trained on, over all templates."""
    right = []
    for template in range(len(TEMPLATES)):
        sentences = data.draw(400, "held out", template)
        right.append((model(input_ids=sentences.ids).logits[:, -1].argmax(-1) == sentences.io).float().mean())
    return float(torch.stack(right).mean())


def patch(model: GPT2LMHeadModel, sentences: Sentences, component: str, axes: tuple[str, str]) -> SweepResult:
    """The logit difference in the flipped sentences with each cell taken over from the right ones."""
    last = len(sentences.template) - 1
    return intervene.sweep(
        model,
        base={"input_ids": sentences.flipped},
        source={"input_ids": sentences.ids},
        component=component,
        axes=axes,
        positions=None if "position" in axes else [last],
        metric=LogitDifference(sentences.io, sentences.s),
        tokens=sentences.template if "position" in axes else None,
        title=f"logit difference after patching {component}",
    )


@dataclass
class Heads:
    """What each head does at the sentence's end, (layers, heads) each.

    Attributes:
        recovered: the share of the logit difference that comes back when it is patched.
        to_io, to_s1, to_s2: how much it attends there, the mean over sentences.
        direct: what it adds to the logit difference IO - S by itself.
        copying: how often IO is the name it raises most where it attends to IO alone.
    """

    recovered: Tensor
    to_io: Tensor
    to_s1: Tensor
    to_s2: Tensor
    direct: Tensor
    copying: Tensor

    def kind(self, layer: int, head: int) -> str:
        """What to call a head, by thresholds that a reader may disagree with."""
        at = (layer, head)
        if self.to_io[at] > max(0.4, 3 * float(self.to_s1[at])) and self.copying[at] > 0.9 and self.direct[at] > 0.5:
            return "name mover"
        if self.to_s2[at] > 0.4 and self.recovered[at] > 0.2:
            return "S-inhibition"
        if self.to_s2[at] > 0.4 and self.direct[at] > 0.5:
            return "takes S away"
        return ""


@torch.no_grad()
def inspect(model: GPT2LMHeadModel, sentences: Sentences, patched: SweepResult, names: Tensor) -> Heads:
    """Read every head's attention, output and values, and follow them to the unembedding."""
    adapted = intervene.adapt(model)
    kinds = ("attention_pattern", "head_attention_value_output", "head_value_output")
    layers = range(adapted.layers)
    final = adapted.site("block_output", adapted.layers - 1)
    sites = [adapted.site(kind, layer) for kind in kinds for layer in layers]
    values = adapted.read([*sites, final], attention="eager", input_ids=sentences.ids)
    pattern, output, value = (torch.stack([values[adapted.site(k, la)] for la in layers], 1) for k in kinds)
    rows = torch.arange(len(sentences.ids))
    io_at, s1_at = sentences.io_and_s1()
    s2_at = sentences.column("[S]")
    # The final layer norm scales by the deviation of the whole stream; its bias is no head's.
    scale = values[final][:, -1].var(-1, unbiased=False).add(model.transformer.ln_f.eps).rsqrt()
    unembed = model.lm_head.weight * model.transformer.ln_f.weight

    def to_logits(heads: Tensor) -> Tensor:
        """(batch, layer, head, width of a head) -> what is added to the logits, (batch, layer, head, vocabulary)."""
        weights = torch.stack([block.attn.c_proj.weight for block in model.transformer.h])
        weights = weights.view(len(layers), heads.shape[2], heads.shape[3], -1)
        written = torch.einsum("blhd,lhdw->blhw", heads, weights)
        return (written - written.mean(-1, keepdim=True)) @ unembed.T

    added = to_logits(output[:, :, :, -1]) * scale[:, None, None, None]
    direct = added[rows, :, :, sentences.io] - added[rows, :, :, sentences.s]
    raised = to_logits(value[rows, :, :, io_at])[..., names].argmax(-1)
    copying = (names[raised] == sentences.io[:, None, None]).float()
    attention = pattern[:, :, :, -1]
    assert patched.source is not None
    return Heads(
        recovered=(patched.values - patched.base) / (patched.source - patched.base),
        to_io=attention[rows, :, :, io_at].mean(0),
        to_s1=attention[rows, :, :, s1_at].mean(0),
        to_s2=attention[..., s2_at].mean(0),
        direct=direct.mean(0),
        copying=copying.mean(0),
    )


def draw(by_position: SweepResult, by_head: SweepResult, heads: Heads) -> Figure:
    """Patching by layer and position, by head, and what each head adds against where it looks."""
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.2, 0.9, 1.2])
    by_position.plot(left)
    left.set_title("attention output patched", fontsize=10)
    by_head.plot(middle)
    middle.set_title("one head patched at the end", fontsize=10)
    colors = {"name mover": "#54278f", "S-inhibition": "#e6550d", "takes S away": "#3182bd", "": "#bdbdbd"}
    for layer in range(len(heads.direct)):
        for head in range(heads.direct.shape[1]):
            x, y, kind = float(heads.to_io[layer, head]), float(heads.direct[layer, head]), heads.kind(layer, head)
            right.scatter(x, y, color=colors[kind])
            right.annotate(f"{layer}.{head}", (x, y), xytext=(4, 3), textcoords="offset points", fontsize=8)
    for kind, color in colors.items():
        right.scatter([], [], color=color, label=kind or "other")
    right.axhline(0, color="gray", linestyle=":", linewidth=1)
    right.set_xlabel("attention from the end to IO")
    right.set_ylabel("direct effect on the logit difference")
    right.set_title("what each head adds, and where it looks", fontsize=10)
    right.legend(fontsize=8)
    return figure


def main(
    seed: Annotated[int, typer.Option(help="Seed of the weights and of all data.")] = 0,
    layers: Annotated[int, typer.Option(min=2, help="Blocks of the model.")] = 3,
    heads: Annotated[int, typer.Option(min=1, help="Attention heads a block.")] = 4,
    width: Annotated[int, typer.Option(min=8, help="Width of the residual stream.")] = 64,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 1500,
    sentences: Annotated[int, typer.Option(min=1, help="Sentences to patch.")] = 100,
    template: Annotated[int, typer.Option(min=0, max=len(TEMPLATES) - 1, help="Their template.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    picture: Annotated[Path | None, typer.Option(help="Where to draw it.")] = Path("ioi.png"),
    page: Annotated[Path | None, typer.Option(help="A page of the docs to put the figures in.")] = None,
    model_path: Annotated[
        Path | None, typer.Option(help="Keep the trained model there, and take it from there.")
    ] = None,
) -> None:
    """Train a small GPT-2 on indirect object identification, and find the heads that do it."""
    torch.set_num_threads(threads)
    started = perf_counter()
    data = Data(seed)
    if model_path is not None and model_path.exists():
        model = GPT2LMHeadModel.from_pretrained(model_path, local_files_only=True).eval()
    else:
        model = train(layers, heads, width, steps, data, seed)
        if model_path is not None:
            model.save_pretrained(model_path)
    right = accuracy(model, data)
    chosen = data.draw(sentences, "held out", template)
    by_position = patch(model, chosen, "attention_output", ("layer", "position"))
    by_head = patch(model, chosen, "head_attention_value_output", ("layer", "head"))
    found = inspect(model, chosen, by_head, data.names)
    rows = [
        [
            f"{layer}.{head}",
            *(f"{float(t[layer, head]):.2f}" for t in (found.recovered, found.to_io, found.to_s1, found.to_s2)),
            f"{float(found.direct[layer, head]):+.2f}",
            f"{float(found.copying[layer, head]):.2f}",
            found.kind(layer, head),
        ]
        for layer in range(len(found.direct))
        for head in range(found.direct.shape[1])
    ]
    report(
        "ioi",
        f"{right:.1%} right for pairs of names not trained on; logit difference {by_head.source:.1f}, with the other "
        f"name repeated {by_head.base:.1f}",
        ["head", "patched: recovered", "looks at IO", "at S1", "at S2", "direct effect", "copies", "like a"],
        rows,
        seconds=perf_counter() - started,
        figure=draw(by_position, by_head, found),
        picture=picture,
        page=page,
    )


if __name__ == "__main__":
    typer.run(main)
