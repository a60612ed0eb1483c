"""What the core's public docstrings say: every argument where there are any, and each error that the body raises."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import intervene

CLASSES = (intervene.Adapted, intervene.Adapter, intervene.Session, intervene.Sites, intervene.SweepResult)


def public() -> Iterator[Any]:
    """Functions by their qualified names: those of ``intervene.__all__``, and the methods of `CLASSES`."""
    for name in intervene.__all__:
        if inspect.isfunction(function := getattr(intervene, name)):
            yield pytest.param(function, id=name)
    for owner in CLASSES:
        for name, found in vars(owner).items():
            function = found.fget if isinstance(found, property) else inspect.unwrap(getattr(found, "__func__", found))
            if not name.startswith("_") and inspect.isfunction(function):
                yield pytest.param(function, id=f"{owner.__name__}.{name}")


def section(function: Callable[..., Any], title: str) -> str:
    """A section of the docstring, up to the next blank line; empty where there is none."""
    match = re.search(rf"^ *{title}:\n(.*?)(?:\n\s*\n|\Z)", function.__doc__ or "", re.MULTILINE | re.DOTALL)
    return match.group(1) if match else ""


@pytest.mark.parametrize("function", list(public()))
def test_arguments(function: Callable[..., Any]) -> None:
    said = section(function, "Args")
    explained = set(re.findall(r"\w+", " ".join(re.findall(r"^ +([\w*, ]+):", said, re.MULTILINE))))
    lacking = set(inspect.signature(function).parameters) - explained - {"self", "cls"}
    assert not said or not lacking


@pytest.mark.parametrize("function", list(public()))
def test_errors(function: Callable[..., Any]) -> None:
    raised = set(re.findall(r"^ +raise ([A-Z]\w+)\(", inspect.getsource(function), re.MULTILINE))
    assert raised <= set(re.findall(r"\w+", section(function, "Raises")))


def test_evaluate_and_tiny() -> None:
    """The one had no arguments explained; the other's error is raised by the family's adapter."""
    assert "prepare: " in section(intervene.evaluate, "Args")
    assert "UnsupportedModelError: " in section(intervene.tiny, "Raises")
    with pytest.raises(intervene.UnsupportedModelError, match="no model class 'GPT2LMHead'"):
        intervene.tiny("gpt2", "GPT2LMHead")
