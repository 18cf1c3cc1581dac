"""supervisor.db: what happened to the children, their last words, and what a crashed supervisor must not forget.

SQLite in WAL mode with synchronous=NORMAL: a `kill -9` loses nothing, a power cut the last moments, and a commit does
not wait for the disk; a checkpoint does, so it comes in a quiet moment (`tidy`) and not with the commit that happens to
fill the log. Only the supervisor writes. A full disk costs records, which are counted, never the loop.
"""

import contextlib
import json
import sqlite3
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from daemon.child.room import needs_room
from features.errors import CappuccinoError
from features.files import read_only_uri

VERSION = 1
KEPT_EVENTS = 20_000  # a flapping fleet writes a few hundred a day
KEPT_CRASHES = 200  # of up to 64 KiB each
_SCHEMA = """
CREATE TABLE runs (id INTEGER PRIMARY KEY, boot_id TEXT NOT NULL, pid INTEGER NOT NULL, began_utc TEXT NOT NULL,
                   ended_utc TEXT, fleet TEXT NOT NULL DEFAULT '{}');
CREATE TABLE events (id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs, at_utc TEXT NOT NULL,
                     event TEXT NOT NULL, child TEXT NOT NULL, facts TEXT NOT NULL);
CREATE TABLE crashes (id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs, at_utc TEXT NOT NULL,
                      child TEXT NOT NULL, pid INTEGER NOT NULL, code INTEGER NOT NULL, up_s REAL NOT NULL,
                      output BLOB NOT NULL);
"""


class HistoryUnusable(CappuccinoError):
    """supervisor.db is damaged or was written by a newer version."""

    exit_code = 3


class History:
    """The supervisor's one connection. `lost` counts records that a full or broken disk refused."""

    def __init__(self, path: Path, *, now_utc: Callable[[], datetime]) -> None:
        self._now_utc, self.lost, self._run, self._written = now_utc, 0, 0, 0
        self._origin, self._fleet = ("", 0, ""), "{}"  # our row of `runs`
        self._unsaved = False  # whether it must be written
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        try:
            with needs_room(path.parent):
                self._open(path)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise HistoryUnusable(
                f"{path} cannot be used: {error}", hint="move it away; the daemon starts a new one"
            ) from error
        except CappuccinoError:
            self._db.close()
            raise

    def _open(self, path: Path) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=100", "foreign_keys=ON",
                       "wal_autocheckpoint=4096", "journal_size_limit=1048576"):  # fmt: skip
            self._db.execute(f"PRAGMA {pragma}")
        if (found := self._db.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(found)
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise HistoryUnusable(
                f"{path} has version {version}, this daemon knows {VERSION}", hint="upgrade cappuccino"
            )
        if version == 0:
            self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={VERSION}; COMMIT;")

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, *, boot_id: str, pid: int) -> dict[str, Any] | None:
        """Open a run. The fleet record of the one before it, if that run crashed in this very boot; else None.

        An operator's stop forgives; a crash, or systemd's restart after one, does not.
        """
        last = self._db.execute("SELECT boot_id, ended_utc, fleet, id FROM runs ORDER BY id DESC LIMIT 1").fetchone()
        self._run, self._origin = 1 + (last[3] if last else 0), (boot_id, pid, self._now())
        crashed = last is not None and last[0] == boot_id and last[1] is None
        record: dict[str, Any] | None = json.loads(last[2]) if crashed else None
        self.remember(record or {})  # this start may fail before it has taken it over
        return record

    def end(self) -> None:
        """The run ended in order."""
        with self._writing():
            self._db.execute("UPDATE runs SET ended_utc = ? WHERE id = ?", (self._now(), self._run))

    def remember(self, fleet: Mapping[str, Any]) -> None:
        """What a successor takes over if this run crashes."""
        self._fleet, self._unsaved = json.dumps(fleet), True
        with self._writing():
            pass  # every transaction begins with our row, until one was taken

    def event(self, event: str, child: str, facts: Mapping[str, Any]) -> None:
        with self._writing():
            self._db.execute(
                "INSERT INTO events (run, at_utc, event, child, facts) VALUES (?, ?, ?, ?, ?)",
                (self._run, self._now(), event, child, json.dumps(facts)),
            )
        self._written += 1

    def tidy(self) -> None:
        """Forget what is old and fold the log into the database. Waits for the disk; for a moment when nothing happens."""
        if not self._written:
            return
        self._written = 0
        with self._writing():
            self._db.execute("DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?", (KEPT_EVENTS,))
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def crash(self, *, child: str, pid: int, code: int, up_s: float, output: bytes) -> None:
        """A child that died unasked, with its last words."""
        with self._writing():
            self._db.execute(
                "INSERT INTO crashes (run, at_utc, child, pid, code, up_s, output) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (self._run, self._now(), child, pid, code, up_s, output),
            )
            self._db.execute("DELETE FROM crashes WHERE id <= (SELECT max(id) FROM crashes) - ?", (KEPT_CRASHES,))

    @contextlib.contextmanager
    def _writing(self) -> Any:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            if self._unsaved:
                self._save()
            yield
            self._db.execute("COMMIT")
            self._unsaved = False
        except sqlite3.Error:  # full or broken disk: the children matter more than their records
            self.lost += 1
            if self._db.in_transaction:  # on SQLITE_FULL it is already rolled back
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")

    def _save(self) -> None:
        """Our row of `runs`. A full disk may have refused it before, and events point to it."""
        self._db.execute(
            "INSERT INTO runs (id, boot_id, pid, began_utc, fleet) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET fleet = excluded.fleet", (self._run, *self._origin, self._fleet),
        )  # fmt: skip

    def _now(self) -> str:
        return self._now_utc().isoformat()


def read_events(path: Path, *, child: str = "", last: int = 50) -> list[dict[str, Any]]:
    """The newest events, oldest first, of one child or of all."""
    rows = _read(path, "SELECT at_utc, event, child, facts FROM events WHERE ? IN ('', child) ORDER BY id DESC LIMIT ?",
                 (child, last))  # fmt: skip
    return [{"at_utc": a, "event": e, "child": c, **json.loads(f)} for a, e, c, f in reversed(rows)]


def read_crashes(path: Path, *, child: str = "", last: int = 1) -> list[dict[str, Any]]:
    """The newest crashes, oldest first, each with its last output as text."""
    rows = _read(path, "SELECT at_utc, child, pid, code, up_s, output FROM crashes WHERE ? IN ('', child) "
                 "ORDER BY id DESC LIMIT ?", (child, last))  # fmt: skip
    names = ("at_utc", "child", "pid", "code", "up_s")
    return [{**dict(zip(names, r, strict=False)), "output": r[5].decode(errors="replace")} for r in reversed(rows)]


def _read(path: Path, query: str, arguments: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    if not path.exists():
        return []
    try:
        with contextlib.closing(sqlite3.connect(read_only_uri(path), uri=True, timeout=5.0)) as db:
            return db.execute(query, arguments).fetchall()
    except sqlite3.Error as error:
        raise HistoryUnusable(
            f"{path} cannot be read: {error}",
            hint="cappuccinoctl stop, move it away, start: the daemon begins a new one",
        ) from error
