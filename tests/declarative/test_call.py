"""Calls of an `IntervenableModel`, against sessions and hooks written by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import intervene as pv


def block(layer=1, **fields):
    return pv.RepresentationConfig(layer=layer, component="block_output", **fields)


def by_hand(model, base, source, layer, base_positions, source_positions):
    """The base's logits with the source's block output at these positions of each row, by a plain hook."""
    kept = {}
    blocks = model.transformer.h

    def read(module, args, output):
        kept["source"] = output[0] if isinstance(output, tuple) else output

    def write(module, args, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        for row, (there, here) in enumerate(zip(base_positions, source_positions, strict=True)):
            hidden[row, there] = kept["source"][row, here]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    for hook, inputs in ((read, source), (write, base)):
        handle = blocks[layer].register_forward_hook(hook)
        with torch.no_grad():
            logits = model(**inputs).logits
        handle.remove()
    return logits


EVERYWHERE = [0, 1, 2, 3, 4]


class TestLocations:
    @pytest.mark.parametrize(
        ("locations", "base_positions", "source_positions"),
        [
            (None, [EVERYWHERE] * 2, [EVERYWHERE] * 2),
            ({"sources->base": 3}, [[3]] * 2, [[3]] * 2),
            ({"sources->base": (1, 3)}, [[3]] * 2, [[1]] * 2),
            ({"sources->base": [1, 3, 4]}, [[1, 3, 4]] * 2, [[1, 3, 4]] * 2),
            ({"sources->base": [1, 3]}, [[1, 3]] * 2, [[1, 3]] * 2),
            ({"sources->base": ([[[1], [2]]], [[[3], [4]]])}, [[3], [4]], [[1], [2]]),
            ({"sources->base": [[[[1], [2]]], [[[3], [4]]]]}, [[3], [4]], [[1], [2]]),
            ({"sources->base": ([[[1, 0], [2, 3]]], [[[3, 4], [4, 0]]])}, [[3, 4], [4, 0]], [[1, 0], [2, 3]]),
            ({"sources->base": [[1], [2]]}, [[1], [2]], [[1], [2]]),
            ({"sources->base": [[1, 2], [3]]}, [[1, 2], [3]], [[1, 2], [3]]),
            ({"sources->base": ([[[0, 0], [1, 1]]], [[[3, 4], [4, 0]]])}, [[3, 4], [4, 0]], [[0, 0], [1, 1]]),
            ({"sources->base": ([0, 0], [3, 4])}, [[3, 4]] * 2, [[0, 0]] * 2),
            ({"sources->base": slice(3, None)}, [[3, 4]] * 2, [[3, 4]] * 2),
            ({"sources->base": (slice(-2, None), [[[3, 4], [4, 0]]])}, [[3, 4], [4, 0]], [[3, 4], [3, 4]]),
            ({"sources->base": (-1, -2)}, [[-2]] * 2, [[-1]] * 2),
            ({"source_0->base": (0, 1)}, [[1]] * 2, [[0]] * 2),
            ({"sources->base": (torch.tensor([[1], [2]]), torch.tensor([[3], [4]]))}, [[3], [4]], [[1], [2]]),
        ],
        ids=repr,
    )
    def test_each_form_means_what_it_says(self, gpt2, base, source, locations, base_positions, source_positions):
        intervenable = pv.IntervenableModel(block(), gpt2)
        _, patched = intervenable(base, [source], unit_locations=locations)
        expected = by_hand(gpt2, base, source, 1, base_positions, source_positions)
        assert torch.equal(patched.logits, expected)

    def test_one_source_row_serves_every_row_of_the_base(self, gpt2, base, source):
        first = {"input_ids": source["input_ids"][:1]}
        _, patched = pv.IntervenableModel(block(), gpt2)(base, [first], unit_locations={"sources->base": ([[2]], 3)})
        both = {"input_ids": source["input_ids"][[0, 0]]}
        assert torch.equal(patched.logits, by_hand(gpt2, base, both, 1, [[3]] * 2, [[2]] * 2))

    @pytest.mark.parametrize(
        ("locations", "says"),
        [
            ({"sources->base": [[[5]]]}, "1 row"),
            ({"sources->base": ([[[1]] * 3], [[[1]] * 3])}, "3 row"),
            ({"sources->bass": 3}, "sources->bass"),
            ({"source_1->base": 3}, "source_0->base"),
            ({"sources->base": "3"}, "'3'"),
            ({"sources->base": (1, 2, 3)}, "two sides"),
            ({"sources->base": 9}, "9"),
            ({"base": [3, 3]}, "repeat"),
            ({"base": 1, "sources->base": 2}, "twice"),
            (3, "dict"),
            ({"sources->base": [[[1], [2]], [[3], [4]]]}, "2 interventions"),
            ({"sources->base": [[[1]], [[2]]]}, "2 interventions"),
        ],
        ids=repr,
    )
    def test_what_means_nothing_is_refused(self, gpt2, base, source, locations, says):
        with pytest.raises(pv.InterveneError, match=says):
            pv.IntervenableModel(block(), gpt2)(base, [source], unit_locations=locations)

    def test_one_entry_serves_every_intervention(self, gpt2, base, source):
        intervenable = pv.IntervenableModel([block(0), block(2)], gpt2)
        once = intervenable(base, [source], unit_locations={"sources->base": ([[[1], [2]]], [[[3], [4]]])})
        twice = intervenable(base, [source], unit_locations={"sources->base": ([[[1], [2]]] * 2, [[[3], [4]]] * 2)})
        assert torch.equal(once[1].logits, twice[1].logits)

    def test_a_call_leaves_nothing_to_the_next_and_the_callers_lists_alone(self, gpt2, base, source):
        intervenable = pv.IntervenableModel([block(0), block(1)], gpt2)
        sources, locations = [source], {"sources->base": ([[[1], [2]], None], [[[3], [4]], None])}
        first = intervenable(base, sources, unit_locations=locations)[1].logits
        assert len(sources) == 1
        assert locations == {"sources->base": ([[[1], [2]], None], [[[3], [4]], None])}
        whole = intervenable(base, sources)[1].logits
        assert torch.equal(first, intervenable(base, sources, unit_locations=locations)[1].logits)
        assert torch.equal(whole, pv.IntervenableModel([block(0), block(1)], gpt2)(base, sources)[1].logits)


class TestSources:
    def test_each_intervention_takes_its_own(self, gpt2, base, source, other):
        intervenable = pv.IntervenableModel([block(0), block(2)], gpt2)
        _, patched = intervenable(base, [source, other], unit_locations={"sources->base": ([1, 2], [1, 2])})
        adapted = pv.adapt(gpt2)
        sites = [adapted[f"layer.{layer}.block_output"].at(positions=[1, 2]) for layer in (0, 2)]
        values = [adapted.read([site], **run)[site] for site, run in zip(sites, (source, other), strict=True)]
        with torch.no_grad(), adapted.session(writes=dict(zip(sites, values, strict=True))):
            expected = gpt2(**base).logits
        assert torch.equal(patched.logits, expected)

    def test_none_leaves_an_intervention_out(self, gpt2, base, source):
        both = pv.IntervenableModel([block(0), block(2)], gpt2)
        alone = pv.IntervenableModel([block(2)], gpt2)
        where = {"sources->base": 2}
        left_out = both(base, [None, source], unit_locations=where)[1].logits
        assert torch.equal(left_out, alone(base, [source], unit_locations=where)[1].logits)

    def test_a_source_that_is_needed_and_missing_is_an_error(self, gpt2, base):
        with pytest.raises(pv.InterventionError, match=r"layer\.1\.block_output: VanillaIntervention needs a source"):
            pv.IntervenableModel(block(), gpt2)(base)

    def test_their_number_is_checked(self, gpt2, base, source):
        with pytest.raises(pv.InterventionError, match="2 sources were given for 3"):
            pv.IntervenableModel([block(0), block(1), block(2)], gpt2)(base, [source, source])

    def test_as_tensors(self, gpt2, base, source):
        site = pv.adapt(gpt2)["layer.1.block_output"].at(positions=[1, 3])
        values = pv.adapt(gpt2).read([site], **source)[site]
        intervenable = pv.IntervenableModel(block(), gpt2)
        expected = intervenable(base, [source], unit_locations={"sources->base": [1, 3]})[1].logits
        for given in (values, [values], {"layer.1.block_output": values}):
            _, patched = intervenable(base, source_representations=given, unit_locations={"base": [1, 3]})
            assert torch.equal(patched.logits, expected)
        _, patched = intervenable(base, activations_sources=values, unit_locations={"base": [1, 3]})
        assert torch.equal(patched.logits, expected)
        # Rows that are patched at different places still get their own rows of the tensor.
        _, patched = intervenable(base, source_representations=values, unit_locations={"base": [[[1, 3], [1, 3]]]})
        assert torch.equal(patched.logits, expected)
        with pytest.raises(pv.ConfigError, match=r"layer\.1\.block_outpu"):
            intervenable(base, source_representations={"layer.1.block_outpu": values})

    def test_lengths_that_differ_are_named(self, gpt2, base):
        short = {"input_ids": base["input_ids"][:, :3]}
        with pytest.raises(pv.ShapeMismatchError, match=r"layer\.1\.block_output.*\(2, 3, 24\).*\(2, 5, 24\)"):
            pv.IntervenableModel(block(), gpt2)(base, [short])

    def test_groups_share_a_source(self, gpt2, base, source, other):
        grouped = pv.IntervenableModel([block(2, group_key=1), block(0, group_key=0), block(1, group_key=0)], gpt2)
        plain = pv.IntervenableModel([block(2), block(0), block(1)], gpt2)
        where = {"sources->base": [1, 2]}
        expected = plain(base, [other, source, source], unit_locations=where)[1].logits
        assert torch.equal(grouped(base, [source, other], unit_locations=where)[1].logits, expected)

    def test_one_token_of_a_source_serves_all_only_where_that_is_said(self, gpt2, base):
        one: dict[str, Any] = {"input_ids": torch.tensor([[7], [8]])}
        intervenable = pv.IntervenableModel(block(), gpt2)
        with pytest.raises(pv.ShapeMismatchError, match=r"\(2, 1, 24\).*\(2, 5, 24\).*'sources->base': \(0, None\)"):
            intervenable(base, [one])
        _, said = intervenable(base, [one], unit_locations={"sources->base": (0, None)})
        assert torch.equal(said.logits, by_hand(gpt2, base, one, 1, [EVERYWHERE] * 2, [[0] * 5] * 2))
        site = "layer.1.block_output"
        value = pv.adapt(gpt2).read([site], **one)[site]
        assert torch.equal(said.logits, intervenable(base, source_representations=value)[1].logits)

    @pytest.mark.parametrize(
        ("places", "sources", "says"),
        [
            (
                [block(intervention_type=pv.ZeroIntervention)],
                1,
                r"sources aren't used: layer.1.block_output \(ZeroI.*\) takes no source",
            ),
            (
                [block(intervention_type=pv.AdditionIntervention, source_representation=torch.ones(24))],
                1,
                r"sources aren't used: layer.1.block_output \(Addition.*\) has a constant source",
            ),
            (
                [block(0), block(2, intervention_type=pv.CollectIntervention)],
                2,
                r"sources\[1\] isn't used: layer.2.block_output \(Collect.*\) takes no source",
            ),
        ],
    )
    def test_one_that_nothing_takes_is_warned_of(self, gpt2, base, source, places, sources, says):
        intervenable = pv.IntervenableModel(places, gpt2)
        with pytest.warns(UserWarning, match=says) as warned:
            intervenable(base, [source] * sources)
        assert [warning.filename for warning in warned] == [__file__]

    def test_one_that_a_tensor_takes_the_place_of_is_warned_of(self, gpt2, base, source):
        with pytest.warns(UserWarning, match="layer.1.block_output's source was given as a tensor"):
            pv.IntervenableModel(block(), gpt2)(base, [source], source_representations=torch.zeros(24))

    @pytest.mark.parametrize("given", [torch.ones(24), [torch.ones(24)], {"layer.1.block_output": torch.ones(24)}])
    def test_a_tensor_that_nothing_takes_is_refused(self, gpt2, base, given):
        intervenable = pv.IntervenableModel(block(intervention_type=pv.ZeroIntervention), gpt2)
        with pytest.raises(pv.InterventionError, match=r"layer\.1\.block_output.* takes (no source|one)"):
            intervenable(base, source_representations=given)

    @pytest.mark.filterwarnings("error")
    def test_one_for_all_may_be_of_use_to_some(self, gpt2, base, source):
        swap, zero = block(0), block(2, intervention_type=pv.ZeroIntervention)
        shared = pv.IntervenableModel([swap, zero], gpt2)(base, [source])[1]
        own = pv.IntervenableModel([swap, zero], gpt2)(base, [source, None])[1]
        assert torch.equal(shared.logits, own.logits)


class TestSerial:
    def test_none_leaves_a_link_out_and_its_neighbours_meet(self, gpt2, base, source, other):
        layers = [block(0), block(1), block(2)]
        chain = pv.IntervenableModel(pv.IntervenableConfig(layers, mode="serial"), gpt2)
        without = pv.IntervenableModel(pv.IntervenableConfig([layers[0], layers[2]], mode="serial"), gpt2)
        _, patched = chain(
            base, [source, None, other], unit_locations={"source_0->source_1": (1, 2), "source_2->base": (2, 3)}
        )
        _, expected = without(
            base, [source, other], unit_locations={"source_0->source_1": (1, 2), "source_1->base": (2, 3)}
        )
        assert torch.equal(patched.logits, expected.logits)
        _, last = chain(base, [source, None, None], unit_locations={"source_0->source_1": (1, 2)})
        assert torch.equal(last.logits, by_hand(gpt2, base, source, 0, [[2]] * 2, [[1]] * 2))

    def test_an_intervention_without_source_acts_in_the_next_run_there_is(self, gpt2, base, source, other):
        zero = block(1, intervention_type=pv.ZeroIntervention)
        chain = pv.IntervenableModel(pv.IntervenableConfig([block(0), zero, block(2)], mode="serial"), gpt2)
        _, patched = chain(base, [source, None, other])
        # Zero at layer 1 of the last source's run is all that layer 2 of it sees.
        alone = pv.IntervenableModel(pv.IntervenableConfig([zero, block(2)], mode="serial"), gpt2)
        assert torch.equal(patched.logits, alone(base, [None, other])[1].logits)
        with pytest.raises(pv.InterventionError, match=r"sources\[1\].*lost: layer.1.block_output \(ZeroIntervention"):
            chain(base, [source, other, other])

    def test_locations_are_for_the_rows_of_the_run_that_is_written_into(self, gpt2, base, source, other):
        config = pv.IntervenableConfig([block(0), block(1)], mode="serial")
        one_row = {"input_ids": other["input_ids"][:1]}
        first = {"input_ids": source["input_ids"][:1]}
        _, patched = pv.IntervenableModel(config, gpt2)(
            base,
            [first, one_row],
            unit_locations={"source_0->source_1": ([[[1]]], [[[2]]]), "source_1->base": ([[[2]]], 3)},
        )
        _, expected = pv.IntervenableModel(config, gpt2)(
            base,
            [first, one_row],
            unit_locations={"source_0->source_1": (1, 2), "source_1->base": (2, 3)},
        )
        assert torch.equal(patched.logits, expected.logits)

    def test_each_source_is_written_into_the_next(self, gpt2, base, source, other):
        config = pv.IntervenableConfig([block(0), block(1)], mode="serial")
        _, patched = pv.IntervenableModel(config, gpt2)(
            base, [source, other], unit_locations={"source_0->source_1": (1, 2), "source_1->base": (2, 3)}
        )
        adapted = pv.adapt(gpt2)
        first, second = (adapted[f"layer.{layer}.block_output"] for layer in (0, 1))
        value = adapted.read([first.at(positions=1)], **source)[first.at(positions=1)]
        with (
            torch.no_grad(),
            adapted.session(reads=[second.at(positions=2)], writes={first.at(positions=2): value}) as session,
        ):
            gpt2(**other)
        value = session.values[second.at(positions=2)]
        with torch.no_grad(), adapted.session(writes={second.at(positions=3): value}):
            expected = gpt2(**base).logits
        assert torch.equal(patched.logits, expected)

    def test_parallel_keys_are_refused(self, gpt2, base, source, other):
        config = pv.IntervenableConfig([block(0), block(1)], mode="serial")
        with pytest.raises(pv.SelectionError, match="source_0->source_1"):
            pv.IntervenableModel(config, gpt2)(base, [source, other], unit_locations={"sources->base": 1})


class TestSeveralAtOneSite:
    def test_act_in_the_configs_order(self, gpt2, base, source):
        double = block(intervention=lambda activation: activation * 2)
        swap = block(intervention_type=pv.VanillaIntervention)
        doubled_last = pv.IntervenableModel([swap, double], gpt2)
        assert list(doubled_last.interventions) == ["layer.1.block_output", "layer.1.block_output#1"]
        twice = pv.IntervenableModel(block(intervention=lambda activation, there: there * 2), gpt2)
        assert torch.equal(doubled_last(base, [source])[1].logits, twice(base, [source])[1].logits)
        swapped_last = pv.IntervenableModel([double, swap], gpt2)
        swapped = pv.IntervenableModel(swap, gpt2)
        assert torch.equal(swapped_last(base, [source])[1].logits, swapped(base, [source])[1].logits)

    def test_collection_sees_what_flows_at_its_place(self, gpt2, base):
        collect = block(intervention_type=pv.CollectIntervention)
        zero = block(intervention_type=pv.ZeroIntervention)
        (original, collected), _ = pv.IntervenableModel([collect, zero, collect], gpt2)(base)
        assert original is None
        assert torch.equal(collected[0], pv.adapt(gpt2).read(["layer.1.block_output"], **base)["layer.1.block_output"])
        assert torch.equal(collected[1], torch.zeros_like(collected[0]))


class TestHeads:
    def test_h_and_h_pos(self, gpt2, base, source):
        adapted = pv.adapt(gpt2)
        site = adapted["layer.1.head_attention_value_output"]
        for unit, where, narrowed in (
            ("h", {"sources->base": ([[[0], [0]]], [[[0], [0]]])}, site.at(heads=0)),
            ("h", {"sources->base": [0, 2]}, site.at(heads=[0, 2])),
            (
                "h.pos",
                {"sources->base": ([[[[1]] * 2, [[3]] * 2]], [[[[1]] * 2, [[3]] * 2]])},
                site.at(heads=1, positions=3),
            ),
            ("h.pos", {"sources->base": ((1, 3), (1, 3))}, site.at(heads=1, positions=3)),
        ):
            representation = pv.RepresentationConfig(1, "head_attention_value_output", unit=unit)
            _, patched = pv.IntervenableModel(representation, gpt2)(base, [source], unit_locations=where)
            value = adapted.read([narrowed], **source)[narrowed]
            with torch.no_grad(), adapted.session(writes={narrowed: value}):
                expected = gpt2(**base).logits
            assert torch.equal(patched.logits, expected)

    def test_heads_that_differ_from_row_to_row(self, gpt2, base, source):
        representation = pv.RepresentationConfig(1, "head_attention_value_output", unit="h")
        intervenable = pv.IntervenableModel(representation, gpt2)
        _, patched = intervenable(base, [source], unit_locations={"sources->base": [[0], [2]]})
        each = [intervenable(base, [source], unit_locations={"sources->base": head})[1].logits for head in (0, 2)]
        assert torch.equal(patched.logits[0], each[0][0])
        assert torch.equal(patched.logits[1], each[1][1])
        with_collect = representation.replace(intervention_type=pv.CollectIntervention)
        (_, collected), _ = pv.IntervenableModel(with_collect, gpt2)(base, unit_locations={"base": [[0], [2]]})
        whole = pv.adapt(gpt2).read(["layer.1.head_attention_value_output"], **base)[
            "layer.1.head_attention_value_output"
        ]
        assert torch.equal(collected[0], torch.stack([whole[0, [0]], whole[1, [2]]]))

    def test_a_component_without_heads_says_which_has(self, gpt2):
        with pytest.raises(pv.ConfigError, match="head_attention_value_output has one"):
            pv.IntervenableModel(pv.RepresentationConfig(1, "attention_value_output", unit="h"), gpt2)


class TestReturns:
    def test_the_pair(self, gpt2, base, source):
        intervenable = pv.IntervenableModel(block(), gpt2)
        original, intervened = intervenable(base, [source])
        assert original is None
        original, again = intervenable(base, [source], output_original_output=True)
        assert torch.equal(original.logits, gpt2(**base).logits)
        assert torch.equal(again.logits, intervened.logits)
        named = intervenable(base, [source], return_dict=True, output_original_output=True)
        assert torch.equal(named.original_outputs.logits, original.logits)
        assert torch.equal(named.intervened_outputs.logits, intervened.logits)
        assert named.collected_activations is None
        assert named["intervened_outputs"] is named.intervened_outputs is named[1]
        with pytest.raises(TypeError):
            named["intervened"]

    def test_labels_and_use_cache_go_to_the_intervened_run(self, gpt2, base, source):
        intervenable = pv.IntervenableModel(block(), gpt2)
        original, intervened = intervenable(
            base, [source], labels=base["input_ids"], use_cache=False, output_original_output=True
        )
        assert original.loss is None
        assert intervened.loss.requires_grad is False
        assert intervened.past_key_values is None

    def test_a_model_called_with_tensors(self):
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        intervenable = pv.IntervenableModel(pv.RepresentationConfig(component="1.output"), model)
        base, source = torch.randn(2, 3), torch.randn(2, 3)
        _, patched = intervenable(base, [source])
        assert torch.equal(patched, model(source))


class TestGradients:
    def test_reach_the_interventions_alone_unless_asked(self, gpt2, base, source):
        model: Any = pv.tiny("gpt2")
        intervenable = pv.IntervenableModel(block(intervention_type=pv.RotatedSpaceIntervention), model)
        flags = {n: p.requires_grad for n, p in model.named_parameters()}
        intervenable(base, [source])[1].logits.sum().backward()
        trained = intervenable.get_trainable_parameters()
        assert trained
        assert all(p.grad is not None for p in trained)
        assert all(p.grad is None for p in model.parameters())
        assert flags == {n: p.requires_grad for n, p in model.named_parameters()}
        intervenable.enable_model_gradients()
        intervenable(base, [source])[1].logits.sum().backward()
        assert all(p.grad is not None for p in model.transformer.h.parameters())
        assert {id(p) for p in model.parameters()} <= {id(p) for p in intervenable.get_trainable_parameters()}

    def test_trained_models_learn_through_the_source_too(self, base, source):
        model: Any = pv.tiny("gpt2")
        intervenable = pv.IntervenableModel(block(), model)
        intervenable.enable_model_gradients()
        intervenable(base, [source], unit_locations={"sources->base": 2})[1].logits.square().sum().backward()
        found = {n: p.grad.clone() for n, p in model.named_parameters()}
        model.zero_grad()
        kept = {}

        def read(module, args, output):
            kept["source"] = output

        def write(module, args, output):
            changed = output.clone()
            changed[:, 2] = kept["source"][:, 2]
            return changed

        for hook, run in ((read, source), (write, base)):
            handle = model.transformer.h[1].register_forward_hook(hook)
            logits = model(**run).logits
            handle.remove()
        logits.square().sum().backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[name], parameter.grad)

    def test_the_model_is_as_it_was_after_an_error(self, base):
        model: Any = pv.tiny("gpt2").train()
        hooked = []
        model.transformer.h[0].register_forward_hook(lambda *_: hooked.append(1))

        def fails(activation):
            raise ValueError("on purpose")

        with pytest.raises(ValueError, match="on purpose"):
            pv.IntervenableModel(block(intervention=fails), model)(base)
        assert model.training
        assert all(p.requires_grad for p in model.parameters())
        assert hooked
        assert len(model.transformer.h[0]._forward_hooks) == 1
        assert not model.transformer.h[1]._forward_hooks

    def test_linked_interventions_are_one(self, gpt2, base, source):
        linked = [block(i, intervention_type=pv.RotatedSpaceIntervention, intervention_link_key=0) for i in (0, 1)]
        intervenable = pv.IntervenableModel(linked, gpt2)
        first, second = intervenable.interventions.values()
        assert first[0] is second[0]
        assert intervenable.count_parameters() == 24 * 24
        assert len(intervenable.get_trainable_parameters()) == 1
        with pytest.raises(pv.ConfigError, match="links"):
            pv.IntervenableModel([linked[0], linked[1].replace(intervention_type=pv.VanillaIntervention)], gpt2)


class TestModule:
    def test_is_about_the_interventions(self, gpt2):
        intervenable = pv.IntervenableModel(block(intervention_type=pv.RotatedSpaceIntervention), gpt2)
        assert gpt2.training is False
        intervenable.train()
        assert gpt2.training is False
        assert {id(p) for p in intervenable.parameters()} == {
            id(p) for p in intervenable.interventions["layer.1.block_output"][0].parameters()
        }
        found: Any = intervenable.interventions["layer.1.block_output"][0]
        assert found.rotate_layer.weight.shape == (24, 24)
        assert intervenable.interventions["layer.1.block_output"].rotate_layer.weight.shape == (24, 24)
        _, site = intervenable.interventions["layer.1.block_output"]
        assert site == intervenable.sites["layer.1.block_output"]

    def test_shows_what_is_patched_where(self, gpt2):
        intervenable = pv.IntervenableModel(
            [block(intervention_type=pv.RotatedSpaceIntervention), block(2, intervention_type=pv.ZeroIntervention)],
            gpt2,
        )
        shown = str(intervenable)
        for word in (
            "GPT2LMHeadModel",
            "RotatedSpaceIntervention",
            "layer.1.block_output",
            "source 0",
            "576",
            "layer.2",
        ):
            assert word in shown
            assert word in intervenable._repr_html_()


class TestRecurrent:
    class Tagger(torch.nn.Module):
        def __init__(self, kind, **options):
            super().__init__()
            self.rnn = kind(4, 6, **options)
            self.head = torch.nn.Linear(6, 3)

        def forward(self, x):
            return self.head(self.rnn(x)[0])

    @pytest.mark.parametrize("kind", [torch.nn.GRU, torch.nn.LSTM, torch.nn.RNN])
    @pytest.mark.parametrize("batch_first", [True, False])
    def test_a_step_is_patched_and_later_ones_follow(self, kind, batch_first):
        torch.manual_seed(0)
        model = self.Tagger(kind, batch_first=batch_first, num_layers=2)
        base, source = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
        if not batch_first:
            base, source = base.transpose(0, 1), source.transpose(0, 1)
        time = 1 if batch_first else 0
        representation = pv.RepresentationConfig(component="rnn.output", unit="t")
        _, patched = pv.IntervenableModel(representation, model)(
            base, [source], unit_locations={"sources->base": (1, 2)}
        )
        # By hand, a step at a time.
        with torch.no_grad():
            _, there = model.rnn(source.narrow(time, 0, 2))
            taken = (there[0] if kind is torch.nn.LSTM else there)[-1]
            first, state = model.rnn(base.narrow(time, 0, 3))
            hidden = (state[0] if kind is torch.nn.LSTM else state).clone()
            hidden[-1] = taken
            first = first.clone()
            first.select(time, 2).copy_(taken)
            rest, _ = model.rnn(base.narrow(time, 3, 2), (hidden, state[1]) if kind is torch.nn.LSTM else hidden)
            expected = model.head(torch.cat([first, rest], dim=time))
        torch.testing.assert_close(patched, expected)
        assert "forward" not in model.rnn.__dict__

    def test_steps_that_differ_from_row_to_row(self):
        torch.manual_seed(0)
        model = self.Tagger(torch.nn.GRU, batch_first=True)
        base, source = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
        intervenable = pv.IntervenableModel(pv.RepresentationConfig(component="rnn.output", unit="t"), model)
        _, patched = intervenable(base, [source], unit_locations={"sources->base": ([[1], [0]], [[2], [3]])})
        for row, where in enumerate([(1, 2), (0, 3)]):
            _, alone = intervenable(base, [source], unit_locations={"sources->base": where})
            torch.testing.assert_close(patched[row], alone[row])

    def test_refusals(self):
        model = self.Tagger(torch.nn.GRU, batch_first=True)
        intervenable = pv.IntervenableModel(pv.RepresentationConfig(component="rnn.output", unit="t"), model)
        with pytest.raises(pv.SelectionError, match="steps"):
            intervenable(torch.randn(2, 5, 4), [torch.randn(2, 5, 4)])
        with pytest.raises(pv.NeverFiredError):
            intervenable(torch.randn(2, 5, 4), [torch.randn(2, 5, 4)], unit_locations={"sources->base": 7})


class TestGradientCheckpointing:
    @pytest.fixture
    def training(self):
        model: Any = pv.tiny("gpt2", attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)
        return model.train()

    def gradients(self, intervenable, base, source):
        for parameter in intervenable.parameters():
            parameter.grad = None
        _, outputs = intervenable(base, [source], unit_locations={"sources->base": 2})
        outputs.logits[:, -1].sum().backward()
        return [p.grad.clone() for p in intervenable.get_trainable_parameters()]

    def rotation(self, component):
        kind = pv.LowRankRotatedSpaceIntervention
        return pv.RepresentationConfig(0, component, intervention_type=kind, low_rank_dimension=2)

    @pytest.mark.parametrize("reentrant", [True, False])
    @pytest.mark.parametrize("component", ["block_output", "mlp_output"])
    def test_gradients_are_those_without_it(self, training, base, source, component, reentrant):
        representation = self.rotation(component)
        intervenable = pv.IntervenableModel(representation, training)
        expected = self.gradients(intervenable, base, source)
        training.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        with intervenable.through_backward():
            found = self.gradients(intervenable, base, source)
            again = self.gradients(intervenable, base, source)
        for one, other, plain in zip(found, again, expected, strict=True):
            assert plain.abs().max() > 0
            torch.testing.assert_close(one, plain)
            torch.testing.assert_close(other, plain)
        assert all(p.grad is None and p.requires_grad for p in training.parameters())
        assert not any(module._forward_hooks for module in training.transformer.h)

    def test_closing_too_early_says_how_to_stay_open(self, training, base, source):
        training.gradient_checkpointing_enable()
        intervenable = pv.IntervenableModel(self.rotation("block_output"), training)
        with pytest.raises(pv.GradientCheckpointingError, match="through_backward"):
            intervenable(base, [source])
        assert all(p.requires_grad for p in training.parameters())
        with intervenable.through_backward(), pytest.raises(pv.SessionError), intervenable.through_backward():
            pass

    def test_no_gradients_no_need(self, training, base, source):
        training.gradient_checkpointing_enable()
        # transformers makes the embeddings require gradients then, so that a loss might be meant to reach them.
        training.disable_input_require_grads()
        pv.IntervenableModel(block(0), training)(base, [source])
        intervenable = pv.IntervenableModel(self.rotation("block_output"), training.eval())
        intervenable(base, [source])[1].logits.sum().backward()
        training.train()
        with torch.no_grad():
            _, outputs = pv.IntervenableModel(block(0), training)(base, [source])
        assert not outputs.logits.requires_grad


class TestSourcesFromWithin:
    def test_skipping_passes_the_modules_own_input_on(self, gpt2, base, source):
        skip = pv.IntervenableModel(block(intervention_type=pv.SkipIntervention), gpt2)
        site = pv.adapt(gpt2)["layer.1.block_input"]
        for run, sources in ((base, None), (source, [source])):
            value = pv.adapt(gpt2).read([site], **run)[site]
            with torch.no_grad(), pv.adapt(gpt2).session(writes={"layer.1.block_output": value}):
                expected = gpt2(**base).logits
            assert torch.equal(skip(base, sources)[1].logits, expected)

    def test_skipping_at_a_position(self, gpt2, base):
        skip = pv.IntervenableModel(block(intervention_type=pv.SkipIntervention), gpt2)
        site = pv.adapt(gpt2)["layer.1.block_input"].at(positions=[[1], [3]])
        value = pv.adapt(gpt2).read([site], **base)[site]
        with (
            torch.no_grad(),
            pv.adapt(gpt2).session(writes={pv.adapt(gpt2)["layer.1.block_output"].at(positions=[[1], [3]]): value}),
        ):
            expected = gpt2(**base).logits
        assert torch.equal(skip(base, unit_locations={"base": [[1], [3]]})[1].logits, expected)

    def test_lora_adapts_the_module_in_its_own_run(self, gpt2, base, source):
        lora = pv.RepresentationConfig(1, "query_output", intervention_type=pv.LoRAIntervention, low_rank_dimension=4)
        intervenable = pv.IntervenableModel([block(0), lora], gpt2)
        adapter: Any = intervenable.interventions["layer.1.query_output"].intervention
        with torch.no_grad():
            adapter.lora_B.normal_()
        _, found = intervenable(base, [source], unit_locations={"sources->base": (1, slice(0, 5))})
        kept = {}

        def keep(part):
            kept["input"] = part

        def add(part):
            change = kept["input"] @ adapter.lora_A.T @ adapter.lora_B.T
            return part + adapter.scale * change

        with torch.no_grad():
            value = pv.adapt(gpt2).read(["layer.0.block_output"], **source)["layer.0.block_output"][:, 1:2]
            with pv.adapt(gpt2).session(
                writes=[
                    ("layer.0.block_output", value),
                    ("transformer.h.1.attn.c_attn.input", keep),
                    ("layer.1.query_output", add),
                ]
            ):
                expected = gpt2(**base).logits
        torch.testing.assert_close(found.logits, expected)

    def test_a_function_may_do_without_its_source(self, gpt2, base, source):
        def either(activation, source=None):
            return activation * 2 if source is None else source

        intervenable = pv.IntervenableModel(block(intervention=either), gpt2)
        doubled = pv.IntervenableModel(block(intervention=lambda a: a * 2), gpt2)
        assert torch.equal(intervenable(base)[1].logits, doubled(base)[1].logits)
        assert torch.equal(
            intervenable(base, [source])[1].logits, pv.IntervenableModel(block(), gpt2)(base, [source])[1].logits
        )


def test_a_module_that_runs_step_by_step_is_patched_at_a_step():
    class Stepper(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = torch.nn.GRUCell(4, 6)

        def forward(self, x):
            state = torch.zeros(len(x), 6)
            for step in x.unbind(1):
                state = self.cell(step, state)
            return state

    torch.manual_seed(0)
    model = Stepper()
    base, source = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    intervenable = pv.IntervenableModel(pv.RepresentationConfig(component="cell.output", unit="t"), model)
    _, patched = intervenable(base, [source], unit_locations={"sources->base": (1, 3)})
    with torch.no_grad():
        expected = model.cell(base[:, 4], model(source[:, :2]))
    assert torch.equal(patched, expected)


def test_heads_and_positions_for_other_numbers_of_rows_are_refused(gpt2, base, source):
    representation = pv.RepresentationConfig(1, "head_attention_value_output", unit="h.pos")
    with pytest.raises(pv.SelectionError, match="different numbers of rows"):
        pv.IntervenableModel(representation, gpt2)(
            base, [source], unit_locations={"sources->base": [[[[0], [1]], [[1], [2], [3]]]]}
        )


def test_subspaces_in_every_form(gpt2, base, source):
    parts = [[0, 4], [4, 10], [10, 24]]
    intervenable = pv.IntervenableModel([block(subspace_partition=parts), block(2, subspace_partition=parts)], gpt2)
    where = {"sources->base": [[1], [2]]}

    def said(subspaces):
        return intervenable(base, [source], unit_locations=where, subspaces=subspaces)[1].logits

    for short, full in (
        (1, [[[1], [1]], [[1], [1]]]),
        ([0, 2], [[[0, 2], [0, 2]], [[0, 2], [0, 2]]]),
        ([1, [0, 2]], [[[1], [1]], [[0, 2], [0, 2]]]),
        ([None, 0], [None, [[0], [0]]]),
    ):
        assert torch.equal(said(short), said(full))
    assert not torch.equal(said(1), said(0))
    assert not torch.equal(said([[[0], [1]], None]), said([[[0], [0]], None]))
    for wrong, says in (
        ([1.5], "1.5"),
        ([[[0]], None], "1 rows"),
        ([None] * 3, "3 interventions"),
        ([3, 3], "do not exist"),
    ):
        with pytest.raises(pv.SelectionError, match=says):
            said(wrong)


def test_attention_patterns_by_head_under_any_implementation(gpt2, base, source):
    pattern = pv.RepresentationConfig(1, "attention_weight", unit="h")
    with pytest.raises(pv.AttentionImplementationError, match="eager"):
        pv.IntervenableModel(pattern, gpt2)(base, [source], unit_locations={"sources->base": 1})
    intervenable = pv.IntervenableModel(pattern, gpt2, attention="eager")
    _, patched = intervenable(base, [source], unit_locations={"sources->base": 1})
    _, again = pv.IntervenableModel(pattern, gpt2)(
        base, [source], unit_locations={"sources->base": 1}, attention="eager"
    )
    assert torch.equal(patched.logits, again.logits)
    site = pv.adapt(gpt2)["layer.1.attention_pattern"].at(heads=1)
    value = pv.adapt(gpt2).read([site], attention="eager", **source)[site]
    with torch.no_grad(), pv.adapt(gpt2).session(writes={site: value}, attention="eager"):
        expected = gpt2(**base).logits
    assert torch.equal(patched.logits, expected)


def test_a_place_that_is_never_reached_is_an_error():
    class Idle(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.used = torch.nn.Linear(3, 3)
            self.unused = torch.nn.Linear(3, 3)

        def forward(self, x):
            return self.used(x)

    for kind in (pv.ZeroIntervention, pv.CollectIntervention):
        intervenable = pv.IntervenableModel({"component": "unused.output", "intervention_type": kind}, Idle())
        with pytest.raises(pv.NeverFiredError, match=r"unused\.output"):
            intervenable(torch.zeros(1, 3))


def test_steps_by_row_where_time_comes_first():
    torch.manual_seed(0)
    model = TestRecurrent.Tagger(torch.nn.GRU)
    base, source = torch.randn(5, 2, 4), torch.randn(5, 2, 4)
    intervenable = pv.IntervenableModel(pv.RepresentationConfig(component="rnn.output", unit="t"), model)
    _, patched = intervenable(base, [source], unit_locations={"sources->base": ([[1], [0]], [[2], [3]])})
    for row, where in enumerate([(1, 2), (0, 3)]):
        _, alone = intervenable(base, [source], unit_locations={"sources->base": where})
        torch.testing.assert_close(patched[:, row], alone[:, row])
    with pytest.raises(pv.SelectionError, match="3 row"):
        intervenable(base, [source], unit_locations={"sources->base": [[1], [0], [2]]})


def test_a_function_that_works_in_place_reaches_nothing_of_the_callers(gpt2, base):
    def add(part, source):
        source += part
        part += source
        return part

    given = torch.ones(2, 5, gpt2.config.n_embd)
    intervenable = pv.IntervenableModel([{"layer": 0, "intervention": add}], gpt2)
    _, changed = intervenable(base, source_representations=given)
    _, again = intervenable(base, source_representations=given)
    assert torch.equal(given, torch.ones_like(given))
    assert torch.equal(changed.logits, again.logits)
