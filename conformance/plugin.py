"""The part of the pytest plugin that runs checks; `intervene_pytest` loads it where a run asks for it."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from ..errors import InterveneError
from ..specs import SpecError
from .checks import Check, generate_checks, make_report
from .expected import read_expected_failures
from .files import write_html, write_json
from .matrix import verdict
from .outcome import Outcome, Report, Status
from .parametrize import BoundCheck
from .profiles import profile
from .settle import LawBroken
from .subject import Subject
from .target import load_adapter

PREFIX = "intervene"


class Suite:
    """The checks of one ``--adapter``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.subject = Subject(load_adapter(name))
        self.family = self.subject.spec.family
        self.checks = list(generate_checks(self.subject))
        self.ids = [c.id for c in self.checks]


class Runner:
    """Collects checks as test items, runs them, and puts what they found on the test reports.

    Args:
        config: pytest's.
        chosen: ids of checks (``intervene::gpt2::identity::block_output``) or their beginnings; all when empty.
        seed: the seed for a profile that needs one and was given none.
    """

    def __init__(self, config: pytest.Config, chosen: Sequence[str], seed: int) -> None:
        self.config = config
        self.chosen = chosen
        self.profile: str = config.option.conformance_profile or "ci"
        own = None if profile(self.profile).derandomize else seed
        self.seed: int | None = own if config.option.conformance_seed is None else config.option.conformance_seed
        self._told: set[str] = set()

    @cached_property
    def suites(self) -> list[Suite]:
        """One for each ``--adapter``."""
        found = [Suite(name) for name in dict.fromkeys(self.config.option.adapter)]
        families = [s.family for s in found]
        twice = sorted({f for f in families if families.count(f) > 1})
        if twice:
            names = ", ".join(s.name for s in found if s.family in twice)
            raise InterveneError(f"{names} are all of family {twice[0]!r}: their checks would have the same ids")
        return found

    @cached_property
    def expected(self) -> dict[str, dict[str, str]]:
        """Family to check id to the reason of an expected failure."""
        path = self.config.option.expected_failures
        if path is None:
            return {}
        return read_expected_failures(self.config.invocation_params.dir / path, {s.family: s.ids for s in self.suites})

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        report = yield
        if isinstance(collector, pytest.Session) and report.passed and self.config.option.adapter:
            conformance = Conformance.from_parent(collector, name=PREFIX, nodeid=PREFIX, runner=self)
            report.result = [*(report.result or ()), conformance]
        return report

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        for bound in _bound(item):
            bound.profile = bound.profile or self.profile
            if bound.seed is None and bound.profile == self.profile:
                bound.seed = self.seed

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.when == "call":
            found = [self._payload(bound) for bound in _bound(item) if bound.outcome is not None]
            if found:
                # An attribute, for user_properties would also end up in a JUnit file. xdist carries it over.
                report.intervene_conformance = found  # type: ignore[attr-defined]
        return report

    def _payload(self, bound: BoundCheck) -> dict[str, Any]:
        """An outcome as plain data, with the report's header where this process has not sent it yet."""
        assert bound.outcome is not None
        subject = bound.check.subject
        family = subject.spec.family
        header = None
        if family not in self._told:
            self._told.add(family)
            header = make_report(subject, (), bound.profile or self.profile, bound.seed, 0.0).to_dict()
            header["checks"] = list(bound.everything)
        return {"family": family, "header": header, "outcome": bound.outcome.to_dict()}


class Conformance(pytest.Collector):
    """The root of all checks."""

    def __init__(self, *, runner: Runner, **more: Any) -> None:
        super().__init__(**more)
        self.runner = runner

    def collect(self) -> Iterator[pytest.Collector]:
        try:
            suites, expected = self.runner.suites, self.runner.expected
        except (InterveneError, SpecError) as error:
            raise self.CollectError(str(error)) from error
        found = {s.family: [c for c in s.checks if self._is_chosen(_node(s.family, c))] for s in suites}
        nodes = [_node(s.family, c) for s in suites for c in s.checks]
        for wanted in self.runner.chosen:
            if not any(_begins(node, wanted) for node in nodes):
                raise self.CollectError(f"no check {wanted!r}; pytest --adapter NAME --collect-only lists them")
        for suite in suites:
            if found[suite.family]:
                yield Family.from_parent(
                    self,
                    name=suite.family,
                    nodeid=f"{PREFIX}::{suite.family}",
                    suite=suite,
                    checks=found[suite.family],
                    expected=expected.get(suite.family, {}),
                    runner=self.runner,
                )

    def _is_chosen(self, node: str) -> bool:
        return not self.runner.chosen or any(_begins(node, wanted) for wanted in self.runner.chosen)


class Family(pytest.Collector):
    """The checks of one adapter, law by law, in the order of the generator: the same in every worker."""

    def __init__(
        self,
        *,
        suite: Suite,
        checks: Sequence[Check],
        expected: Mapping[str, str],
        runner: Runner,
        **more: Any,
    ) -> None:
        super().__init__(**more)
        self.suite = suite
        self.checks = checks
        self.expected = expected
        self.runner = runner

    def collect(self) -> Iterator[pytest.Item]:
        for check in self.checks:
            reason = self.expected.get(check.id)
            bound = BoundCheck(check, self.suite.ids, self.runner.profile, self.runner.seed, reason)
            yield LawItem.from_parent(self, name=check.id, nodeid=_node(self.suite.family, check), bound=bound)


class LawItem(pytest.Item):
    """One check as a test."""

    def __init__(self, *, bound: BoundCheck, **more: Any) -> None:
        super().__init__(**more)
        self.bound = bound

    def runtest(self) -> None:
        self.bound()

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """What is wrong, in words; a traceback would show the suite's own code."""
        if isinstance(excinfo.value, LawBroken):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, self.nodeid


def _node(family: str, check: Check) -> str:
    return f"{PREFIX}::{family}::{check.law.id}::{check.name}"


def _begins(node: str, wanted: str) -> bool:
    return node == wanted or node.startswith(wanted.rstrip(":") + "::")


def _bound(item: pytest.Item) -> list[BoundCheck]:
    """The check that an item runs: its own, or one that `parametrize_with_laws` handed to a test."""
    if isinstance(item, LawItem):
        return [item.bound]
    callspec = getattr(item, "callspec", None)
    return [] if callspec is None else [v for v in callspec.params.values() if isinstance(v, BoundCheck)]


def write(
    headers: Mapping[str, dict[str, Any]],
    outcomes: Mapping[tuple[str, str], dict[str, Any]],
    lost: Mapping[str, str],
    seconds: Mapping[str, float],
    html: Path | None,
    json: Path | None,
) -> list[str]:
    """Write the gathered outcomes as reports.

    Args:
        headers: family to its report without outcomes, and the ids of all its ``checks``.
        outcomes: by family and check id, in any order.
        lost: node ids of checks that failed without an outcome, with what pytest said (a worker that died).
        seconds: family to the wall time of its checks.
        html: where the page goes.
        json: where the data goes.

    Returns:
        A line about each family.
    """
    reports = []
    for family, header in headers.items():
        found = {id: Outcome.from_dict(o) for (own, id), o in outcomes.items() if own == family}
        for node, text in lost.items():
            _, own, law, name = node.split("::", 3)
            if own == family:
                found[f"{law}:{name}"] = Outcome(f"{law}:{name}", law, name, "", Status.FAILED, message=text)
        ordered = [found[id] for id in header["checks"] if id in found]
        data = {**header, "outcomes": [o.to_dict() for o in ordered], "seconds": seconds[family]}
        reports.append(Report.from_dict(data))
    if html is not None:
        write_html(reports, html)
    if json is not None:
        write_json(reports, json)
    return [verdict(r) for r in reports]
