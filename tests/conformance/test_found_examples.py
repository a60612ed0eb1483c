"""Examples on which a random search found a law to ask for more than is true."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st

from intervene.conformance import Subject, all_laws
from intervene.conformance.draw import Draw
from intervene.conformance.setting import Setting


class Scripted(Draw):
    """One example that is given, not drawn."""

    def __init__(self, subject: Subject, component: str, **given: Any) -> None:
        self.subject, self.component, self.log = subject, component, []
        self.given = given

    def __call__(self, name: str, strategy: st.SearchStrategy[Any]) -> Any:
        return self.given[name]


@pytest.mark.parametrize("component", ["attention_scores", "attention_pattern"])
def test_padding_is_no_key(component: str) -> None:
    """With weight on a padding key, which may itself look anywhere, cached and uncached runs differ."""
    setting = Setting("GPT2LMHeadModel", "eager", columns=2, padding="left", padded=(1,))
    draw = Scripted(Subject("gpt2"), component, setting=setting, layer=1, position=1, counted=[1, -1])
    all_laws()["generation"].check(draw)


def test_a_router_may_choose_among_equals() -> None:
    """In bfloat16 two experts' logits are often the same number."""
    setting = Setting("MixtralForCausalLM", "eager", "bfloat16", columns=6, seed=64)
    draw = Scripted(Subject("mixtral"), "expert_projection:expert_output", setting=setting)
    all_laws()["meaning"].check(draw)
