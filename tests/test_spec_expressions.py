"""Expressions and conditions: as Python where the grammar allows, refused everywhere else."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config

from intervene.specs.errors import ExpressionError
from intervene.specs.expressions import evaluate, holds, names

CONFIG = {"n_embd": 12, "n_head": 3, "n_inner": None, "zero": 0, "deep_2": 7}
INTEGERS = st.integers(0, 10**6).map(str)
NAMES = st.sampled_from(sorted(CONFIG))


def combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operators = st.sampled_from(["+", "-", "*", "//", "or"])
    return st.one_of(
        st.tuples(inner, operators, inner).map(lambda parts: f"({' '.join(parts)})"),
        st.tuples(inner, operators, inner).map(" ".join),
        inner.map(lambda text: f"-{text}"),
        inner.map(lambda text: f"( {text})"),
    )


EXPRESSIONS = st.recursive(st.one_of(INTEGERS, NAMES), combined, max_leaves=10).filter(lambda text: len(text) <= 200)


@given(EXPRESSIONS)
@settings(max_examples=500, deadline=None)
def test_expressions_agree_with_python(text: str) -> None:
    try:
        expected = eval(text, {"__builtins__": {}}, dict(CONFIG))
    except (TypeError, ZeroDivisionError):
        expected = None
    if expected is None:
        with pytest.raises(ExpressionError):
            evaluate(text, CONFIG)
    else:
        assert evaluate(text, CONFIG) == expected
        assert evaluate(text, SimpleNamespace(**CONFIG)) == expected


CONDITIONS = st.recursive(
    st.one_of(
        st.tuples(NAMES, st.sampled_from(["==", "!=", "is_text"]), INTEGERS).map(
            lambda parts: f"{parts[0]} == 'text'" if parts[1] == "is_text" else f"{parts[0]} {parts[1]} {parts[2]}"
        ),
        st.sampled_from(["True", "False", "n_inner == None", "1 < deep_2 <= 7", "n_embd // n_head > 3"]),
        NAMES,
    ),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(" ".join),
        inner.map(lambda text: f"not ({text})"),
    ),
    max_leaves=6,
).filter(lambda text: len(text) <= 200)


@given(CONDITIONS)
@settings(max_examples=300, deadline=None)
def test_conditions_agree_with_python(text: str) -> None:
    assert holds(text, CONFIG) is bool(eval(text, {"__builtins__": {}}, dict(CONFIG)))


@pytest.mark.parametrize(
    "text",
    [
        "n_embd ** 2",
        "9 ** 9 ** 9",
        "n_embd.real",
        "n_embd.__class__",
        "f(n_embd)",
        "__import__",
        "_private",
        "n_embd[0]",
        "[n_embd]",
        "(n_embd, 1)",
        "{1}",
        "lambda: 1",
        "x := 1",
        "1 if n_embd else 2",
        "n_embd / 2",
        "n_embd % 2",
        "n_embd << 2",
        "n_embd @ 2",
        "~n_embd",
        "+ ",
        "",
        " ",
        "1.5",
        "1_000",
        "0x10",
        "1e3",
        "1j",
        "007",
        "1234567890123",
        "12n_embd",
        "n_embd # note",
        "n_embd\n",
        "\uff4e_embd",
        "await x",
        "1 +* 2",
        "(" * 100 + "1",
        "(" * 99 + "1" + ")" * 99,
        "1 + " * 60 + "1",
        "True",
        "None",
        "'text'",
        "n_embd and 1",
        "not n_embd",
        "n_embd < 3",
    ],
)
def test_expressions_refuse_all_else(text: str) -> None:
    config = {**CONFIG, "x": 1, "__import__": 1, "_private": 1}
    if text == "(" * 99 + "1" + ")" * 99:  # legal, only ugly
        assert evaluate(text, config) == 1
        return
    with pytest.raises(ExpressionError):
        evaluate(text, config)


@pytest.mark.parametrize(
    "text", ["x.y", "f()", "x is None", "x in 'abc'", "f'{x}'", "'a' 'b' if x else 1", "b'x'", "_x == 1"]
)
def test_conditions_refuse_all_else(text: str) -> None:
    with pytest.raises(ExpressionError):
        holds(text, {"x": "a", "_x": 1})


@given(st.text(max_size=30))
@settings(max_examples=500, deadline=None)
def test_any_text_is_a_value_or_a_refusal(text: str) -> None:
    try:
        assert isinstance(evaluate(text, CONFIG), int)
    except ExpressionError:
        return


def test_expressions_say_what_the_config_lacks() -> None:
    with pytest.raises(ExpressionError, match=r"\(dict\) has no 'n_heads'; did you mean 'n_head'"):
        evaluate("n_heads", CONFIG)
    with pytest.raises(ExpressionError, match=r"has no 'n_embed'; did you mean 'n_embd'"):
        evaluate("n_embed or 3", SimpleNamespace(**CONFIG))
    with pytest.raises(ExpressionError, match=r"'n_inner' in 'n_inner \* 2' is None.*default"):
        evaluate("n_inner * 2", CONFIG)
    with pytest.raises(ExpressionError, match="give a default"):
        evaluate("n_inner", CONFIG)
    with pytest.raises(ExpressionError, match="divides by zero"):
        evaluate("1 // zero", CONFIG)
    with pytest.raises(ExpressionError, match=r"'flag' in .* is True"):
        evaluate("flag + 1", {"flag": True})
    with pytest.raises(ExpressionError, match="is a list in this config"):
        evaluate("layers", {"layers": [1]})
    with pytest.raises(ExpressionError, match="compares 'a' with 1"):
        holds("kind < 1", {"kind": "a"})
    assert names("n_inner or 4 * n_embd + n_embd") == ("n_inner", "n_embd")


def test_expressions_read_a_config_class_s_aliases() -> None:
    config = GPT2Config(n_embd=24, n_head=2)
    assert evaluate("hidden_size // num_attention_heads", config) == 12
    with pytest.raises(ExpressionError, match="did you mean 'num_hidden_layers'"):
        evaluate("num_hidden_layer", config)
