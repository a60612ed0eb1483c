"""Integer expressions and conditions over a config, in a grammar that is easy to reimplement.

    expression = a decimal integer, a name of the config, ( expression ), -expression,
                 expression + - * // expression, expression or expression
    condition  = an expression's operands, 'text', True, False, None, == != < <= > >=, and, or, not

`//` rounds towards minus infinity. `a or b` is a unless a is None or 0, then b. Precedence is
Python's. There is no power, call, attribute, subscript, or name that starts with an underscore.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from .errors import ExpressionError, nearest

__all__ = ["check_condition", "check_expression", "evaluate", "holds", "lookup", "names"]

MAX_LENGTH = 200  # keeps Python's parser far away from its recursion limit
MAX_DIGITS = 12

# The text is held against these tokens before Python's parser sees it, so that nothing the parser
# would be generous about (1_000, 0x10, other scripts' letters, comments) enters the grammar.
_NAME = r"[A-Za-z][A-Za-z0-9_]*"
_NUMBER = rf"[0-9]{{1,{MAX_DIGITS}}}(?![0-9A-Za-z_.])"
_EXPRESSION_TOKENS = re.compile(rf"(?:{_NAME}|{_NUMBER}|//|[-+*()]|[ ])*")
_CONDITION_TOKENS = re.compile(rf"(?:{_NAME}|{_NUMBER}|//|[-+*()]|==|!=|<=|>=|[<>]|'[^'\\\n]*'|\"[^\"\\\n]*\"|[ ])*")

_BINARY: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_EXPRESSION_GRAMMAR = "allowed are integers, names of the config, + - * // ( ) and `a or b`"
_CONDITION_GRAMMAR = (
    "allowed are names of the config, integers, 'text', True, False, None, + - * // ( ), comparisons, and, or, not"
)


def evaluate(expression: str, config: object) -> int:
    """The integer that `expression` has for `config`.

    Args:
        expression: for example ``"n_inner or 4 * n_embd"``.
        config: a config object (read by attribute, so a config class's aliases work) or a mapping.

    Raises:
        ExpressionError: the text is outside the grammar, the config lacks a name (the nearest
            names are said), a value isn't an integer, or a division by zero.
    """
    value = _value(_parse(expression, False), config, expression)
    if value is None:
        raise ExpressionError(
            f"{expression!r} is None for this config",
            remedy="give a default, as in `n_inner or 4 * n_embd`",
        )
    return _integer(value, expression, expression)


def holds(condition: bool | str, config: object) -> bool:
    """Whether `condition` (a constant, or text in the grammar above) is true for `config`.

    Raises:
        ExpressionError: as `evaluate`; also for operands that can't be compared.
    """
    if isinstance(condition, bool):
        return condition
    return bool(_value(_parse(condition, True), config, condition))


def check_expression(text: str) -> None:
    """Raise ExpressionError where `text` is no expression of the grammar."""
    _parse(text, False)


def check_condition(text: str) -> None:
    """Raise ExpressionError where `text` is no condition of the grammar."""
    _parse(text, True)


def names(text: str) -> tuple[str, ...]:
    """Names of the config that an expression or condition asks for, in order, each once."""
    tree = _parse(text, True)
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    found.sort(key=lambda node: node.col_offset)
    return tuple(dict.fromkeys(node.id for node in found))


def lookup(config: object, name: str) -> Any:
    """The value of `name` in a config object or a mapping.

    Raises:
        ExpressionError: the config has no such name; the nearest ones are said.
    """
    if isinstance(config, Mapping):
        if name in config:
            return config[name]
        known: Iterable[str] = (key for key in config if isinstance(key, str))
    else:
        try:
            return getattr(config, name)
        except AttributeError:
            known = _public_names(config)
    raise ExpressionError(
        f"the config ({type(config).__name__}) has no {name!r}",
        remedy=nearest(name, sorted(known)),
    )


def _public_names(config: object) -> set[str]:
    found = set(vars(config)) if hasattr(config, "__dict__") else set()
    aliases = getattr(type(config), "attribute_map", None)
    if isinstance(aliases, Mapping):
        found |= set(aliases)
    # Read from the class, not the instance: a property's code has no business in an error message.
    found |= {name for name in dir(type(config)) if not callable(getattr(type(config), name, None))}
    return {name for name in found if not name.startswith("_")}


@lru_cache(maxsize=1024)
def _parse(text: str, condition: bool) -> ast.expr:
    grammar = _CONDITION_GRAMMAR if condition else _EXPRESSION_GRAMMAR
    what = "condition" if condition else "expression"
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"a {what} of {len(text)} characters", remedy=f"at most {MAX_LENGTH}")
    tokens = _CONDITION_TOKENS if condition else _EXPRESSION_TOKENS
    matched = tokens.match(text)
    end = matched.end() if matched else 0
    if end != len(text):
        raise ExpressionError(f"{what} {text!r} can't have {text[end:]!r} in it", remedy=grammar)
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(f"{what} {text!r} can't be read", remedy=grammar) from error
    _check(tree, condition, text, grammar)
    return tree


def _check(node: ast.expr, condition: bool, text: str, grammar: str) -> None:
    """Walk the tree and refuse every node that isn't named here."""
    parts: list[ast.expr]
    if isinstance(node, ast.Name):
        return
    if isinstance(node, ast.Constant):
        plain = isinstance(node.value, int) and not isinstance(node.value, bool)
        if plain or (condition and (node.value is None or isinstance(node.value, bool | str))):
            return
        raise ExpressionError(f"{text!r} can't have {node.value!r} in it", remedy=grammar)
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        parts = [node.left, node.right]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        parts = [node.operand]
    elif isinstance(node, ast.BoolOp) and (condition or isinstance(node.op, ast.Or)):
        parts = node.values
    elif condition and isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        parts = [node.operand]
    elif condition and isinstance(node, ast.Compare) and all(type(op) in _COMPARE for op in node.ops):
        parts = [node.left, *node.comparators]
    else:
        found = ast.unparse(node)
        raise ExpressionError(f"{text!r} can't have {found!r} in it", remedy=grammar)
    for part in parts:
        _check(part, condition, text, grammar)


def _value(node: ast.expr, config: object, text: str) -> Any:
    """The value of a tree that `_check` has let through."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        found = lookup(config, node.id)
        if found is None or isinstance(found, bool | int | float | str):
            return found
        raise ExpressionError(
            f"{node.id!r} in {text!r} is a {type(found).__name__} in this config",
            remedy="a number, a text, True, False or None is needed",
        )
    if isinstance(node, ast.BoolOp):
        # Both short-circuit, as in Python: `a or b` never looks up b where a has a value.
        stops_at = isinstance(node.op, ast.Or)
        result = None
        for part in node.values:
            result = _value(part, config, text)
            if bool(result) is stops_at:
                break
        return result
    if isinstance(node, ast.UnaryOp):
        operand = _value(node.operand, config, text)
        return not operand if isinstance(node.op, ast.Not) else -_integer(operand, node, text)
    if isinstance(node, ast.BinOp):
        left = _integer(_value(node.left, config, text), node.left, text)
        right = _integer(_value(node.right, config, text), node.right, text)
        try:
            return _BINARY[type(node.op)](left, right)
        except ZeroDivisionError:
            raise ExpressionError(f"{text!r} divides by zero for this config") from None
    if isinstance(node, ast.Compare):
        left = _value(node.left, config, text)
        for op, comparator in zip(node.ops, node.comparators, strict=True):
            right = _value(comparator, config, text)
            try:
                if not _COMPARE[type(op)](left, right):
                    return False
            except TypeError:
                raise ExpressionError(f"{text!r} compares {left!r} with {right!r}") from None
            left = right
        return True
    raise AssertionError(f"unchecked node {ast.dump(node)}")


def _integer(value: Any, node: ast.expr | str, text: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    where = node if isinstance(node, str) else ast.unparse(node)
    raise ExpressionError(
        f"{where!r} in {text!r} is {value!r} for this config",
        remedy="an integer is needed; `a or b` gives a default for None",
    )
