"""Every error this library raises on purpose; each names what was wrong and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InterveneError(Exception):
    """Base class: ``except intervene.InterveneError`` catches every deliberate refusal."""


class UnknownSiteError(InterveneError, LookupError):
    """No site of that name: an unknown component, module path or layer."""


class AbsentComponentError(UnknownSiteError):
    """The component is in the vocabulary, but this model has none; the message says why."""


class SelectionError(InterveneError, ValueError):
    """A selection that the activation cannot satisfy: out of range, repeated, or an axis it lacks."""


class ShapeMismatchError(InterveneError, ValueError):
    """A written value that does not fit the part of the activation it is written to."""


class PortError(InterveneError, TypeError):
    """What flows by a port is not the tensor that the port promises."""


class NeverFiredError(InterveneError, RuntimeError):
    """A read or write that no forward ever reached; its result would silently be the plain model."""


class AmbiguousCallError(InterveneError, RuntimeError):
    """A module ran several times in one forward and the site doesn't say which call is meant."""


class UnsupportedModelError(InterveneError, TypeError):
    """The model as handed in cannot be hooked faithfully (DataParallel, ...)."""


class AttentionImplementationError(InterveneError, RuntimeError):
    """The site exists under eager attention alone and the model runs another implementation."""


class ExpertsImplementationError(InterveneError, RuntimeError):
    """The site exists under another implementation of a mixture's experts than the one the model runs."""


class GradientCheckpointingError(InterveneError, RuntimeError):
    """A session closed before the backward pass that would recompute its writes."""


class PlacementError(InterveneError, ValueError):
    """A device that isn't there, or something that is no dtype, where values were to be kept."""


class SessionError(InterveneError, RuntimeError):
    """A session used out of order: entered twice, or its values read before they exist."""


class SweepError(InterveneError, ValueError):
    """A sweep asked for axes, inputs or a metric that do not go together."""


class ConfigError(InterveneError, ValueError):
    """A declarative config whose fields say something impossible, or don't go together."""


class InterventionError(InterveneError, ValueError):
    """An intervention called or saved in a way that it can't be: without its source, or with one too many."""


class InterventionArgumentError(InterveneError, TypeError):
    """An intervention made with keywords that it doesn't take, lacks, or can't use together."""


class UnknownInterventionError(InterveneError, LookupError):
    """No intervention class of that name is registered."""


class CausalModelError(InterveneError, ValueError):
    """A causal model that contradicts itself, or a question about variables or values that it doesn't have."""


class SAEFormatError(InterveneError, ValueError):
    """A folder that doesn't hold a sparse autoencoder of a known kind in SAELens' format."""


class TrainingError(InterveneError, ValueError):
    """A training run that can't be: nothing to train, batches of an unknown form, labels that don't fit."""


class ArtifactError(InterveneError, ValueError):
    """A saved intervention that is broken, malicious, or not for this model; nothing of it was used."""


class HubError(InterveneError, OSError):
    """The hub refused, doesn't know the repository or revision, or can't be reached."""


class MissingDependencyError(InterveneError, ImportError):
    """An optional part needs a package that is not installed; the message names the extra."""


def nearest(name: str, candidates: Iterable[str], count: int = 5) -> list[str]:
    """The candidates a reader most likely meant by ``name``, best first.

    Names that begin with, or contain, what was typed come before mere look-alikes, so that ``mlp`` finds
    ``mlp_input``, ``mlp_activation`` and ``mlp_output``.
    """
    names = list(dict.fromkeys(candidates))
    related = [n for n in names if name and (n.startswith(name) or name in n)]
    similar = difflib.get_close_matches(name, names, n=count, cutoff=0.5)
    return list(dict.fromkeys([*related, *similar]))[:count]


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """A sentence for the end of an error message, empty when nothing comes near."""
    found = nearest(name, candidates)
    return f" Did you mean {' or '.join(repr(n) for n in found)}?" if found else ""
