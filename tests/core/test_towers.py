"""Towers: a model with two stacks of blocks, each with its own addresses, layers and place in its sequence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import intervene
import intervene.conformance
from intervene.adapter import Adapter, Tower
from intervene.conformance import Status
from intervene.errors import AbsentComponentError, SelectionError, UnknownSiteError
from intervene.ports import Input, Output

WIDTH, CLASSES = 4, 3
LOW, HIGH = 2, 3
LENGTH = 4


class LowBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + torch.tanh(self.mlp(hidden))


class Low(nn.Module):
    """Takes tokens; its norm runs twice, over all positions and over the first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, WIDTH)
        self.blocks = nn.ModuleList(LowBlock() for _ in range(LOW))
        self.norm = nn.LayerNorm(WIDTH)
        self.config = SimpleNamespace(depth=LOW, width=WIDTH, length=None)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.embed(input_ids)
        for block in self.blocks:
            hidden = block(hidden)
        hidden = self.norm(hidden)
        return hidden, self.norm(hidden[:, 0])


class HighBlock(nn.Module):
    """Adds a mixture of the low voice's positions, all of which every position sees."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor, source: Tensor) -> Tensor:
        pattern = (self.query(hidden) @ source.transpose(-1, -2)).softmax(-1)
        return hidden + pattern @ source


class High(nn.Module):
    """Takes features a few at a time, after as many as ``past_key_values`` says went before."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(HighBlock() for _ in range(HIGH))

    def forward(self, inputs_embeds: Tensor, source: Tensor, past_key_values: Any = None) -> Tensor:
        hidden = inputs_embeds
        for block in self.blocks:
            hidden = block(hidden, source)
        return hidden


class Duet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = Low(), High()
        self.head = nn.Linear(WIDTH, CLASSES)
        high = SimpleNamespace(depth=HIGH, width=WIDTH, length=LENGTH)
        self.config = SimpleNamespace(classes=CLASSES, low=self.low.config, high=high)

    def forward(self, input_ids: Tensor, inputs_embeds: Tensor) -> Tensor:
        source, _ = self.low(input_ids)
        return self.head(self.high(inputs_embeds=inputs_embeds, source=source)[:, -1])

    def sing(self, input_ids: Tensor, inputs_embeds: Tensor) -> Tensor:
        """The high voice one position at a time, as a caption is generated: the model's own forward never runs."""
        source, _ = self.low(input_ids)
        steps = []
        for column in range(inputs_embeds.shape[1]):
            step = inputs_embeds[:, column : column + 1]
            steps.append(self.high(inputs_embeds=step, source=source, past_key_values=Past(column)))
        return torch.cat(steps, 1)


class Past(SimpleNamespace):
    def __init__(self, length: int) -> None:
        super().__init__(get_seq_length=lambda: length)


class Solo(Low):
    """The low voice alone."""


class DuetAdapter(Adapter):
    family = "duet"
    models = ("Duet", "Solo")
    spec = Path(__file__).with_name("duet.toml")

    def components(self, config: Any) -> dict[str, Any]:
        return {"block_input": Input(), "mlp_output": Output("mlp"), "block_output": Output()}

    def towers(self) -> Sequence[Tower]:
        root = "low" if self.known_as == "Duet" else ""
        outside = {"embedding_output": Output("embed")}
        low = Tower("low", "blocks", self.components(self.config), outside, root)
        if not root:
            return [low]
        inside = {"block_input": Input(), "cross_attention_source": Input("", "source"), "block_output": Output()}
        whole = Tower(None, "", {}, {"logits": Output("head")})
        return [low, Tower("high", "blocks", inside, {}, "high"), whole]

    @classmethod
    def config_of(cls, model: nn.Module) -> Any:
        return model.config if isinstance(model, Duet) else SimpleNamespace(low=model.config)

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        return make({"Duet": Duet, "Solo": Solo}[model or "Duet"])

    @classmethod
    def example_inputs(
        cls, model: nn.Module, rows: int = 2, columns: int = 6, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        inputs = {"input_ids": torch.randint(11, (rows, columns), generator=generator)}
        if isinstance(model, Duet):
            inputs["inputs_embeds"] = torch.randn(rows, LENGTH, WIDTH, generator=generator)
        return inputs


def make(model: type[nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return model().eval()


def model_of(duet: intervene.Adapted) -> Duet:
    assert isinstance(duet.model, Duet)
    return duet.model


@pytest.fixture(scope="module")
def duet() -> intervene.Adapted:
    return intervene.adapt(make(Duet), adapter=DuetAdapter)


@pytest.fixture(scope="module")
def solo() -> intervene.Adapted:
    return intervene.adapt(make(Solo), adapter=DuetAdapter)


@pytest.fixture(scope="module")
def inputs() -> dict[str, Any]:
    return DuetAdapter.example_inputs(make(Duet), generator=torch.Generator().manual_seed(4))


class TestSites:
    def test_addresses_begin_with_the_tower(self, duet: intervene.Adapted) -> None:
        assert duet.towers == ("low", "high")
        assert [s.address for s in duet.sites] == [
            "low.embedding_output",
            *(f"low.layer.{i}.{c}" for i in range(LOW) for c in ("block_input", "mlp_output", "block_output")),
            *(
                f"high.layer.{i}.{c}"
                for i in range(HIGH)
                for c in ("block_input", "cross_attention_source", "block_output")
            ),
            "logits",
        ]

    def test_every_address_leads_back_to_its_site(self, duet: intervene.Adapted) -> None:
        for site in duet.sites:
            assert duet[site.address] is site
            assert duet.site(site.component, site.layer, site.tower) is site

    def test_each_tower_has_its_own_layers(self, duet: intervene.Adapted) -> None:
        assert duet.layers == LOW + HIGH
        assert duet.site("block_output", -1, "low").address == "low.layer.1.block_output"
        assert duet["high.layer.-1.block_output"].address == "high.layer.2.block_output"
        with pytest.raises(UnknownSiteError, match=r"layer 2 is out of range: the tower low has 2 layers \(0 to 1\)"):
            duet.site("block_output", 2, "low")

    def test_a_component_of_several_towers_needs_one(self, duet: intervene.Adapted) -> None:
        with pytest.raises(UnknownSiteError, match="block_output exists in the towers low, high: say tower="):
            duet.site("block_output", 0)
        with pytest.raises(UnknownSiteError, match="exists in the towers low, high"):
            duet["layer.0.block_output"]

    def test_a_component_of_one_tower_needs_none(self, duet: intervene.Adapted) -> None:
        assert duet.site("mlp_output", 1).address == "low.layer.1.mlp_output"
        assert duet["layer.2.cross_attention_source"].tower == "high"
        assert duet["logits"].tower is None

    def test_no_such_tower(self, duet: intervene.Adapted) -> None:
        with pytest.raises(UnknownSiteError, match="Duet has no tower 'middle'; it has low, high"):
            duet.site("block_output", 0, "middle")
        with pytest.raises(UnknownSiteError, match="no tower 'middle'"):
            duet["middle.layer.0.block_output"]

    def test_absent_by_tower(self, duet: intervene.Adapted, solo: intervene.Adapted) -> None:
        with pytest.raises(AbsentComponentError, match="Duet has no mlp_output: the high voice has no MLP"):
            duet.site("mlp_output", 0, "high")
        with pytest.raises(AbsentComponentError, match="no cross-attention"):
            duet["low.layer.0.cross_attention_source"]
        with pytest.raises(AbsentComponentError, match=r"Duet has no query_rotated: .*no rotary embedding$"):
            duet.site("query_rotated", 0)
        with pytest.raises(AbsentComponentError, match="one voice alone has no head"):
            solo.site("logits")

    def test_a_model_of_one_tower_keeps_its_name(self, solo: intervene.Adapted) -> None:
        assert solo.towers == ("low",)
        assert solo.site("block_output", 0) is solo["low.layer.0.block_output"] is solo["layer.0.block_output"]

    def test_filter(self, duet: intervene.Adapted) -> None:
        assert {s.tower for s in duet.sites.filter("block_output")} == {"low", "high"}
        assert len(duet.sites.filter("block_output", tower="high")) == HIGH
        last = [duet.site("block_output", -1, tower) for tower in ("low", "high")]
        assert list(duet.sites.filter("block_output", layer=-1)) == last
        assert {s.tower for s in duet.sites.filter(layer=HIGH - 1)} == {"high"}
        with pytest.raises(UnknownSiteError, match=rf"no site of layer {HIGH - 1}; .*: low: 0"):
            duet.sites.filter(layer=HIGH - 1, tower="low")
        with pytest.raises(
            UnknownSiteError, match=r"tower 'hihg'\. Did you mean 'high'\? These sites' towers: low, high"
        ):
            duet.sites.filter(tower="hihg")


class TestSessions:
    def test_towers_are_read_and_written_together(self, duet: intervene.Adapted, inputs: dict[str, Any]) -> None:
        plain = duet.model(**inputs)
        written = torch.zeros(2, 6, WIDTH)
        with duet.session(
            reads=["high.layer.0.cross_attention_source", "logits"], writes={"low.layer.1.block_output": written}
        ) as session:
            output = duet.model(**inputs)
        assert torch.equal(session.values["logits"], output)
        assert not torch.equal(output, plain)
        assert torch.equal(session.values["high.layer.0.cross_attention_source"], model_of(duet).low.norm(written))

    def test_each_tower_stands_in_its_own_sequence(self, duet: intervene.Adapted, inputs: dict[str, Any]) -> None:
        sites = ["low.layer.0.block_input", "high.layer.0.block_input"]
        whole = duet.read([*sites, "high.layer.2.block_output"], **inputs)
        last = [duet[s].at(positions=-1) for s in sites]
        assert torch.equal(duet.read(last, **inputs)[last[0]], whole[sites[0]][:, 5:])
        assert torch.equal(duet.read(last, **inputs)[last[1]], whole[sites[1]][:, 3:])

    def test_a_root_called_without_the_model(self, duet: intervene.Adapted, inputs: dict[str, Any]) -> None:
        """Column 2 of the high voice is the third step's only one, and the low voice has its own column 2."""
        plain = model_of(duet).sing(**inputs)
        high = duet["high.layer.1.block_output"].at(positions=2)
        low = duet["low.layer.1.block_output"].at(positions=2)
        with duet.session(reads=[low], writes={high: 0.0}) as session:
            sung = model_of(duet).sing(**inputs)
        changed = (sung != plain).flatten(2).any(-1)
        assert changed.tolist() == [[False, False, True, False]] * 2
        assert session.values[low].shape == (2, 1, WIDTH)

    def test_a_module_stands_in_the_sequence_of_the_tower_that_holds_it(
        self, duet: intervene.Adapted, inputs: dict[str, Any]
    ) -> None:
        named, by_path = duet["high.layer.1.block_output"], duet["high.blocks.1.output"]
        with duet.session(writes={named.at(positions=2): 0.0}):
            wanted = model_of(duet).sing(**inputs)
        with duet.session(writes={by_path.at(positions=2): 0.0}):
            assert torch.equal(model_of(duet).sing(**inputs), wanted)
        with duet.session(reads=[duet["low.blocks.0.output"].at(positions=5)]) as session:
            model_of(duet).sing(**inputs)
        assert [v.shape for v in session.values.values()] == [(2, 1, WIDTH)]

    def test_what_is_attended_to_passes_by_at_once(self, duet: intervene.Adapted, inputs: dict[str, Any]) -> None:
        """At whatever step of its own, the high voice sees the low one's positions 0 to 5."""
        site = duet["high.layer.0.cross_attention_source"]
        with duet.session(reads=[site.at(positions=-1), site.at(positions=5)], keep="all") as session:
            model_of(duet).sing(**inputs)
        from_end, from_start = (session.values[s] for s in session.values)
        assert len(from_end) == len(from_start) == 4
        for a, b in zip(from_end, from_start, strict=True):
            assert torch.equal(a, b)

    def test_a_position_that_one_tower_lacks(self, duet: intervene.Adapted, inputs: dict[str, Any]) -> None:
        site = duet["high.layer.0.block_output"].at(positions=5)
        with pytest.raises(intervene.NeverFiredError, match=r"position\(s\) \[5\] never came by"):
            duet.read(site, **inputs)
        with pytest.raises(SelectionError, match="cannot choose heads"):
            duet.read(duet["high.layer.0.block_output"].at(heads=0), **inputs)


def test_the_toy_keeps_the_laws_tower_by_tower() -> None:
    report = intervene.conformance.check_adapter(DuetAdapter)
    report.raise_if_failed()
    assert report.components == (
        *(f"low.{c}" for c in ("embedding_output", "block_input", "mlp_output", "block_output")),
        *(f"high.{c}" for c in ("block_input", "cross_attention_source", "block_output")),
        "logits",
    )
    checks = {outcome.id: outcome for outcome in report}
    assert checks["put_get:high.block_output"].status is Status.PASSED
    assert checks["meaning:low.chain:block_output"].component == "low.block_output"
    only = intervene.conformance.check_adapter(
        DuetAdapter, laws=["shaped"], components=["block_output", "low.mlp_output"]
    )
    assert [o.id for o in only] == ["shaped:low.mlp_output", "shaped:low.block_output", "shaped:high.block_output"]
    with pytest.raises(ValueError, match=r"no component 'high\.mlp_output'"):
        intervene.conformance.check_adapter(DuetAdapter, components=["high.mlp_output"])


def test_reports_name_the_tower(tmp_path: Path) -> None:
    report = intervene.conformance.check_adapter(DuetAdapter, laws=["shaped"])
    page = intervene.conformance.to_html(report)
    assert "high.block_output" in page
    assert "low.block_output" in page
    rows = {outcome["component"] for outcome in report.to_dict()["outcomes"]}
    assert {"high.block_output", "low.block_output", "logits"} <= rows


def test_one_of_several_calls(duet: intervene.Adapted, inputs: dict[str, Any]) -> None:
    """A port may mean one call of a module that the model calls twice."""
    norm = duet["low.norm.output"]
    with pytest.raises(intervene.AmbiguousCallError, match="ran 2 times"):
        duet.read(norm, **inputs)
    first, second = (intervene.Site("logits", None, None, None, Output("low.norm", call=c)) for c in (0, 1))
    with duet.session(reads=[first]) as session:
        duet.model(**inputs)
    assert session.values[first].shape == (2, 6, WIDTH)
    with duet.session(reads=[second]) as session:
        duet.model(**inputs)
    assert session.values[second].shape == (2, WIDTH)
    assert str(first.port) == "low.norm output of call 0"


def test_the_spec_names_towers(duet: intervene.Adapted) -> None:
    spec = DuetAdapter.load_spec()
    assert list(spec.towers) == ["low", "high", ""]
    assert spec.towers["high"].attends_to == {"Duet": "low"}
    assert spec.towers["low"].root == ("low",)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('Duet = "bass"', "'Duet' attends to the tower 'bass'"),
        ('Trio = "low"', "unknown model class 'Trio'"),
    ],
)
def test_attending_to_no_tower(tmp_path: Path, written: str, said: str) -> None:
    text = Path(__file__).with_name("duet.toml").read_text().replace('Duet = "low"', written)
    file = tmp_path / "duet.toml"
    file.write_text(text)
    from intervene.specs import SpecError, load

    with pytest.raises(SpecError, match=said):
        load(file)
