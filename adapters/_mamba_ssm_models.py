"""mamba_ssm's models: which are of Mamba-1 blocks alone, what those were made with, their caches, and tiny ones."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from torch import nn

from intervene.adapter import Adapter
from intervene.errors import UnsupportedModelError

from ._mamba_reference import load
from ._tiny import seeded, select


class MambaSSMModels(Adapter):
    """What an adapter of mamba_ssm says of its models, apart from the table."""

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
