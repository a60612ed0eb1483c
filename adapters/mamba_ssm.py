"""Mamba (Gu and Dao 2023, https://arxiv.org/abs/2312.00752), as in its authors' own package mamba_ssm."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import nn

from intervene.adapter import Adapter, Table
from intervene.calls import Call, Function, Gated
from intervene.deferred import StreamInput, StreamOutput
from intervene.errors import UnsupportedModelError
from intervene.lenses import ChannelsFirst, Chunk, OneStep, Slice, Unflatten
from intervene.ports import Either, Input, Output

from ._mamba_reference import load
from ._tiny import seeded, select

silu, linear = torch.nn.functional.silu, torch.nn.functional.linear

KERNELS = ("causal_conv1d_fn", "causal_conv1d_update")


class MambaSSM(Adapter):
    family = "mamba_ssm"
    models = ("MambaLMHeadModel",)
    base = "backbone"
    blocks = "backbone.layers"
    heads: ClassVar = {"MambaLMHeadModel": "lm_head"}
    variants: ClassVar = {"biased": {"ssm_cfg": {"d_state": 5, "dt_rank": 3, "bias": True, "conv_bias": False}}}

    def components(self, config: Any) -> Table:
        # The forward multiplies by in_proj's and dt_proj's weights itself, and only its one-step form calls in_proj.
        halves = Function("mixer", (torch.Tensor.chunk,), 0, "in_proj's product") >> ChannelsFirst()
        dt_b_c = Output("mixer.x_proj") >> Unflatten()
        b, c = config.dt_rank, config.dt_rank + config.d_state
        convolved = Function("mixer", (silu,), label="the convolution's SiLU", nth=0)
        one_step_dt = Function("mixer", (linear,), label="dt_proj's product", weight="dt_proj.weight")
        return {
            "block_input": StreamInput(),
            "mixer_input": Input("mixer"),
            "conv_input": halves >> Chunk(0, of=2),
            "ssm_gate": halves >> Chunk(1, of=2),
            "conv_output": (Call("mixer", KERNELS) if self._convolves_by_kernel else convolved) >> ChannelsFirst(),
            "ssm_dt": Either("mixer", (Call("mixer", ("selective_scan_fn",), "delta"), one_step_dt)) >> ChannelsFirst(),
            "ssm_b": dt_b_c >> Slice(b, b + config.d_state),
            "ssm_c": dt_b_c >> Slice(c, c + config.d_state),
            "ssm_state": Call("mixer", ("step",), "ssm_state", updated=True),
            "ssm_output": Gated("mixer") >> ChannelsFirst(),
            "ssm_gated_output": Input("mixer.out_proj") >> OneStep(),
            "mixer_output": Output("mixer"),
            "block_output": StreamOutput(),
        }

    @property
    def _convolves_by_kernel(self) -> bool:
        """Whether causal-conv1d is installed beside mamba_ssm, which then leaves convolution and SiLU to it."""
        mixer = type(self.model.get_submodule("backbone.layers.0.mixer"))
        return getattr(sys.modules[mixer.__module__], KERNELS[0], None) is not None

    def outside(self, config: Any) -> Table:
        return {
            "embedding_output": Output("backbone.embedding"),
            "final_norm_output": Output("backbone.norm_f"),
        }

    @classmethod
    def recognises(cls, model: nn.Module) -> bool:
        """Whether all blocks are Mamba-1 alone; models with others have their module paths as sites."""
        return super().recognises(model) and _all_mamba1(model)

    @classmethod
    def config_of(cls, model: nn.Module) -> Any:
        """The model's own config, with what its mixers made of the config's ``ssm_cfg``."""
        own: Any = model.config
        if not _all_mamba1(model):
            raise UnsupportedModelError(
                "this table is of mamba_ssm's models of Mamba-1 blocks; adapt(model) without it gives those with "
                "attention, MLPs or Mamba-2 by module path, and transformers' Mamba2ForCausalLM has a table"
            )
        mixer: Any = model.get_submodule("backbone.layers.0.mixer")
        made = {name: getattr(mixer, name) for name in ("d_inner", "d_state", "d_conv", "dt_rank")}
        return SimpleNamespace(**{**vars(own), **made, "vocab_size": model.get_submodule("lm_head").out_features})

    @classmethod
    def example_past(cls, model: nn.Module, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        from mamba_ssm.utils.generation import InferenceParams

        rows, columns = inputs["input_ids"].shape
        cache = InferenceParams(max_seqlen=columns + 1, max_batch_size=rows)
        model(**inputs, inference_params=cache)
        cache.seqlen_offset = columns
        return {"inference_params": cache}

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        select(model or cls.models[0], cls.models)
        package = load()
        small = {"d_model": 24, "n_layer": 3, "vocab_size": 61, "ssm_cfg": {"d_state": 5, "dt_rank": 3}}
        asked = package.MambaConfig(**{**small, "fused_add_norm": False, **config})
        return seeded(seed, lambda: package.MambaLMHeadModel(asked, {"initializer_range": 0.2}))


def _all_mamba1(model: nn.Module) -> bool:
    config: Any = model.config
    return not (config.d_intermediate or config.attn_layer_idx) and config.ssm_cfg.get("layer", "Mamba1") == "Mamba1"
