"""A model hub on localhost with the few answers that a download needs."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0" * 39 + "1"


@contextmanager
def fake_hub(open_repos: dict[str, Path], gated: tuple[str, ...] = ()):
    """Serve folders by repository id; gated ids show their page and refuse their files. Yields the endpoint."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"repos": open_repos, "gated": gated}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repos: dict[str, Path]
    gated: tuple[str, ...]

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        repo = "/".join(parts[2:4] if api else parts[:2])
        if repo not in self.repos and repo not in self.gated:
            self._send(404, b"no such repository", body, {"X-Error-Code": "RepoNotFound"})
        elif api:
            self._send(200, json.dumps(self._page(repo, parts[4:])).encode(), body, {"Content-Type": "application/json"})
        elif repo in self.gated:
            self._send(403, b"gated", body, {"X-Error-Code": "GatedRepo"})
        else:
            self._file(self.repos[repo] / "/".join(parts[4:]), body)

    def _page(self, repo: str, rest: list[str]):
        folder = self.repos.get(repo)
        files = [] if folder is None else sorted(path for path in folder.rglob("*") if path.is_file())
        names = [str(path.relative_to(folder)) for path in files]
        if rest[:1] == ["tree"]:
            return [
                {"type": "file", "path": name, "size": path.stat().st_size, "oid": _etag(path)}
                for name, path in zip(names, files, strict=True)
            ]
        return {"id": repo, "sha": COMMIT, "gated": "auto" if repo in self.gated else False, "siblings": [{"rfilename": name} for name in names]}

    def _file(self, path: Path, body: bool) -> None:
        if not path.is_file():
            self._send(404, b"no such file", body, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        self._send(200, path.read_bytes(), body, {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": COMMIT})

    def _send(self, status: int, content: bytes, body: bool, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
