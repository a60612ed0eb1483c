"""Errors name what was wrong and what would be right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import intervene
from intervene.errors import (
    AbsentComponentError,
    AttentionImplementationError,
    InterveneError,
    PlacementError,
    SelectionError,
    UnknownSiteError,
    did_you_mean,
    nearest,
)


@pytest.mark.parametrize(
    ("address", "names"),
    [
        ("mlp", ["mlp_input", "mlp_activation", "mlp_output"]),
        ("layer.1.mlp", ["mlp_input", "mlp_activation", "mlp_output"]),
        ("layer.0.block_outptu", ["block_output"]),
        ("blok_output", ["block_output"]),
        ("layer.0.query", ["query_output", "head_query_output"]),
        ("layr.0.block_output", ["layer.0.block_output"]),
        ("logit", ["logits"]),
    ],
)
def test_the_nearest_names(adapted: intervene.Adapted, address: str, names: list[str]) -> None:
    with pytest.raises(UnknownSiteError) as error:
        adapted[address]
    for name in names:
        assert repr(name) in str(error.value)


def test_an_unknown_component_names_the_families_table(adapted: intervene.Adapted) -> None:
    with pytest.raises(UnknownSiteError) as error:
        adapted.site("residual", layer=0)
    assert "gpt2 has: embedding_output, block_input" in str(error.value)
    for component in {s.component for s in adapted.sites}:
        assert component in str(error.value)


@pytest.mark.parametrize("address", ["residual", "layr.0.residual"])
def test_so_does_an_address_without_a_layer(adapted: intervene.Adapted, address: str) -> None:
    with pytest.raises(UnknownSiteError, match=f"no site '{address}'.*gpt2 has: embedding_output, block_input"):
        adapted[address]


@pytest.mark.parametrize("layer", [3, 17, -4])
def test_a_layer_out_of_range(adapted: intervene.Adapted, layer: int) -> None:
    message = rf"layer {layer} is out of range: GPT2LMHeadModel has 3 layers \(0 to 2\)"
    with pytest.raises(UnknownSiteError, match=message):
        adapted.site("block_output", layer=layer)
    with pytest.raises(UnknownSiteError, match=message):
        adapted[f"layer.{layer}.block_output"]


def test_layers_from_the_end(adapted: intervene.Adapted) -> None:
    assert adapted.site("block_output", layer=-1) == adapted["layer.2.block_output"]
    assert adapted["layer.-3.block_output"] == adapted["layer.0.block_output"]


def test_a_layer_where_none_belongs_and_none_where_one_does(adapted: intervene.Adapted) -> None:
    with pytest.raises(UnknownSiteError, match="logits exists once in a model: ask for it without a layer"):
        adapted.site("logits", layer=0)
    with pytest.raises(UnknownSiteError, match="logits exists once"):
        adapted["layer.0.logits"]
    with pytest.raises(UnknownSiteError, match="exists in each of 3 layers: say layer=0 to layer=2"):
        adapted.site("block_output")
    with pytest.raises(UnknownSiteError, match="exists in each of 3 layers"):
        adapted["block_output"]


def test_an_absent_component_says_why() -> None:
    base = intervene.adapt(intervene.tiny("gpt2", "GPT2Model"))
    for ask in (lambda: base["logits"], lambda: base.site("logits")):
        with pytest.raises(AbsentComponentError, match="GPT2Model has no logits: the bare model has no head"):
            ask()


def test_a_tower_that_is_not_there(adapted: intervene.Adapted) -> None:
    for ask in (
        lambda: adapted.site("block_output", 0, tower="vision"),
        lambda: adapted["vision.layer.0.block_output"],
    ):
        with pytest.raises(UnknownSiteError, match="GPT2LMHeadModel has no tower 'vision'"):
            ask()


@pytest.mark.parametrize(
    ("address", "near"),
    [
        ("transformer.h.0.mpl.output", "transformer.h.0.mlp"),
        ("lm_haed.input", "lm_head"),
        ("mlp.output", "transformer.h.0.mlp"),
    ],
)
def test_a_module_path_that_is_none(adapted: intervene.Adapted, address: str, near: str) -> None:
    with pytest.raises(UnknownSiteError) as error:
        adapted[address]
    path = address.rpartition(".")[0]
    assert f"GPT2LMHeadModel has no module {path!r}" in str(error.value)
    assert near in str(error.value)


def test_a_module_path_without_its_end(adapted: intervene.Adapted) -> None:
    with pytest.raises(
        UnknownSiteError, match=r"is a module: say 'transformer.h.0.mlp.output' or 'transformer.h.0.mlp.i"
    ):
        adapted["transformer.h.0.mlp"]


@pytest.mark.parametrize("address", ["block_output", "layer.0.block_output", "vision.layer.0.mlp_output", "logits"])
def test_a_model_of_no_family_lists_the_families(address: str) -> None:
    with pytest.raises(UnknownSiteError) as error:
        intervene.adapt(nn.Linear(2, 2))[address]
    assert "no adapter knows Linear" in str(error.value)
    assert "Families: " in str(error.value)
    assert "gpt2" in str(error.value)


def test_a_pattern_that_no_tensor_holds(adapted: intervene.Adapted, ids: Tensor) -> None:
    with pytest.raises(
        AttentionImplementationError, match=r"runs 'sdpa', which never holds it: pass attention='eager'"
    ):
        adapted.read("layer.0.attention_pattern", input_ids=ids)
    pattern = adapted.read("layer.0.attention_pattern", input_ids=ids, attention="eager")["layer.0.attention_pattern"]
    assert torch.allclose(pattern.sum(-1), torch.ones(2, 3, 6))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("eagr", r"attention='eagr': .*not supported"),
        ("flash_attention_2", "FlashAttention2"),
    ],
)
@pytest.mark.parametrize("address", ["logits", "layer.0.attention_pattern"])
def test_an_attention_implementation_that_cannot_run(
    adapted: intervene.Adapted, ids: Tensor, address: str, name: str, says: str
) -> None:
    before = adapted.model.config._attn_implementation  # type: ignore[union-attr]
    with pytest.raises(AttentionImplementationError, match=says):
        adapted.read(address, input_ids=ids, attention=name)
    assert adapted.model.config._attn_implementation == before  # type: ignore[union-attr]


def test_an_attention_implementation_of_a_model_without_any(toy: nn.Module, x: Tensor) -> None:
    with pytest.raises(AttentionImplementationError, match="Toy has no config"):
        intervene.adapt(toy).read("first.output", x, attention="eager")


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"heads": 3}, r"layer.0.head_key_output\[heads=3\], .* \(2, 3, 6, 8\): heads \[3\] out of range"),
        ({"rows": [0, 2]}, r"rows \[2\] out of range: there are 2"),
        ({"dims": 8}, r"dims \[8\] out of range: there are 8 \(0 to 7\)"),
        ({"positions": [[0]]}, "positions were given for 1 rows, the activation has 2"),
        ({"positions": [0, -6]}, "the same place twice"),
    ],
)
def test_a_selection_that_the_activation_lacks(
    adapted: intervene.Adapted, ids: Tensor, choice: Any, message: str
) -> None:
    site = adapted.site("head_key_output", layer=0).at(**choice)
    with pytest.raises(SelectionError, match=message):
        adapted.read(site, input_ids=ids)
    with pytest.raises(SelectionError, match=message), adapted.session(writes={site: 0.0}):
        adapted.model(ids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "nowhere"}, "device 'nowhere' can't be used: .*nowhere"),
        ({"device": "cpu:x"}, "device 'cpu:x' can't be used"),
        ({"dtype": "float16"}, "dtype is a torch.dtype, such as torch.float16; found 'float16'"),
        ({"dtype": "torch.float16"}, "such as torch.float16; found 'torch.float16'"),
        ({"dtype": float}, "such as torch.bfloat16; found <class 'float'>"),
        ({"dtype": "Linear"}, "such as torch.bfloat16; found 'Linear'"),
    ],
)
def test_where_no_values_can_be_kept(
    adapted: intervene.Adapted, ids: Tensor, options: dict[str, Any], message: str
) -> None:
    """Refused before anything runs."""
    site = adapted["layer.0.mlp_output"]
    ran: list[int] = []
    with adapted.model.register_forward_pre_hook(lambda m, a: ran.append(1)):
        with pytest.raises(PlacementError, match=message):
            adapted.read(site, input_ids=ids, **options)
        with pytest.raises(PlacementError, match=message):
            adapted.session([site], **options)
    assert not ran


def test_a_device_that_this_machine_lacks(adapted: intervene.Adapted, ids: Tensor) -> None:
    absent = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(PlacementError, match=f"device '{absent}' can't be used: "):
        adapted.read("layer.0.mlp_output", input_ids=ids, device=absent)


def test_heads_of_a_component_without_any(adapted: intervene.Adapted, ids: Tensor) -> None:
    with pytest.raises(SelectionError, match="cannot choose heads: the axes here are batch, position, feature"):
        adapted.read(adapted["layer.0.mlp_output"].at(heads=0), input_ids=ids)


def test_one_base_class_catches_all() -> None:
    found = [e for e in vars(intervene.errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert len(found) > 10
    assert all(issubclass(e, InterveneError) for e in found)


def test_nearest() -> None:
    names = ["mlp_input", "mlp_output", "block_output", "logits"]
    assert nearest("mlp", names) == ["mlp_input", "mlp_output"]
    assert nearest("logit", names) == ["logits"]
    assert nearest("xyzzy", names) == []
    assert nearest("", names) == []
    assert len(nearest("o", [f"o{i}" for i in range(20)])) == 5
    assert did_you_mean("logit", names) == " Did you mean 'logits'?"
    assert did_you_mean("xyzzy", names) == ""
