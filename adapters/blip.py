"""BLIP (Li et al. 2022, https://arxiv.org/abs/2201.12086), as in transformers.

Three towers: ``vision`` with norms before its sub-layers, ``text_encoder`` and ``text_decoder`` with norms after them.
A text block attends to its own sequence, then to the image's (the answer's decoder: to the question's).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from intervene.adapter import Adapter, Table, Tower, token_ids
from intervene.lenses import Chunk, FlatGrid, Narrow, Transposed
from intervene.ports import Input, Output
from intervene.tables import attention

from ._bert import bert_attention, bert_mlp
from ._images import images
from ._tiny import build

# Where each model class holds each tower's root; "" where the model is the root.
ROOTS: Mapping[str, Mapping[str, str]] = {
    "BlipForConditionalGeneration": {"vision": "vision_model", "text_decoder": "text_decoder"},
    "BlipForQuestionAnswering": {
        "vision": "vision_model",
        "text_encoder": "text_encoder",
        "text_decoder": "text_decoder",
    },
    "BlipForImageTextRetrieval": {"vision": "vision_model", "text_encoder": "text_encoder"},
    "BlipVisionModel": {"vision": ""},
    "BlipTextModel": {"text_encoder": ""},
    "BlipTextLMHeadModel": {"text_decoder": ""},
}


class Blip(Adapter):
    family = "blip"
    models = tuple(ROOTS)

    def components(self, config: Any) -> Table:
        """A block of the vision tower."""
        query, key, value = (Output("self_attn.qkv") >> Chunk(i, of=3) for i in range(3))
        heads = config.vision_config.num_attention_heads
        return {
            "block_input": Input(),
            "attention_input": Input("self_attn"),
            **attention("self_attn", query, key, value, Input("self_attn.projection"), heads),
            "attention_output": Output("self_attn"),
            "mlp_input": Input("mlp"),
            "mlp_activation": Input("mlp.fc2"),
            "mlp_output": Output("mlp"),
            "block_output": Output(),
        }

    def text(self, config: Any) -> Table:
        """A block of a text tower."""
        heads = config.text_config.num_attention_heads
        return {
            "block_input": Input(),
            **bert_attention("attention", heads),
            **bert_attention("crossattention", heads, cross=True),
            "cross_attention_source": Input("crossattention.self", "encoder_hidden_states"),
            **bert_mlp(),
            "block_output": Output(),
        }

    def outside(self, config: Any) -> Table:
        """Around the blocks of the vision tower."""
        patches = Output("embeddings.patch_embedding") >> Transposed(1, 2) >> Transposed(2, 3)
        return {
            "patch_embedding_output": patches >> FlatGrid(),
            "embedding_output": Output("embeddings"),
            "class_token": Output("embeddings") >> Narrow(axis=1, start=0, length=1),
            # Of call 1, the class token alone goes through the same norm again.
            "final_norm_output": Output("post_layernorm", call=0),
        }

    def towers(self) -> Sequence[Tower]:
        return list(self._towers())

    def _towers(self) -> Iterator[Tower]:
        config, roots = self.config, self._roots(self.model)
        if (root := roots.get("vision")) is not None:
            yield Tower("vision", "encoder.layers", self.components(config), self.outside(config), root)
        if (root := roots.get("text_encoder")) is not None:
            outside = {"embedding_output": Output("embeddings")}
            yield Tower("text_encoder", "encoder.layer", self.text(config), outside, root)
        if (root := roots.get("text_decoder")) is not None:
            outside = {"embedding_output": Output("bert.embeddings"), "logits": Output("cls")}
            yield Tower("text_decoder", "bert.encoder.layer", self.text(config), outside, root)
        if self.known_as == "BlipForImageTextRetrieval":
            yield Tower(None, "", {}, {"logits": Output("itm_head")})

    @classmethod
    def _roots(cls, model: nn.Module) -> Mapping[str, str]:
        return ROOTS.get(cls.class_name(model) or "", {})

    @classmethod
    def config_of(cls, model: nn.Module) -> Any:
        """A tower's own model has the tower's config alone."""
        towers = cls._roots(model)
        if "" not in towers.values():
            return model.config
        return SimpleNamespace(**{"vision_config" if "vision" in towers else "text_config": model.config})

    @classmethod
    def example_inputs(
        cls, model: nn.Module, rows: int = 2, columns: int = 6, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        towers, config = cls._roots(model), cls.config_of(model)
        inputs = {}
        if "vision" in towers:
            inputs["pixel_values"] = images(rows, 3, config.vision_config.image_size, generator)
        if towers.keys() - {"vision"}:
            ids = token_ids(config.text_config.vocab_size, rows, columns, generator)
            # What generate puts there itself.
            ids[:, 0] = config.text_config.bos_token_id
            inputs["input_ids"] = ids
            if "vision" not in towers:
                shape = (rows, columns, config.text_config.encoder_hidden_size)
                inputs["encoder_hidden_states"] = torch.randn(shape, generator=generator)
            if len(towers) == 3:
                inputs["decoder_input_ids"] = ids.flip(1)
        return inputs

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        name = model or cls.models[0]
        shared = {"hidden_size": 24, "initializer_range": 0.2}
        vision = {**shared, "intermediate_size": 28, "num_hidden_layers": 3, "num_attention_heads": 3}
        vision |= {"image_size": 8, "patch_size": 4}
        text = {**shared, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
        text |= {"encoder_hidden_size": 24, "vocab_size": 61, "max_position_embeddings": 64}
        text |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
        whole = {"text_config": text, "vision_config": vision, "image_text_hidden_size": 12, "initializer_range": 0.2}
        own = {"BlipVisionModel": vision, "BlipTextModel": text, "BlipTextLMHeadModel": text}
        return build(name, cls.models, seed, own.get(name, whole), config)
