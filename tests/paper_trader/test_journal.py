"""The journal's file: what another version wrote is refused by name, and left as it was."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from features.errors import DataError
from paper_trader.journal import SCHEMA, Journal


def test_a_journal_of_another_version_is_refused_with_the_remedy_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "paper" / "journal.db"
    path.parent.mkdir()
    Journal(path).close()
    with sqlite3.connect(path) as other:
        other.execute(f"PRAGMA user_version = {SCHEMA - 1}")
    other.close()
    before = path.read_bytes()
    with pytest.raises(DataError, match=f"has schema {SCHEMA - 1}, this program writes {SCHEMA}") as refused:
        Journal(path)
    assert str(path.parent) in refused.value.hint and path.read_bytes() == before


def damaged(journal: Journal) -> None:
    """Some pages in its middle overwritten, and none of them still in memory."""
    with journal._transaction() as db:
        db.executemany("INSERT INTO meta VALUES (?, ?)", [(f"key {n}", "x" * 500) for n in range(2000)])
    journal._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    journal.check()
    journal._connection.execute("PRAGMA shrink_memory")
    with journal.path.open("r+b") as file:
        file.seek(journal.path.stat().st_size // 2)
        file.write(b"\xff" * 8192)


@pytest.mark.parametrize("while_open", [True, False])
def test_a_damaged_journal_is_named_with_the_remedy_at_a_start_and_while_it_is_in_use(
    tmp_path: Path, *, while_open: bool
) -> None:
    path = tmp_path / "journal.db"
    with closing(Journal(path)) as journal:
        damaged(journal)
        if not while_open:
            journal.close()
        with pytest.raises(DataError, match=r"journal\.db is damaged") as refused:
            journal.check() if while_open else Journal(path)
    assert refused.value.hint == "cappuccinoctl restore"
