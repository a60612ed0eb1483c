"""Record what pyvene 0.1.8 says on its own MLP and GRU, for tests/compat/test_small_models.py to compare with.

Run as scripts/record_pyvene.py is; it writes tests/data/pyvene/small_models.safetensors and .json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyvene as pv
import torch
from pyvene.models.mlp.modelings_mlp import MLPConfig
from safetensors.torch import save_file

OUT = Path(__file__).parent.parent / "tests" / "data" / "pyvene"
CONFIGS: dict[str, dict[str, Any]] = {
    "mlp": {"h_dim": 6, "n_layer": 2, "num_classes": 3, "activation_function": "relu", "pdrop": 0.0},
    "gru": {"h_dim": 6, "n_layer": 2, "n_labels": 3, "pdrop": 0.0},
}
COMPONENTS = {
    "mlp": (1, "pos", (0, 0), ("block_output", "mlp_activation", "block_input")),
    "gru": (0, "t", (1, 2), ("cell_output", "update_gate_output", "cell_input")),
}


def main() -> None:
    found: dict[str, torch.Tensor] = {}
    for name, fields in CONFIGS.items():
        torch.manual_seed(0)
        make, config = {
            "mlp": (pv.create_mlp_classifier, MLPConfig),
            "gru": (pv.create_gru_classifier, pv.GRUConfig),
        }[name]
        model = make(config(**fields))[2].eval()
        # pyvene's unit "t" takes a batch of one alone.
        rows, length = (2, 1) if name == "mlp" else (1, 5)
        inputs = {which: torch.randn(rows, length, fields["h_dim"]) for which in ("base", "source")}
        found |= {f"{name}.weight.{n}": t.detach().clone() for n, t in model.state_dict().items()}
        found |= {f"{name}.{which}": t for which, t in inputs.items()}
        with torch.no_grad():
            found[f"{name}.plain"] = model(inputs_embeds=inputs["base"].clone())[0]
        layer, unit, (here, there), components = COMPONENTS[name]
        for component in components:
            representation = pv.RepresentationConfig(
                layer, component, unit=unit, intervention_type=pv.VanillaIntervention
            )
            intervenable = pv.IntervenableModel(pv.IntervenableConfig(representations=[representation]), model)
            with torch.no_grad():
                _, patched = intervenable(
                    {"inputs_embeds": inputs["base"].clone()},
                    [{"inputs_embeds": inputs["source"].clone()}],
                    {"sources->base": ([[[here]] * rows], [[[there]] * rows])},
                )
            found[f"{name}.{component}"] = patched[0].clone()
    save_file({n: t.contiguous() for n, t in found.items()}, OUT / "small_models.safetensors")
    (OUT / "small_models.json").write_text(json.dumps(CONFIGS, indent=1) + "\n")


if __name__ == "__main__":
    main()
