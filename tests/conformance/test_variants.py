"""A family's variants are held against the laws next to its model classes."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from intervene.adapters.gpt2 import GPT2
from intervene.conformance import Subject, check_adapter


class Varied(GPT2):
    """GPT-2 with a second shape of its MLP."""

    variants: ClassVar = {"wide": {"n_inner": 50}}


class Unlike(Varied):
    """As `Varied`; its wide models are wider than their config says."""

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        made: Any = super().tiny(model, seed, **config)
        if config:
            made.config.n_inner += 1
        return made


def test_each_variant_is_a_model_of_the_default_class() -> None:
    subject = Subject(Varied)
    *classes, wide = subject.models
    assert classes == list(Subject(GPT2).models)
    assert wide == "GPT2LMHeadModel, wide"
    assert subject.class_of(wide) == classes[0] == "GPT2LMHeadModel"
    assert subject.class_of(classes[1]) == classes[1]
    assert subject.shape("mlp_activation", wide, 2, 5) == (2, 5, 50)
    assert subject.shape("mlp_activation", classes[0], 2, 5) == (2, 5, 96)
    assert (wide, "eager") in subject.variants("attention_pattern")


def test_a_model_that_is_handed_in_has_no_variants() -> None:
    assert Subject(Varied.tiny(n_inner=50)).models == ("GPT2LMHeadModel",)


def test_a_claim_that_fails_in_a_variant_alone_is_found() -> None:
    # Among seven classes and a variant, the six examples of the profile "ci" may all be of others.
    asked: dict[str, Any] = {"laws": ["shaped"], "components": ["mlp_activation"], "profile": "thorough", "seed": 1}
    assert check_adapter(Varied, **asked).passed
    report = check_adapter(Unlike, **asked)
    (failure,) = report.failures
    assert "the spec claims" in failure.message
    assert "GPT2LMHeadModel, wide" in failure.describe()
