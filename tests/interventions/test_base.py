"""The protocol: keywords, sources, shapes, specs, classes of one's own, the registry."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import intervene as pv
from intervene.errors import (
    InterventionArgumentError,
    InterventionError,
    SelectionError,
    ShapeMismatchError,
    UnknownInterventionError,
)

from .kinds import ABSTRACT

BASE = torch.arange(24.0).reshape(2, 3, 4)
SOURCE = -BASE - 1


def test_a_keyword_nobody_takes_names_the_nearest() -> None:
    with pytest.raises(InterventionArgumentError, match=r"'embed_dims'.*'embed_dim'"):
        pv.VanillaIntervention(embed_dims=4)


def test_a_missing_source_and_one_too_many_are_errors() -> None:
    with pytest.raises(InterventionError, match="source_representation="):
        pv.VanillaIntervention()(BASE)
    with pytest.raises(InterventionError, match="has a constant source"):
        pv.VanillaIntervention(source_representation=torch.ones(4))(BASE, SOURCE)
    with pytest.raises(InterventionError, match="takes no source"):
        pv.ZeroIntervention()(BASE, SOURCE)
    with pytest.raises(InterventionError, match="load_state_dict"):
        pv.VanillaIntervention(hidden_source_representation=True)(BASE)


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ShapeMismatchError, match=r"\(5,\) does not broadcast to the base, \(2, 3, 4\)"):
        pv.AdditionIntervention()(BASE, torch.ones(5))
    with pytest.raises(ShapeMismatchError, match=r"\(2, 2, 3, 4\) does not broadcast"):
        pv.AdditionIntervention()(BASE, torch.ones(2, 2, 3, 4))
    with pytest.raises(ShapeMismatchError, match="embed_dim=5"):
        pv.VanillaIntervention(embed_dim=5)(BASE, SOURCE)


def test_the_result_has_the_dtype_of_the_base() -> None:
    result = pv.RotatedSpaceIntervention(embed_dim=4, low_rank_dimension=2)(BASE.bfloat16(), SOURCE)
    assert result.dtype == torch.bfloat16
    assert result.shape == BASE.shape


def test_subspaces_differ_from_row_to_row() -> None:
    swap = pv.VanillaIntervention(subspace_partition=[[0, 1], [1, 4]])
    result = swap(BASE, SOURCE, [[0], [1]])
    assert torch.equal(result[0], torch.cat([SOURCE[0, :, :1], BASE[0, :, 1:]], -1))
    assert torch.equal(result[1], torch.cat([BASE[1, :, :1], SOURCE[1, :, 1:]], -1))
    assert torch.equal(swap(BASE, SOURCE, [0, 1]), SOURCE)


def test_subspaces_that_do_not_exist_are_errors() -> None:
    swap = pv.VanillaIntervention(subspace_partition=[[0, 1], [1, 4]])
    with pytest.raises(SelectionError, match=r"\[2\] do not exist: there are 2"):
        swap(BASE, SOURCE, [[2], [0]])
    with pytest.raises(SelectionError, match="for 1 rows"):
        swap(BASE, SOURCE, [[0]])
    with pytest.raises(SelectionError, match="choose nothing"):
        swap(BASE, SOURCE, [])
    assert torch.equal(swap(BASE, SOURCE, torch.tensor([[0], [1]])), swap(BASE, SOURCE, [[0], [1]]))


@pytest.mark.parametrize(
    ("parts", "says"),
    [([[0, 2], [1, 4]], "feature 1 stands in subspace 0 and in 1"), ([[0, 9]], "feature 4"), ([[2, 2]], "no features")],
)
def test_partitions_that_cannot_be_are_refused(parts: list[list[int]], says: str) -> None:
    with pytest.raises(InterventionArgumentError, match=says):
        pv.VanillaIntervention(embed_dim=4, subspace_partition=parts)


def test_a_partition_is_one_of_the_features() -> None:
    for kind in (pv.JumpReLUAutoencoderIntervention, pv.AutoencoderIntervention):
        made = pv.make_intervention(kind, embed_dim=4, latent_dim=9, subspace_partition=[[0, 5], [5, 9]])
        assert made.feature_count() == 9
    with pytest.raises(InterventionArgumentError, match="feature 2; there are 2"):
        pv.LowRankRotatedSpaceIntervention(embed_dim=4, low_rank_dimension=2, subspace_partition=[[0, 3]])
    with pytest.raises(InterventionArgumentError, match="interchange_dim=0 leaves no feature"):
        pv.VanillaIntervention(interchange_dim=0)


def test_gradients_reach_a_constant_source_that_asks_for_them() -> None:
    steering = torch.nn.Parameter(torch.zeros(4))
    addition = pv.AdditionIntervention(source_representation=steering)
    (addition(BASE) * 2).sum().backward()
    assert torch.equal(steering.grad, torch.full((4,), 12.0))  # type: ignore[arg-type]
    other = torch.ones(4)
    addition.set_source_representation(other)
    assert torch.equal(addition(BASE), BASE + 1)


def test_a_function_is_given_what_it_asks_for_by_position_or_name() -> None:
    seen = []

    def scaled(base, strength=3.0):
        return base * strength

    def optional(base, source=None, subspaces=None):
        seen.append((source is not None, subspaces))
        return base

    assert torch.equal(pv.make_intervention(scaled)(BASE), BASE * 3)
    either = pv.make_intervention(optional)
    assert not either.needs_source
    either(BASE)
    either(BASE, SOURCE, [[0], [1]])
    assert seen == [(False, None), (True, [[0], [1]])]
    assert torch.equal(pv.make_intervention(lambda *both: both[0] + both[1])(BASE, SOURCE), BASE + SOURCE)
    with pytest.raises(InterventionArgumentError, match="must be callable as"):
        pv.make_intervention(lambda *, scale: scale)


def test_a_functions_result_is_confined_to_the_subspaces() -> None:
    made = pv.make_intervention(lambda base: base + 1, embed_dim=4, subspace_partition=[[0, 3], [3, 4]])
    assert torch.equal(made(BASE, None, [1]) - BASE, torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(2, 3, 4))
    assert torch.equal(made(BASE), BASE + 1)


def test_modules_are_functions_too() -> None:
    class Mix(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.share = torch.nn.Parameter(torch.tensor(0.5))

        def forward(self, base, source):
            return torch.lerp(base, source, self.share)

    mix = pv.make_intervention(Mix())
    assert mix.needs_source
    assert torch.equal(mix(BASE, SOURCE), (BASE + SOURCE) / 2)
    assert [name for name, _ in mix.named_parameters()] == ["function.share"]


def test_collect_gathers_and_refuses_ragged_rows() -> None:
    collect = pv.CollectIntervention(subspace_partition=[[0, 1], [1, 4]])
    assert torch.equal(collect(BASE), BASE)
    assert torch.equal(collect(BASE, None, [1]), BASE[..., 1:])
    with pytest.raises(SelectionError, match="as many features"):
        collect(BASE, None, [[0], [1]])


def test_an_intervention_of_ones_own_is_a_few_lines() -> None:
    class Average(pv.Intervention):
        def operate(self, base: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
            return (base + source) / 2

    average = pv.intervention_class(pv.intervention_name(Average))(interchange_dim=1)
    assert type(average) is Average
    result = average(BASE, SOURCE)
    assert torch.equal(result[..., 0], (BASE + SOURCE)[..., 0] / 2)
    assert torch.equal(result[..., 1:], BASE[..., 1:])


def test_pyvene_style_classes_work_as_written() -> None:
    class Scaled(pv.ConstantSourceIntervention, pv.LocalistRepresentationIntervention):
        def __init__(self, **kwargs):
            super().__init__(**kwargs, keep_last_dim=True)
            self.strength = kwargs.get("strength", 3.0)
            self.scale = torch.nn.Parameter(torch.full((kwargs["embed_dim"],), self.strength))

        def forward(self, base, source=None, subspaces=None, **kwargs):
            return base * self.scale

    scaled = pv.make_intervention(Scaled, embed_dim=4, low_rank_dimension=None)
    assert not scaled.needs_source
    assert torch.equal(scaled(BASE), BASE * 3)
    assert Scaled(embed_dim=4, strength=2.0).spec() == {"embed_dim": 4, "strength": 2.0}


def test_a_class_without_keywords_is_made_too() -> None:
    class Bare(pv.Intervention):
        def __init__(self):
            super().__init__()

        def operate(self, base, source):
            return base

    assert type(pv.make_intervention(Bare, embed_dim=4)) is Bare


def test_functions_are_interventions() -> None:
    def mean(base, source):
        return (base + source) / 2

    two = pv.make_intervention(mean)
    assert two.needs_source
    assert torch.equal(two(BASE, SOURCE), (BASE + SOURCE) / 2)
    one = pv.make_intervention(lambda base: base.relu())
    assert not one.needs_source
    assert torch.equal(one(-BASE), torch.zeros_like(BASE))
    with pytest.raises(InterventionError, match="takes no source"):
        one(BASE, SOURCE)
    with pytest.raises(InterventionError, match="derive a class"):
        two.spec()
    with pytest.raises(ShapeMismatchError, match="returned NoneType"):
        pv.make_intervention(lambda base: None)(BASE)
    with pytest.raises(InterventionArgumentError, match="wrap it: lambda"):
        pv.make_intervention(torch.relu)


def test_names_and_partials_make_interventions() -> None:
    spelled = [
        "RotatedSpaceIntervention",
        "intervene.RotatedSpaceIntervention",
        "pyvene.models.interventions.RotatedSpaceIntervention",
        "<class 'pyvene.models.interventions.RotatedSpaceIntervention'>",
    ]
    for name in spelled:
        assert type(pv.make_intervention(name, embed_dim=4)) is pv.RotatedSpaceIntervention
    made = pv.make_intervention(partial(pv.LowRankRotatedSpaceIntervention, low_rank_dimension=2), embed_dim=4)
    assert made.spec() == {"low_rank_dimension": 2, "embed_dim": 4}
    with pytest.raises(UnknownInterventionError, match="VanillaIntervention"):
        pv.intervention_class("VanilaIntervention")


def test_what_was_set_later_is_in_the_spec() -> None:
    swap = pv.VanillaIntervention(embed_dim=4)
    swap.set_interchange_dim(2)
    swap.subspace_partition = [range(0, 2), [2, 4]]
    assert swap.spec() == {"embed_dim": 4, "interchange_dim": 2, "subspace_partition": [[0, 2], [2, 4]]}


def test_a_bare_name_that_two_classes_have_is_refused() -> None:
    first = type("Twice", (pv.VanillaIntervention,), {"__module__": "one"})
    second = type("Twice", (pv.VanillaIntervention,), {"__module__": "two"})
    with pytest.raises(UnknownInterventionError, match=r"may mean any of one\.Twice, two\.Twice"):
        pv.intervention_class("Twice")
    assert [pv.intervention_class(f"{module}.Twice") for module in ("one", "two")] == [first, second]


def test_a_constant_source_is_restored_with_its_shape() -> None:
    before = pv.AdditionIntervention(source_representation=torch.ones(3, 4))
    after = pv.AdditionIntervention(**before.spec())
    after.load_state_dict(before.state_dict())
    assert torch.equal(after(BASE), BASE + 1)


OWN = [
    value
    for name, value in vars(pv).items()
    if name.endswith("Intervention") and isinstance(value, type) and issubclass(value, pv.Intervention)
]
# With the wrapper of a function, whose operation is the caller's.
BASES = {*ABSTRACT, pv.FunctionIntervention}


@pytest.mark.parametrize("kind", [kind for kind in OWN if kind not in BASES], ids=lambda kind: kind.__name__)
def test_each_says_its_formula_shapes_and_paper(kind: type[pv.Intervention]) -> None:
    text = vars(kind)["__doc__"]
    assert "``" in text.partition("\n")[0]
    assert "Shapes: " in text
    assert "https://arxiv.org/abs/" in text
