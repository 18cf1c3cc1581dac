"""A chat server of our own in OpenAI's form, as Ollama and others speak it, that answers as badly as it is told to."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DRIP_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """body: sent as it is. endless: the body again and again, without an end. hang: accepted, never answered.

    drip: one byte at a time. cut: the connection ends within the announced length. raw: sent instead of HTTP.
    """

    body: bytes = b""
    status: int = 200
    location: str = ""
    endless: bool = False
    hang: bool = False
    drip: bool = False
    cut: bool = False
    raw: bytes = b""


def says(content: str, *, model: str = "stand-in:1b") -> Reply:
    """What the model said, in the server's envelope."""
    message = {"role": "assistant", "content": content}
    return Reply(body=json.dumps({"model": model, "choices": [{"index": 0, "message": message}]}).encode())


def proposes(*params: Mapping[str, Any], **fields: Any) -> Reply:
    common = {"hypothesis": "slower is steadier", "predicted_delta": 0.3, "confidence": 0.6, **fields}
    return says(json.dumps({"proposals": [{"params": p, **common} for p in params]}))


@dataclass
class LanguageModel:
    """replies: to the next questions, the last one for ever. questions: bodies; keys: Authorization headers that came."""

    replies: Sequence[Reply]
    port: int = 0
    questions: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


@contextmanager
def language_model(*replies: Reply) -> Iterator[LanguageModel]:
    state = LanguageModel(replies=replies)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            state.questions.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            state.keys.append(self.headers.get("Authorization"))
            state.paths.append(self.path)
            reply = state.replies[min(len(state.questions), len(state.replies)) - 1]
            self.close_connection = True
            if reply.hang:
                state.closing.wait(30)
            elif reply.raw:
                self.wfile.write(reply.raw)
            else:
                self._answer(reply)

        def _answer(self, reply: Reply) -> None:
            self.send_response(reply.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Connection", "close")
            if reply.location:
                self.send_header("Location", reply.location)
            if not reply.endless:
                self.send_header("Content-Length", str(len(reply.body) + 10 * reply.cut))
            self.end_headers()
            self._body(reply, self.wfile.write)

        def _body(self, reply: Reply, write: Callable[[bytes], Any]) -> None:
            while not state.closing.is_set():
                for part in [bytes([b]) for b in reply.body] if reply.drip else [reply.body]:
                    write(part)
                    if reply.drip and state.closing.wait(DRIP_S):
                        return
                if not reply.endless:
                    return

        def log_message(self, *_: object) -> None:
            pass

        def finish(self) -> None:
            try:
                super().finish()
            except (ConnectionError, ValueError):
                """The client had enough."""

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:
                """The client had enough."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
