# SPDX-License-Identifier: Apache-2.0
"""A model hub for tests: the addresses, headers and habits of Hugging Face and ModelScope on 127.0.0.1, and their faults.

Large files are redirected to a second origin, as both hubs do; it fails a request that brings a token along.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import json
import threading
import urllib.parse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclasses.dataclass
class Repository:
    """What a hub holds under one name. Files of `large_bytes` and more are in LFS."""

    files: dict[str, bytes]
    commit: str = COMMIT
    card: dict = dataclasses.field(default_factory=lambda: {"license": "apache-2.0"})
    token: str = ""  # who may read it; empty: everyone
    large_bytes: int = 100_000
    lists_digests: bool = True

    def is_large(self, path: str) -> bool:
        return len(self.files[path]) >= self.large_bytes


@dataclasses.dataclass
class Faults:
    """What goes wrong, by path of a file. Lists lose an entry each time it happened."""

    cut_after: dict[str, list[int]] = dataclasses.field(default_factory=dict)  # bytes sent, then the connection breaks
    pause_after: dict[str, int] = dataclasses.field(default_factory=dict)  # bytes sent, then silence until `go_on`
    instead: dict[str, bytes] = dataclasses.field(default_factory=dict)  # another content than the list promised
    ignores_range: set[str] = dataclasses.field(default_factory=set)
    statuses: list[tuple[int, dict[str, str]]] = dataclasses.field(default_factory=list)  # for the next requests of the API
    go_on: threading.Event = dataclasses.field(default_factory=threading.Event)


@dataclasses.dataclass
class Seen:
    origin: str  # "hub" or "storage"
    method: str
    path: str
    headers: dict[str, str]


class Hub:
    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.faults = Faults()
        self.seen: list[Seen] = []
        self._lock = threading.Lock()
        self._servers = []
        self.url = self._start("hub")
        # Another origin: another name for the same machine, and another port.
        self.storage_url = self._start("storage").replace("127.0.0.1", "localhost")

    def _start(self, origin: str) -> str:
        hub = self

        class Handler(_Handler):
            def __init__(self, *arguments):
                self.hub, self.origin = hub, origin
                super().__init__(*arguments)

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        self._servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    def close(self) -> None:
        self.faults.go_on.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def note(self, seen: Seen) -> None:
        with self._lock:
            self.seen.append(seen)

    def take(self, entries: list):
        """The next entry of a list of faults; None where there is none."""
        with self._lock:
            return entries.pop(0) if entries else None

    def requests(self, text: str, origin: str | None = None) -> list[Seen]:
        with self._lock:
            return [s for s in self.seen if text in urllib.parse.unquote(s.path) and origin in (None, s.origin)]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        self.hub.note(Seen(self.origin, self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        url = urllib.parse.urlsplit(self.path)
        parts = [urllib.parse.unquote(part) for part in url.path.split("/")[1:]]
        query = dict(urllib.parse.parse_qsl(url.query))
        if self.origin == "storage":
            self._storage("/".join(parts[:2]), "/".join(parts[2:]), body)
            return
        if fault := self.hub.take(self.hub.faults.statuses):
            self._send(fault[0], fault[1], b"")
        elif parts[:2] == ["api", "models"] and parts[4:5] == ["revision"]:
            self._list_hugging_face("/".join(parts[2:4]), parts[5])
        elif parts[:2] == ["api", "models"] and parts[4:5] == ["tree"]:
            self._tree_hugging_face("/".join(parts[2:4]), parts[5])
        elif parts[:3] == ["api", "v1", "models"] and parts[5:] == ["repo", "files"]:
            self._list_model_scope("/".join(parts[3:5]), query["Revision"])
        elif parts[:3] == ["api", "v1", "models"] and parts[5:] == ["repo"]:
            self._resolve("/".join(parts[3:5]), query["Revision"], query["FilePath"], body)
        elif parts[2:3] == ["resolve"]:
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]), body)
        else:
            self._send(404, {"X-Error-Code": "EntryNotFound"}, b"")

    def _repository(self, name: str, revision: str) -> Repository | None:
        """None: refused, and the answer is sent."""
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._send(404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b"{}")
        elif repository.token and self.headers.get("Authorization") != "Bearer " + repository.token:
            status = 403 if self.headers.get("Authorization") else 401
            self._send(status, {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to model {name} is restricted."}, b"{}")
        elif revision not in ("main", "master", repository.commit):
            self._send(404, {"X-Error-Code": "RevisionNotFound"}, b"{}")
        else:
            return repository
        return None

    def _list_hugging_face(self, name: str, revision: str) -> None:
        repository = self._repository(name, revision)
        if repository is None:
            return
        siblings = []
        for path, data in repository.files.items():
            entry = {"rfilename": path}
            if repository.lists_digests:
                entry |= {"size": len(data), "blobId": git_sha1(data)}
                if repository.is_large(path):
                    entry["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 134}
            siblings.append(entry)
        self._send_json({"id": name, "sha": repository.commit, "gated": "manual" if repository.token else False,
                         "cardData": repository.card, "siblings": siblings})

    def _tree_hugging_face(self, name: str, revision: str) -> None:
        """Another list of the same, which the hub's own library asks for."""
        repository = self._repository(name, revision)
        if repository is None:
            return
        entries = []
        for path, data in repository.files.items():
            entries.append({"type": "file", "path": path, "size": len(data), "oid": git_sha1(data)})
            if repository.is_large(path):
                entries[-1]["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 134}
        self._send_json(entries)

    def _list_model_scope(self, name: str, revision: str) -> None:
        repository = self._repository(name, revision)
        if repository is None:
            return
        files = [{"Path": "folder", "Name": "folder", "Type": "tree", "Size": 0}]
        for path, data in repository.files.items():
            files.append({"Path": path, "Name": path.rsplit("/")[-1], "Type": "blob", "Size": len(data), "Sha256": sha256(data),
                          "IsLFS": repository.is_large(path), "Revision": repository.commit})
        self._send_json({"Code": 200, "Success": True, "Message": "success", "Data": {"Files": files}})

    def _resolve(self, name: str, revision: str, path: str, body: bool) -> None:
        repository = self._repository(name, revision)
        if repository is None:
            return
        if path not in repository.files:
            self._send(404, {"X-Error-Code": "EntryNotFound"}, b"")
            return
        data = repository.files[path]
        headers = {"X-Repo-Commit": repository.commit}
        if repository.is_large(path):
            headers |= {"X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data)),
                        "Location": f"{self.hub.storage_url}/{name}/{urllib.parse.quote(path)}?signature=x"}
            self._send(302, headers, b"elsewhere")
        else:
            self._send_file(path, data, headers | {"ETag": f'"{git_sha1(data)}"'}, body)

    def _storage(self, name: str, path: str, body: bool) -> None:
        if self.headers.get("Authorization") or self.headers.get("Cookie"):
            self._send(400, {}, b"a signed address takes no token")
            return
        self._send_file(path, self.hub.repositories[name].files[path], {}, body)

    def _send_file(self, path: str, data: bytes, headers: dict[str, str], body: bool) -> None:
        faults = self.hub.faults
        data = faults.instead.get(path, data)
        begin, status = 0, 200
        wanted = self.headers.get("Range")
        if wanted and path not in faults.ignores_range:
            begin, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
            if begin >= len(data):
                self._send(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
                return
            headers = headers | {"Content-Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"}
        self._head(status, headers | {"Content-Length": str(len(data) - begin)})
        if not body:
            return
        cut = self.hub.take(faults.cut_after.get(path, []))
        if cut is not None:
            self.wfile.write(data[begin:begin + cut])
            self.close_connection = True
            return
        if path in faults.pause_after:
            middle = begin + faults.pause_after[path]
            self.wfile.write(data[begin:middle])
            self.wfile.flush()
            faults.go_on.wait(60)
            begin = middle
        self.wfile.write(data[begin:])

    def _send_json(self, document: dict | list) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(document).encode())

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self._head(status, headers | {"Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
