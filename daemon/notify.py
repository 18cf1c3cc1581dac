"""sd_notify(3) without a library: one datagram to $NOTIFY_SOCKET."""

import contextlib
import os
import socket
from typing import Self

PATIENCE_S = 0.2  # a message that does not fit by then is lost; the next ping comes in seconds


class Notifier:
    """Tells systemd READY, STATUS, WATCHDOG, RELOADING and STOPPING; silent outside a unit."""

    def __init__(self, address: str, *, watchdog_s: float = 30.0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.ping_every_s = watchdog_s / 3  # one lost ping must not kill a healthy daemon

    @classmethod
    def from_environment(cls) -> Self:
        watchdog_s = int(os.environ.get("WATCHDOG_USEC") or 30_000_000) / 1e6
        return cls(os.environ.get("NOTIFY_SOCKET", ""), watchdog_s=watchdog_s)

    def reloading(self, now_s: float) -> None:
        """To be followed by READY=1. now_s: monotonic, by which systemd tells this reload from an earlier one."""
        self.send(f"RELOADING=1\nMONOTONIC_USEC={int(now_s * 1e6)}")

    def send(self, message: str) -> None:
        if not self._address:
            return
        # a restarting systemd must not take the service down, nor one that has stopped reading hold up the loop
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as client,
            contextlib.suppress(OSError),
        ):
            client.settimeout(PATIENCE_S)
            client.sendto(message.encode(), self._address)
