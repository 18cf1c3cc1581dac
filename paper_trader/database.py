"""SQLite as the trader's books need it: what a committed transaction says survives kill -9 and a power cut."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from features.errors import DataError


def open_database(path: Path, *, read_only: bool, tables: str, schema: int) -> sqlite3.Connection:
    """Open, check and if need be create a database. DataError when it is damaged or of another schema."""
    if read_only:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA busy_timeout = 5000")
        return connection
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 5000", "foreign_keys = ON",
                   "wal_autocheckpoint = 256", "journal_size_limit = 1048576"):  # fmt: skip
        connection.execute(f"PRAGMA {pragma}")
    require_whole(connection, path, "integrity_check")
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version == 0:
        with transaction(connection) as db:
            for statement in tables.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {schema}")
    elif version != schema:
        raise DataError(
            f"{path} has schema {version}, this program writes {schema}",
            hint=f"move {path.parent} away and the paper account begins anew, or go back to the version that wrote it",
        )
    return connection


def require_whole(connection: sqlite3.Connection, path: Path, check: Literal["integrity_check", "quick_check"]) -> None:
    """DataError when SQLite finds a damaged page; the quick check does not compare indices with their tables."""
    try:
        verdict = connection.execute(f"PRAGMA {check}").fetchone()[0]
    except sqlite3.DatabaseError as error:
        if not error.sqlite_errorname.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            raise
        verdict = str(error)
    if verdict != "ok":
        raise DataError(f"{path} is damaged: {verdict}", hint="cappuccinoctl restore")


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
