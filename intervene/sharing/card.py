"""The model card: a README in Markdown, with the metadata that the hub reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..extras import needed
from .artifact import INTERVENTIONS, LIBRARY, MODEL, Artifact
from .hub import looks_like_repo_id

_TAGS = ["causal-intervention", "interpretability", "torch-intervene"]


def model_card(artifact: Artifact, where: str) -> str:
    """The card's text.

    Args:
        artifact: what the card describes.
        where: what a reader gives to `IntervenableModel.load`: a repository's id or a folder.
    """
    base = artifact.base_model
    parts = [
        _metadata(base),
        f"# {where.rstrip('/').rpartition('/')[2]}\n",
        _about(artifact),
        "## Use it\n",
        _snippet(artifact, where),
        "## What is patched where\n",
        _table(["site", "intervention", "keywords", "parameters"], list(_rows(artifact))),
        "## Made with\n",
        _table(["library", "version"], [list(pair) for pair in artifact.versions.items()]),
        "Nothing here is pickled and no code comes along: `config.json` says what is patched where, "
        f"`{INTERVENTIONS}-*.safetensors` holds the tensors.\n",
    ]
    return "\n".join(parts)


def public_name(name: object) -> str | None:
    """A model's name as far as it says something to others: a repository's id, never a path of this machine."""
    return name if isinstance(name, str) and looks_like_repo_id(name) else None


def _metadata(base: Mapping[str, Any]) -> str:
    with needed("huggingface_hub", extra="hf", by="a model card"):
        from huggingface_hub import ModelCardData
    fields = ModelCardData(tags=_TAGS, base_model=public_name(base.get("name")))
    return f"---\n{LIBRARY}\n{fields.to_yaml()}\n---\n"


def _about(artifact: Artifact) -> str:
    base = artifact.base_model
    name = public_name(base.get("name"))
    model = f"`{name}` (`{base.get('class')}`)" if name else f"a `{base.get('class')}`"
    count = len(artifact.representations)
    lines = [
        f"{count} causal intervention{'s' * (count != 1)} on {model}, to be used with "
        f'`intervene` (`pip install "torch-intervene[hf]"`).',
    ]
    if artifact.model_state is not None:
        number = sum(t.numel() for t in artifact.model_state.values())
        lines.append(
            f"`{MODEL}-*.safetensors` holds {number:,} trained weights of the model itself; "
            f"`include_model=True` loads them too."
        )
    return "\n".join(lines) + "\n"


def _snippet(artifact: Artifact, where: str) -> str:
    base = artifact.base_model
    kind, name = base.get("class"), public_name(base.get("name"))
    known = isinstance(kind, str) and base.get("library") == "transformers" and re.fullmatch(r"\w+", kind)
    if known and name:
        model = f'from transformers import {kind}\n\nmodel = {kind}.from_pretrained("{name}")'
    else:
        model = f"\nmodel = ...  # the {kind} that these interventions were made for"
    include = ", include_model=True" if artifact.model_state is not None else ""
    return (
        f"```python\nimport intervene as pv\n{model}\n"
        f'intervenable = pv.IntervenableModel.load("{where}", model=model{include})\nprint(intervenable)\n```\n'
    )


def _rows(artifact: Artifact) -> Iterator[list[str]]:
    seen: set[str] = set()
    for representation in artifact.representations:
        key = representation["intervention"]
        saved = artifact.interventions[key]
        keywords = ", ".join(f"{name}={value!r}" for name, value in saved.spec.items())
        number = f"{sum(t.numel() for t in saved.state.values()):,}"
        yield [
            f"`{_place(representation)}`",
            f"`{saved.kind}`",
            keywords if len(keywords) < 200 else keywords[:200] + "…",
            f"shared with `{key}`" if key in seen else number,
        ]
        seen.add(key)


def _place(representation: Mapping[str, Any]) -> str:
    component = str(representation.get("component", "block_output"))
    layer = representation.get("layer", 0)
    return component if "." in component or layer is None else f"layer.{layer}.{component}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
