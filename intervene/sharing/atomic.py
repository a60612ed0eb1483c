"""Writing a folder so that a reader, a kill or a full disk sees the old content or the new, never a mixture.

Everything is first written and flushed in a staging folder on the same file system. A folder that doesn't exist yet
then appears by one rename. In a folder that exists, one file decides which content counts (the *deciding* file): what
it refers to has names that no other content has, and comes in before it; its own replacement is the moment of the
change; files that it doesn't refer to, such as a README, are replaced after it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_STAGING = ".intervene-saving-"
_ABANDONED_SECONDS = 3600.0


@contextmanager
def replacing(folder: Path, *, decides: str, obsolete: Callable[[str], bool]) -> Iterator[Path]:
    """A staging folder whose files become those of ``folder`` when the ``with`` ends without an error.

    After an error the staging folder, and parents that were made for it, are gone and ``folder`` is as it was. What a
    killed process left behind is removed by the next save, an hour later at the earliest.

    Args:
        folder: where the files are to be; files there that aren't replaced or obsolete stay.
        decides: the name of the deciding file, which must be staged.
        obsolete: whether a name in ``folder`` that was not staged belongs to older content and is to go.

    Raises:
        FileNotFoundError: the deciding file was not staged.
        NotADirectoryError: ``folder`` exists and is no folder.
        OSError: what the file system says: no space left, no permission, ...
    """
    folder = folder.absolute()
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; name a folder to save in")
    made = _make_parents(folder)
    exists = folder.is_dir()
    # What another process adds from now on is that one's to keep.
    older = [name for name in os.listdir(folder) if obsolete(name)] if exists else []
    # Inside a folder that exists, so that both are on one file system even where the folder is a mount point.
    home = folder if exists else folder.parent
    staging: Path | None = None
    try:
        _sweep(home)
        staging = home / f"{_STAGING}{secrets.token_hex(8)}"
        staging.mkdir()
        yield staging
        if not (staging / decides).is_file():
            raise FileNotFoundError(f"{decides} was not written")
        mode = stat.S_IMODE((staging / decides).stat().st_mode)
        for file in staging.iterdir():
            file.chmod(mode)  # some libraries make files that their owner alone may read
            flush(file)
        if exists:
            _install(staging, folder, decides, older)
        else:
            _appear(staging, folder)
    except BaseException:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        for parent in made:
            with suppress(OSError):
                parent.rmdir()
        raise


def flush(path: Path) -> None:
    """Wait until what was written to the file or folder ``path`` is on the disk."""
    # Windows can't open a folder, and keeps its entries safe without.
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _appear(staging: Path, folder: Path) -> None:
    flush(staging)
    os.rename(staging, folder)
    flush(folder.parent)


def _install(staging: Path, folder: Path, decides: str, older: Iterable[str]) -> None:
    staged = {file.name for file in staging.iterdir()}
    added = sorted(name for name in staged if not (folder / name).exists() and name != decides)
    replaced = sorted(staged.difference(added, [decides]))
    try:
        for name in added:
            os.replace(staging / name, folder / name)
        flush(folder)
        os.replace(staging / decides, folder / decides)
    except BaseException:
        if (staging / decides).exists():
            for name in added:
                (folder / name).unlink(missing_ok=True)
        raise
    for name in replaced:
        os.replace(staging / name, folder / name)
    flush(folder)
    # What remains is tidying, and no reason to report a failure.
    for name in older:
        if name not in staged:
            with suppress(OSError):
                (folder / name).unlink()
    with suppress(OSError):
        staging.rmdir()


def _make_parents(folder: Path) -> list[Path]:
    """Make the folders above ``folder``; those that were missing, innermost first."""
    missing = [parent for parent in folder.parents if not parent.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    return missing


def _sweep(home: Path) -> None:
    """Remove staging folders that killed processes left; a young one may belong to a save that is under way."""
    for left in home.glob(f"{_STAGING}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
