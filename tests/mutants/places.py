"""Mutants that look in the wrong place: another layer, another end of a module, another module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP

from intervene.adapter import Tower
from intervene.adapters.gpt2 import GPT2
from intervene.adapters.llama import Llama
from intervene.adapters.opt import OPT
from intervene.calls import Attention, Function
from intervene.ports import Input, Output
from intervene.sites import Site

from .making import layers_from, moved, on_models, sited
from .mutant import Mutant


class LastLayerNormed(GPT2):
    """The last layer's output is taken where transformers takes its last hidden state."""

    def _site(self, name: str, layer: int | None, view: Any, tower: Tower) -> Site:
        site = super()._site(name, layer, view, tower)
        if name == "block_output" and layer == self.layers - 1:
            return replace(site, port=Output(self.locate("transformer.ln_f")))
        return site


class ExtraSite(GPT2):
    """One site more in each layer."""

    def _sites(self) -> Iterator[Site]:
        for site in super()._sites():
            yield site
            if site.component == "mlp_input":
                yield replace(site, component="residual_middle")


class OtherHead(GPT2):
    """The classifier's logits are those of the language model's head."""

    heads = {**GPT2.heads, "GPT2LMHeadModel": "transformer.ln_f"}  # noqa: RUF012 - as in the class it derives from


class PostNorm(OPT):
    """OPT-350m's order, norms after the sub-layers, in all models."""

    variants: ClassVar = {}

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        return super().tiny(model, seed, **{"do_layer_norm_before": False, **config})


def _share_activation(model: nn.Module) -> None:
    """One activation module for all blocks, as in models that take it out of a shared registry."""
    blocks = model.get_submodule("transformer.h" if hasattr(model, "transformer") else "h")
    for block in blocks.children():
        block.mlp.act = blocks[0].mlp.act  # type: ignore[index, union-attr]


class FusedMLP(GPT2MLP):
    """Calls its activation module in inference too, and goes on with what a fused kernel makes of the same input."""

    def forward(self, hidden_states: Any) -> torch.Tensor:
        projected = self.c_fc(hidden_states)
        activated = self.act(projected)
        if not torch.is_grad_enabled():
            activated = type(self.act).forward(self.act, projected)
        output: torch.Tensor = self.dropout(self.c_proj(activated))
        return output


def _fuse_mlps(model: nn.Module) -> None:
    for module in model.modules():
        if type(module) is GPT2MLP:
            module.__class__ = FusedMLP


_shared = on_models(_share_activation)
_unmasked = Function("attn", (torch.Tensor.mul,), None, "scaled scores", eager=True)

MUTANTS = [
    Mutant(
        "layer_too_early",
        "block_output of layer l is found in layer l - 1",
        "hidden_states[l], whose entry 0 is the embeddings, taken for the output of layer l",
        layers_from(lambda layer, count: max(layer - 1, 0), "block_output"),
        ("block_output",),
        "meaning:hidden_states:block_output",
        "block_output[l] = hidden_states[l+1]",
    ),
    Mutant(
        "layer_too_late",
        "block_input of layer l is found in layer l + 1",
        "layers counted from 1 in one place and from 0 in another",
        layers_from(lambda layer, count: min(layer + 1, count - 1), "block_input"),
        ("block_input",),
        "meaning:chain:block_output",
        "embedding_output = block_input[0], layer 0",
    ),
    Mutant(
        "always_the_last_layer",
        "every layer's mlp_output is found in the last layer",
        "hooks made in a loop whose closures all see the loop's last value "
        "(https://docs.python.org/3/faq/programming.html)",
        layers_from(lambda layer, count: count - 1, "mlp_output"),
        ("mlp_output",),
        "meaning:projection:mlp_output",
        "mlp_output = mlp.c_proj(mlp_activation), l = 0",
    ),
    Mutant(
        "right_in_layer_0_only",
        "every layer's head_value_output is found in layer 0",
        "the layer index left out of a format string",
        layers_from(lambda layer, count: 0, "head_value_output"),
        ("head_value_output",),
        "meaning:heads_reshape:head_value_output",
        "with its heads side by side, l = 1",
    ),
    Mutant(
        "last_layer_after_the_norm",
        "block_output of the last layer is taken after the final norm",
        "the last hidden state that transformers returns is normed (https://github.com/huggingface/transformers/"
        "issues/13461, https://github.com/huggingface/transformers/pull/26142)",
        LastLayerNormed,
        ("block_output",),
        "meaning:residual_sum:block_output",
        "block_output = block_input + attention_output + mlp_output, l = 2",
    ),
    Mutant(
        "input_for_output",
        "block_output is the block's input",
        "resid_pre taken for resid_post",
        moved(block_output=Input()),
        ("block_output",),
        "meaning:residual_sum:block_output",
        "block_output = block_input + attention_output + mlp_output",
    ),
    Mutant(
        "output_for_input",
        "mlp_input is the MLP's output",
        "a forward hook where a forward pre-hook was meant",
        moved(mlp_input=Output("mlp")),
        ("mlp_input",),
        "meaning:normalization:mlp_input",
        "mlp_input = ln_2(block_input + attention_output)",
    ),
    Mutant(
        "attention_output_with_the_residual",
        "attention_output has the residual stream in it",
        "in Bloom and BERT the module named attention adds the residual itself",
        moved(attention_output=Input("ln_2")),
        ("attention_output",),
        "meaning:projection:attention_output",
        "attention_output = attn.c_proj(attention_value_output)",
    ),
    Mutant(
        "mlp_output_with_the_residual",
        "mlp_output has the residual stream in it",
        "in Bloom the MLP module adds the residual itself",
        moved(mlp_output=Output()),
        ("mlp_output",),
        "meaning:projection:mlp_output",
        "mlp_output = mlp.c_proj(mlp_activation)",
    ),
    Mutant(
        "activation_before_the_nonlinearity",
        "mlp_activation is taken before the nonlinearity",
        "hook_pre taken for hook_post",
        moved(mlp_activation=Output("mlp.c_fc")),
        ("mlp_activation",),
        "meaning:projection:mlp_output",
        "mlp_output = mlp.c_proj(mlp_activation)",
    ),
    Mutant(
        "activation_before_the_gate",
        "mlp_activation is the gate's nonlinearity, before its product with the up projection",
        "a GPT-2 table used for LLaMA, whose act_fn is not what the down projection reads",
        moved(Llama, mlp_activation=Output("mlp.act_fn")),
        ("mlp_activation",),
        "meaning:projection:mlp_output",
        "mlp_output = mlp.down_proj(mlp_activation)",
    ),
    Mutant(
        "embeddings_without_positions",
        "embedding_output is what the embedding module returns, to which positions are yet to be added",
        "a LLaMA table used for OPT, whose learned positions are added in plain code",
        moved(OPT, embedding_output=Output("model.decoder.embed_tokens")),
        ("embedding_output",),
        "meaning:chain:block_output",
        "embedding_output = block_input[0]",
    ),
    Mutant(
        "right_in_pre_norm_alone",
        "attention_input is the norm's output, which follows attention in a post-norm model",
        "OPT-350m, the one of its sizes with norms after the sub-layers, read as the others",
        moved(OPT, attention_input=Output("self_attn_layer_norm")),
        ("attention_input",),
        "meaning:residual_sum:attention_input:post_norm",
        "attention_input = block_input",
    ),
    Mutant(
        "mlp_input_with_the_residual",
        "mlp_input is what the norm before the MLP puts out; in a post-norm model the residual stream is that, too",
        "hook points at the norms of a pre-norm model, used in a post-norm one: the read is right, the write is not",
        moved(PostNorm, mlp_input=Output("self_attn_layer_norm")),
        ("mlp_input",),
        "local:mlp_input",
        "with all of layer.0.mlp_input written and layer.0.mlp_output put back",
    ),
    Mutant(
        "attention_input_before_the_norm",
        "attention_input is the residual stream",
        "a site at the norm instead of behind it",
        moved(attention_input=Input("ln_1")),
        ("attention_input",),
        "meaning:normalization:attention_input",
        "attention_input = ln_1(block_input)",
    ),
    Mutant(
        "value_output_after_the_projection",
        "attention_value_output is taken after the output projection",
        "hook_result taken for hook_z",
        moved(attention_value_output=Output("attn.c_proj")),
        ("attention_value_output",),
        "meaning:projection:attention_output",
        "attention_output = attn.c_proj(attention_value_output)",
    ),
    Mutant(
        "embedding_before_positions",
        "embedding_output is the token embedding, without the positions'",
        "hook_embed taken for the first resid_pre",
        moved(embedding_output=Output("transformer.wte")),
        ("embedding_output",),
        "meaning:chain:block_output",
        "embedding_output = block_input[0], layer 0",
    ),
    Mutant(
        "final_norm_before_the_norm",
        "final_norm_output is the final norm's input",
        "a logit lens whose states were not normed (https://github.com/TransformerLensOrg/TransformerLens/issues/1076 "
        "is a relative)",
        moved(final_norm_output=Input("transformer.ln_f")),
        ("final_norm_output",),
        "meaning:normalization:final_norm_output",
        "final_norm_output = (transformer.ln_f or ln_f)(block_output)",
    ),
    Mutant(
        "logits_of_another_module",
        "logits are what the final norm puts out",
        "a table that gives the same head module for every model class",
        OtherHead,
        ("logits",),
        "shaped:logits",
        "has shape",
    ),
    Mutant(
        "pattern_before_the_softmax",
        "attention_pattern is the scores",
        "attn_scores taken for pattern",
        moved(attention_pattern=Attention("scores", "attn")),
        ("attention_pattern",),
        "meaning:attentions:attention_pattern",
        "attention_pattern[l] = attentions[l]",
    ),
    Mutant(
        "scores_before_the_mask",
        "attention_scores are taken before the causal mask is added",
        "scores read where query and key meet, so that positions attend to the future",
        moved(attention_scores=_unmasked),
        ("attention_scores",),
        "meaning:softmax:attention_pattern",
        "attention_pattern = softmax(attention_scores)",
    ),
    Mutant(
        "dead_module",
        "attention_pattern is the output of attn_dropout, which transformers' eager attention no longer calls",
        "a hook on a module whose call became a function call with the attention interface of transformers",
        moved(attention_pattern=Output("attn.attn_dropout")),
        ("attention_pattern",),
        "alive:attention_pattern",
        "attn.attn_dropout output) never fired",
    ),
    Mutant(
        "pattern_that_was_used_already",
        "attention_pattern is the one that the attention module returns: true to read, and written too late",
        "head patching on the returned attention weights, which nothing reads any more",
        moved(attention_pattern=Output("attn", 1)),
        ("attention_pattern",),
        "alive:attention_pattern",
        "is not on the way to the output",
    ),
    Mutant(
        "fused_in_inference",
        "mlp_activation is an activation module whose result nothing reads while gradients are off",
        "a fused inference kernel that takes over from modules which are still called, and whose hooks still fire",
        on_models(_fuse_mlps, moved(mlp_activation=Output("mlp.act"))),
        ("mlp_activation",),
        "alive:mlp_activation",
        "'transformer.h.0.mlp.act') is not on the way to the output",
    ),
    Mutant(
        "shared_module",
        "mlp_activation is the output of an activation module that all layers share",
        "activation functions kept in a dictionary, so that a hook on one reaches all "
        "(https://github.com/huggingface/diffusers/pull/10832)",
        moved(_shared, mlp_activation=Output("mlp.act")),
        ("mlp_activation",),
        "alive:mlp_activation",
        "ran 2 times in one forward",
    ),
    Mutant(
        "missing_layer",
        "the last layer has no mlp_input",
        "range(1, n_layer) where range(n_layer) was meant",
        sited(lambda site: None if (site.component, site.layer) == ("mlp_input", 2) else site),
        ("mlp_input",),
        "shaped:mlp_input",
        "has mlp_input in layers [0, 1], the spec claims [0, 1, 2]",
    ),
    Mutant(
        "site_that_the_spec_does_not_claim",
        "the adapter has a site named residual_middle, of which no spec says anything",
        "a component added to the table and to nothing else",
        ExtraSite,
        ("block_output",),
        "shaped:block_output",
        "residual_middle, of which the spec says nothing",
    ),
    Mutant(
        "wrong_entry_of_a_tuple",
        "attention_output is the second thing that the attention module returns",
        "the order of an attention module's results changed between releases of transformers",
        moved(attention_output=Output("attn", 1)),
        ("attention_output",),
        "shaped:attention_output",
        "attn output 1",
    ),
]
