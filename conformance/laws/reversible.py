"""Reversible: a write can be undone within a run, and a session leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ...errors import NeverFiredError
from ...sites import Site
from ..case import Case
from ..draw import Draw
from ..law import law
from ..snapshot import changes, snapshot
from ..violation import Violation, require_same_outputs


class Interruption(Exception):
    """Raised by the law itself, inside a write."""


@law(
    "reversible",
    "a write undone in the same run leaves the original output; a session, however it ends, leaves no trace",
)
def reversible(draw: Draw) -> None:
    """Write, write the original back, and compare; then look for anything in the model that is not as before."""
    case = draw.case()
    site = draw.site(case)
    keywords, _ = draw.selection(case)
    chosen = site.at(**keywords)
    plain = case.plain
    with _gradients(case.model):
        before = snapshot(case.model)
        original = case.read(chosen)
        value = draw.value(case, original)
        outputs, _ = case.run(writes=[(chosen, value), (chosen, original)])
        for error in (None, Interruption, KeyboardInterrupt):
            if error is not None:
                _end_with(error, case, chosen)
            left = changes(before, snapshot(case.model))
            if left:
                ended = f"that ended with {error.__name__} " if error is not None else ""
                raise Violation(f"a session {ended}at {chosen} ({site.port}) left behind: {'; '.join(left)}")
    require_same_outputs(f"writing at {chosen} and then the original back", outputs, plain)
    require_same_outputs(f"the plain model after a session at {chosen}", case.forward(), plain)


def _end_with(error: type[BaseException], case: Case, site: Site) -> None:
    def fail(part: Tensor) -> Tensor:
        raise error

    try:
        case.run(writes={site: fail})
    except error:
        return
    except NeverFiredError as other:
        raise Violation(f"{error.__name__}, raised in a write at {site}, did not reach the caller") from other
    raise Violation(f"{error.__name__}, raised in a write at {site}, did not reach the caller")


@contextmanager
def _gradients(model: nn.Module) -> Iterator[None]:
    """Gradients as after a backward pass, for a session to lose."""
    kept = [(p, p.grad) for p in model.parameters()]
    for parameter, _ in kept:
        parameter.grad = torch.ones_like(parameter)
    try:
        yield
    finally:
        for parameter, grad in kept:
            parameter.grad = grad
