"""The control socket: one JSON line in, one JSON line out, for the owner and root only."""

import contextlib
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from features.errors import CappuccinoError

PROTOCOL = 1
MAX_REQUEST_BYTES = 65_536
TIMEOUT_S = 5.0
VERBS = ("status", "stop", "start", "restart", "retry", "stop-child", "pause", "resume")


class DaemonDown(CappuccinoError):
    """Nobody listens on the control socket."""

    exit_code = 4


class NotAnswering(CappuccinoError):
    """Somebody holds the control socket and says nothing."""

    exit_code = 3


def socket_path(state_dir: Path) -> Path:
    return state_dir / "run" / "control.sock"


def listen(path: Path) -> socket.socket:
    """A listening socket at `path`, mode 0660. The supervisor's lock guarantees that a leftover file is stale."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    old = os.umask(0o117)
    try:
        with _short(path) as name:
            server.bind(name)
    finally:
        os.umask(old)
    server.listen(16)
    return server


def serve_one(server: socket.socket, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Take one waiting connection, answer it and close it; a client that says nothing is dropped after 0.5 s."""
    try:
        connection, _ = server.accept()
    except BlockingIOError:
        return
    with connection, contextlib.suppress(OSError):
        connection.settimeout(0.5)
        if _peer_uid(connection) not in (0, os.geteuid()):
            connection.sendall(_line({"error": "this user may not control the daemon", "protocol": PROTOCOL}))
            return
        try:
            request = json.loads(_read_line(connection))
            reply = answer(request) if isinstance(request, dict) else {"error": "a request is a JSON object"}
        except (ValueError, KeyError, CappuccinoError) as error:
            reply = {"error": str(error)}
        connection.sendall(_line({**reply, "protocol": PROTOCOL}))


def ask(state_dir: Path, verb: str, **arguments: Any) -> dict[str, Any]:
    """Send one request to the running daemon; DaemonDown when there is none, CappuccinoError when it refuses."""
    path = socket_path(state_dir)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(TIMEOUT_S)
        try:
            with _short(path) as name:
                client.connect(name)
            client.sendall(_line({"verb": verb, "protocol": PROTOCOL, **arguments}))
            reply: dict[str, Any] = json.loads(_read_line(client))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise DaemonDown(f"no daemon answers at {path}", hint="start it with cappuccinoctl run") from error
        except (OSError, ValueError) as error:
            raise NotAnswering(f"the daemon at {path} does not answer: {error}") from error
    if "error" in reply:
        raise CappuccinoError(str(reply["error"]))
    return reply


def _peer_uid(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def _read_line(connection: socket.socket) -> bytes:
    data = b""
    while b"\n" not in data:
        part = connection.recv(65_536)
        if not part:
            raise ValueError("the connection closed before a full line")
        data += part
    return data.split(b"\n", 1)[0]


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name for a socket path over the 107 bytes the kernel allows, through this process's own descriptor table."""
    if len(os.fsencode(path)) <= 107:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
