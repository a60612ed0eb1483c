"""Loading models as pyvene's ``create_*`` functions do: (config, tokenizer or processor, model)."""

from __future__ import annotations

from typing import Any

import torch

from ..extras import needed


def create_gpt2(name: str = "gpt2", cache_dir: Any = None) -> tuple[Any, Any, Any]:
    """GPT-2's base model, with eager attention."""
    return _load("GPT2Model", name, cache_dir, attn_implementation="eager")


def create_gpt2_lm(name: str = "gpt2", config: Any = None, cache_dir: Any = None) -> tuple[Any, Any, Any]:
    """GPT-2 with its language-model head and eager attention; one with random weights where a config is given."""
    return _load("GPT2LMHeadModel", name, cache_dir, config, attn_implementation="eager")


def create_gpt_neo(name: str = "roneneldan/TinyStories-33M", cache_dir: Any = None) -> tuple[Any, Any, Any]:
    """GPT-Neo with its language-model head."""
    return _load("GPTNeoForCausalLM", name, cache_dir)


def create_gpt_neox(name: str = "EleutherAI/pythia-70m", cache_dir: Any = None) -> tuple[Any, Any, Any]:
    """GPT-NeoX (Pythia) with its language-model head."""
    return _load("GPTNeoXForCausalLM", name, cache_dir)


def create_llama(
    name: str = "sharpbai/alpaca-7b-merged",
    cache_dir: Any = None,
    dtype: torch.dtype = torch.bfloat16,
    config: Any = None,
) -> tuple[Any, Any, Any]:
    """LLaMA with its language-model head; one with random weights where a config is given."""
    return _load("LlamaForCausalLM", name, cache_dir, config, dtype=dtype)


def create_olmo(
    name: str = "allenai/OLMo-7B-0424-hf",
    cache_dir: Any = None,
    dtype: torch.dtype = torch.bfloat16,
    config: Any = None,
    revision: str = "main",
) -> tuple[Any, Any, Any]:
    """OLMo with its language-model head; one with random weights where a config is given."""
    return _load("AutoModelForCausalLM", name, cache_dir, config, dtype=dtype, revision=revision)


def create_blip(name: str = "Salesforce/blip-vqa-base", cache_dir: Any = None) -> tuple[Any, Any, Any]:
    """BLIP for visual question answering, with its processor."""
    return _load("BlipForQuestionAnswering", name, cache_dir, reader="AutoProcessor")


def create_blip_itm(name: str = "Salesforce/blip-itm-base-coco", cache_dir: Any = None) -> tuple[Any, Any, Any]:
    """BLIP for image-text retrieval, with its processor."""
    return _load("BlipForImageTextRetrieval", name, cache_dir, reader="AutoProcessor")


def create_llava(
    name: str = "llava-hf/llava-1.5-7b-hf", cache_dir: Any = None, dtype: torch.dtype = torch.bfloat16
) -> tuple[Any, Any, Any, Any]:
    """LLaVA: (config, tokenizer, model, processor)."""
    config, tokenizer, model = _load("LlavaForConditionalGeneration", name, cache_dir, dtype=dtype)
    return config, tokenizer, model, library().AutoProcessor.from_pretrained(name, cache_dir=cache_dir)


def _load(
    model_class: str,
    name: str,
    cache_dir: Any,
    config: Any = None,
    reader: str = "AutoTokenizer",
    **options: Any,
) -> tuple[Any, Any, Any]:
    found = library()
    read = getattr(found, reader).from_pretrained(name, cache_dir=cache_dir)
    kind = getattr(found, model_class)
    if config is not None:
        make = kind.from_config if model_class.startswith("Auto") else kind._from_config
        return config, read, make(config, **{n: v for n, v in options.items() if n != "revision"})
    model = kind.from_pretrained(name, cache_dir=cache_dir, **options)
    return model.config, read, model


def library() -> Any:
    with needed("transformers", extra="hf", by="making this model"):
        import transformers
    return transformers
