"""Composable: sites, sessions and threads don't disturb each other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor

from ...sites import Site
from ...specs.relations import Chain, HeadsReshape, Positions
from ..case import Case, tensors
from ..draw import Draw
from ..law import each_component, law
from ..subject import Subject
from ..violation import Violation, require_same, require_same_outputs

SITUATIONS = ("two models", "threads", "a hook of the caller's")


def _subjects(subject: Subject) -> Iterator[tuple[str, str]]:
    yield from each_component(subject)
    for situation in SITUATIONS:
        yield situation, ""


def _applies(subject: Subject, component: str) -> str | None:
    if component in SITUATIONS:
        return None
    if not subject.variants(component):
        return "no model class and attention implementation of the family has it here"
    return None if _others(subject, component) else "the tower has no other component beside it"


@law(
    "composable",
    "sites don't disturb each other, whatever the order; nor do sessions on two models, nested sessions or threads",
    subjects=_subjects,
    applies=_applies,
)
def composable(draw: Draw) -> None:
    """For a component: with another one, written together, apart, and nested. Else a situation of its own."""
    situations: dict[str, Callable[[Draw], None]] = {
        "two models": _two_models,
        "threads": _threads,
        "a hook of the caller's": _callers_hook,
    }
    situations.get(draw.component, _two_sites)(draw)


def _two_sites(draw: Draw) -> None:
    subject = draw.subject
    other = draw("the other component", st.sampled_from(_others(subject, draw.component)))
    past = subject.needs_past(other) or None
    case = draw.case([v for v in subject.variants(draw.component) if v in subject.variants(other)], past)
    first, second = draw.site(case), draw.site(case, other)
    assume(not _one_tensor(subject, first, second))
    sharing = [
        s
        for s in case.sites
        if s.port == first.port and s.layer == first.layer and not _overlap(subject, draw.component, s.component)
    ]
    values = case.run(reads=[first, second, *sharing])[1]
    written = {site: case.random(values[site]) for site in (first, second)}
    together, read = case.run(writes=written, reads=[first, second])
    for site, value in written.items():
        require_same(f"what is read at {site} while {first} and {second} are written", read[site], value)
    swapped, _ = case.run(writes=list(reversed(written.items())))
    require_same_outputs(f"writing {second} before {first} instead of after", swapped, together)
    twin = _twin(case)
    with case.adapted.session(writes={first: written[first]}):
        beside = twin.forward()
        nested, _ = case.run(writes={second: written[second]})
    require_same_outputs(f"a model beside the one that {first} is written in", beside, case.plain)
    require_same_outputs(f"writing {second} in a session inside that of {first}", nested, together)
    if sharing:
        alone = case.run(writes={first: written[first]}, reads=sharing)[1]
        for other_site in sharing:
            what = f"{other_site}, which shares a port with the written {first}"
            require_same(what, alone[other_site], values[other_site])


def _others(subject: Subject, component: str) -> list[str]:
    """The components that exist beside this one in some model, and are not the same tensor."""
    own = set(subject.variants(component))
    return [n for n in subject.claimed if not _overlap(subject, component, n) and own & set(subject.variants(n))]


def _overlap(subject: Subject, first: str, second: str) -> bool:
    """Whether two components are the same tensor seen in two ways, or one a part of the other, as relations say."""
    if first == second:
        return True
    relations = subject.tower.relations
    pairs = [{r.heads, r.whole} for r in relations if isinstance(r, HeadsReshape)]
    pairs += [{r.part, r.whole} for r in relations if isinstance(r, Positions)]
    return {first, second} in pairs


def _one_tensor(subject: Subject, first: Site, second: Site) -> bool:
    """Whether two sites are the same tensor at the same port.

    What enters the first block is, in a family that shows its embeddings nowhere else.
    """
    starts = [{r.start, r.input} for r in subject.tower.relations if isinstance(r, Chain)]
    return first.port == second.port and {first.component, second.component} in starts


def _any_case(draw: Draw) -> tuple[Case, str]:
    component = draw("component", st.sampled_from(draw.subject.claimed))
    variants = draw.subject.variants(component)
    assume(variants)
    return draw.case(variants, draw.subject.needs_past(component) or None), component


def _two_models(draw: Draw) -> None:
    """A session on a model leaves another model of the same class alone."""
    case, component = _any_case(draw)
    twin = _twin(case)
    site = draw.site(case, component)
    value = case.random(case.read(site))
    with case.adapted.session(writes={site: value}):
        beside = twin.forward()
        case.forward()
    require_same_outputs(f"a model beside the one that {site} is written in", beside, case.plain)


def _threads(draw: Draw) -> None:
    """Two threads, each with a model and a session of its own, give what they give one after the other."""
    case, component = _any_case(draw)
    other = _twin(case)
    site = draw.site(case, component)
    original = case.read(site)
    values = [case.random(original), case.random(original)]
    # Dropout draws from one random state of the process, so threads could not repeat it.
    for each in (case, other):
        each.model.eval()
    wanted = [c.run(writes={site: v})[0] for c, v in zip((case, other), values, strict=True)]
    found: list[dict[str, Tensor] | BaseException] = [{}, {}]

    # Both sessions are open before either model runs, and until both have run: without that, threads as short as
    # these follow one another.
    meeting = threading.Barrier(2, timeout=60)

    def work(index: int, one: Case) -> None:
        try:
            with torch.set_grad_enabled(False), one.adapted.session(writes={site: values[index]}):
                meeting.wait()
                with one.outputs_of(one.model) as outputs:
                    outputs[""] = one.model(**one.arguments())
                meeting.wait()
            found[index] = tensors(outputs)
        except BaseException as error:
            meeting.abort()
            found[index] = error

    threads = [threading.Thread(target=work, args=(i, c)) for i, c in enumerate((case, other))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A thread that found the meeting called off has nothing to say; the other one has.
    for index, outputs in sorted(enumerate(found), key=lambda each: isinstance(each[1], threading.BrokenBarrierError)):
        if isinstance(outputs, BaseException):
            raise Violation(f"thread {index} ended with {type(outputs).__name__}: {outputs}") from outputs
        shared = outputs.keys() & wanted[index].keys()
        require_same_outputs(
            f"thread {index}, writing {site}", {n: outputs[n] for n in shared}, {n: wanted[index][n] for n in shared}
        )


def _callers_hook(draw: Draw) -> None:
    """A hook that the caller put on the site's module still fires, during and after a session."""
    case, component = _any_case(draw)
    site = draw.site(case, component)
    fired: list[int] = []
    module = case.model.get_submodule(site.port.path)
    hook = module.register_forward_hook(lambda *_: fired.append(1))
    try:
        case.forward()
        alone = len(fired)
        fired.clear()
        case.run(writes={site: lambda part: part}, reads=[site])
        during = len(fired)
        fired.clear()
        case.forward()
        after = len(fired)
        present = hook.id in module._forward_hooks
    finally:
        hook.remove()
    if not (alone == during == after and present):
        raise Violation(
            f"the caller's own hook on {site.port.path!r} fired {alone} time(s) a forward, {during} during a session "
            f"at {site} and {after} after it"
        )


def _twin(case: Case) -> Case:
    """The same case on a model equal to its own, of the same class."""
    return Case(case.subject, case.setting, twin=True)
