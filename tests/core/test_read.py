"""`read`: one forward, as short as it may be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import intervene
from intervene.errors import NeverFiredError, UnknownSiteError


@pytest.fixture
def ran(gpt2: Any) -> Any:
    """Which modules run, by path."""
    paths: list[str] = []
    handles = [
        m.register_forward_pre_hook(lambda m, a, p=p: paths.append(p))
        for p, m in gpt2.named_modules()
        if (p.startswith("transformer.h.") and p.count(".") == 2) or p == "lm_head"
    ]
    yield paths
    for handle in handles:
        handle.remove()


def test_the_forward_stops_after_the_last_site(adapted: intervene.Adapted, ids: Tensor, ran: list[str]) -> None:
    adapted.read(["layer.1.mlp_output", "layer.0.query_output"], input_ids=ids)
    assert ran == ["transformer.h.0", "transformer.h.1"]
    ran.clear()
    adapted.read(["embedding_output"], input_ids=ids)
    assert ran == []


def test_reading_leaves_a_call_of_ones_own_there_too(adapted: intervene.Adapted, ids: Tensor, ran: list[str]) -> None:
    site = adapted["layer.0.block_output"].at(positions=-1)
    finished = False
    with adapted.reading([site, "layer.1.block_input"]) as session:
        adapted.model.generate(ids, max_new_tokens=1, do_sample=False)  # type: ignore[operator]
        finished = True
    assert not finished
    assert ran == ["transformer.h.0", "transformer.h.1"]
    assert torch.equal(session.values[site], adapted.read(site, input_ids=ids)[site])
    assert session.values["layer.1.block_input"].shape == (2, 6, 24)
    with pytest.raises(NeverFiredError), adapted.reading(["layer.0.block_output"]):
        pass


def test_a_module_path_alone_does_not_stop_it(adapted: intervene.Adapted, ids: Tensor, ran: list[str]) -> None:
    """The module might run again."""
    everything = ["transformer.h.0", "transformer.h.1", "transformer.h.2", "lm_head"]
    adapted.read(["transformer.h.0.output"], input_ids=ids)
    assert ran == everything
    ran.clear()
    adapted.read(["transformer.h.0.output", "layer.0.block_output"], input_ids=ids)
    assert ran == everything
    ran.clear()
    adapted.read([adapted["transformer.h.0.output"].at(call=0)], input_ids=ids)
    assert ran == ["transformer.h.0"]


def test_what_is_read_is_what_a_hook_sees(gpt2: Any, adapted: intervene.Adapted, ids: Tensor) -> None:
    seen: dict[str, Tensor] = {}
    block = gpt2.transformer.h[1]
    handles = [
        block.register_forward_pre_hook(lambda m, a: seen.update(block_input=a[0])),
        block.register_forward_hook(lambda m, a, o: seen.update(block_output=o)),
        block.attn.register_forward_hook(lambda m, a, o: seen.update(attention_output=o[0])),
        block.mlp.c_proj.register_forward_pre_hook(lambda m, a: seen.update(mlp_activation=a[0])),
        gpt2.lm_head.register_forward_hook(lambda m, a, o: seen.update(logits=o)),
    ]
    gpt2(ids)
    for handle in handles:
        handle.remove()
    sites = {n: (adapted.site(n, layer=1) if n != "logits" else adapted["logits"]) for n in seen}
    values = adapted.read(sites.values(), input_ids=ids)
    for name, site in sites.items():
        assert torch.equal(values[site], seen[name])


def test_raw_paths(gpt2: Any, adapted: intervene.Adapted, ids: Tensor) -> None:
    values = adapted.read(["transformer.wte.output", "transformer.wte.input", "output", "lm_head.input"], ids)
    assert torch.equal(values["transformer.wte.output"], gpt2.transformer.wte(ids))
    assert torch.equal(values["transformer.wte.input"], ids)
    assert torch.equal(values["output"], gpt2(ids).logits)
    assert torch.equal(gpt2.lm_head(values["lm_head.input"]), values["output"])


def test_a_model_of_no_family() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(2 * 4 * 4, 3))
    x = torch.randn(5, 1, 6, 6)
    adapted = intervene.adapt(model)
    assert adapted.adapter is None
    assert len(adapted.sites) == 0
    assert adapted.layers == 0
    values = adapted.read(["0.output", "1.output", "3.input", "output", "input"], x)
    assert torch.equal(values["0.output"], model[0](x))
    assert torch.equal(values["1.output"], model[0](x).relu())
    assert torch.equal(values["output"], model(x))
    assert torch.equal(values["input"], x)
    rows = adapted["0.output"].at(rows=[3, 1])
    assert torch.equal(adapted.read(rows, x)[rows], model[0](x)[[3, 1]])


def test_one_site_a_list_or_any_iterable(adapted: intervene.Adapted, ids: Tensor) -> None:
    site = adapted["layer.0.block_output"]
    mixed: list[Any] = [site, site.address]
    forms: list[Any] = [site, "layer.0.block_output", [site], (s for s in mixed), {site}]
    for sites in forms:
        assert list(adapted.read(sites, input_ids=ids)) == [site]
    assert len(adapted.read([], input_ids=ids)) == 0


def test_grad_mode(adapted: intervene.Adapted, ids: Tensor) -> None:
    site = "layer.0.block_output"
    assert adapted.read(site, input_ids=ids)[site].grad_fn is None
    assert torch.is_grad_enabled()
    with torch.no_grad():
        assert adapted.read(site, input_ids=ids, grad=True)[site].grad_fn is not None
        assert not torch.is_grad_enabled()


def test_values_are_copies(adapted: intervene.Adapted, ids: Tensor) -> None:
    """Two sites of one tensor share no memory, and neither is the model's."""
    values = adapted.read(["layer.0.block_output", "layer.1.block_input", "transformer.wte.input"], input_ids=ids)
    values["transformer.wte.input"].zero_()
    values["layer.0.block_output"].zero_()
    assert ids.all()
    assert values["layer.1.block_input"].all()


def test_a_selection_and_its_whole(adapted: intervene.Adapted, ids: Tensor) -> None:
    whole = adapted.site("head_value_output", layer=1)
    narrow = whole.at(heads=[2, 0], positions=[[0, 5], [3, 1]], dims=slice(2, 5), rows=slice(None))
    values = adapted.read([whole, narrow], input_ids=ids)
    expected = values[whole][:, [2, 0]][..., 2:5]
    expected = torch.stack([expected[0][:, [0, 5]], expected[1][:, [3, 1]]])
    assert torch.equal(values[narrow], expected)
    assert narrow.whole == whole


def test_something_that_is_no_site(adapted: intervene.Adapted) -> None:
    with pytest.raises(TypeError, match="expected a site or an address, found int"):
        adapted.read([3])  # type: ignore[list-item]
    with pytest.raises(UnknownSiteError):
        adapted.read("no such thing")
