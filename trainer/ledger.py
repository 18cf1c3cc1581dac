"""The trial ledger: an append-only, hash-chained record of every trial ever started, on any study.

Its length is the N of every deflated Sharpe ratio; nobody can type that number in.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from features.errors import DataError
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
                hint=f"restore {self._path.name} from a backup: the number of trials ever started counts on it",
            )
        if head["records"] and records[head["records"] - 1]["hash"] != head["hash"]:
            raise DataError(f"{self._path.name}: record {head['records']} is not the one that was written")
        return records

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


class TrialLedger(HashChain):
    """`ledger.jsonl`: one record when a trial starts, one when it ends."""

    def started(self, *, study: str, number: int, data_sha256: str, parameters: Mapping[str, Any], at_utc: str) -> None:
        self.append({
            "event": "started", "study": study, "number": number, "data_sha256": data_sha256,
            "parameters": dict(parameters), "at_utc": at_utc,
        })  # fmt: skip

    def ended(self, *, study: str, number: int, score: float | None, sharpe: float | None, failure: str | None) -> None:
        """score is the study's objective, sharpe the per-bar Sharpe of the validation returns."""
        self.append({
            "event": "ended", "study": study, "number": number, "score": score, "sharpe": sharpe, "failure": failure,
        })  # fmt: skip

    def count(self) -> int:
        """Trials ever started, failed and repeated ones included."""
        return sum(r["event"] == "started" for r in self.records())

    def sharpes(self) -> list[float]:
        """Per-bar Sharpe of every trial that ended with one."""
        return [r["sharpe"] for r in self.records() if r["event"] == "ended" and r["sharpe"] is not None]


def _last_line(path: Path) -> bytes:
    """The last finished line, or its end when it is longer than 64 KiB; empty when there is none."""
    if not path.exists():
        return b""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65_536))
        return file.read().rpartition(b"\n")[0].rpartition(b"\n")[2]


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
