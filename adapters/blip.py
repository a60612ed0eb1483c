"""BLIP (Li et al. 2022, https://arxiv.org/abs/2201.12086), as in transformers.

Three towers: ``vision`` with norms before its sub-layers, ``text_encoder`` and ``text_decoder`` with norms after them.
A text block attends to its own sequence, then to the image's (the answer's decoder: to the question's).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from intervene.adapter import Table, Tower
from intervene.lenses import Chunk, FlatGrid, Narrow, Transposed
from intervene.ports import Input, Output
from intervene.tables import attention

from ._bert import bert_attention, bert_mlp
from ._blip_models import ROOTS, BlipModels


class Blip(BlipModels):
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
        config, roots = self.config, self.roots_of(self.model)
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
