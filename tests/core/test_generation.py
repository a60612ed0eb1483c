"""Under `generate`: positions are the prompt's columns, with a cache or without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import intervene
from intervene.errors import NeverFiredError, ShapeMismatchError
from intervene.selection import Frame
from intervene.taps import Timed

STEPS = 5
SITES = ["layer.0.block_output", "layer.1.mlp_output", "layer.1.query_output", "layer.0.key_output", "embedding_output"]


def generate(adapted: Any, ids: Tensor, writes: Any = (), reads: Any = (), **options: Any) -> tuple[Any, Any]:
    with adapted.session(reads=reads, writes=writes, keep="all") as session:
        out = adapted.model.generate(ids, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False, **options)
    return out, session.values


def uncached(adapted: Any, ids: Tensor, writes: Any, mask: Tensor | None = None) -> Tensor:
    """Greedy decoding by hand: the whole sequence in every step, through a session of its own."""
    prompt = ids.shape[1]
    tokens = ids
    for _ in range(STEPS):
        if mask is not None:
            grown = torch.cat([mask, torch.ones(len(ids), tokens.shape[1] - prompt, dtype=mask.dtype)], dim=1)
            where = (grown.cumsum(-1) - 1).clamp(min=0)
            more = {"attention_mask": grown, "position_ids": where}
        else:
            more = {}
        with adapted.session(writes=writes), torch.no_grad():
            logits = adapted.model(input_ids=tokens, use_cache=False, **more).logits[:, -1]
        logits[:, 2] = -torch.inf  # min_new_tokens: the end-of-text token doesn't come yet
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=1)
    return tokens


@given(st.data())
def test_cached_is_uncached(adapted: Any, ids: Tensor, data: st.DataObject) -> None:
    """For any site, positions of the prompt, and way of saying what is written."""
    address = data.draw(st.sampled_from(SITES))
    site = adapted[address]
    seed = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    kind = data.draw(st.sampled_from(["list", "slice", "per row", "whole"]))
    how = data.draw(st.sampled_from(["tensor", "one", "function"]))
    if kind == "list":
        positions: Any = data.draw(st.lists(st.integers(0, 5), min_size=1, unique=True))
    elif kind == "slice":
        start = data.draw(st.integers(0, 4))
        positions = slice(start, data.draw(st.integers(start + 1, 6)))
    else:
        positions = [data.draw(st.permutations(range(6)).map(lambda p: p[:2])) for _ in range(2)]
    narrow = site if kind == "whole" else site.at(positions=positions)
    shape = {"list": len(positions), "slice": 0, "per row": 2, "whole": 6}[kind] if kind != "slice" else None
    count = len(range(6)[positions]) if shape is None else shape
    noise = torch.randn(2, count, 24, generator=seed) * 3
    shift = torch.randn(24, generator=seed) * 3
    written: Any = {
        "tensor": noise,
        # Of a whole site, one value for all positions goes on for the generated ones, and without a cache likewise.
        "one": shift,
        "function": lambda h: h + shift.to(h.dtype),
    }[how]
    out, _ = generate(adapted, ids, {narrow: written})
    again, _ = generate(adapted, ids, {narrow: written}, use_cache=False)
    assert torch.equal(out, again)
    if not (kind == "whole" and how == "tensor"):
        assert torch.equal(out, uncached(adapted, ids, {narrow: written}))


def test_the_write_matters(adapted: Any, ids: Tensor) -> None:
    """Or the comparison above would say nothing."""
    noise = torch.randn(2, 1, 24, generator=torch.Generator().manual_seed(0)) * 5
    asked = {"output_logits": True, "return_dict_in_generate": True}
    plain: Any = generate(adapted, ids, **asked)[0]
    outs: list[Any] = [generate(adapted, ids, {adapted[a].at(positions=-1): noise}, **asked)[0] for a in SITES[:3]]
    for out in outs:
        assert not torch.equal(out.logits[0], plain.logits[0])
    assert any(not torch.equal(out.sequences, plain.sequences) for out in outs)


@pytest.mark.parametrize("positions", [-1, [-3, -1], slice(-2, None), slice(None, -2), [[-1], [-2]]], ids=str)
def test_negative_positions_are_the_prompts(adapted: Any, ids: Tensor, positions: Any) -> None:
    """Also where every step runs the prompt again; by hand they're the same columns counted from the start."""
    site = adapted["layer.1.block_output"]
    shift = torch.randn(24, generator=torch.Generator().manual_seed(1)) * 4
    end_open = isinstance(positions, slice) and positions.stop is None
    from_start = {
        "-1": [5],
        "[-3, -1]": [3, 5],
        "slice(None, -2, None)": slice(0, 4),
        "[[-1], [-2]]": [[5], [4]],
    }.get(str(positions))
    for written in (shift, lambda h: h + shift):
        cached, _ = generate(adapted, ids, {site.at(positions=positions): written})
        again, _ = generate(adapted, ids, {site.at(positions=positions): written}, use_cache=False)
        if end_open:
            # Open to the right: without a cache what was generated passes by again in every step.
            continue
        assert torch.equal(cached, again)
        assert torch.equal(cached, uncached(adapted, ids, {site.at(positions=from_start): written}))


def test_two_calls_of_generate_in_one_session(adapted: Any, ids: Tensor) -> None:
    """Each has a prompt of its own."""
    writes = {adapted["layer.1.block_output"].at(positions=-1): torch.full((24,), 3.0)}
    longer = torch.cat([ids, ids[:, :3]], dim=1)
    expected = [generate(adapted, tokens, writes)[0] for tokens in (ids, longer)]
    for cache in (True, False):
        with adapted.session(writes=writes):
            for tokens, alone in zip((ids, longer), expected, strict=True):
                out = adapted.model.generate(
                    tokens, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False, use_cache=cache
                )
                assert torch.equal(out, alone)


def test_calls_of_ones_own_within_generate(adapted: Any, ids: Tensor) -> None:
    """A session opened in the course of a generation is about the calls in it, whose prompts are their own."""
    seen: list[Tensor] = []

    def processor(tokens: Tensor, scores: Tensor) -> Tensor:
        site = adapted.site("block_output", 0)
        with adapted.session(reads=[site.at(positions=-1), site], keep="all") as session:
            for columns in (3, 5):
                adapted.model(input_ids=tokens[:, :columns], use_cache=False)
        for last, whole in zip(session.values[site.at(positions=-1)], session.values[site], strict=True):
            assert torch.equal(last, whole[:, -1:])
            seen.append(last)
        return scores

    adapted.model.generate(ids, max_new_tokens=1, do_sample=False, logits_processor=[processor])
    assert len(seen) == 2


def test_a_whole_sites_tensor_covers_the_prompt(adapted: Any, ids: Tensor) -> None:
    """What is generated after it goes on without it; the same as listing the prompt's positions."""
    noise = torch.randn(2, 6, 24, generator=torch.Generator().manual_seed(0)) * 3
    site = adapted["layer.1.block_output"]
    expected, _ = generate(adapted, ids, {site.at(positions=list(range(6))): noise})
    for cache in (True, False):
        for value in (noise, noise[:1], noise[0]):
            out, values = generate(adapted, ids, {site: value}, reads=[site], use_cache=cache)
            if value is noise:
                assert torch.equal(out, expected)
            assert torch.equal(values[site][0], value.expand(2, 6, 24))
            assert not torch.equal(values[site][1][:, -1], values[site][0][:, -1])


def test_a_tensor_of_another_length_than_the_prompt(adapted: Any, ids: Tensor) -> None:
    for length in (5, 7):
        with pytest.raises(ShapeMismatchError, match=rf"\(2, {length}, 24\).*\(2, 6, 24\)"):
            generate(adapted, ids, {"layer.1.block_output": torch.zeros(2, length, 24)})


@pytest.mark.parametrize("cache", [None, "static", "uncached"])
def test_keep_all_gives_one_tensor_a_step(adapted: Any, ids: Tensor, cache: str | None) -> None:
    site = adapted["layer.1.block_output"]
    last, first = site.at(positions=-1), site.at(positions=0)
    ways: dict[str | None, dict[str, Any]] = {
        None: {},
        "uncached": {"use_cache": False},
        "static": {"cache_implementation": "static"},
    }
    options = ways[cache]
    _, values = generate(adapted, ids, reads=[site, last, first], **options)
    lengths = [t.shape[1] for t in values[site]]
    assert lengths == ([6, 7, 8, 9, 10] if cache == "uncached" else [6, 1, 1, 1, 1])
    seen = STEPS if cache == "uncached" else 1
    assert [t.shape[1] for t in values[last]] == [1] * seen
    assert len(values[first]) == seen
    for found in values[last]:
        assert torch.allclose(found, values[site][0][:, -1:], atol=1e-5)


def test_values_of_every_step_are_those_of_one_forward(adapted: Any, ids: Tensor) -> None:
    site = adapted["layer.2.block_output"]
    out, values = generate(adapted, ids, reads=[site])
    whole = adapted.read(site, input_ids=out[:, :-1])[site]
    assert torch.allclose(torch.cat(values[site], dim=1), whole, atol=1e-5)


def test_positions_that_are_generated(adapted: Any, ids: Tensor) -> None:
    """A column beyond the prompt can be read and written when it comes by."""
    site = adapted["layer.1.block_output"].at(positions=[5, 8])
    shift = torch.randn(24, generator=torch.Generator().manual_seed(2)) * 4
    noise = torch.randn(2, 2, 24, generator=torch.Generator().manual_seed(2)) * 4
    _, values = generate(adapted, ids, {site: noise}, reads=[site])
    assert torch.equal(torch.cat(values[site], dim=1), noise)
    for written in (shift, lambda h: h + shift):
        cached, _ = generate(adapted, ids, {site: written})
        again, _ = generate(adapted, ids, {site: written}, use_cache=False)
        assert torch.equal(cached, again)
    with pytest.raises(NeverFiredError, match=r"position\(s\) \[20\] never came by; .* columns 0 to 9"):
        generate(adapted, ids, reads=[adapted["layer.1.block_output"].at(positions=[2, 20])])


def test_left_padding_moves_nothing(adapted: Any, ids: Tensor) -> None:
    """Positions are columns; the padded row's tokens are two columns further right."""
    shift = torch.randn(24, generator=torch.Generator().manual_seed(3)) * 4
    padded = torch.cat([torch.zeros(2, 2, dtype=torch.long), ids], dim=1)
    padded[1] = torch.cat([ids[1], ids[1, :2]])
    mask = torch.ones_like(padded)
    mask[0, :2] = 0
    site = adapted["layer.1.block_output"]
    alone = [
        generate(adapted, ids[:1], {site.at(positions=1): shift})[0],
        generate(adapted, padded[1:], {site.at(positions=4): shift})[0],
    ]
    both: list[Any] = [[[3], [4]], torch.tensor([[3], [4]]), [[-5], [-4]]]
    for positions in both:
        out, _ = generate(adapted, padded, {site.at(positions=positions): shift}, attention_mask=mask)
        assert torch.equal(out[0, 2:], alone[0][0])
        assert torch.equal(out[1], alone[1][0])
        again, _ = generate(
            adapted, padded, {site.at(positions=positions): shift}, attention_mask=mask, use_cache=False
        )
        assert torch.equal(out, again)
    assert torch.equal(out, uncached(adapted, padded, {site.at(positions=[[3], [4]]): shift}, mask))


def test_a_static_cache(adapted: Any, ids: Tensor) -> None:
    writes = {adapted["layer.1.block_output"].at(positions=[-1, 0]): torch.full((24,), 2.0)}
    dynamic, _ = generate(adapted, ids, writes)
    static, _ = generate(adapted, ids, writes, cache_implementation="static")
    assert torch.equal(dynamic, static)


def test_beams(adapted: Any, ids: Tensor) -> None:
    site = adapted["layer.1.block_output"].at(positions=[1, -1])
    for written in (torch.linspace(-3, 3, 24), lambda h: -h):
        cached, _ = generate(adapted, ids, {site: written}, num_beams=3)
        plain, _ = generate(adapted, ids, num_beams=3)
        again, _ = generate(adapted, ids, {site: written}, num_beams=3, use_cache=False)
        assert torch.equal(cached, again)
        assert not torch.equal(cached, plain)


def test_a_cache_of_the_callers(adapted: Any, ids: Tensor) -> None:
    """A prompt in two forwards: the second one stands where the first ended."""
    model, site = adapted.model, adapted["layer.1.block_output"].at(positions=4)
    with torch.no_grad(), adapted.session(reads=[site], writes={site: 3.0}) as whole:
        expected = model(ids).logits[:, -1]
    with torch.no_grad(), adapted.session(reads=[site], writes={site: 3.0}, keep="all") as session:
        past = model(ids[:, :3]).past_key_values
        out = model(ids[:, 3:], past_key_values=past).logits[:, -1]
    assert torch.allclose(out, expected, atol=1e-5)
    assert len(session.values[site]) == 1
    assert torch.equal(session.values[site][0], whole.values[site])
    with torch.no_grad(), adapted.session(reads=[site], writes={site: 3.0}):
        past = model.transformer(ids[:, :3]).past_key_values
        model.transformer(ids[:, 3:], past_key_values=past)


class Scored(nn.Module):
    """A model around another's, which it calls its base, as reward models do."""

    def __init__(self, base_model: nn.Module) -> None:
        super().__init__()
        self.base_model = base_model

    def forward(self, **inputs: Any) -> Tensor:
        logits: Tensor = self.base_model(**inputs).logits
        return logits.sum(-1)


@pytest.mark.parametrize("use_cache", [True, False])
def test_the_base_of_a_model_of_ones_own_generates(adapted: Any, ids: Tensor, use_cache: bool) -> None:
    outer = intervene.adapt(Scored(adapted.model))
    site = outer["base_model.transformer.h.0.output"].at(positions=-1)
    options: Any = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "use_cache": use_cache}
    # Without a cache each step is handed the prompt again, and -1 stays the prompt's last column.
    with torch.no_grad(), outer.session(reads=[site], keep="all") as session:
        adapted.model.generate(ids, **options)
    expected = adapted.read(adapted["layer.0.block_output"].at(positions=-1), ids)
    for value in session.values[site]:
        assert torch.allclose(value, next(iter(expected.values())), atol=1e-5)
    assert len(session.values[site]) == (1 if use_cache else 3)


@pytest.mark.parametrize(("positions", "count"), [([0, 4], 3), ([0, 4], 5), ([0, 1, 4], 2)])
def test_a_value_of_another_size_than_the_positions_over_two_forwards(
    adapted: Any, ids: Tensor, positions: list[int], count: int
) -> None:
    site = adapted["layer.0.block_output"].at(positions=positions)
    with (
        torch.no_grad(),
        pytest.raises(ShapeMismatchError, match=rf"shape \(1, {count}, 24\), .* has \(2, {len(positions)}, 24\)"),
        adapted.session(writes={site: torch.ones(1, count, 24)}),
    ):
        adapted.model(ids[:, :3])


@pytest.mark.parametrize("where", ["keyword", "position"])
def test_a_cache_by_position(adapted: Any, ids: Tensor, where: str) -> None:
    model, site = adapted.model, adapted["layer.1.block_output"].at(positions=4)
    with torch.no_grad(), adapted.session(reads=[site]):
        past = model(ids[:, :3]).past_key_values
        if where == "position":
            model(ids[:, 3:], past)
        else:
            model(input_ids=ids[:, 3:], past_key_values=past)


def test_logits_of_the_last_position_alone(adapted: Any, ids: Tensor) -> None:
    """`generate` asks for these; a position is the same column as ever."""
    logits = adapted["logits"]
    full = adapted.model(ids).logits
    _, values = generate(adapted, ids, reads=[logits.at(positions=5), logits.at(positions=-1)])
    for site in values:
        assert torch.allclose(values[site][0], full[:, 5:6], atol=1e-5)
    with pytest.raises(NeverFiredError, match=r"position\(s\) \[0\] never came by"):
        generate(adapted, ids, reads=[logits.at(positions=0)])
    with adapted.session(reads=[logits.at(positions=4)]) as session:
        adapted.model(ids, logits_to_keep=2)
    assert torch.allclose(session.values[logits.at(positions=4)], full[:, 4:5], atol=1e-5)


def test_written_logits_choose_the_token(adapted: Any, ids: Tensor) -> None:
    chosen = torch.full((61,), -1e4)
    chosen[17] = 0
    out, _ = generate(adapted, ids, {"logits": chosen})
    assert torch.equal(out[:, 6:], torch.full((2, STEPS), 17))
    out, _ = generate(adapted, ids, {adapted["logits"].at(positions=7): chosen})
    assert out[:, 8].tolist() == [17, 17]


def test_inputs_embeds(adapted: Any, ids: Tensor) -> None:
    embeds = adapted.model.transformer.wte(ids).detach()
    writes = {adapted["layer.1.block_output"].at(positions=-1): torch.full((24,), 2.0)}
    expected, _ = generate(adapted, ids, writes)
    for cache in (True, False):
        with adapted.session(writes=writes):
            out = adapted.model.generate(
                inputs_embeds=embeds,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=STEPS,
                min_new_tokens=STEPS,
                do_sample=False,
                use_cache=cache,
            )
        assert torch.equal(out, expected[:, 6:])


def test_a_session_on_the_bare_base_under_generate(gpt2: Any, ids: Tensor) -> None:
    base = intervene.adapt(gpt2.transformer)
    site = base["layer.1.block_output"].at(positions=[0, 7])
    with base.session(reads=[site], keep="all") as session:
        gpt2.generate(ids, max_new_tokens=STEPS, do_sample=False)
    assert [t.shape[1] for t in session.values[site]] == [1, 1]


@pytest.mark.parametrize("cache", [True, False])
def test_a_timed_function_knows_the_columns_and_tokens(adapted: Any, ids: Tensor, cache: bool) -> None:
    seen: list[tuple[range, Tensor]] = []

    class Note(Timed):
        def __call__(self, part: Tensor, frame: Frame) -> None:
            assert frame.tokens is not None
            seen.append((frame.columns(part.shape[1]), frame.tokens))

    out, _ = generate(adapted, ids, {"layer.1.block_output": Note()}, use_cache=cache)
    for columns, tokens in seen:
        assert torch.equal(tokens, out[:, columns.start : columns.stop])
    assert [columns.stop for columns, _ in seen] == [6, 7, 8, 9, 10]
    assert [len(columns) for columns, _ in seen] == ([6, 1, 1, 1, 1] if cache else [6, 7, 8, 9, 10])
