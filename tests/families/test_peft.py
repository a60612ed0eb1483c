"""A LLaMA that PEFT wrapped and put adapters into is a LLaMA still, its sites being where they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftMixedModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model

import intervene
from intervene.conformance import check_adapter
from intervene.errors import UnsupportedModelError

PROMPT = torch.tensor([[5, 17, 9, 33], [21, 3, 8, 40]])
EVERYWHERE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def wrapped(**config: Any) -> Any:
    """A LLaMA with low-rank updates that are not nothing, as they are once trained, and a head that trains along."""
    lora = LoraConfig(r=2, target_modules=EVERYWHERE, init_lora_weights=False, **{"task_type": "CAUSAL_LM", **config})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return get_peft_model(intervene.tiny("llama", attn_implementation="eager"), lora).eval()


def test_the_adapter_is_found_through_the_wrapper() -> None:
    model = wrapped()
    adapted = intervene.adapt(model)
    assert adapted.model is model.get_base_model()
    assert adapted.adapter is not None
    assert adapted.adapter.family == "llama"
    plain = intervene.adapt(intervene.tiny("llama"))
    assert [site.address for site in adapted.sites] == [site.address for site in plain.sites]


def test_each_site_reads_what_the_same_weights_without_peft_give() -> None:
    """Merged, the updates are part of plain weights, and PEFT is gone: up to rounding the same model."""
    model = wrapped().double()
    merged = wrapped().double().merge_and_unload()
    both = [intervene.adapt(model), intervene.adapt(merged)]
    sites = [site.address for site in both[0].sites]
    found, wanted = (adapted.read(sites, input_ids=PROMPT) for adapted in both)
    untrained = intervene.adapt(intervene.tiny("llama").double()).read("logits", input_ids=PROMPT)
    assert not torch.allclose(found["logits"], untrained["logits"], atol=0.1)
    for site in sites:
        assert torch.allclose(found[site], wanted[site], rtol=1e-4, atol=1e-5), site
        outputs: list[Any] = []
        for adapted, called in zip(both, (model, merged), strict=True):
            with torch.no_grad(), adapted.session(writes={site: lambda part: part * 0.5}):
                outputs.append(called(PROMPT).logits)
        assert torch.allclose(outputs[0], outputs[1], rtol=1e-4, atol=1e-5), site


def test_a_session_sees_calls_of_the_wrapper_and_of_the_model_inside() -> None:
    model = wrapped()
    adapted = intervene.adapt(model)
    with torch.no_grad():
        plain = model(PROMPT).logits
        for called in (model, model.get_base_model()):
            with adapted.session(reads=["logits"], writes={"layer.1.query_output": 0.0}) as session:
                output = called(PROMPT).logits
            assert torch.equal(session.values["logits"], output)
            assert not torch.equal(output, plain)
        assert torch.equal(model(PROMPT).logits, plain)
    with adapted.session(writes={adapted["layer.1.mlp_output"].at(positions=-1): 3.0}):
        tokens = model.generate(input_ids=PROMPT, max_new_tokens=3, do_sample=False)
    with adapted.session(writes={adapted["layer.1.mlp_output"].at(positions=3): 3.0}):
        uncached = model.generate(input_ids=PROMPT, max_new_tokens=3, do_sample=False, use_cache=False)
    assert torch.equal(tokens, uncached)


def test_updates_train_through_an_intervention() -> None:
    model = wrapped()
    adapted = intervene.adapt(model)
    with adapted.session(writes={adapted["layer.2.block_input"].at(positions=-1): lambda part: part * 2}):
        model(PROMPT).logits[:, -1].square().sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    reached = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert reached == trained
    assert all("lora_" in name for name in reached)


def test_modules_that_are_trained_whole_are_where_they_were() -> None:
    """PEFT keeps a copy of them beside the original and calls the one that is in use."""
    model = wrapped(modules_to_save=["lm_head"])
    adapted = intervene.adapt(model)
    with torch.no_grad(), adapted.session(reads=["logits"]) as session:
        output = model(PROMPT).logits
    assert torch.equal(session.values["logits"], output)


def test_the_mixed_kind() -> None:
    inner = intervene.tiny("llama")
    model = get_peft_model(inner, LoraConfig(r=2, target_modules=["q_proj"]), mixed=True)
    assert isinstance(model, PeftMixedModel)
    assert intervene.adapt(model).model is inner


@pytest.mark.parametrize("kind", [PrefixTuningConfig, PromptTuningConfig])
def test_virtual_tokens_are_refused_and_the_mend_works(kind: Any) -> None:
    model = get_peft_model(intervene.tiny("llama"), kind(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    with pytest.raises(UnsupportedModelError, match=r"virtual tokens .* model\.get_base_model\(\)"):
        intervene.adapt(model)
    adapted = intervene.adapt(model.get_base_model())
    # The prompt's last of four columns stands behind three virtual ones.
    with torch.no_grad(), adapted.session(reads=[adapted["layer.1.block_output"].at(positions=6)]) as session:
        model(PROMPT)
    (value,) = session.values.values()
    assert value.shape == (2, 1, 24)


def test_the_laws_hold_with_updates_inside() -> None:
    changed = ["query_output", "head_key_output", "attention_output", "mlp_activation", "mlp_output"]
    report = check_adapter(wrapped().get_base_model(), laws=["identity", "put_get", "meaning"], components=changed)
    assert report.passed, [failure.describe() for failure in report.failures]
