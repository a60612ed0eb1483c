"""Rows that the tables of many families share."""

from __future__ import annotations

from .calls import Attention
from .lenses import Heads
from .ports import Port, View

Rows = dict[str, "Port | View"]


def attention(
    softmax: str,
    query: Port | View,
    key: Port | View,
    value: Port | View,
    mixed: Port | View,
    heads: int,
    kv_heads: int | None = None,
    *,
    cross: bool = False,
) -> Rows:
    """What every attention has: queries, keys, values and what they make, whole and by head.

    Args:
        softmax: path of the module in whose forward scores become a pattern.
        query: what leaves the query projection, (batch, position, feature); ``key`` and ``value`` likewise.
        mixed: what enters the output projection: the heads' mixed values, side by side.
        heads: how many heads the queries have.
        kv_heads: how many the keys and values have, where they are fewer.
        cross: whether it attends to another sequence, by which the components are named.
    """
    own, shared = Heads(heads), Heads(kv_heads or heads)
    rows: Rows = {
        "query_output": query,
        "key_output": key,
        "value_output": value,
        "head_query_output": query >> own,
        "head_key_output": key >> shared,
        "head_value_output": value >> shared,
        "attention_scores": Attention("scores", softmax),
        "attention_pattern": Attention("pattern", softmax),
        "head_attention_value_output": mixed >> own,
        "attention_value_output": mixed,
    }
    return {_crossed(name): row for name, row in rows.items()} if cross else rows


def _crossed(name: str) -> str:
    return f"head_cross_{name[5:]}" if name.startswith("head_") else f"cross_{name}"
