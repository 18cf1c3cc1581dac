"""A web server of our own that takes notifications and pings, and can be slow, broken or absent."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Webhook:
    """What arrived. status and delay_s: how the next requests are answered."""

    port: int = 0
    status: int = 200
    delay_s: float = 0.0
    posts: list[dict[str, Any]] = field(default_factory=list)
    pings: list[tuple[float, str]] = field(default_factory=list)

    def url(self, secret: str) -> str:
        """What apprise calls this server: one try, short time limits."""
        return f"json://127.0.0.1:{self.port}/{secret}?cto=2&rto=5"

    def ping_url(self, secret: str) -> str:
        return f"http://127.0.0.1:{self.port}/{secret}"


@contextmanager
def webhook() -> Iterator[Webhook]:
    state = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            time.sleep(state.delay_s)
            if state.status == 200:
                state.posts.append({**body, "path": self.path})
            self._answer()

        def do_GET(self) -> None:
            state.pings.append((time.monotonic(), self.path))
            self._answer()

        def _answer(self) -> None:
            self.send_response(state.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
