"""What a sweep refuses, what it falls back from, and what it leaves behind."""

from __future__ import annotations

import warnings
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

import intervene
from intervene import SweepError, UnknownSiteError
from intervene.sweeps import GaussianNoise, Probability, SweepWarning

IDS = torch.tensor([[5, 6, 7, 8]])
HOOKS = [name for name, value in vars(nn.Module()).items() if "hook" in name and isinstance(value, dict)]


@pytest.fixture
def model() -> Any:
    return intervene.tiny("gpt2", initializer_range=0.3)


def sweep(model: Any, **options: Any) -> intervene.SweepResult:
    given = {"base": {"input_ids": IDS}, "source": {"input_ids": IDS + 20}, "metric": Probability(3), **options}
    return intervene.sweep(model, progress=False, **given)


def test_training_mode(model: Any) -> None:
    with pytest.raises(SweepError, match=r"training mode.*model\.eval\(\)"):
        sweep(model.train())


def test_no_source(model: Any) -> None:
    with pytest.raises(SweepError, match="give source="):
        sweep(model, source=None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axes": ("layer", "token")}, r"component, layer, head, position.*\['layer', 'token'\]"),
        ({"axes": ("layer", "layer")}, "each once"),
        ({"axes": ()}, "axes are some of"),
        ({"axes": ("position",)}, "exist in each layer: add the axis 'layer'"),
        ({"component": "embedding_output", "axes": ("layer", "position")}, "leave the axis 'layer' out"),
        ({"component": ("mlp_output", "attention_output"), "axes": ("layer",)}, "need the axis 'component'"),
        ({"component": ("mlp_output", "embedding_output")}, "sweep them apart"),
        ({"positions": [4]}, r"positions \[4\] out of range: there are 4 \(0 to 3\)"),
        ({"positions": [-5]}, r"positions \[-5\] out of range"),
        ({"positions": [0, -4]}, "distinct"),
        ({"positions": []}, "at least one"),
        ({"component": "head_query_output", "axes": ("head", "layer"), "heads": [3]}, r"heads \[3\].*0 to 2"),
        (
            {"axes": ("layer", "head")},
            r"layer\.0\.block_output: cannot choose heads: the axes here are batch, position",
        ),
        ({"window": 0}, "at least 1; found 0"),
        ({"memory": 0}, "whole number of bytes, such as 1073741824 for 1 GiB; found 0"),
        ({"memory": 2e9}, r"whole number of bytes.*found 2000000000\.0"),
        ({"memory": "1GB"}, "whole number of bytes.*found '1GB'"),
        ({"method": "fast"}, "'growing batch', 'batch' or 'loop'; found 'fast'"),
        ({"tokens": ["a", "b"]}, "2 texts for 4 columns"),
        ({"source": {"input_ids": IDS[:, :3]}}, r"\(1, 3\) in the source and \(1, 4\) in the base"),
        ({"source": {"input_ids": IDS.repeat(2, 1)}}, r"\(2, 4\) in the source"),
        ({"base": {"lengths": torch.tensor([4])}}, "no input of shape"),
        ({"base": {"input_ids": IDS.repeat(2, 1)}, "noise": GaussianNoise([0])}, "one prompt at a time; base has 2"),
        ({"noise": GaussianNoise([4])}, r"noise positions \[4\] out of range"),
        ({"metric": Probability(61)}, "vocabulary of 61"),
        (
            {"component": "logits", "base": {"input_ids": IDS, "logits_to_keep": torch.tensor([1, 2])}},
            r"logits_to_keep=tensor\(\[1, 2\]\) in base",
        ),
        (
            {"component": "logits", "base": {"input_ids": IDS, "logits_to_keep": 2}},
            "some of which have none with logits_to_keep=2 in base: leave it out",
        ),
    ],
)
def test_inputs_that_do_not_go_together(model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SweepError, match=message):
        sweep(model, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": IDS}, r"base=\{'input_ids': ids\}; found a tensor of shape \(1, 4\)"),
        ({"base": "The cat"}, r"base=tokenizer\(text, return_tensors='pt'\); found 'The cat'"),
        ({"source": IDS}, r"source=\{'input_ids': ids\}, or a number that is written; found a tensor"),
        ({"source": "The dog"}, r"source=tokenizer\(.*found 'The dog'"),
        ({"source": "x" * 99}, r"found 'x{56}\.\.\.$"),
        ({"layers": 2}, r"layers is a list of whole numbers: say layers=\[2\]; found 2"),
        ({"layers": torch.tensor(2)}, r"say layers=\[2\]; found a tensor of shape \(\)"),
        ({"layers": [0, 1.0]}, r"say layers=\[0, 1\]; found \[0, 1\.0\]"),
        ({"layers": [True, False, True]}, r"found \[True, False, True\]"),
        ({"layers": torch.tensor([True, False, True])}, r"found a tensor of shape \(3,\)"),
        ({"positions": -1}, r"say positions=\[-1\]; found -1"),
        ({"positions": "12"}, r"say positions=\[0, 1\]; found '12'"),
        ({"heads": 1}, r"say heads=\[1\]; found 1"),
        ({"component": []}, r"component='block_output', or a list of at least one; found \[\]"),
        ({"component": None}, "found None"),
        ({"component": [3]}, r"found \[3\]"),
        ({"axes": "layer"}, r"say axes=\['layer'\]; found 'layer'"),
        ({"axes": 2}, r"say axes=\['layer'\]; found 2"),
        (
            {"metric": "prob"},
            r"Probability\(token\), LogProbability\(token\), LogitDiff.*KLDivergence\(\).*found 'prob'",
        ),
        ({"metric": Probability}, r"the class Probability itself: make one, as in metric=Probability\(token\)"),
        ({"noise": 3.0}, r"GaussianNoise\(positions, sigma=3\.0\); found 3\.0"),
        ({"tokens": 4}, r"tokens is a list of texts, one for each column.*found 4"),
        ({"tokens": "abcd"}, "found 'abcd'"),
        ({"tokens": [5, 6, 7, 8]}, r"found \[5, 6, 7, 8\]"),
        ({"window": 1.5}, r"window counts layers.*found 1\.5"),
        ({"window": "2"}, "found '2'"),
    ],
)
def test_arguments_of_another_kind(model: Any, options: dict[str, Any], message: str) -> None:
    """They are refused before anything runs."""
    ran: list[int] = []
    model.register_forward_pre_hook(lambda module, args: ran.append(1))
    with pytest.raises(SweepError, match=message):
        sweep(model, **options)
    assert not ran


def test_whole_numbers_of_other_libraries(model: Any) -> None:
    listed = sweep(model, layers=[0, 2], positions=[1, -1], window=2)
    result = sweep(model, layers=numpy.array([0, 2]), positions=torch.tensor([1, -1]), window=numpy.int64(2))
    assert result.axes == listed.axes
    assert torch.equal(result.values, listed.values)


@pytest.mark.parametrize("layers", [[3], [-4, 0]])
def test_layers_out_of_range(model: Any, layers: list[int]) -> None:
    with pytest.raises(UnknownSiteError, match=r"out of range: there are 3 \(0 to 2\)"):
        sweep(model, layers=layers)


def test_unknown_component(model: Any) -> None:
    with pytest.raises(UnknownSiteError, match="mlp_output"):
        sweep(model, component="mlp_outptu")


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"sigma": 0.0}, {"positions": []}])
def test_noise_that_is_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(SweepError, match="at least one sample, one position and a positive sigma"):
        GaussianNoise(**{"positions": [0], **wrong})


def test_a_model_that_fixes_the_batch_falls_back_to_the_loop() -> None:
    """The classifier pools one logit a row of its inputs, so its batch cannot grow on the way."""
    model = intervene.tiny("gpt2", "GPT2ForSequenceClassification", initializer_range=0.3)

    def first(logits: Tensor) -> Tensor:
        return logits[:, 0]

    with pytest.warns(SweepWarning, match="every run of this sweep is made by itself") as caught:
        result = sweep(model, metric=first)
    assert caught[0].filename == __file__
    assert result.method == "loop"
    torch.testing.assert_close(result.values, by_hand(model), atol=1e-5, rtol=1e-5)


def by_hand(model: Any) -> Tensor:
    """The last column's first logit after each single run, (layers, positions)."""
    return torch.tensor([[_patched(model, block, p) for p in range(4)] for block in model.transformer.h])


def _patched(model: Any, block: nn.Module, position: int) -> float:
    """The first logit with one column of one block's output taken from the source, by torch's hooks."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        kept.append(output)

    def patch(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[:, position] = kept[0][:, position]
        return output

    with torch.no_grad():
        handle = block.register_forward_hook(keep)
        model(input_ids=IDS + 20)
        handle.remove()
        handle = block.register_forward_hook(patch)
        logits = model(input_ids=IDS).logits
        handle.remove()
    return float(logits[0, 0] if logits.dim() == 2 else logits[0, -1, 0])


def test_rows_that_see_each_other_fall_back_to_the_loop(model: Any) -> None:
    """A batch whose rows aren't independent gives the right shapes and wrong values; the check sees the values.

    The loop must then run each cell truly alone, not next to the base.
    """

    class Centred(nn.Module):
        def forward(self, hidden: Tensor) -> Tensor:
            return hidden - 0.1 * hidden.mean(0, keepdim=True)

    model.transformer.ln_f = nn.Sequential(Centred(), model.transformer.ln_f)
    with pytest.warns(SweepWarning, match="differ from the same runs made singly"):
        result = sweep(model, metric=lambda logits: logits[:, 0])
    assert result.method == "loop"
    torch.testing.assert_close(result.values, by_hand(model), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        assert result.base == pytest.approx(float(model(input_ids=IDS).logits[0, -1, 0]), abs=1e-5)


def test_a_proven_model_is_not_checked_again(model: Any) -> None:
    counted: list[int] = []
    handle = model.register_forward_pre_hook(lambda module, args: counted.append(1))
    forwards = []
    for _ in range(2):
        counted.clear()
        sweep(model)
        forwards.append(len(counted))
    handle.remove()
    assert forwards[0] > forwards[1]


def test_a_model_of_no_known_family() -> None:
    """Module paths are sites too; there is no layer axis then, and nothing to grow by."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.outer(torch.tanh(self.inner(x)).cumsum(1))

    torch.manual_seed(0)
    plain, base, source = Model().eval(), torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = intervene.sweep(
            plain, base={"x": base}, source={"x": source}, component="inner.output", metric=lambda y: y[:, 0]
        )
    assert result.method == "batch"
    with torch.no_grad():
        for position in range(3):
            inner = plain.inner(base)
            inner[:, position] = plain.inner(source)[:, position]
            expected = plain.outer(torch.tanh(inner).cumsum(1))[:, -1, 0]
            torch.testing.assert_close(result.samples[:, position], expected, atol=1e-5, rtol=1e-5)


def _hooks(model: nn.Module) -> list[Any]:
    return [list(getattr(m, name)) for m in model.modules() for name in HOOKS]


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in model.state_dict().items()}


@pytest.mark.parametrize("method", ["growing batch", "batch", "loop", None])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_as_it_was(model: Any, method: str | None, fails: bool) -> None:
    calls: list[int] = []

    def metric(logits: Tensor) -> Tensor:
        calls.append(1)
        if fails and len(calls) == 3:
            raise KeyError("from the metric")
        return logits[:, 0]

    hooks, state, random = _hooks(model), _state(model), torch.get_rng_state()
    config = model.config.to_dict()
    options: dict[str, Any] = {
        "method": method,
        "metric": metric,
        "component": "attention_pattern",
        "attention": "eager",
    }
    options["noise"] = GaussianNoise([1], samples=2)
    if fails:
        with pytest.raises(KeyError, match="from the metric"):
            sweep(model, **options)
    else:
        sweep(model, **options)
    assert len(calls) >= 3
    assert _hooks(model) == hooks
    assert not any(any(h) for h in hooks)
    assert all(torch.equal(state[n], t) for n, t in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert model.config.to_dict() == config
    assert model.config._attn_implementation == "sdpa"
    assert not model.training
    assert torch.is_grad_enabled()
    assert all("forward" not in vars(m) for m in model.modules())


def test_the_callers_own_hooks_stay(model: Any) -> None:
    seen: list[int] = []
    handle = model.transformer.h[1].register_forward_hook(lambda module, args, output: seen.append(len(output)))
    before = _hooks(model)
    sweep(model)
    assert seen
    assert _hooks(model) == before
    handle.remove()
