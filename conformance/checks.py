"""Checks: the one generator of everything that the suite tests, and the plain call that runs it all."""

from __future__ import annotations

import platform
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import hypothesis
from hypothesis import given
from hypothesis import strategies as st

from ..errors import InterveneError, did_you_mean
from .draw import Draw
from .law import Law, all_laws
from .outcome import Outcome, Report, Status
from .profiles import Profile, profile, search_seed, seed_of_check
from .snapshot import restored
from .subject import InputMaker, Subject, Target


@dataclass(frozen=True)
class Check:
    """One law for one component, relation or situation of one adapter.

    Attributes:
        id: ``law:subject``, stable over releases.
        law: the law.
        name: the component, relation or situation.
        component: the component whose row of the matrix it belongs to, "" for the whole family.
        subject: the adapter under test.
    """

    law: Law
    name: str
    component: str
    subject: Subject = field(compare=False)

    @property
    def id(self) -> str:
        """``law:subject``, the subject with its tower's name before it where there are several."""
        return f"{self.law.id}:{self.subject.prefix}{self.name}"

    @property
    def row(self) -> str:
        """The component as the matrix's rows name it, "" for the whole family."""
        return f"{self.subject.prefix}{self.component}" if self.component else ""

    @property
    def also(self) -> tuple[str, ...]:
        """The other components that it is about, as the matrix's rows name them."""
        return tuple(self.subject.prefix + name for name in self.law.also(self.subject, self.name))


def generate_checks(
    target: Target | Subject,
    *,
    laws_: Sequence[str] | None = None,
    components: Sequence[str] | None = None,
    inputs: InputMaker | None = None,
) -> Iterator[Check]:
    """Every check of an adapter, law by law, in an order that depends on the spec alone.

    Raises:
        ValueError: a law or component that is none.
    """
    subject = target if isinstance(target, Subject) else Subject(target, inputs)
    known = all_laws()
    _all_known("law", laws_ or (), known)
    _all_known("component", components or (), {*subject.all_claimed, *(c for t in subject.by_tower for c in t.claimed)})
    for one in known.values():
        if laws_ and one.id not in laws_:
            continue
        for tower in subject.by_tower:
            for name, component in one.subjects(tower):
                check = Check(one, name, component, tower)
                if not components or {component, check.row} & set(components):
                    yield check


def run_check(
    check: Check, bound: Profile | str = "ci", *, reason: str | None = None, seed: int | None = None
) -> Outcome:
    """Run one check.

    Args:
        bound: the profile.
        reason: why it is expected to fail; a pass is then an outcome of its own.
        seed: of the search, in place of the profile's.
    """
    bound = profile(bound) if isinstance(bound, str) else bound
    start = time.perf_counter()

    def outcome(status: Status, **more: object) -> Outcome:
        seconds = time.perf_counter() - start
        name = check.subject.prefix + check.name
        about = {"component": check.row, "also": check.also}
        return Outcome(check.id, check.law.id, name, status=status, seconds=seconds, **about, **more)  # type: ignore[arg-type]

    why = check.law.applies(check.subject, check.name)
    if why is not None:
        return outcome(Status.NOT_APPLICABLE, reason=why)
    logs: list[list[str]] = []

    def body(data: st.DataObject) -> None:
        draw = Draw(data, check.subject, check.name)
        logs.append(draw.log)
        try:
            with restored(check.subject.prototype(check.subject.models[0])):
                check.law.check(draw)
        except BaseException:
            # What the adapter left in the models would fail, or hide, the next example.
            check.subject.renew()
            raise

    test = bound.settings(check.law.effort)(given(st.data())(body))
    if seed is not None or bound.derandomize:
        test = hypothesis.seed(seed_of_check(seed, check.subject.spec.family, check.id))(test)
    try:
        test()
    except (Exception, hypothesis.errors.HypothesisException) as error:
        message, example = _message(error), tuple(logs[-1]) if logs else ()
        status = Status.FAILED if reason is None else Status.EXPECTED_FAILURE
        return outcome(status, message=message, example=example, reason=reason or "", examples=len(logs))
    if reason is not None:
        message = "it was expected to fail and passed: take it off the list of expected failures"
        return outcome(Status.UNEXPECTED_PASS, message=message, reason=reason, examples=len(logs))
    return outcome(Status.PASSED, examples=len(logs))


def check_adapter(
    target: Target | Subject,
    *,
    profile: str = "ci",
    laws: Sequence[str] | None = None,
    components: Sequence[str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    inputs: InputMaker | None = None,
    progress: Callable[[Check], None] | None = None,
    seed: int | None = None,
) -> Report:
    """Hold an adapter and its spec against every law.

    Args:
        target: an adapter class, a family's name, or a small model of a known family (copies of it are used); or a
            `Subject` made of one.
        profile: "ci" (bounded, the same examples every time) or "thorough".
        laws: ids of the laws to check; all by default.
        components: components to check; all by default.
        expected_failures: check id to the reason why it fails for now; an unexpected pass is a failure.
        inputs: makes a model's inputs from (model, rows, columns, generator) where the spec's input names don't say
            enough.
        progress: called with each check before it runs.
        seed: of the search; by default "ci" is derandomized, and "thorough" draws a seed that the report tells.

    Returns:
        A report: truthful in ``passed``, with each failure's smallest example in words.

    Raises:
        ValueError: a law, component, profile or expected failure that matches nothing.
        InterveneError: no adapter for the target.
    """
    subject = target if isinstance(target, Subject) else Subject(target, inputs)
    seed = search_seed(profile, seed)
    expected = dict(expected_failures or {})
    checks = list(generate_checks(subject, laws_=laws, components=components))
    everything = [c.id for c in generate_checks(subject)]
    _all_known("expected failure", expected, everything)
    start = time.perf_counter()
    outcomes = []
    for check in checks:
        if progress is not None:
            progress(check)
        outcomes.append(run_check(check, profile, reason=expected.get(check.id), seed=seed))
    return make_report(subject, outcomes, profile, seed, time.perf_counter() - start)


def make_report(
    subject: Subject, outcomes: Sequence[Outcome], profile: str, seed: int | None, seconds: float
) -> Report:
    """The report over outcomes of one adapter."""
    return Report(
        subject.spec.family,
        subject.spec.title,
        tuple(outcomes),
        profile,
        seed,
        versions(subject.spec.library),
        subject.all_claimed,
        {one.id: one.statement for one in all_laws().values()},
        seconds,
        total=sum(1 for _ in generate_checks(subject)),
        models=subject.all_models,
        absent=subject.absent,
        limits=subject.limits,
    )


def versions(library: str) -> dict[str, str]:
    """Versions of everything that bears on a result."""
    found = {"python": platform.python_version()}
    for name in ("torch-intervene", "torch", "hypothesis", library):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a distribution"
    return found


def _message(error: BaseException) -> str:
    if isinstance(error, (AssertionError, InterveneError)):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" (in {frames[-1].name}, {Path(frames[-1].filename).name} line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def _all_known(what: str, asked: Iterable[str], known: Collection[str]) -> None:
    unknown = [name for name in asked if name not in known]
    if unknown:
        near = did_you_mean(unknown[0], known)
        raise ValueError(f"no {what} {', '.join(map(repr, unknown))}.{near} There are {len(known)}.")
