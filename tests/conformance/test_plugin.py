"""The pytest plugin, run as strangers run it: in folders of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from intervene.conformance import Report, Status, generate_checks
from intervene.conformance.plugin import write

from .reports import FAILED, GOOD

STRANGER = Path(__file__).parent.parent / "stranger"
PLAIN = f"{STRANGER}/plainformer/adapter.py:PlainformerAdapter"

BROKEN = """
from plainformer.adapter import PlainformerAdapter

class Broken(PlainformerAdapter):
    def components(self, config):
        table = dict(super().components(config))
        table["query_output"], table["key_output"] = table["key_output"], table["query_output"]
        return table
"""
CHECK = "intervene::plainformer::shaped::logits"
QUERY = "meaning:projection:query_output"


@pytest.fixture
def place(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder with a broken adapter, in which the stranger's package can be imported."""
    monkeypatch.syspath_prepend(str(STRANGER))
    monkeypatch.setenv("PYTHONPATH", str(STRANGER))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    pytester.makepyfile(broken_adapter=BROKEN)
    return pytester


def run(place: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """In this process and without the plugins of the surrounding run that would come in between."""
    return place.runpytest_inprocess("-p", "no:cacheprovider", *arguments)


def reports(path: Path) -> dict[str, Report]:
    return {r["family"]: Report.from_dict(r) for r in json.loads(path.read_text())["reports"]}


def test_one_item_for_each_check_with_a_stable_id(place: pytest.Pytester) -> None:
    result = run(place, "--adapter", "gpt2", "--collect-only", "-q")
    wanted = [f"intervene::gpt2::{c.law.id}::{c.name}" for c in generate_checks("gpt2")]
    assert [line for line in result.outlines if line.startswith("intervene::")] == wanted
    assert "intervene::gpt2::identity::block_output" in wanted


def test_a_law_that_does_not_apply_is_skipped_with_its_reason(place: pytest.Pytester) -> None:
    result = run(place, "--adapter", PLAIN, "-k", "generation and logits", "-rs")
    result.assert_outcomes(skipped=1, deselected=len(generate_checks_of_plain()) - 1)
    result.stdout.fnmatch_lines(["SKIPPED*the spec claims no model class that generates*"])


def generate_checks_of_plain() -> list[str]:
    from intervene.conformance.target import load_adapter

    return [c.id for c in generate_checks(load_adapter(PLAIN))]


def test_a_broken_adapter_fails_in_words(place: pytest.Pytester) -> None:
    node = "intervene::plainformer::meaning::projection:query_output"
    result = run(place, "--adapter", "broken_adapter:Broken", node)
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert f"{QUERY}: failed" in text
    assert "minimal example:" in text
    # The suite's own code is not what the reader needs.
    assert "run_check" not in text
    assert "Traceback" not in text


def test_ids_select(place: pytest.Pytester) -> None:
    run(place, "--adapter", PLAIN, CHECK).assert_outcomes(passed=1)
    result = run(place, "--adapter", PLAIN, CHECK[:-1])
    assert result.ret != 0
    result.stdout.fnmatch_lines([f"*no check '{CHECK[:-1]}'*"])
    law = CHECK.rpartition("::")[0]
    listed = run(place, "--adapter", PLAIN, law, "--collect-only", "-q").outlines
    assert [c.replace("intervene::plainformer::", "") for c in listed if "::" in c] == [
        c.replace(":", "::", 1) for c in generate_checks_of_plain() if c.startswith("shaped:")
    ]


def test_test_files_run_only_where_they_are_named(place: pytest.Pytester) -> None:
    path = place.makepyfile(test_own="def test_own(): pass")
    alone = run(place, "--adapter", PLAIN, "--collect-only", "-q").stdout.str()
    assert "test_own" not in alone
    run(place, "--adapter", PLAIN, "-k", "test_own or (shaped and logits)", str(path)).assert_outcomes(
        passed=2, deselected=len(generate_checks_of_plain()) - 1
    )


def test_expected_failures(place: pytest.Pytester) -> None:
    expected = place.path / "expected.toml"
    expected.write_text(f'"{QUERY}" = "q and k change places; our issue 7"\n')
    node = "intervene::plainformer::" + QUERY.replace(":", "::", 1)
    options = ("--expected-failures", "expected.toml", node)
    result = run(place, "--adapter", "broken_adapter:Broken", "-rx", *options)
    result.assert_outcomes(xfailed=1)
    result.stdout.fnmatch_lines(["*our issue 7*"])

    result = run(place, "--adapter", PLAIN, *options)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*unexpected pass*", "*take it off the list*"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"shaped:logit" = "x"\n', "*expected.toml, line 1: no check 'shaped:logit'; did you mean 'shaped:logits'*"),
        ('[gpt2]\n"shaped:logits" = "x"\n', "*line 1: family 'gpt2' is not checked in this run*plainformer*"),
        ('"shaped:logits" = ""\n', "*line 1: 'shaped:logits' in the top level is empty*"),
        ('"shaped:logits" = 3\n', "*line 1: 'shaped:logits' in the top level is*it has to be a string*"),
    ],
)
def test_a_wrong_list_of_expected_failures_is_an_error(place: pytest.Pytester, text: str, message: str) -> None:
    (place.path / "expected.toml").write_text(text)
    result = run(place, "--adapter", PLAIN, "--expected-failures", "expected.toml", CHECK)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines([message])


def test_several_adapters(place: pytest.Pytester) -> None:
    (place.path / "expected.toml").write_text(f'[plainformer]\n"{QUERY}" = "why"\n')
    both = ("--adapter", PLAIN, "--adapter", "gpt2")
    result = run(place, *both, "--expected-failures", "expected.toml", "--collect-only", "-q")
    families = [line.split("::")[1] for line in result.outlines if line.startswith("intervene::")]
    assert list(dict.fromkeys(families)) == ["plainformer", "gpt2"]

    (place.path / "expected.toml").write_text(f'"{QUERY}" = "why"\n')
    result = run(place, *both, "--expected-failures", "expected.toml", "--collect-only")
    result.stdout.fnmatch_lines(["*does not say for which family*"])

    result = run(place, "--adapter", PLAIN, "--adapter", "broken_adapter:Broken")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*are all of family 'plainformer'*"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpt22", "*no family 'gpt22'; there are *gpt2*Did you mean 'gpt2'*"),
        ("nowhere:Adapter", "*no module 'nowhere' is installed or stands in *"),
        ("nowhere.py:Adapter", "*no file nowhere.py*"),
        ("broken_adapter:Brokem", "*has no 'Brokem'; its adapters: PlainformerAdapter, Broken.*Did you mean 'Broken'*"),
        ("json:loads", "*json:loads is no subclass of intervene.Adapter*"),
        ("failing.py:Adapter", "*failing.py could not be imported: RuntimeError: at import*"),
        ("failing:Adapter", "*failing could not be imported: RuntimeError: at import*"),
        ("needy:Adapter", "*needy could not be imported: No module named 'what_it_needs'*"),
    ],
)
def test_a_wrong_adapter_is_an_error_in_words(place: pytest.Pytester, name: str, message: str) -> None:
    place.makepyfile(failing="raise RuntimeError('at import')", needy="import what_it_needs")
    result = run(place, "--adapter", name)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines([message])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--expected-failures", "x.toml"), "*--expected-failures goes with --adapter*"),
        (("--adapter", "gpt2", "--conformance-html", "nowhere/report.html"), "*there is no folder nowhere*"),
    ],
)
def test_wrong_usage(place: pytest.Pytester, options: tuple[str, ...], message: str) -> None:
    result = run(place, *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


FILE = """
from intervene.conformance import parametrize_with_laws
from broken_adapter import Broken

@parametrize_with_laws(Broken, laws=["meaning", "generation"], components=["query_output"])
def test_conformance(check):
    check()
"""


def test_parametrize_with_laws(place: pytest.Pytester) -> None:
    place.makepyfile(test_it=FILE)
    result = run(place, "--conformance-json", "report.json", "-rs")
    result.assert_outcomes(failed=1, skipped=1)
    result.stdout.fnmatch_lines(
        ["*test_conformance[[]meaning:projection:query_output[]]*", "*meaning:projection:query_output: failed*"]
    )
    found = reports(place.path / "report.json")["plainformer"]
    assert {o.id: o.status for o in found} == {QUERY: Status.FAILED, "generation:query_output": Status.NOT_APPLICABLE}
    assert found.total == len(generate_checks_of_plain())
    assert not found.passed


def test_parametrize_with_laws_takes_expected_failures(place: pytest.Pytester) -> None:
    place.makepyfile(
        test_it=FILE.replace('["query_output"]', f'["query_output"], expected_failures={{"{QUERY}": "our issue 7"}}')
    )
    run(place).assert_outcomes(xfailed=1, skipped=1)
    place.makepyfile(test_it=FILE.replace('["query_output"]', '["query_output"], expected_failures={"meaning:x": "y"}'))
    result = run(place)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no check 'meaning:x'*"])


def test_profile_and_seed_reach_the_search(place: pytest.Pytester) -> None:
    place.makepyfile(test_it=FILE.replace('"meaning", "generation"', '"shaped"').replace('"query_output"', '"logits"'))
    options = ("--conformance-seed", "5", "--conformance-json", "report.json")
    run(place, *options).assert_outcomes(passed=1)
    few = reports(place.path / "report.json")["plainformer"]
    assert (few.profile, few.seed) == ("ci", 5)
    run(place, "--conformance-profile", "thorough", *options).assert_outcomes(passed=1)
    many = reports(place.path / "report.json")["plainformer"]
    assert (many.profile, many.seed) == ("thorough", 5)
    assert many.outcomes[0].examples > few.outcomes[0].examples


SEEDS = """
import os
import pytest

@pytest.mark.parametrize("number", range(4))
def test_seed(number, request):
    runner = request.config.pluginmanager.get_plugin("intervene-conformance-runner")
    with open("seeds", "a") as file:
        file.write(f"{os.environ['PYTEST_XDIST_WORKER']} {runner.seed}\\n")
"""


def test_xdist_gathers_all_workers_and_gives_them_one_seed(place: pytest.Pytester) -> None:
    path = place.makepyfile(test_seeds=SEEDS)
    names = [c for c in generate_checks_of_plain() if c.startswith("meaning:") and "query" in c]
    chosen = ["intervene::plainformer::" + n.replace(":", "::", 1) for n in names]
    result = place.runpytest_subprocess(
        *("-p", "no:cacheprovider", "-n", "2", "--conformance-profile", "thorough"),
        *("--conformance-html", "report.html", "--conformance-json", "report.json"),
        *("--adapter", "broken_adapter:Broken", str(path), *chosen),
    )
    found = reports(place.path / "report.json")["plainformer"]
    assert [o.id for o in found] == names
    assert {o.id: o.status for o in found}[QUERY] is Status.FAILED
    failed = len(found.failures)
    result.assert_outcomes(failed=failed, passed=len(found) - failed + 4)
    assert QUERY in (place.path / "report.html").read_text()
    assert found.seconds > 0
    result.stdout.fnmatch_lines(["Plainformer does not conform: *", "report: report.html", "report: report.json"])

    lines = [line.split() for line in (place.path / "seeds").read_text().splitlines()]
    assert {worker for worker, _ in lines} == {"gw0", "gw1"}
    assert {seed for _, seed in lines} == {str(found.seed)}


def test_a_check_whose_worker_died_is_a_failure(tmp_path: Path) -> None:
    """Its outcome never arrives; the report must not pass over it."""
    header = {**GOOD.to_dict(), "outcomes": [], "checks": [o.id for o in GOOD] + [FAILED.id]}
    outcomes = {("good", o.id): o.to_dict() for o in GOOD}
    lost = {"intervene::good::put_get::block_output": "worker 'gw0' crashed"}
    path = tmp_path / "report.json"
    assert write({"good": header}, outcomes, {}, {"good": 1.0}, None, path) == ["Good conforms: 4 checks, none failed"]
    (line,) = write({"good": header}, outcomes, lost, {"good": 1.0}, None, path)
    assert line == "Good does not conform: 1 of 5 checks failed"
    assert reports(path)["good"].failures[0].message == "worker 'gw0' crashed"


def test_an_unused_plugin_is_light(tmp_path: Path) -> None:
    code = """
import pathlib, sys, pytest
pathlib.Path("test_nothing.py").write_text("def test_nothing(): pass")
assert pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]) == 0
assert "intervene_pytest" in sys.modules
loaded = {"torch", "intervene", "hypothesis", "numpy", "rich", "jinja2"} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
