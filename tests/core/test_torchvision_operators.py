"""torchvision beside a torch that its compiled part was not built for, played by a package of a few lines."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

PLAYED = {
    "__init__": "from . import extension, _meta_registrations",
    "extension": "def _has_ops():\n    return {loads}",
    # What torchvision 0.28 does for two of its operators whether they loaded or not.
    "_meta_registrations": 'import torch\n{define}torch.library.register_fake("torchvision::nms", print)',
}
DEFINE = 'torch.library.define("torchvision::nms", "(Tensor dets) -> Tensor")\n'
REPORT = """
import json, sys, torch
schema = torch.ops.torchvision.nms.default._schema
print(json.dumps([str(schema), [type(finder).__name__ for finder in sys.meta_path]]))
"""


def play(folder: Path, *, loads: bool) -> None:
    package = folder / "torchvision"
    package.mkdir()
    for name, code in PLAYED.items():
        text = code.format(loads=loads, define=DEFINE if loads else "") if "{" in code else code
        (package / f"{name}.py").write_text(text, encoding="utf-8")


def python(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    before = "".join(f"import sys; sys.path.insert(0, {str(each)!r})\n" for each in path)
    return subprocess.run([sys.executable, "-c", before + code], capture_output=True, text=True, check=False)


def test_one_that_did_not_load_can_be_imported(tmp_path: Path) -> None:
    play(tmp_path, loads=False)
    alone = python("import torchvision", tmp_path)
    assert "operator torchvision::nms does not exist" in alone.stderr
    done = python("import intervene, torchvision" + REPORT, tmp_path)
    assert done.returncode == 0, done.stderr
    schema, finders = json.loads(done.stdout)
    assert schema == "torchvision::nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    assert "_BeforeRegistration" not in finders


def test_one_that_failed_before_can_be_imported_again(tmp_path: Path) -> None:
    play(tmp_path, loads=False)
    code = "try:\n    import torchvision\nexcept RuntimeError:\n    pass\nimport intervene, torchvision"
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_one_that_loaded_keeps_its_own_operators(tmp_path: Path) -> None:
    play(tmp_path, loads=True)
    done = python("import intervene, torchvision" + REPORT, tmp_path)
    assert done.returncode == 0, done.stderr
    schema, finders = json.loads(done.stdout)
    assert schema == "torchvision::nms(Tensor dets) -> Tensor"
    assert "_BeforeRegistration" not in finders


def test_nothing_is_declared_where_torchvision_is_not_imported() -> None:
    code = "import sys, intervene, torch\nprint(hasattr(torch.ops.torchvision, 'nms'), 'torchvision' in sys.modules)"
    done = python(code)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
def test_the_real_one_lets_a_language_model_load() -> None:
    done = python("import intervene\nfrom transformers import GPT2LMHeadModel\nimport torchvision")
    assert done.returncode == 0, done.stderr
