"""Mutants of models that read images: the wrong patches, the wrong tokens before them, the wrong side of a scale."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from intervene.adapters.dinov2 import Dinov2
from intervene.adapters.esm import Esm
from intervene.adapters.vit import ViT
from intervene.calls import Call
from intervene.lenses import Narrow
from intervene.ports import Output, Port, View
from intervene.specs.schema import TowerSpec

from .making import Bent, altered, claiming, moved, with_lens
from .mutant import Mutant


@dataclass(frozen=True)
class ColumnByColumn(Bent):
    """A square grid of patches in the other order."""

    def get(self, whole: Tensor) -> Tensor:
        return _transposed(whole)

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return _transposed(part)


def _transposed(patches: Tensor) -> Tensor:
    side = int(patches.shape[1] ** 0.5)
    return patches.unflatten(1, (side, side)).transpose(1, 2).flatten(1, 2)


def _positions(tower: TowerSpec, count: str) -> TowerSpec:
    return replace(tower, positions=count)


def _unrotated(name: str, view: View) -> Port | View:
    if name != "query_rotated":
        return view
    return Call("attention.self", ("apply_rotary_pos_emb",), argument="q")


MUTANTS = [
    Mutant(
        "first_patch_for_class_token",
        "class_token is the position after it",
        "a class token counted after the patches, as some models place it",
        with_lens(lambda lens: Narrow(1, 1, 1), "class_token", base=ViT),
        ("class_token",),
        "meaning:learned:class_token",
        "class_token = embeddings.cls_token + embeddings.position_embeddings",
    ),
    Mutant(
        "registers_from_the_class_token_on",
        "register_tokens begin at the class token",
        "a prefix of tokens that is taken to be registers alone",
        with_lens(lambda lens: Narrow(1, 0, 2), "register_tokens", base=Dinov2),
        ("register_tokens",),
        "meaning:learned:register_tokens",
        "register_tokens = embeddings.register_tokens",
    ),
    Mutant(
        "patches_column_by_column",
        "patch_embedding_output goes down the image's columns",
        "height and width exchanged when an image is flattened",
        altered(lambda name, view: view >> ColumnByColumn() if name == "patch_embedding_output" else view, ViT),
        ("patch_embedding_output",),
        "meaning:embedding:patch_embedding_output",
        "patch_embedding_output = ",
    ),
    Mutant(
        "patches_with_positions",
        "patch_embedding_output is the patches as they enter the first block",
        "hook_embed taken for hook_full_embed",
        moved(ViT, patch_embedding_output=Output("vit.embeddings") >> Narrow(1, 1, 4)),
        ("patch_embedding_output",),
        "meaning:embedding:patch_embedding_output",
        "off by",
    ),
    Mutant(
        "share_before_its_scale",
        "attention_output is taken before the layer scale",
        "a ViT's table used for DINOv2",
        moved(Dinov2, attention_output=Output("attention")),
        ("attention_output",),
        "meaning:residual_sum:block_output",
        "block_output = block_input + attention_output + mlp_output",
    ),
    Mutant(
        "one_position_too_few",
        "the spec counts the patches and leaves out the class token",
        "the position embedding's length taken from the number of patches",
        claiming(lambda tower: _positions(tower, "(image_size // patch_size) * (image_size // patch_size)"), ViT),
        ("block_output",),
        "shaped:block_output",
        "the spec claims",
    ),
    Mutant(
        "attention_with_the_residual_in_a_protein_model",
        "attention_output is the attention module's, which adds the residual",
        "in BERT and ESM the module named attention adds the residual itself",
        moved(Esm, attention_output=Output("attention")),
        ("attention_output",),
        "meaning:projection:attention_output",
        "attention_output = attention.output.dense(attention_value_output)",
    ),
    Mutant(
        "query_before_its_rotation",
        "query_rotated is what enters the rotary embedding",
        "hook_q taken for hook_rot_q",
        altered(_unrotated, Esm),
        ("query_rotated",),
        "meaning:rotation:query_rotated",
        "rotated by",
    ),
]
