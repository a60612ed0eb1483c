"""What no law says about ViT, DeiT and DINOv2."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import intervene


def example(family: str, model: Any, rows: int = 2) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(7)
    return intervene.families()[family].example_inputs(model, rows, generator=generator)


def test_patches_are_row_by_row_of_the_image() -> None:
    model: Any = intervene.tiny("vit")
    image = torch.zeros(1, 3, 8, 8)
    image[:, :, :4, 4:] = 1.0  # the patch at the top right
    (patches,) = intervene.adapt(model).read(["patch_embedding_output"], pixel_values=image).values()
    dark = model.vit.embeddings.patch_embeddings.projection.bias
    bright = [not torch.allclose(patch, dark) for patch in patches[0]]
    assert bright == [False, True, False, False]


def test_positions_of_the_stream_are_class_token_then_patches() -> None:
    model: Any = intervene.tiny("vit")
    values = intervene.adapt(model).read(
        ["patch_embedding_output", "embedding_output", "class_token"], **example("vit", model)
    )
    positions = model.vit.embeddings.position_embeddings
    stream = values["embedding_output"]
    torch.testing.assert_close(stream[:, 1:], values["patch_embedding_output"] + positions[:, 1:])
    assert torch.equal(stream[:, :1], values["class_token"])


@pytest.mark.parametrize(
    ("family", "name", "patches_from"),
    [("dinov2", "Dinov2WithRegistersForImageClassification", 3), ("vit", "DeiTForImageClassification", 2)],
)
def test_what_stands_before_the_patches(family: str, name: str, patches_from: int) -> None:
    model: Any = intervene.tiny(family, name)
    values = intervene.adapt(model).read(["patch_embedding_output", "embedding_output"], **example(family, model))
    stream, patches = values["embedding_output"], values["patch_embedding_output"]
    assert stream.shape[1] == patches_from + patches.shape[1]
    positions = getattr(model, model.base_model_prefix).embeddings.position_embeddings
    torch.testing.assert_close(stream[:, patches_from:], patches + positions[:, -patches.shape[1] :])


@pytest.mark.parametrize(
    ("family", "name", "component", "reason"),
    [
        ("vit", "ViTForMaskedImageModeling", "logits", "reconstructs pixels"),
        ("vit", "DeiTForImageClassificationWithTeacher", "logits", "distillation_classifier.output"),
        ("vit", None, "register_tokens", "no register tokens"),
        ("dinov2", "Dinov2Model", "register_tokens", "Dinov2WithRegistersModel"),
        ("vit", None, "query_rotated", "no rotary embedding"),
        ("gpt2", None, "class_token", "no learned class token"),
        ("esm", None, "patch_embedding_output", "reads no image"),
    ],
)
def test_what_is_absent_has_its_reason(family: str, name: str | None, component: str, reason: str) -> None:
    adapted = intervene.adapt(intervene.tiny(family, name))
    with pytest.raises(intervene.AbsentComponentError, match=reason):
        adapted.site(component)


def test_a_layer_scale_belongs_to_what_a_sub_layer_adds() -> None:
    model: Any = intervene.tiny("dinov2")
    adapted, inputs = intervene.adapt(model), example("dinov2", model)
    values = adapted.read(["layer.1.attention_output", "dinov2.encoder.layer.1.attention.output"], **inputs)
    plain = values["dinov2.encoder.layer.1.attention.output"]
    scale = model.dinov2.encoder.layer[1].layer_scale1.lambda1
    torch.testing.assert_close(values["layer.1.attention_output"], plain * scale)


def test_patching_the_class_token_in_the_last_block_patches_the_answer() -> None:
    """The classifier reads nothing else."""
    model: Any = intervene.tiny("vit")
    adapted, images = intervene.adapt(model), example("vit", model)["pixel_values"]
    site = adapted.site("block_output", layer=-1).at(positions=0)
    with torch.no_grad():
        plain = model(pixel_values=images).logits
        source = adapted.read([site], pixel_values=images)
        with adapted.session(writes={site: source[site].flip(0)}):
            patched = model(pixel_values=images).logits
    torch.testing.assert_close(patched, plain.flip(0))
