"""Put-get and put-put: what was written is what flows on, and the last write wins."""

from __future__ import annotations

from ..draw import Draw
from ..law import law
from ..violation import Violation, require_same, require_same_outputs


@law("put_get", "what was written is what is read downstream of the write, and the last of two writes wins")
def put_get(draw: Draw) -> None:
    """Seen by a read in the same session, by a session opened inside it, and in the outputs of a double write."""
    case = draw.case()
    site = draw.site(case)
    keywords, _ = draw.selection(case)
    chosen = site.at(**keywords)
    before = case.read(chosen)
    value = draw.value(case, before)
    once, values = case.run(writes={chosen: value}, reads=[chosen])
    require_same(f"what is read at {chosen} after writing there", values[chosen], value)
    with case.adapted.session(writes={chosen: value}):
        _, inner = case.run(reads=[chosen])
    require_same(f"what a session inside the writing one reads at {chosen}", inner[chosen], value)
    kept = value.clone()
    first = case.random(before)
    twice, values = case.run(writes=[(chosen, first), (chosen, value)], reads=[chosen])
    require_same(f"what is read at {chosen} after two writes", values[chosen], value)
    require_same_outputs(f"writing {chosen} twice, not only the last time", twice, once)
    if not bool((kept == value).logical_or(kept != kept).all()):
        raise Violation(f"writing at {chosen} changed the caller's own tensor")
