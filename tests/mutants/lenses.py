"""Mutants that look at the wrong part of the right tensor, or write it wrongly: broken `get` and `put`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from intervene.adapter import Table
from intervene.adapters.gpt2 import GPT2
from intervene.adapters.llama import Llama
from intervene.adapters.opt import OPT
from intervene.adapters.pythia import Pythia
from intervene.lenses import Chunk, Heads, Interleaved, Lens, Unflatten
from intervene.ports import Input, Output
from intervene.selection import Selectable
from intervene.sites import Site

from .making import HEADS, Bent, moved, seen_through, sited, with_lens
from .mutant import Mutant

_qkv = Output("attn.c_attn")
_heads = Heads(HEADS)


@dataclass(frozen=True)
class PositionsFirst(Unflatten):
    """The list of all rows' tokens taken to have the rows next to each other, position by position."""

    def get(self, whole: Tensor) -> Tensor:
        assert self.length is not None
        return whole.reshape(self.length, -1, *whole.shape[1:]).transpose(0, 1)

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return part.transpose(0, 1).flatten(0, 1)


@dataclass(frozen=True)
class FeaturesFirst(Lens):
    """(..., position, features * heads) seen as (..., head, position, features), heads innermost."""

    heads: int

    def get(self, whole: Tensor) -> Tensor:
        split = whole.reshape(*whole.shape[:-1], -1, self.heads)
        return split.movedim(-1, -3)

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return part.movedim(-3, -1).flatten(-2)


@dataclass(frozen=True)
class Permuted(Bent):
    """An axis in another order; `put` undoes exactly what `get` does."""

    axis: int

    def order(self, size: int) -> list[int]:
        return list(reversed(range(size)))

    def get(self, whole: Tensor) -> Tensor:
        return whole.index_select(self.axis, torch.tensor(self.order(whole.shape[self.axis])))

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        back = torch.tensor(self.order(part.shape[self.axis])).argsort()
        return part.index_select(self.axis, back)


class Shifted(Permuted):
    def order(self, size: int) -> list[int]:
        return [(i + 1) % size for i in range(size)]


class Tiled(Permuted):
    """Query heads dealt out to two key and value heads in turn, not in consecutive groups."""

    def order(self, size: int) -> list[int]:
        return [i // 2 + (i % 2) * (size // 2) for i in range(size)]


class Deaf(Bent):
    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return whole.clone()


class OneTooMany(Bent):
    """Where a single position changes, the next one gets the same."""

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        changed = (whole != part).any(-1).any(0)
        result = part.clone()
        if int(changed.sum()) == 1 and not bool(changed[-1]):
            position = int(changed.nonzero())
            result[:, position + 1] = part[:, position]
        return result


class EveryRow(Bent):
    """What is written in one row only is written in all."""

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        changed = (whole != part).flatten(1).any(1)
        if int(changed.sum()) == 1:
            return part[changed].expand_as(part).clone()
        return part


class Widened(Bent):
    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return part.float()


class DefaultDtype(Bent):
    """A buffer made without saying its dtype."""

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return torch.empty(whole.shape).copy_(part)


class ForOneRow(Bent):
    """Rows and positions mixed up when there are several rows: (tokens, D) read as (position, row, D)."""

    def get(self, whole: Tensor) -> Tensor:
        rows, columns, width = whole.shape
        return whole.reshape(columns, rows, width).transpose(0, 1)

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return part.transpose(0, 1).reshape(whole.shape)


class InPairs(Bent):
    """Writes positions two by two and forgets the odd one."""

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        even = part.shape[1] // 2 * 2
        return torch.cat([part[:, :even], whole[:, even:]], 1)


class Squeezed(Bent):
    """`squeeze` where one axis was meant: a single position loses its axis."""

    def get(self, whole: Tensor) -> Tensor:
        return whole.squeeze(1)

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return part.reshape(whole.shape)


class Rounded(Bent):
    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return part.bfloat16().to(part.dtype)


class Clamped(Bent):
    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return part.clamp(-1e4, 1e4)


class Scrubbed(Bent):
    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return part.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)


class Flushed(Bent):
    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return part.where(part.abs() > 1e-12, 0)


class Lazy(Bent):
    """Spares itself a write that looks like no change."""

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return part.where(~torch.isclose(part, whole, equal_nan=True), whole)


class Additive(Bent):
    """Writes by adding the difference, which rounds."""

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return whole + (part - whole)


class Normed(Bent):
    """Keeps the norm of what was there, as some steering recipes do."""

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return part * (whole.norm(dim=-1, keepdim=True) / part.norm(dim=-1, keepdim=True).clamp(min=1e-6))


class SpilledIntoKeys(Lens):
    """Queries out of a fused projection; a write puts its chunk a feature too far."""

    def get(self, whole: Tensor) -> Tensor:
        return whole.chunk(3, -1)[0]

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        width = part.shape[-1]
        result = whole.clone()
        if not torch.equal(part, whole[..., :width]):
            result[..., width : width + 1] = part[..., :1]
        result[..., :width] = part
        return result


class EagerOnly(GPT2):
    """Under any implementation but eager, heads are looked for where sdpa had them before they were transposed."""

    def components(self, config: Any) -> Table:
        table = dict(super().components(config))
        if config._attn_implementation != "eager":
            table["head_attention_value_output"] = Output("attn", 0) >> Heads(config.num_attention_heads)
        return table


@dataclass(frozen=True)
class NegativeOffByOne(Site):
    """Counts positions from the end with -0 as the last one."""

    def at(self, *, positions: Selectable | None = None, **others: Any) -> Site:
        if isinstance(positions, list) and all(isinstance(p, int) for p in positions):
            positions = [p + 1 if p < -1 else p for p in positions]
        return super().at(positions=positions, **others)


def _counting_wrongly(site: Site) -> Site:
    if site.component != "mlp_input":
        return site
    return NegativeOffByOne(site.component, site.layer, site.tower, site.axes, site.port, site.lens)


class FirstRowsPositions(Site):
    """Takes the positions of the first example for those of all."""

    def at(self, *, positions: Selectable | None = None, **others: Any) -> Site:
        if isinstance(positions, list) and isinstance(positions[0], list):
            positions = [positions[0]] * len(positions)
        return super().at(positions=positions, **others)


def _addressed_by_the_first_row(site: Site) -> Site:
    if site.component != "block_output":
        return site
    return FirstRowsPositions(site.component, site.layer, site.tower, site.axes, site.port, site.lens)


class WrongAxes(GPT2):
    """Says (batch, position, head, feature) of what is (batch, head, position, feature)."""

    def axes(self, component: str, tower: str | None = None) -> tuple[str, ...]:
        found = super().axes(component, tower)
        if component != "head_query_output":
            return found
        return (found[0], found[2], found[1], found[3])


MUTANTS = [
    Mutant(
        "query_and_key_swapped",
        "query_output is the keys, and the other way round",
        "a fused projection taken apart in the wrong order",
        moved(query_output=_qkv >> Chunk(1, of=3), key_output=_qkv >> Chunk(0, of=3)),
        ("query_output", "key_output"),
        "meaning:projection:query_output",
        "query_output = attn.c_attn(attention_input)[chunk 0 of 3]",
    ),
    Mutant(
        "query_key_value_rotated",
        "query_output is the keys, key_output the values, value_output the queries",
        "a fused projection taken apart in the wrong order",
        moved(
            query_output=_qkv >> Chunk(1, of=3), key_output=_qkv >> Chunk(2, of=3), value_output=_qkv >> Chunk(0, of=3)
        ),
        ("query_output", "key_output", "value_output"),
        "meaning:projection:value_output",
        "value_output = attn.c_attn(attention_input)[chunk 2 of 3]",
    ),
    Mutant(
        "fused_in_reverse",
        "the fused projection is read as value, key, query",
        "a fused projection taken apart in the wrong order",
        moved(query_output=_qkv >> Chunk(2, of=3), value_output=_qkv >> Chunk(0, of=3)),
        ("query_output", "value_output"),
        "meaning:projection:query_output",
        "query_output = attn.c_attn(attention_input)[chunk 0 of 3]",
    ),
    Mutant(
        "keys_for_values_by_head",
        "head_value_output is the keys, while value_output is right",
        "one entry copied and pasted",
        moved(head_value_output=_qkv >> Chunk(1, of=3) >> _heads),
        ("head_value_output",),
        "meaning:attention_mix:head_attention_value_output",
        "head_attention_value_output[h] = attentions[l][h] @ head_value_output[group(h)]",
    ),
    Mutant(
        "heads_split_as_features_by_heads",
        "head_query_output splits the features as (width, heads)",
        "reshape(..., head_dim, n_heads); splitting heads is where pyvene was wrong for all but one family "
        "(https://github.com/stanfordnlp/pyvene/issues/158)",
        moved(head_query_output=_qkv >> Chunk(0, of=3) >> FeaturesFirst(HEADS)),
        ("head_query_output",),
        "meaning:heads_reshape:head_query_output",
        "query_output = head_query_output with its heads side by side",
    ),
    Mutant(
        "heads_reversed",
        "head_key_output counts heads from the last one",
        "a flip left over from a conversion of weights",
        seen_through(Permuted(1), "head_key_output"),
        ("head_key_output",),
        "meaning:heads_reshape:head_key_output",
        "key_output = head_key_output with its heads side by side",
    ),
    Mutant(
        "heads_shifted_by_one",
        "head h of head_attention_value_output is head h + 1",
        "heads counted from 1",
        seen_through(Shifted(1), "head_attention_value_output"),
        ("head_attention_value_output",),
        "meaning:attention_mix:head_attention_value_output",
        "head_attention_value_output[h] = attentions[l][h] @ head_value_output[group(h)]",
    ),
    Mutant(
        "contiguous_read_as_interleaved",
        "GPT-2's query_output is read head by head, as GPT-NeoX's is",
        "a GPT-NeoX table used for GPT-2 (https://github.com/Lightning-AI/litgpt/pull/1013)",
        moved(query_output=_qkv >> Interleaved(0, of=3, heads=HEADS)),
        ("query_output",),
        "meaning:projection:query_output",
        "query_output = attn.c_attn(attention_input)[chunk 0 of 3]",
    ),
    Mutant(
        "interleaved_read_as_contiguous",
        "GPT-NeoX's query_output is the first third of its fused projection",
        "a GPT-2 table used for GPT-NeoX; no shape shows it (https://github.com/vllm-project/vllm/pull/53114)",
        moved(Pythia, query_output=Output("attention.query_key_value") >> Chunk(0, of=3)),
        ("query_output",),
        "meaning:projection:query_output",
        "[chunk 0 of 3 within each of num_attention_heads groups]",
    ),
    Mutant(
        "rows_and_positions_exchanged",
        "OPT's list of all tokens is taken to go through the rows first",
        "sequence-first layouts, (position, batch, feature), as in fairseq",
        moved(OPT, mlp_activation=Input("fc2") >> PositionsFirst()),
        ("mlp_activation",),
        "meaning:projection:mlp_output",
        "mlp_output = fc2(mlp_activation)",
    ),
    Mutant(
        "key_heads_counted_as_query_heads",
        "head_key_output is split into as many heads as there are queries",
        "grouped query attention (https://github.com/TransformerLensOrg/TransformerLens/issues/519, "
        "https://github.com/TransformerLensOrg/TransformerLens/issues/980)",
        moved(Llama, head_key_output=Output("self_attn.k_proj") >> Heads(4)),
        ("head_key_output",),
        "shaped:head_key_output",
        "the spec claims (1, 2, 1, 6) for axes ('batch', 'kv_head', 'position', 'feature')",
    ),
    Mutant(
        "query_heads_grouped_in_turn",
        "query head h is taken to share key and value head h modulo their number",
        "repeat where repeat_interleave was meant",
        seen_through(Tiled(1), "head_attention_value_output", base=Llama),
        ("head_attention_value_output",),
        "meaning:attention_mix:head_attention_value_output",
        "@ head_value_output[group(h)]",
    ),
    Mutant(
        "positions_flipped",
        "mlp_activation counts positions from the end",
        "a flip for right-to-left padding, applied twice",
        seen_through(Permuted(1), "mlp_activation"),
        ("mlp_activation",),
        "causal:mlp_activation",
        "before position",
    ),
    Mutant(
        "positions_shifted_by_one",
        "position p of block_output is position p + 1",
        "a BOS token that the tokenizer added and nobody counted",
        seen_through(Shifted(1), "block_output"),
        ("block_output",),
        "causal:block_output",
        "before position",
    ),
    Mutant(
        "rows_flipped",
        "row 0 of mlp_output is the last row",
        "results put together in the wrong order",
        seen_through(Permuted(0), "mlp_output"),
        ("mlp_output",),
        "local:mlp_output",
        "which layer.0.mlp_output[rows=",
    ),
    Mutant(
        "put_ignores_its_value",
        "writing mlp_output changes nothing",
        "a hook that computes a replacement and forgets to return it",
        seen_through(Deaf(), "mlp_output"),
        ("mlp_output",),
        "put_get:mlp_output",
        "what is read at layer.0.mlp_output after writing there",
    ),
    Mutant(
        "one_position_too_many",
        "a write at one position of block_output also writes the next",
        "a slice whose end was counted as in another language",
        seen_through(OneTooMany(), "block_output"),
        ("block_output",),
        "local:block_output",
        "entries of layer.0.block_output outside of layer.0.block_output[",
    ),
    Mutant(
        "every_row_written",
        "a write in one row of mlp_input is a write in all",
        "a batch of one broadcast to the batch that runs",
        seen_through(EveryRow(), "mlp_input"),
        ("mlp_input",),
        "local:mlp_input",
        "entries of layer.0.mlp_input outside of layer.0.mlp_input[",
    ),
    Mutant(
        "put_drops_the_dtype",
        "a write makes bfloat16 logits float32",
        "interventions computed in float32 and never cast back",
        seen_through(Widened(), "logits"),
        ("logits",),
        "shaped:logits",
        "a write at logits turned its dtype from torch.bfloat16 to torch.float32",
    ),
    Mutant(
        "buffer_of_default_dtype",
        "mlp_output is right in float32 alone: what is written goes through a buffer of the default dtype",
        "torch.empty or torch.zeros without dtype=",
        seen_through(DefaultDtype(), "logits"),
        ("logits",),
        "identity:logits",
        "dtype torch.float32 instead of torch.bfloat16",
    ),
    Mutant(
        "right_for_one_row",
        "query_output mixes rows and positions up when the batch has several rows",
        "flattened tokens unflattened as (position, batch)",
        seen_through(ForOneRow(), "query_output"),
        ("query_output",),
        "meaning:projection:query_output",
        "query_output = attn.c_attn(attention_input)[chunk 0 of 3]",
    ),
    Mutant(
        "right_for_even_lengths",
        "the last position of an odd number is not written in mlp_activation",
        "a kernel that works in pairs without a remainder",
        seen_through(InPairs(), "mlp_activation"),
        ("mlp_activation",),
        "put_get:mlp_activation",
        "after writing there",
    ),
    Mutant(
        "wrong_for_one_position",
        "mlp_input loses its position axis when the sequence has one position",
        "squeeze() without an axis, as in every step of generation",
        seen_through(Squeezed(), "mlp_input"),
        ("mlp_input",),
        "shaped:mlp_input",
        "the spec claims (1, 1, 24) for axes ('batch', 'position', 'feature')",
    ),
    Mutant(
        "rounds_to_bfloat16",
        "what is written at attention_output is rounded to bfloat16",
        "activations cached in half precision and written back",
        seen_through(Rounded(), "attention_output"),
        ("attention_output",),
        "identity:attention_output",
        "writing back what was read at layer.0.attention_output",
    ),
    Mutant(
        "clamps_huge_values",
        "what is written at block_output is clamped to 10,000",
        "clamping against overflow in half precision, as some encoders do to their hidden states",
        seen_through(Clamped(), "block_output"),
        ("block_output",),
        "put_get:block_output",
        "10000",
    ),
    Mutant(
        "scrubs_nan",
        "NaN written at mlp_output becomes 0",
        "nan_to_num in a hook, which hides a broken source",
        seen_through(Scrubbed(), "mlp_output"),
        ("mlp_output",),
        "put_get:mlp_output",
        "instead of nan",
    ),
    Mutant(
        "flushes_tiny_values",
        "values below 1e-12 written at mlp_activation become 0",
        "denormals flushed, or a threshold meant for sparse activations",
        seen_through(Flushed(), "mlp_activation"),
        ("mlp_activation",),
        "put_get:mlp_activation",
        "after writing there",
    ),
    Mutant(
        "skips_small_changes",
        "a write at attention_input that is close to what is there is not made",
        "if not torch.allclose(old, new): as a short cut",
        seen_through(Lazy(), "attention_input"),
        ("attention_input",),
        "put_get:attention_input",
        "after writing there",
    ),
    Mutant(
        "writes_by_adding",
        "value_output is written by adding the difference, which rounds",
        "patching as a steering vector: h + (source - h)",
        seen_through(Additive(), "value_output"),
        ("value_output",),
        "put_get:value_output",
        "after writing there",
    ),
    Mutant(
        "keeps_the_norm",
        "what is written at block_input is scaled to the norm of what was there",
        "steering recipes that rescale to the old norm",
        seen_through(Normed(), "block_input"),
        ("block_input",),
        "put_get:block_input",
        "after writing there",
    ),
    Mutant(
        "write_spills_into_the_next_chunk",
        "a write at query_output also changes the first feature of the keys",
        "the chunk of a fused projection one feature too wide",
        with_lens(lambda lens: SpilledIntoKeys(), "query_output"),
        ("query_output",),
        "composable:query_output",
        "which shares a port with the written layer.",
    ),
    Mutant(
        "right_under_eager_only",
        "head_attention_value_output is the attention's output under sdpa",
        "a table written and tested under one attention implementation",
        EagerOnly,
        ("head_attention_value_output",),
        "implementations:head_attention_value_output",
        "attention against",
    ),
    Mutant(
        "right_for_positive_positions",
        "position -2 of mlp_input is taken for -1",
        "negative positions converted with an off-by-one",
        sited(_counting_wrongly),
        ("mlp_input",),
        "local:mlp_input",
        "sorted, against those that its selection names",
    ),
    Mutant(
        "positions_of_the_first_row",
        "positions that differ from row to row are the first row's in every row of block_output",
        "the last token found in one prompt and taken for the whole batch's, however the others are padded",
        sited(_addressed_by_the_first_row),
        ("block_output",),
        "local:block_output",
        "sorted, against those that its selection names",
    ),
    Mutant(
        "axes_declared_wrongly",
        "head_query_output says that positions come before heads",
        "(batch, pos, head, d_head) in one library is (batch, head, pos, d_head) in another",
        WrongAxes,
        ("head_query_output",),
        "shaped:head_query_output",
        "has axes ('batch', 'position', 'head', 'feature')",
    ),
]
