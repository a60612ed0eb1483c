"""Sweeps over one tower of a model with several, against single runs patched with torch's own hooks."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import intervene
from intervene import SweepError, UnknownSiteError
from intervene.sweeps import GaussianNoise, LogitDifference

METRIC = LogitDifference(7, 11)


@cache
def blip(name: str) -> Any:
    return intervene.tiny("blip", name)


def inputs(model: Any, seed: int) -> dict[str, Tensor]:
    adapter = intervene.families()["blip"]
    return adapter.example_inputs(model, rows=1, columns=4, generator=torch.Generator().manual_seed(seed))


def measured(model: Any, given: dict[str, Tensor]) -> float:
    """The metric of the decoder's last logits, which answering models don't return."""
    seen: list[Tensor] = []
    handle = model.text_decoder.register_forward_hook(lambda m, a, output: seen.append(output.logits[:, -1]))
    with torch.no_grad():
        model(**given)
    handle.remove()
    return float(METRIC(seen[0]))


def patched(model: Any, path: str, column: int, base: dict[str, Tensor], source: dict[str, Tensor]) -> float:
    """The metric with one position of a module's output taken from the source run."""
    module = model.get_submodule(path)
    kept: list[Tensor] = []
    handle = module.register_forward_hook(lambda m, a, output: kept.append(output.clone()))
    with torch.no_grad():
        model(**source)
    handle.remove()

    def put(m: Any, a: Any, output: Tensor) -> Tensor:
        new = output.clone()
        new[:, column] = kept[0][:, column]
        return new

    handle = module.register_forward_hook(put)
    try:
        return measured(model, base)
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("name", "component", "path", "shape"),
    [
        ("BlipForConditionalGeneration", "text_decoder.block_output", "text_decoder.bert.encoder.layer.{}", (2, 4)),
        ("BlipForConditionalGeneration", "vision.mlp_output", "vision_model.encoder.layers.{}.mlp", (3, 5)),
        ("BlipForQuestionAnswering", "text_encoder.mlp_output", "text_encoder.encoder.layer.{}.output.dense", (2, 4)),
        (
            "BlipForQuestionAnswering",
            "text_decoder.cross_value_output",
            "text_decoder.bert.encoder.layer.{}.crossattention.self.value",
            (2, 4),
        ),
    ],
)
def test_equals_single_runs(name: str, component: str, path: str, shape: tuple[int, int]) -> None:
    model = blip(name)
    base, source = inputs(model, 0), inputs(model, 1)
    result = intervene.sweep(model, base=base, source=source, component=component, metric=METRIC, progress=False)
    assert tuple(result.values.shape) == shape
    assert result.base == pytest.approx(measured(model, base), abs=1e-5)
    assert result.source == pytest.approx(measured(model, source), abs=1e-5)
    assert result.method == "batch"
    for layer in range(shape[0]):
        for column in range(shape[1]):
            wanted = patched(model, path.format(layer), column, base, source)
            assert float(result.values[layer, column]) == pytest.approx(wanted, abs=1e-5), (layer, column)
    assert result.values.std() > 1e-3


def test_a_component_of_one_tower_needs_no_tower() -> None:
    model = blip("BlipForConditionalGeneration")
    given: dict[str, Any] = {"base": inputs(model, 0), "source": inputs(model, 1), "metric": METRIC, "progress": False}
    name = "head_cross_attention_value_output"
    short = intervene.sweep(model, component=name, axes=("layer", "head"), **given)
    long = intervene.sweep(model, component=f"text_decoder.{name}", axes=("layer", "head"), **given)
    assert tuple(short.values.shape) == (2, 4)
    assert torch.equal(short.values, long.values)
    once = intervene.sweep(model, component="vision.final_norm_output", **given)
    assert tuple(once.values.shape) == (5,)


def test_components_of_one_tower_side_by_side() -> None:
    model = blip("BlipForConditionalGeneration")
    both = ["text_decoder.attention_output", "text_decoder.cross_attention_output"]
    result = intervene.sweep(
        model, base=inputs(model, 0), source=inputs(model, 1), metric=METRIC, component=both, progress=False
    )
    assert tuple(result.values.shape) == (2, 2, 4)
    assert list(result.axes[0].labels) == both


def test_noise_on_the_tower_of_the_tokens() -> None:
    model = blip("BlipForConditionalGeneration")
    noise = GaussianNoise([1, 2], samples=3)
    result = intervene.sweep(
        model, base=inputs(model, 0), noise=noise, component="text_decoder.mlp_output", metric=METRIC, progress=False
    )
    assert tuple(result.values.shape) == (2, 4)
    with pytest.raises(SweepError, match="the tower vision embeds none"):
        intervene.sweep(
            model, base=inputs(model, 0), noise=noise, component="vision.mlp_output", metric=METRIC, progress=False
        )


def test_refusals() -> None:
    model = blip("BlipForConditionalGeneration")
    given: dict[str, Any] = {"base": inputs(model, 0), "source": inputs(model, 1), "metric": METRIC, "progress": False}
    with pytest.raises(UnknownSiteError, match="block_output exists in the towers vision, text_decoder"):
        intervene.sweep(model, **given)
    with pytest.raises(SweepError, match="towers vision, text_decoder: sweep them apart"):
        intervene.sweep(model, component=["vision.mlp_output", "text_decoder.mlp_output"], **given)
    with pytest.raises(UnknownSiteError, match=r"layers \[3\] out of range: there are 3"):
        intervene.sweep(model, component="vision.mlp_output", layers=[3], **given)
    with pytest.raises(SweepError, match="positions"):
        intervene.sweep(model, component="vision.mlp_output", positions=[5], **given)
    with pytest.raises(SweepError, match=r"has the towers vision, text_decoder: call intervene\.sweep"):
        intervene.causal_trace(model, None, prompt="a cat", subject="cat")
