"""The specs: vocabulary, loader and its errors, towers, page, README and JSON Schema."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intervene.specs import SpecError, families, load, page, vocabulary
from intervene.specs.loader import full_vocabulary
from intervene.specs.relations import KINDS, Part, Requirement, ResidualSum, required
from intervene.specs.schema import ComponentSpec, Spec, Table, TowerSpec, Variant

FOLDER = Path(sys.modules["intervene.specs"].__file__ or "").resolve().parent
SMALL = """\
family = "toy"
title = "Toy"
library = "toys"
paper = "none"
models = ["ToyModel", "ToyHead"]
blocks = "layers"
layers = "depth"
causal = true

[capabilities]
generates = ["ToyHead"]
kv_cache = "depth > 2"

[components.block_input]
widths.feature = "width"

[components.mlp_output]
widths.feature = "width"

[components.block_output]
widths = { feature = "width" }

[components.logits]
widths.vocabulary = "words"
absent.ToyModel = "no head"

[absent]
attention_output = "no attention"

[[relations]]
kind = "residual_sum"
result = "block_output"
terms = ["block_input", "mlp_output"]
bitwise = true
"""
TOY = SimpleNamespace(depth=2, width=8, words=11)


def load_text(tmp_path: Path, text: str) -> Spec:
    file = tmp_path / "toy.toml"
    file.write_text(text, encoding="utf-8")
    return load(file)


def refusal(tmp_path: Path, text: str) -> SpecError:
    with pytest.raises(SpecError) as caught:
        load_text(tmp_path, text)
    assert caught.value.file == "toy.toml"
    assert "toy.toml" in str(caught.value)
    return caught.value


def line_of(text: str, part: str) -> int:
    found = [number for number, line in enumerate(text.splitlines(), 1) if part in line]
    assert len(found) == 1, f"{part!r} stands in lines {found}"
    return found[0]


# The package


def test_import_reads_no_toml_and_no_torch_of_its_own() -> None:
    # A parent without code stands in for `intervene`, which itself imports torch.
    code = f"""
import builtins, importlib.util, io, pathlib, sys, types
parent = types.ModuleType("intervene"); parent.__path__ = []
sys.modules["intervene"] = parent
read = []
whole = pathlib.Path.read_text
pathlib.Path.read_text = lambda self, *a, **k: (read.append(self.name), whole(self, *a, **k))[1]
spec = importlib.util.spec_from_file_location(
    "intervene.specs", {str(FOLDER / "__init__.py")!r}, submodule_search_locations=[{str(FOLDER)!r}]
)
module = importlib.util.module_from_spec(spec)
sys.modules["intervene.specs"] = module
spec.loader.exec_module(module)
assert not read, read
module.load("gpt2"); module.load("gpt2"); module.vocabulary()
assert sorted(read) == ["components.toml", "gpt2.toml"], read
heavy = {{"torch", "transformers", "numpy"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names() -> None:
    import intervene.specs

    for name in intervene.specs.__all__:
        assert getattr(intervene.specs, name) is not None
    assert callable(intervene.specs.page)
    assert "gpt2" in families()
    assert "components" not in families()


# The vocabulary


def test_vocabulary() -> None:
    known = vocabulary()
    shared = [
        "embedding_output",
        "block_input",
        "attention_input",
        "query_output",
        "key_output",
        "value_output",
        "head_query_output",
        "head_key_output",
        "head_value_output",
        "attention_scores",
        "attention_pattern",
        "head_attention_value_output",
        "attention_value_output",
        "attention_output",
        "mlp_input",
        "mlp_activation",
        "mlp_output",
        "block_output",
        "final_norm_output",
        "logits",
    ]
    assert [name for name in known if name in shared] == shared
    assert known["attention_pattern"].aliases == ("attention_weight",)
    assert known["head_query_output"].axes == ("batch", "head", "position", "feature")
    for name in ("head_key_output", "head_value_output"):
        assert known[name].axes == ("batch", "kv_head", "position", "feature")
    for name in ("attention_scores", "attention_pattern"):
        assert known[name].axes == ("batch", "head", "query_position", "key_position")
    assert known["logits"].axes == ("batch", "position", "vocabulary")
    unlayered = [name for name, info in known.items() if info.scope == "model"]
    assert {"embedding_output", "final_norm_output", "logits"} <= set(unlayered)
    for info in known.values():
        assert info.meaning.endswith("."), info.name
        assert info.axes[0] == "batch"


def test_what_acts_through_what() -> None:
    """Everything in a block acts through something later in it, and in the end through its output."""
    known = vocabulary()
    order = list(known)
    for name, info in known.items():
        last = info.scope == "model" or name == "block_output"
        assert bool(info.acts_through) is not last, name
        if info.acts_through:
            assert known[info.acts_through].scope == "block"
            assert order.index(info.acts_through) > order.index(name)
    assert known["head_cross_key_output"].acts_through == "cross_attention_output"
    assert known["expert_output"].acts_through == "mlp_output"


# What a loaded spec gives


def test_small_spec(tmp_path: Path) -> None:
    spec = load_text(tmp_path, SMALL)
    assert spec.models == ("ToyModel", "ToyHead")
    assert list(spec.towers) == [""]
    assert spec.tower.blocks == ("layers",)
    assert spec.tower.count(TOY) == 2
    assert spec.tower.is_causal(TOY)
    assert spec.components["block_output"].shape("ToyModel", TOY) == (None, None, 8)
    assert spec.components["block_output"].line == line_of(SMALL, "[components.block_output]")
    assert spec.absent == {"attention_output": "no attention"}
    (relation,) = spec.relations
    assert isinstance(relation, ResidualSum)
    assert relation.name == "residual_sum:block_output"
    assert relation.subject == "block_output"
    assert relation.components == ("block_output", "block_input", "mlp_output")
    assert relation.statement == "block_output = block_input + mlp_output"
    assert relation.line == line_of(SMALL, "[[relations]]")
    assert relation.bitwise
    assert relation.applies("ToyModel", TOY)


def test_components_stand_in_the_order_of_computation(tmp_path: Path) -> None:
    for tower in load("gpt2").towers.values():
        order = list(vocabulary())
        found = list(tower.components)
        assert found == sorted(found, key=order.index)
    moved = SMALL.replace("[components.block_input]\n", "[components.mlp_input]\n") + (
        '\n[components.block_input]\nwidths.feature = "width"\n'
    )
    assert list(load_text(tmp_path, moved).components)[:2] == ["block_input", "mlp_input"]


def test_a_capability_that_is_not_claimed_says_why_its_components_are_absent(tmp_path: Path) -> None:
    tower = load_text(tmp_path, SMALL).tower
    assert tower.lacking()["query_rotated"] == full_vocabulary().without["rotary"]
    assert tower.lacking()["attention_output"] == "no attention"
    assert tower.why_absent("query_rotated", "ToyHead", TOY) == full_vocabulary().without["rotary"]
    assert "no rotary embedding" in page(load_text(tmp_path, SMALL))
    assert "query_rotated" not in load("llama").tower.lacking()


def test_capabilities(tmp_path: Path) -> None:
    tower = load_text(tmp_path, SMALL).tower
    assert tower.has("generates", "ToyHead", TOY)
    assert not tower.has("generates", "ToyModel", TOY)
    assert not tower.has("kv_cache", "ToyHead", TOY)
    assert tower.has("kv_cache", "ToyHead", SimpleNamespace(depth=3))
    assert not tower.has("has_heads", "ToyHead", TOY)
    with pytest.raises(SpecError, match="did you mean 'has_heads'"):
        tower.has("has_head", "ToyHead", TOY)


def test_why_absent(tmp_path: Path) -> None:
    tower = load_text(tmp_path, SMALL).tower
    assert tower.why_absent("attention_output", "ToyHead", TOY) == "no attention"
    assert tower.why_absent("logits", "ToyModel", TOY) == "no head"
    assert tower.why_absent("logits", "ToyHead", TOY) is None
    assert "says nothing" in (tower.why_absent("mlp_input", "ToyHead", TOY) or "")
    assert "mlp_input" in tower.unmentioned()
    assert "attention_output" not in tower.unmentioned()
    with pytest.raises(SpecError, match="did you mean 'mlp_input'"):
        tower.why_absent("mlp_inputs", "ToyHead", TOY)
    needs = '\n[components.mlp_input]\nwidths.feature = 8\nrequires = { when = "depth > 2", reason = "too flat" }\n'
    tower = load_text(tmp_path, SMALL + needs).tower
    assert tower.why_absent("mlp_input", "ToyHead", TOY) == "too flat"
    assert tower.why_absent("mlp_input", "ToyHead", {"depth": 3}) is None


def test_variants(tmp_path: Path) -> None:
    text = SMALL + (
        '\n[components.mlp_activation]\nwidths.feature = "width"\n'
        "[[components.mlp_activation.variants]]\n"
        'models = ["ToyHead"]\nwhen = "depth == 2"\naxes = ["batch", "class"]\nwidths.class = 3\n'
        '[[components.mlp_activation.variants]]\nwhen = "depth == 3"\ndtype = "float32"\n'
    )
    component = load_text(tmp_path, text).components["mlp_activation"]
    assert component.shape("ToyHead", TOY) == (None, 3)
    assert component.shape("ToyModel", TOY) == (None, None, 8)
    assert component.resolve("ToyModel", TOY).dtype == "model"
    deep = component.resolve("ToyHead", {"depth": 3})
    assert deep.dtype == "float32"
    assert deep.axes == ("batch", "position", "feature")
    assert not deep.variants


def test_towers(tmp_path: Path) -> None:
    text = """\
family = "two"
title = "Two"
library = "toys"
paper = "none"
models = ["Two"]
causal = false

[components.logits]
widths.vocabulary = "words"

[towers.vision]
config = "vision_config"
blocks = ["vision.layers", "layers"]
layers = "depth"
causal = false

[towers.vision.components.block_output]
widths.feature = "width"

[towers.text]
blocks = "text.layers"
layers = "depth"
causal = "is_decoder"

[towers.text.components.block_input]
widths.feature = "width"

[towers.text.components.block_output]
widths.feature = "width"

[[towers.text.relations]]
kind = "chain"
output = "block_output"
input = "block_input"
"""
    spec = load_text(tmp_path, text)
    assert list(spec.towers) == ["vision", "text", ""]
    config = SimpleNamespace(vision_config=SimpleNamespace(depth=3, width=4), depth=5, words=7, is_decoder=True)
    vision, text_tower = spec.towers["vision"], spec.towers["text"]
    assert vision.count(config) == 3
    assert vision.components["block_output"].shape("Two", vision.config_of(config)) == (None, None, 4)
    assert text_tower.count(config) == 5
    assert text_tower.is_causal(config)
    assert not vision.is_causal(config)
    assert spec.towers[""].count(config) == 0
    with pytest.raises(SpecError, match=r"several towers.*'vision', 'text'"):
        _ = spec.components
    markdown = page(spec)
    assert "`vision.layer.*.block_output`" in markdown
    assert "The model as a whole" in markdown

    wrong = text.replace('input = "block_input"', 'inputs = "block_input"')
    error = refusal(tmp_path, wrong)
    assert error.line == line_of(wrong, "inputs =")
    assert "[towers.text.relations[0]]" in error.problem
    assert "did you mean 'input'" in error.remedy


def test_specs_are_values(tmp_path: Path) -> None:
    spec = load("gpt2")
    assert load("gpt2") is spec
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert hash(spec) == hash(pickle.loads(pickle.dumps(spec)))
    with pytest.raises(FrozenInstanceError):
        spec.family = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        spec.components["logits"] = None  # type: ignore[index]
    # Comments and lines move; what is claimed doesn't.
    assert load_text(tmp_path, SMALL) == load_text(tmp_path, "# moved\n\n" + SMALL)
    assert load_text(tmp_path, SMALL) != load_text(tmp_path, SMALL.replace('"width"', '"breadth"'))


def test_load_by_path_and_by_name(tmp_path: Path) -> None:
    file = tmp_path / "toy.toml"
    file.write_text(SMALL)
    assert load(str(file)) == load(file)
    with pytest.raises(SpecError, match=r"no family 'gtp2'; did you mean 'gpt2'"):
        load("gtp2")
    with pytest.raises(SpecError, match=r"no such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(SpecError, match=r"is a folder"):
        load(tmp_path)


# What a broken spec is told

BROKEN = [
    # (what is replaced, by what, part of the line that is blamed, words of the message)
    ("title = ", "titel = ", "titel", ["unknown key 'titel' in the top level", "did you mean 'title'"]),
    ('title = "Toy"\n', "", None, ["the top level lacks 'title'", "a string"]),
    ('title = "Toy"', "title = 3", "title = 3", ["'title'", "an integer (3)", "it has to be a string"]),
    ('title = "Toy"', 'title = " "', "title", ["is empty"]),
    ('title = "Toy"', 'title = "Toy"\nsince = "5.x"', "since", ["'5.x'", "a version in numbers"]),
    ('title = "Toy"', 'title = "Toy"\nsince = 5.18', "since", ["'since'", "it has to be a string"]),
    ("causal = true\n", "", None, ["lacks 'causal'", "true, false, or a condition"]),
    ("causal = true", "causal = 1", "causal", ["an integer (1)", "true, false, or a string"]),
    ("causal = true", 'causal = "f(x)"', "causal", ["'f(x)'", "allowed are"]),
    ('blocks = "layers"', "blocks = 1", "blocks", ["a module path, or an array of paths"]),
    ('blocks = "layers"\n', "", "layers =", ["'layers' without 'blocks'"]),
    ('layers = "depth"', 'layers = "depth ** 2"', "layers =", ["'depth ** 2'", "allowed are"]),
    ('layers = "depth"', "layers = true", "layers =", ["true or false (True)", "it has to be a string"]),
    ('["ToyModel", "ToyHead"]', '[\n  "ToyModel",\n  7,\n]', "  7,", ["an integer (7)", "strings only"]),
    ('["ToyModel", "ToyHead"]', '["ToyModel", "ToyModel"]', "models", ["'ToyModel' twice"]),
    ('["ToyModel", "ToyHead"]', "[]", "models", ["at least one"]),
    ("kv_cache", "kv_cash", "kv_cash", ["unknown capability 'kv_cash'", "'kv_cache'"]),
    ('["ToyHead"]', '["ToyHeads"]', "generates", ["model class 'ToyHeads'", "'ToyHead'"]),
    ("[components.mlp_output]", "[components.mlp_outputs]", "mlp_outputs", ["component 'mlp_outputs'", "'mlp_output'"]),
    ("[components.mlp_output]", "[components.attention_weight]", "weight", ["alias", "'attention_pattern'"]),
    ("widths = {", "width = {", "width =", ["'width' in [components.block_output]", "did you mean 'widths'"]),
    ("{ feature =", "{ futures =", "futures", ["axis 'futures'", "did you mean 'feature'"]),
    ("{ feature = ", "{ batch = 4, feature = ", "batch", ["'batch' has a width", "from the inputs"]),
    ('widths = { feature = "width" }\n', "", "[components.block_output]", ["lacks the axis 'feature'"]),
    ("absent.ToyModel", "absent.Toymodel", "Toymodel", ["model class 'Toymodel'", "did you mean 'ToyModel'"]),
    ("attention_output =", "mlp_output =", "mlp_output = ", ["'mlp_output' is absent here and present in line 17"]),
    ("attention_output =", "attn_output =", "attn_output", ["component 'attn_output'", "attention_output"]),
    ('"no attention"', '""', "attention_output", ["is empty"]),
    ('kind = "residual_sum"', 'kind = "sum"', "kind", ["unknown kind of relation 'sum'", "'residual_sum'"]),
    ("terms = ", "term = ", "term =", ["unknown key 'term'", "did you mean 'terms'"]),
    ('result = "block_output"\n', "", "[[relations]]", ["lacks 'result'"]),
    ('result = "block_output"', 'result = "block_ouput"', "result", ["'block_ouput', which doesn't exist"]),
    ('["block_input", "mlp_output"]', '["block_input", "mlp_input"]', "terms", ["'mlp_input', which this spec"]),
    ('["block_input", "mlp_output"]', '["block_input", "logits"]', "terms", ["'logits', whose scope is 'model'"]),
    ("bitwise = true", 'bitwise = "yes"', "bitwise", ["a string ('yes')", "true or false"]),
    ("bitwise = true", "when = 3", "when", ["an integer (3)"]),
    ("bitwise = true", 'models = ["X"]', 'models = ["X"]', ["model class 'X'"]),
    ("bitwise = true", 'requires = { reason = "x" }', "requires", ["requires nothing"]),
    ("bitwise = true", 'requires = { when = "depth" }', "requires", ["lacks 'reason'"]),
    ("causal = true", "causal = tru", "causal", ["not TOML"]),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "blamed", "words"), BROKEN, ids=lambda value: str(value)[:40])
def test_broken_specs_are_told_where_and_why(
    tmp_path: Path, old: str, new: str, blamed: str | None, words: list[str]
) -> None:
    assert SMALL.count(old) == 1, "the case must break one place"
    text = SMALL.replace(old, new)
    error = refusal(tmp_path, text)
    assert error.line == (line_of(text, blamed) if blamed else 1)
    for word in words:
        assert word in str(error)


RELATION = '\n[[relations]]\nkind = "projection"\nresult = "mlp_output"\nterms = ["block_input"]\n'


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (RELATION, "lacks 'module'"),
        (RELATION + "module = 3\n", "a module path"),
        (RELATION + 'module = "down"\npart = { chunk = 3, of = 3 }\n', "chunk 3 of 3"),
        (RELATION + 'module = "down"\npart = { chunk = 0 }\n', "is no part"),
        (RELATION + 'module = "down"\npart = { chunk = 0, of = 2, stop = 3 }\n', "is no part"),
        (RELATION + 'module = "down"\npart = { start = 0, stop = "a[0]" }\n', "can't have '[0]'"),
        (RELATION + 'module = "d"\n' + RELATION + 'module = "e"\n', "a `name` of its own"),
        ("\n[components.mlp_input]\n", "lacks the axis 'feature'"),
        ('\n[components.mlp_input]\nwidths.feature = 1\naxes = ["batch", "heads"]\n', "axis 'heads'"),
        ('\n[components.mlp_input]\nwidths.feature = 1\ndtype = "single"\n', "dtype 'single'"),
        ("\n[components.mlp_input]\nwidths.feature = 1\nvariants = [3]\n", "tables only"),
        ('\n[components.mlp_input]\nwidths.feature = 1\nvariants = [{ dtype = "float32" }]\n', "is for everything"),
        ('\n[components.mlp_input]\nwidths.feature = 1\nvariants = [{ when = "depth" }]\n', "changes nothing"),
        ('\n[components.head_query_output]\nwidths = { head = 1, feature = 1 }\n', "'has_heads' isn't claimed"),
        ('\n[[relations]]\nkind = "heads_reshape"\nheads = "logits"\nwhole = "mlp_output"\n', "scope is 'model'"),
    ],
)  # fmt: skip
def test_more_that_is_refused(tmp_path: Path, extra: str, words: str) -> None:
    error = refusal(tmp_path, SMALL + extra)
    assert words in str(error)
    assert error.line is not None
    assert error.line > len(SMALL.splitlines()) or "has_heads" in words


def test_blocks_are_needed_for_components_in_blocks(tmp_path: Path) -> None:
    text = SMALL.replace('blocks = "layers"\nlayers = "depth"\n', "")
    error = refusal(tmp_path, text)
    assert "this tower has no blocks" in str(error)
    assert error.line == line_of(text, "[components.block_input]")


def test_family_file_and_name_agree_for_own_specs() -> None:
    for family in families():
        assert load(family).family == family


@given(
    st.text("abcdefgh_", min_size=1, max_size=12),
    st.sampled_from(["", "capabilities", "components.logits", "components.block_output", "relations"]),
    st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_unknown_keys_have_their_line(
    tmp_path_factory: pytest.TempPathFactory, key: str, table: str, blank: int
) -> None:
    key = "zz" + key  # no key of the schema begins so
    lines = SMALL.splitlines()
    headers = [n for n, line in enumerate(lines) if line.strip("[]") == table and line[:1] == "["]
    at = headers[0] + 1 if headers else 0
    lines[at:at] = ["# comment", *[""] * blank, f'{key} = """two\nlines"""']
    error = refusal(tmp_path_factory.mktemp("specs"), "\n".join(lines))
    assert error.line == at + 2 + blank
    assert repr(key) in error.problem


def test_a_width_is_at_least_one(tmp_path: Path) -> None:
    component = load_text(tmp_path, SMALL).components["block_output"]
    with pytest.raises(SpecError, match="feature = width is 0 for this config"):
        component.shape("ToyModel", {"width": 0})


def with_positions(given: str) -> str:
    return SMALL.replace("causal = true", f"causal = true\npositions = {given}")


def test_positions_of_an_input(tmp_path: Path) -> None:
    assert load_text(tmp_path, SMALL).tower.length("ToyModel", TOY) is None
    alike = load_text(tmp_path, with_positions('"width * width + 1"'))
    assert alike.tower.length("ToyHead", TOY) == 65
    each = load_text(tmp_path, with_positions('{ ToyModel = "width + 1", ToyHead = "width + 2" }'))
    assert [each.tower.length(model, TOY) for model in each.models] == [9, 10]
    assert "| positions of `ToyHead` | `width + 2` |" in page(each)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ('{ ToyModel = "width" }', "[positions] lacks ToyHead"),
        ('{ ToyModel = "width", ToyHead = 2, Toy = 3 }', "unknown model class 'Toy'"),
        ('{ ToyModel = "width", ToyHead = "width ** 2" }', "'ToyHead'"),
        ("true", "'positions'"),
    ],
)
def test_positions_that_are_none(tmp_path: Path, given: str, problem: str) -> None:
    error = refusal(tmp_path, with_positions(given))
    assert problem in error.problem
    assert error.line == 9


# README, JSON Schema, page


def test_readme_s_example_is_a_whole_spec(tmp_path: Path) -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", readme, re.DOTALL)
    spec = load_text(tmp_path, example)
    config = {"depth": 2, "width": 4, "inner": None, "classes": 3}
    assert spec.components["mlp_activation"].shape("ToyModel", config) == (None, None, 16)
    assert spec.components["logits"].axes[-1] == "class"
    for kind in KINDS:
        assert f"`{kind}`" in readme
    for each in (Spec, TowerSpec, ComponentSpec, Variant, Requirement):
        for field in fields(each):
            if field.name not in ("name", "line", "file"):
                assert f"`{field.name}`" in readme, f"{each.__name__}.{field.name} isn't explained"


def test_json_schema_has_the_dataclasses_fields() -> None:
    schema = json.loads((FOLDER / "schema.json").read_text(encoding="utf-8"))
    definitions = schema["$defs"]

    def keys(each: type, *without: str) -> set[str]:
        return {field.name for field in fields(each)} - {"line", *without}

    tower = keys(TowerSpec, "name")
    assert set(definitions["tower"]["properties"]) == tower
    assert set(schema["properties"]) == (keys(Spec, "file") | tower)
    assert set(definitions["component"]["properties"]) == keys(ComponentSpec, "name")
    assert set(definitions["variant"]["properties"]) == keys(Variant)
    assert set(definitions["requirement"]["properties"]) == keys(Requirement)
    assert set(definitions["part"]["properties"]) == keys(Part)
    relations = {f"#/$defs/relation_{kind}" for kind in KINDS}
    assert {each["$ref"] for each in definitions["relation"]["oneOf"]} == relations
    for name, kind in KINDS.items():
        found = definitions[f"relation_{name}"]
        assert set(found["properties"]) == keys(kind) | {"kind"}
        assert set(found["required"]) == {"kind", *required(kind)}
        assert found["properties"]["kind"] == {"const": name}
        assert found["additionalProperties"] is False
    for name in ("tower", "component", "variant", "requirement", "part"):
        assert definitions[name]["additionalProperties"] is False
    assert schema["additionalProperties"] is False


def test_page_says_everything() -> None:
    for family in families():
        spec = load(family)
        markdown = page(spec)
        assert markdown.startswith(f"# {spec.title}\n")
        assert (f"`{spec.library}` {spec.since} and up" in markdown) == bool(spec.since)
        for tower in spec.towers.values():
            for name, component in tower.components.items():
                assert f"{name}`" in markdown
                for expression in component.widths.values():
                    assert f"`{expression}`" in markdown
            for relation in tower.relations:
                assert f"`{relation.name}`" in markdown
                assert relation.statement in markdown
            for reason in tower.absent.values():
                assert reason in markdown
        rows = [line for line in markdown.splitlines() if line.startswith("|")]
        assert all(line.endswith("|") for line in rows)
    markdown = page(load("gpt2"))
    assert "`logits` is absent in `GPT2Model`" in markdown
    assert "`layer.*.block_output`" in markdown
    assert "`n_inner or 4 * n_embd`" in markdown


def test_page_can_be_rendered() -> None:
    from io import StringIO

    from rich.console import Console
    from rich.markdown import Markdown

    out = StringIO()
    Console(file=out, width=120).print(Markdown(page(load("gpt2"))))
    assert "mlp_activation" in out.getvalue()


# First-party specs


@pytest.mark.parametrize("family", families())
def test_own_specs_say_something_about_every_component(family: str) -> None:
    spec = load(family)
    for tower in spec.towers.values():
        if tower.blocks:
            assert tower.unmentioned() == ()
    assert spec.paper
    assert spec.library


def test_table() -> None:
    table: Table[str, int] = Table({"a": 1, "b": 2})
    assert table == {"a": 1, "b": 2}
    assert list(table) == ["a", "b"]
    assert hash(table) == hash(Table({"b": 2, "a": 1}))
    assert "'a': 1" in repr(table)
    assert full_vocabulary().axes["feature"].size == "config"
