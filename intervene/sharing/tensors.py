"""Tensors in safetensors files, checked before they are believed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import ArtifactError
from ..extras import needed

# A header of this size names some hundred thousand tensors.
_MOST_HEADER_BYTES = 16 * 2**20
_CHUNK = 2**20


def write_tensors(tensors: Mapping[str, Tensor], file: Path) -> str:
    """Write ``tensors`` to ``file`` as safetensors; the file's SHA-256 in hex.

    Raises:
        OSError: what the file system says: no space left, ...
    """
    save_file = _safetensors().save_file
    from safetensors import SafetensorError

    # Each with storage of its own: the format has no views, and the caller's tensors aren't to change meanwhile.
    own = {n: t.detach().to("cpu", copy=True).contiguous() for n, t in tensors.items()}
    try:
        save_file(own, file)
    except SafetensorError as error:
        raise OSError(f"{file.name} could not be written: {error}") from error
    return sha256(file)


def read_tensors(file: Path, expected_sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        ArtifactError: the file isn't what its name or its header says: cut off, changed, an implausible header.
    """
    header_bytes = int.from_bytes(_first(file, 8), "little")
    size = file.stat().st_size
    if size < 8 or header_bytes > min(size - 8, _MOST_HEADER_BYTES):
        raise ArtifactError(
            f"{file.name} isn't a whole safetensors file: it has {size} bytes and announces a header of {header_bytes} "
            f"(at most {_MOST_HEADER_BYTES} are read); it may have been cut off, so get or save it again"
        )
    if expected_sha256 is not None and sha256(file) != expected_sha256:
        raise ArtifactError(
            f"{file.name} isn't the file that config.json describes (its SHA-256 differs): it was cut off or changed "
            f"after it was saved; get or save it again"
        )
    from safetensors import SafetensorError

    load_file = _safetensors().load_file
    try:
        found: dict[str, Tensor] = load_file(file)
    except (SafetensorError, ValueError, OverflowError, KeyError) as error:
        raise ArtifactError(f"{file.name} isn't a readable safetensors file: {error}") from error
    return found


def sha256(file: Path) -> str:
    """The SHA-256 of the file's content, in hex."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _first(file: Path, count: int) -> bytes:
    with file.open("rb") as stream:
        return stream.read(count)


def _safetensors() -> Any:
    with needed("safetensors", extra="hf", by="saving and loading interventions"):
        import safetensors.torch
    return safetensors.torch
