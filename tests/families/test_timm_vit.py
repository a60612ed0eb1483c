"""What no law says about timm's vision transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import intervene


@pytest.fixture
def timm() -> Any:
    return pytest.importorskip("timm", reason="timm is not installed")


class VisionTransformer(nn.Module):
    """Called as timm's, and made otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.Linear(2, 2))


def test_without_timm_the_extra_is_named(uninstall: Callable[[str], None]) -> None:
    uninstall("timm")
    with pytest.raises(intervene.MissingDependencyError, match=r'needs timm, .* pip install "torch-intervene\[timm\]"'):
        intervene.tiny("timm_vit")


def test_only_timm_s_own_class_is_recognised() -> None:
    assert intervene.adapt(VisionTransformer()).adapter is None


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit3_small_patch16_224", "vit_small_patch14_reg4_dinov2"])
def test_models_by_their_name_in_timm(timm: Any, name: str) -> None:
    model = timm.create_model(name, depth=2, img_size=56, num_classes=3)
    adapted = intervene.adapt(model)
    assert adapted.adapter is not None
    values = adapted.read(list(adapted.sites), attention="eager", x=torch.randn(1, 3, 56, 56))
    registers = 4 if "reg4" in name else 0
    assert values["embedding_output"].shape[1] == 1 + registers + values["patch_embedding_output"].shape[1]
    assert values["logits"].shape == (1, 3)
    assert bool(adapted.sites.filter(component="register_tokens")) is bool(registers)


def test_other_blocks_are_left_to_module_paths(timm: Any) -> None:
    other = timm.models.vision_transformer.ParallelThingsBlock
    made = timm.models.vision_transformer.VisionTransformer(
        img_size=8, patch_size=4, embed_dim=24, depth=1, num_heads=3, block_fn=other
    )
    assert intervene.adapt(made).adapter is None


def test_eager_attention_is_for_the_session_alone(timm: Any) -> None:
    model: Any = intervene.tiny("timm_vit")
    images = torch.randn(2, 3, 8, 8)
    adapted = intervene.adapt(model)
    fused = [block.attn.fused_attn for block in model.blocks]
    assert all(fused)
    pattern = adapted.read(["layer.1.attention_pattern"], attention="eager", x=images)["layer.1.attention_pattern"]
    torch.testing.assert_close(pattern.sum(-1), torch.ones(2, 3, 5))
    assert [block.attn.fused_attn for block in model.blocks] == fused
    with pytest.raises(intervene.AttentionImplementationError, match=r"attention='eager'.*set_fused_attn\(False\)"):
        adapted.read(["layer.1.attention_pattern"], x=images)
    with pytest.raises(intervene.AttentionImplementationError, match="'eager' or 'sdpa', not 'flash'"):
        adapted.read(["layer.1.block_output"], attention="flash", x=images)


def test_it_is_the_model_that_transformers_has_too(timm: Any) -> None:
    """The same weights in transformers' ViT: every component of both is the same tensor, up to rounding."""
    theirs: Any = intervene.tiny("vit", num_labels=5, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    ours: Any = intervene.tiny("timm_vit", mlp_ratio=40 / 24)
    embeddings = theirs.vit.embeddings
    weights = {
        "cls_token": embeddings.cls_token,
        "pos_embed": embeddings.position_embeddings,
        "patch_embed.proj": embeddings.patch_embeddings.projection,
        "norm": theirs.vit.layernorm,
        "head": theirs.classifier,
    }
    for index, layer in enumerate(theirs.vit.layers):
        own = f"blocks.{index}"
        weights |= {f"{own}.norm1": layer.layernorm_before, f"{own}.norm2": layer.layernorm_after}
        weights |= {f"{own}.mlp.fc1": layer.mlp.fc1, f"{own}.mlp.fc2": layer.mlp.fc2}
        weights[f"{own}.attn.proj"] = layer.attention.o_proj
        attention = layer.attention
        for end in ("weight", "bias"):
            three = [getattr(part, end) for part in (attention.q_proj, attention.k_proj, attention.v_proj)]
            weights[f"{own}.attn.qkv.{end}"] = torch.cat(three)
    state: dict[str, torch.Tensor] = {}
    for name, held in weights.items():
        if isinstance(held, nn.Module):
            state |= {f"{name}.{end}": value for end, value in held.state_dict().items()}
        else:
            state[name] = held.detach()
    ours.load_state_dict(state)
    for norm in (m for m in ours.modules() if isinstance(m, nn.LayerNorm)):
        norm.eps = theirs.config.layer_norm_eps
    images = torch.randn(2, 3, 8, 8)
    one, two = intervene.adapt(theirs), intervene.adapt(ours)
    first = one.read(list(one.sites), attention="eager", pixel_values=images)
    second = two.read(list(two.sites), attention="eager", x=images)
    assert {s.address for s in first} == {s.address for s in second}
    for site, value in first.items():
        torch.testing.assert_close(second[site.address], value, rtol=1e-4, atol=1e-5)
