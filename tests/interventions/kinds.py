"""One way to make each intervention type, and what the laws need to know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import intervene as pv


@dataclass(frozen=True)
class Kind:
    """An intervention type.

    Attributes:
        make: width -> a fresh intervention, trained weights and all, from torch's random state.
        swap: with every feature acted on, its features become the source's.
        source: whether a call takes one.
        without_gradient: parameters that the result doesn't depend on, or not differentiably.
    """

    make: Callable[[int], pv.Intervention]
    swap: bool = False
    source: bool = True
    without_gradient: frozenset[str] = frozenset()


def _trained(intervention: pv.Intervention) -> pv.Intervention:
    """Move every parameter from where it began."""
    with torch.no_grad():
        for parameter in intervention.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.25)
    return intervention


def _pca(width: int) -> pv.Intervention:
    kept = max(1, width - 1)
    return pv.PCARotatedSpaceIntervention(low_rank_dimension=kept).fit(torch.randn(3 * width, width) * 2 + 1)


def _mean(width: int) -> pv.Intervention:
    return pv.MeanIntervention().fit(torch.randn(5, width))


def _sae(width: int, **settings) -> pv.Intervention:
    return _trained(pv.JumpReLUAutoencoderIntervention(embed_dim=width, latent_dim=2 * width, **settings))


def half(width: int) -> int:
    return (width + 1) // 2


# What the others derive from.
ABSTRACT = {
    pv.Intervention,
    pv.TrainableIntervention,
    pv.SharedWeightsTrainableIntervention,
    pv.ConstantSourceIntervention,
    pv.SourcelessIntervention,
    pv.BasisAgnosticIntervention,
    pv.TemperedIntervention,
}

KINDS: dict[str, Kind] = {
    "vanilla": Kind(lambda n: pv.VanillaIntervention(embed_dim=n), swap=True),
    "vanilla-constant": Kind(lambda n: pv.VanillaIntervention(source_representation=torch.randn(n)), source=False),
    "vanilla-part": Kind(lambda n: pv.VanillaIntervention(embed_dim=n, interchange_dim=half(n)), swap=True),
    "addition": Kind(lambda n: pv.AdditionIntervention(embed_dim=n)),
    "addition-constant": Kind(lambda n: pv.AdditionIntervention(source_representation=torch.randn(n)), source=False),
    "subtraction": Kind(lambda n: pv.SubtractionIntervention(embed_dim=n)),
    "zero": Kind(lambda n: pv.ZeroIntervention(embed_dim=n), source=False),
    "mean": Kind(_mean, source=False),
    "skip": Kind(lambda n: pv.SkipIntervention(embed_dim=n), swap=True),
    "noise": Kind(lambda n: pv.NoiseIntervention(embed_dim=n, noise_level=0.5), source=False),
    "rotated": Kind(lambda n: _trained(pv.RotatedSpaceIntervention(embed_dim=n)), swap=True),
    "rotated-k": Kind(
        lambda n: _trained(pv.RotatedSpaceIntervention(embed_dim=n, low_rank_dimension=half(n))), swap=True
    ),
    "low-rank": Kind(
        lambda n: _trained(pv.LowRankRotatedSpaceIntervention(embed_dim=n, low_rank_dimension=half(n))), swap=True
    ),
    "boundless": Kind(lambda n: _trained(pv.BoundlessRotatedSpaceIntervention(embed_dim=n))),
    "mask": Kind(lambda n: _trained(pv.SigmoidMaskIntervention(embed_dim=n, temperature=1.0))),
    "mask-rotated": Kind(lambda n: _trained(pv.SigmoidMaskRotatedSpaceIntervention(embed_dim=n))),
    "pca": Kind(_pca, swap=True),
    "autoencoder": Kind(lambda n: _trained(pv.AutoencoderIntervention(embed_dim=n, latent_dim=2 * n))),
    # The reconstruction's bias is part of what is kept, and a threshold is a step.
    "sae-jumprelu": Kind(_sae, without_gradient=frozenset({"b_dec", "threshold"})),
    "sae-topk": Kind(lambda n: _sae(n, architecture="topk", k=half(n), apply_b_dec_to_input=True)),
    "sae-standard": Kind(
        lambda n: _sae(n, architecture="standard", normalize_activations="layer_norm"),
        without_gradient=frozenset({"b_dec"}),
    ),
    "lora": Kind(lambda n: _trained(pv.LoRAIntervention(embed_dim=n, low_rank_dimension=half(n), lora_alpha=4.0))),
    "function": Kind(lambda n: pv.make_intervention(lambda base, source: base * 0.5 + source.relu())),
    "function-base": Kind(lambda n: pv.make_intervention(lambda base: base.tanh()), source=False),
}
SWAPS = {name: kind for name, kind in KINDS.items() if kind.swap}


@dataclass(frozen=True)
class Case:
    """An intervention with a base and a source for it."""

    intervention: pv.Intervention
    base: Tensor
    source: Tensor | None

    def __call__(self) -> Tensor:
        result = self.intervention(self.base, self.source)
        assert isinstance(result, Tensor)
        return result


@st.composite
def cases(draw: st.DrawFn, kind: Kind, *, dtypes=(torch.float32, torch.bfloat16)) -> Case:
    """A case of ``kind``: two to four axes, batch first, features last."""
    width = draw(st.integers(2, 7))
    shape = (draw(st.integers(1, 4)), *draw(st.lists(st.integers(1, 4), max_size=2)), width)
    dtype = draw(st.sampled_from(dtypes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw(st.integers(0, 2**16)))
        base = torch.randn(shape).to(dtype)
        source = torch.randn(shape).to(dtype) if kind.source else None
        return Case(kind.make(width), base, source)


def law(kinds: dict[str, Kind] = KINDS, *, dtypes=(torch.float32, torch.bfloat16)):
    """A test of (case, data), run for each of ``kinds`` on cases that hypothesis draws."""

    def decorate(check):
        def test(name: str) -> None:
            @settings(max_examples=max(5, settings().max_examples // 2))
            @given(cases(kinds[name], dtypes=dtypes), st.data())
            def drawn(case: Case, data: st.DataObject) -> None:
                check(case, data)

            drawn()

        test.__doc__ = check.__doc__
        return pytest.mark.parametrize("name", kinds)(test)

    return decorate


def close(found: Tensor, wanted: Tensor) -> None:
    """Equal up to the rounding of a few products of numbers near 1."""
    tolerance = 2e-5 if found.dtype == torch.float32 else 0.1
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
