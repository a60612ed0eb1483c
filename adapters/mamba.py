"""Mamba (Gu and Dao 2023, https://arxiv.org/abs/2312.00752), as in transformers."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from intervene.adapter import Adapter, Table
from intervene.calls import Call, Gated
from intervene.lenses import ChannelsFirst, Chunk, Latest
from intervene.ports import Input, Output

from ._tiny import build

# What a forward calls: over a whole sequence, or for one position that continues from a cache.
CONVOLUTION = ("causal_conv1d_fn", "causal_conv1d_update")
SCAN = ("mamba_selective_scan", "mamba_selective_state_update")


class Mamba(Adapter):
    family = "mamba"
    models = ("MambaModel", "MambaForCausalLM")
    base = "backbone"
    blocks = "backbone.layers"
    heads: ClassVar = {"MambaForCausalLM": "lm_head"}
    variants: ClassVar = {
        "biased": {"use_bias": True, "use_conv_bias": False},
        "residual in the model's dtype": {"residual_in_fp32": False},
    }

    def components(self, config: Any) -> Table:
        return {
            "block_input": Input(),
            "mixer_input": Input("mixer"),
            "conv_input": Output("mixer.in_proj") >> Chunk(0, of=2),
            "ssm_gate": Output("mixer.in_proj") >> Chunk(1, of=2),
            # The convolution is computed over what the cache held, too.
            "conv_output": Call("mixer", CONVOLUTION) >> ChannelsFirst() >> Latest(),
            "ssm_dt": Call("mixer", SCAN, argument="dt") >> ChannelsFirst(),
            "ssm_b": Call("mixer", SCAN, argument="B") >> ChannelsFirst(),
            "ssm_c": Call("mixer", SCAN, argument="C") >> ChannelsFirst(),
            "ssm_state": Call("mixer", SCAN[1:], argument="state", updated=True),
            "ssm_output": Gated("mixer") >> ChannelsFirst(),
            "ssm_gated_output": Input("mixer.out_proj"),
            "mixer_output": Output("mixer"),
            "block_output": Output(),
        }

    def outside(self, config: Any) -> Table:
        return {
            "embedding_output": Output("backbone.embeddings"),
            "final_norm_output": Output("backbone.norm_f"),
        }

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        small = {"vocab_size": 61, "hidden_size": 24, "state_size": 5, "num_hidden_layers": 3, "time_step_rank": 3}
        special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        defaults = {**small, **special, "initializer_range": 0.2}
        return build(model or "MambaForCausalLM", cls.models, seed, defaults, config)
