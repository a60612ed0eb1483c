"""Line numbers of a TOML document's keys, against the parser's own view of it."""

from __future__ import annotations

import json
import sys
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from intervene.specs.lines import KeyPath, key_lines

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_key_lines_by_hand() -> None:
    source = '''\
# [comment.table]
a = 1 # b = 2
"quo\\"ted.key" = 'x # y'
[t]
dotted . key = """
[not.a.table]
k = 1 \\""" """""
'lit.eral' = \'\'\'
[neither]\'\'\'
array = [
  1, # ]
  [2,
   3],
  { x = { y = "}" }, z = 4 },
]
[[list]]
one = 2026-01-02 03:04:05
[list.sub]
two = inf
[[list]]
three = {}
[[list.deep.er]]
four = []
'''
    tomllib.loads(source)
    assert key_lines(source) == {
        ("a",): 2,
        ('quo"ted.key',): 3,
        ("t",): 4,
        ("t", "dotted"): 5,
        ("t", "dotted", "key"): 5,
        ("t", "lit.eral"): 8,
        ("t", "array"): 10,
        ("t", "array", 0): 11,
        ("t", "array", 1): 12,
        ("t", "array", 1, 0): 12,
        ("t", "array", 1, 1): 13,
        ("t", "array", 2): 14,
        ("t", "array", 2, "x"): 14,
        ("t", "array", 2, "x", "y"): 14,
        ("t", "array", 2, "z"): 14,
        ("list",): 16,
        ("list", 0): 16,
        ("list", 0, "one"): 17,
        ("list", 0, "sub"): 18,
        ("list", 0, "sub", "two"): 19,
        ("list", 1): 20,
        ("list", 1, "three"): 21,
        ("list", 1, "deep"): 22,
        ("list", 1, "deep", "er"): 22,
        ("list", 1, "deep", "er", 0): 22,
        ("list", 1, "deep", "er", 0, "four"): 23,
    }
    assert key_lines(source.replace("\n", "\r\n")) == key_lines(source)


def all_paths(value: Any, path: KeyPath = ()) -> set[KeyPath]:
    inner: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    found = {path} if path else set()
    return found.union(*(all_paths(each, (*path, key)) for key, each in inner))


SCALARS = st.one_of(
    st.integers(-99, 99).map(str),
    st.booleans().map(lambda flag: str(flag).lower()),
    st.sampled_from(["1.5", "-inf", "1979-05-27", "07:32:00", "1979-05-27T07:32:00Z", "0xAF"]),
    st.text("a[]{}=,#.' \t", max_size=8).map(json.dumps),
    st.text('a[]{}=,#."\\ ', max_size=8).map(lambda text: f"'{text}'"),
    st.text('a[]=#\n\\" ', max_size=8).map(lambda text: '"""' + text.replace("\\", "\\\\").replace('"""', "") + 'a"""'),
    st.text('a[]=#\n\\" ', max_size=8).map(lambda text: f"'''{text}'''"),
)
KEYS = st.one_of(
    st.text("abc-_1", min_size=1, max_size=3),
    st.text("ab.[]# ='", max_size=4).map(json.dumps),
    st.text('ab.[]# ="', max_size=4).map(lambda text: f"'{text}'"),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda each: "[" + ", # ]\n ".join(each) + "\n]"),
        st.dictionaries(KEYS, inner.filter(lambda text: "\n" not in text), max_size=2).map(
            lambda each: "{ " + ", ".join(f"{key} = {value}" for key, value in each.items()) + " }"
        ),
    ),
    max_leaves=5,
)
DOTTED = st.lists(KEYS, min_size=1, max_size=3).map(" . ".join)
STATEMENTS = st.one_of(
    st.tuples(DOTTED, VALUES).map(lambda pair: f"{pair[0]} = {pair[1]} # [c]"),
    DOTTED.map(lambda key: f"[{key}]"),
    DOTTED.map(lambda key: f"[[ {key} ]] # c"),
    st.sampled_from(["", "# [x]", "\t"]),
)


@given(st.lists(STATEMENTS, min_size=1, max_size=8))
@settings(max_examples=400, deadline=None)
def test_key_lines_find_exactly_the_parser_s_keys(statements: list[str]) -> None:
    kept: list[str] = []
    for statement in statements:  # drop what the parser refuses: keys twice and the like
        try:
            tomllib.loads("\n".join([*kept, statement]))
        except tomllib.TOMLDecodeError:
            continue
        kept.append(statement)
    source = "\n".join(kept)
    lines = key_lines(source)
    assert set(lines) == all_paths(tomllib.loads(source))
    begins = 1
    own = {number for path, number in lines.items() if len(path) == 1}
    starts = set()
    for statement in kept:
        starts.add(begins)
        begins += statement.count("\n") + 1
    assert own <= starts, "a top-level key begins where its statement begins"
