"""The drift report: nothing where paper is the replay, and each cause under its own name where it is not."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from desk import opened, trader

from paper_trader.drift import Drift, drift, text
from paper_trader.journal import Journal


def found(state_dir: Path, *, revised: float = 1.0) -> Drift:
    with closing(Journal(state_dir / "paper" / "journal.db", read_only=True)) as journal:
        bars = journal.bars()
        close = bars.close.copy()
        close[-60, 0] = close[-60, 0] * revised
        high, low = bars.high.copy(), bars.low.copy()
        high[-60, 0], low[-60, 0] = max(high[-60, 0], close[-60, 0]), min(low[-60, 0], close[-60, 0])
        today = replace(bars, close=close, high=high, low=low)
        return drift(journal, state_dir / "artifacts", today=today)


def test_an_embedded_account_without_limits_is_its_replay_until_the_venue_revises_a_bar(tmp_path: Path) -> None:
    trader(opened(tmp_path), tmp_path).run()
    exact = found(tmp_path)
    assert exact.bars == 200 and exact.revised_bars == 0
    assert exact.by == pytest.approx(dict.fromkeys(exact.by, 0.0), abs=1e-12)
    assert "otherwise today: 0)" in text(exact) and "otherwise today: unknown)" in text(
        replace(exact, revised_bars=None)
    )
    other = found(tmp_path, revised=1.03)
    assert other.revised_bars == 1 and abs(other.by["revised data"]) > 1e-6
    assert {n: v for n, v in other.by.items() if n != "revised data"} == pytest.approx(
        dict.fromkeys(set(other.by) - {"revised data"}, 0.0), abs=1e-12
    )


def test_what_limits_fees_and_prices_cost_is_told_apart(tmp_path: Path) -> None:
    trader(opened(tmp_path, risk={"max_weight": 0.2}), tmp_path).run()
    limited = found(tmp_path)
    assert abs(limited.by["limits"]) > 1e-4 and abs(limited.by["model"]) < 1e-12 and abs(limited.by["unfilled"]) < 1e-12
    with closing(Journal(tmp_path / "paper" / "journal.db")) as journal:
        dearer = journal._connection
        dearer.execute("UPDATE fills SET fee_quote = CAST(fee_quote AS REAL) + 1.0 WHERE rowid = 10")
        at_s, price = dearer.execute("SELECT close_time_s, price FROM fills WHERE rowid = 20").fetchone()
        dearer.execute("UPDATE fills SET price = ? WHERE rowid = 20", (str(float(price) * 1.001),))
    changed = found(tmp_path)
    assert changed.by["fees"] < -1e-5  # one unit of about ten thousand
    assert abs(changed.by["price"]) > 1e-9 and at_s > 0
    with closing(Journal(tmp_path / "paper" / "journal.db")) as journal:  # as a venue's rounding is booked
        journal._connection.execute(
            "UPDATE fills SET quantity = '0', fee_base = '0', fee_quote = '50' WHERE rowid = 30"
        )
    assert found(tmp_path).by["fees"] == pytest.approx(changed.by["fees"], abs=1e-4)
    # the marks were not altered, so what was put there is found on the other side
    assert sum(changed.by.values()) == pytest.approx(sum(limited.by.values()), abs=1e-9)
