"""The control socket's protocol: one JSON line in, one JSON line out, for the owner and root only. The client side.

Version 1. A request is `{"protocol": 1, "verb": …, arguments}`, a reply `{"protocol": 1, …}` or `{"error", "hint"}`.
"""

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from features.errors import CappuccinoError

PROTOCOL = 1
MAX_REQUEST_BYTES = 65_536
TIMEOUT_S = 5.0


class DaemonDown(CappuccinoError):
    """Nobody listens on the control socket."""

    exit_code = 4


class NotAllowed(CappuccinoError):
    """The control socket is not open to this user: nothing is known of the daemon."""


class NotAnswering(CappuccinoError):
    """Somebody holds the control socket and says nothing."""

    exit_code = 3


def socket_path(state_dir: Path) -> Path:
    return state_dir / "run" / "control.sock"


def ask(state_dir: Path, verb: str, **arguments: Any) -> dict[str, Any]:
    """Send one request to the running daemon; DaemonDown when there is none, CappuccinoError when it refuses."""
    path = socket_path(state_dir)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(TIMEOUT_S)
        try:
            with short_name(path) as name:
                client.connect(name)
            client.sendall(line({"verb": verb, "protocol": PROTOCOL, **arguments}))
            reply: dict[str, Any] = json.loads(_read_line(client))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise DaemonDown(f"no daemon answers at {path}", hint="start it with cappuccinoctl run") from error
        except PermissionError as error:
            raise NotAllowed(
                f"{path} is closed to user {os.geteuid()}", hint="ask as the daemon's own user or as root"
            ) from error
        except (OSError, ValueError) as error:
            raise NotAnswering(f"the daemon at {path} does not answer: {error}") from error
    if "error" in reply:
        raise CappuccinoError(str(reply["error"]), hint=str(reply.get("hint", "")))
    return reply


def line(record: dict[str, Any]) -> bytes:
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
def short_name(path: Path) -> Iterator[str]:
    """A name for a socket path over the 107 bytes the kernel allows, through this process's own descriptor table."""
    if len(os.fsencode(path)) <= 107:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
