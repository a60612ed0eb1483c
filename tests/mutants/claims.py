"""Mutants whose spec or model is at fault: claims that are not true."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from intervene.adapter import Adapter
from intervene.adapters.gpt2 import GPT2
from intervene.specs.schema import TowerSpec, table

from .making import claiming
from .mutant import Mutant


def _component(name: str, **claims: Any) -> type[Adapter]:
    def change(tower: TowerSpec) -> TowerSpec:
        changed = replace(tower.components[name], **claims)
        return replace(tower, components=table({**tower.components, name: changed}))

    return claiming(change)


def _unscaled_sdpa(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
    """sdpa with torch's own scaling, whatever the config asks for."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(module, query, key, value, mask, **{**kwargs, "scaling": None})


_UNSCALED = "intervene_mutant_unscaled_sdpa"


class ScaledByLayer(GPT2):
    """GPT-2 whose scores are divided by the layer's number, as some were trained."""

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        return super().tiny(model, seed, **{"scale_attn_by_inverse_layer_idx": True, **config})


class IgnoresScaling(ScaledByLayer):
    """Its spec says that an implementation without that scaling agrees with eager attention."""

    @classmethod
    def load_spec(cls) -> Any:
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask

        AttentionInterface.register(_UNSCALED, _unscaled_sdpa)
        AttentionMaskInterface.register(_UNSCALED, sdpa_mask)
        spec = super().load_spec()
        tower = replace(spec.tower, attention_implementations=("eager", _UNSCALED))
        return replace(spec, towers=table({"": tower}))


def _no_generation(tower: TowerSpec) -> TowerSpec:
    claimed = {name: value for name, value in tower.capabilities.items() if name != "generates"}
    return replace(tower, capabilities=table(claimed))


Embedder: type[Adapter] = claiming(_no_generation)
"""GPT-2 as a text embedder, of which nobody claims that it generates."""


class Bidirectional(Embedder):  # type: ignore[valid-type,misc]
    """Without its causal mask; the spec still says that it is causal."""

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        return super().tiny(model, seed, **{"is_causal": False, **config})


MUTANTS = [
    Mutant(
        "causal_claimed_of_a_bidirectional_model",
        "the spec says that the model is causal and its attention looks both ways",
        "decoders turned into text embedders with is_causal=False "
        "(https://github.com/huggingface/transformers/pull/48087 tells of them)",
        Bidirectional,
        ("block_output",),
        "causal:block_output",
        "before position",
    ),
    Mutant(
        "implementation_that_ignores_the_scaling",
        "the spec says that two attention implementations agree; one ignores a scaling of the config",
        "GPT-2's sdpa ignored scale_attn_by_inverse_layer_idx "
        "(https://github.com/huggingface/transformers/issues/44380)",
        IgnoresScaling,
        ("attention_output",),
        "implementations:attention_output",
        "attention against",
    ),
    Mutant(
        "wrong_width_claimed",
        "the spec says that mlp_activation has three times the width",
        "an expression copied from a family with another MLP",
        _component("mlp_activation", widths=table({"feature": "3 * n_embd"})),
        ("mlp_activation",),
        "shaped:mlp_activation",
        "the spec claims (1, 1, 72)",
    ),
    Mutant(
        "wrong_dtype_claimed",
        "the spec says that attention_pattern is always float32",
        "true of the softmax of many families, and not of this one's",
        _component("attention_pattern", dtype="float32"),
        ("attention_pattern",),
        "shaped:attention_pattern",
        "has dtype torch.bfloat16, the spec claims torch.float32",
    ),
]
