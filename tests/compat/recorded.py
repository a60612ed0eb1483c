"""What pyvene 0.1.8 said, as scripts/record_pyvene.py recorded it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

DATA = Path(__file__).parents[1] / "data" / "pyvene"
CASES: list[dict[str, Any]] = json.loads((DATA / "cases.json").read_text())
GENERATED = [case for case in CASES if "generate" in case]
CALLED = [case for case in CASES if "generate" not in case]
REFUSED: list[dict[str, Any]] = json.loads((DATA / "refused.json").read_text())
_CLASSES = {"gpt2": ("GPT2Config", "GPT2LMHeadModel"), "llama": ("LlamaConfig", "LlamaForCausalLM")}


@cache
def tensors(model: str) -> dict[str, Tensor]:
    return load_file(DATA / f"{model}.safetensors")


@cache
def load(model: str) -> Any:
    """The model that pyvene ran, with its weights."""
    config_class, model_class = (getattr(transformers, name) for name in _CLASSES[model])
    config = json.loads((DATA / f"{model}.json").read_text())
    made = model_class(config_class(**config, attn_implementation="eager")).eval()
    weights = {n.removeprefix("weight."): t for n, t in tensors(model).items() if n.startswith("weight.")}
    missing, unexpected = made.load_state_dict(weights, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    made.tie_weights()
    return made


def inputs(model: str, name: str | None) -> Any:
    return None if name is None else {"input_ids": tensors(model)[f"input.{name}"]}


def state(case: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of the case's intervention, without what pyvene keeps as buffers and this library as numbers."""
    prefix = f"state.{case['state']}.{case['width']}."
    found = {n.removeprefix(prefix): t for n, t in tensors(case["model"]).items() if n.startswith(prefix)}
    return {n: t for n, t in found.items() if n not in ("embed_dim", "interchange_dim", "intervention_population")}


def pca(case: dict[str, Any]) -> dict[str, Any]:
    """The keywords with which the case's PCA intervention was made."""
    found = state(case)
    return {
        "embed_dim": case["width"],
        "pca": SimpleNamespace(components_=found["pca_components"].numpy()),
        "pca_mean": found["pca_mean"].numpy(),
        "pca_std": found["pca_std"].numpy(),
    }


def double_and_add(base: Tensor, source: Tensor) -> Tensor:
    return 2 * base + source


def collected(case: dict[str, Any]) -> list[Tensor]:
    prefix = f"collected.{case['name']}."
    return [t for n, t in sorted(tensors(case["model"]).items()) if n.startswith(prefix)]


def logits(case: dict[str, Any]) -> Tensor:
    """What the intervened model said; of generation the tokens."""
    return tensors(case["model"])[f"logits.{case['name']}"]


def close(found: Tensor, expected: Tensor) -> None:
    """Two versions of transformers compute the same up to rounding."""
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)
