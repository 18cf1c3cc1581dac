"""The journal's file: what another version wrote is refused by name, and left as it was."""

import sqlite3
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
