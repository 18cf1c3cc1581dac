"""What journald is told: a field per fact, newlines included, and nothing when there is no journal."""

import json
import logging
import socket
import struct
from pathlib import Path

from daemon.journal import JournalHandler, datagram

RECORD = {
    "event": "child.fatal", "level": "warning", "name": "worker-0", "reason": "restarts", "code": 1, "ts": "2026", "mono": 1.0,
    "component": "daemon", "pid": 7, "schema": 1,
}  # fmt: skip


def parsed(data: bytes) -> dict[str, str]:
    """As journald reads it."""
    fields = {}
    while data:
        line, _, rest = data.partition(b"\n")
        if b"=" in line:
            name, _, value = line.partition(b"=")
        else:
            (length,) = struct.unpack("<Q", rest[:8])
            name, value, rest = line, rest[8 : 8 + length], rest[9 + length :]
        fields[name.decode()], data = value.decode(), rest
    return fields


def test_every_fact_is_a_field_and_the_message_reads_by_itself() -> None:
    fields = parsed(datagram(json.dumps(RECORD)))
    assert fields["MESSAGE"] == "child.fatal name=worker-0 reason=restarts code=1"
    assert fields["PRIORITY"] == "4" and fields["SYSLOG_IDENTIFIER"] == "cappuccino"
    assert fields["CAPPUCCINO_EVENT"] == "child.fatal" and fields["CAPPUCCINO_NAME"] == "worker-0"
    assert "CAPPUCCINO_TS" not in fields


def test_a_text_of_several_lines_stays_one_field() -> None:
    fields = parsed(datagram(json.dumps({**RECORD, "output": "Traceback\n  here=1\nend", "odd-name!": 3})))
    assert fields["CAPPUCCINO_OUTPUT"] == "Traceback\n  here=1\nend" and fields["CAPPUCCINO_ODD_NAME_"] == "3"
    assert fields["MESSAGE"].endswith("odd-name!=3")


def test_a_journal_that_is_absent_or_full_never_holds_up_the_loop(tmp_path: Path) -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, json.dumps(RECORD), None, None)
    JournalHandler(str(tmp_path / "absent")).emit(record)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "journal"))
        handler = JournalHandler(str(tmp_path / "journal"))
        for _ in range(10_000):  # nobody reads: the queue is full long before
            handler.emit(record)
        assert parsed(journal.recv(65_536))["CAPPUCCINO_CODE"] == "1"
