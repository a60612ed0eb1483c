"""Makes the artifacts in this folder with pyvene itself, in an environment that has pyvene 0.1.8.

    python make.py        # with pyvene 0.1.8: everything but the next
    python make.py early  # after it, with pyvene 0.1.1: adds two artifacts of that release

Needs ``pip install pyvene==0.1.8 "transformers<5" safetensors`` and no network. Until 0.1.6 pyvene wrote dots in the
names of files, and until 0.1.2 representations without ``latent_dim``. Each folder of ``artifacts/`` is what
`IntervenableModel.save` of pyvene wrote; ``expected.safetensors`` holds what pyvene's own model, *loaded from that
folder*, computed from the inputs there, so that a reader can be checked against pyvene's reading.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pyvene as pv
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
ARTIFACTS = HERE / "artifacts"
WIDTH = 12
POSITIONS = ([[[2]] * 2], [[[3]] * 2])  # column 2 of each source row goes to column 3 of each base row


def gpt2() -> Any:
    config = GPT2Config(
        n_layer=2, n_head=3, n_embd=WIDTH, vocab_size=31, n_positions=16, bos_token_id=0, eos_token_id=0
    )
    return _seeded(GPT2LMHeadModel, config)


def llama() -> Any:
    config = LlamaConfig(
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=3,
        hidden_size=WIDTH,
        intermediate_size=16,
        vocab_size=31,
        max_position_embeddings=16,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _seeded(LlamaForCausalLM, config)


def _seeded(kind: Any, config: Any) -> Any:
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        # The library's initial values are so small that a patch hardly shows.
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model


def trained(intervenable: Any) -> Any:
    """Values that no fresh intervention has, as after training; orthogonal weights stay orthogonal."""
    torch.manual_seed(7)
    for value in intervenable.interventions.values():
        intervention = value[0] if isinstance(value, tuple) else value  # early releases kept the hook beside it
        for name, parameter in intervention.named_parameters():
            if not parameter.requires_grad or "rotate_layer" in name:
                continue
            with torch.no_grad():
                parameter.copy_(torch.rand_like(parameter) * (0.8 if "boundaries" in name else 2.0) + 0.1)
        layer = getattr(intervention, "rotate_layer", None)
        if layer is not None:
            rotation, _ = torch.linalg.qr(torch.randn(layer.weight.shape))
            layer.weight = rotation
    return intervenable


def cases() -> dict[str, dict[str, Any]]:
    return {
        "vanilla": {"component": "block_output", "intervention_type": pv.VanillaIntervention},
        "zero": {"component": "mlp_output", "intervention_type": pv.ZeroIntervention},
        "rotated": {"component": "block_output", "intervention_type": pv.RotatedSpaceIntervention},
        "rotated_first_three": {"component": "block_output", "intervention_type": pv.RotatedSpaceIntervention},
        "low_rank": {
            "component": "block_output",
            "intervention_type": pv.LowRankRotatedSpaceIntervention,
            "low_rank_dimension": 3,
        },
        "boundless": {"component": "mlp_input", "intervention_type": pv.BoundlessRotatedSpaceIntervention},
        "sigmoid_mask": {"component": "block_output", "intervention_type": pv.SigmoidMaskIntervention},
        "sigmoid_mask_rotated": {
            "component": "attention_input",
            "intervention_type": pv.SigmoidMaskRotatedSpaceIntervention,
        },
        "autoencoder": {"component": "block_output", "intervention_type": pv.AutoencoderIntervention, "latent_dim": 5},
        "jump_relu": {
            "component": "block_output",
            "intervention_type": pv.JumpReLUAutoencoderIntervention,
            "low_rank_dimension": 20,
        },
    }


# pyvene's `interchange_dim`: how many of the first dims are swapped, or which. Its autoencoder works with a list alone.
DIMENSIONS = {"rotated_first_three": 3, "autoencoder": [0, 1, 2, 3, 4]}


def main() -> None:
    shutil.rmtree(ARTIFACTS, ignore_errors=True)
    ARTIFACTS.mkdir()
    expected: dict[str, torch.Tensor] = {}
    torch.manual_seed(1)
    base = {"input_ids": torch.randint(1, 31, (2, 6))}
    source = {"input_ids": torch.randint(1, 31, (2, 6))}
    expected["base"], expected["source"] = base["input_ids"], source["input_ids"]
    model_of = {"gpt2": gpt2, "llama": llama}
    for family, make in model_of.items():
        make().save_pretrained(HERE / family)

    def keep(
        name: str, family: str, intervenable: pv.IntervenableModel, include_model: bool = False, **call: Any
    ) -> None:
        folder = ARTIFACTS / name
        intervenable.save(str(folder), include_model=include_model)
        loaded = pv.IntervenableModel.load(str(folder), model_of[family](), include_model=include_model)
        _, output = loaded(base, **call)
        expected[name] = output.logits.detach().clone()
        case = {"family": family, "sources": [one is not None for one in call.get("sources", [])]}
        (folder / "case.json").write_text(json.dumps(case) + "\n")

    patch: dict[str, Any] = {"sources": [source], "unit_locations": {"sources->base": POSITIONS}}
    for name, fields in cases().items():
        config = pv.IntervenableConfig([{"layer": 1, **fields}])
        intervenable = trained(pv.IntervenableModel(config, gpt2()))
        if name in DIMENSIONS:
            for intervention in intervenable.interventions.values():
                intervention.set_interchange_dim(DIMENSIONS[name])
        if name == "zero":
            keep(name, "gpt2", intervenable, unit_locations={"base": POSITIONS[1]})
        else:
            keep(name, "gpt2", intervenable, **patch)

    # A constant source: the shape of a shared steering vector.
    vector = torch.linspace(-1, 1, WIDTH)
    steer = [
        {
            "layer": layer,
            "component": "attention_output",
            "intervention_type": pv.AdditionIntervention,
            "source_representation": vector * (layer + 1),
        }
        for layer in (0, 1)
    ]
    where: dict[str, Any] = {"unit_locations": {"base": ([[[3]] * 2, [[3]] * 2])}}
    keep("steering_llama", "llama", pv.IntervenableModel(pv.IntervenableConfig(steer), llama()), **where)

    # Two that share their weights. One at a time has a source: with both, pyvene hands what the first wrote on to the
    # second, where we share the weights alone.
    linked = [
        {
            "layer": layer,
            "component": "block_output",
            "intervention_type": pv.LowRankRotatedSpaceIntervention,
            "low_rank_dimension": 2,
            "intervention_link_key": 0,
        }
        for layer in (0, 1)
    ]
    intervenable = trained(pv.IntervenableModel(pv.IntervenableConfig(linked), gpt2()))
    both = ([[[2]] * 2, [[2]] * 2], [[[3]] * 2, [[3]] * 2])
    keep("linked", "gpt2", intervenable, sources=[None, source], unit_locations={"sources->base": both})

    # Trained model weights too: pyvene keeps those that require a gradient.
    model = gpt2()
    config = pv.IntervenableConfig([{"layer": 0, **cases()["low_rank"]}])
    intervenable = trained(pv.IntervenableModel(config, model))
    bias = model.transformer.h[1].mlp.c_fc.bias
    bias.requires_grad_(True)
    with torch.no_grad():
        bias.add_(0.5)
    keep("include_model", "gpt2", intervenable, include_model=True, **patch)

    save_file(expected, HERE / "expected.safetensors")


def early() -> None:
    expected = load_file(HERE / "expected.safetensors")
    base, source = ({"input_ids": expected[side]} for side in ("base", "source"))

    def keep(name: str, family: str, model: Any, fields: dict[str, Any], **call: Any) -> None:
        intervenable = trained(pv.IntervenableModel(pv.IntervenableConfig([{"layer": 1, **fields}]), model))
        intervenable.save(str(ARTIFACTS / name))
        _, output = intervenable(base, **call)
        expected[name] = output.logits.detach().clone()
        case = {"family": family, "sources": [True] * len(call.get("sources", []))}
        (ARTIFACTS / name / "case.json").write_text(json.dumps(case) + "\n")

    steering = {"component": "attention_output", "intervention_type": pv.AdditionIntervention}
    steering["source_representation"] = torch.linspace(-1, 1, WIDTH)
    keep("early_steering", "llama", llama(), steering, unit_locations={"base": POSITIONS[1]})
    rotation = {"component": "block_output", "intervention_type": pv.LowRankRotatedSpaceIntervention}
    patch: dict[str, Any] = {"sources": [source], "unit_locations": {"sources->base": POSITIONS}}
    keep("early_low_rank", "gpt2", gpt2(), {**rotation, "low_rank_dimension": 3}, **patch)
    save_file(expected, HERE / "expected.safetensors")


if __name__ == "__main__":
    early() if sys.argv[1:] == ["early"] else main()
