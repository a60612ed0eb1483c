"""The registry: which class a name in a config or a saved file stands for.

Nothing is ever imported because a file names it: a class is found once the code that defines it has run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ..errors import UnknownInterventionError, did_you_mean

if TYPE_CHECKING:
    from .base import Intervention

_OURS = "intervene."
# Where pyvene keeps its classes, as its saved configs spell them.
_PYVENE = ("pyvene.models.interventions.", "pyvene.models.modeling_utils.", "pyvene.")
_PYVENE_NAMES = {"LambdaIntervention": "FunctionIntervention"}

_classes: dict[str, type[Intervention]] = {}

Class = TypeVar("Class", bound="type[Intervention]")


def register_intervention(cls: Class) -> Class:
    """Make a class known by its name; usable as a decorator. A subclass of Intervention does so when defined."""
    if not cls.__name__.startswith("_"):
        _classes[intervention_name(cls)] = cls
    return cls


def intervention_classes() -> dict[str, type[Intervention]]:
    """Every known class by the name that `intervention_name` gives it."""
    return dict(_classes)


def intervention_name(cls: type[Intervention]) -> str:
    """The name that stands for a class in a file: ``intervene.X`` for this library's, else ``module.QualName``."""
    if cls.__module__.startswith(_OURS):
        return _OURS + cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"


def intervention_class(name: str) -> type[Intervention]:
    """The class that ``name`` stands for.

    Args:
        name: ``intervene.VanillaIntervention``, ``VanillaIntervention``, ``my_module.MyIntervention``, pyvene's
            ``pyvene.models.interventions.VanillaIntervention``, or any of these as ``<class '...'>``.

    Raises:
        UnknownInterventionError: no such class, or several; the message names the nearest, or those.
    """
    spelled = name.removeprefix("<class '").removesuffix("'>")
    for prefix in _PYVENE:
        if spelled.startswith(prefix):
            bare = spelled.removeprefix(prefix)
            spelled = _OURS + _PYVENE_NAMES.get(bare, bare)
            break
    if spelled in _classes:
        return _classes[spelled]
    found = [full for full in _classes if full.endswith("." + spelled)]
    if len(found) == 1:
        return _classes[found[0]]
    if found:
        raise UnknownInterventionError(f"{name!r} may mean any of {', '.join(sorted(found))}; give the full name")
    known = [*_classes, *(full.rpartition(".")[2] for full in _classes)]
    raise UnknownInterventionError(
        f"no intervention {name!r} is known.{did_you_mean(spelled.rpartition('.')[2], known)} A class of your own is "
        f"known once the module that defines it has been imported."
    )
