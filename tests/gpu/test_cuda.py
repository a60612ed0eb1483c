"""The conformance suite on a CUDA device, fused attention kernels included; skipped where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import intervene
from intervene.conformance import Subject, all_laws, check_adapter
from intervene.sweeps import Probability

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
AVAILABLE = sorted(name for name, adapter in intervene.families().items() if adapter.available())
PROMPT = torch.tensor([[5, 17, 9, 33], [21, 3, 8, 40]])
# Wide enough for the kernels, which want heads of a multiple of eight features.
WIDE: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 48},
    "llama": {"head_dim": 16},
    "mistral": {"head_dim": 16, "sliding_window": None},
    "opt": {"hidden_size": 48},
    "pythia": {"hidden_size": 48},
}


@pytest.mark.parametrize("law", all_laws())
@pytest.mark.parametrize("family", AVAILABLE)
def test_every_family_keeps_every_law(family: str, law: str) -> None:
    report = check_adapter(Subject(family, device=DEVICE), laws=[law])
    assert report.passed, "\n".join(failure.describe() for failure in report.failures)


def identities(model: Any, ids: Tensor) -> None:
    """What was read at every site, written back, leaves the logits the same bit for bit."""
    adapted = intervene.adapt(model)
    sites = [site for site in adapted.sites if site.component not in ("attention_scores", "attention_pattern")]
    with torch.no_grad():
        plain = model(ids).logits
        values = adapted.read(sites, input_ids=ids)
        for site in sites:
            assert values[site].device.type == torch.device(DEVICE).type
            with adapted.session(writes={site: values[site]}):
                assert torch.equal(model(ids).logits, plain), site
            # A source on the CPU comes along.
            with adapted.session(writes={site.at(positions=-1): torch.full((1,), 3.0)}):
                assert not torch.equal(model(ids).logits[:, -1], plain[:, -1]), site


@pytest.mark.parametrize("backend", ["FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH"])
@pytest.mark.parametrize("family", WIDE)
def test_identity_under_each_kernel_of_sdpa(family: str, backend: str) -> None:
    if backend in ("FLASH_ATTENTION", "CUDNN_ATTENTION") and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip(f"{backend} needs a device of compute capability 8.0")
    model: Any = intervene.tiny(family, attn_implementation="sdpa", **WIDE[family]).to(DEVICE, torch.bfloat16)
    with sdpa_kernel(getattr(SDPBackend, backend)):
        identities(model, PROMPT.to(DEVICE))


@pytest.mark.parametrize("family", WIDE)
def test_identity_under_flash_attention_2(family: str) -> None:
    pytest.importorskip("flash_attn")
    model: Any = intervene.tiny(family, **WIDE[family]).to(DEVICE, torch.bfloat16)
    model.set_attn_implementation("flash_attention_2")
    identities(model, PROMPT.to(DEVICE))


@pytest.mark.parametrize("family", WIDE)
def test_values_are_those_of_the_cpu(family: str) -> None:
    on_cpu, moved = intervene.tiny(family), intervene.tiny(family).to(DEVICE)
    sites = [s.address for s in intervene.adapt(on_cpu).sites if "attention_" not in s.component]
    wanted = intervene.adapt(on_cpu).read(sites, input_ids=PROMPT)
    found = intervene.adapt(moved).read(sites, input_ids=PROMPT.to(DEVICE), device="cpu")
    for site in sites:
        assert torch.allclose(found[site], wanted[site], rtol=1e-3, atol=1e-4), site


def test_a_sweep_is_that_of_the_cpu() -> None:
    results = []
    for device in ("cpu", DEVICE):
        base, source = ({"input_ids": PROMPT[i : i + 1].to(device)} for i in range(2))
        model = intervene.tiny("llama").to(device)
        swept = intervene.sweep(model, base=base, source=source, metric=Probability(7), progress=False)
        results.append(torch.as_tensor(swept.values).cpu().double())
    assert torch.allclose(results[1], results[0], atol=1e-4)


def test_blocks_on_the_device_the_cpu_and_disk(tmp_path: Path) -> None:
    from accelerate import dispatch_model  # type: ignore[import-untyped]

    places: dict[str, Any] = {"model.embed_tokens": 0, "model.rotary_emb": 0, "model.norm": 0, "lm_head": 0}
    places |= {"model.layers.0": 0, "model.layers.1": "cpu", "model.layers.2": "disk"}
    whole = intervene.tiny("llama").to(DEVICE)
    parts: Any = dispatch_model(intervene.tiny("llama"), places, offload_dir=str(tmp_path))
    sites = [site.address for site in intervene.adapt(whole).sites if "attention_" not in site.component]
    wanted, found = (intervene.adapt(model).read(sites, input_ids=PROMPT.to(DEVICE)) for model in (whole, parts))
    assert all(torch.equal(found[site], wanted[site]) for site in sites)
