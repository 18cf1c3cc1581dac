"""SQLite as the trader's books need it: what a committed transaction says survives kill -9 and a power cut."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from features.errors import DataError
from features.files import read_only_uri


class BookUnusable(DataError):
    """A database is damaged or of another version. The next start reads the same file: no restart can help."""

    exit_code = 78


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """BookUnusable in place of what SQLite raises over a file that is damaged or none of its own."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if not getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            raise
        raise BookUnusable(f"{path} is damaged: {error}", hint="cappuccinoctl restore") from error


def open_database(path: Path, *, read_only: bool, tables: str, schema: int) -> sqlite3.Connection:
    """Open, check and if need be create a database. Raises BookUnusable; DataError where a reader finds none yet."""
    if not read_only:
        path.parent.mkdir(parents=True, exist_ok=True)
    place = read_only_uri(path) if read_only else str(path)
    connection = sqlite3.connect(place, uri=read_only, isolation_level=None)
    try:
        with whole(path):
            _prepare(connection, path, read_only=read_only)
            _agree_on_schema(connection, path, read_only=read_only, tables=tables, schema=schema)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, *, read_only: bool) -> None:
    """A reader may come and go at any time; whoever writes looks at the whole file first."""
    if read_only:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA busy_timeout = 5000")
        return
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 5000", "foreign_keys = ON",
                   "wal_autocheckpoint = 256", "journal_size_limit = 1048576"):  # fmt: skip
        connection.execute(f"PRAGMA {pragma}")
    require_whole(connection, path, "integrity_check")


def _agree_on_schema(
    connection: sqlite3.Connection, path: Path, *, read_only: bool, tables: str, schema: int
) -> None:  # fmt: skip
    """Of a file that holds nothing, whoever writes makes the tables."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version == schema:
        return
    if version != 0:
        raise BookUnusable(
            f"{path} has schema {version}, this program writes {schema}",
            hint=f"move {path.parent} away and the paper account begins anew, or go back to the version that wrote it",
        )
    if read_only:
        raise DataError(f"{path} holds nothing yet", hint="the trader has not started yet")
    with transaction(connection) as db:
        for statement in tables.split(";"):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {schema}")


def require_whole(connection: sqlite3.Connection, path: Path, check: Literal["integrity_check", "quick_check"]) -> None:
    """BookUnusable when SQLite finds a damaged page; the quick check does not compare indices with their tables."""
    with whole(path):
        verdict = connection.execute(f"PRAGMA {check}").fetchone()[0]
    if verdict != "ok":
        raise BookUnusable(f"{path} is damaged: {verdict}", hint="cappuccinoctl restore")


def fold_back(connection: sqlite3.Connection) -> None:
    """Move the write-ahead log into the database, which takes two syncs: at a moment when nobody waits for them."""
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """BEGIN IMMEDIATE … COMMIT, rolled back on any exception."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLITE_FULL has already rolled back, unless it was the COMMIT that failed
            connection.execute("ROLLBACK")
        raise
