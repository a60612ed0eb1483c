"""GPT-2's claims, held against raw hooks on transformers' model with no adapter in between."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers.models.gpt2 import modeling_gpt2

from intervene.specs import Relation, load, vocabulary
from intervene.specs.relations import (
    AttentionMix,
    Attentions,
    Chain,
    HeadsReshape,
    HiddenStates,
    ModelOutput,
    Projection,
    ResidualSum,
    Softmax,
)
from intervene.specs.schema import TowerSpec

TINY = {"n_layer": 3, "n_head": 3, "n_embd": 12, "n_positions": 16, "vocab_size": 20, "pad_token_id": 0}


class Probe:
    """Every GPT-2 tensor the spec speaks of, recorded by plain hooks in one forward."""

    def __init__(self, model: torch.nn.Module, config: Any, ids: torch.Tensor, eager: bool) -> None:
        self.values: dict[tuple[str, int | None], torch.Tensor] = {}
        base: Any = getattr(model, "transformer", model)
        heads = config.n_head
        handles = []

        def keep(name: str, layer: int | None, value: torch.Tensor) -> None:
            self.values[name, layer] = value.detach().clone()

        def split(value: torch.Tensor) -> torch.Tensor:
            return value.reshape(*value.shape[:2], heads, -1).transpose(1, 2)

        def on_output(name: str, layer: int | None) -> Any:
            return lambda _, args, out: keep(name, layer, out[0] if isinstance(out, tuple) else out)

        def on_input(name: str, layer: int | None) -> Any:
            return lambda _, args: keep(name, layer, args[0])

        def on_fused(layer: int) -> Any:
            def hook(_: Any, args: Any, out: torch.Tensor) -> None:
                for name, value in zip(("query", "key", "value"), out.chunk(3, dim=-1), strict=True):
                    keep(f"{name}_output", layer, value)
                    keep(f"head_{name}_output", layer, split(value))

            return hook

        def on_mixed(layer: int) -> Any:
            def hook(_: Any, args: Any) -> None:
                keep("attention_value_output", layer, args[0])
                keep("head_attention_value_output", layer, split(args[0]))

            return hook

        handles.append(base.drop.register_forward_hook(on_output("embedding_output", None)))
        handles.append(base.ln_f.register_forward_hook(on_output("final_norm_output", None)))
        for name in ("lm_head", "score", "classifier", "qa_outputs"):
            if hasattr(model, name):
                head = getattr(model, name)
                handles.append(head.register_forward_hook(on_output("logits", None)))
        for layer, block in enumerate(base.h):
            handles += [
                block.register_forward_pre_hook(on_input("block_input", layer)),
                block.register_forward_hook(on_output("block_output", layer)),
                block.attn.register_forward_pre_hook(on_input("attention_input", layer)),
                block.attn.register_forward_hook(on_output("attention_output", layer)),
                block.attn.c_attn.register_forward_hook(on_fused(layer)),
                block.attn.c_proj.register_forward_pre_hook(on_mixed(layer)),
                block.mlp.register_forward_pre_hook(on_input("mlp_input", layer)),
                block.mlp.register_forward_hook(on_output("mlp_output", layer)),
                block.mlp.c_proj.register_forward_pre_hook(on_input("mlp_activation", layer)),
            ]
        softmax = torch.nn.functional.softmax
        calls: list[int] = []

        def spy(scores: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            result = softmax(scores, *args, **kwargs)
            keep("attention_scores", len(calls), scores)
            keep("attention_pattern", len(calls), result)
            calls.append(1)
            return result

        try:
            with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
                if eager:
                    patch.setattr(torch.nn.functional, "softmax", spy)
                self.output = model(input_ids=ids, output_hidden_states=True, output_attentions=eager)
        finally:
            for handle in handles:
                handle.remove()

    def __getitem__(self, key: tuple[str, int | None]) -> torch.Tensor:
        name, layer = key
        return self.values[name, None if vocabulary()[name].scope == "model" else layer]


def path(root: torch.nn.Module, paths: tuple[str, ...]) -> torch.nn.Module:
    for each in paths:
        try:
            return root.get_submodule(each)
        except AttributeError:
            continue
    raise AssertionError(f"none of {paths} is in {type(root).__name__}")


def summed(probe: Probe, terms: tuple[str, ...], layer: int) -> torch.Tensor:
    total = probe[terms[0], layer]
    for term in terms[1:]:
        total = total + probe[term, layer]
    return total


def sides(
    relation: Relation, probe: Probe, model: torch.nn.Module, tower: TowerSpec, layers: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What the relation says is equal, over all layers."""
    pairs = []
    blocks = path(model, tower.blocks)
    layered = vocabulary()[relation.subject].scope == "block"
    if isinstance(relation, ModelOutput):
        return [(probe[relation.component, layers - 1], probe.output[relation.oracle])]
    for layer in range(layers) if layered else [layers - 1]:
        if isinstance(relation, Chain):
            after = layer + 1 < layers
            if after:
                pairs.append((probe[relation.output, layer], probe[relation.input, layer + 1]))
            if relation.start and layer == 0:
                pairs.append((probe[relation.start, None], probe[relation.input, 0]))
        elif isinstance(relation, HiddenStates):
            recorded = probe.output[relation.oracle]
            ends = layer + relation.offset == len(recorded) - 1 and relation.last
            name = relation.last if ends else relation.component
            pairs.append((probe[name, layer], recorded[layer + relation.offset]))
        elif isinstance(relation, ResidualSum):
            total = summed(probe, relation.terms, layer)
            pairs.append((probe[relation.result, layer], total))
        elif isinstance(relation, Projection):
            root = blocks.get_submodule(str(layer)) if layered else model
            with torch.no_grad():
                given_ = path(root, relation.module)(summed(probe, relation.terms, layer))
            if relation.part:
                assert relation.part.of is not None
                assert relation.part.chunk is not None
                given_ = given_.chunk(relation.part.of, dim=-1)[relation.part.chunk]
            pairs.append((probe[relation.result, layer], given_))
        elif isinstance(relation, HeadsReshape):
            whole = probe[relation.heads, layer].transpose(1, 2).flatten(2)
            pairs.append((probe[relation.whole, layer], whole))
        elif isinstance(relation, Softmax):
            pattern = probe[relation.scores, layer].softmax(dim=-1)
            pairs.append((probe[relation.pattern, layer], pattern))
        elif isinstance(relation, Attentions):
            recorded = probe.output[relation.oracle][layer]
            pairs.append((probe[relation.component, layer].to(recorded.dtype), recorded))
        elif isinstance(relation, AttentionMix):
            mixed = probe.output[relation.oracle][layer] @ probe[relation.values, layer]
            pairs.append((probe[relation.result, layer], mixed))
        else:
            raise AssertionError(f"no check for {relation.kind}")
    return pairs


def gpt2(model_class: str, attention: str, dtype: torch.dtype, **changes: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    config = transformers.GPT2Config(**{**TINY, **changes})
    config._attn_implementation = attention
    # A larger initial range than GPT-2's own makes wrong claims stand out from rounding.
    config.initializer_range = 0.3
    model = getattr(transformers, model_class)(config).eval().to(dtype)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model, model.config


def test_gpt2_names_all_of_transformers_classes() -> None:
    assert set(load("gpt2").models) == set(modeling_gpt2.__all__) - {"GPT2PreTrainedModel"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    ("model_class", "changes"),
    [
        *((name, {}) for name in load("gpt2").models),
        ("GPT2LMHeadModel", {"n_inner": 20}),
        ("GPT2LMHeadModel", {"reorder_and_upcast_attn": True}),
        ("GPT2Model", {"scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False}),
        ("GPT2LMHeadModel", {"add_cross_attention": True}),
    ],
    ids=str,
)
def test_gpt2_claims_hold(model_class: str, changes: dict[str, Any], attention: str, dtype: torch.dtype) -> None:
    model, config = gpt2(model_class, attention, dtype, **changes)
    spec = load("gpt2")
    tower = spec.tower
    ids = torch.randint(1, 20, (2, 5), generator=torch.Generator().manual_seed(1))
    probe = Probe(model, config, ids, attention == "eager")
    layers = tower.count(config)
    assert layers == 3 == len(list(path(model, tower.blocks).children()))

    sizes = {"batch": 2, "position": 5, "query_position": 5, "key_position": 5}
    seen = set()
    for name, component in tower.components.items():
        exists = tower.why_absent(name, model_class, config) is None
        exists = exists and not (component.requires and attention not in component.requires.attention)
        layered = vocabulary()[name].scope == "block"
        for layer in range(layers) if layered else [None]:
            assert ((name, layer) in probe.values) is exists, name
            if exists:
                seen.add(name)
                value = probe[name, layer]
                found = component.resolve(model_class, config)
                shape = component.shape(model_class, config)
                filled = zip(found.axes, shape, strict=True)
                wanted = tuple(sizes[axis] if size is None else size for axis, size in filled)
                assert tuple(value.shape) == wanted, name
                fixed = None if found.dtype == "model" else getattr(torch, found.dtype)
                assert value.dtype == (fixed or dtype), name

    checked = set()
    rounding = torch.finfo(dtype).eps * 64
    for relation in tower.relations:
        needs = [tower.components[name].requires for name in relation.components]
        needs += [relation.requires]
        if not relation.applies(model_class, config):
            continue
        if any(need and attention not in need.attention for need in needs):
            continue
        pairs = sides(relation, probe, model, tower, layers)
        assert pairs, relation.name
        for left, right in pairs:
            if relation.bitwise:
                assert torch.equal(left, right), relation.statement
            else:
                scale = right.float().abs().clamp(max=1e6).max().clamp(min=1).item()
                gap = (left.float() - right.float()).abs().max().item()
                assert gap <= rounding * scale, f"{relation.statement}: off by {gap}"
        checked.add(relation.kind)
    everywhere = {"chain", "hidden_states", "normalization", "projection", "heads_reshape"}
    assert everywhere <= checked
    assert ({"softmax", "attentions", "attention_mix"} <= checked) is (attention == "eager")
    assert ("residual_sum" in checked) is ("add_cross_attention" not in changes)
    assert len(seen) >= 17


def test_gpt2_is_causal_and_its_relations_see_a_wrong_claim() -> None:
    """The checks above can fail: a neighbour's tensor doesn't pass for the claimed one."""
    model, config = gpt2("GPT2LMHeadModel", "eager", torch.float32)
    tower = load("gpt2").tower
    ids = torch.randint(1, 20, (2, 5), generator=torch.Generator().manual_seed(1))
    probe = Probe(model, config, ids, True)
    layers = tower.count(config)
    swaps = {
        "query_output": "key_output",
        "attention_output": "mlp_output",
        "block_output": "block_input",
        "attention_input": "mlp_input",
        "head_query_output": "head_key_output",
        "head_attention_value_output": "head_value_output",
        "attention_pattern": "attention_scores",
    }
    for wrong, right in swaps.items():
        kept = dict(probe.values)
        for layer in range(layers):
            probe.values[wrong, layer], probe.values[right, layer] = kept[right, layer], kept[wrong, layer]
        failed = [
            relation.name
            for relation in tower.relations
            if relation.applies("GPT2LMHeadModel", config)
            and wrong in relation.components
            and any(
                left.shape != other.shape or (left - other).abs().max() > 1e-2
                for left, other in sides(relation, probe, model, tower, layers)
            )
        ]
        assert failed, f"{wrong} and {right} can be swapped unseen"
        probe.values.update(kept)

    changed = ids.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 19 + 1
    other = Probe(model, config, changed, True)
    assert tower.is_causal(config)
    assert torch.equal(probe["logits", None][:, :3], other["logits", None][:, :3])
    assert not torch.equal(probe["logits", None][:, 3:], other["logits", None][:, 3:])
