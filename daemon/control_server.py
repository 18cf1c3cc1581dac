"""The control socket's listening side. Nothing here waits: a client that says nothing costs a descriptor, not the loop."""

import contextlib
import json
import os
import selectors
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.control import MAX_REQUEST_BYTES, PROTOCOL, line, short_name
from features.errors import CappuccinoError

PATIENCE_S = 2.0
MAX_CLIENTS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who asks, as the kernel says (SO_PEERCRED)."""

    pid: int
    uid: int


@dataclass(slots=True, kw_only=True)
class _Client:
    connection: socket.socket
    peer: Peer
    since_s: float
    heard: bytes = b""
    to_say: bytes = b""


class ControlServer:
    """Answers on a Unix socket, mode 0660, as part of somebody's selector loop."""

    def __init__(
        self, path: Path, *, selector: selectors.BaseSelector, answer: Callable[[dict[str, Any], Peer], dict[str, Any]],
        now_s: Callable[[], float],
    ) -> None:  # fmt: skip
        self._path, self._selector, self._answer, self._now_s = path, selector, answer, now_s
        self._clients: list[_Client] = []
        self._server = _listen(path)
        selector.register(self._server, selectors.EVENT_READ, self._accept)

    def close(self) -> None:
        for client in list(self._clients):
            self._drop(client)
        self._selector.unregister(self._server)
        self._server.close()
        self._path.unlink(missing_ok=True)

    def expire(self) -> None:
        """Drop clients that have been connected for too long."""
        for client in list(self._clients):
            if self._now_s() >= client.since_s + PATIENCE_S:
                self._drop(client)

    def _accept(self) -> None:
        try:
            connection, _ = self._server.accept()
        except OSError:  # it went away again, or no descriptor is left
            return
        if len(self._clients) >= MAX_CLIENTS:
            connection.close()
            return
        connection.setblocking(False)
        client = _Client(connection=connection, peer=_peer(connection), since_s=self._now_s())
        self._clients.append(client)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._hear(client))

    def _hear(self, client: _Client) -> None:
        try:
            part = client.connection.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        client.heard += part
        if not part or len(client.heard) > MAX_REQUEST_BYTES:
            self._drop(client)
        elif b"\n" in client.heard:
            self._selector.unregister(client.connection)
            self._say(client, self._reply(client))

    def _reply(self, client: _Client) -> dict[str, Any]:
        if client.peer.uid not in (0, os.geteuid()):  # refused only now, or it would be cut off before it hears why
            return {"error": f"user {client.peer.uid} may not control the daemon",
                    "hint": "ask as the daemon's own user or as root"}  # fmt: skip
        try:
            request = json.loads(client.heard.split(b"\n", 1)[0])
            return _refusal(request) or self._answer(request, client.peer)
        except CappuccinoError as error:
            return {"error": error.args[0], "hint": error.hint}
        except (ValueError, RecursionError) as error:
            return {"error": f"the request cannot be read: {error}"}
        except OSError as error:  # a disk or a file that is in trouble is no reason to end the children
            return {"error": f"{request['verb']} failed: {error}", "hint": "cappuccinoctl doctor looks at the disks"}

    def _say(self, client: _Client, reply: dict[str, Any]) -> None:
        client.to_say = line({**reply, "protocol": PROTOCOL})
        if self._push(client):
            self._selector.register(client.connection, selectors.EVENT_WRITE, lambda: self._push(client))

    def _push(self, client: _Client) -> bool:
        """Send what the socket takes; True while something is left."""
        with contextlib.suppress(BlockingIOError):
            try:
                client.to_say = client.to_say[client.connection.send(client.to_say) :]
            except BlockingIOError:
                raise
            except OSError:
                client.to_say = b""
        if not client.to_say:
            self._drop(client)
        return bool(client.to_say)

    def _drop(self, client: _Client) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(client.connection)
        client.connection.close()
        with contextlib.suppress(ValueError):
            self._clients.remove(client)


def _refusal(request: Any) -> dict[str, Any] | None:
    """What to say to a request of another form than ours."""
    if not isinstance(request, dict) or not isinstance(request.get("verb"), str):
        return {"error": "a request is a JSON object with a verb"}
    if request.get("protocol") != PROTOCOL:
        return {"error": f"this daemon speaks protocol {PROTOCOL}, the request {request.get('protocol')!r}",
                "hint": "daemon and cappuccinoctl are of different versions: restart the daemon"}  # fmt: skip
    return None


def _listen(path: Path) -> socket.socket:
    """The supervisor's lock guarantees that a leftover file is stale."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    old = os.umask(0o117)
    try:
        with short_name(path) as name:
            server.bind(name)
    finally:
        os.umask(old)
    server.listen(MAX_CLIENTS)
    return server


def _peer(connection: socket.socket) -> Peer:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", credentials)
    return Peer(pid=pid, uid=uid)
