"""Alive: a site is on the way to the output."""

from __future__ import annotations

from ..draw import Draw
from ..law import law
from ..violation import Violation, same


@law("alive", "a real change at the site changes the output, in every row; a hook that never fires is a failure")
def alive(draw: Draw) -> None:
    """Every entry is replaced by a random one, for two positions or more: a query has something to choose from."""
    case = draw.case(padding=False, columns=2, dtypes=("float32",))
    site = draw.site(case)
    value = case.random(case.read(site), 3.0)
    outputs, _ = case.run(writes={site: value})
    rows = case.setting.rows
    for row in range(rows):
        moved = [
            name
            for name, plain in case.plain.items()
            if plain.dim() and plain.shape[0] == rows and not same(outputs[name][row], plain[row])
        ]
        if not moved:
            raise Violation(
                f"replacing all of {site} by random values changed no output of row {row}: {site.port} "
                f"(module {site.port.path or 'the model'!r}) is not on the way to the output"
            )
