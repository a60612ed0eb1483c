"""A sweep is one growing batch in every family of language models, and gives the values of single runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import intervene
from intervene.sweeps import Probability

BASE = {"input_ids": torch.tensor([[5, 17, 9, 33, 21]])}
SOURCE = {"input_ids": torch.tensor([[5, 17, 40, 33, 8]])}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "mistral": ("mistral", {}),
    "opt": ("opt", {}),
    "opt, post-norm": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 20}),
    "pythia": ("pythia", {}),
    "pythia, sequential": ("pythia", {"use_parallel_residual": False}),
}


@pytest.mark.parametrize("component", ["block_output", "mlp_activation", "head_key_output"])
@pytest.mark.parametrize("name", MODELS)
def test_one_growing_batch_equals_single_runs(name: str, component: str) -> None:
    family, config = MODELS[name]
    model = intervene.tiny(family, **config)
    asked: Any = {"base": BASE, "source": SOURCE, "component": component, "metric": Probability(7), "progress": False}
    swept, single = intervene.sweep(model, **asked), intervene.sweep(model, method="loop", **asked)
    assert swept.method == "growing batch"
    assert torch.allclose(torch.as_tensor(swept.values), torch.as_tensor(single.values), rtol=1e-4, atol=1e-8)
    assert torch.as_tensor(single.values).std() > 0
