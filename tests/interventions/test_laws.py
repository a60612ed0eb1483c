"""Laws that every intervention keeps, whatever its type."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from hypothesis import strategies as st

import intervene as pv

from .kinds import ABSTRACT, KINDS, SWAPS, Case, close, law

FLOAT32 = (torch.float32,)
FUNCTIONS = {"function", "function-base"}
WITH_FEATURES = {name: kind for name, kind in KINDS.items() if name not in FUNCTIONS}


def test_every_exported_type_has_its_laws_checked() -> None:
    # Collecting changes nothing; see test_kinds.
    abstract = {*ABSTRACT, pv.CollectIntervention}
    public = {getattr(pv, name) for name in pv.__all__ if name.endswith("Intervention")}
    classes = {cls for cls in public if issubclass(cls, pv.Intervention)}
    assert {type(kind.make(4)) for kind in KINDS.values()} == classes - abstract


@law()
def test_the_result_is_like_the_base_and_nothing_is_written_in_place(case: Case, data: st.DataObject) -> None:
    base, source = case.base.clone(), None if case.source is None else case.source.clone()
    result = case()
    assert (result.shape, result.dtype) == (case.base.shape, case.base.dtype)
    assert torch.equal(case.base, base)
    assert source is None or case.source is None or torch.equal(case.source, source)


@pytest.mark.parametrize("name", KINDS)
def test_it_acts_on_the_device_it_was_moved_to(name: str) -> None:
    # torch's meta device stands for any: mixing it with another is the same error.
    kind = KINDS[name]
    intervention, base = kind.make(5).to("meta"), torch.empty(2, 3, 5, device="meta")
    source = torch.empty(2, 3, 5) if kind.source else None
    for subspaces in (None, [[0], [1]]):
        assert intervention(base, source, subspaces).device.type == "meta"


@law(dtypes=FLOAT32)
def test_alike_at_any_batch_split(case: Case, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(case.base)))
    parts = [slice(0, at), slice(at, None)]
    halves = [
        case.intervention(case.base[part], None if case.source is None else case.source[part])
        for part in parts
        if len(case.base[part])
    ]
    close(torch.cat(halves), case())


@law({n: k for n, k in KINDS.items() if n != "noise"}, dtypes=FLOAT32)
def test_each_position_is_acted_on_by_itself(case: Case, data: st.DataObject) -> None:
    if case.base.dim() < 3:
        return
    axis = data.draw(st.integers(1, case.base.dim() - 2))
    at = data.draw(st.integers(0, case.base.shape[axis] - 1))
    alone = case.intervention(
        case.base.narrow(axis, at, 1), None if case.source is None else case.source.narrow(axis, at, 1)
    )
    close(alone, case().narrow(axis, at, 1))


@law(WITH_FEATURES)
def test_spec_and_state_dict_restore_it_bit_for_bit(case: Case, data: st.DataObject) -> None:
    before = case.intervention
    spec = json.loads(json.dumps(before.spec()))
    cls = pv.intervention_class(pv.intervention_name(type(before)))
    after = cls(**spec)
    after.load_state_dict(before.state_dict())
    assert torch.equal(after(case.base, case.source), case())
    assert after.spec() == before.spec()


@law(SWAPS)
def test_the_own_source_changes_nothing(case: Case, data: st.DataObject) -> None:
    assert torch.equal(case.intervention(case.base, case.base), case.base)


@law(SWAPS)
def test_a_swap_is_idempotent(case: Case, data: st.DataObject) -> None:
    once = case()
    close(case.intervention(once, case.source), once)


@law(SWAPS, dtypes=FLOAT32)
def test_a_swap_makes_the_features_the_sources(case: Case, data: st.DataObject) -> None:
    assert case.source is not None
    lens = case.intervention.featurizer()
    acted = case.intervention.acted_on(lens.get(case.base), None)
    wanted = lens.get(case.source)
    if acted is not None:
        wanted = torch.where(acted, wanted, lens.get(case.base))
    close(lens.get(case()), wanted)


@law(WITH_FEATURES, dtypes=FLOAT32)
def test_subspaces_cover_and_do_not_overlap(case: Case, data: st.DataObject) -> None:
    """Over a partition of all features, the changes that the subspaces make by themselves sum up to the whole one."""
    intervention, base, source = case.intervention, case.base, case.source
    if intervention.interchange_dim is not None:
        return
    count = intervention.featurizer().get(base).shape[-1]
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, count - 1)), max_size=3)) | {0, count})
    intervention.subspace_partition = [[a, b] for a, b in pairwise(cuts)]
    all_of_them = list(range(len(intervention.subspace_partition)))
    whole = intervention(base, source)
    assert torch.equal(intervention(base, source, all_of_them), whole)
    changes = [intervention(base, source, [part]) - base for part in all_of_them]
    close(base + torch.stack(changes).sum(0), whole)


@law(WITH_FEATURES, dtypes=FLOAT32)
def test_subspaces_are_chosen_row_by_row(case: Case, data: st.DataObject) -> None:
    intervention, base, source = case.intervention, case.base, case.source
    count = intervention.featurizer().get(base).shape[-1]
    chosen = [data.draw(st.lists(st.integers(0, count - 1), unique=True, max_size=3)) for _ in base]
    together = intervention(base, source, chosen)
    for row, subspaces in enumerate(chosen):
        one = slice(row, row + 1)
        close(together[one], intervention(base[one], None if source is None else source[one], [subspaces]))


@law({n: k for n, k in KINDS.items() if k.source and n not in ("skip", "lora")})
def test_a_constant_source_is_like_one_given(case: Case, data: st.DataObject) -> None:
    assert case.source is not None
    wanted = case()
    case.intervention.set_source_representation(case.source)
    assert not case.intervention.needs_source
    assert torch.equal(case.intervention(case.base), wanted)
    with pytest.raises(pv.InterventionError, match="constant source"):
        case.intervention(case.base, case.source)


TRAINABLE = {name: kind for name, kind in KINDS.items() if kind.make(3).trainable}


@pytest.mark.parametrize("name", TRAINABLE)
def test_gradients_reach_the_parameters_the_source_and_the_base(name: str) -> None:
    torch.manual_seed(0)
    base, source = torch.randn(3, 2, 5, requires_grad=True), torch.randn(3, 2, 5, requires_grad=True)
    intervention = TRAINABLE[name].make(5)
    (intervention(base, source) * torch.linspace(0.5, 1.5, 30).reshape(3, 2, 5)).sum().backward()
    for tensor in (base, source):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().sum() > 0
    reached = {n for n, p in intervention.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert reached == {n for n, _ in intervention.named_parameters()} - TRAINABLE[name].without_gradient
