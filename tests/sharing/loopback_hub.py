"""A hub on this machine: enough of the Hugging Face hub's HTTP interface for its own client to work against.

Repositories with branches and commits, tokens and private repositories, regular files in the commit's NDJSON, large
ones by xet or by git LFS, as the client prefers, redirects to a storage path for large files, and the error codes in
the headers that the client turns into its exceptions.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import pytest

from . import loopback_xet as xet


@dataclass
class Repo:
    """Files by path for each commit, and the commit of each branch."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        parent = self.branches.get(branch, "")
        sha = hashlib.sha1(f"{parent}{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class Hub:
    """The server's state.

    Attributes:
        endpoint: its address.
        store: the address of the storage for large files, another origin as on the real hub.
        users: whose a token is; a user may write in the namespace of that name alone.
        xet: what clients that speak xet have stored.
        denied: patterns of paths that are refused, with the status that says so.
        log: method and path of every request, in order.
    """

    endpoint: str = ""
    store: str = ""
    users: dict[str, str] = field(default_factory=dict)
    repos: dict[str, Repo] = field(default_factory=dict)
    storage: dict[str, bytes] = field(default_factory=dict)
    xet: xet.Storage = field(default_factory=xet.Storage)
    denied: dict[str, int] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        repo = self.repos[repo_id]
        return repo.commits[repo.branches[revision]]


class Refusal(Exception):
    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Handler(BaseHTTPRequestHandler):
    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Tests print nothing."""

    def answer(self) -> None:
        self.split = urlsplit(self.path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = b"".join(self._chunks())
        self.hub.log.append(f"{self.command} {unquote(self.split.path)}")
        try:
            for pattern, status in self.hub.denied.items():
                if re.search(pattern, unquote(self.split.path)):
                    raise Refusal(status, "denied")
            for method, pattern, function in ROUTES:
                match = re.fullmatch(pattern, unquote(self.split.path))
                if match and self.command in method.split():
                    function(self, *match.groups())
                    return
            raise Refusal(404, f"no such address: {self.path}")
        except Refusal as refusal:
            headers = {"X-Error-Message": str(refusal)}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            self.send(refusal.status, {"error": str(refusal)}, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().strip() or b"0", 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def send(self, status: int, content: Any = b"", headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        fields = {"Content-Type": "application/json", "Content-Length": str(len(data))}
        fields |= {"Connection": "close", **(headers or {})}
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    @property
    def user(self) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.hub.users:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.hub.users.get(token)

    def json(self) -> Any:
        return json.loads(self.body)

    def repo(self, repo_id: str) -> Repo:
        found = self.hub.repos.get(repo_id)
        user = self.user
        if found is None or (found.private and user != repo_id.partition("/")[0]):
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        return found

    def writable(self, repo_id: str) -> Repo:
        found = self.repo(repo_id)
        self.may_write(repo_id.partition("/")[0])
        return found

    def may_write(self, namespace: str) -> None:
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        if self.user != namespace:
            raise Refusal(403, f"You don't have the rights to write under the namespace {namespace}")

    def refuse_token(self) -> None:
        if self.headers.get("Authorization"):
            raise Refusal(400, "a token was sent to the storage, where nobody needs it")

    def at(self, repo: Repo, revision: str) -> tuple[str, dict[str, bytes]]:
        sha = repo.resolve(revision)
        if sha is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha, repo.commits[sha]

    # -- what the client calls ------------------------------------------------------------------------------------

    def create_repo(self) -> None:
        asked = self.json()
        namespace = asked.get("organization") or self.user or ""
        repo_id = f"{namespace}/{asked['name']}"
        self.may_write(namespace)
        status = 409 if repo_id in self.hub.repos else 200
        if status == 200:
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.hub.repos[repo_id] = Repo(private)
            self.hub.repos[repo_id].commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        self.send(status, {"url": f"{self.hub.endpoint}/{repo_id}", "id": repo_id, "name": repo_id})

    def create_branch(self, repo_id: str, branch: str) -> None:
        repo = self.writable(repo_id)
        if branch in repo.branches:
            raise Refusal(409, f"Reference already exists: {branch}")
        repo.branches[branch] = repo.branches["main"]
        self.send(200, {})

    def validate_yaml(self) -> None:
        text = self.json()["content"]
        errors = [] if text.startswith("---\n") and "\n---\n" in text else [{"message": "no metadata"}]
        self.send(400 if errors else 200, {"errors": errors, "warnings": []})

    def preupload(self, repo_id: str, revision: str) -> None:
        repo = self.writable(repo_id)
        self.at(repo, revision)
        self.send(
            200,
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for file in self.json()["files"]
                ]
            },
        )

    def lfs_batch(self, repo_id: str) -> None:
        self.writable(repo_id)
        objects = []
        for wanted in self.json()["objects"]:
            found: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.storage:
                found["actions"] = {"upload": {"href": f"{self.hub.store}/storage/{wanted['oid']}"}}
            objects.append(found)
        self.send(200, {"transfer": "basic", "objects": objects})

    def storage_put(self, oid: str) -> None:
        self.refuse_token()
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "the content's SHA-256 isn't its name")
        self.hub.storage[oid] = self.body
        self.send(200)

    def storage_get(self, oid: str) -> None:
        self.refuse_token()
        self.send(200, self.hub.storage[oid], {"Content-Type": "application/octet-stream", "ETag": f'"{oid}"'})

    def xet_token(self, repo_id: str, right: str, revision: str) -> None:
        self.at(self.repo(repo_id) if right == "read" else self.writable(repo_id), revision)
        ends = int(time.time()) + 3600
        said = {"X-Xet-Cas-Url": self.hub.store, "X-Xet-Access-Token": xet.TOKEN, "X-Xet-Token-Expiration": str(ends)}
        self.send(200, {"casUrl": self.hub.store, "accessToken": xet.TOKEN, "exp": ends}, said)

    def needs_xet_token(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {xet.TOKEN}":
            raise Refusal(401, "no token of this storage's")

    def xet_telemetry(self) -> None:
        self.send(200, {})

    def xet_known_chunk(self, chunk: str) -> None:
        self.needs_xet_token()
        raise Refusal(404, f"no other xorb has {chunk}")

    def xet_xorb_put(self, name: str) -> None:
        self.needs_xet_token()
        new = name not in self.hub.xet.xorbs
        self.hub.xet.xorbs[name] = self.body
        self.send(200, {"was_inserted": new})

    def xet_xorb_get(self, name: str) -> None:
        # Its address is handed out to those who may read, as a signed one is.
        self.refuse_token()
        xorb = self.hub.xet.xorbs[name]
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        if asked is None:
            raise Refusal(416, "one range of bytes")
        first, last = int(asked[1]), int(asked[2])
        headers = {"Content-Type": "application/octet-stream", "Content-Range": f"bytes {first}-{last}/{len(xorb)}"}
        self.send(206, xorb[first : last + 1], headers)

    def xet_shard(self) -> None:
        self.needs_xet_token()
        try:
            self.hub.xet.add_shard(self.body)
        except ValueError as error:
            raise Refusal(400, str(error)) from error
        self.send(200, {"result": 1})

    def xet_reconstruction(self, name: str) -> None:
        self.needs_xet_token()
        if name not in self.hub.xet.files:
            raise Refusal(404, f"no file {name}")
        self.send(200, self.hub.xet.reconstruction(self.hub.xet.files[name], f"{self.hub.store}/xorbs"))

    def commit(self, repo_id: str, revision: str) -> None:
        repo = self.writable(repo_id)
        _, files = self.at(repo, revision)
        files = dict(files)
        for line in self.body.splitlines():
            key, value = (entry := json.loads(line))["key"], entry["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                stored = self.hub.xet.by_sha256(value["oid"])
                if stored is not None:
                    self.hub.storage[value["oid"]] = self.hub.xet.content(stored)
                if hashlib.sha256(self.hub.storage.get(value["oid"], b"")).hexdigest() != value["oid"]:
                    raise Refusal(400, f"{value['path']} was never uploaded")
                files[value["path"]] = self.hub.storage[value["oid"]]
                repo.large.add(value["path"])
            elif key == "deletedFile":
                del files[value["path"]]
        sha = repo.commit(revision, files)
        url = f"{self.hub.endpoint}/{repo_id}/commit/{sha}"
        self.send(200, {"success": True, "commitOid": sha, "commitUrl": url})

    def info(self, repo_id: str, revision: str | None = None) -> None:
        repo = self.repo(repo_id)
        sha, files = self.at(repo, revision or "main")
        siblings = [{"rfilename": path} for path in files]
        self.send(200, {"id": repo_id, "sha": sha, "private": repo.private, "siblings": siblings, "tags": []})

    def tree(self, repo_id: str, revision: str) -> None:
        repo = self.repo(repo_id)
        _, files = self.at(repo, revision)
        entries = []
        for path, content in files.items():
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _git_oid(content)}
            if path in repo.large:
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
                stored = self.hub.xet.by_sha256(entry["lfs"]["oid"])
                entry |= {"xetHash": stored.hash} if stored is not None else {}
            entries.append(entry)
        self.send(200, entries)

    def resolve_file(self, repo_id: str, revision: str, path: str) -> None:
        repo = self.repo(repo_id)
        sha, files = self.at(repo, revision)
        if path not in files:
            raise Refusal(404, f"Entry not found: {path}", "EntryNotFound")
        content = files[path]
        if path in repo.large:
            oid = hashlib.sha256(content).hexdigest()
            linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content)), "X-Repo-Commit": sha}
            stored = self.hub.xet.by_sha256(oid)
            if stored is not None:
                route = f"{self.hub.endpoint}/api/models/{repo_id}/xet-read-token/{sha}"
                linked |= {"X-Xet-Hash": stored.hash, "Link": f'<{route}>; rel="xet-auth"'}
            self.send(302, b"", {**linked, "Location": f"{self.hub.store}/storage/{oid}"})
        else:
            headers = {"ETag": f'"{_git_oid(content)}"', "X-Repo-Commit": sha, "Content-Type": "text/plain"}
            self.send(200, content, headers)

    def whoami(self) -> None:
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        self.send(200, {"type": "user", "name": self.user})


ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", r"/api/whoami-v2", Handler.whoami),
    ("POST", r"/api/repos/create", Handler.create_repo),
    ("POST", r"/api/validate-yaml", Handler.validate_yaml),
    ("POST", r"/api/models/([^/]+/[^/]+)/branch/(.+)", Handler.create_branch),
    ("POST", r"/api/models/([^/]+/[^/]+)/preupload/(.+)", Handler.preupload),
    ("POST", r"/api/models/([^/]+/[^/]+)/commit/(.+)", Handler.commit),
    ("GET", r"/api/models/([^/]+/[^/]+)/revision/(.+)", Handler.info),
    ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)/?", Handler.tree),
    ("GET", r"/api/models/([^/]+/[^/]+)", Handler.info),
    ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("GET", r"/api/models/([^/]+/[^/]+)/xet-(read|write)-token/(.+)", Handler.xet_token),
    ("POST", r"/v1/telemetry", Handler.xet_telemetry),
    ("GET", r"/v1/chunks/default/([0-9a-f]{64})", Handler.xet_known_chunk),
    ("POST", r"/v1/xorbs/default/([0-9a-f]{64})", Handler.xet_xorb_put),
    ("GET", r"/xorbs/([0-9a-f]{64})", Handler.xet_xorb_get),
    ("POST", r"/v1/shards", Handler.xet_shard),
    ("GET", r"/v1/reconstructions/([0-9a-f]{64})", Handler.xet_reconstruction),
    ("PUT", r"/storage/([0-9a-f]{64})", Handler.storage_put),
    ("GET HEAD", r"/storage/([0-9a-f]{64})", Handler.storage_get),
    ("GET HEAD", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", Handler.resolve_file),
]


@contextmanager
def serving(users: dict[str, str]) -> Iterator[Hub]:
    """A hub that answers while the ``with`` lasts; ``users`` says whose each token is."""
    hub = Hub(users=users)
    handler = type("Bound", (Handler,), {"hub": hub})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    hub.endpoint, hub.store = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()


def connect(hub: Hub, monkeypatch: pytest.MonkeyPatch, home: Path, *, speaks_xet: bool) -> None:
    """Set the hub's client up for this hub, with nobody logged in and caches in ``home``."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _xet

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", not speaks_xet)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    for name, value in xet_environment(home).items():
        monkeypatch.setenv(name, value)
    # A session reads its variables once.
    monkeypatch.setattr(_xet, "_GLOBAL_XET_HOLDER", _xet.XetSessionHolder())


def xet_environment(home: Path) -> dict[str, str]:
    """What `hf_xet` reads from the environment: its cache, no compression, no second try."""
    return {
        "HF_XET_CACHE": str(home / "xet"),
        "HF_XET_DATA_XORB_COMPRESSION_POLICY": "none",
        "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "1",
    }


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
