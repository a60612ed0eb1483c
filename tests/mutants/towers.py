"""Mutants of models with towers: the wrong tower, the wrong sequence, the wrong attention of two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cache
from unittest import mock

from intervene import taps
from intervene.adapter import Adapter, Tower
from intervene.adapters.blip import Blip
from intervene.ports import Output
from intervene.specs import Spec
from intervene.specs.schema import TowerSpec, table

from .making import _derived
from .mutant import Mutant


def _with(change: Callable[[Tower], Tower]) -> type[Adapter]:
    """``change`` applied to every tower."""

    def towers(self: Adapter) -> Sequence[Tower]:
        return [change(tower) for tower in Blip.towers(self)]  # type: ignore[arg-type]

    return _derived(Blip, towers=towers)


def _claiming(name: str, **claims: object) -> type[Adapter]:
    """The spec of one tower with other claims."""

    @cache
    def load_spec() -> Spec:
        spec = Blip.load_spec()
        changed: TowerSpec = replace(spec.towers[name], **claims)  # type: ignore[arg-type]
        return replace(spec, towers=table({**spec.towers, name: changed}))

    return _derived(Blip, load_spec=staticmethod(load_spec))


def _decoder_for_encoder(tower: Tower) -> Tower:
    """The answer's decoder shown as the question's encoder."""
    if tower.name != "text_encoder" or not tower.root:
        return tower
    return replace(tower, blocks="bert.encoder.layer", outside={}, root="text_decoder")


def _self_for_cross(tower: Tower) -> Tower:
    if "cross_query_output" not in tower.components:
        return tower
    return replace(tower, components={**tower.components, "cross_query_output": Output("attention.self.query")})


def _second_call(tower: Tower) -> Tower:
    norm = tower.outside.get("final_norm_output")
    if not isinstance(norm, Output):
        return tower
    return replace(tower, outside={**tower.outside, "final_norm_output": replace(norm, call=1)})


def _source_counted_as_own() -> AbstractContextManager[object]:
    return mock.patch.object(taps, "elsewhere", return_value=False)


MUTANTS = [
    Mutant(
        "tower_without_a_root",
        "the decoder's columns are counted by the model's own forward, which captioning's generate never calls",
        "each decoding step taken for a prompt of one token (https://github.com/stanfordnlp/pyvene/issues/193)",
        _derived(Blip, roots={}),
        ("block_output",),
        "generation:text_decoder.block_output",
        "generate with a cache, against position",
    ),
    Mutant(
        "decoder_for_encoder",
        "text_encoder's blocks are those of the text decoder",
        "two stacks of one class, told apart by their names alone",
        # Retrieval has no decoder to mistake for its encoder.
        _with(_decoder_for_encoder),
        ("block_output",),
        "meaning:text_encoder.hidden_states:block_output",
        "block_output[l] = hidden_states[l+1]",
    ),
    Mutant(
        "self_attention_for_cross_attention",
        "cross_query_output is the query of the self-attention before it",
        "two attentions in one block, of the same class and shape",
        _with(_self_for_cross),
        ("cross_query_output",),
        "meaning:text_decoder.projection:cross_query_output",
        "cross_query_output = crossattention.self.query(cross_attention_input)",
    ),
    Mutant(
        "the_norms_second_call",
        "final_norm_output is the norm's second call, over the class token alone",
        "a hook on a module that runs twice keeps what it saw last",
        _with(_second_call),
        ("final_norm_output",),
        "shaped:vision.final_norm_output",
        "the spec claims",
    ),
    Mutant(
        "source_counted_as_own",
        "positions of what cross-attention attends to are counted as the decoder's own columns",
        "an image's patches addressed by the caption's length",
        Blip,
        ("cross_key_output",),
        "generation:text_decoder.cross_key_output",
        "position",
        _source_counted_as_own,
    ),
    Mutant(
        "attends_to_its_own_sequence",
        "the spec says nothing about the tower that the decoder attends to",
        "a decoder's cross-attention described as its self-attention",
        _claiming("text_decoder", attends_to=table({})),
        ("cross_value_output",),
        "shaped:text_decoder.cross_value_output",
        "the spec claims",
    ),
]
