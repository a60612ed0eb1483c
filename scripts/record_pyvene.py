"""Record what pyvene 0.1.8 says on a tiny GPT-2 and LLaMA, for tests/compat to compare with.

Run in an environment of its own, from the repository's root:

    pip install pyvene==0.1.8 "transformers<5" safetensors
    python scripts/record_pyvene.py

It writes to tests/data/pyvene: ``cases.json`` (what was tried), ``refused.json`` (what pyvene could not do), and for
each model ``<model>.json`` (its config) and ``<model>.safetensors`` (its weights, the inputs, the interventions'
weights, and what pyvene said in each case).
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyvene as pv
import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

OUT = Path(__file__).parent.parent / "tests" / "data" / "pyvene"
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "attn_implementation": "eager"}
MODELS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=29, n_positions=16, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3, **SPECIAL)
    ),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=29,
            max_position_embeddings=16,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.3,
            tie_word_embeddings=False,
            **SPECIAL,
        )
    ),
}
GREEDY = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
WHOLE = [
    "block_input",
    "block_output",
    "mlp_input",
    "mlp_activation",
    "mlp_output",
    "attention_input",
    "attention_output",
    "attention_value_output",
    "query_output",
    "key_output",
    "value_output",
]
HEADS = ["head_attention_value_output", "head_query_output", "head_key_output", "head_value_output"]
# A position of the source into another one of the base, different in each row.
POSITIONS = {"sources->base": [[[[1], [2]]], [[[3], [4]]]]}
SEVERAL = {"sources->base": [[[[1, 0], [2, 3]]], [[[3, 4], [0, 1]]]]}
HEAD = {"sources->base": [[[[1], [0]]], [[[0], [1]]]]}
HEAD_POSITION = {"sources->base": [[[[[1], [0]], [[2], [3]]]], [[[[0], [1]], [[4], [3]]]]]}
LATENTS = 20
LOCAL = ["VanillaIntervention", "AdditionIntervention", "SubtractionIntervention", "ZeroIntervention"]


def weights_for(kind: str, width: int) -> dict[str, torch.Tensor]:
    """Seeded weights, away from what the class starts with, that each case of a type and width shares."""
    torch.manual_seed(len(kind) * 1000 + width)
    options = {"embed_dim": width, "low_rank_dimension": 3, "latent_dim": LATENTS}
    if kind == "PCARotatedSpaceIntervention":
        components = torch.linalg.qr(torch.randn(width, width)).Q
        options |= {
            "pca": types.SimpleNamespace(components_=components.numpy()),
            "pca_mean": torch.randn(width).numpy(),
            "pca_std": (0.5 + torch.rand(width)).numpy(),
        }
    made = getattr(pv, kind)(**options)
    state = {n: t.clone() for n, t in made.state_dict().items()}
    for name, tensor in state.items():
        if name in ("mask", "masks", "threshold") or name.startswith(("W_", "b_")):
            state[name] = torch.randn_like(tensor)
        if name in ("temperature", "intervention_boundaries"):
            state[name] = torch.full_like(tensor, 0.6)
    return state


def double_and_add(base: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    return 2 * base + source


def cases(model: str) -> list[dict[str, Any]]:
    """What is tried on a model, as JSON can hold it."""
    found: list[dict[str, Any]] = []

    def add(name: str, representations: list[dict[str, Any]], **call: Any) -> None:
        found.append({"name": f"{model}/{name}", "model": model, "representations": representations, **call})

    def one(component: str, kind: str, **fields: Any) -> dict[str, Any]:
        return {"layer": 0, "component": component, "intervention_type": kind, **fields}

    for component in WHOLE:
        for kind in LOCAL:
            add(f"{component}/{kind}/positions", [one(component, kind)], sources=["source"], unit_locations=POSITIONS)
        add(f"{component}/VanillaIntervention/whole", [one(component, "VanillaIntervention")], sources=["source"])
        for kind in ("VanillaIntervention", "AdditionIntervention"):
            add(f"{component}/{kind}/several", [one(component, kind)], sources=["source"], unit_locations=SEVERAL)
        for kind in (
            "RotatedSpaceIntervention",
            "LowRankRotatedSpaceIntervention",
            "BoundlessRotatedSpaceIntervention",
            "SigmoidMaskIntervention",
            "SigmoidMaskRotatedSpaceIntervention",
            "PCARotatedSpaceIntervention",
        ):
            low = {"low_rank_dimension": 3} if kind.startswith("LowRank") else {}
            add(
                f"{component}/{kind}/positions",
                [one(component, kind, **low)],
                sources=["source"],
                unit_locations=POSITIONS,
                state=kind,
            )
        add(
            f"{component}/CollectIntervention/positions",
            [one(component, "CollectIntervention")],
            unit_locations={"base": [[[3], [4]]]},
        )
        add(
            f"{component}/function/positions",
            [one(component, "function")],
            sources=["source"],
            unit_locations=POSITIONS,
        )
    for component in HEADS:
        for kind in LOCAL:
            add(f"{component}/{kind}/h", [one(component, kind, unit="h")], sources=["source"], unit_locations=HEAD)
        for kind in ("VanillaIntervention", "AdditionIntervention"):
            add(
                f"{component}/{kind}/h.pos",
                [one(component, kind, unit="h.pos")],
                sources=["source"],
                unit_locations=HEAD_POSITION,
            )
        add(
            f"{component}/CollectIntervention/h",
            [one(component, "CollectIntervention", unit="h")],
            unit_locations={"base": [[[0], [1]]]},
        )
    for component in ("block_output", "mlp_output", "attention_output"):
        add(f"{component}/SkipIntervention/whole", [one(component, "SkipIntervention")], sources=["source"])
        add(
            f"{component}/JumpReLUAutoencoderIntervention/positions",
            [one(component, "JumpReLUAutoencoderIntervention", low_rank_dimension=3)],
            sources=["source"],
            unit_locations=POSITIONS,
            state="JumpReLUAutoencoderIntervention",
        )
        add(
            f"{component}/NoiseIntervention/positions",
            [one(component, "NoiseIntervention")],
            unit_locations={"base": [[[0, 1, 2, 3], [0, 1, 2, 3]]]},
        )
    path = {"gpt2": "transformer.h[0].mlp", "llama": "model.layers[0].mlp"}[model]
    for end in ("input", "output"):
        add(
            f"{path}.{end}/VanillaIntervention/positions",
            [one(f"{path}.{end}", "VanillaIntervention")],
            sources=["source"],
            unit_locations=POSITIONS,
        )
    swap, add_ = ("VanillaIntervention", "AdditionIntervention")
    two = [one("block_output", swap), one("mlp_output", add_)]
    two[1]["layer"] = 1
    both = {"sources->base": [[[[1], [2]], [[0], [0]]], [[[3], [4]], [[4], [2]]]]}
    add("several/two sources", two, sources=["source", "other"], unit_locations=both)
    add("several/one source for both", two, sources=["source"], unit_locations=both)
    add("several/none among the sources", two, sources=[None, "other"], unit_locations=both)
    add(
        "several/serial",
        [two[0], {**two[0], "layer": 1}],
        mode="serial",
        sources=["source", "other"],
        unit_locations={
            "source_0->source_1": [[[[1], [2]]], [[[2], [3]]]],
            "source_1->base": [[[[2], [3]]], [[[4], [4]]]],
        },
    )
    add(
        "several/at one site",
        [two[0], {**two[0], "intervention_type": add_}],
        sources=["source", "other"],
        unit_locations=both,
    )
    grouped = [{**r, "group_key": 0} for r in two] + [{**one("block_output", swap), "layer": 1, "group_key": 1}]
    add(
        "several/groups",
        grouped,
        sources=["source", "other"],
        unit_locations={"sources->base": [[[[1], [2]], [[0], [0]], [[1], [1]]], [[[3], [4]], [[4], [2]], [[1], [2]]]]},
    )
    linked = one("block_output", swap, intervention_link_key=0, subspace_partition=[[0, 8], [8, 16]])
    add(
        "several/linked at one site",
        [linked, linked],
        sources=["source", "other"],
        unit_locations={"sources->base": 3},
        subspaces=[[[0], [0]], [[1], [1]]],
    )
    for name, locations in {
        "int": {"sources->base": 3},
        "pair": {"sources->base": (1, 3)},
        "flat list": {"sources->base": [1, 3, 4]},
    }.items():
        add(f"locations/{name}", [one("block_output", swap)], sources=["source"], unit_locations=locations)
    add("locations/base", [one("block_output", "ZeroIntervention")], unit_locations={"base": 3})
    add(
        "given/tensor",
        [one("block_output", add_)],
        source_representations={"0": "vector"},
        unit_locations={"base": [[[3], [4]]]},
    )
    add(
        "given/constant",
        [one("block_output", add_, source_representation="vector")],
        unit_locations={"base": [[[3], [4]]]},
    )
    add(
        "block_output/AutoencoderIntervention/positions",
        [one("block_output", "AutoencoderIntervention", latent_dim=LATENTS)],
        sources=["source"],
        unit_locations=POSITIONS,
        state="AutoencoderIntervention",
    )
    steered = one("block_output", add_, source_representation="strong")
    prompt = {"intervene_on_prompt": True}
    add("generate/generated tokens", [steered], generate={})
    add("generate/prompt", [steered], unit_locations={"base": 4}, generate=prompt)
    add("generate/everywhere", [steered], generate=prompt)
    last = {**one("block_output", swap), "layer": 1}
    add("generate/source", [last], sources=["source"], unit_locations={"sources->base": 4}, generate=prompt)
    parts = [[0, 2], [2, 9], [9, 16]]
    for kind, state in ((swap, None), (add_, None), ("RotatedSpaceIntervention", "RotatedSpaceIntervention")):
        for name, subspaces in {"an int": 1, "a list": [0, 2], "by row": [[[0], [2]]]}.items():
            add(
                f"subspaces/{kind}/{name}",
                [one("block_output", kind, subspace_partition=parts)],
                sources=["source"],
                unit_locations=POSITIONS,
                subspaces=subspaces,
                state=state,
            )
    return found


def run(
    case: dict[str, Any], model: Any, tensors: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, dict[str, torch.Tensor], Any]:
    """What pyvene says: the logits, the weights its intervention had, and what it collected."""
    representations = []
    for fields in case["representations"]:
        fields = dict(fields)
        kind = fields.pop("intervention_type")
        if kind == "function":
            fields["intervention"] = double_and_add
        else:
            fields["intervention_type"] = getattr(pv, kind)
        if "source_representation" in fields:
            fields["source_representation"] = tensors[f"input.{fields['source_representation']}"]
        if kind == "PCARotatedSpaceIntervention":
            width = pv.models.modeling_utils.get_dimension_by_component(type(model), model.config, fields["component"])
            made = weights_for(kind, width)
            del fields["intervention_type"]
            fields["intervention"] = pv.PCARotatedSpaceIntervention(
                embed_dim=width,
                pca=types.SimpleNamespace(components_=made["pca_components"].numpy()),
                pca_mean=made["pca_mean"].numpy(),
                pca_std=made["pca_std"].numpy(),
            )
        representations.append(pv.RepresentationConfig(**fields))
    config = pv.IntervenableConfig(representations=representations, mode=case.get("mode", "parallel"))
    intervenable = pv.IntervenableModel(config, model)
    state: dict[str, torch.Tensor] = {}
    if case.get("state"):
        intervention = next(iter(intervenable.interventions.values()))
        state = weights_for(case["state"], int(intervention.embed_dim))
        intervention.load_state_dict(state)
        case["width"] = int(intervention.embed_dim)

    def inputs(name: str | None) -> Any:
        return None if name is None else {"input_ids": tensors[f"input.{name}"].clone()}

    call: dict[str, Any] = {"base": inputs("base")}
    if "sources" in case:
        call["sources"] = [inputs(name) for name in case["sources"]]
    for name in ("unit_locations", "subspaces"):
        if name in case:
            call[name] = case[name]
    if "unit_locations" in call:
        call["unit_locations"] = {
            k: tuple(v) if isinstance(v, list) and len(v) == 2 and isinstance(v[0], list) else v
            for k, v in call["unit_locations"].items()
        }
    if "source_representations" in case:
        keys = list(intervenable.interventions)
        call["source_representations"] = {
            keys[int(i)]: tensors[f"input.{name}"] for i, name in case["source_representations"].items()
        }
        call["sources"] = [None]
    if "generate" in case:
        with torch.no_grad():
            _, sequences = intervenable.generate(**call, **case["generate"], **GREEDY)
        return sequences.clone(), state, None
    with torch.no_grad():
        first, second = intervenable(**call)
    collected = first[1] if isinstance(first, tuple) else None
    return second.logits.clone(), state, collected


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    recorded, refused = [], []
    for name, make in MODELS.items():
        torch.manual_seed(0)
        model = make().eval()
        tensors: dict[str, torch.Tensor] = {f"weight.{n}": p.detach().clone() for n, p in model.named_parameters()}
        generator = torch.Generator().manual_seed(1)
        for tokens in ("base", "source", "other"):
            tensors[f"input.{tokens}"] = torch.randint(3, 29, (2, 5), generator=generator)
        tensors["input.vector"] = torch.randn(16, generator=generator)
        tensors["input.strong"] = 8 * torch.randn(16, generator=generator)
        with torch.no_grad():
            plain = model(input_ids=tensors["input.base"]).logits.clone()
        tensors["plain"] = plain
        for case in cases(name):
            try:
                logits, state, collected = run(case, model, tensors)
            except Exception as error:
                refused.append({"name": case["name"], "error": f"{type(error).__name__}: {error}"[:200]})
                continue
            # pyvene leaves its hooks where a call fails, and changes tensors in place: a fresh look at the model.
            with torch.no_grad():
                assert torch.equal(model(input_ids=tensors["input.base"]).logits, plain), case["name"]
            tensors[f"logits.{case['name']}"] = logits
            for key, tensor in state.items():
                tensors[f"state.{case['state']}.{case['width']}.{key}"] = tensor
            if collected is not None:
                for index, tensor in enumerate(collected):
                    tensors[f"collected.{case['name']}.{index}"] = tensor.clone()
            recorded.append(case)
        save_file({k: t.contiguous() for k, t in tensors.items()}, OUT / f"{name}.safetensors")
        config = {k: v for k, v in model.config.to_diff_dict().items() if k not in ("transformers_version", "dtype")}
        (OUT / f"{name}.json").write_text(json.dumps(config, indent=1) + "\n")
    for name, found in (("cases", recorded), ("refused", refused)):
        lines = ",\n".join(json.dumps(case) for case in found)
        (OUT / f"{name}.json").write_text(f"[\n{lines}\n]\n")
    print(f"{len(recorded)} cases recorded, {len(refused)} that pyvene refuses")
    for case in refused:
        print(" ", case["name"], case["error"])


if __name__ == "__main__":
    main()
