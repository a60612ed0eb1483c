"""Code written for pyvene 0.1.8 runs on `intervene.compat.pyvene` and gets what it got."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import intervene
import intervene.compat.pyvene as pv

from .recorded import CALLED, GENERATED, close, collected, double_and_add, inputs, load, logits, tensors

# What pyvene 0.1.8 exports beside the modules that it imports.
PUBLIC = [
    "AdditionIntervention",
    "AutoencoderIntervention",
    "BasisAgnosticIntervention",
    "BoundlessRotatedSpaceIntervention",
    "CausalModel",
    "CollectIntervention",
    "ConstantSourceIntervention",
    "DistributedRepresentationIntervention",
    "GET_LOC",
    "GRUConfig",
    "IntervenableConfig",
    "IntervenableModel",
    "IntervenableNdifModel",
    "Intervention",
    "InterventionOutput",
    "JumpReLUAutoencoderIntervention",
    "LocalistRepresentationIntervention",
    "LowRankRotatedSpaceIntervention",
    "NoiseIntervention",
    "PCARotatedSpaceIntervention",
    "RepresentationConfig",
    "RotatedSpaceIntervention",
    "SharedWeightsTrainableIntervention",
    "SigmoidMaskIntervention",
    "SigmoidMaskRotatedSpaceIntervention",
    "SkipIntervention",
    "SourcelessIntervention",
    "SubtractionIntervention",
    "TrainableIntervention",
    "VanillaIntervention",
    "ZeroIntervention",
    "_do_intervention_by_swap",
    "build_intervenable_model",
    "closeness_to_permutation_loss",
    "count_parameters",
    "create_backpack_gpt2",
    "create_blip",
    "create_blip_itm",
    "create_directory",
    "create_gpt2",
    "create_gpt2_lm",
    "create_gpt_neo",
    "create_gpt_neox",
    "create_gru",
    "create_gru_classifier",
    "create_gru_lm",
    "create_llama",
    "create_llava",
    "create_mlp_classifier",
    "create_olmo",
    "embed_to_distrib",
    "format_token",
    "get_batch_size",
    "get_list_depth",
    "get_type_from_string",
    "harmonic_sigmoid_boundary",
    "lsm",
    "random_permutation_matrix",
    "set_seed",
    "sigmoid_boundary",
    "sm",
    "top_vals",
    "type_to_dimension_mapping",
    "type_to_module_mapping",
]
ABSENT = {
    "IntervenableNdifModel": "remote",
    "create_backpack_gpt2": "module paths",
    "type_to_dimension_mapping": "spec",
}
# What its classes have beside torch's own, as `dir` says.
MEMBERS = {
    "CausalModel": "add_variable find_live_paths generate_counterfactual_dataset generate_equiv_classes "
    "generate_factual_dataset generate_timesteps get_partial_filter get_path_maxlen_filter get_specific_path_filter "
    "input_to_tensor marginalize output_to_tensor print_setting print_structure run_forward run_interchange "
    "sample_input sample_input_tree_balanced sample_intervention",
    "IntervenableModel": "count_parameters disable_intervention_gradients disable_model_gradients "
    "enable_model_gradients eval_alignment generate get_cached_activations get_cached_hot_activations get_device "
    "get_trainable_parameters load load_intervention save save_intervention set_device set_temperature set_zero_grad "
    "train_alignment",
    "RepresentationConfig": "component group_key hidden_source_representation intervention intervention_link_key "
    "intervention_type latent_dim layer low_rank_dimension max_number_of_units moe_key source_representation "
    "subspace_partition unit",
    "Intervention": "set_interchange_dim set_source_representation",
    "TrainableIntervention": "set_interchange_dim set_source_representation tie_weight",
    "BoundlessRotatedSpaceIntervention": "get_boundary_parameters get_temperature set_interchange_dim "
    "set_intervention_boundaries set_source_representation set_temperature tie_weight",
}
NOT_OFFERED = {"marginalize", "tie_weight", "get_cached_activations", "get_cached_hot_activations"}
LOCAL = ("Vanilla", "Addition", "Subtraction", "Zero", "Collect", "function")
# By pyvene's own calls alone: no weights to load, and nothing that test_values.py knows to differ.
REPLAYED = [
    case
    for case in CALLED
    if not case.get("state")
    and all(r["intervention_type"].startswith(LOCAL) for r in case["representations"])
    and (case["model"], case["representations"][0]["component"]) != ("llama", "mlp_activation")
    and case["name"] not in ("gpt2/key_output/VanillaIntervention/whole", "gpt2/value_output/VanillaIntervention/whole")
]


@pytest.mark.parametrize("name", PUBLIC)
def test_has_the_public_names(name: str) -> None:
    if name in ABSENT:
        with pytest.raises(AttributeError, match=ABSENT[name]):
            getattr(pv, name)
    else:
        assert getattr(pv, name) is not None


@pytest.mark.parametrize("name", MEMBERS)
def test_its_classes_have_their_public_members(name: str) -> None:
    members = {*dir(getattr(pv, name)), *getattr(getattr(pv, name), "_fields", ())}
    assert {member for member in MEMBERS[name].split() if member not in members} <= NOT_OFFERED
    text = (Path(__file__).parents[2] / "docs" / "coming-from-pyvene.md").read_text(encoding="utf-8")
    assert all(member in text.partition("## Not offered")[2] for member in NOT_OFFERED)


def test_causal_models_show_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    shown: list[Any] = []
    monkeypatch.setattr(pyplot, "show", lambda: shown.append(pyplot.gcf()))
    model = pv.CausalModel(
        ["a", "b", "out"],
        {"a": [0, 1], "b": [0, 1], "out": [False, True]},
        {"a": [], "b": [], "out": ["a", "b"]},
        {"a": lambda: 0, "b": lambda: 0, "out": lambda a, b: a == b},
        pos={"a": (0, 0), "b": (1, 0), "out": (0.5, 1)},
    )
    assert model.generate_timesteps() == ({"a": 0, "b": 0, "out": 1}, 1)
    with pyplot.style.context("default"):
        structure = model.print_structure(pos={"out": (3.0, 4.0)}, font=7)
        setting = model.print_setting(model.run_forward({"a": 1, "b": 1}))
    assert [figure.axes[0] for figure in shown] == [structure, setting]
    words = {text.get_text(): text for text in structure.texts if text.get_text()}
    assert {*words} == {"a", "b", "out"}
    assert words["out"].get_position() == (3.0, 4.0)
    assert words["out"].get_fontsize() == 7
    assert model.pos["out"] == (0.5, 1)
    assert {text.get_text() for text in setting.texts} - {""} == {"a = 1", "b = 1", "out = True"}
    for figure in shown:
        pyplot.close(figure)


def test_interventions_stop_asking_for_gradients() -> None:
    intervenable = pv.IntervenableModel(
        pv.RepresentationConfig(0, "block_output", intervention_type=pv.RotatedSpaceIntervention), load("gpt2")
    )
    assert intervenable.get_trainable_parameters()
    intervenable.disable_intervention_gradients()
    assert not intervenable.get_trainable_parameters()
    assert all(parameter.requires_grad for parameter in intervenable.model.parameters())
    intervenable.requires_grad_()
    assert intervenable.get_trainable_parameters()


@pytest.mark.parametrize("case", REPLAYED, ids=lambda case: case["name"])
def test_same_calls_give_the_same(case: dict[str, Any]) -> None:
    representations = []
    for fields in case["representations"]:
        given = dict(fields)
        kind = given.pop("intervention_type")
        chosen = {"intervention": double_and_add} if kind == "function" else {"intervention_type": getattr(pv, kind)}
        if "source_representation" in given:
            given["source_representation"] = tensors(case["model"])[f"input.{given['source_representation']}"]
        representations.append(pv.RepresentationConfig(**given, **chosen))
    config = pv.IntervenableConfig(representations=representations, mode=case.get("mode", "parallel"))
    intervenable = pv.IntervenableModel(config, load(case["model"]))
    call: dict[str, Any] = {"base": inputs(case["model"], "base")}
    call |= {name: case[name] for name in ("unit_locations", "subspaces") if name in case}
    if "sources" in case:
        call["sources"] = [inputs(case["model"], name) for name in case["sources"]]
    if "source_representations" in case:
        keys = list(intervenable.interventions)
        call["source_representations"] = {
            keys[int(i)]: tensors(case["model"])[f"input.{name}"] for i, name in case["source_representations"].items()
        }
        call["sources"] = [None]
    with torch.no_grad():
        first, second = intervenable(**call)
    close(second.logits, logits(case))
    for found, expected in zip(first[1] if isinstance(first, tuple) else [], collected(case), strict=True):
        close(found, expected)


@pytest.mark.parametrize("case", GENERATED, ids=lambda case: case["name"])
def test_generates_the_same(case: dict[str, Any]) -> None:
    model = load(case["model"])
    representations = []
    for fields in case["representations"]:
        given = {**fields, "intervention_type": getattr(pv, fields["intervention_type"])}
        if "source_representation" in given:
            given["source_representation"] = tensors(case["model"])[f"input.{given['source_representation']}"]
        representations.append(pv.RepresentationConfig(**given))
    intervenable = pv.IntervenableModel(representations, model)
    base = inputs(case["model"], "base")
    call: dict[str, Any] = {"base": base, "unit_locations": case.get("unit_locations"), **case["generate"]}
    if "sources" in case:
        call["sources"] = [inputs(case["model"], name) for name in case["sources"]]
    greedy: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    original, intervened = intervenable.generate(**call, **greedy)
    assert original is None
    assert torch.equal(intervened, logits(case))
    assert not torch.equal(intervened, model.generate(**base, **greedy))


def test_most_cases_are_replayed() -> None:
    assert len(REPLAYED) > 250


def test_keys_are_pyvenes_and_values_are_interventions() -> None:
    model = load("gpt2")
    intervenable = pv.IntervenableModel(
        [
            {"layer": 1, "component": "mlp_output", "intervention_type": pv.RotatedSpaceIntervention},
            {"layer": 1, "component": "mlp_output", "intervention_type": pv.VanillaIntervention},
            {"component": "transformer.h.0.mlp.output", "unit": "pos", "max_number_of_units": 2},
        ],
        model,
    )
    assert list(intervenable.interventions) == [
        "layer_1_comp_mlp_output_unit_pos_nunit_1#0",
        "layer_1_comp_mlp_output_unit_pos_nunit_1#1",
        "comp_transformer_h_0_mlp_output_unit_pos_nunit_2#0",
    ]
    rotated, swap, _ = intervenable.interventions.values()
    assert isinstance(rotated, pv.TrainableIntervention)
    assert isinstance(swap, pv.VanillaIntervention)
    assert intervenable.representations["layer_1_comp_mlp_output_unit_pos_nunit_1#0"].layer == 1


def test_a_representation_is_a_tuple_of_its_fields() -> None:
    representation = pv.RepresentationConfig(2, "mlp_output", low_rank_dimension=4)
    assert pv.RepresentationConfig(*representation) == representation
    assert representation._asdict()["low_rank_dimension"] == 4
    assert representation._replace(layer=3).layer == 3
    assert representation._fields[0] == "layer"
    assert (representation[1], len(representation)) == ("mlp_output", 14)
    config = pv.IntervenableConfig([list(representation), {"layer": 1}, representation])
    assert [r.layer for r in config.representations] == [2, 1, 2]
    config.add_intervention({"layer": 5, "intervention_type": pv.ZeroIntervention})
    assert config.representations[-1].layer == 5
    with pytest.raises(intervene.ConfigError):
        config.add_intervention({"layer": 5})


class TestGenerate:
    steering = torch.linspace(-5, 5, 16)
    greedy: ClassVar[dict[str, Any]] = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}

    def intervenable(self, kind: Any = pv.AdditionIntervention) -> pv.IntervenableModel:
        constant: dict[str, Any] = {"source_representation": self.steering} if kind is pv.AdditionIntervention else {}
        representation = pv.RepresentationConfig(0, "block_output", intervention_type=kind, **constant)
        return pv.IntervenableModel(representation, load("gpt2"))

    def test_always_returns_a_pair(self) -> None:
        prompt = inputs("gpt2", "base")
        original, intervened = self.intervenable().generate(prompt, **self.greedy)
        assert original is None
        assert intervened.shape == (2, 8)
        original, _ = self.intervenable().generate(prompt, output_original_output=True, **self.greedy)
        assert torch.equal(original, load("gpt2").generate(**prompt, **self.greedy))

    def test_acts_on_what_is_generated_unless_told_to_act_on_the_prompt(self) -> None:
        prompt, model = inputs("gpt2", "base"), load("gpt2")
        plain = model.generate(**prompt, **self.greedy)
        _, generated = self.intervenable().generate(prompt, **self.greedy)
        assert torch.equal(generated[:, :6], plain[:, :6])
        site = intervene.adapt(model)["layer.0.block_output"]
        with intervene.adapt(model).session(writes={site.at(positions=2): lambda part: part + self.steering}):
            expected = model.generate(**prompt, **self.greedy)
        _, prompted = self.intervenable().generate(
            prompt, unit_locations={"base": 2}, intervene_on_prompt=True, **self.greedy
        )
        assert torch.equal(prompted, expected)

    def test_collects_one_flat_list(self) -> None:
        (_, kept), _ = self.intervenable(pv.CollectIntervention).generate(inputs("gpt2", "base"), **self.greedy)
        assert [tuple(t.shape) for t in kept] == [(2, 1, 16)] * 2


def test_a_list_of_two_is_a_pair_of_source_and_base() -> None:
    intervenable = pv.IntervenableModel(pv.RepresentationConfig(), load("gpt2"))
    call = (inputs("gpt2", "base"), [inputs("gpt2", "source")])
    listed = intervenable(*call, unit_locations={"sources->base": [1, 3]})
    pair = intervenable(*call, unit_locations={"sources->base": (1, 3)})
    assert torch.equal(listed[1].logits, pair[1].logits)


def test_interventions_may_show_their_latents() -> None:
    class Doubled(pv.SourcelessIntervention):
        def forward(self, base, source=None, subspaces=None):
            return pv.InterventionOutput(output=base * 2, latent=base.sum())

    intervenable = pv.IntervenableModel(pv.RepresentationConfig(intervention_type=Doubled), load("gpt2"))
    for _ in range(2):
        intervenable(inputs("gpt2", "base"))
        assert len(intervenable.full_intervention_outputs) == 1
    assert intervenable.full_intervention_outputs[0].latent.shape == ()


def test_training_mode_is_the_models_too() -> None:
    model = intervene.tiny("gpt2")
    intervenable = pv.build_intervenable_model(pv.RepresentationConfig(), model)
    intervenable.train()
    assert model.training
    intervenable.eval()
    assert not model.training


def test_saves_and_loads(tmp_path) -> None:
    model = load("gpt2")
    representation = pv.RepresentationConfig(0, intervention_type=pv.RotatedSpaceIntervention)
    first, second = (pv.IntervenableModel(representation, model) for _ in range(2))
    call = (inputs("gpt2", "base"), [inputs("gpt2", "source")])
    where = {"subspaces": [[[0, 1], [2]]], "unit_locations": {"sources->base": 2}}
    expected = first(*call, **where)[1].logits
    first.save_intervention(tmp_path / "tensors")
    second.load_intervention(tmp_path / "tensors")
    assert torch.equal(second(*call, **where)[1].logits, expected)
    first.save(tmp_path / "all")
    loaded = pv.IntervenableModel.load(tmp_path / "all", model)
    assert type(loaded) is pv.IntervenableModel
    assert torch.equal(loaded(*call, **where)[1].logits, expected)


@pytest.mark.parametrize("kind", [pv.VanillaIntervention, pv.BoundlessRotatedSpaceIntervention, None])
def test_a_size_that_means_nothing_to_the_type_is_ignored(kind: Any) -> None:
    model = intervene.tiny("gpt2")
    place: dict[str, Any] = {"layer": 1, "component": "mlp_output", "low_rank_dimension": 4, "latent_dim": 3}
    if kind is None:
        place["intervention"] = lambda base, source: source
    else:
        place["intervention_type"] = kind
    made = pv.IntervenableModel(pv.IntervenableConfig(place), model)
    inputs = {"input_ids": torch.tensor([[5, 17, 9]])}
    assert made(inputs, [inputs])[1].logits.shape[:2] == (1, 3)
    instance = {
        "layer": 1,
        "component": "mlp_output",
        "low_rank_dimension": 4,
        "intervention": pv.VanillaIntervention(),
    }
    pv.IntervenableModel(pv.IntervenableConfig(instance), model)


def test_refusals_say_what_to_do() -> None:
    representation, model = pv.RepresentationConfig(), load("gpt2")
    for options, says in (
        ({"as_adaptor": True}, "source_is_input"),
        ({"intervenables_sort_fn": lambda *_: []}, "order"),
    ):
        with pytest.raises(intervene.ConfigError, match=says):
            pv.IntervenableModel(representation, model, **options)


def test_additional_keywords_reach_interventions_without_a_source() -> None:
    class Scaled(pv.SourcelessIntervention):
        def forward(self, base, source=None, subspaces=None, scale=1.0):
            return base * scale

    both = [pv.RepresentationConfig(intervention_type=Scaled), pv.RepresentationConfig(1)]
    intervenable = pv.IntervenableModel(both, load("gpt2"))
    plain = intervenable(inputs("gpt2", "base"), [None, None])[1].logits
    scaled = intervenable(inputs("gpt2", "base"), [None, None], intervention_additional_kwargs={"scale": 3.0})[1].logits
    assert not torch.equal(plain, scaled)
    assert torch.equal(intervenable(inputs("gpt2", "base"), [None, None])[1].logits, plain)


class TestUtilities:
    def test_boundaries(self) -> None:
        places = torch.arange(-3.0, 8.0)
        for function in (pv.sigmoid_boundary, pv.harmonic_sigmoid_boundary):
            soft = function(places, 0.0, 5.0, 0.01)
            assert torch.equal((soft > 0.9), (places > 0) & (places < 5))
            assert soft[0] < 1e-6
            assert soft[-1] < 1e-6

    def test_swaps(self) -> None:
        base, source = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
        swapped = pv._do_intervention_by_swap(base, source, "interchange", 2)
        assert torch.equal(swapped[..., :2], source[..., :2])
        assert torch.equal(swapped[..., 2:], base[..., 2:])
        assert torch.equal(pv._do_intervention_by_swap(base, source, "add", torch.tensor(4)), source)
        parts = pv._do_intervention_by_swap(
            base, source, "subtract", subspaces=[[1]] * 2, subspace_partition=[[0, 1], [1, 4]]
        )
        assert torch.equal(parts[..., 1:], -source[..., 1:])
        assert pv._do_intervention_by_swap(base, None, "collect", 3).shape == (2, 3, 3)

    def test_the_small_ones(self, tmp_path, capsys) -> None:
        assert pv.GET_LOC((1, 3), batch_size=2) == [[[[1], [1]], [[3], [3]]]]
        assert pv.get_list_depth([[[1]], [2]]) == 3
        assert pv.get_batch_size({"input_ids": torch.zeros(4, 2)}) == 4
        matrix = pv.random_permutation_matrix(5)
        assert pv.closeness_to_permutation_loss(matrix) == 0
        assert pv.closeness_to_permutation_loss(matrix / 2) > 0
        assert pv.count_parameters(torch.nn.Linear(3, 2)) == 8
        assert pv.get_type_from_string("<class 'pyvene.models.interventions.ZeroIntervention'>") is pv.ZeroIntervention
        pv.create_directory(tmp_path / "a" / "b")
        assert (tmp_path / "a" / "b").is_dir()
        pv.set_seed(3)
        first = torch.rand(2)
        pv.set_seed(3)
        assert torch.equal(first, torch.rand(2))

        class Tokenizer:
            def decode(self, token):
                return f" {token}\n"

        found = pv.top_vals(Tokenizer(), torch.tensor([0.1, 0.7, 0.2]), 2, return_results=True)
        assert found is not None
        assert [token for token, _ in found] == ["_1\\n", "_2\\n"]
        pv.top_vals(Tokenizer(), torch.tensor([0.1, 0.7, 0.2]), 1)
        assert "_1\\n" in capsys.readouterr().out
        hidden = torch.randn(1, 2, 16)
        assert torch.allclose(pv.embed_to_distrib(load("gpt2"), hidden).sum(-1), torch.ones(1, 2))

    def test_creates_models(self, tmp_path) -> None:
        model: Any = intervene.tiny("gpt2")
        model.save_pretrained(tmp_path / "gpt2")
        from tests.reference.stand_ins import byte_tokenizer

        byte_tokenizer().save_pretrained(tmp_path / "gpt2")
        config, tokenizer, loaded = pv.create_gpt2_lm(str(tmp_path / "gpt2"))
        assert type(loaded).__name__ == "GPT2LMHeadModel"
        assert config.n_embd == 24
        assert tokenizer("a")["input_ids"]
        _, _, fresh = pv.create_gpt2_lm(str(tmp_path / "gpt2"), config=config)
        assert fresh.config._attn_implementation == "eager"
