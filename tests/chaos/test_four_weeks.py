"""Four weeks of the real candles through the whole service, killed at random, against the same weeks undisturbed."""

import hashlib
import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from desk import promote
from service import Service
from world import REAL, REAL_TICKERS

from daemon import control
from daemon.child.clock import SystemClock
from daemon.child.config import Config, parse
from daemon.child.market import Waiting, costs, feature_spec, limits, open_market
from features.actor import weight_shapes
from features.artifact import PolicyArtifact
from features.observation import Layout
from features.pipeline import compute
from features.scaling import Scaler
from features.venue_rules import VenueRules

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not REAL.exists(), reason=f"no real candles at {REAL}"),
]
START_UTC, END_UTC, BARS = "2024-02-01T00:00:00Z", "2024-02-29T00:00:00Z", 672
KILLS = int(os.environ.get("CHAOS_KILLS", "50"))
WIDTH = 16
ACCOUNT = {  # everything an account is; when an order was sent is the clock's
    "journal.db": (
        "SELECT * FROM decisions ORDER BY 1", "SELECT * FROM fills ORDER BY 1", "SELECT * FROM marks ORDER BY 1",
        "SELECT * FROM risk ORDER BY 1", "SELECT * FROM bars ORDER BY 1",
        "SELECT client_order_id, ticker, close_time_s, quantity, state FROM intents ORDER BY rowid",
    ),
    "broker.db": ("SELECT * FROM orders ORDER BY rowid", "SELECT * FROM executions ORDER BY rowid", "SELECT * FROM account"),
    "shadows.db": ("SELECT * FROM shadows ORDER BY 1", "SELECT * FROM equity ORDER BY 1, 2"),
}  # fmt: skip


def configuration(record: Path, *, bars_per_s: float) -> dict[str, dict[str, Any]]:
    return {
        "market": {"source": "recorded", "recorded_path": str(record), "tickers": list(REAL_TICKERS)},
        "data": {"end_utc": START_UTC},
        "paper": {"clock": "replay", "replay_start_utc": START_UTC, "replay_bars_per_s": bars_per_s},
        "study": {"name": "t", "workers": 0},
        "risk": {"max_orders_per_hour": 6, "stop_loss": 0.08, "trailing_stop": 0.1, "cooldown_bars": 6, "daily_loss": 0.0},
        "janitor": {"warn_free_bytes": 1000, "floor_free_bytes": 500, "every_s": 5.0},
        "daemon": {"backoff_first_s": 0.1, "backoff_max_s": 0.2, "max_restarts": 10_000, "spawn_pace_s": 0.02},
    }  # fmt: skip


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """The weeks and the history before them: four years are read in the time that many lives last."""
    import pandas as pd

    candles = pd.read_parquet(REAL)
    wanted = (candles["time"] >= pd.Timestamp("2023-11-01", tz="UTC")) & (candles["time"] < pd.Timestamp(END_UTC))
    path = tmp_path / "weeks.parquet"
    candles[wanted].to_parquet(path)
    return path


def policy(config: Config) -> PolicyArtifact:
    """Random weights that trade on most bars."""
    spec = feature_spec(config)
    source = open_market(config, Waiting(clock=SystemClock()))
    bars = source.bars(after_s=source.first_close_s() - 3600, until_s=source.last_close_s()).slice(0, 1500)
    rng = np.random.default_rng(3)
    shapes = weight_shapes("per_asset", Layout.of(spec), WIDTH)
    return PolicyArtifact(
        kind="per_asset", width=WIDTH, spec=spec, scaler=Scaler.fit(compute(bars, spec), spec), limits=limits(config),
        costs=costs(config), venue_rules=VenueRules.uniform("recorded-weeks", spec.tickers), training={"why": "test"},
        weights={n: rng.normal(0, 0.6, s).astype(np.float32) for n, s in shapes.items()},
    )  # fmt: skip


def service(state_dir: Path, record: Path, *, bars_per_s: float) -> Service:
    state_dir.mkdir()
    given = configuration(record, bars_per_s=bars_per_s)
    promote(state_dir, policy(parse(given)))
    return Service(state_dir, given)


def account(state_dir: Path) -> dict[str, str]:
    """Query → SHA-256 of every row it gives."""
    found = {}
    for name, queries in ACCOUNT.items():
        with closing(sqlite3.connect(f"file:{state_dir / 'paper' / name}?mode=ro", uri=True)) as db:
            for query in queries:
                rows = db.execute(query).fetchall()
                found[query] = f"{len(rows)} rows {hashlib.sha256(repr(rows).encode()).hexdigest()}"
    return found


def settled(state_dir: Path) -> int:
    try:
        with closing(sqlite3.connect(f"file:{state_dir / 'paper' / 'journal.db'}?mode=ro", uri=True)) as db:
            return int(db.execute("SELECT COUNT(*) FROM marks").fetchone()[0])
    except sqlite3.Error:
        return 0


def trader_pid(state_dir: Path) -> int | None:
    try:
        children = control.ask(state_dir, "status")["status"]["children"]
    except (control.DaemonDown, OSError):
        return None
    return next((c["pid"] for c in children if c["name"] == "paper_trader"), None)


def finish(running: Service) -> None:
    running.until(lambda: settled(running.state_dir) == BARS + 1, within_s=600.0)
    running.until(lambda: trader_pid(running.state_dir) is None)
    assert running.daemon is not None
    running.daemon.terminate()
    assert running.daemon.wait(60) == 0


def kill(process_id: int, running: Service, *, supervisor: bool) -> None:
    if not supervisor:
        os.kill(process_id, signal.SIGKILL)
        return
    assert running.daemon is not None
    running.daemon.kill()
    running.daemon.wait()
    running.start()


def test_random_kills_of_trader_and_supervisor_change_no_bit_of_four_real_weeks(record: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    undisturbed = service(whole, record, bars_per_s=0.0)
    undisturbed.start()
    finish(undisturbed)
    disturbed, rng = service(broken, record, bars_per_s=8.0), np.random.default_rng(11)
    killed = {"trader": 0, "supervisor": 0, "before its first bar": 0}
    disturbed.start()
    last = None
    while sum((killed["trader"], killed["supervisor"])) < KILLS:
        pid = disturbed.until(lambda last=last: (p := trader_pid(broken)) not in (None, last) and p)
        last, before = pid, settled(broken)
        early = rng.random() < 0.3
        if not early:
            disturbed.until(lambda before=before: settled(broken) > before)
        time.sleep(float(rng.uniform(0.0, 0.8)))
        killed["before its first bar"] += settled(broken) == before
        supervisor = rng.random() < 0.3
        kill(pid, disturbed, supervisor=supervisor)
        killed["supervisor" if supervisor else "trader"] += 1
        if settled(broken) > BARS - 20:
            break
    finish(disturbed)
    found, expected = account(broken), account(whole)
    assert undisturbed.ctl("verify").returncode == 0
    proof = disturbed.ctl("verify")
    print(f"\nfour weeks, {sum(killed.values()) - killed['before its first bar']} SIGKILLs ({killed}): {proof.stdout}")
    for query, rows in expected.items():
        print(f"  {'same' if found[query] == rows else 'DIFFERENT'}: {query}: {rows[:40]}…")
    assert found == expected
    assert proof.returncode == 0 and "0 mismatches" in proof.stdout
    assert killed["trader"] + killed["supervisor"] >= KILLS
    assert int(expected["SELECT * FROM fills ORDER BY 1"].split()[0]) > 100  # else it proved nothing
