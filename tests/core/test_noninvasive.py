"""Nothing about a model is different afterwards, bit for bit, however a session or a read ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import intervene
from intervene.errors import AttentionImplementationError, NeverFiredError, ShapeMismatchError

SITES = [
    "embedding_output",
    "layer.0.block_input",
    "layer.1.query_output",
    "layer.1.head_attention_value_output",
    "layer.1.mlp_output",
    "layer.2.attention_output",
    "layer.2.block_output",
    "final_norm_output",
    "logits",
    "transformer.wte.output",
    "transformer.h.1.mlp.act.input",
    "output",
]
PATTERNS = ["layer.0.attention_scores", "layer.1.attention_pattern"]


def cross(h: Tensor) -> Tensor:
    raise ZeroDivisionError


def interrupt(*args: Any) -> Any:
    raise KeyboardInterrupt


@contextmanager
def failing(module: nn.Module, error: type[BaseException]) -> Iterator[None]:
    """A module whose forward raises."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    before = vars(module).copy()
    module.forward = fail
    try:
        yield
    finally:
        vars(module).clear()
        vars(module).update(before)


Ending = Callable[[intervene.Adapted, Tensor, str | None], None]


def success(adapted: intervene.Adapted, ids: Tensor, attention: str | None) -> None:
    sites = SITES[:-1] + (PATTERNS if attention else [])
    with adapted.session(
        reads=sites, writes={s: lambda h: h * 1.5 for s in sites}, attention=attention, grad=True
    ) as session:
        adapted.model(ids)
    assert len(session.values) == len(sites)


def read_that_stops(adapted: intervene.Adapted, ids: Tensor, attention: str | None) -> None:
    adapted.read(["layer.0.mlp_output", *(PATTERNS if attention else [])], input_ids=ids, attention=attention)


def read_with_grad(adapted: intervene.Adapted, ids: Tensor, attention: str | None) -> None:
    with torch.no_grad():
        adapted.read("layer.0.mlp_output", input_ids=ids, attention=attention, grad=True)


def exception_in_the_model(adapted: intervene.Adapted, ids: Tensor, attention: str | None) -> None:
    with pytest.raises(IndexError), adapted.session(reads=SITES, attention=attention):
        adapted.model(ids + 100)


def exception_in_a_module(adapted: intervene.Adapted, ids: Tensor, attention: str | None) -> None:
    sites = ["layer.0.block_output", *(PATTERNS if attention else [])]
    with failing(adapted.model.get_submodule("transformer.h.1.attn.c_proj"), RuntimeError):
        with pytest.raises(RuntimeError), adapted.session(reads=sites, attention=attention):
            adapted.model(ids)
        with pytest.raises(RuntimeError):
            adapted.read([*sites, "layer.1.block_output"], input_ids=ids, attention=attention)


def interrupt_in_a_module(adapted: intervene.Adapted, ids: Tensor, attention: str | None) -> None:
    sites = ["layer.0.block_output", *(PATTERNS if attention else [])]
    with failing(adapted.model.get_submodule("transformer.h.1.attn.c_proj"), KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt), adapted.session(reads=sites, attention=attention):
            adapted.model(ids)
        with pytest.raises(KeyboardInterrupt):
            adapted.read([*sites, "layer.1.block_output"], input_ids=ids, attention=attention)


def a_function_raises(adapted: intervene.Adapted, ids: Tensor, attention: str | None) -> None:
    for site in ["layer.1.mlp_output", *(PATTERNS if attention else [])]:
        with pytest.raises(ZeroDivisionError), adapted.session(writes={site: cross}, attention=attention):
            adapted.model(ids)


def a_function_is_interrupted(adapted: intervene.Adapted, ids: Tensor, attention: str | None) -> None:
    for site in ["layer.1.mlp_output", *(PATTERNS if attention else [])]:
        with pytest.raises(KeyboardInterrupt), adapted.session(writes={site: interrupt}, attention=attention):
            adapted.model(ids)


def a_bad_shape(adapted: intervene.Adapted, ids: Tensor, attention: str | None) -> None:
    for site in ["layer.1.mlp_output", *(PATTERNS if attention else [])]:
        with pytest.raises(ShapeMismatchError), adapted.session(writes={site: torch.zeros(5)}, attention=attention):
            adapted.model(ids)


def never_fired(adapted: intervene.Adapted, ids: Tensor, attention: str | None) -> None:
    with pytest.raises(NeverFiredError), adapted.session(reads=SITES, attention=attention):
        pass


def a_body_that_raises(adapted: intervene.Adapted, ids: Tensor, attention: str | None) -> None:
    with pytest.raises(KeyboardInterrupt), adapted.session(reads=SITES, attention=attention):
        interrupt()


def backward(adapted: intervene.Adapted, ids: Tensor, attention: str | None) -> None:
    with adapted.session(writes={"layer.1.mlp_output": lambda h: h * 2}, attention=attention):
        loss = adapted.model(ids, labels=ids).loss
        torch.autograd.grad(loss, [p for p in adapted.model.parameters() if p.requires_grad])


def generation(adapted: intervene.Adapted, ids: Tensor, attention: str | None) -> None:
    with adapted.session(reads=SITES[:-1], writes={"layer.1.mlp_output": 0.0}, attention=attention):
        adapted.model.generate(ids, max_new_tokens=3, do_sample=False)  # type: ignore[operator]


def nested(adapted: intervene.Adapted, ids: Tensor, attention: str | None) -> None:
    with adapted.session(reads=SITES, attention=attention), adapted.session(reads=SITES, attention=attention):
        adapted.model(ids)
        read_that_stops(adapted, ids, attention)


ENDINGS: list[Ending] = [
    success,
    read_that_stops,
    read_with_grad,
    exception_in_the_model,
    exception_in_a_module,
    interrupt_in_a_module,
    a_function_raises,
    a_function_is_interrupted,
    a_bad_shape,
    never_fired,
    a_body_that_raises,
    backward,
    generation,
    nested,
]


def callers_model() -> nn.Module:
    """A model as its owner may have left it: hooks of every kind, a frozen part, one module in train mode."""
    model = intervene.tiny("gpt2", attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)
    for parameter in model.get_submodule("transformer.h.0").parameters():
        parameter.requires_grad_(False)
    model.get_submodule("transformer.h.2.mlp").train()
    for path in ("", "transformer", "transformer.h.1", "transformer.h.1.mlp", "lm_head", "transformer.h.1.attn"):
        module = model.get_submodule(path)
        module.register_forward_pre_hook(lambda m, a: None)
        module.register_forward_pre_hook(lambda m, a, k: None, with_kwargs=True)
        module.register_forward_hook(lambda m, a, o: None)
        module.register_forward_hook(lambda m, a, k, o: None, with_kwargs=True, always_call=True)
        if path not in ("", "transformer"):  # torch warns about these where an output is no tensor
            module.register_full_backward_hook(lambda m, i, o: None)
            module.register_full_backward_pre_hook(lambda m, o: None)
        module.register_state_dict_post_hook(lambda *a: None)
        module.register_state_dict_pre_hook(lambda *a: None)
        module.register_load_state_dict_pre_hook(lambda *a: None)
        module.register_load_state_dict_post_hook(lambda *a: None)
    return model


@pytest.mark.parametrize("attention", [None, "eager"])
@pytest.mark.parametrize("ending", ENDINGS, ids=lambda e: e.__name__)
def test_untouched(
    ending: Ending, attention: str | None, ids: Tensor, snapshot: Any, assert_untouched: Callable[..., None]
) -> None:
    model = callers_model()
    adapted = intervene.adapt(model)
    before = snapshot(model)
    ending(adapted, ids, attention)
    assert_untouched(model, before)


def test_the_snapshot_sees_what_it_should(snapshot: Any, assert_untouched: Callable[..., None]) -> None:
    """Every kind of trace that could be left is one that the comparison notices."""

    def order(m: Any) -> None:
        m.transformer.h[1]._forward_hooks.move_to_end(next(iter(m.transformer.h[1]._forward_hooks)))

    traces: list[Callable[[Any], Any]] = [
        lambda m: m.transformer.h[0].register_forward_hook(lambda *a: None),
        lambda m: m.register_forward_pre_hook(lambda *a: None),
        lambda m: m.transformer.register_full_backward_hook(lambda *a: None),
        lambda m: m.register_state_dict_post_hook(lambda *a: None),
        order,
        lambda m: m.train(),
        lambda m: m.lm_head.weight.requires_grad_(False),
        lambda m: m.lm_head.weight.data.mul_(2),
        lambda m: setattr(m.transformer.h[0], "left", 1),
        lambda m: setattr(m.config, "n_layer", 7),
        lambda m: setattr(m.config, "_attn_implementation", "eager"),
        lambda m: torch.rand(1),
    ]
    for trace in traces:
        model = callers_model()
        before = snapshot(model)
        trace(model)
        with pytest.raises(AssertionError):
            assert_untouched(model, before)


def test_the_callers_hooks_fire_within_and_after(ids: Tensor) -> None:
    model = intervene.tiny("gpt2")
    fired: list[str] = []
    for path in ("transformer.h.1", "transformer.h.1.mlp", "transformer.drop"):
        module = model.get_submodule(path)
        module.register_forward_pre_hook(lambda m, a, p=path: fired.append(p))
        module.register_forward_hook(lambda m, a, o, p=path: fired.append(p))
    model(ids)
    plain = fired.copy()
    fired.clear()
    with intervene.adapt(model).session(reads=SITES, writes={s: lambda h: h for s in SITES[:-1]}):
        model(ids)
    assert fired == plain
    fired.clear()
    model(ids)
    assert fired == plain


def test_hooks_that_the_caller_adds_or_removes_inside_stay_so(ids: Tensor) -> None:
    model = intervene.tiny("gpt2")
    module = model.get_submodule("transformer.h.1")
    early = module.register_forward_hook(lambda m, a, o: None)
    with intervene.adapt(model).session(reads=["layer.1.block_output"]):
        late = module.register_forward_hook(lambda m, a, o: None)
        early.remove()
        model(ids)
    assert list(module._forward_hooks) == [late.id]


@pytest.mark.parametrize("train", [False, True])
def test_random_numbers_are_the_models_alone(train: bool, ids: Tensor) -> None:
    """With dropout, a session draws what the plain forward draws."""
    model = intervene.tiny("gpt2").train(train)
    torch.manual_seed(3)
    plain = model(ids).logits
    state = torch.get_rng_state()
    torch.manual_seed(3)
    with intervene.adapt(model).session(reads=SITES[:-1], writes={s: lambda h: h for s in SITES[:-1]}):
        out = model(ids).logits
    assert torch.equal(out, plain)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(m.training is train for m in model.modules())


def test_identity_everywhere_at_once_is_the_plain_forward(adapted: intervene.Adapted, ids: Tensor) -> None:
    sites = [s for s in adapted.sites if s.component not in ("attention_scores", "attention_pattern")]
    with torch.no_grad():
        plain = adapted.model(ids).logits
        values = adapted.read(sites, input_ids=ids)
        with adapted.session(writes={s: lambda h: h for s in sites}):
            assert torch.equal(adapted.model(ids).logits, plain)
        with adapted.session(writes=dict(values)):
            assert torch.equal(adapted.model(ids).logits, plain)
        assert torch.equal(adapted.model(ids).logits, plain)


def test_write_and_write_back_in_one_run(adapted: intervene.Adapted, ids: Tensor) -> None:
    with torch.no_grad():
        plain = adapted.model(ids).logits
        for site in adapted.sites.filter(layer=1):
            if site.component in ("attention_scores", "attention_pattern"):
                continue
            own = adapted.read(site, input_ids=ids)[site]
            with adapted.session(writes=[(site, torch.randn_like(own)), (site, own)]):
                assert torch.equal(adapted.model(ids).logits, plain)


def test_a_refusal_at_entry_leaves_nothing(
    adapted: intervene.Adapted, snapshot: Any, assert_untouched: Callable[..., None]
) -> None:
    before = snapshot(adapted.model)
    with pytest.raises(AttentionImplementationError), adapted.session(reads=[*SITES, *PATTERNS]):
        pass
    assert_untouched(adapted.model, before)


def test_the_model_can_be_saved_and_copied_within(toy: nn.Module, x: Tensor) -> None:
    state = {n: t.clone() for n, t in toy.state_dict().items()}
    with intervene.adapt(toy).session(writes={"first.output": 0.0}):
        toy(x)
        assert list(toy.state_dict()) == list(state)
        assert all(torch.equal(t, state[n]) for n, t in toy.state_dict().items())
