"""Generation: what is written at a prompt position under the cache is what the uncached run gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from ...selection import elsewhere
from ...sites import Site
from ..case import Case
from ..draw import Draw
from ..law import always, law
from ..setting import real
from ..subject import Subject
from ..violation import Violation, require_close

NEW_TOKENS = 3
PADS = 2
_POSITIONS = {"position", "query_position", "source_position"}


def _variants(subject: Subject, component: str) -> list[tuple[str, str | None]]:
    return [v for v in subject.variants(component) if subject.has("generates", v[0])]


def _applies(subject: Subject, component: str) -> str | None:
    if not any(subject.has("generates", model) for model in subject.models):
        return "the spec claims no model class that generates"
    if not _POSITIONS & set(subject.claim(component, subject.models[0]).axes):
        return "the component has no position axis"
    if not _variants(subject, component):
        return "no model class that generates has the component"
    return always(subject, component)


@dataclass(frozen=True)
class Generated:
    """New tokens, (rows, steps), and the logits that each was chosen by, (rows, steps, vocabulary)."""

    tokens: Tensor
    logits: Tensor


@law(
    "generation",
    "an intervention at prompt positions gives the same tokens with a cache and without; left padding moves nothing",
    applies=_applies,
    effort=0.5,
)
def generation(draw: Draw) -> None:
    """Greedy, with a real change at a position of the prompt, which is counted from the start in one of two compared
    runs and from the prompt's end in the other. The logits must be close, too: few changes turn a greedy token."""
    variants = _variants(draw.subject, draw.component)
    case = draw.case(variants, dtypes=("float32",), modes=False, sides=("left",), columns=2, past=False)
    site = draw.site(case)
    axis = next(i for i, name in enumerate(site.axes or ()) if name in _POSITIONS)
    before, columns = _prompt(case, site, axis)
    # generate computes some activations (logits) for the prompt's last columns alone.
    seen = before.shape[axis]
    position = draw("position", st.integers(columns - seen, columns - 1))
    value = case.random(before.narrow(axis, position - (columns - seen), 1), 3.0)
    first, second = draw("counted", st.permutations([position, position - columns]))
    cached = _generate(case, site.at(positions=first), value, use_cache=True)
    uncached = _generate(case, site.at(positions=second), value, use_cache=False)
    _compare(
        f"with {site} written at position {first}, generate with a cache, against position {second} without one",
        cached,
        uncached,
        case.depth,
    )
    if case.setting.padding == "none" and draw.subject.has("left_padding", case.setting.model):
        moved = second + PADS if second >= 0 and not elsewhere(site.axes) else second
        _compare_padded(case, site.at(positions=moved), value, cached)


def _compare(what: str, found: Generated, wanted: Generated, depth: int) -> None:
    if found.tokens.tolist() != wanted.tokens.tolist():
        raise Violation(f"{what}: tokens {found.tokens.tolist()} instead of {wanted.tokens.tolist()}")
    require_close(f"{what}: the logits of the new tokens", found.logits, wanted.logits, depth)


def _prompt(case: Case, site: Site, axis: int) -> tuple[Tensor, int]:
    """What flows by at a site for the prompt, and how many columns that has: those that generate first gives the
    tower's root, or, of images and of what cross-attention attends to, all there are."""
    lengths: list[int] = []

    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = next((kwargs[n] for n in ("input_ids", "inputs_embeds") if kwargs.get(n) is not None), None)
        lengths.extend([] if ids is None else [ids.shape[1]])

    _, root = case.subject.root(case.model)
    handle = root.register_forward_pre_hook(begin, with_kwargs=True)
    try:
        with case.adapted.session(reads=[site], keep="all") as session:
            _call(case, case.inputs, use_cache=True)
    finally:
        handle.remove()
    value: Tensor = session.values[site][0]
    return value, value.shape[axis] if elsewhere(site.axes) or not lengths else lengths[0]


def _compare_padded(case: Case, site: Site, value: Tensor, wanted: Generated) -> None:
    """The same prompt two columns further right, behind padding; ``site`` has moved along."""
    if "input_ids" not in case.inputs:
        return
    ids = case.inputs["input_ids"]
    filler = ids.new_zeros(len(ids), PADS)
    padded: dict[str, Any] = {
        **case.inputs,
        "input_ids": torch.cat([filler, ids], 1),
        "attention_mask": torch.cat([filler, torch.ones_like(ids)], 1),
    }
    found = _generate(case, site, value, use_cache=True, inputs=padded, pads=PADS)
    what = f"with {site} written behind {PADS} columns of left padding, generate, against no padding"
    _compare(what, found, wanted, case.depth)


def _generate(
    case: Case,
    site: Site,
    value: Tensor,
    *,
    use_cache: bool,
    inputs: dict[str, Any] | None = None,
    pads: int = 0,
) -> Generated:
    """What is generated with ``value`` written at a site of the prompt, behind ``pads`` columns of padding."""
    written: Any = value
    if "key_position" in (site.axes or ()):

        def written(part: Tensor) -> Tensor:
            # Keys of padding, and those after the prompt (generated, when nothing is cached), stay masked: of what
            # flows at a padding column, which may look anywhere, a cache and a run without one make different things.
            result = part.clone()
            keys = result[..., pads : pads + value.shape[-1]]
            keys.copy_(torch.where(_real_keys(case, keys), value, keys))
            return result

    with case.adapted.session(writes={site: written}):
        return _call(case, case.inputs if inputs is None else inputs, use_cache)


def _real_keys(case: Case, keys: Tensor) -> Tensor:
    """Which keys of the prompt are no padding, to broadcast with (rows, head, query, key)."""
    mask = real(case.setting) if case.setting.padding != "none" else torch.ones(1, keys.shape[-1], dtype=torch.bool)
    return mask.to(keys.device)[:, None, None, :]


def _call(case: Case, inputs: dict[str, Any], use_cache: bool) -> Generated:
    model: Any = case.model
    # generate counts positions and begins a decoder's sequence itself; BLIP's writes into the ids that it is given.
    given = {n: v.clone() for n, v in inputs.items() if n not in ("position_ids", "decoder_input_ids")}
    pads = {} if model.generation_config.pad_token_id is not None else {"pad_token_id": 0}
    with torch.no_grad():
        generated = model.generate(
            **given,
            **pads,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            do_sample=False,
            use_cache=use_cache,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return Generated(generated.sequences[:, -NEW_TOKENS:], torch.stack(generated.logits, 1))
