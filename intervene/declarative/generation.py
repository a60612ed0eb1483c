"""Generation: interventions around a model's own `generate`.

`padding` counts positions from each row's first real token, `timing` says when an intervention acts, and `moments`
makes it act then; here are the call itself and the sources that are generated along.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InterventionError, UnsupportedModelError
from ..selection import Frame, find_axis
from ..sites import Site
from .acts import Act, Writer, Writes
from .engine import Round
from .inputs import arguments, run
from .padding import columns_of


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


def prefill(model: nn.Module, prompt: Any) -> None:
    """Run the model over a prompt as its ``generate`` does before the first token.

    What `generate` adds to a prompt (positions that count from the first real token, a decoder's start token) is then
    there as it is for the base.
    """
    if not hasattr(model, "generation_config"):
        run(model, prompt)  # not transformers' generate, so that nothing is known of what it takes or adds
        return
    one = {"max_new_tokens": 1, "min_new_tokens": None, "max_length": None, "min_length": 0, "max_time": None}
    alone = {"num_beams": 1, "num_return_sequences": 1, "prefill_chunk_size": None}
    bare = {"return_dict_in_generate": False, "output_scores": False}
    with same_chances(model):
        generate(model, prompt, **one, **alone, **bare)


@contextmanager
def same_chances(model: nn.Module) -> Iterator[None]:
    """Leave torch's random state as it was, so that a second sampling draws what the first drew."""
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        yield


def chunked(model: nn.Module, options: Mapping[str, Any]) -> bool:
    """Whether the prompt comes in chunks, so that its first forward doesn't say how long it is."""
    config = options.get("generation_config") or getattr(model, "generation_config", None)
    return bool(options.get("prefill_chunk_size") or getattr(config, "prefill_chunk_size", None))


def several(model: nn.Module, options: Mapping[str, Any]) -> bool:
    """Whether beams compete, so that a row's past may become another row's."""
    config = options.get("generation_config") or getattr(model, "generation_config", None)
    return (options.get("num_beams") or getattr(config, "num_beams", None) or 1) > 1


def generated_along(plan: Round, options: Mapping[str, Any]) -> Writes:
    """Generate from every source, and hand each intervention what it saw there, token by token.

    Raises:
        InterventionError: beams, whose rows have no past of their own.
    """
    model = plan.adapted.model
    if several(model, options):
        raise InterventionError("sources can't be generated along under beam search: beams change places on the way")
    quiet = {name: value for name, value in options.items() if name != "streamer"}
    quiet |= {"return_dict_in_generate": False}
    writes: list[tuple[int, Writes]] = []
    for source, acts in zip(plan.sources, plan.acts, strict=True):
        wanted = list(dict.fromkeys(act.place.site for act in acts if act.reads))
        if source is None or not wanted:
            writes += [(act.place.index, act.writes(None)) for act in acts]
            continue
        with same_chances(model), plan.adapted.session(reads=wanted, keep="all", attention=plan.attention) as session:
            generate(model, source, **quiet)
        count = columns_of(source) if chunked(model, options) else None
        for act in acts:
            if not act.reads:
                writes.append((act.place.index, act.writes(None)))
                continue
            forwards = session.values[act.place.site]
            length = forwards[0].shape[_axis(act.place.site, forwards[0])] if count is None else count
            writes.append((act.place.index, _along(act, _joined(act.place.site, forwards), length)))
    return [write for _, those in sorted(writes, key=lambda pair: pair[0]) for write in those]


def _along(act: Act, whole: Tensor, prompt: int) -> Writes:
    axis = _axis(act.place.site, whole)
    frame = Frame(length=prompt)
    read = {}
    for patch in act.patches:
        part = whole.narrow(axis, 0, prompt)
        picked = patch.source.selection.resolve(part.shape, act.place.site.axes, frame)
        read[patch.source] = part if picked is None else picked.lens.get(part)
    found = act.writes(read)
    for _, writer in found:
        if isinstance(writer, Writer):
            writer.generated = whole.narrow(axis, prompt, whole.shape[axis] - prompt)
    return found


def _joined(site: Site, forwards: Sequence[Tensor]) -> Tensor:
    """The activation of the whole sequence from those of the forwards."""
    axis = _axis(site, forwards[0])
    again = len(forwards) > 1 and forwards[1].shape[axis] == forwards[0].shape[axis] + 1
    return forwards[-1] if again else torch.cat(list(forwards), dim=axis)


def _axis(site: Site, activation: Tensor) -> int:
    return find_axis("positions", site.axes, activation.dim())
