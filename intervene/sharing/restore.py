"""From an `IntervenableModel` to an artifact and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..declarative.config import IntervenableConfig, RepresentationConfig
from ..errors import (
    ArtifactError,
    ConfigError,
    InterveneError,
    InterventionError,
    ShapeMismatchError,
    UnknownInterventionError,
    UnknownSiteError,
)
from ..interventions import FunctionIntervention, Intervention, intervention_class, intervention_name
from .artifact import Artifact, SavedIntervention
from .card import public_name

if TYPE_CHECKING:
    from ..declarative.model import IntervenableModel

Classes = Mapping[str, type[Intervention]]
_LIBRARIES = ("torch-intervene", "torch", "transformers", "safetensors")
# The fields of a representation that an intervention's own keywords and tensors replace.
_INTERVENTION = ("intervention", "intervention_type", "source_representation", "hidden_source_representation")
# What a field of a representation may be, besides None; `RepresentationConfig` refuses names that are no field.
_KINDS: dict[str, Any] = {
    "layer": int,
    "component": str,
    "unit": str,
    "max_number_of_units": int,
    "low_rank_dimension": int,
    "latent_dim": int,
    "group_key": int,
    "intervention_link_key": (int, str),
    "moe_key": int,
    "subspace_partition": list,
}
# A size beyond this is believed when a tensor of the artifact has it.
_LARGEST_UNPROVEN_SIZE = 4096
# A feature beyond this is believed nowhere: a partition names each of its features one by one.
_LAST_FEATURE = 2**20


def capture(intervenable: IntervenableModel, *, include_model: bool, base_model: str | None = None) -> Artifact:
    """What is to be saved of ``intervenable``; nothing of it is changed or kept hold of.

    Args:
        intervenable: the model with its interventions.
        include_model: take the model's parameters that require gradients too.
        base_model: the model's name on the hub, where its config doesn't say.

    Raises:
        InterventionError: an intervention that is no data, such as a function.
    """
    keys: dict[int, str] = {}
    interventions: dict[str, SavedIntervention] = {}
    representations = []
    for place in intervenable.places:
        key = keys.setdefault(id(place.intervention), place.key)
        if key not in interventions:
            interventions[key] = _captured(place.key, place.intervention)
        fields = place.representation.replace(**dict.fromkeys(_INTERVENTION)).to_dict()
        representations.append({**fields, "intervention": key})
    model = intervenable.model
    state = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad} if include_model else None
    if state is not None and not state:
        raise InterventionError("include_model=True saves the parameters that require gradients, and none does")
    described = _described(intervenable, base_model)
    return Artifact(representations, interventions, intervenable.config.mode, state, described, _versions())


def restore(
    artifact: Artifact, kind: type[IntervenableModel], model: nn.Module, classes: Classes | None = None
) -> IntervenableModel:
    """An `IntervenableModel` of ``model`` with the artifact's interventions, and the model's weights where it has any.

    ``model`` is changed last, and only by ``model_state``, once everything has been found to fit.

    Raises:
        ArtifactError: a class that isn't known here, tensors that don't fit it, or a model they weren't made for.
        UnknownSiteError: a place that ``model`` doesn't have.
    """
    kinds = {key: _class_of(key, saved.kind, classes or {}) for key, saved in artifact.interventions.items()}
    # Interventions begin with random values, which what was saved replaces.
    with torch.random.fork_rng(devices=[]):
        made = {key: _build(key, saved, kinds[key]) for key, saved in artifact.interventions.items()}
    try:
        intervenable = kind(_config(artifact, made), model)
    except ShapeMismatchError as error:
        made_for = artifact.base_model or "another model"
        raise ArtifactError(f"{error}; the artifact was made for {made_for}") from error
    if artifact.model_state is not None:
        _apply(artifact.model_state, model)
    return intervenable


def _config(artifact: Artifact, made: Mapping[str, Intervention]) -> IntervenableConfig:
    representations = []
    try:
        for fields in artifact.representations:
            place = {name: _checked(name, value) for name, value in fields.items() if name not in _INTERVENTION}
            representation = RepresentationConfig.from_dict(place)
            representations.append(representation.replace(intervention=made[fields["intervention"]]))
        mode: Any = artifact.mode
        return IntervenableConfig(representations, mode=mode, model_type=artifact.base_model.get("class"))
    except (ConfigError, UnknownSiteError, TypeError) as error:
        raise ArtifactError(f"the artifact describes something impossible: {error}") from error


def _checked(name: str, value: Any) -> Any:
    kinds = _KINDS.get(name)
    if kinds is not None and value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
        raise ConfigError(f"{name} can't be {value!r}")
    return value


def _captured(key: str, intervention: Intervention) -> SavedIntervention:
    if isinstance(intervention, FunctionIntervention):
        raise InterventionError(
            f"{key}: a function can't be saved, for loading runs no code that comes with an artifact; derive a class "
            f"from intervene.Intervention and define operate(base, source)"
        )
    state = intervention.state_dict()
    other = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if other:
        raise InterventionError(f"{key}: {other} in its state_dict() are no tensors; say them in spec() instead")
    return SavedIntervention(intervention_name(type(intervention)), intervention.spec(), dict(state))


def _class_of(key: str, name: str, classes: Classes) -> type[Intervention]:
    for spelled in (key, name, name.rpartition(".")[2]):
        if spelled in classes:
            told = classes[spelled]
            if not (isinstance(told, type) and issubclass(told, Intervention)):
                raise TypeError(f"interventions[{spelled!r}] is a class derived from Intervention, not {told!r}")
            return told
    try:
        return intervention_class(name)
    except UnknownInterventionError as error:
        bare = name.rpartition(".")[2]
        raise ArtifactError(
            f"{key} is a {name}, which isn't known here. {error} Import that module first, or say which class to use: "
            f"interventions={{{bare!r}: YourClass}}. Code that comes with an artifact is never run."
        ) from error


def _build(key: str, saved: SavedIntervention, kind: type[Intervention]) -> Intervention:
    _check_sizes(key, saved, kind)
    try:
        made = kind(**saved.spec)
    except (InterveneError, TypeError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"{key}: {kind.__name__} can't be made with {saved.spec}: {error}") from error
    wanted = {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in saved.state.items()}
    # What comes from data has whatever shape it was saved with.
    late = [*made.late_buffers, *(["source_representation"] if made.is_source_constant else [])]
    wanted |= {name: found[name] for name in late if name in found}
    if wanted != found:
        raise ArtifactError(f"{key}: the tensors don't fit {kind.__name__}: {_difference(wanted, found)}")
    for name, tensor in made.state_dict().items():
        # Other kinds of numbers would be taken in silently, or compute nothing.
        if name in saved.state and not _alike(tensor, saved.state[name]):
            raise ArtifactError(
                f"{key}: the tensors don't fit {kind.__name__}: {name} has numbers of {saved.state[name].dtype}, "
                f"where those of {tensor.dtype} belong"
            )
    try:
        made.load_state_dict({name: tensor.clone() for name, tensor in saved.state.items()}, assign=True)
    except RuntimeError as error:
        raise ArtifactError(f"{key}: the tensors don't fit {kind.__name__}: {error}") from error
    return made


def _alike(wanted: Tensor, found: Tensor) -> bool:
    """Whether both hold real numbers that can be computed with, or both the same other kind."""
    if wanted.is_floating_point():
        return found.is_floating_point() and found.element_size() > 1
    return wanted.is_complex() == found.is_complex() and not found.is_floating_point()


def _difference(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str:
    lines = [f"{name} is missing" for name in wanted if name not in found]
    lines += [f"{name} is none of its tensors" for name in found if name not in wanted]
    lines += [
        f"{name} has shape {found[name]} and should have {shape}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    return "; ".join(lines)


def _numbers(value: Any) -> Iterator[float]:
    """All numbers in a list of lists."""
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _numbers(entry)


def _check_sizes(key: str, saved: SavedIntervention, kind: type[Intervention]) -> None:
    """Refuse keywords that would make an intervention far larger than what was saved of it."""
    beyond = [number for number in _numbers(saved.spec.get("subspace_partition")) if number > _LAST_FEATURE]
    if beyond:
        raise ArtifactError(f"{key}: subspace_partition names feature {beyond[0]}, which no model has")
    if not saved.state and not kind.trainable:
        return
    proven = {size for tensor in saved.state.values() for size in tensor.shape}
    for name, value in saved.spec.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        if whole and value > _LARGEST_UNPROVEN_SIZE and value not in proven:
            raise ArtifactError(f"{key}: {name}={value} fits none of its tensors, whose sizes are {sorted(proven)}")


def _apply(state: Mapping[str, Tensor], model: nn.Module) -> None:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    wrong = _difference(
        {name: tuple(parameters[name].shape) for name in state if name in parameters},
        {name: tuple(tensor.shape) for name, tensor in state.items()},
    )
    if wrong:
        raise ArtifactError(f"the artifact's model weights don't fit this {type(model).__name__}: {wrong}")
    with torch.no_grad():
        for name, tensor in state.items():
            parameters[name].copy_(tensor)


def _described(intervenable: IntervenableModel, name: str | None) -> dict[str, Any]:
    model, adapter = intervenable.model, intervenable.adapted.adapter
    config = getattr(model, "config", None)
    kind = type(model)
    return {
        "class": kind.__name__,
        "library": kind.__module__.partition(".")[0],
        "name": public_name(name or getattr(config, "name_or_path", None)),
        "family": None if adapter is None else adapter.family,
    }


def _versions() -> dict[str, str]:
    found = {}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
