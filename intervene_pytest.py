"""What pytest loads of intervene's conformance suite at every start: the options, and nothing heavy.

A plugin inside the package would import torch into every test run of the environment. This module imports the suite
(`intervene.conformance.plugin`) only in a run that asks for it, and under xdist only in the workers.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

PREFIX = "intervene::"
# The attribute of a test report under which an outcome travels, from an xdist worker too.
ATTRIBUTE = "intervene_conformance"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("intervene", "intervene: do an adapter and its spec hold the laws?")
    group.addoption(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME",
        help="check an adapter: a family, package.module:Class, or path/to/file.py:Class; may be given several times. "
        "Without paths to test files, only the checks run.",
    )
    group.addoption(
        "--conformance-profile",
        choices=("ci", "thorough"),
        default=None,
        help="how long to search for examples (default: ci, the same examples every time)",
    )
    group.addoption("--conformance-seed", type=int, default=None, metavar="N", help="seed of the search for examples")
    group.addoption(
        "--expected-failures",
        type=Path,
        default=None,
        metavar="FILE",
        help='TOML file of checks that fail for now: "check id" = "reason", in a table for each family if several',
    )
    group.addoption(
        "--conformance-html", type=Path, default=None, metavar="PATH", help="write the report as one HTML page"
    )
    group.addoption("--conformance-json", type=Path, default=None, metavar="PATH", help="write the report as JSON")


def pytest_configure(config: pytest.Config) -> None:
    option = config.option
    files = [p for p in (option.conformance_html, option.conformance_json) if p is not None]
    if option.expected_failures is not None and not option.adapter:
        raise pytest.UsageError(
            "--expected-failures goes with --adapter; in a test file, hand parametrize_with_laws(expected_failures=...)"
        )
    for path in files:
        if not (config.invocation_params.dir / path).parent.is_dir():
            raise pytest.UsageError(f"{path}: there is no folder {path.parent}")
    chosen = _take_ids(config) if option.adapter else []
    worker = hasattr(config, "workerinput")
    controller = not worker and config.getoption("dist", "no") != "no"
    if files and not worker:
        config.pluginmanager.register(Gatherer(config), "intervene-conformance-gatherer")
    if controller:
        config.pluginmanager.register(SeedForWorkers(), "intervene-conformance-seed")
    elif option.adapter or files or option.conformance_profile or option.conformance_seed is not None:
        from intervene.conformance.plugin import Runner

        seed = config.workerinput["intervene_seed"] if worker else _fresh_seed()  # type: ignore[attr-defined]
        config.pluginmanager.register(Runner(config, chosen, seed), "intervene-conformance-runner")


def _take_ids(config: pytest.Config) -> list[str]:
    """Take what names checks out of pytest's arguments, and, where nobody named test files, the default ones too."""
    chosen = [a for a in config.args if a.startswith(PREFIX)]
    if config.args_source is pytest.Config.ArgsSource.ARGS:
        config.args = [a for a in config.args if a not in chosen]
    else:
        config.args, config.args_source = [], pytest.Config.ArgsSource.ARGS
    return chosen


def _fresh_seed() -> int:
    return random.SystemRandom().randrange(2**32)


class SeedForWorkers:
    """Gives all workers of xdist the same seed, for profiles that draw one."""

    def __init__(self) -> None:
        self.seed = _fresh_seed()

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["intervene_seed"] = self.seed


class Gatherer:
    """Gathers the outcomes of a run, from all workers, and writes the report."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.headers: dict[str, dict[str, Any]] = {}
        self.outcomes: dict[tuple[str, str], dict[str, Any]] = {}
        self.lost: dict[str, str] = {}
        self.spans: dict[str, tuple[float, float]] = {}
        self.told: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for found in getattr(report, ATTRIBUTE, ()):
            family, outcome = found["family"], found["outcome"]
            if found["header"] is not None:
                self.headers[family] = found["header"]
            self.outcomes[family, outcome["id"]] = outcome
            first, last = self.spans.get(family, (report.start, report.stop))
            self.spans[family] = min(first, report.start), max(last, report.stop)
            self.lost.pop(report.nodeid, None)
        if report.failed and report.nodeid.startswith(PREFIX) and not hasattr(report, ATTRIBUTE):
            self.lost[report.nodeid] = report.longreprtext

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        if not self.headers:
            self.told.append("no check came back, so no conformance report was written")
            return
        from intervene.conformance.plugin import write

        option = self.config.option
        folder = self.config.invocation_params.dir
        html = None if option.conformance_html is None else folder / option.conformance_html
        json = None if option.conformance_json is None else folder / option.conformance_json
        seconds = {family: last - first for family, (first, last) in self.spans.items()}
        self.told += write(self.headers, self.outcomes, self.lost, seconds, html, json)
        self.told += [f"report: {os.path.relpath(p, folder)}" for p in (html, json) if p is not None]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("conformance")
        for line in self.told:
            terminalreporter.line(line)
