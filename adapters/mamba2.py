"""Mamba-2 (Dao and Gu 2024, https://arxiv.org/abs/2405.21060), as in transformers."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from intervene.adapter import Table
from intervene.calls import Call
from intervene.lenses import ChannelsFirst, Joined, Latest, OneStep, Slice
from intervene.ports import Input, Output

from ._tiny import build
from .mamba import CONVOLUTION, Mamba

SCAN = ("mamba2_chunk_scan", "mamba2_selective_state_update")


class Mamba2(Mamba):
    family = "mamba2"
    models = ("Mamba2Model", "Mamba2ForCausalLM")
    heads: ClassVar = {"Mamba2ForCausalLM": "lm_head"}

    def components(self, config: Any) -> Table:
        inner = config.expand * config.hidden_size
        convolved = inner + 2 * config.n_groups * config.state_size
        projected = Output("mixer.in_proj")
        return {
            "block_input": Input(),
            "mixer_input": Input("mixer"),
            "ssm_gate": projected >> Slice(0, inner),
            "conv_input": projected >> Slice(inner, inner + convolved),
            "ssm_dt": projected >> Slice(inner + convolved, inner + convolved + config.num_heads),
            # The convolution is computed over what the cache held, too.
            "conv_output": Call("mixer", CONVOLUTION) >> ChannelsFirst() >> Latest(),
            "ssm_b": Call("mixer", SCAN, argument="B") >> Joined(-2) >> OneStep(),
            "ssm_c": Call("mixer", SCAN, argument="C") >> Joined(-2) >> OneStep(),
            "ssm_state": Call("mixer", SCAN[1:], argument="state", updated=True) >> Joined(1),
            "ssm_output": Input("mixer.norm"),
            "ssm_gated_output": Input("mixer.out_proj"),
            "mixer_output": Output("mixer"),
            "block_output": Output(),
        }

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        # Sequences longer than a chunk of 4 positions go from chunk to chunk.
        small = {"vocab_size": 61, "hidden_size": 24, "state_size": 5, "num_hidden_layers": 3, "chunk_size": 4}
        grouped = {"num_heads": 6, "head_dim": 8, "n_groups": 2}
        special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        defaults = {**small, **grouped, **special, "initializer_range": 0.2}
        return build(model or "Mamba2ForCausalLM", cls.models, seed, defaults, config)
