"""`intervene spec`."""

from __future__ import annotations

import json

import pytest

from intervene.specs import families, load


@pytest.mark.parametrize("family", families())
@pytest.mark.parametrize("columns", ["80", "120"])
def test_the_page_names_every_component_in_one_piece(run, family, columns):
    result = run("spec", family, COLUMNS=columns)
    assert result.exit_code == 0, result.stderr
    spec = load(family)
    for tower in spec.towers.values():
        for name in tower.components:
            assert name in result.stdout
    assert "…" not in result.stdout
    assert all(len(line) <= int(columns) for line in result.stdout.splitlines())


@pytest.mark.parametrize("family", families())
def test_json_says_what_the_spec_says(run, family):
    data = json.loads(run("spec", family, "--json").stdout)
    spec = load(family)
    assert (data["family"], data["models"]) == (spec.family, list(spec.models))
    for name, tower in spec.towers.items():
        assert list(data["towers"][name]["components"]) == list(tower.components)
        assert data["towers"][name]["absent"] == dict(tower.absent)
        assert [r["name"] for r in data["towers"][name]["relations"]] == [r.name for r in tower.relations]


def test_an_unknown_family(run):
    result = run("spec", "gpt3")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: no family 'gpt3'; did you mean 'gpt2'")


def test_a_spec_of_ones_own(run, tmp_path):
    own = tmp_path / "mine.toml"
    own.write_text("family = 3\n")
    result = run("spec", own)
    assert result.exit_code == 1
    assert "mine.toml" in result.stderr
