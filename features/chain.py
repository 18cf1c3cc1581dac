"""Records that nobody can edit quietly: a JSONL file in which each carries the hash of the one before."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from features.errors import ConfigurationError, DataError
from features.files import Lock, append_jsonl, disk_full, read_json, read_jsonl, write_atomic

_GENESIS = "0" * 64


class HashChain:
    """Records in a JSONL file, each carrying the hash of the one before. Safe for several processes.

    A chain alone does not miss its tail, so `<name>.head` beside it remembers how long it was and how it ended.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = path.with_suffix(".lock")
        self._head = path.with_suffix(".head")

    def append(self, record: Mapping[str, Any]) -> str:
        """Append under the lock and return the new record's hash."""
        with Lock(self._lock, wait=True):
            count, previous = self._end()
            linked = {**record, "previous": previous}
            digest = _digest(linked)
            append_jsonl(self._path, {**linked, "hash": digest})
            # after the record: a crash between the two leaves a head that is one short, which is still true; so does a
            # full disk, for the record is down, and whoever is told otherwise writes it a second time
            try:
                write_atomic(self._head, json.dumps({"records": count + 1, "hash": digest}).encode())
            except OSError as error:
                if not disk_full(error):
                    raise
        return digest

    def records(self) -> list[dict[str, Any]]:
        """All records; DataError names the first that is missing, or whose hash or predecessor is not its own."""
        # the head first: records appended between the two reads only make the chain longer than it says
        head = self._remembered()
        records = self._linked()
        if len(records) < head["records"]:
            raise DataError(
                f"{self._path.name}: record {len(records) + 1} is missing, {head['records']} were written",
                hint=f"restore {self._path.name} from a backup: others count on it being whole",
            )
        if head["records"] and records[head["records"] - 1]["hash"] != head["hash"]:
            raise DataError(f"{self._path.name}: record {head['records']} is not the one that was written")
        return records

    def events(self, event: str, *, telling: str) -> list[dict[str, Any]]:
        """The records of an event. ConfigurationError names the first that lacks a field, as an earlier version's may."""
        found = []
        for line, record in enumerate(self.records(), start=1):
            if record["event"] == event:
                if telling not in record:
                    raise ConfigurationError(
                        f"{self._path}: line {line} was written by an earlier version and does not tell {telling}",
                        hint="begin in a new state directory; what counts on this ledger cannot go on",
                    )
                found.append(record)
        return found

    def _remembered(self) -> dict[str, Any]:
        return dict(read_json(self._head)) if self._head.exists() else {"records": 0, "hash": _GENESIS}

    def _end(self) -> tuple[int, str]:
        """(records, last hash). The whole chain is read only when its last line is not the one remembered."""
        head = self._remembered()
        if head["records"] and f'"hash":"{head["hash"]}"'.encode() in _last_line(self._path):
            return head["records"], head["hash"]
        records = self.records()  # nothing is chained to a broken ledger
        return len(records), records[-1]["hash"] if records else _GENESIS

    def _linked(self) -> list[dict[str, Any]]:
        records = read_jsonl(self._path)
        previous = _GENESIS
        for number, record in enumerate(records, start=1):
            body = {k: v for k, v in record.items() if k not in ("hash", "crc")}
            if record.get("previous") != previous or record.get("hash") != _digest(body):
                raise DataError(f"{self._path.name}: record {number} was altered, removed or reordered")
            previous = record["hash"]
        return records


def _last_line(path: Path) -> bytes:
    """The last finished line, or its end when it is longer than 64 KiB; empty when there is none."""
    if not path.exists():
        return b""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65_536))
        return file.read().rpartition(b"\n")[0].rpartition(b"\n")[2]


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
