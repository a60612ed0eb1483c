"""The growing batch equals the loop of single patched runs, which is written here with torch's own hooks.

The oracle knows nothing of this library: it finds the modules of transformers' GPT-2 by name and patches one cell a
forward.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import intervene
from intervene.sweeps import GaussianNoise, LogitDifference

WIDTH, HEADS, LAYERS, VOCABULARY = 24, 3, 3, 61
HEAD = WIDTH // HEADS
METRIC = LogitDifference(7, 11)
SEVERAL_HEADS = ("head_query_output", "head_key_output", "head_value_output", "head_attention_value_output")
LAYERED = ("block_input", "block_output", "mlp_output", "attention_output", "mlp_activation", *SEVERAL_HEADS)


@cache
def gpt2(attention: str) -> Any:
    """A tiny GPT-2; its weights are drawn wide enough for patches to matter."""
    model: Any = intervene.tiny("gpt2", attn_implementation=attention, initializer_range=0.3)
    assert model.config._attn_implementation == attention
    return model


@dataclass(frozen=True)
class Place:
    """One component of one layer in transformers' own terms, and one head and column there, or all."""

    component: str
    layer: int | None
    head: int | None = None
    column: int | None = None

    def module(self, model: Any) -> tuple[nn.Module, str]:
        """The module and whether its input or its output is meant."""
        if self.layer is None:
            return model.transformer.drop, "output"
        block = model.transformer.h[self.layer]
        return {
            "block_input": (block, "input"),
            "block_output": (block, "output"),
            "mlp_output": (block.mlp, "output"),
            "attention_output": (block.attn, "output"),
            "mlp_activation": (block.mlp.c_proj, "input"),
            "head_query_output": (block.attn.c_attn, "output"),
            "head_key_output": (block.attn.c_attn, "output"),
            "head_value_output": (block.attn.c_attn, "output"),
            "head_attention_value_output": (block.attn.c_proj, "input"),
        }[self.component]

    def index(self) -> tuple[Any, ...]:
        """What is patched of the module's (row, column, feature) tensor, or of a (row, head, query, key) pattern."""
        columns = slice(None) if self.column is None else slice(self.column, self.column + 1)
        if self.component == "attention_pattern":
            return (slice(None), slice(None) if self.head is None else self.head, columns)
        fused = {"head_query_output": 0, "head_key_output": 1, "head_value_output": 2}
        begin = fused.get(self.component, 0) * WIDTH
        if self.component not in SEVERAL_HEADS:
            return (slice(None), columns)
        if self.head is None:
            return (slice(None), columns, slice(begin, begin + WIDTH))
        return (slice(None), columns, slice(begin + self.head * HEAD, begin + (self.head + 1) * HEAD))


@contextmanager
def seeing(model: Any, place: Place, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace the tensor at ``place`` by what ``change`` makes of it, by hand."""
    if place.component == "attention_pattern":
        calls = iter(range(LAYERS))
        softmax = nn.functional.softmax

        def patched(*args: Any, **kwargs: Any) -> Tensor:
            # Eager attention takes one softmax a layer, in the layers' order.
            value = softmax(*args, **kwargs)
            return change(value) if next(calls) == place.layer else value

        with mock.patch.object(nn.functional, "softmax", patched):
            yield
        return
    module, end = place.module(model)

    def after(module: nn.Module, args: Any, output: Any) -> Any:
        return change(output) if isinstance(output, Tensor) else (change(output[0]), *output[1:])

    def before(module: nn.Module, args: Any) -> Any:
        return (change(args[0]), *args[1:])

    handle = module.register_forward_hook(after) if end == "output" else module.register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


def read(model: Any, place: Place, inputs: dict[str, Tensor]) -> Tensor:
    """The whole tensor at ``place``."""
    kept: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        kept.append(value.clone())
        return value

    with torch.no_grad(), seeing(model, place, keep):
        model(**inputs)
    (value,) = kept
    return value


def patched_run(
    model: Any, base: dict[str, Tensor], sources: dict[Place, Tensor | float], places: Sequence[Place], noise: Any
) -> Tensor:
    """Logits of one run of all base rows with ``places`` taken from ``sources`` (by component and layer)."""

    def patch(place: Place) -> Callable[[Tensor], Tensor]:
        def change(value: Tensor) -> Tensor:
            source, value, index = sources[Place(place.component, place.layer)], value.clone(), place.index()
            value[index] = source[index] if isinstance(source, Tensor) else source
            return value

        return change

    with torch.no_grad(), ExitStack() as stack:
        if noise is not None:
            stack.enter_context(seeing(model, Place("embedding_output", None), noise))
        for place in places:
            stack.enter_context(seeing(model, place, patch(place)))
        logits: Tensor = model(**base).logits
    return logits


def by_hand(logits: Tensor, mask: Tensor | None) -> Tensor:
    """The logit difference at each row's last real column."""
    rows = torch.arange(len(logits))
    columns = [logits.shape[1] - 1] * len(logits) if mask is None else [int(m.nonzero().max()) for m in mask]
    last = logits[rows, columns]
    return last[:, METRIC.token] - last[:, METRIC.other]


@dataclass(frozen=True)
class Case:
    """One sweep and everything that its oracle needs."""

    attention: str
    base: dict[str, Tensor]
    source: dict[str, Tensor] | float | None
    components: tuple[str, ...]
    axes: tuple[str, ...]
    layers: tuple[int, ...] | None
    positions: tuple[int, ...] | None
    heads: tuple[int, ...] | None
    window: int
    noise: GaussianNoise | None

    def oracle(self) -> Tensor:
        """(rows, *axes), run by run."""
        model, noise, base = gpt2(self.attention), None, self.base
        source = base if self.source is None else self.source
        if self.noise is not None:
            count, subject = self.noise.samples, [c % _columns(base) for c in self.noise.positions]
            base = {n: v.expand(count, -1) for n, v in base.items()}
            if not isinstance(source, float):
                source = {n: v.expand(count, -1) for n, v in source.items()}
            scale = self.noise.sigma * model.transformer.wte.weight.detach().std()
            generator = torch.Generator().manual_seed(self.noise.seed)
            drawn = scale * torch.randn(count, len(subject), WIDTH, generator=generator)

            def noise(value: Tensor) -> Tensor:
                value = value.clone()
                value[:, subject] += drawn
                return value

        layered = [None] if self.components == ("embedding_output",) else range(LAYERS)
        every = [Place(c, layer) for c, layer in product(self.components, layered)]
        values = {p: source if isinstance(source, float) else read(model, p, source) for p in every}
        choices: dict[str, Sequence[Any]] = {
            "component": self.components,
            "layer": range(LAYERS) if self.layers is None else [i % LAYERS for i in self.layers],
            "head": range(HEADS) if self.heads is None else [h % HEADS for h in self.heads],
            "position": range(_columns(base))
            if self.positions is None
            else [p % _columns(base) for p in self.positions],
        }
        measured = []
        for labels in product(*(choices[a] for a in self.axes)):
            cell = dict(zip(self.axes, labels, strict=True))
            around = [None] if "layer" not in cell else self._around(cell["layer"])
            component = cell.get("component", self.components[0])
            columns = [cell["position"]] if "position" in cell else list(choices["position"])
            places = [Place(component, layer, cell.get("head"), c) for layer, c in product(around, columns)]
            logits = patched_run(model, base, values, places, noise)
            measured.append(by_hand(logits, base.get("attention_mask")))
        rows = len(base["input_ids"])
        return torch.stack(measured, 1).reshape(rows, *(len(choices[a]) for a in self.axes))

    def _around(self, layer: int) -> list[int]:
        """``window`` layers, as many before a cell's own as after it (one more before where the number is even)."""
        return [i for i in range(layer - self.window // 2, layer + (self.window + 1) // 2) if 0 <= i < LAYERS]

    def sweep(self, **options: Any) -> intervene.SweepResult:
        """The same, by this library, with no warning allowed."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return intervene.sweep(
                gpt2(self.attention),
                base=self.base,
                source=self.source,
                metric=METRIC,
                component=self.components,
                axes=self.axes,
                layers=self.layers,
                positions=self.positions,
                heads=self.heads,
                window=self.window,
                noise=self.noise,
                progress=False,
                **options,
            )


def _columns(inputs: dict[str, Tensor]) -> int:
    return inputs["input_ids"].shape[1]


def choose(size: int) -> st.SearchStrategy[tuple[int, ...] | None]:
    """None, or some of ``size`` indices, each once and perhaps counted from the end."""
    some = st.lists(st.integers(0, size - 1), min_size=1, max_size=size, unique=True)
    signed = some.flatmap(lambda found: st.tuples(*(st.sampled_from([i, i - size]) for i in found)))
    return st.none() | signed


@st.composite
def inputs(draw: Any, rows: int, columns: int, padding: str) -> dict[str, Tensor]:
    """Token ids, with a mask where there is padding; each row has a length of its own."""
    tokens = st.lists(st.integers(3, VOCABULARY - 1), min_size=columns, max_size=columns)
    found = {"input_ids": torch.tensor(draw(st.lists(tokens, min_size=rows, max_size=rows)))}
    if padding != "none":
        kept = torch.tensor([[draw(st.integers(1, columns))] for _ in range(rows)])
        order = torch.arange(columns) if padding == "right" else torch.arange(columns - 1, -1, -1)
        found["attention_mask"] = (order < kept).long()
    return found


@st.composite
def cases(draw: Any) -> Case:
    """Sweeps over layers, positions, heads, components, padding, rows, noise and both attention implementations."""
    noisy = draw(st.booleans())
    rows = 1 if noisy else draw(st.integers(1, 3))
    columns = draw(st.integers(2, 5))
    padding = draw(st.sampled_from(["none", "none", "left", "right"]))
    base = draw(inputs(rows, columns, padding))
    kinds = ["clean", "other", "number"] if noisy else ["other", "other", "number"]
    kind = draw(st.sampled_from(kinds))
    other = draw(inputs(draw(st.sampled_from([1, rows])), columns, padding)) if kind == "other" else None
    noise = None
    if noisy:
        subject = draw(choose(columns).filter(lambda found: found is not None))
        noise = GaussianNoise(subject, samples=draw(st.integers(1, 3)), seed=draw(st.integers(0, 9)))
    shape = draw(st.sampled_from(["layers", "layers", "window", "heads", "components", "embedding", "pattern"]))
    attention = "eager" if shape == "pattern" else draw(st.sampled_from(["eager", "sdpa"]))
    components: tuple[str, ...] = (draw(st.sampled_from(LAYERED)),)
    axes: tuple[str, ...] = draw(st.sampled_from([("layer", "position"), ("position", "layer"), ("layer",)]))
    if shape == "heads":
        components = (draw(st.sampled_from(SEVERAL_HEADS)),)
        axes = draw(st.sampled_from([("layer", "head"), ("layer", "head", "position"), ("head", "layer")]))
    elif shape == "pattern":
        components = ("attention_pattern",)
        axes = draw(st.sampled_from([("layer", "head"), ("layer", "position")]))
    elif shape == "components":
        components = draw(st.permutations(LAYERED))[0:2]
        axes = ("component", *axes)
    elif shape == "embedding":
        components, axes = ("embedding_output",), ("position",)
    return Case(
        attention,
        base,
        {"clean": None, "other": other, "number": draw(st.sampled_from([0.0, 1.5]))}[kind],
        tuple(components),
        axes,
        draw(choose(LAYERS)) if "layer" in axes else None,
        draw(choose(columns)),
        draw(choose(HEADS)) if "head" in axes else None,
        draw(st.integers(2, 4)) if shape == "window" else 1,
        noise,
    )


@given(case=cases(), memory=st.sampled_from([1, 20_000, 100_000, 1 << 30]))
def test_growing_batch_equals_the_loop(case: Case, memory: int) -> None:
    expected = case.oracle()
    result = case.sweep(memory=memory)
    assert result.method == ("batch" if case.components == ("embedding_output",) else "growing batch")
    torch.testing.assert_close(result.samples, expected, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(result.values, expected.mean(0), atol=2e-4, rtol=1e-4)


@given(case=cases(), method=st.sampled_from(["growing batch", "batch", "loop"]))
def test_every_method_gives_the_same(case: Case, method: str) -> None:
    result = case.sweep(method=method)
    assert result.method == method
    torch.testing.assert_close(result.samples, case.oracle(), atol=2e-4, rtol=1e-4)


def test_eager_for_the_sweep_alone() -> None:
    ids = torch.arange(3, 8)[None]
    options: dict[str, Any] = {"base": {"input_ids": ids}, "source": {"input_ids": ids + 9}, "metric": METRIC}
    options |= {"component": "attention_pattern", "axes": ("layer", "head"), "progress": False}
    expected = intervene.sweep(gpt2("eager"), **options)
    fused = gpt2("sdpa")
    result = intervene.sweep(fused, attention="eager", **options)
    torch.testing.assert_close(result.values, expected.values, atol=1e-5, rtol=1e-4)
    assert fused.config._attn_implementation == "sdpa"
    with pytest.raises(intervene.AttentionImplementationError, match="attention='eager'"):
        intervene.sweep(fused, **options)


@pytest.mark.parametrize("component", LAYERED)
def test_patches_matter(component: str) -> None:
    """The comparisons above would prove nothing where patching changes nothing."""
    ids = torch.arange(3, 8)[None]
    result = intervene.sweep(
        gpt2("eager"), base={"input_ids": ids}, source={"input_ids": ids + 20}, metric=METRIC, component=component
    )
    assert (result.values[:, -1] - result.base).abs().min() > 1e-3


@pytest.mark.parametrize("component", ["logits", "lm_head.output"])
@pytest.mark.parametrize("positions", [[-1], [0, -1], None])
def test_logits_are_patched_by_the_columns_of_the_prompt(component: str, positions: list[int] | None) -> None:
    """They are all computed then, where other sweeps ask for the last ones alone."""
    model, ids = gpt2("sdpa"), torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])

    def patched(column: int) -> Tensor:
        def change(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            output = output.clone()
            output[:, column] = source[:, column]
            return output

        handle = model.lm_head.register_forward_hook(change)
        logits: Tensor = model(input_ids=ids).logits
        handle.remove()
        return by_hand(logits, None)

    with torch.no_grad():
        source = model(input_ids=ids + 20).logits
        expected = torch.stack([patched(column) for column in positions or range(4)], 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = intervene.sweep(
            model,
            base={"input_ids": ids},
            source={"input_ids": ids + 20},
            metric=METRIC,
            component=component,
            axes=("position",),
            positions=positions,
        )
    torch.testing.assert_close(result.samples, expected, atol=1e-5, rtol=1e-5)
    assert (result.values[-1] - result.base).abs() > 1e-3
