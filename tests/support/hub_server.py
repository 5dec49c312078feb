"""A small Hugging Face Hub on the loopback address, which keeps one repository in memory."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """The files of the repository by name, and what was asked for."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        path = self.path.partition("?")[0]
        if "/resolve/" in path:
            return self.answer(self.server.files.get(path.split("/", 5)[5]))
        names = [{"rfilename": name} for name in self.server.files]
        model = {"id": "me/mine", "sha": COMMIT, "siblings": names, "private": False}
        if "/tree/" in path:
            model = [
                {"type": "file", "path": name, "size": len(data), "oid": digest(data)}
                for name, data in self.server.files.items()
            ]
        return self.answer(json.dumps(model).encode())

    def do_POST(self) -> None:
        self.server.asked.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        result: dict[str, object] = {"url": f"{self.server.address}/me/mine", "id": "me/mine"}
        if "/preupload/" in self.path:
            files = [entry["path"] for entry in json.loads(body)["files"]]
            mode = {"uploadMode": "regular", "shouldIgnore": False}
            result = {"files": [{"path": name, **mode} for name in files]}
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.files[line["value"]["path"]] = content
            result = {"commitUrl": f"{self.server.address}/me/mine", "commitOid": COMMIT}
        self.answer(json.dumps(result).encode())

    def answer(self, data: bytes | None) -> None:
        self.send_response(404 if data is None else 200)
        self.send_header("Content-Length", str(len(data or b"")))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{digest(data or b"")}"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data or b"")


def digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@contextlib.contextmanager
def serve(files: dict[str, bytes]) -> Iterator[Hub]:
    with Hub(files) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            hub.shutdown()
