"""What holds for every config and every location, on drawn ones."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

import intervene as pv

MODEL: Any = pv.tiny("gpt2")
LAYERS, WIDTH, LENGTH = 3, 24, 6
COMPONENTS = ("block_input", "block_output", "mlp_output", "attention_output", "query_output", "mlp_activation")
HEADS = ("head_query_output", "head_value_output", "head_attention_value_output")


def tokens(seed, rows):
    generator = torch.Generator().manual_seed(seed)
    return {"input_ids": torch.randint(3, 61, (rows, LENGTH), generator=generator)}


@st.composite
def places(draw, count=None):
    """Representations at drawn components, with each row's source and base positions for every one."""
    rows = draw(st.integers(1, 3))
    chosen, left, right = [], [], []
    for _ in range(count or draw(st.integers(1, 3))):
        chosen.append(pv.RepresentationConfig(draw(st.integers(0, LAYERS - 1)), draw(st.sampled_from(COMPONENTS))))
        counts = [draw(st.integers(1, 3)) for _ in range(rows)]
        spots = st.integers(0, LENGTH - 1)
        left.append([draw(st.lists(spots, min_size=n, max_size=n)) for n in counts])
        right.append([draw(st.lists(spots, min_size=n, max_size=n, unique=True)) for n in counts])
    return rows, chosen, left, right


@given(places(), st.integers(0, 99))
def test_a_swap_is_what_a_loop_over_rows_and_positions_does(drawn, seed):
    rows, chosen, left, right = drawn
    base = tokens(seed, rows)
    sources = [tokens(seed + 1 + i, rows) for i in range(len(chosen))]
    adapted = pv.adapt(MODEL)
    writes = []
    for representation, source, here, there in zip(chosen, sources, left, right, strict=True):
        address = f"layer.{representation.layer}.{representation.component}"
        value = adapted.read([address], **source)[address]

        def write(part, value=value, here=here, there=there):
            changed = part.clone()
            for row in range(rows):
                for one, other in zip(here[row], there[row], strict=True):
                    changed[row, other] = value[row, one]
            return changed

        writes.append((address, write))
    with torch.no_grad(), adapted.session(writes=writes):
        expected = MODEL(**base).logits
    with torch.no_grad():
        _, found = pv.IntervenableModel(chosen, MODEL)(base, sources, unit_locations={"sources->base": (left, right)})
    assert torch.equal(found.logits, expected)


@given(places(), st.integers(0, 99))
def test_rows_may_be_run_apart(drawn, seed):
    rows, chosen, left, right = drawn
    base, source = tokens(seed, rows), tokens(seed + 1, rows)
    intervenable = pv.IntervenableModel(chosen, MODEL)
    with torch.no_grad():
        _, together = intervenable(base, [source], unit_locations={"sources->base": (left, right)})
        for row in range(rows):
            alone = ({"input_ids": run["input_ids"][row : row + 1]} for run in (base, source))
            one, other = alone
            sides = ([[side[row]] for side in left], [[side[row]] for side in right])
            _, apart = intervenable(one, [other], unit_locations={"sources->base": sides})
            torch.testing.assert_close(together.logits[row], apart.logits[0])


@given(places(), st.sampled_from([*COMPONENTS, *HEADS]), st.integers(0, 99), st.data())
def test_a_run_patched_from_itself_is_the_plain_run(drawn, component, seed, data):
    rows, chosen, _, right = drawn
    unit = data.draw(st.sampled_from(["h", "h.pos", "pos"])) if component in HEADS else "pos"
    base = tokens(seed, rows)
    where: Any = right[0]
    if unit != "pos":
        heads = [data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=2, unique=True)) for _ in range(rows)]
        where = heads if unit == "h" else [heads, right[0]]
    one = chosen[0].replace(component=component, unit=unit)
    with torch.no_grad():
        original, patched = pv.IntervenableModel(one, MODEL)(
            base, [base], unit_locations={"sources->base": ([where], [where])}, output_original_output=True
        )
    assert torch.equal(original.logits, patched.logits)


@given(places(count=2), st.integers(0, 99))
def test_writes_at_places_that_do_not_meet_may_come_in_any_order(drawn, seed):
    rows, chosen, left, right = drawn
    first, second = chosen
    if (first.layer, first.component) == (second.layer, second.component):
        second = second.replace(layer=(second.layer + 1) % LAYERS)
    base, sources = tokens(seed, rows), [tokens(seed + 1, rows), tokens(seed + 2, rows)]
    with torch.no_grad():
        _, forth = pv.IntervenableModel([first, second], MODEL)(
            base, sources, unit_locations={"sources->base": (left, right)}
        )
        _, back = pv.IntervenableModel([second, first], MODEL)(
            base, sources[::-1], unit_locations={"sources->base": (left[::-1], right[::-1])}
        )
    assert torch.equal(forth.logits, back.logits)


@given(places(), st.integers(0, 99))
def test_the_model_is_as_it_was(drawn, seed):
    rows, chosen, left, right = drawn
    before = {n: (p.detach().clone(), p.requires_grad) for n, p in MODEL.named_parameters()}
    plain = MODEL(**tokens(seed, rows)).logits
    trained = [r.replace(intervention_type=pv.RotatedSpaceIntervention) for r in chosen[:1]]
    pv.IntervenableModel(trained, MODEL)(
        tokens(seed, rows),
        [tokens(seed + 1, rows)],
        unit_locations={"sources->base": (left[:1], right[:1])},
    )[1].logits.sum().backward()
    assert torch.equal(MODEL(**tokens(seed, rows)).logits, plain)
    for name, parameter in MODEL.named_parameters():
        assert torch.equal(parameter, before[name][0])
        assert parameter.requires_grad == before[name][1]
        assert parameter.grad is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in MODEL.modules())
