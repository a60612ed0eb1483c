"""Saving interventions in a folder, sharing them on the Hugging Face hub, and loading them again.

`artifact` says what is saved, `tensors` and `atomic` write and read it, `restore` goes between an artifact and an
`IntervenableModel`, `hub` speaks to the hub, `card` writes the model card, `pyvene` reads what pyvene saved.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from ..errors import ArtifactError, HubError
from . import artifact as ours
from . import hub, pyvene
from .artifact import Artifact
from .card import model_card
from .restore import Classes, capture, restore

if TYPE_CHECKING:
    from ..declarative.model import IntervenableModel

__all__ = ["load", "push_to_hub", "save", "save_intervention"]

Model = TypeVar("Model", bound="IntervenableModel")


def save(
    intervenable: IntervenableModel,
    directory: str | Path,
    *,
    include_model: bool = False,
    base_model: str | None = None,
) -> Path:
    """Save the interventions of ``intervenable`` in a folder: `IntervenableModel.save`."""
    folder = Path(directory).expanduser()
    artifact = capture(intervenable, include_model=include_model, base_model=base_model)
    ours.write(artifact, folder, model_card(artifact, f"./{folder.absolute().name}"))
    return folder


def push_to_hub(
    intervenable: IntervenableModel,
    repo_id: str,
    *,
    include_model: bool = False,
    base_model: str | None = None,
    **options: Any,
) -> str:
    """Upload the interventions of ``intervenable``: `IntervenableModel.push_to_hub`."""
    artifact = capture(intervenable, include_model=include_model, base_model=base_model)
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "artifact"
        ours.write(artifact, folder, model_card(artifact, repo_id))
        return hub.upload(folder, repo_id, **options)


def save_intervention(intervenable: IntervenableModel, where: str | Path, **options: Any) -> str:
    """Upload to ``user/name``, or save in a folder: `IntervenableModel.save_intervention`."""
    if isinstance(where, str) and hub.looks_like_repo_id(where) and not Path(where).is_dir():
        return push_to_hub(intervenable, where, **options)
    return str(save(intervenable, where, **options))


def load(
    kind: type[Model],
    where: str | Path,
    model: nn.Module,
    *,
    include_model: bool | None = None,
    interventions: Classes | None = None,
    from_hub: bool = False,
    **options: Any,
) -> Model:
    """An ``IntervenableModel`` from a folder or a repository: `IntervenableModel.load`."""
    folder = _folder(where, from_hub, include_model, options)
    found = _read(folder, bool(include_model), warn=include_model is None)
    restored: Any = restore(found, kind, model, interventions)
    return restored  # type: ignore[no-any-return]


def _folder(where: str | Path, from_hub: bool, include_model: bool | None, options: dict[str, Any]) -> Path:
    folder = Path(where).expanduser()
    if folder.is_dir() and not from_hub:
        return folder
    if isinstance(where, str) and (from_hub or not folder.exists()) and hub.looks_like_repo_id(where):
        try:
            return hub.download(where, model_files=bool(include_model), **options)
        except HubError as error:
            if folder.exists():
                raise
            raise HubError(f"there is no folder {where!r} here, and from the hub: {error}") from error
    raise ArtifactError(f"{where} is neither a folder here nor the id of a repository on the hub ('user/name')")


def _read(folder: Path, include_model: bool, *, warn: bool) -> Artifact:
    description = ours.read_config(folder)
    if ours.is_pyvene(description) and not ours.is_intervene(description):
        found, holds_model = pyvene.read(folder, include_model=include_model), (folder / pyvene.MODEL_FILE).exists()
    else:
        found, holds_model = ours.read(folder, include_model=include_model), ours.holds_model(description)
    if warn and holds_model:
        warnings.warn(
            f"{folder} holds trained weights of the model too, which were left out; say include_model=True to load "
            f"them into the model, or include_model=False to go without",
            stacklevel=4,
        )
    return found
