"""A halt that the full disk did not take is not forgotten when there is room again."""

import sqlite3
from pathlib import Path

import pytest
from desk import opened, trader

from daemon.child.clock import ManualClock
from paper_trader import deciding
from paper_trader.journal import Journal


def test_a_halt_that_could_not_be_written_down_holds_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One parity mismatch, seen once, at the very moment at which the disk is full."""
    mismatches, refusals, real = ["planted"], ["full"], Journal.halt
    monkeypatch.setattr(deciding, "difference", lambda *_: mismatches.pop() if mismatches else "")

    def full_at_first(journal: Journal, reason: str) -> None:
        if refusals:
            refusals.clear()
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorname = "SQLITE_FULL"
            raise error
        real(journal, reason)

    monkeypatch.setattr(Journal, "halt", full_at_first)
    config = opened(tmp_path)
    trader(config, tmp_path, clock=ManualClock()).run()
    journal = Journal(tmp_path / "paper" / "journal.db", read_only=True)
    assert not refusals and not mismatches  # both happened
    assert journal.meta()["halted"] == "parity: planted"
    assert journal.counts()["decisions"] == 0  # the first decision is checked before it is obeyed
    assert journal.counts()["marks"] > 100  # while the bars are booked on
    journal.close()
