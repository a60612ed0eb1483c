"""How an adapter is found, and what it says of a model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import intervene
from intervene import registry
from intervene.adapter import Table
from intervene.errors import UnknownSiteError, UnsupportedModelError
from intervene.lenses import Chunk
from intervene.ports import Input, Output


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.up(x).chunk(2, dim=-1)
        return x + left * right


class Stacked(nn.Module):
    def __init__(self, blocks: int = 2) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Any:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class StackedAdapter(intervene.Adapter):
    """A stranger's family, with no spec beyond GPT-2's names."""

    family = "stacked"
    models = ("Stacked",)
    blocks = "blocks"
    heads = {"Stacked": "head"}  # noqa: RUF012
    spec = "gpt2"

    def components(self, config: Any) -> Table:
        return {
            "block_output": Output(),
            "block_input": Input(),
            "mlp_activation": Output("up") >> Chunk(1, of=2),
        }

    def axes(self, component: str, tower: str | None = None) -> tuple[str, ...]:
        return ("batch", "position", "feature")


@pytest.fixture
def registered() -> Iterator[None]:
    intervene.register(StackedAdapter)
    yield
    del registry._registered["stacked"]


def test_a_table_is_enough(registered: None) -> None:
    model: Any = Stacked()
    x = torch.randn(2, 5, 4)
    adapted = intervene.adapt(model)
    assert isinstance(adapted.adapter, StackedAdapter)
    assert adapted.layers == 2
    assert repr(adapted) == "<Adapted Stacked (stacked): 2 layers, 7 sites>"
    # In the order of computation, whatever the table's order.
    assert [s.address for s in adapted.sites] == [
        "layer.0.block_input",
        "layer.0.mlp_activation",
        "layer.0.block_output",
        "layer.1.block_input",
        "layer.1.mlp_activation",
        "layer.1.block_output",
        "logits",
    ]
    values = adapted.read(["layer.1.mlp_activation", "logits"], x)
    assert torch.equal(values["layer.1.mlp_activation"], model.blocks[1].up(model.blocks[0](x))[..., 4:])
    assert torch.equal(values["logits"], model(x))


def test_subclasses_are_recognised(registered: None) -> None:
    class Mine(Stacked):
        pass

    assert isinstance(intervene.adapt(Mine()).adapter, StackedAdapter)
    assert intervene.adapt(Mine())["logits"].port == Output("head")


def test_an_adapter_by_hand() -> None:
    assert intervene.adapt(Stacked()).adapter is None
    assert isinstance(intervene.adapt(Stacked(), StackedAdapter).adapter, StackedAdapter)


def test_first_party_families_come_through_the_entry_points() -> None:
    assert "gpt2" in intervene.families()
    assert "gpt2" not in registry._registered
    assert intervene.families()["gpt2"].family == "gpt2"


def test_a_registered_adapter_goes_before_an_installed_one(gpt2: nn.Module) -> None:
    class Mine(intervene.families()["gpt2"]):  # type: ignore[misc]
        family = "my gpt2"
        spec = "gpt2"

    intervene.register(Mine)
    try:
        assert type(intervene.adapt(gpt2).adapter) is Mine
    finally:
        del registry._registered["my gpt2"]
    assert type(intervene.adapt(gpt2).adapter) is intervene.families()["gpt2"]


def test_a_family_that_is_none() -> None:
    with pytest.raises(UnknownSiteError, match=r"no family 'gpt'; there are .*gpt2.*Did you mean 'gpt2'"):
        intervene.tiny("gpt")


def test_a_tiny_model_of_a_class_that_is_none() -> None:
    with pytest.raises(UnsupportedModelError, match="no model class 'GPT2'; there are GPT2Model"):
        intervene.tiny("gpt2", "GPT2")
    with pytest.raises(UnsupportedModelError, match="StackedAdapter has no tiny model"):
        StackedAdapter.tiny()


def test_blocks_that_are_no_list(registered: None) -> None:
    model = Stacked()
    model.blocks = Block()  # type: ignore[assignment]
    with pytest.raises(UnsupportedModelError, match="blocks is a Block, not a list of blocks"):
        _ = intervene.adapt(model).layers


def test_tiny_is_seeded_and_leaves_the_random_state(ids: Tensor) -> None:
    before = torch.get_rng_state()
    a, b, c = intervene.tiny("gpt2"), intervene.tiny("gpt2"), intervene.tiny("gpt2", seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert not a.training
    assert torch.equal(a(ids).logits, b(ids).logits)
    assert not torch.equal(a(ids).logits, c(ids).logits)
    assert intervene.tiny("gpt2", n_layer=5).config.n_layer == 5  # type: ignore[union-attr]


def test_sites_filter_knows_aliases_and_layers_from_the_end(adapted: intervene.Adapted) -> None:
    sites = adapted.sites
    assert list(sites.filter("attention_weight")) == [adapted.site("attention_weight", layer) for layer in range(3)]
    assert list(sites.filter(layer=-1)) == list(sites.filter(layer=2))
    assert list(sites.filter("mlp_output", layer=-3)) == [adapted.site("mlp_output", 0)]


def test_sites_filter_is_empty_where_what_exists_does_not_meet(adapted: intervene.Adapted) -> None:
    assert len(adapted.sites.filter("logits", layer=0)) == 0
    assert len(adapted.sites.filter("register_tokens")) == 0  # of the vocabulary, and GPT-2 has none
    assert len(adapted.sites.filter("mlp_output").filter("logits")) == 0


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"component": "mlp_outptu"}, r"no component 'mlp_outptu'\. Did you mean 'mlp_output'.*These sites have: emb"),
        ({"component": "nope"}, r"no component 'nope'\. These sites have: embedding_output, .*, logits$"),
        ({"layer": 3}, "no site of layer 3; the layers of these sites: 0 to 2"),
        ({"layer": -4}, "no site of layer -4; the layers of these sites: 0 to 2"),
        ({"component": "logits", "layer": 3}, "no site of layer 3"),
        ({"layer": "1"}, "layer is a whole number, as in layer=1; found '1'"),
        ({"tower": "vision"}, r"no site of a tower 'vision'\. These sites' towers: one, unnamed"),
    ],
)
def test_sites_filter_refuses_what_no_site_has(
    adapted: intervene.Adapted, wanted: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnknownSiteError, match=message):
        adapted.sites.filter(**wanted)


def test_sites_of_no_layer_have_none_to_choose(adapted: intervene.Adapted) -> None:
    with pytest.raises(UnknownSiteError, match="no site of layer 0; the layers of these sites: none"):
        adapted.sites.filter("logits").filter(layer=0)
    with pytest.raises(UnknownSiteError, match="no site of layer 1; the layers of these sites: 0, 2"):
        intervene.Sites([adapted.site("mlp_output", 0), adapted.site("mlp_output", 2)]).filter(layer=1)


@pytest.mark.parametrize("layer", ["1", 1.0])
def test_a_layer_that_is_no_whole_number(adapted: intervene.Adapted, layer: Any) -> None:
    with pytest.raises(UnknownSiteError, match=f"layer is a whole number, as in layer=1; found {layer!r}"):
        adapted.site("block_output", layer=layer)


def test_a_component_that_is_no_name(adapted: intervene.Adapted) -> None:
    for ask in (adapted.site, adapted.sites.filter):
        with pytest.raises(TypeError, match="component is a name, such as 'block_output'; found 3"):
            ask(3)  # type: ignore[arg-type]


def test_sites_filter_and_index(adapted: intervene.Adapted) -> None:
    sites = adapted.sites
    assert len(sites.filter(layer=1)) == 17
    assert [s.layer for s in sites.filter(component="mlp_output")] == [0, 1, 2]
    assert [s.address for s in sites.filter(component="mlp_output", layer=2)] == ["layer.2.mlp_output"]
    assert sites[0].address == "embedding_output"
    assert [s.address for s in sites[-2:]] == ["final_norm_output", "logits"]
    assert sites[0] in sites
    assert repr(sites).startswith(f"<{len(sites)} sites: embedding_output, layer.0.block_input")
    assert len(set(sites)) == len(sites)
    for site in sites:
        assert adapted[site.address] == site
        assert str(site) == site.address


def test_sites_are_data(adapted: intervene.Adapted) -> None:
    """Of two models of one family the sites are the same; they can be pickled, and hold no module."""
    import pickle

    other = intervene.adapt(intervene.tiny("gpt2", seed=4))
    for a, b in zip(adapted.sites, other.sites, strict=True):
        assert a == b
        assert hash(a) == hash(b)
        assert pickle.loads(pickle.dumps(a)) == a
    assert adapted["layer.0.block_output"].at(positions=1) != adapted["layer.0.block_output"]


def test_aliases(adapted: intervene.Adapted) -> None:
    assert adapted["layer.0.attention_weight"] == adapted["layer.0.attention_pattern"]
    assert adapted.site("attention_weight", layer=1) == adapted.site("attention_pattern", layer=1)


def test_parts_load_on_demand() -> None:
    code = (
        "import sys, intervene\n"
        "assert 'intervene.conformance' not in sys.modules\n"
        "assert callable(intervene.conformance.check_adapter)\n"
        "assert intervene.demo.DEMO_PROMPT and 'gpt2' in intervene.specs.families()\n"
        "assert not hasattr(intervene, 'nothing_of_that_name')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_family_is_available_with_its_models_package(monkeypatch: pytest.MonkeyPatch) -> None:
    gpt2 = intervene.families()["gpt2"]
    assert gpt2.available()
    monkeypatch.setattr("intervene.adapter.find_spec", lambda name: None if name == "transformers" else name)
    assert not gpt2.available()
