"""A selection means what plain indexing means: an oracle with numpy, which knows no lens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from intervene.errors import SelectionError
from intervene.selection import Frame, Selection

AXES = ("batch", "head", "position", "feature")
NAMES = ("rows", "heads", "positions", "dims")


@st.composite
def choices(draw: st.DrawFn, size: int) -> Any:
    """An int, a slice, a list, a tuple, a range, a tensor or an array of indices that fit ``size``."""
    kind = draw(st.sampled_from(["int", "slice", "list", "tuple", "tensor", "array", "scalars"]))
    index = st.integers(-size, size - 1)
    if kind == "int":
        return draw(index)
    if kind == "slice":
        bound = st.one_of(st.none(), st.integers(-size - 2, size + 2))
        return slice(draw(bound), draw(bound), draw(st.one_of(st.none(), st.integers(1, 3))))
    indices = draw(st.lists(index, min_size=1, max_size=size, unique_by=lambda i: i % size))
    made: Any = {
        "list": list,
        "tuple": tuple,
        "tensor": torch.tensor,
        "array": np.array,
        "scalars": lambda found: [torch.tensor(i) for i in found],
    }
    return made[kind](indices)


def oracle(array: np.ndarray[Any, Any], axis: int, choice: Any) -> np.ndarray[Any, Any]:
    if isinstance(choice, int):
        choice = [choice]
    if isinstance(choice, slice):
        return array[(slice(None),) * axis + (choice,)]
    return np.take(array, [int(c) for c in choice], axis=axis)


@st.composite
def a_selection(draw: st.DrawFn) -> tuple[tuple[int, ...], dict[str, Any]]:
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=4, max_size=4)))
    chosen = draw(st.sets(st.sampled_from(NAMES)))
    return shape, {n: draw(choices(shape[NAMES.index(n)])) for n in NAMES if n in chosen}


@given(a_selection())
def test_resolves_like_plain_indexing(case: tuple[tuple[int, ...], dict[str, Any]]) -> None:
    shape, chosen = case
    whole = torch.arange(int(np.prod(shape))).reshape(shape)
    expected = whole.numpy()
    for name, choice in chosen.items():
        expected = oracle(expected, NAMES.index(name), choice)
    assume(expected.size)
    picked = Selection().narrowed(**chosen).resolve(shape, AXES)
    assert picked is not None
    assert np.array_equal(picked.lens.get(whole).numpy(), expected)
    assert picked.shape == expected.shape


@given(a_selection())
def test_a_write_lands_where_plain_indexing_says(case: tuple[tuple[int, ...], dict[str, Any]]) -> None:
    shape, chosen = case
    whole = torch.arange(int(np.prod(shape))).reshape(shape)
    expected = whole.numpy()
    for name, choice in chosen.items():
        expected = oracle(expected, NAMES.index(name), choice)
    assume(expected.size)
    picked = Selection().narrowed(**chosen).resolve(shape, AXES)
    assert picked is not None
    put = picked.lens.put(whole, torch.full(expected.shape, -1))
    assert set(whole[put == -1].tolist()) == set(expected.flatten().tolist())


@given(st.data(), st.integers(1, 3), st.integers(1, 6))
def test_positions_by_row(data: st.DataObject, rows: int, size: int) -> None:
    count = data.draw(st.integers(1, size))
    one = st.permutations(range(size)).map(lambda p: p[:count])
    positions = data.draw(st.lists(one, min_size=rows, max_size=rows))
    signs = data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
    signed = [[p - size if s else p for p in row] for row, s in zip(positions, signs, strict=True)]
    given_as: Any = data.draw(st.sampled_from([lambda p: p, torch.tensor, lambda p: [torch.tensor(r) for r in p]]))
    whole = torch.arange(rows * size * 2).reshape(rows, size, 2)
    selection = Selection().narrowed(positions=given_as(signed))
    picked = selection.resolve(whole.shape, ("batch", "position", "feature"))
    assert picked is not None
    expected = np.stack([whole.numpy()[r][row] for r, row in enumerate(positions)])
    assert np.array_equal(picked.lens.get(whole).numpy(), expected)
    assert picked.shape == expected.shape


def test_positions_by_row_count_the_chosen_rows() -> None:
    whole = torch.arange(4 * 3).reshape(4, 3, 1)
    selection = Selection().narrowed(rows=[3, 1], positions=[[0, 1], [2, 0]])
    picked = selection.resolve(whole.shape, ("batch", "position", "feature"))
    assert picked is not None
    assert picked.lens.get(whole).flatten().tolist() == [9, 10, 5, 3]


def columns(selection: Selection, frame: Frame, size: int) -> list[int] | None:
    """The absolute columns that a forward of ``size`` columns shows of a selection."""
    start = frame.columns(size).start
    picked = selection.resolve((1, size, 1), ("batch", "position", "feature"), frame)
    return (
        None
        if picked is None
        else picked.lens.get(torch.arange(start, start + size).view(1, size, 1)).flatten().tolist()
    )


@given(st.data(), st.integers(1, 8), st.integers(0, 8))
def test_a_sequence_in_two_forwards_shows_what_one_would(data: st.DataObject, first: int, second: int) -> None:
    """Under a cache the prompt's columns and the later ones pass by apart; together they're the whole."""
    total = first + second
    bound = st.one_of(st.none(), st.integers(0, total + 1))
    positions: Any = data.draw(
        st.one_of(
            st.lists(st.integers(0, total - 1), min_size=1, unique=True),
            st.builds(slice, bound, bound, st.one_of(st.none(), st.integers(1, 3))),
        )
    )
    selection = Selection().narrowed(positions=positions)
    whole = columns(selection, Frame(), total) or []
    seen = (columns(selection, Frame(), first) or []) + (
        (columns(selection, Frame(offset=first), second) or []) if second else []
    )
    if isinstance(positions, list):
        assert whole == positions
        assert sorted(seen) == sorted(positions)
    else:
        assert seen == whole == list(range(total))[positions]


def test_entries_say_which_listed_positions_pass_by() -> None:
    selection = Selection().narrowed(positions=[5, 0, 3])
    axes = ("batch", "position", "feature")
    first = selection.resolve((1, 4, 1), axes)
    assert first is not None
    assert first.entries == (1, 2)
    second = selection.resolve((1, 2, 1), axes, Frame(offset=4))
    assert second is not None
    assert second.entries == (0,)
    whole = selection.resolve((1, 6, 1), axes)
    assert whole is not None
    assert whole.entries is None


@pytest.mark.parametrize("positions", [-1, [-2, -1], slice(-2, None), slice(None, -1), [[-1]]])
def test_the_prompts_end_is_not_a_later_forwards(positions: Any) -> None:
    assert columns(Selection().narrowed(positions=positions), Frame(offset=4), 1) is None


@pytest.mark.parametrize(
    ("positions", "expected"),
    [(-1, [3]), ([-1, -4], [3, 0]), (slice(-2, None), [2, 3, 4, 5]), (slice(None, -1), [0, 1, 2]), (2, [2])],
)
def test_the_prompts_end_when_the_prompt_is_run_again_with_more(positions: Any, expected: list[int]) -> None:
    """A step of ``generate`` without a cache: six columns, of which the first four are the prompt."""
    selection = Selection().narrowed(positions=positions)
    assert columns(selection, Frame(length=6, prompt=4), 6) == expected


def test_logits_of_the_last_columns_alone() -> None:
    """A forward of six columns that computes the logits of two."""
    frame = Frame(length=6, kept=2)
    assert columns(Selection().narrowed(positions=-1), frame, 2) == [5]
    assert columns(Selection().narrowed(positions=[4, 5]), frame, 2) == [4, 5]
    assert columns(Selection().narrowed(positions=0), frame, 2) is None
    assert columns(Selection().narrowed(positions=slice(3, 5)), frame, 2) == [4]
    assert columns(Selection().narrowed(positions=0), frame, 6) == [0]


def test_positions_by_row_that_lie_in_part_in_this_forward() -> None:
    selection = Selection().narrowed(positions=[[0], [5]])
    axes = ("batch", "position", "feature")
    with pytest.raises(SelectionError, match=r"only in part in the columns 0 to 3"):
        selection.resolve((2, 4, 1), axes)
    assert Selection().narrowed(positions=[[4], [5]]).resolve((2, 4, 1), axes) is None


BAD: list[tuple[str, Any, str]] = [
    ("positions", [1, 1], "repeat an index"),
    ("positions", [[0, 1], [2, 2]], "repeat an index"),
    ("heads", torch.tensor([3, 3]), "repeat an index"),
    ("positions", [], "non-empty"),
    ("positions", [[]], "whole numbers"),
    ("positions", torch.tensor([], dtype=torch.long), "non-empty"),
    ("positions", True, "expected an int"),
    ("positions", [True, False], "whole numbers"),
    ("positions", torch.tensor([True, False]), "whole numbers"),
    ("rows", np.array([True]), "whole numbers"),
    ("positions", 1.0, "expected an int"),
    ("positions", [0, 1.5], "whole numbers"),
    ("dims", torch.tensor([0.0]), "whole numbers"),
    ("positions", "last", "expected an int"),
    ("positions", {0, 1}, "expected an int"),
    ("positions", [[0], 1], "a list for each row"),
    ("positions", [0, [1]], "a list for each row"),
    ("positions", [[0], [1, 2]], r"as many for each row; found \[1, 2\]"),
    ("positions", [[[0]]], "whole numbers"),
    ("heads", [[0], [1]], "only positions can"),
    ("dims", torch.tensor([[0], [1]]), "only positions can"),
    ("positions", slice(None, None, -1), "step must be positive"),
    ("positions", slice(None, None, 0), "step must be positive"),
    ("positions", slice(0.5, 2), "start is a whole number"),
    ("dims", slice(0, True), "stop is a whole number"),
    ("call", -1, "count from 0"),
    ("call", True, "count from 0"),
    ("call", 1.0, "count from 0"),
]


@pytest.mark.parametrize(("axis", "choice", "message"), BAD, ids=lambda v: repr(v)[:30])
def test_a_choice_that_is_none(axis: str, choice: Any, message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        Selection().narrowed(**{axis: choice})


@pytest.mark.parametrize("name", NAMES)
def test_an_axis_is_narrowed_once(name: str) -> None:
    once = Selection().narrowed(**{name: 0})
    with pytest.raises(SelectionError, match=f"{name} were chosen already"):
        once.narrowed(**{name: 1})


@pytest.mark.parametrize("name", ["rows", "heads", "dims"])
@pytest.mark.parametrize("choice", [5, -6, [0, 7]])
def test_out_of_range(name: str, choice: Any) -> None:
    with pytest.raises(SelectionError, match=rf"{name} \[.*\] out of range: there are 5 \(0 to 4\)"):
        Selection().narrowed(**{name: choice}).resolve((5, 5, 5, 5), AXES)


@pytest.mark.parametrize("name", ["rows", "heads", "dims"])
def test_a_slice_of_nothing(name: str) -> None:
    chosen: dict[str, Any] = {name: slice(5, None)}
    with pytest.raises(SelectionError, match="choose nothing of 5"):
        Selection().narrowed(**chosen).resolve((5, 5, 5, 5), AXES)


@pytest.mark.parametrize("name", NAMES)
def test_two_names_of_one_place(name: str) -> None:
    chosen: dict[str, Any] = {name: [4, -1]}
    with pytest.raises(SelectionError, match="the same place twice"):
        Selection().narrowed(**chosen).resolve((5, 5, 5, 5), AXES)


def test_two_names_of_one_place_in_a_row() -> None:
    with pytest.raises(SelectionError, match="the same place twice"):
        Selection().narrowed(positions=[[0, 1], [4, -1]]).resolve((2, 5, 1), ("batch", "position", "feature"))


def test_rows_of_positions_as_many_as_the_batch() -> None:
    with pytest.raises(SelectionError, match="given for 3 rows, the activation has 2"):
        Selection().narrowed(positions=[[0], [1], [2]]).resolve((2, 5, 1), ("batch", "position", "feature"))


def test_an_axis_that_is_missing() -> None:
    with pytest.raises(SelectionError, match="cannot choose heads: the axes here are batch, position, feature"):
        Selection().narrowed(heads=0).resolve((2, 5, 4), ("batch", "position", "feature"))
    with pytest.raises(SelectionError, match="cannot choose positions: the axes here are batch, feature"):
        Selection().narrowed(positions=0).resolve((2, 4), ("batch", "feature"))


def test_axes_without_names() -> None:
    """Rows come first, and of three axes the middle one is positions; nothing is guessed beyond that."""
    assert columns(Selection().narrowed(positions=1), Frame(), 3) == [1]
    picked = Selection().narrowed(rows=1, positions=0).resolve((2, 3, 4), None)
    assert picked is not None
    with pytest.raises(SelectionError, match="no named axes"):
        Selection().narrowed(positions=0).resolve((2, 3), None)
    with pytest.raises(SelectionError, match="no named axes"):
        Selection().narrowed(heads=0).resolve((2, 3, 4, 5), None)


def test_an_activation_of_another_rank_than_the_axes_say() -> None:
    with pytest.raises(SelectionError, match="has 2 axes where"):
        Selection().narrowed(rows=0).resolve((2, 3), ("batch", "position", "feature"))


def test_selections_are_data() -> None:
    spelled: tuple[Any, ...] = (3, [3], (3,), torch.tensor([3]), np.int64(3))
    same = [Selection().narrowed(positions=p) for p in spelled]
    assert len(set(same)) == 1
    assert Selection().narrowed(positions=slice(1, 3)) == Selection().narrowed(positions=slice(1, 3))
    assert Selection().narrowed(positions=slice(1, 3)) != Selection().narrowed(positions=[1, 2])


def test_a_selection_as_text() -> None:
    text: Any = Selection().narrowed(positions=[[0, 1], [2, 3]], heads=2, dims=slice(None, 8), rows=slice(0, 4, 2))
    assert str(text) == "rows=0:4:2, heads=2, positions=[[0, 1], [2, 3]], dims=:8"


def test_put_leaves_other_rows_columns_and_dims(x: Tensor) -> None:
    whole = torch.zeros(2, 3, 4, 5)
    picked = Selection().narrowed(rows=1, heads=[2, 0], positions=-1, dims=slice(1, 3)).resolve(whole.shape, AXES)
    assert picked is not None
    put = picked.lens.put(whole, torch.ones(1, 2, 1, 2))
    expected = torch.zeros_like(whole)
    expected[1, [0, 2], 3, 1:3] = 1
    assert torch.equal(put, expected)
