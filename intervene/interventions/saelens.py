"""The format in which SAELens (https://github.com/decoderesearch/SAELens) keeps a sparse autoencoder on disk.

A folder with ``cfg.json`` and ``sae_weights.safetensors``. Since version 6 the config's keys are those of the
architecture and ``metadata``; before that they are flat, ``architecture`` may be absent (standard), and topk is an
``activation_fn`` (``activation_fn_str``) with its k in ``activation_fn_kwargs``. Read against SAELens 6.54.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from ..errors import SAEFormatError
from ..extras import needed

Architecture = Literal["standard", "topk", "jumprelu"]
Normalization = Literal["none", "layer_norm", "constant_norm_rescale"]

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
_SCALED_IN_TRAINING = "expected_average_only_in"


def load(folder: Path, norm_scaling_factor: float | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The keywords and the tensors of a `JumpReLUAutoencoderIntervention`.

    Raises:
        SAEFormatError: a file or tensor is missing, has another shape than the config says, or the config asks for
            what is not known here.
        MissingDependencyError: safetensors is not installed.
    """
    config = _read_config(folder)
    settings = _settings(config, folder, norm_scaling_factor is not None)
    weights = _read_weights(folder, settings)
    if norm_scaling_factor is not None:
        weights["W_enc"] = weights["W_enc"] * norm_scaling_factor
        weights["W_dec"] = weights["W_dec"] / norm_scaling_factor
        weights["b_dec"] = weights["b_dec"] / norm_scaling_factor
    return settings, weights


def _read_config(folder: Path) -> dict[str, Any]:
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        found = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else None
        raise SAEFormatError(
            f"{folder} has no {' and no '.join(missing)}: "
            + ("there is no such folder" if found is None else f"it holds {', '.join(found) or 'nothing'}")
            + "; from_saelens takes the folder of one SAE"
        )
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise SAEFormatError(f"{folder / CONFIG} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise SAEFormatError(f"{folder / CONFIG} holds a {type(config).__name__}, not an object")
    return config


def _settings(config: dict[str, Any], folder: Path, scale_known: bool) -> dict[str, Any]:
    activation = config.get("activation_fn", config.get("activation_fn_str", "relu"))
    arguments = config.get("activation_fn_kwargs") or {}
    architecture = config.get("architecture", "standard")
    if architecture == "standard" and activation == "topk":
        architecture = "topk"
    elif architecture == "standard" and activation not in ("relu", None):
        raise SAEFormatError(f"{folder}: the activation {activation!r} is not known; there are relu and topk")
    if architecture not in get_args(Architecture):
        raise SAEFormatError(
            f"{folder}: the architecture {architecture!r} is not known; there are {', '.join(get_args(Architecture))}"
        )
    normalization = config.get("normalize_activations") or "none"
    normalization = _SCALED_IN_TRAINING if normalization is True else normalization
    if normalization == _SCALED_IN_TRAINING:
        if not scale_known:
            raise SAEFormatError(
                f"{folder}: it was trained on scaled activations and the scale is not in the file; pass "
                f"norm_scaling_factor=, or save it again after sae.fold_activation_norm_scaling_factor(...)"
            )
        normalization = "none"
    elif scale_known:
        raise SAEFormatError(
            f"{folder}: norm_scaling_factor is for SAEs with normalize_activations={_SCALED_IN_TRAINING!r}; this one "
            f"has {normalization!r}"
        )
    if normalization not in get_args(Normalization):
        raise SAEFormatError(
            f"{folder}: normalize_activations={normalization!r} is not known; there are "
            f"{', '.join(get_args(Normalization))} and {_SCALED_IN_TRAINING}"
        )
    settings = {
        "embed_dim": _size(config, "d_in", folder),
        "latent_dim": _size(config, "d_sae", folder),
        "architecture": architecture,
        "apply_b_dec_to_input": bool(config.get("apply_b_dec_to_input", True)),
        "normalize_activations": normalization,
        "rescale_acts_by_decoder_norm": bool(config.get("rescale_acts_by_decoder_norm", False)),
    }
    return {**settings, "k": _size({**arguments, **config}, "k", folder)} if architecture == "topk" else settings


def _size(config: dict[str, Any], name: str, folder: Path) -> int:
    if not isinstance(config.get(name), int):
        raise SAEFormatError(f"{folder / CONFIG}: {name} is a whole number, found {config.get(name)!r}")
    return int(config[name])


def _read_weights(folder: Path, settings: dict[str, Any]) -> dict[str, Tensor]:
    with needed("safetensors", extra="hf", by="loading a SAE"):
        from safetensors.torch import load_file
    found = load_file(folder / WEIGHTS)
    width, latents = settings["embed_dim"], settings["latent_dim"]
    shapes = {"W_enc": (width, latents), "W_dec": (latents, width), "b_enc": (latents,), "b_dec": (width,)}
    if settings["architecture"] == "jumprelu":
        shapes["threshold"] = (latents,)
    for name, shape in shapes.items():
        if name not in found or tuple(found[name].shape) != shape:
            has = f"{name} of shape {tuple(found[name].shape)}" if name in found else f"{', '.join(sorted(found))}"
            raise SAEFormatError(f"{folder / WEIGHTS}: expected {name} of shape {shape}, found {has}")
    weights = {name: found.pop(name) for name in shapes}
    # Older SAEs may have been finetuned by a scale for each latent, which stands before the decoder.
    scaling = found.pop("scaling_factor", None)
    if scaling is not None:
        weights["W_dec"] = weights["W_dec"] * scaling.unsqueeze(-1)
    if found:
        raise SAEFormatError(f"{folder / WEIGHTS}: tensors {', '.join(sorted(found))} are not known")
    return weights
