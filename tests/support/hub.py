"""A loopback stand-in for the Hugging Face Hub, so that tests can run the real clients without a network.

    with Hub(models={"EleutherAI/gpt-neo-125m": folder}, gated={"some/gated-id"}) as hub:
        subprocess.run([...], env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(fresh_folder)})
    assert ("GET", "/api/models/EleutherAI/gpt-neo-125m") in hub.requests

The clients read HF_ENDPOINT and HF_HOME when they are imported, so set both before that, most simply in a subprocess.
Faults spoil answers, each those to the next so many requests whose path matches, and count what they spoilt:

    hub.faults = [Fault("model.safetensors", "cut"), Fault("001_00000.parquet", 429, times=2, retry_after="1")]
    ...
    assert all(fault.left == 0 for fault in hub.faults)

Each repository is a plain folder, read once when the Hub is made: later changes to it make no new commit. A gated one
answers as it does to a reader without access: it can be described and listed, but its files cannot be read. An id
that is named in `gated` alone is an empty repository, as a model and as a dataset.

It does not know tokens, uploads, Spaces, search, tags, branches other than main, history, the dataset viewer, Xet, the
redirects to storage (files are served in place), pages of long listings, or what `expand` adds. What it does not know
is a 404 without X-Error-Code, or a 501 for a method other than GET and HEAD.

Commands that have started before a Hub does are given an address that is kept for it, and that refuses until then:

    with kept_port() as port, Hub(models={…}, port=port) as hub: ...
"""

import hashlib
import json
import re
import select
import socket
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from threading import Event, Lock, Thread
from typing import Any, Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = {".bin", ".parquet", ".pt", ".safetensors"}
API_ROUTE = re.compile(r"/api/(models|datasets)/(.+?)(?:/(revision|tree|auth-check)(?:/([^/]+)(?:/(.+))?)?)?")
FILE_ROUTE = re.compile(r"/(?:(datasets)/)?(.+?)/resolve/([^/]+)/(.+)")
RANGE = re.compile(r"bytes=(?:(\d+)-(\d*)|-(\d+))")


class RefusedError(Exception):
    """An answer that is an error; the clients tell errors apart by the X-Error-Code."""

    def __init__(self, status: int, code: str, message: str, commit: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Code": code, "X-Error-Message": message, "X-Repo-Commit": commit}


@dataclass
class Fault:
    """What goes wrong with the next `times` requests of this method whose path contains `path`, once `after` passed.

    `kind` is a status to answer with, or `cut`: the connection ends in mid-body; `stall`: nothing follows half the
    body; `silent`: no answer at all; `closed`: the connection ends without an answer; `short`: half the body, as if
    that were all.
    """

    path: str
    kind: int | Literal["cut", "stall", "silent", "closed", "short"]
    times: int = 1
    after: int = 0
    method: str = "GET"
    retry_after: str = ""
    code: str = ""  # X-Error-Code
    injected: int = 0

    @property
    def left(self) -> int:
        return self.times - self.injected

    def strikes(self, method: str, path: str) -> bool:
        """Whether this request is one of those that it spoils; counts it."""
        if self.method != method or self.path not in path or not self.left:
            return False
        if self.after:
            self.after -= 1
            return False
        self.injected += 1
        return True


class File:
    """One file of a repository, with the names the Hub has for its content."""

    def __init__(self, source: Path) -> None:
        content = source.read_bytes()
        self.source, self.size = source, len(content)
        self.lfs: dict[str, Any] | None = None
        if source.suffix in LFS_SUFFIXES:  # git then holds a pointer in place of the content
            sha256 = hashlib.sha256(content).hexdigest()
            content = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {self.size}\n".encode()
            self.lfs = {"oid": sha256, "sha256": sha256, "size": self.size, "pointerSize": len(content)}
        self.blob_id = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        self.etag: str = self.lfs["oid"] if self.lfs else self.blob_id


class Repository:
    """One repository at its only commit."""

    def __init__(self, repo_id: str, folder: Path | None, gated: bool) -> None:
        self.files: dict[str, File] = {}
        if folder is not None:
            if not folder.is_dir():
                raise NotADirectoryError(folder)
            paths = sorted(path for path in folder.rglob("*") if path.is_file())
            self.files = {path.relative_to(folder).as_posix(): File(path) for path in paths}
        self.repo_id, self.gated = repo_id, gated
        names = "".join(f"\n{file.etag} {path}" for path, file in self.files.items())
        self.commit = hashlib.sha1((repo_id + names).encode()).hexdigest()

    def info(self, with_blobs: bool) -> dict[str, Any]:
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in self.files]
        for sibling, file in zip(siblings, self.files.values(), strict=True) if with_blobs else ():
            sibling |= {"size": file.size, "blobId": file.blob_id, "lfs": file.lfs}
        date = "2020-01-01T00:00:00.000Z"
        about = {"id": self.repo_id, "sha": self.commit, "createdAt": date, "lastModified": date, "tags": []}
        return about | {"private": False, "gated": "manual" if self.gated else False, "siblings": siblings}

    def tree(self, top: str, recursive: bool) -> list[dict[str, Any]]:
        """The folders and files in a folder; nothing where there is no such folder."""
        entries: dict[PurePosixPath, dict[str, Any]] = {}
        for path, file in self.files.items():
            for folder in PurePosixPath(path).parents:
                oid = hashlib.sha1(f"{self.commit} {folder}".encode()).hexdigest()
                entries[folder] = {"type": "directory", "path": str(folder), "size": 0, "oid": oid}
            about = {"type": "file", "path": path, "size": file.size, "oid": file.blob_id}
            entries[PurePosixPath(path)] = about | ({"lfs": file.lfs} if file.lfs else {})
        depth = None if recursive else 1
        return [entry for path, entry in sorted(entries.items()) if PurePosixPath(top) in path.parents[:depth]]

    def require_access(self) -> None:
        if self.gated:
            raise RefusedError(403, "GatedRepo", "Access to this repository is restricted")


class Server(ThreadingHTTPServer):
    allow_reuse_port = True  # beside `kept_port`
    daemon_threads = False  # closing it then waits for the answers under way
    request_queue_size = 64


@contextmanager
def kept_port() -> Iterator[int]:
    """A port of loopback that the system gives to nobody else, and at which connections are refused at once."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


class Hub:
    """Entering it starts the server; leaving it waits until nothing of the server is left running.

    It can be entered again.
    """

    url: str  # what HF_ENDPOINT has to be; set on entering

    def __init__(
        self,
        models: Mapping[str, Path] | None = None,
        datasets: Mapping[str, Path] | None = None,
        gated: Collection[str] = (),
        port: int = 0,
    ) -> None:
        self.port = port
        self.requests: list[tuple[str, str]] = []  # (method, path without its query), in order of arrival
        self.faults: list[Fault] = []
        self.closing = Event()
        self._counting = Lock()
        self._repositories: dict[tuple[str, str], Repository] = {}
        for kind, folders in (("models", models or {}), ("datasets", datasets or {})):
            for repo_id in {*folders, *gated}:
                self._repositories[kind, repo_id] = Repository(repo_id, folders.get(repo_id), repo_id in gated)

    def __enter__(self) -> Self:
        self.closing.clear()
        self._server = Server(("127.0.0.1", self.port), partial(Handler, self))
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def commit(self, repo_id: str) -> str:
        """The commit of a repository; of the model where a model and a dataset share the id."""
        return (self._repositories.get(("models", repo_id)) or self._repositories["datasets", repo_id]).commit

    def fault(self, method: str, path: str) -> Fault | None:
        with self._counting:
            return next((fault for fault in self.faults if fault.strikes(method, path)), None)

    def find(self, kind: str, repo_id: str, revision: str) -> Repository:
        repository = self._repositories.get((kind, repo_id))
        if repository is None:
            raise RefusedError(401, "RepoNotFound", "There is no such repository")
        if revision not in ("main", repository.commit):
            raise RefusedError(404, "RevisionNotFound", "The repository has no such revision")
        return repository


class Handler(BaseHTTPRequestHandler):
    """One connection, closed after its one answer so that no idle one holds the server back."""

    protocol_version = "HTTP/1.1"
    timeout = 5  # seconds to wait for a client that stays silent

    def __init__(self, hub: Hub, *args: Any) -> None:
        self.hub = hub
        super().__init__(*args)

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        self.hub.requests.append((self.command, unquote(address.path)))
        self.fault = self.hub.fault(self.command, unquote(address.path))
        if self.fault and self.fault.kind in ("silent", "closed"):
            self.close_connection = True
            return self.wait_for_the_client() if self.fault.kind == "silent" else None
        try:
            if self.fault and isinstance(self.fault.kind, int):
                raise RefusedError(self.fault.kind, self.fault.code, "A fault of the test")
            if match := API_ROUTE.fullmatch(address.path):
                self.describe(*(unquote(part or "") for part in match.groups()))
            elif match := FILE_ROUTE.fullmatch(address.path):
                self.send_file(*(unquote(part or "") for part in match.groups()))
            else:
                raise RefusedError(404, "", "Not found")
        except RefusedError as error:
            if self.fault:
                error.headers["Retry-After"] = self.fault.retry_after
            self.answer(error.status, error.headers, json.dumps({"error": str(error)}).encode())

    def do_HEAD(self) -> None:
        self.do_GET()

    def describe(self, kind: str, repo_id: str, action: str, revision: str, path: str) -> None:
        repository = self.hub.find(kind, repo_id, revision or "main")
        options = {name for name, values in parse_qs(urlsplit(self.path).query).items() if values == ["true"]}
        found: Any = {}
        if action == "auth-check":
            repository.require_access()
        elif action != "tree":
            found = repository.info("blobs" in options)
        elif not (found := repository.tree(path, "recursive" in options)) and path:
            raise RefusedError(404, "EntryNotFound", "The repository has no such folder", repository.commit)
        headers = {"X-Repo-Commit": repository.commit, "Content-Type": "application/json"}
        self.answer(200, headers, json.dumps(found).encode())

    def send_file(self, kind: str, repo_id: str, revision: str, path: str) -> None:
        repository = self.hub.find(kind or "models", repo_id, revision)
        repository.require_access()
        if path not in repository.files:
            raise RefusedError(404, "EntryNotFound", "The repository has no such file", repository.commit)
        file = repository.files[path]
        status, start, stop = 200, 0, file.size
        headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        if self.command == "GET" and (wanted := RANGE.fullmatch(self.headers.get("Range", ""))):
            first, last, suffix = wanted.groups()
            start = int(first) if first else max(file.size - int(suffix), 0)
            stop = min(int(last) + 1, file.size) if last else file.size
            if start >= stop:
                raise RefusedError(416, "", "The file has no such range", repository.commit)
            status, headers["Content-Range"] = 206, f"bytes {start}-{stop - 1}/{file.size}"
        self.answer(status, headers, file.source.read_bytes()[start:stop])

    def wait_for_the_client(self) -> None:
        """Says nothing more until the client has gone."""
        while not self.hub.closing.wait(0.02) and not select.select([self.connection], [], [], 0)[0]:
            pass

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        kind = self.fault.kind if self.fault else None
        if kind == "short":
            body = body[: len(body) // 2]
        try:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body)), "Connection": "close"}.items():
                if value:
                    self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: len(body) // 2] if kind in ("cut", "stall") else body)
            if kind == "stall":
                self.wait_for_the_client()
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the client has read as much as it wanted

    def log_message(self, *_: object) -> None:
        """Print nothing: `Hub.requests` tells what was asked."""
