"""sd_notify(3) without a library: one datagram to $NOTIFY_SOCKET."""

import contextlib
import os
import socket
from typing import Self


class Notifier:
    """Tells systemd READY, STATUS, WATCHDOG and STOPPING; silent outside a unit."""

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address

    @classmethod
    def from_environment(cls) -> Self:
        return cls(os.environ.get("NOTIFY_SOCKET", ""))

    def send(self, message: str) -> None:
        if not self._address:
            return
        # a restarting systemd must not take the service down
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as client,
            contextlib.suppress(OSError),
        ):
            client.sendto(message.encode(), self._address)
