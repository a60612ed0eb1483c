"""Files of expected failures: which checks fail for now, each with the reason.

For one adapter, ids and reasons stand at the top level; for several, in a table for each family::

    [gpt2]
    "alive:mlp_input" = "the fused kernel of this version skips the module; our issue 12"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..specs.errors import nearest
from ..specs.reader import Document, Section


def read_expected_failures(path: Path, checks: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """Family to check id to the reason why it fails.

    Args:
        path: a TOML file.
        checks: for each family that is checked, the ids of all its checks.

    Raises:
        SpecError: not such a file, or an id or a family that matches nothing; the message has the file and the line,
            and names the nearest.
    """
    top = Document(path).top()
    found: dict[str, dict[str, str]] = {family: {} for family in checks}
    for key, value in top.entries.items():
        if isinstance(value, dict):
            if key not in checks:
                raise top.error(f"family {key!r} is not checked in this run", nearest(key, checks), key)
            found[key] |= _reasons(Section(top.document, (key,), value), checks[key])
        elif len(checks) != 1:
            raise top.error(
                f"{key!r} does not say for which family", f"put it into one of [{'], ['.join(checks)}]", key
            )
    flat = {k: v for k, v in top.entries.items() if not isinstance(v, dict)}
    if flat:
        family = next(iter(checks))
        found[family] |= _reasons(Section(top.document, (), flat), checks[family])
    return found


def _reasons(section: Section, known: Sequence[str]) -> dict[str, str]:
    reasons = {}
    for id in section.entries:
        if id not in known:
            raise section.error(f"no check {id!r}", nearest(id, known), id)
        reasons[id] = section.text(id)
    return reasons
