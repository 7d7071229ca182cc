"""A server for tests of downloads."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from quickstudy.datasets.files import Remote

CONTENT = np.random.RandomState(0).bytes(600_000)


class Server(ThreadingHTTPServer):
    """Serves `files` by name, as told."""

    files: dict[str, bytes]
    resumes = True  # whether it understands Range
    cuts: list[int]  # after how many bytes to break off, one per request
    status = 200
    starts: list[int]  # the first byte of every request

    def remote(self, content: bytes = CONTENT) -> Remote:
        return self.add("data.zip", content, CONTENT)

    def add(self, name: str, content: bytes, served: bytes | None = None) -> Remote:
        """The address of `content`, under which `served` comes if that is given."""
        self.files[name] = content if served is None else served
        address = f"http://127.0.0.1:{self.server_port}/{name}"
        return Remote(address, hashlib.sha256(content).hexdigest())


class Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self):
        start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.server.starts.append(start)
        if self.server.status != 200:
            return self.send_error(self.server.status)
        content = self.server.files[self.path.removeprefix("/")]
        if start >= len(content):
            return self.send_error(416)
        resumes = self.server.resumes and start > 0
        body = content[start:] if resumes else content
        self.send_response(206 if resumes else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cuts.pop(0)] if self.server.cuts else body)

    def log_message(self, format: str, *args: object):
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.files, server.cuts, server.starts = {}, [], []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
