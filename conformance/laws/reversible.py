"""Reversible: a write can be undone within a run, and a session leaves no trace."""

from __future__ import annotations

from hypothesis import strategies as st
from torch import Tensor

from ...sites import Site
from ..case import Case
from ..draw import Draw
from ..law import law
from ..snapshot import changes, snapshot
from ..violation import Violation, require_same_outputs


class Interruption(Exception):
    """Raised by the law itself, inside a write."""


ENDINGS: dict[str, type[BaseException] | None] = {
    "as it should": None,
    "with an error in a write": Interruption,
    "with a KeyboardInterrupt in a write": KeyboardInterrupt,
}


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
    before = snapshot(case.model)
    original = case.read(chosen)
    value = draw.value(case, original)
    outputs, _ = case.run(writes=[(chosen, value), (chosen, original)])
    require_same_outputs(f"writing at {chosen} and then the original back", outputs, plain)
    error = ENDINGS[draw("the session ends", st.sampled_from(list(ENDINGS)))]
    if error is not None:
        _end_with(error, case, chosen)
    left = changes(before, snapshot(case.model))
    if left:
        raise Violation(f"a session at {chosen} ({site.port}) left behind: {'; '.join(left)}")
    require_same_outputs(f"the plain model after a session at {chosen}", case.forward(), plain)


def _end_with(error: type[BaseException], case: Case, site: Site) -> None:
    def fail(part: Tensor) -> Tensor:
        raise error

    try:
        case.run(writes={site: fail})
    except error:
        return
    raise Violation(f"a {error.__name__} raised in a write at {site} did not reach the caller")
