"""BLIP (Li et al. 2022, https://arxiv.org/abs/2201.12086), as in transformers.

Three towers: ``vision`` with norms before its sub-layers, ``text_encoder`` and ``text_decoder`` with norms after them.
A text block attends to its own sequence, then to the image's (the answer's decoder: to the question's).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from intervene.adapter import Adapter, Table, Tower
from intervene.calls import Attention
from intervene.lenses import Chunk, FlatGrid, Heads, Narrow, Transposed
from intervene.ports import Input, Output, Port, View

from ._tiny import build


class Blip(Adapter):
    family = "blip"
    models = (
        "BlipForConditionalGeneration",
        "BlipForQuestionAnswering",
        "BlipForImageTextRetrieval",
        "BlipVisionModel",
        "BlipTextModel",
        "BlipTextLMHeadModel",
    )
    # Where each model class holds each tower's root; "" where the model is the root.
    vision: ClassVar = {"BlipVisionModel": "", **dict.fromkeys(models[:3], "vision_model")}
    text_encoder: ClassVar = {"BlipTextModel": "", **dict.fromkeys(models[1:3], "text_encoder")}
    text_decoder: ClassVar = {"BlipTextLMHeadModel": "", **dict.fromkeys(models[:2], "text_decoder")}

    def towers(self) -> Sequence[Tower]:
        return list(self._towers())

    def _towers(self) -> Iterator[Tower]:
        name = self.known_as
        if name in self.vision:
            root = self.vision[name]
            embeddings = Output(_join(root, "embeddings"))
            patches = Output(_join(root, "embeddings.patch_embedding")) >> Transposed(1, 2) >> Transposed(2, 3)
            outside: dict[str, Port | View] = {
                "patch_embedding_output": patches >> FlatGrid(),
                "embedding_output": embeddings,
                "class_token": embeddings >> Narrow(axis=1, start=0, length=1),
                # Of call 1, the class token alone goes through the same norm again.
                "final_norm_output": Output(_join(root, "post_layernorm"), call=0),
            }
            yield Tower("vision", _join(root, "encoder.layers"), self.components(self.config), outside, root)
        if name in self.text_encoder:
            root = self.text_encoder[name]
            outside = {"embedding_output": Output(_join(root, "embeddings"))}
            yield Tower("text_encoder", _join(root, "encoder.layer"), self.text(self.config), outside, root)
        if name in self.text_decoder:
            root = self.text_decoder[name]
            outside = {
                "embedding_output": Output(_join(root, "bert.embeddings")),
                "logits": Output(_join(root, "cls")),
            }
            yield Tower("text_decoder", _join(root, "bert.encoder.layer"), self.text(self.config), outside, root)
        if name == "BlipForImageTextRetrieval":
            yield Tower(None, "", {}, {"logits": Output("itm_head")})

    def components(self, config: Any) -> Table:
        """A block of the vision tower."""
        heads = Heads(config.vision_config.num_attention_heads)
        qkv = Output("self_attn.qkv")
        query, key, value = (qkv >> Chunk(i, of=3) for i in range(3))
        return {
            "block_input": Input(),
            "attention_input": Input("self_attn"),
            "query_output": query,
            "key_output": key,
            "value_output": value,
            "head_query_output": query >> heads,
            "head_key_output": key >> heads,
            "head_value_output": value >> heads,
            "attention_scores": Attention("scores", "self_attn"),
            "attention_pattern": Attention("pattern", "self_attn"),
            "head_attention_value_output": Input("self_attn.projection") >> heads,
            "attention_value_output": Input("self_attn.projection"),
            "attention_output": Output("self_attn"),
            "mlp_input": Input("mlp"),
            "mlp_activation": Input("mlp.fc2"),
            "mlp_output": Output("mlp"),
            "block_output": Output(),
        }

    def text(self, config: Any) -> Table:
        """A block of a text tower."""
        heads = Heads(config.text_config.num_attention_heads)
        return {
            "block_input": Input(),
            "attention_input": Input("attention.self"),
            "query_output": Output("attention.self.query"),
            "key_output": Output("attention.self.key"),
            "value_output": Output("attention.self.value"),
            "head_query_output": Output("attention.self.query") >> heads,
            "head_key_output": Output("attention.self.key") >> heads,
            "head_value_output": Output("attention.self.value") >> heads,
            "attention_scores": Attention("scores", "attention.self"),
            "attention_pattern": Attention("pattern", "attention.self"),
            "head_attention_value_output": Input("attention.output.dense") >> heads,
            "attention_value_output": Input("attention.output.dense"),
            "attention_output": Output("attention.output.dropout"),
            "cross_attention_input": Input("crossattention.self"),
            "cross_attention_source": Input("crossattention.self", "encoder_hidden_states"),
            "cross_query_output": Output("crossattention.self.query"),
            "cross_key_output": Output("crossattention.self.key"),
            "cross_value_output": Output("crossattention.self.value"),
            "head_cross_query_output": Output("crossattention.self.query") >> heads,
            "head_cross_key_output": Output("crossattention.self.key") >> heads,
            "head_cross_value_output": Output("crossattention.self.value") >> heads,
            "cross_attention_scores": Attention("scores", "crossattention.self"),
            "cross_attention_pattern": Attention("pattern", "crossattention.self"),
            "head_cross_attention_value_output": Input("crossattention.output.dense") >> heads,
            "cross_attention_value_output": Input("crossattention.output.dense"),
            "cross_attention_output": Output("crossattention.output.dropout"),
            "mlp_input": Input("intermediate"),
            "mlp_activation": Input("output.dense"),
            "mlp_output": Output("output.dropout"),
            "block_output": Output(),
        }

    @classmethod
    def config_of(cls, model: nn.Module) -> Any:
        """A tower's own model has the tower's config alone."""
        name, config = cls.class_name(model), model.config
        if name == "BlipVisionModel":
            return SimpleNamespace(vision_config=config)
        if name in ("BlipTextModel", "BlipTextLMHeadModel"):
            return SimpleNamespace(text_config=config)
        return config

    @classmethod
    def example_inputs(
        cls, model: nn.Module, rows: int = 2, columns: int = 6, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        name, config = cls.class_name(model), cls.config_of(model)
        inputs = {}
        if name in cls.vision:
            size = config.vision_config.image_size
            inputs["pixel_values"] = torch.randn(rows, 3, size, size, generator=generator)
        if name in cls.text_encoder or name in cls.text_decoder:
            text = config.text_config
            ids = torch.randint(min(3, text.vocab_size - 1), text.vocab_size, (rows, columns), generator=generator)
            # What generate puts there itself.
            ids[:, 0] = text.bos_token_id
            inputs["input_ids"] = ids
            if name not in cls.vision:
                shape = (rows, columns, text.encoder_hidden_size)
                inputs["encoder_hidden_states"] = torch.randn(shape, generator=generator)
            if name == "BlipForQuestionAnswering":
                inputs["decoder_input_ids"] = ids.flip(1)
        return inputs

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        name = model or "BlipForConditionalGeneration"
        shared = {"hidden_size": 24, "initializer_range": 0.2}
        vision = {**shared, "intermediate_size": 28, "num_hidden_layers": 3, "num_attention_heads": 3}
        vision |= {"image_size": 8, "patch_size": 4}
        text = {**shared, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
        text |= {"encoder_hidden_size": 24, "vocab_size": 61, "max_position_embeddings": 64}
        text |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
        if name == "BlipVisionModel":
            return build("BlipVisionConfig", name, cls.models, seed, vision, config)
        if name in ("BlipTextModel", "BlipTextLMHeadModel"):
            return build("BlipTextConfig", name, cls.models, seed, text, config)
        defaults = {"text_config": text, "vision_config": vision, "image_text_hidden_size": 12}
        return build("BlipConfig", name, cls.models, seed, {**defaults, "initializer_range": 0.2}, config)


def _join(root: str, path: str) -> str:
    return f"{root}.{path}" if root else path
