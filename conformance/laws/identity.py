"""Identity: the get-put law, seen from the model's output."""

from __future__ import annotations

from ..draw import Draw
from ..law import law
from ..violation import require_same, require_same_outputs


@law("identity", "writing at a site what was read there leaves every output the same, bit for bit")
def identity(draw: Draw) -> None:
    """A read alone changes nothing; writing the read value, or a function that returns its argument, neither.

    In each example it is asked of every form that the forward has.
    """
    for past in draw.subject.forms(draw.component):
        _identity(draw, past)


def _identity(draw: Draw, past: bool) -> None:
    case = draw.case(past=past)
    site = draw.site(case)
    keywords, _ = draw.selection(case)
    chosen = site.at(**keywords)
    outputs, values = case.run(reads=[chosen])
    require_same_outputs(f"reading {chosen} changed the model", outputs, case.plain)
    outputs, again = case.run(writes={chosen: values[chosen]}, reads=[chosen])
    require_same_outputs(f"writing back what was read at {chosen} ({site.port})", outputs, case.plain)
    require_same(f"what is read at {chosen} after writing it back", again[chosen], values[chosen])
    outputs, _ = case.run(writes={chosen: lambda part: part})
    require_same_outputs(f"writing {chosen} with a function that returns its argument", outputs, case.plain)
