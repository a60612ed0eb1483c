"""Mutants of Mamba's tables: the wrong half, matrix or moment of a state-space model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

from intervene.adapters.mamba import CONVOLUTION, SCAN, Mamba
from intervene.adapters.mamba2 import SCAN as SCAN2
from intervene.adapters.mamba2 import Mamba2
from intervene.caches import Caches
from intervene.calls import Call, Gated
from intervene.lenses import ChannelsFirst, Chunk, Joined, OneStep, Slice, Transposed
from intervene.ports import Output

from .making import moved
from .mutant import Mutant

_halves = Output("mixer.in_proj")
_b, _c = (Call("mixer", SCAN, argument=name) >> ChannelsFirst() for name in "BC")


@contextmanager
def _never_counts() -> Iterator[None]:
    with patch.object(Caches, "length", lambda self, cache: 0):
        yield


MUTANTS = [
    Mutant(
        "halves_of_in_proj_swapped",
        "conv_input and ssm_gate are each other",
        "code that splits in_proj as [z, x], as Mamba-2 does",
        moved(Mamba, conv_input=_halves >> Chunk(1, of=2), ssm_gate=_halves >> Chunk(0, of=2)),
        ("conv_input", "ssm_gate"),
        "meaning:projection:conv_input",
        "conv_input = mixer.in_proj(mixer_input)",
    ),
    Mutant(
        "b_and_c_swapped",
        "ssm_b and ssm_c are each other",
        "two arguments of one shape, side by side",
        moved(Mamba, ssm_b=_c, ssm_c=_b),
        ("ssm_b", "ssm_c"),
        "meaning:projection:ssm_b",
        "ssm_b = mixer.x_proj(conv_output)",
    ),
    Mutant(
        "source_for_dt",
        "ssm_dt is what the scan takes up",
        "the scan's first argument in place of its second, of the same shape",
        moved(Mamba, ssm_dt=Call("mixer", SCAN, argument="hidden_states") >> ChannelsFirst()),
        ("ssm_dt",),
        "meaning:selective_scan:ssm_output",
        "ssm_output = the selective scan",
    ),
    Mutant(
        "gated_for_ungated",
        "ssm_output is what leaves the scan, which has multiplied it by the gate",
        "a wrapper around selective_scan_fn, which is handed z",
        moved(Mamba, ssm_output=replace(Gated("mixer"), argument=None) >> ChannelsFirst()),
        ("ssm_output",),
        "meaning:gate_product:ssm_gated_output",
        "ssm_gated_output = ssm_output * silu(ssm_gate)",
    ),
    Mutant(
        "convolution_of_the_past",
        "conv_output has what the cache held in front of the forward's own positions",
        "a convolution under a cache, computed over more than it was asked for",
        moved(Mamba, conv_output=Call("mixer", CONVOLUTION) >> ChannelsFirst()),
        ("conv_output",),
        "generation:conv_output",
        "",
    ),
    Mutant(
        "convolution_before_its_activation",
        "conv_output is what enters the convolution",
        "a hook on what the convolution is given",
        moved(Mamba, conv_output=Call("mixer", CONVOLUTION, argument="hidden_states") >> ChannelsFirst()),
        ("conv_output",),
        "meaning:convolution:conv_output",
        "conv_output = mixer.act(mixer.conv1d(conv_input))",
    ),
    Mutant(
        "whole_sequences_alone",
        "ssm_dt comes by in a scan over a whole sequence, and in its one-step form doesn't",
        "a wrapper around one of two functions that do the same",
        moved(Mamba, ssm_dt=Call("mixer", SCAN[:1], argument="dt") >> ChannelsFirst()),
        ("ssm_dt",),
        "identity:ssm_dt",
        "never fired",
    ),
    Mutant(
        "state_beside_the_cache",
        "a written ssm_state is handed to the step in a tensor of its own, and the cache keeps the state before it",
        "an argument replaced that the function updates in place",
        moved(Mamba, ssm_state=Call("mixer", SCAN[1:], argument="state")),
        ("ssm_state",),
        "identity:ssm_state",
        "state of layer",
    ),
    Mutant(
        "mixer_with_the_residual",
        "mixer_output includes the residual stream",
        "the block's output in place of its mixer's",
        moved(Mamba, mixer_output=Output()),
        ("mixer_output",),
        "meaning:projection:mixer_output",
        "mixer_output = mixer.out_proj(ssm_gated_output)",
    ),
    Mutant(
        "dt_from_the_front",
        "Mamba-2's ssm_dt is the first features of in_proj's output, where the gate is",
        "the order of a fused projection, guessed",
        moved(Mamba2, ssm_dt=Output("mixer.in_proj") >> Slice(0, 6)),
        ("ssm_dt",),
        "meaning:projection:ssm_dt",
        "ssm_dt = mixer.in_proj(mixer_input)",
    ),
    Mutant(
        "groups_innermost",
        "Mamba-2's ssm_b has a group's numbers apart, one of each group after the other",
        "a reshape where a transposition was meant",
        moved(Mamba2, ssm_b=Call("mixer", SCAN2, argument="B") >> Transposed(-1, -2) >> Joined(-2) >> OneStep()),
        ("ssm_b",),
        "meaning:selective_scan:ssm_output",
        "ssm_output = the selective scan",
    ),
    Mutant(
        "recurrent_cache_never_counted",
        "a step that continues from a cache without a length begins at position 0",
        "a cache asked for its length, which it hasn't",
        Mamba,
        ("block_output",),
        "generation:block_output",
        "",
        _never_counts,
    ),
]
