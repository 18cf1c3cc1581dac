"""The supervisor's records in systemd's journal, field by field: `journalctl -u cappuccino CAPPUCCINO_EVENT=child.fatal`.

The native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): one datagram per record, `NAME=value` lines, values with a
newline preceded by their length. Children do not use it: their records are in logs/, and this says what became of them.
"""

import contextlib
import json
import logging
import os
import re
import socket
import struct
import sys

SOCKET = "/run/systemd/journal/socket"
_PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}  # syslog(3)
_LABELS = ("ts", "mono", "level", "event", "component", "pid", "schema", "run_id")  # journald has its own of these


class JournalHandler(logging.Handler):
    """Sends what its formatter made, which is a JSON object, redacted. A journal that does not listen is passed over."""

    def __init__(self, address: str = SOCKET) -> None:
        super().__init__()
        self._address = address

    def emit(self, record: logging.LogRecord) -> None:
        message = datagram(self.format(record))
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as journal,
            contextlib.suppress(OSError),
        ):
            journal.sendto(message, self._address)


def datagram(line: str) -> bytes:
    """A JSON record as the journal takes it."""
    record = json.loads(line)
    facts = {k: v for k, v in record.items() if k not in _LABELS}
    text = " ".join([str(record.get("event", "")), *(f"{k}={v}" for k, v in facts.items() if v not in ("", None))])
    fields = {
        "MESSAGE": text, "PRIORITY": str(_PRIORITIES.get(record.get("level", ""), 6)), "SYSLOG_IDENTIFIER": "cappuccino",
        "CAPPUCCINO_EVENT": str(record.get("event", "")),
        **{f"CAPPUCCINO_{re.sub(r'[^A-Z0-9_]', '_', k.upper())}": str(v) for k, v in facts.items()},
    }  # fmt: skip
    return b"".join(_field(name, value.encode()) for name, value in fields.items())


def tell_journal() -> None:
    """Have the journal get every record too, if standard error is connected to it (systemd.exec(5), $JOURNAL_STREAM)."""
    ours = os.fstat(sys.stderr.fileno())
    if os.environ.get("JOURNAL_STREAM") != f"{ours.st_dev}:{ours.st_ino}":
        return
    root = logging.getLogger()
    handler = JournalHandler()
    handler.setFormatter(root.handlers[0].formatter)
    root.addHandler(handler)


def _field(name: str, value: bytes) -> bytes:
    if b"\n" not in value:
        return name.encode() + b"=" + value + b"\n"
    return name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
