"""A server on this machine that answers as the Hugging Face hub does, for one repository of data.

Of the hub's interface it knows what `datasets` asks for: what the repository is, its folders, and
its files with their checksum and revision.
"""

import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

REVISION = hashlib.sha1(b"the only revision").hexdigest()


class Quiet(http.server.BaseHTTPRequestHandler):
    """Answers HEAD as GET, and logs nothing."""

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        raise NotImplementedError


@contextlib.contextmanager
def serving(handler: type[Quiet]) -> Iterator[str]:
    """A server of its own, at the address that is yielded."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def hub(name: str, repository: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve the folder as the data set `name`; yields the address and the paths asked for."""
    asked: list[str] = []

    class Handler(Quiet):
        def do_GET(self) -> None:
            path = unquote(urlparse(self.path).path)
            asked.append(path)
            api, files = f"/api/datasets/{name}", f"/datasets/{name}/resolve/"
            if path in (api, f"{api}/revision/{REVISION}", f"{api}/revision/main"):
                return self.reply(200, json.dumps(about(name, repository)).encode())
            if path.startswith(f"{api}/tree/"):
                folder = repository / "/".join(path.removeprefix(f"{api}/tree/").split("/")[1:])
                if folder.is_dir():
                    return self.reply(200, json.dumps(listing(folder, repository)).encode())
            if path.startswith(files):
                file = repository / "/".join(path.removeprefix(files).split("/")[1:])
                if file.is_file():
                    return self.reply(200, file.read_bytes())
            return self.reply(404, b"", {"X-Error-Code": "EntryNotFound"})

        def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            etag = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": REVISION}
            for key, value in (etag | {"Content-Length": str(len(body))} | (headers or {})).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    with serving(Handler) as address:
        yield address, asked


def about(name: str, repository: Path) -> dict[str, object]:
    """What the hub says of a repository."""
    files = [p.relative_to(repository).as_posix() for p in repository.rglob("*") if p.is_file()]
    siblings = [{"rfilename": file} for file in sorted(files)]
    return {"id": name, "sha": REVISION, "siblings": siblings, "private": False, "tags": []}


def listing(folder: Path, repository: Path) -> list[dict[str, object]]:
    """What the hub says of a folder."""
    return [
        {
            "type": "directory" if path.is_dir() else "file",
            "path": path.relative_to(repository).as_posix(),
            "oid": hashlib.sha1(str(path).encode()).hexdigest(),
            "size": 0 if path.is_dir() else path.stat().st_size,
        }
        for path in sorted(folder.iterdir())
    ]


@contextlib.contextmanager
def refusing_hub() -> Iterator[str]:
    """A hub that has no model: `owner/gated` is gated, `owner/old` has no such revision."""

    class Handler(Quiet):
        def do_GET(self) -> None:
            status, code = 404, "RepoNotFound"
            if "owner/gated" in self.path:
                status, code = 403, "GatedRepo"
            elif "owner/old" in self.path:
                code = "RevisionNotFound"
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with serving(Handler) as address:
        yield address
