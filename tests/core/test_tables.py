"""The rows that many families' tables share."""

from __future__ import annotations

import pytest

from intervene.calls import Attention
from intervene.components import components
from intervene.lenses import Heads
from intervene.ports import Input, Output
from intervene.tables import attention

QUERY, KEY, VALUE, MIXED = Output("q"), Output("k"), Output("v"), Input("o")


@pytest.mark.parametrize("cross", [False, True])
def test_the_rows_are_the_vocabularys(cross: bool) -> None:
    rows = attention("attn", QUERY, KEY, VALUE, MIXED, 4, cross=cross)
    named = [name for name in components() if name in rows]
    assert len(named) == len(rows) == 10
    assert all(("cross" in name) == cross for name in named)


def test_each_row_is_where_it_should_be() -> None:
    rows = attention("attn", QUERY, KEY, VALUE, MIXED, 4, 2)
    assert (rows["query_output"], rows["key_output"], rows["value_output"]) == (QUERY, KEY, VALUE)
    assert rows["head_query_output"] == QUERY >> Heads(4)
    assert rows["head_key_output"] == KEY >> Heads(2)
    assert rows["head_value_output"] == VALUE >> Heads(2)
    assert rows["attention_value_output"] == MIXED
    assert rows["head_attention_value_output"] == MIXED >> Heads(4)
    assert rows["attention_scores"] == Attention("scores", "attn")
    assert rows["attention_pattern"] == Attention("pattern", "attn")


def test_cross_attention_has_names_of_its_own() -> None:
    rows = attention("attn", QUERY, KEY, VALUE, MIXED, 4, cross=True)
    assert rows["head_cross_key_output"] == KEY >> Heads(4)
    assert rows["cross_attention_value_output"] == MIXED
