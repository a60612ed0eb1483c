"""Put-get and put-put: what was written is what flows on, and the last write wins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..draw import Draw
from ..law import law
from ..violation import Violation, difference, require_same, require_same_outputs, same


@law("put_get", "what was written is what is read downstream of the write, and the last of two writes wins")
def put_get(draw: Draw) -> None:
    """Seen by a read in the same session, by a session opened inside it, and in the outputs of a double write."""
    case = draw.case()
    site = draw.site(case)
    keywords, _ = draw.selection(case)
    chosen = site.at(**keywords)
    module = case.model.get_submodule(site.port.path)
    with _watched(module) as plain:
        before = case.read(chosen)
    value = draw.value(case, before)
    kept = value.clone()
    with _watched(module) as written:
        once, values = case.run(writes={chosen: value}, reads=[chosen])
    if not same(value, kept):
        raise Violation(f"writing at {chosen} changed the caller's own tensor: {difference(value, kept)}")
    require_same(f"what is read at {chosen} after writing there", values[chosen], value)
    overwritten = _changed(written)
    if overwritten and not _changed(plain):
        raise Violation(
            f"writing at {chosen} ({site.port}) wrote into the model's own tensor, which others may hold: "
            f"{overwritten[0]}"
        )
    mixed = draw.mixture(case, before)
    with case.adapted.session(writes={chosen: mixed}, reads=[chosen]) as session:
        _, inner = case.run(reads=[chosen])
    require_same(f"what is read at {chosen} after writing there", session.values[chosen], mixed)
    require_same(f"what a session inside the writing one reads at {chosen}", inner[chosen], mixed)
    first = case.random(before)
    twice, values = case.run(writes=[(chosen, first), (chosen, value)], reads=[chosen])
    require_same(f"what is read at {chosen} after two writes", values[chosen], value)
    require_same_outputs(f"writing {chosen} twice, not only the last time", twice, once)
    if not same(value, kept):
        raise Violation(f"writing at {chosen} changed the caller's own tensor: {difference(value, kept)}")


@contextmanager
def _watched(module: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Every tensor that the module is given or gives, with a copy made before any session's hooks saw it."""
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(values: Iterable[Any]) -> None:
        seen.extend((v, v.detach().clone()) for v in values if isinstance(v, Tensor))

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep([*args, *kwargs.values()])

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        keep(output if isinstance(output, tuple) else [output])

    handles = [module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _changed(seen: list[tuple[Tensor, Tensor]]) -> list[str]:
    """How the tensors changed since they were seen, in words, for each that did."""
    return [difference(tensor.detach(), copy) for tensor, copy in seen if not same(tensor.detach(), copy)]
