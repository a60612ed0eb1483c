"""Mamba (Gu and Dao 2023, https://arxiv.org/abs/2312.00752), as in its authors' own package mamba_ssm."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import torch

from intervene.adapter import Table
from intervene.calls import Call, Function, Gated
from intervene.deferred import StreamInput, StreamOutput
from intervene.lenses import ChannelsFirst, Chunk, OneStep, Slice, Unflatten
from intervene.ports import Either, Input, Output

from ._mamba_ssm_models import MambaSSMModels

silu, linear = torch.nn.functional.silu, torch.nn.functional.linear

KERNELS = ("causal_conv1d_fn", "causal_conv1d_update")


class MambaSSM(MambaSSMModels):
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
