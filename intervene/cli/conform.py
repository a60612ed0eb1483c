"""``intervene conform``: whether an adapter and its spec hold the laws."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..placement import usable_device
from . import options
from .console import interactive, print_json, stderr, stdout

if TYPE_CHECKING:
    from ..conformance import Report, Subject

EXAMPLES = """\
Examples:

  intervene conform gpt2

  intervene conform my_package.adapter:MyAdapter --html report.html

  intervene conform ./adapter.py:MyAdapter --law put_get --law meaning --component query_output

  intervene conform my_package.adapter:MyAdapter --profile thorough --expected-failures expected.toml

  intervene conform --all --jobs 2 --html matrix.html --markdown docs/matrix.md
"""


class ProfileName(str, Enum):
    """How long to search for examples."""

    ci = "ci"
    thorough = "thorough"


def _file(value: Path | None) -> Path | None:
    """A path to write to, refused at once where it can't work: the checks may take long."""
    if value is not None and value.is_dir():
        raise typer.BadParameter(f"{value} is a folder")
    if value is not None and not value.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {value.parent}")
    return value


def run(
    adapters: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ADAPTER...", help="A family, such as gpt2, package.module:Class, or path/to/file.py:Class."
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every family whose models' package is installed.")] = False,
    law: Annotated[list[str] | None, typer.Option(metavar="ID", help="Only this law; may be given again.")] = None,
    component: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this component; may be given again.")
    ] = None,
    profile: Annotated[ProfileName, typer.Option(help="How long to search for examples.")] = ProfileName.ci,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the search; ci takes the same examples every time without one.")
    ] = None,
    expected_failures: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help='TOML file of checks that fail for now: "check id" = "reason".'),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(callback=_file, metavar="PATH", help="Also write the report as one HTML page.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(callback=_file, metavar="PATH", help="Also write the matrices as Markdown.")
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Processes; each family then has one of its own, whatever its library imports.")
    ] = 1,
    device: Annotated[str, typer.Option(metavar="NAME", help="Where the models are run: cpu, cuda, cuda:1.")] = "cpu",
    as_json: options.Json = False,
) -> None:
    """Hold an adapter and its spec against every law.

    Examples are drawn by hypothesis on small models made from a config. The exit code is 0 where every adapter
    conforms, 1 where one does not, and 2 where there is no such adapter, law, component or expected failure.
    """
    from ..conformance.files import to_document, write_html, write_markdown
    from ..conformance.terminal import show

    if bool(adapters) == every:
        raise typer.BadParameter("name adapters, or say --all", param_hint="ADAPTER")
    names = list(adapters or _installed())
    reports = _check(names, law, component, profile.value, seed, expected_failures, jobs, device)
    if html is not None:
        write_html(reports, html)
    if markdown is not None:
        write_markdown(reports, markdown)
    if as_json:
        print_json(to_document(reports))
    else:
        for report in reports:
            show(report, stdout())
    for written in (html, markdown):
        if written is not None:
            stderr().print(f"report: {written}", soft_wrap=True)
    if not all(report.passed for report in reports):
        raise typer.Exit(1)


def _check(
    names: Sequence[str],
    laws: Sequence[str] | None,
    components: Sequence[str] | None,
    profile: str,
    seed: int | None,
    expected_failures: Path | None,
    jobs: int,
    device: str,
) -> list[Report]:
    from ..conformance import check_adapter, generate_checks

    subjects = _subjects(names, device)
    for subject in subjects:
        # Refused before anything runs, with the option that is wrong.
        _usage("--law", partial(list, generate_checks(subject, laws_=laws)))
        _usage("--component", partial(list, generate_checks(subject, components=components)))
    expected = _expected(expected_failures, subjects)
    asked: dict[str, Any] = {"profile": profile, "laws": laws, "components": components, "seed": seed}
    each = [{**asked, "expected_failures": expected[s.spec.family]} for s in subjects]
    if jobs > 1:
        return _side_by_side(names, each, jobs, device)
    reports = []
    for subject, options_ in zip(subjects, each, strict=True):
        count = sum(1 for _ in generate_checks(subject, laws_=laws, components=components))
        with _bar(subject.spec.title, count) as advance:
            reports.append(check_adapter(subject, progress=advance, **options_))
    return reports


def _installed() -> list[str]:
    from ..registry import families

    return sorted(name for name, adapter in families().items() if adapter.available())


def _side_by_side(names: Sequence[str], each: Sequence[dict[str, Any]], jobs: int, device: str) -> list[Report]:
    """The reports of several families, each checked in a new process."""
    found: dict[str, Report] = {}
    with (
        multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=1) as pool,
        _bar("Families", len(names)) as advance,
    ):
        for name, report in pool.imap_unordered(partial(_one, device), zip(names, each, strict=True)):
            found[name] = report
            if advance is not None:
                advance(name)
    return [found[name] for name in names]


def _one(device: str, asked: tuple[str, dict[str, Any]]) -> tuple[str, Report]:
    import torch

    from ..conformance import Subject, check_adapter
    from ..conformance.target import load_adapter

    # The processes share the cores, and the models are too small to be worth two threads.
    torch.set_num_threads(1)
    name, how = asked
    return name, check_adapter(Subject(load_adapter(name), device=device), **how)


def _subjects(names: Sequence[str], device: str) -> list[Subject]:
    from ..conformance.subject import Subject
    from ..conformance.target import TargetError, load_adapter

    _usage("--device", partial(usable_device, device))
    subjects: dict[str, Subject] = {}
    for name in names:
        try:
            subject = Subject(load_adapter(name), device=device)
        except TargetError as error:
            raise typer.BadParameter(str(error), param_hint="ADAPTER") from error
        if subject.spec.family in subjects:
            raise typer.BadParameter(f"family {subject.spec.family!r} is named twice", param_hint="ADAPTER")
        subjects[subject.spec.family] = subject
    return list(subjects.values())


def _expected(path: Path | None, subjects: Sequence[Subject]) -> Mapping[str, Mapping[str, str]]:
    from ..conformance import generate_checks
    from ..conformance.expected import read_expected_failures

    checks = {s.spec.family: [c.id for c in generate_checks(s)] for s in subjects}
    if path is None:
        return {family: {} for family in checks}
    found: dict[str, dict[str, str]] = _usage("--expected-failures", lambda: read_expected_failures(path, checks))
    return found


def _usage(option: str, ask: Callable[[], Any]) -> Any:
    """What ``ask`` returns; a ValueError is wrong usage of an option."""
    try:
        return ask()
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


@contextmanager
def _bar(title: str, count: int) -> Iterator[Callable[[object], None] | None]:
    """A progress bar and what moves it on, called with each check as it begins; None where nobody watches."""
    if not interactive():
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[check]}"),
    )
    with Progress(*columns, console=stderr(), transient=True) as progress:
        task = progress.add_task(title, total=count, check="")
        begun = itertools.count()
        yield lambda what: progress.update(task, completed=next(begun), check=getattr(what, "id", str(what)))
