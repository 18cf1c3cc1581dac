"""The journal's file: what another version wrote is refused by name, and left as it was."""

import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from desk import command, opened, settings, trader

from features.errors import DataError
from paper_trader.__main__ import main
from paper_trader.database import BookUnusable
from paper_trader.journal import SCHEMA, Journal

LOOKING = ("positions", "orders", "report", "verify")


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


def test_rows_are_counted_anew_only_when_somebody_has_written(tmp_path: Path) -> None:
    """The trader's picture has them every second; after a year of hours that alone took a fortieth of a core."""
    path, asked = tmp_path / "journal.db", list[str]()
    fill = "INSERT INTO fills VALUES (?, '', 'BTC', 0, '1', '1', '0', '0')"
    with closing(Journal(path)) as journal, closing(Journal(path, read_only=True)) as reader:
        for each in (journal, reader):
            each._connection.set_trace_callback(asked.append)
        for n in range(3):
            with journal._transaction() as db:
                db.execute(fill, (str(n),))
            for each in (journal, reader):
                assert each.counts()["fills"] == n + 1
                asked.clear()
                assert each.counts()["fills"] == n + 1 and not any("COUNT" in text for text in asked)


def no_database(path: Path) -> None:
    path.write_bytes(b"\0" * 16 + path.read_bytes()[16:])


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:9000])


def holed(path: Path) -> None:
    """Every page but the first, which says what tables there are."""
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096))


def of_another_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA user_version = {SCHEMA + 1}")


@pytest.mark.parametrize("spoil", [no_database, cut_short, holed, of_another_version])
def test_books_that_cannot_be_used_end_the_trader_for_good_and_every_verb_names_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None]
) -> None:
    """Exit 78 is not started again: the next start would read the same file."""
    config = opened(tmp_path)
    trader(config, tmp_path).run()
    path = tmp_path / "paper" / "journal.db"
    spoil(path)
    done = subprocess.run(command(config, tmp_path), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 78 and str(path) in done.stderr and "Traceback" not in done.stderr
    for verb in LOOKING:
        assert main(command(config, tmp_path, verb)[4:]) == 78
        assert str(path) in capsys.readouterr().err


def test_an_account_that_has_not_begun_is_said_to_whoever_looks_at_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the very first start the trader may wait for its market with an empty journal."""
    Journal(tmp_path / "paper" / "journal.db").close()
    for verb in LOOKING:
        assert main(command(settings(), tmp_path, verb)[4:]) == 1
        assert "no paper account" in capsys.readouterr().err


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
        with pytest.raises(BookUnusable, match=r"journal\.db is damaged") as refused:
            journal.check() if while_open else Journal(path)
    assert refused.value.hint == "cappuccinoctl restore"
