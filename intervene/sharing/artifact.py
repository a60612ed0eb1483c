"""The artifact: what a saved intervention is, in memory and as a folder.

A folder holds ``config.json`` (what is patched where, by which classes, for which model), the interventions' tensors
in ``interventions-<hash>.safetensors``, trained weights of the model in ``model-<hash>.safetensors`` where they were
asked for, and a model card, ``README.md``. ``config.json`` names the other files with their SHA-256, so replacing it
is what makes a new artifact the one that counts.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from torch import Tensor

from ..errors import ArtifactError
from .atomic import replacing
from .tensors import read_tensors, write_tensors

FORMAT = "intervene"
VERSION = 1
CONFIG = "config.json"
CARD = "README.md"
# By this line of a card's metadata we know that we wrote it and may replace it.
LIBRARY = "library_name: torch-intervene"
INTERVENTIONS, MODEL = "interventions", "model"
_OURS = re.compile(rf"({INTERVENTIONS}|{MODEL})-[0-9a-f]{{16}}\.safetensors")
_MOST_CONFIG_BYTES = 16 * 2**20


@dataclass
class SavedIntervention:
    """One intervention as data.

    Attributes:
        kind: the name of its class in the registry.
        spec: the constructor's keywords, as JSON has them.
        state: its parameters and buffers.
    """

    kind: str
    spec: dict[str, Any]
    state: dict[str, Tensor]


@dataclass
class Artifact:
    """A saved `IntervenableModel`: data alone, neither model nor code.

    Attributes:
        representations: the fields of each `RepresentationConfig` but its intervention, and under ``"intervention"``
            the key of the one that acts there; those that share weights name the same key.
        interventions: by key.
        mode: ``"parallel"`` or ``"serial"``.
        model_state: trained weights of the model by parameter name; None where they weren't saved, or asked for.
        base_model: what is known of the model: ``class``, ``library``, ``name``, ``family``.
        versions: of the libraries that wrote it.
    """

    representations: list[dict[str, Any]]
    interventions: dict[str, SavedIntervention]
    mode: str = "parallel"
    model_state: dict[str, Tensor] | None = None
    base_model: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def write(artifact: Artifact, folder: Path, card: str) -> None:
    """Write ``artifact`` to ``folder``: after a kill or a full disk it holds the old artifact or the new one.

    Other files in the folder stay. A card that somebody else wrote stays too.

    Raises:
        ArtifactError: the folder's ``config.json`` is something else's, such as a model's.
        OSError: what the file system says.
    """
    _refuse_others(folder)
    with replacing(folder, decides=CONFIG, obsolete=is_ours) as staging:
        files = {INTERVENTIONS: _named_tensors(artifact.interventions)}
        if artifact.model_state is not None:
            files[MODEL] = artifact.model_state
        written = {}
        for part, tensors in files.items():
            digest = write_tensors(tensors, staging / part)
            name = f"{part}-{digest[:16]}.safetensors"
            (staging / part).rename(staging / name)
            written[part] = {"file": name, "sha256": digest}
        text = json.dumps(_description(artifact, written), indent=2, ensure_ascii=False, allow_nan=False)
        (staging / CONFIG).write_text(text + "\n", encoding="utf-8")
        if _card_is_ours(folder / CARD):
            (staging / CARD).write_text(card, encoding="utf-8")


def read(folder: Path, *, include_model: bool = False) -> Artifact:
    """The artifact in ``folder``, checked; no code of it is run and no pickle read.

    Raises:
        ArtifactError: it is broken, or isn't what it says it is.
    """
    description = read_config(folder)
    try:
        return _parse(description, folder, include_model)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"{folder / CONFIG} isn't a whole artifact: {type(error).__name__} {error}") from error


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's ``config.json`` as a dict.

    Raises:
        ArtifactError: there is none, or it isn't a JSON object.
    """
    file = inside(folder, CONFIG)
    if file.stat().st_size > _MOST_CONFIG_BYTES:
        raise ArtifactError(f"{file} has {file.stat().st_size} bytes; a config has at most {_MOST_CONFIG_BYTES}")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{file} isn't readable as JSON: {error}") from error
    if not isinstance(found, dict):
        raise ArtifactError(f"{file} holds a {type(found).__name__} where an object was expected")
    return found


def inside(folder: Path, name: object) -> Path:
    """The file ``name`` of ``folder``.

    Raises:
        ArtifactError: ``name`` isn't a bare file name, there is no such file, or it is a link that leads out.
    """
    bare = isinstance(name, str) and name not in ("", ".", "..") and "\0" not in name
    if not bare or PurePosixPath(str(name)).name != name or PureWindowsPath(str(name)).name != name:
        raise ArtifactError(f"{name!r} isn't the name of a file in {folder}: an artifact refers to its own files alone")
    file = folder / str(name)
    if not file.is_file():
        raise ArtifactError(f"{folder} has no file {name}; it holds {_listing(folder)}")
    homes = [folder.resolve()]
    if folder.parent.name == "snapshots":
        # The hub's cache keeps contents apart, a repository's own and what repositories share, and links to them.
        repository = folder.parent.parent.resolve()
        homes += [repository / "blobs", repository.parent / "blobs"]
    if not any(file.resolve().is_relative_to(home) for home in homes):
        raise ArtifactError(f"{file} is a link to {os.path.realpath(file)}, outside the artifact")
    return file


def is_ours(name: str) -> bool:
    """Whether a file of that name holds tensors that some artifact of this library keeps apart."""
    return _OURS.fullmatch(name) is not None


def is_intervene(description: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` says that it is an artifact of this library."""
    return description.get("format") == FORMAT


def is_pyvene(description: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` looks like one that pyvene saved."""
    return "representations" in description and "intervention_types" in description


def _description(artifact: Artifact, files: dict[str, dict[str, str]]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": VERSION,
        "base_model": artifact.base_model,
        "mode": artifact.mode,
        "representations": artifact.representations,
        "interventions": {
            key: {"class": saved.kind, "keywords": saved.spec} for key, saved in artifact.interventions.items()
        },
        "files": files,
        "versions": artifact.versions,
    }


def _parse(description: dict[str, Any], folder: Path, include_model: bool) -> Artifact:
    if not is_intervene(description):
        raise ArtifactError(
            f"{folder / CONFIG} says format {description.get('format')!r}, not {FORMAT!r}: no saved intervention"
        )
    version = description.get("format_version")
    if version != VERSION:
        raise ArtifactError(
            f"{folder} has format version {version!r}; this release of intervene reads {VERSION}. "
            f"It was written by {description.get('versions')}; a newer release may read it"
        )
    for part in ("interventions", "files", "base_model", "versions"):
        if not isinstance(description.get(part), dict):
            raise ArtifactError(f"{folder / CONFIG}: {part!r} is missing or isn't an object")
    files = description["files"]
    interventions = {
        str(key): SavedIntervention(str(entry["class"]), dict(entry["keywords"]), {})
        for key, entry in description["interventions"].items()
    }
    representations = [dict(entry) for entry in description["representations"]]
    named = {entry.get("intervention") for entry in representations}
    if named != set(interventions):
        raise ArtifactError(
            f"{folder / CONFIG}: the representations name the interventions {sorted(map(str, named))}, and described "
            f"are {sorted(interventions)}"
        )
    _distribute(_load(folder, files[INTERVENTIONS]), interventions)
    model_state = None
    if include_model:
        if MODEL not in files:
            raise ArtifactError(
                f"{folder} holds no model weights: it was saved without include_model=True; load it without"
            )
        model_state = _load(folder, files[MODEL])
    return Artifact(
        representations,
        interventions,
        str(description["mode"]),
        model_state,
        description["base_model"],
        description["versions"],
    )


def holds_model(description: Mapping[str, Any]) -> bool:
    """Whether an artifact of this library holds trained weights of the model."""
    files = description.get("files")
    return isinstance(files, dict) and MODEL in files


def _load(folder: Path, entry: Any) -> dict[str, Tensor]:
    return read_tensors(inside(folder, entry["file"]), str(entry["sha256"]))


_SEPARATOR = "/"


def _named_tensors(interventions: Mapping[str, SavedIntervention]) -> dict[str, Tensor]:
    return {
        f"{key}{_SEPARATOR}{name}": tensor
        for key, saved in interventions.items()
        for name, tensor in saved.state.items()
    }


def _distribute(tensors: Mapping[str, Tensor], interventions: Mapping[str, SavedIntervention]) -> None:
    for full, tensor in tensors.items():
        # A tensor's own name has no slash, a site by its path may have one.
        key, _, name = full.rpartition(_SEPARATOR)
        if key not in interventions:
            raise ArtifactError(f"the tensor {full!r} belongs to no intervention; these are: {list(interventions)}")
        interventions[key].state[name] = tensor


def _refuse_others(folder: Path) -> None:
    if not (folder / CONFIG).exists():
        return
    try:
        description = read_config(folder)
    except ArtifactError:
        description = {}
    if not is_intervene(description) and not is_pyvene(description):
        raise ArtifactError(
            f"{folder / CONFIG} belongs to something else (a model?) and would be overwritten; save in another folder"
        )


def _card_is_ours(card: Path) -> bool:
    if not card.exists():
        return True
    head = card.read_text(encoding="utf-8", errors="replace").split("\n---", 1)[0]
    return any(line.strip() == LIBRARY for line in head.splitlines())


def _listing(folder: Path) -> str:
    names = sorted(file.name for file in folder.iterdir())
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"
