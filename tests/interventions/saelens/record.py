"""Makes the SAEs beside this file with SAELens itself, and records what SAELens computes with them.

Run in an environment of its own: pip install sae-lens==6.54.12, then python record.py. Each folder gets ``cfg.json``
and ``sae_weights.safetensors`` as SAELens saves them, and ``recorded.safetensors`` with x (3, 5, 6), its latents,
their reconstruction, and the reconstruction with the latents of another input at the latents 1, 4 and 7.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import sae_lens  # type: ignore[import-not-found]
import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
WIDTH, LATENTS = 6, 10
SWAPPED = [1, 4, 7]
SETTINGS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "standard": (sae_lens.StandardSAE, sae_lens.StandardSAEConfig, {}),
    "standard_layer_norm": (sae_lens.StandardSAE, sae_lens.StandardSAEConfig, {"normalize_activations": "layer_norm"}),
    "topk": (sae_lens.TopKSAE, sae_lens.TopKSAEConfig, {"k": 3}),
    "topk_rescaled": (sae_lens.TopKSAE, sae_lens.TopKSAEConfig, {"k": 3, "rescale_acts_by_decoder_norm": True}),
    "jumprelu": (sae_lens.JumpReLUSAE, sae_lens.JumpReLUSAEConfig, {}),
    "jumprelu_constant_norm": (
        sae_lens.JumpReLUSAE,
        sae_lens.JumpReLUSAEConfig,
        {"normalize_activations": "constant_norm_rescale", "apply_b_dec_to_input": False},
    ),
}


def record(name: str) -> None:
    sae_class, config_class, settings = SETTINGS[name]
    torch.manual_seed(sorted(SETTINGS).index(name))
    sae = sae_class(config_class(d_in=WIDTH, d_sae=LATENTS, **settings))
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter += torch.randn_like(parameter) / 3
        if hasattr(sae, "threshold"):
            sae.threshold.abs_()
        x, other = torch.randn(3, 5, WIDTH), torch.randn(3, 5, WIDTH)
        swapped = sae.encode(other)
        mixed = sae.encode(x)
        mixed[..., SWAPPED] = swapped[..., SWAPPED]
        found = {
            "x": x,
            "other": other,
            "latents": sae.encode(x),
            "reconstruction": sae.decode(sae.encode(x)),
            "swapped_reconstruction": _decode(sae, x, mixed),
        }
    shutil.rmtree(HERE / name, ignore_errors=True)
    sae.save_model(HERE / name)
    save_file({k: v.contiguous() for k, v in found.items()}, HERE / name / "recorded.safetensors")


def _decode(sae: sae_lens.SAE, x: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    sae.encode(x)  # SAELens keeps the norm of what it encoded last for what it decodes next
    return sae.decode(latents)


def record_before_version_6(name: str) -> None:
    """The same topk SAE under the flat config that versions before 6 wrote (as SAELens' own converter reads it)."""
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(HERE / "topk", folder)
    config = {
        "d_in": WIDTH,
        "d_sae": LATENTS,
        "dtype": "torch.float32",
        "device": "cpu",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 3},
        "apply_b_dec_to_input": True,
        "finetuning_scaling_factor": False,
        "normalize_activations": "none",
        "hook_name": "blocks.1.hook_resid_post",
        "model_name": "gpt2-small",
        "sae_lens_training_version": "5.0.0",
    }
    (folder / "cfg.json").write_text(json.dumps(config))
    weights = load_file(folder / "sae_weights.safetensors")
    save_file({**weights, "scaling_factor": torch.ones(LATENTS)}, folder / "sae_weights.safetensors")
    ours = load_file(folder / "recorded.safetensors")
    loaded = sae_lens.SAE.load_from_disk(folder)
    assert torch.equal(loaded.encode(ours["x"]), ours["latents"])


if __name__ == "__main__":
    for each in SETTINGS:
        record(each)
    record_before_version_6("topk_before_version_6")
