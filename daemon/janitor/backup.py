"""Copies of what cannot be computed again: the databases, the ledgers and the champion's pointer.

A copy counts as a backup only after its restore test: the files are put into an empty directory by the code that
`restore` uses, opened, checked by SQLite and counted. Databases are copied from one read snapshot through SQLite's
backup API, so their owners go on writing; the two books of the paper account are read from snapshots begun together,
the journal first: a broker that is ahead of its journal is what every restart of the trader can deal with.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.child.clock import Clock
from daemon.child.room import needs_room
from features.errors import DataError
from features.files import disk_full, read_json, read_jsonl, read_only_uri, sync_directory, write_atomic

BACKUPS = "backups"
MANIFEST = "manifest.json"
# databases that must agree with one another are copied together
DATABASES = (("study.db",), ("paper/journal.db", "paper/broker.db"), ("supervisor.db",))
# copied after the study: they then know every trial that it knows
LEDGERS = ("ledger.jsonl", "holdout.jsonl", "advice/audit.jsonl")
POINTERS = ("champion.json",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A backup that passed its test. files: path → {bytes, sha256, rows by table}; artifacts: what it refers to.

    trials: study → numbers that had a record. A restored study gives later numbers away again.
    """

    name: str
    folder: Path
    made_utc: str
    files: dict[str, dict[str, Any]]
    artifacts: tuple[str, ...]
    trials: dict[str, list[int]]

    @property
    def size_bytes(self) -> int:
        return sum(f["bytes"] for f in self.files.values())


def is_backup(folder: Path) -> bool:
    return not folder.name.startswith(".") and (folder / MANIFEST).exists()


def backup_folders(state_dir: Path) -> list[Path]:
    """Oldest first."""
    return sorted(p for p in (state_dir / BACKUPS).glob("*") if is_backup(p))


def backups(state_dir: Path) -> list[Backup]:
    """Oldest first. DataError when one of them cannot be read."""
    return [load(p) for p in backup_folders(state_dir)]


def load(folder: Path) -> Backup:
    """DataError when its manifest is none."""
    try:
        record = read_json(folder / MANIFEST)
        return Backup(
            name=folder.name, folder=folder, made_utc=record["made_utc"], files=record["files"],
            artifacts=tuple(record["artifacts"]), trials=record["trials"],
        )  # fmt: skip
    except (DataError, KeyError, TypeError) as error:
        raise DataError(f"backup {folder.name} has no manifest: {error}", hint=f"move {folder} away") from error


def make_backup(state_dir: Path, clock: Clock) -> Backup:
    """Copy, test, publish. DataError when a copy fails, its test does or there is nothing to copy, NoRoom; nothing is left."""
    if not needed_bytes(state_dir):
        raise DataError(f"there is nothing to back up in {state_dir}", hint="--state-dir names another")
    name = f"{clock.now_utc():%Y%m%dT%H%M%SZ}"
    final = state_dir / BACKUPS / name
    if is_backup(final):
        raise DataError(f"backup {name} exists", hint="a second has one backup")
    draft = final.with_name(f".{name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        with needs_room(final.parent):
            _fill(draft, state_dir, made_utc=clock.now_utc().isoformat())
        verify(load(draft))
        draft.rename(final)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    sync_directory(final.parent)
    return load(final)


def _fill(draft: Path, state_dir: Path, *, made_utc: str) -> None:
    draft.mkdir(parents=True)
    trials = _trial_numbers(state_dir)  # before the study: what is listed, the copied study knows
    files: dict[str, dict[str, Any]] = {}
    for group in DATABASES:
        files |= _copy_databases(state_dir, draft, group)
    for record in (*LEDGERS, *POINTERS):
        if (state_dir / record).exists():
            write_atomic(draft / record, (state_dir / record).read_bytes())
            files[record] = _facts(draft / record)
    artifacts = sorted(_artifacts(draft))
    body = {"schema": 1, "made_utc": made_utc, "files": files, "trials": trials, "artifacts": artifacts}
    write_atomic(draft / MANIFEST, json.dumps(body, indent=1).encode())


def verify(backup: Backup) -> None:
    """The restore test. DataError names the first file that is not what it was."""
    scratch = backup.folder / f".restored.{os.getpid()}"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        for name, facts in backup.files.items():
            place(backup, name, scratch)
            if name.endswith(".db"):
                found = {**_file_facts(scratch / name), "rows": _checked_rows(scratch / name)}
            else:
                found = _facts(scratch / name)
            if found != facts:
                raise DataError(f"backup {backup.name}: {name} is not what was backed up: {found} against {facts}")
    except (OSError, sqlite3.Error) as error:
        raise DataError(f"backup {backup.name} cannot be restored: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def place(backup: Backup, name: str, state_dir: Path) -> None:
    """Put one file of the backup into a state directory, whole or not at all."""
    target = state_dir / name
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(backup.folder / name, draft)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_directory(target.parent)


def needed_bytes(state_dir: Path) -> int:
    """What a backup takes while it is made: every file, and again for the restore test."""
    names = (*(n for group in DATABASES for n in group), *LEDGERS, *POINTERS)
    return 2 * sum((state_dir / n).stat().st_size for n in names if (state_dir / n).exists())


def _copy_databases(state_dir: Path, draft: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    copied = {}
    with contextlib.ExitStack() as stack:
        sources = {}
        for name in names:
            if (state_dir / name).exists():
                with _named(name):
                    sources[name] = stack.enter_context(_snapshot(state_dir / name))
        for name, source in sources.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            with _named(name):
                with contextlib.closing(sqlite3.connect(draft / name, isolation_level=None)) as copy:
                    source.backup(copy)
                    copy.execute("PRAGMA journal_mode = DELETE")  # one file, whatever mode its owner uses
                rows = _rows(source)
            with (draft / name).open("rb") as file:
                os.fsync(file.fileno())
            copied[name] = {**_file_facts(draft / name), "rows": rows}
    return copied


@contextlib.contextmanager
def _named(database: str) -> Iterator[None]:
    """What SQLite says inside is a DataError about this database, with the remedy."""
    try:
        yield
    except sqlite3.Error as error:
        if disk_full(error):
            remedy = "free space"
        elif getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            remedy = "another process holds it: try again"
        else:
            remedy = "cappuccinoctl stop, cappuccinoctl restore"
        raise DataError(f"{database} cannot be backed up: {error}", hint=remedy) from error


@contextlib.contextmanager
def _snapshot(path: Path) -> Iterator[sqlite3.Connection]:
    """A read transaction: everything read from it, the backup included, is the database of this moment."""
    with contextlib.closing(sqlite3.connect(read_only_uri(path), uri=True, isolation_level=None)) as db:
        db.execute("PRAGMA busy_timeout = 5000")
        db.execute("BEGIN")
        db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()  # the snapshot begins with the first read
        yield db


def _checked_rows(path: Path) -> dict[str, int]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        verdict = db.execute("PRAGMA integrity_check").fetchone()[0]
        orphans = db.execute("PRAGMA foreign_key_check").fetchone()
        if verdict != "ok" or orphans is not None:
            raise DataError(f"{path.name}: {verdict if verdict != 'ok' else f'a row points nowhere: {orphans}'}")
        return _rows(db)


def _rows(db: sqlite3.Connection) -> dict[str, int]:
    tables = [t for (t,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    return {t: int(db.execute(f'SELECT COUNT(*) FROM "{t}"').fetchone()[0]) for t in tables}  # noqa: S608  names from the schema


def _facts(path: Path) -> dict[str, Any]:
    """Size, hash and number of records; DataError when a record is damaged."""
    if path.suffix == ".jsonl":
        return {**_file_facts(path), "rows": {"records": len(read_jsonl(path))}}
    read_json(path)
    return {**_file_facts(path), "rows": {}}


def _file_facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _trial_numbers(state_dir: Path) -> dict[str, list[int]]:
    numbers: dict[str, list[int]] = {}
    for path in (state_dir / "trials").glob("*/*/trial.json"):
        numbers.setdefault(path.parent.parent.name, []).append(int(path.parent.name))
    return {study: sorted(found) for study, found in sorted(numbers.items())}


def _artifacts(folder: Path) -> set[str]:
    """Policies that the copied pointer and journal name: without them they could not be used again."""
    found: set[str | None] = set()
    if (folder / "champion.json").exists():
        record = read_json(folder / "champion.json")
        found |= {e[k] for e in (record, *record["history"]) for k in ("champion", "holds")}
    if (folder / "paper" / "journal.db").exists():
        with _named("paper/journal.db"), contextlib.closing(sqlite3.connect(folder / "paper" / "journal.db")) as db:
            found |= {row[0] for row in db.execute("SELECT DISTINCT artifact FROM decisions")}
    return {a for a in found if a}
