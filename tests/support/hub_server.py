"""A hub in a thread: the few addresses of its protocol that fetching a model needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "right"


class Handler(BaseHTTPRequestHandler):
    """Serves `server.folder` as the repository "someone/tiny"; "someone/gated" needs the token."""

    server: Any
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        """What a file is."""
        self._answer(body=False)

    def do_GET(self) -> None:
        """The list of files, or one."""
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = unquote(self.path.split("?")[0]).strip("/")
        api = path.startswith("api/models/")
        owner, name, *rest = path.removeprefix("api/models/").split("/")
        repo = f"{owner}/{name}"
        if repo == "someone/gated" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(403, "GatedRepo")
        if repo not in ("someone/tiny", "someone/gated"):
            return self._refuse(401, "RepoNotFound")
        if (rest[1] if len(rest) > 1 else "main") not in ("main", "v1", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        if api:
            files = (p.relative_to(self.server.folder) for p in self.server.folder.rglob("*"))
            listed = [{"rfilename": str(file)} for file in files]
            info = {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": listed}
            return self._send(json.dumps(info).encode(), body=body, kind="application/json")
        file = self.server.folder / "/".join(rest[2:])
        if not file.is_file():
            return self._refuse(404, "EntryNotFound")
        if body:
            self.server.served.append("/".join(rest[2:]))
        return self._send(file.read_bytes(), body=body, kind="application/octet-stream")

    def _send(self, data: bytes, *, body: bool, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@contextmanager
def serving(folder: Path) -> Iterator[Any]:
    """The server; `address` is its own, `served` the files it gave, in their order."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.folder, server.served = folder, []
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
