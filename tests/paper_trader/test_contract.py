"""The trader refuses what it was not trained for, notices what was altered, and halts for good."""

import json
import sqlite3
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from desk import TICKERS, artifact, books, command, opened, promote, settings, trader

from daemon.child.clock import SystemClock
from features.errors import ContractMismatch
from features.spec import preset
from paper_trader import operator
from paper_trader.champion import load_holding
from paper_trader.journal import Journal
from paper_trader.orders import client_order_id
from paper_trader.parity import verify
from paper_trader.session import Command


def run(config, state_dir: Path, verb: str = "run") -> subprocess.CompletedProcess[str]:  # type: ignore[no-untyped-def]
    return subprocess.run(command(config, state_dir, verb), capture_output=True, text=True, timeout=60, check=False)


def test_an_artifact_of_other_columns_is_refused_by_name_with_exit_78(tmp_path: Path) -> None:
    """The predecessor's end: "22 features against 11"."""
    config = settings()
    promote(tmp_path, artifact(config, preset("classic", tickers=TICKERS, timeframe_s=3600)))
    done = run(config, tmp_path)
    assert done.returncode == 78
    assert "sees 33 columns, the configured pipeline gives 52" in done.stderr
    for words in ("asset column macd: only in the first", "asset column log_return_24: only in the second"):
        assert words in done.stderr
    assert not (tmp_path / "paper" / "journal.db").exists() or books(tmp_path)["counts"]["decisions"] == 0


def test_an_artifact_of_other_tickers_is_refused_by_name(tmp_path: Path) -> None:
    config = settings()
    promote(tmp_path, artifact(config, preset("stationary", tickers=["BTC", "ETH"], timeframe_s=3600)))
    done = run(config, tmp_path)
    assert done.returncode == 78
    assert "ticker LTC: only in the second" in done.stderr


def test_tickers_in_another_order_are_refused(tmp_path: Path) -> None:
    config = settings()
    spec = preset("stationary", tickers=["ETH", "BTC", "LTC"], timeframe_s=3600)
    promote(tmp_path, artifact(config, spec))
    with pytest.raises(ContractMismatch) as caught:
        load_holding(tmp_path, preset("stationary", tickers=TICKERS, timeframe_s=3600))
    assert "ticker 0: ETH against BTC" in caught.value.differences


def test_weights_that_were_altered_on_disk_are_refused(tmp_path: Path) -> None:
    config = settings()
    name = promote(tmp_path, artifact(config))
    weights = tmp_path / "artifacts" / name / "weights.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(damaged)
    done = run(config, tmp_path)
    assert done.returncode != 0 and "weights" in done.stderr


@pytest.fixture
def traded(tmp_path: Path) -> Path:
    trader(opened(tmp_path), tmp_path).run()
    return tmp_path


def mismatches(state_dir: Path) -> tuple[str, ...]:
    journal = Journal(state_dir / "paper" / "journal.db", read_only=True)
    try:
        return verify(journal, state_dir / "artifacts").mismatches
    finally:
        journal.close()


def change(state_dir: Path, statement: str, values: tuple = ()) -> None:
    db = sqlite3.connect(state_dir / "paper" / "journal.db")
    with db:
        assert db.execute(statement, values).rowcount == 1
    db.close()


def decision_near_the_middle(state_dir: Path) -> int:
    at_s: int = books(state_dir)["decisions"][100].decision.close_time_s
    return at_s


def test_an_untouched_journal_is_re_derived_without_a_difference(traded: Path) -> None:
    assert mismatches(traded) == ()
    done = run(settings(), traded, "verify")
    assert done.returncode == 0 and "0 mismatches" in done.stdout


def test_a_revised_bar_is_found_at_the_bar_it_first_changes(traded: Path) -> None:
    at_s = decision_near_the_middle(traded)
    db = sqlite3.connect(traded / "paper" / "journal.db")
    (data,) = db.execute("SELECT data FROM bars WHERE close_time_s = ?", (at_s,)).fetchone()
    db.close()
    values = np.frombuffer(data, dtype="<f8").reshape(6, 3).copy()
    values[3, 0] *= 1 + 1e-9  # one close, by a billionth
    values[1, 0] = max(values[1, 0], values[3, 0])
    change(traded, "UPDATE bars SET data = ? WHERE close_time_s = ?", (values.tobytes(), at_s))
    from features.bars import utc_text

    found = mismatches(traded)
    assert found and found[0].startswith(utc_text(at_s))
    assert run(settings(), traded, "verify").returncode == 78


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE decisions SET target = '[0.1, 0.2, 0.3]' WHERE close_time_s = ?", "target is not what"),
        (
            "UPDATE decisions SET observation = zeroblob(length(observation)) WHERE close_time_s = ?",
            "features are not what the training path computes, the first BTC log_return_1: 0 seen",
        ),
        ("UPDATE decisions SET guarded = '[0.1, 0.2, 0.3]' WHERE close_time_s = ?", "guarded is not what"),
        ("UPDATE decisions SET bars_sha256 = 'f' WHERE close_time_s = ?", "a bar up to here is not"),
        (
            "UPDATE risk SET state = replace(state, '\"resting\": 0', '\"resting\": 1') WHERE close_time_s = ?",
            "limits' state",
        ),
        ("UPDATE marks SET equity = '1' WHERE close_time_s = ?", "the account is not what"),
    ],
)
def test_a_record_that_was_altered_is_named(traded: Path, statement: str, words: str) -> None:
    change(traded, statement, (decision_near_the_middle(traded),))
    assert any(words in line for line in mismatches(traded))


def test_a_policy_with_another_scaler_is_found_at_the_first_decision(traded: Path) -> None:
    """The account's decisions are re-derived with an artifact whose scaler differs in one column."""
    first = books(traded)["decisions"][0]
    policy = artifact(settings())
    scaler = replace(policy.scaler, asset_scale=(policy.scaler.asset_scale[0] * 1.01, *policy.scaler.asset_scale[1:]))
    other = replace(policy, scaler=scaler).save(traded / "artifacts").name
    db = sqlite3.connect(traded / "paper" / "journal.db")
    with db:
        db.execute("UPDATE decisions SET artifact = ?", (other,))
    db.close()
    from features.bars import utc_text

    assert mismatches(traded)[0].startswith(utc_text(first.decision.close_time_s))


def test_the_kill_switch_latches_across_restarts_until_an_operator_rearms_it(tmp_path: Path) -> None:
    config = opened(tmp_path, risk={"max_drawdown": 0.01})
    trader(config, tmp_path).run()
    status = json.loads((tmp_path / "paper" / "status.json").read_bytes())
    assert status["state"] == "halted" and "drawdown" in status["reason"]
    decided = books(tmp_path)["counts"]["decisions"]
    assert decided < 150
    (tmp_path / "paper" / "status.json").unlink()
    trader(config, tmp_path).run()
    status = json.loads((tmp_path / "paper" / "status.json").read_bytes())
    assert status["state"] == "halted"
    assert books(tmp_path)["counts"]["decisions"] == decided
    done = run(config, tmp_path, "rearm")
    assert done.returncode == 0
    trader(config, tmp_path).run()
    journal = Journal(tmp_path / "paper" / "journal.db", read_only=True)
    assert journal.rearms()
    journal.close()
    assert mismatches(tmp_path) == ()


def test_what_an_operator_has_rearmed_after_is_not_held_against_the_account_again(tmp_path: Path) -> None:
    """An upgrade of a library, say: the last decision before it is not what today's training path computes."""
    config, bars_seen = opened(tmp_path), iter(range(10_000))

    def dies(name: str) -> None:
        if name == "bar settled" and next(bars_seen) == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trader(config, tmp_path, crash_point=dies).run()
    decided = books(tmp_path)["decisions"]
    change(tmp_path, "UPDATE decisions SET raw = '[0.0]' WHERE close_time_s = ?", (decided[-1].decision.close_time_s,))
    bars_seen = iter(range(10_000))

    def rearms(name: str) -> None:
        if name == "bar settled" and next(bars_seen) == 50:
            assert books(tmp_path)["counts"]["decisions"] == len(decided)  # it has halted until now
            operator.ask(tmp_path, Command.REARM, SystemClock())

    trader(config, tmp_path, crash_point=rearms).run()
    assert json.loads((tmp_path / "paper" / "status.json").read_bytes())["state"] == "trading"
    assert books(tmp_path)["counts"]["decisions"] > len(decided) + 90


def test_a_broker_whose_book_differs_halts_the_trader(tmp_path: Path) -> None:
    config = opened(tmp_path)
    bars_seen = iter(range(10_000))

    def steal(name: str) -> None:
        if name == "bar settled" and next(bars_seen) == 50:
            db = sqlite3.connect(tmp_path / "paper" / "broker.db")
            with db:
                (book,) = db.execute("SELECT book FROM account").fetchone()
                record = json.loads(book) | {"cash": "1.00"}
                db.execute("UPDATE account SET book = ?", (json.dumps(record),))
            db.close()

    trader(config, tmp_path, crash_point=steal).run()
    status = json.loads((tmp_path / "paper" / "status.json").read_bytes())
    assert status["state"] == "halted" and "not the broker's" in status["reason"]
    assert books(tmp_path)["counts"]["decisions"] <= 52


def test_the_client_order_id_is_frozen() -> None:
    """Changing how it is derived could send an order twice across an upgrade."""
    found = client_order_id(account="paper", artifact="a" * 64, ticker="BTC", close_time_s=1_700_000_000)
    assert found == "8c29dbdb-7a4e-5dc5-a2b9-2a0829fb0b73"
    assert found != client_order_id(account="paper", artifact="a" * 64, ticker="ETH", close_time_s=1_700_000_000)
