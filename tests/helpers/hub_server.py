"""A server on this machine that speaks the Hugging Face hub's protocol, with faults to order."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin")  # stored outside git, and so listed by their SHA-256


@dataclass
class Hub:
    """A repository `owner/name`: files of each commit, commits of each branch; what was asked of it.

    flip: a name whose 10th byte arrives with another bit. cut: a name -> how many times its transfer breaks
    off in the middle. slow: a name whose second half does not come. elsewhere: another server's URL, to which
    large files are redirected.
    """

    repo: str
    commits: dict[str, dict[str, bytes]]
    branches: dict[str, str]
    flip: str = ""
    cut: dict[str, int] = field(default_factory=dict)
    slow: str = ""
    elsewhere: str = ""
    url: str = ""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, authorization


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serves the hub on a free port of the loopback interface, at hub.url."""

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def blob_id(data: bytes) -> str:
    """git's SHA-1 of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.asked.append((self.command, path, self.headers["Authorization"]))
        if found := re.fullmatch(f"/api/models/{hub.repo}/revision/(.+)", path):
            commit = hub.branches.get(found[1], found[1])
            if commit not in hub.commits:
                return self.refuse(404, "RevisionNotFound")
            return self.json({"id": hub.repo, "sha": commit, "siblings": []})
        if found := re.fullmatch(f"/api/models/{hub.repo}/tree/(.+)", path):
            return self.json([self.entry(*item) for item in hub.commits[found[1]].items()])
        if found := re.fullmatch(f"/{hub.repo}/resolve/([^/]+)/(.+)", path):
            return self.file(found[1], found[2])
        self.refuse(401, "RepoNotFound")  # as the hub answers for a private one, too

    def entry(self, name: str, data: bytes) -> dict:
        entry = {"type": "file", "path": name, "size": len(data), "oid": blob_id(data)}
        if name.endswith(LARGE):
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return entry

    def file(self, commit: str, name: str) -> None:
        hub = self.hub
        data = hub.commits[commit].get(name)
        if data is None:
            return self.refuse(404, "EntryNotFound")
        entry = self.entry(name, data)
        etag = entry.get("lfs", entry)["oid"]
        if hub.elsewhere and "lfs" in entry:
            linked = {"X_Repo_Commit": commit, "X_Linked_Etag": f'"{etag}"', "X_Linked_Size": len(data)}
            return self.answer(302, b"", Location=f"{hub.elsewhere}{self.path}", **linked)
        if hub.flip == name:
            data = data[:10] + bytes([data[10] ^ 1]) + data[11:]
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        first = int(wanted[1]) if wanted else 0
        headers = {"ETag": f'"{etag}"', "X_Repo_Commit": commit}
        if wanted:
            headers["Content_Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        self.answer(206 if wanted else 200, data[first:], name, **headers)

    def answer(self, status: int, data: bytes, name: str = "", **headers) -> None:
        hub = self.hub
        self.send_response(status)
        for key, value in {"Content-Length": len(data), **headers}.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        half = len(data) // 2
        if hub.cut.get(name):
            hub.cut[name] -= 1
            self.wfile.write(data[:half])
            self.close_connection = True
        elif name and name == hub.slow:
            self.wfile.write(data[:half])
            self.wfile.flush()
            time.sleep(60)
        else:
            self.wfile.write(data)

    def json(self, value) -> None:
        self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, b"", X_Error_Code=code, X_Error_Message=code)
