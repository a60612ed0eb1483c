"""One way from whatever a config names to an intervention."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from ..errors import InterventionArgumentError
from .base import Intervention
from .function import FunctionIntervention
from .registry import intervention_class

Kind = str | type[Intervention] | Intervention | Callable[..., Any]


def make_intervention(kind: Kind, **keywords: Any) -> Intervention:
    """An intervention of ``kind``: a class, its registered name, a ``functools.partial`` of a class, or a function.

    A class is given those of ``keywords`` that its constructor takes, a function is wrapped with all of them, and an
    intervention is returned as it is.

    Raises:
        UnknownInterventionError: no class of that name.
        InterventionArgumentError: ``kind`` is none of these, or the class can't do with these keywords.
    """
    if isinstance(kind, Intervention):
        return kind
    if isinstance(kind, str):
        kind = intervention_class(kind)
    constructor = kind.func if isinstance(kind, partial) else kind
    if isinstance(constructor, type):
        if not issubclass(constructor, Intervention):
            raise InterventionArgumentError(f"{constructor.__name__} does not derive from intervene.Intervention")
        made: Intervention = kind(**_taken(constructor, keywords))
        return made
    if callable(kind):
        return FunctionIntervention(kind, **keywords)
    raise InterventionArgumentError(
        f"expected an intervention, its class or name, or a function f(base, source); found {kind!r}"
    )


def _taken(constructor: type[Intervention], keywords: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(constructor.__init__).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return keywords
    return {name: value for name, value in keywords.items() if name in parameters}
