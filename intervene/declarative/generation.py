"""Generation: interventions around a model's own `generate`.

`padding` counts positions from each row's first real token, `timing` says when an intervention acts, `moments` makes it
act then, and `along` generates from sources too; here are the call itself and sources that are read in one run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch import nn

from ..errors import UnsupportedModelError
from ..sites import Site
from .acts import Writes
from .engine import Round, read_run
from .inputs import arguments

# What has tokens proposed that the model then accepts or rejects, several in a forward.
ASSISTANCE = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit")


def generate(model: nn.Module, inputs: Any, **options: Any) -> Any:
    """Call the model's ``generate`` with inputs as its forward takes them.

    Raises:
        UnsupportedModelError: a model without one.
    """
    if not callable(getattr(model, "generate", None)):
        raise UnsupportedModelError(f"{type(model).__name__} has no generate()")
    args, kwargs = arguments(inputs)
    if hasattr(model, "_valid_auto_compile_criteria") and not {"disable_compile", "compile_config"} & set(options):
        # On an accelerator a static cache has transformers compile the model, anew for whatever a hook does next.
        given = options.get("generation_config")
        if given is None:
            options["disable_compile"] = True
        else:
            # Transformers means to refuse an option beside a generation_config.
            options["generation_config"] = copy(given)
            options["generation_config"].disable_compile = True
    return model.generate(*args, **kwargs, **options)  # type: ignore[operator]


def read_prompt(plan: Round, source: Any, sites: Sequence[Site], writes: Writes) -> Mapping[Site, Any]:
    """What sites hold in a source that is run as the model's ``generate`` runs a prompt before the first token.

    What `generate` adds to a prompt (positions that count from the first real token, a decoder's start token) is then
    there as it is for the base. The run stops where nothing is left to see.
    """
    if not hasattr(plan.adapted.model, "generation_config"):
        return read_run(plan, source, sites, writes)  # whose generate isn't known to take or add anything
    one = {"max_new_tokens": 1, "min_new_tokens": None, "max_length": None, "min_length": 0, "max_time": None}
    alone = {"num_beams": 1, "num_return_sequences": 1, "prefill_chunk_size": None}
    bare = {"return_dict_in_generate": False, "output_scores": False}
    running = (
        plan.session(writes, sites)
        if writes
        else plan.adapted.reading(sites, grad=torch.is_grad_enabled(), attention=plan.attention)
    )
    with same_chances(plan.adapted.model), running as session:
        generate(plan.adapted.model, source, **one, **alone, **bare)
    return session.values


@contextmanager
def same_chances(model: nn.Module) -> Iterator[None]:
    """Leave torch's random state as it was, so that a second sampling draws what the first drew."""
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        yield


def setting(model: nn.Module, options: Mapping[str, Any], name: str) -> Any:
    """What a call of ``generate`` goes by: an option, or what its config or else the model's says; None for nothing."""
    configs = (options.get("generation_config"), getattr(model, "generation_config", None))
    said = (options.get(name), *(getattr(config, name, None) for config in configs))
    return next((value for value in said if value is not None), None)


def in_pieces(model: nn.Module, options: Mapping[str, Any]) -> bool:
    """Whether the first forward doesn't say how long the prompt is: it sees a chunk, or candidates after the prompt."""
    return any(setting(model, options, name) for name in ("prefill_chunk_size", *ASSISTANCE))
