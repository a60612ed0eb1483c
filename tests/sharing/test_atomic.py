"""Replacing a folder's content: the old or the new, whatever goes wrong in between."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from intervene.sharing.atomic import replacing

OLD = {"config": "1", "data-1": "old", "card": "old card", "theirs": "kept"}
NEW = {"config": "2", "data-2": "new", "card": "new card"}


def contents(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


def lay_down(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def save(folder: Path, files: dict[str, str] = NEW) -> None:
    with replacing(folder, decides="config", obsolete=lambda name: name.startswith("data-")) as staging:
        for name, text in files.items():
            (staging / name).write_text(text)


def counts(found: dict[str, str]) -> str:
    """Which of the two contents a reader gets, who begins at the deciding file."""
    version = found["config"]
    assert found[f"data-{version}"] == {"1": "old", "2": "new"}[version]
    return version


def test_a_new_folder_appears_with_its_parents(tmp_path: Path) -> None:
    save(tmp_path / "a" / "b")
    assert contents(tmp_path / "a" / "b") == NEW
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["b"]


def test_in_an_old_folder_older_content_goes_and_the_rest_stays(tmp_path: Path) -> None:
    lay_down(tmp_path / "b", OLD)
    save(tmp_path / "b")
    assert contents(tmp_path / "b") == {**NEW, "theirs": "kept"}


def test_the_same_content_again_stays(tmp_path: Path) -> None:
    save(tmp_path / "b")
    save(tmp_path / "b")
    assert contents(tmp_path / "b") == NEW


def test_what_another_save_brings_meanwhile_stays(tmp_path: Path) -> None:
    lay_down(tmp_path / "b", OLD)
    with replacing(tmp_path / "b", decides="config", obsolete=lambda name: name.startswith("data-")) as staging:
        for name, text in NEW.items():
            (staging / name).write_text(text)
        (tmp_path / "b" / "data-3").write_text("another's")
    assert contents(tmp_path / "b") == {**NEW, "theirs": "kept", "data-3": "another's"}


def test_everybody_may_read_what_a_library_made_for_its_owner_alone(tmp_path: Path) -> None:
    with replacing(tmp_path / "b", decides="config", obsolete=bool) as staging:
        (staging / "config").write_text("")
        (staging / "data-2").touch(mode=0o600)
    modes = {file.stat().st_mode for file in (tmp_path / "b").iterdir()}
    assert len(modes) == 1


def test_an_error_while_staging_leaves_nothing(tmp_path: Path) -> None:
    lay_down(tmp_path / "b", OLD)
    for folder in (tmp_path / "b", tmp_path / "c" / "d"):
        with pytest.raises(RuntimeError, match="on the way"):
            save_and_fail(folder)
    assert contents(tmp_path / "b") == OLD
    assert [file.name for file in tmp_path.iterdir()] == ["b"]


def save_and_fail(folder: Path) -> None:
    with replacing(folder, decides="config", obsolete=bool) as staging:
        (staging / "config").write_text("2")
        raise RuntimeError("on the way")


def test_the_deciding_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="config was not written"):
        save(tmp_path / "b", {"data-2": "new"})
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("mine")
    with pytest.raises(NotADirectoryError, match="is a file"):
        save(tmp_path / "b")
    assert (tmp_path / "b").read_text() == "mine"


class Failing:
    """The operating system's file calls, of which the ``at``-th says that the disk is full."""

    NAMES = ("replace", "rename", "fsync", "open", "mkdir", "chmod")

    def __init__(self, at: int) -> None:
        self.at, self.seen = at, 0

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.seen += 1
            if self.seen == self.at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*args, **kwargs)

        return counted


@pytest.mark.parametrize("exists", [True, False], ids=["over an old one", "anew"])
def test_a_disk_full_at_any_call_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    outcomes = []
    for at in range(1, 100):
        folder = tmp_path / f"{at}" / "b"
        folder.parent.mkdir()
        if exists:
            lay_down(folder, OLD)
        failing = Failing(at)
        with monkeypatch.context() as patch:
            for name in Failing.NAMES:
                patch.setattr(os, name, failing.wrap(getattr(os, name)))
            try:
                save(folder)
                failed = False
            except OSError as error:
                failed = error.errno == errno.ENOSPC
        if not failed and failing.seen < at:
            break
        if folder.exists():
            outcomes.append(counts(contents(folder)))
            assert (folder / "theirs").exists() == exists
        else:
            assert not exists
            outcomes.append("none")
        if outcomes[-1] != "2":
            assert failed
            assert (contents(folder) == OLD) if exists else list(folder.parent.iterdir()) == []
    # The failure came before the decisive moment and after it.
    assert {"1" if exists else "none", "2"} == set(outcomes)
    assert len(outcomes) > 5


def test_what_a_killed_save_left_goes_with_a_later_save(tmp_path: Path) -> None:
    lay_down(tmp_path / "b", OLD)
    left = [tmp_path / "b" / ".intervene-saving-1", tmp_path / "b" / ".intervene-saving-2"]
    for folder in left:
        lay_down(folder, {"data-3": "half"})
    two_hours_ago = time.time() - 7200
    os.utime(left[0], (two_hours_ago, two_hours_ago))
    save(tmp_path / "b")
    assert not left[0].exists()
    assert left[1].exists()  # it may belong to a save that is under way


KILLED = """
    import os, random, signal, sys, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from test_atomic import NEW, OLD, contents, counts, lay_down, save

    folder, rounds = Path({folder!r}), 40
    first = {{name: text for name, text in OLD.items() if name != "theirs"}}
    lay_down(folder, OLD)
    began = time.perf_counter()
    save(folder, NEW)
    save(folder, first)
    both = time.perf_counter() - began  # disks differ
    chance = random.Random(0)
    seen = []
    for turn in range(rounds):
        child = os.fork()
        if child == 0:
            if turn % 2:
                save(folder, first)
            while True:
                save(folder, NEW)
                save(folder, first)
        time.sleep(chance.uniform(0, 1.5 * both))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = {{file.name: file.read_text() for file in folder.iterdir() if file.is_file()}}
        seen.append(counts(found))
        assert found["theirs"] == "kept"
    print(*seen)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork of the process")
def test_a_kill_at_any_moment_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    code = textwrap.dedent(KILLED).format(tests=str(Path(__file__).parent), folder=str(tmp_path / "b"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {"1", "2"}


FULL = """
    import resource, signal, sys
    from pathlib import Path
    import torch
    from intervene.sharing import artifact

    def made(size):
        saved = artifact.SavedIntervention("intervene.X", {{}}, {{"w": torch.full((size,), float(size))}})
        return artifact.Artifact([{{"intervention": "a"}}], {{"a": saved}})

    folder = Path({folder!r})
    artifact.write(made(10), folder, "card")
    before = {{file.name: file.read_bytes() for file in folder.iterdir()}}
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    for target in (folder, folder.parent / "new"):
        try:
            artifact.write(made(100_000), target, "card")
        except OSError as error:
            print(type(error).__name__)
        else:
            raise SystemExit("nothing failed")
    assert {{file.name: file.read_bytes() for file in folder.iterdir()}} == before
    assert [file.name for file in folder.parent.iterdir()] == [folder.name]
"""


def test_a_write_that_the_system_stops_leaves_the_old(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="limits the size of files")
    code = textwrap.dedent(FULL).format(folder=str(tmp_path / "home" / "b"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 2
