"""Reading what pyvene 0.1 saved: ``config.json``, ``intkey_*.bin`` and, with include_model, ``pytorch_model.bin``.

The ``.bin`` files are PyTorch archives around a pickle. They are read with ``weights_only=True``, which runs no code of
theirs, after a look at the archive's table of contents.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ArtifactError
from ..interventions.rotation import torchs_orthogonal
from .artifact import CONFIG, Artifact, SavedIntervention, inside, read_config

MODEL_FILE = "pytorch_model.bin"
# pyvene's order of the fields; older releases saved fewer.
_FIELDS = (
    "layer",
    "component",
    "unit",
    "max_number_of_units",
    "low_rank_dimension",
    "intervention_type",
    "intervention",
    "subspace_partition",
    "group_key",
    "intervention_link_key",
    "moe_key",
    "source_representation",
    "hidden_source_representation",
    "latent_dim",
)
_DEFAULTS: dict[str, Any] = {"layer": 0, "component": "block_output", "unit": "pos", "max_number_of_units": 1}
# What pyvene gives an intervention by these fields is kept in its keywords; the rest says where it acts.
_KEYWORDS = ("low_rank_dimension", "subspace_partition", "latent_dim")
_PLACE = ("layer", "component", "unit", "max_number_of_units", "group_key", "intervention_link_key", "moe_key")
# Kept as buffers by pyvene, as numbers by us.
_BOOKKEEPING = ("embed_dim", "interchange_dim", "intervention_population")
# Their noise and components are in no file that pyvene writes.
_NOT_WHOLE = ("NoiseIntervention", "PCARotatedSpaceIntervention")
# They act on latents, of which there are other numbers than features.
_AUTOENCODERS = ("AutoencoderIntervention", "JumpReLUAutoencoderIntervention")


def read(folder: Path, *, include_model: bool = False) -> Artifact:
    """The artifact that pyvene saved in ``folder``.

    Raises:
        ArtifactError: it is broken, or holds what pyvene itself can't restore.
    """
    description = read_config(folder)
    try:
        return _parse(description, folder, include_model)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"{folder / CONFIG} isn't what pyvene saves: {type(error).__name__} {error}") from error


def _parse(description: Mapping[str, Any], folder: Path, include_model: bool) -> Artifact:
    fields = [_fields(entry) for entry in description["representations"]]
    kinds = [_class_name(kind) for kind in description["intervention_types"]]
    if len(kinds) != len(fields):
        raise ArtifactError(f"{folder / CONFIG}: {len(fields)} representations and {len(kinds)} intervention_types")
    dimensions = description.get("intervention_dimensions") or [None] * len(fields)
    representations: list[dict[str, Any]] = []
    interventions: dict[str, SavedIntervention] = {}
    linked: dict[Any, str] = {}
    for place, kind, dimension, key in zip(fields, kinds, dimensions, _keys(fields), strict=True):
        link = place["intervention_link_key"]
        owner = key if link is None else linked.setdefault(link, key)
        if owner == key:
            interventions[key] = _intervention(folder, key, kind, place, dimension)
        given = {name: place[name] for name in _PLACE if place[name] is not None}
        representations.append({**given, "intervention": owner})
    model_state = read_pickled_tensors(inside(folder, MODEL_FILE)) if include_model else None
    base = {"class": _bare(description.get("model_type") or "") or None}
    versions = {"transformers": str(description.get("transformers_version"))}
    return Artifact(representations, interventions, description.get("mode", "parallel"), model_state, base, versions)


def _fields(entry: Any) -> dict[str, Any]:
    given = dict(entry) if isinstance(entry, dict) else dict(zip(_FIELDS, entry, strict=False))
    unknown = [name for name in given if name not in _FIELDS]
    if unknown or (isinstance(entry, list) and len(entry) > len(_FIELDS)):
        raise ArtifactError(f"a representation that pyvene 0.1 doesn't know: {entry}")
    return {**dict.fromkeys(_FIELDS), **_DEFAULTS, **given}


def _class_name(spelled: str) -> str:
    return spelled.removeprefix("<class '").removesuffix("'>")


def _bare(spelled: str) -> str:
    return _class_name(spelled).rpartition(".")[2]


def _keys(places: list[dict[str, Any]]) -> list[str]:
    """pyvene's own names for the places, from which it makes the names of the files."""
    counts: dict[str, int] = {}
    keys = []
    for place in places:
        component = str(place["component"])
        where = f"comp_{component}" if "." in component else f"layer_{place['layer']}_comp_{component}"
        name = f"{where}_unit_{place['unit']}_nunit_{place['max_number_of_units']}".replace(".", "_")
        counts[name] = counts.get(name, -1) + 1
        keys.append(f"{name}#{counts[name]}")
    return keys


def _file(folder: Path, key: str) -> Path | None:
    """The place's file; releases before 0.1.7 wrote dots for underscores."""
    loose = re.compile(re.escape(f"intkey_{key}.bin").replace("_", "[_.]"))
    found = [file.name for file in folder.iterdir() if loose.fullmatch(file.name)]
    return inside(folder, found[0]) if found else None


def _intervention(folder: Path, key: str, kind: str, place: dict[str, Any], dimension: Any) -> SavedIntervention:
    if _bare(kind) in _NOT_WHOLE:
        raise ArtifactError(f"{key}: pyvene doesn't save what its {_bare(kind)} consists of; make it anew")
    file = _file(folder, key)
    state = {} if file is None else read_pickled_tensors(file)
    if place["max_number_of_units"] != 1 and any(name not in _BOOKKEEPING for name in state):
        raise ArtifactError(
            f"{key}: pyvene joined {place['max_number_of_units']} units into one long vector for this {kind}; here an "
            f"intervention acts on each position by itself, so it can't be read"
        )
    spec = {name: place[name] for name in _KEYWORDS if place[name] is not None}
    if "embed_dim" in state:
        spec["embed_dim"] = int(state["embed_dim"])
    first = _first_dimensions(key, state.get("interchange_dim", dimension))
    if first is not None and (first != spec.get("embed_dim") or _bare(kind) in _AUTOENCODERS):
        spec["interchange_dim"] = first
    if place["hidden_source_representation"] or "source_representation" in state:
        if "source_representation" not in state:
            raise ArtifactError(f"{folder} lacks intkey_{key}.bin, which holds the constant source of {kind}")
        spec["hidden_source_representation"] = True
    kept = {name: tensor for name, tensor in state.items() if name not in _BOOKKEEPING}
    _translate(_bare(kind), spec, kept)
    return SavedIntervention(kind, spec, kept)


def _translate(kind: str, spec: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Say pyvene's meaning in our classes' terms where the two differ."""
    rotation = {n.removeprefix("rotate_layer."): state.pop(n) for n in list(state) if n.startswith("rotate_layer.")}
    if rotation:
        state["rotate_layer.unconstrained"] = _rotation(kind, rotation)
    if kind in _AUTOENCODERS:
        # Its result is the reconstruction alone; ours add what that lacks unless told otherwise.
        spec["use_error_term"] = False
    if kind == "BoundlessRotatedSpaceIntervention" and "embed_dim" in spec:
        # pyvene puts a direction at the beginning of its unit interval, we at its middle: half a direction further,
        # and the same ones are taken in. (Its very first one, which it never swaps by more than half, we swap.)
        moved = state["intervention_boundaries"] + 0.5 / spec["embed_dim"]
        state["intervention_boundaries"] = moved.clamp(max=1.0)


def _rotation(kind: str, state: dict[str, Tensor]) -> Tensor:
    try:
        return torchs_orthogonal(state)
    except (RuntimeError, KeyError) as error:
        raise ArtifactError(f"the tensors of {kind}'s rotation don't fit together: {error}") from error


def _first_dimensions(key: str, given: Any) -> int | None:
    """How many of the first dims pyvene acts on; it can name them one by one too."""
    if isinstance(given, Tensor):
        given = given.tolist()
    if isinstance(given, list):
        if given != list(range(len(given))):
            raise ArtifactError(f"{key}: acts on the dims {given}; only the first so many can be read")
        return len(given)
    return None if given is None else int(given)


def read_pickled_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors by name of a PyTorch archive, on the CPU; no code in it is run.

    Raises:
        ArtifactError: it holds anything but tensors, or isn't a whole archive.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError) as error:
        raise ArtifactError(f"{file.name} isn't a whole PyTorch archive: {error}") from error
    # PyTorch stores and doesn't compress, so a file can't unfold to more than its own size.
    if any(e.compress_type != zipfile.ZIP_STORED for e in entries) or (
        sum(e.file_size for e in entries) > file.stat().st_size
    ):
        raise ArtifactError(f"{file.name} isn't as PyTorch writes its archives: parts of it are compressed or overlap")
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, EOFError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{file.name} isn't a file of tensors alone, or is broken; it was read without running code: {error}"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(n, str) and isinstance(t, Tensor) for n, t in found.items()):
        raise ArtifactError(f"{file.name} holds {type(found).__name__}, where tensors by name were expected")
    return {name: tensor.detach() for name, tensor in found.items()}
