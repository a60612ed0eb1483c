"""The Hugging Face hub, through its own client: up- and downloading the files of an artifact."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import HubError
from ..extras import needed
from .artifact import CARD, CONFIG, INTERVENTIONS, MODEL, is_ours

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# pyvene's names, beside ours.
_INTERVENTION_FILES = [CONFIG, CARD, f"{INTERVENTIONS}-*.safetensors", "intkey_*.bin"]
_MODEL_FILES = [f"{MODEL}-*.safetensors", "pytorch_model.bin"]


def looks_like_repo_id(text: str) -> bool:
    """Whether ``text`` has the form ``name`` or ``user/name``."""
    return _REPO_ID.fullmatch(text) is not None and ".." not in text and "--" not in text


def download(
    repo_id: str,
    *,
    model_files: bool = False,
    revision: str | None = None,
    token: str | bool | None = None,
    endpoint: str | None = None,
    cache_dir: str | Path | None = None,
    local_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """Fetch an artifact's files, and no others, into the hub's cache or ``local_dir``; the folder they are in.

    Without a connection the cached files serve.

    Raises:
        HubError: no such repository or revision, no right to see it, or no connection and nothing cached.
    """
    hub = client()
    with _said_in_words(f"download {repo_id!r}", repo_id, revision, endpoint):
        folder = hub.snapshot_download(
            repo_id,
            revision=revision,
            token=token,
            endpoint=endpoint,
            cache_dir=cache_dir,
            local_dir=local_dir,
            local_files_only=local_files_only,
            allow_patterns=[*_INTERVENTION_FILES, *(_MODEL_FILES if model_files else [])],
        )
    return Path(folder)


def upload(
    folder: Path,
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    endpoint: str | None = None,
    private: bool | None = None,
    commit_message: str | None = None,
) -> str:
    """Make the artifact in ``folder`` what the repository holds, in one commit; the commit's address.

    The repository, and a branch ``revision``, are made where they don't exist. Files of an older artifact go, others
    stay.

    Raises:
        HubError: no token or one without the right to write, no connection, or what else the hub says.
    """
    hub = client()
    api = hub.HfApi(endpoint=endpoint, token=token)
    with _said_in_words(f"push to {repo_id!r}", repo_id, revision, endpoint):
        if "/" not in repo_id:
            repo_id = f"{api.whoami()['name']}/{repo_id}"
        if not api.repo_exists(repo_id):
            api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        staying = {file.name for file in folder.iterdir()}
        gone = [
            name for name in api.list_repo_files(repo_id, revision=revision) if is_ours(name) and name not in staying
        ]
        commit = api.create_commit(
            repo_id,
            operations=[
                *(hub.CommitOperationDelete(name) for name in gone),
                *(hub.CommitOperationAdd(name, str(folder / name)) for name in sorted(staying)),
            ],
            commit_message=commit_message or "Upload an intervention",
            revision=revision,
        )
    return str(commit.commit_url)


def client() -> Any:
    """The package ``huggingface_hub``.

    Raises:
        MissingDependencyError: it isn't installed.
    """
    with needed("huggingface_hub", extra="hf", by="sharing interventions"):
        import huggingface_hub
    return huggingface_hub


@contextmanager
def _said_in_words(deed: str, repo_id: str, revision: str | None, endpoint: str | None) -> Iterator[None]:
    from huggingface_hub import constants, errors

    where = endpoint or constants.ENDPOINT
    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise HubError(f"cannot {deed}: {repo_id} has no revision {revision!r} at {where}") from error
    except errors.GatedRepoError as error:
        raise HubError(
            f"cannot {deed}: {repo_id} is gated at {where}; ask for access on its page, and log in with `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"cannot {deed}: there is no {repo_id!r} at {where}, or it is private and your token may not see it; "
            f"log in with `hf auth login` or pass token="
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise HubError(f"cannot {deed}: no connection to {where}, and no whole copy in the cache ({error})") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise HubError(
                f"cannot {deed}: {where} refuses ({status}); your token has no right to {repo_id!r}. Log in with "
                f"`hf auth login`, or pass token="
            ) from error
        raise HubError(f"cannot {deed}: {where} answered {status}: {error}") from error
    except errors.HFValidationError as error:
        raise HubError(f"cannot {deed}: {error}") from error
    except errors.LocalTokenNotFoundError as error:
        raise HubError(f"cannot {deed}: no token is stored; log in with `hf auth login` or pass token=") from error
    except errors.OfflineModeIsEnabled as error:
        raise HubError(f"cannot {deed}: HF_HUB_OFFLINE is set") from error
    except _transport_error() as error:
        raise HubError(f"cannot {deed}: no connection to {where} ({error})") from error
    except (OSError, RuntimeError) as error:
        if not _from_xet(error):
            raise
        raise HubError(
            f"cannot {deed}: the storage of large files behind {where} says: {error}. With HF_HUB_DISABLE_XET=1 in the "
            f"environment they go another way"
        ) from error


def _from_xet(error: Exception) -> bool:
    """Whether it is how `hf_xet`, which moves large files, says that its storage refused, failed or wasn't there."""
    plain = type(error) in (ConnectionError, RuntimeError) and getattr(error, "errno", None) is None
    return plain or type(error).__module__ == "hf_xet"


def _transport_error() -> type[Exception]:
    # The HTTP library beneath the client has another name in each of its major versions.
    from huggingface_hub.errors import HfHubHTTPError

    error: type[Exception] = HfHubHTTPError.__bases__[0]
    return error
