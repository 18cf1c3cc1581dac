"""Who trades beside the account never stops it, and never trades a bar twice."""

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from desk import artifact, books, opened, settings, trader
from structlog.testing import capture_logs

from daemon.child.clock import SystemClock
from daemon.janitor.backup import make_backup
from daemon.janitor.restore import restore
from paper_trader.journal import Journal
from paper_trader.shadows import EQUAL, curves


def challenger(state_dir: Path, *, factor: float) -> None:
    """A trial of the study judged last, whose weights are those of a good policy times `factor`."""
    policy = artifact(settings(), seed=3)
    weights = {name: array * np.float32(factor) for name, array in policy.weights.items()}
    name = replace(policy, weights=weights).save(state_dir / "artifacts").name
    record = {"number": 4, "state": "COMPLETE", "score": 1.0, "artifact": name}
    path = state_dir / "trials" / "desk" / "4" / "trial.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record))


def damaged_book(state_dir: Path) -> None:
    path = state_dir / "paper" / "shadows.db"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database" * 1000)


def unreadable_trial(state_dir: Path) -> None:
    challenger(state_dir, factor=1.0)
    (state_dir / "trials" / "desk" / "4" / "trial.json").write_text("{")


def policy_without_numbers(state_dir: Path) -> None:
    challenger(state_dir, factor=float("nan"))


@pytest.mark.parametrize("trouble", [damaged_book, unreadable_trial, policy_without_numbers])
def test_what_befalls_a_shadow_or_their_book_does_not_stop_the_account(
    tmp_path: Path, trouble: Callable[[Path], None]
) -> None:
    config = opened(tmp_path)
    trouble(tmp_path)
    with capture_logs() as said:
        trader(config, tmp_path).run()
    assert books(tmp_path)["counts"]["decisions"] == 201
    assert {EQUAL, "cash"} <= {c.name for c in curves(tmp_path / "paper" / "shadows.db")}
    ended = [s["reason"] for s in said if s["event"] == "trader.shadow_ended"]
    assert len(ended) == 1


def test_after_an_older_journal_was_restored_no_shadow_trades_a_bar_twice(tmp_path: Path) -> None:
    """Their book is in no backup: it stays, and knows bars that the restored journal does not."""
    config = opened(tmp_path)
    bars_seen = iter(range(10_000))

    def backed_up(name: str) -> None:
        if name == "bar settled" and next(bars_seen) == 80:
            make_backup(tmp_path, SystemClock())

    trader(config, tmp_path, crash_point=backed_up).run()
    restore(tmp_path, "", SystemClock())
    with closing(Journal(tmp_path / "paper" / "journal.db", read_only=True)) as journal:
        restored_s, _ = journal.last_mark()
    trader(config, tmp_path).run()
    for curve in curves(tmp_path / "paper" / "shadows.db"):
        assert curve.close_time_s[0] == restored_s and curve.equity[0] == config.account.initial_cash
