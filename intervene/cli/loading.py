"""Models and tokenizers from a local folder or the hub, with every failure said in words."""

from __future__ import annotations

import errno
import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ..extras import needed
from ..placement import usable_device
from ..registry import tiny
from .console import CommandError, interactive

TINY = "tiny:"


class DType(str, Enum):
    """The types that weights can be loaded in."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def transformers() -> ModuleType:
    """The package, imported when a command first needs it.

    Raises:
        MissingDependencyError: it isn't installed, or it is and can't be imported.
    """
    with needed("transformers", extra="hf", by="this command"):
        import transformers as package
    return package


def demo_model() -> tuple[nn.Module, Any]:
    """The demo's model and tokenizer."""
    package = transformers()
    from .. import demo

    # It loads in a moment.
    with _bars(package, False):
        return demo.load()


def unknown_words(tokenizer: Any, text: str) -> list[str]:
    """The words of ``text`` for which the tokenizer has no token, each once."""
    encoded = tokenizer(text, return_offsets_mapping=True)
    pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    unknown = [text[first:last] for token, (first, last) in pairs if token == tokenizer.unk_token_id]
    return list(dict.fromkeys(unknown))


def causal_lm(
    name: str,
    *,
    device: str | None = None,
    dtype: DType = DType.auto,
    attention: str | None = None,
    revision: str | None = None,
) -> tuple[nn.Module, Any]:
    """A causal language model in eval mode, and its tokenizer.

    Args:
        name: a local folder where there is one of that name, else a model of the hub.
        device: where the model goes; cuda where there is one, else cpu, by default.
        dtype: the weights' type; as saved by default.
        attention: the attention implementation; transformers' choice by default.
        revision: branch, tag or commit of a model on the hub.

    Raises:
        CommandError: it can't be loaded, or isn't a causal language model.
        PlacementError: the device isn't there.
        MissingDependencyError: transformers is not installed.
    """
    if name.startswith(TINY):
        raise CommandError(f"{name} has random weights and no tokenizer, so it has no facts to trace")
    package = transformers()
    default = "cuda" if torch.cuda.is_available() else "cpu"
    place = usable_device(default if device is None else device)
    config = read_config(name, revision)
    if type(config) not in package.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise CommandError(
            f"{name} is a {config.model_type} model, which is no causal language model; `intervene sites {name}` "
            f"shows what can be reached in it"
        )
    with _bars(package, interactive()), _in_words(name, "the tokenizer"):
        tokenizer = package.AutoTokenizer.from_pretrained(name, revision=revision)
    with _bars(package, interactive()), _in_words(name, "the model"):
        model = package.AutoModelForCausalLM.from_pretrained(
            name, revision=revision, dtype=dtype.value, attn_implementation=attention
        )
    with _in_words(name, "the model", f"onto {place}"):
        return model.to(place).eval(), tokenizer


def any_model(name: str, *, revision: str | None = None, config_only: bool = False) -> nn.Module:
    """A model of any kind: of the class that it was saved as.

    Args:
        name: ``tiny:FAMILY``, a local folder where there is one of that name, or a model of the hub.
        revision: branch, tag or commit of a model on the hub.
        config_only: take the config alone; the weights have shapes and no values (torch's meta device).

    Raises:
        CommandError: it can't be loaded.
        MissingDependencyError: transformers is not installed.
        UnknownSiteError: no such family.
    """
    if name.startswith(TINY):
        return tiny(name.removeprefix(TINY))
    package = transformers()
    config = read_config(name, revision)
    saved_as = next(iter(getattr(config, "architectures", None) or ()), "")
    known = getattr(package, saved_as, None)
    model_class = known or package.AutoModel
    if config_only:
        with _in_words(name, "the config"), torch.device("meta"):
            model: nn.Module = model_class(config) if known else model_class.from_config(config)
        # transformers looks for it in the ids, and ids without values can't be looked at.
        model.config.pad_token_id = None  # type: ignore[union-attr]
    else:
        with _bars(package, interactive()), _in_words(name, "the model"):
            model = model_class.from_pretrained(name, revision=revision)
    return model.eval()


def read_config(name: str, revision: str | None = None) -> Any:
    """A model's config.

    Raises:
        CommandError: no such folder or model, or it can't be read.
    """
    package = transformers()
    try:
        _check_folder(name)
    except OSError as error:
        at = "" if error.filename in (None, name) else f" (at {error.filename})"
        raise CommandError(f"{name} can't be looked into: {error.strerror or error}{at}") from error
    with _in_words(name, "the config"):
        return package.AutoConfig.from_pretrained(name, revision=revision)


def _check_folder(name: str) -> None:
    """Refuse a name that is neither a folder with a saved model nor one that the hub may have.

    Raises:
        CommandError: it is none.
        OSError: it can't be told.
    """
    folder = Path(name).expanduser()
    if folder.is_file():
        raise CommandError(f"{name} is a file; a model is a folder with config.json, weights and tokenizer")
    # Python 3.14 says of a file in a folder that can't be entered that it isn't there.
    if folder.is_dir() and not os.access(folder, os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        held = sorted(p.name for p in folder.iterdir())
        shown = ", ".join(held[:6]) + (", ..." if len(held) > 6 else "") if held else "nothing"
        raise CommandError(f"the folder {name} has no config.json, so it holds no saved model; it has {shown}")
    if not folder.exists() and _looks_local(name):
        raise CommandError(f"there is no folder {name}")


def _looks_local(name: str) -> bool:
    """Whether a name can only be meant as a path: the hub's are ``name`` or ``owner/name``."""
    return name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1


@contextmanager
def _in_words(name: str, what: str, how: str = "") -> Iterator[None]:
    """Whatever goes wrong in transformers as one message that says what was being loaded."""
    try:
        yield
    except _failures() as error:
        local = Path(name).is_dir()
        where = f"the folder {name}" if local else f"{name} (no local folder of that name, so taken for one of the hub)"
        raise CommandError(
            f"{what} of {where} can't be loaded{' ' + how if how else ''}: {_first_sentence(error)}"
        ) from error


def _failures() -> tuple[type[Exception], ...]:
    """The errors that files which can't be read end in."""
    # Weights that are cut short: EOFError and UnpicklingError as pickles, an error of its own as safetensors. Whoever
    # raised that one has imported the package; here nothing needs it.
    safetensors = sys.modules.get("safetensors")
    own = () if safetensors is None else (safetensors.SafetensorError,)
    return (OSError, ValueError, RuntimeError, ImportError, KeyError, EOFError, pickle.UnpicklingError, *own)


def _first_sentence(error: BaseException) -> str:
    """The first paragraph of an error, on one line; its type where it says nothing."""
    paragraph = str(error).strip().partition("\n\n")[0]
    text = " ".join(paragraph.split())
    return (text if len(text) <= 400 else text[:400].rstrip() + " ...") or type(error).__name__


@contextmanager
def _bars(package: ModuleType, wanted: bool) -> Iterator[None]:
    """transformers' bars for downloads and weights, or none."""
    log = package.utils.logging
    shown = log.is_progress_bar_enabled() and not wanted
    if not shown:
        yield
        return
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.enable_progress_bar()
