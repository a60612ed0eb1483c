"""The lens laws, for each lens and for random compositions of them, bit for bit in float32 and bfloat16."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from intervene.errors import ShapeMismatchError
from intervene.lenses import (
    ChannelsFirst,
    Chunk,
    Composed,
    FlatBatch,
    Heads,
    Interleaved,
    Joined,
    Latest,
    Lens,
    Narrow,
    OneStep,
    Slice,
    Take,
    TakePerRow,
    Transposed,
    Unflatten,
    Whole,
)
from intervene.selection import Frame

DTYPES = (torch.float32, torch.bfloat16)


def tensor(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def distinct(size: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(0, size - 1), min_size=1, max_size=size, unique=True).map(tuple)


@st.composite
def one_lens(draw: st.DrawFn, shape: tuple[int, ...]) -> Lens:
    """A lens that fits a tensor of ``shape``, of any kind that does."""
    width, rank = shape[-1], len(shape)
    axis = draw(st.integers(0, rank - 1))
    kinds = ["whole", "narrow", "take", "slice", "chunk", "interleaved", "transposed"]
    kinds += ["heads", "per row", "flat", "latest"] if rank >= 2 else []
    kinds += ["channels first", "one step", "joined"] if rank in (2, 3) else []
    kind = draw(st.sampled_from(kinds))
    divisors = st.sampled_from([d for d in range(1, width + 1) if width % d == 0])
    if kind == "narrow":
        start = draw(st.integers(0, shape[axis] - 1))
        return Narrow(axis, start, draw(st.integers(1, shape[axis] - start)))
    if kind == "take":
        return Take(axis, draw(distinct(shape[axis])))
    if kind == "per row":
        axis = draw(st.integers(1, rank - 1))
        count = draw(st.integers(1, shape[axis]))
        rows = st.permutations(range(shape[axis])).map(lambda p: tuple(p[:count]))
        return TakePerRow(axis, tuple(draw(rows) for _ in range(shape[0])))
    if kind == "slice":
        start = draw(st.integers(0, width - 1))
        return Slice(start, draw(st.integers(start + 1, width)))
    if kind == "chunk":
        of = draw(divisors)
        return Chunk(draw(st.integers(0, of - 1)), of)
    if kind == "heads":
        return Heads(draw(divisors))
    if kind == "interleaved":
        heads = draw(divisors)
        of = draw(st.sampled_from([d for d in range(1, width // heads + 1) if width // heads % d == 0]))
        return Interleaved(draw(st.integers(0, of - 1)), of, heads)
    if kind == "flat":
        return FlatBatch()
    if kind == "channels first":
        return ChannelsFirst()
    if kind == "one step":
        return OneStep()
    if kind == "joined":
        return Joined(-2)
    if kind == "latest":
        return Latest().within(Frame(length=draw(st.integers(1, 5))))
    if kind == "transposed":
        return Transposed(axis, draw(st.integers(0, rank - 1)))
    return Whole()


@st.composite
def a_case(draw: st.DrawFn) -> tuple[Lens, tuple[int, ...], torch.dtype]:
    """Up to four lenses one after the other, the shape they are for, and a dtype."""
    leading = draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))
    shape = (*leading, draw(st.sampled_from([1, 4, 6, 12])))
    lens: Lens = Whole()
    part = torch.empty(shape)
    for _ in range(draw(st.integers(1, 4))):
        inner = draw(one_lens(tuple(part.shape)))
        lens, part = lens >> inner, inner.get(part)
    return lens, shape, draw(st.sampled_from(DTYPES))


@given(a_case())
def test_get_put(case: tuple[Lens, tuple[int, ...], torch.dtype]) -> None:
    lens, shape, dtype = case
    whole = tensor(shape, dtype, 0)
    assert torch.equal(lens.put(whole, lens.get(whole)), whole)


@given(a_case())
def test_put_get_keeps_dtype_and_shape(case: tuple[Lens, tuple[int, ...], torch.dtype]) -> None:
    lens, shape, dtype = case
    whole = tensor(shape, dtype, 0)
    part = tensor(tuple(lens.get(whole).shape), dtype, 1)
    put = lens.put(whole, part)
    assert put.dtype == dtype
    assert put.shape == whole.shape
    assert torch.equal(lens.get(put), part)


@given(a_case())
def test_put_put(case: tuple[Lens, tuple[int, ...], torch.dtype]) -> None:
    lens, shape, dtype = case
    whole = tensor(shape, dtype, 0)
    a, b = (tensor(tuple(lens.get(whole).shape), dtype, seed) for seed in (1, 2))
    assert torch.equal(lens.put(lens.put(whole, a), b), lens.put(whole, b))


@given(a_case())
def test_put_writes_neither_argument_in_place(case: tuple[Lens, tuple[int, ...], torch.dtype]) -> None:
    lens, shape, dtype = case
    whole = tensor(shape, dtype, 0)
    part = tensor(tuple(lens.get(whole).shape), dtype, 1)
    before = whole.clone(), part.clone()
    versions = whole._version, part._version
    lens.put(whole, part)
    assert torch.equal(whole, before[0])
    assert torch.equal(part, before[1])
    assert (whole._version, part._version) == versions


@given(a_case())
def test_put_changes_exactly_what_get_shows(case: tuple[Lens, tuple[int, ...], torch.dtype]) -> None:
    """Against marks in place of values: the entries that get shows change, all others stay."""
    lens, shape, _ = case
    marks = torch.arange(torch.Size(shape).numel()).reshape(shape)
    shown = set(lens.get(marks).flatten().tolist())
    put = lens.put(marks, torch.full_like(lens.get(marks), -1))
    assert {m for m, p in zip(marks.flatten().tolist(), put.flatten().tolist(), strict=True) if p == -1} == shown


@given(a_case())
def test_gradients_reach_whole_and_part(case: tuple[Lens, tuple[int, ...], torch.dtype]) -> None:
    """Each entry of the result comes from the part where get shows it, and from the whole elsewhere."""
    lens, shape, _ = case
    whole = tensor(shape, torch.float32, 0).requires_grad_()
    part = tensor(tuple(lens.get(whole).shape), torch.float32, 1).requires_grad_()
    weight = tensor(shape, torch.float32, 2)
    (lens.put(whole, part) * weight).sum().backward()
    assert part.grad is not None
    assert torch.equal(part.grad, lens.get(weight))
    remaining = lens.put(weight, torch.zeros_like(part))
    reached = torch.zeros(shape) if whole.grad is None else whole.grad
    assert torch.equal(reached, remaining)


@given(a_case())
def test_gradients_flow_back_through_get(case: tuple[Lens, tuple[int, ...], torch.dtype]) -> None:
    lens, shape, _ = case
    whole = tensor(shape, torch.float32, 0).requires_grad_()
    part = lens.get(whole)
    weight = tensor(tuple(part.shape), torch.float32, 1)
    (part * weight).sum().backward()
    assert whole.grad is not None
    assert torch.equal(whole.grad, lens.put(torch.zeros(shape), weight))


def test_composition_is_associative() -> None:
    whole = tensor((2, 3, 12), torch.float32, 0)
    a, b, c = Chunk(1, of=2), Heads(3), Take(1, (2, 0))
    left, right = (a >> b) >> c, a >> (b >> c)
    part = tensor(tuple(left.get(whole).shape), torch.float32, 1)
    assert torch.equal(left.get(whole), right.get(whole))
    assert torch.equal(left.put(whole, part), right.put(whole, part))


def test_whole_is_neutral() -> None:
    lens = Chunk(0, of=3)
    assert Whole() >> lens == lens
    composed = lens >> Whole()
    assert composed == Composed(lens, Whole())
    assert torch.equal(composed.get(torch.arange(6)), torch.arange(2))


def test_lenses_are_data() -> None:
    """Equal ones are one key of a dictionary."""
    assert len({Chunk(0, of=3) >> Heads(2), Chunk(0, of=3) >> Heads(2), Chunk(1, of=3) >> Heads(2)}) == 2


# Where each lens looks, against plain indexing.
WHOLE = torch.arange(2 * 3 * 12).reshape(2, 3, 12)
PLACES: list[tuple[Lens, Tensor]] = [
    (Chunk(1, of=3), WHOLE[..., 4:8]),
    (Slice(2, 7), WHOLE[..., 2:7]),
    (Narrow(1, 1, 2), WHOLE[:, 1:3]),
    (Take(1, (2, 0)), WHOLE[:, [2, 0]]),
    (TakePerRow(1, ((2, 0), (1, 2))), torch.stack([WHOLE[0, [2, 0]], WHOLE[1, [1, 2]]])),
    (Heads(4), WHOLE.view(2, 3, 4, 3).permute(0, 2, 1, 3)),
    (Interleaved(2, of=3, heads=2), WHOLE.view(2, 3, 2, 3, 2)[:, :, :, 2].reshape(2, 3, 4)),
    (Transposed(1, 2), WHOLE.permute(0, 2, 1)),
    (FlatBatch(), WHOLE),
    (Chunk(0, of=1) >> FlatBatch() >> Take(0, (1,)), WHOLE[1:]),
]


@pytest.mark.parametrize(("lens", "expected"), PLACES, ids=lambda v: type(v).__name__)
def test_place(lens: Lens, expected: Tensor) -> None:
    assert torch.equal(lens.get(WHOLE), expected)


MISFITS: list[tuple[Any, str]] = [
    (Chunk(0, of=5), "12 features does not split into 5"),
    (Heads(5), "12 features does not split into 5 heads"),
    (Interleaved(0, of=5, heads=2), "2 heads of 5 vectors"),
    (Slice(4, 13), "4:13 do not lie in an axis of 12"),
]


@pytest.mark.parametrize(("lens", "message"), MISFITS, ids=lambda v: type(v).__name__)
def test_a_lens_that_does_not_fit_says_so(lens: Lens, message: str) -> None:
    with pytest.raises(ShapeMismatchError, match=message):
        lens.get(WHOLE)
    if not isinstance(lens, Heads):
        with pytest.raises(ShapeMismatchError, match=message):
            lens.put(WHOLE, WHOLE)


def test_folding_leading_axes() -> None:
    whole = torch.arange(2 * 2 * 3 * 4).reshape(2, 2, 3, 4)
    assert torch.equal(FlatBatch().get(whole), whole.flatten(0, 1))
    assert torch.equal(FlatBatch().put(whole, -whole.flatten(0, 1)), -whole)


@given(st.integers(1, 3), st.integers(1, 4), st.booleans(), st.sampled_from(DTYPES), st.integers(0, 99))
def test_tokens_of_all_rows_in_one_list(rows: int, length: int, heads: bool, dtype: torch.dtype, seed: int) -> None:
    """The forward's own length says where rows begin; the laws hold, alone and before another lens."""
    frame = Frame(length=length)
    lens: Lens = Unflatten() >> Heads(2) if heads else Unflatten()
    lens = lens.within(frame)
    flat, new = tensor((rows * length, 4), dtype, seed), tensor((rows * length, 4), dtype, seed + 1)
    part = lens.get(flat)
    assert part.shape == ((rows, 2, length, 2) if heads else (rows, length, 4))
    assert torch.equal(lens.put(flat, part), flat)
    assert torch.equal(lens.get(lens.put(flat, lens.get(new))), lens.get(new))
    if not heads:
        assert torch.equal(part, flat.reshape(rows, length, 4))


@pytest.mark.parametrize("length", [None, 4])
def test_tokens_that_are_no_rows(length: int | None) -> None:
    with pytest.raises(ShapeMismatchError, match="6 tokens are no rows"):
        Unflatten().within(Frame(length=length)).get(torch.zeros(6, 2))


def test_channels_first() -> None:
    whole = tensor((2, 3, 4), torch.float32, 0)
    seen = ChannelsFirst().get(whole)
    assert torch.equal(seen[1, 3], whole[1, :, 3])
    step = ChannelsFirst().get(whole[..., 3])
    assert torch.equal(step, seen[:, 3:])
    assert ChannelsFirst().put(whole[..., 3], step).shape == (2, 3)


def test_latest_positions_are_this_forwards() -> None:
    whole = tensor((2, 5, 3), torch.float32, 0)
    assert torch.equal(Latest().within(Frame(length=2)).get(whole), whole[:, 3:])
    assert torch.equal(Latest().within(Frame(length=9)).get(whole), whole)
    assert torch.equal(Latest().get(whole), whole)
    put = Latest().within(Frame(length=2)).put(whole, torch.zeros(2, 2, 3))
    assert torch.equal(put[:, :3], whole[:, :3])
    assert not put[:, 3:].any()


def test_heads_side_by_side() -> None:
    whole = tensor((2, 3, 4, 5), torch.float32, 0)
    lens = Joined(-2) >> OneStep()
    assert torch.equal(lens.get(whole)[1, 2], whole[1, 2].flatten())
    assert torch.equal(lens.get(whole[:, 2]), lens.get(whole)[:, 2:])
    assert lens.put(whole[:, 2], torch.zeros(2, 1, 20)).shape == (2, 4, 5)
    assert Joined(1).get(whole).shape == (2, 12, 5)
